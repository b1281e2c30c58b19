"""Two or three pools of one service in virtual time, decided by the shipping loop; with the day that drives them.

A minute is missed where a pool's Ready replicas and those that are free behind it do not carry the demand, as a gateway
that sends on what finds no slot would see it. Holds no test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from forecaster.types import HORIZONS, Blind, Forecast, Known, Reading
from policy_cases import GOOD, MINUTE, NOON
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.types import ClassReadings, DemandForecast, LeadTime, PolicyState
from scaler.ports import WorkloadSignals
from virtual_world import VirtualWorkload, VirtualWorld

Day = Mapping[str, list[float]]
"""Requests per second of each class, minute by minute."""


@dataclass(kw_only=True)
class Pool(VirtualWorkload):
    """A workload that reads several classes."""

    rates: dict[str, Reading] = field(default_factory=dict)
    overloaded: bool = False

    def signals(self) -> WorkloadSignals:
        """What the metrics source says; latencies of the pool's own replicas, whoever sent the requests."""
        late = Known(value=3.0 if self.overloaded else 0.5)
        readings = (
            ClassReadings(request_class=name, demand_rps=rate, e2e_p95_s=late) for name, rate in self.rates.items()
        )
        return WorkloadSignals(classes=tuple(readings), demand_partial=self.partial)


def forecast_of(day: Day, request_class: str, minute: int, *, spread_ratio: float = 0.05) -> DemandForecast:
    """What a good model would say at `minute`: the day as it comes, with a narrow band."""
    future = day[request_class]
    at = NOON + minute * MINUTE
    values = []
    for horizon in HORIZONS:
        rate = future[min(len(future) - 1, minute + horizon - 1)]
        values.append(tuple(rate * (1.0 + spread_ratio * z) for z in (0.0, 1.28, 1.64, 2.33)))
    forecast = Forecast(
        model="test",
        issued_at=at,
        expires_at=at + timedelta(minutes=10),
        step_s=60.0,
        horizons=HORIZONS,
        values=tuple(values),
        request_class=request_class,
    )
    return DemandForecast(forecast=forecast, quality=GOOD)


@dataclass(frozen=True)
class _Leads:
    seconds: Mapping[str, float]

    def latest(self, configured: Mapping[str, timedelta], *, now: object) -> Mapping[str, LeadTime]:
        return {
            name: LeadTime(seconds=self.seconds.get(name, span.total_seconds())) for name, span in configured.items()
        }


@dataclass(kw_only=True)
class PoolCourse:
    """The pools' minutes; what is ordered is Ready after the pool's own start time."""

    fleet: Fleet
    day: Day
    reads: Mapping[str, tuple[str, ...]]
    """The classes of each pool."""
    start_minutes: Mapping[str, int]
    routes: Mapping[str, str]
    """The gateway's order of pools: where a request goes that finds no slot. The scaler is told of it or not."""
    forecasts: bool = True
    pools: dict[str, Pool] = field(default_factory=dict)
    states: dict[str, PolicyState] = field(default_factory=dict)
    minute: int = 0
    missed: int = 0
    scales: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for policy in self.fleet.workloads:
            first = max(1, policy.bounds.min_replicas)
            self.pools.setdefault(policy.workload, Pool(scale=first, ready=first))
            self.scales[policy.workload] = []

    def step(self) -> TickReport:
        """One minute: demand arrives, is served or missed, and the pools are decided."""
        now = NOON + self.minute * MINUTE
        for name, pool in self.pools.items():
            of_pool = self.reads[name]
            blind = {key for key, reading in pool.rates.items() if isinstance(reading, Blind)}
            for each in of_pool:
                if each not in blind:
                    pool.rates[each] = Known(value=self.day[each][self.minute])
            pool.forecasts = tuple(forecast_of(self.day, each, self.minute) for each in of_pool if self.forecasts)
        self.missed += self._misses()
        world = VirtualWorld(workloads=dict(self.pools))
        seconds = {name: 60.0 * minutes for name, minutes in self.start_minutes.items()}
        ports: Ports = world.ports()
        ports = Ports(
            signals=ports.signals,
            forecasts=ports.forecasts,
            targets=ports.targets,
            journal=ports.journal,
            lead_times=_Leads(seconds),
        )
        report = tick(self.fleet, self.states, ports, now=now)
        self.states = dict(report.states)
        for name, pool in self.pools.items():
            self.scales[name].append(pool.scale)
            since = self.scales[name][-self.start_minutes[name] :]
            pool.ready = min(pool.scale, *since)
        self.minute += 1
        return report

    def run(self, minutes: int) -> list[TickReport]:
        """The next minutes."""
        return [self.step() for _ in range(minutes)]

    def _misses(self) -> bool:
        """Whether demand finds no Ready replica, in its own pool or along the chain behind it."""
        policies = {each.workload: each for each in self.fleet.workloads}
        coming: dict[str, dict[str, float]] = {name: {} for name in policies}
        missed = False
        for policy in policies.values():  # the stories list senders first
            demand = dict(coming[policy.workload])
            for each in self.reads[policy.workload]:
                demand[each] = demand.get(each, 0.0) + self.day[each][self.minute]
            load = policy.profile.load(demand)
            over = max(0.0, load - self.pools[policy.workload].ready)
            self.pools[policy.workload].overloaded = over > 1e-9
            if over <= 1e-9:
                continue
            behind = self.routes.get(policy.workload)
            if behind is None:
                missed = True
                continue
            for name, rate in demand.items():
                coming[behind][name] = coming[behind].get(name, 0.0) + rate * over / load
        return missed
