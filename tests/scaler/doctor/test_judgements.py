"""Every judgement of `headstart doctor`, by what was found: how it comes out, and the fix that is offered."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from forecaster.types import Blind, BlindReason, Known, Reading
from policy_cases import NOON, a_policy
from scaler.adapters import folder_lock
from scaler.adapters.kubernetes import HPA, SCALED_OBJECT, Feature, FloorRef, Permission, TargetRef, WorkloadPods
from scaler.adapters.kubernetes.drain import Drain
from scaler.adapters.kubernetes.leases import LeaseRef
from scaler.config import Config, parse_config
from scaler.doctor.account import purpose_of
from scaler.doctor.finding import Finding, Health
from scaler.doctor.host import HostFacts, judge_host
from scaler.doctor.lease import LeaseFacts, judge_lease
from scaler.doctor.look_cluster import template_facts
from scaler.doctor.look_host import look_host
from scaler.doctor.metrics import ServerFacts, judge_demand, judge_profile, judge_server
from scaler.doctor.objects import ObjectFacts, TemplateFacts, judge_object, judge_version
from scaler.doctor.placeholders import PlaceholderFacts, judge_placeholders
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.limits import Bounds
from scaler.policy.placeholders import PlaceholderRule
from scaler.policy.types import Mode, ReplicaState

OK, WARN, FAIL, SKIPPED = Health.OK, Health.WARN, Health.FAIL, Health.SKIPPED


def a_config(more: str = "", folder: Path = Path(), *, workload: str = "") -> Config:
    text = "apiVersion: headstart/v1\nkind: Config\nworkloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb"
    return parse_config(f"{text}{workload}}}]\n{more}", folder / "headstart.yaml")


def by_check(findings: Any) -> dict[str, Finding]:
    return {each.check: each for each in findings}


def told(findings: Any, check: str, health: Health, part: str) -> None:
    """The check came out so, says `part` in what it found or in its fix, and has a fix unless all is well."""
    finding = by_check(findings)[check]
    assert (finding.health, bool(finding.fix)) == (health, health in (WARN, FAIL))
    assert part in f"{finding.found} / {finding.fix}"


# ── This machine ──────────────────────────────────────────────────────────────────────────────────────────────

GIB = 2**30


@pytest.mark.parametrize(
    ("facts", "more", "check", "health", "part"),
    [
        pytest.param({}, "", "settings", OK, "1 workloads, 0 active", id="settings"),
        pytest.param({}, "", "data folder", OK, "can be written", id="data folder"),
        pytest.param({"data_error": "x is a file"}, "", "data folder", FAIL, "set data_dir", id="no data folder"),
        pytest.param({"free_bytes": 5 * GIB}, "", "disk space", OK, "5.0 GiB", id="space"),
        pytest.param({"free_bytes": GIB // 2}, "", "disk space", WARN, "0.5 GiB", id="little space"),
        pytest.param({"free_bytes": 1000}, "", "disk space", FAIL, "a volume of 4 GB", id="no space"),
        pytest.param({}, "", "disk space", SKIPPED, "could not be read", id="space unknown"),
        pytest.param({"writer": 12}, "", "daemon", OK, "process 12 writes", id="a daemon runs"),
        pytest.param(
            {"models_left_out": {"trees": "the next refit may bring one"}}, "", "models", OK, "trees", id="not fitted"
        ),
        pytest.param(
            {"models_left_out": {"lstm": "hash differs"}}, "", "models", WARN, "models rollback", id="a damaged model"
        ),
        pytest.param({"missing_packages": ("torch",)}, "", "refits", WARN, "headstart[train]", id="no train extra"),
        pytest.param({}, "", "http", OK, "this machine alone", id="loopback"),
        pytest.param(
            {"token_error": "is empty"}, "http: {host: 0.0.0.0, token_file: t}", "http", FAIL, "is empty", id="no token"
        ),
        pytest.param(
            {"token_open_to_all": True},
            "http: {host: 0.0.0.0, token_file: t}",
            "http",
            WARN,
            "chmod o-r",
            id="open token",
        ),
        pytest.param({}, "http: {host: 0.0.0.0, token_file: t}", "http", OK, "with a token", id="token"),
        pytest.param({}, "", "budget", OK, "only limit", id="no budget"),
        pytest.param({}, "budget: {gpus: 64}", "budget", OK, "minimums take 1", id="a budget"),
    ],
)
def test_this_machine(facts: dict[str, Any], more: str, check: str, health: Health, part: str) -> None:
    told(judge_host(a_config(more), HostFacts(**facts)), check, health, part)


@pytest.mark.parametrize(
    ("gpus", "health", "part"),
    [
        pytest.param(3, FAIL, "minimums of all workloads take 4 GPUs, the budget has 3", id="not even the minimum"),
        pytest.param(
            8, WARN, "max_replicas would take 12 GPUs, the budget has 8 / bounds.max_replicas of 8", id="part"
        ),
    ],
)
def test_a_budget_below_the_bounds(gpus: int, health: Health, part: str) -> None:
    config = a_config(f"budget: {{gpus: {gpus}}}", workload=", bounds: {min_replicas: 4, max_replicas: 12}")
    findings = [each for each in judge_host(config, HostFacts()) if each.check == "budget" and each.health is health]
    assert part in f"{findings[0].found} / {findings[0].fix}"


def test_looking_at_this_machine_creates_nothing(tmp_path: Path) -> None:
    facts = look_host(a_config(folder=tmp_path), models_folder=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []
    assert facts.data_error == ""
    assert facts.free_bytes is not None
    assert facts.writer is None


def test_a_writer_is_seen_without_touching_its_lock(tmp_path: Path) -> None:
    config = a_config("data_dir: data", tmp_path)
    with folder_lock.held(config.data_dir):
        assert look_host(config, models_folder=tmp_path).writer == os.getpid()
    assert look_host(config, models_folder=tmp_path).writer is None


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    (tmp_path / "token").write_text(" \n")
    facts = look_host(a_config("data_dir: data/deeper\nhttp: {token_file: token}", tmp_path), models_folder=tmp_path)
    assert facts.data_error == f"{tmp_path / 'data'} is a file"
    assert facts.token_error == "is empty"


# ── The metrics server ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("facts", "check", "health", "part"),
    [
        pytest.param({"version": "2.42.0"}, "prometheus", OK, "version 2.42.0", id="version"),
        pytest.param({}, "prometheus", OK, "answers", id="no version: not a Prometheus, and as good"),
        pytest.param({"skew_s": -1.2}, "clocks", OK, "-1.2 s apart", id="clocks"),
        pytest.param({"skew_s": 45.0}, "clocks", WARN, "NTP", id="clocks apart"),
        pytest.param({"skew_s": -300.0}, "clocks", FAIL, "every signal is blind", id="clocks too far apart"),
        pytest.param({}, "clocks", SKIPPED, "could not be read", id="clock unknown"),
        pytest.param({"past": timedelta(days=13)}, "history", OK, "13 days", id="all the past"),
        pytest.param({"past": timedelta(days=3)}, "history", WARN, "weekly habits", id="some past"),
        pytest.param({"past": timedelta(0)}, "history", WARN, "the first day is LEARNING", id="no past"),
        pytest.param({}, "history", SKIPPED, "could not be read", id="past unknown"),
        pytest.param({"scrape_s": 15.0}, "scrapes", OK, "every 15 s", id="scrapes"),
        pytest.param({"scrape_s": 70.0}, "scrapes", FAIL, "rate_window: 280s", id="a rate window too short"),
        pytest.param({}, "scrapes", SKIPPED, "no series of vLLM", id="nothing scraped"),
    ],
)
def test_the_metrics_server(facts: dict[str, Any], check: str, health: Health, part: str) -> None:
    told(judge_server(a_config(), ServerFacts(**facts)), check, health, part)


def test_scrapes_that_are_rarer_than_ticks_are_told() -> None:
    told(judge_server(a_config("tick: 10s"), ServerFacts(scrape_s=30.0)), "scrapes", WARN, "scrape vLLM every 2 s")


@pytest.mark.parametrize(
    ("reading", "health", "part"),
    [
        pytest.param(Known(value=3.2, age_s=1.0), OK, "3.2 requests/s", id="known"),
        pytest.param(Blind(reason=BlindReason.AMBIGUOUS, detail="x"), FAIL, "selector.labels of its own", id="shared"),
        pytest.param(Blind(reason=BlindReason.TARGET_DOWN, detail="0 of 2 up"), WARN, "0 of 2 up", id="down"),
    ],
)
def test_demand_as_a_tick_would_read_it(reading: Reading, health: Health, part: str) -> None:
    told(judge_demand("llm/chat", [reading]), "demand now", health, part)


@pytest.mark.parametrize(
    ("rps", "health", "part"),
    [
        pytest.param(6.0, OK, "3 Ready replicas are 100 % full", id="full"),
        pytest.param(9.0, WARN, "3 Ready replicas serve 1.5 times", id="more than full"),
    ],
)
def test_a_profile_beside_what_is_served(rps: float, health: Health, part: str) -> None:
    policy = replace(a_policy(), profile=single_rate("own", 2.0))
    told(judge_profile(policy, {"default": rps}, 3), "profile", health, part)
    assert list(judge_profile(policy, {}, 3)) == list(judge_profile(policy, {"default": rps}, 0)) == []


# ── One target ────────────────────────────────────────────────────────────────────────────────────────────────

TEMPLATE = TemplateFacts(gpus=1, has_readiness_probe=True)
DRAIN = Drain(grace_s=165.0, pre_stop_s=15.0, shutdown_s=120.0, has_pre_stop=True)
BY_HPA = FloorRef(namespace="llm", kind=HPA, name="chat")
ABOVE = ("HorizontalPodAutoscaler llm/chat",)


def pods(desired: int, ready: int | None = None) -> WorkloadPods:
    return WorkloadPods(
        replicas=ReplicaState(desired=desired, ready=desired if ready is None else ready),
        starts=(),
        read_at=NOON,
        annotations={},
    )


def facts(**changes: Any) -> ObjectFacts:
    known = ObjectFacts(
        kind="Deployment",
        floor=None,
        pods=pods(2),
        start_time=timedelta(seconds=100),
        missing=(),
        template=TEMPLATE,
        drain=DRAIN,
        rivals=(),
        gpu_quota=None,
    )
    return replace(known, **changes)


LACKING = Permission(verb="patch", group="apps", resource="deployments/scale", namespace="llm")
COURTESY = Permission(verb="create", group="events.k8s.io", resource="events", namespace="llm")


@pytest.mark.parametrize(
    ("changes", "check", "health", "part"),
    [
        pytest.param({}, "target", OK, "Deployment: 2 desired, 2 Ready", id="target"),
        pytest.param(
            {"pods": Blind(reason=BlindReason.NOT_FOUND, detail="gone")}, "target", FAIL, "gone", id="no target"
        ),
        pytest.param({}, "bounds", OK, "1 to 8, 2 now", id="bounds"),
        pytest.param({"pods": pods(9)}, "bounds", WARN, "bounds.max_replicas: 9", id="above its maximum"),
        pytest.param({"pods": pods(0)}, "bounds", WARN, "kubectl scale it up once", id="at zero"),
        pytest.param({}, "start time", OK, "100 s to Ready", id="start time"),
        pytest.param({"start_time": timedelta(seconds=999)}, "start time", WARN, "start_time: 999s", id="slow start"),
        pytest.param({"start_time": None}, "start time", SKIPPED, "no Ready pod", id="start unknown"),
        pytest.param(
            {"pods": replace(pods(2), annotations=None)}, "annotations", SKIPPED, "are not heard", id="only its scale"
        ),
        pytest.param({}, "permissions", OK, "suffice to observe", id="permissions"),
        pytest.param(
            {"missing": (LACKING,)},
            "permissions",
            FAIL,
            '- {apiGroups: ["apps"], resources: ["deployments/scale"], verbs: ["patch"]}',
            id="a permission",
        ),
        pytest.param({"missing": (COURTESY,)}, "permissions", OK, "suffice to observe", id="enough without a courtesy"),
        pytest.param({"missing": (COURTESY,)}, "wanted permissions", WARN, "no Event tells", id="a courtesy"),
        pytest.param({"missing": "no CRD"}, "permissions", SKIPPED, "no CRD", id="permissions of an unknown kind"),
        pytest.param({}, "gpus", OK, "1 a replica", id="gpus"),
        pytest.param({"template": replace(TEMPLATE, gpus=4)}, "gpus", WARN, "ask for 4 GPUs", id="other gpus"),
        pytest.param({}, "readiness", OK, "a probe", id="readiness"),
        pytest.param(
            {"template": replace(TEMPLATE, has_readiness_probe=False)}, "readiness", WARN, "/health", id="no probe"
        ),
        pytest.param({}, "drain", OK, "165 s of grace: preStop 15 s, drain 120 s", id="drain"),
        pytest.param({"drain": Drain(grace_s=120.0)}, "drain", WARN, "without a preStop hook", id="no hook"),
        pytest.param({"drain": replace(DRAIN, grace_s=90.0)}, "drain", WARN, "above 135", id="killed in mid-answer"),
        pytest.param({"drain": replace(DRAIN, shutdown_s=None)}, "drain", WARN, "--shutdown-timeout 120", id="cut"),
        pytest.param({"drain": "no pod to see it by"}, "drain", SKIPPED, "no pod", id="no pod to see the drain by"),
        pytest.param({"template": "may not get"}, "readiness", SKIPPED, "may not get", id="a template unseen"),
        pytest.param({}, "other autoscalers", OK, "none points at it", id="alone"),
        pytest.param({"rivals": ABOVE}, "other autoscalers", WARN, "before mode active: delete it", id="a rival"),
        pytest.param({"rivals": None}, "other autoscalers", SKIPPED, "headstart-rivals", id="rivals unseen"),
        pytest.param({}, "gpu quota", OK, "none in its namespace", id="no quota"),
        pytest.param({"gpu_quota": 8}, "gpu quota", OK, "max_replicas takes 8", id="a quota"),
        pytest.param({"gpu_quota": 5}, "gpu quota", WARN, "bounds.max_replicas: 5", id="a quota too small"),
    ],
)
def test_one_target(changes: dict[str, Any], check: str, health: Health, part: str) -> None:
    told(judge_object(a_target_policy(), facts(**changes)), check, health, part)


def a_target_policy(mode: Mode = Mode.OBSERVE) -> WorkloadPolicy:
    bounds = Bounds(min_replicas=1, max_replicas=8)
    return replace(a_policy(), workload="llm/chat", mode=mode, bounds=bounds, start_time=timedelta(minutes=3))


def under_a_floor(desired: int, held: int, ceiling: int = 9) -> WorkloadPods:
    return WorkloadPods(
        replicas=ReplicaState(desired=desired, ready=min(desired, held), held=held, ceiling=ceiling),
        starts=(),
        read_at=NOON,
    )


NO_HPA = Blind(reason=BlindReason.NO_AUTOSCALER, detail="HPA llm/chat does not exist")


@pytest.mark.parametrize(
    ("mode", "changes", "check", "health", "part"),
    [
        pytest.param(
            Mode.ACTIVE, {"rivals": ABOVE}, "other autoscalers", FAIL, "mode floor or publish", id="two writers"
        ),
        pytest.param(Mode.ACTIVE, {}, "permissions", OK, "suffice to observe and scale", id="active"),
        pytest.param(
            Mode.ACTIVE, {"pods": pods(9)}, "bounds", WARN, "it would be scaled in to that / ", id="active above"
        ),
        pytest.param(
            Mode.FLOOR, {"pods": under_a_floor(2, 5)}, "target", OK, "floor of HorizontalPodAutoscaler llm/chat: 2",
            id="floor",
        ),
        pytest.param(Mode.FLOOR, {}, "permissions", OK, "suffice to observe and set the floor", id="floor may"),
        pytest.param(Mode.FLOOR, {"pods": NO_HPA}, "target", FAIL, "in target.floor; or another", id="no autoscaler"),
        pytest.param(Mode.FLOOR, {"pods": under_a_floor(0, 3)}, "bounds", OK, "0 now", id="a floor of zero is no zero"),
        pytest.param(Mode.FLOOR, {"pods": under_a_floor(2, 0)}, "bounds", WARN, "stands at 0", id="off under a floor"),
        pytest.param(Mode.FLOOR, {"pods": under_a_floor(9, 9)}, "bounds", WARN, "would be lowered", id="floor above"),
        pytest.param(
            Mode.FLOOR, {"pods": under_a_floor(2, 5, ceiling=6)}, "bounds", WARN, "bounds.max_replicas: 6", id="ceiling"
        ),
        pytest.param(Mode.FLOOR, {"rivals": ABOVE}, "other autoscalers", OK, "none but Horizontal", id="its own"),
        pytest.param(
            Mode.FLOOR, {"rivals": (*ABOVE, "ScaledObject llm/x")}, "other autoscalers", WARN, "ScaledObject llm/x w",
            id="one beside its own",
        ),
        pytest.param(
            Mode.PUBLISH, {"rivals": ABOVE}, "other autoscalers", OK, "llm/chat writes the replicas", id="publish"
        ),
        pytest.param(
            Mode.PUBLISH, {"rivals": (*ABOVE, "x")}, "other autoscalers", WARN, "keep one", id="two publish readers"
        ),
    ],
)  # fmt: skip
def test_one_target_in_its_mode(mode: Mode, changes: dict[str, Any], check: str, health: Health, part: str) -> None:
    floor = BY_HPA if mode is Mode.FLOOR else None
    told(judge_object(a_target_policy(mode), facts(floor=floor, **changes)), check, health, part)


# ── The account ───────────────────────────────────────────────────────────────────────────────────────────────

CHAT = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
SET = replace(CHAT, kind="StatefulSet")
BY_KEDA = replace(BY_HPA, kind=SCALED_OBJECT)


@pytest.mark.parametrize(
    ("mode", "target", "floor", "features"),
    [
        pytest.param(Mode.OBSERVE, CHAT, None, {Feature.OBSERVE}, id="observe"),
        pytest.param(Mode.PUBLISH, CHAT, None, {Feature.PUBLISH}, id="publish"),
        pytest.param(Mode.ACTIVE, CHAT, None, {Feature.ACTIVE, Feature.EVENTS, Feature.DELETION_COST}, id="active"),
        pytest.param(Mode.ACTIVE, SET, None, {Feature.ACTIVE, Feature.EVENTS}, id="only Deployments mark pods"),
        pytest.param(Mode.FLOOR, CHAT, BY_HPA, {Feature.FLOOR_HPA, Feature.EVENTS}, id="floor of an HPA"),
        pytest.param(Mode.FLOOR, CHAT, BY_KEDA, {Feature.FLOOR_SCALED_OBJECT, Feature.EVENTS}, id="of a ScaledObject"),
    ],
)
def test_what_a_mode_takes(mode: Mode, target: TargetRef, floor: FloorRef | None, features: set[Feature]) -> None:
    purpose = purpose_of(mode, target, floor, deletion_cost=True)
    assert purpose.features == features
    assert (purpose.target, purpose.floor) == (target, floor)
    assert Feature.DELETION_COST not in purpose_of(mode, target, floor, deletion_cost=False).features


LEASE = LeaseRef(namespace="headstart", name="headstart")
MAY_NOT_RENEW = Permission(
    verb="update", group="coordination.k8s.io", resource="leases", namespace="headstart", name="headstart"
)


@pytest.mark.parametrize(
    ("changes", "check", "health", "part"),
    [
        pytest.param({"holder": "headstart-0_3f"}, "lease", OK, "is held by headstart-0_3f", id="held"),
        pytest.param({"holder": ""}, "lease", OK, "is free", id="free"),
        pytest.param({"may_create": True}, "lease", OK, "the first daemon makes it", id="to be made"),
        pytest.param({}, "lease", FAIL, "no daemon would write", id="nobody makes it"),
        pytest.param({"error": "timed out"}, "lease", FAIL, "timed out", id="unreachable"),
        pytest.param({"error": "403", "missing": (MAY_NOT_RENEW,)}, "lease", SKIPPED, "permissions", id="unseen"),
        pytest.param(
            {"holder": "", "missing": (MAY_NOT_RENEW,)},
            "permissions",
            FAIL,
            "--resource=leases.coordination.k8s.io --resource-name=headstart, and bind it",
            id="may not be renewed",
        ),
    ],
)
def test_the_lease(changes: dict[str, Any], check: str, health: Health, part: str) -> None:
    told(judge_lease(LeaseFacts(lease=LEASE, **changes)), check, health, part)


SPARE = PlaceholderRule(placeholder="llm/spare", mode=Mode.ACTIVE, gpus_per_replica=2)


@pytest.mark.parametrize(
    ("changes", "check", "health", "part"),
    [
        pytest.param({}, "placeholders", OK, "Deployment: 1 of at most 4, 1 Ready", id="seen"),
        pytest.param(
            {"replicas": Blind(reason=BlindReason.NOT_FOUND, detail="gone")},
            "placeholders",
            FAIL,
            "gone / apply deploy/placeholders.yaml",
            id="none",
        ),
        pytest.param({}, "permissions", OK, "suffice to scale placeholders", id="permissions"),
        pytest.param({"missing": (LACKING,)}, "permissions", FAIL, "may not patch", id="a permission"),
        pytest.param({}, "gpus", OK, "2 a placeholder", id="gpus"),
        pytest.param({"gpus": 1}, "gpus", WARN, "gpus_per_replica: 1", id="other gpus"),
        pytest.param({"gpus": 0}, "gpus", WARN, "nvidia.com/gpu", id="no gpus"),
        pytest.param({"gpus": "may not get"}, "gpus", SKIPPED, "may not get", id="gpus unseen"),
    ],
)
def test_placeholders(changes: dict[str, Any], check: str, health: Health, part: str) -> None:
    known = PlaceholderFacts(kind="Deployment", replicas=ReplicaState(desired=1, ready=1), missing=(), gpus=2)
    told(judge_placeholders(SPARE, replace(known, **changes)), check, health, part)


@pytest.mark.parametrize(("version", "health"), [((1, 36), OK), ((1, 20), OK), ((1, 19), WARN), (None, OK)], ids=str)
def test_versions(version: tuple[int, int] | None, health: Health) -> None:
    assert judge_version(version).health is health


def test_a_template() -> None:
    container = {"readinessProbe": {}, "resources": {"limits": {"amd.com/gpu": "2"}}}
    spec = {"template": {"spec": {"containers": [container, {}]}}}
    assert template_facts(spec) == TemplateFacts(gpus=2, has_readiness_probe=False)
