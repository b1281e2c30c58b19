"""How sure a figure of one window is: intervals by the moving-block bootstrap.

The decision protocol draws nothing, so a repetition gives the same figure again; what is uncertain is whether another
stretch of the same traffic would. Hours are drawn from the window with replacement, each whole, because a minute's
miss and the next one's belong together. Nothing here plays a policy, and every draw comes from a fixed seed: the same
hours are drawn for every policy of a window, so ratios of two policies are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.scoring import IntArray

BLOCK = timedelta(hours=1)
SEEDS = (1, 2, 3, 4, 5)
RESAMPLES = 200
"""Draws a seed: a thousand in all, 25 of them beyond either end."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a figure lies in 95 % of the redrawn windows; NaN at both ends where it is never defined."""

    low: float
    high: float

    def as_json(self, *, digits: int = 6) -> list[float]:
        """[low, high]."""
        return [round(self.low, digits), round(self.high, digits)]


def interval(numerator: FloatArray | IntArray, denominator: FloatArray | IntArray, *, step: timedelta) -> Interval:
    """Of Σ numerator / Σ denominator, one entry of each a bin of that width; 0 in both where nothing is scored.

    Blocks of an hour may begin at any bin, and as many are drawn as fill the window (Künsch 1989). What never happened
    in the window happens in no draw: without a miss the interval of missed bins is [0, 0]. A window shorter than a few
    hours has too few blocks for an interval to mean much.
    """
    bins = numerator.size
    if not bins:
        return Interval(low=float("nan"), high=float("nan"))
    block = min(bins, max(1, round(BLOCK / step)))
    above, below = _block_sums(numerator, block), _block_sums(denominator, block)
    ratios = []
    for seed in SEEDS:
        starts = np.random.default_rng(seed).integers(0, above.size, size=(RESAMPLES, -(-bins // block)))
        drawn = below[starts].sum(axis=1)
        ratios.append(above[starts].sum(axis=1)[drawn > 0] / drawn[drawn > 0])
    every = np.concatenate(ratios)
    if not every.size:
        return Interval(low=float("nan"), high=float("nan"))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(every, (tail, 1.0 - tail)).tolist()
    return Interval(low=low, high=high)


def method() -> dict[str, Any]:
    """How the intervals were made, for documents that hold some."""
    return {
        "level": LEVEL,
        "method": "moving-block bootstrap",
        "block_s": BLOCK.total_seconds(),
        "resamples": RESAMPLES,
        "seeds": list(SEEDS),
    }


def _block_sums(values: FloatArray | IntArray, block: int) -> FloatArray:
    """The sum of every stretch of `block` bins, by its first bin."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    sums: FloatArray = total[block:] - total[:-block]
    return sums
