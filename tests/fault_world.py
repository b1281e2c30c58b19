"""The world that the fault stories play in: a real Prometheus behind the fault proxy, the double of the Kubernetes
API, and one daemon in this process whose minutes the test lives through one by one. Holds no test.

What is scraped stands still (each pod goes on with its own traffic); what the workload `llm/chat` seems to do is the
proxy's choice: `world.traffic("idle")`. So no story waits for a rate window to fill.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import generate_latest

from fault_proxy import FaultProxy
from forecaster.types import Blind
from kube_double import KubeDouble
from metrics_fleet import wait_for
from scaler.adapters import logs
from scaler.adapters.states import State, Status
from scaler.adapters.store import Store
from scaler.config import Config, read_config
from scaler.daemon import Daemon
from scaler.loop import TickReport
from scaler.policy.types import Action, Decision, Snapshot
from servers import Exporter, PrometheusServer, Target, VllmPage

WORKLOAD = "llm/chat"
USUAL_RPS = 4.9
MAX_RPS = 2.0
USUAL_REPLICAS = 4
"""ceil(4.9 / (0.7 · 2)) = ceil(3.5): without a forecast the load rule fills a replica to 70 %, and scrapes of a busy
machine that come late by a tenth change nothing."""
RATE_WINDOW_S = 15
LOOK_BACK_MINUTES = 5
NEXT_SCRAPE_S = 0.5
"""Every minute of a story is over in some tens of milliseconds, so one scrape that failed blinds a row of them."""
HOSTILE = 'd0"} or x{'
"""A model's name that would end the matcher, were it not quoted."""


# ── What Prometheus scrapes ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, kw_only=True)
class ResettingPage:
    """An engine that is restarted every `every_s`: its counters begin at zero again, its traffic goes on."""

    page: VllmPage
    every_s: float

    def __call__(self) -> str:
        """The page as it is now."""
        self.page.born = time.time() - time.time() % self.every_s
        return self.page()


@dataclass(slots=True, kw_only=True)
class HiccupPage:
    """An engine one of whose gauges is no number in one scrape of twenty."""

    page: VllmPage
    scrapes: int = 0

    def __call__(self) -> str:
        """The page as it is now."""
        self.scrapes += 1
        self.page.running = float("nan") if self.scrapes % 20 == 0 else 3.0
        return self.page()


@dataclass(slots=True, kw_only=True)
class PodsPage:
    """One scrape target that exports two pods by name; the second one is deleted when told so."""

    both: bool = True
    pages: dict[str, VllmPage] = field(default_factory=dict)

    def __call__(self) -> str:
        """The pods that live."""
        texts = []
        for pod, served in self.pages.items():
            if self.both or pod.endswith("-0"):
                texts.append(served().replace('{engine="0"', f'{{engine="0",pod="{pod}"'))
        seen: set[str] = set()
        lines = []
        for line in "".join(texts).splitlines():
            if not line.startswith("#"):
                lines.append(line)
            elif line not in seen:
                seen.add(line)
        return "\n".join(lines) + "\n"


def _down() -> None:
    """A page that is a 500."""


def _bare() -> str:
    """An engine whose request counter was renamed: up, and nothing of what is asked for."""
    return 'renamed:requests_total{engine="0",model_name="bare",pod_name="bare-0"} 17\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """The running Prometheus, its exporter, and the pages that a story may change."""

    prometheus: PrometheusServer
    exporter: Exporter
    churn: PodsPage


@contextmanager
def scraped_fleet() -> Iterator[Scraped]:
    """Prometheus over one pod for every kind of traffic, warmed up for one rate window."""
    born = time.time() - 600
    churn = PodsPage(
        pages={
            f"churn-{number}": VllmPage(model_name="churn", rate_rps=USUAL_RPS / 2, waiting=3, born=born)
            for number in range(2)
        }
    )
    pages: dict[str, Any] = {
        "chat-0": VllmPage(model_name="chat", rate_rps=USUAL_RPS, born=born),
        "surge-0": VllmPage(model_name="surge", rate_rps=10 * USUAL_RPS, born=born),
        "idle-0": VllmPage(model_name="idle", born=born),
        "broken-0": VllmPage(model_name="broken", rate_rps=USUAL_RPS, running=float("nan"), born=born),
        "hiccup-0": HiccupPage(page=VllmPage(model_name="hiccup", rate_rps=USUAL_RPS, born=born)),
        "endless-0": VllmPage(model_name="endless", rate_rps=USUAL_RPS, running=float("inf"), born=born),
        "reset-0": ResettingPage(page=VllmPage(model_name="reset", rate_rps=USUAL_RPS), every_s=20.0),
        "dead-0": _down,
        "bare-0": _bare,
        "twin-0": VllmPage(model_name="twin", rate_rps=USUAL_RPS, born=born),
        "hostile-0": VllmPage(model_name=HOSTILE.replace('"', '\\"'), rate_rps=2 * USUAL_RPS, born=born),
    }
    with Exporter({f"/{pod}": page for pod, page in pages.items()} | {"/churn": churn}) as exporter:
        targets = [Target(address=exporter.address, path=f"/{pod}", labels=_labels(pod)) for pod in pages]
        targets.append(Target(address=exporter.address, path="/twin-0", labels=_labels("twin-0"), job="again"))
        targets.append(
            Target(address=exporter.address, path="/churn", labels={"namespace": "llm", "instance": "churn:8000"})
        )
        with PrometheusServer(targets) as server:
            # The age of the first scrapes and not their number: on a busy machine some fail, and that is well.
            wait_for(server, f'count(up{{pod!="dead-0"}} offset {RATE_WINDOW_S}s) == {len(targets) - 1}')
            # And the load that every story begins with is read right: a window with a hole at its end reads low.
            usual = f'rate(vllm:request_success_total{{model_name="chat"}}[{RATE_WINDOW_S}s])'
            wait_for(server, f"{usual} > {0.95 * USUAL_RPS} < {1.05 * USUAL_RPS}")
            yield Scraped(prometheus=server, exporter=exporter, churn=churn)


def _labels(pod: str) -> dict[str, str]:
    return {"namespace": "llm", "pod": pod, "instance": f"{pod}:8000"}


# ── The world, and a daemon's life in it ──────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, kw_only=True)
class FaultWorld:
    """Servers, a settings file that names them, and a clock that the test moves."""

    scraped: Scraped
    proxy: FaultProxy
    cluster: KubeDouble
    folder: Path

    def traffic(self, of: str) -> None:
        """From now on `llm/chat` does what the pod `of` does."""
        self.proxy.instead("chat", of)

    @property
    def now(self) -> datetime:
        """The time of this world."""
        return datetime.now(UTC) + self.proxy.ahead

    def config_file(self, **settings: Any) -> Path:
        """The settings file; `settings` replace what is written there by default."""
        wanted = {
            "prometheus": f'{{url: "{self.proxy.url}"}}',
            "kubeconfig": self.cluster.kubeconfig(self.folder),
            "tick": "1m",
            "mode": "active",
            "port": 0,
            "least": 1,
            "most": 40,
            "name": "chat",
            "start_time": "1m",
            "data": "data",
            **settings,
        }
        path = self.folder / "headstart.yaml"
        path.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {wanted["prometheus"]}
kubernetes: {{kubeconfig: "{wanted["kubeconfig"]}"}}
data_dir: {wanted["data"]}
tick: {wanted["tick"]}
http: {{port: {wanted["port"]}}}
workloads:
  - workload: llm/{wanted["name"]}
    mode: {wanted["mode"]}
    start_time: {wanted["start_time"]}
    profile: {{name: chat, classes: [{{name: default, max_rps: {MAX_RPS:g}}}]}}
    bounds: {{min_replicas: {wanted["least"]}, max_replicas: {wanted["most"]}}}
    latency: {{rate_window: {RATE_WINDOW_S}s}}
""",
            encoding="utf-8",
        )
        return path

    def config(self, **settings: Any) -> Config:
        """The same, read."""
        return read_config(self.config_file(**settings))

    @contextmanager
    def life(self, config: Config | None = None) -> Iterator[Life]:
        """One life of a daemon: its minutes pass when the test says so, its log is kept."""
        config = config or self.config()
        with ExitStack() as stack:
            stream = stack.enter_context(_captured_log())
            store = stack.enter_context(Store.open(config.data_dir, now=self.now))
            yield Life(world=self, daemon=Daemon(config, store), store=store, stream=stream)


@dataclass(slots=True, kw_only=True)
class Life:
    """A daemon without a scheduler: every round is the test's."""

    world: FaultWorld
    daemon: Daemon
    store: Store
    stream: io.StringIO

    def round(self) -> TickReport:
        """One round at this very moment."""
        return self.daemon.round.run(now=self.world.now)

    def minute(self, count: int = 1) -> TickReport:
        """`count` minutes, each ending with a round."""
        for _ in range(count):
            self.world.proxy.ahead += timedelta(minutes=1)
            self.world.cluster.advance(60)
            report = self.round()
        return report

    def seeing_minute(self) -> TickReport:
        """The next minute in which demand and replicas are known: on a busy machine a read may not be done in time."""
        for _ in range(60):
            report = self.minute()
            if self.sees:
                return report
            time.sleep(NEXT_SCRAPE_S)
        raise AssertionError(f"blind for an hour: {self.snapshot}")

    def minutes(self, count: int) -> list[Decision]:
        """The decisions of the next `count` minutes."""
        return [self.minute().records[0].decision for _ in range(count)]

    def minutes_until(self, found: Callable[[], object], *, at_most: int = 60) -> list[Decision]:
        """The decisions of the minutes until `found()` is true; none if it is.

        What takes five minutes takes longer where a scrape fails: a blind minute begins the look-back anew.
        """
        decisions: list[Decision] = []
        while not found():
            assert len(decisions) < at_most, f"not within {at_most} minutes: {self.status}, {self.snapshot}"
            decisions += self.minutes(1)
            if not self.sees:
                time.sleep(NEXT_SCRAPE_S)
        return decisions

    def releases(self) -> bool:
        """Whether the last decision gives replicas back."""
        return self.decision.action is Action.IN

    def settled(self, *, at: int = USUAL_REPLICAS) -> Life:
        """After a look-back of ordinary traffic, at `at` replicas that are Ready."""
        self.world.cluster.set_replicas("llm", "chat", at)
        self.minute(LOOK_BACK_MINUTES + 2)
        # One scrape that came late is one more replica for some minutes, and the story begins when it is gone.
        self.minutes_until(lambda: self.state not in (State.HOLD, State.REWARM) and self.replicas == at)
        return self

    @property
    def replicas(self) -> int:
        """What the cluster has written down."""
        return self.world.cluster.replicas("llm", "chat")

    @property
    def status(self) -> Status:
        """What is shown of the workload."""
        view = self.daemon.board.view()
        assert view is not None
        return view.statuses[WORKLOAD]

    @property
    def state(self) -> State:
        """Its state."""
        return self.status.state

    @property
    def snapshot(self) -> Snapshot:
        """What the last decision read."""
        view = self.daemon.board.view()
        assert view is not None
        return view.report.records[0].snapshot

    @property
    def decision(self) -> Decision:
        """The last decision."""
        view = self.daemon.board.view()
        assert view is not None
        return view.report.records[0].decision

    @property
    def sees(self) -> bool:
        """Whether the last decision knew demand and replicas."""
        snapshot = self.snapshot
        return not any(isinstance(each, Blind) for each in (snapshot.replicas, snapshot.classes[0].demand_rps))

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line that was logged."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.log if line["event"] == name]

    @property
    def metrics(self) -> str:
        """The metrics page."""
        return generate_latest(self.daemon.telemetry.registry).decode()

    def metric(self, series: str) -> float:
        """One series' value, by everything before it on its line."""
        return next(float(line.rpartition(" ")[2]) for line in self.metrics.splitlines() if line.startswith(series))


@contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers, root.level
    logs.configure(stream=stream)
    try:
        yield stream
    finally:
        root.handlers, level = before
        root.setLevel(level)
        structlog.reset_defaults()
