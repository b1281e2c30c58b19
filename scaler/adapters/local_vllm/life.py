"""One server's life on this machine: what is done next with it, given what was seen of it. Pure.

    waiting ──► starting ──► ready ◄──► unready          a process that ends, or hangs, goes back to waiting
                   │            │          │
                   │            ▼          │
                   │        draining       │              what goes finishes first, and takes nothing new
                   └──────► stopping ◄─────┘              asked to end, and killed where it does not

Nothing here starts or ends a process, reads a clock or counts replicas; how many servers there should be is `crew`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from inference.processes import Process

UNREADY_AFTER = timedelta(seconds=30)
"""So long without a healthy answer and it gets nothing new: as three missed readiness probes of the manifests."""

HUNG_AFTER = timedelta(minutes=2)
"""And so long before it is started again: decoding pictures makes a server answer late, and a restart under overload
takes it away for a whole start (the manifests' liveness probe is as patient)."""

UNLISTED_PAUSE = timedelta(seconds=15)
"""Without a gateway that can be asked: how long whoever sends requests may take to hear that a server goes (as the
manifests' preStop)."""

FIRST_BACK_OFF = timedelta(seconds=10)
LONGEST_BACK_OFF = timedelta(minutes=5)
SOUND_AFTER = timedelta(minutes=10)
"""A server that was up so long before it fell does not crash in a loop."""

CRASH_RESTARTS = 2
"""Restarts from which a server that is not Ready counts as broken, as for pods."""


class Phase(StrEnum):
    """Where a server stands in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    STOPPING = "stopping"

    @property
    def leaves(self) -> bool:
        """Whether it is on its way out, and counts as a replica no more."""
        return self in (Phase.DRAINING, Phase.STOPPING)

    @property
    def serves(self) -> bool:
        """Whether a gateway should know of it."""
        return self in (Phase.READY, Phase.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server as it is remembered: its place on this machine, its process, and how far it has come."""

    id: str
    workload: str
    name: str
    """What its series are called, in the shape of a pod's name."""
    port: int
    created_at: datetime
    since: datetime
    """When its phase began."""
    gpus: tuple[str, ...] = ()
    phase: Phase = Phase.WAITING
    process: Process | None = None
    """The one that runs; None while none does."""
    started_at: datetime | None = None
    """When that process began."""
    ready_at: datetime | None = None
    """Its latest turn to Ready; None while it is not."""
    unheard_since: datetime | None = None
    """Since when it gives no healthy answer, of a server that was Ready."""
    restarts: int = 0
    unwatched: bool = False
    """Whether nobody looked on while it started: then how long that took is not known."""

    @property
    def is_broken(self) -> bool:
        """Whether it crashes again and again, and is not Ready now."""
        return self.restarts >= CRASH_RESTARTS and self.phase in (Phase.WAITING, Phase.STARTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look at one server found; `is_idle` is None where nobody could be asked what it has in flight."""

    is_alive: bool
    is_healthy: bool
    is_idle: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server's phases may last; `has_gateway` says whether somebody knows what it has in flight."""

    start_timeout: timedelta
    grace: timedelta
    shutdown_timeout: timedelta
    has_gateway: bool


class Act(StrEnum):
    """What is done to a process."""

    BEGIN = "begin"
    ASK_TO_END = "ask_to_end"
    KILL = "kill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The server after a look, None once it is gone; what is done to its process; and what is told, "" if nothing."""

    server: Server | None
    act: Act | None = None
    told: str = ""


def step(server: Server, seen: Seen, patience: Patience, *, now: datetime) -> Step:
    """What follows from one look at a server."""
    if server.phase is Phase.WAITING:
        return _waiting(server, seen, now=now)
    if not seen.is_alive:
        return Step(server=None, told="stopped") if server.phase.leaves else _fallen(server, "ended", now=now)
    match server.phase:
        case Phase.STARTING:
            return _starting(server, seen, patience, now=now)
        case Phase.DRAINING:
            return _draining(server, seen, patience, now=now)
        case Phase.STOPPING:
            late = now - server.since >= patience.shutdown_timeout
            return Step(server=server, act=Act.KILL if late else None, told="killed" if late else "")
        case _:
            return _running(server, seen, now=now)


def leave(server: Server, *, now: datetime) -> Step:
    """Send it on its way out: one that serves finishes first, one that does not is asked to end at once."""
    if server.process is None:
        return Step(server=None, told="removed")
    if server.phase is Phase.READY:
        return Step(server=replace(server, phase=Phase.DRAINING, since=now), told="draining")
    return Step(server=replace(server, phase=Phase.STOPPING, since=now), act=Act.ASK_TO_END, told="stopping")


def stay(server: Server, *, now: datetime) -> Server:
    """Call back one that drains: it has never stopped serving, so it is Ready at once."""
    return replace(server, phase=Phase.READY, since=now)


def begun(server: Server, process: Process, *, now: datetime) -> Server:
    """The server with the process that was begun for it."""
    return replace(server, phase=Phase.STARTING, since=now, process=process, started_at=now)


def back_off(restarts: int) -> timedelta:
    """Pause before start number `restarts` + 1: none before the second, then 10, 20, 40 … s, at most 5 min."""
    if restarts <= 1:
        return timedelta(0)
    return min(FIRST_BACK_OFF * (1 << min(restarts - 2, 10)), LONGEST_BACK_OFF)


def not_begun(server: Server, *, now: datetime) -> Server:
    """The server whose process could not be begun: tried again, later and later."""
    return replace(server, since=now, restarts=max(CRASH_RESTARTS, server.restarts + 1))


def _waiting(server: Server, seen: Seen, *, now: datetime) -> Step:
    """Never two processes for one place: what was killed holds its port and its GPUs until it is gone."""
    if seen.is_alive:
        return Step(server=server, act=Act.KILL)
    due = now - server.since >= back_off(server.restarts)
    return Step(server=replace(server, process=None), act=Act.BEGIN if due else None)


def _fallen(server: Server, how: str, *, now: datetime, act: Act | None = None) -> Step:
    """Its process ended, or is ended because it hangs: another one is begun, later and later."""
    was_sound = server.ready_at is not None and now - server.ready_at >= SOUND_AFTER
    again = replace(
        server,
        phase=Phase.WAITING,
        since=now,
        process=server.process if act is not None else None,
        started_at=None,
        ready_at=None,
        unheard_since=None,
        restarts=1 if was_sound else server.restarts + 1,
    )
    return Step(server=again, act=act, told=how)


def _starting(server: Server, seen: Seen, patience: Patience, *, now: datetime) -> Step:
    if seen.is_healthy:
        ready = replace(server, phase=Phase.READY, since=now, ready_at=now, unheard_since=None)
        return Step(server=ready, told="ready")
    if server.started_at is not None and now - server.started_at >= patience.start_timeout:
        return _fallen(server, "start timed out", now=now, act=Act.KILL)
    return Step(server=server)


def _running(server: Server, seen: Seen, *, now: datetime) -> Step:
    """Ready, or Ready before and silent now."""
    if seen.is_healthy:
        if server.phase is Phase.UNREADY:
            heard = replace(server, phase=Phase.READY, since=now, ready_at=now, unheard_since=None)
            return Step(server=heard, told="ready")
        return Step(server=server if server.unheard_since is None else replace(server, unheard_since=None))
    if server.unheard_since is None:
        return Step(server=replace(server, unheard_since=now))
    silent = now - server.unheard_since
    if silent >= HUNG_AFTER:
        return _fallen(server, "hung", now=now, act=Act.KILL)
    if silent >= UNREADY_AFTER and server.phase is Phase.READY:
        return Step(server=replace(server, phase=Phase.UNREADY, since=now), told="unready")
    return Step(server=server)


def _draining(server: Server, seen: Seen, patience: Patience, *, now: datetime) -> Step:
    """Unknown is not idle: a gateway that does not answer costs the whole grace."""
    waited = now - server.since
    longest = patience.grace if patience.has_gateway else min(patience.grace, UNLISTED_PAUSE)
    if not (seen.is_idle and patience.has_gateway) and waited < longest:
        return Step(server=server)
    return Step(server=replace(server, phase=Phase.STOPPING, since=now), act=Act.ASK_TO_END, told="stopping")
