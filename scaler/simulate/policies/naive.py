"""What people do without a model: as it is now, as it was yesterday, and a timetable made from the past."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from forecaster.preprocess import DAY, bins_in
from scaler.policy.capacity import replicas_for
from scaler.simulate.policies.hpa import Hpa
from scaler.simulate.policies.playing import DEFAULT_UTILISATION, Memory, Sight, bins_of

if TYPE_CHECKING:
    from forecaster.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """It stays as it is: ceil(load now / utilisation), outward and inward at once."""

    utilisation: float = DEFAULT_UTILISATION

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        return max(1, replicas_for(sight.load, utilisation=self.utilisation)), memory


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalNaive:
    """The larger of now and of what came next one day ago.

    Source: Grafana Mimir, operations/mimir/autoscaling.libsonnet, `autoscaling_querier_predictive_scaling_*`: a
    second KEDA trigger with the maximum over `lookback` (30 min) at an offset of a little less than the season, so
    that it looks at the half hour that follows this moment a season ago; KEDA's HPA takes the larger trigger and acts
    on it as an HPA does (`Hpa`, whose memory this is). Its season of a week is a day here, since the windows scored
    are four days. Looks at least a cold start ahead.
    """

    utilisation: float = DEFAULT_UTILISATION
    season: timedelta = DAY
    ahead_s: float = 1800.0

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        season = bins_in(self.season, sight.step)
        ahead = min(season, max(bins_of(self.ahead_s, sight.step), sight.cold_start_bins + 1))
        # The bin after this one, a season ago, is past[size - season]; before the first of them there is no season.
        first = sight.past.size - season
        then = sight.past[max(0, first) : max(0, first + ahead)]
        known = then[np.isfinite(then)]
        load = max(sight.load, float(known.max()) if known.size else 0.0)
        return _hpa(sight.step, self.utilisation).decide(load, sight.ordered, memory)


@lru_cache(maxsize=64)
def _hpa(step: timedelta, utilisation: float) -> Hpa:
    """One rule for all decisions of a run."""
    return Hpa.for_bins(step, utilisation=utilisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A timetable, as KEDA's cron scaler runs one: for each hour of the day (UTC) the highest load it had before.

    Source: KEDA's `cron` trigger (desiredReplicas between start and end); sized as a careful operator would, for the
    peak of that hour over the days known when the window opened, and begun one cold start early. It never looks at
    the present load. Where nothing is known of an hour it takes the peak of all, where nothing is known at all it
    keeps what there is.
    """

    peaks: tuple[float, ...]
    """The highest load of each hour, 24 of them, NaN where unknown."""
    utilisation: float = 1.0

    @classmethod
    def of(cls, history: FloatArray, *, start: datetime, step: timedelta, utilisation: float = 1.0) -> Schedule:
        """The timetable of the bins before `start`, newest last."""
        hours = np.array([(start - step * (history.size - index)).hour for index in range(history.size)], dtype=int)
        known = np.isfinite(history)
        peaks = [history[known & (hours == hour)].max(initial=-1.0) for hour in range(24)]
        overall = max(peaks)
        filled = (each if each >= 0.0 else overall for each in peaks)
        return cls(peaks=tuple(float(each) if each >= 0.0 else np.nan for each in filled), utilisation=utilisation)

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        ends = sight.at + sight.step * sight.cold_start_bins
        hours = {sight.at.hour, ends.hour}
        load = max(self.peaks[hour] for hour in hours)
        return (max(1, replicas_for(load, utilisation=self.utilisation)) if load >= 0.0 else sight.ordered), memory
