"""A lease changes hands on a whole cluster: made, watched, taken, renewed, run out, given back. Only the clocks are ours."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from scaler.adapters.election import ElectionRule
from scaler.adapters.kubernetes.errors import Conflict
from scaler.adapters.kubernetes.http import Verb
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef
from scaler.adapters.leadership import Ears, LeaderElection

if TYPE_CHECKING:
    from conftest import Stage


class Quiet:
    """A log that nobody reads."""

    def info(self, event: str, **keys: object) -> None:
        logging.getLogger(__name__).debug("%s %s", event, keys)

    warning = critical = info


class Contender:
    """One daemon's election, with a clock that a test moves."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.now_s = 0.0
        self.lease = LeaseApi(stage.admin, LeaseRef(namespace=stage.namespace, name="headstart"), duration_s=15.0)
        # A whole second of the day, which a strict server refuses in a Lease unless it is told otherwise.
        self.election = LeaderElection(
            self.lease,
            ElectionRule(identity=name),
            Ears(log=Quiet()),
            clock_s=lambda: self.now_s,
            wall=lambda: datetime(2026, 1, 5, 9, 0, tzinfo=UTC),
        )

    def after(self, seconds: float) -> bool:
        self.now_s += seconds
        self.election.turn()
        return self.election.leads


def test_a_lease_is_taken_renewed_taken_over_and_given_back(stage: Stage) -> None:
    first, second = Contender(stage, "first"), Contender(stage, "second")
    assert not first.after(0.0), "it was just made: somebody may lead by one that was deleted"
    assert not second.after(0.0)
    assert first.after(15.0)
    assert not second.after(15.0), "a version that it has not seen before"
    for _ in range(3):
        assert first.after(2.0)
        assert not second.after(2.0)
    assert second.after(15.0), "the first is silent"
    assert not first.after(2.0)
    assert first.election.lost == "the lease is held by second"
    second.election.give_back()
    third = Contender(stage, "third")
    assert third.after(0.0)
    lease = stage.ask(Verb.GET, "leases", group="coordination.k8s.io", name="headstart")
    assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("third", 2)


def test_a_version_that_is_no_longer_there_cannot_be_replaced(stage: Stage) -> None:
    contender = Contender(stage, "first")
    assert not contender.after(0.0)
    found = contender.lease.read(timeout_s=5.0)
    assert found is not None
    assert contender.after(15.0)
    with pytest.raises(Conflict):
        contender.lease.replace(found, "second", now=stage.now, timeout_s=5.0)
    assert contender.after(2.0)
