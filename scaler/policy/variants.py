"""Which of a model's variants serves, and how the traffic moves there: a smaller one while the larger cannot cope.

A variant copes if its replicas for the present and the foreseen demand fit the pool's GPUs. Down comes soon, because
requests are late; up comes late and with room, because each switch costs starts. A switch is blue/green: the new
variant's replicas are Ready before any traffic is theirs, the old one's go as theirs is taken over, and neither is
ever unloaded to load the other (measured elsewhere: 2.3 s and 4.2 % errors each time). It knows variants from its own
settings, moves nothing itself, and changes nothing while demand is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import VariantReason, VariantState, in_words

RULE = "variants"


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOption:
    """One variant: its name, and what one replica carries on how many GPUs."""

    name: str
    profile: CapacityProfile
    most: int | None = None
    """Replicas that it may have at most, whatever fits the GPUs; None for no limit of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRule:
    """The variants of one model, and when to change between them."""

    variants: tuple[VariantOption, ...]
    """The one with the best answers first; each further one carries more on the same GPUs."""
    utilisation: float = 0.85
    """Share of a replica's capacity to fill, 0 < ρ ≤ 1."""
    room_ratio: float = 0.2
    """How much more than the demand a better variant must carry before it takes over again, at least 0."""
    down_after: timedelta = timedelta(minutes=2)
    """How long the variant must have been too slow: as long as the latency rule waits."""
    up_after: timedelta = timedelta(minutes=15)
    """How long a better one must have had room."""
    spacing: timedelta = timedelta(minutes=30)
    """Least time from any change to the next one up. A change down never waits for it."""

    def __post_init__(self) -> None:
        names = [each.name for each in self.variants]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"variants must name at least one and none twice, got {', '.join(names) or 'none'}")
        if not 0.0 < self.utilisation <= 1.0:
            raise ValueError(f"variants.utilisation must lie in (0, 1], got {self.utilisation}")
        if not self.room_ratio >= 0.0:
            raise ValueError(f"variants.room_ratio must be at least 0, got {self.room_ratio}")

    def option(self, name: str) -> VariantOption | None:
        """The variant of that name, None where the settings have it no more."""
        return next((each for each in self.variants if each.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the choice looks at: demand by class (None: not known), GPUs of the pool, Ready replicas by variant.

    `held` are the replicas that each is asked to have, Ready or not; those that are Ready where nothing is said.
    """

    demand_rps: Mapping[str, float] | None
    gpus: int
    ready: Mapping[str, int] = field(default_factory=dict)
    foreseen_rps: Mapping[str, float] | None = None
    """The highest demand that a trusted forecast sees within a start; None without one."""
    held: Mapping[str, int] = field(default_factory=dict)

    def has(self, name: str) -> int:
        """Replicas that the variant is asked to have."""
        return max(self.held.get(name, 0), self.ready.get(name, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The variant that should serve, and why."""

    variant: str
    reason: VariantReason
    detail: str = ""


def choose(
    situation: Situation, rule: VariantRule, state: VariantState, *, now: datetime
) -> tuple[Choice, VariantState]:
    """The variant to serve with, and what to remember.

    8B carries 3 requests a second on a GPU, 4B carries 6; four GPUs, filled to 85 %. At 10/s 8B needs 4 of them and
    serves. At 12/s it needs 5: after two minutes 4B, which needs 3. Back at 8/s 8B needs 4, with a fifth more 4: it
    returns after 15 minutes of that, and not within 30 of the last change. From 8.6/s on it would need 5 with that
    room, and up to 10.2/s it copes: between the two whoever serves goes on.
    """
    current = rule.option(state.chosen)
    if situation.demand_rps is None:
        # A stretch must be seen whole: what happened meanwhile may have been anything.
        held = replace(state, short_since=None, roomy_since=None)
        return Choice(variant=state.chosen or rule.variants[0].name, reason=VariantReason.BLIND_DEMAND), held
    coping = next((each for each in rule.variants if _copes(each, situation, rule)), None)
    wanted = coping or rule.variants[-1]
    if current is None:
        first = VariantState(chosen=wanted.name, changed_at=now)
        return Choice(variant=wanted.name, reason=VariantReason.FIRST, detail=_needs(wanted, situation, rule)), first
    place = rule.variants.index(current)
    if rule.variants.index(wanted) > place:
        return _down(current, wanted, situation, rule, state, now=now)
    room = 1.0 + rule.room_ratio
    better = next((each for each in rule.variants[:place] if _copes(each, situation, rule, times=room)), None)
    if better is not None:
        return _up(current, better, situation, rule, state, now=now)
    reason = VariantReason.COPES if coping is not None else VariantReason.NOTHING_COPES
    calm = replace(state, short_since=None, roomy_since=None)
    return Choice(variant=current.name, reason=reason, detail=_needs(current, situation, rule)), calm


def gpus_for(option: VariantOption, situation: Situation, rule: VariantRule, *, times: float = 1.0) -> int:
    """GPUs that a variant needs for the larger of present and foreseen demand, `times` over; at least one replica's."""
    loads = [option.profile.load(each) for each in (situation.demand_rps, situation.foreseen_rps) if each is not None]
    return option.profile.gpus * max(1, replicas_for(times * max(loads, default=0.0), utilisation=rule.utilisation))


def _copes(option: VariantOption, situation: Situation, rule: VariantRule, *, times: float = 1.0) -> bool:
    needed = gpus_for(option, situation, rule, times=times)
    return needed <= situation.gpus and (option.most is None or needed <= option.most * option.profile.gpus)


def _down(
    current: VariantOption,
    wanted: VariantOption,
    situation: Situation,
    rule: VariantRule,
    state: VariantState,
    *,
    now: datetime,
) -> tuple[Choice, VariantState]:
    since = state.short_since or now
    detail = _needs(current, situation, rule)
    if now - since < rule.down_after:
        detail = f"{detail}; for {in_words(now - since)} of {in_words(rule.down_after)}"
        waiting = replace(state, short_since=since, roomy_since=None)
        return Choice(variant=current.name, reason=VariantReason.WAITS_DOWN, detail=detail), waiting
    changed = VariantState(chosen=wanted.name, changed_at=now)
    return Choice(variant=wanted.name, reason=VariantReason.TOO_SLOW, detail=detail), changed


def _up(
    current: VariantOption,
    better: VariantOption,
    situation: Situation,
    rule: VariantRule,
    state: VariantState,
    *,
    now: datetime,
) -> tuple[Choice, VariantState]:
    since, detail = state.roomy_since or now, _needs(better, situation, rule)
    rested = state.changed_at is None or now - state.changed_at >= rule.spacing
    if now - since < rule.up_after or not rested:
        waiting = replace(state, short_since=None, roomy_since=since)
        return Choice(variant=current.name, reason=VariantReason.WAITS_UP, detail=detail), waiting
    changed = VariantState(chosen=better.name, changed_at=now)
    return Choice(variant=better.name, reason=VariantReason.ROOM, detail=detail), changed


def _needs(option: VariantOption, situation: Situation, rule: VariantRule) -> str:
    return f"{option.name} needs {gpus_for(option, situation, rule)} of {situation.gpus} GPUs"


# ── The way there ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Replicas and shares of the traffic by variant, for this moment; `stuck` says why nothing moves, or is empty."""

    replicas: Mapping[str, int]
    shares: Mapping[str, float]
    stuck: str = ""


def hand_over(situation: Situation, rule: VariantRule, chosen: str) -> HandOver:
    """One step of blue/green towards `chosen`: asked at every tick, it ends with that variant alone.

    The chosen one gets as much traffic as its Ready replicas carry, the others what is left, and they have the replicas
    for it. The GPUs are never exceeded: where all are held, old replicas are given up for one new at a time, and the
    last old one only once it has no traffic. Four GPUs hold 8B and 4B is chosen at 12/s: 8B 4 → 3, one 4B; it is Ready
    and gets 0.85 · 6 / 12 = 42 %; the rest is 6.9/s, which keep three 8B; the next one goes for the next 4B, until
    three 4B have everything and the last 8B drains.
    """
    option = rule.option(chosen)
    if option is None or situation.demand_rps is None:
        held = {each.name: situation.has(each.name) for each in rule.variants if situation.has(each.name)}
        return HandOver(replicas=held, shares=shares_by_capacity(situation, rule))
    old = {each.name: each for each in rule.variants if each is not option and situation.has(each.name) > 0}
    serving = tuple(name for name in old if situation.ready.get(name, 0) > 0)
    ready, aim = situation.ready.get(chosen, 0), _aim(option, situation, rule)
    share = _share(option, situation, rule, ready=ready, aim=aim) if serving else 1.0
    kept = {name: _kept(each, situation, rule, left=1.0 - share) for name, each in old.items() if name in serving}
    # Of those that do not serve none is needed beside one that does; where nobody serves, they may be about to.
    kept |= {name: 0 if serving or ready else situation.has(name) for name in old if name not in serving}
    target, stuck = _within(option, aim, ready, old, kept, situation.gpus)
    rest = shares_by_capacity(situation, rule, among=serving)
    shares = {chosen: share, **{name: (1.0 - share) * part for name, part in rest.items()}}
    return HandOver(replicas={chosen: target, **kept}, shares=shares, stuck=stuck)


def _aim(option: VariantOption, situation: Situation, rule: VariantRule) -> int:
    """Replicas of the chosen one with which it has taken over: what it needs, as far as it may and can have it."""
    wanted = gpus_for(option, situation, rule) // option.profile.gpus
    fitting = min(wanted, situation.gpus // option.profile.gpus)
    return fitting if option.most is None else min(fitting, option.most)


def _share(option: VariantOption, situation: Situation, rule: VariantRule, *, ready: int, aim: int) -> float:
    """The part of the traffic that the Ready replicas of the chosen one carry; all of it once they are all there."""
    load = option.profile.load(situation.demand_rps or {})
    if ready <= 0 or load <= 0.0 or ready >= aim:
        return 1.0 if ready > 0 else 0.0
    return min(1.0, ready * rule.utilisation / load)


def _kept(option: VariantOption, situation: Situation, rule: VariantRule, *, left: float) -> int:
    """Replicas that a variant on its way out needs for the traffic that is left to it: more than it has only where the
    others hold GPUs for that, as in a surge while a better variant starts."""
    if left <= 0.0:
        return 0
    needed = replicas_for(left * option.profile.load(situation.demand_rps or {}), utilisation=rule.utilisation)
    others = sum(situation.has(each.name) * each.profile.gpus for each in rule.variants if each is not option)
    room = max(situation.has(option.name), (situation.gpus - others) // option.profile.gpus)
    return min(room, max(1, needed))


def _within(
    option: VariantOption, aim: int, ready: int, old: Mapping[str, VariantOption], kept: dict[str, int], gpus: int
) -> tuple[int, str]:
    """Replicas of the new variant that fit beside the old ones, of which as many go as one more new one needs."""
    size = option.profile.gpus

    def free() -> int:
        return gpus - sum(kept[name] * each.profile.gpus for name, each in old.items())

    while aim > ready and free() // size <= ready:
        spare = max((name for name in old if kept[name] > 1), key=lambda name: kept[name], default=None)
        if spare is None:
            break
        kept[spare] -= 1
    fitting = min(aim, max(0, free()) // size)
    stuck = "" if fitting > ready or fitting >= aim else f"{option.name} needs {size} GPUs beside the last old replica"
    return max(fitting, min(ready, aim)), stuck


def shares_by_capacity(
    situation: Situation, rule: VariantRule, *, among: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Shares of the Ready variants as their capacity: by what one replica carries of its slowest class."""
    weights = {
        each.name: situation.ready.get(each.name, 0) * min(one.max_rps for one in each.profile.classes)
        for each in rule.variants
        if among is None or each.name in among
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items() if weight > 0.0}
