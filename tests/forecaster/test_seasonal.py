"""The baselines, on series where the right answer is known beforehand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440


def panel_of_row(values: np.ndarray) -> Panel:
    key = SeriesKey(workload="a/b", signal="demand_rps")
    return Panel(keys=(key,), start=START, step=STEP, values=values[None, :])


def clockwork(days: float) -> np.ndarray:
    minutes = np.arange(int(days * DAY))
    return 50.0 + 40.0 * np.sin(2 * np.pi * minutes / DAY)


def median(model: Forecaster, values: np.ndarray) -> np.ndarray:
    return model.predict(panel_of_row(values))[0, :, 0]


def targets(length: int) -> np.ndarray:
    return length - 1 + np.array(HORIZONS)


def test_last_value_says_the_last_known_value() -> None:
    values = clockwork(2)
    values[-3:] = np.nan
    assert median(LastValue(), values) == pytest.approx(np.full(len(HORIZONS), values[-4]))


def test_seasonal_naive_repeats_yesterday_to_the_minute() -> None:
    values = np.random.default_rng(1).uniform(1, 9, 3 * DAY)
    assert median(SeasonalNaive(), values) == pytest.approx(values[targets(values.size) - DAY])


def test_on_clockwork_the_seasonal_models_are_nearly_perfect() -> None:
    whole = clockwork(4)
    at = 3 * DAY + 200
    truth = whole[targets(at)]
    assert median(SeasonalNaive(), whole[:at]) == pytest.approx(truth, rel=1e-6)
    assert median(SeasonalDelta(), whole[:at]) == pytest.approx(truth, rel=0.05)


def test_after_a_level_shift_the_delta_model_keeps_up_and_the_naive_one_does_not() -> None:
    whole = clockwork(4)
    whole[3 * DAY :] *= 3.0
    at = 3 * DAY + 200
    truth = whole[targets(at)]
    error_delta = np.abs(median(SeasonalDelta(), whole[:at]) - truth).mean()
    error_naive = np.abs(median(SeasonalNaive(), whole[:at]) - truth).mean()
    assert error_delta < 0.3 * error_naive


def test_quantiles_cover_what_they_claim_on_noise() -> None:
    values = np.random.default_rng(3).poisson(600.0, 4 * DAY) / 60.0
    hits = []
    for at in range(3 * DAY, 4 * DAY - 30, 7):
        said = LastValue().predict(panel_of_row(values[:at]))[0, :, 2]
        hits.append((values[targets(at)] <= said).mean())
    assert np.mean(hits) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("horizon", [1441, 3000])
def test_beyond_a_day_yesterday_is_no_answer(horizon: int) -> None:
    panel = panel_of_row(clockwork(5))
    assert np.isnan(SeasonalNaive().predict(panel, horizons=(1, horizon))).all()
    assert np.isnan(SeasonalDelta().predict(panel, horizons=(1, horizon))).all()
