"""Damped additive Holt-Winters with a daily season, on square roots of demand.

Level, damped trend and one seasonal term a minute of the day; it follows a level shift by itself and forgets a false
trend within an hour. Parameters come from a fit a series (`forecaster.fitting.holt_winters`) or are the defaults
below, so the model speaks without any fit. It reads whole histories only once: from then on one bin costs a handful
of vector operations for all series together (`tracking.Track`). It never fits anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models.quantiles import (
    RESIDUAL_SPAN,
    RESIDUAL_STRIDE,
    STALE_SPAN,
    from_residuals,
    past_origins,
)
from forecaster.models.tracking import Track
from forecaster.preprocess import (
    DAY,
    LARGEST_ROOT,
    any_known,
    bin_index,
    bins_in,
    carried,
    reaches_back,
    roots,
    tail,
    window_means,
)
from forecaster.types import HORIZONS, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

    Gains = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """Gains of level, trend and season (`level`·`trend` is what reaches the slope), and the trend's damping."""

    level: float = 0.08
    trend: float = 0.02
    season: float = 0.05
    damping: float = 0.95

    def __post_init__(self) -> None:
        gains = (self.level, self.trend, self.season)
        # At a damping of 1 the trend never ends, and half an hour ahead it is thirty times a minute's noise.
        if not (all(0.0 <= gain <= 1.0 for gain in gains) and 0.0 <= self.damping < 1.0):
            raise ValueError(f"gains must lie in [0, 1] and the damping in [0, 1), got {self}")


DEFAULT_SMOOTHING = Smoothing()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoltWinters:
    """Per-series smoothing over a daily season; `fitted` names the series that have parameters of their own.

    `history` is what a fresh start reads: a week of recursion is enough, since level and trend forget within hours
    and the season starts from the mean of whole days.
    """

    model_id: str = "holt-winters"
    fitted: Mapping[SeriesKey, Smoothing] = field(default_factory=dict)
    min_history: timedelta = 3 * DAY
    history: timedelta = 7 * DAY
    lookback: timedelta = DAY + timedelta(hours=2)
    _last_gains: list[tuple[tuple[SeriesKey, ...], Gains]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    """The gains that were asked for last, and for whom: every bin asks twice for the same."""

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`; reads the last `history` of the panel."""
        return self.predict_from(self.start(panel, horizons=horizons), panel, horizons=horizons)

    def start(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """Season from the mean of the whole days there are, then one pass over the last `history`."""
        recent = tail(panel, bins_in(self.history, panel.step))
        root = roots(recent.values)
        slots = _slots(recent, horizons)
        first = bin_index(recent.start, recent.step)
        level, season = initial_state(root, first, bins_in(DAY, panel.step))
        arrays: dict[str, NDArray[Any]] = {
            "level": level,
            "trend": np.zeros(len(panel.keys)),
            "season": season.astype(np.float32),  # of 3,000 series 17 MB, a ten-millionth of a root off
            "points": np.full((len(panel.keys), slots, len(horizons)), np.nan, dtype=np.float16),
            # NaN-free once the series is old enough: kept, because later panels may hold only the last day.
            "mature": reaches_back(panel, self.min_history),
        }
        before = Track(keys=panel.keys, end=recent.start, arrays=arrays)
        return self._run(before, root, panel.step, horizons, skip_points=root.shape[1] - slots * _stride(panel.step))

    def advance(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """See `forecaster.models.tracking.Tracking`."""
        fresh = (panel.end - track.end) // panel.step
        if fresh <= 0:
            return track
        followed = self._run(track, roots(panel.values[:, -fresh:]), panel.step, horizons)
        mature = track.arrays["mature"] | reaches_back(panel, self.min_history)
        return Track(keys=track.keys, end=followed.end, arrays={**followed.arrays, "mature": mature})

    def predict_from(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.models.tracking.Tracking`."""
        arrays, step = track.arrays, panel.step
        next_bin = bin_index(track.end, step)
        damping = self._gains(track.keys)[3]
        points = np.maximum(ahead(arrays, next_bin, damping, horizons), 0.0)

        slots, stride = arrays["points"].shape[1], _stride(step)
        recent = tail(panel, slots * stride + max(horizons))
        root = roots(recent.values)
        bins = root.shape[1]
        # Column c is bin number next_bin - bins + c; the ring keeps what was forecast after every stride-th bin.
        origins = past_origins(bins, next_bin, step, horizons)
        kept = arrays["points"][:, ((next_bin - bins + origins + 1) // stride) % slots, :].swapaxes(1, 2)
        targets = np.array(horizons)[:, None] + origins[None, :]
        values = from_residuals(points, root[:, targets] - kept)
        fresh = any_known(panel.values[:, -bins_in(STALE_SPAN, step) :])
        values[~(fresh & arrays["mature"])] = np.nan
        return values

    def _gains(self, keys: tuple[SeriesKey, ...]) -> Gains:
        for known, gains in self._last_gains:
            if known is keys:
                return gains
        chosen = [self.fitted.get(key, DEFAULT_SMOOTHING) for key in keys]
        table = np.array([(one.level, one.level * one.trend, one.season, one.damping) for one in chosen]).reshape(-1, 4)
        made = table[:, 0], table[:, 1], table[:, 2], table[:, 3]
        self._last_gains[:] = [(keys, made)]
        return made

    def _run(
        self, track: Track, root: FloatArray, step: timedelta, horizons: tuple[int, ...], *, skip_points: int = 0
    ) -> Track:
        """The recursion over the columns of `root`; an unknown bin moves nothing but the damped trend."""
        gains = self._gains(track.keys)
        damping = gains[3]
        arrays = {name: array.copy() for name, array in track.arrays.items()}
        slots, stride, day = arrays["points"].shape[1], _stride(step), arrays["season"].shape[1]
        first = bin_index(track.end, step)
        for column in range(root.shape[1]):
            smooth(arrays, root[:, column], (first + column) % day, gains)
            following = first + column + 1
            if following % stride == 0 and column >= skip_points:
                said = np.maximum(ahead(arrays, following, damping, horizons), 0.0)
                arrays["points"][:, (following // stride) % slots, :] = np.minimum(said, LARGEST_ROOT)
        return Track(keys=track.keys, end=track.end + step * root.shape[1], arrays=arrays)


def smooth(
    arrays: dict[str, NDArray[Any]],
    root: FloatArray,
    minute: int,
    gains: Gains,
) -> None:
    """One bin of damped additive Holt-Winters in error-correction form, in place on arrays that the caller owns.

    l' = l + φb + αe,  b' = φb + αβe,  s' = s + γe  with  e = y - l - φb - s; e = 0 where y is unknown.
    """
    level_gain, trend_gain, season_gain, damping = gains
    slope = damping * arrays["trend"]
    error = root - arrays["level"] - slope - arrays["season"][:, minute]
    error[np.isnan(error)] = 0.0
    arrays["level"] += slope + level_gain * error
    arrays["trend"] = slope + trend_gain * error
    arrays["season"][:, minute] += season_gain * error


def initial_state(root: FloatArray, first: int, day: int) -> tuple[FloatArray, FloatArray]:
    """Level (series,) and season (series, day) to start the recursion from, column 0 being bin number `first`.

    The season is the mean over whole days of the distance to each day's own mean, smoothed over half an hour;
    with less than one whole day it is flat. Minutes of the day that were never seen take the last seen before them.
    """
    whole = root.shape[1] // day
    level = _row_means(root[:, :day])
    level = np.where(np.isnan(level), _row_means(root), level)
    if not whole:
        return np.nan_to_num(level), np.zeros((root.shape[0], day))
    days = root[:, root.shape[1] - whole * day :].reshape(root.shape[0], whole, day)
    centred = days - _row_means(days.reshape(-1, day)).reshape(root.shape[0], whole, 1)
    profile = np.stack([_row_means(column) for column in centred.transpose(2, 0, 1)], axis=1)
    width = max(1, day // 48)
    circular = np.concatenate([profile, profile, profile], axis=1)
    smoothed = carried(window_means(circular, width))[:, day + width // 2 : 2 * day + width // 2]
    season = np.nan_to_num(smoothed - np.nan_to_num(_row_means(smoothed))[:, None])
    offset = (first + root.shape[1] - whole * day) % day
    season = np.roll(season, offset, axis=1)
    return np.nan_to_num(level), season


def ahead(
    arrays: Mapping[str, NDArray[Any]], next_bin: int, damping: FloatArray, horizons: tuple[int, ...]
) -> FloatArray:
    """Roots forecast for the bins `next_bin` + h - 1: level + (φ + … + φ^h)·trend + season; shape (series, H)."""
    steps = np.array(horizons)
    day = arrays["season"].shape[1]
    factor = damping[:, None]
    growth = factor * (1.0 - factor**steps) / (1.0 - factor)
    season = arrays["season"][:, (next_bin + steps - 1) % day]
    return np.asarray(arrays["level"][:, None] + growth * arrays["trend"][:, None] + season)


def _row_means(values: FloatArray) -> FloatArray:
    """Mean of the known values of each row; NaN where none is known."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    means: FloatArray = np.divide(total, count, out=np.full(values.shape[0], np.nan), where=count > 0)
    return means


def _stride(step: timedelta) -> int:
    return bins_in(RESIDUAL_STRIDE, step)


def _slots(panel: Panel, horizons: tuple[int, ...]) -> int:
    """Ring size: the origins of one residual span, and those still too young to be checked."""
    return -(-(bins_in(RESIDUAL_SPAN, panel.step) + max(horizons)) // _stride(panel.step)) + 1
