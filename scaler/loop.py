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
from scaler.policy import control as by_hand
from scaler.policy import writers
from scaler.policy.budget import BudgetRule, Wish, grant, grants
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import (
    NO_CONTROL,
    Action,
    Control,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    ReplicaState,
    Snapshot,
)
from scaler.ports import (
    Controls,
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


class NoControls:
    """`scaler.ports.Controls` where nobody can order anything: a simulation, a round that only looks."""

    def of(self, workload: str, *, now: datetime) -> Control:
        """No word."""
        del workload, now
        return NO_CONTROL


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The loop's connections to the outside."""

    signals: Signals
    forecasts: Forecasts
    targets: Targets
    journal: Journal
    controls: Controls = field(default_factory=NoControls)


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
    leads: bool = True


def tick(
    fleet: Fleet, states: Mapping[str, PolicyState], ports: Ports, *, now: datetime, leads: bool = True
) -> TickReport:
    """Run one round over the fleet at `now`; `states` are the ones that the last tick returned, or empty.

    Without `leads` another daemon writes: everything is decided and recorded, and nothing is written.
    """
    signals = ports.signals.read(now=now)
    replicas = ports.targets.read(now=now)
    forecasts = ports.forecasts.latest(now=now)
    decided, wishes, failed, next_states = [], [], {}, {}
    for configured in fleet.workloads:
        ordered = ports.controls.of(configured.workload, now=now)
        policy = _governed(configured, ordered)
        snapshot = replace(_snapshot(policy, signals, replicas, forecasts), control=ordered, standby=not leads)
        before = states.get(policy.workload, PolicyState())
        try:
            decision, after = decide(snapshot, before, policy, now=now)
        except Exception as error:
            # A defect, told as one by the shell; it must not take the other workloads' decisions with it (I10).
            failed[policy.workload], next_states[policy.workload] = error, before
            wishes.append(_held(policy, before))
        else:
            decided.append((policy, snapshot, before, decision, after))
            wishes.append(_wish(policy, snapshot.replicas, before, decision))
    allowed = grants(wishes, fleet.budget)
    records = []
    for policy, snapshot, before, decision, after in decided:
        limited = fleet.budget.gpus is not None and policy.mode.counts
        limit = allowed[policy.workload] if limited else None
        final, next_states[policy.workload] = grant(decision, after, limit)
        records.append(
            DecisionRecord(at=now, policy=policy, snapshot=snapshot, state=before, grant=limit, decision=final)
        )
    journal_error = _record(ports.journal, records)
    outcomes = _act(ports, records, leads=leads)
    next_states = _settled(next_states, records, outcomes)
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
        leads=leads,
    )


def _governed(policy: WorkloadPolicy, ordered: Control) -> WorkloadPolicy:
    """The settings under a person's mode."""
    mode = by_hand.mode_under(ordered, policy.mode)
    return policy if mode is policy.mode else replace(policy, mode=mode)


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


def _wish(policy: WorkloadPolicy, replicas: ReplicaState | Blind, before: PolicyState, decision: Decision) -> Wish:
    """What the workload holds and asks for. One that is only observed asks for nothing, its decision moves no pod.

    Above a floor another autoscaler may hold more: a floor beneath what is held takes no further GPU. A workload that
    does not exist holds none.
    """
    wish = _held(policy, before)
    if isinstance(replicas, Blind):
        gone = replicas.reason is BlindReason.NOT_FOUND
        return replace(wish, current=0, target=0) if gone else wish
    wish = replace(wish, current=replicas.taken, target=replicas.taken)
    if not policy.mode.counts or decision.target is None:
        return wish
    return replace(wish, target=decision.target)


def _held(policy: WorkloadPolicy, before: PolicyState) -> Wish:
    """The wish of a workload that cannot be read: what it had when last seen, or its maximum if it never was.

    An unknown number of GPUs is not a free one.
    """
    seen = before.desired[-1].replicas if before.desired else policy.bounds.max_replicas
    seen = max(seen, before.held or 0)
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


def _act(ports: Ports, records: Sequence[DecisionRecord], *, leads: bool) -> dict[str, Outcome]:
    """Carry the changes out, growth before shrinkage; what is only observed or published is never written, and a
    standby writes nothing."""
    changes = [record for record in records if record.changes]
    outcomes = {}
    for record in sorted(changes, key=lambda each: each.decision.action is not Action.OUT):
        if not record.policy.mode.writes:
            outcome = _not_written(record)
        elif not leads:
            would = f"would scale {record.decision.current} → {record.decision.target}"
            outcome = Outcome(kind=OutcomeKind.STANDBY, detail=f"standby: {would}")
        else:
            outcome = _stopped(ports.controls, record) or _scaled(ports.targets, record.decision)
        outcomes[record.policy.workload] = outcome
    return outcomes


def _not_written(record: DecisionRecord) -> Outcome:
    """What became of a decision that is only shown or exported."""
    moves = f"{record.decision.current} → {record.decision.target}"
    if record.policy.mode is Mode.PUBLISH:
        return Outcome(kind=OutcomeKind.PUBLISHED, detail=f"publish mode: {moves} is for the other autoscaler to do")
    return Outcome(kind=OutcomeKind.OBSERVED, detail=f"observe mode: would scale {moves}")


def _stopped(controls: Controls, record: DecisionRecord) -> Outcome | None:
    """A word that came between the decision and its write counts: who pauses must not see one more write leave."""
    before, now = record.snapshot.control, controls.of(record.policy.workload, now=record.at)
    if now == before:
        return None
    return Outcome(kind=OutcomeKind.STOPPED, detail="people ordered something else meanwhile; decided anew next time")


def _scaled(targets: Targets, decision: Decision) -> Outcome:
    """One write. A port that raises against its promise costs this workload's write, not the writes after it."""
    try:
        return targets.scale(decision)
    except Exception as error:
        return Outcome(kind=OutcomeKind.FAILED, detail=f"{type(error).__name__}: {error}")


def _settled(
    states: Mapping[str, PolicyState], records: Sequence[DecisionRecord], outcomes: Mapping[str, Outcome]
) -> dict[str, PolicyState]:
    """The states, told what became of their writes."""
    return {
        **states,
        **{
            each.policy.workload: settled(states[each.policy.workload], each.decision, outcomes[each.policy.workload])
            for each in records
            if each.policy.workload in outcomes
        },
    }


def settled(state: PolicyState, decision: Decision, outcome: Outcome | None) -> PolicyState:
    """The state after `decision`, told what became of its write.

    Where nobody noted that, as before a crash, or where the answer was lost, what was ordered may have happened.
    """
    if decision.target is None or outcome is None:
        return state
    if outcome.kind in (OutcomeKind.SCALED, OutcomeKind.UNCHANGED):
        return writers.written(state, decision.target)
    if outcome.kind in (OutcomeKind.CONFLICT, OutcomeKind.STOPPED):
        return writers.not_written(state)
    return state
