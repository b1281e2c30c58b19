"""The fleet's budgets: who may grow when not everybody can, and how much may go at once. Both only ever cut.

Growth is cut to the GPUs that there are, and never takes a replica away. Releases are cut to a share of the fleet's
GPUs in a period, so that one error that all workloads have in common (a metric that reads low, a defect of ours)
cannot take the fleet down; they are never turned into growth. Higher priority grows first and releases last; within a
priority one replica at a time, to whoever has the smallest share of what it asked for, ties by name: the same answer
for the same wishes whatever their order. See docs/decisions/0016.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scaler.policy.types import RELEASES_KEPT, Action, Adjustment, At, Decision, PolicyState, Reason, in_words

RULE = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule:
    """Parameters of the fleet's budgets."""

    gpus: int | None = None
    """GPUs that all workloads together may hold; None for no limit."""
    most_inward_ratio: float = 0.2
    """Share of the GPUs of all active workloads that may be released within inward_period; one workload may always
    release what its own rules let go, so a fleet of one is not cut."""
    inward_period: timedelta = timedelta(minutes=10)
    """The window in which releases are counted, up to an hour."""

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"budget.gpus must be at least 1, got {self.gpus}")
        if not 0.0 < self.most_inward_ratio <= 1.0:
            raise ValueError(f"budget.most_inward_ratio must lie in (0, 1], got {self.most_inward_ratio}")
        if not timedelta(0) < self.inward_period <= RELEASES_KEPT:
            longest = in_words(RELEASES_KEPT)
            raise ValueError(f"budget.inward_period must lie in (0, {longest}], got {in_words(self.inward_period)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One workload's wish: from `current` to `target` replicas of `gpus` each.

    `most` is the user's own maximum: what lies above it goes whatever the budget says, None where nothing does.
    `counted` workloads make up the fleet that releases are a share of: those that we write and have seen. `released`
    is what each of them let go lately, `refused` that its last release was ordered and did not happen; `unseen` of its
    `current` replicas were ordered away and not looked at since: they are in `released` too.
    """

    workload: str
    current: int
    target: int
    gpus: int
    priority: int
    most: int | None = None
    counted: bool = True
    released: tuple[At, ...] = ()
    refused: bool = False
    unseen: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """`have` of the `want` replicas that a workload asked for are dealt; lower `rank` is served first."""

    workload: str
    rank: tuple[int, ...]
    gpus: int
    have: int
    want: int


def grants(wishes: Sequence[Wish], rule: BudgetRule) -> dict[str, int]:
    """Replicas granted to each workload by the GPU budget.

    What shrinks is granted as it is, and its GPUs count as held until the pods are gone: never more than the budget
    at any moment. A fleet that already holds more than its budget grows nowhere.
    """
    if rule.gpus is None:
        return {wish.workload: wish.target for wish in wishes}
    free = rule.gpus - sum(wish.current * wish.gpus for wish in wishes)
    asks = (
        _Ask(workload=w.workload, rank=(-w.priority,), gpus=w.gpus, have=w.current, want=w.target)
        for w in wishes
        if w.target > w.current
    )
    return {wish.workload: wish.target for wish in wishes} | _dealt(asks, free)


def releases(wishes: Sequence[Wish], rule: BudgetRule, *, now: datetime) -> dict[str, int]:
    """Replicas that each counted workload which shrinks may go down to: at least its `target`, at most its `current`.

    Together they release in any `inward_period` at most `most_inward_ratio` of the GPUs that the fleet had, or what
    the one workload that releases most would release alone, whichever is more: 20 % of a fleet of four GPUs is none.
    A release that was ordered and refused goes last, or it would spend the others' budget at every tick.
    """
    fleet = [wish for wish in wishes if wish.counted]
    spent = {wish.workload: wish.gpus * _replicas_since(wish.released, now - rule.inward_period) for wish in fleet}
    had = sum(wish.gpus * (wish.current - wish.unseen) for wish in fleet) + sum(spent.values())
    alone = max((spent[w.workload] + w.gpus * max(0, w.current - w.target) for w in fleet), default=0)
    # 0.29 * 100 is 28.999999999999996: a share that is met exactly counts as met.
    left = max(int(had * rule.most_inward_ratio + 1e-9), alone) - sum(spent.values())
    asks = []
    for wish in fleet:
        if wish.target >= wish.current:
            continue
        forced = max(0, wish.current - max(wish.target, wish.current if wish.most is None else wish.most))
        left -= forced * wish.gpus
        rank = (int(wish.refused), wish.priority)
        going = wish.current - wish.target
        asks.append(_Ask(workload=wish.workload, rank=rank, gpus=wish.gpus, have=forced, want=going))
    dealt = _dealt(asks, left)
    return {wish.workload: wish.current - dealt[wish.workload] for wish in fleet if wish.workload in dealt}


def grant(decision: Decision, state: PolicyState, replicas: int | None) -> tuple[Decision, PolicyState]:
    """`decision` cut to the `replicas` that the fleet granted (None: no limit), and the state that remembers it."""
    current, target = decision.current, decision.target
    state = replace(state, over_budget=False)
    if current is None or target is None:
        return decision, state
    if replicas is not None and replicas < target and target > current:
        detail = f"the fleet's GPU budget allows {replicas}"
        cut = _cut(decision, replicas, Reason.GPU_BUDGET, detail)
        asked = replicas if state.asked else state.asked  # a sleeper's zero stays until it is seen awake
        state = replace(state, over_budget=True, asked=asked, pending=_pending(state, decision, replicas))
        return replace(cut, reason=Reason.GPU_BUDGET), state
    if replicas is not None and replicas > target and target < current:
        detail = f"{current - replicas} of {current - target} may go now, the fleet's change budget says"
        pending = _pending(state, decision, replicas)
        decision = _cut(decision, replicas, Reason.FLEET_CHANGE, detail)
        if decision.action is Action.HOLD:
            decision = replace(decision, reason=Reason.FLEET_CHANGE)
        # What is left after the release is what the coming minute is judged by: more is left than was asked for.
        ready = replicas if state.ready == target else state.ready
        state = replace(state, asked=replicas, ready=ready, pending=pending)
        target = replicas
    if target < current:
        state = replace(state, released=(*state.released, At(at=decision.at, replicas=current - target)))
    return decision, state


def _pending(state: PolicyState, decision: Decision, left: int) -> int | None:
    """Only what is left of the order will be written; what was cut to nothing will not be."""
    if state.pending != decision.target:
        return state.pending
    return left if left != decision.current else None


def _replicas_since(released: Iterable[At], since: datetime) -> int:
    return sum(each.replicas for each in released if each.at > since)


def _dealt(asks: Iterable[_Ask], left: int) -> dict[str, int]:
    """What each has when `left` GPUs have been dealt. Who has no room for one more replica is passed over for good:
    what is left never grows again."""
    have, queue = {}, []
    for ask in asks:
        have[ask.workload] = ask.have
        if ask.have < ask.want:
            queue.append((ask.rank, ask.have / ask.want, ask.workload, ask))
    heapq.heapify(queue)
    while queue:
        _, _, _, ask = heapq.heappop(queue)
        if ask.gpus > left:
            continue
        left -= ask.gpus
        ask = replace(ask, have=ask.have + 1)
        have[ask.workload] = ask.have
        if ask.have < ask.want:
            heapq.heappush(queue, (ask.rank, ask.have / ask.want, ask.workload, ask))
    return have


def _cut(decision: Decision, replicas: int, reason: Reason, detail: str) -> Decision:
    before = decision.target if decision.target is not None else replicas
    clamped = Adjustment(rule=RULE, before=before, after=replicas, reason=reason, detail=detail)
    return replace(decision, target=replicas, adjustments=(*decision.adjustments, clamped))
