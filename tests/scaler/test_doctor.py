"""`headstart doctor` against a real Prometheus and the API double: what is well, what is not, and the fix line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_double import KubeDouble, Rule, workload
from kube_double_rules import ApiKind
from metrics_fleet import Fleet, running_fleet
from scaler.cli import main
from servers import PrometheusServer, prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="no prometheus here; make test installs it"),
]

OBSERVE = Rule(verbs=("get", "list"), groups=("", "apps"), resources=("pods", "deployments", "deployments/scale"))


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet() as running:
        yield running


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble() as running:
        running.namespace("llm")
        running.deployment("llm", "chat", replicas=2)
        yield running


def settings(
    tmp_path: Path, prometheus: str, double: KubeDouble, token: str, *, profile: str = "qwen3-vl-2b-24gb"
) -> str:
    path = tmp_path / "headstart.yaml"
    path.write_text(
        f"""
apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{prometheus}", deadline_s: 4}}
kubernetes: {{kubeconfig: "{double.kubeconfig(tmp_path, token=token)}"}}
defaults:
  mode: active
  profile: {profile}
  latency: {{slos: [{{e2e_p95_s: 1.2}}]}}
workloads:
  - {{workload: llm/chat}}
  - {{workload: llm/ghost}}
""",
        encoding="utf-8",
    )
    return str(path)


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
    """Exit code, and each finding by workload and check."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "-o", "json", *arguments])
    items = json.loads(capsys.readouterr().out)["items"]
    return int(ended.value.code or 0), {(each["workload"], each["check"]): each for each in items}


def test_a_healthy_workload_has_no_failing_check(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 0
    assert {each["health"] for each in found.values()} <= {"ok", "warn"}
    assert all(each["fix"] for each in found.values() if each["health"] == "warn"), "a warning without its fix line"
    assert found["llm/chat", "requests_running"]["found"] == "vllm:num_requests_running by own"
    assert found["llm/chat", "target"]["found"].startswith("Deployment: 2 desired")
    assert found["llm/chat", "permissions"]["found"] == "suffice to observe and scale"
    assert found["llm/chat", "drain"]["found"].startswith("30 s of grace: preStop 0 s, drain 0 s; without a preStop")
    assert ("-", "lease") not in found
    assert double.mutating_requests == 0


def test_what_is_missing_is_named_with_its_fix(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A workload that nobody runs, and an account that may look but not scale."""
    path = settings(tmp_path, fleet.prometheus.url, double, double.account("watcher", OBSERVE))
    code, found = examined(capsys, "--config", path)
    assert code == 1
    assert found["llm/ghost", "demand_rps"]["health"] == "FAIL"
    assert "selector.labels" in found["llm/ghost", "demand_rps"]["fix"]
    assert found["llm/ghost", "target"]["health"] == "FAIL"
    assert "no Event tells of a change" in found["llm/chat", "wanted permissions"]["found"]
    permission = found["llm/chat", "permissions"]
    assert permission["health"] == "FAIL"
    assert permission["found"] == "may not patch deployments.apps/scale in llm"
    assert "--verb=patch --resource=deployments.apps/scale, and bind it" in permission["fix"]


def test_a_floor_is_read_with_its_permissions_and_a_missing_one_says_what_to_do(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    file = tmp_path / "headstart.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("mode: active", "mode: floor"), encoding="utf-8")
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    assert "create it, or name the one that scales Deployment llm/chat" in found["llm/chat", "target"]["found"]
    double.hpa("llm", "chat", least=2, most=6)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 0
    assert found["llm/chat", "target"]["found"].startswith("floor of HorizontalPodAutoscaler llm/chat: 2 desired")
    assert found["llm/chat", "permissions"]["found"] == "suffice to observe and set the floor"
    assert found["llm/chat", "bounds"]["found"].startswith("the autoscaler holds 6 at most")
    assert found["llm/chat", "other autoscalers"]["health"] == "ok"


def test_another_autoscaler_on_an_active_workload_and_a_refused_annotation_are_findings(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    file = tmp_path / "headstart.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "discover: {namespaces: [llm]}\n", encoding="utf-8")
    double.hpa("llm", "chat", least=2, most=9)
    double.deployment("llm", "docs", replicas=1)
    double.annotate("llm", "docs", enabled="true", mode="activ")
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    rival = found["llm/chat", "other autoscalers"]
    assert (rival["health"], rival["found"]) == ("FAIL", "HorizontalPodAutoscaler llm/chat writes the same replicas")
    assert "mode floor or publish" in rival["fix"]
    assert "annotation headstart.autoscaling/mode: must be one of" in found["-", "discover"]["found"]


def test_no_prometheus_is_one_finding_and_the_rest_goes_on(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, "http://127.0.0.1:1", double, double.admin_token)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    assert found["-", "prometheus"]["health"] == "FAIL"
    assert found["llm/chat", "target"]["health"] == "ok"


def test_a_pod_that_would_be_killed_in_mid_answer_is_named_with_its_fix(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = workload("Deployment", "llm", "ghost", replicas=1)
    cut["spec"]["template"]["spec"]["containers"][0]["args"] = ["vllm serve m --shutdown-timeout 120"]
    double.create("deployments", cut)
    path = settings(tmp_path, "http://127.0.0.1:1", double, double.admin_token)
    _, found = examined(capsys, "--config", path, "--workload", "llm/ghost")
    drain = found["llm/ghost", "drain"]
    assert (drain["health"], drain["fix"]) == ("warn", "set terminationGracePeriodSeconds above 120")
    assert drain["found"].startswith("requests in flight are killed after 30 s")


def test_an_slo_between_buckets_is_said(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    with pytest.raises(SystemExit):
        main(["doctor", "--config", path, "--workload", "llm/chat"])
    assert "the SLO of 1.2 s lies between buckets and is judged at 1 s" in " ".join(capsys.readouterr().out.split())


def test_what_nobody_tells_of_tokens_and_images_is_no_trouble(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    _, found = examined(capsys, "--config", path)
    assert found["llm/chat", "prompt_tokens_per_s"]["found"] == "headstart_gateway_prompt_tokens_total by model"
    assert {found["llm/ghost", f"{name}_per_s"]["health"] for name in ("prompt_tokens", "images")} == {"ok"}


def half_an_hour_of_longer_requests() -> str:
    """Conversations of twice the profile's prompt, and code as it was measured, until now."""
    until = int(time.time())
    tokens = {"conversation": 2 * 1155, "code": 2048}
    lines = ["# TYPE vllm:num_requests_running gauge"]
    pod = 'namespace="llm",pod="chat-7d9f8b6c5d-x2x4z",model_name="chat"'
    lines += [f"vllm:num_requests_running{{{pod}}} 3 {until - age}" for age in range(1800, -1, -15)]
    for family, per_request in (("requests", dict.fromkeys(tokens, 1)), ("prompt_tokens", tokens)):
        lines.append(f"# TYPE headstart_gateway_{family} counter")
        for name, amount in per_request.items():
            series = f'headstart_gateway_{family}_total{{namespace="llm",model="chat",request_class="{name}"}}'
            lines += [f"{series} {10 * amount * (1800 - age)} {until - age}" for age in range(1800, -1, -15)]
    return "\n".join(lines) + "\n"


def test_requests_that_have_left_their_profile_are_told_with_the_fix(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = PrometheusServer()
    server.back_fill(half_an_hour_of_longer_requests())
    with server:
        path = settings(tmp_path, server.url, double, double.admin_token, profile="llama-3.1-8b-h100")
        _, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    left = found["llm/chat", "requests of conversation"]
    assert left["health"] == "warn"
    assert "2310 prompt tokens a request instead of 1155 (+100 %); its max_rps of 20.77 does not" in left["found"]
    assert left["fix"].startswith("measure max_rps with such requests")
    assert found["llm/chat", "requests of code"] == {
        "workload": "llm/chat", "check": "requests of code", "health": "ok", "found": "2048 prompt tokens a request", "fix": ""
    }  # fmt: skip


def test_an_unknown_workload_is_an_error(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--config", path, "--workload", "llm/chatt"])
    assert ended.value.code == 1
    assert "known: llm/chat, llm/ghost" in capsys.readouterr().err


def test_everything_around_a_workload_is_looked_at(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another autoscaler, a quota, a template: and at least fifteen checks, each by its name."""
    double.register(ApiKind(group="", version="v1", kind="ResourceQuota", plural="resourcequotas"))
    double.scaled_object("llm", "chat-keda", target="chat")
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    owner = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "name": "chat-keda",
        "uid": "u",
        "controller": True,
    }
    made = {"name": "keda-hpa-chat", "namespace": "llm", "ownerReferences": [owner]}
    double.create("horizontalpodautoscalers", {"metadata": made, "spec": {"scaleTargetRef": ref, "maxReplicas": 4}})
    quota = {"hard": {"requests.nvidia.com/gpu": "3"}}
    double.create("resourcequotas", {"metadata": {"name": "gpus", "namespace": "llm"}, "spec": quota})
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    assert found["llm/chat", "other autoscalers"]["found"] == "ScaledObject llm/chat-keda writes the same replicas"
    assert "its namespace may have 3" in found["llm/chat", "gpu quota"]["found"]
    assert found["llm/chat", "readiness"]["health"] == "warn"
    assert found["-", "api server"]["found"] == "answers (Kubernetes 1.36)"
    assert found["-", "clocks"]["health"] == found["-", "scrapes"]["health"] == "ok"
    assert found["-", "history"]["health"] == "warn", "this Prometheus is seconds old"
    assert found["llm/chat", "demand now"]["health"] == "ok"
    assert len({check for _, check in found}) >= 25
    assert all(each["fix"] for each in found.values() if each["health"] in ("warn", "FAIL"))


def test_what_an_account_may_not_look_at_is_skipped_with_the_reason(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon's own account: what it needs is judged, what only doctor would ask is not called a failure."""
    active = Rule(verbs=("get", "patch"), groups=("apps",), resources=("deployments/scale",))
    events = Rule(verbs=("create",), groups=("events.k8s.io",), resources=("events",))
    token = double.account("headstart", Rule(verbs=("list",), groups=("",), resources=("pods",)), active, events)
    path = settings(tmp_path, fleet.prometheus.url, double, token)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 0
    for check in ("readiness", "gpus", "other autoscalers", "gpu quota"):
        assert found["llm/chat", check]["health"] in ("skipped", "ok")
    assert "run doctor with your own kubeconfig" in found["llm/chat", "readiness"]["found"]
    assert found["llm/chat", "permissions"]["health"] == "ok"
    assert "scales are read one by one" in found["llm/chat", "wanted permissions"]["found"]
    assert found["llm/chat", "drain"]["health"] == "warn", "pods may be listed, so their end is known"


def test_no_cluster_is_one_finding_and_the_rest_goes_on(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    double.kill()
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    assert found["-", "api server"]["health"] == "FAIL"
    assert found["llm/chat", "demand_rps"]["health"] == "ok"


LEASES = Rule(verbs=("get", "update"), groups=("coordination.k8s.io",), resources=("leases",), names=("headstart",))
AROUND = """
discover: {namespaces: [llm, img]}
ha: {lease: llm/headstart}
deletion_cost: true
placeholders:
  - {placeholder: llm/spare, mode: active, gpus_per_replica: 2, max_replicas: 3}
  - {placeholder: llm/others, workloads: [llm/ghost]}
"""


def test_the_lease_placeholders_and_searched_namespaces_are_looked_at(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything may be read in llm alone, and one lease may be held; nothing may be scaled, and no pod marked."""
    reads = Rule(verbs=("get", "list"), groups=("", "apps"), resources=("*",), namespaces=("llm",))
    events = Rule(verbs=("create",), groups=("events.k8s.io",), resources=("events",))
    path = settings(tmp_path, "http://127.0.0.1:1", double, double.account("watcher", reads, LEASES, events))
    file = tmp_path / "headstart.yaml"
    file.write_text(file.read_text(encoding="utf-8") + AROUND, encoding="utf-8")
    double.namespace("img")
    double.deployment("llm", "spare", replicas=1)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    lease = found["-", "lease"]
    assert (lease["health"], "deploy/rbac.yaml" in lease["fix"]) == ("FAIL", True)
    double.create(
        "leases", {"metadata": {"namespace": "llm", "name": "headstart"}, "spec": {"holderIdentity": "headstart-1"}}
    )
    _, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert found["-", "lease"]["found"] == "llm/headstart is held by headstart-1"
    assert found["-", "permissions"]["found"] == "may not list pods in img"
    assert "the controller's choice" in found["llm/chat", "wanted permissions"]["found"]
    assert found["llm/spare", "placeholders"]["found"] == "Deployment: 1 of at most 3, 1 Ready"
    assert found["llm/spare", "permissions"]["found"] == "may not patch deployments.apps/scale in llm"
    assert "gpus_per_replica says 2" in found["llm/spare", "gpus"]["found"]
    assert not [key for key in found if key[0] == "llm/others"], "they are for another workload"
    assert double.mutating_requests == 0


def test_a_kind_that_the_cluster_does_not_serve_is_one_finding(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, "http://127.0.0.1:1", double, double.admin_token)
    file = tmp_path / "headstart.yaml"
    odd = "{workload: llm/ghost, target: {kind: Model, api_version: ai.example.com/v1}}"
    file.write_text(file.read_text(encoding="utf-8").replace("{workload: llm/ghost}", odd), encoding="utf-8")
    _, found = examined(capsys, "--config", path)
    assert "is its CRD installed?" in found["llm/ghost", "target"]["found"]
    assert found["llm/ghost", "permissions"]["health"] == "skipped"
    assert found["llm/chat", "permissions"]["health"] == "ok"
