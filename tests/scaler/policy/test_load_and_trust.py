"""The load rule's size, and what makes a forecast trusted, as named tables."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason, ForecastQuality, Known, Reading, TooFew, Zero
from policy_cases import GOOD, NOON, a_forecast, a_policy, a_snapshot
from scaler.policy import load, trust
from scaler.policy.capacity import single_rate
from scaler.policy.decide import decide
from scaler.policy.load import LoadRule
from scaler.policy.steering import SteeringRule
from scaler.policy.trust import TrustRule
from scaler.policy.types import PolicyState, ReplicaState, Snapshot, Trust

BLIND = Blind(reason=BlindReason.TIMEOUT)


@pytest.mark.parametrize(
    ("rps", "doubt", "replicas"),
    [
        pytest.param(300.0, 1.0, 3, id="300 / (0.7 * 150) = 2.86"),
        pytest.param(300.0, 0.0, 2, id="a trusted forecast carries the margin"),
        pytest.param(255.0, 0.5, 2, id="half a doubt, half the margin: exactly full at 85 %"),
        pytest.param(255.1, 0.5, 3, id="just over 85 %"),
        pytest.param(105.0, 1.0, 1, id="exactly full at 70 %"),
        pytest.param(105.1, 1.0, 2, id="just over 70 %"),
        pytest.param(Zero(evidence="up, counter flat"), 1.0, 0, id="zero by evidence scales to nothing, bounds apply"),
        pytest.param(0.001, 1.0, 1, id="a trickle is not nothing"),
    ],
)
def test_load_proposes(rps: float | Reading, doubt: float, replicas: int) -> None:
    proposal = load.propose(a_snapshot(rps=rps), LoadRule(), single_rate("x", 150.0), doubt=doubt)
    assert proposal is not None
    assert (proposal.want, proposal.keep, proposal.rule) == (replicas, replicas, "load")


@pytest.mark.parametrize(
    ("missed", "filled"),
    [
        pytest.param(0.01, "70%", id="the default target: what the settings say"),
        pytest.param(0.10, "81%", id="one in ten: room for 1.28 deviations instead of 2.33"),
        pytest.param(0.001, "64%", id="one in a thousand: for 3.09"),
        pytest.param(0.5, "100%", id="one in two: no room at all"),
        pytest.param(0.9, "100%", id="never more than full"),
    ],
)
def test_without_a_forecast_the_margin_follows_the_target(missed: float, filled: str) -> None:
    policy = a_policy(steering=SteeringRule(missed_target_ratio=missed))
    decision, _ = decide(a_snapshot(rps=300.0), PolicyState(), policy, now=NOON)
    (proposal,) = (each for each in decision.proposals if each.rule == "load")
    assert proposal.detail.endswith(f"at most {filled} each")


@given(margin=st.floats(min_value=0.0, max_value=2.0), more=st.floats(min_value=0.0, max_value=1.0))
def test_more_margin_never_means_fewer_replicas(margin: float, more: float) -> None:
    said = [
        load.propose(a_snapshot(rps=3000.0), LoadRule(), single_rate("x", 150.0), doubt=1.0, margin_ratio=each)
        for each in (0.0, margin, margin + more)
    ]
    assert None not in said
    sizes = [each.want for each in said if each is not None]
    assert sizes == sorted(sizes)
    assert sizes[0] == 20


@pytest.mark.parametrize(
    "rps",
    [
        pytest.param(BLIND, id="blind"),
        pytest.param(TooFew(count=3), id="too few is not a number"),
        pytest.param(Known(value=float("nan")), id="NaN"),
        pytest.param(Known(value=float("inf")), id="infinite"),
        pytest.param(Known(value=-1.0), id="negative"),
        pytest.param({"text": 3.0, "gui": BLIND}, id="one class of two unknown"),
        pytest.param({}, id="no class at all"),
    ],
)
def test_load_has_no_opinion_on_unknown_demand(rps: Reading) -> None:
    assert load.propose(a_snapshot(rps=rps), LoadRule(), single_rate("x", 150.0), doubt=1.0) is None


def test_load_explains_its_arithmetic() -> None:
    proposal = load.propose(a_snapshot(rps=300.0), LoadRule(), single_rate("x", 150.0), doubt=1.0)
    assert proposal is not None
    assert proposal.detail == "300 rps fill 2.000 replicas, at most 70% each"


def test_load_may_fill_replicas_to_the_brim() -> None:
    assert LoadRule(target_utilisation=1.0).target_utilisation == 1.0


@pytest.mark.parametrize("utilisation", [0.0, -0.1, 1.01, float("nan")])
def test_load_refuses_an_impossible_target(utilisation: float) -> None:
    with pytest.raises(ValueError, match=r"load\.target_utilisation must lie in \(0, 1\]"):
        LoadRule(target_utilisation=utilisation)


def judged(quality: ForecastQuality | None = GOOD, *, snapshot: Snapshot | None = None) -> Trust:
    seen = snapshot or a_snapshot(rps=10.0, forecasts=(a_forecast(10.0),), quality=quality)
    return trust.judge(seen, TrustRule(), now=NOON).trust


def doubted(quality: ForecastQuality, rule: TrustRule | None = None) -> float:
    seen = a_snapshot(rps=10.0, forecasts=(a_forecast(10.0),), quality=quality)
    return trust.judge(seen, rule or TrustRule(), now=NOON).doubt


@pytest.mark.parametrize(
    ("quality", "verdict"),
    [
        pytest.param(GOOD, Trust.TRUSTED, id="good"),
        pytest.param(None, Trust.UNSCORED, id="never scored"),
        pytest.param(replace(GOOD, scored_bins=119), Trust.UNSCORED, id="119 minutes"),
        pytest.param(replace(GOOD, scored_bins=120), Trust.TRUSTED, id="120 minutes"),
        pytest.param(replace(GOOD, wape=0.12), Trust.TRUSTED, id="as good as last value"),
        pytest.param(replace(GOOD, wape=0.12 * 1.05), Trust.TRUSTED, id="worse within the noise of six hours"),
        pytest.param(replace(GOOD, wape=0.1261), Trust.WORSE_THAN_LAST_VALUE, id="worse than last value"),
        pytest.param(
            replace(GOOD, wape=float("nan")), Trust.UNSCORED, id="an unknown error is no good one, nor a bad one"
        ),
        pytest.param(replace(GOOD, coverage_95=0.90), Trust.TRUSTED, id="coverage at its lower edge"),
        pytest.param(replace(GOOD, coverage_95=0.8999), Trust.COVERAGE_LOW, id="coverage below"),
        pytest.param(replace(GOOD, coverage_95=float("nan")), Trust.COVERAGE_LOW, id="unknown coverage"),
        pytest.param(
            replace(GOOD, coverage_95=1.0), Trust.TRUSTED, id="a band that held every minute endangers nobody"
        ),
        pytest.param(
            replace(GOOD, coverage_95=0.88, wape=0.12 * 1.4),
            Trust.WORSE_THAN_LAST_VALUE,
            id="the graver of two is named",
        ),
    ],
)
def test_trust_by_quality(quality: ForecastQuality | None, verdict: Trust) -> None:
    assert judged(quality) is verdict


@pytest.mark.parametrize(
    ("quality", "doubt"),
    [
        pytest.param(GOOD, 0.0, id="good"),
        pytest.param(replace(GOOD, coverage_95=0.90), 0.0, id="coverage at its edge"),
        pytest.param(replace(GOOD, coverage_95=0.85), 0.5, id="coverage half way"),
        pytest.param(replace(GOOD, coverage_95=0.80), 1.0, id="coverage lost"),
        pytest.param(replace(GOOD, coverage_95=0.3), 1.0, id="never more than all of it"),
        pytest.param(replace(GOOD, wape=0.12 * 1.2), 1 / 3, id="a fifth worse than last value"),
        pytest.param(replace(GOOD, wape=0.12 * 1.5), 1.0, id="half as bad again"),
        pytest.param(replace(GOOD, wape=0.12 * 1.2, coverage_95=0.85), 0.5, id="the larger doubt counts"),
        pytest.param(replace(GOOD, wape=0.0, wape_last_value=0.0), 0.0, id="both perfect"),
        pytest.param(replace(GOOD, wape=0.01, wape_last_value=0.0), 1.0, id="last value was perfect, this was not"),
        pytest.param(replace(GOOD, wape=float("inf"), wape_last_value=float("inf")), 0.0, id="no demand, both wrong"),
        pytest.param(replace(GOOD, wape=float("nan")), 1.0, id="an unknown error"),
        pytest.param(replace(GOOD, wape_last_value=float("nan")), 1.0, id="nothing to compare it with"),
        pytest.param(replace(GOOD, coverage_95=float("nan")), 1.0, id="unknown coverage"),
        pytest.param(replace(GOOD, scored_bins=119), 1.0, id="not judged yet"),
    ],
)
def test_doubt_grows_with_what_was_measured(quality: ForecastQuality, doubt: float) -> None:
    assert doubted(quality) == pytest.approx(doubt)


@given(low=st.floats(0.0, 1.0), high=st.floats(0.0, 1.0), ratio=st.floats(0.0, 3.0), worse=st.floats(0.0, 3.0))
def test_a_better_record_is_never_doubted_more(low: float, high: float, ratio: float, worse: float) -> None:
    low, high, ratio, worse = min(low, high), max(low, high), min(ratio, worse), max(ratio, worse)
    better = doubted(replace(GOOD, coverage_95=high, wape=0.12 * ratio))
    assert 0.0 <= better <= doubted(replace(GOOD, coverage_95=low, wape=0.12 * worse)) <= 1.0


def test_doubt_has_no_edge_to_flicker_at() -> None:
    """One minute of 360 more or less above the band moves the margin by less than one percent of a replica."""
    edge = [doubted(replace(GOOD, coverage_95=held / 360)) for held in range(280, 361)]
    assert max(before - after for before, after in pairwise(edge)) * 0.3 < 0.01


def test_a_band_may_be_called_too_wide_by_whoever_wants_that() -> None:
    rule = TrustRule(most_coverage=0.99)
    assert doubted(replace(GOOD, coverage_95=0.99), rule) == 0.0
    assert doubted(replace(GOOD, coverage_95=0.9901), rule) == 1.0


def test_a_rule_without_a_slope_is_a_switch() -> None:
    rule = TrustRule(least_coverage=0.9, lost_coverage=0.9, most_error_ratio=1.05, lost_error_ratio=1.05)
    assert [doubted(replace(GOOD, coverage_95=at), rule) for at in (0.9, 0.8999)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: TrustRule(lost_coverage=0.91),
            "trust.lost_coverage must be at most least_coverage 0.9, got 0.91",
            id="coverage",
        ),
        pytest.param(
            lambda: TrustRule(lost_error_ratio=1.0),
            "trust.lost_error_ratio must be at least most_error_ratio 1.05, got 1.0",
            id="error",
        ),
    ],
)
def test_trust_refuses_limits_in_the_wrong_order(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_trust_needs_a_forecast_that_is_fresh_and_covers_every_class() -> None:
    assert judged(snapshot=a_snapshot(rps=10.0)) is Trust.NO_FORECAST
    old = a_forecast(10.0, issued_at=NOON - timedelta(minutes=10))
    assert judged(snapshot=a_snapshot(rps=10.0, forecasts=(old,))) is Trust.EXPIRED
    young = a_forecast(10.0, issued_at=NOON - timedelta(minutes=10) + timedelta(seconds=1))
    assert judged(snapshot=a_snapshot(rps=10.0, forecasts=(young,))) is Trust.TRUSTED
    absurd = a_forecast(10.0, later_rps={30: float("nan")})
    assert judged(snapshot=a_snapshot(rps=10.0, forecasts=(absurd,))) is Trust.IMPLAUSIBLE
    both = {"text": 1.0, "gui": 2.0}
    text, gui = (a_forecast(1.0, request_class=name) for name in both)
    assert judged(snapshot=a_snapshot(rps=both, forecasts=(text,))) is Trust.CLASS_MISSING
    assert judged(snapshot=a_snapshot(rps=both, forecasts=(text, gui))) is Trust.TRUSTED


def test_one_bad_class_spoils_trust() -> None:
    both = {"text": 1.0, "gui": 2.0}
    text, gui = (a_forecast(1.0, request_class=name) for name in both)
    snapshot = a_snapshot(rps=both, forecasts=(text, gui))
    bad = replace(snapshot.forecasts[1], quality=replace(GOOD, coverage_95=0.5))
    assert judged(snapshot=replace(snapshot, forecasts=(snapshot.forecasts[0], bad))) is Trust.COVERAGE_LOW
    assert isinstance(snapshot.replicas, ReplicaState)
