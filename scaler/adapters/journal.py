"""The durable record of every decision: what `decide` read, what it answered, and what became of the write.

It decides when a tick is safe, what is forgotten first, and what a restart goes on with. It never decides anything
about replicas: to replay, it is handed the function that does.

Every tick is one transaction, on the disk when `append` returns. Every record keeps all numbers and texts that
`decide` reads, the state included; the decision itself is kept in full when the scale, a clamp or a reason changed,
at the first tick after a start and at least hourly, else as a digest that a replay must meet. Forecasts and settings
are stored once an hour and referred to, so that each UTC hour (a segment) can be read alone, and be dropped alone
when its time has come. See docs/decisions/0004.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, Self

from forecaster.errors import HistoryError
from forecaster.sources.history.file import HistoryDamaged, OpenReport, Part, open_writer, reading, transaction
from forecaster.types import require_utc
from scaler.adapters.codec import CodecError
from scaler.adapters.journal_blocks import TABLES, JournalEntry, Memory, Reader, Writer, micros_of, moment_of
from scaler.loop import settled
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Decision, PolicyState, Snapshot
from scaler.ports import DecisionRecord, Outcome

_HOUR = timedelta(hours=1)
_PAGE_TICKS = 32  # ticks read under one snapshot: a replay of days must not keep the log from being reused
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)

PART = Part(
    name="journal",
    migrations=(
        TABLES
        + """
        CREATE TABLE tick (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            at_us INTEGER NOT NULL, segment INTEGER NOT NULL, bytes INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX tick_at ON tick (at_us);
        CREATE INDEX tick_segment ON tick (segment, bytes)
        """,
    ),
)


class StoreError(OSError):
    """The data file refused (full, read-only, locked); nothing of this call was stored, the next may succeed."""


class StoreDamaged(StoreError):
    """The data file contradicts itself; `scaler.adapters.store.Store.recover` sets it aside and begins a new one."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the file and the codec raise into `StoreError`: the loop's port promises `OSError` and no other."""
    try:
        yield
    except HistoryDamaged as error:
        raise StoreDamaged(str(error)) from error
    except HistoryError as error:
        raise StoreError(str(error)) from error
    except CodecError as error:
        raise StoreError(f"{path}: a record does not fit: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """How much is kept. The oldest hours go first; the running hour stays, whatever it weighs."""

    keep_for: timedelta = timedelta(days=14)
    max_bytes: int = 2_000_000_000
    """Bytes in blocks; SQLite adds about a tenth, and the history lies in the same file."""
    full_every: timedelta = _HOUR
    """Longest time between two full decisions of a workload."""


class Redecide(Protocol):
    """The decision as a function, such as `scaler.policy.decide.decide_within`."""

    def __call__(
        self, snapshot: Snapshot, state: PolicyState, policy: WorkloadPolicy, allowed: int | None, /, *, now: datetime
    ) -> tuple[Decision, PolicyState]:
        """The decision after the fleet's cut to `allowed`, and the state after it."""
        ...


class SqliteJournal:
    """The journal in the daemon's data file: one writer, readers beside it in any thread or process."""

    def __init__(self, path: Path, db: sqlite3.Connection | None, report: OpenReport, limits: JournalLimits) -> None:
        self.path = path
        self.report = report
        self._db = db
        self._limits = limits
        self._lock = threading.Lock()
        self._memory = Memory()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        now: datetime,
        read_only: bool = False,
        check: bool = True,
        limits: JournalLimits | None = None,
    ) -> Self:
        """The journal at `path`; a writer makes what is missing, a reader changes nothing. Raises `StoreError`.

        `check=False` is for a file that was checked a moment ago.
        """
        limits = limits or JournalLimits()
        with translated(path):
            if read_only:
                with reading(path) as probe:
                    probe.execute("SELECT count(*) FROM tick LIMIT 1")
                return cls(path, None, OpenReport(), limits)
            db, report = open_writer(path, PART, now=now, durable=True, check=check)
            return cls(path, db, report, limits)

    def close(self) -> None:
        """Close the writer's connection; later writes raise `StoreError`."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Store one tick's records in one transaction; on the disk when this returns. Raises `StoreError`.

        After a failure nothing of the tick is stored, and the next tick is written as if this one had not been.
        """
        if not records:
            return
        at = require_utc(records[0].at, "DecisionRecord.at")
        if any(record.at != at for record in records):
            raise StoreError(f"{self.path}: the records of one tick must be of one time, {at:%FT%TZ}")
        segment = _segment(at)
        with self._lock, translated(self.path):
            with transaction(self._writer(), self.path) as db:
                if segment != self._memory.segment:
                    _prune(db, at, self._limits)
                writer = Writer(db, self._memory, segment=segment, full_every=self._limits.full_every)
                insert = "INSERT INTO tick (at_us, segment, bytes) VALUES (?, ?, 0) RETURNING seq"
                (seq,) = db.execute(insert, (micros_of(at), segment)).fetchone()
                db.execute("UPDATE tick SET bytes = ? WHERE seq = ?", (writer.write(seq, records), seq))
            self._memory = writer.memory

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Store what became of the writes of the tick at `at`. Raises `StoreError`, also for a tick not on record."""
        with self._lock, translated(self.path):
            with transaction(self._writer(), self.path) as db:
                (seq,) = db.execute("SELECT max(seq) FROM tick WHERE at_us = ?", (micros_of(at),)).fetchone()
                db.executemany(
                    "INSERT OR REPLACE INTO outcome SELECT ?, id, ?, ?, ? FROM workload WHERE name = ?",
                    [(seq, each.kind.value, each.detail, each.found, name) for name, each in outcomes.items() if seq],
                )
            if seq is None:
                raise StoreError(f"{self.path}: no tick at {at:%FT%TZ} is on record, its outcomes are not stored")

    def _writer(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.path} is open for reading only, or closed: nothing can be recorded")
        return self._db

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────

    def ticks(self, *, since: datetime = _BEGINNING, until: datetime = _END) -> tuple[datetime, ...]:
        """Times of the ticks in [since, until), in the order of writing; 20,160 of them are 14 days."""
        with translated(self.path), reading(self.path) as db:
            rows = db.execute(
                "SELECT at_us FROM tick WHERE at_us >= ? AND at_us < ? ORDER BY seq",
                (micros_of(since), micros_of(until)),
            )
            return tuple(moment_of(at_us) for (at_us,) in rows)

    def starts_at(self) -> datetime | None:
        """The oldest tick on record: a replay can start there. None for an empty journal."""
        with translated(self.path), reading(self.path) as db:
            row = db.execute("SELECT at_us FROM tick ORDER BY seq LIMIT 1").fetchone()
        return moment_of(row[0]) if row else None

    def records(
        self, workload: str | None = None, *, since: datetime = _BEGINNING, until: datetime = _END
    ) -> Iterator[JournalEntry]:
        """Entries of one workload, or of all, in [since, until), tick by tick in the order of writing.

        Works page by page: ticks that are dropped or added meanwhile are absent or present as a whole.
        """
        reader, after = Reader(), 0
        while True:
            with translated(self.path), reading(self.path) as db:
                ticks = db.execute(
                    "SELECT seq, at_us FROM tick WHERE seq > ? AND at_us >= ? AND at_us < ? ORDER BY seq LIMIT ?",
                    (after, micros_of(since), micros_of(until), _PAGE_TICKS),
                ).fetchall()
                page = [
                    entry
                    for seq, at_us in ticks
                    for entry in reader.entries(db, seq, moment_of(at_us), workload=workload)
                ]
            yield from page
            if len(ticks) < _PAGE_TICKS:
                return
            after = ticks[-1][0]

    def at(self, workload: str, moment: datetime, *, within: timedelta = _HOUR) -> JournalEntry | None:
        """The workload's last entry at or before `moment` and not older than `within` of it."""
        reader = Reader()
        with translated(self.path), reading(self.path) as db:
            ticks = db.execute(
                "SELECT seq, at_us FROM tick WHERE at_us BETWEEN ? AND ? ORDER BY at_us DESC, seq DESC",
                (micros_of(moment - within), micros_of(moment)),
            )
            entries = (reader.entries(db, seq, moment_of(at_us), workload=workload) for seq, at_us in ticks.fetchall())
            return next((entry for tick in entries for entry in tick), None)

    def latest(self, *, now: datetime) -> tuple[JournalEntry, ...]:
        """The entries of the newest tick that is not after `now`: a tick from the future is a clock's mistake."""
        with translated(self.path), reading(self.path) as db:
            row = db.execute(
                "SELECT seq, at_us FROM tick WHERE at_us <= ? ORDER BY at_us DESC, seq DESC LIMIT 1", (micros_of(now),)
            ).fetchone()
            return tuple(Reader().entries(db, row[0], moment_of(row[1]))) if row else ()

    def states(self, redecide: Redecide, *, now: datetime) -> dict[str, tuple[PolicyState, datetime]]:
        """The state after each workload's last decision, and when that was: what a restart goes on with.

        Records keep the state before a decision; the one after it is made again by deciding once more, and told what
        became of the write: one without an outcome may have happened.
        """
        found = {}
        for entry in self.latest(now=now):
            decision, after = redecide(entry.snapshot, entry.state, entry.policy, entry.grant, now=entry.at)
            found[entry.workload] = (settled(after, decision, entry.outcome), entry.at)
        return found


def _segment(at: datetime) -> int:
    return micros_of(at) // (_HOUR // timedelta(microseconds=1))


def _prune(db: sqlite3.Connection, at: datetime, limits: JournalLimits) -> None:
    """Drop the oldest hours over the limits: two by age, 24 by size at most.

    Called once an hour: two are enough to keep up, and bound what a clock that is years ahead can destroy.
    """
    (total,) = db.execute("SELECT coalesce(sum(bytes), 0) FROM tick").fetchone()
    sizes = db.execute("SELECT segment, sum(bytes) FROM tick GROUP BY segment ORDER BY segment LIMIT 24").fetchall()
    for place, (segment, size) in enumerate(sizes):
        too_old = segment < _segment(at - limits.keep_for) and place < 2
        if segment == _segment(at) or not (too_old or total > limits.max_bytes):
            return
        total -= size
        for table in ("record", "outcome"):
            db.execute(f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM tick WHERE segment = ?)", (segment,))
        for table in ("shared", "tick"):
            db.execute(f"DELETE FROM {table} WHERE segment = ?", (segment,))


# ── replay ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRow:
    """One decision made again. `recorded` is None where it was a digest that the replay does not meet."""

    workload: str
    at: datetime
    equal: bool
    recorded: Decision | None
    replayed: Decision


def replay(
    entries: Iterable[JournalEntry], redecide: Redecide, *, policies: Mapping[str, WorkloadPolicy] | None = None
) -> Iterator[ReplayRow]:
    """Decide every entry again and compare with what is on record.

    With `policies`, workloads named there are decided under them instead, each going on from its own last state: a
    row that is not `equal` is then a decision that would have been another. Pods and traffic stay as recorded, so
    only the first differences of a run tell what would have happened.
    """
    states: dict[str, PolicyState] = {}
    for entry in entries:
        made, _ = redecide(entry.snapshot, entry.state, entry.policy, entry.grant, now=entry.at)
        recorded = entry.decision or (made if entry.matches(made) else None)
        policy = (policies or {}).get(entry.workload)
        if policy is not None:
            state = states.get(entry.workload, entry.state)
            made, states[entry.workload] = redecide(entry.snapshot, state, policy, entry.grant, now=entry.at)
        yield ReplayRow(
            workload=entry.workload, at=entry.at, equal=entry.matches(made), recorded=recorded, replayed=made
        )
