"""What is recognised as vLLM, and what is proposed for it.

Properties: any proposal, whatever a cluster says of itself, is written as a file that `headstart validate` takes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.sources.selector import WorkloadSelector
from policy_cases import NOON
from scaler.adapters.kubernetes import PodPhase, PodStart, WorkloadPods
from scaler.config import parse_config
from scaler.onboarding.candidates import Candidate, LeftOut, recognise
from scaler.onboarding.cluster import start_time_of
from scaler.onboarding.metrics import Engine, Tie, candidates_from
from scaler.onboarding.proposal import bounds_around, nearest_profile, propose
from scaler.onboarding.settings_text import Surroundings, settings_text
from scaler.policy.types import Mode, ReplicaState

SHIPPED = {"llama-3.1-8b-h100": 1, "qwen3-32b-h100x2": 2, "qwen3-vl-2b-24gb": 1}


def an_object(*containers: dict[str, Any], replicas: int = 2, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "llm", "name": "chat", **metadata},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": list(containers)}}},
    }


def gpus(count: int = 1, name: str = "nvidia.com/gpu") -> dict[str, Any]:
    return {"resources": {"limits": {name: str(count)}}}


def found(item: dict[str, Any]) -> Candidate | None:
    candidates, _ = recognise([item], api_version="apps/v1", kind="Deployment")
    return candidates[0] if candidates else None


@pytest.mark.parametrize(
    ("container", "model", "names"),
    [
        pytest.param({"image": "vllm/vllm-openai:v0.32", "args": ["--model", "org/a"]}, "org/a", ("org/a",), id="image"),
        pytest.param({"image": "registry/own:1", "command": ["vllm", "serve", "org/a"]}, "org/a", ("org/a",), id="serve"),
        pytest.param(
            {"image": "own", "command": ["/opt/venv/bin/vllm"], "args": ["serve", "org/a", "--served-model-name=chat"]},
            "org/a",
            ("chat",),
            id="a path to vllm, a served name",
        ),
        pytest.param(
            {"image": "own", "command": ["sh", "-c"], "args": ["exec vllm serve org/a --served-model-name chat big --port 80"]},
            "org/a",
            ("chat", "big"),
            id="a line for a shell",
        ),
        pytest.param(
            {"image": "own", "command": ["python", "-m", "vllm.entrypoints.openai.api_server", "--model=org/a"]},
            "org/a",
            ("org/a",),
            id="the module",
        ),
        pytest.param(
            {"image": "own", "args": ["--model", "org/a"], "ports": [{"containerPort": 8000}], **gpus()},
            "org/a",
            ("org/a",),
            id="neither name, but model, port and GPUs",
        ),
        pytest.param({"image": "vllm", "args": ["--model", "$(MODEL)"]}, "", (), id="a variable is no model"),
        pytest.param({"image": "vllm", "command": ["sh", "-c", "vllm 'serve"]}, "", (), id="a broken line"),
    ],
)  # fmt: skip
def test_it_is_recognised(container: dict[str, Any], model: str, names: tuple[str, ...]) -> None:
    candidate = found(an_object(container))
    assert candidate is not None
    assert (candidate.model, candidate.model_names) == (model, names)
    assert candidate.evidence


@pytest.mark.parametrize(
    ("item", "left"),
    [
        pytest.param(an_object({"image": "nginx", "ports": [{"containerPort": 8000}]}), [], id="a port is nothing"),
        pytest.param(an_object({"image": "trainer", **gpus(8)}), ["holds 8 GPUs"], id="GPUs for something else"),
        pytest.param(
            an_object({"image": "vllm"}, ownerReferences=[{"controller": True, "kind": "LeaderWorkerSet"}]),
            [],
            id="what another object owns",
        ),
        pytest.param({"metadata": {"namespace": "llm", "name": "x"}, "spec": {}}, [], id="nothing in it"),
    ],
)
def test_it_is_not_taken(item: dict[str, Any], left: list[str]) -> None:
    candidates, left_out = recognise([item], api_version="apps/v1", kind="Deployment")
    assert candidates == []
    assert [each.reason[: len(text)] for each, text in zip(left_out, left, strict=True)] == left


@pytest.mark.parametrize(
    ("containers", "count"),
    [
        pytest.param([{"image": "vllm", **gpus(2)}], 2, id="one container"),
        pytest.param([{"image": "vllm", **gpus(1, "amd.com/gpu")}, {"image": "side", **gpus(1)}], 2, id="a side-car's"),
        pytest.param([{"image": "vllm", **gpus(3, "nvidia.com/mig-1g.10gb")}], 3, id="slices"),
        pytest.param([{"image": "vllm"}], 0, id="none"),
    ],
)
def test_gpus_of_a_replica(containers: list[dict[str, Any]], count: int) -> None:
    candidate = found(an_object(*containers))
    assert candidate is not None
    assert candidate.gpus == count


def test_a_group_of_pods_holds_what_its_leader_and_its_workers_hold() -> None:
    group = {
        "size": 4,
        "leaderTemplate": {"spec": {"containers": [{"image": "vllm", **gpus(2)}]}},
        "workerTemplate": {"spec": {"containers": [{"image": "vllm", **gpus(8)}]}},
    }
    item = {"metadata": {"namespace": "llm", "name": "big"}, "spec": {"replicas": 1, "leaderWorkerTemplate": group}}
    ((candidate,), _) = recognise([item], api_version="leaderworkerset.x-k8s.io/v1", kind="LeaderWorkerSet")
    assert candidate.gpus == 2 + 3 * 8


@pytest.mark.parametrize(
    ("model", "gpus", "name"),
    [
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 1, "llama-3.1-8b-h100", id="same model"),
        pytest.param("meta-llama/Meta-Llama-3.1-8B", 1, "llama-3.1-8b-h100", id="an older name of it"),
        pytest.param("meta-llama/Llama-3.1-8B-Instruct", 2, None, id="on more GPUs"),
        pytest.param("meta-llama/Llama-3.1-70B-Instruct", 1, None, id="another size"),
        pytest.param("Qwen/Qwen3-32B", 2, "qwen3-32b-h100x2", id="two cards"),
        pytest.param("Qwen/Qwen3-VL-2B-Instruct", 0, "qwen3-vl-2b-24gb", id="GPUs unknown"),
        pytest.param("/models/qwen3_vl_2b", 1, "qwen3-vl-2b-24gb", id="a path"),
        pytest.param("xqwen3-32b", 2, None, id="part of another word"),
        pytest.param("", 1, None, id="no model"),
    ],
)
def test_the_nearest_shipped_profile(model: str, gpus: int, name: str | None) -> None:
    assert nearest_profile(model, gpus, SHIPPED) == name


def test_a_rate_that_was_seen_is_better_than_none() -> None:
    candidate = Candidate(namespace="llm", name="chat", api_version="apps/v1", kind="Deployment", replicas=4, gpus=1)
    seen = propose(candidate, Tie(best_rps=9.03), SHIPPED).profile
    assert seen.max_rps == 2.26
    assert "lower bound" in seen.reason
    assert "PLACEHOLDER" in propose(candidate, Tie(), SHIPPED).profile.reason
    assert "PLACEHOLDER" in propose(candidate, Tie(best_rps=0.001), SHIPPED).profile.reason, "idle is no capacity"


@pytest.mark.parametrize(("replicas", "bounds"), [(0, (1, 2)), (1, (1, 2)), (3, (2, 6)), (6, (3, 12))])
def test_bounds_lie_around_the_present_scale(replicas: int, bounds: tuple[int, int]) -> None:
    assert bounds_around(replicas) == bounds


def test_the_start_time_is_the_pods_own() -> None:
    def start(seconds: int | None, phase: PodPhase = PodPhase.READY) -> PodStart:
        ready_at = None if seconds is None else NOON + timedelta(seconds=seconds)
        return PodStart(name="p", uid=str(seconds), created_at=NOON, phase=phase, ready_at=ready_at)

    def pods(*starts: PodStart) -> WorkloadPods:
        return WorkloadPods(replicas=ReplicaState(desired=3, ready=3), starts=starts, read_at=NOON)

    flapped = start(9 * 3600)
    assert start_time_of(pods(start(90), start(130), start(131), flapped)) == timedelta(seconds=130)
    assert start_time_of(pods(start(None, PodPhase.STARTING), flapped)) is None


def test_engines_are_gathered_by_what_their_pods_belong_to() -> None:
    engines = [
        Engine(namespace="llm", pod="chat-7d9f8b6c5d-x2x4z", model_name="a"),
        Engine(namespace="llm", pod="chat-7d9f8b6c5d-abcde", model_name="a"),
        Engine(namespace="llm", pod="set-0", model_name="b"),
        Engine(namespace="", pod="", model_name="org/Big_Model"),
    ]
    found = [(each.workload, each.kind, each.replicas, each.model_names) for each in candidates_from(engines)]
    assert found == [
        ("default/big-model", "Deployment", 1, ("org/Big_Model",)),
        ("llm/chat", "Deployment", 2, ("a",)),
        ("llm/set", "StatefulSet", 1, ("b",)),
    ]


HOSTILE = st.text(max_size=30) | st.sampled_from(['x"\n    mode: active', "# no", "…", "\u2028", "a: b", "'", "{", "%"])


@given(
    model=HOSTILE,
    evidence=HOSTILE,
    problem=HOSTILE,
    reason=HOSTILE,
    replicas=st.integers(0, 500),
    held=st.integers(0, 64),
    start_s=st.none() | st.floats(0, 3600),
    best=st.none() | st.floats(0, 1e6),
    kind=st.sampled_from(["Deployment", "StatefulSet", "LeaderWorkerSet"]),
    url=st.sampled_from([None, "http://p:9090", "https://p/a?b=%20"]),
)
def test_whatever_a_cluster_says_the_file_is_valid_and_observes(
    model: str,
    evidence: str,
    problem: str,
    reason: str,
    replicas: int,
    held: int,
    start_s: float | None,
    best: float | None,
    kind: str,
    url: str | None,
) -> None:
    candidate = Candidate(
        namespace="llm",
        name="chat",
        api_version="apps/v1",
        kind=kind,
        replicas=replicas,
        gpus=held,
        model=model,
        evidence=(evidence,),
        start_time=None if start_s is None else timedelta(seconds=start_s),
    )
    labels = (("model_name", model),) if model.isprintable() and model else ()
    selector = WorkloadSelector(workload="llm/chat", labels=labels)
    first = propose(candidate, Tie(selector=selector, best_rps=best, problem=problem), SHIPPED)
    second = replace(first, candidate=replace(candidate, name="code"), selector=None)
    text = settings_text([first, second], [LeftOut(workload="a/b", reason=reason)], Surroundings(prometheus=url))
    config = parse_config(text, Path("headstart.yaml"))
    assert [policy.workload for policy in config.fleet.workloads] == ["llm/chat", "llm/code"]
    assert {policy.mode for policy in config.fleet.workloads} == {Mode.OBSERVE}
    assert config.selectors["llm/chat"].labels == dict(labels)
