"""Exponential smoothing without a season: a level, and a level with a trend that dies away.

How fast each forgets is read from the series itself: of a few half-lives those count that would have erred least over
the last day, for every series and horizon. So a noisy series is averaged over a quarter of an hour and a smooth one
over two minutes, without a fit and without a memory. They know no clock and no calendar, and no more than a day.
Quantiles come from the errors that the same mix made over the last day (`quantiles.from_residuals`).
"""

from __future__ import annotations

from collections.abc import Sequence
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
from forecaster.preprocess import DAY, any_known, bin_index, bins_in, carried, reaches_back, roots, tail
from forecaster.types import HORIZONS, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

RUN_IN = timedelta(hours=3)
"""History before the oldest origin whose error counts: 6 of the longest half-lives, so that .016 of it is missing."""
LEAST_HALF_LIFE_BINS = 2.0
"""A weight halves at most every second bin: over a day and four hours of minutes it falls to 2⁻⁸⁵⁵, not to nothing."""
JUDGED_STRIDE = timedelta(minutes=21)
"""Distance of the origins that tell which half-life errs least: 69 a day. Counted back from now, not along the time
axis as the origins of the quantiles are: the median must not know the clock."""
SHARPNESS = 12.0
"""How steeply a half-life's share falls with its error. Not all to the best: near-ties would flicker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ewma:
    """It stays at the level of late: an exponentially weighted mean, the same at every horizon."""

    model_id: str = "ewma"
    min_history: timedelta = timedelta(hours=4)
    lookback: timedelta = DAY + RUN_IN + timedelta(hours=2)
    half_lives: tuple[timedelta, ...] = (timedelta(minutes=2), timedelta(minutes=5), timedelta(minutes=15))

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        return _answer(panel, horizons, self.half_lives, damping_half_life=None, min_history=self.min_history)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpSmoothing:
    """Level and trend (Brown's double smoothing: one half-life for both), the trend damped as it goes on.

    Of a straight line it says the line. The trend's share of a step halves every `damping_half_life`, so that half an
    hour ahead it has added at most what it would have added undamped in `damping_half_life` / ln 2.
    """

    model_id: str = "exp-smoothing"
    min_history: timedelta = timedelta(hours=4)
    lookback: timedelta = DAY + RUN_IN + timedelta(hours=2)
    half_lives: tuple[timedelta, ...] = (timedelta(minutes=3), timedelta(minutes=8), timedelta(minutes=20))
    damping_half_life: timedelta = timedelta(minutes=15)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        return _answer(panel, horizons, self.half_lives, self.damping_half_life, self.min_history)


def _answer(
    panel: Panel,
    horizons: tuple[int, ...],
    half_lives: tuple[timedelta, ...],
    damping_half_life: timedelta | None,
    min_history: timedelta,
) -> FloatArray:
    """Quantiles by the better of `half_lives` for each series and horizon; without a damping, of the level alone."""
    stale, step = bins_in(STALE_SPAN, panel.step), panel.step
    recent = tail(panel, residual_span_bins(step, horizons) + stale + bins_in(RUN_IN, step))
    root = roots(recent.values)
    bins = root.shape[1]
    if not bins:
        return no_opinion(len(panel.keys), horizons)
    filled = carried(root, limit=stale)
    origins = past_origins(bins, bin_index(panel.end, step), step, horizons)
    judged = np.arange(bins - 1 - max(horizons), -1, -bins_in(JUDGED_STRIDE, step))
    judged = judged[judged >= bins - residual_span_bins(step, horizons)]
    columns = np.concatenate([judged, origins, [bins - 1]])
    targets = root[:, np.array(horizons)[:, None] + columns[:-1]]
    growth = None if damping_half_life is None else _growth(damping_half_life / step, horizons)
    said = [_said(filled, columns, max(each / step, LEAST_HALF_LIFE_BINS), growth) for each in half_lives]
    weights = _weights([_mean_error(targets[..., : judged.size], each[..., : judged.size]) for each in said])
    blend = sum(
        (weight[..., None] * each[..., judged.size :] for weight, each in zip(weights, said, strict=True)),
        np.zeros((len(panel.keys), len(horizons), origins.size + 1)),
    )
    values = from_residuals(blend[..., -1], targets[..., judged.size :] - blend[..., :-1])
    values[~(any_known(panel.values[:, -stale:]) & reaches_back(panel, min_history))] = np.nan
    return values


def _said(filled: FloatArray, columns: NDArray[np.int64], half_life: float, growth: FloatArray | None) -> FloatArray:
    """Roots forecast after each of `columns`, shape (series, horizons or 1, columns), never below zero.

    Σ 2^(-age / half_life) · y over the known bins is a difference of nothing: one cumulated sum serves every column.
    """
    known = np.isfinite(filled)
    weight = np.exp2((np.arange(filled.shape[1]) - filled.shape[1] + 1.0) / half_life)
    held = np.where(known, filled, 0.0) * weight
    mass = weight[None, :] if known.all() else weight * known  # one row serves all where nothing is unknown
    once = _quotient(np.cumsum(held, axis=1)[:, columns], np.cumsum(mass, axis=1)[:, columns])
    if growth is None:
        return once[:, None, :]
    number = np.arange(filled.shape[1], dtype=np.float64)
    twice = _quotient(_by_age(held, number, columns), _by_age(mass, number, columns))
    keeps = 0.5 ** (1.0 / half_life)
    slope = (once - twice) * (1.0 - keeps) / keeps
    line: FloatArray = (2.0 * once - twice)[:, None, :] + growth[None, :, None] * slope[:, None, :]
    return np.maximum(line, 0.0)


def _by_age(held: FloatArray, number: FloatArray, columns: NDArray[np.int64]) -> FloatArray:
    """Σ (age + 1) · held up to each column: what smoothing the smoothed series once more weighs by."""
    plain, numbered = np.cumsum(held, axis=1)[:, columns], np.cumsum(held * number, axis=1)[:, columns]
    return np.asarray((columns + 1.0) * plain - numbered, dtype=np.float64)


def _quotient(part: FloatArray, whole: FloatArray) -> FloatArray:
    quotient: FloatArray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0.0)
    return quotient


def _growth(half_life: float, horizons: tuple[int, ...]) -> FloatArray:
    """φ + … + φ^h for every horizon, with φ = 2^(-1 / half_life): how many steps' trend a forecast holds."""
    factor = 0.5 ** (1.0 / half_life)
    return np.asarray(factor * (1.0 - factor ** np.array(horizons)) / (1.0 - factor))


def _mean_error(targets: FloatArray, said: FloatArray) -> FloatArray:
    """Mean absolute error over the origins, (series, horizons); infinite where none is known."""
    error = np.abs(targets - said)
    known = np.isfinite(error)
    total, count = np.where(known, error, 0.0).sum(axis=-1), known.sum(axis=-1)
    means: FloatArray = np.divide(total, count, out=np.full(total.shape, np.inf), where=count > 0)
    return means


def _weights(errors: Sequence[FloatArray]) -> FloatArray:
    """Shares of the half-lives, (half-lives, series, horizons): (lowest error / error) ** `SHARPNESS`, summing to 1."""
    each = np.stack(errors)
    lowest = each.min(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(each <= lowest, 1.0, lowest / each) ** SHARPNESS
    total: FloatArray = share.sum(axis=0)
    return np.asarray(share / total)
