"""Everything that the lab's report shows, as one value; `lab_page.render` makes it a page.

It holds a finished run and answers what the headline asks of it: who is the subject, who the rival, what nobody beats.
Figures come from `scoring`, causes from `regret`, reasons from the decisions; nothing here plays or judges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scaler.simulate.recording import Track
from scaler.simulate.scoring import Course

if TYPE_CHECKING:
    from forecaster.types import FloatArray

PRODUCT = "headstart"
HINDSIGHT = ("static-peak", "static-mean", "oracle", "oracle-instant")
"""Policies that know the future: shown, but neither rivals nor part of the frontier."""

CAPTIONS: Final[Mapping[str, str]] = {
    "headstart": "the product: forecast, load and latency rules, at its default settings",
    "reactive": "the product with its forecast switched off",
    "hpa": "the Kubernetes HPA with its tolerance, its five-minute stabilisation and its limits",
    "hpa-plain": "the HPA's formula alone: out at once, in to the highest of five bins",
    "hpa-pods": "the Kubernetes HPA on a metric that its pods report, averaged over them",
    "llmd": "llm-d's law: 90th percentile of latency over its SLO, out above one ratio, in below another",
    "kpa": "Knative's autoscaler with its stable and its panic window",
    "last-value": "whatever the last bin needed, out and in at once",
    "seasonal-naive": "the HPA on the larger of now and of the same time yesterday",
    "dynamo": "NVIDIA Dynamo's planner: one forecast interval ahead, then single steps",
    "schedule": "a timetable of what each hour of the day needed before",
    "static-peak": "a fixed fleet for the 99.9 % quantile, known in hindsight",
    "static-mean": "a fixed fleet for the mean, known in hindsight",
    "oracle": "knows the future, but its pods still take their time",
    "oracle-instant": "knows the future, and its pods start at once",
}
"""What each family of policies is, for people."""


class SweepPoint(NamedTuple):
    """One setting of a family, played: such as ("hpa:0.6", 0.0021, 1.66)."""

    name: str
    missed_ratio: float
    gpu_ratio: float


class CliffPoint(NamedTuple):
    """One policy with one cold start."""

    cold_start_s: float
    missed_ratio: float
    gpu_ratio: float
    slo_attainment: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """Something that was done to the run on purpose, from `start` to `end`."""

    name: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPolicy:
    """One policy of the report.

    `score` is `Score.as_json()`, and `money` beside it if GPU-hours have a price. `regret` is `Regret.as_json()`, of
    which `missed` and `gpu_hours` are shown. `slo` has the figures of a run with requests: `slo_attainment` (ratio),
    `slo_violation_minutes`, `dropped_requests`. `track` says what the product decided in each bin of `course`, and why.
    """

    name: str
    score: Mapping[str, Any]
    course: Course
    caption: str = ""
    """`CAPTIONS` of its family unless given."""
    regret: Mapping[str, Any] | None = None
    slo: Mapping[str, float] | None = None
    track: Track | None = None

    def __post_init__(self) -> None:
        bins = self.course.load.size
        if self.track is not None and self.track.median.size != bins:
            raise ValueError(f"{self.name}: the track has {self.track.median.size} bins and the course {bins}")

    @property
    def family(self) -> str:
        """ "hpa" of "hpa:0.7"."""
        return self.name.partition(":")[0]

    @property
    def hindsight(self) -> bool:
        """Whether it knows what nobody can."""
        return self.family in HINDSIGHT

    @property
    def missed_ratio(self) -> float:
        """Share of bins that were under-provisioned."""
        return float(self.score["under_provisioned_ratio"])

    @property
    def gpu_ratio(self) -> float:
        """GPU time over the least that could have carried every bin."""
        return float(self.score["gpu_ratio"])


@dataclass(frozen=True, slots=True, kw_only=True)
class LabReport:
    """Everything that the page shows."""

    trace: str
    column: str
    start: datetime
    """Where the scored window begins."""
    step: timedelta
    load: FloatArray
    """Load in exactly full replicas, one a bin; NaN where it is not known."""
    policies: tuple[LabPolicy, ...]
    """The one called `headstart` is the subject; the first, where there is none."""
    capacity_rps: float
    cold_start: timedelta
    seed: int
    version: str
    command: str
    """What repeats the run, as typed."""
    sweep: Mapping[str, Sequence[SweepPoint]] | None = None
    """By family, in the order of its knob."""
    cliff: Mapping[str, Sequence[CliffPoint]] | None = None
    """By policy, from short to long cold starts."""
    events: tuple[Injection, ...] = ()
    target_ratio: float = 0.01
    """The share of missed bins that the product steers to."""
    currency: str = ""
    """Stands before amounts of money, such as "$"."""
    facts: Mapping[str, str] | None = None
    """More of what was run, such as {"profile": "…"}."""

    def __post_init__(self) -> None:
        sizes = {self.load.size, *(each.course.load.size for each in self.policies)}
        if not self.policies or len(sizes) != 1:
            raise ValueError(f"a report needs policies over equal bins, got {len(self.policies)} over {sorted(sizes)}")

    @property
    def end(self) -> datetime:
        """Where the window ends, exclusive."""
        return self.start + self.step * self.load.size

    @property
    def subject(self) -> LabPolicy:
        """The policy that the page is about."""
        return next((each for each in self.policies if each.name == PRODUCT), self.policies[0])

    @property
    def rival(self) -> LabPolicy | None:
        """The other one that the headline compares it with: an HPA where there is one."""
        others = [each for each in self.policies if each is not self.subject and not each.hindsight]
        return next((each for each in others if each.family == "hpa"), others[0] if others else None)

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """Every setting that was played, each once, without those that know the future."""
        played = [SweepPoint(each.name, each.missed_ratio, each.gpu_ratio) for each in self.policies]
        swept = [SweepPoint(*point) for line in (self.sweep or {}).values() for point in line]
        known = {point.name: point for point in (*swept, *played) if _both_known(point)}
        return tuple(each for each in known.values() if each.name.partition(":")[0] not in HINDSIGHT)

    @property
    def as_safe(self) -> SweepPoint | None:
        """The cheapest setting of anybody else that misses no more than the subject."""
        mine = self.subject
        safe = [
            each
            for each in self.points
            if each.name.partition(":")[0] != mine.family and each.missed_ratio <= mine.missed_ratio
        ]
        return min(safe, key=lambda each: each.gpu_ratio, default=None)


def frontier(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """Those that no other beats in both figures, from cheap to safe."""
    best: list[SweepPoint] = []
    for point in sorted(points, key=lambda each: (each.gpu_ratio, each.missed_ratio)):
        if not best or point.missed_ratio < best[-1].missed_ratio:
            best.append(point)
    return best


def _both_known(point: SweepPoint) -> bool:
    return math.isfinite(point.missed_ratio) and math.isfinite(point.gpu_ratio)
