"""What is done to a run on purpose: a surge, metrics that go dark, one slow replica, other requests.

It knows what each event is and when; traffic, pool and signals ask what holds at a moment. It changes nothing itself,
and it is the same for every policy.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from scaler.config.check import duration_of


class EventKind(StrEnum):
    """What can be done."""

    STEP = "step"
    """Three times the requests for 20 minutes."""
    SPIKE = "spike"
    """Five times the requests for 60 seconds."""
    DARK = "dark"
    """Five minutes in which no metric can be read; they count on, and are there afterwards."""
    BAD_POD = "bad-pod"
    """From then on the oldest serving replica is four times slower, for as long as it lives."""
    MIX = "mix"
    """For an hour the class that is dearest to serve takes half of what the others had."""
    IMAGES = "images"
    """For an hour images are twice as large."""


LASTS_S: Mapping[EventKind, float] = {
    EventKind.STEP: 1200.0,
    EventKind.SPIKE: 60.0,
    EventKind.DARK: 300.0,
    EventKind.BAD_POD: math.inf,
    EventKind.MIX: 3600.0,
    EventKind.IMAGES: 3600.0,
}
SURGE: Mapping[EventKind, float] = {EventKind.STEP: 3.0, EventKind.SPIKE: 5.0}
BAD_POD_SLOWDOWN = 4.0
IMAGE_GROWTH = 2.0
MIX_TAKES = 0.5


class EventError(ValueError):
    """A text that names no event, no moment, or one outside the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; it holds in [at_s, at_s + how long its kind lasts), seconds since the window opened."""

    kind: EventKind
    at_s: float

    @property
    def end_s(self) -> float:
        """When it is over."""
        return self.at_s + LASTS_S[self.kind]

    def holds(self, now_s: float) -> bool:
        """Whether it is going on."""
        return self.at_s <= now_s < self.end_s


def parse_event(text: str, *, start: datetime, end: datetime) -> Event:
    """`step@+2h`, from the window's start, or `dark@2026-11-20T18:00:00Z` (UTC if no zone); `EventError` otherwise."""
    name, at, moment = text.partition("@")
    known = [each.value for each in EventKind]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise EventError(f"no event {name!r}.{meant} There are {', '.join(known)}.")
    if not at:
        raise EventError(f"{text!r} needs a moment, such as {name}@+2h")
    at_s = _moment_s(moment, text, start)
    if not 0.0 <= at_s < (end - start).total_seconds():
        raise EventError(f"{text!r} lies outside the window from {start.isoformat()} to {end.isoformat()}")
    return Event(kind=EventKind(name), at_s=at_s)


def _moment_s(moment: str, text: str, start: datetime) -> float:
    """Seconds since the window opened."""
    if moment.startswith("+"):
        ahead = duration_of(moment[1:])
        if ahead is None:
            raise EventError(f"{text!r} needs a duration after the plus, such as +90s, +2h or +1h30m")
        return ahead.total_seconds()
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise EventError(f"{text!r} needs a moment in ISO 8601, or +2h from the window's start") from None
    return ((at.replace(tzinfo=UTC) if at.tzinfo is None else at) - start).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All events of a run."""

    events: tuple[Event, ...] = ()

    def edges_s(self, begin_s: float, end_s: float) -> list[float]:
        """Where something begins or ends strictly inside (begin_s, end_s), ascending, between the two bounds."""
        edges = {edge for each in self.events for edge in (each.at_s, each.end_s) if begin_s < edge < end_s}
        return [begin_s, *sorted(edges), end_s]

    def surge(self, now_s: float) -> float:
        """Factor on the rate of arrivals."""
        return math.prod(SURGE.get(each.kind, 1.0) for each in self.events if each.holds(now_s))

    def shares(self, shares: Sequence[float], max_rps: Sequence[float], now_s: float) -> list[float]:
        """Shares of the classes, summing to 1, given the usual ones and what a replica serves of each."""
        total = math.fsum(shares)
        mixed = [each / total for each in shares]
        if self.holds(EventKind.MIX, now_s):
            dearest = min(range(len(mixed)), key=lambda index: max_rps[index])
            mixed = [each * (1.0 - MIX_TAKES) for each in mixed]
            mixed[dearest] += MIX_TAKES
        return mixed

    def image_growth(self, now_s: float) -> float:
        """Factor on the tokens of images."""
        return IMAGE_GROWTH if self.holds(EventKind.IMAGES, now_s) else 1.0

    def dark(self, begin_s: float, end_s: float) -> bool:
        """Whether metrics are dark at any time in [begin_s, end_s]."""
        return any(each.kind is EventKind.DARK and each.at_s <= end_s and begin_s < each.end_s for each in self.events)

    def begins(self, kind: EventKind) -> list[float]:
        """When the events of a kind begin, ascending."""
        return sorted(each.at_s for each in self.events if each.kind is kind)

    def holds(self, kind: EventKind, now_s: float) -> bool:
        """Whether an event of that kind is going on."""
        return any(each.kind is kind and each.holds(now_s) for each in self.events)
