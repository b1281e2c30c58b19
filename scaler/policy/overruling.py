"""Who goes over the rules, in order: a zero by somebody, a pause, another writer's hold, a person's override.

It composes `control` and `writers` and decides no number of its own. The rules are asked all the same, so that
everybody sees what they would do, except of a workload that somebody switched off.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from scaler.policy import control, limits, writers
from scaler.policy.control import Hand
from scaler.policy.types import Adjustment, PolicyState, Reason, ReplicaState, Snapshot, demand_of
from scaler.policy.workload import WorkloadPolicy


def switched_off(replicas: ReplicaState, state: PolicyState, policy: WorkloadPolicy) -> bool:
    """Whether the workload is at a zero that neither we nor the autoscaler above it wrote.

    Under a floor the zero to look at is the workload's: an HPA keeps off a workload at zero. A floor of zero is no
    floor, and what sleeps above one was put to sleep by its own autoscaler.
    """
    if replicas.held is not None:
        return replicas.asleep_under_a_floor
    return replicas.desired <= 0 and not (policy.bounds.min_replicas == 0 and state.asked == 0)


def leaders_zero(snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, replicas: ReplicaState) -> PolicyState:
    """A standby takes a zero that no demand contradicts for the leader's, or nobody would wake the workload after a
    take-over. One amid demand is somebody's who switched it off.
    """
    allowed = replicas.held is None and replicas.desired == 0 and policy.bounds.min_replicas == 0
    demand_rps = demand_of(snapshot.classes)
    if not (snapshot.standby and allowed and snapshot.demand_known) or demand_rps is None or any(demand_rps.values()):
        return state
    return replace(state, asked=0)


def last_word(
    snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, replicas: ReplicaState, *, now: datetime
) -> tuple[Hand | None, PolicyState]:
    """Who has the last word at `now` beside the rules: whoever stops us first, then who orders a number."""
    ordered = snapshot.control
    hand = control.paused(ordered)
    writes = policy.mode.writes and not snapshot.standby and hand is None
    rule = policy.other_writers
    state = writers.observe(state, replicas.desired, rule, ordered, writes=writes, now=now)
    hold = writers.hold_of(state, rule, now=now)
    if hand is None and hold is not None:
        hand = Hand(reason=hold.reason, detail=hold.detail, until=hold.until)
    hand = hand or control.overridden(ordered, now=now)
    return hand, state if hand is None else replace(state, by_hand_at=now)


def overruled(
    hand: Hand | None, ruled: tuple[int, tuple[Adjustment, ...], Reason], *, current: int, least: int, most: int
) -> tuple[int, tuple[Adjustment, ...], Reason]:
    """A person's or another writer's word over what the rules made of it: target, clamps and reason.

    An override is bound by minimum and maximum and by nothing else: steps, guard and blindness are for those who do
    not know better. A scale that is left alone stays where it is, out of bounds too: nothing is written.
    """
    if hand is None:
        return ruled
    target, adjustments, _ = ruled
    target, trace = control.apply(hand, target, current=current)
    bound: tuple[Adjustment, ...] = ()
    if hand.replicas is not None:
        target, bound = limits.clamp(target, least=least, most=most)
    return target, (*adjustments, *trace, *bound), hand.reason
