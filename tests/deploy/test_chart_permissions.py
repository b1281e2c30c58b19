"""What the chart lets Headstart do: exactly the rules of each feature that the settings use, and no other.

The rules are held against the roles of deploy/rbac.yaml, which tests/scaler/adapters/test_kubernetes_rbac.py holds
against the requests that are really made. Where both must change, this is the one place that compares them.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from chart_cases import CASES, NAMESPACE, Object, of_kind, rendered
from helm_double import REPOSITORY

ROLES: dict[str, list[dict[str, Any]]] = {
    document["metadata"]["name"]: document["rules"]
    for document in yaml.safe_load_all((REPOSITORY / "deploy" / "rbac.yaml").read_text(encoding="utf-8"))
    if document and document["kind"] == "ClusterRole"
}
Permission = tuple[str, str, str]

PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "LeaderWorkerSet": "leaderworkersets"}
HPA, SCALED_OBJECT = "horizontalpodautoscalers", "scaledobjects"
FLOOR = {("autoscaling", HPA, "get"), ("autoscaling", HPA, "patch")}
FLOOR_KEDA = {("keda.sh", SCALED_OBJECT, "get"), ("keda.sh", SCALED_OBJECT, "patch")}
RIVALS = {("autoscaling", HPA, "list")}
EVENTS = {("events.k8s.io", "events", "create")}
DELETION_COST = {("", "pods", "patch")}


def permissions(rules: list[dict[str, Any]]) -> set[Permission]:
    """(group, resource, verb) of some rules."""
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


def of_role(role: str, *kinds: str) -> set[Permission]:
    """A role of deploy/rbac.yaml, without the kinds that do not run."""
    absent = {plural for kind, plural in PLURALS.items() if kind not in kinds}
    return {each for each in permissions(ROLES[role]) if each[1].partition("/")[0] not in absent}


def a_workload(name: str, kind: str = "Deployment", mode: str | None = None) -> Object:
    target = {} if kind == "Deployment" else {"target": {"kind": kind}}
    return {"workload": name, "profile": "qwen3-vl-2b-24gb", **target, **({"mode": mode} if mode else {})}


def granted(values: Object) -> dict[str, set[Permission]]:
    """What the account may do in each namespace ("" for all of them), the Lease left out."""
    objects = rendered(values)
    roles = [*of_kind(objects, "ClusterRole"), *of_kind(objects, "Role")]
    workloads = [each for each in roles if "-lease" not in each["metadata"]["name"]]
    return {each["metadata"].get("namespace", ""): permissions(each["rules"]) for each in workloads}


OBSERVE, ACTIVE = "headstart-observe", "headstart-active"
ALL = tuple(PLURALS)


@pytest.mark.parametrize(
    ("config", "rbac", "expected"),
    [
        pytest.param([a_workload("llm/chat")], {}, {"llm": of_role(OBSERVE, "Deployment")}, id="observe"),
        pytest.param([a_workload("llm/chat", mode="active")], {}, {"llm": of_role(ACTIVE, "Deployment")}, id="active"),
        pytest.param([a_workload("llm/chat", mode="publish")], {}, {"llm": of_role(OBSERVE, "Deployment")}, id="publish writes nothing"),
        pytest.param([a_workload(f"llm/{kind.lower()}", kind) for kind in ALL], {}, {"llm": of_role(OBSERVE, *ALL)}, id="every kind observed"),
        pytest.param([a_workload(f"llm/{kind.lower()}", kind, "active") for kind in ALL], {}, {"llm": of_role(ACTIVE, *ALL)}, id="every kind active"),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("img/vl", "StatefulSet")],
            {},
            {"llm": of_role(ACTIVE, "Deployment"), "img": of_role(OBSERVE, "StatefulSet")},
            id="each namespace its own",
        ),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("llm/db", "StatefulSet")],
            {},
            {"llm": of_role(ACTIVE, "Deployment") | of_role(OBSERVE, "StatefulSet")},
            id="only the active kind may be written",
        ),
        pytest.param([a_workload("llm/chat", mode="active")], {"events": False}, {"llm": of_role(ACTIVE, "Deployment") - EVENTS}, id="no events"),
        pytest.param([a_workload("llm/chat", mode="floor")], {}, {"llm": of_role(OBSERVE, "Deployment") | FLOOR | EVENTS}, id="floor of an HPA"),
        pytest.param(
            [a_workload("llm/chat", mode="floor") | {"target": {"floor": {"kind": "ScaledObject"}}}],
            {},
            {"llm": of_role(OBSERVE, "Deployment") | FLOOR_KEDA | EVENTS},
            id="floor of a ScaledObject",
        ),
        pytest.param([a_workload("llm/chat", mode="active")], {"rivals": True}, {"llm": of_role(ACTIVE, "Deployment") | RIVALS}, id="rivals"),
        pytest.param([a_workload("llm/chat")], {"rivals": True}, {"llm": of_role(OBSERVE, "Deployment")}, id="no rivals where nothing is written"),
        pytest.param(
            [a_workload("llm/chat")],
            {"namespaces": [{"name": "extra", "write": True, "kinds": ["StatefulSet"]}, {"name": "more"}]},
            {"llm": of_role(OBSERVE, "Deployment"), "extra": of_role(ACTIVE, "StatefulSet"), "more": of_role(OBSERVE, "Deployment")},
            id="namespaces of discovered workloads",
        ),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("img/vl", "StatefulSet")],
            {"scope": "cluster"},
            {"": of_role(ACTIVE, "Deployment") | of_role(OBSERVE, "StatefulSet")},
            id="one role for the cluster",
        ),
        pytest.param(
            [a_workload("llm/m", "Model", "active")],
            {"kinds": {"Model": {"group": "ai.example.com", "resource": "models"}}},
            {"llm": {("ai.example.com", "models/scale", "get"), ("ai.example.com", "models/scale", "patch"), ("", "pods", "list")} | EVENTS},
            id="a custom kind",
        ),
        pytest.param([a_workload("llm/chat", mode="active")], {"create": False}, {}, id="an administrator's own roles"),
    ],
)  # fmt: skip
def test_grants_exactly_what_the_settings_use(
    config: list[Object], rbac: Object, expected: dict[str, set[Permission]]
) -> None:
    assert granted({"config": {"workloads": config}, "rbac": rbac}) == expected


def test_placeholders_are_scaled_where_the_settings_say_so() -> None:
    placeholders = [{"placeholder": "llm/spare", "mode": "active"}, {"placeholder": "img/spare"}]
    config = {"workloads": [a_workload("llm/db", "StatefulSet")], "placeholders": placeholders}
    assert granted({"config": config}) == {
        "llm": of_role(OBSERVE, "StatefulSet") | of_role(ACTIVE, "Deployment"),
        "img": of_role(OBSERVE, "Deployment"),
    }


def test_pods_are_marked_only_where_a_deployment_is_scaled() -> None:
    workloads = [
        a_workload("llm/chat", mode="active"),
        a_workload("img/vl"),
        a_workload("db/x", "StatefulSet", "active"),
    ]
    assert granted({"config": {"workloads": workloads, "deletion_cost": True}}) == {
        "llm": of_role(ACTIVE, "Deployment") | DELETION_COST,
        "img": of_role(OBSERVE, "Deployment"),
        "db": of_role(ACTIVE, "StatefulSet"),
    }


def test_annotated_deployments_are_read_where_they_are_looked_for() -> None:
    config = {"workloads": [], "discover": {"namespaces": ["llm", "img"]}}
    extra = [{"name": "llm", "write": True, "kinds": ["Deployment"]}]
    assert granted({"config": config, "rbac": {"namespaces": extra}}) == {
        "llm": of_role(ACTIVE, "Deployment"),
        "img": of_role(OBSERVE, "Deployment"),
    }


def test_the_default_mode_counts() -> None:
    config = {
        "defaults": {"mode": "active"},
        "workloads": [a_workload("llm/chat"), a_workload("img/vl", mode="observe")],
    }
    assert granted({"config": config}) == {"llm": of_role(ACTIVE, "Deployment"), "img": of_role(OBSERVE, "Deployment")}


@pytest.mark.parametrize(
    "role", [name for name in ("headstart-floor", "headstart-rivals") if name in ROLES] or ["none"]
)
def test_what_is_added_here_is_what_the_file_adds(role: str) -> None:
    if role == "none":
        pytest.skip("deploy/rbac.yaml has no role for floors and rivals yet")
    added = {"headstart-floor": FLOOR | FLOOR_KEDA, "headstart-rivals": RIVALS}[role]
    assert permissions(ROLES[role]) - permissions(ROLES[OBSERVE]) - EVENTS == added


@pytest.mark.parametrize("case", list(CASES))
def test_the_lease_is_named_and_nothing_has_a_wildcard(case: str) -> None:
    objects = rendered(CASES[case])
    roles = [*of_kind(objects, "Role"), *of_kind(objects, "ClusterRole")]
    assert "*" not in str([role["rules"] for role in roles])
    leases = [rule for role in roles for rule in role["rules"] if "leases" in rule["resources"]]
    if CASES[case].get("leaderElection") == {"enabled": False}:
        assert leases == []
        return
    [rule] = leases
    [lease] = of_kind(objects, "Lease")
    assert rule["resourceNames"] == [lease["metadata"]["name"]]
    assert rule["verbs"] == ["get", "update"]
    [role] = [each for each in roles if rule in each["rules"]]
    assert role["metadata"]["namespace"] == lease["metadata"]["namespace"] == NAMESPACE


@pytest.mark.parametrize("case", list(CASES))
def test_every_role_is_bound_to_the_account_where_it_stands(case: str) -> None:
    objects = rendered(CASES[case])
    account = of_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]["serviceAccountName"]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
    bound = set()
    for binding in [*of_kind(objects, "RoleBinding"), *of_kind(objects, "ClusterRoleBinding")]:
        assert binding["subjects"] == [subject]
        bound.add((binding["metadata"].get("namespace"), binding["roleRef"]["kind"], binding["roleRef"]["name"]))
    roles = [*of_kind(objects, "Role"), *of_kind(objects, "ClusterRole")]
    assert bound == {(each["metadata"].get("namespace"), each["kind"], each["metadata"]["name"]) for each in roles}
    if CASES[case].get("rbac", {}).get("scope") != "cluster":
        assert not of_kind(objects, "ClusterRoleBinding")
