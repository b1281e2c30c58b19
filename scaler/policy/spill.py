"""Spill-over between pools: what a pool cannot carry at its limits is demand of the next one, ahead of time.

It decides how much of each request class goes over, now and over the forecast's horizon, and what of it the receiving
pool keeps replicas for. Limits are what counts, not what happens to be Ready: replicas that the sending pool has
ordered, or still may, carry the load by the time that the receiver's would be Ready, so nothing is ordered for them a
second time. Until then the overflow is real but short: the receiver releases nothing that serves it. Whose limits hold
how much is `scaler.policy.overflow`'s to say; which replicas follow is left to the load and predictive rules, for which
what spills over is demand like any other. See docs/decisions/0022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from forecaster.types import Forecast, Known
from scaler.policy.capacity import EPSILON, CapacityProfile, replicas_for
from scaler.policy.types import (
    ClassReadings,
    DemandForecast,
    Inflow,
    PolicyState,
    Proposal,
    Reason,
    Snapshot,
    SpilledClass,
    demand_of,
)

RULE = "spill"

WORTH_A_START = timedelta(minutes=5)
"""How much sooner than the sending pool's replicas the receiver's must be Ready to be ordered for a shortage that ends
by itself: they stay for five calm minutes at least, so for less they would come to serve nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burden:
    """What the sending pool is to carry, in requests per second by class, and what its replicas do of it.

    `announced_rps` is what an event expects by the time that the receiver can be ready; `forecasts` are those that the
    pool itself orders by.
    """

    demand_rps: Mapping[str, float]
    announced_rps: Mapping[str, float]
    forecasts: tuple[DemandForecast, ...]
    profile: CapacityProfile

    def over(self, demand_rps: Mapping[str, float], replicas: float) -> dict[str, float]:
        """`beyond` by its own profile."""
        return beyond(demand_rps, self.profile, replicas)

    def load_of(self, level: int, of_classes: Mapping[str, tuple[float, ...]]) -> float:
        """Load at one quantile level of all classes together; a class without a forecast stays as it is now."""
        steady = {name: rate for name, rate in self.demand_rps.items() if name not in of_classes}
        return self.profile.load({**steady, **{name: values[level] for name, values in of_classes.items()}})


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Replicas of the sending pool that carry load: `now` Ready ones, `soon` those that start as well, and from `until`
    on all that it may have at a moment by its limits. `utilisation` is the share of each that its load rule fills."""

    now: float
    soon: float
    until: datetime
    reach: Callable[[datetime], float]
    utilisation: float = 1.0

    def at(self, starts: datetime, ends: datetime) -> float:
        """Replicas that carry a forecast's bin. One that lies in part before `until` counts as after it: a forecast is
        interpolated, and the bin would speak for that very moment."""
        return max(0.0, self.soon if ends <= self.until else self.reach(starts))


# ── What goes over ────────────────────────────────────────────────────────────────────────────────────────────


def beyond(demand_rps: Mapping[str, float], profile: CapacityProfile, replicas: float) -> dict[str, float]:
    """What of a demand by class `replicas` do not carry, by class: of every class the same share.

    Six replicas' worth on four: a third of each class goes over, 24 requests a second of 72 and 4 of 12.
    """
    load = profile.load(demand_rps)
    over = load - max(0.0, replicas)
    if not over > EPSILON * max(1.0, load):
        return dict.fromkeys(demand_rps, 0.0)
    return {name: max(0.0, rate) * over / load for name, rate in demand_rps.items()}


def outflow(burden: Burden, supply: Supply, *, arrival: datetime) -> tuple[SpilledClass, ...]:
    """What goes over by class, present and foreseen; nothing where nothing does.

    `arrival` is when a replica that the receiver orders now is Ready: what is planned for is what does not fit then.
    The margin that the sending pool's load rule keeps and has no room for goes along; the receiver's own rule adds none
    to that.
    """
    reach = supply.reach(arrival)
    planned = burden.over(burden.demand_rps, supply.utilisation * reach)
    planned = _more(planned, burden.over(burden.announced_rps, reach))
    if arrival < supply.until:
        planned = _more(planned, burden.over(burden.demand_rps, supply.soon))
    present = burden.over(burden.demand_rps, supply.now)
    foreseen = _foreseen(burden, supply)
    found = (
        SpilledClass(
            request_class=name,
            planned_rps=planned.get(name, 0.0),
            now_rps=present.get(name, 0.0),
            forecast=foreseen.get(name),
        )
        for name in dict.fromkeys([*planned, *present, *foreseen])
    )
    return tuple(each for each in found if each.planned_rps > 0.0 or each.now_rps > 0.0 or each.forecast is not None)


def _more(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in dict.fromkeys([*one, *other])}


def _foreseen(burden: Burden, supply: Supply) -> dict[str, DemandForecast]:
    """The forecasts beyond the supply, quantile by quantile, of the classes of which anything goes over.

    More demand is more overflow, so the 95 % quantile of the one is that of the other: exact for one class; several
    are added as if they peaked together, as the predictive rule adds them.
    """
    found: dict[str, DemandForecast] = {}
    for each in burden.forecasts:
        own = each.forecast
        rows = tuple(_beyond_at(own.request_class, bin_of, burden, supply) for bin_of in _bins(own))
        if any(value > 0.0 for row in rows for value in row):
            found[own.request_class] = replace(each, forecast=replace(own, values=rows))
    return found


def added(one: DemandForecast, other: DemandForecast) -> DemandForecast:
    """Two forecasts of one class as one, on the grid of the first: a pool's own and what spills over of it."""
    rows = (
        tuple(mine + theirs for mine, theirs in zip(row, other.forecast.levels(starts), strict=True))
        for row, (starts, _) in zip(one.forecast.values, _bins(one.forecast), strict=True)
    )
    return replace(one, forecast=replace(one.forecast, values=tuple(rows)))


def _bins(forecast: Forecast) -> list[tuple[datetime, datetime]]:
    """The start of each horizon's bin, and that of the next: between two of them a forecast is interpolated."""
    step = timedelta(seconds=forecast.step_s)
    starts = [forecast.issued_at + (horizon - 1) * step for horizon in forecast.horizons]
    return list(zip(starts, [*starts[1:], starts[-1] + step], strict=True))


def _beyond_at(name: str, bin_of: tuple[datetime, datetime], burden: Burden, supply: Supply) -> tuple[float, ...]:
    """The levels of one class in one bin, less what the supply carries of them."""
    starts, ends = bin_of
    replicas = supply.at(starts, ends)
    of_classes = {each.forecast.request_class: each.forecast.levels(starts) for each in burden.forecasts}
    levels = []
    for level, rate in enumerate(of_classes[name]):
        load = burden.load_of(level, of_classes)
        over = load - replicas
        levels.append(rate * over / load if over > EPSILON * max(1.0, load) else 0.0)
    return tuple(levels)


# ── What comes in ─────────────────────────────────────────────────────────────────────────────────────────────


def with_inflows(snapshot: Snapshot) -> Snapshot:
    """The snapshot with what spills over among its classes and forecasts, for rules that know demand alone."""
    coming = [each for inflow in snapshot.inflows for each in inflow.classes]
    if not coming:
        return snapshot
    # Where nothing of the demand is known, what comes over is not the whole of it.
    readings = tuple(
        ClassReadings(request_class=each.request_class, demand_rps=Known(value=each.planned_rps)) for each in coming
    )
    forecasts = tuple(each.forecast for each in coming if each.forecast is not None)
    return replace(
        snapshot,
        classes=(*snapshot.classes, *readings) if snapshot.classes else (),
        forecasts=(*snapshot.forecasts, *forecasts),
    )


def held(inflow: Inflow, remembered: Sequence[Inflow]) -> Inflow:
    """What comes from a pool that cannot be told now: what it spilled last, or more where more is seen; never less."""
    last = next((each for each in remembered if each.sender == inflow.sender), None)
    if not inflow.blind or last is None:
        return inflow
    seen = {each.request_class: each for each in inflow.classes}
    classes = []
    for before in last.classes:
        now = seen.pop(before.request_class, None)
        classes.append(before if now is None else _at_least(now, before))
    reach, limit = (last.reach, last.limit) if inflow.reach is None else (inflow.reach, inflow.limit)
    return replace(inflow, classes=(*classes, *seen.values()), reach=reach, limit=limit)


def _at_least(now: SpilledClass, before: SpilledClass) -> SpilledClass:
    return replace(
        now,
        planned_rps=max(now.planned_rps, before.planned_rps),
        now_rps=max(now.now_rps, before.now_rps),
    )


def remember(state: PolicyState, snapshot: Snapshot) -> PolicyState:
    """The state that knows what spilled over, for a tick at which it cannot be told."""
    if not snapshot.inflows and not state.inflows:
        return state
    kept = tuple(
        replace(each, classes=tuple(replace(one, forecast=None) for one in each.classes)) for each in snapshot.inflows
    )
    return replace(state, inflows=kept)


def propose(snapshot: Snapshot, profile: CapacityProfile) -> Proposal | None:
    """Keep what serves the overflow of this moment; it orders nothing, `with_inflows` has what is to be ordered for.

    None while nothing comes over, or the own demand is unknown: then nothing is released anyway.
    """
    coming: dict[str, float] = {}
    for each in (one for inflow in snapshot.inflows for one in inflow.classes):
        coming[each.request_class] = coming.get(each.request_class, 0.0) + each.now_rps
    demand_rps, extra = demand_of(snapshot.classes), profile.load(coming)
    if demand_rps is None or extra <= 0.0:
        return None
    return Proposal(
        rule=RULE,
        want=0,
        keep=replicas_for(profile.load(demand_rps) + extra),
        reason=Reason.SPILL,
        detail=f"{sum(coming.values()):.6g} rps come over now and fill {extra:.3f} replicas",
    )
