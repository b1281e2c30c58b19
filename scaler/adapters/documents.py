"""What people and programs get to read: workloads, forecasts and decisions as JSON values.

Pure presentation of records; the same documents serve the API and `-o json`. Numbers that JSON does not have (NaN,
infinity) become null. Nothing here reads or decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from forecaster.types import LEVELS, Blind, value_of
from scaler.adapters.board import View
from scaler.adapters.codec import to_plain
from scaler.adapters.states import Status
from scaler.policy.types import DemandForecast, ReplicaState
from scaler.ports import DecisionRecord, Outcome

API_VERSION = "headstart/v1"

Document = dict[str, Any]


def workloads_document(view: View | None) -> Document:
    """Every workload of the last finished tick, or an empty list before the first."""
    items = [] if view is None else [workload_row(view, record) for record in view.report.records]
    at = None if view is None else _time(view.at)
    return {"apiVersion": API_VERSION, "kind": "WorkloadList", "at": at, "items": items}


def workload_document(view: View, record: DecisionRecord) -> Document:
    """One workload with all its readings and forecasts' quality."""
    seen = view.report.signals.get(record.policy.workload)
    reported = {} if seen is None else {name: finite(to_plain(reading)) for name, reading in seen.reported}
    return {
        "apiVersion": API_VERSION,
        "kind": "Workload",
        "at": _time(view.at),
        **workload_row(view, record),
        "signals": {
            "classes": finite(to_plain(record.snapshot.classes)),
            "requests_waiting": finite(to_plain(record.snapshot.requests_waiting)),
            "reported": reported,
        },
        "forecast_quality": [_quality(each) for each in record.snapshot.forecasts],
    }


def workload_row(view: View, record: DecisionRecord) -> Document:
    """What a table of workloads shows of one."""
    policy, snapshot, decision = record.policy, record.snapshot, record.decision
    replicas = snapshot.replicas
    return {
        "workload": policy.workload,
        "mode": policy.mode.value,
        **_status(view.statuses.get(policy.workload)),
        "replicas": {
            **(_counts(replicas) if isinstance(replicas, ReplicaState) else {"blind": _blind(replicas)}),
            "current": decision.current,
            "desired": decision.target,
            "min": policy.bounds.min_replicas,
            "max": policy.bounds.max_replicas,
        },
        "demand_rps": {each.request_class: value_of(each.demand_rps) for each in snapshot.classes},
        "lead_time_s": snapshot.lead_time_s,
        "action": decision.action.value,
        "reason": decision.reason.value,
        "trust": decision.trust.value,
        "z": decision.z,
        "notes": list(view.notes.get(policy.workload, ())),
    }


def decision_document(record: DecisionRecord, outcome: Outcome | None) -> Document:
    """The whole chain of one decision: inputs with their age, proposals, clamps, result, and what became of it."""
    plain = finite(to_plain(record))
    plain["decision"]["action"] = record.decision.action.value
    return {
        "apiVersion": API_VERSION,
        "kind": "Decision",
        "workload": record.policy.workload,
        **plain,
        "outcome": None if outcome is None else to_plain(outcome),
    }


def forecast_document(workload: str, forecasts: tuple[DemandForecast, ...], *, now: datetime) -> Document:
    """The forecasts in force: for each request class the quantiles of each bin ahead."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Forecast",
        "workload": workload,
        "unit": "requests/s",
        "classes": [_forecast(each, now=now) for each in forecasts],
    }


def _forecast(each: DemandForecast, *, now: datetime) -> Document:
    forecast = each.forecast
    points = [
        {
            "at": _time(forecast.issued_at + timedelta(seconds=(horizon - 1) * forecast.step_s)),
            "horizon_s": horizon * forecast.step_s,
            "quantiles": {f"{level:g}": finite(value) for level, value in zip(LEVELS, values, strict=True)},
        }
        for horizon, values in zip(forecast.horizons, forecast.values, strict=True)
    ]
    return {
        "request_class": forecast.request_class,
        "model": forecast.model,
        "issued_at": _time(forecast.issued_at),
        "expires_at": _time(forecast.expires_at),
        "expired": forecast.expired(now=now),
        "quality": _quality(each),
        "points": points,
    }


def _quality(each: DemandForecast) -> Document:
    plain = None if each.quality is None else finite(to_plain(each.quality))
    return {"request_class": each.forecast.request_class, "model": each.forecast.model, "quality": plain}


def _status(status: Status | None) -> Document:
    if status is None:
        return {"state": None, "since": None, "cause": "", "way_out": ""}
    return {
        "state": status.state.value,
        "since": _time(status.since),
        "cause": status.cause,
        "way_out": status.way_out,
    }


def _counts(replicas: ReplicaState) -> Document:
    """The pods behind the scale; spec.replicas itself is the decision's `current`."""
    return {
        "ready": replicas.ready,
        "starting": replicas.starting,
        "unschedulable": replicas.unschedulable,
        "failed": replicas.failed,
    }


def _blind(blind: Blind) -> Mapping[str, str]:
    return {"reason": blind.reason.value, "detail": blind.detail}


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def finite(value: Any) -> Any:
    """`value` with every number that JSON does not have replaced by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value
