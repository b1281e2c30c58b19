"""Those that know the future: fixed fleets sized in hindsight, and two oracles. Bounds to measure others by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaler.policy.capacity import replicas_for
from scaler.simulate.scoring import PEAK_QUANTILE, Course, needed

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.policies.playing import Plan
    from scaler.simulate.scoring import IntArray


def static_peak(load: FloatArray, cold_start_bins: int) -> Course:
    """A fixed fleet, sized in hindsight for the window's 99.9 % quantile: what fear of the peak buys.

    The same quantile that `capacity_for_peak` calls the peak: with its default this fleet has 16 replicas.
    """
    del cold_start_bins
    known = load[np.isfinite(load)]
    peak = float(np.quantile(known, PEAK_QUANTILE)) if known.size else 0.0
    return _fixed(load, max(1, replicas_for(peak)))


def static_mean(load: FloatArray, cold_start_bins: int) -> Course:
    """A fixed fleet, sized in hindsight for the window's mean: what a look at the average buys."""
    del cold_start_bins
    known = load[np.isfinite(load)]
    return _fixed(load, max(1, replicas_for(float(known.mean()) if known.size else 0.0)))


def oracle(load: FloatArray, cold_start_bins: int) -> Course:
    """Perfect forecast, real cold start, best release: the least GPU time without a missed bin.

    Replica k is needed in the bins whose load exceeds k - 1. Between two such bins it may stay, which bills the gap,
    or be released and ordered again, which bills its start: so it is released where the gap is longer than a start.
    What is needed in the first `cold_start_bins` bins is there from the beginning.
    """
    need = needed(load)
    serving, billed = np.zeros(load.size, dtype=np.int64), np.zeros(load.size, dtype=np.int64)
    for level in range(1, int(need.max(initial=1)) + 1):
        bins = np.flatnonzero(need >= level)
        released = np.flatnonzero(np.diff(bins) - 1 > cold_start_bins)
        firsts = np.append(bins[0], bins[released + 1])
        lasts = np.append(bins[released], bins[-1])
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            serving[first : last + 1] += 1
            billed[max(0, first - cold_start_bins) : last + 1] += 1
    return Course(load=load, serving=serving, billed=billed, before=int(billed[0]) if load.size else 1)


def oracle_instant(load: FloatArray, cold_start_bins: int) -> Course:
    """Perfect forecast and pods that start at once: GPU ratio 1 by construction."""
    del cold_start_bins
    need: IntArray = needed(load)
    return Course(load=load, serving=need, billed=need, before=int(need[0]) if load.size else 1)


def _fixed(load: FloatArray, replicas: int) -> Course:
    fleet = np.full(load.size, replicas, dtype=np.int64)
    return Course(load=load, serving=fleet, billed=fleet, before=replicas)


PLANS: dict[str, Plan] = {
    "static-peak": static_peak,
    "static-mean": static_mean,
    "oracle": oracle,
    "oracle-instant": oracle_instant,
}
"""The policies that know the future, by name."""
