"""How wide a band has to be at the height of its forecast: ranks, what is learnt at them, and the factor that follows.

Properties: the sums equal a slow reference; the factor stays within its bounds and is 1 for whom nothing is known; a
change of unit changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models import ensemble, heights
from forecaster.models.heights import NO_RANK, RANKS
from forecaster.models.memory import blank
from forecaster.models.scoring import Learning
from forecaster.types import HORIZONS, LEVELS, STEP, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SeriesKey(workload="llm/w0", signal="demand_rps")
MOST = 3.0


def arrays_of(horizons: tuple[int, ...] = (5,)) -> dict[str, Any]:
    """Those of an engine that has seen nothing."""
    return dict(blank(Panel(keys=(KEY,), start=START, step=STEP, values=np.empty((1, 0))), (), horizons).arrays)


def taught(arrays: dict[str, Any], medians: np.ndarray, above: np.ndarray, *, step: timedelta = STEP) -> dict[str, Any]:
    """`arrays` after forecasts of these medians were missed by `above`, one a bin."""
    for median, error in zip(medians, above, strict=True):
        said = np.array([[median]])
        rank = heights.ranks(said, arrays, step)
        heights.learn(arrays, rank, said, np.array([[error]]), np.isfinite(said), step)
    return arrays


def settled() -> dict[str, Any]:
    """A day of medians around 10 with a deviation of 1, all missed alike."""
    return taught(arrays_of(), 10.0 + np.sqrt(2.0) * np.sin(np.arange(1440) / 7.0), np.ones(1440))


@pytest.mark.parametrize(
    ("median", "rank"),
    [
        pytest.param(0.0, 0, id="far below"),
        pytest.param(9.3, 1, id="below"),
        pytest.param(9.9, 2, id="just below the mean"),
        pytest.param(10.1, 3, id="just above it"),
        pytest.param(10.7, 4, id="above"),
        pytest.param(99.0, 5, id="far above"),
        pytest.param(np.nan, NO_RANK, id="unknown"),
    ],
)
def test_a_rank_counts_standard_deviations_from_the_mean(median: float, rank: int) -> None:
    assert heights.ranks(np.array([[median]]), settled(), STEP).tolist() == [[rank]]


@pytest.mark.parametrize(
    ("bins", "step", "told"),
    [
        pytest.param(59, STEP, False, id="59 minutes"),
        pytest.param(90, STEP, True, id="an hour and a half"),
        pytest.param(4, 10 * STEP, False, id="40 minutes in bins of ten"),
        pytest.param(9, 10 * STEP, True, id="90 minutes in bins of ten"),
    ],
)
def test_the_first_hour_has_no_ranks(bins: int, step: timedelta, told: bool) -> None:
    arrays = taught(arrays_of(), np.arange(float(bins)), np.ones(bins), step=step)
    assert bool(heights.ranks(np.array([[3.0]]), arrays, step)[0, 0] != NO_RANK) is told


@pytest.mark.parametrize("level", [0.0, 0.1, 1e9])
def test_where_all_medians_were_the_same_there_are_no_ranks(level: float) -> None:
    arrays = taught(arrays_of(), np.full(300, level), np.ones(300))
    assert heights.ranks(np.array([[level]]), arrays, STEP).tolist() == [[NO_RANK]]
    assert heights.factors(np.array([[NO_RANK]], dtype=np.int8), arrays, STEP, most=MOST).tolist() == [[1.0]]


def test_sums_equal_a_slow_reference() -> None:
    draw = np.random.default_rng(5)
    medians, above = draw.gamma(3.0, 2.0, 400), draw.exponential(1.0, 400)
    arrays = taught(arrays_of(), medians, above)
    age = np.arange(399, -1, -1) * STEP
    fading = np.array([0.5 ** (one / heights.MEAN_HALF_LIFE) for one in age])
    assert arrays["median"][0, 0] == pytest.approx((fading * medians).sum())
    assert arrays["median_square"][0, 0] == pytest.approx((fading * medians**2).sum())
    assert arrays["median_weight"][0, 0] == pytest.approx(fading.sum())
    ranked = np.array([0.5 ** (one / heights.HALF_LIFE) for one in age])[60:]
    # The 60th median is still the first hour's: 60 decayed ones are a little less than 60.
    assert arrays["height_weight"].sum() == pytest.approx(ranked[1:].sum(), rel=1e-4)
    assert arrays["height_ratio"].sum() == pytest.approx((ranked * above[60:])[1:].sum(), rel=1e-4)


def test_what_is_not_told_teaches_and_ages_nothing() -> None:
    arrays = settled()
    before = {name: array.copy() for name, array in arrays.items()}
    rank, untold = np.array([[3]], dtype=np.int8), np.array([[False]])
    heights.learn(arrays, rank, np.array([[np.nan]]), np.array([[np.nan]]), untold, STEP)
    assert all(np.array_equal(array, before[name], equal_nan=array.dtype.kind == "f") for name, array in arrays.items())


def test_a_rank_that_errs_four_times_as_much_is_half_way_there() -> None:
    """Weeks in which rank 5 errs 16 times as much (squared) as rank 0: widths of 2 to 1, less what the prior holds."""
    arrays = arrays_of()
    arrays["height_weight"][0, 0] = 50_000.0
    arrays["height_ratio"][0, 0] = 50_000.0 * np.array([1.0, 1, 1, 1, 1, 16])
    low, high = (heights.factors(np.array([[one]], np.int8), arrays, STEP, most=MOST)[0, 0] for one in (0, 5))
    assert high / low == pytest.approx(2.0, rel=0.05)
    assert low < 1.0 < high


@given(
    ratio=st.lists(st.floats(0.0, 36.0), min_size=RANKS, max_size=RANKS),
    weight=st.lists(st.floats(0.0, 1e5), min_size=RANKS, max_size=RANKS),
    rank=st.integers(NO_RANK, RANKS - 1),
)
def test_the_factor_stays_within_its_bounds(ratio: list[float], weight: list[float], rank: int) -> None:
    arrays = arrays_of()
    arrays["height_weight"][0, 0] = weight
    arrays["height_ratio"][0, 0] = np.array(ratio) * weight
    (found,) = heights.factors(np.array([[rank]], dtype=np.int8), arrays, STEP, most=MOST)[0]
    assert 1.0 / MOST <= found <= MOST
    if rank == NO_RANK or not arrays["height_ratio"].any():
        assert found == 1.0


@given(unit=st.floats(1e-3, 1e3))
def test_a_change_of_unit_changes_no_rank(unit: float) -> None:
    medians = np.random.default_rng(2).gamma(3.0, 2.0, 200)
    plain, scaled = (taught(arrays_of(), factor * medians, np.ones(200)) for factor in (1.0, unit))
    asked = np.linspace(0.0, 20.0, 23)[:, None]
    for one in asked:
        found = heights.ranks(unit * one[None], scaled, STEP)
        assert found.tolist() == heights.ranks(one[None], plain, STEP).tolist()


# ── In the engine ─────────────────────────────────────────────────────────────────────────────────────────────


class Halves:
    """A member that knows whether the coming minutes are quiet (4) or busy (100), and one band for both."""

    model_id = "last-value"
    min_history = timedelta(0)
    lookback = timedelta(hours=1)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """Two quiet hours, two busy ones."""
        ends = (panel.end - START) // STEP + np.array(horizons)
        root = np.where(busy(ends - 1), 10.0, 2.0)
        said = np.square(root[:, None] + np.arange(len(LEVELS)))
        return np.repeat(said[None], len(panel.keys), axis=0)


def busy(minute: np.ndarray) -> np.ndarray:
    return minute // 127 % 2 == 1  # no part of a day: the time of day learns nothing of it


def test_what_is_quiet_now_and_then_is_far_busier_and_the_busy_never_is() -> None:
    """Every tenth quiet minute comes at nine times what was said, no busy one above: the band learns to say so."""
    minute = np.arange(3 * 1440)
    values = np.where(busy(minute), 90.0, np.where(minute % 10 == 3, 36.0, 3.5))
    state, widths = None, {True: [], False: []}
    for end in range(1440, values.size, 2):
        known = Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :end])
        done = ensemble.step([Halves()], known, state, horizons=(2, 4))
        state = done.state
        levels = np.sqrt(np.array(done.forecasts[KEY].values[0]))
        widths[bool(busy(np.array(end + 1)))].append(levels[2] - levels[0])
    assert np.mean(widths[False][-300:]) > 1.2 * np.mean(widths[True][-300:])


def test_the_offset_paces_itself_by_the_horizon() -> None:
    paces = Learning(conformal_gain=0.01, conformal_steps=8).paces((1, 8, 32))
    assert paces.tolist() == pytest.approx([0.01, 0.01, 0.005])


def test_a_young_series_is_not_told_of_and_learns_all_the_same() -> None:
    """At one day old its band has been checked for most of a day, and its quality is known from the first forecast."""
    values = np.random.default_rng(4).gamma(2.0, 5.0, 1441)
    state = None
    for end in range(300, 1440):
        known = Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :end])
        done = ensemble.step([Halves()], known, state, horizons=(5,))
        assert not done.forecasts
        state = done.state
    assert state is not None
    assert state.arrays["ratio_weight"][0, 0] > 500.0
    done = ensemble.step([Halves()], Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :1440]), state)
    assert done.forecasts
