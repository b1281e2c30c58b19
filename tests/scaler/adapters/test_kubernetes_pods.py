"""What a pod counts as, and which pods a selector means.

Properties: the counts never exceed `spec.replicas` and never go below what fits; more pods of a kind never read as
fewer; a selector's text form means what its object form means; a merged query covers all it was made of.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_double_rules import matches, selector_text
from scaler.adapters.kubernetes.events import micro_time
from scaler.adapters.kubernetes.pods import PodPhase, StartsRead, count, is_owned, phase_of
from scaler.adapters.kubernetes.selectors import Labelled, SelectorError, parse_selector, query_for, selector_of

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
LOADING = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}


def a_pod(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    base = {"name": "chat-0", "uid": "1", "creationTimestamp": "2026-01-05T08:59:00Z"}
    return {"metadata": {**base, **metadata}, "status": status or {}}


def containers(restarts: int = 0, waiting: str = "", *, init: bool = False) -> dict[str, Any]:
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    key = "initContainerStatuses" if init else "containerStatuses"
    return {**LOADING, key: [{"state": state, "restartCount": restarts}]}


def unscheduled(reason: str) -> dict[str, Any]:
    return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": reason}]}


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        pytest.param(a_pod(), PodPhase.STARTING, id="just created, no status at all"),
        pytest.param(a_pod(LOADING), PodPhase.STARTING, id="loading the model"),
        pytest.param(a_pod(READY), PodPhase.READY, id="ready"),
        pytest.param(
            a_pod(READY, deletionTimestamp="2026-01-05T09:00:30Z"), PodPhase.GONE, id="terminating but still ready"
        ),
        pytest.param(a_pod({"phase": "Succeeded"}), PodPhase.GONE, id="finished"),
        pytest.param(a_pod({"phase": "Failed", "reason": "Evicted"}), PodPhase.FAILED, id="evicted"),
        pytest.param(a_pod(unscheduled("Unschedulable")), PodPhase.UNSCHEDULABLE, id="no GPU"),
        pytest.param(a_pod(unscheduled("SchedulingGated")), PodPhase.UNSCHEDULABLE, id="held back by a quota"),
        pytest.param(a_pod(unscheduled("SchedulerError")), PodPhase.STARTING, id="the scheduler will retry"),
        pytest.param(a_pod(containers(1)), PodPhase.STARTING, id="one restart is forgiven"),
        pytest.param(a_pod(containers(2)), PodPhase.FAILED, id="running between two crashes"),
        pytest.param(a_pod(containers(0, "CrashLoopBackOff")), PodPhase.FAILED, id="crash loop"),
        pytest.param(a_pod(containers(0, "ImagePullBackOff")), PodPhase.FAILED, id="no such image"),
        pytest.param(a_pod(containers(0, "CrashLoopBackOff", init=True)), PodPhase.FAILED, id="init container crashes"),
        pytest.param(a_pod(containers(0, "ContainerCreating")), PodPhase.STARTING, id="pulling the image"),
        pytest.param(
            a_pod({**containers(9), **READY}), PodPhase.READY, id="ready now, whatever its restarts of the past"
        ),
    ],
)
def test_phase_of(pod: dict[str, Any], phase: PodPhase) -> None:
    assert phase_of(pod) is phase


EXAMPLES = {
    PodPhase.READY: READY,
    PodPhase.STARTING: LOADING,
    PodPhase.UNSCHEDULABLE: unscheduled("Unschedulable"),
    PodPhase.FAILED: containers(5),
    PodPhase.GONE: {"phase": "Succeeded"},
}
phases = st.lists(st.sampled_from(list(PodPhase)), max_size=40)


def pods_in(found: list[PodPhase]) -> list[dict[str, Any]]:
    return [a_pod(EXAMPLES[phase], name=f"chat-{n}", uid=str(n)) for n, phase in enumerate(found)]


@given(found=phases, desired=st.integers(0, 50))
def test_counts_fill_up_to_desired_and_no_further(found: list[PodPhase], desired: int) -> None:
    state = count(pods_in(found), desired=desired, now=NOW).replicas
    total = state.ready + state.starting + state.unschedulable + state.failed
    assert total == min(desired, len(found) - found.count(PodPhase.GONE))
    assert state.ready == min(desired, found.count(PodPhase.READY))
    assert state.starting <= found.count(PodPhase.STARTING)


@given(found=phases, surge=phases, desired=st.integers(0, 50))
def test_more_pods_never_make_fewer_ready(found: list[PodPhase], surge: list[PodPhase], desired: int) -> None:
    before = count(pods_in(found), desired=desired, now=NOW).replicas
    after = count(pods_in(found + surge), desired=desired, now=NOW).replicas
    assert before.ready <= after.ready
    assert before.ready + before.starting <= after.ready + after.starting


# ── From one reading to the next ──────────────────────────────────────────────────────────────────────────────


@given(readings=st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(list(PodPhase))), max_size=6))
def test_remembered_starts_are_those_of_the_pods_now(readings: list[dict[str, PodPhase]]) -> None:
    """Whatever changed, came and went between readings: each change is another version, as the API promises."""
    remembered = StartsRead()
    for number, reading in enumerate(readings):
        pods = [a_pod(EXAMPLES[phase], uid=uid, resourceVersion=f"{number}") for uid, phase in reading.items()]
        remembered.begin()
        assert count(pods, desired=3, now=NOW, made=remembered.of) == count(pods, desired=3, now=NOW)


def test_a_pod_of_the_same_version_is_not_made_anew() -> None:
    remembered, pod = StartsRead(), a_pod(READY, uid="1", resourceVersion="7")
    first = remembered.of(pod)
    remembered.begin()
    assert remembered.of(pod) is first
    again = remembered.of(a_pod(LOADING, uid="1", resourceVersion="8"))
    assert again.phase is PodPhase.STARTING


def test_who_was_not_in_a_reading_is_forgotten() -> None:
    remembered, pod = StartsRead(), a_pod(READY, uid="1", resourceVersion="7")
    first = remembered.of(pod)
    remembered.begin()
    remembered.begin()
    assert remembered.of(pod) is not first


@pytest.mark.parametrize("missing", ["uid", "resourceVersion"])
def test_a_pod_without_a_name_or_a_version_is_always_made_anew(missing: str) -> None:
    remembered = StartsRead()
    named = {"uid": "1", "resourceVersion": "7", missing: ""}
    remembered.of(a_pod(READY, **named))
    remembered.begin()
    assert remembered.of(a_pod(LOADING, **named)).phase is PodPhase.STARTING


def owned_by(kind: str, name: str, **labels: str) -> dict[str, Any]:
    return a_pod(ownerReferences=[{"kind": kind, "name": name, "controller": True}], labels=labels)


@pytest.mark.parametrize(
    ("pod", "kind", "owned"),
    [
        pytest.param(owned_by("ReplicaSet", "chat-5d", **{"pod-template-hash": "5d"}), "Deployment", True, id="own"),
        pytest.param(
            owned_by("ReplicaSet", "chat-canary-5d", **{"pod-template-hash": "5d"}), "Deployment", False, id="namesake"
        ),
        pytest.param(a_pod(), "Deployment", False, id="bare pod"),
        pytest.param(owned_by("StatefulSet", "chat"), "StatefulSet", True, id="stateful"),
        pytest.param(owned_by("StatefulSet", "chat-2"), "StatefulSet", False, id="other stateful"),
        pytest.param(owned_by("Whatever", "x"), "LeaderWorkerSet", True, id="of other kinds the selector is enough"),
    ],
)
def test_is_owned(pod: dict[str, Any], kind: str, owned: bool) -> None:
    assert is_owned(pod, kind=kind, name="chat") is owned


# ── Selectors ─────────────────────────────────────────────────────────────────────────────────────────────────

keys = st.sampled_from(["app", "tier", "acme.io/team", "x"])
values = st.sampled_from(["a", "b", "c-1", "d.2", ""])
labels = st.dictionaries(keys, values)
expressions = st.one_of(
    st.builds(
        lambda key, operator, chosen: {"key": key, "operator": operator, "values": sorted(chosen)},
        keys,
        st.sampled_from(["In", "NotIn"]),
        st.sets(values.filter(bool), min_size=1),
    ),
    st.builds(
        lambda key, operator: {"key": key, "operator": operator}, keys, st.sampled_from(["Exists", "DoesNotExist"])
    ),
)
specs = st.builds(
    lambda equal, others: {"matchLabels": equal, "matchExpressions": others},
    labels,
    st.lists(expressions, max_size=3),
).filter(lambda spec: spec["matchLabels"] or spec["matchExpressions"])


@given(spec=specs, pod=labels)
def test_text_and_object_form_select_the_same_pods(spec: dict[str, Any], pod: dict[str, str]) -> None:
    text = selector_text(spec)
    parsed = parse_selector(text)
    assert parsed.matches(pod) == selector_of(spec).matches(pod) == matches(text, pod)
    assert matches(str(parsed), pod) == parsed.matches(pod)


@given(chosen=st.lists(specs, min_size=1, max_size=5), pod=labels)
def test_a_merged_query_covers_every_workload(chosen: list[dict[str, Any]], pod: dict[str, str]) -> None:
    selectors = [selector_of(spec) for spec in chosen]
    query = query_for(selectors)
    if query is not None and any(selector.matches(pod) for selector in selectors):
        assert matches(query, pod)


def test_a_query_too_long_for_proxies_lists_the_namespace_instead() -> None:
    assert query_for([parse_selector(f"app=a-long-workload-name-{n}") for n in range(500)]) is None


@pytest.mark.parametrize("text", ["", " , ", "a=b=c", "in (a)", "a in b", "a b"])
def test_no_selector_is_an_error_and_never_everything(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_selector(text)
    with pytest.raises(SelectorError):
        selector_of({})


@given(st.datetimes(timezones=st.just(UTC)))
def test_micro_times_are_what_kubernetes_accepts(moment: datetime) -> None:
    text = micro_time(moment)
    assert len(text.split(".")[1]) == 7
    assert not text.endswith(".000000Z")
    assert abs((datetime.fromisoformat(text) - moment).total_seconds()) <= 1e-6


# ── Starts ────────────────────────────────────────────────────────────────────────────────────────────────────


def asking(*limits: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {**a_pod(), "spec": {"containers": [{"resources": {"limits": each}} for each in limits], **spec}}


def wanting(key: str, *values: str) -> dict[str, Any]:
    expression = {"key": key, "operator": "In", "values": list(values)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


@pytest.mark.parametrize(
    ("pod", "accelerator"),
    [
        pytest.param(a_pod(), "", id="no spec at all"),
        pytest.param(asking({"cpu": "4", "memory": "16Gi"}), "", id="no GPU"),
        pytest.param(asking({"cpu": "4"}, nodeSelector={"gpu": "yes"}), "", id="beside GPUs, and none of its own"),
        pytest.param(asking({"nvidia.com/gpu": "4"}), "nvidia.com/gpu:4", id="four"),
        pytest.param(asking({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": "1"}), "nvidia.com/gpu:2", id="two containers"),
        pytest.param(asking({"nvidia.com/mig-1g.10gb": "1"}), "nvidia.com/mig-1g.10gb:1", id="a slice"),
        pytest.param(asking({"nvidia.com/gpu": "0"}), "", id="none"),
        pytest.param(
            asking({"nvidia.com/gpu": "8"}, nodeSelector={"nvidia.com/gpu.product": "H100", "zone": "a"}),
            "nvidia.com/gpu:8 H100",
            id="by selector",
        ),
        pytest.param(
            asking({"amd.com/gpu": "8"}, affinity=wanting("node.kubernetes.io/instance-type", "b", "a")),
            "amd.com/gpu:8 a b",
            id="by affinity",
        ),
        pytest.param(asking({"amd.com/gpu": "8"}, affinity={"nodeAffinity": None}), "amd.com/gpu:8", id="nulls"),
    ],
)
def test_what_gpus_a_pod_asks_for(pod: dict[str, Any], accelerator: str) -> None:
    assert count([pod], desired=1, now=NOW).starts[0].accelerator == accelerator


@pytest.mark.parametrize(
    ("statuses", "running_at"),
    [
        pytest.param([], None, id="the kubelet has said nothing yet"),
        pytest.param([{"waiting": {"reason": "ContainerCreating"}}], None, id="its image is being pulled"),
        pytest.param([{"running": {"startedAt": "2026-01-05T08:59:40Z"}}, {"waiting": {}}], None, id="one of two"),
        pytest.param(
            [{"running": {"startedAt": "2026-01-05T08:59:40Z"}}, {"running": {"startedAt": "2026-01-05T08:59:50Z"}}],
            NOW.replace(hour=8, minute=59, second=50),
            id="both",
        ),
    ],
)
def test_when_a_pods_containers_run(statuses: list[dict[str, Any]], running_at: datetime | None) -> None:
    status = {**LOADING, "containerStatuses": [{"state": each, "restartCount": 0} for each in statuses]}
    assert count([a_pod(status)], desired=1, now=NOW).starts[0].running_at == running_at


# ── Many selections from the same pods ────────────────────────────────────────────────────────────────────────────

_SOME_LABELS = st.dictionaries(st.sampled_from(["app", "tier", "track"]), st.sampled_from(["a", "b", "c"]))


@given(
    labels=st.lists(_SOME_LABELS, max_size=8),
    texts=st.lists(
        st.sampled_from(["app=a", "app in (a,b)", "app=a,tier=b", "tier=b,app notin (a)", "!app", "track", "app!=c"]),
        min_size=1,
        max_size=4,
    ),
)
def test_an_index_selects_what_one_by_one_would(labels: list[dict[str, str]], texts: list[str]) -> None:
    pods = [{"metadata": {"name": str(number), "labels": each or None}} for number, each in enumerate(labels)]
    indexed = Labelled(pods)
    for selector in map(parse_selector, texts):
        one_by_one = [pod["metadata"]["name"] for pod in pods if selector.matches(pod["metadata"]["labels"] or {})]
        assert sorted(pod["metadata"]["name"] for pod in indexed.selected(selector)) == one_by_one


def test_a_pod_of_another_shape_is_told_at_every_selection() -> None:
    indexed = Labelled([{"metadata": {"labels": {"app": "a"}}}, {"spec": {}}])
    for _ in range(2):
        with pytest.raises(KeyError):
            indexed.selected(parse_selector("app=a"))
