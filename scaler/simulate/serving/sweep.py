"""Sweeps in the SLO protocol: the same requests under many settings of each policy, and what may be read off them.

A Pareto sweep sets attainment against GPU-hours over each family's own knob: its frontier, and what each family pays
where it attains the same. A cold-start sweep plays policies under slower and slower starts and finds where the time to
the first token falls off. Each figure is a mean over seeds with Student's 95 % interval; ratios are paired by seed,
since under one seed all policies meet the same requests. Nothing here serves a request or judges one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from forecaster import registry
from forecaster.trace import Trace
from forecaster.types import Forecaster
from scaler.policy.capacity import CapacityProfile
from scaler.simulate import read_off
from scaler.simulate.read_off import Cliff, Matched
from scaler.simulate.serving.outcome import Interval, Outcome
from scaler.simulate.serving.run import simulate_serving
from scaler.simulate.serving.stage import ServingSetting
from scaler.simulate.spread import Tell, Work, spread
from scaler.simulate.sweep import COLD_STARTS
from scaler.simulate.trace import PRODUCT, REACTIVE, Progress, UnknownPolicyError

LIMIT_TTFT_S = 3.0
"""P90 time to the first token beyond which a policy has fallen off, unless told otherwise: the SLO of llm-d's guide."""
OWN_S_PER_SEED = 2.0
"""About how long the product takes for an hour's window with a fortnight behind it …"""
RIVAL_S_PER_SEED = 0.3
"""… and anybody else."""


def ttft_p90_s(outcome: Outcome) -> float:
    """Of all requests that arrived: whoever never finished waited for ever, and a policy that drops looks no faster."""
    finished = np.concatenate([each.ttft_s for each in outcome.slo.classes.values()])
    every = np.concatenate([finished, np.full(outcome.slo.dropped, math.inf)])
    return float(np.percentile(every, 90, method="inverted_cdf")) if every.size else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPoint:
    """One policy under one cold start, over all seeds."""

    policy: str
    family: str
    cold_start_s: float
    outcomes: tuple[Outcome, ...]
    """One a seed."""

    @property
    def attainment(self) -> Interval:
        """Share of the requests that kept their SLO."""
        return Interval.of([each.slo.attainment for each in self.outcomes])

    @property
    def violation_minutes(self) -> Interval:
        """Minutes in which fewer than 95 % of the requests that arrived attained."""
        return Interval.of([float(each.slo.violation_minutes) for each in self.outcomes])

    @property
    def gpu_hours(self) -> Interval:
        """GPU-hours of starting, serving and draining pods."""
        return Interval.of([each.gpu_hours for each in self.outcomes])

    @property
    def ttft_p90_s(self) -> Interval:
        """Seconds, see `ttft_p90_s`; infinite where it is under any seed."""
        values = [ttft_p90_s(each) for each in self.outcomes]
        return Interval(mean=math.inf, half_width=math.nan) if math.inf in values else Interval.of(values)

    def cost_against(self, other: ServingPoint) -> Interval:
        """GPU-hours over the other's, seed by seed."""
        pairs = zip(self.outcomes, other.outcomes, strict=True)
        return Interval.of([mine.gpu_hours / theirs.gpu_hours for mine, theirs in pairs])

    def as_json(self) -> dict[str, Any]:
        """A point of a sweep's document; null is not known, or infinite."""
        figures = {
            "slo_attainment": self.attainment,
            "slo_violation_minutes": self.violation_minutes,
            "gpu_hours": self.gpu_hours,
            "ttft_p90_s": self.ttft_p90_s,
        }
        return {
            "policy": self.policy,
            "family": self.family,
            "cold_start_s": self.cold_start_s,
            **{name: _known(each.mean) for name, each in figures.items()},
            "ci95": {name: _known(each.half_width) for name, each in figures.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingWindow:
    """What all points of a sweep share."""

    trace: Trace
    profile: CapacityProfile
    setting: ServingSetting
    requests_scale: float
    start: datetime
    end: datetime

    def as_json(self, sweep: str, label: str | None) -> dict[str, Any]:
        """The head of a sweep's document."""
        return {
            "apiVersion": "headstart/v1",
            "kind": "ServingSweep",
            "sweep": sweep,
            "trace": label or self.trace.name,
            "column": self.trace.column,
            "profile": self.profile.name,
            "seeds": list(self.setting.seeds),
            "events": list(self.setting.events),
            "bin_s": self.trace.series.step.total_seconds(),
            "requests_scale": self.requests_scale,
            "score_from": self.start.isoformat(),
            "score_to": self.end.isoformat(),
            "confidence": {"level": 0.95, "method": "Student's t over seeds"},
        }


# ── Pareto ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingParetoSweep:
    """Each family over its knob, in the order played."""

    window: ServingWindow
    points: tuple[ServingPoint, ...]
    target_attainment: float | None
    """Share of requests at which costs are compared; None: what the product attains at its default."""

    @property
    def frontier(self) -> tuple[ServingPoint, ...]:
        """The points that no other beats in one figure's mean and equals in the other, most attaining first."""
        return read_off.frontier(
            self.points,
            order=lambda each: (-each.attainment.mean, each.gpu_hours.mean),
            cost=lambda each: each.gpu_hours.mean,
        )

    @property
    def default(self) -> ServingPoint | None:
        """The product as it comes, if it was played."""
        return next((each for each in self.points if each.policy == PRODUCT), None)

    @property
    def target(self) -> float:
        """The share itself; 0.99 where it is left to a product that was not played."""
        if self.target_attainment is not None:
            return self.target_attainment
        return self.default.attainment.mean if self.default else 0.99

    @property
    def matched(self) -> tuple[Matched[ServingPoint], ...]:
        """The product at its default, then each family's cheapest point at the target, tuned in hindsight."""
        return read_off.matched(
            self.points,
            self.default,
            within=lambda each: each.attainment.mean >= self.target,
            cost=lambda each: (each.gpu_hours.mean, -each.attainment.mean),
        )

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """The sweep as a document; the trace is called `label`, by its name unless given."""
        frontier = {each.policy for each in self.frontier}
        return {
            **self.window.as_json("pareto", label),
            "target_attainment": round(self.target, 6),
            "points": [{**each.as_json(), "frontier": each.policy in frontier} for each in self.points],
            "matched": [self._row(each) for each in self.matched],
        }

    def _row(self, row: Matched[ServingPoint]) -> dict[str, Any]:
        head = {"family": row.family, "tuned_in_hindsight": row.tuned_in_hindsight}
        if row.point is None:
            return {**head, "policy": None}
        document = {
            **head,
            "policy": row.point.policy,
            "gpu_hours": _known(row.point.gpu_hours.mean),
            "slo_attainment": _known(row.point.attainment.mean),
        }
        if self.default is not None:
            ratio = row.point.cost_against(self.default)
            document["gpu_hours_against_headstart"] = {"ratio": _known(ratio.mean), "ci95": _known(ratio.half_width)}
        return document


def serving_pareto_sweep(
    trace: Trace,
    profile: CapacityProfile,
    families: Mapping[str, Sequence[str]],
    setting: ServingSetting,
    *,
    target_attainment: float | None = None,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> ServingParetoSweep:
    """Play each family's policies (see `sweep.grids`) request by request. Equal arguments give an equal sweep.

    `processes` is how many to play in at once: those of the machine where that pays, unless given. Raises what
    `simulate_serving` raises.
    """
    asked = [(family, name, setting) for family, names in families.items() for name in dict.fromkeys(names)]
    window, points = _played(trace, profile, asked, members=members, progress=progress, processes=processes)
    return ServingParetoSweep(window=window, points=points, target_attainment=target_attainment)


# ── Cold start ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingColdStartSweep:
    """Each policy under each cold start, by policy and then from the fastest to the slowest start."""

    window: ServingWindow
    points: tuple[ServingPoint, ...]
    limit_ttft_s: float

    @property
    def cliffs(self) -> tuple[Cliff[float], ...]:
        """By policy, in the order asked, seconds: it falls off where even the low end of its P90 TTFT is above the
        limit."""
        return read_off.cliffs(self.points, bears=self._bears, start=lambda each: each.cold_start_s)

    def _bears(self, point: ServingPoint) -> bool:
        ttft = point.ttft_p90_s
        return not ttft.mean - (ttft.half_width if math.isfinite(ttft.half_width) else 0.0) > self.limit_ttft_s

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """The sweep as a document; the trace is called `label`, by its name unless given."""
        return {
            **self.window.as_json("cold-start", label),
            "limit_ttft_s": self.limit_ttft_s,
            "points": [each.as_json() for each in self.points],
            "cliffs": [{"policy": each.policy, "within_s": each.within, "over_s": each.over} for each in self.cliffs],
        }


def serving_cold_start_sweep(
    trace: Trace,
    profile: CapacityProfile,
    policies: Sequence[str],
    setting: ServingSetting,
    *,
    cold_starts: Sequence[timedelta] = COLD_STARTS,
    limit_ttft_s: float = LIMIT_TTFT_S,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> ServingColdStartSweep:
    """Play each policy under each cold start, to which the profile's phases are stretched; else as
    `serving_pareto_sweep`. `setting.cold_start` is not looked at."""
    asked = [
        (name.partition(":")[0], name, replace(setting, cold_start=span))
        for name in dict.fromkeys(policies)
        for span in sorted(set(cold_starts))
    ]
    window, points = _played(trace, profile, asked, members=members, progress=progress, processes=processes)
    return ServingColdStartSweep(window=window, points=points, limit_ttft_s=limit_ttft_s)


# ── Both ──────────────────────────────────────────────────────────────────────────────────────────────────────

_Shared = tuple[Trace, CapacityProfile, tuple[Forecaster, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    policy: str
    setting: ServingSetting

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        own = self.policy.partition(":")[0] in (PRODUCT, REACTIVE)
        return len(self.setting.seeds) * (OWN_S_PER_SEED if own else RIVAL_S_PER_SEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A run without the trace and the profile, which the asker has."""

    outcomes: tuple[Outcome, ...]
    cold_start_s: float
    requests_scale: float
    start: datetime
    end: datetime


def _serve(shared: _Shared, task: _Task, tell: Tell) -> _Served:
    trace, profile, members = shared
    run = simulate_serving(
        trace, profile, [task.policy], task.setting, members=members, progress=lambda share, _: tell(share)
    )
    return _Served(
        outcomes=run.outcomes[task.policy],
        cold_start_s=run.cold_start_s,
        requests_scale=run.requests_scale,
        start=run.start,
        end=run.end,
    )


def _played(
    trace: Trace,
    profile: CapacityProfile,
    asked: Sequence[tuple[str, str, ServingSetting]],
    *,
    members: Sequence[Forecaster] | None,
    progress: Progress | None,
    processes: int | None,
) -> tuple[ServingWindow, tuple[ServingPoint, ...]]:
    """(family, policy, setting), all played, in that order."""
    if not asked:
        raise UnknownPolicyError("a sweep needs at least one policy")
    found = tuple(members if members is not None else registry.members(step=trace.series.step).forecasters)
    tasks = [_Task(policy=name, setting=setting) for _, name, setting in asked]
    work = Work(
        play=_serve,
        shared=(trace, profile, found),
        tasks=tasks,
        seconds=[task.seconds for task in tasks],
        said=[f"{task.policy} serves" for task in tasks],
    )
    runs = spread(work, progress=progress, processes=processes)
    points = tuple(
        ServingPoint(policy=name, family=family, cold_start_s=run.cold_start_s, outcomes=run.outcomes)
        for (family, name, _), run in zip(asked, runs, strict=True)
    )
    window = ServingWindow(
        trace=trace,
        profile=profile,
        setting=asked[0][2],
        requests_scale=runs[0].requests_scale,
        start=runs[0].start,
        end=runs[0].end,
    )
    return window, points


def _known(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
