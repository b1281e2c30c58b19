"""How a trace is played: what can be asked for, which bins are scored, and what one replica serves.

It turns a setting and a series into the window and the capacity that all policies share, and refuses what cannot be
scored before anything is played. Who plays, and what becomes of it, is elsewhere (`trace`, `serving`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.backtest import default_window
from forecaster.errors import SeriesError
from forecaster.preprocess import DAY, bins_in
from forecaster.types import Series
from scaler.policy.steering import SteeringRule
from scaler.simulate.scoring import capacity_for_peak

if TYPE_CHECKING:
    from forecaster.types import FloatArray

HISTORY = 14 * DAY
"""What a policy may know of the time before it begins: more buys nothing (measured)."""
WARM_UP = DAY
"""Before the window opens, what adapts online lives through so much of the trace, unscored."""
MOST_REPLICAS = 100_000
"""The product's upper bound: so far off that it decides nothing. A load that needs more is a slip of the pen."""


class UnknownPolicyError(ValueError):
    """A policy that is not there, or cannot be made so; the text says what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a trace is played."""

    cold_start: timedelta = timedelta(seconds=180)
    score_from: datetime | None = None
    """Where scoring begins; the last four days after at least one day of history unless given."""
    score_to: datetime | None = None
    """Where it ends, exclusive; the trace's end unless given."""
    peak_replicas: int = 16
    """Replicas that the 99.9 % quantile of the scored window needs …"""
    capacity_rps: float | None = None
    """… unless this says what one replica serves a second, in the trace's unit."""
    max_replicas: int | None = None
    """No policy orders more than this; unlimited unless given. A rival's opening fleet lasts to its first decision."""
    missed_target_ratio: float = SteeringRule().missed_target_ratio
    """Share of bins that the product may miss, where its name does not say otherwise."""
    price_per_gpu_hour: float | None = None
    """What a GPU-hour costs, in any money; the result then says what each policy's costs."""
    seed: int = 1
    """On record only: nothing that plays a trace today draws a random number."""

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < 1:
            raise ValueError(f"max_replicas must be at least 1, got {self.max_replicas}")
        if not 0.0 < self.missed_target_ratio < 1.0:
            raise ValueError(f"missed_target_ratio must lie in (0, 1), got {self.missed_target_ratio}")
        if self.price_per_gpu_hour is not None and not 0.0 <= self.price_per_gpu_hour < math.inf:
            raise ValueError(f"price_per_gpu_hour must be at least 0, got {self.price_per_gpu_hour}")

    def cold_start_bins(self, step: timedelta) -> int:
        """The cold start in whole bins of that width, a bin begun counting whole."""
        return -(-self.cold_start // step)


def scored_bins(series: Series, setting: Setting) -> tuple[int, int]:
    """The bins that are scored, [first, last): those that start in [from, to). `SeriesError` where there is none."""
    bins = series.values.size
    last = bins if setting.score_to is None else _bin_from(series, setting.score_to)
    last = min(max(last, 0), bins)
    if setting.score_from is None:
        if not last:
            raise SeriesError(f"the trace begins at {series.start}, after the end of the window {setting.score_to}")
        known = Series(start=series.start, step=series.step, values=series.values[:last])
        first = _default_first(known)
    else:
        first = min(max(_bin_from(series, setting.score_from), 0), bins)
    if first >= last:
        wanted = f"[{setting.score_from or series.start}, {setting.score_to or series.end})"
        raise SeriesError(f"nothing to score in {wanted}; the trace covers [{series.start}, {series.end})")
    return first, last


def opening_bin(first: int, step: timedelta) -> int:
    """The bin with which the warm-up day before the first scored bin opens; the trace's first where it is shorter."""
    return max(0, first - bins_in(WARM_UP, step))


def capacity_rps(window: FloatArray, setting: Setting) -> float:
    """What one replica serves, of the scored `window`; `SeriesError` where nobody could be scored on it."""
    known = window[np.isfinite(window)]
    if not known.size:
        raise SeriesError(f"none of the {window.size} bins to score is known; name others: --score-from, --score-to")
    capacity = setting.capacity_rps
    if capacity is None:
        try:
            capacity = capacity_for_peak(window, peak_replicas=setting.peak_replicas)
        except ValueError as error:
            raise SeriesError(f"{error}; name one with --capacity-rps") from error
    highest = float(known.max())
    # Every replica is counted by itself (oracle, regret): a count of 1e300 among others would be counted for ever.
    if not highest <= MOST_REPLICAS * capacity:
        raise SeriesError(
            f"the highest bin to score has {highest:g} a second, which is over {MOST_REPLICAS:,} replicas of "
            f"{capacity:g}: is a count mistyped, --capacity-rps in another unit, or --peak-replicas too high?"
        )
    return capacity


def _default_first(known: Series) -> int:
    """The first bin of the last four days after at least one day of history."""
    try:
        first = _bin_from(known, default_window(known).score_from)
    except SeriesError as error:
        raise SeriesError(f"{error}; name the part to score with --score-from") from error
    if first >= known.values.size:
        raise SeriesError(f"no bin of {known.step} begins in the last four days; name others with --score-from")
    return first


def _bin_from(series: Series, moment: datetime) -> int:
    """The first bin that starts at or after `moment`."""
    return -((series.start - moment) // series.step)
