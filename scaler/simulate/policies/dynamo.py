"""NVIDIA Dynamo's planner on load alone: a forecast one interval ahead as a floor, a loop of single steps above it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
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
SLACK = 1e-9


class Predictor(StrEnum):
    """`load_predictor`; Kalman and Prophet are left out."""

    ARIMA = "arima"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamo:
    """Throughput scaling and load scaling together, as for one pool of workers that prefill and decode ("agg").

    Source: ai-dynamo/dynamo components/src/dynamo/planner. `config/defaults.py`: throughput interval 180 s, load
    interval 5 s, predictor "arima", scale-down sensitivity 80 %, a floor that moves by at most 8 workers an interval.
    `core/load/predictors.py`: the predictors, one interval ahead of the interval means. `core/throughput_scaling.py`:
    the floor is ceil(predicted rate / rate of an engine within its SLA). `core/load_scaling.py`: one worker more when
    all are over their SLA; one fewer when, with the load of N on N - 1, each stays *under* 80 % of it; nothing while a
    scaling is in progress; never below the floor.

    What differs, because load is all that is seen: a worker is over its SLA when the load exceeds the capacity, which
    its regressions would have to learn; auto-ARIMA is an ARIMA(3,1,0) by least squares; unknown intervals are left out
    where the source counts them as zero.

    The load loop runs every 5 s: three times in a 15-s sight, twelve times in a minute. Growth waits for the pod that
    starts, so it is one a sight; shrinking is instant, so it may be three, or twelve. The memory is the floor and when
    it was set, in seconds.
    """

    utilisation: float = 1.0
    predictor: Predictor = Predictor.ARIMA
    interval_s: float = 180.0
    load_interval_s: float = 5.0
    down_sensitivity_ratio: float = 0.8
    most_floor_step: int = 8
    """`max_throughput_scaling_replicas`."""

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        now_s = round(sight.at.timestamp())
        floor, set_at_s = memory or (1, None)
        if set_at_s is None or now_s - set_at_s >= self.interval_s:
            floor, set_at_s = self._floor(sight), now_s
        if sight.ready != sight.ordered:
            return sight.ordered, (floor, set_at_s)
        return max(floor, self._stepped(sight)), (floor, set_at_s)

    def _floor(self, sight: Sight) -> int:
        means = interval_means(sight.past, bins_of(self.interval_s, sight.step))
        expected = one_ahead(means) if self.predictor is Predictor.ARIMA else _last(means)
        wanted = replicas_for(expected, utilisation=self.utilisation)
        step = self.most_floor_step
        return max(1, min(max(wanted, sight.ordered - step), sight.ordered + step))

    def _stepped(self, sight: Sight) -> int:
        load, replicas = sight.load / self.utilisation, sight.ordered
        if load > replicas + SLACK:
            return replicas + 1
        for _ in range(max(1, int(sight.step.total_seconds() / self.load_interval_s))):
            if replicas > 1 and load < (replicas - 1) * self.down_sensitivity_ratio - SLACK:
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
    lagged = np.stack([change[TERMS - lag - 1 : change.size - lag - 1] for lag in range(TERMS)])
    products = lagged @ lagged.T
    size = float(products.trace())
    if size == 0.0:
        return last
    # Three normal equations. On a line they are all the same; a trifle on the diagonal then picks equal weights.
    weights = np.linalg.solve(products + 1e-10 * size * np.eye(TERMS), lagged @ change[TERMS:])
    return max(0.0, last + float(change[: -TERMS - 1 : -1] @ weights))


def interval_means(past: FloatArray, interval: int) -> FloatArray:
    """Means of whole intervals counted back from the newest bin; unknown bins are left out, unknown intervals NaN."""
    count = min(past.size // interval, MOST_POINTS)
    if not count:
        return past[-1:]
    blocks = past[past.size - count * interval :].reshape(count, interval)
    known = np.isfinite(blocks)
    if known.all():
        every: FloatArray = blocks.sum(axis=1) / interval
        return every
    total = np.where(known, blocks, 0.0).sum(axis=1)
    means: FloatArray = np.divide(total, known.sum(axis=1), out=np.full(count, np.nan), where=known.any(axis=1))
    return means


def _last(points: FloatArray) -> float:
    """The newest known value, 0 where there is none."""
    known = points[np.isfinite(points)]
    return float(known[-1]) if known.size else 0.0
