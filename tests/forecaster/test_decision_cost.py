"""What decisions cost at equal risk: figures done by hand, and these properties.

- the fleet of all bins at once is the fleet of a loop over bins, and a higher score never has a smaller one
- another unit of demand changes nothing
- nothing that misses nothing costs less than a perfect forecast, and that one costs at least 1
- of calibrated forecasts the less sharp one is never cheaper
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.decision_cost import HIGHEST_Z, LOWEST_Z, DecisionCost, _clamped, _Game, _weights, decision_cost
from forecaster.errors import SeriesError
from forecaster.types import LEVEL_Z, LEVELS, _quantile_at

Floats = np.ndarray


def known_ahead(actual: Floats, horizons: tuple[int, ...]) -> Floats:
    """A perfect forecast: every level is what comes; after the end the last bin goes on."""
    said = np.empty((actual.size, len(horizons), len(LEVELS)))
    for column, horizon in enumerate(horizons):
        at = np.minimum(np.arange(actual.size) + horizon, actual.size - 1)
        said[:, column] = actual[at][:, None]
    return said


def around(points: Floats) -> Floats:
    """Forecasts whose quantile at the score z is the point plus z."""
    return points[..., None] + np.array(LEVEL_Z)


def test_a_perfect_forecast_pays_for_the_start_and_nothing_else() -> None:
    actual = np.array([4.0, 4, 4, 16, 16, 4, 4, 4, 4, 4])
    found = decision_cost(known_ahead(actual, (1, 2)), actual, horizons=(1, 2), lead=2)
    # After bins 0 to 8 the fleet is 4 16 16 16 4 4 4 4 4: ordered two bins ahead, kept until the last busy bin.
    # Paid in bins 2 to 9: 16 16 16 4 4 4 4 4 = 68; needed there: 4 16 16 4 4 4 4 4 = 56.
    assert found == DecisionCost(gpu_ratio=pytest.approx(68 / 56), z=LOWEST_Z, missed_ratio=0.0, scored_bins=8)


def test_a_pod_ordered_too_late_misses_and_is_paid_for() -> None:
    actual = np.array([4.0, 4, 4, 16, 16, 4, 4, 4, 4, 4])
    late = np.repeat(actual[:, None, None], 2, axis=1).repeat(len(LEVELS), axis=2)  # as it is now
    found = decision_cost(late, actual, horizons=(1, 2), lead=2, risk=0.25)
    # The fleet is the demand itself; bins 3 and 4 are served by the smaller of the two before, 2 of 8 are missed.
    assert found.missed_ratio == 0.25
    assert found.gpu_ratio == pytest.approx((4 + 4 + 16 + 16 + 4 + 4 + 4 + 4) / 56)
    assert math.isnan(decision_cost(late, actual, horizons=(1, 2), lead=2, risk=0.2).gpu_ratio)


def test_the_score_is_the_one_that_misses_the_risk_with_cost_between_two_steps() -> None:
    actual = np.full(1001, 10.5)
    actual[10::50] = 16.0
    said = around(np.full((1001, 1), 10.0))
    hits = int((actual[1:] == 16.0).sum())
    needed = 11.0 * (1000 - hits) + 16.0 * hits
    # Below z = -0.5 even what is kept, ⌈10 + z + 0.5⌉, is 10 and every bin is missed; above it is 11, the peaks are.
    found = decision_cost(said, actual, horizons=(1,), lead=1, risk=0.05)
    share = (1.0 - 0.05) / (1.0 - hits / 1000)
    assert found.z == pytest.approx(-0.5, abs=2e-3)
    assert found.gpu_ratio == pytest.approx((10_000 + share * 1000) / needed)
    assert found.missed_ratio == 0.05
    # Under the share of the peaks only 16 replicas will do, ordered from z = 5 on; they are kept from 4.5 on, but it
    # was not yet ordered once.
    strict = decision_cost(said, actual, horizons=(1,), lead=1, risk=0.0)
    assert strict.z == pytest.approx(5.0, abs=2e-3)
    assert strict.gpu_ratio == pytest.approx(16_000 / needed)


@pytest.mark.parametrize(
    ("actual", "scored"),
    [
        pytest.param(np.full(20, np.nan), 0, id="nothing known"),
        pytest.param(np.zeros(20), 18, id="no demand at all"),
        pytest.param(np.ones(2), 0, id="no bin that an order could reach"),
    ],
)
def test_what_cannot_be_told_is_nan(actual: Floats, scored: int) -> None:
    found = decision_cost(around(np.ones((actual.size, 1))), actual, horizons=(2,), lead=2)
    assert (math.isnan(found.gpu_ratio), found.scored_bins) == (True, scored)


def test_a_risk_out_of_reach_is_nan_and_says_how_much_was_missed() -> None:
    actual = np.tile([1.0, 16.0], 50)
    found = decision_cost(np.ones((100, 1, len(LEVELS))), actual, horizons=(1,), lead=1)
    assert math.isnan(found.gpu_ratio)
    assert (found.z, found.missed_ratio) == (HIGHEST_Z, pytest.approx(50 / 99))


def test_unknown_bins_are_neither_scored_nor_billed_and_silence_holds_the_fleet() -> None:
    actual = np.full(100, 8.0)
    actual[40:60] = np.nan
    said = known_ahead(np.full(100, 8.0), (1,))
    said[30:70] = np.nan
    found = decision_cost(said, actual, horizons=(1,), lead=1)
    assert found == DecisionCost(gpu_ratio=1.0, z=LOWEST_Z, missed_ratio=0.0, scored_bins=79)


@pytest.mark.parametrize(
    ("shape", "lead"),
    [
        pytest.param((9, 1, 4), 2, id="bins"),
        pytest.param((10, 2, 4), 2, id="horizons"),
        pytest.param((10, 1, 4), 3, id="lead"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], lead: int) -> None:
    with pytest.raises(SeriesError, match="among the horizons"):
        decision_cost(np.ones(shape), np.ones(10), horizons=(2,), lead=lead)


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────

LOADS = st.lists(st.integers(0, 4000).map(lambda each: each / 100.0), min_size=8, max_size=60).map(np.array)


@given(z=st.floats(LOWEST_Z, HIGHEST_Z), levels=st.lists(st.floats(0.0, 100.0), min_size=4, max_size=4).map(sorted))
def test_a_quantile_is_the_contracts(z: float, levels: list[float]) -> None:
    assert max(0.0, float(np.array(levels) @ _weights(z))) == pytest.approx(_quantile_at(tuple(levels), z), abs=1e-9)


@given(wants=LOADS, first=st.floats(0.0, 40.0), seed=st.integers(0, 100))
def test_all_bins_at_once_are_a_loop_over_bins(wants: Floats, first: float, seed: int) -> None:
    keeps = wants + np.random.default_rng(seed).exponential(5.0, wants.size)
    fleet, held = [], first
    for want, keep in zip(wants, keeps, strict=True):
        held = max(want, min(held, keep))
        fleet.append(held)
    assert _clamped(wants, keeps, first).tolist() == fleet


@given(actual=LOADS, seed=st.integers(0, 100), low=st.floats(-3.0, 7.0), more=st.floats(0.0, 1.0))
def test_a_higher_score_misses_no_more_and_costs_no_less(actual: Floats, seed: int, low: float, more: float) -> None:
    draw = np.random.default_rng(seed)
    said = np.sort(draw.uniform(0.0, 40.0, (actual.size, 3, len(LEVELS))), axis=2)
    game = _Game(order=said[:, 2], span=said, load=actual, lead=3)
    lower, higher = game.play(low), game.play(low + more)
    assert higher.missed_ratio <= lower.missed_ratio
    assert higher.gpu_ratio >= lower.gpu_ratio


@given(actual=LOADS, seed=st.integers(0, 100), lead=st.integers(1, 4))
def test_nothing_that_misses_nothing_is_cheaper_than_a_perfect_forecast(actual: Floats, seed: int, lead: int) -> None:
    horizons = tuple(range(1, lead + 1))
    best = decision_cost(known_ahead(actual, horizons), actual, horizons=horizons, lead=lead, risk=0.0)
    said = np.random.default_rng(seed).uniform(0.0, 60.0, (actual.size, lead, len(LEVELS)))
    other = decision_cost(np.sort(said, axis=2), actual, horizons=horizons, lead=lead, risk=0.0)
    assert math.isnan(best.gpu_ratio) or best.gpu_ratio >= 1.0
    assert not other.gpu_ratio < best.gpu_ratio


@given(actual=LOADS, seed=st.integers(0, 100), power=st.integers(-20, 20))
def test_another_unit_changes_nothing(actual: Floats, seed: int, power: int) -> None:
    said = np.sort(np.random.default_rng(seed).uniform(0.0, 40.0, (actual.size, 1, len(LEVELS))), axis=2)
    scale = 2.0**power  # exact: the same replicas to the last bit
    plain = decision_cost(said, actual, horizons=(3,), lead=3)
    scaled = decision_cost(said * scale, actual * scale, horizons=(3,), lead=3)
    assert repr(plain) == repr(scaled)  # NaN is not equal to itself


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), lead=st.sampled_from([1, 4, 10]))
def test_of_calibrated_forecasts_the_less_sharp_is_never_cheaper(seed: int, lead: int) -> None:
    draw = np.random.default_rng(seed)
    minutes = np.arange(2 * 1440)
    truth = 100.0 * (2.0 + np.sin(2.0 * np.pi * minutes / 1440.0))
    noise, own = draw.normal(size=(2, truth.size))
    horizons = tuple(range(1, lead + 1))
    at = np.minimum(minutes[:, None] + np.array(horizons), truth.size - 1)
    costs = []
    for unknown in (0.02, 0.1, 0.3):
        # Demand is spread by .32; of its variance `unknown` cannot be foreseen, the rest is in the median.
        actual = truth * np.exp(0.32 * (math.sqrt(unknown) * noise + math.sqrt(1.0 - unknown) * own))
        median = truth[at] * np.exp(0.32 * math.sqrt(1.0 - unknown) * own[at])
        said = median[..., None] * np.exp(0.32 * math.sqrt(unknown) * np.array(LEVEL_Z))
        costs.append(decision_cost(said, actual, horizons=horizons, lead=lead).gpu_ratio)
    assert costs == sorted(costs)
    assert costs[0] >= 1.0
