"""deploy/rbac.yaml against the requests that are really made: no rule too few, none too many, nothing cluster-wide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from forecaster.types import Blind
from kube_double import KubeDouble, workload
from scaler.adapters.kubernetes import (
    ApiConnection,
    KubernetesCluster,
    ScaleResult,
    ServerAddress,
    TargetRef,
)
from scaler.adapters.kubernetes.errors import Forbidden
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef

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


def bound(double: KubeDouble, role: str, folder: Path) -> KubernetesCluster:
    """Headstart's account with `role` bound in namespace llm, as the file's last document does."""
    binding = MANIFESTS[-1] | {"roleRef": MANIFESTS[-1]["roleRef"] | {"name": role}}
    double.create("rolebindings", binding)
    account = double.store.get("serviceaccounts", "headstart", "headstart")
    token = folder / "token"
    token.write_text(double.store.issue(USER, account["metadata"]["uid"]))
    return KubernetesCluster(ApiConnection(ServerAddress(server=double.url, token_file=token)))


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
    cluster = bound(double, "headstart-observe", tmp_path)
    targets = every_kind(double)
    seen = [*cluster.read(targets, now=double.now).values()]
    for target in targets:
        seen.extend(cluster.read([target], now=double.now).values())
    assert not [state for state in seen if isinstance(state, Blind)]
    assert used(double) == permissions("headstart-observe")
    assert double.mutating_requests == 0
    assert cluster.missing_permissions(targets, active=False) == ()
    missing = {(p.group, p.resource, p.verb) for p in cluster.missing_permissions(targets, active=True)}
    events = {("events.k8s.io", "events", "create")}
    assert missing == permissions("headstart-active") - permissions("headstart-observe") - events


def test_scaling_uses_exactly_its_role(double: KubeDouble, tmp_path: Path) -> None:
    cluster = bound(double, "headstart-active", tmp_path)
    targets = every_kind(double)
    cluster.read(targets, now=double.now)
    for target in targets:
        outcome = cluster.scale(target, 2, expected=1)
        assert outcome.result is ScaleResult.SCALED
        assert cluster.announce(target, outcome, note="out", now=double.now) is None
    assert used(double) == permissions("headstart-active")


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
    with pytest.raises(Forbidden, match="leases"):
        LeaseApi(api, LeaseRef(namespace="headstart", name="other"), duration_s=15.0).read(timeout_s=5.0)


def test_nothing_is_bound_cluster_wide_and_no_rule_has_a_wildcard() -> None:
    assert not [m for m in MANIFESTS if m["kind"] == "ClusterRoleBinding"]
    roles = [m["metadata"]["name"] for m in MANIFESTS if m["kind"] in ("ClusterRole", "Role")]
    assert all("*" not in part for role in roles for permission in permissions(role) for part in permission)
