"""The rivals against the worked examples of their sources, and how a planner is played.

Properties: the plain HPA never misses more with more replicas; every planner orders at least one and sees no future.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.policies import (
    PLANNERS,
    Dynamo,
    Hpa,
    HpaPlain,
    Kpa,
    LastValue,
    Memory,
    Past,
    Schedule,
    SeasonalNaive,
    Sight,
    planner,
    replay,
    replay_planner,
    static_mean,
)
from scaler.simulate.policies.dynamo import one_ahead

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
loads = st.lists(st.floats(0.0, 12.0), min_size=1, max_size=60).map(np.array)


def a_sight(
    *past: float,
    ready: int = 1,
    ordered: int | None = None,
    step: timedelta = MINUTE,
    at: datetime = MONDAY,
    lead: int = 3,
) -> Sight:
    return Sight(
        at=at,
        past=np.array(past),
        step=step,
        cold_start_bins=lead,
        ordered=ready if ordered is None else ordered,
        ready=ready,
    )


# ── Knative: the cases of autoscaler_test.go, a concurrency of 10 a pod written as a load of 1 ──


def seconds(stable: float, panic: float) -> tuple[float, ...]:
    """A minute of one-second bins whose mean is `stable` and whose last six are `panic`."""
    return (*[(60.0 * stable - 6.0 * panic) / 54.0] * 54, *[panic] * 6)


@pytest.mark.parametrize(
    ("stable", "panic", "ready", "ordered"),
    [
        pytest.param(5.0, 5.0, 1, 5, id="stable mode, increase"),
        pytest.param(5.0, 10.0, 1, 10, id="AutoscalerPanicModeDoublePodCount: panic takes precedence"),
        pytest.param(36.0, 36.0, 6, 36, id="PanicModeExponentialTrackAndStablize"),
        pytest.param(0.1, 0.1, 100, 100, id="starts in panic mode at the scale it finds"),
        pytest.param(0.0, 0.0, 1, 1, id="no scale to zero here"),
    ],
)
def test_kpa_decides(stable: float, panic: float, ready: int, ordered: int) -> None:
    sight = a_sight(*seconds(stable, panic), ready=ready, step=SECOND)
    assert Kpa(target_ratio=1.0).decide(sight, ())[0] == ordered


@pytest.mark.parametrize(
    ("rates", "load", "ready", "ordered"),
    [
        pytest.param(
            {"max_scale_up_rate": 10.0}, 100.0, 1, 10, id="RateLimitScaleUp: a hundred wanted, ten times allowed"
        ),
        pytest.param({"max_scale_up_rate": 10.0}, 100.0, 10, 100, id="and ten times again"),
        pytest.param({"max_scale_down_rate": 1.1}, 0.1, 100, 90, id="IncreaseWithSmallScaleDownRate: 100 / 1.1"),
        pytest.param({}, 0.1, 100, 50, id="half at most by default"),
    ],
)
def test_kpa_keeps_its_rates(rates: dict[str, float], load: float, ready: int, ordered: int) -> None:
    calm: Memory = (-1, 0)
    assert Kpa(target_ratio=1.0, **rates).decide(a_sight(load, ready=ready), calm)[0] == ordered


def test_kpa_panics_for_a_stable_window_and_then_goes_in() -> None:
    kpa, memory = Kpa(target_ratio=1.0), (-1, 0)
    ordered, memory = kpa.decide(a_sight(100.0, ready=10), memory)
    assert ordered == 100, "ten times the Ready ten: panic"
    ordered, memory = kpa.decide(a_sight(0.1, ready=10), memory)
    assert ordered == 100, "60 s later the window is not over yet"
    ordered, memory = kpa.decide(a_sight(0.1, ready=10), memory)
    assert ordered == 5
    assert memory == (-1, 0)


def test_kpa_tracks_an_exponential_and_stays() -> None:
    """TestAutoscalerPanicModeExponentialTrackAndStablize: each time the Ready pods are those of the step before."""
    kpa, memory, ready, found = Kpa(target_ratio=1.0), (-1, 0), 1, []
    for load in (6.0, 36.0, 216.0, 1296.0, 1296.0):
        ready, memory = kpa.decide(a_sight(load, ready=ready), memory)
        found.append(ready)
    assert found == [6, 36, 216, 1296, 1296]


@pytest.mark.parametrize(
    ("step_s", "held_s"),
    [
        pytest.param(2, 60, id="every 2 s, as Knative decides: exact"),
        pytest.param(15, 60, id="every 15 s"),
        pytest.param(1, 60, id="every second"),
    ],
)
def test_kpa_leaves_panic_more_than_a_stable_window_after_it(step_s: int, held_s: int) -> None:
    """TestAutoscalerPanicThenUnPanicScaleDown: 100 at the panic and 30 s later, 1 after the stable window."""
    kpa, memory = Kpa(target_ratio=1.0, max_scale_down_rate=10.0), (-1, 0)
    step = timedelta(seconds=step_s)
    ordered, memory = kpa.decide(a_sight(*[100.0] * 60, ready=10, step=step), memory)
    for after_s in range(step_s, held_s + 1, step_s):
        ordered, memory = kpa.decide(a_sight(*[0.1] * 60, ready=10, step=step), memory)
        assert ordered == 100, f"{after_s} s after the panic"
    assert kpa.decide(a_sight(*[0.1] * 60, ready=10, step=step), memory)[0] == 1


@pytest.mark.parametrize(
    ("step_s", "bins", "seen"),
    [
        pytest.param(1, 6, 10, id="six bins of a second"),
        pytest.param(2, 3, 10, id="three of two seconds"),
        pytest.param(15, 1, 10, id="one of fifteen: six seconds see what it averaged"),
        pytest.param(60, 1, 10, id="and one of a minute, which is the stable window as well"),
    ],
)
def test_kpa_panics_on_what_its_six_seconds_reach_into(step_s: int, bins: int, seen: int) -> None:
    calm = max(0, 60 // step_s - bins)
    past = [1.0] * calm + [10.0] * bins
    assert Kpa(target_ratio=1.0).decide(a_sight(*past, ready=1, step=timedelta(seconds=step_s)), (-1, 0))[0] == seen


# ── Yesterday ──


def test_last_value_follows_at_once_both_ways() -> None:
    course = replay_planner(
        LastValue(utilisation=0.5), np.array([1.0, 4.0, 1.0, 1.0]), start=MONDAY, step=MINUTE, cold_start_bins=1
    )
    assert course.billed.tolist() == [2, 2, 8, 2]


@pytest.mark.parametrize(
    ("minutes_from_now", "ordered"),
    [
        pytest.param(0, 1, id="what came at this minute is over"),
        pytest.param(1, 8, id="the next minute"),
        pytest.param(30, 8, id="the end of the half hour"),
        pytest.param(31, 1, id="after it"),
    ],
)
def test_seasonal_naive_looks_at_the_half_hour_that_followed_a_day_ago(minutes_from_now: int, ordered: int) -> None:
    past = np.full(2000, 0.5)
    past[1999 + minutes_from_now - 1440] = 4.0
    assert SeasonalNaive(utilisation=0.5).decide(a_sight(*past), ())[0] == ordered


def test_seasonal_naive_looks_a_slow_start_ahead_and_is_reactive_without_a_yesterday() -> None:
    past = np.full(2000, 0.5)
    past[1999 + 41 - 1440] = 4.0
    assert SeasonalNaive(utilisation=0.5).decide(a_sight(*past, lead=40), ())[0] == 8
    assert SeasonalNaive(utilisation=0.5).decide(a_sight(3.0, 2.0), ())[0] == 4


def test_schedule_has_the_peak_of_the_hour_ready_when_the_hour_begins() -> None:
    history = np.ones(2880)
    history[9 * 60 + 30] = 5.0
    history[1440 + 9 * 60 + 10] = 7.0
    timetable = Schedule.of(history, start=MONDAY, step=MINUTE)
    course = replay_planner(timetable, np.ones(1440), start=MONDAY, step=MINUTE, cold_start_bins=5, history=history)
    assert course.serving[9 * 60 : 10 * 60].tolist() == [7] * 60
    assert course.serving[9 * 60 - 1] < 7
    assert course.serving[10 * 60 + 1] == 1


def test_schedule_without_a_past_keeps_what_there_is() -> None:
    timetable = Schedule.of(np.array([]), start=MONDAY, step=MINUTE)
    assert timetable.decide(a_sight(9.0, ready=3), ())[0] == 3
    half_known = Schedule.of(np.full(60, 4.0), start=MONDAY, step=MINUTE)
    assert half_known.decide(a_sight(1.0), ())[0] == 4, "an hour never seen has the peak of all"


# ── Dynamo ──


@pytest.mark.parametrize(
    ("points", "following"),
    [
        pytest.param([3.0] * 20, 3.0, id="a constant stays"),
        pytest.param(list(range(20)), 20.0, id="a line goes on"),
        pytest.param([1.0, 9.0, 4.0], 4.0, id="too few points repeat the last"),
        pytest.param([1.0, np.nan, 9.0], 9.0, id="the unknown is left out"),
        pytest.param(list(np.linspace(20.0, 0.0, 20)), 0.0, id="never below zero"),
    ],
)
def test_one_interval_ahead(points: list[float], following: float) -> None:
    assert one_ahead(np.array(points)) == pytest.approx(following, abs=1e-6)


@pytest.mark.parametrize(
    ("load", "ready", "ordered", "floor", "decided"),
    [
        pytest.param(4.2, 4, 4, 1, 5, id="over the target: one more"),
        pytest.param(4.0, 4, 4, 1, 4, id="exactly full is not over"),
        pytest.param(9.0, 4, 6, 1, 6, id="nothing while pods start"),
        pytest.param(2.39, 4, 4, 1, 3, id="2.39 stays under 80 percent of 3, not of 2"),
        pytest.param(2.4, 4, 4, 1, 4, id="exactly 80 percent of 3 is refused"),
        pytest.param(0.1, 4, 4, 3, 3, id="never below the floor"),
        pytest.param(1.0, 4, 4, 7, 7, id="the floor lifts at once"),
    ],
)
def test_dynamo_steps(load: float, ready: int, ordered: int, floor: int, decided: int) -> None:
    sight = a_sight(load, load, load, load, ready=ready, ordered=ordered)
    now_s = round(MONDAY.timestamp())
    assert Dynamo().decide(sight, (floor, now_s)) == (decided, (floor, now_s))


def test_dynamo_sets_its_floor_each_three_minutes() -> None:
    ramp, now_s = np.repeat(np.arange(1.0, 11.0), 3), round(MONDAY.timestamp())
    assert Dynamo().decide(a_sight(*ramp, ready=10), (1, now_s - 180))[1] == (11, now_s), "ten, and one interval on"
    assert Dynamo().decide(a_sight(*ramp, ready=10), (4, now_s - 179))[1] == (4, now_s - 179), "until then it stands"
    constant = planner("dynamo:constant", Past(loads=ramp, start=MONDAY, step=MINUTE))
    assert constant.decide(a_sight(*ramp, ready=10), ())[1] == (10, now_s), "the last interval again"


@pytest.mark.parametrize(
    ("current", "wanted", "floor"),
    [
        pytest.param(24, 8.0, 16, id="24 workers where 8 would do: 16"),
        pytest.param(40, 180.0, 48, id="40 where 180 are needed: 48"),
        pytest.param(10, 100.0, 18, id="test_agg_throughput_uses_replica_cap"),
        pytest.param(3, 2.1, 3, id="2.1 requests a second at one each: 3"),
    ],
)
def test_dynamo_moves_its_floor_by_eight_at_most(current: int, wanted: float, floor: int) -> None:
    """The cases of test_throughput_scaling.py."""
    assert Dynamo().decide(a_sight(*[wanted] * 30, ready=current), ())[1][0] == floor


@pytest.mark.parametrize(
    ("step_s", "load", "ready", "decided"),
    [
        pytest.param(15, 0.1, 8, 5, id="three load ticks in 15 s shrink by three"),
        pytest.param(60, 0.1, 20, 8, id="twelve in a minute"),
        pytest.param(5, 0.1, 8, 7, id="one in five seconds"),
        pytest.param(2, 0.1, 8, 7, id="and one where a sight is shorter"),
        pytest.param(15, 99.0, 8, 9, id="growth waits for its pod: one a sight"),
    ],
)
def test_dynamo_runs_its_load_loop_every_five_seconds(step_s: int, load: float, ready: int, decided: int) -> None:
    sight = a_sight(load, ready=ready, step=timedelta(seconds=step_s))
    assert Dynamo().decide(sight, (1, round(MONDAY.timestamp())))[0] == decided


def test_dynamo_forecasts_means_of_three_minutes_on_any_sight() -> None:
    """A ramp of one replica an interval, shown by the minute and every 15 s: the same floor."""
    by_minute, by_15_s = (np.repeat(np.arange(1.0, 11.0), count) for count in (3, 12))
    floors = {
        Dynamo().decide(a_sight(*past, ready=10, step=step), ())[1][0]
        for past, step in ((by_minute, MINUTE), (by_15_s, timedelta(seconds=15)))
    }
    assert floors == {11}


# ── Fixed, and all of them ──


def test_static_mean_has_the_replicas_of_the_mean() -> None:
    assert static_mean(np.array([1.0, 2.0, np.nan, 6.0]), 3).serving.tolist() == [3, 3, 3, 3]


def test_hpa_syncs_every_fifteen_seconds_whatever_the_bin() -> None:
    assert Hpa.for_bins(MINUTE) == Hpa()
    wide = Hpa.for_bins(timedelta(minutes=10))
    assert wide.syncs_per_bin == 40
    assert wide.decide(0.7, 10, ((10,) * 20, ()))[0] == 1, "ten minutes are longer than the stabilisation"
    narrow = Hpa.for_bins(SECOND)
    assert (narrow.syncs_per_bin, narrow.behaviour.sync_s) == (1, 1.0)
    replicas, memory = 10, ()
    for _ in range(299):
        replicas, memory = narrow.decide(0.7, replicas, memory or ((10,), ()))
    assert replicas == 10
    assert narrow.decide(0.7, replicas, memory)[0] == 1, "300 syncs of a second"


@settings(max_examples=80)
@given(loads, st.integers(0, 5), st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_more_replicas_never_miss_more(load: np.ndarray, cold_start: int, one: float, other: float) -> None:
    few, many = (
        replay(HpaPlain(utilisation=each), load, cold_start_bins=cold_start)
        for each in (max(one, other), min(one, other))
    )
    assert int(many.missed.sum()) <= int(few.missed.sum())
    assert not (many.missed & ~few.missed).any()


@settings(max_examples=40)
@given(loads, st.sampled_from(sorted(PLANNERS)), st.integers(0, 5), st.floats(0.0, 50.0))
def test_a_planner_sees_no_bin_before_it_ended(load: np.ndarray, name: str, cold_start: int, surprise: float) -> None:
    past = Past(loads=np.full(1500, 2.0), start=MONDAY, step=MINUTE)
    half = load.size // 2
    other = np.concatenate([load[:half], np.full(load.size - half, surprise)])
    one, two = (
        replay_planner(
            planner(name, past), each, start=MONDAY, step=MINUTE, cold_start_bins=cold_start, history=past.loads
        )
        for each in (load, other)
    )
    assert one.billed.min() >= 1
    if half:
        assert one.billed[: half + 1].tolist() == two.billed[: half + 1].tolist()


def test_a_planner_holds_after_a_bin_that_is_not_known() -> None:
    load = np.array([1.0, np.nan, 5.0])
    course = replay_planner(LastValue(utilisation=1.0), load, start=MONDAY, step=MINUTE, cold_start_bins=0)
    assert course.billed.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("kpaa", "there are dynamo, hpa-pods, kpa", id="typo"),
        pytest.param("kpa:", "number after the colon", id="nothing after the colon"),
        pytest.param("kpa:1.5", r"\(0, 1\]", id="above one"),
    ],
)
def test_unknown_planners_are_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        planner(name, Past(loads=np.array([]), start=MONDAY, step=MINUTE))
