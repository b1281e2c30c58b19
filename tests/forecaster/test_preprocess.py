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
    calendar,
    carried,
    panel_of,
    reaches_back,
    roots,
    tail,
    to_grid,
    up_to,
    window_means,
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
