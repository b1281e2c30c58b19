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
from scaler.adapters.kubernetes import Permission, WorkloadPods
from scaler.config import Config, parse_config
from scaler.doctor.finding import Finding, Health
from scaler.doctor.host import HostFacts, judge_host
from scaler.doctor.look_cluster import template_facts
from scaler.doctor.look_host import look_host
from scaler.doctor.metrics import ServerFacts, judge_demand, judge_profile, judge_server
from scaler.doctor.objects import ObjectFacts, Rival, TemplateFacts, judge_object, judge_version
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.limits import Bounds
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

TEMPLATE = TemplateFacts(gpus=1, has_readiness_probe=True, grace_s=120, pre_stop_s=15, has_pre_stop=True)


def pods(desired: int, ready: int | None = None) -> WorkloadPods:
    return WorkloadPods(
        replicas=ReplicaState(desired=desired, ready=desired if ready is None else ready), starts=(), read_at=NOON
    )


def facts(**changes: Any) -> ObjectFacts:
    known = ObjectFacts(
        kind="Deployment",
        pods=pods(2),
        start_time=timedelta(seconds=100),
        missing=(),
        template=TEMPLATE,
        rivals=(),
        gpu_quota=None,
    )
    return replace(known, **changes)


LACKING = Permission(verb="patch", group="apps", resource="deployments/scale", namespace="llm")


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
        pytest.param({}, "permissions", OK, "suffice to observe", id="permissions"),
        pytest.param(
            {"missing": (LACKING,)},
            "permissions",
            FAIL,
            '- {apiGroups: ["apps"], resources: ["deployments/scale"], verbs: ["patch"]}',
            id="a permission",
        ),
        pytest.param({}, "gpus", OK, "1 a replica", id="gpus"),
        pytest.param({"template": replace(TEMPLATE, gpus=4)}, "gpus", WARN, "ask for 4 GPUs", id="other gpus"),
        pytest.param({}, "readiness", OK, "a probe", id="readiness"),
        pytest.param(
            {"template": replace(TEMPLATE, has_readiness_probe=False)}, "readiness", WARN, "/health", id="no probe"
        ),
        pytest.param({}, "termination", OK, "120 s of grace", id="termination"),
        pytest.param(
            {"template": replace(TEMPLATE, has_pre_stop=False, pre_stop_s=None)},
            "termination",
            WARN,
            "no preStop hook",
            id="no hook",
        ),
        pytest.param(
            {"template": replace(TEMPLATE, grace_s=10)},
            "termination",
            FAIL,
            "terminationGracePeriodSeconds: 75",
            id="a hook that outlasts the grace",
        ),
        pytest.param({"template": "may not get"}, "readiness", SKIPPED, "may not get", id="a template unseen"),
        pytest.param({}, "other autoscalers", OK, "none points at it", id="alone"),
        pytest.param(
            {"rivals": (Rival(kind="ScaledObject", name="x"),)},
            "other autoscalers",
            WARN,
            "kubectl -n llm delete scaledobject x",
            id="a rival",
        ),
        pytest.param({"rivals": "may not list"}, "other autoscalers", SKIPPED, "may not list", id="rivals unseen"),
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


def test_a_rival_of_an_active_workload_fails() -> None:
    rivals = (Rival(kind="HorizontalPodAutoscaler", name="x"),)
    told(judge_object(a_target_policy(Mode.ACTIVE), facts(rivals=rivals)), "other autoscalers", FAIL, "two would fight")


@pytest.mark.parametrize(("version", "health"), [((1, 36), OK), ((1, 20), OK), ((1, 19), WARN), (None, OK)], ids=str)
def test_versions(version: tuple[int, int] | None, health: Health) -> None:
    assert judge_version(version).health is health


@pytest.mark.parametrize(
    ("hook", "seconds"),
    [
        pytest.param({"sleep": {"seconds": 20}}, 20, id="sleep"),
        pytest.param({"exec": {"command": ["sh", "-c", "sleep 15; drain"]}}, 15, id="a command"),
        pytest.param({"httpGet": {"path": "/drain"}}, None, id="something else"),
    ],
)
def test_how_long_a_hook_sleeps(hook: dict[str, Any], seconds: int | None) -> None:
    container = {"lifecycle": {"preStop": hook}, "readinessProbe": {}, "resources": {"limits": {"amd.com/gpu": "2"}}}
    spec = {"template": {"spec": {"containers": [container, {}], "terminationGracePeriodSeconds": 90}}}
    assert template_facts(spec) == TemplateFacts(
        gpus=2, has_readiness_probe=False, grace_s=90, pre_stop_s=seconds, has_pre_stop=True
    )
