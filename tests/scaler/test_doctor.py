"""`headstart doctor` against a real Prometheus and the API double: what is well, what is not, and the fix line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube_double import KubeDouble, Rule
from metrics_fleet import Fleet, running_fleet
from scaler.cli import main
from servers import prometheus_is_installed

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


def settings(tmp_path: Path, prometheus: str, double: KubeDouble, token: str) -> str:
    path = tmp_path / "headstart.yaml"
    path.write_text(
        f"""
apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{prometheus}", deadline_s: 4}}
kubernetes: {{kubeconfig: "{double.kubeconfig(tmp_path, token=token)}"}}
defaults:
  mode: active
  profile: qwen3-vl-2b-24gb
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
    permission = found["llm/chat", "permissions"]
    assert permission["health"] == "FAIL"
    assert permission["found"] == "may not patch deployments.apps/scale in llm"
    assert "--verb=patch --resource=deployments.apps/scale, and bind it" in permission["fix"]


def test_no_prometheus_is_one_finding_and_the_rest_goes_on(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, "http://127.0.0.1:1", double, double.admin_token)
    code, found = examined(capsys, "--config", path, "--workload", "llm/chat")
    assert code == 1
    assert found["-", "prometheus"]["health"] == "FAIL"
    assert found["llm/chat", "target"]["health"] == "ok"


def test_an_slo_between_buckets_is_said(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    with pytest.raises(SystemExit):
        main(["doctor", "--config", path, "--workload", "llm/chat"])
    assert "the SLO of 1.2 s lies between buckets and is judged at 1 s" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_workload_is_an_error(
    fleet: Fleet, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings(tmp_path, fleet.prometheus.url, double, double.admin_token)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--config", path, "--workload", "llm/chatt"])
    assert ended.value.code == 1
    assert "known: llm/chat, llm/ghost" in capsys.readouterr().err
