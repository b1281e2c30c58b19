"""Invariants over whole runs of arbitrary worlds, as hypothesis properties.

I1  what is written is an integer in [min, max] for any input, NaN, ±inf, 1e300 and negatives included
I2  no scale-in while demand is unknown, or within one look-back after it was
I3  before bounds and step limits the result is at least every `want`; a scale-in never goes below any `keep`
I4  step limits: out at most max(4, now) a minute; in only after five calm minutes, ten apart, at most half
I7  same inputs and state, same decision; shifting all times changes nothing; more load, never fewer replicas
I13 the steered score does not move while blind, at the maximum, without GPU, after a failed start, or observed
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason, Forecast, ForecastQuality, Known, Reading, TooFew, Zero, value_of
from policy_cases import MINUTE, NOON, a_forecast, a_policy
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.guard import look_back
from scaler.policy.types import (
    Action,
    ClassReadings,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
)
from scaler.policy.writers import OtherWritersRule

absurd = st.sampled_from([float("nan"), float("inf"), float("-inf"), -1.0, 1e300, 0.0])
numbers = st.one_of(st.floats(0.0, 200.0), absurd)
readings: st.SearchStrategy[Reading] = st.one_of(
    st.builds(Known, value=numbers),
    st.just(Zero(evidence="up")),
    st.builds(TooFew, count=st.just(3.0)),
    st.just(Blind(reason=BlindReason.TIMEOUT)),
)
mostly_known: st.SearchStrategy[Reading] = st.one_of(st.builds(Known, value=st.floats(0.0, 200.0)), readings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What one minute brings; the scale itself follows from the decisions, unless somebody else sets it."""

    demand: Reading
    p95: Reading
    waiting: Reading
    median: float
    spread: float
    age_minutes: int
    coverage: float
    ready_ratio: float
    unschedulable: int
    failed: int
    set_by_others: int | None
    unreadable: bool
    partial: bool
    skipped: int


minutes = st.builds(
    Minute,
    demand=mostly_known,
    p95=readings,
    waiting=readings,
    median=numbers,
    spread=st.floats(0.0, 50.0),
    age_minutes=st.integers(-1, 12),
    coverage=st.sampled_from([0.95, 0.5, 1.0]),
    ready_ratio=st.floats(0.0, 1.0),
    unschedulable=st.sampled_from([0, 0, 0, 1]),
    failed=st.sampled_from([0, 0, 0, 1]),
    set_by_others=st.sampled_from([None] * 8 + [0, 1, 5, 40]),
    unreadable=st.sampled_from([False] * 9 + [True]),
    partial=st.sampled_from([False] * 9 + [True]),
    skipped=st.sampled_from([0] * 9 + [7]),
)
NO_RESPECT = OtherWritersRule(manual_hold=timedelta(0), conflict_hold=timedelta(0))
"""Then whatever others set is worked from at once, and the rules see many more scales."""
LEFT_ALONE = (Reason.HANDS_OFF, Reason.HELD_MANUAL, Reason.HELD_CONFLICT)
worlds = st.lists(minutes, min_size=1, max_size=40)
policies = st.builds(
    lambda least, span, slo, mode, others: a_policy(
        least=least, most=max(1, least + span), slo_s=slo, mode=mode, other_writers=others
    ),
    least=st.integers(0, 3),
    span=st.integers(0, 30),
    slo=st.sampled_from([None, 1.0]),
    mode=st.sampled_from(list(Mode)),
    others=st.sampled_from([OtherWritersRule(), NO_RESPECT]),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One tick of a run: what went in, what came out."""

    now: datetime
    snapshot: Snapshot
    before: PolicyState
    decision: Decision
    after: PolicyState


def play(world: list[Minute], policy: WorkloadPolicy, *, start: datetime = NOON) -> list[Step]:
    """Run a world; what a decision asks for is the scale of the next minute."""
    steps, state, scale, now = [], PolicyState(), 2, start
    for minute in world:
        now += (1 + minute.skipped) * MINUTE
        scale = scale if minute.set_by_others is None else minute.set_by_others
        snapshot = snapshot_of(minute, scale, now=now)
        decision, after = decide(snapshot, state, policy, now=now)
        steps.append(Step(now=now, snapshot=snapshot, before=state, decision=decision, after=after))
        state = after
        if decision.target is not None and policy.mode is Mode.ACTIVE:
            scale = decision.target
    return steps


def snapshot_of(minute: Minute, scale: int, *, now: datetime) -> Snapshot:
    ready = int(scale * minute.ready_ratio)
    replicas = ReplicaState(
        desired=scale,
        ready=ready,
        starting=max(0, scale - ready - minute.unschedulable - minute.failed),
        unschedulable=min(minute.unschedulable, scale - ready),
        failed=min(minute.failed, scale - ready),
    )
    return Snapshot(
        workload="llm/chat",
        replicas=Blind(reason=BlindReason.REFUSED) if minute.unreadable else replicas,
        classes=(ClassReadings(demand_rps=minute.demand, e2e_p95_s=minute.p95),),
        lead_time_s=180.0,
        requests_waiting=minute.waiting,
        forecasts=forecasts_of(minute, now=now),
        demand_partial=minute.partial,
    )


def forecasts_of(minute: Minute, *, now: datetime) -> tuple[DemandForecast, ...]:
    if minute.age_minutes < 0:
        return ()
    forecast: Forecast = a_forecast(
        minute.median, spread_rps=minute.spread, issued_at=now - timedelta(minutes=minute.age_minutes)
    )
    quality = ForecastQuality(coverage_95=minute.coverage, wape=0.1, wape_last_value=0.2, scored_bins=360)
    return (DemandForecast(forecast=forecast, quality=quality),)


@given(world=worlds, policy=policies)
def test_i1_written_within_bounds_whatever_comes_in(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        target = step.decision.target
        if step.decision.action is not Action.HOLD:
            assert type(target) is int
            assert policy.bounds.min_replicas <= target <= policy.bounds.max_replicas
        elif target is not None and step.decision.reason not in LEFT_ALONE:
            assert target >= policy.bounds.min_replicas, "the minimum holds even if every input is invalid"


@given(world=worlds, policy=policies)
def test_i2_never_in_while_blind_or_rewarming(world: list[Minute], policy: WorkloadPolicy) -> None:
    known_since: datetime | None = None
    last: datetime | None = None
    for step in play(world, policy):
        demand = value_of(step.snapshot.classes[0].demand_rps)
        seen = demand is not None and not step.snapshot.demand_partial and not isinstance(step.snapshot.replicas, Blind)
        broken = not seen or step.decision.reason is Reason.HANDS_OFF
        if last is not None and step.now - last > 3 * MINUTE:
            known_since = None
        known_since = None if broken else (known_since or step.now)
        last = step.now
        if step.decision.action is Action.IN:
            assert known_since is not None
            assert step.now - known_since >= look_back(timedelta(minutes=3))


@given(world=worlds, policy=policies)
def test_i3_no_rule_is_undercut(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        decision = step.decision
        if decision.target is None or not decision.proposals:
            continue
        limited = {Reason.STEP_OUT, Reason.AFTER_OUTAGE, Reason.UNSCHEDULABLE}
        limited |= {Reason.AT_MAX, Reason.BLIND_DEMAND, Reason.REWARM, *LEFT_ALONE}
        if not limited & {each.reason for each in decision.adjustments}:
            assert decision.target >= max(each.want for each in decision.proposals)
        if decision.action is Action.IN and Reason.AT_MAX not in {each.reason for each in decision.adjustments}:
            assert decision.target >= max(each.keep for each in decision.proposals)
            assert any(each.rule == "load" for each in decision.proposals), (
                "only the load rule's fall lets replicas fall"
            )


@given(world=worlds, policy=policies)
def test_i4_steps_and_calm(world: list[Minute], policy: WorkloadPolicy) -> None:
    steps = play(world, policy)
    calm_since: datetime | None = None
    scaled_in_at: datetime | None = None
    for step in steps:
        decision = step.decision
        reasons = {each.reason for each in decision.adjustments}
        keep = max((each.keep for each in decision.proposals), default=0)
        known = any(each.rule == "load" for each in decision.proposals)
        broken = step.before.last_tick_at is not None and step.now - step.before.last_tick_at > 3 * MINUTE
        calm_since = None if broken else calm_since
        calm = known and decision.current is not None and keep < decision.current
        calm_since = (calm_since or step.now) if calm else None
        if decision.action is Action.OUT and Reason.AT_MIN not in reasons:
            assert decision.target <= decision.current + max(4, decision.current)  # type: ignore[operator]
        if decision.action is Action.IN and Reason.AT_MAX not in reasons:
            assert decision.current - decision.target <= max(1, decision.current // 2)  # type: ignore[operator]
            assert calm_since is not None
            assert step.now - calm_since >= timedelta(minutes=5)
            assert (
                scaled_in_at is None or policy.mode is Mode.OBSERVE or step.now - scaled_in_at >= timedelta(minutes=10)
            )
        if decision.action is Action.IN:
            scaled_in_at = step.now


@given(world=worlds, policy=policies, shift=st.integers(-5_000_000, 5_000_000))
def test_i7_same_again_and_shifted_in_time(world: list[Minute], policy: WorkloadPolicy, shift: int) -> None:
    def essence(steps: list[Step]) -> list[tuple[object, ...]]:
        return [
            (
                s.decision.current,
                s.decision.target,
                s.decision.reason,
                s.decision.trust,
                s.decision.z,
                *((p.rule, p.want, p.keep, p.reason) for p in s.decision.proposals),
                *((a.rule, a.before, a.after, a.reason) for a in s.decision.adjustments),
            )
            for s in steps
        ]

    first = play(world, policy)
    again = play(world, policy)
    assert [(s.decision, s.after) for s in again] == [(s.decision, s.after) for s in first]
    assert essence(play(world, policy, start=NOON + timedelta(seconds=shift))) == essence(first)


@given(world=worlds, policy=policies, factor=st.floats(1.0, 20.0))
def test_i7_more_load_never_means_fewer_replicas(world: list[Minute], policy: WorkloadPolicy, factor: float) -> None:
    *_, last = play(world, policy)
    demand = value_of(last.snapshot.classes[0].demand_rps)
    if demand is None:
        return
    more = replace(last.snapshot.classes[0], demand_rps=Known(value=demand * factor))
    busier, _ = decide(replace(last.snapshot, classes=(more,)), last.before, policy, now=last.now)
    assert (busier.target or 0) >= (last.decision.target or 0)


@given(world=worlds, policy=policies)
def test_i13_the_score_is_frozen_when_a_miss_says_nothing(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        replicas = step.snapshot.replicas
        blind = value_of(step.snapshot.classes[0].demand_rps) is None or isinstance(replicas, Blind)
        stuck = not isinstance(replicas, Blind) and (
            replicas.failed > 0 or replicas.unschedulable > 0 or replicas.desired >= policy.bounds.max_replicas
        )
        blind |= step.snapshot.demand_partial or step.decision.reason in LEFT_ALONE
        if blind or stuck or policy.mode is Mode.OBSERVE or not step.snapshot.forecasts:
            assert step.after.z == step.before.z


@given(world=worlds, policy=policies)
def test_memory_is_bounded(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        assert len(step.after.desired) <= 2
        assert len(step.after.peaks) <= 6
        assert len(step.after.latency.breaches) <= 1
        assert len(step.after.foreign) <= 8


@given(world=worlds, policy=policies)
def test_every_clamp_starts_where_the_last_one_ended(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        trace = step.decision.adjustments
        for earlier, later in pairwise(trace):
            assert earlier.after == later.before
        if trace:
            assert trace[-1].after == step.decision.target
            assert all(each.before != each.after for each in trace)


@given(world=worlds, policy=policies)
def test_every_outcome_says_who_what_and_why(world: list[Minute], policy: WorkloadPolicy) -> None:
    for step in play(world, policy):
        assert (step.decision.workload, step.decision.at) == ("llm/chat", step.now)
        assert step.after.last_tick_at == step.now
        for proposal in step.decision.proposals:
            assert proposal.rule in {"load", "predictive", "latency", "scheduled"}
            assert proposal.keep >= proposal.want >= 0
            assert proposal.detail
        for adjustment in step.decision.adjustments:
            assert adjustment.rule in {"guard", "limits", "by hand", "outage"}
            assert adjustment.detail
