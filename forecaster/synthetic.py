"""Seeded traffic that looks like people: for the demo, the samples, the shipped network and the tests.

Decides nothing about scaling. Everything it draws comes from one generator made of the seed and the name of the
traffic, so equal arguments give equal bytes. Demand is in requests a second, one bin a minute; bins hidden by an
outage are NaN in `series` and known in `truth`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import STEP, Series, require_utc

if TYPE_CHECKING:
    from forecaster.types import FloatArray

MINUTES_A_DAY = 1440


class EventKind(StrEnum):
    """What happened to the traffic, beyond its habit."""

    BURST = "burst"
    PROMOTION = "promotion"
    OUTAGE = "outage"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficEvent:
    """Something in [start, end): demand × `ratio`, or nothing known (an outage, ratio 1)."""

    kind: EventKind
    start: datetime
    end: datetime
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """A planned peak: demand × `ratio` from minute `minute` of day `day` (0 = the first) on, ramped over a tenth."""

    day: int
    minute: int
    duration: timedelta
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
    """How one workload's people behave."""

    name: str
    mean_rps: float
    """Demand averaged over an ordinary week, before events."""
    hours: tuple[float, ...]
    """24 relative intensities, one an hour, interpolated and scaled to a mean of 1."""
    weekdays: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    """Relative intensity of Monday … Sunday, scaled to a mean of 1."""
    growth_per_week_ratio: float = 0.0
    """0.1 = ten per cent more every week."""
    wander_ratio: float = 0.08
    """Standard deviation of the slow, correlated part of the noise (relative, log scale)."""
    wander_memory: timedelta = timedelta(hours=1)
    """How long the slow part remembers."""
    dispersion: float = 1.5
    """Variance of a minute's arrivals over Poisson's: 1 = independent people, more = clients that send in batches."""
    bursts_per_day: float = 0.0
    burst_ratio: float = 3.0
    """Mean height of a burst over ordinary demand; exponential above 1."""
    burst_duration: timedelta = timedelta(minutes=6)
    """Mean length of a burst; exponential."""
    outages_per_week: float = 0.0
    outage_duration: timedelta = timedelta(minutes=20)
    """Mean length of a hole in the metrics; exponential."""
    promotions: tuple[Promotion, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.hours) != 24 or len(self.weekdays) != 7:
            raise SeriesError(f"{self.name}: need 24 hours and 7 weekdays, got {len(self.hours)}, {len(self.weekdays)}")
        if not (math.isfinite(self.mean_rps) and self.mean_rps >= 0.0) or self.dispersion < 1.0:
            raise SeriesError(f"{self.name}: need mean_rps >= 0 and dispersion >= 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was generated: `series` as a scaler would see it, `truth` as it was, and the events in order of time."""

    spec: TrafficSpec
    series: Series
    truth: Series
    events: tuple[TrafficEvent, ...]


_OFFICE = (2, 1, 1, 1, 1, 2, 5, 14, 34, 52, 60, 58, 44, 50, 60, 62, 58, 46, 30, 20, 15, 10, 6, 3)
_EVENING = (22, 13, 8, 6, 5, 6, 10, 16, 22, 26, 29, 32, 36, 35, 34, 36, 40, 48, 60, 76, 88, 90, 70, 42)
_NIGHT = (60, 92, 96, 94, 88, 60, 20, 6, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 6, 10, 24)
_ROUND_THE_CLOCK = (18, 16, 15, 14, 15, 17, 20, 26, 34, 40, 44, 44, 42, 44, 46, 46, 44, 40, 34, 30, 28, 26, 23, 20)

ARCHETYPES: Mapping[str, TrafficSpec] = {
    spec.name: spec
    for spec in (
        TrafficSpec(
            name="chat-working-day",
            mean_rps=20.0,
            hours=_OFFICE,
            weekdays=(1.0, 1.05, 1.05, 1.0, 0.9, 0.25, 0.2),
            growth_per_week_ratio=0.03,
            bursts_per_day=1.0,
            burst_ratio=1.8,
        ),
        TrafficSpec(
            name="batch-nightly",
            mean_rps=12.0,
            hours=_NIGHT,
            wander_ratio=0.05,
            dispersion=3.0,
            outages_per_week=0.5,
        ),
        TrafficSpec(
            name="consumer-evening",
            mean_rps=35.0,
            hours=_EVENING,
            weekdays=(0.9, 0.88, 0.9, 0.95, 1.1, 1.3, 1.25),
            bursts_per_day=0.7,
            burst_ratio=2.0,
            outages_per_week=0.3,
        ),
        TrafficSpec(
            name="bursty-agent",
            mean_rps=6.0,
            hours=_ROUND_THE_CLOCK,
            weekdays=(1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.7),
            wander_ratio=0.3,
            wander_memory=timedelta(minutes=40),
            dispersion=8.0,
            bursts_per_day=8.0,
            burst_ratio=2.5,
        ),
    )
}
"""Four workloads that between them meet every rule: a clock, a weekend, a night job, and no clock at all."""


def generate(spec: TrafficSpec, *, start: datetime, days: int, seed: int) -> Traffic:
    """`days` whole days of `spec` from `start` (aware UTC, on a whole minute), from `seed` alone.

    Raises `SeriesError` for a naive start or no days.
    """
    require_utc(start, "start")
    if days < 1 or start.second or start.microsecond:
        raise SeriesError(f"{spec.name}: need days >= 1 and a start on a whole minute, got {days} and {start}")
    draw = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(spec.name.encode())]))
    bins = days * MINUTES_A_DAY
    events = _events(spec, start, bins, draw)
    rate = expected_rps(spec, start=start, bins=bins) * np.exp(_wander(spec, bins, draw))
    hidden = np.zeros(bins, dtype=bool)
    for event in events:
        low, high = (event.start - start) // STEP, (event.end - start) // STEP
        if event.kind is EventKind.OUTAGE:
            hidden[low:high] = True
        else:
            rate[low:high] *= _lift(event, high - low)
    seen = _arrivals(rate, spec.dispersion, draw)
    return Traffic(
        spec=spec,
        series=Series(start=start, step=STEP, values=np.where(hidden, np.nan, seen)),
        truth=Series(start=start, step=STEP, values=seen),
        events=events,
    )


def expected_rps(spec: TrafficSpec, *, start: datetime, bins: int) -> FloatArray:
    """The habit: demand expected in each minute from `start` on, without noise or events; requests a second."""
    first = start.weekday() * MINUTES_A_DAY + start.hour * 60 + start.minute
    minute = np.arange(first, first + bins, dtype=np.float64)
    hour = (minute % MINUTES_A_DAY) / 60.0
    # An hour's intensity is that of its middle; between two middles it is a straight line, midnight included.
    day = np.interp(hour, np.arange(24) + 0.5, np.array(spec.hours) / np.mean(spec.hours), period=24.0)
    noon = minute / MINUTES_A_DAY - 0.5
    week = np.interp(noon, np.arange(7), np.array(spec.weekdays) / np.mean(spec.weekdays), period=7.0)
    weeks = np.arange(bins) / (7 * MINUTES_A_DAY)
    return np.asarray(spec.mean_rps * day * week * (1.0 + spec.growth_per_week_ratio) ** weeks, dtype=np.float64)


def _wander(spec: TrafficSpec, bins: int, draw: np.random.Generator) -> FloatArray:
    """A slow random walk that forgets (AR(1)) of the asked standard deviation, log scale, mean-preserving."""
    keep = math.exp(-STEP / spec.wander_memory)
    shocks = draw.standard_normal(bins) * spec.wander_ratio * math.sqrt(1.0 - keep * keep)
    walk, value = np.empty(bins), float(draw.standard_normal() * spec.wander_ratio)
    for index, shock in enumerate(shocks.tolist()):
        value = keep * value + shock
        walk[index] = value
    return walk - spec.wander_ratio**2 / 2.0


def _arrivals(rate_rps: FloatArray, dispersion: float, draw: np.random.Generator) -> FloatArray:
    """Requests a second counted over each minute: Poisson, or gamma-mixed so that variance = dispersion × mean."""
    mean = rate_rps * STEP.total_seconds()
    if dispersion > 1.0:
        excess = dispersion - 1.0
        mean = draw.gamma(np.maximum(mean / excess, 1e-12), excess)
    return draw.poisson(mean).astype(np.float64) / STEP.total_seconds()


def _lift(event: TrafficEvent, bins: int) -> FloatArray:
    """Multipliers over an event: a burst is there at once and decays, a promotion ramps up and down over a tenth."""
    if event.kind is EventKind.BURST:
        return np.asarray(1.0 + (event.ratio - 1.0) * np.exp(-2.0 * np.arange(bins) / max(bins, 1)))
    edge = max(1, bins // 10)
    ramp = np.minimum(np.arange(1, bins + 1), np.arange(bins, 0, -1)) / edge
    return np.asarray(1.0 + (event.ratio - 1.0) * np.minimum(1.0, ramp))


def _events(spec: TrafficSpec, start: datetime, bins: int, draw: np.random.Generator) -> tuple[TrafficEvent, ...]:
    days = bins / MINUTES_A_DAY
    end = start + STEP * bins
    found = [
        *_scattered(
            EventKind.BURST, spec.bursts_per_day * days, spec.burst_duration, spec.burst_ratio, start, bins, draw
        ),
        *_scattered(EventKind.OUTAGE, spec.outages_per_week * days / 7, spec.outage_duration, 1.0, start, bins, draw),
    ]
    for one in spec.promotions:
        begin = start + timedelta(days=one.day, minutes=one.minute)
        if begin < end:
            found.append(
                TrafficEvent(kind=EventKind.PROMOTION, start=begin, end=min(end, begin + one.duration), ratio=one.ratio)
            )
    return tuple(sorted(found, key=lambda event: (event.start, event.kind)))


def _scattered(
    kind: EventKind,
    expected: float,
    duration: timedelta,
    ratio: float,
    start: datetime,
    bins: int,
    draw: np.random.Generator,
) -> list[TrafficEvent]:
    """A Poisson number of events anywhere in the span, with exponential lengths and (above 1) exponential heights."""
    count = int(draw.poisson(expected))
    begins = draw.integers(0, bins, size=count)
    lengths = np.maximum(1, draw.exponential(duration / STEP, size=count).round()).astype(np.int64)
    heights = 1.0 + draw.exponential(1.0, size=count) * (ratio - 1.0)
    return [
        TrafficEvent(
            kind=kind, start=start + STEP * int(low), end=start + STEP * int(min(bins, low + length)), ratio=height
        )
        for low, length, height in zip(begins, lengths, heights.tolist(), strict=True)
    ]
