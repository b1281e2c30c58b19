"""Placeholders alone: how many for which outlook, when they go, what is unknown, and what no input can make them do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.policy.capacity import CapacityProfile, ClassCapacity, single_rate
from scaler.policy.placeholders import Outlook, PlaceholderRule, PlaceholderState, grows, outlook, size
from scaler.policy.types import Decision, DemandForecast, Mode, Reason, Snapshot

RULE = PlaceholderRule(placeholder="warm/pool", max_replicas=8)
SETTLED = PlaceholderState(since=NOON - timedelta(hours=1))


def seen(coming: int | None, *, held: int = 4) -> Outlook:
    return Outlook(held_gpus=held, coming_gpus=coming)


def run(
    minutes: Sequence[tuple[list[Outlook], int | None]],
    *,
    rule: PlaceholderRule = RULE,
    state: PlaceholderState = SETTLED,
    current: int = 0,
) -> list[Decision]:
    """Minute by minute, what is decided is the next minute's scale; each is (outlooks, free GPUs)."""
    decisions = []
    for i, (outlooks, free) in enumerate(minutes):
        decision, state = size(rule, outlooks, state, current=current, free_gpus=free, now=NOON + i * MINUTE)
        assert decision.target is not None
        current = decision.target
        decisions.append(decision)
    return decisions


def targets(decisions: list[Decision]) -> list[int | None]:
    return [each.target for each in decisions]


@pytest.mark.parametrize(
    ("outlooks", "free", "rule", "target", "reason"),
    [
        pytest.param([seen(0)], None, RULE, 0, Reason.STEADY, id="nothing is coming"),
        pytest.param([seen(3)], None, RULE, 3, Reason.FORECAST, id="three GPUs are coming"),
        pytest.param([seen(1), seen(2)], None, RULE, 3, Reason.FORECAST, id="of two workloads together"),
        pytest.param([seen(20)], None, RULE, 8, Reason.FORECAST, id="never above the maximum"),
        pytest.param([seen(3)], 2, RULE, 2, Reason.FORECAST, id="no node beyond the budget"),
        pytest.param([seen(3)], 0, RULE, 0, Reason.GPU_BUDGET, id="the budget is held"),
        pytest.param([seen(3)], -5, RULE, 0, Reason.GPU_BUDGET, id="more than the budget is held"),
        pytest.param([seen(5)], None, PlaceholderRule(placeholder="w/p", gpus_per_replica=4), 2, Reason.FORECAST, id="placeholders of four GPUs"),
        pytest.param([seen(5)], 7, PlaceholderRule(placeholder="w/p", gpus_per_replica=4), 1, Reason.FORECAST, id="whole placeholders fit the budget"),
        pytest.param([seen(None)], None, RULE, 0, Reason.STEADY, id="unknown adds none"),
        pytest.param([seen(None), seen(2)], None, RULE, 2, Reason.FORECAST, id="what is known still adds"),
        pytest.param([], None, RULE, 0, Reason.STEADY, id="no workload at all"),
    ],
)  # fmt: skip
def test_how_many(
    outlooks: list[Outlook], free: int | None, rule: PlaceholderRule, target: int, reason: Reason
) -> None:
    decision, _ = size(rule, outlooks, SETTLED, current=0, free_gpus=free, now=NOON)
    assert (decision.target, decision.reason) == (target, reason)


def test_they_go_at_once_as_real_pods_take_over() -> None:
    """Five GPUs are coming; three, then all of them are ordered as real pods."""
    minutes = [([seen(5, held=4)], None), ([seen(2, held=7)], None), ([seen(0, held=9)], None)]
    assert targets(run(minutes)) == [5, 2, 0]


def test_a_forecast_that_falls_takes_them_only_after_the_hold() -> None:
    minutes = [([seen(5)], None), *([([seen(1)], None)] * 10)]
    assert targets(run(minutes)) == [5] * 10 + [1]


def test_a_release_of_real_pods_is_not_kept_as_placeholders() -> None:
    """The forecast is met, then the workload releases three: their nodes may go with them."""
    minutes = [([seen(0, held=9)], None), ([seen(0, held=6)], None), ([seen(0, held=6)], None)]
    assert targets(run(minutes)) == [0, 0, 0]


def test_the_unknown_takes_none_away() -> None:
    minutes = [([seen(3)], None), *([([seen(None)], None)] * 30), ([seen(0)], None)]
    decisions = run(minutes)
    assert targets(decisions) == [3] * 31 + [0]
    assert decisions[20].reason is Reason.BLIND_DEMAND


def test_after_a_start_nothing_goes_for_one_hold() -> None:
    decisions = run([([seen(0)], None)] * 12, state=PlaceholderState(), current=4)
    assert targets(decisions) == [4] * 10 + [0, 0]
    assert decisions[0].reason is Reason.REWARM


def test_a_clock_set_back_begins_anew() -> None:
    ahead = PlaceholderState(since=NOON + timedelta(hours=3))
    assert targets(run([([seen(0)], None)] * 11, state=ahead, current=2)) == [2] * 10 + [0]


def test_a_lowered_maximum_counts_at_once() -> None:
    assert targets(run([([seen(None)], None)], current=20)) == [8]


def test_a_spent_budget_stops_growth_and_takes_none_away() -> None:
    assert targets(run([([seen(4)], 0), ([seen(6)], 0)], current=4)) == [4, 4]


four = CapacityProfile(name="four", classes=(ClassCapacity(name="default", max_rps=10.0),), gpus=4)


@pytest.mark.parametrize(
    ("forecast", "profile", "held", "coming"),
    [
        pytest.param(a_forecast(40.0), single_rate("p", 10.0), 3, 1, id="four are wanted, three held"),
        pytest.param(a_forecast(40.0), four, 3, 4, id="a replica of four GPUs"),
        pytest.param(a_forecast(40.0), single_rate("p", 10.0), 6, 0, id="more is held than wanted"),
        pytest.param(a_forecast(10.0, later_rps={8: 60.0}), single_rate("p", 10.0), 1, 5, id="the peak within ten minutes"),
        pytest.param(a_forecast(10.0, later_rps={20: 60.0}), single_rate("p", 10.0), 1, 0, id="the peak in twenty is too far"),
        pytest.param(a_forecast(40.0, spread_rps=10.0), single_rate("p", 10.0), 4, 1, id="at the steered score"),
        pytest.param(a_forecast(990.0), single_rate("p", 10.0), 4, 16, id="never beyond the workload's maximum of 20"),
        pytest.param(a_forecast(40.0, issued_at=NOON - 10 * MINUTE), single_rate("p", 10.0), 3, None, id="expired"),
        pytest.param(a_forecast(float("nan")), single_rate("p", 10.0), 3, None, id="not a number"),
    ],
)  # fmt: skip
def test_outlook(forecast, profile, held: int, coming: int | None) -> None:
    snapshot = a_snapshot(rps=1.0, forecasts=(forecast,))
    z = 1.2815515655446004
    found = outlook(snapshot, profile, RULE, z=z, held=held, most=20, grows=True, now=NOON)
    assert found == Outlook(held_gpus=profile.gpus * held, coming_gpus=coming)


def test_without_a_forecast_the_outlook_is_unknown() -> None:
    found = outlook(a_snapshot(rps=50.0), a_policy().profile, RULE, z=0.0, held=2, most=20, grows=True, now=NOON)
    assert found == Outlook(held_gpus=2, coming_gpus=None)


BLIND = a_snapshot(rps=Blind(reason=BlindReason.UNREACHABLE), forecasts=(a_forecast(80.0),))


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(BLIND, id="nobody sees the demand"),
        pytest.param(
            replace(BLIND, forecasts=(DemandForecast(forecast=a_forecast(80.0), stand_in=True),)),
            id="the day before stands in",
        ),
        pytest.param(
            replace(a_snapshot(rps=1.0, forecasts=(a_forecast(80.0),)), demand_partial=True), id="part of it is seen"
        ),
    ],
)
def test_of_an_unknown_demand_the_outlook_is_unknown(snapshot: Snapshot) -> None:
    """Nodes are neither bought nor given back on the word of a guess."""
    found = outlook(snapshot, a_policy().profile, RULE, z=0.0, held=2, most=20, grows=True, now=NOON)
    assert found == Outlook(held_gpus=2, coming_gpus=None)


@pytest.mark.parametrize("snapshot", [a_snapshot(rps=1.0, forecasts=(a_forecast(80.0),)), BLIND])
def test_for_what_cannot_grow_nothing_comes(snapshot: Snapshot) -> None:
    found = outlook(snapshot, a_policy().profile, RULE, z=0.0, held=2, most=20, grows=False, now=NOON)
    assert found == Outlook(held_gpus=2, coming_gpus=0)


@pytest.mark.parametrize(
    ("reason", "mode", "may"),
    [
        pytest.param(Reason.STEADY, Mode.ACTIVE, True, id="the rules decide"),
        pytest.param(Reason.BLIND_DEMAND, Mode.ACTIVE, True, id="blind may grow"),
        pytest.param(Reason.HANDS_OFF, Mode.ACTIVE, False, id="switched off"),
        pytest.param(Reason.HANDS_OFF, Mode.OBSERVE, False, id="switched off, whoever scales it"),
        pytest.param(Reason.PAUSED, Mode.ACTIVE, False, id="paused"),
        pytest.param(Reason.PAUSED, Mode.PUBLISH, False, id="paused: what is there is published"),
        pytest.param(Reason.PAUSED, Mode.FLOOR, True, id="a paused floor: the autoscaler above it goes on"),
        pytest.param(Reason.PAUSED, Mode.OBSERVE, True, id="observed: somebody else scales"),
        pytest.param(Reason.OVERRIDE, Mode.ACTIVE, False, id="as many as somebody ordered"),
        pytest.param(Reason.HELD_MANUAL, Mode.ACTIVE, False, id="somebody's hand"),
        pytest.param(Reason.HELD_CONFLICT, Mode.ACTIVE, False, id="another writer"),
    ],
)
def test_what_can_grow(reason: Reason, mode: Mode, may: bool) -> None:
    assert grows(reason, mode) is may


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"gpus_per_replica": 0}, "gpus_per_replica of w/p must be at least 1, got 0", id="no GPU"),
        pytest.param({"max_replicas": 0}, "max_replicas of w/p must be at least 1, got 0", id="none"),
        pytest.param({"ahead": timedelta(0)}, "ahead of w/p must lie in (0, 30m], got 0s", id="now"),
        pytest.param({"ahead": 31 * MINUTE}, "ahead of w/p must lie in (0, 30m], got 31m", id="beyond the forecast"),
        pytest.param({"hold": 61 * MINUTE}, "hold of w/p must lie in [0, 1h], got 1h1m", id="for ever"),
    ],
)
def test_refuses_impossible_parameters(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        PlaceholderRule(placeholder="w/p", **settings)  # type: ignore[arg-type]
    assert str(error.value) == message


worlds = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=3),
        st.one_of(st.none(), st.integers(-5, 20)),
    ),
    min_size=1,
    max_size=30,
)


@given(world=worlds, start=st.integers(0, 8), gpus=st.integers(1, 4))
def test_always_within_bounds_never_fewer_than_wanted_and_bounded_memory(world, start: int, gpus: int) -> None:
    rule = PlaceholderRule(placeholder="w/p", gpus_per_replica=gpus, max_replicas=8)
    state, current = PlaceholderState(), start
    for i, (rows, free) in enumerate(world):
        outlooks = [Outlook(held_gpus=held, coming_gpus=coming) for held, coming in rows]
        decision, state = size(rule, outlooks, state, current=current, free_gpus=free, now=NOON + i * MINUTE)
        assert decision.target is not None
        wanted = rule.replicas(sum(each.coming_gpus or 0 for each in outlooks))
        room = rule.max_replicas if free is None else max(current, max(0, free) // gpus)
        assert min(wanted, room, rule.max_replicas) <= decision.target <= rule.max_replicas
        if any(each.coming_gpus is None for each in outlooks):
            assert decision.target >= current
        if decision.target > current:
            assert free is None or decision.target * gpus <= free
        assert len(state.seen) <= 10
        current = decision.target
