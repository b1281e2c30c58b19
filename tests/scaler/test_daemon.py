"""The daemon as a process, against a real Prometheus and a strict double of the Kubernetes API.

How it starts, what it loads, how it behaves when its surroundings fail, and how it ends.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from daemon_cases import await_scrapes
from daemon_process import DaemonProcess, until
from forecaster.types import Blind
from kube_double import KubeDouble
from scaler.adapters.board import View
from scaler.adapters.demand import KNOWN_BLOB, known_from_bytes
from scaler.adapters.journal import SqliteJournal
from scaler.adapters.store import FILE_NAME, Store, read_blob
from scaler.config import Config, read_config
from scaler.daemon import Daemon, tick_once, train_command
from scaler.daemon.upkeep import EDGES_EVERY
from scaler.loop import TickReport
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.types import Mode
from scaler.ports import OutcomeKind
from servers import (
    Exporter,
    MisbehavingServer,
    PrometheusServer,
    RawConversation,
    Target,
    VllmPage,
    free_port,
    prometheus_is_installed,
)

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="needs prometheus and promtool on the PATH"),
]

HEAVY = ("pandas", "scipy", "statsmodels", "lightgbm", "pyarrow", "torch", "matplotlib")
"""With them the daemon is 223 MB, without 71."""

GRACE_S = 30.0
"""What a pod has from SIGTERM to SIGKILL, by the chart; the daemon's own limits add up to some 7 s."""


@dataclass(frozen=True)
class World:
    """Servers, and a settings file that names them."""

    cluster: KubeDouble
    prometheus: PrometheusServer
    page: VllmPage
    folder: Path
    port: int

    def config_file(self, **settings: Any) -> Path:
        """The settings file; `settings` replace what is written there by default."""
        path, wanted = (
            self.folder / "headstart.yaml",
            {"mode": "active", "tick": "1s", "port": self.port, "deadline_s": 8, **settings},
        )
        path.write_text(
            f"""apiVersion: headstart/v1
kind: Config
prometheus: {{url: "{wanted.get("prometheus", self.prometheus.url)}", deadline_s: {wanted["deadline_s"]}}}
kubernetes: {{kubeconfig: "{self.cluster.kubeconfig(self.folder)}"}}
data_dir: data
tick: {wanted["tick"]}
http: {{port: {wanted["port"]}}}
workloads:
  - workload: llm/chat
    mode: {wanted["mode"]}
    start_time: 1m
    profile: {{name: chat, classes: [{{name: default, max_rps: 2}}]}}
    bounds: {{min_replicas: 1, max_replicas: 8}}
    selector: {{labels: {{model_name: chat}}}}
    latency: {{rate_window: 15s, slos: [{{e2e_p95_s: 1.7}}]}}
""",
            encoding="utf-8",
        )
        return path

    def config(self, **settings: Any) -> Config:
        return read_config(self.config_file(**settings))


@pytest.fixture(scope="module")
def page() -> VllmPage:
    return VllmPage(model_name="chat", rate_rps=5.2, born=time.time() - 600)


@pytest.fixture(scope="module")
def prometheus(page: VllmPage) -> Iterator[PrometheusServer]:
    with Exporter({"/metrics": page}) as exporter:
        labels = {"namespace": "llm", "pod": "chat-0"}
        target = Target(address=exporter.address, path="/metrics", labels=labels)
        with PrometheusServer([target]) as server:
            await_scrapes(server.url, model_name="chat", window_s=15, least_rps=4.9)
            yield server


@pytest.fixture
def world(prometheus: PrometheusServer, page: VllmPage, tmp_path: Path) -> Iterator[World]:
    with KubeDouble(gpus=16, real_time=True) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.advance(2)
        yield World(cluster=cluster, prometheus=prometheus, page=page, folder=tmp_path, port=free_port())


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., DaemonProcess]]:
    started: list[DaemonProcess] = []

    def run(**settings: Any) -> DaemonProcess:
        log = world.folder / f"life-{len(started)}.log"
        started.append(DaemonProcess(world.config_file(**settings), world.port, log=log))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def stopped(process: DaemonProcess, how: signal.Signals = signal.SIGTERM) -> tuple[int, float, list[dict[str, Any]]]:
    """Exit status, seconds until it was there, and the log."""
    status, took_s = process.stop(how)
    assert process.data == "", "data goes to stdout, and a daemon has none"
    return status, took_s, process.lines


# ── What it does ──────────────────────────────────────────────────────────────────────────────────────────────


def test_it_scales_says_why_and_ends_when_asked(world: World, start: Callable[..., DaemonProcess]) -> None:
    process = start()
    until(lambda: world.cluster.replicas("llm", "chat") >= 3)  # 5.2 rps over 2 a replica
    # The write goes out within the tick, the page changes when the tick is done.
    until(lambda: process.get("/api/v1/workloads/llm/chat/explain")[0] == 200)
    assert process.get("/api/v1/workloads/llm/chat/explain")[1]["kind"] == "Decision"
    until(lambda: [r for r in world.cluster.requests if r.method == "POST" and r.path.endswith("/events")])
    assert 'headstart_replicas_current{namespace="llm",workload="chat"}' in process.get("/metrics")[1]
    code, took_s, log = stopped(process)
    assert code == 0
    assert took_s < GRACE_S
    events = [line["event"] for line in log]
    assert events[0] == "started"
    assert events[-1] == "stopped"
    (scaled,) = [line for line in log if line["event"] == "scaled"][:1]
    assert (scaled["workload"], scaled["reason"]) == ("llm/chat", "load")
    with SqliteJournal.open(world.folder / "data" / FILE_NAME, now=datetime.now(UTC), read_only=True) as journal:
        outcomes = [entry.outcome.kind for entry in journal.records("llm/chat") if entry.outcome is not None]
    assert OutcomeKind.SCALED in outcomes


def test_a_steady_workload_is_not_logged_at_every_tick(world: World, start: Callable[..., DaemonProcess]) -> None:
    world.cluster.set_replicas("llm", "chat", 5)
    process = start()
    until(lambda: process.ticks >= 8)
    _, _, log = stopped(process)
    about_it = [
        line["event"] for line in log if line.get("workload") == "llm/chat" and line["event"] != "slo_at_bucket_edge"
    ]
    # A scrape that failed is told when it is missed and when it is over: two lines, whatever the number of ticks.
    assert set(about_it) <= {"state", "blind", "seeing_again"}
    assert 1 <= len(about_it) <= 1 + 2 * about_it.count("blind")


def test_observing_sends_nothing_that_changes_anything(world: World, start: Callable[..., DaemonProcess]) -> None:
    process = start(mode="observe")
    until(lambda: process.ticks >= 4)

    def would_scale() -> bool:
        (row,) = process.get("/api/v1/workloads")[1]["items"]
        return bool(row["replicas"]["desired"] > row["replicas"]["current"] == 1)

    until(would_scale)
    assert stopped(process, signal.SIGINT)[0] == 0
    assert world.cluster.requests
    assert world.cluster.mutating_requests == 0


def test_a_person_takes_over_and_gives_it_back(world: World, start: Callable[..., DaemonProcess]) -> None:
    """By the command through the API, by the command on the data folder, and across a restart."""
    from scaler.cli import app

    def headstart(*arguments: str) -> None:
        app(args=list(arguments), standalone_mode=False)

    def state() -> str:
        items = process.get("/api/v1/workloads")[1]["items"]
        return str(items[0]["state"]) if items else ""

    (world.folder / "data").mkdir()
    headstart("pause", "-A", "--data-dir", str(world.folder / "data"))
    process = start()
    until(lambda: state() == "PAUSED" and process.ticks >= 3)
    assert world.cluster.mutating_requests == 0
    url = f"http://127.0.0.1:{world.port}"
    headstart("override", "llm/chat", "--replicas", "6", "--for", "1h", "--reason", "sale", "--url", url)
    headstart("resume", "-A", "--url", url)
    until(lambda: process.ticks >= 5)
    assert world.cluster.replicas("llm", "chat") != 6, "given back, the override is over too"
    headstart("override", "llm/chat", "--replicas", "6", "--for", "1h", "--reason", "sale", "--url", url)
    until(lambda: world.cluster.replicas("llm", "chat") == 6 and state() == "OVERRIDDEN")
    log = stopped(process)[2]
    told = [line for line in log if line["event"] == "control"]
    assert "paused by" in told[0]["fleet"]
    assert "6 replicas until" in told[-1]["workloads"]
    process = start()
    until(lambda: state() == "OVERRIDDEN")
    assert world.cluster.replicas("llm", "chat") == 6


def test_after_a_restart_the_scale_is_held_and_the_steering_is_kept(
    world: World, start: Callable[..., DaemonProcess]
) -> None:
    process = start()
    until(lambda: world.cluster.replicas("llm", "chat") >= 3)
    until(lambda: process.ticks >= 3)
    stopped(process)
    held = world.cluster.replicas("llm", "chat")
    with SqliteJournal.open(world.folder / "data" / FILE_NAME, now=datetime.now(UTC), read_only=True) as journal:
        (last,) = journal.latest(now=datetime.now(UTC))
    again = start()
    until(lambda: again.ready)
    record = again.get("/api/v1/workloads/llm/chat/explain")[1]
    assert record["state"]["asked"] == held
    assert record["state"]["z"] == last.state.z
    assert world.cluster.replicas("llm", "chat") == held


def test_ten_ticks_load_none_of_the_heavy_packages(world: World) -> None:
    driver = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from scaler.config import read_config
from scaler.adapters.store import Store
from scaler.daemon import Daemon
config = read_config(Path(sys.argv[1]))
daemon = Daemon(config, Store.open(config.data_dir, now=datetime.now(UTC)))
daemon.web.start()
for _ in range(10):
    daemon.upkeep.forecast(now=datetime.now(UTC))
    daemon.round.run(now=datetime.now(UTC))
assert len(daemon.store.journal.ticks()) == 10
daemon.upkeep.judge_edges(now=datetime.now(UTC))
daemon.upkeep.compact(now=datetime.now(UTC))
daemon.stop()
print(" ".join(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", driver, str(world.config_file())],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert "numpy" in loaded
    assert not loaded & set(HEAVY)
    assert "forecaster.fitting" not in done.stdout.split()


# ── When its surroundings fail ────────────────────────────────────────────────────────────────────────────────


def test_without_prometheus_it_starts_holds_and_says_so(world: World, start: Callable[..., DaemonProcess]) -> None:
    process = start(prometheus=f"http://127.0.0.1:{free_port()}")
    until(lambda: process.ready)
    (row,) = process.get("/api/v1/workloads")[1]["items"]
    assert (row["state"], row["replicas"]["desired"]) == ("HOLD", 1)
    assert process.get("/healthz")[0] == 200, "a blind tick is a finished tick: restarting would cure nothing"
    status, _, log = stopped(process)
    assert status == 0
    assert len([line for line in log if line["event"] == "blind"]) == 1
    assert world.cluster.mutating_requests == 0


def test_without_the_cluster_it_is_degraded_and_goes_on_when_it_is_back(
    world: World, start: Callable[..., DaemonProcess]
) -> None:
    world.cluster.kill()
    process = start()
    until(lambda: process.ready)
    assert process.get("/api/v1/workloads")[1]["items"][0]["state"] == "DEGRADED"
    world.cluster.start()
    until(lambda: world.cluster.replicas("llm", "chat") >= 3)


def test_it_ends_in_time_while_the_cluster_hangs(world: World, start: Callable[..., DaemonProcess]) -> None:
    """Every read takes its whole budget of 8 s: SIGTERM comes in mid-tick."""
    world.cluster.fault(method="GET", hang_s=60, times=1000)
    process = start()
    until(lambda: process.get("/healthz")[0] == 200)
    status, took_s, log = stopped(process)
    assert status == 0
    assert took_s < GRACE_S
    assert log[-1]["event"] == "stopped"


def test_it_ends_in_time_while_prometheus_hangs(world: World, start: Callable[..., DaemonProcess]) -> None:
    """A tick and a forecast both wait for an answer that never comes."""
    with MisbehavingServer(RawConversation.hang) as hung:
        process = start(prometheus=hung.url, deadline_s=30)
        until(lambda: len(hung.received) >= 2)
        status, took_s, log = stopped(process)
    assert status == 0
    assert took_s < GRACE_S
    assert (log[-1]["event"], log[-1]["tick"]) == ("stopped", "abandoned")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            lambda world: (world.folder / "data").write_text("a file"), "headstart.db", id="no folder for data"
        ),
        pytest.param(
            lambda world: _listen(world.port), "Address already in use; end what listens there", id="the port is taken"
        ),
    ],
)
def test_it_says_why_it_cannot_start(
    world: World, start: Callable[..., DaemonProcess], spoil: Callable[[World], Any], said: str
) -> None:
    kept = spoil(world)
    process = start()
    assert process.died() == 1
    err = process.text
    last = json.loads(err.splitlines()[-1])
    assert (last["event"], last["meanwhile"]) == ("not_started", "nothing is scaled")
    assert said in last["error"]
    assert kept is not None
    assert "Traceback" not in err


def _listen(port: int) -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


# ── One round ─────────────────────────────────────────────────────────────────────────────────────────────────


def once_seeing(config: Config, *, dry_run: bool) -> TickReport:
    """`tick_once`, again until it knows the load: one whose answer or last scrape came too late holds, rightly."""

    def seeing() -> TickReport | None:
        report = tick_once(config, dry_run=dry_run)
        readings = report.records[0].snapshot.classes[0]
        return None if isinstance(readings.demand_rps, Blind) or isinstance(readings.e2e_p95_s, Blind) else report

    report: TickReport = until(seeing)
    return report


def test_a_dry_run_decides_and_leaves_no_trace(world: World) -> None:
    report = once_seeing(world.config(), dry_run=True)
    (record,) = report.records
    assert (record.decision.current, record.decision.target) == (1, 4)  # ceil(5.2 / (0.7 · 2))
    assert record.policy.mode is Mode.OBSERVE
    assert record.snapshot.classes[0].e2e_p95_s.kind == "known"
    assert report.outcomes["llm/chat"].kind is OutcomeKind.OBSERVED
    assert world.cluster.mutating_requests == 0
    assert not (world.folder / "data").exists()


def test_publishing_exports_what_is_wanted_and_writes_nothing(world: World) -> None:
    report = once_seeing(world.config(mode="publish"), dry_run=False)
    assert report.outcomes["llm/chat"].kind is OutcomeKind.PUBLISHED
    assert world.cluster.mutating_requests == 0


def test_in_mode_floor_the_floor_is_written_and_never_the_scale(world: World) -> None:
    world.cluster.hpa("llm", "chat", least=1, most=6)
    report = once_seeing(world.config(mode="floor"), dry_run=False)
    assert report.outcomes["llm/chat"].kind is OutcomeKind.SCALED
    assert (world.cluster.floor("llm", "chat"), world.cluster.replicas("llm", "chat")) == (4, 4)
    written = [request.path for request in world.cluster.requests if request.method == "PATCH"]
    assert written == ["/apis/autoscaling/v2/namespaces/llm/horizontalpodautoscalers/chat"]
    [event] = [request.body for request in world.cluster.requests if request.method == "POST"]
    assert (event["reason"], event["regarding"]["kind"]) == ("FloorRaised", "Deployment")
    assert event["note"].startswith("set the floor 1 → 4 (load)")


def test_a_deployment_that_is_annotated_is_a_workload_from_the_start(world: World) -> None:
    world.cluster.deployment("llm", "docs", replicas=2)
    world.cluster.annotate("llm", "docs", enabled="true", profile="qwen3-vl-2b-24gb", mode="active")
    path = world.config_file()
    path.write_text(path.read_text(encoding="utf-8") + "discover: {namespaces: [llm]}\n", encoding="utf-8")
    report = tick_once(read_config(path), dry_run=True)
    assert [(each.policy.workload, each.decision.current) for each in report.records] == [
        ("llm/chat", 1),
        ("llm/docs", 2),
    ]


def test_one_round_scales_and_is_on_record(world: World) -> None:
    report = once_seeing(world.config(), dry_run=False)
    assert report.outcomes["llm/chat"].kind is OutcomeKind.SCALED
    assert world.cluster.replicas("llm", "chat") == 4
    with SqliteJournal.open(world.folder / "data" / FILE_NAME, now=datetime.now(UTC), read_only=True) as journal:
        assert [entry.at for entry in journal.records()][-1] == report.at


def test_a_full_disk_costs_the_record_and_not_the_scaling(world: World) -> None:
    config = world.config()
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        daemon = Daemon(config, store)
        store.journal.close()

        def scaled() -> bool:
            daemon.tick()
            return world.cluster.replicas("llm", "chat") == 4

        daemon.tick()
        view = daemon.board.view()
        until(scaled)
    assert view is not None
    assert view.report.journal_error


def test_a_slow_model_does_not_delay_a_tick(world: World) -> None:
    """The forecast's lane is held up for as long as the test likes; ticks come and go beside it."""
    config = world.config()
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        daemon = Daemon(config, store)
        held = _Held()
        daemon.upkeep.forecast = held.wait  # type: ignore[method-assign]
        daemon.start()
        try:
            assert held.entered(within_s=60)
            until(lambda: world.cluster.replicas("llm", "chat") >= 3)
            assert held.waiting
        finally:
            held.release()
            daemon.stop()


def test_events_and_clocks_are_left_for_the_refit(world: World) -> None:
    config = world.config()
    (policy,) = config.fleet.workloads
    there = replace(policy, scheduled=ScheduledRule(timezone="Asia/Shanghai"))
    config = replace(config, fleet=replace(config.fleet, workloads=(there,)))
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        daemon = Daemon(config, store)
        daemon.start()
        try:
            until(lambda: world.cluster.replicas("llm", "chat") >= 3)
        finally:
            daemon.stop()
    left = read_blob(config.data_dir / FILE_NAME, KNOWN_BLOB)
    assert left is not None
    assert known_from_bytes(left[0]) == {"llm/chat": ScheduledRule(timezone="Asia/Shanghai")}


class _Held:
    """A job that hangs until it is released."""

    def __init__(self) -> None:
        self._entered, self._released = threading.Event(), threading.Event()

    def wait(self, *, now: datetime) -> None:
        self._entered.set()
        self._released.wait(150)

    def entered(self, *, within_s: float) -> bool:
        return self._entered.wait(within_s)

    @property
    def waiting(self) -> bool:
        return self._entered.is_set() and not self._released.is_set()

    def release(self) -> None:
        self._released.set()


def test_settings_from_the_histogram_are_used_from_the_next_round_on(world: World) -> None:
    config = world.config()
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        daemon, hours = Daemon(config, store), count()

        def judged() -> View | None:
            """What is shown once the source has answered and a tick has decided by it.

            The source is asked each time, as if an hour had passed. A tick that belongs to the same second as the one
            before it decides nothing: on a fast machine several do.
            """
            daemon.upkeep.judge_edges(now=datetime.now(UTC) + next(hours) * EDGES_EVERY)
            daemon.tick()
            view = daemon.board.view()
            return view if view is not None and view.notes.get("llm/chat") else None

        daemon.tick()
        view = until(judged)
    assert view.report.records[0].policy.latency.slos[0].e2e_p95_s == 1.5
    assert view.notes["llm/chat"] == ("every class: e2e_p95_s 1.7 s is judged at the bucket edge 1.5 s",)


def test_a_damaged_data_file_is_set_aside_and_the_scale_held(world: World) -> None:
    config = world.config()
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        Daemon(config, store).tick()
    file = config.data_dir / FILE_NAME
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * (file.stat().st_size - 4096))
    world.cluster.set_replicas("llm", "chat", 6)
    with Store.open(config.data_dir, now=datetime.now(UTC)) as store:
        assert store.report.quarantined is not None
        daemon = Daemon(config, store)
        daemon.tick()
    assert world.cluster.replicas("llm", "chat") == 6


def test_the_refit_is_a_command_that_trains_what_needs_a_fit(world: World) -> None:
    config = world.config()
    config = replace(config, forecast=replace(config.forecast, models=("arima", "last-value", "holt-winters")))
    command = train_command(config)
    assert command[1:] == ("-m", "scaler.refit_job", str(config.data_dir), "arima,holt-winters")
