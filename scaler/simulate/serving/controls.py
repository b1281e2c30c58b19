"""Who decides in a request-level run, and on what: each kind of policy behind one small face.

The product is the daemon's own tick over the pool's ports. Rules and planners sync every slot, as an HPA does, on the
arrivals of the last minute; Knative's, which has windows of its own, on each slot's. Plans know the load in advance.
After a slot that cannot be seen rivals keep what they have. Nothing here knows how a request is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import numpy as np

from forecaster.types import Forecaster
from scaler.loop import Fleet, Ports
from scaler.policy.types import NOT_READ, ClassReadings, DemandForecast, PolicyState
from scaler.ports import Forecasts, Journal, Signals, WorkloadSignals
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.policies import Memory, Planner, Rule, Sight
from scaler.simulate.product import EngineForecasts, tick_on_record
from scaler.simulate.serving.pool import Pool
from scaler.simulate.serving.signals import RIVAL_WINDOW, Meter, ServingSignals, ServingTargets

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.scoring import Course


class Control(Protocol):
    """A policy in charge of a pool."""

    def act(self, now_s: float) -> None:
        """Look at the metrics at the end of a slot, and scale if so decided."""
        ...


# ── The product ───────────────────────────────────────────────────────────────────────────────────────────────


class ClassForecasts:
    """`scaler.ports.Forecasts` of one workload with several classes, each forecast as a series of its own."""

    def __init__(self, workload: str, classes: Sequence[VirtualWorkload], members: Sequence[Forecaster]) -> None:
        self._workload = workload
        self._classes = tuple(each.name for each in classes)
        self._engine = EngineForecasts(classes, members, ahead=True)

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        """See `scaler.ports.Forecasts`."""
        found = self._engine.latest(now=now)
        return {self._workload: tuple(each for name in self._classes for each in found.get(name, ()))}


class SharedSignals:
    """The fluid cluster's one demand, told apart by class: what the warm-up day shows a profile of several classes.

    Latencies are left out: the fluid's curve knows nothing of tokens.
    """

    def __init__(self, signals: Signals, shares: Mapping[str, float]) -> None:
        self._signals = signals
        self._shares = shares

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        """See `scaler.ports.Signals`."""
        return {name: self._told_apart(seen) for name, seen in self._signals.read(now=now).items()}

    def _told_apart(self, seen: WorkloadSignals) -> WorkloadSignals:
        (whole,) = seen.classes
        readings = []
        for name, share in self._shares.items():
            demand = whole.demand_rps
            if demand.kind == "known":
                demand = type(demand)(value=demand.value * share, age_s=demand.age_s)
            readings.append(ClassReadings(request_class=name, demand_rps=demand, e2e_p95_s=NOT_READ))
        return WorkloadSignals(classes=tuple(readings), requests_waiting=seen.requests_waiting)


def warmed_up(
    fleet: Fleet, cluster: VirtualCluster, forecasts: Forecasts, shares: Mapping[str, float], journal: Journal
) -> Mapping[str, PolicyState]:
    """Let the fluid cluster's traffic flow to its end, one tick after each bin; the states it leaves."""
    signals = SharedSignals(cluster.signals, shares)
    ports = Ports(signals=signals, forecasts=forecasts, targets=cluster.targets, journal=journal)
    states: Mapping[str, PolicyState] = {}
    while cluster.bins_left:
        now = cluster.flow()
        states = tick_on_record(fleet, states, ports, now=now).states
    return states


class ProductControl:
    """The daemon's tick on the pool, once a bin."""

    def __init__(
        self,
        fleet: Fleet,
        states: Mapping[str, PolicyState],
        forecasts: Forecasts,
        *,
        pool: Pool,
        meter: Meter,
        journal: Journal,
        start: datetime,
        every_s: float,
    ) -> None:
        """Goes on from `states`; the window opens at `start`."""
        (policy,) = fleet.workloads
        self._fleet = fleet
        self._states = states
        self._targets = ServingTargets(policy.workload, pool)
        self._ports = Ports(
            signals=ServingSignals(policy.workload, meter),
            forecasts=forecasts,
            targets=self._targets,
            journal=journal,
        )
        self._start = start
        self._every_s = every_s

    def act(self, now_s: float) -> None:
        """See `Control`."""
        if not _on_the_grid(now_s, self._every_s):
            return
        self._targets.now_s = now_s
        now = self._start + timedelta(seconds=now_s)
        self._states = tick_on_record(self._fleet, self._states, self._ports, now=now).states


# ── Rivals ────────────────────────────────────────────────────────────────────────────────────────────────────


class RuleControl:
    """A rule that sees the load of the last minute."""

    def __init__(self, rule: Rule, *, pool: Pool, meter: Meter) -> None:
        self._rule = rule
        self._pool = pool
        self._meter = meter
        self._memory: Memory = ()

    def act(self, now_s: float) -> None:
        """See `Control`."""
        load = self._meter.load(RIVAL_WINDOW)
        if load == load:  # not NaN: it can be seen
            wanted, self._memory = self._rule.decide(load, self._pool.ordered, self._memory)
            self._pool.scale(max(1, wanted), now_s)


class PlannerControl:
    """A planner that sees the past slot by slot, the pods, the clock, and latencies."""

    def __init__(
        self,
        planner: Planner,
        *,
        pool: Pool,
        meter: Meter,
        history: FloatArray,
        slots: int,
        start: datetime,
        cold_start_s: float,
        window: timedelta = RIVAL_WINDOW,
    ) -> None:
        """`history` are the loads of the slots before `start`, newest last; `slots` are to come; each sight shows the
        load over the `window` that ends with it."""
        self._planner = planner
        self._pool = pool
        self._meter = meter
        self._past = np.concatenate([history, np.full(slots, np.nan)])
        self._known = history.size
        self._start = start
        self._step = timedelta(seconds=meter.slot_s)
        self._cold_start_bins = -int(-cold_start_s // meter.slot_s)
        self._window = window
        self._memory: Memory = ()

    def act(self, now_s: float) -> None:
        """See `Control`."""
        load = self._meter.load(self._window)
        self._past[self._known] = load
        self._known += 1
        if load != load:  # NaN: it cannot be seen
            return
        pool = self._pool
        sight = Sight(
            at=self._start + timedelta(seconds=now_s),
            past=self._past[: self._known],
            step=self._step,
            cold_start_bins=self._cold_start_bins,
            ordered=pool.ordered,
            ready=pool.serving,
            latency=self._meter.latencies(),
            waiting=float(pool.waiting),
            running=float(pool.running),
        )
        wanted, self._memory = self._planner.decide(sight, self._memory)
        pool.scale(max(1, wanted), now_s)


class PlanControl:
    """A plan made in advance: at the start of each bin the pods that it bills there."""

    def __init__(self, plan: Course, *, pool: Pool, bin_s: float) -> None:
        self._ordered = plan.billed.tolist()
        self._pool = pool
        self._bin_s = bin_s

    def act(self, now_s: float) -> None:
        """See `Control`."""
        index = round(now_s / self._bin_s)
        if _on_the_grid(now_s, self._bin_s) and index < len(self._ordered):
            self._pool.scale(self._ordered[index], now_s)


def _on_the_grid(now_s: float, every_s: float) -> bool:
    """Whether a bin ends now; slots are whole parts of a bin, so only rounding stands between the two."""
    return abs(now_s / every_s - round(now_s / every_s)) < 1e-6
