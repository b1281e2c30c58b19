"""Faults of the API server while a whole fleet is written: what is obeyed, what goes first, and who is not concerned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from forecaster.types import Known
from kube_double import KubeDouble
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.kubernetes import ApiConnection, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.targets import KubernetesTargets
from scaler.adapters.writes import ParallelWrites
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.types import ClassReadings, DemandForecast, PolicyState
from scaler.policy.writers import OtherWritersRule
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals

pytestmark = pytest.mark.server

CALL_S = 20.0
"""Long enough on any machine for a call that is answered."""


@dataclass
class Traffic:
    """Signals, forecasts and journal in one: the demand of each workload, and nothing kept."""

    rps: dict[str, float]
    records: list[DecisionRecord] = field(default_factory=list)

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {
            name: WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=rps)),))
            for name, rps in self.rps.items()
        }

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}

    def append(self, records: Sequence[DecisionRecord]) -> None:
        self.records.extend(records)

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing is kept."""


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        yield double


class Running:
    """A fleet on the double with seven ticks behind it: those in `idle` may release at the next one, not before."""

    def __init__(
        self, double: KubeDouble, folder: Path, scales: Mapping[str, int], *, idle: tuple[str, ...] = ()
    ) -> None:
        for namespace in sorted({name.partition("/")[0] for name in scales}):
            double.namespace(namespace)
        for workload, replicas in scales.items():
            namespace, _, name = workload.partition("/")
            double.deployment(namespace, name, replicas=replicas)
        double.advance(2)
        self.double = double
        self.traffic = Traffic({name: 1.0 if name in idle else 7.0 * n - 1.0 for name, n in scales.items()})
        refs = {name: _ref(name) for name in scales}
        cluster = KubernetesCluster(ApiConnection(Kubeconfig(path=double.kubeconfig(folder)), timeout_s=CALL_S))
        targets = KubernetesTargets(cluster, refs)
        self.ports = Ports(
            signals=self.traffic,
            forecasts=self.traffic,
            targets=targets,
            journal=self.traffic,
            writes=ParallelWrites(),
        )
        # What others write is a story of its own (test_people): here a scale that somebody set is not left alone.
        policy = a_policy(most=8, other_writers=OtherWritersRule(manual_hold=timedelta(0)))
        self.fleet = Fleet(workloads=tuple(replace(policy, workload=name) for name in scales))
        self.states: Mapping[str, PolicyState] = {}
        self.minute = 0
        for _ in range(7):
            self.tick()
        assert self.patched() == []

    def tick(self) -> TickReport:
        """The next minute's round."""
        report = tick(self.fleet, self.states, self.ports, now=NOON + self.minute * MINUTE)
        self.minute, self.states = self.minute + 1, report.states
        return report

    def patched(self) -> list[tuple[str, int | None]]:
        """The workloads that scales were sent for, with the answers, in the server's order."""
        found = []
        for request in self.double.requests:
            parts = request.path.strip("/").split("/")
            if request.method == "PATCH" and parts[-1] == "scale":
                found.append((f"{parts[4]}/{parts[6]}", request.status))
        return found


def _ref(workload: str) -> TargetRef:
    namespace, _, name = workload.partition("/")
    return TargetRef(namespace=namespace, api_version="apps/v1", kind="Deployment", name=name)


def grows_and_shrinks(double: KubeDouble, folder: Path) -> Running:
    """Two that must grow now, and one whose name comes first that may shrink now."""
    running = Running(double, folder, {"llm/a-in": 4, "llm/b-out": 2, "llm/c-out": 2}, idle=("llm/a-in",))
    running.traffic.rps |= {"llm/b-out": 28.0, "llm/c-out": 28.0}
    return running


def test_row_20_a_429_is_obeyed_and_outs_go_before_ins(double: KubeDouble, tmp_path: Path) -> None:
    running = grows_and_shrinks(double, tmp_path)
    double.fault(method="PATCH", path="/scale$", status=429, text="too many", headers={"Retry-After": "1"})
    report = running.tick()
    assert {name: each.kind for name, each in report.outcomes.items()} == dict.fromkeys(
        running.traffic.rps, OutcomeKind.SCALED
    )
    refused, *sent = running.patched()
    assert refused[1] == 429
    assert refused[0] in ("llm/b-out", "llm/c-out")
    assert [status for _, status in sent] == [200, 200, 200]
    assert sent[-1][0] == "llm/a-in"


def test_row_20_while_a_long_pause_lasts_nothing_is_sent_and_everything_held(
    double: KubeDouble, tmp_path: Path
) -> None:
    running = Running(double, tmp_path, {"llm/a-in": 4, "llm/b-out": 2}, idle=("llm/a-in",))
    running.traffic.rps["llm/b-out"] = 28.0
    double.fault(method="PATCH", path="/scale$", status=429, text="too many", headers={"Retry-After": "300"})
    report = running.tick()
    assert {name: each.kind for name, each in report.outcomes.items()} == dict.fromkeys(
        running.traffic.rps, OutcomeKind.POSTPONED
    )
    assert running.patched() == [("llm/b-out", 429)]
    asked = len(double.requests)
    assert {record.decision.reason.value for record in running.tick().records} == {"blind_replicas"}
    assert len(double.requests) == asked, "the pause holds for reading too: nothing was sent"


def test_a_namespace_that_cannot_be_written_costs_nobody_else_their_write(double: KubeDouble, tmp_path: Path) -> None:
    scales = {"hung/a": 2, "hung/b": 2, "llm/c": 2, "llm/d": 2}
    running = Running(double, tmp_path, scales)
    double.fault(method="PATCH", path="/namespaces/hung/.*/scale$", times=99, drop="before")
    running.traffic.rps |= dict.fromkeys(scales, 28.0)
    report = running.tick()
    assert {name: each.kind for name, each in report.outcomes.items()} == {
        "hung/a": OutcomeKind.FAILED,
        "hung/b": OutcomeKind.FAILED,
        "llm/c": OutcomeKind.SCALED,
        "llm/d": OutcomeKind.SCALED,
    }
    assert (double.replicas("llm", "c"), double.replicas("llm", "d"), double.replicas("hung", "a")) == (4, 4, 2)


def test_in_a_full_cluster_a_release_goes_first_and_its_gpus_to_the_pods_that_wait(tmp_path: Path) -> None:
    """Eight GPUs, four each. Somebody gave b a fifth replica, which finds none; b wants a sixth, a may let go two."""
    with KubeDouble(gpus=8) as full:
        running = Running(full, tmp_path, {"llm/a": 4, "llm/b": 4}, idle=("llm/a",))
        full.set_replicas("llm", "b", 5)
        full.advance(2)
        running.traffic.rps["llm/b"] = 7.0 * 6 - 1.0
        running.tick()
        assert running.patched() == [("llm/a", 200), ("llm/b", 200)]
        assert (full.replicas("llm", "a"), full.replicas("llm", "b")) == (2, 6)
        full.advance(120)
        assert sum(bool(pod["spec"].get("nodeName")) for pod in full.pods("llm", "b")) == 6
