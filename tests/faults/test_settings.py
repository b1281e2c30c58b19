"""Fault 36: a typo in the settings, a query that no Prometheus takes, a bad file put under a running daemon.

A start is refused with file, line and column, and nothing is scaled; at a reload the old settings stay in force, and the
log, the metrics and `headstart get` say so.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon_cases import await_scrapes
from kube_double import KubeDouble
from servers import Exporter, PrometheusServer, Target, VllmPage, free_port, prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="needs prometheus and promtool on the PATH"),
]

PATIENCE_S = 60.0
"""A loaded machine is slow, not wrong."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Servers, and the settings file that names them."""

    cluster: KubeDouble
    prometheus: str
    folder: Path
    port: int

    @property
    def file(self) -> Path:
        return self.folder / "headstart.yaml"

    def write(self, workloads: str = "chat", *, most: str = "8", extra: str = "", top: str = "") -> Path:
        """The settings file, with these workloads; `extra` is put into each of them, `top` at its end."""
        entries = "".join(
            f"""  - workload: llm/{name}
    mode: active
    start_time: 1m
    profile: {{name: chat, classes: [{{name: default, max_rps: 2}}]}}
    bounds: {{min_replicas: 1, max_replicas: {most}}}
    selector: {{labels: {{model_name: {name}}}}}
    latency: {{rate_window: 15s}}
{extra}"""
            for name in workloads.split()
        )
        self.file.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{self.prometheus}", deadline_s: 4}}
kubernetes: {{kubeconfig: "{self.cluster.kubeconfig(self.folder)}"}}
data_dir: data
tick: 1s
http: {{port: {self.port}}}
workloads:
{entries}{top}""",
            encoding="utf-8",
        )
        return self.file

    def line_of(self, text: str) -> int:
        """Where a text stands in the file, from 1."""
        return next(at for at, line in enumerate(self.file.read_text().splitlines(), 1) if text in line)


class Process:
    """`headstart run` as a child process, its log in a file."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._log = world.folder / "log"
        with self._log.open("ab") as stream:
            command = [sys.executable, "-m", "scaler.cli", "run", "--config", str(world.file)]
            self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)

    def get(self, path: str) -> str:
        """A page's text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.world.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def workloads(self) -> dict[str, Any]:
        """What `headstart get -o json` is made of."""
        found: dict[str, Any] = json.loads(self.get("/api/v1/workloads"))
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        return {item["workload"]: item for item in self.workloads()["items"]}

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log with this name; one that is still being written is none."""
        whole = (line for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}"))
        return [line for line in map(json.loads, whole) if line["event"] == name]

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def until(found: Callable[[], Any]) -> Any:
    """The first true value; a daemon that does not answer yet has none."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            value = found()
        except (OSError, StopIteration):
            value = None
        if value:
            return value
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def prometheus() -> Iterator[str]:
    born = time.time() - 600
    pages = {f"/{name}": VllmPage(model_name=name, rate_rps=5.2, born=born) for name in ("chat", "code")}
    with Exporter(pages) as exporter:
        targets = [
            Target(address=exporter.address, path=f"/{name}", labels={"namespace": "llm", "pod": f"{name}-0"})
            for name in ("chat", "code")
        ]
        with PrometheusServer(targets) as server:
            await_scrapes(server.url, model_name="chat", window_s=15, least_rps=4.9)
            yield server.url


@pytest.fixture
def world(prometheus: str, tmp_path: Path) -> Iterator[World]:
    with KubeDouble(gpus=64, real_time=True) as cluster:
        cluster.namespace("llm")
        for name in ("chat", "code"):
            cluster.deployment("llm", name, replicas=1)
        cluster.advance(2)
        yield World(cluster=cluster, prometheus=prometheus, folder=tmp_path, port=free_port())


@pytest.fixture
def running() -> Iterator[Callable[[World], Process]]:
    started: list[Process] = []

    def start(world: World) -> Process:
        started.append(Process(world))
        until(lambda: started[-1].rows())
        return started[-1]

    yield start
    for process in started:
        process.child.kill()
        process.child.wait(timeout=30)


def refused_start(world: World) -> str:
    """What `headstart run` says when it will not start with this file; it must end by itself."""
    command = [sys.executable, "-m", "scaler.cli", "run", "--config", str(world.file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 2
    assert world.cluster.requests == [], "nobody is asked before the file is right"
    assert not (world.folder / "data").exists()
    return ended.stderr


# ── Row 36, the start ─────────────────────────────────────────────────────────────────────────────────────────


def test_row_36_a_typo_refuses_the_start_with_its_place(world: World) -> None:
    world.write(extra="    boundz: {min_replicas: 2}\n")
    said = refused_start(world)
    assert f"{world.file}:{world.line_of('boundz')}:5: workloads[0].boundz: is not a setting" in said
    assert "did you mean bounds?" in said


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        pytest.param('{pod_pattern: "chat-(?=x)"}', "not a regular expression for Prometheus (RE2)", id="look-ahead"),
        pytest.param('{pod_pattern: "(?i)chat.*"}', "must be a plain regular expression over pod names", id="flags"),
        pytest.param('{labels: {"mod-el": chat}}', "must name a label", id="label"),
        pytest.param('{demand_metric: "sum(rate(x[1m]))"}', "must be the name of one counter", id="expression"),
    ],
)
def test_row_36_a_query_that_no_prometheus_takes_refuses_the_start_with_its_place(
    world: World, selector: str, said: str
) -> None:
    text = world.write().read_text().replace("{labels: {model_name: chat}}", selector)
    world.file.write_text(text)
    heard = refused_start(world)
    assert f"{world.file}:{world.line_of('selector: ')}:" in heard
    assert "workloads[0].selector" in heard
    assert said in heard


# ── Row 36, the running daemon ────────────────────────────────────────────────────────────────────────────────


def test_row_36_a_bad_file_under_a_running_daemon_leaves_the_old_settings_in_force(
    world: World, running: Callable[[World], Process]
) -> None:
    """A good file, a bad one, and a good one again, each announced by SIGHUP."""
    world.cluster.set_replicas("llm", "chat", 2)
    world.write(most="2")
    process = running(world)
    assert process.rows()["llm/chat"]["replicas"]["desired"] == 2  # 5.2 rps over 2 a replica want 3

    world.write("chat code", most="4")
    process.child.send_signal(signal.SIGHUP)
    (reloaded,) = until(lambda: process.events("reloaded"))
    assert (reloaded["added"], reloaded["changed"]) == (["llm/code"], ["llm/chat"])
    until(lambda: process.rows().keys() == {"llm/chat", "llm/code"})
    until(lambda: world.cluster.replicas("llm", "chat") >= 3)
    loaded_at = process.workloads()["settings"]["loaded_at"]
    assert process.metric("headstart_config_reload_ok") == 1

    world.write("chat code", most='"4"', extra="    mood: active\n")
    process.child.send_signal(signal.SIGHUP)
    (refused,) = until(lambda: process.events("reload_refused"))
    # The two workloads share their mistakes' texts, not their places.
    assert f"{world.file}:{world.line_of('mood')}:5: workloads[0].mood: is not a setting" in " ".join(
        refused["problems"]
    )
    assert refused["of"] == 4
    assert "stay in force" in refused["meanwhile"]
    assert refused["fix"] == f"headstart validate {world.file}"
    before = process.workloads()["at"]
    until(lambda: process.workloads()["at"] > before)  # it goes on ticking, by the old settings
    shown = process.workloads()
    assert {row["replicas"]["max"] for row in shown["items"]} == {4}
    assert shown["settings"]["loaded_at"] == loaded_at
    assert 'must be a whole number, got "4" (and 3 more)' in shown["settings"]["problem"]
    assert process.metric("headstart_config_reload_ok") == 0
    asked = [sys.executable, "-m", "scaler.cli", "get", "--url", f"http://127.0.0.1:{world.port}"]
    table = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    assert f"settings file refused: {world.file}:" in table

    world.write("code", most="5")
    process.child.send_signal(signal.SIGHUP)
    until(lambda: len(process.events("reloaded")) == 2)
    assert process.events("reloaded")[1]["removed"] == ["llm/chat"]
    until(lambda: process.rows().keys() == {"llm/code"})
    assert process.workloads()["settings"]["problem"] == ""
    assert process.metric("headstart_config_reload_ok") == 1
    assert 'workload="chat"' not in process.get("/metrics"), "what was removed leaves no series behind"
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(timeout=PATIENCE_S) == 0


def test_a_file_that_changes_is_read_without_being_asked(world: World, running: Callable[[World], Process]) -> None:
    world.write()
    process = running(world)
    world.write("chat code")
    until(lambda: process.rows().keys() == {"llm/chat", "llm/code"})
    (reloaded,) = process.events("reloaded")
    assert reloaded["added"] == ["llm/code"]


def test_what_needs_a_restart_is_told_and_the_rest_counts(world: World, running: Callable[[World], Process]) -> None:
    world.write()
    process = running(world)
    forecast = 'forecast: {refit: "04:00", ttl: 9m, models: [last-value]}\n'
    text = world.write(most="7", top=forecast).read_text()
    world.file.write_text(text.replace("data_dir: data", "data_dir: elsewhere").replace("tick: 1s", "tick: 2s"))
    process.child.send_signal(signal.SIGHUP)
    (reloaded,) = until(lambda: process.events("reloaded"))
    assert reloaded["needs_restart"] == ["data_dir", "tick"]
    assert reloaded["settings"] == ["forecast.models", "forecast.refit", "forecast.ttl"]
    until(lambda: process.rows()["llm/chat"]["replicas"]["max"] == 7)
    assert process.workloads()["settings"]["needs_restart"] == ["data_dir", "tick"]
    assert not (world.folder / "elsewhere").exists()
    assert process.events("job_failed") == []
    world.write(most="7")  # taken back: nothing waits any more
    process.child.send_signal(signal.SIGHUP)
    until(lambda: process.workloads()["settings"]["needs_restart"] == [])


def test_what_a_workload_has_learnt_survives_a_reload(world: World, running: Callable[[World], Process]) -> None:
    """The states of workloads that stay are kept: the scale asked for is still known."""
    world.write(most="3")
    process = running(world)
    until(lambda: world.cluster.replicas("llm", "chat") == 3)
    asked = until(lambda: json.loads(process.get("/api/v1/workloads/llm/chat/explain"))["state"]["asked"])
    world.write("chat code", most="3")
    process.child.send_signal(signal.SIGHUP)
    until(lambda: process.rows().keys() == {"llm/chat", "llm/code"})
    record = json.loads(process.get("/api/v1/workloads/llm/chat/explain"))
    assert record["state"]["asked"] == asked
    assert json.loads(process.get("/api/v1/workloads/llm/code/explain"))["state"]["asked"] != asked


def test_another_metrics_server_is_read_from_the_next_tick_on(
    world: World, running: Callable[[World], Process]
) -> None:
    """An address that nobody answers at, put right while the daemon runs."""
    text = world.write().read_text()
    world.file.write_text(text.replace(world.prometheus, f"http://127.0.0.1:{free_port()}"))
    process = running(world)
    assert process.rows()["llm/chat"]["state"] == "HOLD"
    world.file.write_text(text)
    process.child.send_signal(signal.SIGHUP)
    (reloaded,) = until(lambda: process.events("reloaded"))
    assert reloaded["settings"] == ["prometheus.url"]
    until(lambda: process.rows()["llm/chat"]["state"] != "HOLD")
    until(lambda: world.cluster.replicas("llm", "chat") >= 2)
