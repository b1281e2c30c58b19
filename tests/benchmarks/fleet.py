"""How large a fleet one daemon carries: the real daemon against a real Prometheus and the Kubernetes double, measured.

    PYTHONPATH=tests python -m benchmarks.fleet --workloads 2000 --ticks 40

It starts the surroundings (`fleet_world`), then `headstart run` as a process, and reads what that process says of
itself (`/metrics`) and what the system says of it (`/proc`). Wall time depends on who else uses the cores, so processor
time stands beside it, and `slowed` says how much longer a busy loop took meanwhile than it needs. Decides nothing:
`test_fleet_of_2000` compares with the targets.
"""

from __future__ import annotations

import argparse
import compileall
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.fleet_world import REPO, FleetSize, World, running_world, store_past
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.readings import Readings
from scaler.adapters.connections import connection_of, selectors_of
from scaler.adapters.signals import SourceSignals
from scaler.config import read_config
from scaler.daemon.derived import latency_of
from servers import free_port

POLL_S = 0.05
SCRAPE_S = 15.0
"""As often as a Prometheus reads `/metrics`; of 2,000 workloads that is 10 MB, and more often would be the load."""
FIRST_TICK_WITHIN_S = 600.0
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run of the daemon brought; seconds, MiB, counts."""

    workloads: int
    series: int
    """Head series of Prometheus."""
    ticks: int
    tick_p50_s: float
    tick_p99_s: float
    tick_max_s: float
    tick_cpu_s: float
    """Processor time of the whole process a tick, everything beside the tick included."""
    slowed: float
    """Wall over processor time of a busy loop meanwhile: 1 on an idle core."""
    queries_first: int
    queries_a_tick: int
    query_s: float
    start_s: float
    """Process started → first tick finished."""
    slowed_at_start: float
    rss_mib: float
    rss_peak_mib: float
    api_calls_a_tick: float
    scrape_s: float
    """Reading `/metrics`, and its size."""
    scrape_mib: float
    forecast_s: float
    journal_kb_a_tick: float
    data_mib: float
    failures: Mapping[str, float] = field(default_factory=dict)

    def told(self) -> str:
        """The figures, a line each."""
        return "\n".join(f"  {name:<18} {_shown(value)}" for name, value in asdict(self).items())


def _shown(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 100.0
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


# ── A process, seen from outside ──────────────────────────────────────────────────────────────────────────────────


def memory_mib(pid: int | str = "self", what: str = "VmRSS") -> float:
    """`VmRSS` or `VmHWM` (the most ever) of a process."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024.0 if found else 0.0


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slowed_by(samples: int = 1) -> float:
    """Wall over processor time of a busy loop of some 20 ms: what others take of the cores."""
    ratios = []
    for _ in range(samples):
        wall, spent = time.perf_counter(), time.process_time()
        while time.process_time() - spent < 0.02:
            pass
        ratios.append((time.perf_counter() - wall) / (time.process_time() - spent))
    return float(np.median(ratios))


def get(port: int, path: str, *, timeout_s: float = 60.0) -> tuple[int, str]:
    """Status and body of a page on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def total(page: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples on a page of Prometheus' text format."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith((f"{name} ", f"{name}{{")) and all(each in line for each in wanted)
    )


class Daemon:
    """`headstart run` as a child, its log in a file."""

    def __init__(self, settings: Path, port: int) -> None:
        self.port = port
        self.log = settings.parent / "log"
        self.slowed = 1.0
        self._began = time.monotonic()
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "scaler.cli", "run", "--config", str(settings)]
            self._child = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(REPO)}, cwd=settings.parent
            )
        self.pid = self._child.pid

    def first_tick(self) -> float:
        """Seconds from the start of the process to its first finished tick; `slowed` is of meanwhile."""
        ratios = [slowed_by()]
        while time.monotonic() - self._began < FIRST_TICK_WITHIN_S:
            if self._child.poll() is not None:
                raise RuntimeError(f"the daemon ended: {self.log.read_text()[-2000:]}")
            try:
                if get(self.port, "/readyz")[0] == 200:
                    self.slowed = float(np.median(ratios))
                    return time.monotonic() - self._began
            except OSError:
                pass  # not listening yet
            ratios.append(slowed_by())
            time.sleep(POLL_S)
        raise TimeoutError("no tick finished")

    def stop(self) -> None:
        """SIGTERM, as in a deployment."""
        self._child.terminate()
        self._child.wait(timeout=60)

    def kill(self) -> None:
        """Whatever it does."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


@contextmanager
def running_daemon(settings: Path, port: int) -> Iterator[Daemon]:
    """Ended with the block."""
    daemon = Daemon(settings, port)
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()


# ── The run ───────────────────────────────────────────────────────────────────────────────────────────────────────


def watched(daemon: Daemon, *, ticks: int, tell: Callable[[str], None]) -> tuple[list[float], list[float], float, str]:
    """Durations of the next `ticks` ticks, busy-loop ratios, seconds of one scrape, and the last page.

    The page is read as a Prometheus would: the sum's growth between two reads, over the count's, is a tick's duration.
    """
    durations: list[float] = []
    ratios: list[float] = []
    scrapes: list[float] = []
    began, page = time.perf_counter(), get(daemon.port, "/metrics")[1]
    count, spent_s = total(page, f"{TICK}_count"), total(page, f"{TICK}_sum")
    while len(durations) < ticks:
        for _ in range(int(SCRAPE_S)):
            time.sleep(1.0)
            ratios.append(slowed_by())
        began = time.perf_counter()
        page = get(daemon.port, "/metrics")[1]
        scrapes.append(time.perf_counter() - began)
        now_count, now_s = total(page, f"{TICK}_count"), total(page, f"{TICK}_sum")
        if now_count > count:
            durations += [(now_s - spent_s) / (now_count - count)] * int(now_count - count)
            count, spent_s = now_count, now_s
            tell(
                f"tick {len(durations):>4}: {durations[-1]:.2f} s, RSS {memory_mib(daemon.pid):.0f} MiB, "
                f"CPU {cpu_s(daemon.pid):.0f} s, scrape {scrapes[-1]:.2f} s, slowed {ratios[-1]:.1f}"
            )
    return durations, ratios, float(np.median(scrapes)), page


TICK = "headstart_tick_duration_seconds"
FORECAST = "headstart_forecast_duration_seconds"
REQUESTS = "headstart_kubernetes_request_seconds"


def queries_of(settings: Path) -> tuple[int, int, float]:
    """Queries of a first read and of a usual one, and the seconds of the usual one: read as the daemon reads."""
    config, brought = read_config(settings), list[Readings]()
    source = PrometheusSource(connection_of(config.prometheus))
    signals = SourceSignals(source, selectors_of(config), latency_of(config), on_read=brought.append)
    for _ in range(2):
        signals.read(now=datetime.now(UTC))
    first, usual = brought
    return first.queries, usual.queries, usual.query_s


def measure(world: World, *, tick: str, ticks: int, tell: Callable[[str], None]) -> Measured:
    """One run of the daemon over `ticks` ticks after its first forecast."""
    for package in ("scaler", "forecaster"):  # bytecode, as an installed product has it
        compileall.compile_dir(REPO / package, quiet=2)
    port = free_port()
    settings = world.settings(port=port, tick=tick)
    queries_first, queries, query_s = queries_of(settings)
    tell(f"queries: {queries_first} at first, then {queries} in {query_s:.2f} s")
    data = world.folder / "data" / "headstart.db"
    with running_daemon(settings, port) as daemon:
        start_s, slowed_at_start = daemon.first_tick(), daemon.slowed
        tell(f"first tick after {start_s:.2f} s, RSS {memory_mib(daemon.pid):.0f} MiB")
        _await_forecast(daemon, tell)
        before = get(port, "/metrics")[1]
        cpu_before_s = cpu_s(daemon.pid)
        durations, ratios, scrape_s, after = watched(daemon, ticks=ticks, tell=tell)

        def grown(name: str) -> float:
            return total(after, name) - total(before, name)

        done = max(1.0, grown(f"{TICK}_count"))
        return Measured(
            workloads=world.size.workloads,
            series=int(total(get(world.prometheus.port, "/metrics")[1], "prometheus_tsdb_head_series")),
            ticks=len(durations),
            tick_p50_s=float(np.percentile(durations, 50)),
            tick_p99_s=float(np.percentile(durations, 99)),
            tick_max_s=max(durations),
            tick_cpu_s=(cpu_s(daemon.pid) - cpu_before_s) / done,
            slowed=float(np.median(ratios)),
            queries_first=queries_first,
            queries_a_tick=queries,
            query_s=query_s,
            start_s=start_s,
            slowed_at_start=slowed_at_start,
            rss_mib=memory_mib(daemon.pid),
            rss_peak_mib=memory_mib(daemon.pid, "VmHWM"),
            api_calls_a_tick=grown(f"{REQUESTS}_count") / done,
            scrape_s=scrape_s,
            scrape_mib=len(after) / MIB,
            forecast_s=grown(f"{FORECAST}_sum") / max(1.0, grown(f"{FORECAST}_count")),
            journal_kb_a_tick=_journal_kb(data),
            data_mib=sum(each.stat().st_size for each in data.parent.glob("headstart.db*")) / MIB,
            failures={name: value for name, value in _failures(after).items() if value},
        )


def _await_forecast(daemon: Daemon, tell: Callable[[str], None]) -> None:
    """The first forecast learns its way in; the ticks before it are cheaper than any later one."""
    began = time.monotonic()
    while not total(get(daemon.port, "/metrics")[1], f"{FORECAST}_count"):
        tell(f"waiting for the first forecast: {time.monotonic() - began:.0f} s, RSS {memory_mib(daemon.pid):.0f} MiB")
        time.sleep(SCRAPE_S)


def _failures(page: str) -> dict[str, float]:
    return {
        "jobs": total(page, "headstart_job_failures_total"),
        "late": total(page, "headstart_job_late_total"),
        "journal": total(page, "headstart_journal_errors_total"),
        "invariants": total(page, "headstart_invariant_violations_total"),
        "blind": total(page, "headstart_blind"),
    }


def _journal_kb(data: Path) -> float:
    """Mean size of the blocks of the last ticks."""
    import sqlite3

    db = sqlite3.connect(f"file:{data}?mode=ro", uri=True)
    try:
        (size,) = db.execute("SELECT avg(bytes) FROM (SELECT bytes FROM tick ORDER BY seq DESC LIMIT 20)").fetchone()
    finally:
        db.close()
    return (size or 0.0) / 1024.0


def main(arguments: Sequence[str] | None = None) -> None:
    """The figures of one fleet, on stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", type=int, default=2000)
    parser.add_argument("--engines", type=int, default=1, help="engines' pages a workload")
    parser.add_argument("--namespaces", type=int, default=20)
    parser.add_argument("--by-pods", action="store_true", help="find series by the shape of pods' names, not by labels")
    parser.add_argument("--ticks", type=int, default=40)
    parser.add_argument("--tick", default="15s")
    parser.add_argument("--days", type=int, default=14, help="of history in the data folder before the start")
    parser.add_argument("--folder", type=Path, help="keep everything here, and go on from what is there")
    asked = parser.parse_args(arguments)
    size = FleetSize(
        workloads=asked.workloads, namespaces=asked.namespaces, engines=asked.engines, by_labels=not asked.by_pods
    )

    def tell(text: str) -> None:
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {text}\n")

    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        folder = asked.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "data" / "headstart.db").exists() and asked.days:
            tell(f"storing {asked.days} days of {size.workloads} workloads")
            store_past(folder / "data", size, days=asked.days, now=datetime.now(UTC))
        tell("starting engines, cluster and Prometheus")
        with running_world(size, folder) as world:
            measured = measure(world, tick=asked.tick, ticks=asked.ticks, tell=tell)
    sys.stdout.write(measured.told() + "\n")


if __name__ == "__main__":
    main()
