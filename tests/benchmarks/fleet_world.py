"""The surroundings of a large fleet: engines' metrics, a real Prometheus and a cluster, each a process of its own.

    python -m benchmarks.fleet_world engines '{"workloads": 2000}'     what the two child processes are started with
    python -m benchmarks.fleet_world cluster '{"workloads": 2000}'

What they cost must not count as the daemon's, so nothing of them runs in the process that measures. Every workload has
a gateway's counter of arrivals and engines' pages; arrivals follow a day and a shorter wave, as a formula, so that the
counters, the stored past and any later moment agree. Holds no test.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.history import HistoryStore
from forecaster.types import STEP, Panel, SeriesKey, floor_to_step
from kube_double import KubeDouble
from servers import REQUEST_EDGES, TOKEN_EDGES, TTFT_EDGES, Exporter, PrometheusServer, Target

REPO = Path(__file__).resolve().parents[2]

DAY_S = 86_400.0
WAVE_S = 1_800.0
CLASS = "chat"
MAX_RPS = 2.0
"""What one replica serves."""
SCRAPE_INTERVAL = "15s"
CONTROLLERS_EVERY_S = 5.0
"""How often the double's controllers act; at every request they would cost more than the API."""
STARTS_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSize:
    """How large a fleet to play, and how its workloads are found."""

    workloads: int = 2000
    namespaces: int = 20
    engines: int = 1
    """Engines' pages a workload, some 110 series each."""
    by_labels: bool = True
    """Whether settings name the model of each workload; else its series are found by the shape of its pods' names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every workload as "namespace/name"."""
        return tuple(f"team-{i % self.namespaces:02d}/model-{i:05d}" for i in range(self.workloads))


def mean_rps(number: int) -> float:
    """Mean arrivals of a workload: between half a replica and nine, most of them small."""
    return MAX_RPS * (0.5 + 8.5 * ((number * 37 % 101) / 101.0) ** 2)


def arrivals(number: int, at_s: float) -> float:
    """Requests of a workload since the epoch: its mean, a day of ±60 % and a wave of ±15 %, each in its own phase."""
    phase = 2.0 * math.pi * (number % 97) / 97.0
    total = at_s
    for swing, period_s in ((0.6, DAY_S), (0.15, WAVE_S)):
        angle = 2.0 * math.pi * at_s / period_s + phase
        total -= swing * period_s / (2.0 * math.pi) * math.cos(angle)
    return mean_rps(number) * total


# ── What engines and the gateway export ───────────────────────────────────────────────────────────────────────────


def _template(model: str, pod: str) -> list[tuple[str, float]]:
    """The lines of one engine's page, each with its value a request served; a fast engine, whose requests fit in low
    buckets."""
    labels = f'model_name="{model}",engine="0",pod="{pod}"'
    lines = [
        (f'vllm:request_success_total{{{labels},finished_reason="stop"}} ', 1.0),
        (f"vllm:prompt_tokens_total{{{labels}}} ", 600.0),
        (f"vllm:generation_tokens_total{{{labels}}} ", 150.0),
        (f"vllm:num_preemptions_total{{{labels}}} ", 0.0),
        (f"vllm:prefix_cache_queries_total{{{labels}}} ", 600.0),
        (f"vllm:prefix_cache_hits_total{{{labels}}} ", 200.0),
    ]
    histograms: tuple[tuple[str, Sequence[float], float, float], ...] = (
        ("vllm:time_to_first_token_seconds", TTFT_EDGES, 0.09, 1.0),
        ("vllm:e2e_request_latency_seconds", REQUEST_EDGES, 1.4, 1.0),
        ("vllm:request_queue_time_seconds", REQUEST_EDGES, 0.2, 1.0),
        ("vllm:inter_token_latency_seconds", TOKEN_EDGES, 0.03, 149.0),
        ("vllm:request_time_per_output_token_seconds", TOKEN_EDGES, 0.03, 1.0),
    )
    for name, edges, value, events in histograms:
        lines += [(f'{name}_bucket{{{labels},le="{edge}"}} ', events if value <= edge else 0.0) for edge in edges]
        lines.append((f'{name}_bucket{{{labels},le="+Inf"}} ', events))
        lines += [(f"{name}_count{{{labels}}} ", events), (f"{name}_sum{{{labels}}} ", events * value)]
    return lines


class _NamespacePage:
    """All of a namespace's series on one page: a target of its own, whose `namespace` label comes from discovery."""

    def __init__(self, members: Sequence[tuple[int, str]], engines: int) -> None:
        self._members = [
            (number, model, [_template(model, f"{model}-6b5c4d7f8-{e:05d}") for e in range(engines)])
            for number, model in members
        ]
        # A counter since the epoch loses the sub-request digits that a rate is made of.
        self._born_s = time.time() - 3600.0

    def __call__(self) -> str:
        parts: list[str] = []
        for number, model, engines in self._members:
            served = arrivals(number, time.time()) - arrivals(number, self._born_s)
            parts.append(f'headstart_gateway_requests_total{{model="{model}",request_class="{CLASS}"}} {served:.1f}')
            each = served / len(engines)
            for pod, template in enumerate(engines):
                labels = f'model_name="{model}",engine="0",pod="{model}-6b5c4d7f8-{pod:05d}"'
                parts.append(f"vllm:num_requests_running{{{labels}}} {number % 7 + 1}")
                parts.append(f"vllm:num_requests_waiting{{{labels}}} 0")
                parts.append(f"vllm:kv_cache_usage_perc{{{labels}}} 0.4")
                parts += [f"{line}{each * factor:.1f}" for line, factor in template]
        return "\n".join(parts) + "\n"


def _serve_engines(size: FleetSize) -> None:
    members: dict[str, list[tuple[int, str]]] = {}
    for number, name in enumerate(size.names):
        namespace, _, model = name.partition("/")
        members.setdefault(namespace, []).append((number, model))
    pages = {f"/{namespace}": _NamespacePage(each, size.engines) for namespace, each in members.items()}
    with Exporter(pages) as exporter:
        _ready(exporter.address)


# ── The cluster ───────────────────────────────────────────────────────────────────────────────────────────────────


def _serve_cluster(size: FleetSize, folder: Path, *, explicit_clock: bool) -> None:
    """The double, on real time; or on its own clock, which moves by the seconds that the parent writes."""
    with KubeDouble(start_time_s=60.0, real_time=not explicit_clock) as cluster:
        cluster.pause_controllers()
        for number in range(size.namespaces):
            cluster.namespace(f"team-{number:02d}")
        now_s = cluster.now.timestamp()
        for number, name in enumerate(size.names):
            namespace, _, model = name.partition("/")
            rate_rps = float(rates_between(number, np.array([now_s - 60.0, now_s]))[0])
            cluster.deployment(namespace, model, replicas=max(1, math.ceil(rate_rps / MAX_RPS)))
        ending = threading.Event()
        if not explicit_clock:
            threading.Thread(target=_control, args=(cluster, ending), daemon=True).start()
            _ready(str(cluster.kubeconfig(folder)))
            ending.set()
            return
        sys.stdout.write(f"{cluster.kubeconfig(folder)}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            with cluster.store.changed:
                cluster.pause_controllers(False)
                cluster.advance(float(line), step_s=30.0)
                cluster.pause_controllers()
                _forget(cluster)
            sys.stdout.write("moved\n")
            sys.stdout.flush()


def _forget(cluster: KubeDouble) -> None:
    """Nothing here is watched or asserted upon; logs of a week would be what grows."""
    cluster.compact()
    cluster.requests.clear()
    for event in list(cluster.store.items("events")):
        cluster.store.remove("events", event)
    cluster.compact()


def _control(cluster: KubeDouble, ending: threading.Event) -> None:
    """Act as controllers do, beside the API and not within its requests."""
    wait_s = 0.0
    while not ending.wait(wait_s):
        with cluster.store.changed:
            cluster.pause_controllers(False)
            cluster.store.controllers.reconcile(cluster.now)
            cluster.pause_controllers()
            _forget(cluster)
        wait_s = CONTROLLERS_EVERY_S


def _ready(what: str) -> None:
    """Tell the parent, and go on until it closes our input."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()
    sys.stdin.read()


# ── Seen from the process that measures ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Where things are."""

    size: FleetSize
    prometheus: PrometheusServer
    prometheus_pid: int
    cluster_pid: int
    kubeconfig: Path
    folder: Path
    advance: Callable[[float], None] = lambda _: None
    """Move the cluster's explicit clock by seconds."""

    def settings(self, *, port: int, tick: str) -> Path:
        """A settings file for the whole fleet."""
        path = self.folder / "headstart.yaml"
        path.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{self.prometheus.url}"}}
kubernetes: {{kubeconfig: "{self.kubeconfig}"}}
data_dir: data
tick: {tick}
http: {{port: {port}}}
defaults:
  mode: active
  start_time: 2m
  profile: {{name: small, classes: [{{name: {CLASS}, max_rps: {MAX_RPS}}}]}}
  bounds: {{min_replicas: 1, max_replicas: 40}}
  latency: {{slos: [{{e2e_p95_s: 10.0}}]}}
workloads:
{self._entries()}
""",
            encoding="utf-8",
        )
        return path

    def _entries(self) -> str:
        def selector(name: str) -> str:
            return f", selector: {{labels: {{model_name: {name.partition('/')[2]}}}}}" if self.size.by_labels else ""

        return "\n".join(f"  - {{workload: {name}{selector(name)}}}" for name in self.size.names)


class _Child:
    """A child process that tells one line when it is ready, and ends when its input is closed."""

    def __init__(self, what: str, size: FleetSize, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.fleet_world", what, json.dumps(asdict(size)), str(folder)]
        paths = os.pathsep.join([str(REPO), str(REPO / "tests")])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        self.pid = self._process.pid
        self.told = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"process {self.pid} ended: {' '.join(map(str, self._process.args))}")
        return line

    def move(self, seconds: float) -> None:
        """Move its clock, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        self._line()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def running_world(size: FleetSize, folder: Path, *, explicit_clock: bool = False) -> Iterator[World]:
    """Everything around the daemon; Prometheus has scraped every target at least twice.

    With `explicit_clock` the cluster's clock begins at the double's epoch and stands still but for `World.advance`.
    """
    how = "wound-cluster" if explicit_clock else "cluster"
    with _Child("engines", size, folder) as engines, _Child(how, size, folder) as cluster:
        namespaces = sorted({name.partition("/")[0] for name in size.names})
        targets = [
            Target(address=engines.told, path=f"/{each}", labels={"namespace": each, "instance": f"{each}:8000"})
            for each in namespaces
        ]
        with PrometheusServer(targets, scrape_interval=SCRAPE_INTERVAL) as prometheus:
            assert prometheus.pid is not None
            _await_scrapes(prometheus, len(namespaces))
            yield World(
                size=size,
                prometheus=prometheus,
                prometheus_pid=prometheus.pid,
                cluster_pid=cluster.pid,
                kubeconfig=Path(cluster.told),
                folder=folder,
                advance=cluster.move,
            )


def _await_scrapes(prometheus: PrometheusServer, targets: int) -> None:
    """Until a rate can be made of every target's counters."""
    wire, ends = Wire(Connection(url=prometheus.url)), time.monotonic() + STARTS_WITHIN_S
    asked = f"count(count_over_time(up[1m]) >= 2) >= {targets}"
    while time.monotonic() < ends:
        answer = wire.ask([Question(text=asked)], deadline_s=5.0)[0]
        if isinstance(answer, Answer) and answer.rows:
            return
        time.sleep(1.0)
    raise TimeoutError(f"not every target was scraped twice within {STARTS_WITHIN_S:g} s")


def store_past(folder: Path, size: FleetSize, *, days: int, now: datetime, seed: int = 1) -> None:
    """A data folder as it is after `days` of this fleet: demand and, where they are told, tokens of every minute."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, last = np.random.default_rng(seed), floor_to_step(now)
    with HistoryStore.open(folder / "headstart.db", now=now) as store:
        for back in range(days, 0, -1):
            start = last - timedelta(days=back)
            edges_s = start.timestamp() + 60.0 * np.arange(1441)
            values = np.array([rates_between(number, edges_s) for number in range(size.workloads)])
            values = np.maximum(0.0, values + np.sqrt(values / 60.0) * draw.standard_normal(values.shape))
            for signal, each in (("demand_rps", 1.0), ("prompt_tokens_per_s", 600.0), ("output_tokens_per_s", 150.0)):
                keys = tuple(SeriesKey(workload=name, signal=signal, request_class=CLASS) for name in size.names)
                store.append(Panel(keys=keys, start=start, step=STEP, values=values * each), now=now)
            while store.compact(now=now):
                pass


def rates_between(number: int, edges_s: np.ndarray) -> np.ndarray:
    """Mean arrivals of a workload between each two of these moments, requests a second."""
    phase = 2.0 * math.pi * (number % 97) / 97.0
    middle = (edges_s[:-1] + edges_s[1:]) / 2.0
    waves = sum(s * np.sin(2.0 * math.pi * middle / p + phase) for s, p in ((0.6, DAY_S), (0.15, WAVE_S)))
    rates: np.ndarray = mean_rps(number) * (1.0 + waves)
    return rates


if __name__ == "__main__":
    asked = FleetSize(**json.loads(sys.argv[2]))
    if sys.argv[1] == "engines":
        _serve_engines(asked)
    else:
        _serve_cluster(asked, Path(sys.argv[3]), explicit_clock=sys.argv[1] == "wound-cluster")
