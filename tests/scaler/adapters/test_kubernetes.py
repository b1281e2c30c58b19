"""Stories of reading and scaling workloads, told against the strict API double.

The rules they hold: a partial failure blinds only what it concerns, nothing is ever overwritten that the decision
did not see, and reading mutates nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from forecaster.types import Blind, BlindReason
from kube_double import KubeDouble, Rule, workload
from kube_double_rules import ApiKind
from scaler.adapters.kubernetes import (
    ApiConnection,
    Feature,
    Kubeconfig,
    KubernetesCluster,
    PodPhase,
    ScaleResult,
    ServerAddress,
    TargetRef,
    WorkloadPods,
)
from scaler.adapters.kubernetes.errors import (
    Forbidden,
    Invalid,
    NotFound,
    Unauthorised,
    Unavailable,
    WriteRefused,
)
from scaler.adapters.kubernetes.permissions import loss_without
from scaler.adapters.kubernetes.read import ASK_AGAIN_S
from scaler.policy.types import ReplicaState


def target(name: str, *, namespace: str = "llm", kind: str = "Deployment", api_version: str = "apps/v1") -> TargetRef:
    return TargetRef(namespace=namespace, api_version=api_version, kind=kind, name=name)


CHAT = target("chat")


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=8, start_time_s=120) as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=2)
        yield double


ANSWERED_S = 60.0
"""Long enough on any machine for a call that is answered."""


@pytest.fixture
def api(double: KubeDouble, tmp_path: Path) -> Iterator[ApiConnection]:
    connection = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), timeout_s=ANSWERED_S)
    yield connection
    connection.close()


@pytest.fixture
def cluster(api: ApiConnection) -> KubernetesCluster:
    return KubernetesCluster(api)


def as_user(
    double: KubeDouble, folder: Path, *rules: Rule, timeout_s: float = ANSWERED_S, read_budget_s: float = ANSWERED_S
) -> KubernetesCluster:
    """A cluster seen through an account with only these rules."""
    path = folder / "limited-token"
    path.write_text(double.account("limited", *rules))
    api = ApiConnection(ServerAddress(server=double.url, token_file=path), timeout_s=timeout_s)
    return KubernetesCluster(api, read_budget_s=read_budget_s)


def read_one(cluster: KubernetesCluster, double: KubeDouble, what: TargetRef = CHAT) -> ReplicaState | Blind:
    return cluster.read([what], now=double.now)[what]


SCALES = Rule(verbs=("get", "patch"), groups=("apps",), resources=("deployments/scale",))
PODS = Rule(verbs=("list",), groups=("",), resources=("pods",))
DEPLOYMENTS = Rule(verbs=("list",), groups=("apps",), resources=("deployments",))


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_pods_are_starting_until_their_start_time_is_over(cluster: KubernetesCluster, double: KubeDouble) -> None:
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=0, starting=2)
    double.advance(119)
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=0, starting=2)
    double.advance(1)
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=2)


def test_the_measured_start_is_the_pods_own(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.advance(300)
    seen = cluster.read_pods([CHAT], now=double.now)[CHAT]
    assert not isinstance(seen, Blind)
    assert seen.read_at == double.now
    assert [start.phase for start in seen.starts] == [PodPhase.READY] * 2
    for start in seen.starts:
        assert start.ready_at is not None
        assert (start.ready_at - start.created_at).total_seconds() == 120


def test_twelve_replicas_on_eight_gpus_leave_four_unschedulable(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.set_replicas("llm", "chat", 12)
    double.advance(120)
    assert read_one(cluster, double) == ReplicaState(desired=12, ready=8, unschedulable=4)


def test_a_crash_loop_is_failed_and_not_starting(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.behave("llm", "chat", crashing=True)
    double.advance(60)
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=0, failed=2)


def test_terminating_pods_count_as_nothing(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.advance(120)
    double.behave("llm", "chat", grace_s=600)
    double.set_replicas("llm", "chat", 1)
    double.advance(1)
    assert len(double.pods("llm", "chat")) == 2  # one of them still streams to its clients
    assert read_one(cluster, double) == ReplicaState(desired=1, ready=1)


def test_surge_pods_of_a_rollout_do_not_ratchet(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.advance(120)
    double.pause_controllers()
    double.add_pod("llm", "chat")
    double.add_pod("llm", "chat")
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=2)


def test_an_evicted_pod_that_was_replaced_is_no_failure(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.advance(120)
    double.edit_pod(double.pods("llm", "chat")[0], status={"phase": "Failed", "reason": "Evicted"})
    double.advance(120)
    assert len(double.pods("llm", "chat")) == 3
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=2)


def test_no_pods_at_all_is_a_measured_zero(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.pause_controllers()
    double.deployment("llm", "quota", replicas=3)
    assert read_one(cluster, double, target("quota")) == ReplicaState(desired=3, ready=0)


def pods_of(cluster: KubernetesCluster, double: KubeDouble, what: TargetRef = CHAT) -> WorkloadPods:
    seen = cluster.read_pods([what], now=double.now)[what]
    assert not isinstance(seen, Blind), seen
    return seen


def test_pods_that_a_quota_refuses_find_no_place(cluster: KubernetesCluster, double: KubeDouble) -> None:
    """Five are wanted, three allowed: the two that were never made are told apart from pods on their way."""
    double.quota("llm", pods=3)
    double.set_replicas("llm", "chat", 5)
    double.advance(120)
    seen = pods_of(cluster, double)
    assert seen.replicas == ReplicaState(desired=5, ready=3, unschedulable=2)
    assert "exceeded quota: gpus" in seen.refused
    double.quota("llm", pods=9)
    double.advance(120)
    seen = pods_of(cluster, double)
    assert (seen.replicas, seen.refused) == (ReplicaState(desired=5, ready=5), "")


@pytest.mark.parametrize("workloads", [pytest.param(1, id="asked by name"), pytest.param(6, id="from one list")])
def test_annotations_come_with_the_replicas_at_no_further_call(
    cluster: KubernetesCluster, double: KubeDouble, workloads: int
) -> None:
    targets = [CHAT, *(target(f"model-{n}") for n in range(workloads - 1))]
    for each in targets[1:]:
        double.deployment("llm", each.name)
    double.annotate("llm", "chat", paused="true")
    cluster.read(targets, now=double.now)  # discovery is known from now on
    double.requests.clear()
    seen = cluster.read_pods(targets, now=double.now)[CHAT]
    assert not isinstance(seen, Blind)
    assert seen.annotations == {"headstart.autoscaling/paused": "true"}
    assert [request.path.rpartition("/")[2] for request in double.requests] == ["deployments", "pods"]


def test_pods_that_another_workloads_selector_also_matches_are_not_counted(
    cluster: KubernetesCluster, double: KubeDouble
) -> None:
    twin = workload("Deployment", "llm", "chat-canary", replicas=3)
    twin["spec"]["selector"] = {"matchLabels": {"app": "chat"}}
    twin["spec"]["template"]["metadata"]["labels"] = {"app": "chat"}
    double.create("deployments", twin)
    double.advance(120)
    seen = cluster.read([CHAT, target("chat-canary")], now=double.now)
    assert seen == {CHAT: ReplicaState(desired=2, ready=2), target("chat-canary"): ReplicaState(desired=3, ready=3)}


def test_many_workloads_cost_two_lists(cluster: KubernetesCluster, double: KubeDouble) -> None:
    targets = [CHAT, *(target(f"model-{n}") for n in range(6))]
    for n in range(6):
        double.deployment("llm", f"model-{n}", replicas=1)
    cluster.read(targets, now=double.now)
    double.requests.clear()
    seen = cluster.read(targets, now=double.now)
    assert [(request.method, request.path) for request in double.requests] == [
        ("GET", "/apis/apps/v1/namespaces/llm/deployments"),
        ("GET", "/api/v1/namespaces/llm/pods"),
    ]
    pods = double.requests[1].query
    assert pods["labelSelector"] == "app in (chat,model-0,model-1,model-2,model-3,model-4,model-5)"
    assert all(request.query["limit"] == "500" for request in double.requests)
    assert all("resourceVersion" not in request.query for request in double.requests)  # never from a stale cache
    assert seen == {
        t: ReplicaState(desired=2 if t is CHAT else 1, ready=0, starting=2 if t is CHAT else 1) for t in targets
    }


def test_long_lists_are_paged(cluster: KubernetesCluster, double: KubeDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.kubernetes.lists.PAGE_LIMIT", 3)
    double.set_replicas("llm", "chat", 8)
    double.advance(121)
    assert read_one(cluster, double) == ReplicaState(desired=8, ready=8)
    assert len([request for request in double.requests if request.path.endswith("/pods")]) == 3


def test_a_continuation_that_expired_begins_the_list_again(
    cluster: KubernetesCluster, double: KubeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.adapters.kubernetes.lists.PAGE_LIMIT", 1)

    def compact() -> None:
        double.set_replicas("llm", "chat", 2)
        double.deployment("llm", "other")
        double.compact()

    double.fault(path="/pods", skip=1, then=compact)
    assert read_one(cluster, double) == ReplicaState(desired=2, ready=0, starting=2)
    assert 410 in [request.status for request in double.requests]


def test_one_forbidden_namespace_blinds_only_its_own(double: KubeDouble, tmp_path: Path) -> None:
    double.namespace("secret")
    double.deployment("secret", "chat", replicas=4)
    other = target("chat", namespace="secret")
    here = Rule(verbs=("get", "list"), groups=("*",), resources=("*",), namespaces=("llm",))
    seen = as_user(double, tmp_path, here).read([other, CHAT], now=double.now)
    assert seen[CHAT] == ReplicaState(desired=2, ready=0, starting=2)
    blind = seen[other]
    assert isinstance(blind, Blind)
    assert blind.reason is BlindReason.FORBIDDEN
    assert '- {apiGroups: ["apps"], resources: ["deployments/scale"], verbs: ["get"]}' in blind.detail


def test_an_account_without_list_on_deployments_reads_scales_instead(double: KubeDouble, tmp_path: Path) -> None:
    targets = [CHAT, *(target(f"model-{n}") for n in range(6))]
    for n in range(6):
        double.deployment("llm", f"model-{n}", replicas=1)
    limited = as_user(double, tmp_path, SCALES, PODS)
    for _ in range(3):
        seen = limited.read(targets, now=double.now)
        assert not any(isinstance(state, Blind) for state in seen.values())
    assert len([request for request in double.requests if request.path.endswith("/deployments")]) == 1


def test_a_rule_that_is_granted_later_is_noticed(
    double: KubeDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = as_user(double, tmp_path, SCALES, PODS)
    assert pods_of(limited, double).annotations is None
    double.store.rules["limited"] = (SCALES, PODS, DEPLOYMENTS)
    assert pods_of(limited, double).annotations is None
    later = time.monotonic() + ASK_AGAIN_S
    monkeypatch.setattr("scaler.adapters.kubernetes.read.time", SimpleNamespace(monotonic=lambda: later))
    assert pods_of(limited, double).annotations == {}


def blinded(cluster: KubernetesCluster, double: KubeDouble, what: TargetRef = CHAT) -> BlindReason:
    seen = read_one(cluster, double, what)
    assert isinstance(seen, Blind), seen
    return seen.reason


@pytest.mark.parametrize(
    ("what", "reason", "words"),
    [
        pytest.param(target("gone"), BlindReason.NOT_FOUND, "llm/gone does not exist", id="deleted"),
        pytest.param(target("x", kind="Job", api_version="batch/v1"), BlindReason.NOT_FOUND, "CRD", id="no such api"),
        pytest.param(target("x", kind="DaemonSet"), BlindReason.NOT_FOUND, "no kind DaemonSet", id="no such kind"),
        pytest.param(
            target("x", kind="ScaledObject", api_version="keda.sh/v1alpha1"),
            BlindReason.REFUSED,
            "no scale subresource",
            id="kind without scale",
        ),
        pytest.param(target("../../chat"), BlindReason.NOT_FOUND, "", id="hostile name"),
    ],
)
def test_what_cannot_be_read_says_why(
    cluster: KubernetesCluster, double: KubeDouble, what: TargetRef, reason: BlindReason, words: str
) -> None:
    seen = cluster.read([what, CHAT], now=double.now)
    blind = seen[what]
    assert isinstance(blind, Blind)
    assert (blind.reason, words in blind.detail) == (reason, True), blind
    assert seen[CHAT] == ReplicaState(desired=2, ready=0, starting=2)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param({"status": 503}, BlindReason.REFUSED, id="5xx"),
        pytest.param({"status": 429, "text": "Too many requests"}, BlindReason.REFUSED, id="throttled"),
        pytest.param({"drop": "before"}, BlindReason.UNREACHABLE, id="connection reset"),
        pytest.param({"hang_s": 30}, BlindReason.TIMEOUT, id="hang"),
        pytest.param({"status": 200, "text": "<html>login</html>"}, BlindReason.MALFORMED, id="a proxy's page"),
        pytest.param({"status": 200, "text": "[]"}, BlindReason.MALFORMED, id="JSON of another shape"),
        pytest.param({"status": 200, "text": "{}"}, BlindReason.MALFORMED, id="neither Scale nor list"),
    ],
)
@pytest.mark.parametrize(
    ("rules", "path"),
    [
        pytest.param((SCALES, PODS, DEPLOYMENTS), "/deployments$", id="an account that may list"),
        pytest.param((SCALES, PODS), "/scale$", id="one that reads scales"),
    ],
)
def test_a_failing_server_blinds(
    double: KubeDouble,
    tmp_path: Path,
    fault: dict[str, object],
    reason: BlindReason,
    rules: tuple[Rule, ...],
    path: str,
) -> None:
    cluster = as_user(double, tmp_path, *rules, timeout_s=1.0 if reason is BlindReason.TIMEOUT else ANSWERED_S)
    assert isinstance(read_one(cluster, double), ReplicaState)
    double.fault(path=path, **fault)  # type: ignore[arg-type]
    assert blinded(cluster, double) is reason


def test_a_stale_cache_is_not_mistaken_for_the_truth(cluster: KubernetesCluster, double: KubeDouble) -> None:
    assert isinstance(read_one(cluster, double), ReplicaState)
    double.etcd_down = True
    assert blinded(cluster, double) is BlindReason.REFUSED


def test_an_unknown_account_is_asked_for_once_and_not_per_namespace(double: KubeDouble, tmp_path: Path) -> None:
    token = tmp_path / "wrong"
    token.write_text("nobody")
    cluster = KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token)))
    targets = [target("chat", namespace=f"ns-{n}") for n in range(20)]
    seen = cluster.read(targets, now=double.now)
    assert {state.reason for state in seen.values() if isinstance(state, Blind)} == {BlindReason.REFUSED}
    assert len(double.requests) == 2  # one try, and one after the token was read again


def test_a_whole_read_keeps_to_its_budget(double: KubeDouble, api: ApiConnection) -> None:
    cluster = KubernetesCluster(api, read_budget_s=0.3)
    double.fault(path="/deployments$", hang_s=5, times=99)
    targets = [target("chat", namespace=f"ns-{n}") for n in range(20)]
    seen = cluster.read(targets, now=double.now)
    assert {state.reason for state in seen.values() if isinstance(state, Blind)} == {BlindReason.TIMEOUT}
    assert len([request for request in double.requests if request.path.endswith("/deployments")]) <= 1


@pytest.mark.parametrize(
    ("others", "hanging"),
    [
        pytest.param([target("chat", namespace="calm")], "/namespaces/llm/", id="a namespace"),
        pytest.param(
            [target("cache", kind="StatefulSet")], "/deployments/", id="a kind whose conversion webhook hangs"
        ),
        pytest.param([target("docs")], "/deployments/chat/scale", id="one workload"),
    ],
)
def test_what_hangs_leaves_the_others_their_time(
    double: KubeDouble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    others: list[TargetRef],
    hanging: str,
) -> None:
    """It is asked first at every tick: with the whole budget for itself it would blind everybody for ever."""
    monkeypatch.setattr("scaler.adapters.kubernetes.targets.LEAST_SHARE_S", 1.0)
    scales = Rule(verbs=("get",), groups=("apps",), resources=("deployments/scale", "statefulsets/scale"))
    cluster = as_user(double, tmp_path, scales, PODS, read_budget_s=4.0)
    double.namespace("calm")
    double.deployment("calm", "chat", replicas=1)
    double.deployment("llm", "docs", replicas=1)
    double.create("statefulsets", workload("StatefulSet", "llm", "cache", replicas=1, gpus=0))
    double.advance(120)
    cluster.read([CHAT, *others], now=double.now)  # discovery is known from now on
    double.fault(path=hanging, hang_s=30, times=99)
    seen = cluster.read([CHAT, *others], now=double.now)
    assert isinstance(seen[CHAT], Blind)
    assert [seen[other] for other in others] == [ReplicaState(desired=1, ready=1)]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param('{"items": 7}', id="items is a number"),
        pytest.param('{"items": ["pod"]}', id="items are texts"),
        pytest.param('{"items": [{"metadata": "x"}]}', id="an object without metadata"),
        pytest.param('{"items": [], "metadata": "x"}', id="metadata is a text"),
    ],
)
@pytest.mark.parametrize("path", [pytest.param("/pods", id="pods"), pytest.param("/deployments$", id="deployments")])
def test_a_list_of_another_shape_blinds_and_never_raises(
    cluster: KubernetesCluster, double: KubeDouble, path: str, page: str
) -> None:
    """Whatever a broken proxy answers, an exception here would end the tick of the whole fleet."""
    names = ["chat", "a", "b", "c"]  # so many of one namespace are listed
    for name in names[1:]:
        double.deployment("llm", name, replicas=1)
    double.fault(path=path, status=200, text=page, times=9)
    seen = cluster.read([target(name) for name in names], now=double.now)
    assert all(isinstance(state, Blind) for state in seen.values())


def test_other_kinds_are_read_and_scaled_through_discovery(cluster: KubernetesCluster, double: KubeDouble) -> None:
    leader_worker_set = {
        "metadata": {"name": "big", "namespace": "llm"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 2}},
    }
    double.create("leaderworkersets", leader_worker_set)
    double.register(
        ApiKind(
            group="serving.kserve.io",
            version="v1beta1",
            kind="InferenceService",
            plural="inferenceservices",
            scalable=True,
            custom=True,
        )
    )
    double.create("inferenceservices", {"metadata": {"name": "vision", "namespace": "llm"}, "spec": {"replicas": 1}})
    double.create("statefulsets", workload("StatefulSet", "llm", "cache", replicas=3, gpus=0))
    double.advance(120)
    big = target("big", kind="LeaderWorkerSet", api_version="leaderworkerset.x-k8s.io/v1")
    vision = target("vision", kind="InferenceService", api_version="serving.kserve.io/v1beta1")
    cache = target("cache", kind="StatefulSet")
    assert cluster.read([big, vision, cache], now=double.now) == {
        big: ReplicaState(desired=2, ready=2),  # two leaders; their workers are no replicas of their own
        vision: ReplicaState(desired=1, ready=1),
        cache: ReplicaState(desired=3, ready=3),
    }
    assert cluster.scale(big, 3, expected=2).result is ScaleResult.SCALED
    assert cluster.scale(vision, 2, expected=1).result is ScaleResult.SCALED
    assert double.replicas("llm", "big", "leaderworkersets") == 3


def test_a_scale_without_selector_never_means_all_pods(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.register(ApiKind(group="acme.io", version="v1", kind="Server", plural="servers", scalable=True, custom=True))
    server = {"metadata": {"name": "s", "namespace": "llm"}, "spec": {"replicas": 1}, "status": {"selector": ""}}
    double.create("servers", server)
    assert blinded(cluster, double, target("s", kind="Server", api_version="acme.io/v1")) is BlindReason.MALFORMED
    assert not [request for request in double.requests if request.path.endswith("/pods")]


# ── Scaling ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_scale_out_is_one_signed_write(cluster: KubernetesCluster, double: KubeDouble) -> None:
    outcome = cluster.scale(CHAT, 5, expected=2)
    assert (outcome.result, outcome.found, outcome.replicas) == (ScaleResult.SCALED, 2, 5)
    assert double.replicas("llm", "chat") == 5
    assert double.mutating_requests == 1
    [patch] = [request.body for request in double.requests if request.method == "PATCH"]
    assert patch["metadata"].keys() == {"resourceVersion", "uid"}  # what makes any change in between a 409
    written = double.store.get("deployments", "llm", "chat")["metadata"]["managedFields"][0]
    assert (written["manager"], written["subresource"]) == ("headstart", "scale")


def test_nothing_to_do_writes_nothing(cluster: KubernetesCluster, double: KubeDouble) -> None:
    assert cluster.scale(CHAT, 2, expected=2).result is ScaleResult.UNCHANGED
    assert double.mutating_requests == 0


@pytest.mark.parametrize(
    "found",
    [pytest.param(7, id="another writer's value"), pytest.param(0, id="switched off by a human")],
)
def test_a_value_the_decision_did_not_see_is_left_alone(
    cluster: KubernetesCluster, double: KubeDouble, found: int
) -> None:
    double.set_replicas("llm", "chat", found)
    outcome = cluster.scale(CHAT, 5, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, found)
    assert (double.replicas("llm", "chat"), double.mutating_requests) == (found, 0)


def test_a_workload_that_sleeps_by_our_own_order_can_be_woken(cluster: KubernetesCluster, double: KubeDouble) -> None:
    """Whose zero it is the decision knows; what it saw is what counts here."""
    double.set_replicas("llm", "chat", 0)
    assert cluster.scale(CHAT, 5, expected=2).result is ScaleResult.CONFLICT
    assert double.mutating_requests == 0
    assert cluster.scale(CHAT, 5, expected=0).result is ScaleResult.SCALED
    assert double.replicas("llm", "chat") == 5


def test_another_writer_between_read_and_write_wins(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.fault(method="PATCH", then=lambda: double.set_replicas("llm", "chat", 9))
    outcome = cluster.scale(CHAT, 5, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, 9)
    assert double.replicas("llm", "chat") == 9
    assert [r.status for r in double.requests if r.method == "PATCH"] == [409]


def test_a_change_of_something_else_is_tried_again(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.fault(method="PATCH", times=2, then=lambda: touch(double))
    assert cluster.scale(CHAT, 5, expected=2).result is ScaleResult.SCALED
    assert [r.status for r in double.requests if r.method == "PATCH"] == [409, 409, 200]


def test_endless_conflicts_end_after_three_tries(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.fault(method="PATCH", times=99, then=lambda: touch(double))
    outcome = cluster.scale(CHAT, 5, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, 2)
    assert double.mutating_requests == 3


def touch(double: KubeDouble) -> None:
    """Change the Deployment's version and nothing of its replicas, as its status does all through a rollout."""
    with double.store.changed:
        item = double.store.get("deployments", "llm", "chat")
        annotations = {"touched": str(double.store.version)}
        double.store.update("deployments", {**item, "metadata": {**item["metadata"], "annotations": annotations}})


def test_a_workload_made_anew_under_the_same_name_is_not_patched_blindly(
    cluster: KubernetesCluster, double: KubeDouble
) -> None:
    def remake() -> None:
        with double.store.changed:
            double.store.remove("deployments", double.store.get("deployments", "llm", "chat"))
            double.deployment("llm", "chat", replicas=1)

    double.fault(method="PATCH", then=remake)
    outcome = cluster.scale(CHAT, 5, expected=2)
    assert (outcome.result, outcome.found) == (ScaleResult.CONFLICT, 1)
    assert double.replicas("llm", "chat") == 1


def test_a_write_whose_answer_was_lost_counts_as_done(cluster: KubernetesCluster, double: KubeDouble) -> None:
    double.fault(method="PATCH", drop="after")
    assert cluster.scale(CHAT, 5, expected=2).result is ScaleResult.SCALED
    assert (double.replicas("llm", "chat"), double.mutating_requests) == (5, 1)
    assert cluster.scale(CHAT, 5, expected=2).result is ScaleResult.UNCHANGED  # no double step at the next tick


@pytest.mark.parametrize(
    "fault", [pytest.param({"drop": "before"}, id="lost"), pytest.param({"status": 504}, id="504")]
)
def test_a_write_that_did_not_happen_is_an_error(
    cluster: KubernetesCluster, double: KubeDouble, fault: dict[str, object]
) -> None:
    double.fault(method="PATCH", **fault)  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        cluster.scale(CHAT, 5, expected=2)
    assert (double.replicas("llm", "chat"), double.mutating_requests) == (2, 1)


@pytest.mark.parametrize(
    ("what", "replicas", "error"),
    [
        pytest.param(CHAT, -1, Invalid, id="negative"),
        pytest.param(CHAT, 2**31, Invalid, id="beyond int32"),
        pytest.param(target("gone"), 3, NotFound, id="deleted"),
        pytest.param(target("x", kind="ScaledObject", api_version="keda.sh/v1alpha1"), 3, Invalid, id="no scale"),
    ],
)
def test_what_cannot_be_scaled_raises(
    cluster: KubernetesCluster, double: KubeDouble, what: TargetRef, replicas: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        cluster.scale(what, replicas, expected=2)
    assert double.mutating_requests == 0


def test_a_least_privilege_account_scales_and_is_refused_the_deployment(double: KubeDouble, tmp_path: Path) -> None:
    cluster = as_user(double, tmp_path, SCALES)
    assert cluster.scale(CHAT, 3, expected=2).result is ScaleResult.SCALED
    assert blinded(cluster, double) is BlindReason.FORBIDDEN


def test_a_missing_patch_permission_names_the_rule(double: KubeDouble, tmp_path: Path) -> None:
    reads = Rule(verbs=("get",), groups=("apps",), resources=("deployments/scale",))
    with pytest.raises(Forbidden) as caught:
        as_user(double, tmp_path, reads).scale(CHAT, 3, expected=2)
    error = caught.value
    assert (error.verb, error.group, error.resource, error.namespace) == ("patch", "apps", "deployments/scale", "llm")
    assert 'verbs: ["patch"]' in str(error)


# ── Events, permissions, and who may write ────────────────────────────────────────────────────────────────────


def test_a_change_leaves_an_event(cluster: KubernetesCluster, double: KubeDouble) -> None:
    outcome = cluster.scale(CHAT, 5, expected=2)
    whole_second = double.now.replace(microsecond=0)
    assert cluster.announce(CHAT, outcome, note="ü" * 2000, now=whole_second) is None
    [event] = double.store.items("events")
    assert (event["reason"], event["type"], event["action"]) == ("ScaledOut", "Normal", "Scale")
    assert event["regarding"]["uid"] == double.store.get("deployments", "llm", "chat")["metadata"]["uid"]
    assert event["metadata"]["name"].startswith("chat-")


def test_a_conflict_leaves_a_warning_and_no_change_leaves_nothing(
    cluster: KubernetesCluster, double: KubeDouble
) -> None:
    assert cluster.announce(CHAT, cluster.scale(CHAT, 2, expected=2), note="same", now=double.now) is None
    double.set_replicas("llm", "chat", 7)
    assert cluster.announce(CHAT, cluster.scale(CHAT, 5, expected=2), note="kubectl", now=double.now) is None
    assert [(event["reason"], event["type"]) for event in double.store.items("events")] == [
        ("HeldForOtherWriter", "Warning")
    ]


@pytest.mark.parametrize("name", ["a.b", "x" * 63, f"{'a' * 56}.b", "v1.2.3-rc.1"])
def test_events_are_accepted_for_any_workload_name(cluster: KubernetesCluster, double: KubeDouble, name: str) -> None:
    double.deployment("llm", name, replicas=1)
    outcome = cluster.scale(target(name), 2, expected=1)
    assert cluster.announce(target(name), outcome, note="out", now=double.now) is None


def test_an_event_that_is_refused_does_not_undo_the_scale(double: KubeDouble, tmp_path: Path) -> None:
    cluster = as_user(double, tmp_path, SCALES)
    outcome = cluster.scale(CHAT, 3, expected=2)
    assert isinstance(cluster.announce(CHAT, outcome, note="out", now=double.now), Forbidden)
    assert double.replicas("llm", "chat") == 3


def test_missing_permissions_are_found_without_touching_anything(double: KubeDouble, tmp_path: Path) -> None:
    reads = Rule(verbs=("get",), groups=("apps",), resources=("deployments/scale",))
    cluster = as_user(double, tmp_path, reads, PODS)
    [courtesy] = cluster.missing_permissions([CHAT], {Feature.OBSERVE})
    assert (courtesy.verb, courtesy.resource) == ("list", "deployments")
    assert "scales are read one by one" in loss_without(courtesy)
    _, missing = cluster.missing_permissions([CHAT], {Feature.ACTIVE})
    assert (missing.verb, missing.resource, loss_without(missing)) == ("patch", "deployments/scale", "")
    assert double.mutating_requests == 0


def test_observing_mutates_nothing(cluster: KubernetesCluster, double: KubeDouble, api: ApiConnection) -> None:
    for _ in range(5):
        cluster.read([CHAT, target("gone")], now=double.now)
        double.advance(60)
    assert (double.mutating_requests, api.mutating_requests) == (0, 0)


def test_who_may_not_write_sends_nothing(double: KubeDouble, tmp_path: Path) -> None:
    leads = True
    api = ApiConnection(Kubeconfig(path=double.kubeconfig(tmp_path)), may_write=lambda: leads)
    cluster = KubernetesCluster(api)
    assert cluster.scale(CHAT, 3, expected=2).result is ScaleResult.SCALED
    leads = False
    with pytest.raises(WriteRefused):
        cluster.scale(CHAT, 4, expected=3)
    assert (double.replicas("llm", "chat"), double.mutating_requests, api.mutating_requests) == (3, 1, 1)


def test_threads_share_one_connection_through_a_token_rotation(double: KubeDouble, tmp_path: Path) -> None:
    token = double.account("scaler", SCALES, PODS)
    token_file = tmp_path / "rotating"
    token_file.write_text(token)
    cluster = KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token_file)))
    assert isinstance(read_one(cluster, double), ReplicaState)
    token_file.write_text(double.rotate(token))
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: read_one(cluster, double), range(40)))
    assert not [state for state in seen if isinstance(state, Blind)]


def test_a_rotated_token_is_read_again(double: KubeDouble, tmp_path: Path) -> None:
    token = double.account("scaler", SCALES, PODS)
    token_file = tmp_path / "rotating"
    token_file.write_text(token)
    cluster = KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token_file)))
    assert cluster.scale(CHAT, 3, expected=2).result is ScaleResult.SCALED
    renewed = double.rotate(token)
    with pytest.raises(Unauthorised):
        cluster.scale(CHAT, 4, expected=3)  # the file still holds the old one
    token_file.write_text(renewed)
    assert cluster.scale(CHAT, 4, expected=3).result is ScaleResult.SCALED
    assert double.replicas("llm", "chat") == 4
