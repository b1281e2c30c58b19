"""Whether the daemon grows: weeks of its ticks, one after the other, with everything real except the waiting.

    PYTHONPATH=tests python -m benchmarks.soak --workloads 50 --ticks 10000

Each tick is a minute of an explicit clock that the cluster's double follows: metrics queries to a real Prometheus over
HTTP, forecasts, decisions, the journal on disk, writes over HTTP, then `/metrics` and the API read over HTTP; hourly
and ten-minute jobs run when that clock says so. Two things are not as in production: the demand that the queries
bring is replaced by that of the explicit minute, for Prometheus' own clock cannot be wound, and so is the history that
is taken in. Refits are left out: they are processes of their own. Decides nothing: `test_soak` compares.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks.fleet import get, memory_mib
from benchmarks.fleet_world import CLASS, FleetSize, rates_between, running_world, store_past
from forecaster.sources.catalogue import Judged
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.readings import Readings
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Known, Panel, SeriesKey, floor_to_step
from kube_double_store import EPOCH
from scaler.adapters import folder_lock, logs
from scaler.adapters.store import Store
from scaler.config import read_config
from scaler.daemon import process
from servers import free_port

HOUR = timedelta(hours=1)
JOBS: tuple[tuple[str, timedelta], ...] = (("compact", HOUR), ("judge_edges", HOUR), ("look", timedelta(minutes=5)))
TICKS_AN_HOUR = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """What a soak brought: MiB, fleet hours (60 ticks), seconds."""

    workloads: int
    ticks: int
    fleet_hours: float
    tick_cpu_s: float
    rss_begin_mib: float
    """At a quarter of the run: before it, caches fill."""
    rss_end_mib: float
    drift_mib_per_hour: float
    """Slope of a straight line through the second half, in hours of the fleet's time."""
    written: int
    """Changes of replicas."""
    threads: int
    open_files: int
    open_files_half: int
    data_mib: float
    failures: float

    def told(self) -> str:
        """The figures, a line each."""
        return "\n".join(f"  {name:<18} {value:.4g}" for name, value in asdict(self).items())


class _WoundSource(PrometheusSource):
    """Asks the real server and waits for its answer; demand and history are those of the explicit clock."""

    def read(
        self, selectors: Sequence[WorkloadSelector], *, now: datetime, judged: Judged = MappingProxyType({})
    ) -> Readings:
        answered = super().read(selectors, now=datetime.now(UTC), judged=judged)  # it judges clocks: its own moment
        at_s = now.timestamp()
        number_of = {selector.workload: number for number, selector in enumerate(selectors)}

        def brought(key: SeriesKey) -> Known:
            rate = rates_between(number_of[key.workload], np.array([at_s - 120.0, at_s]))[0]
            return Known(value=float(rate), age_s=5.0)

        values = {
            key: brought(key) if key.signal == "demand_rps" and isinstance(reading, Known) else reading
            for key, reading in answered.values.items()
        }
        # The explicit clock runs ahead of the server's: what the source says of that is not what is played here.
        return replace(answered, values=values, skew_s=None)

    def history(
        self,
        selectors: Sequence[WorkloadSelector],
        signal: str,
        *,
        start: datetime,
        end: datetime,
        step: timedelta = STEP,
    ) -> Panel:
        return _made(selectors, {signal: 1.0}, start=start, end=end)

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta = STEP
    ) -> Panel:
        return Panel(keys=(), start=start, step=step, values=np.empty((0, max(0, (end - start) // step))))

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta = STEP,
    ) -> Panel:
        told = [each for each in selectors if int(each.workload[-5:]) % 5 == 0]
        return _made(told, {"prompt_tokens_per_s": 600.0, "output_tokens_per_s": 150.0}, start=start, end=end)


def _made(
    selectors: Sequence[WorkloadSelector], signals: Mapping[str, float], *, start: datetime, end: datetime
) -> Panel:
    edges_s = np.arange(start.timestamp(), end.timestamp() + 1.0, 60.0)
    rows = {
        SeriesKey(workload=each.workload, signal=signal, request_class=CLASS): factor
        * rates_between(int(each.workload[-5:]), edges_s)
        for each in selectors
        for signal, factor in signals.items()
    }
    keys = tuple(sorted(rows))
    values = np.array([rows[key] for key in keys]).reshape(len(keys), len(edges_s) - 1)
    return Panel(keys=keys, start=start, step=STEP, values=values)


def soak(folder: Path, size: FleetSize, *, ticks: int, tell: Callable[[str], None]) -> Soaked:
    """Play `ticks` minutes in this very process."""
    process.PrometheusSource = _WoundSource  # type: ignore[misc]
    began_at = floor_to_step(EPOCH) + timedelta(seconds=8)
    store_past(folder / "data", size, days=3, now=began_at)
    with running_world(size, folder, explicit_clock=True) as world, (folder / "log").open("w") as log:
        logs.configure(level=logging.WARNING, stream=log)
        config = read_config(world.settings(port=free_port(), tick="1m"))
        with folder_lock.held(config.data_dir), Store.open(config.data_dir, now=began_at) as store:
            daemon = process.Daemon(config, store)
            daemon.web.start()
            return _played(daemon, world.advance, began_at, ticks=ticks, tell=tell)


def _played(
    daemon: process.Daemon,
    advance: Callable[[float], None],
    began_at: datetime,
    *,
    ticks: int,
    tell: Callable[[str], None],
) -> Soaked:
    port = daemon.web.port
    rss = np.empty(ticks)
    begun_cpu_s, files_half, now = time.process_time(), 0, began_at
    due = {name: began_at + every for name, every in JOBS}
    for tick in range(ticks):
        now = began_at + tick * STEP
        advance(60.0)
        daemon.upkeep.forecast(now=now)
        daemon.round.run(now=now)
        daemon.watchdog.progressed()
        _run_due(daemon, due, now)
        for path in ("/metrics", "/api/v1/workloads"):
            get(port, path)
        rss[tick] = memory_mib()
        if tick == ticks // 2:
            files_half = _open_files()
        if tick % max(1, ticks // 40) == 0:
            spent_s = (time.process_time() - begun_cpu_s) / (tick + 1)
            tell(f"tick {tick}: RSS {rss[tick]:.1f} MiB, {spent_s:.3f} CPU-s a tick")
    half = rss[ticks // 2 :]
    hours = np.arange(half.size) / TICKS_AN_HOUR
    page = get(port, "/metrics")[1]
    data = sum(each.stat().st_size for each in daemon.store.path.parent.glob("headstart.db*"))
    return Soaked(
        workloads=len(daemon.config.fleet.workloads),
        ticks=ticks,
        fleet_hours=ticks / TICKS_AN_HOUR,
        tick_cpu_s=(time.process_time() - begun_cpu_s) / ticks,
        rss_begin_mib=float(rss[ticks // 4]),
        rss_end_mib=float(rss[-1]),
        drift_mib_per_hour=float(np.polyfit(hours, half, 1)[0]),
        written=daemon.ground.mutating_requests,
        threads=_threads(),
        open_files=_open_files(),
        open_files_half=files_half,
        data_mib=data / 2**20,
        failures=sum(_of(page, name) for name in ("job_failures_total", "journal_errors_total", "blind")),
    )


def _run_due(daemon: process.Daemon, due: dict[str, datetime], now: datetime) -> None:
    """The jobs beside the tick, on the explicit clock."""
    runs: dict[str, Callable[[], None]] = {
        "compact": lambda: daemon.upkeep.compact(now=now),
        "judge_edges": lambda: daemon.upkeep.judge_edges(now=now),
        "look": daemon.rivals.look,
    }
    for name, every in JOBS:
        if now >= due[name]:
            runs[name]()
            due[name] = now + every


def _of(page: str, name: str) -> float:
    lines = (line for line in page.splitlines() if line.startswith((f"headstart_{name} ", f"headstart_{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main(arguments: Sequence[str] | None = None) -> None:
    """The figures of one soak: on stdout, with --json as one object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", type=int, default=50)
    parser.add_argument("--ticks", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    size = FleetSize(workloads=asked.workloads, namespaces=2)

    def tell(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = soak(Path(folder), size, ticks=asked.ticks, tell=tell)
    sys.stdout.write(json.dumps(asdict(found)) + "\n" if asked.json else found.told() + "\n")


if __name__ == "__main__":
    main()
