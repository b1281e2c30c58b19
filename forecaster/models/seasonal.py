"""The models that need no fit: as it is now, as it was yesterday, and yesterday's shape at today's level.

They are the baselines that every other model has to beat and the members that are always there. They never
extrapolate a trend and know no calendar: a day is 24 hours before, unless the panel says what else stands for it
(`Panel.reference`). Quantiles come from the errors that the same rule made over the last day
(`quantiles.from_residuals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.models.quantiles import (
    STALE_SPAN,
    from_residuals,
    no_opinion,
    past_origins,
    residual_span_bins,
)
from forecaster.preprocess import DAY, any_known, bin_index, bins_in, carried, reaches_back, roots, tail, window_means
from forecaster.types import HORIZONS, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """It stays as it is: every horizon is the newest known bin."""

    model_id: str = "last-value"
    min_history: timedelta = timedelta(hours=4)
    lookback: timedelta = DAY + timedelta(hours=1)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        recent = tail(panel, residual_span_bins(panel.step, horizons) + bins_in(STALE_SPAN, panel.step))
        root = roots(recent.values)
        filled = carried(root, limit=bins_in(STALE_SPAN, panel.step))
        points = np.repeat(filled[:, -1:], len(horizons), axis=1) if root.shape[1] else _empty(recent, horizons)
        origins, targets = _grid(recent, horizons)
        return _answer(self.min_history, panel, points, root[:, targets] - filled[:, None, origins], horizons)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalNaive:
    """It is as it was 24 hours before (or on the last day of the same kind), whatever today's level."""

    model_id: str = "seasonal-naive"
    min_history: timedelta = 2 * DAY
    lookback: timedelta = 2 * DAY + timedelta(hours=2)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        day = bins_in(DAY, panel.step)
        recent = tail(panel, day + residual_span_bins(panel.step, horizons) + bins_in(STALE_SPAN, panel.step))
        if recent.values.shape[1] < day + 1 or max(horizons) > day:
            return no_opinion(len(panel.keys), horizons)
        root, before = roots(recent.values), carried(roots(recent.day_before))
        newest = root.shape[1] - 1
        points = before[:, newest + np.array(horizons) - day]
        _, targets = _grid(recent, horizons, since=day)
        return _answer(self.min_history, panel, points, root[:, targets] - before[:, targets - day], horizons)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalDelta:
    """Today's level plus what yesterday's smoothed curve did from this minute on.

    Where the level shifts, yesterday's values are wrong but yesterday's *changes* still hold. The level is the mean
    of the last quarter of an hour, compared with the same quarter of an hour a day before; yesterday's curve is
    averaged over the same width around its target, so that its minute noise is not forecast again.
    """

    model_id: str = "seasonal-delta"
    min_history: timedelta = 2 * DAY
    lookback: timedelta = 2 * DAY + timedelta(hours=2)
    width: timedelta = timedelta(minutes=15)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        day, width = bins_in(DAY, panel.step), bins_in(self.width, panel.step)
        half = width // 2
        margin = bins_in(STALE_SPAN, panel.step) + width
        recent = tail(panel, day + residual_span_bins(panel.step, horizons) + margin)
        if recent.values.shape[1] < day + width or max(horizons) + half > day:
            return no_opinion(len(panel.keys), horizons)
        root = roots(recent.values)
        # Centred on a target a day ago, the window ends `half` bins after it: still a day minus half in the past.
        means = before = carried(window_means(root, width))
        if recent.reference is not None:
            before = carried(window_means(roots(recent.reference), width))
        newest = np.array([root.shape[1] - 1])
        points = self._points(means, before, newest, newest[:, None] + np.array(horizons), day, half)[:, :, 0]
        origins, targets = _grid(recent, horizons, since=day + width)
        past = self._points(means, before, origins, targets.T, day, half)
        return _answer(self.min_history, panel, points, root[:, targets] - past, horizons)

    @staticmethod
    def _points(
        means: FloatArray,
        before: FloatArray,
        origins: NDArray[np.int64],
        targets: NDArray[np.int64],
        day: int,
        half: int,
    ) -> FloatArray:
        """Roots forecast from `origins` (O) for `targets` (O, H); shape (series, H, O), never below zero."""
        change = before[:, targets.T - day + half] - before[:, None, origins - day]
        return np.maximum(means[:, None, origins] + change, 0.0)


def _grid(panel: Panel, horizons: tuple[int, ...], *, since: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Past origins at or after column `since`, and their targets (horizons, origins)."""
    origins = past_origins(panel.values.shape[1], bin_index(panel.end, panel.step), panel.step, horizons)
    origins = origins[origins >= since]
    return origins, np.array(horizons)[:, None] + origins[None, :]


def _empty(panel: Panel, horizons: tuple[int, ...]) -> FloatArray:
    return np.full((len(panel.keys), len(horizons)), np.nan)


def _answer(
    min_history: timedelta, panel: Panel, points: FloatArray, residuals: FloatArray, horizons: tuple[int, ...]
) -> FloatArray:
    """Quantiles, with no opinion on series that are too young or of which nothing is known lately."""
    values = from_residuals(points, residuals)
    fresh = any_known(panel.values[:, -bins_in(STALE_SPAN, panel.step) :])
    values[~(fresh & reaches_back(panel, min_history))] = np.nan
    return values
