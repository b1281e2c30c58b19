"""Raw samples to a grid: order, duplicates, faults, gaps and outages. Property: nothing measured is ever invented."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import SeriesError
from forecaster.preprocess import (
    Dropped,
    by_local_clock,
    calendar,
    carried,
    clock_stands,
    panel_of,
    reaches_back,
    roots,
    tail,
    to_grid,
    up_to,
    window_means,
    without_censored,
    without_dead_target,
    without_outages,
)
from forecaster.types import STEP, Panel, Series, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
AT = START.timestamp()
NONE_DROPPED = Dropped(faulty=0, outside=0, duplicate=0)


def gridded(samples: list[tuple[float, float]], bins: int = 3) -> tuple[list[float], Dropped]:
    times = np.array([AT + second for second, _ in samples])
    series, dropped = to_grid(times, np.array([value for _, value in samples]), start=START, end=START + bins * STEP)
    return series.values.tolist(), dropped


@pytest.mark.parametrize(
    ("samples", "expected", "dropped"),
    [
        pytest.param([(0, 1.0), (60, 2.0), (120, 3.0)], [1, 2, 3], NONE_DROPPED, id="one a bin"),
        pytest.param([(120, 3.0), (0, 1.0), (60, 2.0)], [1, 2, 3], NONE_DROPPED, id="reversed history"),
        pytest.param([(0, 1.0), (15, 2.0), (59.9, 6.0)], [3, None, None], NONE_DROPPED, id="mean of a bin, gaps stay"),
        pytest.param(
            [(0, 1.0), (0, 5.0)],
            [5, None, None],
            Dropped(faulty=0, outside=0, duplicate=1),
            id="a moment counts once, the last given wins",
        ),
        pytest.param(
            [(0, np.nan), (60, np.inf), (120, -1.0)],
            [None, None, None],
            Dropped(faulty=3, outside=0, duplicate=0),
            id="faults are unknown, not zero",
        ),
        pytest.param(
            [(-0.1, 1.0), (180, 1.0), (60, 0.0)],
            [None, 0, None],
            Dropped(faulty=0, outside=2, duplicate=0),
            id="before, future, and a true zero",
        ),
        pytest.param([], [None, None, None], NONE_DROPPED, id="no samples"),
    ],
)
def test_samples_fall_into_bins(
    samples: list[tuple[float, float]], expected: list[float | None], dropped: Dropped
) -> None:
    values, counted = gridded(samples)
    assert values == pytest.approx([np.nan if one is None else one for one in expected], nan_ok=True)
    assert counted == dropped


@given(st.lists(st.tuples(st.integers(-100, 300), st.floats(-5, 1e6) | st.just(float("nan"))), max_size=30))
@settings(deadline=None)
def test_a_bin_never_leaves_the_range_of_its_samples(samples: list[tuple[float, float]]) -> None:
    values, dropped = gridded(samples)
    inside = [[v for s, v in samples if 60 * b <= s < 60 * (b + 1) and np.isfinite(v) and v >= 0] for b in range(3)]
    for value, own in zip(values, inside, strict=True):
        assert np.isnan(value) if not own else min(own) * 0.999999 - 1e-9 <= value <= max(own) * 1.000001 + 1e-9
    used = len(samples) - dropped.faulty - dropped.outside - dropped.duplicate
    assert used <= len(samples)


@pytest.mark.parametrize(
    ("start", "bins"),
    [
        pytest.param(datetime(2026, 3, 2), 3, id="naive time"),  # noqa: DTZ001
        pytest.param(START + timedelta(seconds=1), 3, id="not on the grid"),
        pytest.param(START, 0, id="empty span"),
    ],
)
def test_a_grid_that_is_none_is_refused(start: datetime, bins: int) -> None:
    with pytest.raises(SeriesError):
        to_grid(np.array([AT]), np.array([1.0]), start=start, end=start + bins * STEP)


def test_a_bin_half_hidden_by_an_outage_is_unknown() -> None:
    series = Series(start=START, step=STEP, values=np.arange(6.0))
    outage = (START + timedelta(seconds=90), START + timedelta(seconds=181))
    assert without_outages(series, [outage]).values == pytest.approx([0, np.nan, np.nan, np.nan, 4, 5], nan_ok=True)
    assert series.values[1] == 1.0
    before = (START - timedelta(hours=2), START - timedelta(hours=1))
    assert without_outages(series, [before]).values.tolist() == series.values.tolist()


def test_a_target_that_was_down_hides_its_bins() -> None:
    series = Series(start=START, step=STEP, values=np.zeros(4))
    up = Series(start=START, step=STEP, values=np.array([1.0, 0.5, 0.0, np.nan]))
    assert without_dead_target(series, up).values == pytest.approx([0, np.nan, np.nan, np.nan], nan_ok=True)
    with pytest.raises(SeriesError, match="one grid"):
        without_dead_target(series, Series(start=START, step=STEP, values=np.ones(3)))


def test_a_panel_spans_its_series_and_leaves_the_rest_unknown() -> None:
    one, two = SeriesKey(workload="a/b", signal="x"), SeriesKey(workload="a/c", signal="x")
    early = Series(start=START, step=STEP, values=np.array([1.0, 2.0]))
    late = Series(start=START + STEP, step=STEP, values=np.array([5.0, 6.0]))
    panel = panel_of([(one, early), (two, late)])
    assert panel.values == pytest.approx(np.array([[1, 2, np.nan], [np.nan, 5, 6]]), nan_ok=True)
    assert up_to(panel, START + 2 * STEP).values.shape == (2, 2)
    assert tail(panel, 1).start == START + 2 * STEP
    with pytest.raises(SeriesError):
        panel_of([])
    with pytest.raises(SeriesError, match="step"):
        panel_of([(one, early), (two, Series(start=START, step=2 * STEP, values=np.ones(2)))])


def test_carrying_bridges_gaps_up_to_a_limit_and_never_the_beginning() -> None:
    values = np.array([[np.nan, 1.0, np.nan, np.nan, np.nan, 2.0]])
    assert carried(values) == pytest.approx(np.array([[np.nan, 1, 1, 1, 1, 2]]), nan_ok=True)
    assert carried(values, limit=2) == pytest.approx(np.array([[np.nan, 1, 1, 1, np.nan, 2]]), nan_ok=True)


@given(st.lists(st.floats(0, 100) | st.just(float("nan")), min_size=1, max_size=40), st.integers(1, 50))
def test_window_means_equal_a_slow_mean(values: list[float], width: int) -> None:
    quick = window_means(np.array([values]), width)[0]
    for end in range(len(values)):
        known = [one for one in values[max(0, end - width + 1) : end + 1] if np.isfinite(one)]
        assert quick[end] == pytest.approx(np.mean(known), abs=1e-9) if known else np.isnan(quick[end])


def test_roots_of_faults_are_unknown() -> None:
    assert roots(np.array([4.0, 0.0, -1.0, np.inf, np.nan])) == pytest.approx([2, 0, *[np.nan] * 3], nan_ok=True)


def test_one_old_bin_makes_a_series_old() -> None:
    values = np.full((3, 3000), np.nan)
    values[0, 100] = values[1, 2900] = 1.0
    keys = tuple(SeriesKey(workload=f"a/{row}", signal="x") for row in range(3))
    panel = Panel(keys=keys, start=START, step=STEP, values=values)
    assert reaches_back(panel, timedelta(days=1)).tolist() == [True, False, False]


def test_the_calendar_follows_its_zone_through_a_change_of_clocks() -> None:
    before = datetime(2026, 3, 28, 11, tzinfo=UTC)  # noon in Berlin; a day later summer time makes it 13:00
    features = calendar(before, timedelta(days=1), 2, zone=ZoneInfo("Europe/Berlin"))
    assert features[0, :2] == pytest.approx([0.0, -1.0], abs=1e-9)
    assert features[1, 0] < -0.2
    assert features[:, 4].tolist() == [1.0, 1.0]
    assert calendar(before, timedelta(days=1), 2)[0, :2].tolist() == pytest.approx([0.2588, -0.9659], abs=1e-3)


# ── Censored demand ───────────────────────────────────────────────────────────────────────────────────────────────

NOTHING = np.nan


def uncensored(demand: list[float], *, seen: dict[int, float] | None = None, served: dict[int, float] | None = None):
    """`without_censored` on one series with evidence at a few bins; the answer as a list, None for unknown."""
    evidence = np.full((2, len(demand)), NOTHING)
    for row, given_at in enumerate((seen or {}, served or {})):
        for bin_, value in given_at.items():
            evidence[row, bin_] = value
    answer = without_censored(np.array([demand]), seen_ratio=evidence[:1], service_up_ratio=evidence[1:])[0]
    return [None if np.isnan(value) else value for value in answer]


def test_a_lower_bound_may_raise_and_never_lower() -> None:
    """One of two gateways is not scraped in bins 3 to 6: its half is missing, and then demand trebles."""
    demand = [10.0, 10.0, 10.0, 5.0, 5.0, 15.0, 14.0, 28.0]
    half = {3: 0.5, 4: 0.5, 5: 0.5, 6: 0.5}
    assert uncensored(demand, seen=half) == [10.0, 10.0, 10.0, None, None, 15.0, 14.0, 28.0]


@pytest.mark.parametrize(
    ("demand", "evidence", "expected"),
    [
        pytest.param([4.0, 4.0], {0: 0.5, 1: 0.9}, [None, None], id="a lower bound with nothing sound before it"),
        pytest.param([4.0, 4.0, 4.0], {1: 0.75}, [4.0, 4.0, 4.0], id="equal to what was: it stays"),
        pytest.param([4.0, 3.0, 4.0], {1: 1.0}, [4.0, 3.0, 4.0], id="all scrapes came"),
        pytest.param([4.0, 0.0, 0.0], {}, [4.0, 0.0, 0.0], id="a fall without evidence is a fall"),
    ],
)
def test_evidence_of_scrapes(demand: list[float], evidence: dict[int, float], expected: list[float | None]) -> None:
    assert uncensored(demand, seen=evidence) == expected


def test_nobody_served_is_unknown_and_the_storm_of_retries_after_it_too() -> None:
    """5 minutes without a live engine: people give up (10 → 2/s), come back with their retries (60/s), calm down."""
    demand = [10.0] * 20 + [2.0] * 5 + [60.0, 40.0, 12.0] + [11.0] * 7 + [60.0] * 3
    down = dict.fromkeys(range(20, 25), 0.0)
    answer = uncensored(demand, served=down)
    assert answer[:20] == [10.0] * 20
    assert answer[20:27] == [None] * 7
    assert answer[27:35] == [12.0] + [11.0] * 7
    assert answer[35:] == [60.0] * 3, "ten minutes later a rise is a rise"


def test_half_of_the_engines_serve_and_what_arrives_is_demand() -> None:
    assert uncensored([10.0, 30.0, 10.0], served={1: 0.5}) == [10.0, 30.0, 10.0]


def test_a_long_outage_leaves_nothing_to_call_a_storm_by() -> None:
    """After an hour what came before says nothing of now: the first minutes are believed."""
    demand = [10.0] * 20 + [0.0] * 60 + [40.0] * 3
    assert uncensored(demand, served=dict.fromkeys(range(20, 80), 0.0))[80:] == [40.0] * 3


def test_evidence_of_another_grid_is_refused() -> None:
    with pytest.raises(SeriesError, match="one grid"):
        without_censored(np.ones((1, 3)), seen_ratio=np.ones((1, 3)), service_up_ratio=np.ones((1, 2)))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6) | st.just(float("nan")),
            st.sampled_from([NOTHING, 1.0, 0.75, 0.0]),
            st.sampled_from([NOTHING, 1.0, 0.5, 0.0]),
        ),
        min_size=1,
        max_size=60,
    ),
)
@settings(deadline=None)
def test_a_bin_stays_as_it_was_or_becomes_unknown(bins: list[tuple[float, float, float]]) -> None:
    """Nothing is invented, no evidence changes nothing, and the future is not looked at."""
    demand, seen, served = (np.array([column]) for column in zip(*bins, strict=True))
    believed = without_censored(demand, seen_ratio=seen, service_up_ratio=served)
    known = np.isfinite(believed)
    assert (believed[known] == demand[known]).all()
    nothing = np.full(demand.shape, NOTHING)
    untouched = without_censored(demand, seen_ratio=nothing, service_up_ratio=nothing)
    np.testing.assert_array_equal(untouched, demand)
    cut = demand.shape[1] // 2 + 1
    earlier = without_censored(demand[:, :cut], seen_ratio=seen[:, :cut], service_up_ratio=served[:, :cut])
    np.testing.assert_array_equal(earlier, believed[:, :cut])


# ── Clocks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def local_minutes(start: datetime, bins: int, zone: ZoneInfo, step: timedelta = STEP) -> np.ndarray:
    """Each bin's wall-clock time in hours: what traffic that follows the clock would look like."""
    local = [(start + i * step).astimezone(zone) for i in range(bins)]
    return np.array([[at.hour + at.minute / 60 for at in local]])


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        pytest.param("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC), id="spring, a day of 23 hours"),
        pytest.param("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC), id="autumn, a day of 25 hours"),
        pytest.param("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC), id="spring, west of Greenwich"),
        pytest.param("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC), id="autumn, west of Greenwich"),
        pytest.param("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC), id="half an hour back"),
        pytest.param("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC), id="half an hour ahead"),
        pytest.param("America/St_Johns", datetime(2026, 3, 8, 5, 30, tzinfo=UTC), id="a zone of half hours, spring"),
        pytest.param("Africa/Casablanca", datetime(2026, 2, 15, 2, tzinfo=UTC), id="a month of winter time: Ramadan"),
    ],
)
@pytest.mark.parametrize("step", [STEP, timedelta(minutes=10)], ids=["1 min", "10 min"])
def test_a_day_is_24_hours_long_whatever_the_clocks_do(zone: str, change: datetime, step: timedelta) -> None:
    """Traffic that follows the clock repeats after 24 hours of bins, but for the hour that was skipped or doubled."""
    clock, day = ZoneInfo(zone), int(timedelta(days=1) / step)
    start = change - timedelta(days=3)
    bins = 5 * day
    hours = local_minutes(start, bins, clock, step)
    assert not clock_stands(start=start, step=step, bins=hours.shape[1], zone=clock)
    moved = by_local_clock(hours, start=start, step=step, zone=clock)
    assert moved.shape == hours.shape
    again = moved[0, day:] == moved[0, :-day]
    hour = int(timedelta(hours=1) / step)
    # The skipped hour differs from both its neighbours, and the oldest hour has nothing older to take its place.
    assert (~again).sum() <= 3 * hour
    assert again[-day:].all()
    changed = 3 * day
    np.testing.assert_array_equal(moved[0, changed:], hours[0, changed:])
    assert (hours[0, day:] == hours[0, :-day]).mean() < again.mean()


def test_half_a_year_brings_two_changes_that_cancel() -> None:
    clock, step = ZoneInfo("Europe/Berlin"), timedelta(hours=1)
    start, bins = datetime(2026, 3, 1, tzinfo=UTC), 24 * 270
    moved = by_local_clock(local_minutes(start, bins, clock, step), start=start, step=step, zone=clock)
    wanted = np.resize(np.roll(np.arange(24.0), -1), bins)  # bin 0 is midnight UTC, one o'clock in winter
    assert (moved[0] != wanted).sum() <= 3


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Shanghai"])
def test_zones_whose_clocks_do_not_change_move_nothing(zone: str) -> None:
    values = np.arange(14 * 1440.0)[None, :]
    assert by_local_clock(values, start=START, step=STEP, zone=ZoneInfo(zone)) is values
    assert clock_stands(start=START, step=STEP, bins=values.shape[1], zone=ZoneInfo(zone))


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran"]),
    st.integers(0, 365 * 24 * 4),
    st.integers(1, 3000),
)
@settings(deadline=None, max_examples=60)
def test_moved_history_is_history_and_the_newest_bin_stays(zone: str, quarter: int, bins: int) -> None:
    start = START + quarter * timedelta(minutes=15)
    values = np.arange(float(bins))[None, :]
    moved = by_local_clock(values, start=start, step=timedelta(minutes=15), zone=ZoneInfo(zone))
    assert set(moved[0]) <= set(values[0])
    assert moved[0, -1] == values[0, -1]
