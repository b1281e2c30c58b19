"""ARIMA's order and coefficients for one series, by statsmodels; runs offline, never in the daemon's process.

Decides the order: the lowest AICc over a small grid on the last two days of roots, the difference by comparing the
sample variance of levels and of changes. Gaps are bridged by the last known value for the fit (a fit needs equal
steps), so a series with too many of them is refused. Coefficients that are not stationary, invertible and finite never
leave this module.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from statsmodels.tsa.arima.model import ARIMA

from forecaster.errors import FittingError
from forecaster.models.arima import MEMORY, Coefficients, is_usable
from forecaster.preprocess import DAY, bins_in, carried, roots

if TYPE_CHECKING:
    from forecaster.types import FloatArray, Series

FIT_SPAN = 2 * DAY
LEAST_KNOWN_RATIO = 0.8
"""Share of bins that must be known in the span of the fit."""
ORDERS: tuple[tuple[int, int], ...] = ((0, 1), (1, 1), (2, 1), (1, 2), (2, 2), (3, 0))
"""(p, q) tried, cheapest first; beyond them AICc gains less than its noise on minute data."""
MIN_SPAN = 3 * DAY
"""History before a series gets a model of its own."""


def fit_arima(series: Series, *, min_span: timedelta = MIN_SPAN) -> Coefficients:
    """The best small ARIMA for `series`, from its last two days.

    Raises `FittingError` where the series is too short, too full of holes, or constant, or no candidate converges.
    """
    if series.step * series.values.size < min_span:
        raise FittingError(f"arima needs {min_span} of history, got {series.step * series.values.size}")
    recent = series.values[-bins_in(FIT_SPAN, series.step) :]
    known_ratio = float(np.isfinite(recent).mean())
    if known_ratio < LEAST_KNOWN_RATIO:
        raise FittingError(f"arima needs {LEAST_KNOWN_RATIO:.0%} of the last two days known, got {known_ratio:.0%}")
    filled = carried(roots(recent[None, :]))[0]
    filled = filled[np.isfinite(filled)]
    if filled.size < 2 * MEMORY or float(np.ptp(filled)) < 1e-9:
        raise FittingError(f"arima cannot learn from {filled.size} bins with a range of {np.ptp(filled):.3g}")
    # The changes of a random walk vary less than its levels; those of noise around a level vary twice as much.
    difference = int(np.var(np.diff(filled)) < 1.5 * np.var(filled))
    candidates = [found for order in ORDERS if (found := _candidate(filled, order, difference)) is not None]
    if not candidates:
        raise FittingError(f"no ARIMA(p, {difference}, q) of {ORDERS} converged on {filled.size} bins")
    return min(candidates, key=lambda one: one[0])[1]


def _candidate(values: FloatArray, order: tuple[int, int], difference: int) -> tuple[float, Coefficients] | None:
    """AICc and coefficients of one order, or None where it does not converge to a usable model.

    The mean and the difference are taken out first and the ARMA is fitted by the innovations algorithm: 0.1 s for
    two days of minutes, where a state-space fit takes 3 s for the same optimum.
    """
    p, q = order
    mean = 0.0 if difference else float(values.mean())
    stationary = np.diff(values) if difference else values - mean
    model = ARIMA(stationary, order=(p, 0, q), trend="n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate that does not converge is judged below, by its numbers
            fitted: Any = model.fit(method="innovations_mle")
    except (ValueError, np.linalg.LinAlgError, IndexError):
        return None
    found = Coefficients(
        ar=tuple(float(one) for one in fitted.arparams),
        difference=difference,
        ma=tuple(float(one) for one in fitted.maparams),
        mean=mean,
        variance=float(fitted.params[-1]),
    )
    return (float(fitted.aicc), found) if is_usable(found) and np.isfinite(fitted.aicc) else None
