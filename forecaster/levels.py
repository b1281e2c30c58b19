"""Level shifts: whether demand has come to lie on another level than a week of days would have it, and since when.

Decides that alone, from what is known at a panel's end, and how history from before a shift is brought to the new
level for a fit. It never touches what is stored, and the forecasting engine does without it: its members follow a new
level within the hour, and what a fit needs is days of one level. Reads no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.preprocess import DAY, bins_in
from forecaster.types import Panel, SeriesKey

if TYPE_CHECKING:
    from forecaster.types import FloatArray

SHIFT_WINDOW = timedelta(hours=12)
"""Over how long demand must lie off what is usual: a sale of an evening is no new level."""
SHIFT_RATIO = 1.5
"""How far off, either way."""
SHIFT_NOISE = 4.0
"""And by how many robust deviations of what it was off before."""
SHIFT_HISTORY = 8 * DAY
"""History before the shift: the same weekday must have been seen, or every Saturday would be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelShift:
    """Demand of one series that has kept to `ratio` times what was usual since `since`, and does so still."""

    key: SeriesKey
    since: datetime
    ratio: float


def level_shifts(panel: Panel) -> tuple[LevelShift, ...]:
    """The series whose level has shifted, seen from the panel's end; at most one shift each, the present one.

    Works on hours (or the panel's step, if that is longer). What is usual is the median of the same hour on the seven
    days before. Shifted is a series if the median of the last twelve hours' log-ratios to it lies beyond `SHIFT_RATIO`
    and `SHIFT_NOISE` times its usual deviation, and the same holds of half of that against the same hours a week ago.
    The shift is forgotten after about four days, when most of the seven days lie after it: then it is what is usual.
    """
    step = max(timedelta(hours=1), panel.step)
    values = _block_means(panel.values, bins_in(step, panel.step))
    day, window = bins_in(DAY, step), max(3, SHIFT_WINDOW // step)
    if values.shape[1] < bins_in(SHIFT_HISTORY, step) + window:
        return ()
    # A fiftieth of the middle is added, so that one request instead of none at night is no tenfold.
    middle = np.nan_to_num(_medians(values))
    middle = np.where(middle > 0.0, middle, np.maximum(_known_means(values), 1e-12))
    log = np.log(values + 0.02 * middle[:, None])
    off = np.full(log.shape, np.nan)
    off[:, 7 * day :] = log[:, 7 * day :] - _medians(
        np.stack([log[:, (7 - back) * day : log.shape[1] - back * day] for back in range(1, 8)], axis=2)
    )
    found = []
    for row, key in enumerate(panel.keys):
        shift = _shift_of(off[row], log[row], day, window)
        if shift is not None:
            first, ratio = shift
            found.append(LevelShift(key=key, since=panel.end - (log.shape[1] - first) * step, ratio=ratio))
    return tuple(found)


def levelled(panel: Panel, shifts: Sequence[LevelShift]) -> Panel:
    """`panel` with what lies before a shift brought to the level after it: times its ratio, gaps stay gaps.

    Not cut off: with a day and a half of the new level left no model can be fitted, and the shape of the day holds.
    """
    if not shifts:
        return panel
    values = panel.values.copy()
    row_of = {key: row for row, key in enumerate(panel.keys)}
    for shift in shifts:
        values[row_of[shift.key], : max(0, (shift.since - panel.start) // panel.step)] *= shift.ratio
    return Panel(keys=panel.keys, start=panel.start, step=panel.step, values=values)


def _shift_of(off: FloatArray, log: FloatArray, day: int, window: int) -> tuple[int, float] | None:
    """The first block of the present shift of one series and its ratio, or None."""
    now = float(_medians(off[None, -window:])[0])
    if not abs(now) >= math.log(SHIFT_RATIO):  # also for NaN: less than half of the window is known
        return None
    a_week_ago = float(_medians((log[-window:] - log[-window - 7 * day : -7 * day])[None, :])[0])
    if np.isfinite(a_week_ago) and not a_week_ago * np.sign(now) >= 0.5 * abs(now):
        return None
    beyond = off * np.sign(now) >= 0.5 * abs(now)
    back = 0  # the run of blocks on that side, forgiving gaps and one stray block in four
    while back + 4 <= off.size and np.count_nonzero(beyond[off.size - back - 4 : off.size - back]) >= 3:
        back += 1
    first = off.size - back - 3 + int(np.argmax(beyond[off.size - back - 3 :]))
    before = off[:first][np.isfinite(off[:first])]
    if before.size >= day // 2:
        noise = 1.4826 * float(np.median(np.abs(before - np.median(before))))
        if abs(now) < SHIFT_NOISE * noise:
            return None
    return first, math.exp(float(_medians(off[None, first : first + day])[0]))


def _block_means(values: FloatArray, bins: int) -> FloatArray:
    """Means over blocks of `bins` that end with the last bin; NaN where less than half of a block is known."""
    count = values.shape[1] // bins
    blocks = values[:, values.shape[1] - count * bins :].reshape(values.shape[0], count, bins)
    known = np.isfinite(blocks)
    number = known.sum(axis=2)
    total = np.where(known, blocks, 0.0).sum(axis=2)
    means: FloatArray = np.divide(total, number, out=np.full(number.shape, np.nan), where=2 * number >= max(bins, 1))
    return means


def _known_means(values: FloatArray) -> FloatArray:
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    means: FloatArray = np.divide(total, count, out=np.zeros(values.shape[0]), where=count > 0)
    return means


def _medians(values: FloatArray) -> FloatArray:
    """Medians along the last axis of what is known; NaN where less than half is."""
    known = np.isfinite(values).sum(axis=-1)
    ordered = np.sort(values, axis=-1)  # NaN last
    low = np.take_along_axis(ordered, np.maximum(known - 1, 0)[..., None] // 2, axis=-1)[..., 0]
    high = np.take_along_axis(ordered, (known // 2)[..., None].clip(0, values.shape[-1] - 1), axis=-1)[..., 0]
    medians: FloatArray = np.where(2 * known >= values.shape[-1], 0.5 * (low + high), np.nan)
    return medians
