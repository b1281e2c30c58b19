"""The predictive rule: orders look at the end of a start, releases at everything until then."""

from dataclasses import replace
from datetime import timedelta

import pytest

from forecaster.types import LEVEL_Z, Forecast
from policy_cases import MINUTE, NOON, a_forecast, a_snapshot
from scaler.policy import predictive
from scaler.policy.capacity import CapacityProfile, ClassCapacity, single_rate
from scaler.policy.predictive import PredictiveRule
from scaler.policy.types import Proposal, Snapshot

TEN = single_rate("x", 10.0)


def proposed(
    snapshot: Snapshot, *, z: float = 0.0, rule: PredictiveRule | None = None, profile: CapacityProfile = TEN
) -> Proposal | None:
    return predictive.propose(snapshot, rule or PredictiveRule(), profile, z=z, tick=MINUTE, now=NOON)


def pair(*args: object, **kwargs: object) -> tuple[int, int]:
    proposal = proposed(*args, **kwargs)  # type: ignore[arg-type]
    assert proposal is not None
    return proposal.want, proposal.keep


@pytest.mark.parametrize(
    ("later_rps", "want", "keep"),
    [
        pytest.param({}, 2, 2, id="flat"),
        pytest.param({4: 95.0}, 10, 10, id="the bin that begins at now + 3 min is the one an order reaches"),
        pytest.param({8: 95.0}, 10, 10, id="what comes within four minutes of it may come early"),
        pytest.param({9: 95.0}, 2, 2, id="what comes later waits for the next decision"),
        pytest.param({3: 95.0, 4: 20.0}, 2, 10, id="a peak before the order could arrive is only kept"),
        pytest.param({1: 95.0, 2: 20.0}, 2, 10, id="the first coming bin counts for the release"),
    ],
)
def test_order_and_release_look_at_different_times(later_rps: dict[int, float], want: int, keep: int) -> None:
    """Three minutes of start, decision at noon: horizon h is the bin that starts h - 1 minutes from now."""
    snapshot = a_snapshot(rps=20.0, forecasts=(a_forecast(20.0, later_rps=later_rps),), lead_s=180.0)
    assert pair(snapshot) == (want, keep)


def test_release_looks_half_a_score_higher() -> None:
    """Levels 20, 30, 40, 50: the median orders 2; z = 0.5 lies 0.5/1.2816 of the way to 30, so 24 rps are kept."""
    snapshot = a_snapshot(rps=0.0, forecasts=(a_forecast(20.0, spread_rps=10.0),))
    assert pair(snapshot) == (2, 3)
    assert pair(snapshot, rule=PredictiveRule(release_margin_z=0.0)) == (2, 2)
    assert pair(snapshot, z=LEVEL_Z[2]) == (4, 5)


def test_present_demand_is_kept_even_if_the_forecast_sinks() -> None:
    assert pair(a_snapshot(rps=75.0, forecasts=(a_forecast(20.0),))) == (2, 8)
    assert pair(a_snapshot(rps=float("nan"), forecasts=(a_forecast(20.0),))) == (2, 2), "unknown demand adds nothing"


def test_classes_are_added_after_division() -> None:
    profile = CapacityProfile(
        name="x", classes=(ClassCapacity(name="text", max_rps=10.0), ClassCapacity(name="video", max_rps=2.0))
    )
    forecasts = (a_forecast(15.0, request_class="text"), a_forecast(3.0, request_class="video"))
    assert pair(a_snapshot(rps={"text": 1.0, "video": 1.0}, forecasts=forecasts), profile=profile) == (3, 3)


@pytest.mark.parametrize(
    "forecasts",
    [
        pytest.param((), id="none"),
        pytest.param((a_forecast(9.0, issued_at=NOON - timedelta(minutes=10)),), id="expired"),
        pytest.param((a_forecast(float("nan")),), id="NaN"),
        pytest.param((a_forecast(float("inf")),), id="infinite"),
        pytest.param((a_forecast(9.0, later_rps={30: float("inf")}),), id="infinite anywhere"),
        pytest.param((a_forecast(9.0, later_rps={30: -1.0}),), id="negative anywhere"),
    ],
)
def test_no_opinion_without_a_usable_forecast(forecasts: tuple[Forecast, ...]) -> None:
    assert proposed(a_snapshot(rps=5.0, forecasts=forecasts)) is None


def test_off_means_silent() -> None:
    assert proposed(a_snapshot(forecasts=(a_forecast(9.0),)), rule=PredictiveRule(enabled=False)) is None


def test_an_expired_class_is_left_out_and_the_fresh_one_still_counts() -> None:
    stale = a_forecast(500.0, issued_at=NOON - timedelta(minutes=11), request_class="gui")
    fresh = a_forecast(35.0, request_class="text")
    assert pair(a_snapshot(rps={"text": 1.0}, forecasts=(stale, fresh))) == (4, 4)


def test_zero_is_a_valid_forecast() -> None:
    assert pair(a_snapshot(rps=0.0, forecasts=(a_forecast(0.0),))) == (0, 0)


def test_says_which_model_and_when() -> None:
    proposal = proposed(a_snapshot(forecasts=(a_forecast(20.0),)), z=1.9)
    assert proposal is not None
    assert proposal.detail == "test: load 2.000 at 12:03:00 (z 1.90), peak 2.000 until 12:04:00 (z 2.40)"


def test_margin_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match=r"predictive\.release_margin_z must be at least 0, got -0\.1"):
        PredictiveRule(release_margin_z=-0.1)


def test_a_longer_start_looks_further() -> None:
    forecast = a_forecast(20.0, later_rps={15: 95.0})
    assert pair(a_snapshot(forecasts=(forecast,), lead_s=5 * 60.0)) == (2, 2)
    assert pair(a_snapshot(forecasts=(forecast,), lead_s=10 * 60.0)) == (10, 10)
    assert pair(replace(a_snapshot(forecasts=(forecast,)), lead_time_s=8 * 60.0)) == (5, 5), (
        "a third of the way from horizon 12"
    )


def test_says_when_the_most_is_needed() -> None:
    proposal = proposed(a_snapshot(forecasts=(a_forecast(20.0, later_rps={6: 45.0}),)))
    assert proposal is not None
    assert proposal.detail.startswith("test: load 4.500 at 12:05:00 (z 0.00), ")


def test_wide_bins_look_four_minutes_further_not_a_bin() -> None:
    """Ten-minute bins, no start: four tenths of the way from 20 to 95 rps are 50."""
    forecast = replace(a_forecast(20.0, later_rps={2: 95.0}), step_s=600.0)
    assert pair(a_snapshot(rps=0.0, forecasts=(forecast,), lead_s=0.0)) == (5, 5)
