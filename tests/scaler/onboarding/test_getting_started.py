"""docs/getting-started.md as somebody follows it: each of its commands, in its order, against real servers.

What stands in front of the page here: an address that a test may have, a free port and a shorter tick. What cannot run
here is listed, so that a new command in the page is either run or named.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon_cases import await_scrapes
from kube_double import KubeDouble
from servers import Exporter, PrometheusServer, Target, VllmPage, free_port, prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not prometheus_is_installed(), reason="no prometheus here; make test installs it"),
]

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "getting-started.md"
ADDRESS = "http://prometheus.monitoring:9090"

NOT_HERE = (
    "python3 -m venv",  # the tests run in the environment that this makes
    "pip install",
    "headstart simulate --from-prometheus",  # wants days of the past; tests/scaler/simulate holds it
)
DAEMON = "headstart run --config headstart.yaml"
PATIENCE_S = 90.0


def commands() -> list[str]:
    """Every line of the page's code blocks."""
    blocks = PAGE.read_text(encoding="utf-8").split("```")[1::2]
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def until(found: Callable[[], Any]) -> Any:
    ends = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.1)
    return value


class Reader:
    """Somebody with a shell in an empty folder."""

    def __init__(self, folder: Path, prometheus: str, kubeconfig: Path) -> None:
        self.folder, self.port, self._prometheus = folder, free_port(), prometheus
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADSTART")},
            "KUBECONFIG": str(kubeconfig),
            "HEADSTART_URL": f"http://127.0.0.1:{self.port}",
            "PYTHONPATH": str(ROOT),
        }
        self.daemon: subprocess.Popen[bytes] | None = None

    def _words(self, command: str) -> list[str]:
        words = shlex.split(command.partition(" > ")[0].replace(ADDRESS, self._prometheus))
        assert words[0] == "headstart"
        return [sys.executable, "-m", "scaler.cli", *words[1:]]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, its output where the page sends it."""
        ran = subprocess.run(
            self._words(command),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        _, redirected, file = command.partition(" > ")
        if redirected:
            (self.folder / file).write_text(ran.stdout, encoding="utf-8")
        return ran

    def start(self, command: str) -> None:
        """The daemon, with a port and a tick that suit a test."""
        file = self.folder / "headstart.yaml"
        file.write_text(f"{file.read_text()}tick: 2s\nhttp: {{port: {self.port}}}\n")
        with (self.folder / "log").open("wb") as log:
            self.daemon = subprocess.Popen(self._words(command), cwd=self.folder, env=self._environment, stderr=log)
        until(lambda: '"items": [\n    {' in self.run("headstart get -o json").stdout)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log with this name; one that is still being written is none."""
        lines = (self.folder / "log").read_text().splitlines()
        whole = (line for line in lines if line.startswith("{") and line.endswith("}"))
        return [line for line in map(json.loads, whole) if line["event"] == name]


@pytest.fixture
def prometheus() -> Iterator[str]:
    page = VllmPage(model_name="chat", rate_rps=60.0, born=time.time() - 600)
    with Exporter({"/metrics": page}) as exporter:
        labels = {"namespace": "llm", "pod": "chat-7d9f8b6c5d-x2x4z"}
        with PrometheusServer([Target(address=exporter.address, path="/metrics", labels=labels)]) as server:
            await_scrapes(server.url, model_name="chat")
            yield server.url


@pytest.fixture
def double() -> Iterator[KubeDouble]:
    with KubeDouble(gpus=16, real_time=True) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.advance(2)
        yield cluster


@pytest.fixture
def reader(tmp_path: Path, prometheus: str, double: KubeDouble) -> Iterator[Reader]:
    access = tmp_path / "access"
    access.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    reader = Reader(folder, prometheus, double.kubeconfig(access))
    yield reader
    if reader.daemon is not None:
        reader.daemon.kill()
        reader.daemon.wait(timeout=30)


def test_every_command_of_the_page_runs_in_its_order(reader: Reader, double: KubeDouble) -> None:
    before_activation, activation = _parts()
    for command in before_activation:
        if command == DAEMON:
            reader.start(command)
            continue
        ran = reader.run(command)
        assert ran.returncode == 0, f"{command}: {ran.stderr or ran.stdout}"
    assert double.mutating_requests == 0, "observing changes nothing"
    assert (reader.folder / "headstart.schema.json").read_text().startswith("{")

    file = reader.folder / "headstart.yaml"
    entry = '  - workload: "llm/chat"\n'
    assert entry in file.read_text()
    file.write_text(file.read_text().replace(entry, f"{entry}    mode: active\n"))
    assert reader.daemon is not None
    reader.daemon.send_signal(signal.SIGHUP)
    (reloaded,) = until(lambda: reader.events("reloaded"))
    assert reloaded["changed"] == ["llm/chat"]
    for command in activation:
        ran = reader.run(command)
        assert ran.returncode == 0, f"{command}: {ran.stderr or ran.stdout}"
    assert " active " in ran.stdout
    until(lambda: double.mutating_requests > 0)
    reader.daemon.send_signal(signal.SIGTERM)
    assert reader.daemon.wait(timeout=PATIENCE_S) == 0


def _parts() -> tuple[list[str], list[str]]:
    """The commands before a workload is made active, and those after."""
    wanted = [each for each in commands() if not each.startswith(NOT_HERE)]
    second = wanted.index("headstart validate headstart.yaml --offline", wanted.index(DAEMON))
    return wanted[:second], wanted[second:]


def test_what_the_page_shows_is_run_or_named() -> None:
    before, after = _parts()
    assert all(each.startswith("headstart ") for each in (*before, *after))
    assert DAEMON in before
    assert all(any(each.startswith(skipped) for each in commands()) for skipped in NOT_HERE)
