"""The predictive rule: have replicas Ready when the demand is there. A floor; it never lets replicas fall.

Order and release look at different times. An order placed now can only change what is Ready from `now + lead time`
on, so it is sized for the demand there, at the steered score z: the most of the next `EARLY`, because what recurs
may begin a little sooner than it did yesterday. A release can hurt every moment from now until a replacement could be
Ready, so only what lies above the higher score z + margin over that whole span is given back. This hysteresis in
quantile space replaces a look-back window (measured: cheaper, with half the pod starts).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import Proposal, Reason, Snapshot, demand_of

RULE = "predictive"

EARLY = timedelta(minutes=4)
"""How much sooner than forecast the demand may come. Measured at 1 to 9 minutes: from 3 to 6 the score settles low
enough to pay for the replicas that wait, and fewer minutes are missed; beyond, they cost more than they save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictiveRule:
    """Parameters of the predictive rule."""

    enabled: bool = True
    """False removes the rule; the load rule then keeps its own margin."""
    release_margin_z: float = 0.5
    """How much higher, in normal score, a release looks than an order; at least 0."""

    def __post_init__(self) -> None:
        if not self.release_margin_z >= 0.0:
            raise ValueError(f"predictive.release_margin_z must be at least 0, got {self.release_margin_z}")


def propose(
    snapshot: Snapshot, rule: PredictiveRule, profile: CapacityProfile, *, z: float, tick: timedelta, now: datetime
) -> Proposal | None:
    """Order at `z` for `now + lead time` and `EARLY` after it; keep what the span to one tick after it needs at
    `z + margin`.

    Quantiles of several classes are added as if they peaked together: never too little, exact for one class. None
    while the rule is off, or no unexpired, plausible forecast is at hand.
    """
    spoken = [
        each for each in snapshot.forecasts_in_force if not each.forecast.expired(now=now) and each.forecast.plausible
    ]
    usable = [each.forecast for each in spoken]
    if not rule.enabled or not usable:
        return None

    def load_at(moment: datetime, score: float) -> float:
        # Forecast by forecast: of one class there may be two, its own and what spills over of it.
        return sum(profile.load({each.request_class: each.quantile(moment, z=score)}) for each in usable)

    arrival = now + timedelta(seconds=snapshot.lead_time_s)
    ordered = ((load_at(moment, z), moment) for moment in usable[0].grid_between(arrival, arrival + EARLY))
    order, needed_at = max(ordered, key=lambda each: each[0])  # the first of equals
    span = usable[0].grid_between(now, arrival + tick)
    release = max(load_at(moment, z + rule.release_margin_z) for moment in span)
    present = profile.load(demand_of(snapshot.classes) or {})
    want = replicas_for(order)
    return Proposal(
        rule=RULE,
        want=want,
        keep=max(want, replicas_for(max(release, present))),
        reason=Reason.STAND_IN if any(each.stand_in for each in spoken) else Reason.FORECAST,
        detail=(
            f"{usable[0].model}: load {order:.3f} at {needed_at:%H:%M:%S} (z {z:.2f}), "
            f"peak {release:.3f} until {arrival + tick:%H:%M:%S} (z {z + rule.release_margin_z:.2f})"
        ),
    )
