"""Outages as they look from the demand: a sudden silence is not believed at once, and neither is what comes back.

When whatever stands before a service breaks, its demand reads zero, by evidence: every counter is there and stands
still. Released then, the replicas are missing when the traffic returns (Netflix, "Scryer: Netflix's predictive auto
scaling engine", 2013: don't shrink in the dip). And what returns is more than the usual: clients ask again, and again.
This rule only doubts: it blocks a release, slows growth for minutes, and never orders anything. A silence that the
forecast has seen coming, that comes by and by, or in traffic that keeps falling silent, is nobody's outage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from scaler.policy.types import Adjustment, At, OutageState, Reason

RULE: Final = "outage"

BUSY_RATIO: Final = 0.1
"""Load from which a workload is busy, as a share of its replicas, and at least `BUSY_LOAD`."""

BUSY_LOAD: Final = 0.5
"""Half a replica's worth of requests does not stop by chance: at 10 requests/s a minute without any has odds of
e ** -300. Workloads with less come and go, and have little to release."""

SILENT_RATIO: Final = 0.01
"""Load up to which it is silent, as a share of its replicas (of one at least): health checks go on in an outage."""

FORESEEN_RATIO: Final = 0.05
"""A forecast median down to this share says that silence is due."""

ABRUPT: Final = timedelta(minutes=3)
"""From busy to silent within this time is sudden: a rate over a minute needs two ticks to fall."""

STEADY: Final = timedelta(hours=3)
"""How long it must have gone on without a silent tick. Traffic in bursts falls silent all day: of a week of BurstGPT
963 times within three minutes, after three hours on end twice. NASA's site of July 1995, which broke now and then,
48 times and 26."""

REAL: Final = timedelta(minutes=30)
"""A silence that lasted so long was one, and what comes after it is not the old traffic going on."""

LONGEST: Final = timedelta(minutes=5)
"""Requests take at most so long on average: what is in flight and came in this time, little as it is, explains itself.
8 requests/s of five seconds each are 40 in flight, and may be 2,400; a gateway's old address that only health checks
ask, one in ten seconds, explains 30."""

LEAST_OUTAGE: Final = timedelta(minutes=3)
"""Shorter blindness or silence is a late scrape or a restart, and nobody has begun to ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageRule:
    """Parameters of what is doubted in and after an outage."""

    silence: timedelta = timedelta(minutes=30)
    """How long a sudden silence of the demand releases nothing; longer while requests are still in flight. 0 believes
    it at once."""
    surge: timedelta = timedelta(minutes=5)
    """How long after an outage growth stays within `most_surge_ratio`; 0 does not limit it."""
    most_surge_ratio: float = 2.0
    """Most replicas in that time, as a multiple of those that were there, or were forecast to be needed, when the
    demand came back."""

    def __post_init__(self) -> None:
        if self.silence < timedelta(0):
            raise ValueError(f"outage.silence must be at least 0, got {self.silence}")
        if self.surge < timedelta(0):
            raise ValueError(f"outage.surge must be at least 0, got {self.surge}")
        if not self.most_surge_ratio >= 1.0:
            raise ValueError(f"outage.most_surge_ratio must be at least 1, got {self.most_surge_ratio}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one tick shows of the demand, in full replicas; `load` counts only while `known`."""

    known: bool
    load: float
    current: int
    foreseen: float | None = None
    """Load that the forecast's median sees at `ABRUPT` from now; None without a forecast."""
    expected: int = 0
    """Replicas that the forecast asks for."""
    arrivals_rps: float = 0.0
    """Requests per second of all classes; counts only while `known`."""


def observe(state: OutageState, seen: Seen, *, now: datetime) -> OutageState:
    """The state after a tick: whether a silence or blindness has begun, lasts, or is over."""
    if not seen.known:
        if state.busy_at is None:
            return replace(state, back=None)
        # What was busy when it was last seen is busy until it is seen otherwise.
        return replace(state, busy_at=now, blind_since=state.blind_since or now, back=None)
    per_replica = max(1, seen.current)
    silent = seen.load <= SILENT_RATIO * per_replica
    back = state.back
    if _lasted(state.blind_since, now=now) or (not silent and _lasted(state.silent_since, now=now)):
        back = At(at=now, replicas=max(seen.current, seen.expected))
    if silent:
        steady = state.heard_since is not None and now - state.heard_since >= STEADY
        abrupt = state.busy_at is not None and now - state.busy_at <= ABRUPT
        sudden = state.silent_since is None and steady and abrupt
        fell_at, since = (now, now) if sudden else (state.fell_at, state.silent_since)
        heard_since = state.heard_since if since is not None else None
        return OutageState(
            heard_since=heard_since,
            busy_at=state.busy_at,
            fell_at=fell_at,
            silent_since=since,
            back=back,
            arrivals_rps=seen.arrivals_rps if since is not None else 0.0,
        )
    foreseen = seen.foreseen is not None and seen.foreseen <= FORESEEN_RATIO * per_replica
    busy = seen.load >= max(BUSY_LOAD, BUSY_RATIO * seen.current)
    busy_at = None if foreseen else now if busy else state.busy_at
    slept = state.silent_since is not None and now - state.silent_since >= REAL
    heard_since = now if slept else state.heard_since or now
    return OutageState(heard_since=heard_since, busy_at=busy_at, fell_at=state.fell_at, back=back)


def doubt(before: OutageState, rule: OutageRule, *, in_flight: float, now: datetime) -> str:
    """Why nothing is released on the word of a demand that fell silent; empty where nothing speaks against it.

    Asked of the state *before* the tick, and for the whole time, whatever comes back meanwhile: looked at through the
    load of now, a little load would release what none at all would keep (I7). `in_flight` requests, 0 where they cannot
    be told, speak against a silence that goes on, where more are there than what arrived at the tick before explains:
    what counts the arrivals is broken, and that is blindness. A trickle that is left explains what it has in flight.
    """
    if before.fell_at is None or rule.silence <= timedelta(0):
        return ""
    ends = before.fell_at + rule.silence
    if now < ends:
        return f"fell silent at {before.fell_at:%H:%M:%S}, all at once; believed from {ends:%H:%M:%S}"
    explained = before.arrivals_rps * LONGEST.total_seconds()
    if before.silent_since is not None and in_flight > explained + 1e-9:
        return f"silent since {before.silent_since:%H:%M:%S}, but {in_flight:.0f} requests are in flight"
    return ""


def slowed(
    want: int, exempt: int, rule: OutageRule, state: OutageState, *, current: int, now: datetime
) -> tuple[int, tuple[Adjustment, ...]]:
    """The part of a growth to `want` that may be ordered so soon after an outage; `exempt` replicas always may.

    Eight before it, sixteen for five minutes: twice what is usual serves a real rush, and a storm of clients that ask
    again does not order a fleet. What still is there after that is ordered.
    """
    if not surging(state, rule, now=now) or state.back is None:
        return want, ()
    most = max(current, exempt, int(rule.most_surge_ratio * state.back.replicas + 1e-9))
    if want <= most:
        return want, ()
    ends = state.back.at + rule.surge
    detail = f"back since {state.back.at:%H:%M:%S}; until {ends:%H:%M:%S} at most {most}"
    return most, (Adjustment(rule=RULE, before=want, after=most, reason=Reason.AFTER_OUTAGE, detail=detail),)


def surging(state: OutageState, rule: OutageRule, *, now: datetime) -> bool:
    """Whether the demand came back from an outage a moment ago."""
    return state.back is not None and now - state.back.at < rule.surge


def unusual(state: OutageState, rule: OutageRule, *, now: datetime) -> bool:
    """Whether this minute's demand says nothing about the forecast (I13): in an outage, or a moment after it."""
    silent = state.silent_since is not None and now - state.silent_since < rule.silence
    return silent or state.blind_since is not None or surging(state, rule, now=now)


def _lasted(since: datetime | None, *, now: datetime) -> bool:
    return since is not None and now - since >= LEAST_OUTAGE
