"""A decision in words: every machine reason has its sentence, and the chain says what was seen, done, and comes next."""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta
from enum import StrEnum

import pytest

from forecaster.types import Blind, BlindReason, Reading, TooFew, Zero
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy.decide import WorkloadPolicy, decide, decide_within
from scaler.policy.explain import BLINDS, REASONS, TRUSTS, as_text, blind_block, explain, headline, reading_text
from scaler.policy.scheduled import ScheduledRule, TimeWindow
from scaler.policy.types import (
    At,
    Breach,
    LatencyState,
    LeadSource,
    LeadTime,
    Mode,
    PolicyState,
    Reason,
    Snapshot,
    Trust,
)

GONE = Blind(reason=BlindReason.UNREACHABLE, detail="connection refused")


def told(
    snapshot: Snapshot, policy: WorkloadPolicy, state: PolicyState | None = None, *, allowed: int | None = None
) -> str:
    """The explanation of the decision at noon, after ten minutes of the same unless a state is given."""
    before = settled(snapshot, policy) if state is None else state
    decision, after = decide_within(snapshot, before, policy, allowed, now=NOON)
    return as_text(decision, explain(decision, snapshot, policy, after))


@pytest.mark.parametrize(
    ("sentences", "reasons"),
    [
        pytest.param(REASONS, Reason, id="reasons"),
        pytest.param(TRUSTS, Trust, id="verdicts on the forecast"),
        pytest.param(BLINDS, BlindReason, id="causes of blindness"),
    ],
)
def test_every_machine_reason_has_a_sentence_of_its_own(sentences: dict[StrEnum, str], reasons: type[StrEnum]) -> None:
    assert set(sentences) == set(reasons)
    assert all(len(text) > 10 and text[0].islower() and not text.endswith(".") for text in sentences.values())
    assert len(set(sentences.values())) == len(sentences)


def test_a_whole_chain_reads_as_it_was_made() -> None:
    snapshot = a_snapshot(
        rps=41.2, desired=6, ready=5, starting=1, p95_s=0.9, waiting=3, forecasts=(a_forecast(40, spread_rps=3),)
    )
    policy = a_policy(slo_s=1.2)
    assert told(snapshot, policy, PolicyState(z=1.9)) == (
        "llm/chat  2026-03-02 12:00:00 UTC  holds 6\n"
        "  read    replicas         6 desired, 5 Ready, 1 starting (0 s old)\n"
        "          demand default   41.2 requests/s (0 s old)\n"
        "          latency default  P95 end to end 0.9 s (0 s old), SLO 1.2 s\n"
        "          waiting          3 requests (0 s old)\n"
        "  ahead   lead time        3m: what is ordered now is Ready at 12:03:00\n"
        "          forecast         default by test, issued 12:00:00, at 12:03:00: 50 % 40, 90 % 43, 95 % 46, 99 % 49"
        " requests/s; over 360 scored minutes 95.0 % lay under its 95 % quantile, error 10.0 % against 12.0 % of the"
        " last value\n"
        "          trust            the forecast is trusted: fresh, no worse than the last value, and its band covers"
        " what it should\n"
        "          target           1 % of the minutes may be missed\n"
        "  rules   load             want 5, keep 5: the load of now needs so many"
        " (41.2 rps fill 4.120 replicas, at most 100% each)\n"
        "          predictive       want 5, keep 5: the forecast needs so many by the time an order placed now is Ready"
        " (test: load 4.712 at 12:03:00 (z 1.90), peak 4.932 until 12:04:00 (z 2.40))\n"
        "          silent           latency, scheduled\n"
        "          together         highest want 5 (load), highest keep 5 (load)\n"
        "  clamps  guard            5 → 6: signals are known again, but a whole look-back must pass before anything is"
        " released (signals known since 12:00:00, a look-back of 5m must pass)\n"
        "          bounds           1 to 100 replicas\n"
        "  result  holds 6 because signals are known again, but a whole look-back must pass before anything is"
        " released\n"
        "  next    signals known since 12:00:00, calm since 12:00:00: release possible from 12:05:00\n"
    )


CALM_TWO = PolicyState(
    last_tick_at=NOON - MINUTE, known_since=NOON - 30 * MINUTE, calm_since=NOON - 2 * MINUTE, ready=6
)
MEASURED = LeadTime(seconds=250, source=LeadSource.OWN, starts=17, node_wait_s=40.0, image_s=70.0, load_s=140.0)
WINDOW = ScheduledRule(windows=(TimeWindow(name="day", start=time(8), end=time(20), min_replicas=3),))


@pytest.mark.parametrize(
    ("snapshot", "policy", "state", "expected"),
    [
        pytest.param(
            a_snapshot(rps=5, desired=6),
            a_policy(),
            CALM_TWO,
            "signals known since 11:30:00, calm since 11:58:00: release possible from 12:03:00",
            id="calm is running",
        ),
        pytest.param(
            a_snapshot(rps=5, desired=6),
            a_policy(),
            replace(CALM_TWO, calm_since=NOON - 9 * MINUTE, last_scale_in_at=NOON - 4 * MINUTE),
            "release possible from 12:06:00",
            id="spacing is the last to pass",
        ),
        pytest.param(a_snapshot(rps=35, desired=6), a_policy(), None, "no further scale-in before 12:10:00", id="after a release"),
        pytest.param(a_snapshot(rps=65, desired=6), a_policy(), None, "4 more ordered, expected Ready at 12:03:00", id="after an order"),
        pytest.param(a_snapshot(rps=400, desired=6), a_policy(most=8), None, "raise bounds.max_replicas", id="at the maximum"),
        pytest.param(a_snapshot(rps=400, desired=6), a_policy(), None, "the rest is ordered in the next period", id="step limit"),
        pytest.param(
            a_snapshot(rps=400, desired=6, unschedulable=2), a_policy(), None, "once the waiting pods have found a GPU", id="no GPU"
        ),
        pytest.param(
            replace(a_snapshot(rps=5, desired=6), lead_time_s=250.0, lead_time=MEASURED),
            a_policy(),
            None,
            "4m10s: what is ordered now is Ready at 12:04:10 (P90 of 17 starts; node wait 40s, image 1m10s, load 2m20s; configured 5m)",
            id="measured start",
        ),
        pytest.param(
            a_snapshot(rps=5, desired=6, lead_s=2700),
            a_policy(),
            None,
            "45m: what is ordered now is Ready at 12:45:00; forecasts reach 30m, their last value counts from there on",
            id="start beyond the forecast",
        ),
        pytest.param(
            a_snapshot(rps=GONE, desired=6),
            a_policy(),
            None,
            "growth at once when demand is known; release not before 5m after that",
            id="blind demand",
        ),
        pytest.param(
            replace(a_snapshot(), replicas=GONE), a_policy(), None, "stays as it is until the cluster can be read", id="blind cluster"
        ),
        pytest.param(a_snapshot(rps=5, desired=0), a_policy(), None, "until somebody scales it to at least one", id="hands off"),
        pytest.param(a_snapshot(rps=41, desired=6), a_policy(), None, "out as soon as a want exceeds 6", id="steady"),
        pytest.param(a_snapshot(rps=5, desired=6, waiting=9000), a_policy(), None, "release once the load has fallen", id="survivors"),
        pytest.param(a_snapshot(rps=41, desired=6), a_policy(scheduled=WINDOW), None, "3 to 100 replicas by a scheduled window", id="window"),
        pytest.param(
            a_snapshot(rps=65, desired=6), a_policy(mode=Mode.OBSERVE), None, "observe mode: it is only shown", id="observe"
        ),
        pytest.param(
            a_snapshot(rps=65, desired=6),
            a_policy(mode=Mode.OBSERVE),
            None,
            "nothing is ordered in observe mode; active, 4 more would be, expected Ready at 12:03:00",
            id="observe orders nothing",
        ),
        pytest.param(
            replace(a_snapshot(rps=65, desired=6), standby=True), a_policy(), None, "in standby it is only shown", id="standby"
        ),
        pytest.param(
            replace(a_snapshot(rps=65, desired=6), standby=True),
            a_policy(),
            None,
            "the daemon that leads orders; this one would order 4 more, expected Ready at 12:03:00",
            id="a standby orders nothing",
        ),
        pytest.param(
            a_snapshot(rps=41, desired=6, forecasts=(a_forecast(41, issued_at=NOON - timedelta(hours=1)),)),
            a_policy(),
            None,
            "the forecast is expired: it is not used",
            id="expired forecast",
        ),
        pytest.param(
            a_snapshot(rps=41, desired=6, forecasts=(a_forecast(41),), quality=replace(GOOD, coverage_95=0.5)),
            a_policy(),
            None,
            "the forecast is too optimistic",
            id="forecast without cover",
        ),
    ],
)  # fmt: skip
def test_the_chain_says(snapshot: Snapshot, policy: WorkloadPolicy, state: PolicyState | None, expected: str) -> None:
    assert expected in told(snapshot, policy, state)


def test_a_blind_rule_says_until_when_it_stops_a_release() -> None:
    state = replace(
        CALM_TWO, calm_since=NOON - 9 * MINUTE, latency_active_at=NOON - 2 * MINUTE, peaks=(At(at=NOON, replicas=1),)
    )
    text = told(a_snapshot(rps=5, desired=6, p95_s=GONE), a_policy(slo_s=1.2), state)
    assert "holds 6 because a signal whose rule was active a moment ago is blind" in text
    assert "release once the signal is back, or at 12:03:00" in text


def test_a_recent_peak_says_when_it_is_forgotten() -> None:
    peak = At(at=NOON - 3 * MINUTE, replicas=6)
    state = replace(CALM_TWO, calm_since=NOON - 9 * MINUTE, peaks=(peak,))
    text = told(a_snapshot(rps=5, desired=6), a_policy(), state)
    assert "release once the peak of 11:57:00 is older than 5m" in text


def test_the_promised_moment_of_a_release_is_kept() -> None:
    """ "Release possible from 12:03:00": a tick before it holds, the tick at it releases."""
    snapshot, policy, state = a_snapshot(rps=5, desired=6), a_policy(), CALM_TWO
    for minute in range(4):
        decision, state = decide(snapshot, state, policy, now=NOON + minute * MINUTE)
        assert (decision.target == 6) is (minute < 3), minute


def test_a_latency_order_that_is_open_says_until_when_the_rule_is_silent() -> None:
    breach = Breach(request_class="default", signal="e2e_p95_s", since=NOON - 3 * MINUTE)
    fits_since = NOON - 4 * MINUTE
    state = PolicyState(last_tick_at=NOON - MINUTE, latency=LatencyState(breaches=(breach,), fits_since=fits_since))
    text = told(a_snapshot(rps=41, desired=6, p95_s=3.0), a_policy(slo_s=1.2), state)
    assert "the capacity profile promises too much" in text
    assert "latency rule: silent until 7 are Ready or have failed, 12:07:00 at the latest" in text


def test_a_cut_by_the_fleets_budget_is_told() -> None:
    text = told(a_snapshot(rps=65, desired=6), a_policy(), allowed=7)
    assert "the fleet's GPU budget is used up" in text
    assert "more when other workloads give GPUs back" in text


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        pytest.param(Zero(evidence="target up", age_s=4), "0 requests/s, by evidence: target up (4 s old)", id="zero"),
        pytest.param(TooFew(count=12), "too few requests to tell (12): the rule abstains", id="too few"),
        pytest.param(GONE, "blind: the server cannot be reached (connection refused)", id="blind"),
    ],
)
def test_a_reading_in_words(reading: Reading, expected: str) -> None:
    assert reading_text(reading, " requests/s") == expected


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        pytest.param(a_snapshot(rps=65, desired=6), "out 6 → 10", id="out"),
        pytest.param(a_snapshot(rps=41, desired=6), "holds 6", id="hold"),
        pytest.param(replace(a_snapshot(), replicas=GONE), "nothing written", id="unknown"),
    ],
)
def test_a_decision_in_five_words(snapshot: Snapshot, expected: str) -> None:
    policy = a_policy()
    decision, _ = decide(snapshot, settled(snapshot, policy), policy, now=NOON)
    assert headline(decision) == expected


def test_a_blind_signal_says_what_failed_on_what_meanwhile_and_the_next_command() -> None:
    blind = Blind(
        reason=BlindReason.NO_SERIES,
        detail=(
            "query returned no series; query sum by (deployment)(rate(vllm:request_success_total[2m])); "
            "found metric exists, but label deployment is missing (labels seen: pod, model_name)"
        ),
    )
    block = blind_block(
        "llm/chat",
        blind,
        lasted=timedelta(seconds=250),
        holding=6,
        way_out="headstart doctor --workload llm/chat, or set selector.deployment_label",
    )
    assert block == (
        "BLIND  llm/chat  for 4m10s: query returned no series\n"
        "  query   sum by (deployment)(rate(vllm:request_success_total[2m]))\n"
        "  found   metric exists, but label deployment is missing (labels seen: pod, model_name)\n"
        "  now     holding 6 replicas\n"
        "  fix     headstart doctor --workload llm/chat, or set selector.deployment_label\n"
    )


def test_a_disabled_forecast_says_since_when_and_that_it_asks_for_nothing() -> None:
    bad = a_snapshot(
        rps=20.0, desired=3, forecasts=(a_forecast(90.0),), quality=replace(GOOD, wape=2.0 * GOOD.wape_last_value)
    )
    text = told(bad, a_policy(), PolicyState(last_tick_at=NOON - MINUTE, disabled_since=NOON - 90 * MINUTE))
    assert "since 10:30:00 for erring far more than the last value; it asks for nothing" in text
    assert "disabled" not in told(replace(bad, forecasts=()), a_policy())
