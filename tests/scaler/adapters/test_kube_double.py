"""The API double is as strict as a real control plane was measured to be.

Each test is one numbered fact of docs/kubernetes.md; a double that forgets one lets a broken client pass.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kube_double import KubeDouble, Rule, workload

LEASES = "/apis/coordination.k8s.io/v1/namespaces/llm/leases"
EVENTS = "/apis/events.k8s.io/v1/namespaces/llm/events"
CHAT = "/apis/apps/v1/namespaces/llm/deployments/chat"
SCALE = f"{CHAT}/scale"
PODS = "/api/v1/namespaces/llm/pods"

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=8, start_time_s=30) as double:
        double.namespace("llm")
        double.deployment("llm", "chat", replicas=2)
        yield double


def ask(
    double: KubeDouble,
    method: str,
    path: str,
    body: Any = None,
    *,
    token: str | None = None,
    content_type: str = "application/json",
) -> tuple[int, Any]:
    """One plain HTTP request: the status and the body, parsed where it is JSON."""
    connection = http.client.HTTPConnection(double.url.removeprefix("http://"), timeout=30)
    headers = {"Authorization": f"Bearer {token or double.admin_token}", "Content-Type": content_type}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if text.startswith("{") else text


def lease(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "headstart"}, "spec": spec}


def event(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"generateName": "llm-"},
        "eventTime": "2026-01-05T09:00:00.000001Z",
        "reportingController": "headstart.autoscaling/scaler",
        "reportingInstance": "pod-0",
        "action": "Scale",
        "reason": "ScaledOut",
        "type": "Normal",
        "note": "out",
        "regarding": {"kind": "Deployment", "namespace": "llm", "name": "chat"},
    } | changes


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        pytest.param({"renewTime": "2026-01-05T09:00:00.000001Z"}, 201, id="1: six digits"),
        pytest.param({"renewTime": "2026-01-05T09:00:00.123456+00:00"}, 201, id="1: with an offset"),
        pytest.param({"renewTime": "2026-01-05T09:00:00Z"}, 400, id="1: whole seconds"),
        pytest.param({"renewTime": "2026-01-05T09:00:00.000000Z"}, 400, id="1: microsecond 0"),
        pytest.param({"renewTime": "2026-01-05T09:00:00.123Z"}, 400, id="1: milliseconds"),
        pytest.param({"leaseDurationSeconds": 15}, 201, id="2: a duration"),
        pytest.param({"leaseDurationSeconds": 0}, 422, id="2: a duration of zero"),
    ],
)
def test_leases(double: KubeDouble, spec: dict[str, Any], status: int) -> None:
    assert ask(double, "POST", LEASES, lease(**spec))[0] == status


def test_2_a_lease_replaced_without_a_version_succeeds_and_with_a_stale_one_does_not(double: KubeDouble) -> None:
    _, first = ask(double, "POST", LEASES, lease(holderIdentity="a"))
    path = f"{LEASES}/headstart"
    assert ask(double, "PUT", path, lease(holderIdentity="b"))[0] == 200
    stale = {**first, "spec": {"holderIdentity": "c"}}
    status, body = ask(double, "PUT", path, stale)
    assert (status, body["reason"]) == (409, "Conflict")
    assert ask(double, "PATCH", path, {"metadata": stale["metadata"]}, content_type=MERGE)[0] == 409
    assert ask(double, "GET", path)[1]["spec"] == {"holderIdentity": "b"}


def test_4_priority_and_fairness_answers_in_plain_text(double: KubeDouble) -> None:
    double.fault(status=429, text="Too many requests, please try again later.\n", headers={"Retry-After": "1"})
    assert ask(double, "GET", SCALE) == (429, "Too many requests, please try again later.\n")


def test_6_a_body_of_a_delete_replaces_its_query(double: KubeDouble) -> None:
    double.pause_controllers()
    first, second = (pod["metadata"]["name"] for pod in double.pods("llm", "chat"))
    ask(double, "DELETE", f"{PODS}/{first}?gracePeriodSeconds=60")
    assert [pod["metadata"].get("deletionGracePeriodSeconds") for pod in double.pods("llm", "chat")] == [60, None]
    ask(double, "DELETE", f"{PODS}/{second}?gracePeriodSeconds=60", {"kind": "DeleteOptions"})
    assert [pod["metadata"]["name"] for pod in double.pods("llm", "chat")] == [first]


def test_7_a_watch_tells_changes_and_is_expired_from_a_compacted_version(double: KubeDouble) -> None:
    version = ask(double, "GET", PODS)[1]["metadata"]["resourceVersion"]
    double.set_replicas("llm", "chat", 3)
    double.advance(1)
    path = f"{PODS}?watch=1&timeoutSeconds=1&resourceVersion={version}"
    told = [json.loads(line) for line in raw_lines(double, path)]
    assert told[0]["type"] == "ADDED"
    double.compact()
    [refused] = [json.loads(line) for line in raw_lines(double, path)]
    assert (refused["type"], refused["object"]["code"], refused["object"]["reason"]) == ("ERROR", 410, "Expired")


def raw_lines(double: KubeDouble, path: str) -> list[str]:
    connection = http.client.HTTPConnection(double.url.removeprefix("http://"), timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {double.admin_token}"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return lines


def test_8_without_etcd_only_the_stale_cache_answers(double: KubeDouble) -> None:
    double.etcd_down = True
    assert ask(double, "PATCH", SCALE, {"spec": {"replicas": 3}}, content_type=MERGE)[0] == 504
    assert ask(double, "GET", PODS)[0] == 504
    assert ask(double, "GET", f"{PODS}?resourceVersion=0")[0] == 200


@pytest.mark.parametrize(
    ("content_type", "patch", "status"),
    [
        pytest.param(MERGE, {"spec": {"replicas": 5}}, 200, id="merge"),
        pytest.param(STRATEGIC, {"spec": {"replicas": 5}}, 200, id="9: strategic merge of a Scale"),
        pytest.param(JSON_PATCH, [{"op": "replace", "path": "/spec/replicas", "value": 5}], 200, id="9: JSON patch"),
        pytest.param(
            JSON_PATCH,
            [{"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "add", "path": "/spec/replicas", "value": 5}],
            422,
            id="a JSON patch whose test fails",
        ),
        pytest.param(JSON_PATCH, {"spec": {"replicas": 5}}, 400, id="a dict is no JSON patch"),
        pytest.param("application/json", {"spec": {"replicas": 5}}, 415, id="plain JSON is no patch"),
        pytest.param(MERGE, {"spec": {"replicas": -1}}, 422, id="10: minus one"),
        pytest.param(MERGE, {"spec": {"replicas": 2.5}}, 400, id="half a replica"),
        pytest.param(MERGE, {"spec": {"replicas": "5"}}, 400, id="text"),
        pytest.param(MERGE, {"metadata": {"uid": "another"}, "spec": {"replicas": 5}}, 409, id="10: another uid"),
        pytest.param(MERGE, {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 5}}, 409, id="10: stale"),
        pytest.param(MERGE, {"metadata": {"name": "other"}, "spec": {"replicas": 5}}, 400, id="another name"),
    ],
)
def test_patches_of_a_scale(double: KubeDouble, content_type: str, patch: Any, status: int) -> None:
    assert ask(double, "PATCH", SCALE, patch, content_type=content_type)[0] == status
    assert double.replicas("llm", "chat") == (5 if status == 200 else 2)


def test_10_a_stale_scale_is_refused_on_put_too(double: KubeDouble) -> None:
    _, scale = ask(double, "GET", SCALE)
    double.set_replicas("llm", "chat", 4)
    assert ask(double, "PUT", SCALE, scale | {"spec": {"replicas": 5}})[0] == 409
    _, scale = ask(double, "GET", SCALE)
    assert ask(double, "PUT", SCALE, scale | {"spec": {"replicas": 5}})[0] == 200


def test_custom_kinds_refuse_strategic_merge(double: KubeDouble) -> None:
    double.create("leaderworkersets", {"metadata": {"name": "big", "namespace": "llm"}, "spec": {"replicas": 1}})
    path = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/llm/leaderworkersets/big/scale"
    assert ask(double, "PATCH", path, {"spec": {"replicas": 2}}, content_type=STRATEGIC)[0] == 415
    assert ask(double, "PATCH", path, {"spec": {"replicas": 2}}, content_type=MERGE)[0] == 200


def test_zero_replicas_are_left_out_of_a_scale(double: KubeDouble) -> None:
    double.set_replicas("llm", "chat", 0)
    assert ask(double, "GET", SCALE)[1]["spec"] == {}


def test_a_write_of_nothing_keeps_the_version(double: KubeDouble) -> None:
    before = ask(double, "GET", SCALE)[1]["metadata"]["resourceVersion"]
    ask(double, "PATCH", SCALE, {"spec": {"replicas": 2}}, content_type=MERGE)
    assert ask(double, "GET", SCALE)[1]["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({}, 201, id="a whole one"),
        pytest.param({"eventTime": "2026-01-05T09:00:00Z"}, 400, id="1: whole seconds"),
        pytest.param({"eventTime": None}, 422, id="no time"),
        pytest.param({"metadata": {"generateName": "llm."}}, 422, id="10: a prefix that ends in a dot"),
        pytest.param({"note": "x" * 1024}, 201, id="10: a note of 1,024"),
        pytest.param({"note": "x" * 1025}, 422, id="10: a note of 1,025"),
        pytest.param({"action": ""}, 422, id="no action"),
        pytest.param({"reportingInstance": "x" * 129}, 422, id="instance too long"),
        pytest.param({"reportingController": "not a name"}, 422, id="controller no qualified name"),
        pytest.param({"type": "Error"}, 422, id="unknown type"),
        pytest.param({"regarding": {"namespace": "other"}}, 422, id="about another namespace"),
    ],
)
def test_events(double: KubeDouble, changes: dict[str, Any], status: int) -> None:
    assert ask(double, "POST", EVENTS, event(**changes))[0] == status


HPAS = "/apis/autoscaling/v2/namespaces/llm/horizontalpodautoscalers"
OBJECTS = "/apis/keda.sh/v1alpha1/namespaces/llm/scaledobjects"


@pytest.mark.parametrize(
    ("path", "spec", "status", "words"),
    [
        pytest.param(HPAS, {"minReplicas": 2, "maxReplicas": 4}, 201, "", id="hpa"),
        pytest.param(HPAS, {"maxReplicas": 4}, 201, '"minReplicas": 1', id="hpa, the default minimum"),
        pytest.param(
            HPAS, {"minReplicas": 5, "maxReplicas": 4}, 422, "greater than or equal to `minReplicas`", id="over"
        ),
        pytest.param(HPAS, {"minReplicas": 0, "maxReplicas": 4}, 422, "greater than or equal to 1", id="zero"),
        pytest.param(HPAS, {"minReplicas": 1}, 422, "spec.maxReplicas", id="no maximum"),
        pytest.param(HPAS, {"minReplicas": "1", "maxReplicas": 4}, 400, "int32", id="text"),
        pytest.param(OBJECTS, {}, 201, "", id="scaled object"),
        pytest.param(OBJECTS, {"minReplicaCount": 101}, 403, "admission webhook", id="over the default maximum"),
        pytest.param(OBJECTS, {"minReplicaCount": 5, "maxReplicaCount": 4}, 403, "must be less than Max", id="crossed"),
        pytest.param(OBJECTS, {"minReplicaCount": 2, "idleReplicaCount": 2}, 403, "IdleReplicaCount=2", id="idle"),
    ],
)
def test_autoscalers(double: KubeDouble, path: str, spec: dict[str, Any], status: int, words: str) -> None:
    triggers = {"triggers": []} if path == OBJECTS else {}
    reference = {"scaleTargetRef": {"kind": "Deployment", "name": "chat"}}
    body = {"metadata": {"name": "chat"}, "spec": {**reference, **triggers, **spec}}
    answered, found = ask(double, "POST", path, body)
    assert (answered, words in json.dumps(found)) == (status, True), found


def test_an_autoscaler_that_was_changed_in_between_is_a_conflict(double: KubeDouble) -> None:
    created = double.hpa("llm", "chat", least=1, most=4)
    stale = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "spec": {"minReplicas": 2}}
    double.set_spec("horizontalpodautoscalers", "llm", "chat", maxReplicas=9)
    assert ask(double, "PATCH", f"{HPAS}/chat", stale, content_type="application/merge-patch+json")[0] == 409
    assert double.floor("llm", "chat") == 1


def test_an_hpa_keeps_its_target_within_bounds_and_off_a_zero(double: KubeDouble) -> None:
    double.hpa("llm", "chat", least=3, most=4)
    assert double.replicas("llm", "chat") == 3
    double.set_replicas("llm", "chat", 9)
    double.advance(1)
    assert double.replicas("llm", "chat") == 4
    double.set_replicas("llm", "chat", 0)
    double.advance(60)
    assert double.replicas("llm", "chat") == 0


def test_a_quota_refuses_pods_and_the_deployment_says_so(double: KubeDouble) -> None:
    double.quota("llm", pods=3)
    double.set_replicas("llm", "chat", 5)
    double.advance(30)
    assert len(double.pods("llm", "chat")) == 3
    path = "/apis/apps/v1/namespaces/llm/deployments/chat"
    [condition] = ask(double, "GET", path)[1]["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("ReplicaFailure", "True", "FailedCreate")
    double.set_replicas("llm", "chat", 3)
    double.advance(1)
    assert ask(double, "GET", path)[1]["status"]["conditions"] == []


def test_11_pods_without_a_gpu_say_so(double: KubeDouble) -> None:
    double.set_replicas("llm", "chat", 12)
    double.advance(31)
    pods = ask(double, "GET", f"{PODS}?fieldSelector=status.phase%3DPending")[1]["items"]
    assert len(pods) == 4
    [scheduled] = [c for c in pods[0]["status"]["conditions"] if c["type"] == "PodScheduled"]
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in scheduled["message"]
    double.set_replicas("llm", "chat", 8)
    double.advance(1)
    assert ask(double, "GET", f"{PODS}?fieldSelector=status.phase%3DPending")[1]["items"] == []


def test_11_a_scale_permission_is_none_on_the_deployment(double: KubeDouble) -> None:
    token = double.account("scaler", Rule(verbs=("get", "patch"), groups=("apps",), resources=("deployments/scale",)))
    assert ask(double, "PATCH", SCALE, {"spec": {"replicas": 3}}, token=token, content_type=MERGE)[0] == 200
    status, body = ask(double, "GET", CHAT, token=token)
    assert (status, body["reason"], body["kind"]) == (403, "Forbidden", "Status")
    assert body["message"] == (
        'deployments.apps "chat" is forbidden: User "scaler" cannot get resource "deployments" '
        'in API group "apps" in the namespace "llm"'
    )


def test_an_access_review_answers_from_the_same_table(double: KubeDouble) -> None:
    token = double.account(
        "scaler", Rule(verbs=("get",), groups=("apps",), resources=("deployments/scale",), namespaces=("llm",))
    )

    def allowed(namespace: str) -> bool:
        asked = {"verb": "get", "group": "apps", "resource": "deployments", "subresource": "scale"}
        body = {"spec": {"resourceAttributes": asked | {"namespace": namespace}}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(ask(double, "POST", path, body, token=token)[1]["status"]["allowed"])

    assert (allowed("llm"), allowed("other")) == (True, False)
    assert double.mutating_requests == 0


def test_unknown_tokens_and_paths(double: KubeDouble) -> None:
    assert ask(double, "GET", SCALE, token="nobody")[0] == 401
    assert ask(double, "GET", "/apis/nothing/v1") == (404, "404 page not found\n")
    assert ask(double, "GET", f"{PODS}/gone")[1]["message"] == 'pods "gone" not found'


def test_lists_page_in_order_and_tell_what_remains(double: KubeDouble) -> None:
    double.create("statefulsets", workload("StatefulSet", "llm", "cache", replicas=3, gpus=0))
    everything = [item["metadata"]["name"] for item in ask(double, "GET", PODS)[1]["items"]]
    paged: list[str] = []
    token = ""
    while True:
        page = ask(double, "GET", f"{PODS}?limit=2&continue={token}")[1]
        paged += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
        assert page["metadata"]["remainingItemCount"] == len(everything) - len(paged)
    assert paged == everything
    assert len(ask(double, "GET", f"{PODS}?labelSelector=app%20in%20(cache)")[1]["items"]) == 3
    assert ask(double, "GET", f"{PODS}?labelSelector=%3D%3D")[0] == 400
    assert ask(double, "GET", f"{PODS}?fieldSelector=spec.color%3Dred")[0] == 400


def test_a_lost_answer_is_not_a_lost_write(double: KubeDouble) -> None:
    double.fault(method="PATCH", drop="after")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(double, "PATCH", SCALE, {"spec": {"replicas": 5}}, content_type=MERGE)
    assert double.replicas("llm", "chat") == 5


def test_the_state_survives_the_server(double: KubeDouble) -> None:
    url = double.url
    double.kill()
    with pytest.raises(ConnectionError):
        ask(double, "GET", SCALE)
    double.start()
    assert (double.url, ask(double, "GET", SCALE)[0]) == (url, 200)


def test_time_stands_still_until_it_is_advanced(double: KubeDouble) -> None:
    before = double.now
    ask(double, "GET", PODS)
    assert double.now == before
    double.advance(90)
    assert double.now == before + timedelta(seconds=90)
