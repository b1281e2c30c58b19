"""Two variants of one model behind one door, minute by minute, decided by the shipping loop. Holds no test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest

from forecaster.types import Blind, BlindReason, Known
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.invariants import violations
from scaler.loop import Fleet, TickReport, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Mode, PolicyState, Reason, VariantReason
from scaler.policy.variant_groups import VariantGroup, VariantMember
from virtual_world import VirtualWorkload, VirtualWorld

BIG, SMALL = "llm/chat-8b", "llm/chat-4b"
MAX_RPS = {BIG: 3.0, SMALL: 6.0}


def a_variant(name: str, *, gpus: int = 1, most: int = 8, mode: Mode = Mode.ACTIVE) -> WorkloadPolicy:
    classes = (ClassCapacity(name="default", max_rps=MAX_RPS[name]),)
    profile = CapacityProfile(name=name, classes=classes, gpus=gpus)
    return replace(a_policy(profile=profile, most=most, mode=mode), workload=name)


def a_group(gpus: int = 4) -> VariantGroup:
    members = (VariantMember(workload=BIG), VariantMember(workload=SMALL, serves="small"))
    return VariantGroup(name="chat", gpus=gpus, workloads=members)


@dataclass(kw_only=True)
class Service:
    """Two variants behind one door, minute by minute; what is ordered is Ready after `start_ticks`."""

    demand_rps: float | None = 5.0
    gpus: int = 4
    start_ticks: int = 3
    policies: tuple[WorkloadPolicy, ...] = field(default_factory=lambda: (a_variant(BIG), a_variant(SMALL)))
    world: VirtualWorld = field(
        default_factory=lambda: VirtualWorld(
            workloads={BIG: VirtualWorkload(scale=3, ready=3), SMALL: VirtualWorkload(scale=0, ready=0)}
        )
    )
    now: datetime = NOON
    leads: bool = True
    budget: BudgetRule = field(default_factory=BudgetRule)
    states: dict[str, PolicyState] = field(default_factory=dict)
    orders: dict[str, list[int]] = field(default_factory=lambda: {BIG: [3, 3, 3], SMALL: [0, 0, 0]})
    reports: list[TickReport] = field(default_factory=list)

    def minute(self) -> TickReport:
        """One tick, and what came of it; every minute keeps the promises."""
        self.now += MINUTE
        seen = Blind(reason=BlindReason.NO_SERIES) if self.demand_rps is None else Known(value=self.demand_rps)
        for each in self.world.workloads.values():
            each.demand = seen
        ready = {name: self.world.workloads[name].counts() for name in self.world.workloads}
        fleet = Fleet(workloads=self.policies, variants=(a_group(self.gpus),), budget=self.budget)
        self.world.written.clear()
        report = tick(fleet, self.states, self.world.ports(), now=self.now, leads=self.leads)
        self.states = dict(report.states)
        self.reports.append(report)
        assert violations(report, mutating_requests=len(self.world.written)) == ()
        self._check(report, {name: getattr(each, "ready", 0) for name, each in ready.items()})
        for name, workload in self.world.workloads.items():
            self.orders[name].append(workload.scale)
            workload.ready = min(workload.scale, *self.orders[name][-self.start_ticks :])
        return report

    def _check(self, report: TickReport, ready: dict[str, int]) -> None:
        if report.failed:
            return
        (view,) = report.variants
        sizes = {each.workload: each.profile.gpus for each in self.policies}
        if sum(self.orders[name][-1] * size for name, size in sizes.items()) <= self.gpus:
            held = sum(each.scale * sizes[name] for name, each in self.world.workloads.items())
            assert held <= self.gpus, "GPUs are never exceeded"
        if not all(each.readable for each in self.world.workloads.values()):
            assert not view.shares, "who is not seen must not lose its traffic"
        elif any(ready.values()):
            assert sum(view.shares.values()) == pytest.approx(1.0)
            assert all(ready[name] > 0 for name in view.shares), "only who is Ready has traffic"
            if self.leads:
                assert any(self.world.workloads[name].scale > 0 for name in view.shares), "somebody goes on serving"

    def minutes(self, count: int) -> TickReport:
        """The last of `count` ticks."""
        for _ in range(count):
            self.minute()
        return self.reports[-1]

    def until(self, found: Callable[[], bool], *, within: int = 90) -> int:
        """Minutes until something is so."""
        for passed in range(within):
            if found():
                return passed
            self.minute()
        pytest.fail(f"not within {within} minutes: {self.scales()}, {self.reports[-1].variants}")

    def scales(self) -> tuple[int, int]:
        """Replicas that 8B and 4B are asked to have."""
        return self.world.workloads[BIG].scale, self.world.workloads[SMALL].scale

    def chosen(self) -> str:
        return self.reports[-1].variants[0].chosen

    def reason(self) -> VariantReason:
        return self.reports[-1].variants[0].reason

    def decided(self, name: str) -> tuple[int | None, Reason]:
        decision = next(each.decision for each in self.reports[-1].records if each.policy.workload == name)
        return decision.target, decision.reason
