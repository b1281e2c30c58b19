"""The load rule's size, and what makes a forecast trusted, as named tables."""

from dataclasses import replace
from datetime import timedelta

import pytest

from forecaster.types import Blind, BlindReason, ForecastQuality, Known, Reading, TooFew, Zero
from policy_cases import GOOD, NOON, a_forecast, a_snapshot
from scaler.policy import load, trust
from scaler.policy.capacity import single_rate
from scaler.policy.load import LoadRule
from scaler.policy.trust import TrustRule
from scaler.policy.types import ReplicaState, Snapshot, Trust

BLIND = Blind(reason=BlindReason.TIMEOUT)


@pytest.mark.parametrize(
    ("rps", "trusted", "replicas"),
    [
        pytest.param(300.0, False, 3, id="300 / (0.7 * 150) = 2.86"),
        pytest.param(300.0, True, 2, id="a trusted forecast carries the margin"),
        pytest.param(105.0, False, 1, id="exactly full at 70 %"),
        pytest.param(105.1, False, 2, id="just over 70 %"),
        pytest.param(
            Zero(evidence="up, counter flat"), False, 0, id="zero by evidence scales to nothing, bounds apply"
        ),
        pytest.param(0.001, False, 1, id="a trickle is not nothing"),
    ],
)
def test_load_proposes(rps: float | Reading, trusted: bool, replicas: int) -> None:
    proposal = load.propose(a_snapshot(rps=rps), LoadRule(), single_rate("x", 150.0), trusted=trusted)
    assert proposal is not None
    assert (proposal.want, proposal.keep, proposal.rule) == (replicas, replicas, "load")


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
    assert load.propose(a_snapshot(rps=rps), LoadRule(), single_rate("x", 150.0), trusted=False) is None


def test_load_explains_its_arithmetic() -> None:
    proposal = load.propose(a_snapshot(rps=300.0), LoadRule(), single_rate("x", 150.0), trusted=False)
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
    return trust.judge(seen, TrustRule(), now=NOON)


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
            replace(GOOD, wape=float("nan")), Trust.WORSE_THAN_LAST_VALUE, id="an unknown error is no good one"
        ),
        pytest.param(replace(GOOD, coverage_95=0.90), Trust.TRUSTED, id="coverage at its lower edge"),
        pytest.param(replace(GOOD, coverage_95=0.8999), Trust.COVERAGE_LOW, id="coverage below"),
        pytest.param(replace(GOOD, coverage_95=float("nan")), Trust.COVERAGE_LOW, id="unknown coverage"),
        pytest.param(replace(GOOD, coverage_95=0.99), Trust.TRUSTED, id="coverage at its upper edge"),
        pytest.param(replace(GOOD, coverage_95=0.9901), Trust.COVERAGE_HIGH, id="coverage above"),
    ],
)
def test_trust_by_quality(quality: ForecastQuality | None, verdict: Trust) -> None:
    assert judged(quality) is verdict


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
