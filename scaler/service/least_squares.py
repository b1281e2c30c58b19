"""Least squares for times: unknowns of at least 0, residuals as shares of what was measured, outliers left out.

Outliers are found by least absolute residuals, which do not bend towards them as least squares do; what is kept is
then solved by least squares. Where a third or more would be outliers they are none: the model does not hold there,
and the residual shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OUTLIER_SIGMAS = 4.0
"""A residual of more robust standard deviations (1.4826 · median) is an outlier."""
USUAL_NOISE = 0.01
"""Residuals below OUTLIER_SIGMAS times this share are never outliers: of an exact sweep, each would be one."""
MOST_REJECTED = 1 / 3
"""If a larger share were outliers, they are none: the model does not hold there, and the fit shows it."""
LEAST_SINGULAR = 1e-3
"""Smallest over largest singular value of the scaled equations, below which shapes are as good as alike."""
_REWEIGHTINGS = 50

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Equations:
    """Rows of `terms` (n, unknowns) · unknowns = `measured` (n,) seconds; `owners` (n,) says whose each row is.

    An owner is left out as a whole.
    """

    terms: Floats
    measured: Floats
    owners: tuple[int, ...]


def independent(equations: Equations) -> bool:
    """Whether the unknowns can be told apart: more equations than unknowns, and no near-dependence."""
    terms = equations.terms / equations.measured[:, None]
    norms = np.linalg.norm(terms, axis=0)
    if terms.shape[0] <= terms.shape[1] or not norms.all():
        return False
    singular = np.linalg.svd(terms / norms, compute_uv=False)
    return bool(singular[-1] > LEAST_SINGULAR * singular[0])


def solve(equations: Equations) -> tuple[Floats, frozenset[int]]:
    """The unknowns without the outlying owners, and which those are."""
    terms, ones = equations.terms / equations.measured[:, None], np.ones(len(equations.measured))
    scales = np.maximum(np.linalg.norm(terms, axis=0), 1e-300)
    scaled, weights = terms / scales, ones
    for _ in range(_REWEIGHTINGS):
        # normal equations: a hundredth of the time with thousands of rows, and only to find who is an outlier
        weighted = scaled.T * weights
        residuals = np.abs(scaled @ _non_negative(_Normal(weighted @ scaled, weighted @ ones)) - 1.0)
        weights = 1.0 / np.maximum(residuals, 1e-6)
    sigma = max(USUAL_NOISE, 1.4826 * float(np.median(residuals)))
    outliers = residuals > OUTLIER_SIGMAS * sigma
    rejected = frozenset(index for index, out in zip(equations.owners, outliers, strict=True) if out)
    if len(rejected) > MOST_REJECTED * len(set(equations.owners)):
        rejected = frozenset()
    kept = np.array([index not in rejected for index in equations.owners])
    return _non_negative(_Rows(terms[kept], ones[kept])), rejected


def residual_ratio(equations: Equations, unknowns: Floats, rejected: frozenset[int]) -> float:
    """Root mean square residual of the rows that were kept, as a share of what was measured."""
    kept = np.array([index not in rejected for index in equations.owners])
    misses = (equations.terms @ unknowns / equations.measured)[kept] - 1.0
    return float(np.sqrt(np.mean(misses * misses)))


@dataclass(frozen=True, slots=True)
class _Rows:
    """terms (n, unknowns) · unknowns ≈ measured (n,)."""

    terms: Floats
    measured: Floats

    def solved(self, free: NDArray[np.bool_]) -> Floats:
        """The free unknowns, the others being 0."""
        return np.asarray(np.linalg.lstsq(self.terms[:, free], self.measured, rcond=None)[0], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Normal(_Rows):
    """The same multiplied by the transposed terms: as many rows as unknowns."""

    def solved(self, free: NDArray[np.bool_]) -> Floats:
        """The free unknowns, the others being 0."""
        own = self.terms[np.ix_(free, free)]
        return np.asarray(np.linalg.lstsq(own, self.measured[free], rcond=None)[0], dtype=np.float64)


def _non_negative(equations: _Rows) -> Floats:
    """Least squares with unknowns of at least 0: the most negative is set to 0 until none is."""
    free = np.ones(equations.terms.shape[1], dtype=bool)
    unknowns = np.zeros(equations.terms.shape[1])
    while free.any():
        unknowns[:] = 0.0
        unknowns[free] = equations.solved(free)
        if unknowns.min() >= 0.0:
            break
        free[int(np.argmin(unknowns))] = False
    return unknowns
