"""How many placeholder pods hold GPUs, so that nodes are there before the pods that need them.

A node takes minutes more than a pod on a node that is already there. Placeholders are pods of low priority that do
nothing and ask for GPUs: the cluster brings nodes for them, and real pods push them out. So many are wanted as the
forecast needs GPUs, within the time a node takes, beyond what is held. As real pods take the nodes over, as many
placeholders go at once; any other fall must last for `hold`. Nothing here moves a replica of a workload; an unknown
demand adds no placeholder and takes none away, and a workload that people keep where it is wants none. See
docs/decisions/0016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import Adjustment, Decision, Mode, Proposal, Reason, Snapshot, in_words

RULE = "placeholders"

FORECAST_REACH = timedelta(minutes=30)
"""How far ahead forecasts look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderRule:
    """One set of placeholder pods and what it prepares for."""

    placeholder: str
    """What holds the GPUs, as "namespace/name": pods that do nothing, such as in deploy/placeholders.yaml."""
    mode: Mode = Mode.OBSERVE
    """`observe` only says in the log what it would do, `active` scales the placeholders."""
    workloads: tuple[str, ...] = ()
    """Whose pods these GPUs are for, such as those of one node group; all workloads if empty."""
    gpus_per_replica: int = 1
    """GPUs that one placeholder asks for; as many as the largest replica needs, or it makes room for none of them."""
    max_replicas: int = 4
    """Most placeholders, whatever is forecast."""
    ahead: timedelta = timedelta(minutes=10)
    """How long a node takes from the request to a free GPU, with some minutes to spare; at most 30m."""
    hold: timedelta = timedelta(minutes=10)
    """How long less must have been wanted before placeholders go that no real pod has pushed out; up to an hour."""

    def __post_init__(self) -> None:
        for label, value in (("gpus_per_replica", self.gpus_per_replica), ("max_replicas", self.max_replicas)):
            if value < 1:
                raise ValueError(f"{label} of {self.placeholder} must be at least 1, got {value}")
        if not timedelta(0) < self.ahead <= FORECAST_REACH:
            raise ValueError(f"ahead of {self.placeholder} must lie in (0, 30m], got {in_words(self.ahead)}")
        if not timedelta(0) <= self.hold <= timedelta(hours=1):
            raise ValueError(f"hold of {self.placeholder} must lie in [0, 1h], got {in_words(self.hold)}")

    def replicas(self, gpus: int) -> int:
        """Placeholders that hold at least so many GPUs."""
        return -(-max(0, gpus) // self.gpus_per_replica)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One workload: GPUs that it holds or has ordered, and those that it will want beyond them; None for unknown."""

    held_gpus: int
    coming_gpus: int | None


UNKNOWN = Outlook(held_gpus=0, coming_gpus=None)
"""A workload that could not be read or decided on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was wanted and held at a moment."""

    at: datetime
    coming_gpus: int
    held_gpus: int

    def still_coming(self, held_gpus: int) -> int:
        """What was wanted then and has not been taken over since by real pods."""
        return self.coming_gpus - max(0, held_gpus - self.held_gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceholderState:
    """What one decision leaves for the next: when it began to look, and what it saw in the last `hold`."""

    since: datetime | None = None
    seen: tuple[Seen, ...] = ()


_KEPT = frozenset({Reason.PAUSED, Reason.OVERRIDE, Reason.HELD_MANUAL, Reason.HELD_CONFLICT})


def grows(reason: Reason, mode: Mode) -> bool:
    """Whether a workload can come to have more pods, by the reason of its last decision.

    One that was switched off does not. While it is paused, overridden or held by hand nobody orders any for it, unless
    another autoscaler does so by its own metrics: above a floor, and where we only observe.
    """
    return reason is not Reason.HANDS_OFF and (reason not in _KEPT or mode in (Mode.OBSERVE, Mode.FLOOR))


def outlook(
    snapshot: Snapshot,
    profile: CapacityProfile,
    rule: PlaceholderRule,
    *,
    z: float,
    held: int,
    most: int,
    grows: bool,
    now: datetime,
) -> Outlook:
    """What one workload holds (`held` replicas), and the most that the forecast wants within `ahead`, at its score `z`.

    Never more than its maximum `most`, and nothing unless it `grows`. Unknown without an unexpired, plausible forecast,
    and while demand is not known in full: what the forecast then says nobody has held against the world, and what
    stands in for it is the day before.
    """
    held_gpus = profile.gpus * held
    if not grows:
        return Outlook(held_gpus=held_gpus, coming_gpus=0)
    usable = [
        each.forecast
        for each in snapshot.forecasts_in_force
        if not each.forecast.expired(now=now) and each.forecast.plausible
    ]
    if not usable or not snapshot.demand_known:
        return Outlook(held_gpus=held_gpus, coming_gpus=None)
    load = max(
        sum(profile.load({each.request_class: each.quantile(moment, z=z)}) for each in usable)
        for moment in usable[0].grid_between(now, now + rule.ahead)
    )
    wanted = min(most, replicas_for(load))
    return Outlook(held_gpus=held_gpus, coming_gpus=profile.gpus * max(0, wanted - held))


def size(
    rule: PlaceholderRule,
    outlooks: Sequence[Outlook],
    state: PlaceholderState,
    *,
    current: int,
    free_gpus: int | None,
    now: datetime,
) -> tuple[Decision, PlaceholderState]:
    """How many placeholders there should be, and what to remember.

    `free_gpus` are those of the fleet's budget that nobody holds, None without a budget: a node beyond it would be for
    nothing. After a start nothing goes for one `hold`: what was wanted before it is not known.
    """
    state = _remember(rule, outlooks, state, now=now)
    known = all(each.coming_gpus is not None for each in outlooks)
    held = sum(each.held_gpus for each in outlooks)
    want = rule.replicas(sum(each.coming_gpus or 0 for each in outlooks))
    keep = max(want, rule.replicas(max((each.still_coming(held) for each in state.seen), default=0)))
    detail = f"{want} for the forecast of the next {in_words(rule.ahead)}, {keep} in the last {in_words(rule.hold)}"
    target, reason = current, Reason.STEADY
    if want > current:
        target, reason = want, Reason.FORECAST
    elif keep < current:
        target, reason = _released(rule, state, keep, current=current, known=known, now=now)
    target, trace = _bounded(rule, target, current=current, free_gpus=free_gpus)
    decision = Decision(
        workload=rule.placeholder,
        at=now,
        current=current,
        target=target,
        reason=trace[-1].reason if trace and target == current else reason,
        proposals=(Proposal(rule=RULE, want=want, keep=keep, reason=Reason.FORECAST, detail=detail),),
        adjustments=trace,
    )
    return decision, state


def _remember(
    rule: PlaceholderRule, outlooks: Sequence[Outlook], state: PlaceholderState, *, now: datetime
) -> PlaceholderState:
    """What is still in the last `hold`, with this moment if all of it is known; a moment in the future is dropped."""
    since = state.since if state.since is not None and state.since <= now else now
    seen = tuple(each for each in state.seen if timedelta(0) <= now - each.at < rule.hold)
    coming = [each.coming_gpus for each in outlooks if each.coming_gpus is not None]
    if len(coming) == len(outlooks):
        held = sum(each.held_gpus for each in outlooks)
        seen = (*seen, Seen(at=now, coming_gpus=sum(coming), held_gpus=held))
    return replace(state, since=since, seen=seen)


def _released(
    rule: PlaceholderRule, state: PlaceholderState, keep: int, *, current: int, known: bool, now: datetime
) -> tuple[int, Reason]:
    if not known:
        return current, Reason.BLIND_DEMAND
    if state.since is None or now - state.since < rule.hold:
        return current, Reason.REWARM
    return keep, Reason.FORECAST


def _bounded(
    rule: PlaceholderRule, target: int, *, current: int, free_gpus: int | None
) -> tuple[int, tuple[Adjustment, ...]]:
    """No growth beyond the budget's free GPUs, and never above the maximum."""
    trace: tuple[Adjustment, ...] = ()
    if free_gpus is not None and target > current:
        room = max(current, max(0, free_gpus) // rule.gpus_per_replica)
        if target > room:
            detail = f"{free_gpus} GPUs of the budget are free"
            trace = (Adjustment(rule=RULE, before=target, after=room, reason=Reason.GPU_BUDGET, detail=detail),)
            target = room
    if target > rule.max_replicas:
        detail = f"maximum {rule.max_replicas}"
        clamp = Adjustment(rule=RULE, before=target, after=rule.max_replicas, reason=Reason.AT_MAX, detail=detail)
        return rule.max_replicas, (*trace, clamp)
    return target, trace
