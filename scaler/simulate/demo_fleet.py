"""The demo's five workloads: plausible LLM traffic, seeded, drawn before any policy is asked.

Each is a habit (hours, weekdays), slow wander, arrivals in batches, peaks that come back by the clock with their own
jitter, and bursts that nobody announces. One promotion is in the calendar; one night the metrics go dark. Nothing in
here looks at what a policy does with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from forecaster.synthetic import EventKind, Promotion, TrafficSpec, expected_rps, generate
from forecaster.types import DEFAULT_CLASS
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent
from scaler.simulate.cluster import VirtualWorkload
from scaler.simulate.queueing import ReplicaLatency

START = datetime(2026, 3, 2, tzinfo=UTC)
"""A Monday, so that the scored days are Thursday to Sunday: working days and a weekend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A peak that comes back by the clock: a lesson, a show, a batch of agents."""

    minute: int
    """Minute of the day at which it begins."""
    duration: timedelta
    ratio: float
    """Demand at its height over the demand without it, on average."""
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    """Days on which it comes, Monday = 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlan:
    """One workload of the demo before its traffic is drawn."""

    traffic: TrafficSpec
    max_rps: float
    """Requests per second that fill one replica: the documents' figures for one 24 GB card."""
    cold_start: timedelta
    gpus: int = 1
    peaks: tuple[Peak, ...] = ()
    dark: tuple[tuple[timedelta, timedelta], ...] = ()
    """Outages of the metrics: when after the start of the week, and for how long."""
    campaign: Promotion | None = None
    """A promotion that marketing put into the calendar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoWorkload:
    """One workload with its traffic: what the cluster runs, and what is known of it in advance or only afterwards."""

    virtual: VirtualWorkload
    events: tuple[ScheduledEvent, ...]
    """In the calendar: the scheduled rule may know them."""
    bursts: tuple[tuple[datetime, datetime], ...] = field(default=())
    """Nobody knew: for the picture alone."""


_OFFICE = (3, 2, 2, 2, 2, 3, 8, 20, 40, 54, 60, 56, 44, 50, 58, 60, 54, 42, 28, 20, 16, 12, 8, 5)
_SCHOOL = (4, 3, 2, 2, 2, 3, 8, 16, 30, 36, 36, 32, 26, 30, 36, 38, 38, 36, 40, 50, 48, 36, 20, 8)
_EVENING = (24, 14, 9, 7, 6, 7, 12, 18, 24, 28, 30, 34, 38, 36, 34, 36, 40, 48, 60, 72, 80, 78, 62, 42)
_STEADY = (20, 18, 17, 17, 18, 20, 24, 30, 36, 40, 42, 42, 40, 42, 44, 44, 42, 38, 34, 30, 28, 26, 24, 22)
_BACK_OFFICE = (10, 10, 10, 10, 10, 12, 16, 24, 32, 34, 34, 32, 28, 30, 32, 32, 30, 26, 20, 16, 14, 12, 12, 10)


def _clock(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _daily(times: Sequence[str], minutes: int, ratio: float, weekdays: Sequence[int] = range(7)) -> tuple[Peak, ...]:
    return tuple(
        Peak(minute=_clock(at), duration=timedelta(minutes=minutes), ratio=ratio, weekdays=tuple(weekdays))
        for at in times
    )


FLEET: tuple[WorkloadPlan, ...] = (
    WorkloadPlan(
        traffic=TrafficSpec(
            name="shop/chat",
            mean_rps=90.0,
            hours=_EVENING,
            weekdays=(0.92, 0.9, 0.92, 0.95, 1.05, 1.15, 1.12),
            bursts_per_day=1.0,
            burst_ratio=1.7,
        ),
        max_rps=18.0,
        cold_start=timedelta(minutes=3),
        # Live-stream shopping shows: the link goes up and the questions come within minutes.
        peaks=_daily(("12:00", "19:00", "21:00"), 45, 2.2),
        campaign=Promotion(day=5, minute=_clock("15:00"), duration=timedelta(hours=2), ratio=2.6),
    ),
    WorkloadPlan(
        traffic=TrafficSpec(
            name="school/tutor-vl",
            mean_rps=26.0,
            hours=_SCHOOL,
            weekdays=(1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.75),
            wander_ratio=0.06,
            dispersion=2.0,
            bursts_per_day=0.5,
            burst_ratio=1.6,
        ),
        max_rps=9.0,
        cold_start=timedelta(minutes=5),
        # Lessons begin by the bell, and a class photographs its exercises at once.
        peaks=(
            *_daily(("08:30", "10:00", "11:30", "14:00", "15:30"), 30, 2.4, range(5)),
            *_daily(("19:00", "20:30"), 40, 2.4),
            *_daily(("10:00", "14:00"), 30, 2.0, (5, 6)),
        ),
    ),
    WorkloadPlan(
        traffic=TrafficSpec(
            name="ops/gui-agent",
            mean_rps=16.0,
            hours=_STEADY,
            weekdays=(1.0, 1.0, 1.0, 1.0, 1.0, 0.85, 0.85),
            wander_ratio=0.12,
            wander_memory=timedelta(minutes=40),
            dispersion=4.0,
            bursts_per_day=2.0,
            burst_ratio=1.8,
        ),
        max_rps=6.0,
        cold_start=timedelta(minutes=4),
        # Robots start on the hour, whatever the day.
        peaks=_daily(tuple(f"{hour:02d}:00" for hour in range(24)), 14, 2.6),
    ),
    WorkloadPlan(
        traffic=TrafficSpec(
            name="web/html-gen",
            mean_rps=14.0,
            hours=_BACK_OFFICE,
            weekdays=(1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.55),
            wander_ratio=0.08,
            dispersion=3.0,
            bursts_per_day=1.0,
            burst_ratio=1.8,
        ),
        max_rps=7.0,
        cold_start=timedelta(minutes=8),
        gpus=2,
        # Reports are due before work begins, and pages are rebuilt every night.
        peaks=(*_daily(("01:00", "03:30"), 50, 4.5), *_daily(("06:00", "13:00", "18:00"), 30, 2.5)),
        dark=((timedelta(days=4, hours=9, minutes=40), timedelta(minutes=25)),),
    ),
    WorkloadPlan(
        traffic=TrafficSpec(
            name="desk/assistant",
            mean_rps=70.0,
            hours=_OFFICE,
            weekdays=(1.0, 1.04, 1.04, 1.0, 0.92, 0.35, 0.3),
            growth_per_week_ratio=0.03,
            bursts_per_day=1.0,
            burst_ratio=1.6,
        ),
        max_rps=18.0,
        cold_start=timedelta(minutes=6),
        # Stand-up summaries, and everybody's minutes after the meetings.
        peaks=_daily(("09:00", "10:30", "13:30", "15:00", "16:30"), 20, 1.9, range(5)),
    ),
)
"""What the demo runs: three to eight minutes of cold start, one and two GPUs a replica."""


def draw(plan: WorkloadPlan, *, start: datetime, days: int, seed: int) -> DemoWorkload:
    """One workload's week from `seed` alone."""
    name = plan.traffic.name
    dice = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode()), 1]))
    surprises = tuple(_recurring(plan.peaks, start, days, dice))
    campaign = () if plan.campaign is None else (plan.campaign,)
    spec = replace(plan.traffic, promotions=surprises + campaign)
    traffic = generate(spec, start=start, days=days, seed=seed)
    dark = tuple((start + after, start + after + length) for after, length in plan.dark)
    profile = CapacityProfile(
        name=name, classes=(ClassCapacity(name=DEFAULT_CLASS, max_rps=plan.max_rps),), gpus=plan.gpus
    )
    virtual = VirtualWorkload(
        name=name,
        demand_rps=traffic.truth,
        profile=profile,
        cold_start_bins=plan.cold_start // traffic.truth.step,
        latency=ReplicaLatency(),
        dark=dark,
    )
    return DemoWorkload(
        virtual=virtual,
        events=tuple(_announced(plan, one, start, days) for one in campaign if one.day < days),
        bursts=tuple((each.start, each.end) for each in traffic.events if each.kind is EventKind.BURST),
    )


def _recurring(peaks: Sequence[Peak], start: datetime, days: int, dice: np.random.Generator) -> list[Promotion]:
    """Every return of every peak: a minute early or late, a tenth higher or lower, as people and queues are."""
    found = []
    for day in range(days):
        weekday = (start + timedelta(days=day)).weekday()
        for peak in peaks:
            late, height = int(dice.integers(-1, 2)), float(np.exp(dice.normal(0.0, 0.1)))
            if weekday in peak.weekdays and peak.minute + late >= 0:
                ratio = 1.0 + (peak.ratio - 1.0) * height
                found.append(Promotion(day=day, minute=peak.minute + late, duration=peak.duration, ratio=ratio))
    return found


def _announced(plan: WorkloadPlan, campaign: Promotion, start: datetime, days: int) -> ScheduledEvent:
    """What marketing wrote into the calendar: the habit at that hour times the ratio they hope for."""
    begin = start + timedelta(days=campaign.day, minutes=campaign.minute)
    first = (begin - start) // timedelta(minutes=1)
    last = first + campaign.duration // timedelta(minutes=1)
    habit = expected_rps(plan.traffic, start=start, bins=days * 1440)[first:last]
    return ScheduledEvent(
        name=f"{plan.traffic.name} campaign",
        start=begin,
        end=begin + campaign.duration,
        expected_peak=(ExpectedDemand(request_class=DEFAULT_CLASS, rps=float(habit.max()) * campaign.ratio),),
    )
