"""How far the forecast may carry the safety margin: it must be there, fresh, no worse than "as it is now", calibrated.

A distrusted forecast still adds capacity (the predictive rule is a floor); it only loses the right to let the load
rule run without a margin and, once nothing of its trust is left, to release without a look-back. What was measured
over six hours fades in and out, it does not switch: two equal forecasts differ by chance, and a verdict that flips at
one edge costs the whole margin each time. Only one that was so much worse than the last value that none of its trust
is left is switched off and asks for nothing, until half of it is back: then two hours have shown more than chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from forecaster.types import ForecastQuality
from scaler.policy.types import Snapshot, Trust

ENABLED_AGAIN = 0.5
"""A forecast that was disabled is enabled again at a doubt of at most this: one that errs by 1.5 times last value's now
and then would come and go by the minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRule:
    """What a forecast must show over the last six hours."""

    least_coverage: float = 0.90
    """Share of minutes at or below the 0.95 quantile under which trust begins to fade …"""
    lost_coverage: float = 0.80
    """… and at which none is left."""
    most_coverage: float = 1.0
    """Highest such share. At 1 no band is too wide: it costs GPUs until the score has sunk, and endangers nobody."""
    most_error_ratio: float = 1.05
    """Error, as a multiple of last value's, above which trust begins to fade: over six hours two equal forecasts
    differ by a few per cent …"""
    lost_error_ratio: float = 1.5
    """… and at which none is left."""
    least_scored_bins: int = 120
    """Minutes that must have been scored before the forecast can be judged at all."""

    def __post_init__(self) -> None:
        if not self.lost_coverage <= self.least_coverage:
            raise ValueError(
                f"trust.lost_coverage must be at most least_coverage {self.least_coverage}, got {self.lost_coverage}"
            )
        if not self.lost_error_ratio >= self.most_error_ratio:
            raise ValueError(
                f"trust.lost_error_ratio must be at least most_error_ratio {self.most_error_ratio}, "
                f"got {self.lost_error_ratio}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What speaks most against the forecast, and how much of the margin it therefore cannot carry."""

    trust: Trust
    doubt: float
    """0: the forecast carries the whole margin; 1: the load rule keeps all of it."""


TRUSTED = Verdict(trust=Trust.TRUSTED, doubt=0.0)


def judge(snapshot: Snapshot, rule: TrustRule, *, now: datetime) -> Verdict:
    """The gravest thing that speaks against the forecast, the first of equals. Every class with demand must pass."""
    forecasts = snapshot.forecasts_in_force
    if not forecasts:
        return _lost(Trust.NO_FORECAST)
    if any(each.stand_in for each in forecasts):
        return _lost(Trust.STAND_IN)
    covered = {each.forecast.request_class for each in forecasts}
    if any(readings.request_class not in covered for readings in snapshot.classes):
        return _lost(Trust.CLASS_MISSING)
    worst = TRUSTED
    for each in forecasts:
        if each.forecast.expired(now=now):
            return _lost(Trust.EXPIRED)
        if not each.forecast.plausible:
            return _lost(Trust.IMPLAUSIBLE)
        if each.quality is None or each.quality.scored_bins < rule.least_scored_bins:
            return _lost(Trust.UNSCORED)
        worst = max(worst, _measured(each.quality, rule), key=lambda verdict: verdict.doubt)
    return worst


def disabled_since(since: datetime | None, verdict: Verdict, *, now: datetime) -> datetime | None:
    """Since when the forecast is disabled for being worse than the last value; None while it is not.

    Other losses of trust (no forecast, expired, not scored yet) disable nothing: what there is of it may still ask.
    They enable nothing either: a forecast that was bad an hour ago is not good because it is late.
    """
    if since is not None:
        return since if verdict.doubt > ENABLED_AGAIN else None
    return now if verdict.trust is Trust.WORSE_THAN_LAST_VALUE and verdict.doubt >= 1.0 else None


def _measured(quality: ForecastQuality, rule: TrustRule) -> Verdict:
    """What the last six hours say: coverage .85 is half way from .90 to .80, a doubt of 0.5.

    With the error at 1.2 times last value's, (1.2 - 1.05) / (1.5 - 1.05) = 0.33. What cannot be told is lost.
    """
    if math.isnan(quality.wape) or math.isnan(quality.wape_last_value):
        return _lost(Trust.UNSCORED)
    limits = rule.most_error_ratio * quality.wape_last_value, rule.lost_error_ratio * quality.wape_last_value
    against = (
        Verdict(trust=Trust.WORSE_THAN_LAST_VALUE, doubt=_faded(quality.wape, *limits)),
        Verdict(
            trust=Trust.COVERAGE_LOW, doubt=_faded(-quality.coverage_95, -rule.least_coverage, -rule.lost_coverage)
        ),
        Verdict(trust=Trust.COVERAGE_HIGH, doubt=1.0 if quality.coverage_95 > rule.most_coverage else 0.0),
    )
    worst = max(against, key=lambda verdict: verdict.doubt)
    return worst if worst.doubt > 0.0 else TRUSTED


def _faded(value: float, begins: float, lost: float) -> float:
    """0 up to `begins`, 1 from `lost` on, linear between; a NaN is 1, and so is anything beyond two equal limits."""
    if value <= begins:
        return 0.0
    return (value - begins) / (lost - begins) if value < lost else 1.0


def _lost(reason: Trust) -> Verdict:
    return Verdict(trust=reason, doubt=1.0)
