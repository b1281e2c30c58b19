"""Pods marked before a scale-in, on the double: who is really removed, how little is written, and what may fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kube_double import KubeDouble, Rule, workload
from policy_cases import NOON
from scaler.adapters.kubernetes import HPA, ApiConnection, FloorRef, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.kubernetes.victims import COST, MARK, Marking, VictimMarker
from scaler.adapters.targets import KubernetesTargets
from scaler.policy.types import Decision, Reason
from scaler.ports import OutcomeKind

CHAT = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")


@dataclass
class Busy:
    """Requests in flight by pod; a pod that is not named is unknown."""

    requests: dict[str, float] = field(default_factory=dict)

    def __call__(self, namespace: str, pods: Sequence[str]) -> Mapping[str, float]:
        return {pod: self.requests[pod] for pod in pods if pod in self.requests}


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=1)
        for replicas in (2, 3, 4):  # one second apart and more: ages are whole seconds
            double.advance(2)
            double.set_replicas("llm", "chat", replicas)
        double.advance(2)
        yield double


@pytest.fixture
def busy(double: KubeDouble) -> Busy:
    """The second pod serves nothing, all others two requests."""
    return Busy({name: 0.0 if place == 1 else 2.0 for place, name in enumerate(names(double))})


def names(double: KubeDouble) -> list[str]:
    """The workload's live pods, oldest first."""
    pods = [pod for pod in double.pods("llm", "chat") if "deletionTimestamp" not in pod["metadata"]]
    return sorted(pod["metadata"]["name"] for pod in pods)


def marks(double: KubeDouble) -> dict[str, str]:
    return {
        pod["metadata"]["name"]: pod["metadata"]["annotations"][COST]
        for pod in double.pods("llm", "chat")
        if COST in pod["metadata"]["annotations"]
    }


def marker(double: KubeDouble, folder: Path, busy: Busy, *, token: str | None = None) -> VictimMarker:
    return VictimMarker(ApiConnection(Kubeconfig(path=double.kubeconfig(folder, token=token))), busy)


def scaled_in(double: KubeDouble, victims: VictimMarker, folder: Path, *, target: int) -> str:
    """Scale from four to `target` through the loop's port; answers the outcome's words."""
    cluster = KubernetesCluster(ApiConnection(Kubeconfig(path=double.kubeconfig(folder))))
    decision = Decision(workload="llm/chat", at=NOON, current=4, target=target, reason=Reason.LOAD)
    outcome = KubernetesTargets(cluster, {"llm/chat": CHAT}, victims=victims).scale(decision)
    assert outcome.kind is OutcomeKind.SCALED
    double.advance(2)
    return outcome.detail


def test_the_idle_pod_is_the_one_that_goes(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    _, idle, *_ = before = names(double)
    detail = scaled_in(double, marker(double, tmp_path, busy), tmp_path, target=3)
    assert names(double) == [name for name in before if name != idle]
    assert detail == f"4 → 3; first to go: {idle}"
    assert marks(double) == {}


def test_without_metrics_the_youngest_go(double: KubeDouble, tmp_path: Path) -> None:
    before = names(double)
    scaled_in(double, marker(double, tmp_path, Busy()), tmp_path, target=2)
    assert names(double) == before[:2]


def test_a_scale_out_marks_nobody(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    scaled_in(double, marker(double, tmp_path, busy), tmp_path, target=5)
    assert not [each for each in double.requests if each.path.endswith("/pods") or "/pods/" in each.path]


def test_a_floor_that_is_lowered_marks_nobody(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    """The autoscaler above says how many go, and when."""
    double.hpa("llm", "chat", least=4, most=9)
    cluster = KubernetesCluster(ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path))))
    floors = {"llm/chat": FloorRef(namespace="llm", kind=HPA, name="chat")}
    targets = KubernetesTargets(cluster, {"llm/chat": CHAT}, floors, victims=marker(double, tmp_path, busy))
    decision = Decision(workload="llm/chat", at=NOON, current=4, target=3, reason=Reason.LOAD)
    assert targets.scale(decision).detail == "floor 4 → 3"
    assert marks(double) == {}


def test_only_what_changes_is_written_and_old_marks_are_taken_back(
    double: KubeDouble, tmp_path: Path, busy: Busy
) -> None:
    """A release of two is marked and then refused; a release of one marks another pod, and unmarks the first two."""
    victims = marker(double, tmp_path, busy)
    first, idle, third, last = names(double)
    assert victims.mark(CHAT, leaving=2).pods[0] == idle
    assert marks(double)[idle] == "-2"
    busy.requests |= {first: 0.0, idle: 3.0, third: 3.0, last: 3.0}
    sent = double.mutating_requests
    assert victims.mark(CHAT, leaving=1) == Marking(pods=(first,))
    assert marks(double) == {first: "-1"}
    assert double.mutating_requests == sent + 3
    assert victims.mark(CHAT, leaving=1) == Marking(pods=(first,))
    assert double.mutating_requests == sent + 3, "it stands there already"


def test_another_ones_cost_is_never_touched(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    _, idle, third, *_ = names(double)
    for pod in double.pods("llm", "chat"):
        if pod["metadata"]["name"] == idle:
            double.edit_pod(pod, metadata={"annotations": {**pod["metadata"]["annotations"], COST: "100"}})
    busy.requests[third] = 1.0
    assert marker(double, tmp_path, busy).mark(CHAT, leaving=1).pods == (third,)
    assert marks(double) == {idle: "100", third: "-1"}
    assert all(
        MARK in pod["metadata"]["annotations"] for pod in double.pods("llm", "chat") if pod["metadata"]["name"] == third
    )


def test_without_the_permission_the_release_happens_all_the_same(
    double: KubeDouble, tmp_path: Path, busy: Busy
) -> None:
    token = double.account(
        "reader", Rule(verbs=("get", "list"), groups=("", "apps"), resources=("pods", "deployments/scale"))
    )
    (tmp_path / "limited").mkdir()
    victims = marker(double, tmp_path / "limited", busy, token=token)
    (tmp_path / "admin").mkdir()
    detail = scaled_in(double, victims, tmp_path / "admin", target=3)
    assert double.replicas("llm", "chat") == 3
    assert 'resources: ["pods"], verbs: ["patch"]' in detail
    assert detail.startswith("4 → 3; pods not marked: ")


def test_a_pod_that_went_by_itself_is_passed_over(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    double.fault(method="PATCH", path="/pods/", status=404)
    marking = marker(double, tmp_path, busy).mark(CHAT, leaving=2)
    assert (len(marking.pods), marking.failed) == (1, "")


@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_refuses_is_told_in_words(double: KubeDouble, tmp_path: Path, busy: Busy, status: int) -> None:
    double.fault(method="GET", path="/pods$", status=status)
    assert marker(double, tmp_path, busy).mark(CHAT, leaving=1).failed.startswith("list pods llm")


def test_other_kinds_do_not_look_at_the_cost(double: KubeDouble, tmp_path: Path, busy: Busy) -> None:
    double.create("statefulsets", workload("StatefulSet", "llm", "set", replicas=2))
    target = TargetRef(namespace="llm", api_version="apps/v1", kind="StatefulSet", name="set")
    asked = len(double.requests)
    assert marker(double, tmp_path, busy).mark(target, leaving=1) == Marking()
    assert len(double.requests) == asked
