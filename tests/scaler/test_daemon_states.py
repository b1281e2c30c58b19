"""The state that people see: first the faults, then the way back, then normal work; each with since-when and a way out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daemon_cases import a_tick, without_replicas
from forecaster.types import Blind, BlindReason, ForecastQuality
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.states import State, Status, statuses
from scaler.policy.predictive import PredictiveRule
from scaler.policy.types import Mode
from scaler.ports import OutcomeKind

SEEN = a_snapshot(rps=5.0, desired=1, forecasts=(a_forecast(5.0),))
UNSEEN = a_snapshot(rps=Blind(reason=BlindReason.NO_SERIES, detail="query returned no series"), desired=3)
LONG = replace(settled(SEEN, a_policy()), own=None)  # whose scale is nobody's yet: these tests are of other things


@pytest.mark.parametrize(
    ("snapshot", "settings", "outcome", "state"),
    [
        pytest.param(SEEN, {}, None, State.ACTIVE, id="everything known and the forecast trusted"),
        pytest.param(SEEN, {"mode": Mode.OBSERVE}, None, State.OBSERVE, id="only observed"),
        pytest.param(replace(SEEN, standby=True), {}, None, State.STANDBY, id="another daemon leads"),
        pytest.param(replace(SEEN, standby=True), {"mode": Mode.OBSERVE}, None, State.OBSERVE, id="nothing to lead"),
        pytest.param(replace(UNSEEN, standby=True), {}, None, State.HOLD, id="blind matters in standby too"),
        pytest.param(UNSEEN, {}, None, State.HOLD, id="demand unknown"),
        pytest.param(UNSEEN, {"mode": Mode.OBSERVE}, None, State.HOLD, id="blind matters when only observed too"),
        pytest.param(replace(SEEN, classes=()), {}, None, State.HOLD, id="no answer for this workload"),
        pytest.param(replace(SEEN, demand_partial=True), {}, None, State.HOLD, id="only a part of the demand is seen"),
        pytest.param(
            without_replicas(UNSEEN, Blind(reason=BlindReason.FORBIDDEN)),
            {},
            None,
            State.DEGRADED,
            id="API before demand",
        ),
        pytest.param(SEEN, {}, OutcomeKind.FAILED, State.DEGRADED, id="the write failed"),
        pytest.param(SEEN, {}, OutcomeKind.POSTPONED, State.DEGRADED, id="no time for the write"),
        pytest.param(SEEN, {}, OutcomeKind.CONFLICT, State.HELD, id="another writer"),
        pytest.param(a_snapshot(rps=5.0, desired=0), {}, None, State.HELD, id="scaled to zero by somebody"),
        pytest.param(a_snapshot(rps=5.0), {}, None, State.REACTIVE_ONLY, id="no forecast"),
        pytest.param(
            a_snapshot(rps=5.0), {"predictive": PredictiveRule(enabled=False)}, None, State.ACTIVE, id="none wanted"
        ),
    ],
)
def test_state(snapshot, settings, outcome, state):  # type: ignore[no-untyped-def]
    report = a_tick(snapshot, a_policy(**settings), state=LONG, outcome=outcome)
    status = statuses(report, {})["llm/chat"]
    assert status.state is state
    assert status.cause
    assert status.way_out or state is State.ACTIVE


@pytest.mark.parametrize(
    ("errors", "states"),
    [
        pytest.param([1.0, 1.2, 1.4, 1.2], "AAAA", id="doubted in part, never disabled"),
        pytest.param([1.0, 1.5, 1.45, 1.3, 1.27, 1.3], "ARRRAA", id="disabled at 1.5, enabled again at a doubt of .5"),
        pytest.param([1.49, 1.51, 1.49, 1.51, 1.49], "ARRRR", id="around the edge it does not flap"),
    ],
)
def test_a_forecast_worse_than_last_value_is_disabled_and_comes_back_with_hysteresis(
    errors: list[float], states: str
) -> None:
    then: dict[str, Status] = {}
    seen, state = [], LONG
    for minute, error in enumerate(errors):
        quality = ForecastQuality(coverage_95=0.95, wape=0.1 * error, wape_last_value=0.1, scored_bins=360)
        now = NOON + minute * MINUTE
        snapshot = a_snapshot(rps=5.0, desired=1, forecasts=(a_forecast(5.0, issued_at=now),), quality=quality)
        report = a_tick(snapshot, a_policy(), state=state, now=now)
        then, state = statuses(report, then), report.states["llm/chat"]
        seen.append(then["llm/chat"].state)
    assert seen == [{"A": State.ACTIVE, "R": State.REACTIVE_ONLY}[letter] for letter in states]


def test_a_doubted_forecast_says_how_much_and_why() -> None:
    quality = ForecastQuality(coverage_95=0.85, wape=0.1, wape_last_value=0.1, scored_bins=360)
    snapshot = a_snapshot(rps=5.0, desired=1, forecasts=(a_forecast(5.0),), quality=quality)
    status = statuses(a_tick(snapshot, a_policy(), state=LONG), {})["llm/chat"]
    assert (status.state, status.cause) == (
        State.ACTIVE,
        "forecast doubted by 50%: too many minutes lie above the 95 % quantile",
    )


def test_a_workload_with_less_than_a_day_of_history_is_learning() -> None:
    report = a_tick(a_snapshot(rps=5.0), a_policy(), state=LONG)
    assert statuses(report, {}, learning=frozenset({"llm/chat"}))["llm/chat"].state is State.LEARNING


def test_after_blindness_a_full_look_back_passes_before_anything_is_released_and_the_state_says_until_when() -> None:
    blind = a_tick(UNSEEN, a_policy(), state=LONG)
    seen = replace(SEEN, replicas=UNSEEN.replicas)
    back = a_tick(seen, a_policy(), state=blind.states["llm/chat"], now=NOON + MINUTE)
    status = statuses(back, statuses(blind, {}))["llm/chat"]
    assert status.state is State.REWARM
    assert status.since == NOON + MINUTE
    assert "12:06:00" in status.way_out  # max(5 min, 180 s + 2 min) after it sees again


def test_a_state_that_goes_on_keeps_its_beginning() -> None:
    first = a_tick(UNSEEN, a_policy(), state=LONG)
    then = statuses(first, {})
    for minute in range(1, 4):
        report = a_tick(UNSEEN, a_policy(), state=LONG, now=NOON + minute * MINUTE)
        then = statuses(report, then)
    assert then["llm/chat"].since == NOON


def test_the_way_out_of_a_missing_series_is_a_setting() -> None:
    status = statuses(a_tick(UNSEEN, a_policy(), state=LONG), {})["llm/chat"]
    assert status.way_out == (
        "headstart doctor --workload llm/chat, or set selector.deployment_label or selector.labels"
    )
    assert timedelta(0) == NOON - status.since
