"""A cluster that exists in memory: pods that take time to start, traffic from a trace, metrics that can go dark.

It implements the loop's ports, so that the daemon's own `tick` runs on it unchanged. Time is the bin: traffic flows
through bin t, then the clock stands at its end, metrics show bins ≤ t, and what is ordered now serves from bin
t + L + 1 with a cold start of L bins. It decides nothing, reads no clock and draws no random number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from forecaster.types import Blind, BlindReason, Known, Reading, Series, TooFew, Zero
from scaler.policy.capacity import CapacityProfile
from scaler.policy.types import ClassReadings, Decision, ReplicaState
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals
from scaler.simulate.queueing import ReplicaLatency, Served, serve
from scaler.simulate.scoring import Course

FEWEST_REQUESTS = 50
"""Requests in a bin below which a 95th percentile says nothing."""

_DARK = Blind(reason=BlindReason.UNREACHABLE, detail="the simulated metrics source is down")
_UNKNOWN = Blind(reason=BlindReason.NO_SERIES, detail="the trace has no value for this bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """The pods of one workload: those that serve, and those that start, as (serves from bin, how many), oldest first.

    Every one of them is billed. None fails and none waits for a GPU: the protocol's cluster is never full.
    """

    serving: int
    starting: tuple[tuple[int, int], ...] = ()

    @property
    def ordered(self) -> int:
        """All pods: what `spec.replicas` says, and what is billed."""
        return self.serving + sum(count for _, count in self.starting)

    def at(self, bin_index: int) -> Pods:
        """The same pods when `bin_index` begins: those that are Ready by then serve."""
        if not self.starting or self.starting[0][0] > bin_index:
            return self
        ready = sum(count for serves_from, count in self.starting if serves_from <= bin_index)
        later = tuple(each for each in self.starting if each[0] > bin_index)
        return Pods(serving=self.serving + ready, starting=later)

    def scaled(self, replicas: int, *, after_bin: int, cold_start_bins: int) -> Pods:
        """The pods after `replicas` were ordered at the end of `after_bin`.

        More: new pods serve from bin `after_bin + cold_start_bins + 1`. Fewer: the youngest starting ones are
        cancelled first, then serving ones leave at once.
        """
        change = replicas - self.ordered
        if change == 0:
            return self
        if change > 0:
            young = (after_bin + cold_start_bins + 1, change)
            return Pods(serving=self.serving, starting=(*self.starting, young))
        starting = list(self.starting)
        while change < 0 and starting:
            serves_from, count = starting.pop()
            if count + change > 0:
                starting.append((serves_from, count + change))
            change += count
        return Pods(serving=self.serving + min(change, 0), starting=tuple(starting))


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualWorkload:
    """One workload of the virtual cluster.

    `demand_rps` is what truly arrives (NaN: the trace does not know, nothing arrives and nothing is scored);
    in the bins of `dark` [from, to) it arrives all the same, but no metric shows it.
    """

    name: str
    demand_rps: Series
    profile: CapacityProfile
    cold_start_bins: int
    latency: ReplicaLatency = field(default_factory=ReplicaLatency)
    dark: tuple[tuple[datetime, datetime], ...] = ()

    def __post_init__(self) -> None:
        if self.cold_start_bins < 0:
            raise ValueError(f"cold_start_bins of {self.name} must be at least 0, got {self.cold_start_bins}")
        if len(self.profile.classes) != 1:
            raise ValueError(f"a virtual workload has one request class, {self.name} has {len(self.profile.classes)}")

    @property
    def request_class(self) -> str:
        """The one class that all requests belong to."""
        return self.profile.classes[0].name

    @property
    def max_rps(self) -> float:
        """Requests per second that fill one replica."""
        return self.profile.classes[0].max_rps

    def seen_rps(self) -> Series:
        """The demand as the metrics show it: NaN while they are dark."""
        series, values = self.demand_rps, self.demand_rps.values.copy()
        for begin, finish in self.dark:
            values[max(0, (begin - series.start) // series.step) : max(0, (finish - series.start) // series.step)] = (
                np.nan
            )
        return Series(start=series.start, step=series.step, values=values)


class VirtualCluster:
    """The state of the virtual world: pods and queues of every workload, and the bin that was served last.

    `signals` and `targets` are its ports. Drive it with `flow` (one bin of traffic passes, the clock moves to its
    end), then let the loop act on the ports.
    """

    def __init__(
        self, workloads: Sequence[VirtualWorkload], *, replicas: Mapping[str, int], first_bin: int = 0
    ) -> None:
        """Begin before `first_bin` with `replicas` serving; all workloads must share one grid."""
        grids = {(each.demand_rps.start, each.demand_rps.step, each.demand_rps.values.size) for each in workloads}
        if len(grids) != 1:
            raise ValueError(f"the workloads of one cluster share one grid, got {len(grids)} different ones")
        ((self._start, self._step, self._bins),) = grids
        self._first = first_bin
        self._next = first_bin
        self._sites = {each.name: _Site(each, replicas[each.name]) for each in workloads}
        self.signals = VirtualSignals(self)
        self.targets = VirtualTargets(self)

    @property
    def bins_left(self) -> int:
        """Bins of the trace that have not flowed yet."""
        return self._bins - self._next

    @property
    def last_bin(self) -> int:
        """The bin that flowed last; decisions made now are decisions after it."""
        return self._next - 1

    def flow(self) -> datetime:
        """Let the next bin's traffic pass; returns the moment at which it ends."""
        for site in self._sites.values():
            site.flow(self._next, self._step.total_seconds())
        self._next += 1
        return self._start + self._step * self._next

    def course(self, workload: str) -> Course:
        """What happened to one workload since the cluster began."""
        site = self._sites[workload]
        load = site.workload.demand_rps.values[self._first : self._next] / site.workload.max_rps
        return Course(load=load, serving=np.array(site.served), billed=np.array(site.billed), before=site.before)

    def sites(self) -> Mapping[str, _Site]:
        """Each workload's corner of the world, for the ports."""
        return self._sites


class _Site:
    """One workload's pods, queue and record."""

    __slots__ = ("_demand", "_seen", "before", "billed", "last", "pods", "served", "workload")

    def __init__(self, workload: VirtualWorkload, replicas: int) -> None:
        self.workload = workload
        self.pods = Pods(serving=replicas)
        self.before = replicas
        self.served: list[int] = []
        self.billed: list[int] = []
        self.last = Served(backlog=0.0, p95_s=0.0, arrived=0.0)
        self._demand = workload.demand_rps.values.tolist()
        self._seen = np.isfinite(workload.seen_rps().values).tolist()

    def flow(self, bin_index: int, bin_s: float) -> None:
        self.pods = self.pods.at(bin_index)
        self.served.append(self.pods.serving)
        self.billed.append(self.pods.ordered)
        arriving = self._demand[bin_index]
        self.last = serve(
            0.0 if math.isnan(arriving) else arriving,
            capacity_rps=self.pods.serving * self.workload.max_rps,
            backlog=self.last.backlog,
            bin_s=bin_s,
            latency=self.workload.latency,
        )

    def read(self, bin_index: int) -> WorkloadSignals:
        """The metrics at the end of `bin_index`."""
        name = self.workload.request_class
        if not self._seen[bin_index]:
            why = _UNKNOWN if math.isnan(self._demand[bin_index]) else _DARK
            readings = ClassReadings(request_class=name, demand_rps=why, e2e_p95_s=why, queue_time_p95_s=why)
            return WorkloadSignals(classes=(readings,), requests_waiting=why)
        demand, last = self._demand[bin_index], self.last
        enough = last.arrived >= FEWEST_REQUESTS
        p95: Reading = Known(value=last.p95_s) if enough else TooFew(count=last.arrived)
        readings = ClassReadings(
            request_class=name,
            demand_rps=Known(value=demand) if demand > 0.0 else Zero(evidence="no arrivals in the trace"),
            e2e_p95_s=p95,
        )
        return WorkloadSignals(classes=(readings,), requests_waiting=Known(value=last.backlog))


class VirtualSignals:
    """`scaler.ports.Signals` over a virtual cluster."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self._cluster = cluster

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        """The last bin's metrics; `now` is the end of that bin by construction."""
        del now
        last = self._cluster.last_bin
        return {name: site.read(last) for name, site in self._cluster.sites().items()}


class VirtualTargets:
    """`scaler.ports.Targets` over a virtual cluster."""

    def __init__(self, cluster: VirtualCluster) -> None:
        self._cluster = cluster

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Pods as they stand when the next bin begins."""
        del now
        return {name: _replica_state(site.pods.at(self._cluster.last_bin + 1)) for name, site in self._sites()}

    def scale(self, decision: Decision) -> Outcome:
        """Order `decision.target` replicas, if the scale still is `decision.current`."""
        site = self._cluster.sites()[decision.workload]
        found = site.pods.ordered
        if decision.target is None or decision.target == found:
            return Outcome(kind=OutcomeKind.UNCHANGED)
        if decision.current != found:
            return Outcome(kind=OutcomeKind.CONFLICT, detail=f"decided on {decision.current}", found=found)
        last = self._cluster.last_bin
        pods = site.pods.at(last + 1)
        site.pods = pods.scaled(decision.target, after_bin=last, cold_start_bins=site.workload.cold_start_bins)
        return Outcome(kind=OutcomeKind.SCALED)

    def _sites(self) -> Sequence[tuple[str, _Site]]:
        return tuple(self._cluster.sites().items())


def _replica_state(pods: Pods) -> ReplicaState:
    return ReplicaState(desired=pods.ordered, ready=pods.serving, starting=pods.ordered - pods.serving)


class LastTickJournal:
    """`scaler.ports.Journal` that keeps the last tick alone: a run of a week decides 80,000 times."""

    def __init__(self) -> None:
        self.records: tuple[DecisionRecord, ...] = ()
        self.outcomes: Mapping[str, Outcome] = {}

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Remember these instead of the last ones."""
        self.records, self.outcomes = tuple(records), {}

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Remember what became of them."""
        del at
        self.outcomes = outcomes
