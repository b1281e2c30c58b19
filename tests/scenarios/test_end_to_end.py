"""The whole product against real servers, on real traffic, in real time.

A real Prometheus holds eight days of a production trace (crane_input2: sharp recurring peaks), moved in time so that
a peak begins in the next minutes, and scrapes a vLLM-shaped page that goes on with the trace. The daemon is a child
process; the cluster is the API double. The story:

1. before the peak the daemon has ordered replicas, at least one start time ahead, while the load still fitted what
   was there, so that a load rule alone (even one that fills replicas only to 70 %) would not have ordered any;
2. the journal tells why, through the command line;
3. SIGTERM ends it within ten seconds, and a restart at the peak never dips;
4. when Prometheus dies, the scale stays, the state says so;
5. a second daemon beside it, which only observes, wants the same and sends not one mutating request.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon_cases import await_scrapes
from kube_double import KubeDouble
from servers import Exporter, PrometheusServer, Target, free_port, prometheus_is_installed

TRACE = Path(__file__).resolve().parents[2].parent / "shared" / "traces" / "crane_input2.csv.gz"

PEAK_DAY, PEAK_MINUTE = 15, 57
"""Minute 0:57 of the trace's last day: load is at its lowest; from 0:59 on it grows by half its mean each minute."""

HISTORY = timedelta(days=8)
REQUESTS_PER_COUNT = 0.1
"""The trace's counts become 2 to 53 requests per second."""
MAX_RPS = 7.5
START_TIME_S = 60
TICK_S = 5
SCRAPE_S = 15
GRACE_S = 30.0
"""What a pod has from SIGTERM to SIGKILL, by the chart."""
"""Spacing of the samples in the back-filled history."""

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(420)]


# ── The traffic ───────────────────────────────────────────────────────────────────────────────────────────────


class Traffic:
    """The trace on today's clock: minute `PEAK_MINUTE` of its last day begins at `peak_at`."""

    def __init__(self, peak_at: datetime) -> None:
        with gzip.open(TRACE, "rt", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.rates = [float(row["requests"]) * REQUESTS_PER_COUNT for row in rows]
        self.starts_at = peak_at - timedelta(days=PEAK_DAY, minutes=PEAK_MINUTE)
        self.totals = [0.0]
        for rate in self.rates:
            self.totals.append(self.totals[-1] + 60.0 * rate)

    def rate(self, at: datetime) -> float:
        """Requests per second at `at`."""
        return self.rates[self._minutes(at)]

    def total(self, at: datetime) -> float:
        """Requests since the trace began."""
        minute = self._minutes(at)
        into = (at - self.starts_at).total_seconds() - 60.0 * minute
        return self.totals[minute] + into * self.rates[minute]

    def first_above(self, rps: float, *, after: datetime) -> datetime:
        """When the rate first exceeds `rps` after `after`."""
        minute = next(m for m in range(self._minutes(after), len(self.rates)) if self.rates[m] > rps)
        return self.starts_at + timedelta(minutes=minute)

    def _minutes(self, at: datetime) -> int:
        return (at - self.starts_at) // timedelta(minutes=1)

    def page(self) -> str:
        """What a vLLM shows now."""
        now = datetime.now(UTC)
        served = math.floor(self.total(now))
        edges = ("0.3", "0.5", "0.8", "1.0", "1.5", "2.0", "2.5", "5.0", "10.0", "+Inf")
        latency = [
            f'vllm:e2e_request_latency_seconds_bucket{{{_LABELS},le="{edge}"}} {served if edge != "0.3" else 0}'
            for edge in edges
        ]
        return "\n".join(
            [*_samples(served), *latency, f"vllm:e2e_request_latency_seconds_count{{{_LABELS}}} {served}", ""]
        )

    def history(self, until: datetime) -> str:
        """The same metrics as Prometheus would have scraped them until now, in the OpenMetrics format."""
        target = ",".join(f'{name}="{value}"' for name, value in _TARGET_LABELS.items())
        labels = f'{_LABELS},{target},job="vllm"'
        first = math.ceil((until - HISTORY).timestamp() / SCRAPE_S) * SCRAPE_S
        moments = range(first, int(until.timestamp()), SCRAPE_S)
        lines = ["# TYPE vllm:request_success counter"]
        for moment in moments:
            total = math.floor(self.total(datetime.fromtimestamp(moment, UTC)))
            lines.append(f'vllm:request_success_total{{{labels},finished_reason="stop"}} {total} {moment}')
        for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            lines.append(f"# TYPE {gauge} gauge")
            lines += [f"{gauge}{{{labels}}} 0 {moment}" for moment in moments]
        return "\n".join(lines) + "\n# EOF\n"


_LABELS = 'engine="0",model_name="chat"'
_TARGET_LABELS = {"namespace": "llm", "pod": "chat-0", "instance": "chat-0"}


def _samples(served: int) -> list[str]:
    return [
        f"vllm:num_requests_running{{{_LABELS}}} 0",
        f"vllm:num_requests_waiting{{{_LABELS}}} 0",
        f'vllm:request_success_total{{{_LABELS},finished_reason="stop"}} {served}',
    ]


# ── The daemon as its users start it ──────────────────────────────────────────────────────────────────────────


class DaemonProcess:
    """`headstart run` as a child process."""

    def __init__(self, config: Path, *, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scaler.cli", "run", "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def get(self, path: str) -> Any:
        """A JSON document of the API."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return json.load(answer)

    def metrics(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of the log with this name; one that is still being written is none."""
        whole = (line for line in self._log.read_text().splitlines() if line.startswith("{") and line.endswith("}"))
        return [line for line in map(json.loads, whole) if line["event"] == name]

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit status and the seconds until it was there."""
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=30), time.monotonic() - begun
        finally:
            self._process.kill()

    def kill(self) -> None:
        """End it for certain."""
        self._process.kill()
        self._process.wait(timeout=60)

    @property
    def log(self) -> str:
        """All that it said."""
        return self._log.read_text()


def write_config(folder: Path, *, prometheus: str, cluster: KubeDouble, port: int, mode: str) -> Path:
    """A settings file as a user would write it, with a short tick and a short rate window."""
    path, access = folder / f"{mode}.yaml", folder / mode
    access.mkdir()
    kubeconfig = cluster.kubeconfig(access)
    path.write_text(
        f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{prometheus}"}}
kubernetes: {{kubeconfig: "{kubeconfig}"}}
data_dir: {mode}-data
tick: {TICK_S}s
http: {{port: {port}}}
forecast: {{models: [last-value, seasonal-naive, holt-winters]}}
workloads:
  - workload: llm/chat
    mode: {mode}
    start_time: {START_TIME_S}s
    profile: {{name: chat, classes: [{{name: default, max_rps: {MAX_RPS}}}]}}
    bounds: {{min_replicas: 1, max_replicas: 12}}
    selector: {{labels: {{model_name: chat}}}}
    latency: {{rate_window: 30s, slos: [{{e2e_p95_s: 1.2}}]}}
""",
        encoding="utf-8",
    )
    return path


def until(found: Callable[[], Any], *, within_s: float, what: str, daemon: DaemonProcess) -> Any:
    """Wait until `found()` is true, at most `within_s`; says what the daemon said if it never is."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        try:
            value = found()
        except OSError:
            value = None
        if value:
            return value
        time.sleep(0.25)
    pytest.fail(f"not within {within_s:g} s: {what}\n{daemon.log[-4000:]}")


@contextmanager
def world() -> Iterator[tuple[Traffic, PrometheusServer, dict[str, KubeDouble]]]:
    """Traffic at its lowest with a peak two minutes ahead, Prometheus with eight days of it, and for each mode a
    cluster with two pods."""
    peak_at = (datetime.now(UTC) + timedelta(seconds=35)).replace(second=0, microsecond=0)
    traffic = Traffic(peak_at)
    with ExitStack() as stack:
        exporter = stack.enter_context(Exporter({"/metrics": traffic.page}))
        clusters = {mode: stack.enter_context(a_cluster()) for mode in ("active", "observe")}
        target = Target(address=exporter.address, path="/metrics", labels=_TARGET_LABELS)
        server = PrometheusServer([target], scrape_interval="1s")
        server.back_fill(traffic.history(datetime.now(UTC)))
        stack.enter_context(server)
        await_scrapes(server.url, model_name="chat")
        yield traffic, server, clusters


@contextmanager
def a_cluster() -> Iterator[KubeDouble]:
    """Two pods that are Ready, and room for more that start in `START_TIME_S`."""
    with KubeDouble(gpus=16, real_time=True) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=2)
        cluster.advance(2)
        assert all(_is_ready(pod) for pod in cluster.pods("llm", "chat"))
        cluster.behave("llm", "chat", start_time_s=START_TIME_S)
        yield cluster


def scales(cluster: KubeDouble) -> list[int]:
    """Every value that was written to the scale, in order."""
    return [
        int(request.body["spec"]["replicas"])
        for request in cluster.requests
        if request.method == "PATCH" and request.path.endswith("/scale") and request.status == 200
    ]


# ── The story ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not TRACE.is_file(), reason=f"needs the real trace {TRACE.name} in shared/traces")
@pytest.mark.skipif(not prometheus_is_installed(), reason="needs prometheus and promtool on the PATH")
def test_replicas_are_ready_before_a_recurring_peak_and_nothing_shakes_them(tmp_path: Path) -> None:
    with world() as (traffic, prometheus, clusters), ExitStack() as stack:

        def start(mode: str) -> DaemonProcess:
            daemon = DaemonProcess(configs[mode], port=ports[mode], log=tmp_path / f"{mode}.log")
            stack.callback(daemon.kill)
            return daemon

        ports = {mode: free_port() for mode in clusters}
        configs = {
            mode: write_config(tmp_path, prometheus=prometheus.url, cluster=cluster, port=ports[mode], mode=mode)
            for mode, cluster in clusters.items()
        }
        daemon, observer, cluster = start("active"), start("observe"), clusters["active"]
        _orders_ahead_of_the_peak(traffic, cluster, daemon)
        _explains_itself(tmp_path / "active-data", daemon)
        daemon = _survives_a_restart_at_the_peak(traffic, cluster, daemon, lambda: start("active"))
        _only_observed(clusters["observe"], observer)
        _holds_while_blind(prometheus, cluster, daemon)
        for invariant in ("I1", "I2", "I8"):
            assert f'headstart_invariant_violations_total{{invariant="{invariant}"}} 0.0' in daemon.metrics()


def _orders_ahead_of_the_peak(traffic: Traffic, cluster: KubeDouble, daemon: DaemonProcess) -> None:
    until(lambda: scales(cluster), within_s=90, what="an order ahead of the peak", daemon=daemon)
    ordered_at, before = datetime.now(UTC), 2
    assert scales(cluster)[0] > before
    # What a load rule alone would have done: at its margin of 70 % the load of now still fits what was there.
    load_now = traffic.rate(ordered_at) / MAX_RPS
    assert math.ceil(load_now / 0.7) <= before, f"the load rule alone would have ordered too, at {load_now:.2f}"
    # And the order came early enough: what is ordered is Ready when the old scale stops being enough.
    too_much_at = traffic.first_above(before * MAX_RPS, after=ordered_at)
    assert too_much_at - ordered_at >= timedelta(seconds=START_TIME_S)
    assert too_much_at - ordered_at <= timedelta(minutes=5), "so early that it proves nothing"


def _explains_itself(data_dir: Path, daemon: DaemonProcess) -> None:
    """The first change of scale, read back from the data folder while the daemon runs."""
    # The order reaches the cluster before the daemon has written down what became of it.
    scaled = until(lambda: daemon.events("scaled"), within_s=60, what="word of the order", daemon=daemon)[0]
    at = datetime.fromisoformat(scaled["timestamp"]).astimezone(UTC)
    command = [sys.executable, "-m", "scaler.cli", "explain", "llm/chat", "--data-dir", str(data_dir)]
    told = subprocess.run(
        [*command, "--at", at.isoformat(), "-o", "json"], capture_output=True, text=True, timeout=60, check=True
    )
    record = json.loads(told.stdout)
    by_rule = {each["rule"]: each for each in record["decision"]["proposals"]}
    assert record["decision"]["reason"] == "forecast"
    assert by_rule["predictive"]["want"] >= record["decision"]["target"] > record["decision"]["current"] == 2
    assert by_rule["load"]["want"] <= 2
    assert record["outcome"]["kind"] == "scaled"
    table = subprocess.run([*command, "--at", at.isoformat()], capture_output=True, text=True, timeout=60, check=True)
    assert "forecast" in table.stdout
    assert "predictive" in table.stdout


def _survives_a_restart_at_the_peak(
    traffic: Traffic, cluster: KubeDouble, daemon: DaemonProcess, start: Callable[[], DaemonProcess]
) -> DaemonProcess:
    too_much_at = traffic.first_above(2 * MAX_RPS, after=datetime.now(UTC))
    wait_s = (too_much_at + timedelta(seconds=5) - datetime.now(UTC)).total_seconds()
    until(lambda: datetime.now(UTC) > too_much_at, within_s=30.0 + max(0.0, wait_s), what="the peak", daemon=daemon)
    ready = sum(_is_ready(pod) for pod in cluster.pods("llm", "chat"))
    assert ready * MAX_RPS >= traffic.rate(datetime.now(UTC)), "the pods are Ready when the peak is there"
    status, took_s = daemon.stop()
    assert status == 0
    assert took_s < GRACE_S
    held = cluster.replicas("llm", "chat")
    again = start()
    until(lambda: again.get("/readyz"), within_s=60, what="the first tick after the restart", daemon=again)
    row = until(lambda: again.get("/api/v1/workloads")["items"], within_s=60, what="a decision", daemon=again)[0]
    assert row["replicas"]["desired"] >= held
    time.sleep(3 * TICK_S)
    assert scales(cluster) == sorted(scales(cluster)), "the scale never went down on the way up"
    return again


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _only_observed(cluster: KubeDouble, observer: DaemonProcess) -> None:
    """The daemon beside it saw the same peak, wanted the same, and sent not one request that changes anything."""
    until(lambda: observer.events("would_scale"), within_s=60, what="word of what it would do", daemon=observer)

    def wish() -> dict[str, Any] | None:
        row: dict[str, Any] = observer.get("/api/v1/workloads")["items"][0]
        return row if row["replicas"]["desired"] > row["replicas"]["current"] == 2 else None

    row = until(wish, within_s=60, what="a wish for more", daemon=observer)
    assert row["mode"] == "observe"
    assert cluster.requests
    assert cluster.mutating_requests == 0
    status, _ = observer.stop()
    assert status == 0
    assert cluster.mutating_requests == 0


def _holds_while_blind(prometheus: PrometheusServer, cluster: KubeDouble, daemon: DaemonProcess) -> None:
    held = cluster.replicas("llm", "chat")
    prometheus.kill()
    row = until(
        lambda: next((row for row in daemon.get("/api/v1/workloads")["items"] if row["state"] == "HOLD"), None),
        within_s=90,
        what="the state HOLD",
        daemon=daemon,
    )
    assert row["replicas"]["desired"] >= held
    blind = re.compile(r'headstart_blind\{namespace="llm",reason="\w+",signal="demand_rps",workload="chat"\} 1\.0')
    until(lambda: blind.search(daemon.metrics()), within_s=60, what="the metric of being blind", daemon=daemon)
    time.sleep(2 * TICK_S)
    assert cluster.replicas("llm", "chat") >= held
    told = until(lambda: daemon.events("blind"), within_s=60, what="word of being blind", daemon=daemon)
    assert "BLIND  llm/chat" in told[0]["block"]
