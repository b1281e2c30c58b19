"""Which past day a day should resemble: working days their like, Saturdays theirs, Sundays and holidays each other.

Decides for a workload that names its calendar what "the same time a day before" is to be compared with: on a holiday
and on a Sunday the last day of rest, on a Saturday the last Saturday, on any other day the last working day. Days are
those of the calendar's people: they begin at local midnight. It knows no holiday by name (dates are given), changes no
measurement, and reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from forecaster.preprocess import DAY
from forecaster.types import HORIZONS, STEP, Panel

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from forecaster.types import FloatArray

FARTHEST_DAYS = 14
"""How far back a like day is looked for: a Saturday after a Saturday that was a holiday is two weeks away."""


LOOKED_AROUND = timedelta(minutes=30)
"""How far beyond the farthest horizon members smooth: the trees read an hour around each target."""


class DayKind(Enum):
    """What a day is like for those who live by a calendar."""

    WORKING = "working"
    SATURDAY = "saturday"
    REST = "rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The clock that people live by, and their public holidays."""

    zone: ZoneInfo
    holidays: frozenset[date]

    def kind(self, day: date) -> DayKind:
        """What kind of day `day` is; a Saturday that is a holiday is a day of rest."""
        if day in self.holidays or day.weekday() == 6:
            return DayKind.REST
        return DayKind.SATURDAY if day.weekday() == 5 else DayKind.WORKING

    def days_back(self, day: date) -> int:
        """How many days before `day` the last one of its kind was; 1 where there was none in two weeks."""
        kind = self.kind(day)
        found = (back for back in range(1, FARTHEST_DAYS + 1) if self.kind(day - back * DAY) is kind)
        return next(found, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Bins [start, end) of a panel that the next day is not to be compared with, and what it is to be compared with:
    demand measured in [like_start, like_end), moments in UTC."""

    start: datetime
    end: datetime
    like_start: datetime
    like_end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """What stands for the bins of some rows from `start` on: `values` has shape (len(rows), bins)."""

    rows: tuple[int, ...]
    start: datetime
    values: FloatArray


def departures(calendar: Calendar, *, start: datetime, end: datetime, step: timedelta = STEP) -> tuple[Departure, ...]:
    """Where a panel's bins in [start, end) don't show what the day after them will be like, oldest first.

    Only bins that a forecast at `end` may look at: what lies nearer is nobody's day before yet. The panel lies on the
    clock that is in force at `end` (`by_local_clock`); what is read elsewhere is found by the clock that was in force
    there. A grid that doesn't divide a day has no day before, and nothing departs.
    """
    if DAY % step:
        return ()
    now = _offset(calendar, end)
    asked = min(end, end - DAY + HORIZONS[-1] * step + LOOKED_AROUND)
    found = []
    day = (start + DAY + now).date()
    while (midnight := datetime(day.year, day.month, day.day, tzinfo=start.tzinfo) - now) - DAY < asked:
        back = calendar.days_back(day) - 1
        first, last = max(start, midnight - DAY), min(midnight, asked)
        if back and first < last:
            turned = now - _offset(calendar, last - back * DAY)
            away = turned - back * DAY
            found.append(Departure(start=first, end=last, like_start=first + away, like_end=last + away))
        day += DAY
    return tuple(found)


def with_reference(panel: Panel, stand_ins: Iterable[StandIn]) -> Panel:
    """`panel` with these in place of its bins where the next day looks back; all other bins stand for themselves.

    What is unknown in a stand-in does too: then the day before itself has to do.
    """
    reference = panel.values.copy()
    for one in stand_ins:
        first = (one.start - panel.start) // panel.step
        span = slice(first, first + one.values.shape[1])
        rows = list(one.rows)
        reference[rows, span] = np.where(np.isfinite(one.values), one.values, reference[rows, span])
    return replace(panel, reference=reference)


def _offset(calendar: Calendar, end: datetime) -> timedelta:
    """By how much the clock was ahead of UTC in the bin before `end`."""
    return (end - timedelta(microseconds=1)).astimezone(calendar.zone).utcoffset() or timedelta(0)
