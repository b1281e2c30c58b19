"""What people and programs get to read: workloads, forecasts and decisions as JSON values.

Pure presentation of records; the same documents serve the API and `-o json`. Numbers that JSON does not have (NaN,
infinity) become null. Nothing here reads or decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from forecaster.models.ensemble import SEASONAL
from forecaster.models.memory import family
from forecaster.sources.catalogue import signal_named
from forecaster.types import HORIZONS, LEVELS, STEP, Blind, Forecast, value_of
from scaler.adapters.accounts import Account
from scaler.adapters.board import SettingsStatus, View
from scaler.adapters.codec import to_plain
from scaler.adapters.request_shape import Amount
from scaler.adapters.states import State, Status
from scaler.adapters.usage import Usage
from scaler.policy import control, scheduled
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.explain import target_text
from scaler.policy.explain_spill import inflow_text
from scaler.policy.explain_variants import WHY
from scaler.policy.lead_time import in_short
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.types import Control, DemandForecast, Inflow, LeadTime, ReplicaState
from scaler.ports import DecisionRecord, Outcome

API_VERSION = "headstart/v1"

Document = dict[str, Any]


def workloads_document(view: View | None, settings: SettingsStatus | None = None) -> Document:
    """Every workload of the last finished tick, or an empty list before the first; and which settings are in force."""
    items = [] if view is None else [workload_row(view, record) for record in view.report.records]
    at = None if view is None else _time(view.at)
    leader = None if view is None else _leader(view)
    document = {"apiVersion": API_VERSION, "kind": "WorkloadList", "at": at, "leader": leader, "items": items}
    if view is not None and view.report.variants:
        document["variants"] = _variants(view)
    return document if settings is None else {**document, "settings": _settings(settings)}


def _leader(view: View) -> Document | None:
    """Who writes; null where no lease decides it."""
    return None if view.leader is None else {"leads": view.report.leads, "holder": view.leader}


def _settings(settings: SettingsStatus) -> Document:
    return {
        "loaded_at": _time(settings.loaded_at),
        "refused_at": None if settings.refused_at is None else _time(settings.refused_at),
        "problem": settings.problem,
        "needs_restart": list(settings.needs_restart),
    }


def shares_document(view: View) -> Document:
    """For gateways: what part of each model's traffic its variants get, by the names that their replicas give them.

    A daemon that does not lead has no say, and one that only observes has none of that model.
    """
    models = [
        {
            "model": each.group.name,
            "shares": {
                member.served: each.shares[member.workload]
                for member in each.group.workloads
                if member.workload in each.shares
            },
        }
        for each in view.report.variants
        if each.acts
    ]
    return {
        "apiVersion": API_VERSION,
        "kind": "Shares",
        "at": _time(view.at),
        "leads": view.report.leads,
        "models": models,
    }


def _variants(view: View) -> list[Document]:
    """The groups of variants: who serves, with which shares, and why."""
    return [
        {
            "name": each.group.name,
            "gpus": each.group.gpus,
            "chosen": each.chosen,
            "reason": each.reason.value,
            "why": WHY[each.reason],
            "detail": each.detail,
            "shares": dict(each.shares),
            "ready": dict(each.ready),
            "followed": each.acts and view.report.leads,
        }
        for each in view.report.variants
    ]


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
        "spill": _spill(view, record),
        "lead_time_s": snapshot.lead_time_s,
        "lead_time": _lead_time(snapshot.lead_time, policy),
        "action": decision.action.value,
        "reason": decision.reason.value,
        "trust": decision.trust.value,
        "z": decision.z,
        "missed_target": _missed_target(policy),
        "control": control_document(snapshot.control, now=record.at),
        "notes": [
            *view.notes.get(policy.workload, ()),
            *_target_notes(policy),
            *_control_notes(record, view.statuses.get(policy.workload)),
            *(f"spills over to {policy.spills_to}: {inflow_text(each)}" for each in _going(view, record)),
            *(f"takes over from {each.sender}: {inflow_text(each)}" for each in snapshot.inflows),
        ],
    }


def _spill(view: View, record: DecisionRecord) -> Document | None:
    """What goes over to the next pool and what comes from others, in requests per second by class; null for none."""
    coming = [_inflow(each) for each in record.snapshot.inflows]
    if record.policy.spills_to is None and not coming:
        return None
    out = [_inflow(each) for each in _going(view, record)]
    return {"to": record.policy.spills_to, "out": out[0] if out else None, "in": coming}


def _going(view: View, record: DecisionRecord) -> tuple[Inflow, ...]:
    """What this pool's receiver was told of it: one at most."""
    policy = record.policy
    behind = None if policy.spills_to is None else view.record(policy.spills_to)
    return () if behind is None else tuple(each for each in behind.snapshot.inflows if each.sender == policy.workload)


def _inflow(each: Inflow) -> Document:
    return {
        "from": each.sender,
        "reach": each.reach,
        "limit": each.limit.value,
        "blind": each.blind,
        "classes": [
            {"request_class": one.request_class, "now_rps": one.now_rps, "planned_rps": one.planned_rps}
            for one in each.classes
        ],
    }


def control_document(ordered: Control, *, now: datetime) -> Document:
    """What people ordered and is in force at `now`; null where nobody did."""
    override = ordered.override
    in_force = override is not None and override.lasts(now=now)
    return {
        "pause": None if ordered.pause is None else to_plain(ordered.pause),
        "override": to_plain(override) if in_force else None,
        "mode": None if ordered.mode is None else to_plain(ordered.mode),
        "resumed_at": None if ordered.resumed_at is None else _time(ordered.resumed_at),
    }


def _control_notes(record: DecisionRecord, status: Status | None) -> Iterator[str]:
    """What people ordered, as far as the state does not say it: behind another state, or a mode over the settings'."""
    ordered, state = record.snapshot.control, None if status is None else status.state
    if ordered.pause is not None and state is not State.PAUSED:
        yield control.pause_text(ordered.pause)
    override = ordered.override
    if override is not None and override.lasts(now=record.at) and state is not State.OVERRIDDEN:
        yield f"override: {control.override_text(override, now=record.at)}; something stands before it"
    if ordered.mode is not None:
        yield f"mode by hand: {control.mode_text(ordered.mode, in_force=record.policy.mode)}"


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


def forecast_document(
    workload: str,
    forecasts: tuple[DemandForecast, ...],
    *,
    now: datetime,
    record: DecisionRecord | None = None,
    accounts: Mapping[str, Account] | None = None,
    usage: Usage | None = None,
) -> Document:
    """The forecasts in force: for each request class the quantiles of each bin ahead, and how they came about.

    `record` is the workload's last decision, for the calendar and the lead time; `accounts` what is known of each
    class's members; `usage` what its requests are made of. What nothing says is listed under `unknown`, but for
    tokens and images: most sites do not tell them.
    """
    known = accounts or {}
    classes = [_forecast(each, known.get(each.forecast.request_class), record, now=now) for each in forecasts]
    return {
        "apiVersion": API_VERSION,
        "kind": "Forecast",
        "workload": workload,
        "unit": "requests/s",
        "classes": classes,
        "usage": [] if usage is None else list(_usage(usage, workload, record, now=now)),
        "requests": [] if usage is None else [_amount(each) for each in usage.amounts.get(workload, ())],
        "calendar": None if record is None else _calendar(record, forecasts, now=now),
        "unknown": [text for each in classes for text in _unknown(each)],
    }


def _forecast(
    each: DemandForecast, account: Account | None, record: DecisionRecord | None, *, now: datetime
) -> Document:
    forecast = each.forecast
    return {
        **_band(each, record, now=now),
        "usual_multiples": None if record is None else _usual_multiples(forecast, record.policy.scheduled),
        **_blend(forecast, account, _lead_column(forecast, record)),
        "accuracy": _accuracy(each, account),
    }


def _band(each: DemandForecast, record: DecisionRecord | None, *, now: datetime) -> Document:
    """The quantiles of every bin ahead, and how long they hold."""
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
        "stand_in": each.stand_in,
        "issued_at": _time(forecast.issued_at),
        "expires_at": _time(forecast.expires_at),
        "expired": forecast.expired(now=now),
        "quality": _quality(each),
        "points": points,
        "lead_horizon_s": forecast.horizons[_lead_column(forecast, record)] * forecast.step_s,
    }


def _usage(usage: Usage, workload: str, record: DecisionRecord | None, *, now: datetime) -> Iterator[Document]:
    """The forecast of each signal of each class, in the signal's unit."""
    for signal, forecasts in usage.forecasts.get(workload, {}).items():
        for each in forecasts:
            yield {"signal": signal, "unit": signal_named(signal).unit, **_band(each, record, now=now)}


def _amount(each: Amount) -> Document:
    """What a request holds on average: measured, by the forecasts, and what the profile was measured with."""
    return {
        "request_class": each.request_class,
        "signal": each.signal,
        "now": finite(each.now),
        "ahead": finite(each.ahead),
        "profile": each.profile,
        "left_profile": each.left,
    }


def _lead_column(forecast: Forecast, record: DecisionRecord | None) -> int:
    """Which horizon the engine measures quality at: the first not before the bin that an order placed now can reach."""
    lead_s = 300.0 if record is None else record.snapshot.lead_time_s
    reached = math.ceil(lead_s / forecast.step_s) + 1
    last = len(forecast.horizons) - 1
    return next((i for i, horizon in enumerate(forecast.horizons) if horizon >= reached), last)


def _usual_multiples(forecast: Forecast, rule: ScheduledRule) -> list[float]:
    """What events make of the usual demand at every point, such as 2.5; the quantiles hold it already."""
    step = timedelta(seconds=forecast.step_s)
    return [
        scheduled.usual_multiple(rule, at=forecast.issued_at + (horizon - 1) * step) for horizon in forecast.horizons
    ]


def _blend(forecast: Forecast, account: Account | None, column: int) -> Document:
    """Who spoke: each member's weight at every point, and its loss over the last value's at the lead horizon."""
    if account is None or account.standing.horizons != forecast.horizons:
        return {"members": [], "weights_at": None, "seasonal_ratio": None}
    standing = account.standing
    ratios = standing.loss_ratios(column)
    return {
        "members": [
            {
                "model": model,
                "seasonal": family(model) in SEASONAL,
                "weights": [row[i] for row in standing.weights],
                "loss_over_last_value": finite(ratios[i]),
            }
            for i, model in enumerate(standing.members)
        ],
        "weights_at": _time(standing.at),
        "seasonal_ratio": standing.seasonal_ratio(column),
    }


def _accuracy(each: DemandForecast, account: Account | None) -> Document | None:
    """Error and coverage over the last six hours against the plain forecasts; None where nothing was scored."""
    if each.quality is None:
        return None
    quality = each.quality
    plain: Document = finite(
        {
            "scored_bins": quality.scored_bins,
            "coverage_95": quality.coverage_95,
            "wape": quality.wape,
            "wape_last_value": quality.wape_last_value,
            "wape_day_before": None if account is None else account.wape_day_before,
        }
    )
    return plain


def _unknown(shown: Document) -> Iterator[str]:
    name = shown["request_class"]
    if not shown["members"]:
        yield (
            f"{name}: the members' weights (this engine has not forecast it since it started, or what it knows is not "
            "stored yet: every ten minutes it is)"
        )
    if shown["accuracy"] is None:
        yield f"{name}: the accuracy (no forecast of the last six hours has come true yet)"
    elif shown["members"] and shown["accuracy"]["wape_day_before"] is None:
        yield f"{name}: the error of the day before (less than half of those minutes are in the history)"


def _calendar(record: DecisionRecord, forecasts: tuple[DemandForecast, ...], *, now: datetime) -> Document:
    """What people have planned between now and the forecast's end: replicas that events ask for, windows with bounds.

    What an event's ratio makes of the forecast is in its points; replicas are a floor of their own beside it.
    """
    ends = [f.issued_at + timedelta(seconds=f.step_s * max(f.horizons)) for f in (each.forecast for each in forecasts)]
    until = max([*ends, now + max(HORIZONS) * STEP])
    minutes = [now + step * STEP for step in range((until - now) // STEP + 1)]
    return {
        "until": _time(until),
        "events": list(_events(record, minutes)),
        "windows": list(_windows(record.policy.scheduled, minutes)),
    }


def _events(record: DecisionRecord, minutes: list[datetime]) -> Iterator[Document]:
    """The events that ask for replicas, or lift the demand, at one of `minutes`; replicas 0 where they ask for none."""
    for event in record.policy.scheduled.events:
        alone = ScheduledRule(events=(event,))
        asked = [(at, scheduled.propose(record.snapshot, alone, record.policy.profile, now=at)) for at in minutes]
        floors = [(at, proposal.want) for at, proposal in asked if proposal is not None]
        lifts = event.demand_ratio is not None and any(event.lasts(at=at) for at in minutes)
        if floors or lifts:
            yield {
                "name": event.name,
                "start": _time(event.start),
                "end": _time(event.end),
                "demand_ratio": event.demand_ratio,
                "ordered_from": _time(floors[0][0]) if floors else None,
                "replicas": max((want for _, want in floors), default=0),
            }


def _windows(rule: ScheduledRule, minutes: list[datetime]) -> Iterator[Document]:
    """The windows that are in force at one of `minutes`, and from when to when of them."""
    for window in rule.windows:
        active = [at for at in minutes if window.active(now=at)]
        if active:
            yield {
                "name": window.name,
                "from": _time(active[0]),
                "until": _time(active[-1] + STEP),
                "min_replicas": window.min_replicas,
                "max_replicas": window.max_replicas,
            }


def _lead_time(lead: LeadTime | None, policy: WorkloadPolicy) -> Document:
    """Where the lead time comes from; as configured where nothing measures it."""
    configured = policy.start_time
    found = lead or LeadTime(seconds=configured.total_seconds())
    return {
        **to_plain(found),
        "configured_s": configured.total_seconds(),
        "text": in_short(found, configured=configured),
    }


def _missed_target(policy: WorkloadPolicy) -> Document:
    """The share of minutes that may be missed, and the share at which the costs balance where prices are given."""
    target = policy.miss_target
    return {"ratio": target.ratio, "balance_ratio": finite(target.balance_ratio), "cut": target.cut}


def _target_notes(policy: WorkloadPolicy) -> Iterator[str]:
    if policy.miss_target.cut:
        yield target_text(policy)


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
        **({} if replicas.held is None else {"held": replicas.held, "ceiling": replicas.ceiling}),
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
