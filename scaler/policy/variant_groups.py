"""The variants of one model as a group of workloads: who serves, and each one's place until the next tick.

Every member decides as if it served everything; the group says which of them does, and how far the way there is: see
`scaler.policy.variants`. It runs before the members' own decisions, reads nothing of them, and what it answers is
recorded with each member's snapshot, so that a record is decided again without the others. It never moves a member
that a person, another writer or a mode has taken out of its hands: then the whole group stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType

from forecaster.types import STEP, Blind, BlindReason
from scaler.policy import control, memory, scheduled, trust, writers
from scaler.policy.types import (
    Mode,
    PolicyState,
    Snapshot,
    VariantPlace,
    VariantReason,
    VariantState,
    demand_of,
)
from scaler.policy.variants import (
    Choice,
    HandOver,
    Situation,
    VariantOption,
    VariantRule,
    choose,
    hand_over,
    shares_by_capacity,
)
from scaler.policy.workload import WorkloadPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantMember:
    """One variant: the workload that runs it, and what its replicas call their model."""

    workload: str
    """Which workload, as "namespace/name"; its profile says what a replica carries on how many GPUs."""
    serves: str = ""
    """The name that its replicas give their model, as the gateway lists them; the workload's own name if empty."""

    @property
    def served(self) -> str:
        """The name by which a gateway tells its replicas from the other variants'."""
        return self.serves or self.workload.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantGroup:
    """The variants of one model, of which one serves at a time, and when to change between them."""

    name: str
    """The model that clients ask for."""
    gpus: int
    """GPUs that all variants together may hold."""
    workloads: tuple[VariantMember, ...]
    """The variants, best answers first; each further one carries more on the same GPUs. All see the demand of the whole
    service: give each the same demand_labels."""
    utilisation: float = 0.85
    """Share of a replica's capacity to fill, above 0 and up to 1."""
    room_ratio: float = 0.2
    """How much more than the demand a better variant must carry before it takes over again."""
    down_after: timedelta = timedelta(minutes=2)
    """How long the variant that serves must have been too slow for the GPUs before a smaller one takes over."""
    up_after: timedelta = timedelta(minutes=15)
    """How long a better one must have had room."""
    spacing: timedelta = timedelta(minutes=30)
    """Least time from any change to the next one up. A change down never waits for it."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("variants.name must be the model that clients ask for, and is empty")
        if self.gpus < 1:
            raise ValueError(f"gpus of {self.name} must be at least 1, got {self.gpus}")
        if len(self.workloads) < 2:
            raise ValueError(f"workloads of {self.name} must list at least two variants, got {len(self.workloads)}")
        served = [each.served for each in self.workloads]
        if len(set(served)) != len(served):
            raise ValueError(f"workloads of {self.name} serve the same name twice: {', '.join(served)}")
        if not 0.0 < self.utilisation <= 1.0:
            raise ValueError(f"utilisation of {self.name} must lie in (0, 1], got {self.utilisation}")
        if not 0.0 <= self.room_ratio <= 10.0:
            raise ValueError(f"room_ratio of {self.name} must lie in [0, 10], got {self.room_ratio}")
        for name in ("down_after", "up_after", "spacing"):
            span: timedelta = getattr(self, name)
            if not timedelta(0) <= span <= timedelta(days=1):
                raise ValueError(f"{name} of {self.name} must lie between 0s and 1d, got {span}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is known of one variant's workload at this tick: settings under a person's mode, readings, memory."""

    policy: WorkloadPolicy
    snapshot: Snapshot
    state: PolicyState

    @property
    def name(self) -> str:
        """The workload."""
        return self.policy.workload


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """What a group came to at a tick: for people, metrics and gateways."""

    group: VariantGroup
    at: datetime
    chosen: str
    """The workload of the variant that serves, or takes over."""
    reason: VariantReason
    shares: Mapping[str, float]
    """Of the traffic by workload; empty while none is Ready, or one cannot be read: gateways then go by what they see.
    """
    ready: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    detail: str = ""
    switched: bool = False
    """Whether another variant was chosen than at the tick before."""
    acts: bool = True
    """Whether members are scaled: shares of a group that is only observed are shown, and nobody follows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrangement:
    """The group's view, and every member's place."""

    view: GroupView
    places: Mapping[str, VariantPlace]


def arrange(group: VariantGroup, members: Sequence[Member], *, now: datetime) -> Arrangement:
    """One group's arrangement at `now`; `members` in the order of its workloads."""
    state = _remembered(members, now=now)
    rule = _rule(group, members, now=now)
    before = state.chosen
    state = _found(state, rule, members, now=now)
    situation = _situation(group, members, state.chosen, now=now)
    stands = _stands_still(members, now=now)
    if stands:
        serving = state.chosen or max(members, key=_held).name
        choice = Choice(variant=serving, reason=VariantReason.FROZEN, detail=stands)
        state = replace(state, short_since=None, roomy_since=None)
        step = HandOver(replicas={}, shares={} if _unread(members) else shares_by_capacity(situation, rule))
    else:
        choice, state = choose(situation, rule, state, now=now)
        step = hand_over(situation, rule, choice.variant)
    moves = not stands and situation.demand_rps is not None
    detail = "; ".join(text for text in (choice.detail, step.stuck) if text)
    view = GroupView(
        group=group,
        at=now,
        chosen=choice.variant,
        reason=choice.reason,
        shares={name: share for name, share in step.shares.items() if share > 0.0},
        ready=dict(situation.ready),
        detail=detail,
        switched=bool(before) and choice.variant != before,
        acts=all(each.policy.mode.writes for each in members),
    )
    places = {
        each.name: _place(each, view, state, _limits(each, members, choice.variant, step, situation, moves=moves))
        for each in members
    }
    return Arrangement(view=view, places=places)


def _place(member: Member, view: GroupView, state: VariantState, limits: tuple[int, int | None]) -> VariantPlace:
    least, most = limits
    return VariantPlace(
        group=view.group.name,
        chosen=view.chosen,
        reason=view.reason,
        share=view.shares.get(member.name, 0.0) if view.shares else None,
        state=state,
        least=least,
        most=most,
        detail=view.detail,
    )


def _limits(
    member: Member, members: Sequence[Member], chosen: str, step: HandOver, situation: Situation, *, moves: bool
) -> tuple[int, int | None]:
    """Least and most replicas of one member.

    GPUs count as held until they are given back: 4 GPUs hold 8B, whose place is 3 now, and 4B may have its first
    replica at the next tick, once 3 are all that 8B asks for. And one that may be ordered for another is not free.
    """
    have = situation.has(member.name)
    if member.name != chosen:
        return 0, step.replicas.get(member.name, 0) if moves else have
    size = member.policy.profile.gpus
    others = [each for each in members if each.name != chosen]
    places = {each.name: max(situation.has(each.name), step.replicas.get(each.name, 0)) for each in others}
    taken = sum(places[each.name] * each.policy.profile.gpus for each in others)
    fitting = max(min(have, situation.gpus // size), (situation.gpus - taken) // size)
    # Alone it is its own rules' business how many there are; beside others it must be brought to where it can serve.
    return (min(step.replicas.get(chosen, 0), fitting) if moves and taken else 0), fitting


# ── What is known ─────────────────────────────────────────────────────────────────────────────────────────────


def _remembered(members: Sequence[Member], *, now: datetime) -> VariantState:
    """The group's memory: every member has a copy, and one whose decision failed has an old one."""
    carried = [memory.carry(each.state, tick=each.policy.tick, now=now) for each in members]
    newest = max(
        (each for each in carried if each.variant is not None),
        key=lambda each: each.last_tick_at.timestamp() if each.last_tick_at is not None else 0.0,
        default=None,
    )
    return VariantState() if newest is None or newest.variant is None else newest.variant


def _found(state: VariantState, rule: VariantRule, members: Sequence[Member], *, now: datetime) -> VariantState:
    """The memory as what runs corrects it: a first tick, and one of a standby, believes what serves.

    A switch must be earned by the rule's own waits, and a restart is no reason to skip them. While another daemon leads
    it chooses, and its choice is the variant that has most replicas Ready. Nothing is concluded from what is not read.
    """
    standby = any(each.snapshot.standby for each in members)
    if (rule.option(state.chosen) is not None and not standby) or _unread(members):
        return state
    ready = {each.name: _ready(each) for each in members}
    most = max(ready, key=lambda name: ready[name])  # the better of two that have as many: members are in that order
    if ready[most] == 0 or (standby and ready.get(state.chosen, 0) == ready[most]):
        return state
    if most == state.chosen:
        return state
    return VariantState(chosen=most, changed_at=now if state.chosen else None)


def _rule(group: VariantGroup, members: Sequence[Member], *, now: datetime) -> VariantRule:
    return VariantRule(
        variants=tuple(
            VariantOption(name=each.name, profile=each.policy.profile, most=_most(each.policy, now=now))
            for each in members
        ),
        utilisation=group.utilisation,
        room_ratio=group.room_ratio,
        down_after=group.down_after,
        up_after=group.up_after,
        spacing=group.spacing,
    )


def _most(policy: WorkloadPolicy, *, now: datetime) -> int:
    bounds = policy.bounds
    _, most = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=now)
    return most


def _situation(group: VariantGroup, members: Sequence[Member], chosen: str, *, now: datetime) -> Situation:
    # All see the same service; the one that serves is asked first, and another where it cannot tell.
    asked = sorted(members, key=lambda each: each.name != chosen)
    seeing = next((each for each in asked if each.snapshot.demand_known), None)
    return Situation(
        demand_rps=None if seeing is None else demand_of(seeing.snapshot.classes),
        gpus=group.gpus,
        ready={each.name: _ready(each) for each in members},
        foreseen_rps=None if seeing is None else _foreseen(seeing, members, now=now),
        held={each.name: _held(each) for each in members},
    )


def _ready(member: Member) -> int:
    replicas = member.snapshot.replicas
    return 0 if isinstance(replicas, Blind) else replicas.ready


def _unread(members: Sequence[Member]) -> bool:
    """Whether some member's replicas are unknown. One that does not exist is known to have none."""
    seen = (each.snapshot.replicas for each in members)
    return any(isinstance(each, Blind) and each.reason is not BlindReason.NOT_FOUND for each in seen)


def _held(member: Member) -> int:
    """Replicas that it counts with against the GPUs: of one that cannot be read those seen last, or its maximum."""
    replicas, state = member.snapshot.replicas, member.state
    if not isinstance(replicas, Blind):
        return replicas.taken
    if replicas.reason is BlindReason.NOT_FOUND:
        return 0
    if not state.desired:
        return member.policy.bounds.max_replicas
    return max(state.desired[-1].replicas, state.asked or 0)


def _foreseen(member: Member, members: Sequence[Member], *, now: datetime) -> dict[str, float] | None:
    """The fullest minute within the longest start, by the median of a forecast that is trusted; None without one."""
    policy, snapshot = member.policy, member.snapshot
    if not policy.predictive.enabled or trust.judge(snapshot, policy.trust, now=now).doubt >= 1.0:
        return None
    usable = [
        each.forecast
        for each in snapshot.forecasts_in_force
        if not each.forecast.expired(now=now) and each.forecast.plausible
    ]
    if not usable:
        return None
    lead = timedelta(seconds=max(each.snapshot.lead_time_s for each in members))
    minutes = [now + step * STEP for step in range(1, max(1, -(-lead // STEP)) + 1)]
    seen = [{each.request_class: each.quantile(at, z=0.0) for each in usable} for at in minutes]
    return max(seen, key=policy.profile.load)


def _stands_still(members: Sequence[Member], *, now: datetime) -> str:
    """Why the group may not be moved, or "": a switch moves all of it or none."""
    modes = {each.policy.mode for each in members}
    for each in members:
        ordered, replicas = each.snapshot.control, each.snapshot.replicas
        if ordered.pause is not None:
            return f"{each.name} is paused"
        if control.overridden(ordered, now=now) is not None:
            return f"{each.name} is overridden"
        if writers.hold_of(each.state, each.policy.other_writers, now=now) is not None:
            return f"{each.name} was changed by somebody else, and is left alone"
        if isinstance(replicas, Blind):
            return f"the replicas of {each.name} are unknown ({replicas.reason})"
        if each.policy.mode is Mode.OBSERVE and len(modes) > 1:
            return f"{each.name} is only observed, and another variant is not"
    return ""
