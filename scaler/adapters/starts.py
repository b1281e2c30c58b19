"""The starts of every workload's pods, as the ticks saw them, and the start times that follow: the loop's `LeadTimes`.

It decides which sightings of a pod are one start: a pod counts once, with the moment at which it was first seen Ready,
however often it turns Ready again; one that failed on its way never counts. What a start time is made of
them is `scaler.policy.lead_time`'s. It asks nobody anything: the tick hands it the pods that it has read anyway.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from forecaster.types import Blind
from scaler.adapters.kubernetes import PodPhase, PodStart, WorkloadPods
from scaler.policy.lead_time import LEAST_STARTS, Start, estimate, newest, settle
from scaler.policy.types import LeadTime

STARTS_BLOB = "starts"
"""The name under which the daemon keeps it over a restart."""

MOST_PODS = 10_000
"""Pods of one workload that are remembered by uid; a selector that suddenly matches more is a mistake."""


@dataclass(slots=True, kw_only=True)
class Followed:
    """One workload's pods as far as they were followed."""

    finished: tuple[Start, ...] = ()
    unfinished: dict[str, Start] = field(default_factory=dict)
    """By uid, of pods that are still there."""
    told: set[str] = field(default_factory=set)
    """Uids of pods that have said what they can: once Ready, or failed."""
    accelerator: str = ""
    """What GPUs the newest pod asks for."""


class StartsUnreadable(ValueError):
    """Stored starts of another version, or damaged: what there is to measure is measured anew."""


_STORED: TypeAdapter[dict[str, Followed]] = TypeAdapter(dict[str, Followed])


class StartLedger:
    """All workloads' starts. Safe between threads: the tick notes and asks, the upkeep stores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followed: dict[str, Followed] = {}
        self._held: dict[str, LeadTime] = {}

    def note(self, pods: Mapping[str, WorkloadPods | Blind]) -> None:
        """Take in what one read of the cluster found. A workload that could not be read stays as it was."""
        with self._lock:
            for workload, seen in pods.items():
                if not isinstance(seen, Blind):
                    _follow(self._followed.setdefault(workload, Followed()), seen.starts, seen_at=seen.read_at)

    def latest(self, configured: Mapping[str, timedelta], *, now: datetime) -> Mapping[str, LeadTime]:
        """The start time of each workload in `configured`; others are forgotten, with all that was measured of them."""
        with self._lock:
            self._followed = {name: each for name, each in self._followed.items() if name in configured}
            pool = functools.cache(lambda accelerator: self._pool(accelerator, now=now))
            found = {
                name: settle(self._estimate(name, pool, start_time, now=now), self._held.get(name))
                for name, start_time in configured.items()
            }
            # An equal value keeps its identity: the journal then stores it once.
            held = self._held
            self._held = {name: held[name] if held.get(name) == each else each for name, each in found.items()}
            return dict(self._held)

    def forget(self, workloads: Collection[str]) -> None:
        """Measure these anew: they are other objects from now on, and the starts of the old ones say nothing."""
        with self._lock:
            for workload in workloads:
                self._followed.pop(workload, None)
                self._held.pop(workload, None)

    def _estimate(
        self, workload: str, pool: Callable[[str], tuple[Start, ...]], configured: timedelta, *, now: datetime
    ) -> LeadTime:
        own = self._followed.get(workload, Followed())
        finished = newest(own.finished, now=now)
        return estimate(
            finished,
            tuple(own.unfinished.values()),
            configured=configured,
            same_gpus=() if len(finished) >= LEAST_STARTS else pool(own.accelerator),
        )

    def _pool(self, accelerator: str, *, now: datetime) -> tuple[Start, ...]:
        """The newest starts of all workloads on the same GPUs; none of those without any."""
        if not accelerator:
            return ()
        same = (each.finished for each in self._followed.values() if each.accelerator == accelerator)
        return newest(itertools.chain.from_iterable(same), now=now)

    def saved(self) -> bytes:
        """Everything that was followed, as it can be stored."""
        with self._lock:
            return _STORED.dump_json(self._followed)

    def restore(self, stored: bytes) -> None:
        """Go on from what `saved` answered. Raises `StartsUnreadable`, and then changes nothing."""
        try:
            followed = _STORED.validate_json(stored)
        except ValidationError as error:
            raise StartsUnreadable(f"the stored starts have {error.error_count()} faults") from error
        with self._lock:
            self._followed = followed


def _follow(followed: Followed, pods: Iterable[PodStart], *, seen_at: datetime) -> None:
    """Bring one workload's memory up to a sighting. Pods that are gone before they were Ready are no measurement."""
    present = {pod.uid: pod for pod in list(pods)[-MOST_PODS:] if pod.phase is not PodPhase.GONE}
    followed.told &= present.keys()
    before, followed.unfinished = followed.unfinished, {}
    for uid, pod in present.items():
        followed.accelerator = pod.accelerator  # oldest first: the newest pod's stays
        if uid in followed.told:
            continue
        if pod.phase in (PodPhase.READY, PodPhase.FAILED):
            followed.told.add(uid)
            if _tells_its_start(pod, met=uid in before):
                followed.finished = newest((*followed.finished, _start(pod, seen_at=seen_at)), now=seen_at)
        else:
            followed.unfinished[uid] = _start(pod, seen_at=seen_at)


def _tells_its_start(pod: PodStart, *, met: bool) -> bool:
    """Whether `ready_at` is the pod's first turn to Ready: a restart may lie between the two if we never `met` it
    before it was Ready."""
    return pod.phase is PodPhase.READY and pod.ready_at is not None and (met or pod.restarts == 0)


def _start(pod: PodStart, *, seen_at: datetime) -> Start:
    return Start(
        created_at=pod.created_at,
        seen_at=seen_at,
        scheduled_at=pod.scheduled_at,
        running_at=pod.running_at if pod.restarts == 0 else None,
        ready_at=pod.ready_at if pod.phase is PodPhase.READY else None,
        restarted=pod.restarts > 0,
    )
