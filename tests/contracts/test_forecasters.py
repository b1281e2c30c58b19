"""One contract for every model: what `forecaster.types.Forecaster` promises, on ordinary and on broken series.

Properties: shape; finite, ≥ 0 and non-decreasing quantiles or a silent row; no look-ahead; arguments untouched; the
same answer whatever the row order, the batch, the unit and the day; a model with memory answers as one without.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecaster import registry
from forecaster.fitting.neural.pretrain import training_fleet
from forecaster.fitting.trees import Growth, fit_trees
from forecaster.models.arima import Arima, Coefficients
from forecaster.models.harmonic import Harmonic
from forecaster.models.holt_winters import HoltWinters, Smoothing
from forecaster.models.network import Network
from forecaster.models.quantiles import RESIDUAL_STRIDE
from forecaster.models.recent import RecentHours
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.models.smoothing import Ewma, ExpSmoothing
from forecaster.models.tracking import is_tracking
from forecaster.models.trees import Forest, Trees
from forecaster.preprocess import up_to
from forecaster.types import HORIZONS, LEVELS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440
KEYS = tuple(SeriesKey(workload=f"llm/w{number}", signal="demand_rps") for number in range(4))


def shipped_network() -> Network:
    """The network that comes with the product."""
    root = registry.shipped_models()
    assert root is not None
    network = registry.load(root, "lstm")
    assert isinstance(network, Network)
    return network


def small_trees() -> Trees:
    """Trees grown on a little synthetic traffic: real splits, in a second."""
    growth = Growth(own_rows=8000, trees_per_level=40, learning_rate=0.15, least_leaf_rows=50)
    return Trees(forest=Forest(arrays=fit_trees(training_fleet(workloads=8, seed=7), seed=1, growth=growth)))


FITTED = Coefficients(ar=(0.4,), difference=1, ma=(-0.8,), variance=0.04)
MODELS = [
    pytest.param(LastValue(), id="last-value"),
    pytest.param(RecentHours(), id="recent-hours"),
    pytest.param(SeasonalNaive(), id="seasonal-naive"),
    pytest.param(SeasonalDelta(), id="seasonal-delta"),
    pytest.param(HoltWinters(), id="holt-winters"),
    pytest.param(
        HoltWinters(fitted=dict.fromkeys(KEYS, Smoothing(level=0.4, trend=0.1, season=0.0, damping=0.8))),
        id="holt-winters-fitted",
    ),
    pytest.param(Ewma(), id="ewma"),
    pytest.param(ExpSmoothing(), id="exp-smoothing"),
    pytest.param(Harmonic(), id="harmonic"),
    pytest.param(Arima(fitted=dict.fromkeys(KEYS, FITTED)), id="arima"),
    pytest.param(shipped_network(), id="lstm"),
    pytest.param(small_trees(), id="trees"),
]
TRACKING = [one for one in MODELS if is_tracking(one.values[0])]
STATELESS = [one for one in MODELS if not is_tracking(one.values[0])]
"""Models with memory read more at their start than a warm step has to hand them."""


def traffic(days: float = 4.0, *, series: int = 3, seed: int = 5) -> np.ndarray:
    """Poisson arrivals over a daily wave, one row a series, at 5, 15, 45 … requests a second."""
    minutes = np.arange(int(days * DAY))
    wave = 1.0 + 0.6 * np.sin(2 * np.pi * minutes / DAY)
    mean = 5.0 * 3.0 ** np.arange(series)[:, None] * wave
    return np.random.default_rng(seed).poisson(mean * 60.0) / 60.0


def a_panel(values: np.ndarray, *, start: datetime = START) -> Panel:
    return Panel(keys=KEYS[: len(values)], start=start, step=STEP, values=values)


def assert_sound(answer: np.ndarray, series: int) -> None:
    """The output contract, whatever went in."""
    assert answer.shape == (series, len(HORIZONS), len(LEVELS))
    assert answer.dtype == np.float64
    for row in answer:
        if np.isnan(row).any():
            assert np.isnan(row).all()
        else:
            assert np.isfinite(row).all()
            assert (row >= 0.0).all()
            assert (np.diff(row, axis=1) >= 0.0).all()


@pytest.mark.parametrize("model", MODELS)
def test_ordinary_traffic_gets_an_ordinary_forecast(model: Forecaster) -> None:
    values = traffic()
    answer = model.predict(a_panel(values))
    assert_sound(answer, 3)
    recent = values[:, -15:].mean(axis=1)
    assert (np.abs(answer[:, 0, 0] - recent) < 0.3 * recent).all()
    assert (answer[:, :, 2] > answer[:, :, 0]).all()


def with_gap(values: np.ndarray, begin: int, length: int) -> np.ndarray:
    values = values.copy()
    values[:, values.shape[1] - begin : values.shape[1] - begin + length] = np.nan
    return values


def level_shift(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, -DAY // 2 :] *= 4.0
    return values


def missing_weekend(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[:, -3 * DAY : -DAY] = np.nan
    return values


def one_point(values: np.ndarray) -> np.ndarray:
    values = np.full_like(values, np.nan)
    values[:, -1] = 3.0
    return values


SPEAKS, SILENT, EITHER = "speaks", "silent", "either"
BROKEN = [
    pytest.param(np.full_like(traffic(), 7.3), SPEAKS, id="constant"),
    pytest.param(np.zeros_like(traffic()), SPEAKS, id="all zero"),
    pytest.param(np.full_like(traffic(), np.nan), SILENT, id="nothing known"),
    pytest.param(one_point(traffic()), SILENT, id="a single point"),
    pytest.param(traffic()[:, :1], SILENT, id="one bin"),
    pytest.param(traffic()[:, :0], SILENT, id="no bins"),
    pytest.param(traffic(1.0), EITHER, id="one day"),
    pytest.param(level_shift(traffic()), SPEAKS, id="level shift"),
    pytest.param(missing_weekend(traffic(6.0)), EITHER, id="missing weekend"),
    pytest.param(with_gap(traffic(), 300, 10), SPEAKS, id="gap of ten minutes"),
    pytest.param(with_gap(traffic(), 300, 60), SPEAKS, id="gap of an hour"),
    pytest.param(with_gap(traffic(), DAY - 10, 60), SPEAKS, id="gap where yesterday is looked up"),
    pytest.param(with_gap(traffic(), 5, 5), SPEAKS, id="last five minutes missing"),
    pytest.param(with_gap(traffic(), 120, 120), SILENT, id="blind for two hours"),
    pytest.param(with_gap(traffic(6.0), 2 * DAY + 60, 180), SPEAKS, id="gap at the edge of what is read"),
    pytest.param(-traffic(), SILENT, id="negative is a fault"),
    pytest.param(np.where(np.arange(traffic().shape[1]) % 7, traffic(), np.inf), SPEAKS, id="infinities among values"),
    pytest.param(traffic() * 1e9, SPEAKS, id="absurdly large"),
    pytest.param(traffic() * 1e-9, SPEAKS, id="absurdly small"),
]


@pytest.mark.parametrize(("values", "expected"), BROKEN)
@pytest.mark.parametrize("model", MODELS)
def test_broken_series_never_break_the_contract(model: Forecaster, values: np.ndarray, expected: str) -> None:
    answer = model.predict(a_panel(values))
    assert_sound(answer, len(values))
    if expected == SPEAKS:
        assert np.isfinite(answer).all()
    if expected == SILENT:
        assert np.isnan(answer).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("level", [0.0, 7.3])
def test_a_constant_stays_what_it_is(model: Forecaster, level: float) -> None:
    median = model.predict(a_panel(np.full((2, 4 * DAY), level)))[:, :, 0]
    # The pooled models' least scale is 5 % of the level, so they may err by a part of that; the others are exact.
    pooled = isinstance(model, Network | Trees)
    assert median == pytest.approx(np.full_like(median, level), rel=0.05 if pooled else 1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_a_gap_is_never_read_as_zero(model: Forecaster) -> None:
    whole = traffic()
    with_hole = model.predict(a_panel(with_gap(whole, 40, 30)))[:, 0, 0]
    as_zero = whole.copy()
    as_zero[:, -40:-10] = 0.0
    recent = whole[:, -60:].mean(axis=1)
    assert (with_hole > 0.6 * recent).all()


@pytest.mark.parametrize("model", MODELS)
def test_the_future_is_not_seen(model: Forecaster) -> None:
    values = traffic(4.2)
    whole = a_panel(values)
    now = START + timedelta(days=4)
    before = model.predict(up_to(whole, now))
    values[:, 4 * DAY :] = 1e6
    assert np.array_equal(before, model.predict(up_to(whole, now)))


@pytest.mark.parametrize("model", MODELS)
def test_arguments_are_left_alone(model: Forecaster) -> None:
    values = with_gap(traffic(), 300, 60)
    kept = values.copy()
    values.flags.writeable = False
    model.predict(a_panel(values))
    assert np.array_equal(values, kept, equal_nan=True)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_question_has_the_same_answer(model: Forecaster) -> None:
    panel = a_panel(traffic())
    assert np.array_equal(model.predict(panel), model.predict(panel))


@pytest.mark.parametrize("model", MODELS)
def test_row_order_and_batch_do_not_matter(model: Forecaster) -> None:
    panel = a_panel(with_gap(traffic(), 500, 30))
    together = model.predict(panel)
    for row, key in enumerate(panel.keys):
        alone = Panel(keys=(key,), start=START, step=STEP, values=panel.values[row : row + 1])
        assert model.predict(alone)[0] == pytest.approx(together[row], rel=1e-4)
    turned = Panel(keys=panel.keys[::-1], start=START, step=STEP, values=panel.values[::-1])
    assert model.predict(turned)[::-1] == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize("shift", [timedelta(weeks=1), timedelta(hours=5, minutes=36), timedelta(weeks=52)])
@pytest.mark.parametrize("model", MODELS)
def test_the_clock_does_not_matter(model: Forecaster, shift: timedelta) -> None:
    """Shifts are whole strides: which errors are kept stands on the time axis, nothing else does."""
    assert shift % RESIDUAL_STRIDE == timedelta(0)
    values = traffic()
    there = model.predict(a_panel(values, start=START + shift))
    assert there == pytest.approx(model.predict(a_panel(values)), rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_median_does_not_know_the_clock_at_all(model: Forecaster) -> None:
    values = traffic()
    there = model.predict(a_panel(values, start=START + timedelta(days=3, minutes=1)))[:, :, 0]
    assert there == pytest.approx(model.predict(a_panel(values))[:, :, 0], rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
@given(factor=st.sampled_from([0.01, 10.0, 1234.5]))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_unit_does_not_matter(model: Forecaster, factor: float) -> None:
    values = traffic(3.5, series=1)
    if isinstance(model, Arima):  # its noise was fitted in a unit: it scales with the coefficients
        scaled_model: Forecaster = replace(
            model, fitted={key: replace(one, variance=one.variance * factor) for key, one in model.fitted.items()}
        )
    else:
        scaled_model = model
    scaled = scaled_model.predict(a_panel(values * factor))
    assert scaled == pytest.approx(model.predict(a_panel(values)) * factor, rel=2e-3)


@pytest.mark.parametrize("model", STATELESS)
def test_a_tail_as_long_as_the_lookback_is_enough(model: Forecaster) -> None:
    lookback = getattr(model, "lookback", None)
    assert isinstance(lookback, timedelta)
    values = traffic()
    bins = int(lookback / STEP)
    tail = Panel(keys=KEYS[:3], start=START + STEP * (values.shape[1] - bins), step=STEP, values=values[:, -bins:])
    assert np.array_equal(model.predict(tail), model.predict(a_panel(values)))


@pytest.mark.parametrize("horizons", [(1,), (5, 15, 30), (2, 7)])
@pytest.mark.parametrize("model", MODELS)
def test_any_horizons_may_be_asked_for(model: Forecaster, horizons: tuple[int, ...]) -> None:
    answer = model.predict(a_panel(traffic()), horizons=horizons)
    assert answer.shape == (3, len(horizons), len(LEVELS))
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("model", MODELS)
def test_younger_than_its_least_history_it_says_nothing(model: Forecaster) -> None:
    bins = int(model.min_history / STEP)
    assert np.isnan(model.predict(a_panel(traffic(7.0)[:, : bins - 2]))).all()


@pytest.mark.parametrize("model", MODELS)
def test_ten_minute_bins_are_answered(model: Forecaster) -> None:
    values = traffic(10.0).reshape(3, -1, 10).mean(axis=2)
    panel = Panel(keys=KEYS[:3], start=START, step=timedelta(minutes=10), values=values)
    answer = model.predict(panel, horizons=(1, 2, 3))
    assert answer.shape == (3, 3, len(LEVELS))
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("stops", [(1,), (1, 1, 1, 7), (60, 3)])
@pytest.mark.parametrize("model", TRACKING)
def test_memory_equals_reading_everything_again(model: Forecaster, stops: tuple[int, ...]) -> None:
    """Up to what the season's first estimate has seen: a fresh start averages the newest whole days too."""
    assert is_tracking(model)
    values = with_gap(traffic(4.1), 100, 20)
    at = values.shape[1] - sum(stops)
    track = model.start(a_panel(values[:, :at]))
    for stop in stops:
        at += stop
        # Going on needs the last day alone: the panel handed over is cut on its left.
        cut = Panel(keys=KEYS[:3], start=START + STEP * DAY, step=STEP, values=values[:, DAY:at])
        track = model.advance(track, cut)
    going_on, afresh = model.predict_from(track, a_panel(values)), model.predict(a_panel(values))
    assert going_on == pytest.approx(afresh, rel=0.05)
    assert going_on[:, :, 0] == pytest.approx(afresh[:, :, 0], rel=0.02)


@pytest.mark.parametrize("model", TRACKING)
def test_memory_is_a_value_and_pieces_equal_the_whole(model: Forecaster) -> None:
    assert is_tracking(model)
    values = with_gap(traffic(4.1), 100, 20)
    start = model.start(a_panel(values[:, : 4 * DAY]))
    kept = {name: array.copy() for name, array in start.arrays.items()}
    at_once = model.advance(start, a_panel(values))
    piecewise = start
    for end in range(4 * DAY + 1, values.shape[1] + 1):
        piecewise = model.advance(piecewise, a_panel(values[:, :end]))
    assert at_once.end == piecewise.end
    for name, array in at_once.arrays.items():
        assert np.array_equal(array, piecewise.arrays[name], equal_nan=True)
    for name, array in kept.items():
        assert np.array_equal(array, start.arrays[name], equal_nan=True)
