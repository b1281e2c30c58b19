"""How many servers a workload has on this machine, and which: who joins, who is called back, who goes. Pure.

It decides places (a port, GPUs) and victims. It never starts or ends anything and never changes how many are wanted:
that number is the decision's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from scaler.adapters.kubernetes.pods import PodPhase, PodStart
from scaler.adapters.local_vllm.life import Phase, Server
from scaler.policy.types import ReplicaState
from scaler.policy.victims import Candidate, costs

LAST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a new server goes."""

    port: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What brings a workload's servers to the number that is wanted; `missing` ones find no place."""

    called_back: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    leaving: tuple[str, ...] = ()
    missing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What this machine has for a workload's servers: GPUs of one server (none: not pinned), and ports."""

    first_port: int
    gpus_each: int
    gpus: tuple[str, ...]
    is_free: Callable[[int], bool]
    """Whether nobody listens on a port."""


def plan(
    servers: Sequence[Server],
    wanted: int,
    room: Room,
    *,
    taken_ports: Collection[int],
    taken_gpus: Collection[str],
    in_flight: Mapping[str, float],
) -> Plan:
    """Bring `servers`, a workload's own, to `wanted`.

    Who still drains is called back before a start is paid for. `taken_ports` and `taken_gpus` are those of every
    server on this machine, also of one that is ending: what it holds is free once its process is gone.
    """
    staying = [each for each in servers if not each.phase.leaves]
    if len(staying) > wanted:
        return Plan(leaving=_victims(staying, in_flight, leaving=len(staying) - wanted))
    lacking = wanted - len(staying)
    draining = sorted((each for each in servers if each.phase is Phase.DRAINING), key=lambda each: each.since)
    back = tuple(each.id for each in reversed(draining))[:lacking]
    places = _places(lacking - len(back), room, set(taken_ports), set(taken_gpus))
    return Plan(called_back=back, places=places, missing=lacking - len(back) - len(places))


def _places(count: int, room: Room, ports: set[int], gpus: set[str]) -> tuple[Place, ...]:
    free_gpus = [gpu for gpu in room.gpus if gpu not in gpus]
    free_ports = (port for port in range(room.first_port, LAST_PORT + 1) if port not in ports and room.is_free(port))
    places: list[Place] = []
    while len(places) < count:
        mine = tuple(free_gpus[: room.gpus_each]) if room.gpus else ()
        port = next(free_ports, None)
        if port is None or (room.gpus and len(mine) < room.gpus_each):
            break
        free_gpus = free_gpus[len(mine) :]
        places.append(Place(port=port, gpus=mine))
    return tuple(places)


def _victims(staying: Sequence[Server], in_flight: Mapping[str, float], *, leaving: int) -> tuple[str, ...]:
    candidates = [
        Candidate(
            pod=each.id,
            ready=each.phase is Phase.READY,
            created_at=each.created_at,
            in_flight=in_flight.get(each.id),
        )
        for each in staying
    ]
    return tuple(costs(candidates, leaving=leaving))


def replicas_of(servers: Sequence[Server], wanted: int) -> ReplicaState:
    """The workload's replicas as a cluster would tell them: who leaves is in none of the counts."""
    staying = [each for each in servers if not each.phase.leaves]
    ready = sum(each.phase is Phase.READY for each in staying)
    failed = sum(each.is_broken for each in staying)
    present = min(len(staying), wanted)
    ready = min(ready, present)
    failed = min(failed, present - ready)
    return ReplicaState(
        desired=wanted,
        ready=ready,
        starting=present - ready - failed,
        failed=failed,
        unschedulable=max(0, wanted - present),
    )


def starts_of(servers: Sequence[Server], *, accelerator: str) -> tuple[PodStart, ...]:
    """Each server's way to Ready, oldest first, of those whose start somebody watched."""
    watched = sorted((each for each in servers if not each.unwatched), key=lambda each: (each.created_at, each.name))
    return tuple(
        PodStart(
            name=each.name,
            uid=each.id,
            created_at=each.created_at,
            phase=_phase(each),
            scheduled_at=each.created_at,
            running_at=each.started_at,
            ready_at=each.ready_at,
            restarts=each.restarts,
            accelerator=accelerator,
        )
        for each in watched
    )


def _phase(server: Server) -> PodPhase:
    if server.phase.leaves:
        return PodPhase.GONE
    if server.phase is Phase.READY:
        return PodPhase.READY
    return PodPhase.FAILED if server.is_broken else PodPhase.STARTING


def accelerator_of(gpus_each: int, gpus: Collection[str]) -> str:
    """What one server computes on, as starts are compared by; "" where no GPU is counted."""
    return f"local-gpu:{gpus_each}" if gpus else ""
