"""What every model's answer has to look like, and how a model without quantiles of its own gets them.

Decides nothing about the future: it turns a point forecast and the errors that the same rule made over the last day
into quantiles, keeps quantiles in order, and scores them. All error arithmetic is done on square roots (see
`preprocess.roots`), so that it neither knows the unit nor ever answers a negative demand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.preprocess import bins_in
from forecaster.types import LEVEL_Z, LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

QUANTILE_LEVELS: FloatArray = np.array(LEVELS)
UPPER_LEVELS: FloatArray = QUANTILE_LEVELS[1:]

RESIDUAL_SPAN = timedelta(days=1)
"""How far back errors count: one whole day, so that night and noon are both in."""

RESIDUAL_STRIDE = timedelta(minutes=7)
"""Distance of the origins whose errors are kept: 205 a day. Neighbouring minutes repeat the same error.

Seven, because it divides neither an hour nor a day: the origins, which stand still on the time axis, pass through every
minute of the hour, so that a peak on the hour is neither always nor never among them.
"""

MIN_RESIDUALS = 12
"""Fewer errors than these say nothing about a 95 % quantile: no opinion."""

DISPUTE_SHARPNESS = 1.0 / 3.0
"""A blend by loss to the sixth disputes by loss squared: a member 10 % worse than the best counts for .83 of it."""

STALE_SPAN = timedelta(minutes=30)
"""A series of which nothing is known for this long gets no forecast: yesterday's shape is not a measurement."""


def residual_span_bins(step: timedelta, horizons: tuple[int, ...]) -> int:
    """Bins before the panel's end that `past_origins` may touch, targets included."""
    return bins_in(RESIDUAL_SPAN, step) + max(horizons) + 1


def past_origins(bins: int, next_bin: int, step: timedelta, horizons: tuple[int, ...]) -> NDArray[np.int64]:
    """Columns (of a panel with `bins` columns) from which a forecast of every horizon could be checked by now.

    Newest first, `RESIDUAL_STRIDE` apart, at most `RESIDUAL_SPAN` back. Origin o knows columns ≤ o; its horizon h
    is column o + h. `next_bin` numbers the bin after the panel's last one (`preprocess.bin_index` of its end): origins
    are multiples of the stride on the time axis, not distances from now. Were they distances, each minute would look
    at other errors than the minute before, and the band would comb with the stride's period.
    """
    stride = bins_in(RESIDUAL_STRIDE, step)
    newest = bins - 1 - max(horizons)
    newest -= (next_bin - bins + newest + 1) % stride
    oldest = max(0, newest - bins_in(RESIDUAL_SPAN, step) + 1)
    return np.arange(newest, oldest - 1, -stride, dtype=np.int64)


def from_residuals(points: FloatArray, residuals: FloatArray) -> FloatArray:
    """Quantiles around a point forecast from the errors of earlier ones.

    `points` (series, horizons) and `residuals` (series, horizons, origins), truth minus forecast, are roots;
    NaN residuals are unknown. The median is the point itself; the level τ adds the error of rank ⌈(n + 1)·τ⌉ (the
    split-conformal rank: with 205 errors the .95 quantile is the 196th and the .99 quantile the 204th).
    Answers (series, horizons, levels) in the series' own unit; NaN where fewer than `MIN_RESIDUALS` are known.
    """
    ordered = np.sort(residuals, axis=-1)  # NaN sorts last
    known = np.isfinite(residuals).sum(axis=-1)
    rank = np.ceil((known[..., None] + 1) * UPPER_LEVELS).astype(np.int64)
    rank = np.clip(np.minimum(rank, known[..., None]) - 1, 0, None)
    if residuals.shape[-1]:
        above = np.maximum(np.take_along_axis(ordered, rank, axis=-1), 0.0)
    else:
        above = np.full((*points.shape, UPPER_LEVELS.size), np.nan)
    above[known < MIN_RESIDUALS] = np.nan
    root = np.concatenate([points[..., None], points[..., None] + above], axis=-1)
    return settled(np.square(np.maximum(root, 0.0)))


def disputed(root: FloatArray, medians: FloatArray, weights: FloatArray) -> FloatArray:
    """Blended roots (…, levels), their upper levels moved out by how far members above the mean lie from it.

    Averaged quantiles are as narrow as the members' own, however far apart the members are; but a match that begins
    or does not is not half a match. Of a mixture, the variances within and between its parts add: the width w of the
    level with normal score z becomes √(w² + z²·D²), D² = Σ shareᵢ · max(medianᵢ - mean, 0)². Only what lies above
    counts, as only upper levels are said. `medians` and `weights` are (…, members), in roots; the shares are the
    weights to the power of `DISPUTE_SHARPNESS`, for the blend's own leave the next best no word.
    """
    shares = np.where(weights > 0.0, weights, 0.0) ** DISPUTE_SHARPNESS * (weights > 0.0)
    shares /= np.maximum(shares.sum(axis=-1, keepdims=True), 1e-300)
    heard = np.where(weights > 0.0, medians, 0.0)
    above = np.maximum(heard - (shares * heard).sum(axis=-1, keepdims=True), 0.0)
    variance = (shares * np.square(above)).sum(axis=-1)
    width = np.sqrt(np.square(root - root[..., :1]) + np.square(LEVEL_Z) * variance[..., None])
    said: FloatArray = root[..., :1] + width
    return said


def settled(values: FloatArray) -> FloatArray:
    """Quantiles made fit for the contract: ≥ 0, non-decreasing along the levels, whole rows NaN if any is unsound.

    `values` has shape (series, horizons, levels). A series with one bad number is a series without an opinion.
    """
    ordered: FloatArray = np.maximum.accumulate(np.maximum(values, 0.0), axis=-1)
    ordered[~np.isfinite(ordered).all(axis=(1, 2))] = np.nan
    return ordered


def no_opinion(series: int, horizons: tuple[int, ...]) -> FloatArray:
    """An all-NaN answer: the model says nothing about these series."""
    return np.full((series, len(horizons), len(LEVELS)), np.nan)


def pinball(actual: FloatArray, quantiles: FloatArray) -> FloatArray:
    """Pinball loss of quantiles (…, levels) against actuals (…), the mean over the levels, in the series' unit."""
    error = actual[..., None] - quantiles
    loss: FloatArray = np.maximum(QUANTILE_LEVELS * error, (QUANTILE_LEVELS - 1.0) * error).mean(axis=-1)
    return loss
