"""Holt-Winters against statsmodels with the same parameters, its start, its fit, and what it does in a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from statsmodels.tsa.holtwinters import ExponentialSmoothing

from forecaster.errors import FittingError
from forecaster.fitting.holt_winters import GRID, fit_holt_winters
from forecaster.models.holt_winters import HoltWinters, Smoothing, ahead, initial_state, smooth
from forecaster.types import STEP, Panel, Series, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SeriesKey(workload="a/b", signal="demand_rps")


@pytest.mark.parametrize(
    "gains",
    [
        pytest.param(Smoothing(level=0.3, trend=0.1, season=0.2, damping=0.9), id="everything moves"),
        pytest.param(Smoothing(level=0.8, trend=0.01, season=0.05, damping=0.98), id="quick level"),
        pytest.param(Smoothing(level=0.05, trend=0.5, season=0.6, damping=0.85), id="quick season"),
    ],
)
def test_the_recursion_is_that_of_statsmodels(gains: Smoothing) -> None:
    period = 12
    draw = np.random.default_rng(7)
    values = 20 + 5 * np.sin(2 * np.pi * np.arange(120) / period) + draw.normal(0, 1, 120)
    season = 5 * np.sin(2 * np.pi * np.arange(period) / period)
    reference = ExponentialSmoothing(
        values,
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=period,
        initialization_method="known",
        initial_level=20.0,
        initial_trend=0.1,
        initial_seasonal=season,
    ).fit(
        smoothing_level=gains.level,
        smoothing_trend=gains.trend,
        smoothing_seasonal=gains.season,
        damping_trend=gains.damping,
        optimized=False,
    )
    arrays = {"level": np.array([20.0]), "trend": np.array([0.1]), "season": season[None, :].copy()}
    table = tuple(np.array([one]) for one in (gains.level, gains.level * gains.trend, gains.season, gains.damping))
    for column, value in enumerate(values):
        smooth(arrays, np.array([value]), column % period, table)
    # Not horizon 12: there the reference leaves the last observation out of its own place in the season.
    ours = ahead(arrays, len(values), table[3], (1, 2, 5, 11, 20))[0]
    theirs = reference.forecast(20)[np.array([1, 2, 5, 11, 20]) - 1]
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_in_a_gap_the_level_stays_and_the_trend_dies_out() -> None:
    arrays = {"level": np.array([10.0]), "trend": np.array([1.0]), "season": np.zeros((1, 4))}
    table = tuple(np.array([one]) for one in (0.3, 0.03, 0.1, 0.5))
    for column in range(50):
        smooth(arrays, np.array([np.nan]), column % 4, table)
    assert arrays["level"][0] == pytest.approx(11.0)  # 10 + .5 + .25 + …
    assert arrays["trend"][0] == pytest.approx(0.0, abs=1e-9)


def test_the_first_season_is_the_mean_of_the_days_wherever_they_start() -> None:
    minutes = np.arange(3 * 1440)
    wave = np.sin(2 * np.pi * minutes / 1440)
    for first in (0, 333):
        level, season = initial_state(5.0 + wave[None, :], first, 1440)
        assert level[0] == pytest.approx(5.0, abs=1e-6)
        aligned = season[0, (first + minutes[:1440]) % 1440]
        assert aligned == pytest.approx(wave[:1440], abs=0.05)


def test_the_start_survives_missing_days_and_minutes() -> None:
    values = np.full((1, 3 * 1440), 4.0)
    values[0, :1500] = np.nan
    values[0, 2000:2100] = np.nan
    level, season = initial_state(values, 0, 1440)
    assert level[0] == pytest.approx(4.0)
    assert season == pytest.approx(np.zeros((1, 1440)), abs=1e-9)


def test_a_fitted_series_uses_its_own_gains_and_others_the_defaults(wave_panel) -> None:  # type: ignore[no-untyped-def]
    panel = wave_panel(4, series=2)
    quick = Smoothing(level=0.95, trend=0.0, season=0.0, damping=0.8)
    mixed = HoltWinters(fitted={panel.keys[0]: quick}).predict(panel)
    assert mixed[1] == pytest.approx(HoltWinters().predict(panel)[1])
    assert mixed[0, 0, 0] == pytest.approx(panel.values[0, -1], rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"level": 1.1}, {"trend": -0.1}, {"season": float("nan")}, {"damping": 1.0}, {"damping": -0.1}]
)
def test_impossible_gains_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Smoothing(**wrong)


def test_the_fit_finds_a_quick_level_on_a_random_walk_and_a_slow_one_on_noise() -> None:
    draw = np.random.default_rng(5)
    walk = np.square(50 + np.cumsum(draw.normal(0, 0.3, 3 * 1440)))
    noise = np.square(50 + draw.normal(0, 3.0, 3 * 1440))
    quick, slow = (fit_holt_winters(Series(start=START, step=STEP, values=one)) for one in (walk, noise))
    assert quick.level >= 0.7
    assert slow.level <= 0.03
    assert {quick, slow} <= set(GRID)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        pytest.param(np.ones(1440), "3 days", id="too short"),
        pytest.param(np.ones(4 * 1440), "constant", id="constant"),
        pytest.param(np.full(4 * 1440, np.nan), "half", id="nothing known"),
    ],
)
def test_what_cannot_be_fitted_says_why(values: np.ndarray, text: str) -> None:
    with pytest.raises(FittingError, match=text):
        fit_holt_winters(Series(start=START, step=STEP, values=values))


def test_a_false_trend_is_forgotten_within_the_hour() -> None:
    values = np.concatenate([np.full(3 * 1440, 10.0), np.linspace(10.0, 40.0, 15)])
    panel = Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :])
    said = HoltWinters().predict(panel)[0, :, 0]
    assert said.max() < 2 * 40.0
    assert HoltWinters().min_history == timedelta(days=3)
