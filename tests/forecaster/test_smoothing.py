"""Exponential smoothing, on series where the right answer is known beforehand, and against the recursion it stands for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.models import smoothing
from forecaster.models.seasonal import LastValue
from forecaster.models.smoothing import Ewma, ExpSmoothing
from forecaster.preprocess import up_to
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440


def panel_of_row(values: np.ndarray) -> Panel:
    key = SeriesKey(workload="a/b", signal="demand_rps")
    return Panel(keys=(key,), start=START, step=STEP, values=values[None, :])


def error(model: Forecaster, values: np.ndarray, horizon: int) -> float:
    """Mean absolute error of the median over the last twelve hours, every half an hour."""
    panel = panel_of_row(values)
    found = []
    for at in range(values.size - DAY // 2, values.size - 30, 30):
        said = model.predict(up_to(panel, START + at * STEP), horizons=(horizon,))[0, 0, 0]
        found.append(abs(values[at + horizon - 1] - said))
    return float(np.mean(found))


@given(seed=st.integers(0, 1000), unknown=st.sampled_from([0.0, 0.2]))
@settings(max_examples=20, deadline=None)
def test_the_sums_are_the_recursions_that_they_stand_for(seed: int, unknown: float) -> None:
    """Level and slope after each column as a bin-by-bin smoothing, started at its first value, has them in the end."""
    draw = np.random.default_rng(seed)
    filled = draw.uniform(1.0, 9.0, (2, 400))
    filled[draw.random(filled.shape) < unknown] = np.nan
    columns, half_life = np.array([60, 399]), 7.0
    once = np.zeros((2, 2))
    for row in range(2):
        for place, column in enumerate(columns):
            age = column - np.arange(column + 1)
            weight = 0.5 ** (age / half_life) * np.isfinite(filled[row, : column + 1])
            once[row, place] = np.average(np.nan_to_num(filled[row, : column + 1]), weights=weight)
    assert smoothing._said(filled, columns, half_life, None)[:, 0] == pytest.approx(once, rel=1e-9)


def test_a_straight_line_is_said_to_go_on_and_to_slow_down() -> None:
    """In roots: the undamped trend from any half-life is the line's own, a damped one stays below it."""
    root = 3.0 + 0.001 * np.arange(3.0 * DAY)
    panel = panel_of_row(np.square(root))
    horizons = (1, 10, 30)
    undamped = ExpSmoothing(damping_half_life=timedelta(days=300)).predict(panel, horizons=horizons)[0, :, 0]
    damped = ExpSmoothing().predict(panel, horizons=horizons)[0, :, 0]
    truth = np.square(root[-1] + 0.001 * np.array(horizons))
    assert undamped == pytest.approx(truth, rel=1e-4)
    assert (damped < truth).all()
    assert (np.diff(damped) > 0.0).all()
    assert (damped > Ewma().predict(panel, horizons=horizons)[0, :, 0]).all()


def test_noise_is_averaged_and_a_smooth_wave_is_followed() -> None:
    draw, minutes = np.random.default_rng(4), np.arange(2 * DAY)
    noisy = draw.poisson(20.0, minutes.size).astype(float)
    wave = 50.0 + 40.0 * np.sin(2 * np.pi * minutes / 360)
    assert error(Ewma(), noisy, 5) < 0.85 * error(LastValue(), noisy, 5)
    assert error(ExpSmoothing(), wave, 10) < 0.5 * error(LastValue(), wave, 10)


def test_each_series_is_smoothed_as_it_asks_for() -> None:
    """The same rule errs less than the shortest half-life alone on noise, and as little as it on a slope."""
    draw = np.random.default_rng(4)
    noisy, slope = draw.poisson(20.0, 2 * DAY).astype(float), 50.0 + 0.02 * np.arange(2 * DAY)
    quickest = Ewma(half_lives=(min(Ewma().half_lives),))
    assert error(Ewma(), noisy, 5) < 0.95 * error(quickest, noisy, 5)
    assert error(Ewma(), slope, 5) < 1.05 * error(quickest, slope, 5)


@pytest.mark.parametrize("model", [Ewma(), ExpSmoothing()], ids=lambda model: model.model_id)
def test_a_new_level_is_reached_within_the_hour(model: Forecaster) -> None:
    values = np.random.default_rng(2).poisson(600.0, 2 * DAY) / 60.0
    values[-60:] *= 3.0
    assert model.predict(panel_of_row(values), horizons=(5,))[0, 0, 0] == pytest.approx(30.0, rel=0.15)


@pytest.mark.parametrize("model", [Ewma(), ExpSmoothing()], ids=lambda model: model.model_id)
def test_nine_in_ten_lie_below_its_ninth_decile(model: Forecaster) -> None:
    values = np.random.default_rng(3).poisson(300.0, 3 * DAY) / 60.0
    panel, below, count = panel_of_row(values), 0, 0
    for at in range(2 * DAY, 3 * DAY - 30, 20):
        said = model.predict(up_to(panel, START + at * STEP))[0, :, 1]
        below += int((values[at + np.array(HORIZONS) - 1] <= said).sum())
        count += len(HORIZONS)
    assert 0.86 <= below / count <= 0.94
