"""Liveness as progress: a process is alive while ticks finish, not while a port answers.

An independent thread looks once a second. When no tick has finished for too long it says so once, with the stacks
of all threads, because the thread that should explain itself is the one that hangs. It never restarts anything: that
is the orchestrator's job, which asks `/healthz`.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TextIO

INTERVALS = 3
"""So many tick intervals without a finished tick are a failure."""

LEAST = timedelta(seconds=30)
"""A tick may use its 8 s of metrics and 8 s of API twice over before anybody restarts the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether ticks finish; `since` is when the last one did, or the start."""

    alive: bool
    since: datetime
    reason: str


class ProgressWatchdog:
    """Watches for finished ticks; `monotonic_s` is the clock that a change of the time of day cannot fool."""

    def __init__(
        self,
        tick: timedelta,
        *,
        on_stall: Callable[[Health], None],
        monotonic_s: Callable[[], float] = time.monotonic,
        stacks: TextIO | None = None,
    ) -> None:
        self.limit = max(INTERVALS * tick, LEAST)
        self._on_stall = on_stall
        self._monotonic_s = monotonic_s
        self._stacks = stacks
        self._last = (monotonic_s(), datetime.now(UTC))
        self._ticks = 0
        self._said = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def progressed(self) -> None:
        """A tick has finished."""
        self._last = (self._monotonic_s(), datetime.now(UTC))
        self._ticks += 1
        self._said = False

    def health(self) -> Health:
        """The answer of `/healthz`."""
        at_s, since = self._last
        quiet_s = self._monotonic_s() - at_s
        if quiet_s <= self.limit.total_seconds():
            return Health(alive=True, since=since, reason="ticks finish" if self._ticks else "starting")
        what = "no tick has finished" if self._ticks else "the first tick has not finished"
        return Health(alive=False, since=since, reason=f"{what} for {quiet_s:.0f} s, allowed are {self.limit}")

    @property
    def ready(self) -> bool:
        """Whether a first tick has finished."""
        return self._ticks > 0

    def check(self) -> None:
        """Report a stall once, with the stacks of all threads."""
        health = self.health()
        if health.alive or self._said:
            return
        self._said = True
        faulthandler.dump_traceback(file=self._stacks or sys.stderr, all_threads=True)
        self._on_stall(health)

    def start(self) -> None:
        """Begin to watch, in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            self.check()
