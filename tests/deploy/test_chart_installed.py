"""Real helm and kubectl against the Kubernetes double: install, use, upgrade, roll back, uninstall.

The double runs no pods of a StatefulSet's volume claims and no server-side apply; what it does hold is what each step
leaves in the API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chart_cases import CHART, NAMESPACE, Object
from forecaster.types import Blind
from helm_double import cluster, run, write_kubeconfig
from kube_double import KubeDouble
from scaler.adapters.kubernetes import ApiConnection, Feature, KubernetesCluster, ScaleResult, ServerAddress, TargetRef

pytestmark = pytest.mark.server

USER = "system:serviceaccount:headstart:headstart"
VALUES: Object = {
    "config": {
        "workloads": [
            {"workload": "llm/chat", "profile": "qwen3-vl-2b-24gb", "mode": "active"},
            {"workload": "img/vl", "profile": "qwen3-vl-2b-24gb"},
        ]
    },
    "replicas": 2,
    "placeholders": {"priorityClass": {"create": True}, "groups": [{"name": "h100", "namespace": "llm"}]},
}


@pytest.fixture
def double(tmp_path: Path) -> Iterator[KubeDouble]:
    with cluster(tmp_path, NAMESPACE, "llm", "img", "other") as double:
        write_kubeconfig(double, tmp_path)
        for namespace, name in (("llm", "chat"), ("img", "vl"), ("other", "x")):
            double.deployment(namespace, name, replicas=2)
        yield double


def helm(verb: str, folder: Path, values: Object | None = None) -> None:
    """One step of the release's life. Patches as before server-side apply, and without OpenAPI: the double has neither."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values or VALUES), encoding="utf-8")
    own = ["--server-side=false", "--disable-openapi-validation", "-f", str(file), str(CHART)]
    run("helm", verb, "headstart", *(own if verb in ("install", "upgrade") else []), "-n", NAMESPACE, folder=folder)


def stored(double: KubeDouble, plural: str, name: str = "headstart", namespace: str = NAMESPACE) -> Object:
    found: Object = double.store.get(plural, namespace, name)
    return found


def as_headstart(double: KubeDouble, folder: Path) -> KubernetesCluster:
    """Headstart's own client with the token of the installed account."""
    token = folder / "token"
    token.write_text(double.store.issue(USER, stored(double, "serviceaccounts")["metadata"]["uid"]))
    return KubernetesCluster(
        ApiConnection(ServerAddress(server=double.url, token_file=token, ca_file=folder / "server.crt"))
    )


def target(namespace: str, name: str) -> TargetRef:
    return TargetRef(namespace=namespace, api_version="apps/v1", kind="Deployment", name=name)


def test_the_installed_account_reads_scales_and_no_more(double: KubeDouble, tmp_path: Path) -> None:
    helm("install", tmp_path)
    headstart = as_headstart(double, tmp_path)
    chat, vl, other = target("llm", "chat"), target("img", "vl"), target("other", "x")
    seen = headstart.read([chat, vl, other], now=double.now)
    assert [isinstance(seen[each], Blind) for each in (chat, vl, other)] == [False, False, True]
    assert headstart.missing_permissions([chat], {Feature.ACTIVE}) == ()
    outcome = headstart.scale(chat, 3, expected=2)
    assert outcome.result is ScaleResult.SCALED
    assert headstart.announce(chat, outcome, note="out", now=double.now) is None
    assert {each.verb for each in headstart.missing_permissions([vl], {Feature.ACTIVE})} == {"patch"}


def test_kubectl_agrees(double: KubeDouble, tmp_path: Path) -> None:
    helm("install", tmp_path)
    token = double.store.issue(USER, stored(double, "serviceaccounts")["metadata"]["uid"])
    write_kubeconfig(double, tmp_path, token=token)
    for question, namespace, answer in (
        ("patch deployments/scale", "llm", 0),
        ("get deployments/scale", "img", 0),
        ("patch deployments/scale", "img", 1),
        ("patch deployments", "llm", 1),
        ("delete pods", "llm", 1),
        ("get secrets", NAMESPACE, 1),
        ("update leases/headstart", NAMESPACE, 0),
        ("update leases/another", NAMESPACE, 1),
        ("create leases", NAMESPACE, 1),
    ):
        verb, what = question.split()
        resource, _, rest = what.partition("/")
        asked = [resource, "--subresource", rest] if rest == "scale" else [what]
        said = run("kubectl", "auth", "can-i", verb, *asked, "-n", namespace, folder=tmp_path, expect=answer)
        assert said.startswith(("yes", "no")[answer]), question


def test_an_upgrade_takes_nothing_from_a_running_daemon(double: KubeDouble, tmp_path: Path) -> None:
    helm("install", tmp_path)
    token = stored(double, "secrets", "headstart-token")["data"]["token"]
    lease = stored(double, "leases")
    with double.store.changed:
        double.store.update("leases", {**lease, "spec": {"holderIdentity": "headstart-0", "leaseDurationSeconds": 15}})
    double.set_replicas("llm", "headstart-placeholder-h100", 5)
    template = stored(double, "statefulsets")["spec"]["template"]

    more = {**VALUES["config"], "budget": {"gpus": 40}}
    helm("upgrade", tmp_path, {**VALUES, "config": more})
    assert "gpus: 40" in stored(double, "configmaps")["data"]["headstart.yaml"]

    assert stored(double, "secrets", "headstart-token")["data"]["token"] == token
    assert stored(double, "leases")["spec"]["holderIdentity"] == "headstart-0"
    assert double.replicas("llm", "headstart-placeholder-h100") == 5
    assert double.replicas("llm", "chat") == double.replicas("img", "vl") == 2
    assert stored(double, "statefulsets")["spec"]["template"] == template, "other settings are read while it runs"


def test_settings_restart_the_pods_where_that_is_wanted(double: KubeDouble, tmp_path: Path) -> None:
    wanted = {**VALUES, "restartOnConfigChange": True}
    helm("install", tmp_path, wanted)
    template = stored(double, "statefulsets")["spec"]["template"]
    helm("upgrade", tmp_path, {**wanted, "podDisruptionBudget": {"enabled": False}})
    assert stored(double, "statefulsets")["spec"]["template"] == template
    helm("upgrade", tmp_path, {**wanted, "config": {**VALUES["config"], "budget": {"gpus": 40}}})
    assert stored(double, "statefulsets")["spec"]["template"] != template


def test_permission_to_write_goes_with_the_mode(double: KubeDouble, tmp_path: Path) -> None:
    helm("install", tmp_path)
    observing = {"workloads": [{"workload": "llm/chat", "profile": "qwen3-vl-2b-24gb"}]}
    helm("upgrade", tmp_path, {**VALUES, "config": observing, "placeholders": {"groups": []}})
    headstart = as_headstart(double, tmp_path)
    assert {each.verb for each in headstart.missing_permissions([target("llm", "chat")], {Feature.ACTIVE})} == {"patch"}
    assert isinstance(headstart.read([target("img", "vl")], now=double.now)[target("img", "vl")], Blind)
    helm("rollback", tmp_path)
    assert as_headstart(double, tmp_path).missing_permissions([target("llm", "chat")], {Feature.ACTIVE}) == ()


def test_uninstalling_moves_nothing_and_leaves_nothing_but_the_volumes(double: KubeDouble, tmp_path: Path) -> None:
    helm("install", tmp_path)
    claim = {"metadata": {"name": "data-headstart-0", "namespace": NAMESPACE}}
    double.create("persistentvolumeclaims", claim)  # what the StatefulSet controller makes
    as_headstart(double, tmp_path).scale(target("llm", "chat"), 7, expected=2)
    helm("uninstall", tmp_path)
    assert double.replicas("llm", "chat") == 7
    assert double.replicas("img", "vl") == 2
    left = {
        (kind.plural, item["metadata"]["name"])
        for kind in double.store.kinds
        for item in double.store.items(kind.plural)
        if kind.plural not in ("namespaces", "deployments", "pods", "events")
    }
    assert left == {("persistentvolumeclaims", "data-headstart-0")}
