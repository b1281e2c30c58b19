"""What the chart lets Headstart do: exactly the rules of each feature that the settings use, and no other.

The rules are held against scaler/adapters/kubernetes/permissions.py, from which deploy/rbac.yaml and doctor are made
too, and which tests/scaler/adapters/test_kubernetes_rbac.py holds against the requests that are really made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from chart_cases import CASES, NAMESPACE, Object, of_kind, rendered
from scaler.adapters.kubernetes.permissions import SCALE_GROUPS, Feature, PolicyRule, added_by, needed, rules_for

Permission = tuple[str, str, str]

PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "LeaderWorkerSet": "leaderworkersets"}
OBSERVE, ACTIVE = frozenset({Feature.OBSERVE}), frozenset({Feature.ACTIVE, Feature.EVENTS})


def permissions(rules: list[dict[str, Any]]) -> set[Permission]:
    """(group, resource, verb) of some rules."""
    return {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


def of_rules(rules: Iterable[PolicyRule]) -> set[Permission]:
    return permissions([rule.manifest() for rule in rules])


def allowed(features: frozenset[Feature], *kinds: str) -> set[Permission]:
    """What features take where these kinds run."""
    run = {PLURALS[kind] for kind in kinds}
    return of_rules(rules_for(features, {g: tuple(p for p in ps if p in run) for g, ps in SCALE_GROUPS.items()}))


FLOOR = of_rules(added_by({Feature.FLOOR_HPA}))
FLOOR_KEDA = of_rules(added_by({Feature.FLOOR_SCALED_OBJECT}))
RIVALS = of_rules(added_by({Feature.RIVALS}))
EVENTS = of_rules(added_by({Feature.EVENTS}))
DELETION_COST = of_rules(added_by({Feature.DELETION_COST}))


def a_workload(name: str, kind: str = "Deployment", mode: str | None = None) -> Object:
    target = {} if kind == "Deployment" else {"target": {"kind": kind}}
    return {"workload": name, "profile": "qwen3-vl-2b-24gb", **target, **({"mode": mode} if mode else {})}


def granted(values: Object) -> dict[str, set[Permission]]:
    """What the account may do in each namespace ("" for all of them), the Lease left out."""
    objects = rendered(values)
    roles = [*of_kind(objects, "ClusterRole"), *of_kind(objects, "Role")]
    workloads = [each for each in roles if "-lease" not in each["metadata"]["name"]]
    return {each["metadata"].get("namespace", ""): permissions(each["rules"]) for each in workloads}


ALL = tuple(PLURALS)


@pytest.mark.parametrize(
    ("config", "rbac", "expected"),
    [
        pytest.param([a_workload("llm/chat")], {}, {"llm": allowed(OBSERVE, "Deployment")}, id="observe"),
        pytest.param([a_workload("llm/chat", mode="active")], {}, {"llm": allowed(ACTIVE, "Deployment")}, id="active"),
        pytest.param([a_workload("llm/chat", mode="publish")], {}, {"llm": allowed(OBSERVE, "Deployment")}, id="publish writes nothing"),
        pytest.param([a_workload(f"llm/{kind.lower()}", kind) for kind in ALL], {}, {"llm": allowed(OBSERVE, *ALL)}, id="every kind observed"),
        pytest.param([a_workload(f"llm/{kind.lower()}", kind, "active") for kind in ALL], {}, {"llm": allowed(ACTIVE, *ALL)}, id="every kind active"),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("img/vl", "StatefulSet")],
            {},
            {"llm": allowed(ACTIVE, "Deployment"), "img": allowed(OBSERVE, "StatefulSet")},
            id="each namespace its own",
        ),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("llm/db", "StatefulSet")],
            {},
            {"llm": allowed(ACTIVE, "Deployment") | allowed(OBSERVE, "StatefulSet")},
            id="only the active kind may be written",
        ),
        pytest.param([a_workload("llm/chat", mode="active")], {"events": False}, {"llm": allowed(ACTIVE, "Deployment") - EVENTS}, id="no events"),
        pytest.param([a_workload("llm/chat", mode="floor")], {}, {"llm": allowed(OBSERVE, "Deployment") | FLOOR | EVENTS}, id="floor of an HPA"),
        pytest.param(
            [a_workload("llm/chat", mode="floor") | {"target": {"floor": {"kind": "ScaledObject"}}}],
            {},
            {"llm": allowed(OBSERVE, "Deployment") | FLOOR_KEDA | EVENTS},
            id="floor of a ScaledObject",
        ),
        pytest.param([a_workload("llm/chat", mode="active")], {"rivals": True}, {"llm": allowed(ACTIVE, "Deployment") | RIVALS}, id="rivals"),
        pytest.param([a_workload("llm/chat")], {"rivals": True}, {"llm": allowed(OBSERVE, "Deployment")}, id="no rivals where nothing is written"),
        pytest.param(
            [a_workload("llm/chat")],
            {"namespaces": [{"name": "extra", "write": True, "kinds": ["StatefulSet"]}, {"name": "more"}]},
            {"llm": allowed(OBSERVE, "Deployment"), "extra": allowed(ACTIVE, "StatefulSet"), "more": allowed(OBSERVE, "Deployment")},
            id="namespaces of discovered workloads",
        ),
        pytest.param(
            [a_workload("llm/chat", mode="active"), a_workload("img/vl", "StatefulSet")],
            {"scope": "cluster"},
            {"": allowed(ACTIVE, "Deployment") | allowed(OBSERVE, "StatefulSet")},
            id="one role for the cluster",
        ),
        pytest.param(
            [a_workload("llm/m", "Model", "active")],
            {"kinds": {"Model": {"group": "ai.example.com", "resource": "models"}}},
            {"llm": {(each.group, each.resource, each.verb) for each in needed(ACTIVE, namespace="llm", group="ai.example.com", plural="models")}},
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
        "llm": allowed(OBSERVE, "StatefulSet") | allowed(ACTIVE, "Deployment"),
        "img": allowed(OBSERVE, "Deployment"),
    }


def test_pods_are_marked_only_where_a_deployment_is_scaled() -> None:
    workloads = [
        a_workload("llm/chat", mode="active"),
        a_workload("img/vl"),
        a_workload("db/x", "StatefulSet", "active"),
    ]
    placeholders = [{"placeholder": "spare/gpus", "mode": "active"}]
    config = {"workloads": workloads, "placeholders": placeholders, "deletion_cost": True}
    assert granted({"config": config}) == {
        "spare": allowed(ACTIVE, "Deployment"),
        "llm": allowed(ACTIVE, "Deployment") | DELETION_COST,
        "img": allowed(OBSERVE, "Deployment"),
        "db": allowed(ACTIVE, "StatefulSet"),
    }


def test_annotated_deployments_are_read_where_they_are_looked_for() -> None:
    config = {"workloads": [], "discover": {"namespaces": ["llm", "img"]}}
    extra = [{"name": "llm", "write": True, "kinds": ["Deployment"]}]
    assert granted({"config": config, "rbac": {"namespaces": extra}}) == {
        "llm": allowed(ACTIVE, "Deployment"),
        "img": allowed(OBSERVE, "Deployment"),
    }


def test_the_default_mode_counts() -> None:
    config = {
        "defaults": {"mode": "active"},
        "workloads": [a_workload("llm/chat"), a_workload("img/vl", mode="observe")],
    }
    assert granted({"config": config}) == {"llm": allowed(ACTIVE, "Deployment"), "img": allowed(OBSERVE, "Deployment")}


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
    [wanted] = added_by({Feature.LEASE})
    assert rule == wanted.limited_to(lease["metadata"]["name"]).manifest()
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
