"""The composition: four proposals in, one decision out, every clamp on record. The only place that knows the order.

    highest want above the scale  → out to it
    highest keep below the scale  → in to it, if the guard agrees
    between the two               → hold

then step limits, then bounds; and last a person's word, or the peace kept with another writer. A function of its
arguments: the daemon, the simulator, the notebook and the replay of a journal all call this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from forecaster.types import Blind, BlindReason, value_of
from scaler.policy import (
    control,
    guard,
    latency,
    limits,
    load,
    memory,
    outage,
    predictive,
    scheduled,
    steering,
    trust,
    writers,
)
from scaler.policy.budget import grant
from scaler.policy.capacity import CapacityProfile
from scaler.policy.control import Hand
from scaler.policy.guard import GuardRule
from scaler.policy.latency import LatencyRule
from scaler.policy.limits import Bounds, StepRule
from scaler.policy.load import LoadRule
from scaler.policy.outage import OutageRule
from scaler.policy.predictive import PredictiveRule
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.steering import MISSED_TARGET_RATIO, CostRule, MissTarget, SteeringRule
from scaler.policy.trust import TrustRule, Verdict
from scaler.policy.types import (
    Action,
    Adjustment,
    At,
    Decision,
    Mode,
    PolicyState,
    Proposal,
    Reason,
    ReplicaState,
    Snapshot,
    Trust,
    demand_of,
)
from scaler.policy.writers import OtherWritersRule

__all__ = ["WorkloadPolicy", "decide", "decide_within"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPolicy:
    """All settings of one workload's decision; each rule's parameters are documented beside the rule."""

    workload: str
    """Which workload, as "namespace/name"."""
    profile: CapacityProfile
    """What one replica serves: the name of a shipped profile, a path, or the profile itself."""
    mode: Mode = Mode.OBSERVE
    """`observe` decides and writes nothing, `active` scales, `floor` raises the minimum of the HPA or ScaledObject that
    scales, `publish` only exports the replicas that are wanted, for another autoscaler to follow."""
    start_time: timedelta = timedelta(minutes=5)
    """Pod created → Ready, as configured; used until it has been measured."""
    tick: timedelta = timedelta(minutes=1)
    """Time between two decisions."""
    priority: int = 0
    """Who grows first when the GPU budget is short, and releases last when the change budget is: higher first."""
    load: LoadRule = field(default_factory=LoadRule)
    predictive: PredictiveRule = field(default_factory=PredictiveRule)
    latency: LatencyRule = field(default_factory=LatencyRule)
    scheduled: ScheduledRule = field(default_factory=ScheduledRule)
    trust: TrustRule = field(default_factory=TrustRule)
    cost: CostRule | None = None
    """What a missed minute costs against a GPU minute, in place of `steering.missed_target_ratio`."""
    steering: SteeringRule = field(default_factory=SteeringRule)
    guard: GuardRule = field(default_factory=GuardRule)
    outage: OutageRule = field(default_factory=OutageRule)
    bounds: Bounds = field(default_factory=Bounds)
    step: StepRule = field(default_factory=StepRule)
    other_writers: OtherWritersRule = field(default_factory=OtherWritersRule)

    def __post_init__(self) -> None:
        if self.tick <= timedelta(0):
            raise ValueError(f"tick of {self.workload} must be above 0, got {self.tick}")
        if self.start_time < timedelta(0):
            raise ValueError(f"start_time of {self.workload} must be at least 0, got {self.start_time}")
        if self.cost is not None and self.steering.missed_target_ratio != MISSED_TARGET_RATIO:
            raise ValueError("cost and steering.missed_target_ratio exclude each other; keep one")

    @property
    def miss_target(self) -> MissTarget:
        """The share of missed minutes that this workload is steered to."""
        return steering.target_of(self.steering, self.cost, gpus=self.profile.gpus)


def decide(
    snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, *, now: datetime
) -> tuple[Decision, PolicyState]:
    """One workload's decision at `now`, and what to remember. Same inputs and state ⇒ same decision.

    An empty `state` holds the present scale until a full look-back has been seen; growth is allowed at once.
    """
    state = memory.carry(state, tick=policy.tick, now=now)
    replicas = snapshot.replicas
    if isinstance(replicas, Blind):
        blind = Decision(workload=snapshot.workload, at=now, current=None, target=None, reason=Reason.BLIND_REPLICAS)
        if replicas.reason is BlindReason.NOT_FOUND:
            state = writers.disowned(state)  # what comes back under the name is another object, with its own beginning
        return blind, replace(state, last_tick_at=now, known_since=None, calm_since=None, ready=None)
    state = memory.observe_replicas(state, replicas, period=policy.step.period, now=now)
    state = memory.observe_model(state, snapshot, now=now)
    hand, state = _hand(snapshot, state, policy, replicas, now=now)
    state = _leaders_zero(snapshot, state, policy, replicas)
    if _switched_off(replicas, state, policy):
        return _hands_off(snapshot, state, current=max(0, replicas.desired), now=now)
    moment = _Moment.of(snapshot, policy, replicas, hand, state, now=now)
    state = replace(state, disabled_since=trust.disabled_since(state.disabled_since, moment.verdict, now=now))
    state = _steer(moment, state)
    proposals, state = _propose(moment, state)
    state = _remember(moment, state, proposals)
    target, adjustments, reason = _by_hand(moment, *_compose(moment, state, proposals))
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
        now: datetime,
    ) -> _Moment:
        bounds = policy.bounds
        in_force = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=now)
        least, most = limits.under_ceiling(in_force, replicas.ceiling)
        enabled = policy.predictive.enabled
        return cls(
            snapshot=snapshot,
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
        """Load that the forecast's median sees in a few minutes; None without a forecast."""
        usable = [
            each.forecast
            for each in self.snapshot.forecasts_in_force
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


def _switched_off(replicas: ReplicaState, state: PolicyState, policy: WorkloadPolicy) -> bool:
    """Whether the workload is at a zero that neither we nor the autoscaler above it wrote.

    Under a floor the zero to look at is the workload's: an HPA keeps off a workload at zero. A floor of zero is no
    floor, and what sleeps above one was put to sleep by its own autoscaler.
    """
    if replicas.held is not None:
        return replicas.asleep_under_a_floor
    return replicas.desired <= 0 and not (policy.bounds.min_replicas == 0 and state.asked == 0)


def _leaders_zero(
    snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, replicas: ReplicaState
) -> PolicyState:
    """A standby takes a zero that no demand contradicts for the leader's, or nobody would wake the workload after a
    take-over. One amid demand is somebody's who switched it off.
    """
    allowed = replicas.held is None and replicas.desired == 0 and policy.bounds.min_replicas == 0
    demand_rps = demand_of(snapshot.classes)
    if not (snapshot.standby and allowed and snapshot.demand_known) or demand_rps is None or any(demand_rps.values()):
        return state
    return replace(state, asked=0)


def _hand(
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


def _by_hand(
    moment: _Moment, target: int, adjustments: tuple[Adjustment, ...], reason: Reason
) -> tuple[int, tuple[Adjustment, ...], Reason]:
    """A person's or another writer's word over what the rules made of it.

    An override is bound by minimum and maximum and by nothing else: steps, guard and blindness are for those who do
    not know better. A scale that is left alone stays where it is, out of bounds too: nothing is written.
    """
    hand = moment.hand
    if hand is None:
        return target, adjustments, reason
    target, trace = control.apply(hand, target, current=moment.current)
    bound: tuple[Adjustment, ...] = ()
    if hand.replicas is not None:
        target, bound = limits.clamp(target, least=moment.least, most=moment.most)
    return target, (*adjustments, *trace, *bound), hand.reason


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
    proposals = (
        load.propose(
            snapshot,
            policy.load,
            policy.profile,
            doubt=moment.verdict.doubt,
            margin_ratio=policy.miss_target.margin_ratio,
        ),
        None
        if state.disabled_since is not None
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
    seen = outage.Seen(
        known=known,
        load=moment.policy.profile.load(moment.demand_rps or {}),
        current=moment.current,
        foreseen=moment.foreseen(),
        expected=max((each.want for each in proposals if each.rule == predictive.RULE), default=0),
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
    window = guard.look_back(moment.lead_time)
    if state.known_since is None:
        hold = Reason.BLIND_DEMAND
    elif moment.now - state.known_since < window:
        hold = Reason.REWARM
    else:
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
