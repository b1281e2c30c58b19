"""Raw samples become a regular UTC grid, and what was not measured stays unknown.

Decides which bin a sample belongs to, which samples are faults (non-finite, negative, from the future), and which
bins an outage hides. It never invents traffic: a gap is NaN, never zero; `carried` bridges short gaps for a model's
*input* alone and is never written back. Reads no clock and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import EPOCH, STEP, Panel, Series, require_utc

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from numpy.typing import NDArray

    from forecaster.types import FloatArray, SeriesKey

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How many samples were not used, by reason: facts for a log line, never silently lost."""

    faulty: int
    outside: int
    duplicate: int


def bins_in(duration: timedelta, step: timedelta) -> int:
    """Whole bins of `step` in `duration`, at least 1: a day is 1440 at one minute and 144 at ten."""
    return max(1, duration // step)


def bin_index(moment: datetime, step: timedelta) -> int:
    """The number of the bin that starts at or holds `moment`, counted since 1970: equal across restarts."""
    return int((moment - EPOCH) // step)


def to_grid(
    times_s: FloatArray,
    values: FloatArray,
    *,
    start: datetime,
    end: datetime,
    step: timedelta = STEP,
) -> tuple[Series, Dropped]:
    """Samples at `times_s` (Unix seconds, any order) as the mean of each bin of [start, end).

    Samples of one and the same moment count once, the last one given wins (an HA pair or a re-read, never a sum).
    Non-finite and negative values are instrument faults and dropped, as are samples outside [start, end). A bin
    without a sample is NaN.

    Raises `SeriesError` for unequal lengths, a naive or unaligned `start`, or an empty span.
    """
    require_utc(start, "start")
    require_utc(end, "end")
    if times_s.shape != values.shape or times_s.ndim != 1:
        raise SeriesError(f"times_s and values must be equal vectors, got {times_s.shape} and {values.shape}")
    bins = (end - start) // step
    if bins <= 0 or (start - EPOCH) % step:
        raise SeriesError(f"need an aligned start and a span of whole bins, got {start} to {end} in steps of {step}")

    sound = np.isfinite(values) & np.isfinite(times_s) & (values >= 0.0)
    first_s, width_s = start.timestamp(), step.total_seconds()
    inside = sound & (times_s >= first_s) & (times_s < first_s + bins * width_s)
    # A stable sort keeps the order given among equal moments, so the last of each run is the last one given.
    order = np.argsort(times_s[inside], kind="stable")
    moments, taken = times_s[inside][order], values[inside][order]
    last_of_run = np.append(moments[1:] != moments[:-1], True) if moments.size else np.zeros(0, dtype=bool)
    moments, unique = moments[last_of_run], taken[last_of_run]

    slot = ((moments - first_s) // width_s).astype(np.int64)
    count = np.bincount(slot, minlength=bins).astype(np.float64)
    total = np.bincount(slot, weights=unique, minlength=bins)
    grid = np.divide(total, count, out=np.full(bins, np.nan), where=count > 0)
    dropped = Dropped(
        faulty=int(values.size - sound.sum()),
        outside=int(sound.sum() - inside.sum()),
        duplicate=int(taken.size - unique.size),
    )
    return Series(start=start, step=step, values=grid), dropped


def without_outages(series: Series, outages: Sequence[tuple[datetime, datetime]]) -> Series:
    """`series` with every bin that an outage [from, to) touches set to unknown; a bin half hidden is not half true."""
    values = series.values.copy()
    for begin, finish in outages:
        require_utc(begin, "outage start")
        require_utc(finish, "outage end")
        low = max(0, (begin - series.start) // series.step)
        high = max(0, -((series.start - finish) // series.step))
        values[low:high] = np.nan
    return Series(start=series.start, step=series.step, values=values)


def without_dead_target(series: Series, up: Series) -> Series:
    """`series` with the bins in which its target was not up all the time, or not known to be, set to unknown."""
    if (up.start, up.step, up.values.shape) != (series.start, series.step, series.values.shape):
        raise SeriesError(f"series and up must share one grid, got starts {series.start} and {up.start}")
    return Series(start=series.start, step=series.step, values=np.where(up.values >= 1.0, series.values, np.nan))


def panel_of(series: Sequence[tuple[SeriesKey, Series]]) -> Panel:
    """Several series on the grid that spans them all; what one does not cover is unknown there."""
    if not series:
        raise SeriesError("a panel needs at least one series")
    step = series[0][1].step
    if any(one.step != step or (one.start - EPOCH) % step for _, one in series):
        raise SeriesError(f"every series of a panel needs the same step and whole bins since 1970; first is {step}")
    start, end = min(one.start for _, one in series), max(one.end for _, one in series)
    values = np.full((len(series), (end - start) // step), np.nan)
    for row, (_, one) in enumerate(series):
        offset = (one.start - start) // step
        values[row, offset : offset + one.values.size] = one.values
    return Panel(keys=tuple(key for key, _ in series), start=start, step=step, values=values)


def up_to(panel: Panel, end: datetime) -> Panel:
    """What was known at `end`: the bins of `panel` that end at or before it (a view, nothing is copied)."""
    bins = min(max(0, (end - panel.start) // panel.step), panel.values.shape[1])
    return Panel(keys=panel.keys, start=panel.start, step=panel.step, values=panel.values[:, :bins])


def tail(panel: Panel, bins: int) -> Panel:
    """The last `bins` bins of a panel, or all of it if it is shorter (a view)."""
    skipped = max(0, panel.values.shape[1] - bins)
    if not skipped:
        return panel
    start = panel.start + panel.step * skipped
    return Panel(keys=panel.keys, start=start, step=panel.step, values=panel.values[:, skipped:])


def roots(values: FloatArray) -> FloatArray:
    """Square roots, NaN for what is unknown or a fault (negative, infinite).

    Models work on roots: the noise of arrivals grows with the root of their rate, so residuals of a quiet night and
    a busy noon become comparable, and scaling a series by c scales its roots by √c, so nothing depends on the unit.
    """
    with np.errstate(invalid="ignore"):
        result = np.sqrt(values)
    result[~np.isfinite(result)] = np.nan
    return result


def carried(values: FloatArray, *, limit: int | None = None) -> FloatArray:
    """Each gap filled with the last known value before it, at most `limit` bins far; shape (series, bins).

    For a model's input only. What precedes the first known bin stays NaN.
    """
    known = np.isfinite(values)
    if known.all():
        return values
    position = np.arange(values.shape[1])
    last = np.maximum.accumulate(np.where(known, position, -1), axis=1)
    filled = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    missing = last < 0
    if limit is not None:
        missing |= position - last > limit
    return np.where(missing, np.nan, filled)


def window_means(values: FloatArray, width: int) -> FloatArray:
    """Mean of the known values among the `width` bins that end at each bin; NaN where none is known."""
    known = np.isfinite(values)
    total = np.cumsum(np.where(known, values, 0.0), axis=1)
    count = np.cumsum(known, axis=1, dtype=np.float64)
    total[:, width:] -= total[:, :-width].copy() if width < values.shape[1] else 0.0
    count[:, width:] -= count[:, :-width].copy() if width < values.shape[1] else 0.0
    means: FloatArray = np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0)
    return means


def any_known(values: FloatArray) -> NDArray[np.bool_]:
    """Which rows of (series, bins) hold at least one known value."""
    return np.asarray(np.isfinite(values).any(axis=1), dtype=np.bool_)


def reaches_back(panel: Panel, span: timedelta) -> NDArray[np.bool_]:
    """Which series have a known bin at least `span` before the panel's end (looked for over two more days at most).

    One old bin is enough: an outage on the edge of the span must not make a series young for an hour.
    """
    bins = panel.values.shape[1]
    newest = bins - bins_in(span, panel.step) + 1
    oldest = max(0, newest - bins_in(2 * DAY, panel.step))
    return any_known(panel.values[:, oldest : max(newest, 0)])


def calendar(start: datetime, step: timedelta, bins: int, *, zone: ZoneInfo | None = None) -> FloatArray:
    """Calendar features of the bins' starts, shape (bins, 5): day sine and cosine, week sine and cosine, weekend.

    `zone` makes them local (a working day follows its people's clock, DST included); without one they are in UTC.
    """
    require_utc(start, "start")
    moments = (start + step * index for index in range(bins))
    local = [moment.astimezone(zone) if zone is not None else moment for moment in moments]
    minute = np.array([one.hour * 60 + one.minute + one.second / 60 for one in local], dtype=np.float64)
    weekday = np.array([one.weekday() for one in local], dtype=np.float64)
    day = 2 * np.pi * minute / 1440
    week = 2 * np.pi * (weekday * 1440 + minute) / 10_080
    return np.stack([np.sin(day), np.cos(day), np.sin(week), np.cos(week), (weekday >= 5).astype(np.float64)], axis=1)
