"""First stories on a whole cluster: watch, take over, go out and in, with an account that may do no more.

They speak to the cluster only through `scaler.adapters.kubernetes` and hold on the API double as on a real one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from forecaster.types import Blind
from scaler.adapters.kubernetes import Feature, KubernetesCluster, PodPhase, ScaleResult, TargetRef, WorkloadPods
from scaler.adapters.kubernetes.errors import Forbidden
from scaler.adapters.starts import StartLedger
from scaler.policy.types import LeadSource, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Stage


def looking_at(cluster: KubernetesCluster, stage: Stage, target: TargetRef) -> Callable[[], WorkloadPods]:
    def look() -> WorkloadPods:
        seen = cluster.read_pods([target], now=stage.now)[target]
        assert not isinstance(seen, Blind), seen
        return seen

    return look


def all_ready(replicas: int) -> Callable[[WorkloadPods], bool]:
    return lambda seen: seen.replicas == ReplicaState(desired=replicas, ready=replicas)


def test_observing_writes_nothing(stage: Stage) -> None:
    chat, embed = stage.deploy("chat", replicas=2), stage.deploy("embed", replicas=1)
    observer = stage.account("headstart-observe")
    stage.wait_for(looking_at(observer, stage, chat), all_ready(2), what="two Ready pods")
    before = [stage.deployment(target)["metadata"]["generation"] for target in (chat, embed)]
    for _ in range(5):
        seen = observer.read([chat, embed], now=stage.now)
        assert not any(isinstance(state, Blind) for state in seen.values())
        stage.pass_time(0.2)
    assert [stage.deployment(target)["metadata"]["generation"] for target in (chat, embed)] == before
    assert stage.events(chat) == []
    if stage.double is not None:
        ours = f"system:serviceaccount:{stage.namespace}:headstart-observe"
        assert not [request for request in stage.double.requests if request.mutates and request.user == ours]


def test_an_observer_cannot_write_even_if_it_tries(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    with pytest.raises(Forbidden, match="deployments/scale"):
        stage.account("headstart-observe").scale(chat, 2, expected=1)
    assert stage.deployment(chat)["spec"]["replicas"] == 1


def test_activated_it_goes_out_and_in_and_waits_for_ready(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    cluster = stage.account("headstart-active")
    look = looking_at(cluster, stage, chat)
    stage.wait_for(look, all_ready(1), what="the first pod to be Ready")

    out = cluster.scale(chat, 3, expected=1)
    assert out.result is ScaleResult.SCALED
    assert cluster.announce(chat, out, note="a peak is coming", now=stage.now) is None
    signed = [
        m["manager"] for m in stage.deployment(chat)["metadata"]["managedFields"] if m.get("subresource") == "scale"
    ]
    assert signed == ["headstart"] or (not signed and stage.double is None)  # before 1.22 scales were not signed
    stage.wait_for(look, lambda seen: seen.replicas.starting + seen.replicas.ready == 3, what="three pods")
    ready = stage.wait_for(look, all_ready(3), what="three Ready pods")

    starts = [start for start in ready.starts if start.phase is PodPhase.READY]
    lead_times = [(start.ready_at - start.created_at).total_seconds() for start in starts if start.ready_at]
    assert len(lead_times) == 3
    if stage.double is not None:
        assert lead_times == [45, 45, 45]

    back = cluster.scale(chat, 1, expected=3)
    assert cluster.announce(chat, back, note="the peak is over", now=stage.now) is None
    stage.wait_for(look, all_ready(1), what="one Ready pod")
    assert sorted(event["reason"] for event in stage.events(chat)) == ["ScaledIn", "ScaledOut"]


def test_the_measured_start_time_is_the_pods_own(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=5)
    look = looking_at(stage.account("headstart-observe"), stage, chat)
    ledger, configured = StartLedger(), {"chat": timedelta(minutes=5)}
    seen = stage.wait_for(look, all_ready(5), what="five Ready pods")
    ledger.note({"chat": seen})
    lead = ledger.latest(configured, now=stage.now)["chat"]
    took_s = [(start.ready_at - start.created_at).total_seconds() for start in seen.starts if start.ready_at]
    assert (lead.source, lead.starts) == (LeadSource.OWN, 5)
    assert max(30.0, max(took_s)) <= lead.seconds < max(30.0, max(took_s)) + 10.0, "of five the longest"
    if stage.double is not None:
        assert (lead.seconds, lead.node_wait_s, lead.load_s) == (50.0, 0.0, 45.0)


def test_a_least_privilege_account_lacks_nothing_and_may_do_no_more(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    cluster = stage.account("headstart-active")
    assert cluster.missing_permissions([chat], {Feature.ACTIVE}) == ()
    assert cluster.scale(chat, 2, expected=1).result is ScaleResult.SCALED
    elsewhere = TargetRef(namespace="default", api_version="apps/v1", kind="Deployment", name="chat")
    with pytest.raises(Forbidden):
        cluster.scale(elsewhere, 2, expected=1)


def test_a_foreign_writer_is_noticed_and_left_alone(stage: Stage) -> None:
    chat = stage.deploy("chat", replicas=1)
    cluster = stage.account("headstart-active")
    assert cluster.scale(chat, 2, expected=1).result is ScaleResult.SCALED
    assert KubernetesCluster(stage.admin).scale(chat, 4, expected=2).result is ScaleResult.SCALED
    outcome = cluster.scale(chat, 3, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, 4)
    assert stage.deployment(chat)["spec"]["replicas"] == 4


def test_a_pod_that_fits_nowhere_is_unschedulable_and_no_more(stage: Stage) -> None:
    huge = stage.deploy("huge", replicas=2, gpus=1000)
    look = looking_at(stage.account("headstart-observe"), stage, huge)
    stage.wait_for(
        look, lambda seen: seen.replicas == ReplicaState(desired=2, ready=0, unschedulable=2), what="two Pending pods"
    )


def test_a_killed_api_server_blinds_and_comes_back(stage: Stage) -> None:
    if stage.double is None:
        pytest.skip("a real cluster's API server is not ours to kill")
    chat = stage.deploy("chat", replicas=1)
    cluster = stage.account("headstart-active")
    stage.wait_for(looking_at(cluster, stage, chat), all_ready(1), what="a Ready pod")
    stage.double.kill()
    assert isinstance(cluster.read([chat], now=stage.now)[chat], Blind)
    stage.double.start()
    assert cluster.read([chat], now=stage.now)[chat] == ReplicaState(desired=1, ready=1)
