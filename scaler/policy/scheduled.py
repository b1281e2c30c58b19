"""The scheduled rule: what people know in advance. Promotions are a floor; time windows move the minimum and maximum.

Before an event half of the expected peak is warm one hour ahead, and all of it from one lead time before the start
to the end. An event's known ratio lifts the forecast (`usual_multiple`), and the models never see the event. Windows
are wall-clock times in an IANA zone: they follow daylight saving, may cross midnight, and with start equal to end last
a whole day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import Proposal, Reason, Snapshot

RULE = "scheduled"

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedDemand:
    """The peak demand that is expected of one request class."""

    request_class: str
    """Which class, as in the capacity profile."""
    rps: float
    """Requests per second at the peak."""

    def __post_init__(self) -> None:
        if not self.rps >= 0.0:
            raise ValueError(f"events[].expected_peak[].rps of {self.request_class!r} must be ≥ 0, got {self.rps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledEvent:
    """A promotion, a broadcast, an exam: from `start` to `end`, both with a time zone, up to `expected_peak`."""

    name: str
    """What it is called in explanations."""
    start: datetime
    """When the peak may begin, with a time zone."""
    end: datetime
    """When it is over, with a time zone."""
    expected_peak: tuple[ExpectedDemand, ...]
    """The peak that is expected, class by class; empty where only demand_ratio, or nothing, is known of it."""
    demand_ratio: float | None = None
    """Demand while it lasts over what is usual then, such as 2.5: lifts the forecast. Below 1 for a holiday."""
    warm_up: timedelta = timedelta(hours=1)
    """How long before the start the first part is warm."""
    warm_up_ratio: float = 0.5
    """Share of the expected peak that is warm by then."""

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(
                f"event {self.name!r} needs start and end with a time zone, such as 2026-11-11T20:00+08:00"
            )
        if self.end <= self.start:
            raise ValueError(f"event {self.name!r} ends at {self.end}, not after its start at {self.start}")
        if not 0.0 <= self.warm_up_ratio <= 1.0:
            raise ValueError(f"warm_up_ratio of event {self.name!r} must lie in [0, 1], got {self.warm_up_ratio}")
        # Outside it is a slip of the pen (250 for 2.5), and a product of several stays a number.
        if self.demand_ratio is not None and not 0.01 <= self.demand_ratio <= 100.0:
            raise ValueError(f"demand_ratio of event {self.name!r} must lie in [0.01, 100], got {self.demand_ratio}")

    def lasts(self, *, at: datetime) -> bool:
        """Whether `at` lies in [start, end)."""
        return self.start <= at < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """A recurring stretch of wall-clock time with its own minimum or maximum of replicas."""

    name: str
    """What it is called in explanations."""
    start: time
    """Local wall-clock time at which it begins."""
    end: time
    """Local wall-clock time at which it is over; not after `start` means on the next day."""
    timezone: str = "UTC"
    """IANA name, such as Asia/Shanghai."""
    days: tuple[str, ...] = DAYS
    """Days on which it begins: mon … sun."""
    min_replicas: int | None = None
    """Raises the minimum while the window lasts."""
    max_replicas: int | None = None
    """Lowers the maximum while the window lasts."""

    def __post_init__(self) -> None:
        _require_zone(self.timezone, f"timezone of window {self.name!r}")
        unknown = sorted(set(self.days) - set(DAYS))
        if unknown or not self.days:
            raise ValueError(f"days of window {self.name!r} must be among {', '.join(DAYS)}, got {', '.join(unknown)}")
        if self.min_replicas is None and self.max_replicas is None:
            raise ValueError(f"window {self.name!r} sets neither min_replicas nor max_replicas")
        for label, value in (("min_replicas", self.min_replicas), ("max_replicas", self.max_replicas)):
            if value is not None and value < 0:
                raise ValueError(f"{label} of window {self.name!r} must be at least 0, got {value}")

    def active(self, *, now: datetime) -> bool:
        """Whether `now` lies in the window: [start, end) on a listed day, on into the next day if end ≤ start."""
        local = now.astimezone(ZoneInfo(self.timezone))
        clock = local.time()
        today = DAYS[local.weekday()] in self.days
        if self.start < self.end:
            return today and self.start <= clock < self.end
        yesterday = DAYS[local.weekday() - 1] in self.days
        return (today and clock >= self.start) or (yesterday and clock < self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledRule:
    """What is known in advance of one workload."""

    events: tuple[ScheduledEvent, ...] = ()
    """Promotions and the like: a floor from an hour before."""
    windows: tuple[TimeWindow, ...] = ()
    """Recurring hours with bounds of their own."""
    timezone: str = "UTC"
    """IANA name of the clock that the workload's people live by: its days stay 24 hours long over daylight saving."""

    def __post_init__(self) -> None:
        _require_zone(self.timezone, "timezone")


def _require_zone(name: str, whose: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{whose} must be an IANA name such as Europe/Berlin, got {name!r}") from error


def propose(snapshot: Snapshot, rule: ScheduledRule, profile: CapacityProfile, *, now: datetime) -> Proposal | None:
    """The highest floor among the events that are near, or None."""
    lead = timedelta(seconds=snapshot.lead_time_s)
    floors = [(floor, event.name) for event in rule.events if (floor := _floor(event, profile, lead, now=now)) > 0]
    if not floors:
        return None
    replicas, name = max(floors)
    return Proposal(rule=RULE, want=replicas, keep=replicas, reason=Reason.SCHEDULED, detail=f"event {name!r}")


def announced(rule: ScheduledRule, profile: CapacityProfile, *, lead: timedelta, now: datetime) -> dict[str, float]:
    """Requests per second by class that the largest near event makes ready for, `lead` ahead; empty without one."""
    near = [(profile.load(rates), rates) for event in rule.events if (rates := _expected(event, lead, now=now))]
    return max(near, key=lambda each: each[0])[1] if near else {}


def _floor(event: ScheduledEvent, profile: CapacityProfile, lead: timedelta, *, now: datetime) -> int:
    """Replicas that one event asks for now.

    The order goes out a lead time ahead of both moments, so that the pods are Ready at them: with a 3-minute start
    and one hour of warm-up, half is ordered 63 minutes before the start, the rest 3 minutes before.
    """
    return replicas_for(profile.load(_expected(event, lead, now=now)))


def _expected(event: ScheduledEvent, lead: timedelta, *, now: datetime) -> dict[str, float]:
    """The share of the expected peak that is made ready for now, requests per second by class."""
    if now >= event.end or now < event.start - event.warm_up - lead:
        return {}
    share = 1.0 if now >= event.start - lead else event.warm_up_ratio
    return {each.request_class: share * each.rps for each in event.expected_peak}


def usual_multiple(rule: ScheduledRule, *, at: datetime) -> float:
    """How many times the usual demand is expected at `at`: the product of the ratios of the events that last then.

    1.0 outside events. A sale of 2.5 on a holiday of 0.4 is an ordinary day.
    """
    return math.prod(each.demand_ratio for each in rule.events if each.demand_ratio is not None and each.lasts(at=at))


def bounds_at(rule: ScheduledRule, *, least: int, most: int, now: datetime) -> tuple[int, int]:
    """Minimum and maximum in force: `least` and `most` moved by the windows that are active.

    The highest minimum and the lowest maximum win; where they cross, the maximum does: limits are promises.
    """
    active = [window for window in rule.windows if window.active(now=now)]
    floors = [window.min_replicas for window in active if window.min_replicas is not None]
    ceilings = [window.max_replicas for window in active if window.max_replicas is not None]
    top = min([most, *ceilings])
    return min(max([least, *floors]), top), top
