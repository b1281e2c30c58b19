"""`headstart run` over servers on this machine: no cluster, no credentials, and nothing moves when the daemon goes.

The servers are small programs that behave like a vLLM as far as these stories look (`local_server`).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon_process import DaemonProcess, running, until
from local_world import PATIENCE_S, WORKLOAD, LocalWorld, SpokenGateway, local_world, marked_alive
from scaler.adapters.control_desk import ControlDesk, Word
from scaler.adapters.control_file import ControlFile
from scaler.adapters.settings import read_settings
from scaler.errors import ConfigError
from servers import free_port

pytestmark = [pytest.mark.server]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    with local_world(tmp_path, free_port()) as each:
        yield each


@contextmanager
def daemon(world: LocalWorld, **settings: Any) -> Iterator[DaemonProcess]:
    """One life of a daemon that ticks every second and sees no metrics: it holds, and people's words count."""
    port, path = free_port(), world.folder / "headstart.yaml"
    path.write_text(world.settings(tick="1s", port=port, **settings), encoding="utf-8")
    with running(path, port, log=world.folder / "log") as process:
        until(lambda: process.ready, within_s=PATIENCE_S, what="a first tick")
        yield process


def replicas(process: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = process.get("/api/v1/workloads")[1]["items"][0]["replicas"]
    return found


def until_ready(process: DaemonProcess, count: int) -> None:
    def is_so() -> bool:
        seen = replicas(process)
        return (seen.get("ready"), seen.get("current")) == (count, count)

    until(is_so, within_s=PATIENCE_S, what=f"{count} Ready")


def order(world: LocalWorld, count: int) -> None:
    """A person's word: so many, whatever the load."""
    desk = ControlDesk(ControlFile(world.folder / "data"), known=lambda: [WORKLOAD])
    now = datetime.now(UTC)
    desk.override(WORKLOAD, count, now + timedelta(hours=1), Word(reason="story"), now=now)


def test_it_scales_processes_and_counts_their_starts(world: LocalWorld) -> None:
    with daemon(world, options=("--ready-after", "0.5"), grace="0s") as process:
        until_ready(process, 1)
        order(world, 3)
        until_ready(process, 3)
        assert len(marked_alive(world.local)) == 3
        assert len(world.backends) == 3
        (row,) = process.get("/api/v1/workloads")[1]["items"]
        until(lambda: process.get("/api/v1/workloads")[1]["items"][0]["lead_time"]["starts"] == 3, what="three starts")
        assert row["lead_time"]["source"] == "configured", "of fewer than five starts nothing is concluded"
        order(world, 1)
        until_ready(process, 1)
        until(lambda: len(marked_alive(world.local)) == 1, within_s=PATIENCE_S, what="the others are gone")


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda process: process.stop(), id="asked to stop"),
        pytest.param(lambda process: process.kill(), id="killed"),
        pytest.param(
            lambda process: (os.kill(process.child.pid, signal.SIGINT), process.died()), id="Ctrl-C in its terminal"
        ),
    ],
)
def test_if_it_goes_nothing_moves_and_the_next_one_takes_over(
    world: LocalWorld, end: Callable[[DaemonProcess], object]
) -> None:
    with daemon(world) as first:
        until_ready(first, 1)
        order(world, 2)
        until_ready(first, 2)
        before = marked_alive(world.local)
        end(first)
    assert marked_alive(world.local) == before
    with daemon(world) as second:
        until_ready(second, 2)
        assert marked_alive(world.local) == before


def test_it_needs_no_credentials_of_a_cluster(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setenv("HOME", "/nowhere")
    with daemon(world) as process:
        until_ready(process, 1)


def test_kill_9_of_a_server_is_counted_told_and_mended(world: LocalWorld) -> None:
    with daemon(world, options=("--ready-after", "0.5")) as process:
        until_ready(process, 1)
        (victim,) = marked_alive(world.local)
        os.kill(victim, signal.SIGKILL)
        until(lambda: marked_alive(world.local).keys() - {victim}, within_s=PATIENCE_S, what="another process")
        until_ready(process, 1)
        said = [each["what"] for each in process.events("local_server")]
        assert said[:5] == ["begun", "ready", "ended", "begun", "ready"]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        pytest.param(["no-such-program", "{port}"], ("FAIL", "no program no-such-program"), id="no program"),
        pytest.param(["/bin/sh", "{port}"], ("ok", "/bin/sh"), id="a program"),
    ],
)
def test_doctor_looks_at_this_machine_and_at_no_cluster(
    world: LocalWorld, command: list[str], found: tuple[str, str]
) -> None:
    from scaler.doctor.machine import judge_machine

    with SpokenGateway() as gateway:
        there = list(judge_machine(world.config(command=tuple(command), gateway=gateway.url)))
        gateway.rows = None
        silent = list(judge_machine(world.config(command=tuple(command), gateway=gateway.url)))
    assert (there[0].health.value, there[0].found[: len(found[1])]) == found
    assert [each[1].health.value for each in (there, silent)] == ["ok", "warn"]


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────

SERVER = '{workload: local/tiny, command: [a, "{port}"]}'
TEMPLATE = """apiVersion: headstart/v1
kind: Config
local: {{servers: [{server}]{local}}}
{top}
workloads:
  - {{workload: local/tiny, profile: qwen3-vl-2b-24gb{entry}}}
"""


@pytest.mark.parametrize(
    ("parts", "setting", "text"),
    [
        pytest.param(
            {"server": "{workload: local/tiny, command: [vllm, serve]}"},
            "local.servers[0].command",
            "{port}",
            id="no port",
        ),
        pytest.param(
            {"server": '{workload: a/b, command: ["{port}"]}'},
            "local.servers[0].workload",
            "no workload",
            id="of nobody",
        ),
        pytest.param(
            {"server": '{workload: local/tinny, command: ["{port}"]}'},
            "local.servers[0].workload",
            "did you mean",
            id="misspelt",
        ),
        pytest.param({"server": f"{SERVER}, {SERVER}"}, "local.servers", "one entry a workload", id="twice"),
        pytest.param(
            {"server": "{workload: local/tiny, variant: qwen3-vl-9b}"},
            "local.servers[0].variant",
            "did you mean",
            id="variant",
        ),
        pytest.param(
            {"server": "{workload: local/tiny, variant: qwen3-vl-32b}", "local": ', gpus: ["0"]'},
            "local.servers[0]",
            "a server takes 2",
            id="too few GPUs",
        ),
        pytest.param(
            {"server": "{workload: local/tiny, variant: qwen3-vl-8b, shutdown_timeout: 60s}"},
            "local.servers[0].shutdown_timeout",
            "drain takes up to 120 s",
            id="killed in its drain",
        ),
        pytest.param(
            {"server": '{workload: local/tiny, command: ["{port}"], arguments: [-x]}'},
            "local.servers[0].arguments",
            "variant",
            id="arguments of none",
        ),
        pytest.param(
            {"server": '{workload: local/tiny, command: ["{port}"], environment: {HEADSTART_SERVER_ID: x}}'},
            "local.servers[0].environment",
            "none that begins with HEADSTART_SERVER_",
            id="our own variables",
        ),
        pytest.param({"entry": ", mode: floor"}, "workloads[0].mode", "no autoscaler", id="floor"),
        pytest.param({"top": "ha: {lease: a/b}"}, "ha", "belongs to a cluster", id="a lease"),
        pytest.param({"top": "deletion_cost: true"}, "deletion_cost", "belongs to a cluster", id="deletion cost"),
        pytest.param({"top": "discover: {namespaces: [llm]}"}, "discover", "belongs to a cluster", id="discovery"),
        pytest.param({"local": ', gateways: ["127.0.0.1:8000"]'}, "local.gateways", "http addresses", id="no address"),
        pytest.param({"local": ", gpus: [0]"}, "local.gpus[0]", "must be text", id="a number"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, parts: dict[str, str], setting: str, text: str) -> None:
    path = tmp_path / "headstart.yaml"
    path.write_text(TEMPLATE.format(**{"server": SERVER, "local": "", "top": "", "entry": "", **parts}))
    with pytest.raises(ConfigError) as refused:
        read_settings(path)
    found = [(issue.setting, issue.text) for issue in refused.value.issues]
    assert any(name == setting and text in said for name, said in found), found


def test_a_workload_that_nobody_starts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "headstart.yaml"
    text = TEMPLATE.format(server=SERVER, local="", top="", entry="")
    path.write_text(text + "  - {workload: llm/chat, profile: qwen3-vl-2b-24gb}\n")
    with pytest.raises(ConfigError, match=r"no entry of local\.servers starts llm/chat"):
        read_settings(path)


def test_a_variant_is_started_with_the_arguments_of_its_pods(tmp_path: Path) -> None:
    from inference.launch import serve_arguments
    from inference.variants import shipped_catalogue, variant_named
    from scaler.adapters.local_vllm.crew import Place
    from scaler.adapters.local_vllm.finding import new_server
    from scaler.adapters.local_vllm.launches import kinds_of

    path = tmp_path / "headstart.yaml"
    server = "{workload: local/tiny, variant: qwen3-vl-8b, arguments: [--enforce-eager], environment: {A: b}}"
    path.write_text(TEMPLATE.format(server=server, local=', gpus: ["2"]', top="", entry=""))
    kind = kinds_of(read_settings(path).local)[WORKLOAD]
    server_8101 = new_server(WORKLOAD, Place(port=8101, gpus=("2",)), now=datetime.now(UTC))

    launch = kind.launch(server_8101, folder=tmp_path / "local", home=tmp_path)

    variant = variant_named("qwen3-vl-8b", shipped_catalogue())
    rendered = serve_arguments(variant, host="127.0.0.1", port=8101)
    assert launch.command == ("vllm", "serve", *rendered, "--enforce-eager")
    said = {name: launch.environment[name] for name in ("CUDA_VISIBLE_DEVICES", "VLLM_NO_USAGE_STATS", "A")}
    assert said == {"CUDA_VISIBLE_DEVICES": "2", "VLLM_NO_USAGE_STATS": "1", "A": "b"}
    assert launch.environment["HOME"] == os.environ["HOME"], "a container's home is none here"
    assert json.dumps(kind.listed.model) == '"qwen3-vl-8b"'
