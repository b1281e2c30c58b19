"""Placeholder pods in the daemon: on the double of the API, from a finished tick to the scale that stands there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.types import Blind, Known
from kube_double import KubeDouble
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy
from scaler.adapters.board import Board, View
from scaler.adapters.kubernetes import ApiConnection, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.store import Store
from scaler.adapters.targets import KubernetesTargets
from scaler.config import parse_config
from scaler.daemon import Daemon
from scaler.daemon.placeholders import Placeholders, placeholder_job
from scaler.loop import Fleet, TickReport, tick
from scaler.policy.placeholders import PlaceholderRule
from scaler.policy.types import (
    NO_CONTROL,
    Control,
    Decision,
    DemandForecast,
    Mode,
    Override,
    Pause,
    ReplicaState,
    VariantPlace,
    VariantReason,
    VariantState,
)
from scaler.ports import Outcome, OutcomeKind
from virtual_world import VirtualWorkload, VirtualWorld

POOL = PlaceholderRule(placeholder="warm/pool", mode=Mode.ACTIVE)
REPO = Path(__file__).resolve().parents[2]


@dataclass
class Log:
    """What was told, and its keys."""

    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def error(self, event: str, **keys: Any) -> None:
        self.told.append((event, keys))

    info = warning = critical = error

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]


def a_peak_ahead(
    *,
    desired: int = 2,
    held: int | None = None,
    mode: Mode = Mode.ACTIVE,
    control: Control = NO_CONTROL,
    now: datetime = NOON,
    **others: VirtualWorkload,
) -> TickReport:
    """A tick over llm/chat with `desired` replicas, in front of a forecast that needs six of them in nine minutes.

    Under a floor `held` are there. `others` are further workloads of the same settings.
    """
    ahead = DemandForecast(forecast=a_forecast(15.0, later_rps={10: 55.0}, issued_at=now), quality=GOOD)
    chat = VirtualWorkload(scale=desired, ready=desired, held=held, demand=Known(value=13.0), forecasts=(ahead,))
    workloads = {"llm/chat": chat, **{f"llm/{name}": each for name, each in others.items()}}
    world = VirtualWorld(workloads=workloads, controls={"llm/chat": control})
    rules = a_policy(mode=mode, most=20, start_time=3 * MINUTE)
    policies = tuple(replace(rules, workload=name) for name in workloads)
    return tick(Fleet(workloads=policies), {}, world.ports(), now=now)


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=8) as double:
        double.namespace("warm")
        double.deployment("warm", "pool", replicas=0)
        yield double


@pytest.fixture
def board() -> Board:
    board = Board()
    board.publish(View(report=a_peak_ahead()))
    return board


@pytest.fixture
def log() -> Log:
    return Log()


def pool(double: KubeDouble, folder: Path, board: Board, log: Log, rule: PlaceholderRule = POOL) -> Placeholders:
    ref = TargetRef(namespace="warm", api_version="apps/v1", kind="Deployment", name="pool")
    cluster = KubernetesCluster(ApiConnection(Kubeconfig(path=double.kubeconfig(folder))))
    return Placeholders([rule], KubernetesTargets(cluster, {"warm/pool": ref}), board, log, tick=MINUTE)


def test_a_peak_ahead_is_prepared_and_real_pods_take_the_place(
    double: KubeDouble, tmp_path: Path, board: Board, log: Log
) -> None:
    placeholders = pool(double, tmp_path, board, log)
    placeholders.run(now=NOON)
    assert double.replicas("warm", "pool") == 4
    assert log.told == [
        (
            "placeholder_scaled",
            {
                "placeholder": "warm/pool",
                "current": 0,
                "target": 4,
                "reason": "forecast",
                "detail": "4 for the forecast of the next 10m, 4 in the last 10m",
            },
        )
    ]
    later = NOON + 11 * MINUTE
    board.publish(View(report=a_peak_ahead(desired=6, now=later)))
    placeholders.run(now=later)
    assert double.replicas("warm", "pool") == 0
    events = [each.body for each in double.requests if each.path.endswith("/events") and each.method == "POST"]
    assert [each["reason"] for each in events] == ["ScaledOut", "ScaledIn"]


def test_observing_says_it_once_and_writes_nothing(double: KubeDouble, tmp_path: Path, board: Board, log: Log) -> None:
    placeholders = pool(double, tmp_path, board, log, replace(POOL, mode=Mode.OBSERVE))
    for second in range(3):
        placeholders.run(now=NOON + timedelta(seconds=second))
    assert log.events == ["placeholder_would_scale"]
    assert double.mutating_requests == 0


def test_an_observed_workload_is_prepared_for_as_well(
    double: KubeDouble, tmp_path: Path, board: Board, log: Log
) -> None:
    """Another autoscaler will need the nodes just as much; what counts as held is what stands there."""
    board.publish(View(report=a_peak_ahead(mode=Mode.OBSERVE)))
    pool(double, tmp_path, board, log).run(now=NOON)
    assert double.replicas("warm", "pool") == 4


def test_no_node_beyond_the_budget(double: KubeDouble, tmp_path: Path, board: Board, log: Log) -> None:
    board.publish(View(report=a_peak_ahead(), gpu_budget=3))
    pool(double, tmp_path, board, log).run(now=NOON)
    assert double.replicas("warm", "pool") == 1


def test_what_the_autoscaler_holds_above_its_floor_is_held(board: Board, log: Log) -> None:
    """A floor of two, and six pods: the nodes of the peak are there. The budget's seventh GPU is free, no more."""
    targets, placeholders = a_pool(board, log)
    board.publish(View(report=a_peak_ahead(mode=Mode.FLOOR, held=6)))
    placeholders.run(now=NOON)
    assert targets.scaled == {}
    board.publish(View(report=a_peak_ahead(mode=Mode.FLOOR, held=5), gpu_budget=5))
    placeholders.run(now=NOON)
    assert targets.scaled == {}
    board.publish(View(report=a_peak_ahead(mode=Mode.FLOOR, held=5), gpu_budget=6))
    placeholders.run(now=NOON)
    assert targets.scaled == {"b/pool": 1}


@pytest.mark.parametrize(
    ("place_of_it", "prepared"),
    [pytest.param(0, {}, id="another serves"), pytest.param(4, {"b/pool": 2}, id="the group has so many GPUs")],
)
def test_a_service_is_prepared_for_once_and_not_by_each_of_its_variants(
    board: Board, log: Log, place_of_it: int, prepared: dict[str, int]
) -> None:
    report, (targets, placeholders) = a_peak_ahead(), a_pool(board, log)
    (record,) = report.records
    place = VariantPlace(
        group="chat",
        chosen="llm/other",
        reason=VariantReason.COPES,
        share=0.0,
        state=VariantState(chosen="llm/other"),
        most=place_of_it,
    )
    variant = replace(record, snapshot=replace(record.snapshot, variant=place))
    board.publish(View(report=replace(report, records=(variant,))))
    placeholders.run(now=NOON)
    assert targets.scaled == prepared


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(VirtualWorkload(scale=1, demand=Known(value=_Odd(1.0))), id="its decision raises"),
        pytest.param(VirtualWorkload(readable=False), id="it cannot be read"),
    ],
)
def test_what_is_not_known_may_hold_its_maximum_of_the_budget(board: Board, log: Log, other: VirtualWorkload) -> None:
    """Of 24 GPUs llm/chat holds two, and the other one may hold twenty: two are free, where four are wanted."""
    targets, placeholders = a_pool(board, log)
    board.publish(View(report=a_peak_ahead(odd=other), gpu_budget=24))
    placeholders.run(now=NOON)
    assert targets.scaled == {"b/pool": 2}


@pytest.mark.parametrize(
    ("desired", "control"),
    [
        pytest.param(0, NO_CONTROL, id="switched off"),
        pytest.param(2, Control(pause=Pause()), id="paused"),
        pytest.param(2, Control(override=Override(replicas=2, until=NOON + 60 * MINUTE)), id="as many as were ordered"),
    ],
)
def test_for_a_workload_that_people_keep_where_it_is_nothing_is_bought(
    board: Board, log: Log, desired: int, control: Control
) -> None:
    targets, placeholders = a_pool(board, log)
    board.publish(View(report=a_peak_ahead(desired=desired, control=control)))
    placeholders.run(now=NOON)
    assert targets.scaled == {}


@pytest.mark.parametrize("age", [None, 4 * MINUTE], ids=["no tick yet", "the last tick is long ago"])
def test_without_a_fresh_tick_nothing_is_asked(
    double: KubeDouble, tmp_path: Path, log: Log, age: timedelta | None
) -> None:
    board = Board()
    if age is not None:
        board.publish(View(report=a_peak_ahead(now=NOON - age)))
    pool(double, tmp_path, board, log).run(now=NOON)
    assert (double.requests, log.told) == ([], [])


def test_placeholders_that_cannot_be_read_stay_and_are_told_once(
    double: KubeDouble, tmp_path: Path, board: Board, log: Log
) -> None:
    placeholders = pool(double, tmp_path, board, log)
    double.fault(path="/deployments(/pool/scale)?$", times=2, status=503)
    for _ in range(2):
        placeholders.run(now=NOON)
    assert log.events == ["placeholder_blind"]
    placeholders.run(now=NOON)
    assert double.replicas("warm", "pool") == 4


def test_a_write_that_is_refused_is_told_and_tried_again(
    double: KubeDouble, tmp_path: Path, board: Board, log: Log
) -> None:
    placeholders = pool(double, tmp_path, board, log)
    double.fault(method="PATCH", status=403)
    placeholders.run(now=NOON)
    assert log.events == ["placeholder_not_scaled"]
    placeholders.run(now=NOON)
    assert double.replicas("warm", "pool") == 4


def a_pool(board: Board, log: Log) -> tuple[TwoPools, Placeholders]:
    """Placeholders of eight at most over scales that only note what is ordered."""
    targets = TwoPools()
    rule = replace(POOL, placeholder="b/pool", max_replicas=8)
    return targets, Placeholders([rule], targets, board, log, tick=MINUTE)


@dataclass
class TwoPools:
    """Scales of two pools; the first one's write raises."""

    scaled: dict[str, int | None] = field(default_factory=dict)

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        return {name: ReplicaState(desired=0, ready=0) for name in ("a/pool", "b/pool")}

    def scale(self, decision: Decision) -> Outcome:
        if decision.workload == "a/pool":
            raise ZeroDivisionError("one pool's numbers")
        self.scaled[decision.workload] = decision.target
        return Outcome(kind=OutcomeKind.SCALED)

    def announce(self, *, now: datetime) -> tuple[Exception, ...]:
        return (OSError("no events today"),)


def test_one_that_raises_costs_the_others_nothing(board: Board, log: Log) -> None:
    targets = TwoPools()
    rules = [replace(POOL, placeholder="a/pool"), replace(POOL, placeholder="b/pool")]
    Placeholders(rules, targets, board, log, tick=MINUTE).run(now=NOON)
    assert targets.scaled == {"b/pool": 4}
    assert log.events == ["placeholder_failed", "placeholder_scaled", "event_not_left"]


def test_a_workload_whose_decision_failed_is_unknown(board: Board, log: Log) -> None:
    report = replace(a_peak_ahead(), failed={"llm/odd": ZeroDivisionError("odd")})
    board.publish(View(report=report))
    targets = TwoPools()
    Placeholders([replace(POOL, placeholder="b/pool")], targets, board, log, tick=MINUTE).run(now=NOON)
    assert targets.scaled == {"b/pool": 4}, "what is known still adds"


SETTINGS = """\
apiVersion: headstart/v1
kind: Config
tick: 60s
placeholders:
  - {placeholder: headstart/placeholders, mode: active, gpus_per_replica: 2, max_replicas: 3, ahead: 12m}
workloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb}]
"""


def test_the_job_runs_between_ticks_in_a_lane_of_its_own_on_the_named_target(
    double: KubeDouble, tmp_path: Path, log: Log
) -> None:
    config = parse_config(SETTINGS, tmp_path / "headstart.yaml")
    double.namespace("headstart")
    for manifest in yaml.safe_load_all((REPO / "deploy" / "placeholders.yaml").read_text(encoding="utf-8")):
        if manifest["kind"] == "Deployment":
            double.create("deployments", manifest)
    board = Board()
    board.publish(View(report=a_peak_ahead(now=datetime.now(NOON.tzinfo))))
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)))
    job = placeholder_job(config, api, board, log)
    assert (job.lane, job.interval, job.offset) == ("placeholders", MINUTE, MINUTE / 2)
    job.run()
    assert double.replicas("headstart", "placeholders") == 2


def test_the_manifest_holds_gpus_that_everybody_may_have() -> None:
    priority, deployment, binding = yaml.safe_load_all((REPO / "deploy" / "placeholders.yaml").read_text("utf-8"))
    assert priority["value"] == -10, "below 0, and not below the autoscaler's cut-off of -10"
    assert priority["preemptionPolicy"] == "Never"
    pod = deployment["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == priority["metadata"]["name"]
    assert pod["terminationGracePeriodSeconds"] == 0
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == PlaceholderRule(placeholder="a/b").gpus_per_replica
    assert deployment["spec"]["replicas"] == 0
    assert binding["roleRef"]["name"] == "headstart-active"
    assert binding["metadata"]["namespace"] == deployment["metadata"]["namespace"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_daemon_has_them_and_marks_victims_where_the_settings_say_so(
    double: KubeDouble, tmp_path: Path, dry_run: bool
) -> None:
    """And a dry run has no placeholders at all."""
    access = f'kubernetes: {{kubeconfig: "{double.kubeconfig(tmp_path)}"}}\ndeletion_cost: true\n'
    config = parse_config(SETTINGS.replace("tick: 60s\n", access), tmp_path / "headstart.yaml")
    with Store.open(tmp_path, now=NOON) as store:
        daemon: Any = Daemon(config, store, dry_run=dry_run)
        assert [job.name for job in daemon._schedule._jobs if job.lane == "placeholders"] == (
            [] if dry_run else ["placeholders"]
        )
        assert daemon.ground.victims is not None
    assert double.mutating_requests == 0
