"""Whose median weighs how much in the blend: learnt online, for each series and horizon, by what it adds to the others.

What counts is not how good a member is alone but what a little more of it would have gained the blend: its errors may
be the opposite of the others'. With the absolute error |y - p| of the blend p, the gain of member i, which said fᵢ, is
rᵢ = ± (fᵢ - p), minus where y < p; with sums Rᵢ = Σ rᵢ and Vᵢ = Σ rᵢ² that fade,

    wᵢ ∝ exp(c · √ln K · Rᵢ / √Vᵢ) / √Vᵢ                  over the K members that may speak.

This is Bernstein online aggregation by the gradient of the loss (Wintenberger, "Optimal learning with Bernstein online
aggregation", Machine Learning 2017), which keeps up with the best fixed mixture of the members, not only with the best
of them. Its bound on the learning rate by the greatest |rᵢ| never bit and is left out; its second-order term is then
the same for all and cancels. Rᵢ / √Vᵢ has no unit: so many standard deviations is the gain away from nothing. All in
roots of demand.

Pure: decides nothing about who may speak, and publishes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

RATE = 0.5
"""c above. At 1 development days came out within 2 % either way: docs/decisions/0011."""

LEAST_SHARE = 1e-6
"""Of the largest V: below it a member that never differed from the blend would weigh everything."""

TINY = 1e-200
"""In place of a zero that is divided by, where nobody ever differed or nobody is heard."""
MOST = 1e200
"""In place of an infinity that is subtracted, where nobody is heard."""


def mixture(gain: FloatArray, square: FloatArray, heard: NDArray[np.bool_]) -> FloatArray:
    """Weights (series, horizons, members) over the members `heard`; `gain` and `square`, Rᵢ and Vᵢ, have that shape.

    Sums to 1 over the members; all 0 where nobody is heard.
    """
    largest = (square * heard).max(axis=2, keepdims=True, initial=TINY)
    deviation = np.sqrt(np.maximum(square, LEAST_SHARE * largest))
    rate = RATE * np.sqrt(np.log(np.maximum(heard.sum(axis=2, keepdims=True), 1)))
    score = np.where(heard, rate * gain / deviation - np.log(deviation), -np.inf)
    share = np.exp(score - np.maximum(score.max(axis=2, keepdims=True, initial=-np.inf), -MOST))
    found: FloatArray = share / np.maximum(share.sum(axis=2, keepdims=True), TINY)
    return found


def mixed(roots: FloatArray, share: FloatArray) -> FloatArray:
    """Weighted mean of `roots` (series, horizons, members, …) by `share` (series, horizons, members).

    A member of weight 0 is not even looked at; NaN where all are.
    """
    wide = share.reshape(*share.shape, *(1,) * (roots.ndim - share.ndim))
    heard = wide > 0.0
    found = (wide * np.where(heard, roots, 0.0)).sum(axis=2)
    return np.where(heard.any(axis=2), found, np.nan)


def gains(roots: FloatArray, share: FloatArray, actual: FloatArray) -> FloatArray:
    """What a little more of each member would have gained the blend that `share` makes of the medians `roots`.

    Both (series, horizons, members); `actual` (series,) is the root of what came true. NaN where the member or
    everybody was silent, or nothing is known.
    """
    blend = mixed(roots, share)
    told = np.isfinite(blend) & np.isfinite(actual)[:, None]
    slope = np.where(told, np.where(actual[:, None] < blend, -1.0, 1.0), np.nan)
    found: FloatArray = slope[..., None] * (roots - blend[..., None])
    return found
