"""The daily refit: a child process with a time budget, low priority, and the first to go when memory runs out.

It decides whether a refit can run here and when it has had its time; it never fits anything in this process, and a
refit that hangs, dies or eats all memory costs nothing but the refit.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import IO

NICENESS = 15
"""Below every other process of a node: the tick has the cores whenever it wants them."""

OOM_SCORE = 1000
"""The kernel kills this child, not the daemon, when their common memory limit is reached."""

TAIL_CHARS = 2000
"""So much of the child's last words goes into the log."""

TRAIN_PACKAGES = ("torch", "statsmodels", "lightgbm", "pandas")
"""What the `train` extra brings."""


class RefitOutcome(StrEnum):
    """What became of a refit."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitReport:
    """How a refit went; `detail` are its last words, or why it did not run."""

    outcome: RefitOutcome
    duration_s: float = 0.0
    detail: str = ""


def missing_packages(packages: Sequence[str] = TRAIN_PACKAGES) -> tuple[str, ...]:
    """Those of `packages` that are not installed. Finds them without importing any: torch alone is 200 MB."""
    return tuple(name for name in packages if importlib.util.find_spec(name) is None)


class Refit:
    """Runs one training command at a time as a child of this process."""

    def __init__(self, command: Sequence[str], *, budget: timedelta, needs: Sequence[str] = TRAIN_PACKAGES) -> None:
        self._command = tuple(command)
        self._budget_s = budget.total_seconds()
        self._needs = tuple(needs)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def use(self, command: Sequence[str]) -> None:
        """Run this command from the next refit on."""
        self._command = tuple(command)

    def run(self) -> RefitReport:
        """Train, wait, report. Never raises for what the child does."""
        missing = missing_packages(self._needs)
        if missing:
            detail = f"not installed: {', '.join(missing)}; pip install 'headstart[train]' for fitted models"
            return RefitReport(outcome=RefitOutcome.SKIPPED, detail=detail)
        begun = time.monotonic()
        with tempfile.TemporaryFile() as words:
            try:
                outcome = self._supervise(words)
            except OSError as error:
                return RefitReport(outcome=RefitOutcome.FAILED, detail=f"could not start: {error}")
            return RefitReport(outcome=outcome, duration_s=time.monotonic() - begun, detail=_tail(words))

    def stop(self) -> None:
        """Kill a refit that is running, and let none begin."""
        with self._lock:
            self._stopping.set()
            if self._child is not None:
                _kill(self._child)

    def _supervise(self, words: IO[bytes]) -> RefitOutcome:
        with self._lock:
            if self._stopping.is_set():
                return RefitOutcome.STOPPED
            # A session of its own: whatever it starts dies with it.
            child = subprocess.Popen(self._command, stdout=words, stderr=words, start_new_session=True)
            self._child = child
        _make_modest(child.pid)
        try:
            code = child.wait(timeout=self._budget_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            child.wait()
            return RefitOutcome.TIMED_OUT
        finally:
            with self._lock:
                self._child = None
        if self._stopping.is_set():
            return RefitOutcome.STOPPED
        return RefitOutcome.DONE if code == 0 else RefitOutcome.FAILED


def _make_modest(pid: int) -> None:
    """Lower the child's claim on CPU and memory; a child that is gone already, or a system without /proc, is fine."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _tail(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - TAIL_CHARS))
    return words.read().decode("utf-8", errors="replace").strip()
