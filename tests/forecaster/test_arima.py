"""ARIMA's exported weights against statsmodels' own forecasts, and what its fit accepts."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from statsmodels.tsa.arima.model import ARIMA

from forecaster.errors import FittingError
from forecaster.fitting.arima import fit_arima
from forecaster.models.arima import MEMORY, Arima, Coefficients, is_usable, linear_weights
from forecaster.types import HORIZONS, LEVEL_Z, STEP, Panel, Series, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SeriesKey(workload="a/b", signal="demand_rps")


@pytest.mark.parametrize(
    "coefficients",
    [
        pytest.param(Coefficients(ar=(0.7,), mean=12.0, variance=1.5), id="AR(1) around a mean"),
        pytest.param(Coefficients(ar=(0.5, 0.2), ma=(0.4,), mean=12.0, variance=1.0), id="ARMA(2,1)"),
        pytest.param(Coefficients(ma=(-0.6,), difference=1, variance=2.0), id="exponential smoothing"),
        pytest.param(Coefficients(ar=(0.3, -0.2), ma=(-0.5, 0.1), difference=1, variance=0.7), id="ARIMA(2,1,2)"),
        pytest.param(Coefficients(difference=1, variance=1.0), id="random walk"),
        pytest.param(Coefficients(mean=9.0, variance=1.0), id="noise around a mean"),
    ],
)
def test_mean_and_variance_equal_those_of_statsmodels(coefficients: Coefficients) -> None:
    values = 12.0 + np.random.default_rng(3).normal(0, 1, 400)
    p, q, d = len(coefficients.ar), len(coefficients.ma), coefficients.difference
    model = ARIMA(values, order=(p, d, q), trend="n" if d else "c")
    mean = [] if d else [coefficients.mean]
    reference = model.smooth([*mean, *coefficients.ar, *coefficients.ma, coefficients.variance]).get_forecast(30)
    weights = linear_weights(coefficients, HORIZONS)
    ours = values[::-1][:MEMORY] @ weights.past + weights.constant
    picked = np.array(HORIZONS) - 1
    assert ours == pytest.approx(reference.predicted_mean[picked], rel=1e-5)
    assert np.square(weights.spread) == pytest.approx(reference.var_pred_mean[picked], rel=1e-5)


def test_quantiles_are_the_squares_of_gaussian_ones() -> None:
    values = np.square(20 + np.random.default_rng(3).normal(0, 1, 2 * 1440))
    panel = Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :])
    walk = Coefficients(difference=1, variance=0.25)
    said = Arima(fitted={KEY: walk}).predict(panel)[0, 0]
    assert np.sqrt(said) == pytest.approx(np.sqrt(values[-1]) + 0.5 * np.array(LEVEL_Z))


def test_a_series_without_coefficients_gets_no_opinion(wave_panel) -> None:  # type: ignore[no-untyped-def]
    panel = wave_panel(2, series=2)
    said = Arima(fitted={panel.keys[1]: Coefficients(difference=1, variance=0.1)}).predict(panel)
    assert np.isnan(said[0]).all()
    assert np.isfinite(said[1]).all()


@pytest.mark.parametrize(
    ("coefficients", "usable"),
    [
        pytest.param(Coefficients(ar=(0.9,), ma=(-0.9,), variance=1.0), True, id="stationary and invertible"),
        pytest.param(Coefficients(ar=(1.01,), variance=1.0), False, id="explosive"),
        pytest.param(Coefficients(ar=(1.0,), variance=1.0), False, id="unit root in the AR part"),
        pytest.param(Coefficients(ma=(-1.2,), variance=1.0), False, id="not invertible"),
        pytest.param(Coefficients(ar=(float("nan"),), variance=1.0), False, id="no number"),
        pytest.param(Coefficients(variance=-1.0), False, id="negative variance"),
        pytest.param(Coefficients(), True, id="nothing at all"),
    ],
)
def test_only_stationary_invertible_models_are_used(coefficients: Coefficients, usable: bool) -> None:
    assert is_usable(coefficients) is usable


def test_the_fit_recovers_the_kind_of_process() -> None:
    draw = np.random.default_rng(11)
    around = np.zeros(3 * 1440)
    for index in range(1, around.size):
        around[index] = 0.8 * around[index - 1] + draw.normal(0, 0.5)
    walk = 40 + np.cumsum(draw.normal(0, 0.1, 3 * 1440))
    steady = fit_arima(Series(start=START, step=STEP, values=np.square(40 + around)))
    drifting = fit_arima(Series(start=START, step=STEP, values=np.square(walk)))
    assert drifting.difference == 1
    assert drifting.variance == pytest.approx(0.01, rel=0.15)
    one_step = linear_weights(steady, (1,))
    assert one_step.past[0, 0] == pytest.approx(0.8, abs=0.1)
    assert steady.variance == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        pytest.param(np.arange(1440.0), "3 days", id="too short"),
        pytest.param(np.full(4 * 1440, 5.0), "cannot learn", id="constant"),
        pytest.param(np.where(np.arange(4 * 1440) % 2, 5.0, np.nan), "known", id="every second bin missing"),
    ],
)
def test_what_cannot_be_fitted_says_why(values: np.ndarray, text: str) -> None:
    with pytest.raises(FittingError, match=text):
        fit_arima(Series(start=START, step=STEP, values=values))
