"""The fleet's GPU budget: who may grow when not everybody can. It only ever cuts growth, never takes a replica away.

Cut by priority, the same answer for the same wishes whatever their order: higher priority first; within a priority
one replica at a time, to whoever holds the smallest share of what it asked for, ties by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaler.policy.types import Adjustment, Decision, PolicyState, Reason

RULE = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule:
    """Parameters of the fleet budget."""

    gpus: int | None = None
    """GPUs that all workloads together may hold; None for no limit."""

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"budget.gpus must be at least 1, got {self.gpus}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One workload's wish: from `current` to `target` replicas of `gpus` each."""

    workload: str
    current: int
    target: int
    gpus: int
    priority: int


def grants(wishes: Sequence[Wish], rule: BudgetRule) -> dict[str, int]:
    """Replicas granted to each workload.

    What shrinks is granted as it is, and its GPUs count as held until the pods are gone: never more than the budget
    at any moment. A fleet that already holds more than its budget grows nowhere.
    """
    granted = {wish.workload: min(wish.current, wish.target) for wish in wishes}
    if rule.gpus is None:
        return {wish.workload: wish.target for wish in wishes}
    free = rule.gpus - sum(wish.current * wish.gpus for wish in wishes)
    for priority in sorted({wish.priority for wish in wishes}, reverse=True):
        peers = [wish for wish in wishes if wish.priority == priority]
        while True:
            fitting = [wish for wish in peers if granted[wish.workload] < wish.target and wish.gpus <= free]
            if not fitting:
                break
            first = min(fitting, key=lambda wish: (granted[wish.workload] / wish.target, wish.workload))
            granted[first.workload] += 1
            free -= first.gpus
    return granted


def grant(decision: Decision, state: PolicyState, replicas: int | None) -> tuple[Decision, PolicyState]:
    """`decision` cut to the `replicas` that the fleet granted (None: no limit), and the state that remembers it."""
    if replicas is None or decision.target is None or replicas >= decision.target:
        return decision, replace(state, over_budget=False)
    clamped = Adjustment(
        rule=RULE,
        before=decision.target,
        after=replicas,
        reason=Reason.GPU_BUDGET,
        detail=f"the fleet's GPU budget allows {replicas}",
    )
    cut = replace(
        decision,
        target=replicas,
        reason=Reason.GPU_BUDGET,
        adjustments=(*decision.adjustments, clamped),
    )
    # Only what is left of the order will be written; what was cut to nothing will not be.
    pending = state.pending if state.pending != decision.target else replicas if replicas != decision.current else None
    return cut, replace(state, over_budget=True, pending=pending)
