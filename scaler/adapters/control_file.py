"""`control.json` in the data folder: the one place where a person's orders to this daemon stand.

The commands and the API write it, the tick reads it, and a person can with an editor. A change is read, made and
written under a lock and put in place in one step, so that no reader sees half a file and no order is lost between two
people. What cannot be read changes nothing: the last orders that could be read stay in force, and where there are none
nothing is written to the cluster, because one of them may have been a pause.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from scaler.adapters.orders import OrderRefused, Orders, from_json, to_json
from scaler.policy import control
from scaler.policy.types import Control, Pause, Source

FILE_NAME = "control.json"
LOCK_NAME = "control.lock"
MAX_BYTES = 4 * 2**20
"""2,000 workloads with two orders each are 1 MB."""
LOCK_PATIENCE_S = 5.0
"""A change takes milliseconds; a lock that is held longer belongs to a process that is stopped."""


class ControlUnreadable(OSError):
    """The file is there and its orders cannot be read; the text says where and what to do."""


class ControlFile:
    """Reads and changes the file. Safe between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lock = folder / LOCK_NAME

    def load(self) -> Orders:
        """The orders on file, none where there is no file. Raises `ControlUnreadable`."""
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return Orders()
            raise ControlUnreadable(f"{self.path}: its folder is not there") from None
        except OSError as error:
            raise ControlUnreadable(f"{self.path} cannot be read ({error.strerror})") from error
        if len(text) > MAX_BYTES:
            raise ControlUnreadable(f"{self.path} has over {MAX_BYTES} bytes, which no orders take")
        try:
            return from_json(text)
        except OrderRefused as error:
            raise ControlUnreadable(f"{self.path}: {error}; mend it, or remove it to end all orders") from error

    def change(self, edit: Callable[[Orders], Orders], *, now: datetime) -> Orders:
        """Make one change and answer all orders after it; on the disk when this returns.

        Raises `OSError` where the folder cannot be written, and `ControlUnreadable` where the orders that are there
        cannot be read: they are not written over.
        """
        with self._locked():
            orders = edit(self.load()).pruned(now=now)
            self._replace(to_json(orders))
        return orders

    def _replace(self, text: str) -> None:
        scratch = self.path.with_name(f".{FILE_NAME}.{os.getpid()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self.path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            where = f"{self.path.parent}: orders cannot be written here ({error.strerror})"
            raise OSError(f"{where}; name the daemon's data folder, as its account") from error
        try:
            _take(descriptor, self._lock)
            yield
        finally:
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    ends = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise OSError(f"{path} is held by another process for {LOCK_PATIENCE_S:g} s; try again") from None
            time.sleep(0.01)


class ControlReader:
    """The loop's `Controls` over the file: read again when it has changed, and kept when it cannot be read.

    Writes that leave at the same time ask it from a thread each: one looks and reads, the others wait for that.
    """

    def __init__(
        self,
        file: ControlFile,
        *,
        last: Callable[[], Mapping[str, Control]] = dict,
        on_change: Callable[[Orders, Orders], None] = lambda _before, _after: None,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`last` are the orders that the last run decided with, for a start with a damaged file; `on_change` is told
        of orders before and after, `on_trouble` of what is wrong with the file, once, and of its end with ""."""
        self._file = file
        self._last = last
        self._fallback: Mapping[str, Control] | None = None
        self._on_change, self._on_trouble = on_change, on_trouble
        self._orders: Orders | None = None
        self._mark: tuple[int, int, int] | None = None
        self._asked = threading.Lock()
        self._tried_at: datetime | None = None
        self.trouble = ""
        """What keeps the file from being read; empty if nothing does."""

    def of(self, workload: str, *, now: datetime) -> Control:
        """See `scaler.ports.Controls`."""
        with self._asked:
            self._refresh(now)
            if self._orders is not None:
                return self._orders.of(workload, now=now)
            if self._fallback is None:
                self._fallback = self._last()
            unread = Pause(source=Source.UNREADABLE, reason=self.trouble)
            return self._fallback.get(workload, Control(pause=unread))

    def _refresh(self, now: datetime) -> None:
        """Read the file where it is another one than before; one that could not be read once more at each tick."""
        mark = self._look()
        if mark == self._mark and (not self.trouble or now == self._tried_at):
            return
        self._tried_at = now
        try:
            orders = self._file.load()
        except ControlUnreadable as error:
            self._mark = mark
            self._say(str(error))
            return
        before, self._orders = self._orders, orders
        self._mark = mark  # a file that was replaced since it was looked at has another one, and is read once more
        self._say("")
        if before != orders and (before is not None or orders != Orders()):
            self._on_change(before or Orders(), orders)

    def _look(self) -> tuple[int, int, int]:
        """What changes with the file: every change puts another file in place."""
        try:
            found = self._file.path.stat()
        except OSError as error:
            return -(error.errno or 1), int(self._file.path.parent.is_dir()), 0
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._on_trouble(trouble)


def changes_of(before: Orders, after: Orders) -> dict[str, str]:
    """What differs between two states of the file, for the log: "fleet" and the first twenty workloads."""
    changed = {}
    if before.fleet != after.fleet:
        changed["fleet"] = summary(after.fleet)
    names = sorted({*before.workloads, *after.workloads})
    differing = [name for name in names if before.own(name) != after.own(name)]
    if differing:
        changed["workloads"] = "; ".join(f"{name}: {summary(after.own(name))}" for name in differing[:_TOLD])
    return changed


_TOLD = 20


def summary(ordered: Control) -> str:
    """The orders in one line: "paused by ana: maintenance; 8 replicas until …"."""
    parts = []
    if ordered.pause is not None:
        parts.append(control.pause_text(ordered.pause))
    if ordered.override is not None:
        override = ordered.override
        parts.append(f"{override.replicas} replicas until {override.until:%FT%TZ} by {override.by}: {override.reason}")
    if ordered.mode is not None:
        parts.append(control.mode_text(ordered.mode))
    return "; ".join(parts) or "nothing ordered"
