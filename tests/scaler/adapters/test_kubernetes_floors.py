"""Stories of mode floor, told against the strict API double: one field of one object is written, and nothing else.

The rules they hold: never above the autoscaler's own maximum, never over a value that the decision did not see, never
on an autoscaler that scales something else; and what cannot be read is blind, for that workload alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason
from kube_double import KubeDouble, Rule
from scaler.adapters.kubernetes import (
    HPA,
    SCALED_OBJECT,
    ApiConnection,
    FloorRef,
    Kubeconfig,
    KubernetesCluster,
    ScaleResult,
    ServerAddress,
    TargetRef,
)
from scaler.adapters.kubernetes.errors import Forbidden, Invalid, NoAutoscaler, Unavailable
from scaler.adapters.kubernetes.floors import Floor, beneath
from scaler.policy.types import ReplicaState

CHAT = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
BY_HPA = FloorRef(namespace="llm", kind=HPA, name="chat")
BY_KEDA = FloorRef(namespace="llm", kind=SCALED_OBJECT, name="chat")


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=16, start_time_s=120) as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=6)
        double.advance(120)
        yield double


@pytest.fixture
def cluster(double: KubeDouble, tmp_path: Path) -> Iterator[KubernetesCluster]:
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), timeout_s=60)
    yield KubernetesCluster(api)
    api.close()


def read(cluster: KubernetesCluster, double: KubeDouble, floor: FloorRef = BY_HPA) -> ReplicaState | Blind:
    return cluster.read([CHAT], now=double.now, floors={CHAT: floor})[CHAT]


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_floor_is_the_scale_and_the_pods_up_to_it_count(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=4, most=12)
    assert read(cluster, double) == ReplicaState(desired=4, ready=4, held=6, ceiling=12)


def test_a_scaled_object_without_a_minimum_has_none(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.scaled_object("llm", "chat")
    assert read(cluster, double, BY_KEDA) == ReplicaState(desired=0, ready=0, held=6, ceiling=100)


@given(counts=st.tuples(*[st.integers(0, 9)] * 4), spare=st.integers(0, 3), least=st.integers(0, 60))
def test_what_counts_beneath_a_floor_never_exceeds_it_and_prefers_the_best(
    counts: tuple[int, int, int, int], spare: int, least: int
) -> None:
    ready, starting, unschedulable, failed = counts
    there = ReplicaState(
        desired=sum(counts) + spare, ready=ready, starting=starting, unschedulable=unschedulable, failed=failed
    )
    seen = beneath(there, Floor(replicas=least, most=99, uid="u", version="1"))
    assert seen.ready == min(ready, least)
    assert seen.ready + seen.starting + seen.unschedulable + seen.failed == min(sum(counts), least)
    assert (seen.desired, seen.held, seen.taken) == (least, there.desired, max(least, there.desired))


@pytest.mark.parametrize(
    ("prepare", "floor", "words"),
    [
        pytest.param(lambda d: None, BY_HPA, "does not exist: create it, or name", id="missing"),
        pytest.param(lambda d: None, BY_KEDA, "ScaledObject llm/chat does not exist", id="no scaled object"),
        pytest.param(
            lambda d: d.hpa("llm", "chat", target="embed"), BY_HPA, "scales Deployment embed, not", id="another's"
        ),
        pytest.param(
            lambda d: d.create(
                "horizontalpodautoscalers",
                {
                    "metadata": {
                        "name": "chat",
                        "namespace": "llm",
                        "ownerReferences": [{"kind": "ScaledObject", "name": "chat-keda", "controller": True}],
                    },
                    "spec": {
                        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
                        "maxReplicas": 9,
                    },
                },
            ),
            BY_HPA,
            "kept by ScaledObject chat-keda",
            id="KEDA's own HPA",
        ),
    ],
)
def test_an_autoscaler_that_is_not_above_the_workload_blinds_it_and_says_what_to_do(
    cluster: KubernetesCluster,
    double: KubeDouble,
    prepare: Callable[[KubeDouble], object],
    floor: FloorRef,
    words: str,
) -> None:
    prepare(double)
    embed = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="embed")
    double.deployment("llm", "embed", replicas=1)
    seen = cluster.read([CHAT, embed], now=double.now, floors={CHAT: floor})
    blind = seen[CHAT]
    assert isinstance(blind, Blind)
    assert blind.reason is BlindReason.NO_AUTOSCALER
    assert words in blind.detail
    assert isinstance(seen[embed], ReplicaState)
    with pytest.raises(NoAutoscaler):
        cluster.set_floor(floor, CHAT, 5, expected=1)
    assert double.mutating_requests == 0


def test_an_hpa_that_may_not_be_read_is_forbidden_with_the_rule(double: KubeDouble, tmp_path: Path) -> None:
    token = tmp_path / "limited"
    rules = (
        Rule(verbs=("get",), groups=("apps",), resources=("deployments/scale",)),
        Rule(verbs=("list",), groups=("",), resources=("pods",)),
    )
    token.write_text(double.account("limited", *rules))
    double.hpa("llm", "chat")
    blind = read(KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token))), double)
    assert isinstance(blind, Blind)
    assert blind.reason is BlindReason.FORBIDDEN
    assert '- {apiGroups: ["autoscaling"], resources: ["horizontalpodautoscalers"], verbs: ["get"]}' in blind.detail


# ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [HPA, SCALED_OBJECT])
def test_raising_a_floor_is_one_signed_write_and_the_autoscaler_does_the_rest(
    cluster: KubernetesCluster, double: KubeDouble, kind: str
) -> None:
    if kind == HPA:
        floor, plural = BY_HPA, "horizontalpodautoscalers"
        double.hpa("llm", "chat", least=2, most=12)
    else:
        floor, plural = BY_KEDA, "scaledobjects"
        double.scaled_object("llm", "chat", minReplicaCount=2, maxReplicaCount=12)
    outcome = cluster.set_floor(floor, CHAT, 8, expected=2)
    assert (outcome.result, outcome.found, outcome.replicas, outcome.floor) == (ScaleResult.SCALED, 2, 8, True)
    assert (double.floor("llm", "chat", plural), double.replicas("llm", "chat")) == (8, 8)
    [written] = [request for request in double.requests if request.mutates]
    assert (written.method, written.query["fieldManager"]) == ("PATCH", "headstart")
    assert set(written.body["spec"]) == {"minReplicas" if kind == HPA else "minReplicaCount"}
    assert {"resourceVersion", "uid"} == set(written.body["metadata"])


def test_a_lowered_floor_takes_no_replica_away(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=5, most=12)
    assert cluster.set_floor(BY_HPA, CHAT, 2, expected=5).result is ScaleResult.SCALED
    assert (double.floor("llm", "chat"), double.replicas("llm", "chat")) == (2, 6)


def test_above_its_maximum_nothing_is_sent(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=2, most=6)
    with pytest.raises(Invalid, match="above its maxReplicas of 6; raise that, or lower"):
        cluster.set_floor(BY_HPA, CHAT, 7, expected=2)
    assert double.mutating_requests == 0


def test_a_floor_that_somebody_else_set_is_left_alone(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=3, most=12)
    outcome = cluster.set_floor(BY_HPA, CHAT, 8, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, 3)
    assert double.mutating_requests == 0


def test_a_change_of_something_else_of_the_hpa_is_tried_again(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=2, most=12)
    double.fault(
        method="PATCH", then=lambda: double.set_spec("horizontalpodautoscalers", "llm", "chat", maxReplicas=20)
    )
    assert cluster.set_floor(BY_HPA, CHAT, 8, expected=2).result is ScaleResult.SCALED
    assert [request.status for request in double.requests if request.mutates] == [409, 200]


def test_an_answer_that_was_lost_counts_as_done_and_one_that_never_was_does_not(
    cluster: KubernetesCluster, double: KubeDouble
) -> None:
    double.hpa("llm", "chat", least=2, most=12)
    double.fault(method="PATCH", drop="after")
    assert cluster.set_floor(BY_HPA, CHAT, 4, expected=2).result is ScaleResult.SCALED
    double.fault(method="PATCH", drop="before")
    with pytest.raises(Unavailable):
        cluster.set_floor(BY_HPA, CHAT, 5, expected=4)
    assert double.floor("llm", "chat") == 4


def test_a_refusal_of_kedas_webhook_is_not_told_as_a_missing_permission(
    cluster: KubernetesCluster, double: KubeDouble
) -> None:
    double.scaled_object("llm", "chat", minReplicaCount=3, maxReplicaCount=9, idleReplicaCount=2)
    with pytest.raises(Invalid, match="IdleReplicaCount=2 must be less than MinReplicaCount=1") as caught:
        cluster.set_floor(BY_KEDA, CHAT, 1, expected=3)
    assert not isinstance(caught.value, Forbidden)


def test_missing_permissions_name_the_autoscaler(double: KubeDouble, tmp_path: Path) -> None:
    token = tmp_path / "limited"
    token.write_text(double.account("limited", Rule(verbs=("get", "list"), groups=("*",), resources=("*",))))
    limited = KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token)))
    missing = limited.missing_permissions([CHAT], {BY_HPA.feature})
    assert [(each.verb, each.group, each.resource) for each in missing] == [
        ("patch", "autoscaling", "horizontalpodautoscalers")
    ]
