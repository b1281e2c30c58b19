"""Checks of a finished tick: bounds (I1), no release while blind (I2) or below what a rule keeps (I3), steps (I4), the
GPU budget (I5), only the leader writes (I6); what is observed, published or paused is not written (I8).

A second pair of eyes on the decision code: it derives each promise anew from the record, counts a breach and never
prevents or repairs one. The count stays 0, and an alert watches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from forecaster.types import Blind
from scaler.loop import TickReport
from scaler.policy import guard, limits, scheduled
from scaler.policy.types import Action, Mode, PolicyState, Reason, demand_of
from scaler.ports import DecisionRecord, OutcomeKind

INVARIANTS = ("I1", "I2", "I3", "I4", "I5", "I6", "I8")
"""What is checked; each is exported from the start with a count of 0."""


_UNWRITTEN = {Mode.OBSERVE: OutcomeKind.OBSERVED, Mode.PUBLISH: OutcomeKind.PUBLISHED}
"""The modes that send no write, and the one outcome that a change of scale has in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken promise."""

    invariant: str
    workload: str
    detail: str


def violations(report: TickReport, *, mutating_requests: int) -> tuple[Violation, ...]:
    """Every promise that the tick broke; `mutating_requests` were sent to the cluster during it."""
    found = [each for record in report.records for each in _of_record(record, report)]
    writing = any(not _hands_are_tied(record) for record in report.records)
    if mutating_requests and not writing:
        detail = f"{mutating_requests} writes while all are only observed, published or paused"
        found.append(Violation(invariant="I8", workload="", detail=detail))
    if mutating_requests and not report.leads:
        found.append(Violation(invariant="I6", workload="", detail=f"{mutating_requests} writes of a standby"))
    return tuple(found)


def _of_record(record: DecisionRecord, report: TickReport) -> list[Violation]:
    name, outcome = record.policy.workload, report.outcomes.get(record.policy.workload)
    found = []
    if outcome is not None and outcome.kind is OutcomeKind.SCALED and not _within_bounds(record):
        found.append(_violation("I1", record, "outside its bounds"))
    if (
        record.decision.action is Action.IN
        and not _ordered(record)
        and _blind_or_rewarming(record, report.states[name])
    ):
        found.append(_violation("I2", record, "inward while blind or re-warming"))
    found += _of_movement(record)
    unwritten = _UNWRITTEN.get(record.policy.mode)
    if unwritten is not None and outcome is not None and outcome.kind is not unwritten:
        found.append(_violation("I8", record, f"outcome {outcome.kind} in mode {record.policy.mode}"))
    if record.snapshot.control.pause is not None and outcome is not None:
        found.append(_violation("I8", record, f"outcome {outcome.kind} while paused"))
    return found


def _hands_are_tied(record: DecisionRecord) -> bool:
    """Whether no write of this workload is allowed: observed, published or paused."""
    return not record.policy.mode.writes or record.snapshot.control.pause is not None


def _of_movement(record: DecisionRecord) -> list[Violation]:
    """How far the decision moves the scale, against what the rules keep, one step, and what the fleet granted.

    Bounds are promises of their own: what they turn is no step and no rule's. Nor is what a person orders, whatever the
    fleet's budget leaves of it.
    """
    decision, step = record.decision, record.policy.step
    current, target = decision.current, decision.target
    reasons = {decision.reason, *(each.reason for each in decision.adjustments)}
    found: list[Violation] = []
    if current is None or target is None:
        return found
    if record.grant is not None and target > max(record.grant, current):
        found.append(_violation("I5", record, f"the fleet granted {record.grant}"))
    if _ordered(record):
        return found
    place = record.snapshot.variant
    if place is not None and place.most is not None and target > max(place.most, current):
        found.append(_violation("I5", record, f"its group left it {place.most}"))
    if Reason.VARIANT_SWITCH in reasons or Reason.VARIANT_GPUS in reasons:
        return found
    if decision.action is Action.IN and Reason.AT_MAX not in reasons:
        if target < max((each.keep for each in decision.proposals), default=0):
            found.append(_violation("I3", record, "below what a rule keeps"))
        if current - target > max(1, int(current * record.policy.guard.most_step_ratio + 1e-9)):
            found.append(_violation("I4", record, "more than one step in"))
    most = current + max(step.most_added, int(current * step.most_growth_ratio + 1e-9))
    if decision.action is Action.OUT and Reason.AT_MIN not in reasons and target > most:
        found.append(_violation("I4", record, "more than one step out"))
    return found


def _ordered(record: DecisionRecord) -> bool:
    """Whether a person ordered it, who sees what we do not: in full, or as far as the GPU budget goes."""
    decision = record.decision
    return decision.reason is Reason.OVERRIDE or any(each.reason is Reason.OVERRIDE for each in decision.adjustments)


def _within_bounds(record: DecisionRecord) -> bool:
    bounds, target = record.policy.bounds, record.decision.target
    in_force = scheduled.bounds_at(
        record.policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=record.at
    )
    replicas = record.snapshot.replicas
    least, most = limits.under_ceiling(in_force, None if isinstance(replicas, Blind) else replicas.ceiling)
    if not isinstance(target, int) or isinstance(target, bool):
        return False
    # The fleet's budget may cut a growth below the minimum: it grants no GPU that is not there.
    floor = least if record.grant is None else min(least, record.grant)
    place = record.snapshot.variant
    if place is not None and place.most is not None:  # a variant that another stands in for sleeps below its minimum
        floor = min(floor, place.most)
    return floor <= target <= most


def _blind_or_rewarming(record: DecisionRecord, after: PolicyState) -> bool:
    snapshot = record.snapshot
    if isinstance(snapshot.replicas, Blind) or demand_of(snapshot.classes) is None or snapshot.demand_partial:
        return True
    window = guard.look_back(timedelta(seconds=record.snapshot.lead_time_s))
    return after.known_since is None or record.at - after.known_since < window


def _violation(invariant: str, record: DecisionRecord, what: str) -> Violation:
    decision = record.decision
    return Violation(
        invariant=invariant, workload=record.policy.workload, detail=f"{decision.current} → {decision.target}: {what}"
    )
