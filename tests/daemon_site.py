"""A whole daemon in this process, on a clock that the test moves, over a strict double of the Kubernetes API.

Its Prometheus does not answer unless the test names one, so that nothing is ever released: what is written is the
minimum, or what a person orders. Holds no test.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kube_double import KubeDouble
from scaler.adapters.documents import workloads_document
from scaler.adapters.store import Store
from scaler.config import Config, read_config
from scaler.daemon import Daemon, discovery
from scaler.daemon.discovery import LOOK_EVERY_S, Discoverer

EVERYTHING = 10_000

AGO = timedelta(days=1)
"""A story begins so long before the machine's own time: what a start finds on record is never from the future."""


@dataclass
class Log:
    """What the daemon said."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **keys: Any) -> None:
        self.said.append((event, keys))

    warning = error = critical = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [keys for name, keys in self.said if name == event]


@dataclass
class Site:
    """A cluster, a settings file, and a daemon whose minutes pass when the test says so."""

    cluster: KubeDouble
    folder: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(second=0, microsecond=0) - AGO)
    uptime_s: float = field(default_factory=lambda: time.monotonic() + 1e6)
    log: Log = field(default_factory=Log)

    port: int = 0
    namespaces: str = "llm"
    prometheus: str = "http://127.0.0.1:9"
    more: str = ""
    """Further lines of the settings file."""

    def settings(
        self, workloads: str = "llm/chat", *, mode: str = "active", confirm: int | None = None, target: str = ""
    ) -> Config:
        """The settings file with these workloads, three replicas at least each; as it is read."""
        to = f", target: {{name: {target}}}" if target else ""
        entries = "".join(f"  - {{workload: {name}, mode: {mode}{to}}}\n" for name in workloads.split())
        path = self.folder / "headstart.yaml"
        path.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{self.prometheus}", deadline_s: 1}}
kubernetes: {{kubeconfig: "{self.folder / "kubeconfig"}"}}
data_dir: data
http: {{port: {self.port}}}
discover: {{namespaces: [{self.namespaces}], selector: {{team: ml}}{f", confirm: {confirm}" if confirm else ""}}}
defaults: {{profile: qwen3-vl-2b-24gb, bounds: {{min_replicas: 3, max_replicas: 12}}}}
{self.more}workloads:
{entries}""",
            encoding="utf-8",
        )
        return read_config(path)

    def begin(self, **settings: Any) -> Site:
        """The daemon and its search for annotations, as a start makes them from such a settings file."""
        config = self.settings(**settings)
        self.store = Store.open(config.data_dir, now=self.now)
        found = discovery.at_start(config, self.store, self.log)
        self.daemon = Daemon(found.config, self.store)
        self.discoverer = Discoverer(
            config, found, running=lambda: self.daemon.config, take=self.daemon.reload, store=self.store, log=self.log
        )
        return self

    def tick(self) -> dict[str, Any]:
        """A minute passes and the daemon ticks; what `get` shows of each workload."""
        self.now += timedelta(minutes=1)
        self.cluster.advance(60)
        self.daemon.tick()
        return {item["workload"]: item for item in workloads_document(self.daemon.board.view())["items"]}

    def look(self, after_s: float = LOOK_EVERY_S) -> dict[str, Any]:
        """Time for a search, then a tick."""
        self.uptime_s += after_s
        self.discoverer.look(uptime_s=self.uptime_s)
        return self.tick()

    def reload(self, config: Config) -> dict[str, Any]:
        """The file was read anew, then a tick."""
        self.discoverer.file_read(config)
        return self.tick()

    def annotated(self, *names: str, mode: str = "active") -> None:
        """Deployments of one replica that ask to be workloads."""
        for name in names:
            self.cluster.deployment("llm", name, replicas=1, team="ml")
            self.cluster.annotate("llm", name, enabled="true", mode=mode)

    def scale(self, name: str = "chat") -> int:
        return self.cluster.replicas("llm", name)


@contextmanager
def a_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with one Deployment, llm/chat, of one replica; its daemon, if the test begins one, ends with it."""
    with KubeDouble() as cluster:
        site = Site(cluster=cluster, folder=folder)
        behind_s = (site.now - cluster.now).total_seconds()
        cluster.advance(behind_s, step_s=behind_s)  # the two go together from here on
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.kubeconfig(folder)
        monkeypatch.setattr("scaler.daemon.process.due_time", lambda _, *, now: site.now)
        monkeypatch.setattr("scaler.daemon.process.logs.logger", lambda: site.log)
        yield site
        if hasattr(site, "daemon") and not site.daemon.stopping.is_set():
            site.daemon.stop()
