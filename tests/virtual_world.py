"""The loop's ports without any server: a cluster, a metrics source and a journal that a test turns as it likes.

What is ordered stands there at once and is Ready after `start_ticks`. Holds no test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from forecaster.types import Blind, BlindReason, Known, Reading
from policy_cases import MINUTE, NOON
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import (
    NO_CONTROL,
    ClassReadings,
    Control,
    Decision,
    DemandForecast,
    PolicyState,
    ReplicaState,
)
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals

UNREADABLE = Blind(reason=BlindReason.UNREACHABLE, detail="the cluster does not answer")


@dataclass(kw_only=True)
class VirtualWorkload:
    """One workload as the ports show it."""

    scale: int = 1
    ready: int = 1
    unschedulable: int = 0
    failed: int = 0
    held: int | None = None
    """Replicas under an autoscaler whose floor `scale` is."""
    demand: Reading = field(default_factory=lambda: Known(value=0.0))
    p95: Reading | None = None
    waiting: Reading | None = None
    partial: bool = False
    readable: bool = True
    writable: OutcomeKind = OutcomeKind.SCALED
    answer_lost: bool = False
    """A write that is told as failed has happened all the same."""
    forecasts: tuple[DemandForecast, ...] = ()

    def counts(self) -> ReplicaState | Blind:
        """What the cluster says."""
        if not self.readable:
            return UNREADABLE
        ready = min(self.ready, self.scale)
        unschedulable = min(self.unschedulable, self.scale - ready)
        failed = min(self.failed, self.scale - ready - unschedulable)
        return ReplicaState(
            desired=self.scale,
            ready=ready,
            starting=self.scale - ready - unschedulable - failed,
            unschedulable=unschedulable,
            failed=failed,
            held=self.held,
            ceiling=None if self.held is None else 100,
        )

    def signals(self) -> WorkloadSignals:
        """What the metrics source says."""
        readings = ClassReadings(demand_rps=self.demand)
        if self.p95 is not None:
            readings = replace(readings, e2e_p95_s=self.p95)
        seen = WorkloadSignals(classes=(readings,), demand_partial=self.partial)
        return seen if self.waiting is None else replace(seen, requests_waiting=self.waiting)


@dataclass(kw_only=True)
class VirtualWorld:
    """All ports in one; `log` has what was done, in order."""

    workloads: dict[str, VirtualWorkload]
    journal_fails: bool = False
    controls: dict[str, Control] = field(default_factory=dict)
    """What people ordered; one that is over stays there, the loop must see that for itself."""
    words_between: dict[str, Control] = field(default_factory=dict)
    """What people order between the next decision and its write."""
    log: list[str] = field(default_factory=list)
    journalled: list[DecisionRecord] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    """What reached the cluster in the last tick."""

    # ── ports ─────────────────────────────────────────────────────────────────────────────────────────────────

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {name: each.forecasts for name, each in self.workloads.items()}

    def of(self, workload: str, *, now: datetime) -> Control:
        return self.controls.get(workload, NO_CONTROL)

    def append(self, records: Sequence[DecisionRecord]) -> None:
        self.controls.update(self.words_between)
        self.words_between.clear()
        if self.journal_fails:
            raise OSError("no space left on device")
        self.journalled = list(records)
        self.log.append("journal")

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        if self.journal_fails:
            raise OSError("no space left on device")

    def ports(self) -> Ports:
        """For `scaler.loop.tick`."""
        return Ports(signals=_Signals(self), forecasts=self, targets=_Targets(self), journal=self, controls=self)


@dataclass(frozen=True)
class _Signals:
    world: VirtualWorld

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {name: each.signals() for name, each in self.world.workloads.items()}


@dataclass(frozen=True)
class _Targets:
    world: VirtualWorld

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        return {name: each.counts() for name, each in self.world.workloads.items()}

    def scale(self, decision: Decision) -> Outcome:
        workload = self.world.workloads[decision.workload]
        assert decision.target is not None
        lost = workload.writable is OutcomeKind.FAILED and workload.answer_lost
        if workload.writable is OutcomeKind.SCALED or lost:
            workload.scale = decision.target
            self.world.written[decision.workload] = decision.target
        if workload.writable is OutcomeKind.UNCHANGED:  # somebody else was there first
            workload.scale = decision.target
        self.world.log.append(f"scale {decision.workload} {decision.current}->{decision.target}")
        return Outcome(kind=workload.writable, found=workload.scale)


@dataclass(kw_only=True)
class Course:
    """One workload's minutes, decided by the shipping loop; what is ordered is Ready after `start_ticks`."""

    policy: WorkloadPolicy
    workload: VirtualWorkload
    now: datetime = NOON
    start_ticks: int = 3
    states: dict[str, PolicyState] = field(default_factory=dict)
    orders: list[int] = field(default_factory=list)

    def minute(self) -> TickReport:
        """One tick."""
        self.now += MINUTE
        world = VirtualWorld(workloads={self.policy.workload: self.workload})
        report = tick(Fleet(workloads=(self.policy,)), self.states, world.ports(), now=self.now)
        self.states = dict(report.states)
        self.orders.append(self.workload.scale)
        started = self.orders[-self.start_ticks :]
        self.workload.ready = min(self.workload.scale, *started)
        return report

    def minutes(self, count: int) -> list[Decision]:
        """The decisions of the next `count` minutes."""
        return [self.minute().records[0].decision for _ in range(count)]
