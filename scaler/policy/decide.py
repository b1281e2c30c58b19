"""The composition: four proposals in, one decision out, every clamp on record. The only place that knows the order.

    highest want above the scale  → out to it
    highest keep below the scale  → in to it, if the guard agrees
    between the two               → hold

then step limits, then bounds; and last a person's word, or the peace kept with another writer. A function of its
arguments: the daemon, the simulator, the notebook and the replay of a journal all call this one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from forecaster.types import Blind, BlindReason, value_of
from scaler.policy import (
    guard,
    latency,
    limits,
    load,
    memory,
    outage,
    overruling,
    predictive,
    scheduled,
    spill,
    steering,
    trust,
    variant_place,
    writers,
)
from scaler.policy.budget import grant
from scaler.policy.control import Hand
from scaler.policy.trust import Verdict
from scaler.policy.types import (
    Action,
    Adjustment,
    At,
    Decision,
    PolicyState,
    Proposal,
    Reason,
    ReplicaState,
    Snapshot,
    Trust,
    demand_of,
)
from scaler.policy.workload import WorkloadPolicy

__all__ = ["WorkloadPolicy", "decide", "decide_within"]


def decide(
    snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, *, now: datetime
) -> tuple[Decision, PolicyState]:
    """One workload's decision at `now`, and what to remember. Same inputs and state ⇒ same decision.

    An empty `state` holds the present scale until a full look-back has been seen; growth is allowed at once.
    """
    state = spill.remember(memory.carry(state, tick=policy.tick, now=now), snapshot)
    state = replace(state, variant=None if snapshot.variant is None else snapshot.variant.state)
    replicas = snapshot.replicas
    if isinstance(replicas, Blind):
        blind = Decision(workload=snapshot.workload, at=now, current=None, target=None, reason=Reason.BLIND_REPLICAS)
        if replicas.reason is BlindReason.NOT_FOUND:
            state = writers.disowned(state)  # what comes back under the name is another object, with its own beginning
        return blind, replace(state, last_tick_at=now, known_since=None, calm_since=None, ready=None)
    state = memory.observe_replicas(state, replicas, period=policy.step.period, now=now)
    state = memory.observe_model(state, snapshot, now=now)
    own, snapshot = snapshot, spill.with_inflows(snapshot)
    hand, state = overruling.last_word(snapshot, state, policy, replicas, now=now)
    state = overruling.leaders_zero(snapshot, state, policy, replicas)
    # Of a variant a zero is the group's: one that another stands in for has none. Who wants it off pauses it.
    if snapshot.variant is None and overruling.switched_off(replicas, state, policy):
        return _hands_off(snapshot, state, current=max(0, replicas.desired), now=now)
    moment = _Moment.of(snapshot, policy, replicas, hand, state, own=own, now=now)
    state = replace(state, disabled_since=trust.disabled_since(state.disabled_since, moment.verdict, now=now))
    state = _steer(moment, state)
    proposals, state = _propose(moment, state)
    kept = spill.propose(moment.own, policy.profile)
    proposals = proposals if kept is None else (*proposals, kept)
    state = _remember(moment, state, proposals)
    target, adjustments, reason = overruling.overruled(
        hand, _in_its_place(moment, state, proposals), current=moment.current, least=moment.least, most=moment.most
    )
    decision = Decision(
        workload=snapshot.workload,
        at=now,
        current=replicas.desired,
        target=target,
        reason=reason,
        proposals=proposals,
        adjustments=adjustments,
        trust=moment.verdict.trust,
        z=moment.z(state),
    )
    return decision, _order(moment, state, decision)


def decide_within(
    snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, allowed: int | None, *, now: datetime
) -> tuple[Decision, PolicyState]:
    """`decide`, then the fleet's cut: what a replay calls with the recorded grant."""
    decision, after = decide(snapshot, state, policy, now=now)
    return grant(decision, after, allowed)


_SWITCHED_OFF = Verdict(trust=Trust.NO_FORECAST, doubt=1.0)
"""Of a workload without the predictive rule: the load rule keeps its margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What every step of one decision looks at: the inputs, and what follows from them alone."""

    snapshot: Snapshot
    """What was read, with what spills over from other pools."""
    own: Snapshot
    """The same without it."""
    policy: WorkloadPolicy
    replicas: ReplicaState
    hand: Hand | None
    demand_rps: dict[str, float] | None
    verdict: Verdict
    least: int
    most: int
    lead_time: timedelta
    silence: str
    now: datetime

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        policy: WorkloadPolicy,
        replicas: ReplicaState,
        hand: Hand | None,
        state: PolicyState,
        *,
        own: Snapshot,
        now: datetime,
    ) -> _Moment:
        bounds = policy.bounds
        in_force = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=now)
        least, most = limits.under_ceiling(in_force, replicas.ceiling)
        enabled = policy.predictive.enabled
        return cls(
            snapshot=snapshot,
            own=own,
            policy=policy,
            replicas=replicas,
            hand=hand,
            demand_rps=demand_of(snapshot.classes),
            verdict=trust.judge(snapshot, policy.trust, now=now) if enabled else _SWITCHED_OFF,
            least=least,
            most=most,
            lead_time=timedelta(seconds=snapshot.lead_time_s),
            silence=outage.doubt(state.outage, policy.outage, in_flight=_in_flight(snapshot), now=now),
            now=now,
        )

    @property
    def current(self) -> int:
        return self.replicas.desired

    @property
    def known(self) -> bool:
        """Whether demand is measured in full: only then may anything be released or learnt."""
        return self.snapshot.demand_known

    def lasting_z(self, state: PolicyState) -> float:
        return self.policy.steering.first_z if state.z is None else state.z

    def z(self, state: PolicyState) -> float:
        return steering.score(self.lasting_z(state), state.missed_share, self.policy.steering)

    def foreseen(self) -> float | None:
        """Load that the median of its own forecasts sees in a few minutes; None without a forecast."""
        usable = [
            each.forecast
            for each in self.own.forecasts_in_force
            if not each.forecast.expired(now=self.now) and each.forecast.plausible
        ]
        if not usable:
            return None
        soon = self.now + outage.ABRUPT
        return self.policy.profile.load({each.request_class: each.quantile(soon, z=0.0) for each in usable})

    def load(self) -> float:
        """Present load and backlog, in exactly full replicas; 0 while demand is unknown."""
        demand_rps = self.demand_rps or {}
        waiting = value_of(self.snapshot.requests_waiting) or 0.0
        profile = self.policy.profile
        return profile.load(demand_rps) + profile.backlog_load(waiting, demand_rps, within_s=self.snapshot.lead_time_s)


def _in_flight(snapshot: Snapshot) -> float:
    """Requests that wait or run, as far as that is known."""
    return (value_of(snapshot.requests_waiting) or 0.0) + (value_of(snapshot.requests_running) or 0.0)


def _hands_off(snapshot: Snapshot, state: PolicyState, *, current: int, now: datetime) -> tuple[Decision, PolicyState]:
    """A zero that we did not write: somebody switched the workload off, and it stays off."""
    decision = Decision(workload=snapshot.workload, at=now, current=current, target=current, reason=Reason.HANDS_OFF)
    return decision, replace(state, last_tick_at=now, known_since=None, calm_since=None, ready=None)


def _steer(moment: _Moment, state: PolicyState) -> PolicyState:
    """Move z by what the last minute showed: its demand against what was Ready when it began."""
    policy, snapshot = moment.policy, moment.snapshot
    if snapshot.standby:  # what was Ready is another daemon's doing: an integrator without a hand on the scale winds up
        return state
    fresh = any(not each.forecast.expired(now=moment.now) for each in snapshot.forecasts_in_force)
    if moment.demand_rps is None or not moment.known or state.ready is None or not fresh:
        return state
    if snapshot.variant is not None and not snapshot.variant.serves_all:
        return state  # what it misses, another variant may have served
    if not policy.mode.counts:  # what an observed workload misses is somebody else's doing
        return state
    if state.disabled_since is not None:
        return state  # nothing was ordered by z
    if outage.unusual(state.outage, policy.outage, now=moment.now):
        return state
    if steering.frozen(state, moment.replicas, most_replicas=moment.most, lead_time=moment.lead_time, now=moment.now):
        return state
    load_then = policy.profile.load(moment.demand_rps)
    rule = policy.steering
    if policy.cost is not None:
        rule = replace(rule, missed_target_ratio=policy.miss_target.ratio)
    z, missed_share = steering.steer(
        moment.lasting_z(state),
        state.missed_share,
        rule,
        load=load_then,
        ready=state.ready,
        tick=policy.tick,
        lead_time=moment.lead_time,
    )
    return replace(state, z=z, missed_share=missed_share)


def _propose(moment: _Moment, state: PolicyState) -> tuple[tuple[Proposal, ...], PolicyState]:
    """Ask each rule; the ones with nothing to say are left out."""
    snapshot, policy, now = moment.snapshot, moment.policy, moment.now
    by_latency, remembered = latency.propose(snapshot, policy.latency, policy.profile, state.latency, now=now)
    # What stands in for a forecast is the day before, not the one that was disabled.
    silenced = state.disabled_since is not None and moment.verdict.trust is not Trust.STAND_IN
    proposals = (
        load.propose(
            snapshot,
            policy.load,
            policy.profile,
            doubt=moment.verdict.doubt,
            margin_ratio=policy.miss_target.margin_ratio,
        ),
        None
        if silenced
        else predictive.propose(
            snapshot, policy.predictive, policy.profile, z=moment.z(state), tick=policy.tick, now=now
        ),
        by_latency,
        scheduled.propose(snapshot, policy.scheduled, policy.profile, now=now),
    )
    active_at = state.latency_active_at if by_latency is None else now
    state = replace(state, latency=remembered, latency_active_at=active_at)
    return tuple(each for each in proposals if each is not None), state


def _remember(moment: _Moment, state: PolicyState, proposals: tuple[Proposal, ...]) -> PolicyState:
    """Note what this tick saw, for the guard of this and the coming ticks."""
    now = moment.now
    known = moment.known
    keep = max((each.keep for each in proposals), default=0)
    calm = known and keep < moment.current
    # The calm under a person's word shows what the rules would do; once they may, it starts anew.
    given_back = moment.hand is None and state.by_hand_at is not None and state.by_hand_at == state.last_tick_at
    calm_since = None if given_back else state.calm_since
    window = guard.look_back(moment.lead_time)
    # Its own demand alone: what spills over ends all at once whenever the other pool gets its replicas.
    own_rps = demand_of(moment.own.classes) or {}
    seen = outage.Seen(
        known=moment.own.own_demand_known,
        load=moment.policy.profile.load(own_rps),
        current=moment.current,
        foreseen=moment.foreseen(),
        expected=max((each.want for each in proposals if each.rule == predictive.RULE), default=0),
        arrivals_rps=sum(own_rps.values()),
    )
    return replace(
        state,
        outage=outage.observe(state.outage, seen, now=now),
        last_tick_at=now,
        known_since=(state.known_since or now) if known else None,
        calm_since=(calm_since or now) if calm else None,
        peaks=guard.falling_peaks(state.peaks, keep, window=window, now=now),
        ready=moment.replicas.ready,
    )


def _compose(
    moment: _Moment, state: PolicyState, proposals: tuple[Proposal, ...]
) -> tuple[int, tuple[Adjustment, ...], Reason]:
    """Target, clamps and main reason, in the one order that there is."""
    current, now, step = moment.current, moment.now, moment.policy.step
    known = moment.known
    highest = max(proposals, key=lambda each: each.want, default=None)
    keep = max((each.keep for each in proposals), default=current)
    target, reason = current, Reason.STEADY if known else Reason.BLIND_DEMAND
    adjustments: tuple[Adjustment, ...] = ()
    if highest is not None and highest.want > current:
        target, reason = highest.want, highest.reason
        planned = max((each.want for each in proposals if each.rule == scheduled.RULE), default=0)
        target, adjustments = outage.slowed(
            target, planned, moment.policy.outage, state.outage, current=current, now=now
        )
        target, trace = limits.no_gpu(target, step, state.unschedulable_since, current=current, now=now)
        adjustments += trace
        target, trace = limits.step_out(target, step, state.desired, current=current, now=now)
        adjustments += trace
    elif known and keep < current:
        target, adjustments = _release(moment, state, keep)
        reason = Reason.LOAD
    target, trace = _bound(moment, state, target)
    adjustments += trace
    return target, adjustments, _main_reason(current, target, adjustments, reason)


def _in_its_place(
    moment: _Moment, state: PolicyState, proposals: tuple[Proposal, ...]
) -> tuple[int, tuple[Adjustment, ...], Reason]:
    """What the rules and bounds come to, within the workload's place among the variants of its model."""
    target, adjustments, reason = _compose(moment, state, proposals)
    place = moment.snapshot.variant
    if place is None:
        return target, adjustments, reason
    target, trace = variant_place.placed(
        target, place, current=moment.current, most=moment.most, held_by=_no_release(moment, state)
    )
    if not trace:
        return target, adjustments, reason
    adjustments += trace
    if trace[-1].before == moment.current:  # the rules would have held: what moves it is the place
        return target, adjustments, trace[-1].reason
    return target, adjustments, _main_reason(moment.current, target, adjustments, reason)


def _no_release(moment: _Moment, state: PolicyState) -> Reason | None:
    """What forbids any release, of a limit's making too: blindness, and the look-back after it (I2)."""
    if state.known_since is None:
        return Reason.BLIND_DEMAND
    return Reason.REWARM if moment.now - state.known_since < guard.look_back(moment.lead_time) else None


def _release(moment: _Moment, state: PolicyState, keep: int) -> tuple[int, tuple[Adjustment, ...]]:
    """Put the release down to `keep` before the guard."""
    window = guard.look_back(moment.lead_time)
    was_active = state.latency_active_at is not None and moment.now - state.latency_active_at < window
    blind = latency.blind_classes(moment.snapshot, moment.policy.latency) if was_active else ()
    release = guard.Release(
        current=moment.current,
        target=keep,
        replicas=moment.replicas,
        load=moment.load(),
        trusted=moment.verdict.doubt < 1.0,
        blind_rule=", ".join(blind),
        silence=moment.silence,
    )
    return guard.hold(release, moment.policy.guard, state, lead_time=moment.lead_time, now=moment.now)


def _bound(moment: _Moment, state: PolicyState, target: int) -> tuple[int, tuple[Adjustment, ...]]:
    """Bounds come last. Below the minimum always; above the maximum too, but never inward while blind (I2).

    A scale above the maximum that we may not reduce yet is left as it is: nothing is written.
    """
    bounded, trace = limits.clamp(target, least=moment.least, most=moment.most)
    if bounded >= moment.current or target < moment.current:
        return bounded, trace
    hold = _no_release(moment, state)
    if hold is None:
        return bounded, trace
    kept = Adjustment(
        rule=guard.RULE,
        before=bounded,
        after=moment.current,
        reason=hold,
        detail=f"above the maximum {moment.most}, but no release while blind or re-warming",
    )
    return moment.current, (*trace, kept)


def _main_reason(current: int, target: int, adjustments: tuple[Adjustment, ...], proposed: Reason) -> Reason:
    """The rule's reason, unless a clamp stopped or turned the movement: then that clamp's."""
    if not adjustments:
        return proposed
    last = adjustments[-1]
    went_out, goes_out = last.before > current, target > current
    return last.reason if target == current or went_out != goes_out else proposed


def _order(moment: _Moment, state: PolicyState, decision: Decision) -> PolicyState:
    """Note what was asked for, and what the latency rule now waits for."""
    if decision.action is Action.HOLD or decision.target is None:
        return state
    ready = min(moment.replicas.ready, decision.target)  # what a release leaves is what the coming minute is judged by
    # A sleeper's zero stays ours until it is seen awake: a wake-up that fails is no human's zero.
    asked = decision.target if moment.current > 0 else state.asked
    state = replace(state, asked=asked, ready=ready)
    if decision.action is Action.IN:
        # Until the next tick shows that nothing came of it: the one before was long enough ago, it is not missed.
        state = replace(state, last_scale_in_at=moment.now)
    if moment.policy.mode.writes and not moment.snapshot.standby:
        state = writers.ordered(state, decision.target)
    fired = next((each for each in decision.proposals if each.reason in latency.ORDERS), None)
    if fired is None or decision.action is Action.IN or moment.hand is not None:
        return state
    order = At(at=moment.now, replicas=min(fired.want, moment.most))
    return replace(state, latency=replace(state.latency, ordered=order, settled_at=None))
