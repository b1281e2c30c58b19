"""Whether the forecast may carry the safety margin: it must be there, fresh, no worse than "as it is now", calibrated.

A distrusted forecast still adds capacity (the predictive rule is a floor); it only loses the right to let the load
rule run without a margin and to release without a look-back.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scaler.policy.types import Snapshot, Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRule:
    """What a forecast must show over the last six hours."""

    least_coverage: float = 0.90
    """Lowest share of minutes at or below the 0.95 quantile."""
    most_coverage: float = 0.99
    """Highest such share: above it the band is so wide that it wastes GPUs."""
    most_error_ratio: float = 1.05
    """Highest error, as a multiple of last value's: over six hours two equal forecasts differ by a few per cent."""
    least_scored_bins: int = 120
    """Minutes that must have been scored before the forecast can be judged at all."""


def judge(snapshot: Snapshot, rule: TrustRule, *, now: datetime) -> Trust:
    """The first thing that speaks against the forecast, or `TRUSTED`. Every class with demand must pass."""
    if not snapshot.forecasts:
        return Trust.NO_FORECAST
    covered = {each.forecast.request_class for each in snapshot.forecasts}
    if any(readings.request_class not in covered for readings in snapshot.classes):
        return Trust.CLASS_MISSING
    for each in snapshot.forecasts:
        if each.forecast.expired(now=now):
            return Trust.EXPIRED
        if not each.forecast.plausible:
            return Trust.IMPLAUSIBLE
        quality = each.quality
        if quality is None or quality.scored_bins < rule.least_scored_bins:
            return Trust.UNSCORED
        if not quality.wape <= rule.most_error_ratio * quality.wape_last_value:  # so written, a NaN is worse
            return Trust.WORSE_THAN_LAST_VALUE
        if not quality.coverage_95 >= rule.least_coverage:
            return Trust.COVERAGE_LOW
        if quality.coverage_95 > rule.most_coverage:
            return Trust.COVERAGE_HIGH
    return Trust.TRUSTED
