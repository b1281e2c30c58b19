"""Rows 39, 41 and 42 of the table, told of processes: stopped and continued, starved, and asked to end in mid-tick."""

from __future__ import annotations

import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError

import pytest

import fault_proxy
from daemon_process import DaemonProcess, running, until
from fault_proxy import FaultProxy
from fault_world import FaultWorld, Scraped
from kube_double import KubeDouble
from scaler.adapters.journal import SqliteJournal
from scaler.adapters.store import FILE_NAME
from scaler.adapters.watchdog import ProgressWatchdog
from scaler.policy.decide import decide_within
from servers import free_port

pytestmark = pytest.mark.server

Start = Callable[..., DaemonProcess]
SECOND = timedelta(seconds=1)
"""A tick of these daemons."""

GRACE_S = 30.0
"""What a pod has from SIGTERM to SIGKILL, by the chart."""


@pytest.fixture
def real_world(scraped: Scraped, tmp_path: Path) -> Iterator[FaultWorld]:
    """The same world on the wall's clock, for processes that have no other."""
    with FaultProxy(scraped.prometheus.url) as proxy, KubeDouble(gpus=64, real_time=True) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.advance(1)
        yield FaultWorld(scraped=scraped, proxy=proxy, cluster=cluster, folder=tmp_path)


@pytest.fixture
def start(real_world: FaultWorld) -> Iterator[Start]:
    """Starts daemons that end with the story."""
    with ExitStack() as stack:

        def run(**settings: object) -> DaemonProcess:
            port = free_port()
            config = real_world.config_file(**{"tick": "1s", "port": port, **settings})
            return stack.enter_context(running(config, port, log=real_world.folder / "log"))

        yield run


# ── Row 39 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_39_a_process_that_was_stopped_makes_one_tick_of_those_it_missed(
    real_world: FaultWorld, start: Start
) -> None:
    daemon = start()
    until(lambda: daemon.ticks >= 3)
    daemon.child.send_signal(signal.SIGSTOP)
    stopped_at = datetime.now(UTC)
    time.sleep(5)
    continued_at = datetime.now(UTC)
    before = _recorded(real_world)
    daemon.child.send_signal(signal.SIGCONT)
    until(lambda: len(_recorded(real_world)) >= len(before) + 3)
    # A tick that was under way when it was stopped keeps its time; what comes after belongs to the time after.
    after = [at for at in _recorded(real_world) if at > stopped_at + SECOND]
    assert min(after) >= continued_at - SECOND, "none of the missed ones"
    assert len(after) <= (datetime.now(UTC) - continued_at) / SECOND + 2, "nor are they made up for"
    known_since = until(lambda: _known_since(real_world))
    assert known_since > stopped_at, "what it knew before does not count any more"
    assert daemon.stop()[0] == 0


def _database(world: FaultWorld) -> Path:
    return world.folder / "data" / FILE_NAME


def _recorded(world: FaultWorld) -> tuple[datetime, ...]:
    with SqliteJournal.open(_database(world), now=datetime.now(UTC), read_only=True) as journal:
        return journal.ticks()


def _known_since(world: FaultWorld) -> datetime | None:
    with SqliteJournal.open(_database(world), now=datetime.now(UTC), read_only=True) as journal:
        state, _ = journal.states(decide_within, now=datetime.now(UTC))["llm/chat"]
    return state.known_since


# ── Row 41 ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize("how", ["dead", "starved"])
def test_row_41_liveness_is_a_finished_tick_and_fails_with_the_stacks_of_all_threads(
    real_world: FaultWorld, how: str
) -> None:
    """A daemon in this process, its scheduler ended or its tick hung; three intervals of a minute pass on its clock."""
    clock = _Clock()
    with real_world.life(real_world.config(tick="1m")) as life, (real_world.folder / "stacks").open("w+") as stacks:
        daemon = life.daemon
        daemon.watchdog = ProgressWatchdog(
            timedelta(minutes=1), on_stall=daemon._stalled, monotonic_s=clock, stacks=stacks
        )
        if how == "starved":
            real_world.proxy.always(fault_proxy.black_hole)
            real_world.cluster.fault(method="GET", hang_s=5, times=1000)
        daemon.start()
        try:
            if how == "dead":
                until(lambda: daemon.watchdog.ready)
                daemon._schedule._scheduler.shutdown(wait=False)
            assert _healthz(daemon.web.port)[0] == 200
            clock.s += 181
            assert _healthz(daemon.web.port)[0] == 503
            (stalled,) = until(lambda: life.events("stalled"))  # its own thread looks once a second
            assert "tick" in stalled["reason"]
            stacks.seek(0)
            dump = stacks.read()
            assert "Thread 0x" in dump
            assert dump.count("File ") > 10, "where each thread stands"
            if how == "dead":
                daemon.tick()
                assert _healthz(daemon.web.port)[0] == 200, "a finished tick is a sign of life"
        finally:
            real_world.proxy.heal()
            daemon.stop()


def _healthz(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


# ── Row 42 ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _patches(world: FaultWorld) -> int:
    """Changes of the scale that the server is done with."""
    return sum(each.method == "PATCH" and each.path.endswith("/scale") for each in world.cluster.requests)


def test_row_42_sigterm_while_a_patch_is_under_way_lets_it_finish(real_world: FaultWorld, start: Start) -> None:
    real_world.cluster.fault(method="PATCH", path="/scale", hang_s=2)
    daemon = start()
    until(lambda: any(fault.seen for fault in real_world.cluster._faults), what="a write under way")
    status, took_s = daemon.stop()
    assert status == 0
    assert took_s < GRACE_S
    assert real_world.cluster.replicas("llm", "chat") > 1
    assert daemon.events("stopped")[0]["tick"] == "finished"


def test_row_42_sigterm_while_a_patch_hangs_abandons_it(real_world: FaultWorld, start: Start) -> None:
    real_world.cluster.fault(method="PATCH", path="/scale", hang_s=60, times=100)
    daemon = start()
    until(lambda: any(fault.seen for fault in real_world.cluster._faults), what="a write under way")
    status, took_s = daemon.stop()
    assert status == 0
    assert took_s < GRACE_S
    assert daemon.events("stopped")[0]["tick"] == "abandoned"
    # The server still has the write. It was told how long it may take over it, and lets it be then.
    until(lambda: _patches(real_world), what="the server's own end of the write")
    assert real_world.cluster.replicas("llm", "chat") == 1
