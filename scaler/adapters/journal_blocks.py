"""How one tick's records become blocks of the journal, and entries again.

It decides what a block holds, what is written once and referred to (forecasts, settings, start times), and when a
decision is kept in full. It opens no file and begins no transaction: it is handed a connection inside one.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from forecaster.types import EPOCH, Forecast
from scaler.adapters.codec import Codec, CodecError, digest
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Decision, LeadTime, PolicyState, Snapshot
from scaler.ports import DecisionRecord, Outcome, OutcomeKind

BLOCK_ROWS = 64
"""Workloads, or shared values, in one block: 80 B a record against 105 with 16 and 75 with 128; 6 ms to find one."""

_SHARED_BLOCKS = 128  # decoded blocks of forecasts and settings kept while reading: 8,192 values, about 20 MB

TABLES = """
    CREATE TABLE workload (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE layout (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE record (
        seq INTEGER NOT NULL, chunk INTEGER NOT NULL, layout INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (seq, chunk)
    ) STRICT;
    CREATE TABLE shared (
        first INTEGER PRIMARY KEY, count INTEGER NOT NULL, segment INTEGER NOT NULL,
        layout INTEGER NOT NULL, value BLOB NOT NULL
    ) STRICT;
    CREATE INDEX shared_segment ON shared (segment);
    CREATE TABLE outcome (
        seq INTEGER NOT NULL, workload INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL, found INTEGER,
        PRIMARY KEY (seq, workload)
    ) STRICT;
"""
"""`record`: one block of a tick and up to `BLOCK_ROWS` workloads. `shared`: `count` values from number `first` on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One record as read back. `decision` is None where only its digest was kept; deciding again gives it back."""

    at: datetime
    policy: WorkloadPolicy
    snapshot: Snapshot
    state: PolicyState
    grant: int | None
    decision: Decision | None
    decision_digest: int
    outcome: Outcome | None = None

    @property
    def workload(self) -> str:
        """Which workload was decided on."""
        return self.snapshot.workload

    def matches(self, decision: Decision) -> bool:
        """Whether `decision` is the one that was made then."""
        return digest(decision) == self.decision_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a block holds of each workload."""

    policy: WorkloadPolicy
    snapshot: Snapshot
    state: PolicyState
    grant: int | None
    decision: Decision | None
    decision_digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """A value that many records refer to."""

    value: Forecast | WorkloadPolicy | LeadTime


_ROWS = Codec(_Row, shared=(Forecast, WorkloadPolicy, LeadTime))
_SHARED = Codec(_Shared)

# What makes a decision new enough to be kept in full: the scale, the reason, or a clamp.
_Signature = tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class Memory:
    """What the writer remembers between ticks, never more than the last tick's workloads and values.

    It may be lost at any time: then settings and forecasts are written once more and every decision in full.
    """

    segment: int | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, tuple[_Signature, datetime]] = field(default_factory=dict)
    held: dict[int, tuple[Any, int, int]] = field(default_factory=dict)
    """id of a value → the value itself (which keeps the id its own), its digest, its number in `shared`."""


class Writer:
    """One tick's blocks on their way into the file. `memory` is the next tick's, valid once this one is committed."""

    def __init__(self, db: sqlite3.Connection, before: Memory, *, segment: int, full_every: timedelta) -> None:
        self._db = db
        self._full_every = full_every
        self._before = before if before.segment == segment else Memory(numbers=before.numbers, kept=before.kept)
        self._by_digest = {mark: number for _, mark, number in self._before.held.values()}
        self._fresh: list[_Shared] = []
        last = db.execute("SELECT first + count FROM shared ORDER BY first DESC LIMIT 1").fetchone()
        self._next = last[0] if last else 1
        self.memory = Memory(segment=segment, layouts=dict(self._before.layouts))

    def write(self, seq: int, records: Sequence[DecisionRecord]) -> int:
        """Store the records under `seq` and answer how many bytes their blocks have."""
        names = [record.snapshot.workload for record in records]
        if len(set(names)) != len(names):
            raise CodecError("a workload has two records in one tick")
        self.memory.numbers = {name: self._number(name) for name in names}
        in_order = sorted(records, key=lambda record: self.memory.numbers[record.snapshot.workload])
        size = 0
        for chunk, group in groupby(in_order, key=lambda r: chunk_of(self.memory.numbers[r.snapshot.workload])):
            block = _ROWS.encode([self._row(record) for record in group], intern=self._intern)
            size += self._store("INSERT INTO record VALUES (?, ?, ?, ?)", (seq, chunk, self._layout(_ROWS), block))
        for at in range(0, len(self._fresh), BLOCK_ROWS):
            values = self._fresh[at : at + BLOCK_ROWS]
            row = (self._next + at, len(values), self.memory.segment, self._layout(_SHARED), _SHARED.encode(values))
            size += self._store("INSERT INTO shared VALUES (?, ?, ?, ?, ?)", row)
        return size

    def _store(self, statement: str, row: tuple[Any, ...]) -> int:
        self._db.execute(statement, row)
        return len(row[-1])

    def _row(self, record: DecisionRecord) -> _Row:
        decision, name = record.decision, record.snapshot.workload
        clamps = tuple((each.rule, each.reason) for each in decision.adjustments)
        signature = (decision.current, decision.target, decision.reason, clamps)
        last = self._before.kept.get(name)
        full = last is None or last[0] != signature or not timedelta(0) <= record.at - last[1] < self._full_every
        self.memory.kept[name] = (signature, record.at) if last is None or full else last
        return _Row(
            policy=record.policy,
            snapshot=record.snapshot,
            state=record.state,
            grant=record.grant,
            decision=decision if full else None,
            decision_digest=digest(decision),
        )

    def _intern(self, value: Any) -> int:
        """The number of a shared value, which is stored now if the last tick did not refer to an equal one."""
        held = self.memory.held.get(id(value)) or self._before.held.get(id(value))
        if held is None:
            mark = digest((type(value).__name__, value))
            if mark not in self._by_digest:
                self._by_digest[mark] = self._next + len(self._fresh)
                self._fresh.append(_Shared(value=value))
            held = (value, mark, self._by_digest[mark])
        self.memory.held[id(value)] = held
        return held[2]

    def _number(self, name: str) -> int:
        known = self._before.numbers.get(name)
        if known is None:
            insert = (
                "INSERT INTO workload (name) VALUES (?) ON CONFLICT DO UPDATE SET name = excluded.name RETURNING id"
            )
            known = self._db.execute(insert, (name,)).fetchone()[0]
        return int(known)

    def _layout(self, codec: Codec[Any]) -> int:
        known = self.memory.layouts.get(codec.layout)
        if known is None:
            insert = "INSERT INTO layout (text) VALUES (?) ON CONFLICT DO UPDATE SET text = excluded.text RETURNING id"
            known = self.memory.layouts[codec.layout] = self._db.execute(insert, (codec.layout,)).fetchone()[0]
        return int(known)


class Reader:
    """Turns blocks back into entries; keeps the shared values that it met last. For one thread."""

    def __init__(self) -> None:
        self._layouts: dict[int, str] = {}
        self._blocks: OrderedDict[int, list[_Shared]] = OrderedDict()
        self._first_of: dict[int, int] = {}

    def entries(
        self, db: sqlite3.Connection, seq: int, at: datetime, *, workload: str | None = None
    ) -> Iterator[JournalEntry]:
        """The entries of one tick, or the one of `workload`."""
        where, arguments = "seq = ?", [seq]
        if workload is not None:
            found = db.execute("SELECT id FROM workload WHERE name = ?", (workload,)).fetchone()
            if found is None:
                return
            where, arguments = "seq = ? AND chunk = ?", [seq, chunk_of(found[0])]
        outcomes = {
            name: Outcome(kind=OutcomeKind(kind), detail=detail, found=scale)
            for name, kind, detail, scale in db.execute(
                "SELECT name, kind, detail, found FROM outcome JOIN workload ON workload.id = workload WHERE seq = ?",
                (seq,),
            )
        }
        blocks = db.execute(f"SELECT layout, value FROM record WHERE {where} ORDER BY chunk", arguments).fetchall()
        for layout, block in blocks:
            for row in _ROWS.decode(block, layout=self._layout(db, layout), resolve=lambda n: self._resolve(db, n)):
                name = row.snapshot.workload
                if workload is None or name == workload:
                    yield JournalEntry(
                        at=at,
                        policy=row.policy,
                        snapshot=row.snapshot,
                        state=row.state,
                        grant=row.grant,
                        decision=row.decision,
                        decision_digest=row.decision_digest,
                        outcome=outcomes.get(name),
                    )

    def _resolve(self, db: sqlite3.Connection, number: int) -> Any:
        first = self._first_of.get(number)
        if first is None:
            first = self._load(db, number)
        self._blocks.move_to_end(first)
        return self._blocks[first][number - first].value

    def _load(self, db: sqlite3.Connection, number: int) -> int:
        """Decode the block that holds a shared value, forget the one not used for longest, and answer its first."""
        row = db.execute(
            "SELECT first, count, layout, value FROM shared WHERE first <= ? ORDER BY first DESC LIMIT 1", (number,)
        ).fetchone()
        if row is None or number >= row[0] + row[1]:
            raise CodecError(f"shared value {number} is not on record")
        first, count, layout, block = row
        self._blocks[first] = _SHARED.decode(block, layout=self._layout(db, layout))
        self._first_of.update(dict.fromkeys(range(first, first + count), first))
        if len(self._blocks) > _SHARED_BLOCKS:
            gone, values = self._blocks.popitem(last=False)
            for old in range(gone, gone + len(values)):
                self._first_of.pop(old, None)
        return int(first)

    def _layout(self, db: sqlite3.Connection, number: int) -> str:
        if number not in self._layouts:
            row = db.execute("SELECT text FROM layout WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise CodecError(f"layout {number} is not on record")
            self._layouts[number] = row[0]
        return self._layouts[number]


def chunk_of(workload_number: int) -> int:
    """The block of a tick in which a workload lies."""
    return workload_number // BLOCK_ROWS


def micros_of(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(micros: int) -> datetime:
    """The moment that lies `micros` microseconds after the epoch."""
    return EPOCH + timedelta(microseconds=micros)
