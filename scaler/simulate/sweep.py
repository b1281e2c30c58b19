"""Sweeps: the same trace under many settings of each policy, and what may be read off them.

A Pareto sweep plays each family over its own knob and finds the frontier and every family's cheapest point within a
target of missed bins; a cold-start sweep plays policies under slower and slower starts and finds where they fall off.
Rivals are tuned in hindsight here, the product stands beside them at its default too. Policies are played by `trace`;
nothing here decides or scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from forecaster import registry
from forecaster.trace import Trace
from forecaster.types import Forecaster
from scaler.simulate import confidence, read_off
from scaler.simulate.confidence import Interval, interval
from scaler.simulate.policies import KNOBS
from scaler.simulate.read_off import Cliff, Matched
from scaler.simulate.regret import Regret
from scaler.simulate.scoring import Course, Score, needed
from scaler.simulate.spread import Task, play_all
from scaler.simulate.trace import PRODUCT, TARGET, Progress, Setting, UnknownPolicyError

PRODUCT_TARGETS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.0025, 0.001)
"""The product's knob, frugal → generous: the share of bins that it may miss."""
DEFAULT_FAMILIES = (PRODUCT, "hpa", "kpa", "seasonal-naive", "dynamo")
COLD_STARTS = tuple(timedelta(seconds=each) for each in (0, 30, 60, 90, 120, 180, 240, 300))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One policy under one cold start."""

    policy: str
    family: str
    cold_start: timedelta
    cold_start_bins: int
    course: Course
    score: Score
    regret: Regret

    @property
    def step(self) -> timedelta:
        """Width of a bin."""
        return timedelta(seconds=self.score.bin_s)

    @property
    def missed_interval(self) -> Interval:
        """Of the under-provisioned ratio."""
        known = np.isfinite(self.course.load)
        return interval((self.course.missed & known).astype(np.int64), known.astype(np.int64), step=self.step)

    @property
    def gpu_ratio_interval(self) -> Interval:
        """Of the GPU ratio."""
        known = np.isfinite(self.course.load)
        return interval(self.course.billed * known, needed(self.course.load) * known, step=self.step)

    def cost_against(self, other: Point) -> tuple[float, Interval]:
        """GPU-hours over the other's of the same window, and where that ratio lies."""
        known = np.isfinite(self.course.load)
        mine, theirs = self.course.billed * known, other.course.billed * known
        return float(mine.sum() / theirs.sum()), interval(mine, theirs, step=self.step)

    def as_json(self) -> dict[str, Any]:
        """A point of a sweep's document."""
        return {
            "policy": self.policy,
            "family": self.family,
            "cold_start_s": self.cold_start.total_seconds(),
            "cold_start_bins": self.cold_start_bins,
            **self.score.as_json(),
            "interval": {
                "under_provisioned_ratio": self.missed_interval.as_json(),
                "gpu_ratio": self.gpu_ratio_interval.as_json(digits=4),
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What all points of a sweep share."""

    trace: Trace
    setting: Setting
    capacity_rps: float
    start: datetime
    end: datetime

    def as_json(self, sweep: str, label: str | None) -> dict[str, Any]:
        """The head of a sweep's document."""
        return {
            "apiVersion": "headstart/v1",
            "kind": "SimulationSweep",
            "sweep": sweep,
            "trace": label or self.trace.name,
            "column": self.trace.column,
            "bin_s": self.trace.series.step.total_seconds(),
            "capacity_rps": self.capacity_rps,
            "score_from": self.start.isoformat(),
            "score_to": self.end.isoformat(),
            "confidence": confidence.method(),
        }


# ── Pareto ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoSweep:
    """Each family over its knob, in the order played."""

    window: Window
    points: tuple[Point, ...]
    target_ratio: float
    """Share of missed bins at which costs are compared."""

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that no other beats in one figure and equals in the other, fewest misses first."""
        return read_off.frontier(
            self.points,
            order=lambda each: (each.score.missed_bins, each.score.billed_gpu_bins),
            cost=lambda each: each.score.billed_gpu_bins,
        )

    @property
    def default(self) -> Point | None:
        """The product as it comes, if it was played."""
        return next((each for each in self.points if each.policy == PRODUCT), None)

    @property
    def matched(self) -> tuple[Matched[Point], ...]:
        """The product at its default, then each family's cheapest point within the target, tuned in hindsight."""
        return read_off.matched(
            self.points,
            self.default,
            within=lambda each: each.score.under_provisioned_ratio <= self.target_ratio,
            cost=lambda each: (each.score.billed_gpu_bins, each.score.missed_bins),
        )

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """The sweep as a document; the trace is called `label`, by its name unless given."""
        frontier = {each.policy for each in self.frontier}
        return {
            **self.window.as_json("pareto", label),
            "cold_start_s": self.window.setting.cold_start.total_seconds(),
            "target_ratio": self.target_ratio,
            "points": [{**each.as_json(), "frontier": each.policy in frontier} for each in self.points],
            "matched": [self._row(each) for each in self.matched],
        }

    def _row(self, row: Matched[Point]) -> dict[str, Any]:
        head = {"family": row.family, "tuned_in_hindsight": row.tuned_in_hindsight}
        if row.point is None:
            return {**head, "policy": None}
        score, price = row.point.score, self.window.setting.price_per_gpu_hour
        document = {
            **head,
            "policy": row.point.policy,
            "gpu_hours": round(score.gpu_hours, 3),
            "gpu_ratio": round(score.gpu_ratio, 4),
            "under_provisioned_ratio": round(score.under_provisioned_ratio, 6),
        }
        if price is not None:
            document["money"] = round(score.gpu_hours * price, 2)
        if self.default is not None:
            ratio, between = row.point.cost_against(self.default)
            document["gpu_hours_against_headstart"] = {"ratio": round(ratio, 4), "interval": between.as_json(digits=4)}
        return document


def grids(families: Sequence[str], *, own: float) -> dict[str, tuple[str, ...]]:
    """What a Pareto sweep plays of each family, frugal → generous; `UnknownPolicyError` for one that has no knob.

    Of the product that is `PRODUCT_TARGETS`, the setting's `own` missed_target_ratio under its plain name.
    """
    targets = sorted({*PRODUCT_TARGETS, own}, reverse=True)
    known: dict[str, tuple[str, ...]] = {
        PRODUCT: tuple(PRODUCT if each == own else f"{PRODUCT}:{TARGET}{each * 100.0:g}%" for each in targets),
        **KNOBS,
    }
    missing = [each for each in families if each not in known]
    if missing:
        raise UnknownPolicyError(f"no family {missing[0]!r} to sweep; there are {', '.join(known)}")
    return {each: known[each] for each in dict.fromkeys(families)}


def pareto_sweep(
    trace: Trace,
    families: Mapping[str, Sequence[str]],
    setting: Setting,
    *,
    target_ratio: float = 0.01,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> ParetoSweep:
    """Play each family's policies (see `grids`) on the trace. Equal arguments give an equal sweep.

    `processes` is how many to play in at once: those of the machine where that pays, unless given. Raises what
    `simulate` raises.
    """
    names = [(family, name) for family, policies in families.items() for name in dict.fromkeys(policies)]
    window, points = _played(
        trace, [(*each, setting) for each in names], members=members, progress=progress, processes=processes
    )
    return ParetoSweep(window=window, points=points, target_ratio=target_ratio)


# ── Cold start ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartSweep:
    """Each policy under each cold start, by policy and then from the fastest to the slowest start."""

    window: Window
    points: tuple[Point, ...]
    target_ratio: float
    """Share of missed bins beyond which a policy has fallen off."""

    @property
    def cliffs(self) -> tuple[Cliff[timedelta], ...]:
        """By policy, in the order asked: it falls off where even the low end of its interval of misses is above target.

        A product that is steered at 1 % misses 1.06 % in one window and 0.94 % in another; that is no cliff.
        """
        return read_off.cliffs(
            self.points,
            bears=lambda each: each.missed_interval.low <= self.target_ratio,
            start=lambda each: each.cold_start,
        )

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """The sweep as a document; the trace is called `label`, by its name unless given."""
        price = self.window.setting.price_per_gpu_hour
        return {
            **self.window.as_json("cold-start", label),
            "target_ratio": self.target_ratio,
            "points": [{**each.as_json(), "regret": each.regret.as_json(price=price)} for each in self.points],
            "cliffs": [
                {"policy": each.policy, "within_s": _seconds(each.within), "over_s": _seconds(each.over)}
                for each in self.cliffs
            ],
        }


def cold_starts_for(step: timedelta) -> tuple[timedelta, ...]:
    """`COLD_STARTS` that differ in whole bins, the longest of those that do not.

    A start takes the bins that it reaches into, so on one-minute bins 30 s is played as 60 s and 90 s as 120 s, and
    what is left is 0, 60, 120, 180, 240 and 300 s.
    """
    longest = {-(-each // step): each for each in COLD_STARTS}
    return tuple(longest.values())


def cold_start_sweep(
    trace: Trace,
    policies: Sequence[str],
    setting: Setting,
    *,
    cold_starts: Sequence[timedelta] | None = None,
    target_ratio: float = 0.01,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> ColdStartSweep:
    """Play each policy under each cold start, `cold_starts_for` the trace's bins unless given; else as `pareto_sweep`.

    Capacity and window are the same throughout. `setting.cold_start` is not looked at.
    """
    spans = sorted(set(cold_starts_for(trace.series.step) if cold_starts is None else cold_starts))
    asked = [
        (name.partition(":")[0], name, replace(setting, cold_start=span))
        for name in dict.fromkeys(policies)
        for span in spans
    ]
    window, points = _played(trace, asked, members=members, progress=progress, processes=processes)
    return ColdStartSweep(window=window, points=points, target_ratio=target_ratio)


# ── Both ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _played(
    trace: Trace,
    asked: Sequence[tuple[str, str, Setting]],
    *,
    members: Sequence[Forecaster] | None,
    progress: Progress | None,
    processes: int | None,
) -> tuple[Window, tuple[Point, ...]]:
    """(family, policy, setting), all played, in that order."""
    if not asked:
        raise UnknownPolicyError("a sweep needs at least one policy")
    step = trace.series.step
    found = tuple(members if members is not None else registry.members(step=step).forecasters)
    tasks = [Task(policy=name, setting=setting) for _, name, setting in asked]
    runs = play_all(trace, tasks, members=found, progress=progress, processes=processes)
    points = tuple(
        Point(
            policy=name,
            family=family,
            cold_start=setting.cold_start,
            cold_start_bins=setting.cold_start_bins(step),
            course=run.courses[name],
            score=run.scores[name],
            regret=run.regrets[name],
        )
        for (family, name, setting), run in zip(asked, runs, strict=True)
    )
    first = runs[0]
    window = Window(
        trace=trace, setting=first.setting, capacity_rps=first.capacity_rps, start=first.start, end=first.end
    )
    return window, points


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
