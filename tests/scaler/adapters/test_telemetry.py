"""The exported metrics: what the last tick knew, nothing of workloads that are gone, and a page that tells the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daemon_cases import a_tick, without_replicas
from forecaster.types import Blind, BlindReason
from policy_cases import a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.board import Board, View
from scaler.adapters.invariants import INVARIANTS, Violation
from scaler.adapters.metrics import METRICS, render_markdown
from scaler.adapters.states import statuses
from scaler.adapters.telemetry import Telemetry
from scaler.loop import TickReport
from scaler.policy.predictive import PredictiveRule
from scaler.policy.types import LeadSource, LeadTime, Mode

ROOT = Path(__file__).resolve().parents[3]
CHAT = {"namespace": "llm", "workload": "chat"}
SEEN = a_snapshot(rps=12.5, desired=2, forecasts=(a_forecast(20.0, spread_rps=1.0),))
LONG = settled(SEEN, a_policy())

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scraped(telemetry: Telemetry) -> Samples:
    """Every sample that a scrape sees, by name."""
    found: Samples = {}
    for metric in text_string_to_metric_families(generate_latest(telemetry.registry).decode()):
        for sample in metric.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def after(*reports: TickReport, budget: int | None = None, broken: tuple[Violation, ...] = ()) -> Samples:
    """What is scraped after these ticks."""
    board = Board()
    telemetry = Telemetry(board)
    for report in reports:
        board.publish(View(report=report, statuses=statuses(report, {}), gpu_budget=budget))
        telemetry.tick_finished(report, broken, duration_s=0.2)
    return scraped(telemetry)


def test_a_tick_shows_what_was_read_proposed_and_decided() -> None:
    seen = after(a_tick(SEEN, a_policy(), state=LONG))
    assert seen["headstart_replicas_current"] == [(CHAT, 2.0)]
    assert seen["headstart_replicas_desired"] == [(CHAT, 3.0)]
    assert seen["headstart_replicas_proposed"] == [
        ({**CHAT, "rule": "load"}, 2.0),
        ({**CHAT, "rule": "predictive"}, 3.0),
    ]
    assert seen["headstart_demand"] == [({**CHAT, "request_class": "default"}, 12.5)]
    assert seen["headstart_lead_time_seconds"] == [(CHAT, 180.0)]
    assert seen["headstart_state"] == [({**CHAT, "mode": "active", "state": "ACTIVE"}, 1.0)]
    assert seen["headstart_decision_total"] == [({**CHAT, "action": "out", "reason": "forecast"}, 1.0)]
    assert seen["headstart_forecast_coverage"] == [({**CHAT, "request_class": "default", "quantile": "0.95"}, 0.95)]
    shown = {(labels["quantile"], labels["horizon"]): value for labels, value in seen["headstart_forecast_demand"]}
    assert shown["0.5", "lead"] == 20.0
    assert shown["0.95", "30m"] == pytest.approx(22.0)
    assert len(shown) == 16


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("rps", "desired"),
    [
        pytest.param(0.1, 8.0, id="re-warming holds what is there"),
        pytest.param(Blind(reason=BlindReason.NO_SERIES), 8.0, id="blind holds what is there"),
        pytest.param(99.0, 15.0, id="growth is shown at once"),
    ],
)
def test_who_follows_the_metric_is_never_led_inward_by_what_is_unknown(
    mode: Mode, rps: float | Blind, desired: float
) -> None:
    seen = after(a_tick(a_snapshot(rps=rps, desired=8), a_policy(mode=mode)))
    assert seen["headstart_replicas_desired"] == [(CHAT, desired)]


def test_a_decision_that_is_not_in_force_has_no_series_to_follow() -> None:
    """Ticks hang, or another process leads: a number of an hour ago must not hold an HPA up or down."""
    board, in_force = Board(), [True]
    telemetry = Telemetry(board, in_force=lambda: in_force[0])
    board.publish(View(report=a_tick(SEEN, a_policy(mode=Mode.PUBLISH), state=LONG)))
    assert "headstart_replicas_desired" in scraped(telemetry)
    in_force[0] = False
    left = scraped(telemetry)
    assert "headstart_replicas_desired" not in left
    assert left["headstart_replicas_current"] == [(CHAT, 2.0)]


def test_of_a_workload_that_is_gone_only_its_state_and_the_reason_are_left() -> None:
    gone = without_replicas(SEEN, Blind(reason=BlindReason.NOT_FOUND))
    seen = after(a_tick(gone, a_policy(), state=LONG))
    named = {name for name, samples in seen.items() if any(labels.get("workload") == "chat" for labels, _ in samples)}
    assert named == {"headstart_state", "headstart_blind", "headstart_decision_total"}


def test_the_parts_of_a_measured_start_and_how_many_starts_there_were() -> None:
    lead = LeadTime(seconds=250, source=LeadSource.OWN, starts=17, node_wait_s=40, load_s=140)
    seen = after(a_tick(replace(SEEN, lead_time_s=250.0, lead_time=lead), a_policy(), state=LONG))
    assert seen["headstart_lead_time_seconds"] == [(CHAT, 250.0)]
    assert seen["headstart_lead_time_starts"] == [({**CHAT, "source": "own"}, 17.0)]
    assert seen["headstart_lead_time_part_seconds"] == [
        ({**CHAT, "part": "node_wait"}, 40.0),
        ({**CHAT, "part": "load"}, 140.0),
    ]


def test_how_far_the_forecast_is_doubted_and_why() -> None:
    doubt = "headstart_forecast_doubt"
    assert after(a_tick(SEEN, a_policy(), state=LONG))[doubt] == [({**CHAT, "cause": "trusted"}, 0.0)]
    without = after(a_tick(a_snapshot(rps=5.0), a_policy(), state=LONG))
    assert without[doubt] == [({**CHAT, "cause": "no_forecast"}, 1.0)]
    unwanted = a_policy(predictive=PredictiveRule(enabled=False))
    assert doubt not in after(a_tick(SEEN, unwanted, state=LONG))


def test_demand_that_is_blind_has_no_series_and_a_reason() -> None:
    blind = a_snapshot(rps=Blind(reason=BlindReason.NO_SERIES), desired=2)
    seen = after(a_tick(without_replicas(blind, Blind(reason=BlindReason.FORBIDDEN)), a_policy(), state=LONG))
    assert "headstart_demand" not in seen
    assert "headstart_replicas_current" not in seen
    assert {(labels["signal"], labels["reason"]) for labels, _ in seen["headstart_blind"]} == {
        ("demand_rps", "no_series"),
        ("replicas", "forbidden"),
    }


def test_signals_that_nobody_asked_for_are_not_called_blind() -> None:
    assert "headstart_blind" not in after(a_tick(SEEN, a_policy(), state=LONG))


def test_a_workload_that_left_the_fleet_takes_every_series_with_it() -> None:
    stays, goes = a_tick(SEEN, a_policy(), state=LONG), a_tick(SEEN, a_policy(), state=LONG)
    other = replace(goes.records[0], policy=replace(goes.records[0].policy, workload="old/gone"))
    other = replace(other, decision=replace(other.decision, workload="old/gone"))
    both = replace(
        stays,
        records=(*stays.records, other),
        states={**stays.states, "old/gone": stays.states["llm/chat"]},
    )
    assert "gone" in json.dumps(after(both))
    assert "gone" not in json.dumps(after(both, stays))


@pytest.mark.parametrize("leads", [True, False])
def test_who_leads_is_exported_before_the_first_tick_already(leads: bool) -> None:
    telemetry = Telemetry(Board(), leads=lambda: leads)
    assert telemetry.registry.get_sample_value("headstart_leader") == float(leads)


def test_promises_are_counted_from_zero() -> None:
    tick = a_tick(SEEN, a_policy(), state=LONG)
    counted = {labels["invariant"]: value for labels, value in after(tick)["headstart_invariant_violations_total"]}
    assert counted == dict.fromkeys(INVARIANTS, 0.0)
    broken = (Violation(invariant="I2", workload="llm/chat", detail="in"),)
    seen = after(tick, broken=broken)["headstart_invariant_violations_total"]
    assert {labels["invariant"]: value for labels, value in seen}["I2"] == 1.0


@pytest.mark.parametrize(
    ("budget", "used"),
    [pytest.param(8, 0.25, id="two of eight GPUs"), pytest.param(None, None, id="no budget, no series")],
)
def test_gpu_budget(budget: int | None, used: float | None) -> None:
    seen = after(a_tick(SEEN, a_policy(mode=Mode.OBSERVE), state=LONG), budget=budget)
    assert seen.get("headstart_gpu_budget_used_ratio", [({}, None)])[0][1] == used


def test_durations_jobs_models_and_the_last_success() -> None:
    telemetry = Telemetry(Board())
    assert scraped(telemetry)["headstart_tick_last_success_timestamp_seconds"] == [({}, 0.0)]
    telemetry.tick_finished(a_tick(SEEN, a_policy(), journal_error="disk full"), (), duration_s=0.2)
    telemetry.queried(0.3)
    telemetry.requested("patch", 200, 0.01)
    telemetry.requested("get", None, 2.0)
    telemetry.forecast_finished(0.5)
    telemetry.job_failed("history")
    telemetry.job_late("forecast")
    telemetry.trained("done", 12.5)
    telemetry.drifted(3)
    telemetry.drift_refit()
    telemetry.models_in_use({"arima": datetime.now(UTC) - timedelta(hours=3)})
    seen = scraped(telemetry)
    assert seen["headstart_tick_duration_seconds_count"] == [({}, 1.0)]
    assert seen["headstart_prometheus_query_seconds_sum"] == [({}, 0.3)]
    assert {(labels["verb"], labels["code"]) for labels, _ in seen["headstart_kubernetes_request_seconds_count"]} == {
        ("patch", "2xx"),
        ("get", "none"),
    }
    assert seen["headstart_journal_errors_total"] == [({}, 1.0)]
    assert seen["headstart_job_failures_total"] == [({"job": "history"}, 1.0)]
    assert seen["headstart_job_late_total"] == [({"job": "forecast"}, 1.0)]
    assert seen["headstart_drifted_series"] == [({}, 3.0)]
    assert seen["headstart_drift_refits_total"] == [({}, 1.0)]
    assert seen["headstart_train_duration_seconds"] == [({"outcome": "done"}, 12.5)]
    assert seen["headstart_model_age_seconds"][0][1] == pytest.approx(3 * 3600, abs=60)
    assert seen["headstart_tick_last_success_timestamp_seconds"][0][1] == pytest.approx(
        datetime.now(UTC).timestamp(), abs=60
    )


def test_every_metric_that_is_served_is_documented_with_its_labels() -> None:
    telemetry = Telemetry(board := Board())
    view = a_tick(SEEN, a_policy(), state=LONG)
    board.publish(View(report=view, statuses=statuses(view, {}), gpu_budget=8))
    telemetry.tick_finished(view, (), duration_s=0.1)
    telemetry.requested("get", 200, 0.1)
    documented = {spec.full_name: spec for spec in METRICS}
    served = {
        metric.name + ("_total" if metric.type == "counter" else ""): metric
        for metric in telemetry.registry.collect()
        if metric.name.startswith("headstart_")
    }
    assert set(served) == set(documented)
    for name, metric in served.items():
        assert metric.type == documented[name].kind
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == set(documented[name].labels)


def test_the_page_says_the_same() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == render_markdown()


def test_every_metric_of_the_contract_is_there() -> None:
    contract = """replicas_desired replicas_current replicas_proposed forecast_demand demand decision_total blind state
        forecast_wape forecast_coverage lead_time_seconds tick_duration_seconds tick_last_success_timestamp_seconds
        invariant_violations_total prometheus_query_seconds kubernetes_request_seconds train_duration_seconds
        model_age_seconds gpu_budget_used_ratio"""
    assert set(contract.split()) <= {spec.name for spec in METRICS}
