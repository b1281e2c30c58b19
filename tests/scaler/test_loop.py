"""One tick: the order of reading, deciding, recording and acting, and what a fault of the outside does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from forecaster.types import Blind, BlindReason, Known
from policy_cases import MINUTE, NOON, a_forecast, a_policy
from scaler.loop import Fleet, Ports, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.types import (
    Action,
    ClassReadings,
    Decision,
    DemandForecast,
    LeadSource,
    LeadTime,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
)
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals


@dataclass(kw_only=True)
class World:
    """All four ports in one, with a log of what was called in which order."""

    rps: dict[str, float]
    replicas: dict[str, ReplicaState | Blind]
    forecasts: dict[str, tuple[DemandForecast, ...]] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()
    disk_full: bool = False
    log: list[str] = field(default_factory=list)
    journal: list[DecisionRecord] = field(default_factory=list)

    def read_signals(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {
            name: WorkloadSignals(
                classes=(ClassReadings(demand_rps=Known(value=rps)),), demand_partial=name in self.partial
            )
            for name, rps in self.rps.items()
        }

    def scale(self, decision: Decision) -> Outcome:
        self.log.append(f"scale {decision.workload} {decision.current}->{decision.target}")
        return Outcome(kind=OutcomeKind.SCALED)

    def append(self, records: Sequence[DecisionRecord]) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.log.append(f"journal {len(records)}")
        self.journal.extend(records)

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        self.log.append(f"outcomes {', '.join(sorted(outcomes))}")

    def ports(self) -> Ports:
        return Ports(signals=_Signals(self), forecasts=_Forecasts(self), targets=_Targets(self), journal=self)


@dataclass(frozen=True)
class _Signals:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return self.world.read_signals(now=now)


@dataclass(frozen=True)
class _Forecasts:
    world: World

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return self.world.forecasts


@dataclass(frozen=True)
class _Targets:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        return self.world.replicas

    def scale(self, decision: Decision) -> Outcome:
        return self.world.scale(decision)


def a_fleet(*names: str, gpus: int | None = None, mode: Mode = Mode.ACTIVE, **settings: object) -> Fleet:
    workloads: tuple[WorkloadPolicy, ...] = tuple(
        replace(a_policy(mode=mode, **settings), workload=name)  # type: ignore[arg-type]
        for name in names
    )
    return Fleet(workloads=workloads, budget=BudgetRule(gpus=gpus))


def pods(n: int) -> ReplicaState:
    return ReplicaState(desired=n, ready=n)


def test_every_decision_is_durable_before_the_first_write() -> None:
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(4)})
    report = tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert world.log == ["journal 2", "scale a/x 1->5", "scale b/y 4->8", "outcomes a/x, b/y"]
    assert {name: outcome.kind for name, outcome in report.outcomes.items()} == dict.fromkeys(
        world.rps, OutcomeKind.SCALED
    )
    assert report.journal_error == ""


def test_growth_goes_out_before_shrinkage() -> None:
    fleet, world = a_fleet("a/x", "b/y"), World(rps={"a/x": 5.0, "b/y": 5.0}, replicas={"a/x": pods(6), "b/y": pods(6)})
    states: Mapping[str, PolicyState] = {}
    for minute in range(7):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    world.log.clear()
    world.rps["b/y"] = 70.0
    tick(fleet, states, world.ports(), now=NOON + 7 * MINUTE)
    assert world.log[1:3] == ["scale b/y 6->10", "scale a/x 6->3"]


def test_observe_never_writes_and_says_what_it_would_do() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x", mode=Mode.OBSERVE), {}, world.ports(), now=NOON)
    assert not any(entry.startswith("scale") for entry in world.log)
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.OBSERVED, detail="observe mode: would scale 1 → 5")
    assert report.records[0].decision.target == 5


def test_a_steady_tick_is_journalled_and_writes_nothing() -> None:
    world = World(rps={"a/x": 5.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert world.log == ["journal 1"]
    assert report.outcomes == {}


def test_the_measured_start_time_is_planned_with_and_the_configured_one_without() -> None:
    measured = LeadTime(seconds=250.0, source=LeadSource.OWN, starts=9)

    class Measured:
        def latest(self, configured: Mapping[str, timedelta], *, now: datetime) -> Mapping[str, LeadTime]:
            assert configured == {"a/x": timedelta(minutes=5), "b/y": timedelta(minutes=5)}
            return {"a/x": measured}

    world = World(rps={"a/x": 5.0, "b/y": 5.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y"), {}, replace(world.ports(), lead_times=Measured()), now=NOON)
    planned = [(record.snapshot.lead_time_s, record.snapshot.lead_time) for record in report.records]
    assert planned == [(250.0, measured), (300.0, None)]


def test_a_full_disk_does_not_stop_scaling_and_is_reported() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)}, disk_full=True)
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert world.log == ["scale a/x 1->5"]
    assert "No space left on device" in report.journal_error


@pytest.mark.parametrize(
    ("rps", "replicas", "reason"),
    [
        pytest.param({}, {"a/x": pods(3)}, Reason.BLIND_DEMAND, id="the source does not know the workload"),
        pytest.param({"a/x": 5.0}, {}, Reason.BLIND_REPLICAS, id="the cluster does not know it"),
        pytest.param(
            {"a/x": 5.0}, {"a/x": Blind(reason=BlindReason.FORBIDDEN)}, Reason.BLIND_REPLICAS, id="the cluster refuses"
        ),
    ],
)
def test_what_is_missing_is_blind(
    rps: dict[str, float], replicas: dict[str, ReplicaState | Blind], reason: Reason
) -> None:
    world = World(rps=rps, replicas=replicas)
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert report.records[0].decision.reason is reason
    assert not any(entry.startswith("scale") for entry in world.log)


def test_a_part_of_the_demand_releases_nothing() -> None:
    fleet, world = a_fleet("a/x"), World(rps={"a/x": 5.0}, replicas={"a/x": pods(6)}, partial=frozenset({"a/x"}))
    states: Mapping[str, PolicyState] = {}
    for minute in range(20):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    assert not any(entry.startswith("scale") for entry in world.log)


def test_one_blind_workload_leaves_the_other_alone() -> None:
    world = World(rps={"b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert "scale b/y 1->5" in world.log


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")


def test_a_decision_that_raises_costs_nobody_else_theirs() -> None:
    """It writes nothing, keeps its memory and its GPUs: ten of them, three are held, so b may have seven."""
    world = World(rps={"a/x": 20.0, "b/y": 99.0}, replicas={"a/x": pods(3), "b/y": pods(4)})
    fleet = a_fleet("a/x", "b/y", gpus=10)
    states = tick(fleet, {}, world.ports(), now=NOON - MINUTE).states
    world.replicas["b/y"], world.rps["a/x"] = pods(4), _Odd(50.0)
    world.log.clear()
    report = tick(fleet, states, world.ports(), now=NOON)
    assert world.log == ["journal 1", "scale b/y 4->7", "outcomes b/y"]
    assert [str(error) for error in report.failed.values()] == ["one workload's numbers"]
    assert report.states["a/x"] == states["a/x"]


def test_a_write_that_raises_costs_nobody_else_theirs() -> None:
    class Broken(World):
        def scale(self, decision: Decision) -> Outcome:
            if decision.workload == "a/x":
                raise KeyError("a/x")
            return super().scale(decision)

    world = Broken(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.FAILED, detail="KeyError: 'a/x'")
    assert report.outcomes["b/y"].kind is OutcomeKind.SCALED


def test_the_budget_is_shared_and_remembered() -> None:
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y", gpus=7), {}, world.ports(), now=NOON)
    assert [record.decision.target for record in report.records] == [4, 3]
    assert [record.grant for record in report.records] == [4, 3]
    assert all(report.states[name].over_budget for name in world.rps)


def test_an_unreadable_workload_keeps_its_gpus_in_the_budget() -> None:
    """Ten GPUs; b held six when last seen. a may have four, not ten."""
    fleet = a_fleet("a/x", "b/y", gpus=10)
    world = World(rps={"a/x": 5.0, "b/y": 30.0}, replicas={"a/x": pods(1), "b/y": pods(6)})
    states = tick(fleet, {}, world.ports(), now=NOON).states
    world.replicas["b/y"] = Blind(reason=BlindReason.TIMEOUT)
    world.rps["a/x"] = 90.0
    report = tick(fleet, states, world.ports(), now=NOON + MINUTE)
    assert report.records[0].decision.target == 4


def test_a_workload_never_seen_counts_at_its_maximum() -> None:
    world = World(rps={"a/x": 90.0}, replicas={"a/x": pods(1), "b/y": Blind(reason=BlindReason.TIMEOUT)})
    report = tick(a_fleet("a/x", "b/y", gpus=10, most=8), {}, world.ports(), now=NOON)
    assert report.records[0].decision.target == 2


def test_observed_workloads_ask_for_no_gpus_and_are_not_cut() -> None:
    fleet = a_fleet("a/x", "b/y", gpus=10)
    observed = replace(fleet.workloads[0], mode=Mode.OBSERVE)
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(replace(fleet, workloads=(observed, fleet.workloads[1])), {}, world.ports(), now=NOON)
    assert [(record.grant, record.decision.target) for record in report.records] == [(None, 5), (5, 5)]


def test_a_record_is_all_it_takes_to_decide_again() -> None:
    forecast = DemandForecast(forecast=a_forecast(80.0))
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(2)}, forecasts={"a/x": (forecast,)})
    report = tick(a_fleet("a/x", gpus=5), {}, world.ports(), now=NOON)
    (record,) = report.records
    assert record.snapshot.forecasts == (forecast,)
    again, state = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
    assert (again, state) == (record.decision, report.states["a/x"])
    assert record.changes
    assert again.action is Action.OUT
