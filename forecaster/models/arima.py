"""ARIMA, predicted from exported coefficients: no fit, no recursion, one matrix product a series.

An invertible ARIMA(p, d, q) forecasts a weighted sum of past values. The weights of every horizon are worked out once,
when the coefficients are loaded; from then on a forecast of all horizons is (memory) · (memory, horizons). Works on
square roots of demand, with Gaussian quantiles of the model's own forecast variance there. It knows no season and no
trend (d = 1 has no drift), and says nothing about a series it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from forecaster.models.quantiles import STALE_SPAN, no_opinion, settled
from forecaster.preprocess import DAY, any_known, bins_in, carried, reaches_back, roots, tail
from forecaster.types import HORIZONS, LEVEL_Z, Panel, SeriesKey

if TYPE_CHECKING:
    from forecaster.types import FloatArray

MEMORY = 128
"""Past bins that a forecast reads. With a moving-average root of .95 the weight beyond is .95^128 = .0014."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """One series' ARIMA(len(ar), d, len(ma)) on roots: φ(B)(1 - B)^d (x - mean) = θ(B)e, var(e) = `variance`.

    Signs as statsmodels has them: x_t = Σ ar_i·x_(t-i) + e_t + Σ ma_j·e_(t-j).
    """

    ar: tuple[float, ...] = ()
    difference: int = 0
    ma: tuple[float, ...] = ()
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A series' linear forecasts: root at h = `constant[h]` + Σ_k `past[k, h]`·x[newest - k], ± `spread[h]`·z."""

    past: FloatArray
    constant: FloatArray
    spread: FloatArray


@dataclass(frozen=True, kw_only=True)
class Arima:
    """Linear forecasts for the series in `fitted`, silence for all others."""

    model_id: str = "arima"
    fitted: Mapping[SeriesKey, Coefficients] = field(default_factory=dict)
    min_history: timedelta = DAY
    lookback: timedelta = DAY + timedelta(hours=2)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        answer = no_opinion(len(panel.keys), horizons)
        rows = np.array([row for row, key in enumerate(panel.keys) if key in self.fitted], dtype=np.int64)
        if not rows.size or not panel.values.shape[1]:
            return answer
        newest_first = carried(roots(tail(panel, MEMORY + bins_in(STALE_SPAN, panel.step)).values))[:, ::-1]
        memory = newest_first[rows, :MEMORY]
        past, constant, spread = self._stacked(tuple(panel.keys[row] for row in rows), horizons)
        usable = any_known(panel.values[:, -bins_in(STALE_SPAN, panel.step) :]) & reaches_back(panel, self.min_history)
        if memory.shape[1] < MEMORY:
            return answer
        points = np.maximum((memory[:, None, :] @ past)[:, 0, :] + constant, 0.0)
        # A monotone transform keeps quantiles: the square of the root's quantile is the demand's quantile.
        quantiles = np.square(points[..., None] + spread[..., None] * np.array(LEVEL_Z))
        quantiles[~usable[rows]] = np.nan
        answer[rows] = settled(quantiles)
        return answer

    @cached_property
    def _cache(self) -> dict[tuple[tuple[SeriesKey, ...], tuple[int, ...]], tuple[FloatArray, FloatArray, FloatArray]]:
        return {}

    def _stacked(
        self, keys: tuple[SeriesKey, ...], horizons: tuple[int, ...]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights of several series as arrays; worked out once for a set of series, then remembered."""
        found = self._cache.get((keys, horizons))
        if found is None:
            each = [linear_weights(self.fitted[key], horizons) for key in keys]
            found = (
                np.stack([one.past for one in each]),
                np.stack([one.constant for one in each]),
                np.stack([one.spread for one in each]),
            )
            self._cache.clear()  # one fleet at a time: a cache that only grows is a leak
            self._cache[keys, horizons] = found
        return found


def is_usable(coefficients: Coefficients) -> bool:
    """Whether the model is finite, stationary and invertible with a margin: all roots outside 1.001."""
    numbers = np.array([*coefficients.ar, *coefficients.ma, coefficients.mean, coefficients.variance])
    if not np.isfinite(numbers).all() or coefficients.variance < 0.0:
        return False
    ar = np.roots([*(-one for one in reversed(coefficients.ar)), 1.0]) if coefficients.ar else np.array([2.0])
    ma = np.roots([*reversed(coefficients.ma), 1.0]) if coefficients.ma else np.array([2.0])
    return bool((np.abs(ar) > 1.001).all() and (np.abs(ma) > 1.001).all())


def linear_weights(coefficients: Coefficients, horizons: tuple[int, ...]) -> Weights:
    """The linear forecast that an ARIMA's coefficients mean.

    1 - Σ π_k B^k = φ(B)(1 - B)^d / θ(B) gives one step; further steps feed the forecasts back. With d = 1 the weights
    sum to 1 and are scaled to do so after the cut at `MEMORY`, else a level far from the mean would drift.
    """
    left = np.array([1.0, *(-one for one in coefficients.ar)])
    for _ in range(coefficients.difference):
        left = np.convolve(left, np.array([1.0, -1.0]))
    one_step = -_divided(left, np.array([1.0, *coefficients.ma]), MEMORY + 1)[1:]
    psi = _divided(np.array([1.0, *coefficients.ma]), left, max(horizons))

    weights = np.zeros((max(horizons), MEMORY))
    for ahead in range(max(horizons)):
        shifted = np.zeros(MEMORY)
        shifted[: MEMORY - ahead] = one_step[ahead:]
        weights[ahead] = shifted + one_step[:ahead][::-1] @ weights[:ahead]
    if coefficients.difference:
        weights /= weights.sum(axis=1, keepdims=True)
    picked = np.array(horizons) - 1
    return Weights(
        past=np.ascontiguousarray(weights[picked].T),
        constant=coefficients.mean * (1.0 - weights[picked].sum(axis=1)),
        spread=np.sqrt(coefficients.variance * np.cumsum(np.square(psi))[picked]),
    )


def _divided(numerator: FloatArray, denominator: FloatArray, terms: int) -> FloatArray:
    """The first `terms` coefficients of a quotient of polynomials in B; `denominator[0]` is 1."""
    quotient = np.zeros(terms)
    for index in range(terms):
        value = numerator[index] if index < numerator.size else 0.0
        for lag in range(1, min(index, denominator.size - 1) + 1):
            value -= denominator[lag] * quotient[index - lag]
        quotient[index] = value
    return quotient
