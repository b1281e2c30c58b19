"""Limits on what is written: how fast out, no more pods where none find a GPU, and never outside minimum and maximum.

These clamp a target that the rules and the guard agreed on, in this order; the bounds come last, because they are a
promise. Nothing here looks at load or forecasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scaler.policy.types import Adjustment, At, Reason, in_words

RULE = "limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The user's limits of one workload."""

    min_replicas: int = 1
    """Least replicas; 0 lets the workload sleep and is opt-in."""
    max_replicas: int = 8
    """Most replicas, whatever happens."""

    def __post_init__(self) -> None:
        if self.min_replicas < 0:
            raise ValueError(f"bounds.min_replicas must be at least 0, got {self.min_replicas}")
        if self.max_replicas < max(1, self.min_replicas):
            raise ValueError(
                f"bounds.max_replicas must be at least {max(1, self.min_replicas)}, got {self.max_replicas}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRule:
    """How fast a workload may grow."""

    period: timedelta = timedelta(minutes=1)
    """The window in which growth is counted."""
    most_added: int = 4
    """Replicas that may be added in a period …"""
    most_growth_ratio: float = 1.0
    """… or this share of the replicas at its start, whichever is more."""
    pending_limit: timedelta = timedelta(minutes=10)
    """After pods found no GPU for so long, no more are ordered: it would only lengthen the queue."""

    def __post_init__(self) -> None:
        if self.most_added < 1:
            raise ValueError(f"step.most_added must be at least 1, got {self.most_added}")
        if not self.most_growth_ratio >= 0.0:
            raise ValueError(f"step.most_growth_ratio must be at least 0, got {self.most_growth_ratio}")


def step_out(
    target: int, rule: StepRule, desired: tuple[At, ...], *, current: int, now: datetime
) -> tuple[int, tuple[Adjustment, ...]]:
    """Cut a growth to max(most_added, most_growth_ratio · replicas) over the replicas at the period's start.

    Counted from the period's start, not from now: with four ticks a minute, 1 → 5 is reached once, not four times.
    """
    start = next((each.replicas for each in desired if now - each.at < rule.period), current)
    base = min(start, current)
    most = max(current, base + max(rule.most_added, int(base * rule.most_growth_ratio + 1e-9)))
    if target <= most:
        return target, ()
    detail = f"at most {most - base} more than the {base} of {in_words(rule.period)} ago"
    return most, (Adjustment(rule=RULE, before=target, after=most, reason=Reason.STEP_OUT, detail=detail),)


def no_gpu(
    target: int, rule: StepRule, unschedulable_since: datetime | None, *, current: int, now: datetime
) -> tuple[int, tuple[Adjustment, ...]]:
    """Stop growing while pods have found no GPU for `pending_limit`."""
    if target <= current or unschedulable_since is None or now - unschedulable_since < rule.pending_limit:
        return target, ()
    detail = f"pods find no GPU since {unschedulable_since:%H:%M:%S}"
    return current, (Adjustment(rule=RULE, before=target, after=current, reason=Reason.UNSCHEDULABLE, detail=detail),)


def under_ceiling(bounds: tuple[int, int], ceiling: int | None) -> tuple[int, int]:
    """Minimum and maximum in force where an autoscaler above has a maximum of its own, which a floor may not exceed.

    A minimum above that is kept: the write is then refused, with the reason, rather than the minimum given up.
    """
    least, most = bounds
    return least, most if ceiling is None else max(least, min(most, ceiling))


def clamp(target: int, *, least: int, most: int) -> tuple[int, tuple[Adjustment, ...]]:
    """`target` inside [least, most]."""
    if target < least:
        detail = f"minimum {least}"
        return least, (Adjustment(rule=RULE, before=target, after=least, reason=Reason.AT_MIN, detail=detail),)
    if target > most:
        detail = f"maximum {most}"
        return most, (Adjustment(rule=RULE, before=target, after=most, reason=Reason.AT_MAX, detail=detail),)
    return target, ()
