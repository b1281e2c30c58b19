"""The replicas of one workload behind one front door: routing, cold starts, draining, rejections, the bill.

A request goes to the serving replica with the fewest in flight, the older one of two. A new pod waits for a node, pulls
its image, loads weights and warms up before it serves. Fewer pods: those that start go first, the youngest before the
older, then the serving replicas with the least in flight drain: nothing new, what runs finishes, and what is left when
the grace period ends is killed. A pod is billed from its order until it is gone. With nothing Ready requests wait at
the front door. A client whose answer takes too long leaves, and the router cancels its request. The pool never decides
how many pods there should be.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from heapq import heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from scaler.policy.capacity import StartPhases
from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import NEVER, Replica, Request, Status
from scaler.simulate.serving.gaps import GAP_BUCKETS

if TYPE_CHECKING:
    from forecaster.types import FloatArray

_STARTS_STREAM = 0x57A27
"""Keeps the draws of the starts apart from the traffic's under one seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRule:
    """How the front door and the pods behave."""

    most_waiting: int = 200
    """Requests that may wait in the replica that is chosen; one more is turned away with a 503."""
    door_s: float = 30.0
    """How long a request waits while nothing is Ready before it is turned away, seconds."""
    grace_s: float = 120.0
    """How long a draining pod may finish what it runs, seconds (`terminationGracePeriodSeconds`)."""
    client_s: float = NEVER
    """How long a client waits for the whole of its answer before it leaves, seconds; infinite: for ever."""

    def __post_init__(self) -> None:
        if not self.client_s > 0.0:
            raise ValueError(f"client_s must be above 0 seconds, got {self.client_s}")


@dataclass(slots=True, kw_only=True, eq=False)
class Pod:
    """One pod, and when what happened to it; seconds since the run's start, NaN until it did."""

    number: int
    ordered_s: float
    phases_s: tuple[float, ...]
    """How long node wait, image pull, weights and warm-up take."""
    ready_s: float
    """When it serves, or would have."""
    drained_s: float = math.nan
    """When it was told to go while it served."""
    gone_s: float = NEVER
    """When it is billed no longer."""
    replica: Replica | None = None
    wake_s: float = NEVER
    """Its next place in the queue of events."""

    def billed_s(self, begin_s: float, end_s: float) -> float:
        """Seconds of [begin_s, end_s) that it is billed for."""
        return max(0.0, min(self.gone_s, end_s) - max(self.ordered_s, begin_s))


class _Due(IntEnum):
    """What an entry in the queue of events is about; at one moment in this order."""

    REPLICA = 0
    GRACE = 1
    READY = 2


_IN_FLIGHT = (Status.WAITING, Status.RUNNING)
_in_flight = attrgetter("replica.in_flight")


class Pool:
    """Drive it by `advance` to each moment, then `submit`, `scale` or look. Time runs forward."""

    def __init__(
        self,
        service: ServiceModel,
        start: StartPhases,
        *,
        replicas: int,
        starting: Sequence[tuple[float, int]] = (),
        rule: PoolRule | None = None,
        seed: int = 1,
    ) -> None:
        """`replicas` serve at 0 s; `starting` pods, as (Ready at, how many), are on their way."""
        self.rule = rule or PoolRule()
        self.pods: list[Pod] = []
        """Every pod there ever was, in order of birth."""
        self.pod_starts = 0
        """Pods ordered since the run began."""
        self.scale_events = 0
        """Changes of the number of pods."""
        self.first_tokens: list[Request] = []
        """Requests whose first token came; whoever reads it empties it."""
        self._service = service
        self._start = start
        self._seed = seed
        self._now_s = 0.0
        self._due: list[tuple[float, _Due, int, Pod]] = []
        self._starting: list[Pod] = []  # oldest first
        self._serving: list[Pod] = []  # oldest first
        self._draining: list[Pod] = []
        self._door: deque[Request] = deque()
        self._ended: list[Request] = []
        self._gaps = np.zeros(GAP_BUCKETS)
        self._door_s = min(self.rule.door_s, self.rule.client_s)
        # by arrival, who may leave: whoever waits at the door came before all who come after it is Ready again
        self._clients: deque[tuple[Request, Pod]] = deque()
        for _ in range(replicas):
            self._serve(self._born(0.0, (0.0,) * 4), 0.0)
        for ready_s, count in sorted(starting):
            for _ in range(count):
                self._await_start(self._born(0.0, (0.0, 0.0, 0.0, ready_s)))

    # ── What can be seen ──

    @property
    def serving(self) -> int:
        """Pods that are Ready and not told to go."""
        return len(self._serving)

    @property
    def starting(self) -> int:
        """Pods on their way."""
        return len(self._starting)

    @property
    def draining(self) -> int:
        """Pods that finish what they run."""
        return len(self._draining)

    @property
    def ordered(self) -> int:
        """Pods as `spec.replicas` counts them."""
        return len(self._starting) + len(self._serving)

    @property
    def billed(self) -> int:
        """Pods that are billed now."""
        return len(self._starting) + len(self._serving) + len(self._draining)

    @property
    def waiting(self) -> int:
        """Requests that wait, at the front door and in replicas."""
        return len(self._door) + sum(replica.waiting for replica in self._replicas())

    @property
    def running(self) -> int:
        """Requests that are being served."""
        return sum(replica.running for replica in self._replicas())

    @property
    def in_flight(self) -> int:
        """Requests that neither ended nor were turned away."""
        return len(self._door) + sum(replica.in_flight for replica in self._replicas())

    @property
    def kv_usage_ratio(self) -> float:
        """Mean share of the KV cache in use over the replicas; NaN without any."""
        replicas = self._replicas()
        used = sum(replica.kv_used_tokens for replica in replicas)
        return used / (len(replicas) * self._service.kv_tokens) if replicas else math.nan

    def token_gaps(self) -> FloatArray:
        """How often tokens came so far apart, by bucket, over all pods since the run's start: see `gaps`."""
        total: FloatArray = self._gaps.copy()
        for replica in self._replicas():
            total += replica.token_gaps
        return total

    def take_ended(self) -> list[Request]:
        """Requests that finished, were turned away or were killed since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _replicas(self) -> list[Replica]:
        return [pod.replica for pod in (*self._serving, *self._draining) if pod.replica is not None]

    # ── Time and requests ──

    def advance(self, now_s: float) -> None:
        """Live through all that happens until `now_s`, that moment included.

        A replica is taken to `now_s` at once, not event by event: nothing else can reach it before, since requests
        come from outside alone, or from the front door to a pod that is just Ready, and go when a client leaves.
        """
        while (leaves_s := self._next_leave_s()) <= now_s:
            self._advance(leaves_s)
            if self._next_leave_s() == leaves_s:  # nor has the answer come since, nor was it turned away at the door
                self._leave(leaves_s)
        self._advance(now_s)

    def _next_leave_s(self) -> float:
        """When the next client leaves if its answer is not complete by then. Those at the door came after the rest."""
        clients = self._clients
        while clients and clients[0][0].status not in _IN_FLIGHT:
            clients.popleft()
        if clients:
            return clients[0][0].arrived_s + self.rule.client_s
        return self._door[0].arrived_s + self.rule.client_s if self._door else NEVER

    def _leave(self, now_s: float) -> None:
        """The first of the clients leaves."""
        request, pod = self._clients.popleft()
        assert pod.replica is not None  # its request is in flight
        pod.replica.cancel(request, now_s)
        self._ended.append(request)
        self._live(pod, now_s)

    def _advance(self, now_s: float) -> None:
        due = self._due
        while due and due[0][0] <= now_s:
            at_s, kind, _, pod = heappop(due)
            if kind is _Due.REPLICA:
                if pod.wake_s == at_s:
                    pod.wake_s = NEVER
                    self._live(pod, now_s)
            elif kind is _Due.GRACE:
                self._kill(pod, at_s)
            elif pod.gone_s == NEVER and pod.replica is None:
                self._turn_away_late(at_s)
                self._starting.remove(pod)
                self._serve(pod, at_s)
        if self._door:
            self._turn_away_late(now_s)
        self._now_s = now_s

    def submit(self, request: Request) -> None:
        """Take a request at the front door at the moment it arrives, to which the pool was advanced."""
        if not self._serving:
            self._door.append(request)
            return
        pod = min(self._serving, key=_in_flight)
        replica = pod.replica
        assert replica is not None
        if replica.waiting >= self.rule.most_waiting:
            self._reject(request)
            return
        self._give(request, pod, replica, request.arrived_s)
        if replica.next_event_s < pod.wake_s:
            self._schedule(pod, replica)

    def _give(self, request: Request, pod: Pod, replica: Replica, now_s: float) -> None:
        replica.submit(request, now_s)
        if self.rule.client_s < NEVER:
            self._clients.append((request, pod))

    def slow_down_oldest(self, slowdown: float, now_s: float) -> None:
        """From now on the oldest serving replica takes `slowdown` times as long for everything."""
        if self._serving:
            pod = self._serving[0]
            assert pod.replica is not None
            pod.replica.set_slowdown(slowdown, now_s)
            self._schedule(pod, pod.replica)

    def _live(self, pod: Pod, now_s: float) -> None:
        """Take a replica to `now_s`, or to its end if that comes first."""
        replica = pod.replica
        if replica is None:
            return
        draining = not math.isnan(pod.drained_s)
        if draining:
            now_s = min(now_s, pod.drained_s + self.rule.grace_s)
        self._ended += replica.advance(now_s)
        if draining and not replica.in_flight:
            self._gone(pod, replica.idle_since_s)
            return
        self._schedule(pod, replica)

    def _schedule(self, pod: Pod, replica: Replica) -> None:
        if replica.next_event_s < pod.wake_s:
            pod.wake_s = replica.next_event_s
            heappush(self._due, (pod.wake_s, _Due.REPLICA, pod.number, pod))

    def _turn_away_late(self, now_s: float) -> None:
        while self._door and self._door[0].arrived_s + self._door_s <= now_s:
            self._reject(self._door.popleft())

    def _reject(self, request: Request) -> None:
        request.status = Status.REJECTED
        self._ended.append(request)

    # ── Pods ──

    def scale(self, replicas: int, now_s: float) -> None:
        """Have `replicas` pods ordered from `now_s` on, to which the pool was advanced. Who drains is lost."""
        change = replicas - self.ordered
        if not change:
            return
        self.scale_events += 1
        for _ in range(change):
            self._order(now_s)
        for _ in range(-change):
            if self._starting:
                self._cancel(now_s)
            elif self._serving:
                self._drain(now_s)
        self.advance(now_s)  # a pod whose start takes no time serves at once

    def _order(self, now_s: float) -> None:
        self.pod_starts += 1
        self._await_start(self._born(now_s, self._drawn_phases(len(self.pods))))

    def _drawn_phases(self, number: int) -> tuple[float, ...]:
        """Log-normal with the phases' means; the nth pod of a run takes equally long under every policy."""
        start = self._start
        means = np.array([start.node_s, start.image_s, start.weights_s, start.warmup_s])
        sigma = math.sqrt(math.log1p(start.jitter_cv**2))
        normal = np.random.default_rng((self._seed, _STARTS_STREAM, number)).standard_normal(means.size)
        phases: list[float] = (means * np.exp(sigma * normal - sigma * sigma / 2.0)).tolist()
        return tuple(phases)

    def _born(self, now_s: float, phases_s: tuple[float, ...]) -> Pod:
        ready_s = now_s + math.fsum(phases_s)
        pod = Pod(number=len(self.pods), ordered_s=now_s, phases_s=phases_s, ready_s=ready_s)
        self.pods.append(pod)
        return pod

    def _await_start(self, pod: Pod) -> None:
        self._starting.append(pod)
        heappush(self._due, (pod.ready_s, _Due.READY, pod.number, pod))

    def _serve(self, pod: Pod, now_s: float) -> None:
        """The pod is Ready; what waits at the front door goes to it."""
        pod.replica = Replica(self._service, first_tokens=self.first_tokens)
        self._serving.append(pod)
        if self._door:
            for request in self._door:
                self._give(request, pod, pod.replica, now_s)
            self._door.clear()
            self._schedule(pod, pod.replica)

    def _cancel(self, now_s: float) -> None:
        """Give up the youngest starting pod."""
        self._starting.pop().gone_s = now_s

    def _drain(self, now_s: float) -> None:
        """Tell the serving replica with the least in flight to go, the youngest of equal ones."""
        pod = min(reversed(self._serving), key=_in_flight)
        self._serving.remove(pod)
        pod.drained_s = now_s
        self._draining.append(pod)
        assert pod.replica is not None
        if pod.replica.in_flight:
            heappush(self._due, (now_s + self.rule.grace_s, _Due.GRACE, pod.number, pod))
        else:
            self._gone(pod, now_s)

    def _kill(self, pod: Pod, at_s: float) -> None:
        if pod.replica is None:
            return
        self._ended += pod.replica.abort(at_s)
        self._ended += pod.replica.advance(at_s)
        self._gone(pod, at_s)

    def _gone(self, pod: Pod, at_s: float) -> None:
        assert pod.replica is not None
        self._gaps += pod.replica.token_gaps
        self._draining.remove(pod)
        pod.gone_s, pod.replica, pod.wake_s = at_s, None, NEVER
