"""What a reload brings to each part of the daemon while it runs, and what the parts forget then.

The whole daemon in this process; who is asked, and what is remembered, is seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from daemon_site import Site, a_site
from scaler.policy.types import LeadSource, LeadTime
from servers import MisbehavingServer, RawConversation

pytestmark = pytest.mark.server


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as site:
        yield site


def test_another_object_to_scale_is_planned_with_its_own_start_time(site: Site) -> None:
    """Five pods of the old object took 50 s each; of the new one nobody has seen a start."""

    def lead_time() -> LeadTime | None:
        site.tick()
        (record,) = site.daemon.board.view().report.records  # type: ignore[union-attr]
        return record.snapshot.lead_time

    site.cluster.behave("llm", "chat", start_time_s=50.0)
    site.cluster.set_replicas("llm", "chat", 5)
    site.cluster.advance(120)
    site.begin()
    measured = lead_time()
    assert measured is not None
    assert (measured.source, measured.starts, measured.seconds) == (LeadSource.OWN, 5, 50.0)
    site.cluster.deployment("llm", "chat-v2", replicas=0)
    site.discoverer.file_read(site.settings(target="chat-v2"))
    fresh = lead_time()
    assert fresh is not None
    assert (fresh.source, fresh.starts) == (LeadSource.CONFIGURED, 0)
    assert lead_time() == fresh


def test_whom_a_release_hurts_least_is_asked_of_the_metrics_server_in_force(site: Site) -> None:
    def asked(server: MisbehavingServer) -> int:
        return sum("sum+by+%28pod%29" in each.path + each.body for each in server.received)

    def releases(server: MisbehavingServer, replicas: int) -> int:
        """How often it was asked of `server` while a person orders so few replicas."""
        before = asked(server)
        order = f"{replicas} until {site.now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}: less"
        site.cluster.annotate("llm", "chat", override=order)
        site.tick()
        assert site.scale() == replicas
        return asked(server) - before

    site.more = "deletion_cost: true\n"
    with MisbehavingServer(unwell) as old, MisbehavingServer(unwell) as new:
        site.cluster.set_replicas("llm", "chat", 6)
        site.prometheus = old.url
        site.begin().tick()
        assert releases(old, 5) == 1
        site.prometheus = new.url
        site.reload(site.settings())
        assert releases(new, 4) == 1
        assert asked(old) == 1


def unwell(talk: RawConversation) -> None:
    talk.answer(500, b"{}")
