"""Quantiles from residuals and the pinball loss, against arithmetic done by hand."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models.quantiles import disputed, from_residuals, past_origins, pinball, settled
from forecaster.types import LEVEL_Z, LEVELS, STEP
from policy_cases import MINUTE, NOON, a_forecast


def test_each_level_takes_the_error_of_its_conformal_rank() -> None:
    residuals = np.arange(-50.0, 50.0)[None, None, :]  # 100 errors: ranks ⌈101 · .9⌉ = 91, 96 and 100
    said = from_residuals(np.array([[10.0]]), np.random.default_rng(0).permuted(residuals, axis=2))
    assert np.sqrt(said[0, 0]).tolist() == pytest.approx([10.0, 10 + 40, 10 + 45, 10 + 49])


def test_unknown_errors_do_not_count_and_few_are_no_opinion() -> None:
    errors = np.full((1, 1, 50), np.nan)
    errors[..., :20] = np.arange(20.0)
    assert np.sqrt(from_residuals(np.array([[1.0]]), errors))[0, 0, 1] == pytest.approx(1 + 18)  # ⌈21 · .9⌉ = 19th
    errors[..., 11:] = np.nan
    assert np.isnan(from_residuals(np.array([[1.0]]), errors)).all()
    assert np.isnan(from_residuals(np.array([[1.0]]), errors[..., :0])).all()


def test_a_model_that_always_says_too_much_still_answers_in_order() -> None:
    said = from_residuals(np.array([[3.0]]), np.full((1, 1, 20), -2.0))
    assert said[0, 0].tolist() == [9.0] * len(LEVELS)


@pytest.mark.parametrize(
    ("medians", "weights", "width_95"),
    [
        pytest.param([4.0, 4.0], [0.5, 0.5], 2.0, id="they agree: the blend's own width"),
        pytest.param([4.0, 9.0], [1.0, 0.0], 2.0, id="a member without weight has nothing to dispute"),
        pytest.param([4.0, float("nan")], [1.0, 0.0], 2.0, id="nor has a silent one"),
        pytest.param([2.0, 6.0], [0.5, 0.5], 3.0677, id="one above: √(2² + 1.645² · 2² / 2)"),
        pytest.param([2.0, 5.0], [0.889, 0.111], 2.7581, id="an eighth of the weight: shares of 2/3 and 1/3"),
        pytest.param([6.0, 2.0, 6.0, 6.0], [0.25] * 4, 2.4554, id="one below lets the three above lie less far out"),
    ],
)
def test_what_members_dispute_widens_the_band(medians: list[float], weights: list[float], width_95: float) -> None:
    root = np.array([4.0, 5.5, 6.0, 7.0])
    said = disputed(root, np.array(medians), np.array(weights))
    assert said[0] == 4.0, "the median stays"
    assert said[2] - said[0] == pytest.approx(width_95, abs=1e-3)


@given(
    medians=st.lists(st.floats(0.0, 1e4), min_size=3, max_size=3),
    weights=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    steps=st.lists(st.floats(0.0, 100.0), min_size=4, max_size=4),
)
def test_a_dispute_never_narrows_and_keeps_the_order(
    medians: list[float], weights: list[float], steps: list[float]
) -> None:
    root = np.cumsum(steps)
    said = disputed(root, np.array(medians), np.array(weights))
    assert (said >= root - 1e-9).all()
    assert (np.diff(said) >= 0.0).all()


def test_settled_rows_are_ordered_or_silent() -> None:
    values = np.array([[[3.0, 2.0, 5.0, 4.0]], [[-1.0, 0.0, 1.0, 2.0]], [[1.0, np.inf, 1.0, 2.0]]])
    fixed = settled(values)
    assert fixed[0, 0].tolist() == [3, 3, 5, 5]
    assert fixed[1, 0].tolist() == [0, 0, 1, 2]
    assert np.isnan(fixed[2]).all()
    assert values[0, 0, 1] == 2.0


def test_origins_can_be_checked_by_now_and_reach_back_a_day() -> None:
    origins = past_origins(5000, 5000, STEP, (1, 30))
    assert 4999 - 30 - 7 < origins[0] <= 4999 - 30
    assert origins.size in (205, 206)
    assert origins[-1] >= 4999 - 30 - 1440
    assert past_origins(20, 20, STEP, (1, 30)).size == 0
    assert past_origins(5000, 5000, timedelta(minutes=10), (1, 3)).size == 144


def test_origins_stand_still_while_time_goes_on() -> None:
    """A minute later the panel has one column more; the same moments are looked at, but for those at the two ends."""
    now, later = (
        {int(next_bin - bins + column) for column in past_origins(bins, next_bin, STEP, (1, 30))}
        for bins, next_bin in ((3000, 700_000), (3001, 700_001))
    )
    assert len(now ^ later) <= 2
    assert {(moment + 1) % 7 for moment in now | later} == {0}
    assert {moment % 60 for moment in now} == set(range(60)), "every minute of the hour has its turn"


@given(st.floats(0, 1e6), st.lists(st.floats(0, 1e6), min_size=4, max_size=4))
def test_pinball_equals_its_definition(actual: float, quantiles: list[float]) -> None:
    each = [max(level * (actual - q), (level - 1) * (actual - q)) for level, q in zip(LEVELS, quantiles, strict=True)]
    assert pinball(np.array([actual]), np.array([quantiles]))[0] == pytest.approx(sum(each) / 4, rel=1e-9, abs=1e-9)


@given(
    minutes=st.floats(-5.0, 60.0),
    median=st.floats(0.0, 500.0),
    later=st.floats(0.0, 500.0),
    spread=st.floats(0.0, 50.0),
)
def test_the_levels_of_a_moment_are_its_quantiles_at_the_levels(
    minutes: float, median: float, later: float, spread: float
) -> None:
    forecast, at = a_forecast(median, spread_rps=spread, later_rps={8: later}), NOON + minutes * MINUTE
    assert forecast.levels(at) == pytest.approx([forecast.quantile(at, z=z) for z in LEVEL_Z])
