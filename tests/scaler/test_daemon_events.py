"""The log has what a person on call wants to see pass by: changes, blindness and its end, failures. Not steady ticks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daemon_cases import a_tick
from forecaster.types import Blind, BlindReason, ForecastQuality
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.events import LogEvent, events_of
from scaler.adapters.states import statuses
from scaler.loop import TickReport
from scaler.policy.types import PolicyState
from scaler.ports import OutcomeKind

STEADY = a_snapshot(rps=5.0, desired=1, forecasts=(a_forecast(5.0),))
BLIND = a_snapshot(
    rps=Blind(
        reason=BlindReason.NO_SERIES,
        detail="query returned no series; query sum(rate(x[2m])); found x exists, but not for these labels",
    ),
    desired=6,
)
LONG = replace(settled(STEADY, a_policy()), own=None)  # whose scale is nobody's yet


def told(*reports: TickReport) -> list[LogEvent]:
    """The events of the last of these ticks, the others having been told before."""
    before: dict[str, Any] = {}
    previous, events = None, []
    for report in reports:
        after = statuses(report, before)
        events = list(events_of(report, previous, before, after))
        previous, before = report, after
    return events


def test_a_steady_tick_says_nothing() -> None:
    first = a_tick(STEADY, a_policy(), state=LONG)
    assert told(first, a_tick(STEADY, a_policy(), state=LONG, now=NOON + MINUTE)) == []


def test_a_change_of_scale_names_what_each_rule_wanted() -> None:
    steady = a_tick(STEADY, a_policy(), state=LONG)
    surge = a_snapshot(rps=45.0, desired=1, forecasts=(a_forecast(5.0),))
    (event,) = told(steady, a_tick(surge, a_policy(), state=LONG, outcome=OutcomeKind.SCALED, now=NOON + MINUTE))
    assert (event.level, event.name) == ("info", "scaled")
    assert (event.keys["current"], event.keys["target"], event.keys["reason"]) == (1, 5, "load")
    assert event.keys["proposals"] == {"load": 5, "predictive": 1}


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        pytest.param(OutcomeKind.OBSERVED, "would_scale", id="only observed"),
        pytest.param(OutcomeKind.FAILED, "scale_failed", id="the API refuses"),
        pytest.param(OutcomeKind.CONFLICT, "scale_failed", id="another writer"),
        pytest.param(OutcomeKind.POSTPONED, "scale_failed", id="no time for it"),
    ],
)
def test_a_wish_that_is_not_carried_out_is_told_when_it_begins_and_not_every_tick(
    outcome: OutcomeKind, name: str
) -> None:
    surge = a_snapshot(rps=45.0, desired=1)
    first = a_tick(surge, a_policy(), state=LONG, outcome=outcome)
    again = a_tick(surge, a_policy(), state=LONG, outcome=outcome, now=NOON + MINUTE)
    assert [event.name for event in told(first) if event.name != "state"] == [name]
    assert told(first, again) == []


def test_going_blind_tells_the_whole_block_once() -> None:
    steady, blind = a_tick(STEADY, a_policy(), state=LONG), a_tick(BLIND, a_policy(), state=LONG, now=NOON + MINUTE)
    (event,) = told(steady, blind)
    assert (event.level, event.name) == ("warning", "blind")
    assert event.keys["block"].splitlines() == [
        "BLIND  llm/chat  for 0m00s: query returned no series",
        "  query   sum(rate(x[2m]))",
        "  found   x exists, but not for these labels",
        "  now     holding 6 replicas",
        "  fix     headstart doctor --workload llm/chat, or set selector.deployment_label or selector.labels",
    ]
    assert told(steady, blind, a_tick(BLIND, a_policy(), state=LONG, now=NOON + 2 * MINUTE)) == []


def test_seeing_again_tells_how_long_it_was_blind() -> None:
    blind = a_tick(BLIND, a_policy(), state=LONG)
    back = a_tick(
        replace(STEADY, replicas=BLIND.replicas), a_policy(), state=blind.states["llm/chat"], now=NOON + 3 * MINUTE
    )
    (event,) = told(blind, back)
    assert (event.name, event.keys["blind_for_s"], event.keys["state"]) == ("seeing_again", 180.0, "REWARM")


def test_a_journal_that_cannot_be_written_is_an_error_told_once() -> None:
    first = a_tick(STEADY, a_policy(), state=LONG, journal_error="No space left on device")
    then = a_tick(STEADY, a_policy(), state=LONG, journal_error="No space left on device", now=NOON + MINUTE)
    assert ("error", "journal_failed") in [(event.level, event.name) for event in told(first)]
    assert told(first, then) == []


def with_error(ratio: float, *, minute: int, model: str = "test", state: PolicyState = LONG) -> TickReport:
    """A tick whose forecast errs by so many times last value's error."""
    now = NOON + minute * MINUTE
    quality = ForecastQuality(coverage_95=0.95, wape=0.1 * ratio, wape_last_value=0.1, scored_bins=360)
    forecasts = (a_forecast(5.0, issued_at=now, model=model),)
    snapshot = a_snapshot(rps=5.0, desired=1, forecasts=forecasts, quality=quality)
    return a_tick(snapshot, a_policy(), state=state, now=now)


def test_a_disabled_forecast_is_an_alert_and_its_return_is_told() -> None:
    good, bad = with_error(1.0, minute=0), with_error(1.6, minute=1)
    better = with_error(1.1, minute=2, state=bad.states["llm/chat"])
    (event,) = told(good, bad)
    assert (event.level, event.name, event.keys["cause"]) == (
        "warning",
        "forecast_disabled",
        "the forecast was so much worse than the last value that it is disabled",
    )
    assert event.keys["meanwhile"] == "the load rule keeps its own margin; the forecast asks for nothing"
    bad_still = with_error(1.45, minute=2, state=bad.states["llm/chat"])
    assert told(good, bad, bad_still) == []
    (event,) = told(good, bad, better)
    assert (event.level, event.name) == ("info", "forecast_enabled")
    assert "doubted by 11%" in event.keys["cause"]


def test_another_leader_is_told_once() -> None:
    ticks = [
        with_error(1.0, minute=0, model="lstm@1"),
        with_error(1.0, minute=1, model="trees@2"),
        with_error(1.0, minute=2, model="trees@2"),
    ]
    (event,) = told(*ticks[:2])
    assert (event.name, event.keys["was"], event.keys["now"]) == ("leader", "lstm@1", "trees@2")
    assert told(*ticks) == []
