"""Metrics and cluster are read at the same time, and what either of them does still reaches the loop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

import pytest

from forecaster.types import Blind
from policy_cases import MINUTE, NOON
from scaler.adapters.together import Together
from scaler.policy.types import Decision, ReplicaState
from scaler.ports import Outcome, OutcomeKind, WorkloadSignals

PATIENCE_S = 60.0
SEEN = {"llm/chat": ReplicaState(desired=2, ready=2)}


class Metrics:
    """Answers only once the cluster is being read."""

    def __init__(self, meanwhile: threading.Event) -> None:
        self._meanwhile = meanwhile

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        assert self._meanwhile.wait(PATIENCE_S), "the cluster is read only afterwards"
        return {"llm/chat": WorkloadSignals(classes=())}


class Cluster:
    """Notes when it is read, and by whom."""

    def __init__(self, error: Exception | None = None) -> None:
        self.reading = threading.Event()
        self.moments: list[datetime] = []
        self._error = error

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        self.moments.append(now)
        self.reading.set()
        if self._error is not None:
            raise self._error
        return SEEN

    def scale(self, decision: Decision) -> Outcome:
        return Outcome(kind=OutcomeKind.SCALED, detail=decision.workload)


def test_the_cluster_is_read_while_the_metrics_are() -> None:
    cluster = Cluster()
    together = Together(Metrics(cluster.reading), cluster)
    assert set(together.signals.read(now=NOON)) == {"llm/chat"}
    assert together.targets.read(now=NOON) == SEEN
    assert cluster.moments == [NOON], "once, although both began it"


def test_a_read_belongs_to_its_own_moment() -> None:
    """A tick that ended between its two reads leaves one behind: the next tick does not take it for its own."""
    cluster = Cluster()
    together = Together(Metrics(cluster.reading), cluster)
    together.signals.read(now=NOON)
    together.targets.read(now=NOON + MINUTE)
    assert sorted(cluster.moments) == [NOON, NOON + MINUTE]
    together.targets.read(now=NOON + MINUTE)
    assert cluster.moments.count(NOON + MINUTE) == 2, "nothing is kept"


def test_a_defect_is_raised_where_the_loop_asks() -> None:
    cluster = Cluster(error=RuntimeError("a bug"))
    together = Together(Metrics(cluster.reading), cluster)
    together.signals.read(now=NOON)
    with pytest.raises(RuntimeError, match="a bug"):
        together.targets.read(now=NOON)
