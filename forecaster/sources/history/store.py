"""Per-minute history of every series on disk: recent minutes as they came, older UTC days as compressed blocks.

It decides what a stored point is (finite, not negative, not in the future, rounded to float32), which of two points
of the same minute counts (the one written last: a later read of a minute corrects an earlier one), when a day is
folded into blocks, and when it is forgotten. It never fills a gap, never orders a query, and never reads a clock.

Layout: a `live` row holds one minute of one append as two arrays (series ids, values), so that 2,000 series cost
one insert; a `block` row holds one series and UTC day as 1,440 float32 values, NaN for gaps. See docs/decisions/0004.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from forecaster.errors import HistoryError, SeriesError
from forecaster.sources.history.file import OpenReport, Part, open_writer, reading, transaction
from forecaster.sources.history.intake import AppendReport, Intake, Sample
from forecaster.sources.history.layout import (
    MINUTES_A_DAY,
    block_ends,
    fill_from_blocks,
    fill_from_live,
    folded,
    live_ends,
    live_series,
    load_live_day,
    minute_of,
    minutes_in,
    moment_of,
    pack,
    rows_by_number,
    select_ids,
    unpack,
)
from forecaster.types import STEP, Panel, SeriesKey, floor_to_step, require_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SLICE = 256  # series folded in one transaction: about 30 ms, so that the journal never waits long for the file
_SWEEP_MINUTES = 120  # a clock that was up to two hours ahead leaves points that are taken back once it is right

PART = Part(
    name="history",
    migrations=(
        """
        CREATE TABLE series (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            workload TEXT NOT NULL, signal TEXT NOT NULL, request_class TEXT NOT NULL,
            UNIQUE (workload, signal, request_class)
        ) STRICT;
        CREATE TABLE live (
            batch INTEGER PRIMARY KEY AUTOINCREMENT,
            minute INTEGER NOT NULL, series BLOB NOT NULL, value BLOB NOT NULL
        ) STRICT;
        CREATE INDEX live_minute ON live (minute);
        CREATE TABLE block (
            day INTEGER NOT NULL, series INTEGER NOT NULL, value BLOB NOT NULL,
            PRIMARY KEY (day, series)
        ) STRICT;
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLimits:
    """Bounds of the store. Points older than `keep_for` go, days older than `live_for` become blocks."""

    live_for: timedelta = timedelta(hours=48)
    keep_for: timedelta = timedelta(days=28)
    max_series: int = 50_000
    max_cells: int = 100_000_000
    """Largest panel that `read` answers, in values of 8 bytes: 2,000 series over 28 days are 80 million."""


class HistoryStore:
    """The history part of the daemon's file: one writer, any number of readers in any process.

    Methods may be called from any thread: writes take turns, each read has a connection of its own. Every method
    raises `HistoryError` when the disk does not play along (full, read-only), after which the store stays usable
    and the next call tries again; `HistoryDamaged` asks for quarantine, close and open.
    """

    def __init__(self, path: Path, db: sqlite3.Connection | None, report: OpenReport, limits: HistoryLimits) -> None:
        self.path = path
        self.report = report
        self._db = db
        self._limits = limits
        self._lock = threading.Lock()
        self._folding = threading.Lock()
        self._ids: dict[SeriesKey, int] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        now: datetime,
        read_only: bool = False,
        limits: HistoryLimits | None = None,
    ) -> Self:
        """The store at `path`. A writer makes what is missing and sets a damaged file aside (see `report`);
        a reader changes nothing on disk and needs the file to be there."""
        limits = limits or HistoryLimits()
        if read_only:
            store = cls(path, None, OpenReport(), limits)
            store.keys()
            return store
        db, report = open_writer(path, PART, now=now, durable=False)
        store = cls(path, db, report, limits)
        try:
            store._ids = store._known_ids()
            with store._lock, transaction(db, path):
                _sweep_future(db, now=now)
        except BaseException:
            db.close()
            raise
        return store

    def close(self) -> None:
        """Close the writer's connection; later writes raise `HistoryError`."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, samples: Iterable[Sample] | Panel, *, now: datetime) -> AppendReport:
        """Store points of bins that began at `now` or before, in one transaction.

        A panel must have the product's step of one minute; its NaN are gaps and change nothing. For the same
        series and minute the point written last counts, here and across appends.
        """
        intake = Intake(now=now, keep_for=self._limits.keep_for)
        if isinstance(samples, Panel):
            intake.take_panel(samples)
        else:
            intake.take_samples(samples)
        with self._lock:
            db = self._writer()
            with transaction(db, self.path):
                _sweep_future(db, now=now)
                fresh = _register(db, intake.keys, self._ids, room=self._limits.max_series - len(self._ids))
                ids = self._ids | fresh if fresh else self._ids
                of_key = np.array([ids.get(key, 0) for key in intake.keys], dtype=np.uint32)
                stored = 0
                for minute, keys, values in intake.minutes():
                    of_point = of_key[keys]
                    kept = of_point > 0
                    if not kept.any():
                        continue
                    stored += int(kept.sum())
                    db.execute(
                        "INSERT INTO live (minute, series, value) VALUES (?, ?, ?)",
                        (minute, of_point[kept].astype("<u4").tobytes(), values[kept].astype("<f4").tobytes()),
                    )
            self._ids = ids
        return replace(intake.report, stored=stored, over_limit=intake.points - stored)

    def forget(self, keys: Iterable[SeriesKey]) -> None:
        """Drop every point of these series; unknown keys are passed over. Their ids are never given out again."""
        with self._lock:
            db = self._writer()
            gone = {key: self._ids[key] for key in keys if key in self._ids}
            with transaction(db, self.path):
                _drop_series(db, gone.values())
            self._ids = {key: number for key, number in self._ids.items() if key not in gone}

    def compact(self, *, now: datetime) -> int:
        """Fold the oldest day that ended `live_for` ago into blocks and forget at most one day beyond `keep_for`.

        Answers the number of blocks written. One day a call, and `_SLICE` series a transaction, bound the work and
        the harm of a clock that is years ahead; call again until it answers 0. A crash in between costs nothing:
        rows are deleted last, and folding them again gives the same blocks.
        """
        require_utc(now, "now")
        with self._folding:
            written = self._fold_oldest_day(before=minute_of(now - self._limits.live_for) // MINUTES_A_DAY)
            self._forget_oldest_day(before=minute_of(now - self._limits.keep_for) // MINUTES_A_DAY)
        return written

    def _fold_oldest_day(self, *, before: int) -> int:
        with reading(self.path) as db:
            oldest = db.execute("SELECT min(minute) FROM live").fetchone()[0]
            if oldest is None or oldest // MINUTES_A_DAY >= before:
                return 0
            day = oldest // MINUTES_A_DAY
            numbers, values, last_batch = load_live_day(db, day)
        written = 0
        for at in range(0, len(numbers), _SLICE):
            written += self._fold_slice(day, numbers[at : at + _SLICE], values[at : at + _SLICE])
        with self._lock:
            db = self._writer()
            with transaction(db, self.path):
                db.execute(
                    "DELETE FROM live WHERE minute >= ? AND minute < ? AND batch <= ?",
                    (day * MINUTES_A_DAY, (day + 1) * MINUTES_A_DAY, last_batch),
                )
        return written

    def _fold_slice(self, day: int, numbers: NDArray[np.uint32], values: NDArray[np.float32]) -> int:
        """Lay live minutes over what the day's blocks hold already (a late back-fill), and write the blocks."""
        wanted = json.dumps(numbers.tolist())
        with reading(self.path) as db:
            rows = db.execute(
                "SELECT series, value FROM block WHERE day = ? AND series IN (SELECT value FROM json_each(?))",
                (day, wanted),
            )
            older = {number: unpack(block, self.path) for number, block in rows}
        blocks = []
        for number, row in zip(numbers.tolist(), values, strict=True):
            merged = np.where(np.isnan(row), older[number], row) if number in older else row
            blocks.append((day, number, pack(merged), number))
        with self._lock:
            db = self._writer()
            with transaction(db, self.path):
                # A series forgotten since the day was loaded must not come back: hence EXISTS.
                return db.executemany(
                    "INSERT OR REPLACE INTO block SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM series WHERE id = ?)",
                    blocks,
                ).rowcount

    def _forget_oldest_day(self, *, before: int) -> None:
        with self._lock:
            db = self._writer()
            with transaction(db, self.path):
                oldest = db.execute("SELECT min(day) FROM block").fetchone()[0]
                if oldest is None or oldest >= before:
                    return
                left = db.execute(
                    "SELECT series FROM block WHERE day = ? EXCEPT SELECT series FROM block WHERE day > ?",
                    (oldest, oldest),
                ).fetchall()
                db.execute("DELETE FROM block WHERE day = ?", (oldest,))
                live = live_series(db) if left else set()
                gone = {number for (number,) in left} - live
                _drop_series(db, gone)
            self._ids = {key: number for key, number in self._ids.items() if number not in gone}

    def _writer(self) -> sqlite3.Connection:
        if self._db is None:
            raise HistoryError(f"{self.path} is open for reading only, or closed: nothing can be stored")
        return self._db

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────

    def keys(self) -> tuple[SeriesKey, ...]:
        """Every series that has points, sorted."""
        return tuple(sorted(self._known_ids()))

    def read(self, keys: Sequence[SeriesKey], *, start: datetime, end: datetime, step: timedelta = STEP) -> Panel:
        """The bins from the one that holds `start` up to, not including, the one that holds `end`.

        Shape (len(keys), bins), float64 (stored at float32 precision), NaN where nothing is known, also for a key
        the store has never seen. A `step` of k minutes answers means over k bins aligned to `start`, NaN where
        less than half of them are known; the last bin must be whole, a shorter rest is left out.
        """
        fold = minutes_in(step)
        start, end = floor_to_step(start), floor_to_step(end)
        bins = max(0, (end - start) // STEP) // fold * fold
        if len(set(keys)) != len(keys):
            raise SeriesError("HistoryStore.read: a key is asked for twice")
        if len(keys) * bins > self._limits.max_cells:
            raise HistoryError(
                f"{len(keys)} series × {bins} minutes are more than {self._limits.max_cells} values at once; "
                "read fewer series or a shorter span"
            )
        values = np.full((len(keys), bins), np.nan)
        if bins and keys:
            with reading(self.path) as db:
                rows = rows_by_number(select_ids(db), keys)
                first = minute_of(start)
                fill_from_blocks(db, rows, values, first, self.path)
                fill_from_live(db, rows, values, first)
        return Panel(keys=tuple(keys), start=start, step=step, values=folded(values, fold))

    def last_minutes(self, keys: Sequence[SeriesKey], *, minutes: int, now: datetime) -> Panel:
        """The `minutes` whole bins that ended at `now` or before."""
        end = floor_to_step(now)
        return self.read(keys, start=end - minutes * STEP, end=end)

    def span(self, key: SeriesKey) -> tuple[datetime, datetime] | None:
        """Start of the first and of the last known bin of a series, or None if it has none."""
        with reading(self.path) as db:
            number = select_ids(db).get(key)
            if number is None:
                return None
            ends = [*block_ends(db, number, self.path), *live_ends(db, number)]
        return (moment_of(min(ends)), moment_of(max(ends))) if ends else None

    def _known_ids(self) -> dict[SeriesKey, int]:
        with reading(self.path) as db:
            return select_ids(db)


# ── the series table ──────────────────────────────────────────────────────────────────────────────────────────


def _register(
    db: sqlite3.Connection, keys: Iterable[SeriesKey], ids: dict[SeriesKey, int], *, room: int
) -> dict[SeriesKey, int]:
    """Ids for keys that are new, as many as there is room for."""
    fresh: dict[SeriesKey, int] = {}
    for key in keys:
        if key in ids or len(fresh) >= room:
            continue
        cursor = db.execute(
            # RETURNING, because a second process (`headstart tick`) may have named the series first.
            "INSERT INTO series (workload, signal, request_class) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET workload = excluded.workload RETURNING id",
            (key.workload, key.signal, key.request_class),
        )
        fresh[key] = cursor.fetchone()[0]
    return fresh


def _sweep_future(db: sqlite3.Connection, *, now: datetime) -> None:
    """Take back points that a clock running ahead left just after `now`; a clock years behind deletes no history."""
    last = minute_of(now)
    db.execute("DELETE FROM live WHERE minute > ? AND minute <= ?", (last, last + _SWEEP_MINUTES))


def _drop_series(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    wanted = json.dumps(list(numbers))
    db.execute("DELETE FROM block WHERE series IN (SELECT value FROM json_each(?))", (wanted,))
    db.execute("DELETE FROM series WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
