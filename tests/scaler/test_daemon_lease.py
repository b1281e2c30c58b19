"""When a daemon with a lease stands for it, what it exports without it, and when it gives it back.

The whole daemon in this process; the election looks when the test says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_process import until
from daemon_site import Site, a_site
from scaler.adapters.kubernetes import ApiConnection

pytestmark = pytest.mark.server

GIVEN_BACK = {
    "metadata": {"namespace": "headstart", "name": "headstart"},
    "spec": {"holderIdentity": "", "leaseDurationSeconds": 15, "renewTime": "2026-01-05T09:00:00.000001Z"},
}
"""A lease that is taken at once."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with a_site(tmp_path, monkeypatch) as site:
        site.cluster.namespace("headstart")
        site.cluster.create("leases", GIVEN_BACK)
        # Long enough that a busy machine does not cost a leader its lease in mid-story.
        site.more = "ha: {lease: headstart/headstart, duration: 5m, renew_deadline: 4m}\n"
        yield site


def looks(site: Site) -> bool:
    """The election has its turn; whether the daemon leads then."""
    election = site.daemon.leading.election
    assert election is not None
    election.turn()
    return site.daemon.leading.leads


def exported(site: Site) -> float | None:
    """The number of replicas for another autoscaler to follow."""
    labels = {"namespace": "llm", "workload": "chat"}
    return site.daemon.telemetry.registry.get_sample_value("headstart_replicas_desired", labels)


def test_a_person_lets_a_fleet_scale_that_was_only_observed(site: Site) -> None:
    site.begin(mode="observe").tick()
    assert not looks(site)
    assert [each.path for each in site.cluster.requests if "/leases" in each.path] == []
    site.cluster.annotate("llm", "chat", mode="active")
    site.tick()
    assert site.scale() == 1, "not before it leads"
    assert looks(site)
    site.tick()
    assert site.scale() == 3


def test_who_is_to_write_no_more_goes_on_standing(site: Site) -> None:
    """The order may be known to this daemon alone: another one would take the lease and write."""
    site.cluster.annotate("llm", "chat", mode="observe")
    site.begin().tick()
    assert looks(site)
    site.tick()
    assert site.cluster.replicas("llm", "chat") == 1


def test_what_is_wanted_is_exported_where_nobody_stands_for_the_lease_and_else_by_the_leader(site: Site) -> None:
    site.begin(mode="observe").tick()
    assert exported(site) == 3
    site.cluster.annotate("llm", "chat", mode="publish")
    site.tick()
    assert exported(site) is None, "from here on somebody may follow it: one daemon is to tell it"
    assert looks(site)
    assert exported(site) == 3


@pytest.mark.parametrize(
    ("pending", "given_back"),
    [
        pytest.param(None, True, id="nothing under way"),
        pytest.param(0, False, id="a workload's scale"),
        pytest.param(1, False, id="the scale of placeholders"),
    ],
)
def test_the_lease_is_given_back_once_no_write_of_any_connection_is_under_way(
    site: Site, monkeypatch: pytest.MonkeyPatch, pending: int | None, given_back: bool
) -> None:
    """Each of the two is asked; the one that was asked as number `pending` has a write without an answer."""
    asked: list[ApiConnection] = []

    def settled(api: ApiConnection) -> bool:
        if api not in asked:
            asked.append(api)
        return asked.index(api) != pending

    site.more += "placeholders: [{placeholder: llm/pool, mode: active, max_replicas: 4}]\n"
    site.begin()
    site.daemon.leading.start()
    until(lambda: site.daemon.leading.leads, what="it leads")
    monkeypatch.setattr(ApiConnection, "writes_settled", property(settled))
    site.daemon.stop()
    assert bool(site.log.of("lease_given_back")) is given_back
