"""A daemon that is started again while the cluster does not say which Deployments are annotated.

The whole daemon in this process: what it found before goes on, with all that was remembered of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_site import EVERYTHING, Site, a_site
from scaler.adapters.discovered import DISCOVERED_BLOB

pytestmark = pytest.mark.server

NAMES = tuple(f"n{n:02}" for n in range(12))
FLEET = {"llm/chat", *(f"llm/{name}" for name in NAMES)}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as site:
        site.annotated(*NAMES)
        yield site


def ran_before(site: Site) -> None:
    """Twelve annotated workloads, more than join by themselves, were confirmed and ran for two minutes."""
    site.begin(confirm=len(NAMES)).tick()
    assert set(site.tick()) == FLEET


def search_fails(site: Site) -> None:
    site.cluster.fault(method="GET", path=r"/deployments(\?|$)", status=403, times=EVERYTHING)


def test_those_found_before_go_on_with_all_that_was_remembered_of_them(site: Site) -> None:
    ran_before(site)
    site.cluster.set_replicas("llm", "n00", 7)
    assert site.tick()["llm/n00"]["state"] == "HELD(manual)"
    site.daemon.stop()
    search_fails(site)
    rows = site.begin().tick()
    assert set(rows) == FLEET
    assert (rows["llm/n00"]["state"], site.scale("n00")) == ("HELD(manual)", 7)
    records = site.daemon.board.view().report.records  # type: ignore[union-attr]
    assert [each.policy.workload for each in records if each.state.last_tick_at is None] == []
    (told,) = site.log.of("discovery")
    assert told["detail"].startswith("namespace llm was not searched")
    site.cluster.mend()
    assert set(site.look()) == FLEET
    assert len(site.log.of("discovery")) == 1, "nobody is held back"


def test_they_go_on_over_a_second_restart_and_leave_once_the_search_says_so(site: Site) -> None:
    ran_before(site)
    search_fails(site)
    for _ in range(2):
        site.daemon.stop()
        assert set(site.begin().tick()) == FLEET
    site.cluster.annotate("llm", "n00", enabled="false")
    assert set(site.look()) == FLEET
    site.cluster.mend()
    assert set(site.look()) == FLEET - {"llm/n00"}


def forgotten(site: Site) -> None:
    """As a version left it that did not keep it yet: nothing under this name that can be read."""
    site.store.save_blob(DISCOVERED_BLOB, b'[{"name": 3}]', now=site.now)


def test_known_by_name_alone_they_come_back_at_the_first_search_unconfirmed(site: Site) -> None:
    ran_before(site)
    forgotten(site)
    site.daemon.stop()
    search_fails(site)
    assert set(site.begin().tick()) == {"llm/chat"}
    (told,) = site.log.of("discovered_not_restored")
    assert "faults" in told["error"]
    for _ in range(2):
        assert set(site.look()) == {"llm/chat"}
    site.cluster.mend()
    assert set(site.look()) == FLEET


def test_a_data_file_that_is_full_keeps_nobody_from_joining(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    site.begin(confirm=len(NAMES))
    monkeypatch.setattr(site.store, "save_blob", full)
    site.annotated("docs")
    assert set(site.look()) == {*FLEET, "llm/docs"}
    site.look()
    (told,) = site.log.of("discovered_not_saved")
    assert "No space" in told["error"]
