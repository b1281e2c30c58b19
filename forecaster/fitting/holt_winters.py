"""Holt-Winters' gains for one series, by trying a grid of them at once; numpy only, runs offline.

Decides the gains whose forecasts 5 and 15 minutes ahead had the least absolute error over the last two days. A season
of 1440 minutes makes statsmodels' optimiser estimate 1440 initial states, minutes of work and no better forecast; the
whole grid run as so many rows of one recursion takes a quarter of a second a series and cannot fail to converge.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.errors import FittingError
from forecaster.models.holt_winters import Smoothing, ahead, initial_state, smooth
from forecaster.preprocess import DAY, bin_index, bins_in, roots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray, Series

MIN_SPAN = 3 * DAY
"""History before a series gets gains of its own."""
FIT_SPAN = 7 * DAY
SCORED_SPAN = 2 * DAY
SCORED_HORIZONS = (5, 15)
LEVELS_TRIED = (0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.7, 0.95)
TRENDS_TRIED = (0.0, 0.02, 0.1)
SEASONS_TRIED = (0.0, 0.05, 0.2)
DAMPINGS_TRIED = (0.8, 0.95, 0.985)
LEAST_KNOWN_RATIO = 0.5

GRID: tuple[Smoothing, ...] = tuple(
    Smoothing(level=level, trend=trend, season=season, damping=damping)
    for level, trend, season, damping in product(LEVELS_TRIED, TRENDS_TRIED, SEASONS_TRIED, DAMPINGS_TRIED)
    if trend > 0.0 or damping == DAMPINGS_TRIED[0]  # without a trend there is nothing to damp
)


def fit_holt_winters(series: Series) -> Smoothing:
    """The best gains of `GRID` for `series`.

    Raises `FittingError` where the series is too short, mostly unknown, or constant.
    """
    if series.step * series.values.size < MIN_SPAN:
        raise FittingError(f"holt-winters needs {MIN_SPAN} of history, got {series.step * series.values.size}")
    root = roots(series.values[-bins_in(FIT_SPAN, series.step) :])
    known = root[np.isfinite(root)]
    if known.size < LEAST_KNOWN_RATIO * root.size:
        raise FittingError(f"holt-winters needs half of the bins known, got {known.size} of {root.size}")
    if float(np.ptp(known)) < 1e-9:
        raise FittingError(f"holt-winters cannot learn from a constant series ({known[0] ** 2:.3g})")
    first = bin_index(series.end - series.step * root.size, series.step)
    errors = _errors(root, first, bins_in(DAY, series.step), root.size - bins_in(SCORED_SPAN, series.step))
    return GRID[int(errors.argmin())]


def _errors(root: FloatArray, first: int, day: int, scored_from: int) -> FloatArray:
    """Mean absolute error of every set of gains, in roots; one pass over the series, a row for each set."""
    level, season = initial_state(root[None, :], first, day)
    arrays: dict[str, NDArray[Any]] = {
        "level": np.repeat(level, len(GRID)),
        "trend": np.zeros(len(GRID)),
        "season": np.repeat(season, len(GRID), axis=0),
    }
    gains = (
        np.array([one.level for one in GRID]),
        np.array([one.level * one.trend for one in GRID]),
        np.array([one.season for one in GRID]),
        np.array([one.damping for one in GRID]),
    )
    horizons = np.array(SCORED_HORIZONS)
    total, count = np.zeros(len(GRID)), 0
    for column, value in enumerate(root.tolist()):
        smooth(arrays, np.full(len(GRID), value), (first + column) % day, gains)
        if column < scored_from or column % 3:
            continue
        targets = column + horizons
        truth = root[targets[targets < root.size]]
        if truth.size == horizons.size and np.isfinite(truth).all():
            said = np.maximum(ahead(arrays, first + column + 1, gains[3], SCORED_HORIZONS), 0.0)
            total += np.abs(truth - said).sum(axis=1)
            count += 1
    if not count:
        raise FittingError("holt-winters found no known bin to check a forecast on in the last two days")
    return total / count
