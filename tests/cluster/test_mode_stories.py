"""Stories of the modes on a whole cluster: a floor beneath an HPA, what is discovered, what a quota refuses.

They hold on the API double as on a real one, and ask nothing of an HPA but that its API server keeps and checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from forecaster.types import Blind, BlindReason
from scaler.adapters.kubernetes import HPA, FloorRef, KubernetesCluster, ScaleResult
from scaler.adapters.kubernetes.annotated import annotated_in
from scaler.adapters.kubernetes.errors import Forbidden, Invalid
from scaler.policy.types import ReplicaState

if TYPE_CHECKING:
    from conftest import Stage


def test_a_floor_is_raised_by_an_account_that_may_not_scale(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    floor = stage.autoscale(chat, least=1, most=4)
    cluster = stage.account("headstart-floor")
    seen = cluster.read([chat], now=stage.now, floors={chat: floor})[chat]
    assert isinstance(seen, ReplicaState), seen
    assert (seen.desired, seen.held, seen.ceiling) == (1, 1, 4)

    with pytest.raises(Forbidden, match="deployments/scale"):
        cluster.scale(chat, 3, expected=1)

    outcome = cluster.set_floor(floor, chat, 2, expected=1)
    assert outcome.result is ScaleResult.SCALED
    assert cluster.announce(chat, outcome, note="a peak is coming", now=stage.now) is None
    kept = stage.autoscaler(floor)
    assert (kept["spec"]["minReplicas"], kept["spec"]["maxReplicas"]) == (2, 4)
    signed = [each["manager"] for each in kept["metadata"]["managedFields"] if "f:minReplicas" in str(each)]
    assert signed == ["headstart"]
    assert [event["reason"] for event in stage.events(chat)] == ["FloorRaised"]

    assert cluster.set_floor(floor, chat, 3, expected=1).result is ScaleResult.CONFLICT


def test_a_floor_above_the_maximum_is_refused_before_the_server_does(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    floor = stage.autoscale(chat, least=1, most=2)
    cluster = KubernetesCluster(stage.admin)
    with pytest.raises(Invalid, match="above its maxReplicas of 2"):
        cluster.set_floor(floor, chat, 3, expected=1)
    assert stage.autoscaler(floor)["spec"]["minReplicas"] == 1


def test_an_hpa_of_another_workload_is_no_floor(stage: Stage) -> None:
    chat, embed = stage.deploy("chat", replicas=1), stage.deploy("embed", replicas=1)
    floor = stage.autoscale(embed, least=1, most=4)
    missing = FloorRef(namespace=stage.namespace, kind=HPA, name="chat")
    cluster = KubernetesCluster(stage.admin)
    for wrong, words in ((floor, "scales Deployment embed, not"), (missing, "does not exist")):
        seen = cluster.read([chat], now=stage.now, floors={chat: wrong})[chat]
        assert isinstance(seen, Blind)
        assert seen.reason is BlindReason.NO_AUTOSCALER
        assert words in seen.detail


def test_another_autoscaler_on_the_same_deployment_is_seen(stage: Stage) -> None:
    chat, embed = stage.deploy("chat", replicas=1), stage.deploy("embed", replicas=1)
    stage.autoscale(chat, least=1, most=4)
    seen = KubernetesCluster(stage.admin).rivals([chat, embed])
    assert seen == {chat: (f"HorizontalPodAutoscaler {stage.namespace}/chat",), embed: ()}
    assert stage.account("headstart-active").rivals([chat]) == {}  # it may not look, and says so by saying nothing


def test_what_is_annotated_is_found_by_an_observer(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    stage.deploy("embed", replicas=1)
    stage.annotate(chat, enabled="true", mode="active")
    found = annotated_in(stage.connection("headstart-observe"), (stage.namespace, "kube-system"), {})
    assert [each.workload for each in found.objects] == [f"{stage.namespace}/chat"]
    assert list(found.unread) == ["kube-system"]
    pods = KubernetesCluster(stage.admin).read_pods([chat], now=stage.now)[chat]
    assert not isinstance(pods, Blind)
    assert pods.annotations is not None
    assert pods.annotations["headstart.autoscaling/mode"] == "active"


def test_pods_that_a_quota_refuses_find_no_place(stage: Stage) -> None:
    stage.quota(pods=1)
    chat = stage.deploy("chat", replicas=3)
    cluster = stage.account("headstart-observe")

    def look() -> tuple[int, int, bool]:
        seen = cluster.read_pods([chat], now=stage.now)[chat]
        assert not isinstance(seen, Blind), seen
        return seen.replicas.ready, seen.replicas.unschedulable, "quota" in seen.refused

    stage.wait_for(look, lambda seen: seen == (1, 2, True), what="one Ready pod and two that were refused")
