"""The demo: a seeded week of five workloads, lived through by every policy, and what came of it.

The product runs through the daemon's own tick; the competitors through the same protocol on the same traffic. The
week begins with nothing known, so its first days show the product learning; the last days are scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecaster import registry
from forecaster.types import Forecaster
from scaler.loop import Fleet, TickReport
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import Bounds
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.steering import SteeringRule
from scaler.policy.types import Mode
from scaler.ports import Forecasts
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.demo_fleet import FLEET, START, DemoWorkload, draw
from scaler.simulate.policies import PLANS, Hpa, opening_replicas, replay
from scaler.simulate.product import EngineForecasts, NoForecasts, policy_of, reactive, run
from scaler.simulate.recording import Recorder, Track
from scaler.simulate.scoring import Course, Score, score, total

if TYPE_CHECKING:
    from forecaster.types import FloatArray

Progress = Callable[[float, str], None]
"""Told how far the demo is, 0 to 1, and what it does."""

DAYS = 7
LEARNING_DAYS = 3
_BINS_A_DAY = 1440
MISSED_TARGET_RATIO = 0.0075
"""What the demo's people ask for: half the default of missed minutes; the forecast then costs what reacting costs."""
MOST_REPLICAS = 64
SLO = Slo(e2e_p95_s=1.2)

POLICIES = ("headstart", "reactive", "hpa", "static-peak", "oracle")
"""In the order of the report; the demo's `hpa` stands at its usual 70 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRun:
    """One workload's week: its traffic, what each policy made of it, and the product's own record."""

    workload: DemoWorkload
    courses: Mapping[str, Course]
    """By policy, over the whole week."""
    scores: Mapping[str, Score]
    """By policy, over the scored days."""
    track: Track

    @property
    def name(self) -> str:
        """The workload's name."""
        return self.workload.virtual.name


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRun:
    """The whole demo as data."""

    seed: int
    start: datetime
    days: int
    learning_days: int
    missed_target_ratio: float
    runs: tuple[WorkloadRun, ...]

    @property
    def scores(self) -> Mapping[str, Score]:
        """By policy, summed over the workloads."""
        return {name: total(each.scores[name] for each in self.runs) for name in POLICIES}

    @property
    def score_from(self) -> datetime:
        """Where the scored days begin."""
        return self.start + timedelta(days=self.learning_days)

    @property
    def score_to(self) -> datetime:
        """Where they end, exclusive."""
        return self.start + timedelta(days=self.days)

    def as_json(self) -> dict[str, Any]:
        """`headstart demo -o json`: sums over the workloads, and each of them. `cold_start_s` is the mean."""
        cold_starts_s = [_cold_start_s(each.workload.virtual) for each in self.runs]
        return {
            "apiVersion": "headstart/v1",
            "kind": "Simulation",
            "trace": f"demo week, seed {self.seed}",
            "seed": self.seed,
            "cold_start_s": sum(cold_starts_s) / len(cold_starts_s),
            "score_from": self.score_from.isoformat(),
            "score_to": self.score_to.isoformat(),
            "missed_target_ratio": self.missed_target_ratio,
            "policies": [{"name": name, **each.as_json()} for name, each in self.scores.items()],
            "workloads": [
                {
                    "name": each.name,
                    "cold_start_s": cold_start_s,
                    "gpus_per_replica": each.workload.virtual.profile.gpus,
                    "policies": [{"name": name, **result.as_json()} for name, result in each.scores.items()],
                }
                for each, cold_start_s in zip(self.runs, cold_starts_s, strict=True)
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What `headstart demo` shows: the run, where its report lies, and how long it took."""

    run: DemoRun
    report: Path
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        """See `DemoRun.as_json`; with the report's path."""
        return {**self.run.as_json(), "report": str(self.report), "wall_s": round(self.wall_s, 1)}


def run_demo(out: Path, seed: int = 1, progress: Progress | None = None) -> DemoResult:
    """Simulate the week and write `out`/report.html (`out` is created). Raises `OSError` if it cannot be written."""
    from scaler.simulate.report import render  # Jinja is not needed to simulate

    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    week = simulate_week(seed, progress=progress)
    report = out / "report.html"
    report.write_text(render(week), encoding="utf-8")
    if progress is not None:
        progress(1.0, "report written")
    return DemoResult(run=week, report=report, wall_s=time.monotonic() - began)


def simulate_week(
    seed: int = 1,
    *,
    days: int = DAYS,
    learning_days: int = LEARNING_DAYS,
    missed_target_ratio: float = MISSED_TARGET_RATIO,
    members: tuple[Forecaster, ...] | None = None,
    progress: Progress | None = None,
) -> DemoRun:
    """Every policy over the same `days` of traffic, the first `learning_days` of them not scored.

    `members` are the engine's models, the shipped ones unless given. Equal arguments give an equal run.
    """
    if not 0 <= learning_days < days:
        raise ValueError(f"need 0 ≤ learning_days < days, got {learning_days} and {days}")
    tell = progress or _silent
    tell(0.0, "drawing a week of traffic")
    drawn = [draw(plan, start=START, days=days, seed=seed) for plan in FLEET]
    workloads = [each.virtual for each in drawn]
    # Each workload for itself, as the rivals are played: the fleet's change budget is no part of the comparison.
    fleet = Fleet(
        workloads=tuple(_policy(each, missed_target_ratio) for each in drawn), budget=BudgetRule(most_inward_ratio=1.0)
    )
    recorder = Recorder(workloads)
    engine = EngineForecasts(workloads, registry.members().forecasters if members is None else members)

    def headstart_saw(report: TickReport) -> None:
        recorder.observe(report)
        _tell_hourly(tell, report, 0.02, 0.88, days, "headstart decides")

    def reactive_saw(report: TickReport) -> None:
        _tell_hourly(tell, report, 0.88, 0.97, days, "the reactive rules decide")

    courses = {
        "headstart": _live(fleet, workloads, engine, headstart_saw),
        "reactive": _live(reactive(fleet), workloads, NoForecasts(), reactive_saw),
    }
    tell(0.97, "HPA, a fixed fleet and the oracle")
    courses |= _compete(workloads)
    tracks, first = recorder.tracks(), learning_days * _BINS_A_DAY
    return DemoRun(
        seed=seed,
        start=START,
        days=days,
        learning_days=learning_days,
        missed_target_ratio=missed_target_ratio,
        runs=tuple(_workload_run(each, courses, tracks[each.virtual.name], first) for each in drawn),
    )


def _policy(drawn: DemoWorkload, missed_target_ratio: float) -> WorkloadPolicy:
    """The demo's settings: the product's defaults, active, with an SLO, the calendar and a target of missed minutes."""
    settings = WorkloadPolicy(
        workload=drawn.virtual.name,
        profile=drawn.virtual.profile,
        mode=Mode.ACTIVE,
        latency=LatencyRule(slos=(SLO,)),
        scheduled=ScheduledRule(events=drawn.events),
        steering=SteeringRule(missed_target_ratio=missed_target_ratio),
        bounds=Bounds(min_replicas=1, max_replicas=MOST_REPLICAS),
    )
    return policy_of(drawn.virtual, settings)


def _live(
    fleet: Fleet,
    workloads: Sequence[VirtualWorkload],
    forecasts: Forecasts,
    observe: Callable[[TickReport], None],
) -> Mapping[str, Course]:
    """The whole week through the daemon's tick."""
    opening = {each.name: opening_replicas(_load(each)) for each in workloads}
    cluster = VirtualCluster(workloads, replicas=opening)
    run(fleet, cluster, forecasts, observe=observe)
    return {each.name: cluster.course(each.name) for each in workloads}


def _compete(workloads: Sequence[VirtualWorkload]) -> dict[str, Mapping[str, Course]]:
    """The policies that are not ours, over the same week."""
    hpa = Hpa()
    courses: dict[str, Mapping[str, Course]] = {
        "hpa": {
            each.name: replay(
                hpa,
                _load(each),
                cold_start_bins=each.cold_start_bins,
                seen=each.seen_rps().values / each.max_rps,
            )
            for each in workloads
        }
    }
    for name in ("static-peak", "oracle"):
        courses[name] = {each.name: PLANS[name](_load(each), each.cold_start_bins) for each in workloads}
    return courses


def _workload_run(
    drawn: DemoWorkload, courses: Mapping[str, Mapping[str, Course]], track: Track, first: int
) -> WorkloadRun:
    """One workload's results; bins from `first` on are scored."""
    virtual = drawn.virtual
    own = {policy: courses[policy][virtual.name] for policy in POLICIES}
    bins = virtual.demand_rps.values.size
    scores = {policy: score(course.window(first, bins), gpus=virtual.profile.gpus) for policy, course in own.items()}
    return WorkloadRun(workload=drawn, courses=own, scores=scores, track=track)


def _load(workload: VirtualWorkload) -> FloatArray:
    return workload.demand_rps.values / workload.max_rps


def _cold_start_s(workload: VirtualWorkload) -> float:
    return workload.cold_start_bins * workload.demand_rps.step.total_seconds()


def _tell_hourly(tell: Progress, report: TickReport, first: float, last: float, days: int, what: str) -> None:
    """Progress between the shares `first` and `last`, once a simulated hour."""
    if report.at.minute:
        return
    passed = (report.at - START) / timedelta(days=days)
    tell(first + (last - first) * passed, f"{what}, day {int(passed * days - 1e-9) + 1} of {days}")


def _silent(share: float, what: str) -> None:
    del share, what
