"""The latency rule (P95 over its SLO for two minutes): catches what nobody forecast. It only ever raises.

Latency is the trigger, load is the size: the order is what the arrivals and the backlog need, and at least one more
than now. After an order the rule waits until what it ordered is Ready or has failed and one full rate window has
passed, else it would fire all through a three-minute start. GPU utilisation is no trigger: a vision model can be
slow on an idle-looking GPU.

Where the load fits and the SLO breaks all the same (tokens too far apart on one slow replica, a profile that promises
too much), waiting cures nothing and one more does. What was ordered then is remembered for some hours as what such a
load takes: releasing it by the profile that was just refuted would break the SLO again every ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from forecaster.types import Blind, BlindReason, Reading, value_of
from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import (
    Breach,
    ClassReadings,
    Doubt,
    LatencyState,
    Proposal,
    Reason,
    ReplicaState,
    Snapshot,
    demand_of,
)

RULE = "latency"

SIGNALS = ("e2e_p95_s", "ttft_p95_s", "queue_time_p95_s", "itl_p95_s")
"""What may have a target: the names are those of `ClassReadings` and of `Slo`."""

ORDERS = (Reason.P95_BREACH, Reason.PROFILE_DOUBTED)
"""The reasons with which the rule asks for more; with any other it only waits or watches."""


MOST_IN_DOUBT = 2
"""Against the profile the rule orders up to so many times what the load needs. If that is not enough, replicas are not
the cure: an SLO that even an idle replica breaks would else be fought up to the maximum, four minutes a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Latency targets of one request class, or of every class that has no entry of its own; None is not judged."""

    request_class: str | None = None
    """Which class; None stands for all the others."""
    e2e_p95_s: float | None = None
    """End to end, seconds."""
    ttft_p95_s: float | None = None
    """Time to first token, seconds."""
    queue_time_p95_s: float | None = None
    """Waiting in the replica's queue, seconds."""
    itl_p95_s: float | None = None
    """Between two tokens, mean of a request, seconds; on an engine that counts tokens alone, of all tokens."""

    def __post_init__(self) -> None:
        for name in SIGNALS:
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"latency.slos[].{name} must be above 0 seconds, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRule:
    """Parameters of the latency rule; without an SLO it stays silent."""

    slos: tuple[Slo, ...] = ()
    """The targets; the entry that names the class wins over the one that names none."""
    hold: timedelta = timedelta(minutes=2)
    """How long a signal must stay above its SLO before it counts."""
    rate_window: timedelta = timedelta(minutes=2)
    """Window of the latency queries: after an order settles, one of it must pass before the rule looks again."""
    remember_doubt: timedelta = timedelta(hours=3)
    """How long what was ordered against an SLO that broke although the load fitted is kept for such a load."""

    def slo_for(self, request_class: str) -> Slo | None:
        """The targets of one class."""
        named = (slo for slo in self.slos if slo.request_class == request_class)
        others = (slo for slo in self.slos if slo.request_class is None)
        return next(named, next(others, None))


def propose(
    snapshot: Snapshot, rule: LatencyRule, profile: CapacityProfile, state: LatencyState, *, now: datetime
) -> tuple[Proposal | None, LatencyState]:
    """The rule's opinion and its memory after this tick; None while nothing is, or was just, over an SLO."""
    if isinstance(snapshot.replicas, Blind):
        return None, state
    replicas = snapshot.replicas
    size = _size(snapshot, profile)
    fits = size is not None and size <= replicas.ready
    state = replace(
        _settle(state, replicas, lead_time_s=snapshot.lead_time_s, now=now),
        breaches=_track(snapshot, rule, state, now=now),
        fits_since=(state.fits_since or now) if fits else None,
        doubt=state.doubt if state.doubt is not None and now - state.doubt.at < rule.remember_doubt else None,
    )
    if state.ordered is not None:
        return _pending(state.ordered.replicas), state
    held = tuple(breach for breach in state.breaches if now - breach.since >= rule.hold)
    resting = state.settled_at is not None and now - state.settled_at < rule.rate_window
    draining = state.fits_since is not None and now - state.fits_since < rule.hold + rule.rate_window
    if not held or resting or draining:
        return (_watch(replicas, state.breaches) if state.breaches else _remembered(snapshot, profile, state)), state
    fired = _fire(replicas, held, size=size, doubted=state.fits_since is not None)
    return fired, replace(state, doubt=_doubt(fired, snapshot, profile, now=now) or state.doubt)


def blind_classes(snapshot: Snapshot, rule: LatencyRule) -> tuple[str, ...]:
    """Classes with an SLO on a signal that cannot be read now, as "class/signal".

    One that nobody reads is not among them: a percentile over all classes is judged by the loosest target alone.
    """
    return tuple(
        f"{readings.request_class}/{signal}"
        for readings in snapshot.classes
        for signal, _, reading in _judged(readings, rule)
        if isinstance(reading, Blind) and reading.reason is not BlindReason.NOT_READ
    )


def _judged(readings: ClassReadings, rule: LatencyRule) -> Iterator[tuple[str, float, Reading]]:
    """Each signal of a class that has a target: its name, the target in seconds, the reading."""
    slo = rule.slo_for(readings.request_class)
    if slo is None:
        return
    for signal in SIGNALS:
        target_s = getattr(slo, signal)
        if target_s is not None:
            yield signal, target_s, getattr(readings, signal)


def _track(snapshot: Snapshot, rule: LatencyRule, state: LatencyState, *, now: datetime) -> tuple[Breach, ...]:
    """Open breaches after this tick. A signal that is fine, unknown, or has too few requests closes its breach."""
    since = {(breach.request_class, breach.signal): breach.since for breach in state.breaches}
    breaches = []
    for readings in snapshot.classes:
        for signal, target_s, reading in _judged(readings, rule):
            value = value_of(reading)
            if value is not None and value > target_s:
                key = (readings.request_class, signal)
                breaches.append(Breach(request_class=key[0], signal=key[1], since=since.get(key, now)))
    return tuple(breaches)


def _settle(state: LatencyState, replicas: ReplicaState, *, lead_time_s: float, now: datetime) -> LatencyState:
    """Close the open order once it is Ready, has failed, was undone by others, or took twice the lead time."""
    if state.ordered is None:
        return state
    arrived = replicas.ready >= state.ordered.replicas
    failed = replicas.failed > 0 and replicas.starting == 0
    overdue = now - state.ordered.at >= timedelta(seconds=2.0 * lead_time_s + 60.0)
    if arrived or failed or overdue:
        return replace(state, ordered=None, settled_at=now)
    return state


def _pending(ordered: int) -> Proposal:
    """Hold what was ordered until it is there: no further raise, and no release of pods that are still starting."""
    return Proposal(
        rule=RULE, want=ordered, keep=ordered, reason=Reason.P95_PENDING, detail=f"waiting for {ordered} Ready"
    )


def _watch(replicas: ReplicaState, breaches: tuple[Breach, ...]) -> Proposal:
    """Over an SLO, but not for long enough, or just after an order settled: release nothing."""
    return Proposal(
        rule=RULE, want=0, keep=replicas.desired, reason=Reason.P95_WATCH, detail=f"{_names(breaches)} above SLO"
    )


def _doubt(fired: Proposal, snapshot: Snapshot, profile: CapacityProfile, *, now: datetime) -> Doubt | None:
    """What an order against the profile is to be remembered as."""
    demand_rps = demand_of(snapshot.classes)
    if fired.reason is not Reason.PROFILE_DOUBTED or demand_rps is None:
        return None
    return Doubt(at=now, load=profile.load(demand_rps), replicas=fired.want)


def _remembered(snapshot: Snapshot, profile: CapacityProfile, state: LatencyState) -> Proposal | None:
    """Release no further than the load of now needs at the rate that kept the SLO: 5 for a load of 3.5, 3 for 2.1."""
    doubt, demand_rps = state.doubt, demand_of(snapshot.classes)
    if doubt is None or demand_rps is None or isinstance(snapshot.replicas, Blind) or not doubt.load > 0.0:
        return None
    needed = math.ceil(doubt.replicas * profile.load(demand_rps) / doubt.load - 1e-9)
    return Proposal(
        rule=RULE,
        want=0,
        keep=min(needed, snapshot.replicas.desired),
        reason=Reason.DOUBT_REMEMBERED,
        detail=f"{doubt.replicas} for a load of {doubt.load:.2f} at {doubt.at:%H:%M}",
    )


def _size(snapshot: Snapshot, profile: CapacityProfile) -> int | None:
    """ceil((arrivals + backlog / lead time) / max_rps); None while demand is unknown."""
    demand_rps = demand_of(snapshot.classes)
    if demand_rps is None:
        return None
    waiting = value_of(snapshot.requests_waiting) or 0.0
    backlog = profile.backlog_load(waiting, demand_rps, within_s=snapshot.lead_time_s)
    return replicas_for(profile.load(demand_rps) + backlog)


def _fire(replicas: ReplicaState, held: tuple[Breach, ...], *, size: int | None, doubted: bool) -> Proposal:
    """What the load needs, and at least one more than now.

    Pods that already start are the remedy under way: while there are any, only a larger size raises. If the load
    has fitted what is Ready for so long that every reading of the breach lies in that time, and the SLO still
    breaks, the profile promises too much: one more, flagged, up to twice what the load needs. (A queue that drains
    after new pods arrived breaks the SLO too, for a while: that is no reason to order.)
    """
    under_way = replicas.starting > 0 or replicas.unschedulable > 0
    target = max(size or 0, replicas.desired + (0 if under_way else 1))
    needs = "unknown load" if size is None else f"load and backlog need {size}"
    if doubted and size is not None and target > MOST_IN_DOUBT * size:
        target = replicas.desired
        needs += f", and {MOST_IN_DOUBT} times that did not help"
    return Proposal(
        rule=RULE,
        want=target,
        keep=target,
        reason=Reason.PROFILE_DOUBTED if doubted else Reason.P95_BREACH,
        detail=f"{_names(held)} above SLO since {min(b.since for b in held):%H:%M:%S}; {needs}",
    )


def _names(breaches: tuple[Breach, ...]) -> str:
    return ", ".join(f"{breach.request_class}/{breach.signal}" for breach in breaches)
