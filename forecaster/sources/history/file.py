"""How the daemon's one SQLite file is opened, written, set aside, and refused.

It decides when a file is damaged (renamed aside, a fresh one begun, and the caller told), when it is somebody
else's or newer than this program (refused, never touched), and how a transaction begins and ends. It never knows
what is stored: history, journal and small blobs each bring their own `Part` of the schema and their own connection.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from forecaster.errors import HistoryError
from forecaster.types import require_utc

APPLICATION_ID = 0x48445354
"""Marks the file as ours ("HDST"): a mistyped path never turns another program's database into a quarantine."""

QUICK_CHECK_LIMIT_BYTES = 64 * 1024 * 1024
"""Larger files are checked by their header, schema and first reads only: a full check reads about 400 MB/s, and the
first decision after a restart is due within 5 s. Damage deeper inside shows at the read that meets it."""

QUARANTINED_KEPT = 3
"""Damaged files kept for a post-mortem; the oldest beyond that are deleted, so that a bad disk cannot fill itself."""

BUSY_S = 5.0
"""How long a writer waits for another before it gives up; a tick's deadline is 10 s."""

_COMPANIONS = ("", "-wal", "-shm")


class HistoryDamaged(HistoryError):
    """The file's content contradicts itself: close every connection, `quarantine` it and open again."""


class HistoryNewer(HistoryError):
    """A newer version wrote this file; it is left exactly as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One user of the file: its name and its schema as scripts, script i leading from version i to i + 1."""

    name: str
    migrations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What opening did: `quarantined` is where a damaged file went, with `damage` saying what was wrong with it."""

    created: bool = False
    quarantined: Path | None = None
    damage: str = ""


def open_writer(
    path: Path, part: Part, *, now: datetime, durable: bool, check: bool = True
) -> tuple[sqlite3.Connection, OpenReport]:
    """A connection that may write `part`, after the checks above; the file and its folder are made if absent.

    `durable` commits are on the disk when they return (synchronous=FULL); else a power cut may lose the last
    commits, never tear one (NORMAL). A killed process loses nothing either way. Raises `HistoryError` when the
    folder cannot be written, `HistoryNewer` for a newer schema. `check=False` skips the search for damage, for the
    second and third connection to one file.
    """
    require_utc(now, "now")
    report = OpenReport()
    _create(path)
    try:
        if check:
            _check(path)
    except HistoryDamaged as damage:
        report = OpenReport(quarantined=quarantine(path, now=now), damage=str(damage))
        _create(path)
    if path.stat().st_size == 0:
        report = OpenReport(created=True, quarantined=report.quarantined, damage=report.damage)
    with translated(path):
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path, part, durable=durable)
        except BaseException:
            db.close()
            raise
    return db, report


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection held on one snapshot of the file; writers go on beside it.

    Opened for each use (0.2 ms): it belongs to the thread that asked, and a forgotten reader cannot keep the
    write-ahead log from being reused.
    """
    with translated(path):
        if not path.exists():
            raise HistoryError(f"{path} does not exist: is this the data folder of a daemon that has run?")
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as db:
            db.execute("BEGIN")
            found = db.execute("PRAGMA application_id").fetchone()[0]
            if found != APPLICATION_ID:
                raise HistoryError(f"{path} is a SQLite file of another program (application id {found:#x})")
            yield db


@contextmanager
def transaction(db: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """One write transaction: all of it or nothing, whatever is raised inside or by the disk."""
    with translated(path):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into `HistoryError`, damage into `HistoryDamaged`."""
    try:
        yield
    except sqlite3.Error as error:
        if _is_damage(error):
            raise HistoryDamaged(f"{path} is damaged ({error}); it is set aside when it is next opened") from error
        raise HistoryError(
            f"{path} cannot be used ({error}); nothing of this step was stored, what is in memory stays valid. "
            "Check free space and permissions of the data folder"
        ) from error
    except OSError as error:
        raise HistoryError(f"{path} cannot be used ({error}); check free space and permissions") from error


def quarantine(path: Path, *, now: datetime) -> Path:
    """Rename the file and its companions aside and answer the new name; no connection to it may be open.

    The name carries `now`, so it sorts by time; companions keep their suffix, so SQLite can still open the copy.
    """
    require_utc(now, "now")
    base = f"{path.name}.damaged-{now:%Y%m%dT%H%M%S}Z"
    taken = sum(1 for name in os.listdir(path.parent) if name.startswith(base) and not name.endswith(_COMPANIONS[1:]))
    aside = path.with_name(f"{base}-{taken}" if taken else base)
    with translated(path):
        for suffix in _COMPANIONS:
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(aside.with_name(aside.name + suffix))
        for old in quarantined(path)[:-QUARANTINED_KEPT]:
            for suffix in _COMPANIONS:
                old.with_name(old.name + suffix).unlink(missing_ok=True)
    return aside


def quarantined(path: Path) -> tuple[Path, ...]:
    """The damaged files set aside for `path`, oldest first."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return tuple(sorted(p for p in found if not p.name.endswith(_COMPANIONS[1:])))


def _create(path: Path) -> None:
    """Make the folder and an empty file that only its owner may read; SQLite gives its companions the same mode.

    A file that is there is not opened: closing it would drop every POSIX lock that this process holds on it by its
    other connections. The next program to close the file, a backup even, would then delete the log that we write to.
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _check(path: Path) -> None:
    """Raise `HistoryDamaged` for a damaged file, `HistoryError` for somebody else's; an empty one is fine."""
    with (
        translated(path),
        closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as db,
    ):
        if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return
        found = db.execute("PRAGMA application_id").fetchone()[0]
        if found != APPLICATION_ID:
            raise HistoryError(f"{path} is a SQLite file of another program (application id {found:#x}); not touched")
        if path.stat().st_size <= QUICK_CHECK_LIMIT_BYTES:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise HistoryDamaged(f"{path} is damaged: {verdict}")


def _prepare(db: sqlite3.Connection, path: Path, part: Part, *, durable: bool) -> None:
    """Set the connection up and bring `part` to this version's schema."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    db.execute("PRAGMA journal_size_limit = 67108864")  # the log shrinks again after one huge back-fill
    db.execute("PRAGMA temp_store = MEMORY")
    with transaction(db, path):
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("CREATE TABLE IF NOT EXISTS part (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT")
        row = db.execute("SELECT version FROM part WHERE name = ?", (part.name,)).fetchone()
        version = row[0] if row else 0
        known = len(part.migrations)
        if version > known:
            raise HistoryNewer(
                f"{path}: its {part.name} tables have schema {version}, this program knows up to {known}. "
                "A newer headstart wrote it: install that version again, or start with another --data-dir"
            )
        for script in part.migrations[version:]:
            for statement in filter(None, map(str.strip, script.split(";"))):
                db.execute(statement)
        if version < known:
            db.execute("INSERT OR REPLACE INTO part VALUES (?, ?)", (part.name, known))


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
