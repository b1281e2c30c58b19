"""Points on their way into the history: which are kept, which are left out, and the count of each kind.

It decides what a point is worth (see `AppendReport`) and puts it on the minute grid; it never touches a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.sources.history.layout import minute_of
from forecaster.types import STEP, Panel, SeriesKey, floor_to_step, require_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendReport:
    """What became of the points of one append; every count but `stored` is of points left out.

    `unknown` are NaN (a gap stays a gap), `infinite` also what float32 cannot hold, `over_limit` points of new
    series beyond `HistoryLimits.max_series`.
    """

    stored: int = 0
    unknown: int = 0
    infinite: int = 0
    negative: int = 0
    future: int = 0
    too_old: int = 0
    over_limit: int = 0

    @property
    def dropped(self) -> int:
        """Points that were measured and refused: a gap is not one of them."""
        return self.infinite + self.negative + self.future + self.too_old + self.over_limit


Sample = tuple[SeriesKey, datetime, float]
"""One point: the key, any aware UTC moment inside its minute, and the value in the signal's unit."""


class Intake:
    """Points on their way in: checked, counted, put on the minute grid, the last one of a minute kept."""

    def __init__(self, *, now: datetime, keep_for: timedelta) -> None:
        self._last = minute_of(require_utc(now, "now"))
        self._first = self._last - keep_for // STEP
        self._columns: dict[int, dict[int, float]] = {}
        self._panel: tuple[int, NDArray[np.float64]] | None = None
        self.keys: list[SeriesKey] = []
        self.report = AppendReport()
        self.points = 0

    def take_samples(self, samples: Iterable[Sample]) -> None:
        row_of: dict[SeriesKey, int] = {}
        unknown = infinite = negative = future = too_old = 0
        for key, moment, value in samples:
            minute = minute_of(moment)
            if math.isnan(value):
                unknown += 1
            elif abs(value) > _MAX_FLOAT32:
                infinite += 1
            elif value < 0.0:
                negative += 1
            elif minute > self._last:
                future += 1
            elif minute < self._first:
                too_old += 1
            else:
                self._columns.setdefault(minute, {})[row_of.setdefault(key, len(row_of))] = value
        self.keys = list(row_of)
        self.points = sum(map(len, self._columns.values()))
        self.report = AppendReport(
            unknown=unknown, infinite=infinite, negative=negative, future=future, too_old=too_old
        )

    def take_panel(self, panel: Panel) -> None:
        if panel.step != STEP or floor_to_step(panel.start) != panel.start:
            raise SeriesError(f"history takes whole minutes, got a panel at {panel.start} with step {panel.step}")
        values, first = panel.values, minute_of(panel.start)
        minutes = first + np.arange(values.shape[1])
        known = ~np.isnan(values)
        infinite = known & (np.abs(values) > _MAX_FLOAT32)
        negative = known & ~infinite & (values < 0.0)
        sound = known & ~infinite & ~negative
        future, too_old = sound[:, minutes > self._last], sound[:, minutes < self._first]
        kept = sound & ((minutes <= self._last) & (minutes >= self._first))
        used = np.flatnonzero(kept.any(axis=1)).tolist()
        self.keys = [panel.keys[row] for row in used]
        self._panel = (first, np.where(kept, values, np.nan)[used])
        self.points = int(kept.sum())
        self.report = AppendReport(
            unknown=int((~known).sum()),
            infinite=int(infinite.sum()),
            negative=int(negative.sum()),
            future=int(future.sum()),
            too_old=int(too_old.sum()),
        )

    def minutes(self) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float64]]]:
        """Each minute with points: its number, the rows in `keys`, and the values."""
        if self._panel is not None:
            first, values = self._panel
            for column in range(values.shape[1]):
                rows = np.flatnonzero(~np.isnan(values[:, column]))
                if rows.size:
                    yield first + column, rows, values[rows, column]
        for minute, points in sorted(self._columns.items()):
            yield minute, np.fromiter(points, np.intp, len(points)), np.fromiter(points.values(), float, len(points))
