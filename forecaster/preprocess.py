"""Raw samples become a regular UTC grid, and what was not measured stays unknown.

Decides which bin a sample belongs to, which samples are faults (non-finite, negative, from the future), which bins an
outage hides, which ones it bends (lower bounds, retries), and where on the grid an hour of another offset belongs. It
never invents traffic: a gap is NaN, never zero; `carried` bridges short gaps for a model's *input* alone and is never
written back. Reads no clock and no network.
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
LARGEST_ROOT = float(np.finfo(np.float16).max)
"""What memories keep in half precision is at most this: the root of 4 · 10⁹ requests, or tokens, a second."""


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


REFERENCE_SPAN = timedelta(minutes=15)
"""Over how long the last sound demand is averaged: what a lower bound or a storm is compared with."""
REFERENCE_FOR = timedelta(minutes=30)
"""How long that average says something; the same span after which a series of unknowns gets no forecast."""
STORM_SPAN = timedelta(minutes=10)
"""After the workload was not served: for how long clients that come back all at once are expected."""
STORM_RATIO = 1.5
"""Demand above this multiple of what came before the outage is, within `STORM_SPAN`, taken for retries."""


def without_censored(
    demand: FloatArray, *, seen_ratio: FloatArray, service_up_ratio: FloatArray, step: timedelta = STEP
) -> FloatArray:
    """Demand (series, bins) without the bins that say less, or something else, than what people wanted.

    `seen_ratio` is the share of the scrapes of what counts the demand that came, `service_up_ratio` that of the
    engines', both on demand's grid; NaN is "nothing speaks against the bin". Three things happen, each only ever from
    known to unknown, so nothing is invented:

    - seen below 1: the bin is a lower bound. It stays if it is at least the mean of the last sound quarter of an hour
      (it may raise what is expected), else it is unknown (it may never lower it). Without a sound bin in the half hour
      before it is unknown too.
    - service at 0: nobody was served, so clients gave up or tried again and again; unknown, high or low.
    - for ten minutes after that: a bin above 1.5 times what came before the outage is a storm of retries; unknown.

    Raises `SeriesError` for shapes that differ.
    """
    if not demand.shape == seen_ratio.shape == service_up_ratio.shape:
        raise SeriesError(
            f"demand and evidence must share one grid, got {demand.shape}, {seen_ratio.shape}, {service_up_ratio.shape}"
        )
    with np.errstate(invalid="ignore"):
        lower_bound, unserved = seen_ratio < 1.0, service_up_ratio <= 0.0
    if not (lower_bound.any() or unserved.any()):
        return demand
    storm_bins = bins_in(STORM_SPAN, step)
    after = _within(unserved, storm_bins) & ~unserved
    reference = _last_sound(np.where(lower_bound | unserved | after, np.nan, demand), step)
    with np.errstate(invalid="ignore"):
        too_low = lower_bound & ~(demand >= reference)
        storm = after & (demand > STORM_RATIO * reference)
    return np.where(too_low | unserved | storm, np.nan, demand)


def _last_sound(sound: FloatArray, step: timedelta) -> FloatArray:
    """The mean of the known bins of the `REFERENCE_SPAN` before each bin, as it stood at most `REFERENCE_FOR` ago.

    A bin counts as of the one after it. The mean is the one at the last sound bin, so that it does not thin out while
    a gap lasts.
    """
    means = np.where(np.isfinite(sound), window_means(sound, bins_in(REFERENCE_SPAN, step)), np.nan)
    known = carried(means, limit=bins_in(REFERENCE_FOR, step))
    return np.concatenate([np.full((sound.shape[0], 1), np.nan), known[:, :-1]], axis=1)


def _within(flags: NDArray[np.bool_], bins: int) -> NDArray[np.bool_]:
    """Whether any of the last `bins` bins before each, itself included, is flagged."""
    count = np.cumsum(flags, axis=1, dtype=np.int64)
    count[:, bins + 1 :] -= count[:, : -bins - 1].copy() if bins + 1 < flags.shape[1] else 0
    return np.asarray(count > 0, dtype=np.bool_)


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
    return _columns(panel, 0, bins)


def tail(panel: Panel, bins: int) -> Panel:
    """The last `bins` bins of a panel, or all of it if it is shorter (a view)."""
    skipped = max(0, panel.values.shape[1] - bins)
    if not skipped:
        return panel
    return _columns(panel, skipped, panel.values.shape[1])


def _columns(panel: Panel, first: int, end: int) -> Panel:
    return Panel(
        keys=panel.keys,
        start=panel.start + panel.step * first,
        step=panel.step,
        values=panel.values[:, first:end],
        reference=None if panel.reference is None else panel.reference[:, first:end],
    )


def roots(values: FloatArray) -> FloatArray:
    """Square roots, NaN for what is unknown or a fault (negative, infinite).

    Models work on roots: the noise of arrivals grows with the root of their rate, so residuals of a quiet night and
    a busy noon become comparable, and scaling a series by c scales its roots by √c, so nothing depends on the unit.
    """
    with np.errstate(invalid="ignore"):
        result = np.sqrt(values)
    known = np.isfinite(result)
    if not known.all():
        result[~known] = np.nan
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
    if known.all():
        total = np.cumsum(values, axis=1)
        total[:, width:] -= total[:, :-width].copy() if width < values.shape[1] else 0.0
        return np.asarray(total / np.minimum(np.arange(1.0, values.shape[1] + 1.0), float(width)))
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


def by_local_clock(values: FloatArray, *, start: datetime, step: timedelta, zone: ZoneInfo) -> FloatArray:
    """(series, bins) with history moved so that a day is 24 hours on the clock that `zone` shows at the end.

    People keep to their clock: nine in the morning is 08:00 UTC in a Berlin winter and 07:00 UTC in its summer. Models
    compare bins that lie 24 hours apart, so after a change of offset every older bin moves by it, an hour earlier in
    spring and later in autumn (half an hour on Lord Howe), as often as there were changes. The newest stretch stays
    where it is. An hour that was skipped holds what was measured in it; of one that came twice the second counts.
    """
    bins = values.shape[1]
    changes = _offset_changes(start, step, bins, zone)
    if not changes:
        return values
    source = np.arange(bins)
    edges = [0, *(bin_ for bin_, _ in changes), bins]
    now = changes[-1][1]
    offsets = [start.astimezone(zone).utcoffset() or timedelta(0), *(offset for _, offset in changes)]
    for first, last, offset in zip(edges, edges[1:], offsets, strict=False):
        moved = np.arange(first, last) - (now - offset) // step
        inside = (moved >= 0) & (moved < bins)
        source[moved[inside]] = np.arange(first, last)[inside]
    return values[:, source]


def clock_stands(*, start: datetime, step: timedelta, bins: int, zone: ZoneInfo) -> bool:
    """Whether `zone` keeps its offset over all these bins: then `by_local_clock` moves none, and need not be asked."""
    return not _offset_changes(start, step, bins, zone)


def _offset_changes(start: datetime, step: timedelta, bins: int, zone: ZoneInfo) -> list[tuple[int, timedelta]]:
    """The bins with which another offset from UTC begins, and that offset."""

    def offset(bin_: int) -> timedelta:
        return (start + bin_ * step).astimezone(zone).utcoffset() or timedelta(0)

    changes = []
    stride = bins_in(DAY, step)
    for low in range(0, bins - 1, stride):
        high = min(low + stride, bins - 1)
        if offset(low) == offset(high):  # nobody changes twice a day
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        changes.append((high, offset(high)))
    return changes


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
