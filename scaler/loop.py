"""One tick: read, decide, record, act, in that order, with no rule of its own.

Snapshots are built from the ports, each workload is decided alone, the fleet's budget cuts what does not fit, the
journal has every decision before the first write leaves, and writes go out ups first. The daemon and the simulator
run this same function; only the ports differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from forecaster.types import Blind, BlindReason
from scaler.policy.budget import BudgetRule, Wish, grant, grants
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import Action, Decision, DemandForecast, Mode, PolicyState, ReplicaState, Snapshot
from scaler.ports import (
    DecisionRecord,
    Forecasts,
    Journal,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What one tick saw, decided and did; `journal_error` is set when decisions could not be made durable."""

    at: datetime
    records: tuple[DecisionRecord, ...]
    signals: Mapping[str, WorkloadSignals]
    outcomes: Mapping[str, Outcome]
    states: Mapping[str, PolicyState]
    journal_error: str = ""


def tick(fleet: Fleet, states: Mapping[str, PolicyState], ports: Ports, *, now: datetime) -> TickReport:
    """Run one round over the fleet at `now`; `states` are the ones that the last tick returned, or empty."""
    signals = ports.signals.read(now=now)
    replicas = ports.targets.read(now=now)
    forecasts = ports.forecasts.latest(now=now)
    decided = []
    for policy in fleet.workloads:
        snapshot = _snapshot(policy, signals, replicas, forecasts)
        before = states.get(policy.workload, PolicyState())
        decision, after = decide(snapshot, before, policy, now=now)
        decided.append((policy, snapshot, before, decision, after))
    allowed = grants([_wish(policy, before, decision) for policy, _, before, decision, _ in decided], fleet.budget)
    records, next_states = [], {}
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
    )


def _snapshot(
    policy: WorkloadPolicy,
    signals: Mapping[str, WorkloadSignals],
    replicas: Mapping[str, ReplicaState | Blind],
    forecasts: Mapping[str, tuple[DemandForecast, ...]],
) -> Snapshot:
    """What is known of one workload; whatever is missing counts as blind."""
    name = policy.workload
    seen = signals.get(name, WorkloadSignals(classes=()))
    return Snapshot(
        workload=name,
        replicas=replicas.get(name, _UNREAD),
        classes=seen.classes,
        lead_time_s=policy.start_time.total_seconds(),
        requests_waiting=seen.requests_waiting,
        forecasts=forecasts.get(name, ()),
    )


def _wish(policy: WorkloadPolicy, before: PolicyState, decision: Decision) -> Wish:
    """What the workload holds and asks for.

    One that cannot be read holds what it had when last seen, or its maximum if it never was: an unknown number of
    GPUs is not a free one. One that is only observed asks for nothing, its decision moves no pod.
    """
    current = decision.current
    if current is None:
        current = before.desired[-1].replicas if before.desired else policy.bounds.max_replicas
    asks = policy.mode is Mode.ACTIVE and decision.target is not None
    return Wish(
        workload=policy.workload,
        current=current,
        target=decision.target if asks and decision.target is not None else current,
        gpus=policy.profile.gpus,
        priority=policy.priority,
    )


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
            outcomes[record.policy.workload] = targets.scale(record.decision)
        else:
            outcomes[record.policy.workload] = Outcome(
                kind=OutcomeKind.OBSERVED,
                detail=f"observe mode: would scale {record.decision.current} → {record.decision.target}",
            )
    return outcomes
