"""How a pod ends, read from its manifest, and what is said of one that would be killed in mid-answer."""

from __future__ import annotations

from typing import Any

import pytest

from inference.manifests import PRE_STOP_S
from kube_double import KubeDouble
from scaler.adapters.kubernetes import ApiConnection, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.kubernetes.drain import Drain, drain_of


def a_pod(*, grace: int | None = None, pre_stop: Any = None, command: Any = None, args: Any = None) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "server"}
    container |= {"command": command} if command else {}
    container |= {"args": args} if args else {}
    container |= {"lifecycle": {"preStop": pre_stop}} if pre_stop else {}
    spec: dict[str, Any] = {"containers": [container]}
    return {"spec": spec | ({} if grace is None else {"terminationGracePeriodSeconds": grace})}


SLEEPS = {"sleep": {"seconds": 15}}
DRAINS = ["vllm", "serve", "model", "--shutdown-timeout", "120"]


@pytest.mark.parametrize(
    ("pod", "drain", "trouble"),
    [
        pytest.param(a_pod(), Drain(grace_s=30.0), "", id="says nothing, and is no vLLM"),
        pytest.param(a_pod(grace=165, pre_stop=SLEEPS, command=DRAINS), Drain(grace_s=165.0, pre_stop_s=15.0, shutdown_s=120.0, has_pre_stop=True), "", id="as our manifests"),
        pytest.param(
            a_pod(grace=135, pre_stop=SLEEPS, args=["serve", "--shutdown-timeout=120"]),
            Drain(grace_s=135.0, pre_stop_s=15.0, shutdown_s=120.0, has_pre_stop=True),
            "requests in flight are killed after 135 s: preStop takes 15 s, the engine's drain up to 120 s",
            id="grace only as long as both",
        ),
        pytest.param(
            a_pod(command=["sh", "-c", "exec vllm serve m --shutdown-timeout 60"]),
            Drain(grace_s=30.0, shutdown_s=60.0),
            "requests in flight are killed after 30 s: preStop takes 0 s, the engine's drain up to 60 s",
            id="the default grace",
        ),
        pytest.param(
            a_pod(grace=60, args=["vllm serve m"]),
            Drain(grace_s=60.0, shutdown_s=None),
            "requests in flight are cut at SIGTERM: the engine has no --shutdown-timeout",
            id="a vLLM that does not drain",
        ),
        pytest.param(
            a_pod(grace=10, pre_stop={"exec": {"command": ["sh", "-c", "sleep 15 && kill 1"]}}),
            Drain(grace_s=10.0, pre_stop_s=15.0, has_pre_stop=True),
            "requests in flight are killed after 10 s: preStop takes 15 s, the engine's drain up to 0 s",
            id="a preStop longer than the grace",
        ),
        pytest.param(a_pod(grace=60, pre_stop={"httpGet": {"path": "/drain"}}), Drain(grace_s=60.0, has_pre_stop=True), "", id="a hook that does something else"),
        pytest.param(a_pod(grace=20, pre_stop={"exec": {"command": ["sleep", "15"]}}), Drain(grace_s=20.0, pre_stop_s=15.0, has_pre_stop=True), "", id="a plain sleep"),
    ],
)  # fmt: skip
def test_drain(pod: dict[str, Any], drain: Drain, trouble: str) -> None:
    assert drain_of(pod) == drain
    assert drain.trouble == trouble
    assert PRE_STOP_S == 15


@pytest.mark.parametrize(
    ("drain", "fix"),
    [
        (Drain(grace_s=30.0, pre_stop_s=15.0, shutdown_s=120.0), "set terminationGracePeriodSeconds above 135"),
        (
            Drain(grace_s=30.0, shutdown_s=None),
            "add --shutdown-timeout 120 to vllm serve, and terminationGracePeriodSeconds above it",
        ),
    ],
)
def test_the_fix(drain: Drain, fix: str) -> None:
    assert drain.fix == fix


def test_it_is_told_in_one_line() -> None:
    drain = Drain(grace_s=165.0, pre_stop_s=15.0, shutdown_s=120.0, has_pre_stop=True)
    assert str(drain) == "165 s of grace: preStop 15 s, drain 120 s"
    assert str(Drain(grace_s=30.0, shutdown_s=None)) == "30 s of grace: preStop 0 s, drain none"


def test_the_cluster_reads_it_of_the_newest_pod(tmp_path: Any) -> None:
    target = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
    with KubeDouble() as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=0)
        cluster = KubernetesCluster(ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path))))
        assert cluster.drain(target) is None
        double.set_replicas("llm", "chat", 1)
        double.advance(2)
        assert cluster.drain(target) == Drain(grace_s=30.0)
