"""deploy/rbac.yaml against the requests that are really made: no rule too few, none too many, nothing cluster-wide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind
from kube_double import KubeDouble, workload
from scaler.adapters.kubernetes import (
    HPA,
    SCALED_OBJECT,
    ApiConnection,
    FloorRef,
    KubernetesCluster,
    ScaleResult,
    ServerAddress,
    TargetRef,
)
from scaler.adapters.kubernetes.errors import Forbidden
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef
from scaler.adapters.kubernetes.permissions import (
    SCALE_GROUPS,
    Feature,
    Permission,
    PolicyRule,
    added_by,
    lease_permissions,
    needed,
    rules_for,
)
from scaler.adapters.kubernetes.victims import VictimMarker

MANIFESTS: list[dict[str, Any]] = [
    document
    for document in yaml.safe_load_all((Path(__file__).resolve().parents[3] / "deploy" / "rbac.yaml").read_text())
    if document
]
PLURALS = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Lease": "leases",
}
USER = "system:serviceaccount:headstart:headstart"


def permissions(role: str) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of a role in the file."""
    [found] = [m for m in MANIFESTS if m["kind"] in ("ClusterRole", "Role") and m["metadata"]["name"] == role]
    return {
        (group, resource, verb)
        for rule in found["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as double:
        double.namespace("llm")
        for manifest in MANIFESTS:
            if manifest["kind"] != "RoleBinding" or manifest["metadata"]["namespace"] == "headstart":
                double.create(PLURALS[manifest["kind"]], manifest)
        yield double


def bound(double: KubeDouble, folder: Path, *roles: str) -> ApiConnection:
    """Headstart's account with `roles` bound in namespace llm, as the file's last document does."""
    for role in roles:
        metadata = MANIFESTS[-1]["metadata"] | {"name": role}
        reference = MANIFESTS[-1]["roleRef"] | {"name": role}
        double.create("rolebindings", MANIFESTS[-1] | {"metadata": metadata, "roleRef": reference})
    account = double.store.get("serviceaccounts", "headstart", "headstart")
    token = folder / "token"
    token.write_text(double.store.issue(USER, account["metadata"]["uid"]))
    return ApiConnection(ServerAddress(server=double.url, token_file=token))


def every_kind(double: KubeDouble) -> list[TargetRef]:
    """Four Deployments and four StatefulSets, enough for a LIST, one each in a namespace read by GET, and an LWS."""
    targets = []
    for kind, plural in (("Deployment", "deployments"), ("StatefulSet", "statefulsets")):
        for n in range(4):
            name = f"{kind.lower()}-{n}"
            double.create(plural, workload(kind, "llm", name, replicas=1))
            targets.append(TargetRef(namespace="llm", api_version="apps/v1", kind=kind, name=name))
    double.create("leaderworkersets", {"metadata": {"name": "big", "namespace": "llm"}, "spec": {"replicas": 1}})
    lws = "leaderworkerset.x-k8s.io/v1"
    return [*targets, TargetRef(namespace="llm", api_version=lws, kind="LeaderWorkerSet", name="big")]


def used(double: KubeDouble) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of the account's requests, discovery left out."""
    asked = set()
    for request in double.requests:
        parts = request.path.strip("/").split("/")
        if request.user != USER or "namespaces" not in parts:
            continue
        group = parts[1] if parts[0] == "apis" else ""
        resource, *named = parts[parts.index("namespaces") + 2 :]
        verbs = {"GET": "get" if named else "list", "PATCH": "patch", "POST": "create", "PUT": "update"}
        asked.add((group, "/".join([resource, *named[1:]]), verbs[request.method]))
    return asked


def test_observing_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    api = bound(double, tmp_path, "headstart-observe")
    cluster = KubernetesCluster(api)
    targets = every_kind(double)
    seen = [*cluster.read(targets, now=double.now).values()]
    for target in targets:
        seen.extend(cluster.read([target], now=double.now).values())
    double.fault(path="/(deployments|statefulsets)$", status=403, times=99)
    seen.extend(KubernetesCluster(api).read(targets, now=double.now).values())
    assert not [state for state in seen if isinstance(state, Blind)]
    assert used(double) == permissions("headstart-observe")
    assert double.mutating_requests == 0
    assert cluster.missing_permissions(targets, {Feature.OBSERVE}) == ()
    missing = {(p.group, p.resource, p.verb) for p in cluster.missing_permissions(targets, {Feature.ACTIVE})}
    events = {("events.k8s.io", "events", "create")}
    assert missing == permissions("headstart-active") - permissions("headstart-observe") - events


def test_scaling_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    cluster = KubernetesCluster(bound(double, tmp_path, "headstart-active"))
    targets = every_kind(double)
    cluster.read(targets, now=double.now)
    for target in targets:
        outcome = cluster.scale(target, 2, expected=1)
        assert outcome.result is ScaleResult.SCALED
        assert cluster.announce(target, outcome, note="out", now=double.now) is None
    assert used(double) == permissions("headstart-active")
    assert cluster.rivals(targets) == {}  # unknown to this account, and no error
    assert cluster.missing_permissions(targets, {Feature.ACTIVE}) == ()


def test_setting_floors_uses_exactly_its_role_and_may_not_scale(double: KubeDouble, tmp_path: Path) -> None:
    api = bound(double, tmp_path, "headstart-floor")
    cluster, targets = KubernetesCluster(api), every_kind(double)
    double.hpa("llm", "deployment-0", least=1, most=9)
    double.scaled_object("llm", "deployment-1", minReplicaCount=1)
    floors = {
        targets[0]: FloorRef(namespace="llm", kind=HPA, name="deployment-0"),
        targets[1]: FloorRef(namespace="llm", kind=SCALED_OBJECT, name="deployment-1"),
    }
    seen = cluster.read(targets, now=double.now, floors=floors)
    assert not [state for state in seen.values() if isinstance(state, Blind)]
    for target, floor in floors.items():
        outcome = cluster.set_floor(floor, target, 2, expected=1)
        assert outcome.result is ScaleResult.SCALED
        assert cluster.announce(target, outcome, note="out", now=double.now) is None
    double.fault(path="/(deployments|statefulsets)$", status=403, times=99)
    KubernetesCluster(api).read(targets, now=double.now)
    assert used(double) == permissions("headstart-floor")
    assert cluster.missing_permissions(targets, {Feature.FLOOR_HPA, Feature.FLOOR_SCALED_OBJECT}) == ()
    with pytest.raises(Forbidden, match="deployments/scale"):
        cluster.scale(targets[0], 3, expected=2)


def test_seeing_rivals_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    cluster = KubernetesCluster(bound(double, tmp_path, "headstart-active", "headstart-rivals"))
    targets = every_kind(double)
    double.hpa("llm", "deployment-0")
    assert cluster.rivals(targets)[targets[0]] == ("HorizontalPodAutoscaler llm/deployment-0",)
    assert used(double) == permissions("headstart-rivals")


def test_marking_pods_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    double.deployment("llm", "chat", replicas=3)
    double.advance(120)
    chat = TargetRef(namespace="llm", api_version="apps/v1", kind="Deployment", name="chat")
    alone = VictimMarker(bound(double, tmp_path, "headstart-active"), lambda namespace, pods: {})
    assert "pods" in alone.mark(chat, leaving=1).failed
    api = bound(double, tmp_path, "headstart-deletion-cost")
    marking = VictimMarker(api, lambda namespace, pods: {}).mark(chat, leaving=1)
    assert (len(marking.pods), marking.failed) == (1, "")
    assert used(double) - permissions("headstart-active") == permissions("headstart-deletion-cost")
    cluster = KubernetesCluster(api)
    assert cluster.missing_permissions([chat], {Feature.ACTIVE, Feature.EVENTS, Feature.DELETION_COST}) == ()


def test_no_role_is_without_a_feature_that_makes_it() -> None:
    compared = {"headstart-observe", "headstart-active", "headstart-floor", "headstart-rivals"}
    compared |= {"headstart-deletion-cost", "headstart-lease"}
    assert {m["metadata"]["name"] for m in MANIFESTS if m["kind"] in ("ClusterRole", "Role")} == compared


@given(st.sets(st.sampled_from(Feature)))
def test_what_is_asked_about_a_kind_is_what_its_rules_grant(features: set[Feature]) -> None:
    for group, plurals in SCALE_GROUPS.items():
        rules = rules_for(features, {group: plurals[:1]})
        asked = needed(features, namespace="llm", group=group, plural=plurals[0])
        granted = {(rule.group, resource, verb) for rule in rules for resource in rule.resources for verb in rule.verbs}
        assert {(each.group, each.resource, each.verb) for each in asked} == granted
        assert len(asked) == len(granted)


@pytest.mark.parametrize(
    ("role", "rules"),
    [
        pytest.param("headstart-observe", rules_for({Feature.OBSERVE}), id="observe"),
        pytest.param("headstart-observe", rules_for({Feature.PUBLISH, Feature.DISCOVER}), id="publish and discover"),
        pytest.param("headstart-active", rules_for({Feature.ACTIVE, Feature.EVENTS}), id="active"),
        pytest.param(
            "headstart-floor",
            rules_for({Feature.FLOOR_HPA, Feature.FLOOR_SCALED_OBJECT, Feature.EVENTS}),
            id="floor",
        ),
        pytest.param("headstart-active", rules_for({Feature.PLACEHOLDERS, Feature.EVENTS}), id="placeholders"),
        pytest.param("headstart-rivals", added_by({Feature.RIVALS}), id="rivals"),
        pytest.param("headstart-deletion-cost", added_by({Feature.DELETION_COST}), id="deletion cost"),
        pytest.param(
            "headstart-lease", tuple(each.limited_to("headstart") for each in added_by({Feature.LEASE})), id="lease"
        ),
    ],
)
def test_the_file_holds_the_rules_of_the_features_as_they_are_rendered(
    role: str, rules: tuple[PolicyRule, ...]
) -> None:
    [found] = [m for m in MANIFESTS if m["kind"] in ("ClusterRole", "Role") and m["metadata"]["name"] == role]
    assert found["rules"] == [rule.manifest() for rule in rules]


@given(st.sets(st.sampled_from(Feature)), st.sets(st.sampled_from(Feature)))
def test_features_add_up_and_nothing_else(some: set[Feature], others: set[Feature]) -> None:
    def granted(rules: tuple[PolicyRule, ...]) -> set[tuple[str, str, str]]:
        rows = [(rule.group, resource, verb) for rule in rules for resource in rule.resources for verb in rule.verbs]
        assert len(rows) == len(set(rows))
        return set(rows)

    assert granted(rules_for(some | others)) == granted(rules_for(some)) | granted(rules_for(others))
    assert granted(rules_for(some)) == granted(rules_for(())) | granted(added_by(some))
    assert all(verb in ("get", "list") for _, _, verb in granted(rules_for(())))


def test_the_election_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    """The Lease comes with the role: making it would take a right that cannot be limited to its name."""
    account = double.store.get("serviceaccounts", "headstart", "headstart")
    token = tmp_path / "token"
    token.write_text(double.store.issue(USER, account["metadata"]["uid"]))
    api = ApiConnection(ServerAddress(server=double.url, token_file=token))
    lease = LeaseApi(api, LeaseRef(namespace="headstart", name="headstart"), duration_s=15.0)
    found = lease.read(timeout_s=5.0)
    assert found is not None
    assert not found.ever_held
    taken = lease.replace(found, "a", now=double.now, timeout_s=5.0)
    assert lease.replace(taken, "", now=double.now, timeout_s=5.0).ever_held
    assert used(double) == permissions("headstart-lease")
    cluster = KubernetesCluster(api)
    assert cluster.lacking(lease_permissions(namespace="headstart", name="headstart")) == ()
    assert {each.verb for each in cluster.lacking(lease_permissions(namespace="headstart", name="other"))} == {
        "get",
        "update",
    }
    create = Permission(verb="create", group="coordination.k8s.io", resource="leases", namespace="headstart")
    assert cluster.lacking([create]) == (create,)
    with pytest.raises(Forbidden, match="leases"):
        LeaseApi(api, LeaseRef(namespace="headstart", name="other"), duration_s=15.0).read(timeout_s=5.0)


def test_nothing_is_bound_cluster_wide_and_no_rule_has_a_wildcard() -> None:
    assert not [m for m in MANIFESTS if m["kind"] == "ClusterRoleBinding"]
    roles = [m["metadata"]["name"] for m in MANIFESTS if m["kind"] in ("ClusterRole", "Role")]
    assert all("*" not in part for role in roles for permission in permissions(role) for part in permission)
