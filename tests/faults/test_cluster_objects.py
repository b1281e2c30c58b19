"""Faults of the objects on a cluster, a named test a row: the shipping loop over the strict API double, minute by minute.

Demand is given; everything else is real: reading, deciding, the budget, writing, states and the exported metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from forecaster.types import Known
from kube_double import KubeDouble, Rule
from policy_cases import a_policy
from scaler.adapters.board import Board, View
from scaler.adapters.kubernetes import (
    HPA,
    ApiConnection,
    FloorRef,
    KubernetesCluster,
    ServerAddress,
    TargetRef,
)
from scaler.adapters.kubernetes.annotated import annotated_in
from scaler.adapters.states import State, Status, statuses
from scaler.adapters.targets import KubernetesTargets
from scaler.adapters.telemetry import Telemetry
from scaler.config import parse_config
from scaler.daemon.discovery import joined
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.types import Action, ClassReadings, DemandForecast, Mode, PolicyState, Reason
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals

CHAT, DOCS = "llm/chat", "other/docs"


@dataclass(kw_only=True)
class World:
    """A fleet of Headstart on the double; `rps` is the demand of each workload."""

    double: KubeDouble
    targets: KubernetesTargets
    fleet: Fleet
    rps: dict[str, float]
    states: Mapping[str, PolicyState] = field(default_factory=dict)
    seen: Mapping[str, Status] = field(default_factory=dict)
    board: Board = field(default_factory=Board)
    history: list[TickReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.board)

    def minutes(self, count: int) -> TickReport:
        """So many ticks, one a minute; the last one's report."""
        for _ in range(count):
            self.double.advance(60, step_s=15)
            ports = Ports(signals=self, forecasts=_NoForecasts(), targets=self.targets, journal=_NoJournal())
            report = tick(self.fleet, self.states, ports, now=self.double.now)
            self.states, self.seen = report.states, statuses(report, self.seen)
            self.board.publish(View(report=report, statuses=self.seen))
            self.telemetry.tick_finished(report, (), duration_s=0.1)
            self.history.append(report)
        return self.history[-1]

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {
            name: WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=rps)),))
            for name, rps in self.rps.items()
        }

    def writes(self) -> list[tuple[str, int | None, int | None]]:
        """What was written so far: workload, from, to."""
        return [
            (record.policy.workload, record.decision.current, record.decision.target)
            for report in self.history
            for record in report.records
            if (outcome := report.outcomes.get(record.policy.workload)) and outcome.kind is OutcomeKind.SCALED
        ]

    def series(self, workload: str) -> set[str]:
        """Names of the exported metrics that have a series of a workload."""
        namespace, _, name = workload.partition("/")
        page = generate_latest(self.telemetry.registry).decode()
        labels = {f'namespace="{namespace}"', f'workload="{name}"'}
        return {line.partition("{")[0] for line in page.splitlines() if all(label in line for label in labels)}


class _NoForecasts:
    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}


class _NoJournal:
    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Nothing of it is looked at here."""

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing of it is looked at here."""


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=16, start_time_s=90) as double:
        for namespace, name in (("llm", "chat"), ("other", "docs")):
            double.namespace(namespace)
            double.deployment(namespace, name, replicas=2)
        double.advance(90)
        yield double


def a_world(
    double: KubeDouble,
    folder: Path,
    *rules: Rule,
    mode: Mode = Mode.ACTIVE,
    gpus: int | None = None,
    floors: Mapping[str, FloorRef] | None = None,
) -> World:
    """Both workloads, as an account with `rules`, or with every permission."""
    token = folder / "token"
    token.write_text(double.account("headstart", *rules) if rules else double.admin_token)
    cluster = KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token), timeout_s=60))
    targets = {}
    for workload in (CHAT, DOCS):
        namespace, _, name = workload.partition("/")
        targets[workload] = TargetRef(namespace=namespace, api_version="apps/v1", kind="Deployment", name=name)
    policies = tuple(replace(a_policy(mode=mode, most=12), workload=workload) for workload in targets)
    return World(
        double=double,
        targets=KubernetesTargets(cluster, targets, floors),
        fleet=Fleet(workloads=policies, budget=BudgetRule(gpus=gpus)),
        rps={CHAT: 12.0, DOCS: 12.0},
    )


# ── 17: 403 in one namespace ──────────────────────────────────────────────────────────────────────────────────


def test_row_17_a_namespace_that_is_forbidden_degrades_its_own_workloads_alone(
    double: KubeDouble, tmp_path: Path
) -> None:
    everything = {"groups": ("*",), "resources": ("*",)}
    world = a_world(double, tmp_path, Rule(verbs=("get", "list", "patch"), namespaces=("other",), **everything))
    world.rps = {CHAT: 60.0, DOCS: 60.0}
    world.minutes(3)
    assert world.seen[CHAT].state is State.DEGRADED
    assert '- {apiGroups: ["apps"], resources: ["deployments/scale"], verbs: ["get"]}' in world.seen[CHAT].cause
    assert world.seen[CHAT].way_out.startswith("headstart doctor --workload llm/chat")
    assert (double.replicas("llm", "chat"), double.replicas("other", "docs")) == (2, 9)
    double.store.rules["headstart"] = (Rule(verbs=("get", "list", "patch"), **everything),)
    world.minutes(3)
    assert world.seen[CHAT].state is not State.DEGRADED
    assert double.replicas("llm", "chat") == 9


def test_row_17_a_write_that_is_forbidden_is_told_with_its_rule_and_nothing_else_stops(
    double: KubeDouble, tmp_path: Path
) -> None:
    reads = Rule(verbs=("get", "list"), groups=("*",), resources=("*",))
    writes = Rule(verbs=("patch",), groups=("apps",), resources=("deployments/scale",), namespaces=("other",))
    world = a_world(double, tmp_path, reads, writes)
    world.rps = {CHAT: 60.0, DOCS: 60.0}
    world.minutes(1)
    assert world.seen[CHAT].state is State.DEGRADED
    assert 'resources: ["deployments/scale"], verbs: ["patch"]' in world.seen[CHAT].cause
    assert double.replicas("other", "docs") > 2


# ── 18: a Deployment is deleted ───────────────────────────────────────────────────────────────────────────────


def test_row_18_a_deleted_deployment_is_dropped_with_its_metrics_and_its_gpus(
    double: KubeDouble, tmp_path: Path
) -> None:
    """Ten GPUs, two each: docs may have eight, and all ten once chat is gone."""
    world = a_world(double, tmp_path, gpus=10)
    world.minutes(8)
    before = world.series(CHAT)
    double.remove("deployments", "llm", "chat")
    world.rps = {CHAT: 12.0, DOCS: 95.0}
    world.minutes(8)
    assert world.series(CHAT) == {"headstart_state", "headstart_blind", "headstart_decision_total"}
    assert len(before) > 5
    assert world.seen[CHAT].state is State.DEGRADED
    assert "Deployment llm/chat does not exist" in world.seen[CHAT].cause
    assert double.replicas("other", "docs") == 10
    assert CHAT not in {workload for workload, *_ in world.writes()}


def test_row_18_one_that_is_made_anew_is_held_first(double: KubeDouble, tmp_path: Path) -> None:
    world = a_world(double, tmp_path)
    world.minutes(8)
    double.remove("deployments", "llm", "chat")
    world.minutes(3)
    double.deployment("llm", "chat", replicas=9)
    world.minutes(4)
    assert double.replicas("llm", "chat") == 9
    assert world.seen[CHAT].state is State.REWARM


# ── 32: pods find no GPU ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cause", ["no node has a GPU left", "a quota refuses the pods"])
def test_row_32_pods_that_find_no_place_for_ten_minutes_end_the_growth(
    double: KubeDouble, tmp_path: Path, cause: str
) -> None:
    world = a_world(double, tmp_path)
    if cause == "a quota refuses the pods":
        double.quota("llm", pods=3)
    else:
        double.store.controllers.gpus = 5
    world.rps[CHAT] = 30.0
    world.minutes(12)
    wanted = double.replicas("llm", "chat")
    world.rps[CHAT] = 70.0
    written = len(world.writes())
    report = world.minutes(10)
    decision = next(record.decision for record in report.records if record.policy.workload == CHAT)
    assert decision.reason is Reason.UNSCHEDULABLE
    assert "pods find no GPU since" in decision.adjustments[0].detail
    assert double.replicas("llm", "chat") == wanted
    assert len(world.writes()) == written
    double.quota("llm", pods=99)
    double.store.controllers.gpus = 16
    world.minutes(3)
    assert double.replicas("llm", "chat") > wanted


# ── 33: pods crash ────────────────────────────────────────────────────────────────────────────────────────────


def test_row_33_crash_looping_pods_lead_to_no_runaway(double: KubeDouble, tmp_path: Path) -> None:
    """60 rps want 9 by the load alone, and 9 it stays, although for half an hour only two of them serve."""
    world = a_world(double, tmp_path)
    world.minutes(3)
    alive = [pod["metadata"]["name"] for pod in double.pods("llm", "chat")]
    world.rps[CHAT] = 60.0
    world.minutes(2)
    double.pause_controllers()
    for pod in double.pods("llm", "chat"):
        if pod["metadata"]["name"] not in alive:
            waiting = {"name": "server", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 5}
            double.edit_pod(pod, status={"phase": "Running", "containerStatuses": [{**waiting, "ready": False}]})
    report = world.minutes(30)
    record = report.records[0]
    assert double.replicas("llm", "chat") == 9
    assert (record.snapshot.replicas.failed, record.snapshot.replicas.ready) == (7, 2)  # type: ignore[union-attr]
    assert [write for write in world.writes() if write[0] == CHAT] == [(CHAT, 2, 6), (CHAT, 6, 9)]
    assert record.decision.action is Action.HOLD


# ── 37: a selector that matches nothing, or suddenly everything ───────────────────────────────────────────────


def test_row_37_a_selector_that_matches_nothing_is_an_error_and_never_everything(
    double: KubeDouble, tmp_path: Path
) -> None:
    found = _discovered(double, tmp_path, selector="{team: nobody}")
    assert found.entries == ()
    assert "no Deployment in llm with team=nobody carries" in found.told[0]


def test_row_37_sudden_growth_waits_for_a_confirmation(double: KubeDouble, tmp_path: Path) -> None:
    for n in range(40):
        double.deployment("llm", f"model-{n}", replicas=0)
        double.annotate("llm", f"model-{n}", enabled="true", mode="active")
    known = {f"llm/model-{n}" for n in range(6)}
    found = _discovered(double, tmp_path, known=known)
    assert {entry.workload for entry in found.entries} == known
    assert len(found.held) == 34
    assert "set discover.confirm: 40 if they are meant" in found.told[0]
    assert len(_discovered(double, tmp_path, known=known, confirm=40).entries) == 40
    assert double.mutating_requests == 0


def _discovered(  # type: ignore[no-untyped-def]
    double: KubeDouble, folder: Path, *, selector: str = "{}", known: set[str] | None = None, confirm: int | None = None
):
    text = f"""apiVersion: headstart/v1
kind: Config
defaults: {{profile: qwen3-vl-2b-24gb}}
discover: {{namespaces: [llm], selector: {selector}, confirm: {confirm or "null"}}}
"""
    config = parse_config(text, folder / "headstart.yaml")
    token = folder / "token"
    token.write_text(double.admin_token)
    api = ApiConnection(ServerAddress(server=double.url, token_file=token))
    seen = annotated_in(api, config.discover.namespaces, config.discover.selector)
    api.close()
    return joined(config, seen, known=known or set())


# ── Modes and rollouts ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.PUBLISH])
def test_a_mode_that_does_not_write_needs_no_permission_to(double: KubeDouble, tmp_path: Path, mode: Mode) -> None:
    world = a_world(double, tmp_path, Rule(verbs=("get", "list"), groups=("*",), resources=("*",)), mode=mode)
    world.minutes(8)
    world.rps = {CHAT: 90.0, DOCS: 0.5}
    world.minutes(8)
    assert double.mutating_requests == 0
    assert {outcome.kind for report in world.history for outcome in report.outcomes.values()} == {
        OutcomeKind.PUBLISHED if mode is Mode.PUBLISH else OutcomeKind.OBSERVED
    }
    assert "headstart_replicas_desired" in world.series(CHAT)


def test_a_rollouts_surge_does_not_ratchet(double: KubeDouble, tmp_path: Path) -> None:
    """Three more pods of the new template beside two old ones, for half an hour."""
    world = a_world(double, tmp_path)
    world.rps = {CHAT: 14.0, DOCS: 14.0}
    world.minutes(8)
    double.pause_controllers()
    for _ in range(3):
        double.add_pod("llm", "chat")
    world.minutes(30)
    assert double.replicas("llm", "chat") == 2
    assert world.writes() == []


def test_a_floor_rises_before_the_peak_and_the_hpa_does_the_scaling(double: KubeDouble, tmp_path: Path) -> None:
    double.hpa("llm", "chat", least=1, most=20)
    double.hpa("other", "docs", least=1, most=4)
    floors = {
        CHAT: FloorRef(namespace="llm", kind=HPA, name="chat"),
        DOCS: FloorRef(namespace="other", kind=HPA, name="docs"),
    }
    world = a_world(double, tmp_path, mode=Mode.FLOOR, floors=floors)
    world.rps = {CHAT: 60.0, DOCS: 60.0}
    world.minutes(4)
    assert (double.floor("llm", "chat"), double.replicas("llm", "chat")) == (9, 9)
    assert (double.floor("other", "docs"), double.replicas("other", "docs")) == (4, 4)  # its own maximum
    assert not [request for request in double.requests if request.path.endswith("/scale") and request.mutates]
    world.rps = {CHAT: 5.0, DOCS: 5.0}
    world.minutes(40)
    assert double.floor("llm", "chat") == 1
    assert double.replicas("llm", "chat") == 9  # that is the HPA's to release
