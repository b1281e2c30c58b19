"""Which policy is in charge of a run, and what it knows when the window opens.

The product lives through one day on the fluid cluster of the decision protocol, with up to 14 days of history, and
hands its state, its forecasts and its pods on to the window; planners know the past; rules begin with the window. All
open as in the decision protocol (`scaler.simulate.trace`). Nothing is served here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.preprocess import bins_in
from forecaster.types import Forecaster, Series
from scaler.loop import Fleet
from scaler.policy.capacity import CapacityProfile, StartPhases, single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import Bounds
from scaler.policy.types import PolicyState
from scaler.ports import Forecasts, Journal
from scaler.simulate.bounded import BoundedPlanner, BoundedRule
from scaler.simulate.cluster import LastTickJournal, VirtualCluster, VirtualWorkload
from scaler.simulate.policies import PLANS, RULES, Past, opening_replicas, planner, rule
from scaler.simulate.product import NoForecasts, reactive
from scaler.simulate.product_run import NO_QUEUE, PRODUCT, REACTIVE, product_policy
from scaler.simulate.serving.controls import (
    ClassForecasts,
    Control,
    PlanControl,
    PlannerControl,
    ProductControl,
    RuleControl,
    warmed_up,
)
from scaler.simulate.serving.pool import Pool
from scaler.simulate.serving.signals import RIVAL_WINDOW, Meter
from scaler.simulate.serving.stage import Scene
from scaler.simulate.setting import HISTORY, WARM_UP

if TYPE_CHECKING:
    from scaler.simulate.scoring import Course

RAW = ("kpa",)
"""Planners with windows of their own: they see each slot's arrivals, the others those of the last minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """A pool, what measures it, and who is in charge of it."""

    pool: Pool
    meter: Meter
    control: Control


def crew(scene: Scene, name: str, *, journal: Journal | None = None) -> Crew:
    """The policy of that name, ready for the window to open. The name was checked by `Stage.check`.

    `journal` takes the product's records, those of its warm-up day first.
    """
    return _Casting(scene, journal).of(name)


class _Casting:
    """Makes the crew of one policy on one scene."""

    def __init__(self, scene: Scene, journal: Journal | None) -> None:
        self.scene = scene
        self.stage = scene.stage
        self.journal = journal or LastTickJournal()

    def of(self, name: str) -> Crew:
        group = name.partition(":")[0]
        if name == REACTIVE:
            return self._product((), self.stage.setting.missed_target_ratio)
        if group == PRODUCT:
            return self._product(*self.stage.product(name))
        if name in PLANS:
            return self._plan(name)
        if group in RULES:
            return self._rule(name)
        return self._planner(name, window=None if group in RAW else RIVAL_WINDOW)

    # ── Rivals ──

    def _rule(self, name: str) -> Crew:
        pool, meter = self._rival_pool()
        setting = self.stage.setting
        chosen = rule(name, step=timedelta(seconds=meter.slot_s))
        bounded = BoundedRule(rule=chosen, most=setting.most, fewest=setting.min_replicas)
        return Crew(pool=pool, meter=meter, control=RuleControl(bounded, pool=pool, meter=meter))

    def _planner(self, name: str, *, window: timedelta | None) -> Crew:
        """`window` None: each slot alone."""
        stage = self.stage
        pool, meter = self._rival_pool()
        slot = timedelta(seconds=meter.slot_s)
        begin = max(0, stage.first - bins_in(HISTORY, stage.step))
        history = np.repeat(stage.load(begin, stage.first), stage.slots_per_bin)
        chosen = planner(name, Past(loads=history, start=stage.opens_at, step=slot))
        control = PlannerControl(
            BoundedPlanner(planner=chosen, most=stage.setting.most, fewest=stage.setting.min_replicas),
            pool=pool,
            meter=meter,
            history=history,
            slots=stage.bins * stage.slots_per_bin,
            start=stage.opens_at,
            cold_start_s=stage.start.total_s,
            window=window or slot,
        )
        return Crew(pool=pool, meter=meter, control=control)

    def _rival_pool(self) -> tuple[Pool, Meter]:
        pool = self._pool(self.stage.setting.within(opening_replicas(self.scene.load)))
        return pool, self._meter(pool)

    def _plan(self, name: str) -> Crew:
        stage = self.stage
        plan = PLANS[name](stage.plannable(self.scene.load), stage.cold_start_bins)
        # what serves when it is billed starts at once: fixed fleets, and the oracle that is free of starts
        start = StartPhases() if bool((plan.serving == plan.billed).all()) else stage.start
        pool = self._pool(int(plan.serving[0]), _on_their_way(plan, stage.bin_s), start=start)
        control = PlanControl(plan, pool=pool, bin_s=stage.bin_s)
        return Crew(pool=pool, meter=self._meter(pool), control=control)

    # ── The product ──

    def _product(self, members: tuple[Forecaster, ...], missed_target_ratio: float) -> Crew:
        """The product after its warm-up day; without members the reactive one."""
        stage, fluid = self.stage, self._fluid()
        fleet = Fleet(workloads=(self._settings(fluid, missed_target_ratio),))
        forecasts: Forecasts = NoForecasts()
        if members:
            forecasts = ClassForecasts(stage.workload, self._seen_by_class(fluid), members)
        else:
            fleet = reactive(fleet)
        serving, starting, states = self._warm_up(fluid, fleet, forecasts)
        pool = self._pool(serving, starting)
        meter = self._meter(pool)
        control = ProductControl(
            fleet,
            states,
            forecasts,
            pool=pool,
            meter=meter,
            journal=self.journal,
            start=stage.opens_at,
            every_s=stage.bin_s,
        )
        return Crew(pool=pool, meter=meter, control=control)

    def _warm_up(
        self, fluid: VirtualWorkload, fleet: Fleet, forecasts: Forecasts
    ) -> tuple[int, tuple[tuple[float, int], ...], Mapping[str, PolicyState]]:
        """Pods that serve, pods on their way as (Ready at, how many), and the product's memory as the window opens."""
        stage = self.stage
        if not stage.first:
            return stage.setting.within(opening_replicas(self.scene.load)), (), {}
        bins = fluid.demand_rps.values.size
        opens = max(0, bins - bins_in(WARM_UP, stage.step))
        replicas = stage.setting.within(opening_replicas(fluid.demand_rps.values[opens:] / stage.replica_rps))
        cluster = VirtualCluster([fluid], replicas={fluid.name: replicas}, first_bin=opens)
        states = warmed_up(fleet, cluster, forecasts, stage.shares, self.journal)
        pods = cluster.sites()[fluid.name].pods.at(bins)
        starting = tuple(((serves_from - bins) * stage.bin_s, count) for serves_from, count in pods.starting)
        return pods.serving, starting, states

    def _fluid(self) -> VirtualWorkload:
        """The time before the window as the decision protocol has it."""
        stage, series = self.stage, self.stage.trace.series
        begin = max(0, stage.first - bins_in(WARM_UP + HISTORY, stage.step))
        values = series.values[begin : stage.first] * stage.scale
        return VirtualWorkload(
            name=stage.workload,
            demand_rps=Series(start=series.start + stage.step * begin, step=stage.step, values=values),
            profile=single_rate("mix", stage.replica_rps),
            cold_start_bins=stage.cold_start_bins,
            latency=NO_QUEUE,
        )

    def _seen_by_class(self, fluid: VirtualWorkload) -> list[VirtualWorkload]:
        """Each class as a series from the history to the window's end, for the forecasts alone."""
        opens, step = self.stage.opens_at, self.stage.step
        dark = tuple(
            (opens + step * index, opens + step * (index + 1))
            for index, seen in enumerate(self.scene.seen.tolist())
            if not seen
        )
        return [
            VirtualWorkload(
                name=f"{self.stage.workload}/{each.name}",
                demand_rps=replace(
                    fluid.demand_rps,
                    values=np.concatenate([fluid.demand_rps.values * self.stage.shares[each.name], rates]),
                ),
                profile=CapacityProfile(name=each.name, classes=(each,)),
                cold_start_bins=fluid.cold_start_bins,
                dark=dark,
            )
            for each, rates in zip(self.stage.profile.classes, self.scene.rates, strict=True)
        ]

    def _settings(self, fluid: VirtualWorkload, missed_target_ratio: float) -> WorkloadPolicy:
        """The product's defaults on this profile, its SLOs as the latency rule's, its start as the configured one."""
        slos = tuple(
            Slo(
                request_class=each.name,
                ttft_p95_s=each.slo.ttft_s,
                e2e_p95_s=each.slo.e2e_s,
                itl_p95_s=each.slo.itl_s,
            )
            for each in self.stage.profile.classes
            if each.slo is not None
        )
        setting = self.stage.setting
        return replace(
            product_policy(fluid, most=setting.most, missed_target_ratio=missed_target_ratio),
            profile=self.stage.profile,
            bounds=Bounds(min_replicas=setting.min_replicas, max_replicas=setting.most),
            start_time=timedelta(seconds=self.stage.start.total_s),
            latency=LatencyRule(slos=slos),
        )

    def _pool(
        self, replicas: int, starting: Sequence[tuple[float, int]] = (), *, start: StartPhases | None = None
    ) -> Pool:
        return Pool(
            self.stage.service,
            start or self.stage.start,
            replicas=replicas,
            starting=starting,
            rule=self.stage.setting.pool,
            seed=self.scene.seed,
        )

    def _meter(self, pool: Pool) -> Meter:
        return Meter(self.stage.profile.classes, pool, slot_s=self.stage.bin_s / self.stage.slots_per_bin)


def _on_their_way(plan: Course, bin_s: float) -> list[tuple[float, int]]:
    """Pods that a plan opens with and that do not serve yet, as (Ready at, how many): when the plan has them serve."""
    left, serving = int(plan.billed[0] - plan.serving[0]), int(plan.serving[0])
    ready = []
    for index, wanted in enumerate(plan.serving.tolist()):
        rise = min(left, wanted - serving)
        if rise > 0:
            ready.append((index * bin_s, rise))
            left, serving = left - rise, serving + rise
    return ready
