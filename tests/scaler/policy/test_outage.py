"""Outages as seen from the demand: a silence that comes all at once, blindness, and what comes back after either.

Properties: in a doubted silence nothing is ever released and nothing ordered that the other rules do not want; more
demand never means fewer replicas there; after an outage growth beyond the limit is late, never lost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_cases import a_tick
from forecaster.types import Blind, BlindReason, Reading, Zero
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.states import Status, statuses
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.explain import as_text, explain
from scaler.policy.outage import (
    ABRUPT,
    LEAST_OUTAGE,
    STEADY,
    OutageRule,
    Seen,
    doubt,
    observe,
    slowed,
    surging,
    unusual,
)
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule
from scaler.policy.types import Action, At, Decision, DemandForecast, OutageState, PolicyState, Reason, Snapshot, Trust

GONE = Blind(reason=BlindReason.UNREACHABLE)
NOBODY = Zero(evidence="the counter stands still")


def play(
    demand: Iterable[float | Reading], policy: WorkloadPolicy, *, scale: int, **seen: object
) -> list[tuple[Snapshot, PolicyState, Decision]]:
    """Minute by minute from four hours of the first demand on; what is asked for is there at the next tick."""
    told, now = list(demand), NOON
    state, steps = steady(a_snapshot(rps=told[0], desired=scale, **seen), policy), []  # type: ignore[arg-type]
    for rps in told:
        snapshot = a_snapshot(rps=rps, desired=scale, **seen)  # type: ignore[arg-type]
        decision, after = decide(snapshot, state, policy, now=now)
        steps.append((snapshot, state, decision))
        state, now = after, now + MINUTE
        scale = decision.target if decision.target is not None else scale
    return steps


@functools.cache
def steady(snapshot: Snapshot, policy: WorkloadPolicy) -> PolicyState:
    """The state after four hours of an unchanged world."""
    return settled(snapshot, policy, minutes=240)


def targets(steps: list[tuple[Snapshot, PolicyState, Decision]]) -> list[int | None]:
    return [decision.target for _, _, decision in steps]


# ── Silence ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_front_door_that_breaks_for_twenty_minutes_costs_no_replica() -> None:
    steps = play([45.0, 45.0, *[NOBODY] * 20, *[45.0] * 20], a_policy(), scale=7)
    assert set(targets(steps)) == {7}
    reasons = [decision.reason for _, _, decision in steps]
    assert reasons.count(Reason.SUDDEN_SILENCE) >= 14, "after the five minutes of calm it is what holds them"


def test_a_silence_that_lasts_is_believed_after_half_an_hour() -> None:
    steps = play([45.0, 45.0, *[NOBODY] * 60], a_policy(), scale=7)
    released = [minute for minute, target in enumerate(targets(steps)) if target != 7]
    assert released[0] == 2 + 30
    assert targets(steps)[-1] == 1


@pytest.mark.parametrize(
    ("demand", "seen"),
    [
        pytest.param([45.0, 20.0, 8.0, 6.0, 4.0, 2.0, 1.0, *[NOBODY] * 40], {}, id="it ebbs away"),
        pytest.param([4.0, *[NOBODY] * 40], {}, id="there never was much of it"),
        pytest.param([NOBODY] * 41, {}, id="nobody has been there for long"),
        pytest.param([45.0, *[1.5] * 40], {}, id="something is left of it"),
    ],
)
def test_demand_that_goes_in_an_ordinary_way_is_believed(
    demand: list[float | Reading], seen: dict[str, object]
) -> None:
    steps = play(demand, a_policy(), scale=8, **seen)
    assert Reason.SUDDEN_SILENCE not in {decision.reason for _, _, decision in steps}
    assert targets(steps)[-1] in (1, 2)


def test_a_silence_that_was_foreseen_is_believed() -> None:
    policy, scale = a_policy(), 7
    always = a_snapshot(rps=45.0, desired=7, forecasts=(a_forecast(45.0, issued_at=NOON - MINUTE),))
    state, reasons = steady(always, policy), set()
    for minute in range(60):
        now = NOON + minute * MINUTE
        ends = {h: 0.0 for h in range(1, 31) if minute + h > 15}  # work ends at a quarter past, as every day
        forecast = a_forecast(45.0, issued_at=now, later_rps=ends)
        rps: float | Reading = 45.0 if minute < 15 else NOBODY
        decision, state = decide(a_snapshot(rps=rps, desired=scale, forecasts=(forecast,)), state, policy, now=now)
        scale = decision.target or 0
        reasons.add(decision.reason)
    assert Reason.SUDDEN_SILENCE not in reasons
    assert scale == 1


def test_requests_in_flight_contradict_a_silence_for_as_long_as_it_takes() -> None:
    policy, rule = a_policy(), OutageRule()
    steps = play([45.0, *[NOBODY] * 180], policy, scale=7, waiting=0.0)
    assert targets(steps)[-1] == 1
    state, scale = steady(a_snapshot(rps=45.0, desired=7), policy), 7
    for minute in range(180):
        busy = replace(a_snapshot(rps=NOBODY, desired=scale), requests_running=a_snapshot(rps=12).classes[0].demand_rps)
        decision, state = decide(busy, state, policy, now=NOON + minute * MINUTE)
        scale = decision.target or 0
    assert (scale, decision.reason) == (7, Reason.SUDDEN_SILENCE)
    assert "12 requests are in flight" in decision.adjustments[-1].detail
    assert not unusual(state.outage, rule, now=NOON + 180 * MINUTE), "but the forecast learns from it by then"


def fallen_to(rps: float, running: float, *, minutes: int) -> tuple[int, Decision]:
    """A hundred replicas, full for four hours, then so little for so long: the scale in the end."""
    policy, scale = a_policy(most=200), 100
    state = steady(a_snapshot(rps=1000.0, desired=scale), policy)
    for minute in range(minutes):
        flying = a_snapshot(rps=running).classes[0].demand_rps
        seen_now = replace(a_snapshot(rps=rps, desired=scale), requests_running=flying)
        decision, state = decide(seen_now, state, policy, now=NOON + minute * MINUTE)
        scale = decision.target or 0
    return scale, decision


def test_a_trickle_that_is_left_is_released_to_after_half_an_hour() -> None:
    """8 requests/s of 1,000 are silence (0.8 %), and of five seconds each 40 are always in flight: they came by it."""
    scale, decision = fallen_to(8.0, 40.0, minutes=30)
    assert (scale, decision.reason) == (100, Reason.SUDDEN_SILENCE)
    scale, decision = fallen_to(8.0, 40.0, minutes=120)
    assert (scale, decision.reason) == (2, Reason.STEADY)


def test_more_in_flight_than_a_trickle_explains_contradicts_it() -> None:
    """Health checks reach the old gateway, 3,000 requests came by the new one: a tenth a second explains thirty."""
    scale, decision = fallen_to(0.1, 3000.0, minutes=180)
    assert (scale, decision.reason) == (100, Reason.SUDDEN_SILENCE)
    assert "but 3000 requests are in flight" in decision.adjustments[-1].detail


@pytest.mark.parametrize(
    ("arrivals_rps", "in_flight", "doubted"),
    [
        pytest.param(0.0, 1.0, True, id="nothing arrives, and one is there"),
        pytest.param(0.0, 0.0, False, id="nothing arrives, and nothing is there"),
        pytest.param(0.1, 30.0, False, id="five minutes of what arrives"),
        pytest.param(0.1, 31.0, True, id="more"),
    ],
)
def test_what_is_in_flight_is_held_against_what_arrived(arrivals_rps: float, in_flight: float, doubted: bool) -> None:
    fell = OutageState(fell_at=NOON, silent_since=NOON, arrivals_rps=arrivals_rps)
    why = doubt(fell, OutageRule(), in_flight=in_flight, now=NOON + 60 * MINUTE)
    assert bool(why) is doubted


def test_a_restart_does_not_make_anybody_believe_it() -> None:
    policy = a_policy()
    steps = play([45.0, *[NOBODY] * 10], policy, scale=7)
    snapshot, state, _ = steps[-1]
    back_at = NOON + 20 * MINUTE
    for minute in range(9):
        decision, state = decide(snapshot, state, policy, now=back_at + minute * MINUTE)
        assert decision.target == 7
    assert decision.reason is Reason.SUDDEN_SILENCE
    busy = replace(snapshot, requests_running=a_snapshot(rps=12).classes[0].demand_rps)
    for minute in range(9, 60):
        decision, state = decide(busy, state, policy, now=back_at + minute * MINUTE)
        assert decision.target == 7, "and what is in flight still speaks against it"


def test_it_can_be_switched_off() -> None:
    steps = play([45.0, *[NOBODY] * 8], a_policy(outage=OutageRule(silence=timedelta(0))), scale=7)
    assert targets(steps)[-1] == 4


@given(
    loads=st.lists(st.sampled_from([0.0, 0.005, 0.3, 5.0, 45.0, 400.0]), min_size=1, max_size=30),
    last=st.floats(0.0, 100.0),
    factor=st.floats(1.0, 50.0),
)
def test_i7_more_demand_in_a_silence_never_means_fewer_replicas(loads: list[float], last: float, factor: float) -> None:
    *_, (snapshot, before, _) = play([45.0, *loads, last], a_policy(), scale=7)
    now = NOON + (len(loads) + 1) * MINUTE
    decided = [
        decide(a_snapshot(rps=rps, desired=snapshot.replicas.desired), before, a_policy(), now=now)[0].target  # type: ignore[union-attr]
        for rps in (last, last * factor)
    ]
    assert decided[1] >= decided[0]  # type: ignore[operator]


@given(loads=st.lists(st.sampled_from([0.0, 0.05, 45.0]), min_size=1, max_size=45))
def test_in_a_doubted_silence_nothing_is_released(loads: list[float]) -> None:
    rule = OutageRule()
    for minute, (_, before, decision) in enumerate(play([45.0, *loads], a_policy(), scale=7)):
        fell_at = before.outage.fell_at
        if fell_at is not None and NOON + minute * MINUTE - fell_at < rule.silence:
            assert decision.action is not Action.IN


# ── What comes back ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_storm_of_retries_orders_twice_the_usual_and_no_more() -> None:
    steps = play([45.0, *[NOBODY] * 10, *[400.0] * 4, *[45.0] * 3], a_policy(), scale=7)
    assert max(target or 0 for target in targets(steps)) == 14
    storm = steps[11][2]
    assert storm.adjustments[0].reason is Reason.AFTER_OUTAGE
    assert storm.adjustments[0].detail == "back since 12:11:00; until 12:16:00 at most 14"
    snapshot, state, _ = steps[11]
    _, then = decide(snapshot, state, a_policy(), now=NOON + 11 * MINUTE)
    text = as_text(storm, explain(storm, snapshot, a_policy(), then))
    assert "more from 12:16:00 on if it is still wanted then" in text


def test_what_still_is_there_after_five_minutes_is_ordered() -> None:
    steps = play([45.0, *[GONE] * 10, *[400.0] * 8], a_policy(), scale=7)
    course = targets(steps)
    assert course[:11] == [7] * 11
    assert course[11:16] == [14] * 5
    assert course[16:] == [28, 56, 58]


@pytest.mark.parametrize(
    ("dark", "limited"),
    [
        pytest.param([GONE] * 2, False, id="blind for two minutes"),
        pytest.param([GONE] * 3, True, id="blind for three"),
        pytest.param([NOBODY] * 2, False, id="silent for two minutes"),
        pytest.param([NOBODY] * 3, True, id="silent for three"),
        pytest.param([NOBODY, GONE, GONE], True, id="one and then the other"),
    ],
)
def test_what_counts_as_an_outage(dark: list[Reading], limited: bool) -> None:
    *_, (_, _, decision) = play([45.0, *dark, 400.0], a_policy(), scale=7)
    assert (Reason.AFTER_OUTAGE in {each.reason for each in decision.adjustments}) is limited


def test_a_daemon_that_starts_blind_knows_of_no_outage() -> None:
    policy, state = a_policy(), PolicyState()
    for minute in range(10):
        _, state = decide(a_snapshot(rps=GONE, desired=2), state, policy, now=NOON + minute * MINUTE)
    decision, _ = decide(a_snapshot(rps=400.0, desired=2), state, policy, now=NOON + 10 * MINUTE)
    assert {each.reason for each in decision.adjustments} == {Reason.STEP_OUT}


def test_what_the_forecast_expects_and_what_is_scheduled_may_come_at_once() -> None:
    late = NOON + 11 * MINUTE
    policy, dark = a_policy(), [45.0, *[GONE] * 10]
    *_, (_, state, _) = play([*dark, GONE], policy, scale=7)
    expecting = a_snapshot(rps=400.0, desired=7, forecasts=(a_forecast(100.0, issued_at=late),))
    decision, _ = decide(expecting, state, policy, now=late)
    assert decision.adjustments[0].after == 20, "twice the ten that are forecast to be needed"
    peak = (ExpectedDemand(request_class="default", rps=300.0),)
    event = ScheduledEvent(name="launch", start=late, end=late + 60 * MINUTE, expected_peak=peak)
    planned = a_policy(scheduled=ScheduledRule(events=(event,)))
    decision, _ = decide(a_snapshot(rps=400.0, desired=7), state, planned, now=late)
    assert decision.adjustments[0].after == 30


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"silence": timedelta(seconds=-1)}, "outage.silence must be at least 0"),
        ({"surge": timedelta(seconds=-1)}, "outage.surge must be at least 0"),
        ({"most_surge_ratio": 0.5}, "outage.most_surge_ratio must be at least 1, got 0.5"),
        ({"most_surge_ratio": float("nan")}, "outage.most_surge_ratio must be at least 1, got nan"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        OutageRule(**changes)  # type: ignore[arg-type]


# ── The rule alone ────────────────────────────────────────────────────────────────────────────────────────────


def seen(load: float | None, *, current: int = 10, foreseen: float | None = None) -> Seen:
    return Seen(known=load is not None, load=load or 0.0, current=current, foreseen=foreseen)


def after(*loads: float | None, current: int = 10, start: datetime = NOON) -> OutageState:
    state = OutageState(heard_since=start - STEADY)
    for minute, load in enumerate(loads):
        state = observe(state, seen(load, current=current), now=start + minute * MINUTE)
    return state


@pytest.mark.parametrize(
    ("loads", "current", "silent"),
    [
        pytest.param([5.0, 0.0], 10, True, id="at once"),
        pytest.param([5.0, 0.4, 0.2, 0.1], 10, True, id="within three minutes, health checks go on"),
        pytest.param([5.0, 0.4, 0.4, 0.4, 0.0], 10, False, id="within four"),
        pytest.param([5.0, 0.2], 10, False, id="two hundredths are left"),
        pytest.param([0.9, 0.0], 10, False, id="ten replicas with less than one's load are not busy"),
        pytest.param([0.9, 0.0], 2, True, id="two are"),
        pytest.param([0.4, 0.0], 1, False, id="less than half a replica comes and goes"),
        pytest.param([5.0, *[None] * 60, 0.0], 10, True, id="blind for an hour, and nothing when it sees again"),
    ],
)
def test_what_is_a_sudden_silence(loads: list[float | None], current: int, silent: bool) -> None:
    assert (after(*loads, current=current).silent_since is not None) is silent
    assert ABRUPT == LEAST_OUTAGE == timedelta(minutes=3)


@pytest.mark.parametrize(
    ("loads", "doubted"),
    [
        pytest.param([*[5.0] * 180, 0.0], True, id="three hours on end"),
        pytest.param([*[5.0] * 179, 0.0], False, id="a minute less"),
        pytest.param([*[5.0] * 100, 0.0, *[5.0] * 100, 0.0], False, id="a silent minute in between"),
        pytest.param([*[5.0] * 181, *[0.0] * 10, *[5.0] * 5, 0.0], True, id="a second outage, minutes after the first"),
        pytest.param([*[5.0] * 181, *[0.0] * 30, *[5.0] * 5, 0.0], False, id="asleep for half an hour in between"),
        pytest.param([*[5.0] * 90, *[None] * 5, *[5.0] * 90, 0.0], True, id="blind in between"),
    ],
)
def test_only_of_steady_traffic_a_silence_is_doubted(loads: list[float | None], doubted: bool) -> None:
    state = OutageState()
    for minute, load in enumerate(loads):
        state = observe(state, seen(load), now=NOON + minute * MINUTE)
    assert (state.silent_since is not None) is doubted


def test_a_growth_is_slowed_to_the_ratio_and_nothing_else_is_changed() -> None:
    state, rule = OutageState(back=At(at=NOON, replicas=5)), OutageRule(most_surge_ratio=1.5)
    assert slowed(20, 0, rule, state, current=5, now=NOON + MINUTE)[0] == 7
    assert slowed(7, 0, rule, state, current=5, now=NOON + MINUTE) == (7, ())
    assert slowed(20, 9, rule, state, current=5, now=NOON + MINUTE)[0] == 9
    assert slowed(20, 0, rule, state, current=12, now=NOON + MINUTE)[0] == 12, "never below what there is"
    assert slowed(20, 0, rule, state, current=5, now=NOON + 5 * MINUTE) == (20, ())
    assert not surging(state, replace(rule, surge=timedelta(0)), now=NOON)


def test_nothing_speaks_against_a_demand_that_never_fell() -> None:
    assert doubt(OutageState(busy_at=NOON), OutageRule(), in_flight=99.0, now=NOON) == ""


# ── Blindness, and the day before in place of a forecast ──────────────────────────────────────────────────────


def with_stand_in(snapshot: Snapshot, rps: float, *, issued_at: datetime) -> Snapshot:
    """The snapshot as it is once nothing has been known for half an hour."""
    forecast = a_forecast(rps, issued_at=issued_at, model="day-before")
    return replace(snapshot, forecasts=(DemandForecast(forecast=forecast, stand_in=True),))


@pytest.mark.parametrize(
    ("snapshot", "target", "reason", "trust"),
    [
        pytest.param(a_snapshot(rps=GONE, desired=3), 7, Reason.STAND_IN, Trust.STAND_IN, id="blind: it may add"),
        pytest.param(a_snapshot(rps=GONE, desired=9), 9, Reason.BLIND_DEMAND, Trust.STAND_IN, id="and never releases"),
        pytest.param(
            replace(a_snapshot(rps=5.0, desired=3), demand_partial=True),
            7,
            Reason.STAND_IN,
            Trust.STAND_IN,
            id="some of the front door is down: it may add",
        ),
        pytest.param(a_snapshot(rps=25.0, desired=4), 4, Reason.STEADY, Trust.NO_FORECAST, id="seen again: not heard"),
    ],
)
def test_the_day_before_speaks_only_while_the_demand_is_unknown(
    snapshot: Snapshot, target: int, reason: Reason, trust: Trust
) -> None:
    policy = a_policy()
    seen = with_stand_in(snapshot, 70.0, issued_at=NOON)
    decision, _ = decide(seen, settled(snapshot, policy), policy, now=NOON)
    assert (decision.target, decision.reason, decision.trust) == (target, reason, trust)


def test_a_stand_in_expires_as_a_forecast_does() -> None:
    policy, snapshot = a_policy(), a_snapshot(rps=GONE, desired=3)
    old = with_stand_in(snapshot, 70.0, issued_at=NOON - 10 * MINUTE)
    decision, _ = decide(old, settled(snapshot, policy), policy, now=NOON)
    assert (decision.target, decision.reason) == (3, Reason.BLIND_DEMAND)


@given(rps=st.floats(0.0, 1e6), scale=st.integers(1, 50), ratio=st.floats(0.0, 10.0), most=st.integers(50, 60))
def test_no_stand_in_ever_releases_anything(rps: float, scale: int, ratio: float, most: int) -> None:
    policy = a_policy(most=most)
    blind = with_stand_in(a_snapshot(rps=GONE, desired=scale, waiting=ratio), rps, issued_at=NOON)
    decision, after = decide(blind, settled(blind, policy), policy, now=NOON)
    assert scale <= (decision.target or 0) <= most
    assert after.known_since is None
    assert after.z == settled(blind, policy).z, "and nothing is learnt from it"


def test_hold_rewarm_active_the_whole_way() -> None:
    """A morning on which the metrics are gone from 12:10 to 12:40, with yesterday's demand to go by from 12:30 on."""
    policy, state, scale = a_policy(), PolicyState(), 6
    course: list[tuple[int, str]] = []
    then: dict[str, Status] = {}
    for minute in range(70):
        now = NOON + minute * MINUTE
        blind = 10 <= minute < 40
        snapshot = a_snapshot(rps=GONE if blind else 50.0 if minute < 10 else 20.0, desired=scale)
        if blind and minute >= 30:
            snapshot = with_stand_in(snapshot, 80.0, issued_at=now)
        elif minute < 20 or not blind:
            quiet = 50.0 if minute < 20 else 20.0
            snapshot = replace(
                snapshot, forecasts=(DemandForecast(forecast=a_forecast(quiet, issued_at=now), quality=GOOD),)
            )
        report = a_tick(snapshot, policy, state=state, now=now)
        then, state = statuses(report, then), report.states["llm/chat"]
        scale = report.records[0].decision.target or 0
        course.append((scale, then["llm/chat"].state.value))
    assert course[:5] == [(6, "REWARM")] * 5
    assert course[5:10] == [(5, "ACTIVE")] * 5
    assert course[10:30] == [(5, "HOLD")] * 20
    assert course[30:40] == [(8, "HOLD")] * 10, "eight times ten requests were there the day before"
    assert course[40:45] == [(8, "REWARM")] * 5
    assert course[45][1] == "ACTIVE"
    assert course[-1] == (2, "ACTIVE")
    in_one_step = [before - after for (before, _), (after, _) in pairwise(course)]
    assert max(in_one_step) <= 4


def test_what_people_see_of_a_sudden_silence_and_of_a_stand_in() -> None:
    policy = a_policy()
    *_, (snapshot, state, _) = play([45.0, *[NOBODY] * 10], policy, scale=7)
    report = a_tick(snapshot, policy, state=state, now=NOON + 10 * MINUTE)
    status = statuses(report, {})["llm/chat"]
    assert (status.state.value, status.since) == ("HOLD", NOON + MINUTE)
    assert status.cause == "the demand fell silent all at once, at 12:01:00 UTC: an outage in front of it?"
    assert status.way_out.startswith("believed from 12:31:00 UTC")
    record = report.records[0]
    text = as_text(record.decision, explain(record.decision, snapshot, policy, report.states["llm/chat"]))
    assert "holds 7 because the demand vanished all at once" in text
    assert "release possible from 12:31:00, unless requests still are in flight then" in text
    blind = with_stand_in(a_snapshot(rps=GONE, desired=3), 70.0, issued_at=NOON)
    status = statuses(a_tick(blind, policy), {})["llm/chat"]
    assert "the day before stands in for the forecast and may add replicas" in status.cause
    decision, after = decide(blind, PolicyState(), policy, now=NOON)
    text = as_text(decision, explain(decision, blind, policy, after))
    assert "stand-in  " in text
    assert "out 3 → 7 because the demand is unknown, and the day before needed so many at that time" in text
