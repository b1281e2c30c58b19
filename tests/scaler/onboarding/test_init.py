"""`headstart init` against a real Prometheus and the API double: the file it writes, and what it did not understand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_cases import await_scrapes
from kube_double import KubeDouble, Rule
from scaler.cli import main
from scaler.config import read_config
from scaler.policy.types import Mode
from servers import Exporter, PrometheusServer, Target, VllmPage, prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="no prometheus here; make test installs it"),
]

PODS = {"chat": "chat-7d9f8b6c5d-x2x4z", "code": "renamed-by-hand", "stray": "stray-0"}


@pytest.fixture(scope="module")
def prometheus() -> Iterator[str]:
    """Three engines: one found by its pod's name, one by its model alone, one that no cluster knows."""
    born = time.time() - 600
    pages = {f"/{name}": VllmPage(model_name=name, rate_rps=6.0, born=born) for name in PODS}
    with Exporter(pages) as exporter:
        targets = [
            Target(address=exporter.address, path=f"/{name}", labels={"namespace": "llm", "pod": pod})
            for name, pod in PODS.items()
        ]
        with PrometheusServer(targets) as server:
            for name in PODS:
                await_scrapes(server.url, model_name=name)
            yield server.url


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(start_time_s=128, gpus=64) as running:
        for namespace in ("llm", "other"):
            running.namespace(namespace)
        deploy(
            running,
            "chat",
            replicas=3,
            args=["serve", "meta-llama/Llama-3.1-8B-Instruct", "--served-model-name", "chat"],
        )
        deploy(running, "code", replicas=2, gpus=4, args=["--model=org/code", "--served-model-name=code"])
        deploy(running, "trainer", replicas=1, image="own/trainer:1")
        deploy(running, "web", replicas=1, gpus=0, image="nginx:1")
        running.advance(300)
        yield running  # fmt: skip


def deploy(
    double: KubeDouble,
    name: str,
    *,
    replicas: int,
    gpus: int = 1,
    image: str = "vllm/vllm-openai:v0.32",
    args: list[str] | None = None,
) -> None:
    """A Deployment in namespace llm as somebody would have written it."""
    container: dict[str, Any] = {"name": "server", "image": image, "args": args or []}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    labels = {"app": name}
    double.create(
        "deployments",
        {
            "metadata": {"name": name, "namespace": "llm", "labels": labels},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
    )


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_both_servers_give_a_file_that_can_be_run(
    prometheus: str, double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeconfig, out = double.kubeconfig(tmp_path), tmp_path / "headstart.yaml"
    before = double.mutating_requests
    assert run("init", "--prometheus", prometheus, "--kubeconfig", str(kubeconfig), "-o", str(out)) == 0
    said = capsys.readouterr().err
    assert "series of llm/stray (stray) belong to no object found in the cluster" in said
    assert "not taken: llm/trainer: holds 1 GPUs a replica, and neither image nor arguments speak of vLLM" in said
    config = read_config(out)
    chat, code = config.fleet.workloads
    assert (chat.workload, chat.profile.name, chat.bounds.min_replicas, chat.bounds.max_replicas) == (
        "llm/chat", "llama-3.1-8b-h100", 2, 6
    )  # fmt: skip
    assert chat.start_time.total_seconds() == 130  # 128 s, in fives
    assert (code.workload, code.profile.gpus, code.mode) == ("llm/code", 4, Mode.OBSERVE)
    assert "a lower bound, measure it" in out.read_text()
    assert dict(config.selectors["llm/code"].labels) == {"model_name": "code"}
    assert dict(config.selectors["llm/chat"].labels) == {}, "its pods are named after it: nothing is needed"
    assert out.read_text().startswith("# yaml-language-server: $schema=headstart.schema.json\n")
    assert double.mutating_requests == before

    assert run("validate", str(out), "--offline") == 0
    capsys.readouterr()
    assert run("tick", "--dry-run", "--config", str(out), "-o", "json") == 0
    decisions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    seen = {each["workload"]: each["snapshot"]["classes"][0]["demand_rps"]["kind"] for each in decisions}
    assert seen == {"llm/chat": "known", "llm/code": "known"}
    assert double.mutating_requests == before


def test_the_cluster_alone_is_enough(double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "--kubeconfig", str(double.kubeconfig(tmp_path))) == 0
    text = capsys.readouterr().out
    assert "CHANGE: `headstart init` was told none" in text
    (tmp_path / "h.yaml").write_text(text)
    assert [policy.workload for policy in read_config(tmp_path / "h.yaml").fleet.workloads] == ["llm/chat", "llm/code"]


def test_prometheus_alone_is_enough(
    prometheus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert run("init", "--prometheus", prometheus) == 0
    printed = capsys.readouterr()
    assert "no cluster: neither a service account nor a kubeconfig here" in printed.err
    (tmp_path / "h.yaml").write_text(printed.out)
    config = read_config(tmp_path / "h.yaml")
    assert {policy.workload: config.targets[policy.workload].kind for policy in config.fleet.workloads} == {
        "llm/chat": "Deployment", "llm/renamed-by-hand": "Deployment", "llm/stray": "StatefulSet"
    }  # fmt: skip


def test_an_existing_file_is_only_written_over_by_force(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kubeconfig = tmp_path / "headstart.yaml", str(double.kubeconfig(tmp_path))
    out.write_text("mine")
    assert run("init", "--kubeconfig", kubeconfig, "-o", str(out)) == 1
    assert out.read_text() == "mine"
    assert "--force writes over it" in capsys.readouterr().err
    assert run("init", "--kubeconfig", kubeconfig, "-o", str(out), "--force") == 0
    assert read_config(out).fleet.workloads


def test_an_account_of_one_namespace_says_which(
    double: KubeDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule(verbs=("get", "list"), groups=("*",), resources=("*",), namespaces=("llm",))
    kubeconfig = str(double.kubeconfig(tmp_path, token=double.account("narrow", rule)))
    assert run("init", "--kubeconfig", kubeconfig) == 1
    said = capsys.readouterr().err
    assert "403" in said
    assert "--namespace N asks for less" in said
    assert run("init", "--kubeconfig", kubeconfig, "-n", "llm") == 0
    assert run("init", "--kubeconfig", kubeconfig, "-n", "other") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "no cluster", id="nobody"),
        pytest.param(["--prometheus", "http://127.0.0.1:1"], "Prometheus could not be asked", id="nobody answers"),
        pytest.param(["--prometheus", "http://u:hunter2@p"], "must not contain a user or password", id="a secret"),
        pytest.param(
            ["--kubeconfig", "/nowhere"], "no access to Kubernetes through the kubeconfig /nowhere", id="no file"
        ),
    ],
)
def test_with_nobody_to_ask_it_says_so(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert run("init", *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "hunter2" not in printed.err
