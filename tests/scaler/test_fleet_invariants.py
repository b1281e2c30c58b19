"""Invariants of whole fleets over arbitrary hours, as hypothesis properties, played through the loop itself.

I5  in no window of ten minutes more goes than a fifth of the GPUs, or than one workload alone would release;
    never more GPUs than the budget; a workload of higher priority is not cut for one of lower; the same answer for the
    same fleet in any order; every record decides again
I10 a workload whose signals, decisions or writes fail changes nothing for the others
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason, Known
from policy_cases import MINUTE, NOON, a_policy
from scaler.loop import Fleet, Ports, TickReport, settled, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.guard import GuardRule
from scaler.policy.types import Action, ClassReadings, Decision, DemandForecast, PolicyState, Reason, ReplicaState
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals

NAMES = ("a/0", "b/1", "c/2", "d/3")
PERIOD = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What one minute brings to each workload."""

    rps: tuple[float, ...]
    blind: int | None
    refused: int | None
    odd: int | None


minutes = st.builds(
    Minute,
    rps=st.tuples(*[st.sampled_from([0.0, 5.0, 20.0, 60.0, 150.0])] * len(NAMES)),
    blind=st.sampled_from([None] * 6 + [0, 1, 2, 3]),
    refused=st.sampled_from([None] * 6 + [0, 1, 2, 3]),
    odd=st.sampled_from([None] * 9 + [0, 3]),
)
# a level lasts for a while: calm for five minutes is what a release waits for
hours = st.lists(st.tuples(minutes, st.integers(1, 9)), min_size=1, max_size=7).map(
    lambda blocks: [minute for minute, times in blocks for _ in range(times)]
)
workloads = st.tuples(
    *[
        st.builds(
            lambda name, gpus, priority, spacing: replace(
                a_policy(
                    profile=CapacityProfile(
                        name="p", classes=(ClassCapacity(name="default", max_rps=10.0),), gpus=gpus
                    ),
                    most=12,
                    guard=GuardRule(spacing=timedelta(minutes=spacing)),
                ),
                workload=name,
                priority=priority,
            ),
            name=st.just(name),
            gpus=st.sampled_from([1, 1, 2, 4]),
            priority=st.integers(0, 1),
            spacing=st.sampled_from([10, 2]),
        )
        for name in NAMES
    ]
)


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")


@dataclass(kw_only=True)
class World:
    """All ports in one: pods are Ready at once, writes of the `refused` workload fail."""

    scales: dict[str, int]
    minute: Minute
    written: list[str] = field(default_factory=list)

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Nothing is kept."""

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing is kept."""


@dataclass
class _Signals:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        minute = self.world.minute
        rates = [_Odd(rate) if i == minute.odd else rate for i, rate in enumerate(minute.rps)]
        return {
            name: WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=rate)),))
            for name, rate in zip(NAMES, rates, strict=True)
        }


@dataclass
class _Targets:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        seen: dict[str, ReplicaState | Blind] = {
            name: ReplicaState(desired=scale, ready=scale) for name, scale in self.world.scales.items()
        }
        if self.world.minute.blind is not None:
            seen[NAMES[self.world.minute.blind]] = Blind(reason=BlindReason.TIMEOUT)
        return seen

    def scale(self, decision: Decision) -> Outcome:
        world = self.world
        if world.minute.refused is not None and decision.workload == NAMES[world.minute.refused]:
            raise RuntimeError("refused")
        assert world.scales[decision.workload] == decision.current
        assert decision.target is not None
        world.scales[decision.workload] = decision.target
        world.written.append(decision.workload)
        return Outcome(kind=OutcomeKind.SCALED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One tick: the scales before and after it, and its report."""

    now: datetime
    before: Mapping[str, int]
    after: Mapping[str, int]
    report: TickReport


def play(hour: list[Minute], policies: Sequence[WorkloadPolicy], rule: BudgetRule) -> list[Step]:
    """Run a fleet; each minute's scales are what the last one wrote."""
    world = World(scales=dict.fromkeys(NAMES, 4), minute=hour[0])
    ports = Ports(signals=_Signals(world), forecasts=world, targets=_Targets(world), journal=world)
    states: Mapping[str, PolicyState] = {}
    steps = []
    for i, minute in enumerate(hour):
        now, before = NOON + i * MINUTE, dict(world.scales)
        world.minute = minute
        report = tick(Fleet(workloads=tuple(policies), budget=rule), states, ports, now=now)
        states = report.states
        steps.append(Step(now=now, before=before, after=dict(world.scales), report=report))
    return steps


def gpus_of(policies: Sequence[WorkloadPolicy]) -> dict[str, int]:
    return {policy.workload: policy.profile.gpus for policy in policies}


def released(step: Step, gpus: Mapping[str, int]) -> dict[str, int]:
    """GPUs that a tick let go, by workload."""
    return {name: gpus[name] * max(0, step.before[name] - step.after[name]) for name in NAMES}


def wanted(record: DecisionRecord, gpus: Mapping[str, int]) -> int:
    """GPUs that a workload's own rules would have let go."""
    decision = record.decision
    if decision.current is None or decision.target is None:
        return 0
    cuts = [each.before for each in decision.adjustments if each.reason is Reason.FLEET_CHANGE]
    return gpus[decision.workload] * max(0, decision.current - min([decision.target, *cuts]))


@settings(deadline=None)
@given(hour=hours, policies=workloads, ratio=st.sampled_from([0.2, 0.05, 0.5]))
def test_i5_no_window_sees_more_go_than_the_share_or_than_one_alone(
    hour: list[Minute], policies: tuple[WorkloadPolicy, ...], ratio: float
) -> None:
    gpus, steps = gpus_of(policies), play(hour, policies, BudgetRule(most_inward_ratio=ratio))
    for i, step in enumerate(steps):
        window = [each for each in steps[:i] if step.now - each.now < PERIOD]
        spent = {name: sum(released(each, gpus)[name] for each in window) for name in NAMES}
        now_gone = released(step, gpus)
        if not any(now_gone.values()):
            continue
        had = sum(gpus[name] * step.before[name] for name in NAMES) + sum(spent.values())
        wish = {record.policy.workload: wanted(record, gpus) for record in step.report.records}
        alone = max(spent[name] + wish.get(name, 0) for name in NAMES)
        assert sum(now_gone.values()) + sum(spent.values()) <= max(ratio * had + 1e-6, alone)


@settings(deadline=None)
@given(hour=hours, policies=workloads, budget=st.integers(4, 60))
def test_i5_never_over_the_gpu_budget_and_never_the_higher_priority_for_the_lower(
    hour: list[Minute], policies: tuple[WorkloadPolicy, ...], budget: int
) -> None:
    gpus = gpus_of(policies)
    for step in play(hour, policies, BudgetRule(gpus=budget)):
        held = sum(gpus[name] * step.before[name] for name in NAMES)
        after = sum(gpus[name] * max(step.before[name], step.after[name]) for name in NAMES)
        assert after <= max(budget, held)
        records = {record.policy.workload: record for record in step.report.records}
        cut = [
            each.policy
            for each in records.values()
            if any(clamp.reason is Reason.GPU_BUDGET for clamp in each.decision.adjustments)
        ]
        for loser in cut:
            for each in records.values():
                grew = each.decision.action is Action.OUT and each.policy.priority < loser.priority
                assert not (grew and each.policy.profile.gpus >= loser.profile.gpus)


@settings(deadline=None)
@given(hour=hours, policies=workloads, rule=st.builds(BudgetRule, gpus=st.sampled_from([None, 20, 40])))
def test_i5_the_fleet_is_the_same_in_any_order_and_every_record_decides_again(
    hour: list[Minute], policies: tuple[WorkloadPolicy, ...], rule: BudgetRule
) -> None:
    first, turned = play(hour, policies, rule), play(hour, policies[::-1], rule)
    for one, other in zip(first, turned, strict=True):
        assert one.after == other.after
        assert one.report.states == other.report.states
        for record in one.report.records:
            name = record.policy.workload
            again, state = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
            told = settled(state, again, one.report.outcomes.get(name))
            assert (again, told) == (record.decision, one.report.states[name])


@settings(deadline=None)
@given(hour=hours, policies=workloads)
def test_i10_one_workloads_faults_move_nobody_else_while_no_budget_is_shared(
    hour: list[Minute], policies: tuple[WorkloadPolicy, ...]
) -> None:
    """With every release allowed, what the others do is what they do in a world in which the first is well."""
    rule = BudgetRule(most_inward_ratio=1.0)
    ill = [replace(minute, blind=0, refused=0, odd=0) for minute in hour]
    well = [replace(minute, blind=None, refused=None, odd=None) for minute in hour]
    for one, other in zip(play(ill, policies, rule), play(well, policies, rule), strict=True):
        assert {n: s for n, s in one.after.items() if n != NAMES[0]} == {
            n: s for n, s in other.after.items() if n != NAMES[0]
        }
