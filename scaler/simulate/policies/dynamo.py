"""NVIDIA Dynamo's planner on load alone: a forecast one interval ahead as a floor, a loop of single steps above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaler.policy.capacity import replicas_for
from scaler.simulate.policies.playing import Memory, Sight, bins_of

if TYPE_CHECKING:
    from forecaster.types import FloatArray

FEWEST_POINTS = 5
"""Intervals under which the predictor repeats the last value (`minimum_data_points`)."""
TERMS = 3
"""Autoregressive terms of the forecast."""
MOST_POINTS = 480
"""Intervals that are fitted on: a day of three minutes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamo:
    """Throughput scaling and load scaling together.

    Source: ai-dynamo/dynamo components/src/dynamo/planner: `config/defaults.py` (throughput interval 180 s, load
    interval 5 s, predictor "arima", scale-down sensitivity 80 %), `core/load/predictors.py` (one interval ahead of
    the interval means), `core/load_scaling.py` (one worker more when the workers are over their target, one fewer
    when the rest would stay under 80 % of it; nothing while a scaling is in progress; never below the floor that the
    throughput loop set). Three things differ, because load is all that is seen: a worker is over its target when the
    load exceeds the Ready capacity, auto-ARIMA is an ARIMA(3,1,0) by least squares, and the throughput floor divides
    by the same capacity as the score does (its correction factors have nothing to correct).

    The load loop runs twelve times in a minute: growth waits for the pod that starts, so it is one a bin; shrinking
    is instant, so it may be twelve. The memory is the floor.
    """

    utilisation: float = 1.0
    interval_s: float = 180.0
    load_interval_s: float = 5.0
    down_sensitivity_ratio: float = 0.8

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        interval = bins_of(self.interval_s, sight.step)
        floor = memory[0] if memory else 1
        if not memory or sight.past.size % interval == 0:
            floor = max(1, replicas_for(one_ahead(_means(sight.past, interval)), utilisation=self.utilisation))
        if sight.ready != sight.ordered:
            return sight.ordered, (floor,)
        return max(floor, self._stepped(sight)), (floor,)

    def _stepped(self, sight: Sight) -> int:
        load, replicas = sight.load / self.utilisation, sight.ordered
        if load > replicas:
            return replicas + 1
        for _ in range(max(1, int(sight.step.total_seconds() / self.load_interval_s))):
            if replicas > 1 and load <= (replicas - 1) * self.down_sensitivity_ratio:
                replicas -= 1
        return replicas


def one_ahead(points: FloatArray) -> float:
    """The next value by an ARIMA(3,1,0) without drift, fitted by least squares; the last one where points are few.

    Never below zero. On a straight line it goes on along the line; on a constant it stays.
    """
    known = points[np.isfinite(points)]
    last = float(known[-1]) if known.size else 0.0
    if known.size < FEWEST_POINTS + TERMS:
        return last
    change = np.diff(known)
    lagged = np.stack([change[TERMS - lag - 1 : change.size - lag - 1] for lag in range(TERMS)], axis=1)
    weights, *_ = np.linalg.lstsq(lagged, change[TERMS:], rcond=None)
    return max(0.0, last + float(change[: -TERMS - 1 : -1] @ weights))


def _means(past: FloatArray, interval: int) -> FloatArray:
    """Means of whole intervals counted back from the newest bin; unknown bins are left out, unknown intervals NaN."""
    count = min(past.size // interval, MOST_POINTS)
    if not count:
        return past[-1:]
    blocks = past[past.size - count * interval :].reshape(count, interval)
    known = np.isfinite(blocks)
    total = np.where(known, blocks, 0.0).sum(axis=1)
    means: FloatArray = np.divide(total, known.sum(axis=1), out=np.full(count, np.nan), where=known.any(axis=1))
    return means
