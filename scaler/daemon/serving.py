"""The process around the daemon: it starts it, waits for signals, a changed file or a lost lease, and ends it.

It decides nothing: what runs when is said by `schedule`, what a round does by `round`. One process at a time has the
data folder; a dry run has one of its own that is gone afterwards.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from forecaster.errors import HistoryError
from scaler.adapters import folder_lock, heap, logs
from scaler.adapters.kubernetes.errors import KubernetesError
from scaler.adapters.store import Store
from scaler.config import Config
from scaler.daemon import discovery
from scaler.daemon.leading import end_at_once, prepare_last_resort
from scaler.daemon.process import Daemon
from scaler.daemon.reload import Reloader
from scaler.loop import TickReport


def run(config: Config) -> int:
    """Run until SIGTERM or SIGINT; answers the exit status. Says on stderr why it could not start."""
    heap.keep_little()
    heap.look_rarely()
    logs.configure()
    log = logs.logger()
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    reread = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: reread.set())
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock.held(config.data_dir))
            store = Store.open(config.data_dir, now=datetime.now(UTC))
            found = discovery.at_start(config, store, log)
            daemon = Daemon(found.config, store, on_lost=asked.set, end_in=prepare_last_resort())
            heap.settle()
            daemon.start()
        except (OSError, HistoryError, KubernetesError) as error:
            log.critical("not_started", error=str(error), meanwhile="nothing is scaled")
            return 1
        discoverer = discovery.Discoverer(
            config, found, running=lambda: daemon.config, take=daemon.reload, store=store, log=log
        )
        return _serve(daemon, discoverer, asked, reread)


def _serve(daemon: Daemon, discoverer: discovery.Discoverer, asked: threading.Event, reread: threading.Event) -> int:
    """Until asked to stop; answers the exit status."""
    log, store = daemon.log, daemon.store
    if store.report.quarantined is not None:
        log.critical("store_quarantined", file=str(store.report.quarantined), damage=store.report.damage)
    # A search for annotations may hang for twenty seconds: it must keep nobody from ending this process.
    watch = (daemon, discoverer, asked, reread)
    threading.Thread(target=_watch_settings, args=watch, name="settings", daemon=True).start()
    _watch_clock(daemon, asked)
    if daemon.leading.lost is not None:
        end_at_once(log, daemon.leading.lost)
    if not daemon.stop():
        # A thread is still in a call; the interpreter would wait for its end. What is on disk is whole at any moment.
        sys.stderr.flush()
        os._exit(0)
    return 0


def _watch_clock(daemon: Daemon, asked: threading.Event) -> None:
    """Wait to be asked to stop, or to lose the lease; meanwhile plan anew when the clock was set."""
    skew_s = time.time() - time.monotonic()
    while not asked.wait(1.0) and daemon.leading.lost is None:
        now_s = time.time() - time.monotonic()
        if abs(now_s - skew_s) > 1.0:
            daemon.log.warning("clock_set", by_s=round(now_s - skew_s, 1), meanwhile="jobs are planned anew")
            daemon.realign()
        skew_s = now_s


def _watch_settings(
    daemon: Daemon, discoverer: discovery.Discoverer, asked: threading.Event, reread: threading.Event
) -> None:
    """Until asked to stop, read settings that have changed, those on annotations too."""
    reloader = Reloader(lambda: daemon.config, discoverer.file_read, daemon.board, daemon.log, asked=reread)
    while not asked.wait(1.0):
        try:
            reloader.look(now=datetime.now(UTC))
            discoverer.look()
        except Exception as error:
            # A defect; it must not end the watch, or no later change would ever be taken up.
            meanwhile = "the running settings stay in force; the next look tries again"
            daemon.log.error("settings_not_watched", exc_info=error, meanwhile=meanwhile)


def tick_once(config: Config, *, dry_run: bool) -> TickReport:
    """One decision round now, forecasts included; a dry run writes nothing to the cluster or to the data folder.

    Raises `OSError`, `HistoryError` or `KubernetesError` where the data folder or the credentials are unusable.
    """
    logs.configure(level=logging.WARNING)
    now = datetime.now(UTC)
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch()) if dry_run else config.data_dir
        stack.enter_context(folder_lock.held(folder))
        store = stack.enter_context(Store.open(folder, now=now))
        daemon = Daemon(discovery.at_start(config, store, logs.logger()).config, store, dry_run=dry_run)
        daemon.upkeep.forecast(now=now)
        daemon.upkeep.judge_edges(now=now)
        return daemon.round.run(now=now)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A data folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        yield Path(folder)
