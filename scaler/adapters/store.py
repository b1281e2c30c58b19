"""The daemon's data file as a whole: history, journal and small blobs, opened, recovered and closed together.

It decides the order in which they are opened, and that a damaged file is set aside for all three at once. It never
decides when to recover: the shell does, and says so.
"""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime
from pathlib import Path
from typing import Self

from forecaster.errors import HistoryError
from forecaster.sources.history import HistoryLimits, HistoryStore
from forecaster.sources.history.file import OpenReport, Part, open_writer, quarantine, reading, transaction
from forecaster.types import require_utc
from scaler.adapters.journal import JournalLimits, SqliteJournal, StoreError, translated
from scaler.adapters.journal_blocks import micros_of, moment_of

FILE_NAME = "headstart.db"
"""The one file in a data folder."""

MAX_BLOB_BYTES = 32 * 1024 * 1024
"""Trackers and weights of 2,000 workloads are a few MB; more is a mistake, not state."""

PART = Part(
    name="blob",
    migrations=("CREATE TABLE blob (name TEXT PRIMARY KEY, at_us INTEGER NOT NULL, value BLOB NOT NULL) STRICT",),
)


class Store:
    """History, journal and blobs in one file. `report` says whether a damaged file was set aside on opening."""

    def __init__(self, path: Path, *, history_limits: HistoryLimits, journal_limits: JournalLimits) -> None:
        self.path = path
        self._history_limits = history_limits
        self._journal_limits = journal_limits
        self._lock = threading.Lock()
        self._recovery = threading.Lock()
        self._generation = 0
        self._aside: Path | None = None  # where a recovery that is not over yet has put the damaged file
        self._db: sqlite3.Connection | None = None
        self.history: HistoryStore
        self.journal: SqliteJournal
        self.report = OpenReport()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        now: datetime,
        history_limits: HistoryLimits | None = None,
        journal_limits: JournalLimits | None = None,
    ) -> Self:
        """The data file in `folder`, made if absent. Raises `StoreError` if the folder cannot be written or a newer
        version wrote the file: the daemon then runs from memory, or refuses to start."""
        store = cls(
            folder / FILE_NAME,
            history_limits=history_limits or HistoryLimits(),
            journal_limits=journal_limits or JournalLimits(),
        )
        store._connect(now=now)
        return store

    def recover(self, *, now: datetime) -> OpenReport:
        """After `StoreDamaged` or `HistoryDamaged`: close everything, set the file aside, begin a new one.

        `history` and `journal` are new objects afterwards. Threads that meet the damage together recover once. If it
        raises `StoreError` (disk full), the store is closed and a later call tries again.
        """
        seen = self._generation
        with self._recovery, translated(self.path):
            if self._generation != seen:
                return self.report
            self.close()
            if self._aside is None and self.path.exists():
                self._aside = quarantine(self.path, now=now)
            self._connect(now=now)
            self._generation += 1
            aside, self._aside = self._aside, None
            self.report = OpenReport(created=True, quarantined=aside, damage="found while the daemon was running")
            return self.report

    def close(self) -> None:
        """Close all three; whatever was committed is safe."""
        if self._db is None:
            return
        with self._lock:
            self._db.close()
            self._db = None
        self.journal.close()
        self.history.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save_blob(self, name: str, value: bytes, *, now: datetime) -> None:
        """Store `value` under `name` in place of what was there; whole or not at all. Raises `StoreError`."""
        require_utc(now, "now")
        if len(value) > MAX_BLOB_BYTES:
            raise StoreError(f"blob {name!r} has {len(value)} bytes, more than {MAX_BLOB_BYTES}: not stored")
        with self._lock, translated(self.path):
            if self._db is None:
                raise StoreError(f"{self.path} is closed: blob {name!r} is not stored")
            with transaction(self._db, self.path) as db:
                db.execute("INSERT OR REPLACE INTO blob VALUES (?, ?, ?)", (name, micros_of(now), value))

    def load_blob(self, name: str) -> tuple[bytes, datetime] | None:
        """What was last stored under `name`, and when; None if nothing was. Raises `StoreError`."""
        return read_blob(self.path, name)

    def _connect(self, *, now: datetime) -> None:
        """Open all three or none. History comes first: it is the one that checks the file and sets it aside."""
        opened: list[HistoryStore | SqliteJournal] = []
        try:
            with translated(self.path):
                self.history = HistoryStore.open(self.path, now=now, limits=self._history_limits)
                opened.append(self.history)
                self.journal = SqliteJournal.open(self.path, now=now, check=False, limits=self._journal_limits)
                opened.append(self.journal)
                self._db, _ = open_writer(self.path, PART, now=now, durable=False, check=False)
        except (StoreError, HistoryError):
            for each in opened:
                each.close()
            raise
        self.report = self.history.report


def read_blob(path: Path, name: str) -> tuple[bytes, datetime] | None:
    """What was last stored under `name` in the data file at `path`, and when; beside a running daemon or without one.

    None if nothing was. Raises `StoreError`.
    """
    with translated(path), reading(path) as db:
        row = db.execute("SELECT value, at_us FROM blob WHERE name = ?", (name,)).fetchone()
    return (row[0], moment_of(row[1])) if row else None
