"""The loop's targets on a cluster: outcomes in the loop's words, an Event after each write, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forecaster.types import Blind, BlindReason
from kube_double import KubeDouble
from policy_cases import NOON
from scaler.adapters.kubernetes import HPA, UNHEARD, ApiConnection, FloorRef, Kubeconfig, KubernetesCluster, TargetRef
from scaler.adapters.targets import KubernetesTargets
from scaler.policy.types import Decision, Proposal, Reason, ReplicaState
from scaler.ports import OutcomeKind

CHAT = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat-v2")


@pytest.fixture
def cluster() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        double.namespace("llm")
        double.deployment("llm", "chat-v2", replicas=3)
        double.advance(2)
        yield double


@pytest.fixture
def api(cluster: KubeDouble, tmp_path: Path) -> Iterator[ApiConnection]:
    connection = ApiConnection(Kubeconfig(path=cluster.kubeconfig(tmp_path)))
    yield connection
    connection.close()


@pytest.fixture
def targets(api: ApiConnection) -> KubernetesTargets:
    return KubernetesTargets(KubernetesCluster(api), {"llm/chat": CHAT})


def a_decision(current: int | None, target: int | None) -> Decision:
    return Decision(
        workload="llm/chat",
        at=NOON,
        current=current,
        target=target,
        reason=Reason.FORECAST,
        proposals=(Proposal(rule="predictive", want=5, keep=5, reason=Reason.FORECAST, detail="load 4.8 at 12:03"),),
    )


def events(cluster: KubeDouble) -> list[Any]:
    """Events that were posted."""
    return [
        request.body for request in cluster.requests if request.method == "POST" and request.path.endswith("/events")
    ]


def test_a_workload_is_read_by_its_own_name_whatever_its_target_is_called(targets: KubernetesTargets) -> None:
    assert targets.read(now=datetime.now(UTC)) == {"llm/chat": ReplicaState(desired=3, ready=3)}


def test_pods_that_are_not_made_are_remarked_with_the_clusters_own_words(
    cluster: KubeDouble, targets: KubernetesTargets
) -> None:
    targets.read(now=datetime.now(UTC))
    assert targets.remarks == {}
    cluster.quota("llm", pods=3)
    cluster.set_replicas("llm", "chat-v2", 5)
    assert targets.read(now=datetime.now(UTC))["llm/chat"] == ReplicaState(desired=5, ready=3, unschedulable=2)
    (remark,) = targets.remarks["llm/chat"]
    assert remark.startswith("pods are not made: ")
    assert "exceeded quota" in remark


def test_where_only_the_scale_is_read_nobody_has_to_guess_that_annotations_are_not_heard(
    cluster: KubeDouble, api: ApiConnection
) -> None:
    """A pause on a LeaderWorkerSet would need a rule of its own to be read, pod template and all."""
    made = cluster.create(
        "leaderworkersets", {"metadata": {"name": "big", "namespace": "llm"}, "spec": {"replicas": 1}}
    )
    big = TargetRef(namespace="llm", api_version=made["apiVersion"], kind="LeaderWorkerSet", name="big")
    cluster.annotate("llm", "big", "leaderworkersets", paused="true")
    targets = KubernetesTargets(KubernetesCluster(api), {"llm/chat": CHAT, "llm/big": big})
    targets.read(now=datetime.now(UTC))
    assert targets.annotations("llm/big") == {}
    assert targets.remarks == {"llm/big": (UNHEARD,)}


def test_a_floor_is_told_as_one(cluster: KubeDouble, api: ApiConnection) -> None:
    cluster.hpa("llm", "chat-v2", least=2, most=9)
    floor = FloorRef(namespace="llm", kind=HPA, name="chat-v2")
    floored = KubernetesTargets(KubernetesCluster(api), {"llm/chat": CHAT}, {"llm/chat": floor})
    assert floored.read(now=datetime.now(UTC)) == {"llm/chat": ReplicaState(desired=2, ready=2, held=3, ceiling=9)}
    written = floored.scale(a_decision(2, 5))
    assert (written.kind, written.detail) == (OutcomeKind.SCALED, "floor 2 → 5")
    conflict = floored.scale(a_decision(2, 6))
    assert (conflict.kind, conflict.detail) == (
        OutcomeKind.CONFLICT,
        "found a floor of 5 where the decision saw 2",
    )
    refused = floored.scale(a_decision(5, 10))
    assert refused.kind is OutcomeKind.FAILED
    assert "above its maxReplicas of 9" in refused.detail
    floored.announce(now=datetime.now(UTC))
    assert [event["reason"] for event in events(cluster)] == ["FloorRaised", "HeldForOtherWriter"]


def test_reading_changes_nothing(cluster: KubeDouble, targets: KubernetesTargets) -> None:
    targets.read(now=datetime.now(UTC))
    targets.announce(now=datetime.now(UTC))
    assert cluster.requests
    assert cluster.mutating_requests == 0


def test_a_target_that_is_not_there_is_blind(cluster: KubeDouble, api: ApiConnection) -> None:
    gone = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="gone")
    seen = KubernetesTargets(KubernetesCluster(api), {"llm/x": gone}).read(now=datetime.now(UTC))["llm/x"]
    assert isinstance(seen, Blind)
    assert seen.reason is BlindReason.NOT_FOUND


@pytest.mark.parametrize(
    ("current", "target", "kind", "stands"),
    [
        pytest.param(3, 5, OutcomeKind.SCALED, 5, id="as decided"),
        pytest.param(3, 3, OutcomeKind.UNCHANGED, 3, id="already there"),
        pytest.param(4, 6, OutcomeKind.CONFLICT, 3, id="somebody else changed it: never overwritten"),
        pytest.param(None, None, OutcomeKind.UNCHANGED, 3, id="nothing was decided"),
    ],
)
def test_outcomes(
    cluster: KubeDouble,
    targets: KubernetesTargets,
    current: int | None,
    target: int | None,
    kind: OutcomeKind,
    stands: int,
) -> None:
    assert targets.scale(a_decision(current, target)).kind is kind
    assert cluster.replicas("llm", "chat-v2") == stands


def test_a_failing_api_is_an_outcome_and_no_exception(cluster: KubeDouble, targets: KubernetesTargets) -> None:
    cluster.fault(method="PATCH", status=503, times=9)
    outcome = targets.scale(a_decision(3, 5))
    assert outcome.kind is OutcomeKind.FAILED
    assert "503" in outcome.detail


def test_an_event_follows_the_change_and_says_why(cluster: KubeDouble, targets: KubernetesTargets) -> None:
    targets.scale(a_decision(3, 5))
    assert events(cluster) == [], "an Event is a courtesy: it waits until every scale is written"
    assert targets.announce(now=datetime.now(UTC)) == ()
    (event,) = events(cluster)
    assert event["note"] == "scaled 3 → 5 (forecast). predictive 5: load 4.8 at 12:03"
    assert targets.announce(now=datetime.now(UTC)) == ()
    assert len(events(cluster)) == 1


def test_an_event_that_cannot_be_left_is_told_and_forgotten(cluster: KubeDouble, targets: KubernetesTargets) -> None:
    targets.scale(a_decision(3, 5))
    cluster.fault(method="POST", status=403)
    (error,) = targets.announce(now=datetime.now(UTC))
    assert "403" in str(error)
    assert targets.announce(now=datetime.now(UTC)) == ()
