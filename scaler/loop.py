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
from scaler.policy import control as by_hand
from scaler.policy import order, scheduled, writers
from scaler.policy.budget import BudgetRule, Wish, grant, grants, releases
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.types import (
    NO_CONTROL,
    Action,
    Control,
    Decision,
    DemandForecast,
    LeadTime,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
)
from scaler.policy.variant_groups import GroupView, VariantGroup
from scaler.pools import Spilling, in_spill_order
from scaler.ports import (
    Controls,
    DecisionRecord,
    Forecasts,
    Journal,
    LeadTimes,
    Outcome,
    OutcomeKind,
    Signals,
    Targets,
    WorkloadSignals,
    Writes,
)
from scaler.variants import in_their_groups

_UNSEEN = WorkloadSignals(classes=())
_UNREAD = Blind(reason=BlindReason.NOT_READ, detail="the source gave no answer for this workload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All workloads' settings, the budgets that they share, and those of them that are variants of one model."""

    workloads: tuple[WorkloadPolicy, ...]
    budget: BudgetRule = field(default_factory=BudgetRule)
    variants: tuple[VariantGroup, ...] = ()


class NoControls:
    """`scaler.ports.Controls` where nobody can order anything: a simulation, a round that only looks."""

    def of(self, workload: str, *, now: datetime) -> Control:
        """No word."""
        del workload, now
        return NO_CONTROL


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
    controls: Controls = field(default_factory=NoControls)
    writes: Writes = field(default_factory=OneByOne)
    lead_times: LeadTimes | None = None
    """None plans with the configured start times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TickReport:
    """What one tick saw, decided and did; `journal_error` is set when decisions could not be made durable.

    `failed` holds the workloads whose decision raised: they have no record and keep the state that they had. `gpus` are
    those that each workload counts with against the budget, these included: held or granted, whichever is more.
    """

    at: datetime
    records: tuple[DecisionRecord, ...]
    signals: Mapping[str, WorkloadSignals]
    outcomes: Mapping[str, Outcome]
    states: Mapping[str, PolicyState]
    journal_error: str = ""
    failed: Mapping[str, Exception] = field(default_factory=dict)
    gpus: Mapping[str, int] = field(default_factory=dict)
    leads: bool = True
    variants: tuple[GroupView, ...] = ()


def tick(
    fleet: Fleet, states: Mapping[str, PolicyState], ports: Ports, *, now: datetime, leads: bool = True
) -> TickReport:
    """Run one round over the fleet at `now`; `states` are the ones that the last tick returned, or empty.

    Without `leads` another daemon writes: everything is decided and recorded, and nothing is written.
    """
    signals = ports.signals.read(now=now)
    replicas = ports.targets.read(now=now)
    forecasts = ports.forecasts.latest(now=now)
    lead_times = _lead_times(fleet, ports.lead_times, now=now)
    looked = []
    for configured in in_spill_order(fleet.workloads):
        ordered = ports.controls.of(configured.workload, now=now)
        policy = _governed(configured, ordered)
        seen = _Seen(
            signals=signals.get(policy.workload, _UNSEEN),
            replicas=replicas.get(policy.workload, _UNREAD),
            forecasts=forecasts.get(policy.workload, ()),
            lead_time=lead_times.get(policy.workload),
        )
        looked.append((policy, _snapshot(policy, seen, ordered, leads=leads)))
    looked, groups, placeless = in_their_groups(fleet.variants, looked, states, now=now)
    spilling = Spilling(now=now, free_gpus=_free_gpus(fleet, replicas, states))
    decided, wishes, failed, next_states = [], [], {}, {}
    for policy, snapshot in looked:
        before = states.get(policy.workload, PolicyState())
        try:
            if policy.workload in placeless:
                raise placeless[policy.workload]
            snapshot = spilling.onto(snapshot, before)
            decision, after = decide(snapshot, before, policy, now=now)
        except Exception as error:
            # A defect, told as one by the shell; it must not take the other workloads' decisions with it (I10).
            failed[policy.workload], next_states[policy.workload] = error, before
            wishes.append(_held(policy, before))
            spilling.failed(policy)
        else:
            spilling.decided(snapshot, policy, decision, after)
            decided.append((policy, snapshot, before, decision, after))
            wishes.append(_wish(policy, snapshot, before, decision, after))
    allowed = {**grants(wishes, fleet.budget), **releases(wishes, fleet.budget, now=now)}
    records = []
    for policy, snapshot, before, decision, after in decided:
        limit = _limit(policy, decision, allowed[policy.workload], fleet.budget)
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
        gpus={wish.workload: wish.gpus * max(wish.current, allowed[wish.workload]) for wish in wishes},
        leads=leads,
        variants=groups,
    )


def _governed(policy: WorkloadPolicy, ordered: Control) -> WorkloadPolicy:
    """The settings under a person's mode."""
    mode = by_hand.mode_under(ordered, policy.mode)
    return policy if mode is policy.mode else replace(policy, mode=mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the ports told of one workload; whatever is missing counts as blind."""

    signals: WorkloadSignals
    replicas: ReplicaState | Blind
    forecasts: tuple[DemandForecast, ...]
    lead_time: LeadTime | None


def _snapshot(policy: WorkloadPolicy, seen: _Seen, ordered: Control, *, leads: bool) -> Snapshot:
    """What is known of one workload, for its decision."""
    signals, lead_time = seen.signals, seen.lead_time
    return Snapshot(
        workload=policy.workload,
        replicas=seen.replicas,
        classes=signals.classes,
        lead_time_s=policy.start_time.total_seconds() if lead_time is None else lead_time.seconds,
        requests_waiting=signals.requests_waiting,
        forecasts=seen.forecasts,
        demand_partial=signals.demand_partial,
        lead_time=lead_time,
        requests_running=signals.requests_running,
        control=ordered,
        standby=not leads,
    )


def _lead_times(fleet: Fleet, source: LeadTimes | None, *, now: datetime) -> Mapping[str, LeadTime]:
    """What is known of start times; nothing where nobody measures them."""
    configured = {policy.workload: policy.start_time for policy in fleet.workloads}
    return source.latest(configured, now=now) if source is not None else {}


def _wish(
    policy: WorkloadPolicy, snapshot: Snapshot, before: PolicyState, decision: Decision, after: PolicyState
) -> Wish:
    """What the workload holds and asks for. One that is only observed asks for nothing, its decision moves no pod.

    Above a floor another autoscaler may hold more: a floor beneath what is held takes no further GPU, and lowering one
    takes nothing away, so it has no part in the change budget. A workload that does not exist holds none.
    """
    held, replicas = replace(_held(policy, before), released=after.released), snapshot.replicas
    if isinstance(replicas, Blind):
        gone = replicas.reason is BlindReason.NOT_FOUND
        return replace(held, current=0, target=0, unseen=0) if gone else held
    asks = policy.mode.counts and decision.target is not None
    ordered = before.released[-1].at if before.released else None
    last = before.desired[-1] if before.desired else None
    return replace(
        held,
        current=replicas.taken,
        target=decision.target if asks and decision.target is not None else replicas.taken,
        most=_most(policy, snapshot, decision),
        counted=policy.mode.counts and replicas.held is None,
        refused=last is not None and last.at == ordered and replicas.desired >= last.replicas,
        unseen=0,
    )


def _free_gpus(
    fleet: Fleet, replicas: Mapping[str, ReplicaState | Blind], states: Mapping[str, PolicyState]
) -> int | None:
    """GPUs of the budget that nobody holds as the round begins; None without a budget."""
    if fleet.budget.gpus is None:
        return None
    held = 0
    for policy in fleet.workloads:
        seen = replicas.get(policy.workload, _UNREAD)
        if isinstance(seen, ReplicaState):
            held += policy.profile.gpus * seen.taken
        elif seen.reason is not BlindReason.NOT_FOUND:
            held += policy.profile.gpus * _held(policy, states.get(policy.workload, PolicyState())).current
    return fleet.budget.gpus - held


def _most(policy: WorkloadPolicy, snapshot: Snapshot, decision: Decision) -> int | None:
    """What lies above it goes whatever the others released: a person's own number, the maximum in force, or what a
    variant keeps that hands over. Its release is no fall: another variant is Ready to carry it, or gets its GPU."""
    if decision.reason is Reason.OVERRIDE:
        return decision.target
    bounds = policy.bounds
    _, most = scheduled.bounds_at(
        policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=decision.at
    )
    place = snapshot.variant
    if place is not None and place.most is not None and place.chosen != policy.workload:
        return min(most, place.most)
    return most


def _held(policy: WorkloadPolicy, before: PolicyState) -> Wish:
    """The wish of a workload that cannot be read: what it had when last seen or was asked to have since.

    Its maximum if it never was seen, or slept then: we may have woken it. An unknown number of GPUs is not a free
    one, and no part of the fleet that a share may be released of.
    """
    known, writes = bool(before.desired), policy.mode.writes
    seen = before.desired[-1].replicas if known else 0
    asked = before.asked if writes else None
    unknown = not known or (seen == 0 and asked == 0)
    held = policy.bounds.max_replicas if unknown else max(seen, asked or 0, before.held or 0)
    return Wish(
        workload=policy.workload,
        current=held,
        target=held,
        gpus=policy.profile.gpus,
        priority=policy.priority,
        counted=known and policy.mode.counts and before.held is None,
        released=before.released,
        unseen=sum(each.replicas for each in before.released if known and each.at >= before.desired[-1].at),
    )


def _limit(policy: WorkloadPolicy, decision: Decision, allowed: int, budget: BudgetRule) -> int | None:
    """The fleet's grant as it is recorded: of workloads that share it, where a budget is set or a release was cut."""
    cut = decision.action is Action.IN and allowed != decision.target
    return allowed if policy.mode.counts and (budget.gpus is not None or cut) else None


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
    """Carry the changes out, in order; what is only observed or published is never written, nor is a standby's."""
    written = {each.policy.workload: each for each in records if each.policy.mode.writes and leads}
    outcomes = {
        each.policy.workload: _not_written(each)
        for each in records
        if each.changes and each.policy.workload not in written
    }
    changes = [_change(record) for record in written.values() if record.changes]
    missing = sum(_missing_gpus(record) for record in written.values())
    steps = [[written[name].decision for name in step] for step in order.steps(changes, missing_gpus=missing)]

    def write(decision: Decision) -> Outcome:
        return _stopped(ports.controls, written[decision.workload]) or _scaled(ports.targets, decision)

    outcomes.update(ports.writes.carry_out(steps, write))
    return outcomes


def _not_written(record: DecisionRecord) -> Outcome:
    """What became of a decision that is only shown or exported, or another daemon's to carry out."""
    moves = f"{record.decision.current} → {record.decision.target}"
    match record.policy.mode:
        case Mode.PUBLISH:
            detail = f"publish mode: {moves} is for the other autoscaler to do"
            return Outcome(kind=OutcomeKind.PUBLISHED, detail=detail)
        case Mode.OBSERVE:
            return Outcome(kind=OutcomeKind.OBSERVED, detail=f"observe mode: would scale {moves}")
        case _:
            return Outcome(kind=OutcomeKind.STANDBY, detail=f"standby: would scale {moves}")


def _stopped(controls: Controls, record: DecisionRecord) -> Outcome | None:
    """A word that came between the decision and its write counts: who pauses must not see one more write leave."""
    before, now = record.snapshot.control, controls.of(record.policy.workload, now=record.at)
    if now == before:
        return None
    return Outcome(kind=OutcomeKind.STOPPED, detail="people ordered something else meanwhile; decided anew next time")


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
    if outcome.kind in (OutcomeKind.CONFLICT, OutcomeKind.STOPPED, OutcomeKind.POSTPONED):
        return writers.not_written(state)
    return state
