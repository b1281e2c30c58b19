"""What the loop needs from outside, as small protocols. The daemon plugs in the edges, the simulator virtual ones.

No port raises for a fault of the outside world: a source that fails answers `Blind`, a write that fails answers an
`Outcome`. An exception that leaves a port is a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from forecaster.types import Blind, Reading
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import (
    NOT_READ,
    Action,
    ClassReadings,
    Control,
    Decision,
    DemandForecast,
    LeadTime,
    PolicyState,
    ReplicaState,
    Snapshot,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSignals:
    """What the metrics source knows of one workload at one tick; `reported` is only shown."""

    classes: tuple[ClassReadings, ...]
    requests_waiting: Reading = NOT_READ
    demand_partial: bool = False
    requests_running: Reading = NOT_READ
    reported: tuple[tuple[str, Reading], ...] = ()


class Signals(Protocol):
    """Demand, latency and queue of every workload."""

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        """Readings by workload; a workload that is missing in the answer counts as blind."""
        ...


class Forecasts(Protocol):
    """The forecasts in force."""

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        """Forecasts by workload, one a request class; expired ones may be among them, the rules check."""
        ...


class Controls(Protocol):
    """What people ordered by hand."""

    def of(self, workload: str, *, now: datetime) -> Control:
        """The word in force on one workload. Cheap: it is asked for the decision, and again right before the write."""
        ...


class OutcomeKind(StrEnum):
    """What became of a decision to change the scale."""

    SCALED = "scaled"
    UNCHANGED = "unchanged"
    OBSERVED = "observed"
    PUBLISHED = "published"
    STANDBY = "standby"
    STOPPED = "stopped"
    CONFLICT = "conflict"
    FAILED = "failed"
    POSTPONED = "postponed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Result of one write, or why there was none; `found` is the scale that stood in the way of it.

    A postponed one was not sent: nothing but time stood in its way, `retry_after_s` of it where the other side said.
    """

    kind: OutcomeKind
    detail: str = ""
    found: int | None = None
    retry_after_s: float | None = None


class Targets(Protocol):
    """The things that are scaled."""

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Replica counts by workload."""
        ...

    def scale(self, decision: Decision) -> Outcome:
        """Set `decision.target` replicas, or as the floor in mode `floor`, if `decision.current` still stands there.

        Never a blind overwrite.
        """
        ...


class Writes(Protocol):
    """How a tick's changes are carried out: one after another, or several at a time under one deadline."""

    def carry_out(
        self, steps: Sequence[Sequence[Decision]], scale: Callable[[Decision], Outcome]
    ) -> Mapping[str, Outcome]:
        """Call `scale`, which never raises, for every decision, all of a step before any of the next.

        Answers an outcome for each of them, by workload; one that there was no time for is postponed.
        """
        ...


class LeadTimes(Protocol):
    """How long a replica of each workload takes to be Ready."""

    def latest(self, configured: Mapping[str, timedelta], *, now: datetime) -> Mapping[str, LeadTime]:
        """Lead times of the workloads in `configured`, which says what to plan with until one is measured."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """Everything needed to make one decision again, and the decision that was made.

    `decide(snapshot, state, policy, now=at)` followed by the fleet's `grant` gives `decision` again.
    """

    at: datetime
    policy: WorkloadPolicy
    snapshot: Snapshot
    state: PolicyState
    grant: int | None
    decision: Decision

    @property
    def changes(self) -> bool:
        """Whether the decision moves the scale."""
        return self.decision.action is not Action.HOLD


class Journal(Protocol):
    """The durable record of every decision."""

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Store one tick's records in one transaction; durable when this returns.

        Raises `OSError` when it cannot: the shell then goes on from memory and says so.
        """
        ...

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Store what became of the writes of the tick at `at`."""
        ...
