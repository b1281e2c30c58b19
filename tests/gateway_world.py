"""A gateway with its replicas for tests: real HTTP servers on loopback. Holds no test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import uvicorn

from inference.gateway.app import application
from inference.gateway.settings import Settings, parse_settings
from servers import free_port

WITHIN_S = 30.0
PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel."""

FAKE = Path(__file__).with_name("fake_vllm.py")


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds; fails with `what` after half a minute."""
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at, what
        time.sleep(0.01)


def plain() -> httpx.Client:
    """A client that reads no certificates, which takes longer than a request on loopback."""
    return httpx.Client(verify=False, trust_env=False, timeout=WITHIN_S)


def get(url: str) -> httpx.Response:
    """GET it."""
    with plain() as client:
        return client.get(url)


class FakeVllm:
    """One replica, a process of its own."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        command = [sys.executable, str(FAKE), name, str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        eventually(self._answers, f"{name} does not answer")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seen(self) -> dict[str, Any]:
        """What came in."""
        told: dict[str, Any] = get(f"{self.url}/seen").json()
        return told

    def behave(self, **behaviour: Any) -> None:
        """How requests are answered that say nothing of it."""
        with plain() as client:
            client.post(f"{self.url}/control", json=behaviour)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """As kill -9."""
        self._process.kill()
        self._process.wait(timeout=30)

    def _answers(self) -> bool:
        try:
            return get(f"{self.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass(slots=True)
class ListLog:
    """The access log as a list."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        self.events.append({"event": name, **facts})

    def of(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == name]


class GatewayServer:
    """A gateway in a thread of this process, on a port of its own, with a backends file in `folder`."""

    def __init__(self, folder: Path, more: str = "", *, backends: list[dict[str, Any]] | None = None) -> None:
        self.file = folder / "backends.json"
        if backends is not None:
            self.write(backends)
        text = (
            "apiVersion: headstart/v1\nkind: Gateway\n"
            + ("" if "\nbackends:" in f"\n{more}" else "backends: {file: backends.json, reread_every_s: 0.05}\n")
            + more
        )
        self.settings: Settings = parse_settings(text, source="gateway.yaml", folder=folder)
        self.log = ListLog()
        self.port = free_port()
        config = uvicorn.Config(
            application(self.settings, log=self.log), host="127.0.0.1", port=self.port,
            access_log=False, log_level="critical", timeout_graceful_shutdown=5,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, backends: list[dict[str, Any]]) -> None:
        """Replace the file whole, as its writer must."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"apiVersion": "headstart/v1", "kind": "Backends", "backends": backends}))
        new.replace(self.file)

    def shown(self) -> dict[str, dict[str, Any]]:
        """GET /backends, by URL."""
        return {each["url"]: each for each in get(f"{self.url}/backends").json()["backends"]}

    def page(self) -> str:
        """GET /metrics."""
        return get(f"{self.url}/metrics").text

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.page().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{each}"' in series for key, each in labels.items()):
                total += float(value)
        return total

    def __enter__(self) -> Self:
        self._thread.start()
        expected = 503 if self.settings.backends.file is not None and not self.file.exists() else 200
        eventually(lambda: self._readiness() == expected, "the gateway does not start")
        return self

    def _readiness(self) -> int | None:
        try:
            return get(f"{self.url}/readyz").status_code
        except httpx.HTTPError:
            return None

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()


def chat(text: str = "hello", *, model: str = "tiny", stream: bool = False, **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **more}


def ask(gateway: GatewayServer, body: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    """POST it to /v1/chat/completions; a header is written with underscores."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["content-type"] = "application/json"
    with plain() as client:
        return client.post(f"{gateway.url}/v1/chat/completions", content=content, headers=named)


class Stream:
    """A client in a thread of its own that reads a streamed answer as it comes."""

    def __init__(self, gateway: GatewayServer, **fake: Any) -> None:
        self.text = ""
        self.broken = False
        self._url = f"{gateway.url}/v1/chat/completions"
        self._body = json.dumps(chat(stream=True, fake=fake))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with plain() as client, client.stream("POST", self._url, content=self._body) as answer:
                for piece in answer.iter_text():
                    self.text += piece
        except httpx.RemoteProtocolError:
            self.broken = True

    def ended(self) -> Self:
        """Itself, once the answer is over."""
        self._thread.join(timeout=WITHIN_S)
        assert not self._thread.is_alive(), "the stream does not end"
        return self

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end."""
        return not self.broken and self.text.endswith("data: [DONE]\n\n")


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a streamed answer, without its end."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@contextlib.contextmanager
def replicas(*names: str) -> Iterator[list[FakeVllm]]:
    """Replicas that are up."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeVllm(name)) for name in names]


def backend(replica: FakeVllm, **more: Any) -> dict[str, Any]:
    """Its line of the backends file."""
    return {"url": replica.url, "model": "tiny", **more}


def listens(port: int) -> bool:
    """Whether somebody does, on this port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def is_ready(port: int) -> bool:
    """Whether a gateway on this port takes requests."""
    with contextlib.suppress(httpx.HTTPError):
        return get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    return False


@contextlib.contextmanager
def redis_server(port: int) -> Iterator[None]:
    """A Redis that keeps nothing on disk."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(port), "Redis does not start")
        yield
    finally:
        process.kill()
        process.wait(timeout=30)


@contextlib.contextmanager
def nginx_server(folder: Path, top: str, site: str) -> Iterator[None]:
    """A real nginx with one site, in the foreground, in a folder of its own; `top` goes before everything else."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    paths = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(
        f"{top}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n"
        f"events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{paths}  include {folder}/site.conf;\n}}\n"
    )
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
