"""The last hours as a distribution: counted like numpy's quantiles, silent where too little is known, good at bursts.

Properties: the fast quantiles are `numpy.nanquantile`'s; without a gap the answer lies between the windows' own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.models.recent import LEAST_KNOWN, RecentHours, quantiles
from forecaster.models.seasonal import LastValue
from forecaster.preprocess import up_to
from forecaster.types import LEVELS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440


def panel_of(*rows: np.ndarray, step: timedelta = STEP) -> Panel:
    keys = tuple(SeriesKey(workload=f"a/b{number}", signal="demand_rps") for number in range(len(rows)))
    return Panel(keys=keys, start=START, step=step, values=np.stack(rows))


def said(values: np.ndarray, *, step: timedelta = STEP) -> np.ndarray:
    (answer,) = RecentHours().predict(panel_of(values, step=step), horizons=(1, 30))
    assert np.array_equal(answer[0], answer[1], equal_nan=True), "it says the same at every horizon"
    return answer[0]


@given(seed=st.integers(0, 10_000), bins=st.integers(1, 60), unknown=st.sampled_from([0.0, 0.3, 0.9]))
@settings(max_examples=60, deadline=None)
def test_counted_quantiles_are_numpys(seed: int, bins: int, unknown: float) -> None:
    draw = np.random.default_rng(seed)
    values = draw.poisson(2.0, (5, bins)).astype(float)
    values[draw.random(values.shape) < unknown] = np.nan
    for row, found in zip(values, quantiles(values), strict=True):
        known = row[np.isfinite(row)]
        if known.size < LEAST_KNOWN:
            assert np.isnan(found).all()
        else:
            assert found == pytest.approx(np.quantile(known, LEVELS))


def test_the_mean_of_two_windows_in_roots() -> None:
    """An hour of 4 after five of 1: medians 2 and 1 in roots, 1.5 in the mean, 2.25 in demand; 4 above both."""
    values = np.concatenate([np.full(DAY - 60, 1.0), np.full(60, 4.0)])
    assert said(values)[0] == pytest.approx(2.25)
    assert said(values)[-1] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(slice(DAY - 2, DAY), None, id="two minutes tell nothing"),
        pytest.param(slice(0, DAY - 40), None, id="nothing for half an hour"),
        pytest.param(slice(DAY - 180, DAY), None, id="younger than four hours"),
        pytest.param(slice(0, DAY - 5), 9.0, id="a hole at the end is bridged by what is known"),
        pytest.param(slice(0, DAY), 9.0, id="all is known"),
    ],
)
def test_what_must_be_known_before_it_speaks(known: slice, expected: float | None) -> None:
    values = np.full(DAY, np.nan)
    values[known] = 9.0
    median = said(values)[0]
    assert np.isnan(median) if expected is None else median == pytest.approx(expected)


def test_ten_minute_bins_are_counted_as_bins() -> None:
    values = np.tile([1.0, 1.0, 1.0, 1.0, 1.0, 25.0], 24)
    assert said(values, step=timedelta(minutes=10))[0] == pytest.approx(1.0)
    assert said(values, step=timedelta(minutes=10))[-1] > 16.0


def error(model: Forecaster, values: np.ndarray, level: float) -> float:
    """Mean pinball loss at `level` half an hour ahead, over the last twelve hours, every seven minutes."""
    panel = panel_of(values)
    found = []
    for at in range(values.size - DAY // 2, values.size - 30, 7):
        gap = (
            values[at + 29] - model.predict(up_to(panel, START + at * STEP), horizons=(30,))[0, 0, LEVELS.index(level)]
        )
        found.append(max(level * gap, (level - 1.0) * gap))
    return float(np.mean(found))


@pytest.mark.parametrize(("level", "ratio"), [(0.5, 0.8), (0.95, 0.9)])
def test_bursts_around_a_level_that_moves_are_what_it_is_for(level: float, ratio: float) -> None:
    """Three to seven hours at a level, each minute between a tenth and ten times of it."""
    draw = np.random.default_rng(3)
    levels = np.concatenate([np.full(draw.integers(180, 420), each) for each in draw.uniform(1.0, 8.0, 20)])[: 2 * DAY]
    bursts = levels * draw.lognormal(0.0, 1.0, levels.size)
    assert error(RecentHours(), bursts, level) < ratio * error(LastValue(), bursts, level)
