"""What stands in for a forecast while a series cannot be measured: the day before, at the level that was seen last.

No model: nothing is known of the present, so nothing is learnt, scored or blended, and whoever acts on it says that it
is a stand-in. It answers for series that were known within the last day and are not now; it never looks at anything
but the past, and has no opinion where the day before was not seen either.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.models.quantiles import RESIDUAL_STRIDE, STALE_SPAN, from_residuals, no_opinion
from forecaster.preprocess import DAY, bins_in, carried, roots, window_means
from forecaster.types import HORIZONS, Panel

if TYPE_CHECKING:
    from forecaster.types import FloatArray

MODEL_ID: Final = "day-before"

LOOKBACK: Final = 3 * DAY + timedelta(hours=2)
"""A day without measurements, a day of errors before it, and the day that these are errors against."""

LEVEL_SPAN: Final = timedelta(hours=1)
"""The last hour that was seen says at which level today runs, compared with the same hour a day before."""

MOST_LEVEL: Final = 2.0
"""Today may run at half or twice the day before; further off it is another kind of day, and the hour that says so may
have been part of what went wrong."""

WIDTH: Final = timedelta(minutes=15)
"""The day before is averaged over so long: its minute noise is not expected again."""


def predict(panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
    """Quantiles of the coming bins, as a `Forecaster` answers; NaN for a series with nothing to go by.

    The median is the day before times today's level; the band are the errors of this very rule over the last day that
    was seen, minute against minute: wider than any forecast's of minutes ahead, and as wide after an hour as after ten.
    """
    day, bins = bins_in(DAY, panel.step), panel.values.shape[1]
    if bins <= day or max(horizons) > day:
        return no_opinion(len(panel.keys), horizons)
    root = roots(panel.values)
    before = carried(roots(panel.day_before), limit=bins_in(STALE_SPAN, panel.step))
    half = bins_in(WIDTH, panel.step) // 2
    smooth = np.full_like(before, np.nan)
    smooth[:, : bins - half] = window_means(before, 2 * half + 1)[:, half:]
    points = np.full((len(panel.keys), len(horizons)), np.nan)
    residuals = np.full((len(panel.keys), 1, day // bins_in(RESIDUAL_STRIDE, panel.step)), np.nan)
    ahead = bins - 1 + np.array(horizons) - day
    for row in range(len(panel.keys)):
        known = np.flatnonzero(np.isfinite(root[row]))
        if not known.size or known[-1] < bins - day:
            continue
        last = int(known[-1])
        level = _level(root[row], before[row], last, day, bins_in(LEVEL_SPAN, panel.step))
        points[row] = level * smooth[row, ahead]
        seen = np.arange(last, max(day - 1, last - day), -bins_in(RESIDUAL_STRIDE, panel.step))[: residuals.shape[2]]
        residuals[row, 0, : seen.size] = root[row, seen] - level * smooth[row, seen - day]
    answer = from_residuals(points, np.repeat(residuals, len(horizons), axis=1))
    answer[~np.isfinite(answer).all(axis=(1, 2))] = np.nan
    return answer


def _level(root: FloatArray, before: FloatArray, last: int, day: int, span: int) -> float:
    """Today's level over the day before's in roots, from the last hour seen; 1 where that says nothing."""
    now = np.arange(max(day, last - span + 1), last + 1)
    both = now[np.isfinite(root[now]) & np.isfinite(before[now - day])]
    if both.size < span // 4:
        return 1.0
    was = float(np.mean(before[both - day]))
    if was <= 0.0:
        return 1.0
    most = float(np.sqrt(MOST_LEVEL))
    return min(most, max(1.0 / most, float(np.mean(root[both])) / was))
