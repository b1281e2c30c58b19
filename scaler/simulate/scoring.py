"""The decision protocol: what a run costs, and how often it was too small. One definition for every policy.

A bin is under-provisioned when its load exceeds what serves; cost is GPU-minutes of pods that serve or start, against
the fewest that could have carried each bin. Bins whose load is unknown are neither scored nor billed. Nothing here
simulates or decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

    IntArray = NDArray[np.int64]

SLACK = 1e-9
"""A load of exactly n full replicas, give or take rounding, is served by n."""

PEAK_QUANTILE = 0.999
"""The load that `--peak-replicas` replicas just carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happened to one workload, bin by bin; every array has one entry a bin.

    `load` is in exactly full replicas (NaN: not measured, not scored), `serving` the replicas that served in the bin,
    `billed` those that served or were starting.
    """

    load: FloatArray
    serving: IntArray
    billed: IntArray
    before: int
    """Replicas ordered in the bin before the first."""

    def window(self, first: int, last: int) -> Course:
        """Bins [first, last) alone."""
        before = self.before if first == 0 else int(self.billed[first - 1])
        return Course(
            load=self.load[first:last], serving=self.serving[first:last], billed=self.billed[first:last], before=before
        )

    @property
    def missed(self) -> NDArray[np.bool_]:
        """Which bins had more load than serving capacity; False where the load is unknown."""
        return self.load > self.serving + SLACK


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A run in figures; scores of several workloads add up, ratios are derived."""

    scored_bins: int
    missed_bins: int
    billed_gpu_bins: int
    needed_gpu_bins: int
    scale_events: int
    pod_starts: int
    bin_s: float

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of starting and serving pods."""
        return self.billed_gpu_bins * self.bin_s / 3600.0

    @property
    def gpu_ratio(self) -> float:
        """Billed GPU time over the least that could have carried every bin: 1.0 is a perfect, instant scaler."""
        return self.billed_gpu_bins / self.needed_gpu_bins if self.needed_gpu_bins else float("nan")

    @property
    def under_provisioned_ratio(self) -> float:
        """Share of scored bins whose load exceeded the serving capacity."""
        return self.missed_bins / self.scored_bins if self.scored_bins else float("nan")

    @property
    def under_provisioned_minutes(self) -> float:
        """The same in minutes; minutes of several workloads add up."""
        return self.missed_bins * self.bin_s / 60.0

    def as_json(self) -> dict[str, Any]:
        """The figures of `simulate -o json`."""
        return {
            "gpu_hours": round(self.gpu_hours, 3),
            "gpu_ratio": round(self.gpu_ratio, 4),
            "under_provisioned_ratio": round(self.under_provisioned_ratio, 6),
            "under_provisioned_minutes": round(self.under_provisioned_minutes, 3),
            "scale_events": self.scale_events,
            "pod_starts": self.pod_starts,
        }


def needed(load: FloatArray) -> IntArray:
    """The fewest replicas that carry each load: max(1, ceil(load - 1e-9)); 1 where it is unknown."""
    return np.maximum(1, np.ceil(np.nan_to_num(load, nan=0.0) - SLACK)).astype(np.int64)


def score(course: Course, *, bin_s: float = 60.0, gpus: int = 1) -> Score:
    """Figures of one course whose replicas hold `gpus` GPUs each."""
    known = np.isfinite(course.load)
    moves = np.diff(course.billed, prepend=course.before)
    return Score(
        scored_bins=int(known.sum()),
        missed_bins=int((course.missed & known).sum()),
        billed_gpu_bins=int(course.billed[known].sum()) * gpus,
        needed_gpu_bins=int(needed(course.load)[known].sum()) * gpus,
        scale_events=int(np.count_nonzero(moves)),
        pod_starts=int(moves[moves > 0].sum()),
        bin_s=bin_s,
    )


def total(scores: Iterable[Score]) -> Score:
    """The sum over workloads; `ValueError` when there is none or their bins differ in width."""
    every = tuple(scores)
    widths = {each.bin_s for each in every}
    if len(widths) != 1:
        raise ValueError(f"scores add up over equal bins alone, got widths {sorted(widths)} seconds")
    sums = {name: sum(getattr(each, name) for each in every) for name in _SUMMED}
    return Score(bin_s=widths.pop(), **sums)


_SUMMED = tuple(field.name for field in fields(Score) if field.name != "bin_s")


def capacity_for_peak(values: FloatArray, *, peak_replicas: int = 16) -> float:
    """What one replica serves, so that the 99.9 % quantile of the scored `values` needs `peak_replicas`.

    In the unit of `values`. `ValueError` if nothing in them is known and above zero.
    """
    known = values[np.isfinite(values)]
    peak = float(np.quantile(known, PEAK_QUANTILE)) if known.size else 0.0
    if not peak > 0.0:
        raise ValueError(f"capacity needs a peak above 0 in the scored window, got {peak} over {known.size} known bins")
    return peak / peak_replicas
