"""One tick: read, decide, record, act, in that order, with no rule of its own.

Snapshots are built from the ports, each workload is decided alone, the fleet's budget cuts what does not fit, the
journal has every decision before the first write leaves, and writes go out ups first. The daemon and the simulator
run this same function; only the ports differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from forecaster.types import Blind, BlindReason
from scaler.policy.budget import BudgetRule, Wish, grant, grants
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import Action, Decision, DemandForecast, LeadTime, Mode, PolicyState, ReplicaState, Snapshot
from scaler.ports import (
    DecisionRecord,
    Forecasts,
    Journal,
    LeadTimes,
    Outcome,
    OutcomeKind,
    Signals,
    Targets,
    WorkloadSignals,
)

_UNREAD = Blind(reason=BlindReason.NOT_READ, detail="the source gave no answer for this workload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All workloads' settings, and the budget that they share."""

    workloads: tuple[WorkloadPolicy, ...]
    budget: BudgetRule = field(default_factory=BudgetRule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The loop's connections to the outside."""

    signals: Signals
    forecasts: Forecasts
    targets: Targets
    journal: Journal
    lead_times: LeadTimes | None = None
    """None plans with the configured start times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What one tick saw, decided and did; `journal_error` is set when decisions could not be made durable.

    `failed` holds the workloads whose decision raised: they have no record and keep the state that they had.
    """

    at: datetime
    records: tuple[DecisionRecord, ...]
    signals: Mapping[str, WorkloadSignals]
    outcomes: Mapping[str, Outcome]
    states: Mapping[str, PolicyState]
    journal_error: str = ""
    failed: Mapping[str, Exception] = field(default_factory=dict)


def tick(fleet: Fleet, states: Mapping[str, PolicyState], ports: Ports, *, now: datetime) -> TickReport:
    """Run one round over the fleet at `now`; `states` are the ones that the last tick returned, or empty."""
    signals = ports.signals.read(now=now)
    replicas = ports.targets.read(now=now)
    forecasts = ports.forecasts.latest(now=now)
    leads = _lead_times(fleet, ports.lead_times, now=now)
    decided, wishes, failed, next_states = [], [], {}, {}
    for policy in fleet.workloads:
        snapshot = _snapshot(policy, signals, replicas, forecasts, leads.get(policy.workload))
        before = states.get(policy.workload, PolicyState())
        try:
            decision, after = decide(snapshot, before, policy, now=now)
        except Exception as error:
            # A defect, told as one by the shell; it must not take the other workloads' decisions with it (I10).
            failed[policy.workload], next_states[policy.workload] = error, before
            wishes.append(_held(policy, before))
        else:
            decided.append((policy, snapshot, before, decision, after))
            wishes.append(_wish(policy, before, decision))
    allowed = grants(wishes, fleet.budget)
    records = []
    for policy, snapshot, before, decision, after in decided:
        limited = fleet.budget.gpus is not None and policy.mode is Mode.ACTIVE
        limit = allowed[policy.workload] if limited else None
        final, next_states[policy.workload] = grant(decision, after, limit)
        records.append(
            DecisionRecord(at=now, policy=policy, snapshot=snapshot, state=before, grant=limit, decision=final)
        )
    journal_error = _record(ports.journal, records)
    outcomes = _act(ports.targets, records)
    if outcomes and not journal_error:
        journal_error = _record_outcomes(ports.journal, now, outcomes)
    return TickReport(
        at=now,
        records=tuple(records),
        signals=signals,
        outcomes=outcomes,
        states=next_states,
        journal_error=journal_error,
        failed=failed,
    )


def _snapshot(
    policy: WorkloadPolicy,
    signals: Mapping[str, WorkloadSignals],
    replicas: Mapping[str, ReplicaState | Blind],
    forecasts: Mapping[str, tuple[DemandForecast, ...]],
    lead_time: LeadTime | None,
) -> Snapshot:
    """What is known of one workload; whatever is missing counts as blind."""
    name = policy.workload
    seen = signals.get(name, WorkloadSignals(classes=()))
    return Snapshot(
        workload=name,
        replicas=replicas.get(name, _UNREAD),
        classes=seen.classes,
        lead_time_s=policy.start_time.total_seconds() if lead_time is None else lead_time.seconds,
        requests_waiting=seen.requests_waiting,
        forecasts=forecasts.get(name, ()),
        demand_partial=seen.demand_partial,
        lead_time=lead_time,
        requests_running=seen.requests_running,
    )


def _lead_times(fleet: Fleet, source: LeadTimes | None, *, now: datetime) -> Mapping[str, LeadTime]:
    """What is known of start times; nothing where nobody measures them."""
    configured = {policy.workload: policy.start_time for policy in fleet.workloads}
    return source.latest(configured, now=now) if source is not None else {}


def _wish(policy: WorkloadPolicy, before: PolicyState, decision: Decision) -> Wish:
    """What the workload holds and asks for. One that is only observed asks for nothing, its decision moves no pod."""
    held = _held(policy, before)
    current = held.current if decision.current is None else decision.current
    asks = policy.mode is Mode.ACTIVE and decision.target is not None
    target = decision.target if asks and decision.target is not None else current
    return replace(held, current=current, target=target)


def _held(policy: WorkloadPolicy, before: PolicyState) -> Wish:
    """The wish of a workload that cannot be read: what it had when last seen, or its maximum if it never was.

    An unknown number of GPUs is not a free one.
    """
    seen = before.desired[-1].replicas if before.desired else policy.bounds.max_replicas
    return Wish(workload=policy.workload, current=seen, target=seen, gpus=policy.profile.gpus, priority=policy.priority)


def _record(journal: Journal, records: Sequence[DecisionRecord]) -> str:
    """Make the tick durable. A full disk must not stop scaling: the error is reported and the tick goes on."""
    try:
        journal.append(records)
    except OSError as error:
        return str(error)
    return ""


def _record_outcomes(journal: Journal, at: datetime, outcomes: Mapping[str, Outcome]) -> str:
    try:
        journal.record_outcomes(at, outcomes)
    except OSError as error:
        return str(error)
    return ""


def _act(targets: Targets, records: Sequence[DecisionRecord]) -> dict[str, Outcome]:
    """Carry the changes out, growth before shrinkage; an observed workload is never written."""
    changes = [record for record in records if record.changes]
    outcomes = {}
    for record in sorted(changes, key=lambda each: each.decision.action is not Action.OUT):
        if record.policy.mode is Mode.ACTIVE:
            outcomes[record.policy.workload] = _scaled(targets, record.decision)
        else:
            outcomes[record.policy.workload] = Outcome(
                kind=OutcomeKind.OBSERVED,
                detail=f"observe mode: would scale {record.decision.current} → {record.decision.target}",
            )
    return outcomes


def _scaled(targets: Targets, decision: Decision) -> Outcome:
    """One write. A port that raises against its promise costs this workload's write, not the writes after it."""
    try:
        return targets.scale(decision)
    except Exception as error:
        return Outcome(kind=OutcomeKind.FAILED, detail=f"{type(error).__name__}: {error}")
