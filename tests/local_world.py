"""One machine's servers for stories: a folder, a keeper that looks when told, and a gateway that says what it is told to.

Holds no test. Every process that a world began is gone when it ends.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

import local_server
from scaler.adapters.local_vllm.files import BACKENDS, FOLDER, State, load
from scaler.adapters.local_vllm.finding import end_everything
from scaler.adapters.local_vllm.keeper import Keeper
from scaler.adapters.local_vllm.life import Phase, Server
from scaler.adapters.local_vllm.targets import LocalTargets, local_targets
from scaler.config import Config
from scaler.config.reading import parse_config
from servers import Exporter

WORKLOAD = "local/tiny"
PATIENCE_S = 60.0
"""For a process on a machine whose cores are all busy; what is waited for usually takes a tenth of a second."""


class SpokenGateway(Exporter):
    """Answers GET /backends with the rows that it was told; with None it answers 500."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] | None = []
        super().__init__({"/backends": lambda: None if self.rows is None else json.dumps({"backends": self.rows})})

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.address}"


class LocalWorld:
    """A settings file, and everything that grows from it."""

    def __init__(self, folder: Path, first_port: int) -> None:
        self.folder = folder
        self.first_port = first_port
        self.log: list[dict[str, Any]] = []

    def settings(
        self,
        *,
        options: tuple[str, ...] = (),
        gateway: str | None = None,
        gpus: tuple[str, ...] = (),
        grace: str = "30s",
        shutdown_timeout: str = "20s",
        start_timeout: str = "60s",
        command: tuple[str, ...] | None = None,
        prometheus: str = "http://127.0.0.1:9",
        tick: str = "1m",
        port: int = 0,
    ) -> str:
        """The settings file's text."""
        words = json.dumps(list(command or local_server.command(*options)))
        return f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{prometheus}"}}
data_dir: data
tick: {tick}
http: {{port: {port}}}
local:
  gateways: {json.dumps([gateway] if gateway else [])}
  gpus: {json.dumps(list(gpus))}
  servers:
    - workload: {WORKLOAD}
      command: {words}
      model: tiny
      first_port: {self.first_port}
      grace: {grace}
      shutdown_timeout: {shutdown_timeout}
      start_timeout: {start_timeout}
workloads:
  - workload: {WORKLOAD}
    mode: active
    start_time: 30s
    profile: {{name: tiny, classes: [{{name: default, max_rps: 2}}]}}
    bounds: {{min_replicas: 1, max_replicas: 3}}
"""

    def config(self, **settings: Any) -> Config:
        """The same, read."""
        return parse_config(self.settings(**settings), self.folder / "headstart.yaml")

    def targets(self, *, dry_run: bool = False, may_write: bool = True, **settings: Any) -> LocalTargets:
        """A daemon's targets, as a start makes them."""
        return local_targets(
            self.config(**settings),
            structlog.wrap_logger(_Kept(), processors=[self._keep]),
            dry_run=dry_run,
            may_write=lambda: may_write,
            on_pods=lambda _: None,
        )

    def _keep(self, logger: Any, method: str, event: Any) -> Any:
        del logger
        self.log.append({"level": method, **event})
        raise structlog.DropEvent

    @property
    def local(self) -> Path:
        """The folder that the keeper writes."""
        return self.folder / "data" / FOLDER

    @property
    def state(self) -> State:
        """What is written down."""
        return load(self.local, may_set_aside=False) or State()

    @property
    def backends(self) -> list[dict[str, Any]]:
        """What a gateway would read."""
        rows: list[dict[str, Any]] = json.loads((self.local / BACKENDS).read_text())["backends"]
        return rows

    def said(self) -> list[str]:
        """What was told of servers, in order."""
        return [each["what"] for each in self.log if each["event"] == "local_server"]


class _Kept:
    """A logger whose lines go nowhere: the world keeps them."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_keys: None


def keeper_of(targets: LocalTargets) -> Keeper:
    """The keeper behind the targets."""
    return targets._keeper


def until_look(targets: LocalTargets, found: Callable[[State], object], *, what: str) -> State:
    """Look again and again until what there is satisfies `found`."""
    keeper, ends = keeper_of(targets), time.monotonic() + PATIENCE_S
    while True:
        keeper.look(now=datetime.now(UTC))
        if found(keeper.state):
            return keeper.state
        assert time.monotonic() < ends, f"not within {PATIENCE_S:g} s: {what}; {keeper.state}"
        time.sleep(0.02)


def phases(state: State) -> list[Phase]:
    """Of every server, in the order they came."""
    return [each.phase for each in state.servers]


def kill(server: Server) -> None:
    """kill -9 of its process."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)


def ask(server: Server, path: str, *, method: str = "GET") -> str:
    """One request to a server."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body=b"" if method == "POST" else None)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@contextmanager
def local_world(folder: Path, first_port: int) -> Iterator[LocalWorld]:
    """A world whose processes do not outlive it."""
    world = LocalWorld(folder, first_port)
    try:
        yield world
    finally:
        end_everything(world.local, patience_s=0.0)


def marked_alive(folder: Path) -> Mapping[int, str]:
    """Processes of this folder that run now, with the words that started them."""
    from inference import processes
    from scaler.adapters.local_vllm.launches import marks_of

    found = {}
    for each in processes.find(marks_of(folder)):
        try:
            found[each.process.pid] = Path(f"/proc/{each.process.pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found
