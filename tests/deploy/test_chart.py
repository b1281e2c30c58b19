"""The Helm chart as real helm renders it: accepted by Kubernetes' own schemas and by Headstart's, and safe to run.

Nothing here starts a container: what a kubelet does with the manifests is not tested, and docs/install.md says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from chart_cases import CASES, CHART, NAMESPACE, SETTINGS, Object, of_kind, pods_of, refused, rendered, settings_of, the
from helm_double import REPOSITORY, run
from scaler.commands.printing import Output
from scaler.commands.settings import validate
from scaler.config.values import ConfigFile
from scaler.web.access import OPEN_PATHS

CUSTOM = ("ServiceMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator, which Kubernetes' schemas do not know."""

EVERY_CASE = pytest.mark.parametrize("case", list(CASES))


@EVERY_CASE
@pytest.mark.parametrize("kubernetes", ["1.27", "1.36"])
def test_kubernetes_own_schemas_accept_every_object(case: str, kubernetes: str) -> None:
    """Strict: an unknown key is an error, as with the API server's field validation."""
    for each in rendered(CASES[case], kube_version=f"{kubernetes}.0"):
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, kubernetes, strict=True)


@EVERY_CASE
def test_headstart_accepts_the_rendered_settings(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = the(rendered(CASES[case]), "ConfigMap", "headstart")["data"]
    for name, text in config.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    if "ha" not in {each.name for each in fields(ConfigFile)}:
        settings = yaml.safe_load(config["headstart.yaml"])
        settings.pop("ha", None)
        (tmp_path / "headstart.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert validate(tmp_path / "headstart.yaml", Output.TABLE, offline=True) == 0, capsys.readouterr().out


def test_helm_lint_finds_nothing(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(CASES["everything"]), encoding="utf-8")
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART), "-f", str(values), folder=tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({}, "config.workloads is empty", id="no workloads"),
        pytest.param({"config": SETTINGS, "replicas": 3}, "replicas", id="three daemons"),
        pytest.param({"config": SETTINGS, "replicas": 0}, "replicas", id="no daemon"),
        pytest.param({"config": SETTINGS, "replica": 1}, "additional properties 'replica' not allowed", id="a misspelt value"),
        pytest.param(
            {"config": SETTINGS, "replicas": 2, "leaderElection": {"enabled": False}}, "two daemons would both write", id="two without a lease"
        ),
        pytest.param({"config": {**SETTINGS, "data_dir": "/tmp"}}, "config.data_dir: the chart sets this one", id="data folder"),
        pytest.param({"config": {**SETTINGS, "http": {"port": 1}}}, "config.http: the chart sets this one", id="http"),
        pytest.param({"config": {"workloads": [{"workload": "chat"}]}}, "workload", id="a workload without namespace"),
        pytest.param(
            {"config": {"workloads": [{"workload": "a/b", "target": {"kind": "Model"}}]}}, "add rbac.kinds.Model", id="an unknown kind"
        ),
        pytest.param({"config": SETTINGS, "runAsUser": 0}, "runAsUser", id="root"),
        pytest.param({"config": SETTINGS, "terminationGracePeriodSeconds": 5}, "terminationGracePeriodSeconds", id="killed in mid-tick"),
        pytest.param({"config": SETTINGS, "trainer": {"kind": "deployment"}}, "trainer", id="no such trainer"),
        pytest.param({"config": SETTINGS, "trainer": {"at": "25:00"}}, "trainer", id="no such hour"),
        pytest.param({"config": SETTINGS, "files": {"headstart.yaml": "x"}}, "made from config", id="the settings twice"),
        pytest.param({"config": SETTINGS, "serviceAccount": {"create": False}}, "name the account", id="an account without a name"),
        pytest.param(
            {"config": SETTINGS, "placeholders": {"groups": [{"name": "g" * 52, "namespace": "llm"}]}}, "pattern", id="a label of 64 characters"
        ),
    ],
)  # fmt: skip
def test_refuses(values: Object, says: str) -> None:
    assert says in refused(values)


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(at: str, values: Any, schema: Any) -> None:
        known = schema.get("properties", {})
        if not isinstance(values, dict) or not known or at == ".config":
            return
        assert set(values) == set(known) - ({"global"} if not at else set()), at
        assert schema["additionalProperties"] is False, at
        for key, value in values.items():
            compare(f"{at}.{key}", value, known[key])

    compare("", values, schema)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


@EVERY_CASE
def test_every_container_is_locked_down(case: str) -> None:
    for name, template in pods_of(rendered(CASES[case])).items():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


@EVERY_CASE
def test_only_the_daemon_holds_the_account_and_the_token(case: str) -> None:
    for template in pods_of(rendered(CASES[case])).values():
        for container in template["spec"]["containers"]:
            secret = {mount["name"] for mount in container.get("volumeMounts", [])} & {"account", "token"}
            assert secret == ({"account", "token"} if container["name"] == "headstart" else set())


@EVERY_CASE
def test_whatever_the_daemon_writes_lies_on_a_volume(case: str) -> None:
    objects = rendered(CASES[case])
    container = pods_of(objects)["headstart"]["spec"]["containers"][0]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    settings = settings_of(objects)
    assert mounts[settings["data_dir"]] == {"name": "data", "mountPath": settings["data_dir"]}
    assert "/tmp" in mounts
    assert container["args"] == ["run", "--config", "/etc/headstart/headstart.yaml"]
    assert mounts["/etc/headstart"]["readOnly"] is True
    token = Path(settings["http"]["token_file"])
    assert mounts[str(token.parent)]["readOnly"] is True
    volumes = {volume["name"]: volume for volume in pods_of(objects)["headstart"]["spec"]["volumes"]}
    secret = volumes["token"]["secret"]["secretName"]
    made = of_kind(objects, "Secret")
    assert [each["metadata"]["name"] for each in made if token.name in each["data"]] == (
        [] if secret == "my-token" else [secret]
    )


@EVERY_CASE
def test_probes_ask_the_open_pages_of_the_port_that_is_served(case: str) -> None:
    objects = rendered(CASES[case])
    container = pods_of(objects)["headstart"]["spec"]["containers"][0]
    port = settings_of(objects)["http"]["port"]
    assert container["ports"] == [{"name": "http", "containerPort": port, "protocol": "TCP"}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in OPEN_PATHS
        assert asked["port"] == "http"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


@EVERY_CASE
def test_selectors_find_the_daemon_and_nothing_else(case: str) -> None:
    objects = rendered(CASES[case])
    labels = {name: template["metadata"]["labels"] for name, template in pods_of(objects).items()}
    selectors = [
        the(objects, "StatefulSet")["spec"]["selector"]["matchLabels"],
        the(objects, "Service")["spec"]["selector"],
    ]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")[:1]]
    for selector in selectors:
        assert [name for name, has in labels.items() if selector.items() <= has.items()] == ["headstart"]
    service = the(objects, "Service")["metadata"]["labels"]
    for monitor in of_kind(objects, "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service.items()


def test_two_daemons_have_a_volume_each_and_one_lease() -> None:
    objects = rendered(CASES["hot standby"])
    stateful = the(objects, "StatefulSet")["spec"]
    assert stateful["replicas"] == 2
    assert [claim["metadata"]["name"] for claim in stateful["volumeClaimTemplates"]] == ["data"]
    assert stateful["podManagementPolicy"] == "Parallel"
    lease = the(objects, "Lease")
    assert "spec" not in lease, "an upgrade would take the Lease from its holder"
    assert lease["metadata"]["namespace"] == NAMESPACE
    assert settings_of(objects)["ha"]["lease"] == f"{NAMESPACE}/{lease['metadata']['name']}"


def test_metrics_are_scraped_with_the_token_and_with_their_own_labels() -> None:
    objects = rendered(CASES["everything"])
    [endpoint] = the(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["honorLabels"] is True, "or `namespace` would be the daemon's"
    assert endpoint["port"] == the(objects, "Service")["spec"]["ports"][0]["name"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "my-token", "key": "bearer"}}


def test_the_network_policy_lets_out_to_dns_the_api_and_prometheus() -> None:
    policy = of_kind(rendered(CASES["everything"]), "NetworkPolicy")[0]["spec"]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 443, 6443, 9090, 3128]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [8090]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://p:9090", 9090),
        ("https://p.example/prometheus", 443),
        ("http://10.0.0.1", 80),
        ("http://[::1]:9091/x", 9091),
    ],
)
def test_the_port_of_prometheus_is_read_from_its_address(url: str, port: int) -> None:
    values = {"config": {**SETTINGS, "prometheus": {"url": url}}, "networkPolicy": {"enabled": True}}
    policy = the(rendered(values), "NetworkPolicy")["spec"]
    assert policy["egress"][-1]["ports"] == [{"port": port, "protocol": "TCP"}]


def test_alerts_and_dashboards_are_the_files_of_this_repository(tmp_path: Path) -> None:
    objects = rendered(CASES["everything"])
    groups = the(objects, "PrometheusRule")["spec"]["groups"]
    source = (REPOSITORY / "deploy" / "alerts" / "headstart.yaml").read_text(encoding="utf-8")
    assert groups == yaml.safe_load(source.replace("docs/runbook.md#", "https://docs.example/runbook#"))["groups"]
    boards = {
        name: text
        for each in of_kind(objects, "ConfigMap")
        for name, text in each["data"].items()
        if name.endswith(".json")
    }
    files = sorted((REPOSITORY / "deploy" / "dashboards").glob("*.json"))
    assert boards == {f"headstart-{path.name}": path.read_text(encoding="utf-8") for path in files}
    if shutil.which("promtool") is not None:
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
        subprocess.run(
            ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], check=True, capture_output=True, timeout=60
        )


def test_a_packaged_chart_is_whole(tmp_path: Path) -> None:
    """Alerts and dashboards are links in the repository; a package must hold the files, and no generator."""
    run("helm", "package", str(CHART), "--destination", str(tmp_path), folder=tmp_path)
    [package] = tmp_path.glob("headstart-*.tgz")
    with tarfile.open(package) as archive:
        names = {name.removeprefix("headstart/files/") for name in archive.getnames() if "/files/" in name}
        assert not [each.name for each in archive if each.issym()]
    files = {f"dashboards/{path.name}" for path in (REPOSITORY / "deploy" / "dashboards").glob("*.json")}
    assert names == files | {"alerts/headstart.yaml"}


def test_large_numbers_and_clock_times_come_through_as_they_are() -> None:
    service = {"alpha_s": 0.01, "beta_s": 1e-5, "gamma_s": 1e-8, "max_num_seqs": 256, "kv_tokens": 12345678}
    profile = {"name": "x", "classes": [{"name": "default", "max_rps": 2.5}], "service": service}
    values = {"config": {"forecast": {"refit": "03:10"}, "workloads": [{"workload": "a/b", "profile": profile}]}}
    settings = settings_of(rendered(values))
    assert settings["workloads"][0]["profile"]["service"] == service
    assert settings["forecast"]["refit"] == "03:10"


@pytest.mark.parametrize("release", ["r" * 53, "headstart-" + "r" * 43, "r" * 43 + "-" + "r" * 9])
def test_the_longest_names_are_names(release: str) -> None:
    """Helm takes 53 characters. A CronJob may have 52, since eleven come behind in a Job's; a label's value 63."""
    longest = {"groups": [{"name": "g" * 51, "namespace": "llm", "gpus": 2}]}
    objects = rendered({**CASES["everything"], "placeholders": longest}, release=release)
    kinds = {each["kind"]: each["metadata"]["name"] for each in objects}
    assert len(kinds["CronJob"]) <= 52
    assert all(not name.endswith("-") and "--" not in name for name in kinds.values())
    texts = [
        text
        for each in [*objects, *pods_of(objects).values()]
        for text in (each.get("metadata", {}).get("labels") or {}).values()
    ]
    assert max(map(len, texts)) <= 63
    placeholder = the(objects, "Deployment")
    assert placeholder["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == "placeholder-" + "g" * 51


def test_placeholders_leave_their_replicas_to_headstart() -> None:
    objects = rendered(CASES["everything"])
    placeholder = the(objects, "Deployment")
    assert "replicas" not in placeholder["spec"]
    pod = placeholder["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    lowest = the(objects, "PriorityClass")
    assert pod["priorityClassName"] == lowest["metadata"]["name"]
    assert lowest["value"] < 0
    assert lowest["preemptionPolicy"] == "Never"
