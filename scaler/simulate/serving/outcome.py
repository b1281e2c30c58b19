"""What a request-level run comes to: one policy under one seed, and all of them side by side.

Cost is exact: pod-seconds from the order until a pod is gone, draining included, cut to the window. Load and capacity
are compared per bin as in the decision protocol, with what a replica serves at its SLO by the closed form. Over several
seeds each figure is a mean with a 95 % confidence interval of Student's t. Nothing here simulates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.trace import Trace
from scaler.policy.capacity import CapacityProfile
from scaler.simulate.policies import oracle
from scaler.simulate.regret import Regret, regret
from scaler.simulate.scoring import Course, needed
from scaler.simulate.serving.slo import SloReport

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.regret import BoolArray
    from scaler.simulate.scoring import IntArray
    from scaler.simulate.serving.pool import Pool
    from scaler.simulate.serving.stage import Scene

# fmt: off
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
"""Two-sided 95 % quantiles of Student's t with 1 … 30 degrees of freedom."""
T_95_MANY = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStart:
    """One pod that was ordered in the window: when, its phases, and when it served; seconds since the window opened."""

    ordered_s: float
    phases_s: tuple[float, ...]
    """Node wait, image pull, weights, warm-up."""
    ready_s: float | None
    """None: cancelled before it served, or the run ended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One policy under one seed."""

    course: Course
    """At each bin's start, after the decision made there: pods that serve, and pods that are billed (draining too)."""
    billed_s: FloatArray
    """Pod-seconds in each bin."""
    slo: SloReport
    seen: BoolArray
    """After which bins metrics showed them."""
    bin_s: float
    gpus: int
    scale_events: int
    pod_starts: int
    starts: tuple[PodStart, ...]
    drained_s: float
    """Pod-seconds of draining pods, part of the bill."""
    regret: Regret
    """What its bins with more load than capacity, and its bill above the oracle's, are owed to."""

    @classmethod
    def of(
        cls,
        pool: Pool,
        slo: SloReport,
        *,
        scene: Scene,
        serving: IntArray,
        billed: IntArray,
        before: int,
    ) -> Outcome:
        """What a pool that lived through the window leaves."""
        load, bin_s, gpus = scene.load, scene.stage.bin_s, scene.stage.profile.gpus
        course = Course(load=load, serving=serving, billed=billed, before=before)
        end_s = load.size * bin_s
        bill = np.zeros(load.size)
        for pod in pool.pods:
            bill += _overlap_s(pod.ordered_s, min(pod.gone_s, end_s), load.size, bin_s)
        drained = (min(pod.gone_s, end_s) - pod.drained_s for pod in pool.pods if not math.isnan(pod.drained_s))
        starts = tuple(
            PodStart(
                ordered_s=pod.ordered_s,
                phases_s=pod.phases_s,
                ready_s=pod.ready_s if pod.ready_s <= min(pod.gone_s, end_s) else None,
            )
            for pod in pool.pods
            if any(pod.phases_s)
        )
        return cls(
            course=course,
            billed_s=bill,
            slo=slo,
            seen=scene.seen,
            bin_s=bin_s,
            gpus=gpus,
            scale_events=pool.scale_events,
            pod_starts=pool.pod_starts,
            starts=starts,
            drained_s=max(0.0, math.fsum(drained)),
            regret=_regret(course, scene),
        )

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of starting, serving and draining pods in bins whose load is known."""
        return float(self.billed_s[np.isfinite(self.course.load)].sum()) * self.gpus / 3600.0

    @property
    def gpu_ratio(self) -> float:
        """The same over the fewest replicas that carry each bin at the profile's rates: 1 is a perfect, instant one."""
        known = np.isfinite(self.course.load)
        least_s = int(needed(self.course.load)[known].sum()) * self.bin_s
        return float(self.billed_s[known].sum()) / least_s if least_s else math.nan

    @property
    def under_provisioned_ratio(self) -> float:
        """Share of known bins whose load exceeds what serves at their start, at the profile's rates."""
        known = np.isfinite(self.course.load)
        return float(self.course.missed[known].mean()) if known.any() else math.nan

    @property
    def figures(self) -> dict[str, float]:
        """The main figures, those that are averaged over seeds."""
        missed = float((self.course.missed & np.isfinite(self.course.load)).sum())
        return {
            "slo_attainment": self.slo.attainment,
            "slo_violation_minutes": float(self.slo.violation_minutes),
            "dropped_requests": float(self.slo.dropped),
            "requests": float(self.slo.requests),
            "gpu_hours": self.gpu_hours,
            "gpu_ratio": self.gpu_ratio,
            "under_provisioned_ratio": self.under_provisioned_ratio,
            "under_provisioned_minutes": missed * self.bin_s / 60.0,
            "scale_events": float(self.scale_events),
            "pod_starts": float(self.pod_starts),
        }


def _regret(course: Course, scene: Scene) -> Regret:
    """Against perfect foresight of the same arrivals, within the same bounds."""
    stage = scene.stage
    plan = oracle(stage.plannable(course.load), stage.cold_start_bins)
    return regret(
        course,
        replace(plan, load=course.load),
        cold_start_bins=stage.cold_start_bins,
        max_replicas=stage.setting.max_replicas,
        seen=scene.seen,
        bin_s=stage.bin_s,
        gpus=stage.profile.gpus,
    )


def _overlap_s(begin_s: float, end_s: float, bins: int, bin_s: float) -> FloatArray:
    """Seconds of [begin_s, end_s) in each bin."""
    edges = np.clip(np.arange(bins + 1) * bin_s, begin_s, max(begin_s, end_s))
    overlap: FloatArray = np.diff(edges)
    return overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure over seeds."""

    mean: float
    half_width: float
    """Of the 95 % confidence interval; NaN with one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's t over the values that are known."""
        known = [each for each in values if math.isfinite(each)]
        if not known:
            return cls(mean=math.nan, half_width=math.nan)
        mean = math.fsum(known) / len(known)
        if len(known) < 2:
            return cls(mean=mean, half_width=math.nan)
        freedom = len(known) - 1
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in known) / freedom)
        quantile = T_95[freedom - 1] if freedom <= len(T_95) else T_95_MANY
        return cls(mean=mean, half_width=quantile * deviation / math.sqrt(len(known)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRun:
    """A trace, lived through by policies request by request, once a seed."""

    trace: Trace
    profile: CapacityProfile
    seeds: tuple[int, ...]
    events: tuple[str, ...]
    cold_start_s: float
    requests_scale: float
    """Factor on the trace's requests."""
    start: datetime
    """Where the window opens."""
    outcomes: Mapping[str, tuple[Outcome, ...]]
    """By policy, one a seed, in the order of `seeds`."""

    @property
    def end(self) -> datetime:
        """Where it ends, exclusive."""
        first = next(iter(self.outcomes.values()))[0]
        return self.start + self.trace.series.step * first.course.load.size

    def intervals(self, policy: str) -> dict[str, Interval]:
        """Each main figure of a policy over all seeds."""
        figures = [each.figures for each in self.outcomes[policy]]
        return {name: Interval.of([each[name] for each in figures]) for name in figures[0]}

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """`headstart simulate --profile -o json`; the trace is called `label`, by its name unless given."""
        return {
            "apiVersion": "headstart/v1",
            "kind": "Simulation",
            "trace": label or self.trace.name,
            "column": self.trace.column,
            "profile": self.profile.name,
            "seeds": list(self.seeds),
            "events": list(self.events),
            "cold_start_s": self.cold_start_s,
            "bin_s": self.trace.series.step.total_seconds(),
            "requests_scale": self.requests_scale,
            "score_from": self.start.isoformat(),
            "score_to": self.end.isoformat(),
            "policies": [{"name": name, **self._policy_json(name)} for name in self.outcomes],
        }

    def _policy_json(self, name: str) -> dict[str, Any]:
        intervals = self.intervals(name)
        outcomes = self.outcomes[name]
        classes = [{key: each.as_json() for key, each in outcome.slo.classes.items()} for outcome in outcomes]
        document: dict[str, Any] = {key: round(each.mean, 6) for key, each in intervals.items()}
        if len(outcomes) > 1:
            document["ci95"] = {key: round(each.half_width, 6) for key, each in intervals.items()}
        document["classes"] = _mean_of(classes)
        document["regret"] = _mean_of([outcome.regret.as_json() for outcome in outcomes])
        return document

    def rows(self) -> Iterator[tuple[str, str, float, str, int, int, int, int]]:
        """A row a policy, seed and bin: `COLUMNS`. Load is in exactly full replicas, NaN where it is not known."""
        step = self.trace.series.step
        for policy, outcomes in self.outcomes.items():
            for seed, outcome in zip(self.seeds, outcomes, strict=True):
                course = outcome.course
                columns = (course.load.tolist(), course.serving.tolist(), course.billed.tolist())
                for index, (load, serving, billed) in enumerate(zip(*columns, strict=True)):
                    at = (self.start + step * index).isoformat()
                    yield self.trace.name, at, load, policy, seed, serving, billed, int(course.missed[index])


COLUMNS = ("unique_id", "ds", "y", "policy", "seed", "serving", "billed", "missed")
"""Of `ServingRun.rows`, the Nixtla shape first."""


def _mean_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Documents of one shape as one, each number the mean of what is known."""
    means: dict[str, Any] = {}
    for key, first in documents[0].items():
        values = [each[key] for each in documents]
        means[key] = _mean_of(values) if isinstance(first, Mapping) else round(Interval.of(values).mean, 6)
    return means
