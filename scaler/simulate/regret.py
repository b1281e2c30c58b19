"""Regret: what a run's misses and its GPU-hours above the best plan are owed to. Arithmetic on two courses.

Everything is counted by level: replica k is needed in the bins whose load exceeds k - 1, and whoever bills k replicas
bills levels 1 to k. So every missing replica-bin and every replica-bin above the plan has one level, one bin and one
cause, and the causes add up to what `scoring` counts. Nothing here plays, decides or knows why a policy did what it
did: the cause is what would have had to be different.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from scaler.simulate.scoring import Course, needed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scaler.simulate.scoring import IntArray

    BoolArray = NDArray[np.bool_]


class Miss(StrEnum):
    """Why a replica that was needed did not serve.

    A run of level k is a stretch of measured bins [f, t] that all need k; g is the first of them that the policy
    could see, L the cold start in bins.
    """

    BOUNDS = "bounds"
    """k is above the maximum of replicas."""
    LATE_SIGNAL = "late_signal"
    """Up to g: that k is needed had not been seen when the bin began. In the light, that is the run's first bin."""
    COLD_START = "cold_start"
    """g + 1 to g + L: seen, but a pod ordered at once would still have been starting. Only a forecast helps."""
    LATE_DECISION = "late_decision"
    """After g + L: a pod ordered when it was seen would have served. It was ordered later, or let go in between."""


class Excess(StrEnum):
    """Why a replica was billed that the plan does not bill; a hold is a stretch of bins that all bill level k."""

    EARLY = "early"
    """Needed later in this hold and not yet: it came sooner than its start requires."""
    LATE_RELEASE = "late_release"
    """Needed earlier in this hold and never again."""
    BRIDGED = "bridged"
    """Needed before and after: kept over a gap that the plan releases, because it is longer than a start."""
    UNNEEDED = "unneeded"
    """Never needed in this hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """One policy's misses and excess, by cause; every mapping has all causes."""

    missed_replica_bins: Mapping[Miss, int]
    """Replicas that were needed and did not serve, summed over the missed bins."""
    missed_bins: Mapping[Miss, int]
    """The same bins once each, by the cause of the highest missing replica.

    Runs are nested (k + 1 replicas are never needed longer than k), so that is the least avoidable cause of the bin:
    it is a `late_decision` only if ordering at once would have carried it whole.
    """
    excess_replica_bins: Mapping[Excess, int]
    """Billed above the plan."""
    unbilled_replica_bins: int
    """Billed by the plan alone: pods not there, or not yet starting, for what was missed."""
    plan_replica_bins: int
    """What the plan bills."""
    bin_s: float
    gpus: int
    """GPUs of one replica."""

    @property
    def above_plan_replica_bins(self) -> int:
        """Billed more than the plan: the causes' sum less what only the plan bills. Negative where misses saved."""
        return sum(self.excess_replica_bins.values()) - self.unbilled_replica_bins

    def gpu_hours(self, replica_bins: int) -> float:
        """Replica-bins in GPU-hours."""
        return replica_bins * self.gpus * self.bin_s / 3600.0

    def as_json(self, *, price: float | None = None) -> dict[str, Any]:
        """The `regret` of a policy in `simulate -o json`; `price` of a GPU-hour adds the same as `money`.

        `missed` holds minutes and adds up to `under_provisioned_minutes`; the parts of `gpu_hours` less `unbilled` add
        up to `above_oracle`.
        """
        minutes = self.bin_s / 60.0
        hours = {cause.value: self.gpu_hours(self.excess_replica_bins[cause]) for cause in Excess}
        hours["unbilled"] = self.gpu_hours(self.unbilled_replica_bins)
        hours["above_oracle"] = self.gpu_hours(self.above_plan_replica_bins)
        document: dict[str, Any] = {
            "missed": {cause.value: round(self.missed_bins[cause] * minutes, 3) for cause in Miss},
            "missed_replica_minutes": {
                cause.value: round(self.missed_replica_bins[cause] * minutes, 3) for cause in Miss
            },
            "gpu_hours": {name: round(each, 3) for name, each in hours.items()},
        }
        if price is not None:
            document["money"] = {name: round(each * price, 2) for name, each in hours.items()}
        return document


def regret(
    course: Course,
    plan: Course,
    *,
    cold_start_bins: int,
    max_replicas: int | None = None,
    seen: BoolArray | None = None,
    bin_s: float = 60.0,
    gpus: int = 1,
) -> Regret:
    """What `course` missed, and what it billed above `plan` (`policies.oracle` of the same load), by cause.

    `seen` says after which bins the policy could see the load (all that are measured, unless given: metrics can go
    dark while the load is known to the judge). An unmeasured bin neither begins nor ends a run or a hold, and is not
    counted. The window's first bin counts as the first sight of what it needs, whatever came before it.

    `ValueError` if the two courses differ in length.
    """
    if course.load.size != plan.load.size:
        raise ValueError(f"a course of {course.load.size} bins has no regret against a plan of {plan.load.size}")
    known = np.isfinite(course.load)
    visible = known if seen is None else known & seen
    missed, missed_highest = _misses(course, known, visible, cold_start_bins=cold_start_bins, max_replicas=max_replicas)
    return Regret(
        missed_replica_bins=missed,
        missed_bins=missed_highest,
        excess_replica_bins=_excess(course, plan, known),
        unbilled_replica_bins=int(np.maximum(plan.billed - course.billed, 0)[known].sum()),
        plan_replica_bins=int(plan.billed[known].sum()),
        bin_s=bin_s,
        gpus=gpus,
    )


# ── Misses ────────────────────────────────────────────────────────────────────────────────────────────────────


def _misses(
    course: Course, known: BoolArray, visible: BoolArray, *, cold_start_bins: int, max_replicas: int | None
) -> tuple[dict[Miss, int], dict[Miss, int]]:
    """Missing replica-bins by cause, and missed bins by the cause of their highest missing replica."""
    by_level, by_bin = dict.fromkeys(Miss, 0), dict.fromkeys(Miss, 0)
    bins = np.flatnonzero(known)
    need, seen = needed(course.load)[bins], visible[bins]
    missed, serving = course.missed[bins], course.serving[bins]
    if not missed.any():
        return by_level, by_bin
    for level in range(int(serving[missed].min()) + 1, int(need[missed].max()) + 1):
        lacks = np.flatnonzero(missed & (serving < level) & (need >= level))
        if max_replicas is not None and level > max_replicas:
            causes = {Miss.BOUNDS: lacks}
        else:
            first_seen = _first_seen(bins, need >= level, seen)[lacks]
            at = bins[lacks]
            blind = at <= first_seen
            starting = ~blind & (at <= first_seen + cold_start_bins)
            causes = {
                Miss.LATE_SIGNAL: lacks[blind],
                Miss.COLD_START: lacks[starting],
                Miss.LATE_DECISION: lacks[~blind & ~starting],
            }
        for cause, where in causes.items():
            by_level[cause] += where.size
            by_bin[cause] += int(np.count_nonzero(need[where] == level))
    return by_level, by_bin


def _first_seen(bins: IntArray, needs: BoolArray, seen: BoolArray) -> IntArray:
    """For each measured bin the first one from its run's start on that could be seen, be it after the run.

    The last bin of all where none could; a bin of no meaning where the level is not needed.
    """
    position = np.arange(bins.size)
    starts = np.maximum.accumulate(np.where(needs & ~np.concatenate([[False], needs[:-1]]), position, 0))
    # The first visible bin at or after each position, then that of the run's start.
    following = np.minimum.accumulate(np.where(seen, position, bins.size - 1)[::-1])[::-1]
    return bins[following[starts]]


# ── Excess ────────────────────────────────────────────────────────────────────────────────────────────────────


def _excess(course: Course, plan: Course, known: BoolArray) -> dict[Excess, int]:
    """Replica-bins billed above the plan, by cause."""
    parts = dict.fromkeys(Excess, 0)
    bins = np.flatnonzero(known & (course.billed > plan.billed))
    if not bins.size:
        return parts
    # An unknown load reads as 1 here, which nothing is above: the plan has a first replica throughout.
    need = needed(course.load)
    for level in range(int(plan.billed[bins].min()) + 1, int(course.billed[bins].max()) + 1):
        held = course.billed >= level
        above = bins[held[bins] & (plan.billed[bins] < level)]
        if not above.size:
            continue
        before, after = _needed_in_hold(held, held & (need >= level))
        was, will = before[above], after[above]
        parts[Excess.EARLY] += int(np.count_nonzero(~was & will))
        parts[Excess.LATE_RELEASE] += int(np.count_nonzero(was & ~will))
        parts[Excess.BRIDGED] += int(np.count_nonzero(was & will))
        parts[Excess.UNNEEDED] += int(np.count_nonzero(~was & ~will))
    return parts


def _needed_in_hold(held: BoolArray, used: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Whether the hold around each bin was used before it, and whether it will be used after it."""

    def earlier(held: BoolArray, used: BoolArray) -> BoolArray:
        position = np.arange(held.size)
        last_used = np.maximum.accumulate(np.where(used, position, -1))
        last_free = np.maximum.accumulate(np.where(held, -1, position))
        return last_used > last_free

    return earlier(held, used), earlier(held[::-1], used[::-1])[::-1]
