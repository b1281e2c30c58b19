"""What decisions cost that are made on a forecast: GPU-minutes at equal risk, the measure by which models are judged.

A fleet is played bin by bin on given quantile forecasts: it orders to the score z for the first bin that an order can
reach and releases above z + `RELEASE_MARGIN_Z` over the span until then, as the product does. z is the one knob, set in
hindsight so that the share of missed bins equals the risk; what is left is how many GPU-minutes that took. So a band
that is too wide or too narrow throughout is forgiven, one that is wide at the wrong times is not. It knows no rule but
this: no margin of the load rule, no guard, no steering. Pure; it never says which model is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import LEVEL_Z, LEVELS

if TYPE_CHECKING:
    from forecaster.types import FloatArray

RISK = 0.01
"""Share of bins that may be missed: the product's default."""
PEAK_REPLICAS = 16
"""Replicas that the `PEAK_QUANTILE` of the actual demand needs: this sets what one replica serves."""
PEAK_QUANTILE = 0.999
RELEASE_MARGIN_Z = 0.5
"""How much higher, in normal score, a release looks than an order."""
LOWEST_Z, HIGHEST_Z = -3.0, 8.0
"""Scores among which the risk is looked for. 8 is 2.4 times as far out as the .999 quantile."""
Z_STEP = 1e-3
"""The bisection stops here; between its last two scores cost is interpolated in the missed share."""
SLACK = 1e-9
"""A load of exactly n full replicas, give or take rounding, is served by n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCost:
    """GPU-minutes at equal risk, relative to the fewest that could have carried every bin.

    `gpu_ratio` is NaN where it cannot be told: nothing scored, no demand at all, or a risk that no score up to
    `HIGHEST_Z` reaches (a forecast without a band that misses more). Where even `LOWEST_Z` misses less than the risk
    (a perfect forecast, or one far too high), it is what that score costs, and `missed_ratio` says how much less.
    """

    gpu_ratio: float
    z: float
    missed_ratio: float
    scored_bins: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """One z played: `billed` over needed replica-bins, and the share of scored bins that were missed."""

    z: float
    gpu_ratio: float
    missed_ratio: float


def decision_cost(
    said: FloatArray,
    actual: FloatArray,
    *,
    horizons: tuple[int, ...],
    lead: int,
    risk: float = RISK,
    peak_replicas: int = PEAK_REPLICAS,
) -> DecisionCost:
    """The cost of deciding at every bin on `said`, at equal risk.

    `actual` (bins,) is the demand, NaN where unknown; `said` (bins, horizons, levels) what was forecast when that
    bin was the newest known one, of the bin `horizons[h]` steps later. An order made after bin t serves from bin
    t + `lead` on (a start of three minutes reaches the fourth bin) and is paid from bin t + 1; where nothing was said
    the fleet is held. Unknown bins, and those before the first that an order reaches, are neither scored nor billed.
    Raises `SeriesError` for shapes that do not fit and a lead that is none of the horizons.
    """
    if said.shape != (actual.size, len(horizons), len(LEVELS)) or lead not in horizons:
        raise SeriesError(
            f"need forecasts of shape {(actual.size, len(horizons), len(LEVELS))} with {lead} among the horizons,"
            f" got {said.shape} and {horizons}"
        )
    known = np.isfinite(actual)
    peak = float(np.quantile(actual[known], PEAK_QUANTILE)) if known.any() else 0.0
    scored = int(known[lead:].sum())
    per_unit = peak_replicas / peak if peak > 0.0 else math.inf
    if scored == 0 or not math.isfinite(per_unit):
        return DecisionCost(gpu_ratio=float("nan"), z=float("nan"), missed_ratio=float("nan"), scored_bins=scored)
    until = [column for column, horizon in enumerate(horizons) if horizon <= lead]
    game = _Game(
        order=said[:, horizons.index(lead)] * per_unit,
        span=said[:, until] * per_unit,
        load=actual * per_unit,
        lead=lead,
    )
    found = _at_risk(game, risk)
    return DecisionCost(gpu_ratio=found.gpu_ratio, z=found.z, missed_ratio=found.missed_ratio, scored_bins=scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Game:
    """What a fleet is played on, in full replicas: quantiles (bins, levels) of the bin that an order reaches, and
    (bins, horizons, levels) of all bins until then; the load of each bin."""

    order: FloatArray
    span: FloatArray
    load: FloatArray
    lead: int

    def play(self, z: float) -> _Course:
        """The course of a fleet that orders at the score `z`."""
        want = _replicas(self.order @ _weights(z))
        keep = np.maximum(_replicas((self.span @ _weights(z + RELEASE_MARGIN_Z)).max(axis=1)), want)
        silent = ~np.isfinite(want + keep)
        fleet = _clamped(np.where(silent, 1.0, want), np.where(silent, np.inf, keep), self._first())
        # Decided after bins t - lead … t - 1: a pod that serves in t was there all the while.
        serving = np.lib.stride_tricks.sliding_window_view(fleet[:-1], self.lead).min(axis=1)
        load = self.load[self.lead :]
        known = np.isfinite(load)
        billed, needed = fleet[self.lead - 1 : -1][known], _replicas(load[known])
        return _Course(
            z=z,
            gpu_ratio=float(billed.sum() / needed.sum()),
            missed_ratio=float((load[known] > serving[known] + SLACK).mean()),
        )

    def _first(self) -> float:
        """The fleet before the first decision: what the first known bin needs."""
        return float(_replicas(self.load[np.isfinite(self.load)][0]))


def _at_risk(game: _Game, risk: float) -> _Course:
    """The course that misses exactly `risk`, between the two neighbouring ones that miss more and no more than it.

    A higher score never orders less and never releases more, so the missed share can only fall with it. In between,
    one that plays either of the two for a share of the time misses the risk exactly.
    """
    more, less = game.play(LOWEST_Z), game.play(HIGHEST_Z)
    if more.missed_ratio <= risk:
        return more
    if less.missed_ratio > risk:
        return _Course(z=HIGHEST_Z, gpu_ratio=float("nan"), missed_ratio=less.missed_ratio)
    while less.z - more.z > Z_STEP:
        middle = game.play((less.z + more.z) / 2.0)
        more, less = (middle, less) if middle.missed_ratio > risk else (more, middle)
    share = (more.missed_ratio - risk) / (more.missed_ratio - less.missed_ratio)
    return _Course(
        z=more.z + share * (less.z - more.z),
        gpu_ratio=more.gpu_ratio + share * (less.gpu_ratio - more.gpu_ratio),
        missed_ratio=risk,
    )


def _weights(z: float) -> FloatArray:
    """What each level counts in the quantile at the normal score `z`: `Forecast.quantile` as a weighted sum."""
    upper = next((i for i in range(1, len(LEVEL_Z) - 1) if z <= LEVEL_Z[i]), len(LEVEL_Z) - 1)
    share = (z - LEVEL_Z[upper - 1]) / (LEVEL_Z[upper] - LEVEL_Z[upper - 1])
    weights = np.zeros(len(LEVEL_Z))
    weights[upper - 1], weights[upper] = 1.0 - share, share
    return weights


def _replicas(load: FloatArray) -> FloatArray:
    """Whole replicas that carry each load, at least 1; NaN stays NaN."""
    return np.maximum(np.ceil(load - SLACK), 1.0)


def _clamped(want: FloatArray, keep: FloatArray, first: float) -> FloatArray:
    """The fleet after each bin: raised to `want`, lowered to `keep`, else as it was; `first` before them all.

    Each bin is a clamp, and a clamp of a clamp is one: clamp₂(clamp₁(x)) has clamp₂'s of clamp₁'s ends. So all bins
    are joined with the one before, then two before, then four: log₂(bins) passes instead of a loop over bins.
    """
    low, high = want.copy(), keep.copy()
    reach = 1
    while reach < low.size:
        low[reach:], high[reach:] = (np.clip(ends[:-reach], low[reach:], high[reach:]) for ends in (low, high))
        reach *= 2
    fleet: FloatArray = np.clip(first, low, high)
    return fleet
