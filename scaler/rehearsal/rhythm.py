"""Load that comes back: a quiet level, and a burst once a period. Pure.

The period divides a day, so that a model that looks a day back sees the same minute of the same burst. It is a made-up
rhythm, small enough for servers on one machine; no figure of the product comes from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Requests per second over time; `first_burst_at` is when one burst begins, any of them."""

    first_burst_at: datetime
    period: timedelta = timedelta(minutes=20)
    burst: timedelta = timedelta(minutes=6)
    """How long a burst lasts, its rise included."""
    rise: timedelta = timedelta(seconds=60)
    quiet_rps: float = 0.5
    burst_rps: float = 5.0

    def __post_init__(self) -> None:
        if DAY % self.period:
            raise ValueError(f"period must divide a day, got {self.period}")
        if not timedelta(0) < self.rise < self.burst < self.period:
            raise ValueError(f"rise < burst < period, got {self.rise}, {self.burst}, {self.period}")
        if not 0.0 <= self.quiet_rps <= self.burst_rps:
            raise ValueError(f"quiet_rps must lie in [0, burst_rps], got {self.quiet_rps} and {self.burst_rps}")

    def rate_rps(self, at: datetime) -> float:
        """Requests per second that are offered at a moment."""
        into = (at - self.first_burst_at) % self.period
        if into >= self.burst:
            return self.quiet_rps
        share = min(1.0, into / self.rise)
        return self.quiet_rps + share * (self.burst_rps - self.quiet_rps)

    def bursting(self, at: datetime) -> bool:
        """Whether a burst is on."""
        return (at - self.first_burst_at) % self.period < self.burst

    def next_burst_at(self, now: datetime) -> datetime:
        """When the next burst begins; `now` itself if one begins now."""
        return now + (self.first_burst_at - now) % self.period


def open_metrics(
    rhythm: Rhythm, *, start: datetime, end: datetime, labels: dict[str, str], step: timedelta = timedelta(seconds=30)
) -> Iterator[str]:
    """Lines of the gateway's counter of arrivals, as it would have counted from `start` to `end`.

    What `promtool tsdb create-blocks-from openmetrics` reads: the days that the models look back on.
    """
    metric = "headstart_gateway_requests"
    said = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    yield f"# TYPE {metric} counter"
    count, at = 0.0, start
    while at < end:
        yield f"{metric}_total{{{said}}} {count:.3f} {at.timestamp():.3f}"
        count += rhythm.rate_rps(at) * step.total_seconds()
        at += step
    yield "# EOF"
