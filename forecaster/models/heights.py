"""How wide a band has to be where the forecast lies high, or low, among those of the last days.

Roots make the noise of a Poisson process even: errors of night and noon become comparable. Traffic in bursts is no
Poisson process. What is forecast to be quiet is now and then far busier, and a busy hour is followed by none that is
much busier: with one width for all, .92 of the quiet minutes of a token trace lay below their .95 quantile, and .98 of
the busiest. So the errors above the forecast are remembered by its height, in six ranks, and each rank's band is as
wide as they ask for.

Decides the factor of a band and nothing else; it never touches a median. Arrays are the engine's (`memory`), in roots.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

    RankArray = NDArray[np.int8]

EDGES: FloatArray = np.array((-1.0, -0.5, 0.0, 0.5, 1.0))
"""Between the ranks, in standard deviations from the mean of the medians said: a sixth of a bell or a little less."""
RANKS = EDGES.size + 1
NO_RANK = -1
"""Of a median that is not known, or that nothing different came before."""
MEAN_HALF_LIFE = timedelta(days=2)
"""Half-life of the mean and the deviation: of one day alone a Sunday would be all low."""
LEAST_SPAN = timedelta(hours=1)
"""Medians of less have no mean to speak of."""
HALF_LIFE = timedelta(days=7)
"""Half-life of what errors are at a rank."""
PRIOR = timedelta(hours=6)
"""How long every rank is taken to have erred like all together: four hours is what a rank has in a day."""


def ranks(medians: FloatArray, arrays: Mapping[str, NDArray[Any]], step: timedelta) -> RankArray:
    """The rank (series, horizons) of each of `medians` among those before it; `NO_RANK` where none can be told."""
    count = arrays["median_weight"]
    enough = np.isfinite(medians) & (count >= LEAST_SPAN / step)
    mean = arrays["median"] / np.maximum(count, 1e-300)
    variance = arrays["median_square"] / np.maximum(count, 1e-300) - np.square(mean)
    # What sums of squares leave of a constant is rounding, and of either sign.
    told = enough & (variance > 1e-12 * np.square(mean))
    height = (medians - mean) / np.sqrt(np.where(told, variance, 1.0))
    found: RankArray = np.where(told, np.searchsorted(EDGES, height), NO_RANK).astype(np.int8)
    return found


def learn(
    arrays: dict[str, NDArray[Any]],
    rank: RankArray,
    medians: FloatArray,
    above: FloatArray,
    told: NDArray[np.bool_],
    step: timedelta,
) -> None:
    """Remember, in place, the `medians` said, and at their `rank` the errors `above` them: (error / width)², 0 below.

    All (series, horizons), and only where `told`: nothing else teaches or ages anything.
    """
    decay, said = np.where(told, 0.5 ** (step / MEAN_HALF_LIFE), 1.0), np.where(told, medians, 0.0)
    for name, new in (("median", said), ("median_square", np.square(said)), ("median_weight", told)):
        arrays[name] = arrays[name] * decay + new
    met = told & (rank != NO_RANK)
    decay = np.where(met, 0.5 ** (step / HALF_LIFE), 1.0)[..., None]
    here = (np.arange(RANKS) == rank[..., None]) & met[..., None]
    for name, one in (("height_ratio", above[..., None]), ("height_weight", 1.0)):
        arrays[name] *= decay
        arrays[name] += np.where(here, one, 0.0)


def factors(rank: RankArray, arrays: Mapping[str, NDArray[Any]], step: timedelta, *, most: float) -> FloatArray:
    """Factor (series, horizons) on the width of a band at its `rank`, from 1 / `most` to `most`; 1 without a rank.

    Half way, in logarithms, from the error of all ranks to the rank's own: four times the error asks for twice the
    width.
    """
    ratio, weight = (arrays[name].astype(np.float64) for name in ("height_ratio", "height_weight"))
    mean = ratio.sum(axis=2) / np.maximum(weight.sum(axis=2), 1e-300)
    at, prior = np.maximum(rank, 0).astype(np.int64)[..., None], PRIOR / step
    own, count = (np.take_along_axis(sums, at, axis=2)[..., 0] for sums in (ratio, weight))
    told = (rank != NO_RANK) & (mean > 0.0)
    squared = np.where(told, (own + prior * mean) / ((count + prior) * np.where(told, mean, 1.0)), 1.0)
    said: FloatArray = np.minimum(np.maximum(squared**0.25, 1.0 / most), most)
    return said
