"""One tick: read, decide, record, act, in that order, with no rule of its own.

Snapshots are built from the ports, each workload is decided alone, the fleet's budgets cut what does not fit, the
journal has every decision before the first write leaves, and writes go out in the order of `policy.order`. The daemon
and the simulator run this same function; only the ports differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from forecaster.types import Blind, BlindReason
from scaler.policy import order, scheduled
from scaler.policy.budget import BudgetRule, Wish, grant, grants, releases
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import Action, Decision, DemandForecast, Mode, PolicyState, Reason, ReplicaState, Snapshot
from scaler.ports import (
    DecisionRecord,
    Forecasts,
    Journal,
    Outcome,
    OutcomeKind,
    Signals,
    Targets,
    WorkloadSignals,
    Writes,
)

_UNREAD = Blind(reason=BlindReason.NOT_READ, detail="the source gave no answer for this workload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All workloads' settings, and the budgets that they share."""

    workloads: tuple[WorkloadPolicy, ...]
    budget: BudgetRule = field(default_factory=BudgetRule)


class OneByOne:
    """The plainest `Writes`: in order, each after the last. Enough where a write takes no time, as in a simulation."""

    def carry_out(
        self, steps: Sequence[Sequence[Decision]], scale: Callable[[Decision], Outcome]
    ) -> Mapping[str, Outcome]:
        """The outcome of every decision, by workload."""
        return {decision.workload: scale(decision) for step in steps for decision in step}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The loop's connections to the outside, and how it carries out what it decided."""

    signals: Signals
    forecasts: Forecasts
    targets: Targets
    journal: Journal
    writes: Writes = field(default_factory=OneByOne)


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
    decided, wishes, failed, next_states = [], [], {}, {}
    for policy in fleet.workloads:
        snapshot = _snapshot(policy, signals, replicas, forecasts)
        before = states.get(policy.workload, PolicyState())
        try:
            decision, after = decide(snapshot, before, policy, now=now)
        except Exception as error:
            # A defect, told as one by the shell; it must not take the other workloads' decisions with it (I10).
            failed[policy.workload], next_states[policy.workload] = error, before
            wishes.append(_held(policy, before))
        else:
            decided.append((policy, snapshot, before, decision, after))
            wishes.append(_wish(policy, before, decision, after))
    allowed = {**grants(wishes, fleet.budget), **releases(wishes, fleet.budget, now=now)}
    records = []
    for policy, snapshot, before, decision, after in decided:
        limit = _limit(policy, decision, allowed[policy.workload], fleet.budget)
        final, next_states[policy.workload] = grant(decision, after, limit)
        records.append(
            DecisionRecord(at=now, policy=policy, snapshot=snapshot, state=before, grant=limit, decision=final)
        )
    journal_error = _record(ports.journal, records)
    outcomes = _act(ports, records)
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
        demand_partial=seen.demand_partial,
    )


def _wish(policy: WorkloadPolicy, before: PolicyState, decision: Decision, after: PolicyState) -> Wish:
    """What the workload holds and asks for. One that is only observed asks for nothing, its decision moves no pod."""
    held = replace(_held(policy, before), released=after.released)
    if decision.current is None or decision.target is None:
        return held
    current, active = decision.current, policy.mode is Mode.ACTIVE
    ordered = before.released[-1].at if before.released else None
    last = before.desired[-1] if before.desired else None
    bounds = policy.bounds
    _, most = scheduled.bounds_at(
        policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=decision.at
    )
    return replace(
        held,
        current=current,
        target=decision.target if active else current,
        most=most,
        counted=active,
        refused=last is not None and last.at == ordered and current >= last.replicas,
    )


def _held(policy: WorkloadPolicy, before: PolicyState) -> Wish:
    """The wish of a workload that cannot be read: what it had when last seen or was asked to have since.

    Its maximum if it never was seen, or slept then: we may have woken it. An unknown number of GPUs is not a free
    one, and no part of the fleet that a share may be released of.
    """
    known, active = bool(before.desired), policy.mode is Mode.ACTIVE
    seen = before.desired[-1].replicas if known else 0
    asked = before.asked if active else None
    unknown = not known or (seen == 0 and asked == 0)
    held = policy.bounds.max_replicas if unknown else max(seen, asked or 0)
    return Wish(
        workload=policy.workload,
        current=held,
        target=held,
        gpus=policy.profile.gpus,
        priority=policy.priority,
        counted=known and active,
        released=before.released,
    )


def _limit(policy: WorkloadPolicy, decision: Decision, allowed: int, budget: BudgetRule) -> int | None:
    """The fleet's grant as it is recorded: of active workloads, where a budget is set or a release was cut."""
    cut = decision.action is Action.IN and allowed != decision.target
    return allowed if policy.mode is Mode.ACTIVE and (budget.gpus is not None or cut) else None


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


def _act(ports: Ports, records: Sequence[DecisionRecord]) -> dict[str, Outcome]:
    """Carry the changes out, in order; an observed workload is never written."""
    outcomes = {record.policy.workload: _observed(record.decision) for record in records if _only_observed(record)}
    written = {record.policy.workload: record for record in records if record.policy.mode is Mode.ACTIVE}
    changes = [_change(record) for record in written.values() if record.changes]
    missing = sum(_missing_gpus(record) for record in written.values())
    steps = [[written[name].decision for name in step] for step in order.steps(changes, missing_gpus=missing)]
    outcomes.update(ports.writes.carry_out(steps, lambda decision: _scaled(ports.targets, decision)))
    return outcomes


def _only_observed(record: DecisionRecord) -> bool:
    return record.changes and record.policy.mode is not Mode.ACTIVE


def _observed(decision: Decision) -> Outcome:
    detail = f"observe mode: would scale {decision.current} → {decision.target}"
    return Outcome(kind=OutcomeKind.OBSERVED, detail=detail)


def _change(record: DecisionRecord) -> order.Change:
    policy, decision = record.policy, record.decision
    return order.Change(
        workload=policy.workload,
        current=decision.current or 0,
        target=decision.target or 0,
        gpus=policy.profile.gpus,
        priority=policy.priority,
    )


def _missing_gpus(record: DecisionRecord) -> int:
    """GPUs that a workload's growth lacks: cut by the budget, and of pods that wait for one."""
    cut = (each for each in record.decision.adjustments if each.reason is Reason.GPU_BUDGET)
    waiting = 0 if isinstance(record.snapshot.replicas, Blind) else record.snapshot.replicas.unschedulable
    return record.policy.profile.gpus * (waiting + sum(each.before - each.after for each in cut))


def _scaled(targets: Targets, decision: Decision) -> Outcome:
    """One write. A port that raises against its promise costs this workload's write, not the writes after it."""
    try:
        return targets.scale(decision)
    except Exception as error:
        return Outcome(kind=OutcomeKind.FAILED, detail=f"{type(error).__name__}: {error}")
