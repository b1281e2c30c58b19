"""How the data file is opened, refused and set aside, and what a killed writer leaves behind."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.errors import HistoryError
from forecaster.sources.history.file import HistoryDamaged, HistoryNewer, quarantine, quarantined
from forecaster.sources.history.store import PART, HistoryStore
from forecaster.types import EPOCH, STEP, SeriesKey

NOW = datetime(2026, 11, 4, 10, 15, 30, tzinfo=UTC)
CHAT = SeriesKey(workload="llm/chat", signal="demand_rps")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headstart.db"


def a_file_with_history(path: Path) -> None:
    with HistoryStore.open(path, now=NOW) as store:
        samples = [
            (SeriesKey(workload=f"llm/w{i}", signal="demand_rps"), NOW - m * STEP, float(i))
            for m in range(0, 8 * 1440, 60)
            for i in range(20)
        ]
        store.append(samples, now=NOW)
        while store.compact(now=NOW):
            pass


def write_over(path: Path, *, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    ("at", "data"),
    [
        pytest.param(0, b"\x00" * 100, id="header zeroed"),
        pytest.param(0, b"<html><body>503", id="something else entirely"),
        pytest.param(100, b"\xff" * 4096, id="schema page"),
        pytest.param(4096 * 5, b"\xa5" * 4096 * 8, id="pages in the middle"),
    ],
)
def test_a_damaged_file_is_set_aside_and_said_so(path: Path, at: int, data: bytes) -> None:
    a_file_with_history(path)
    write_over(path, at=at, data=data)
    damaged = path.read_bytes()
    with HistoryStore.open(path, now=NOW) as store:
        assert store.keys() == ()
        assert store.report.created
        assert store.report.quarantined == path.with_name("headstart.db.damaged-20261104T101530Z")
        assert store.report.damage
        assert store.append([(CHAT, NOW, 1.0)], now=NOW).stored == 1
    assert store.report.quarantined.read_bytes() == damaged
    with HistoryStore.open(path, now=NOW) as store:
        assert store.report.quarantined is None
        assert store.keys() == (CHAT,)


def test_a_truncated_file_is_set_aside(path: Path) -> None:
    a_file_with_history(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with HistoryStore.open(path, now=NOW) as store:
        assert store.report.quarantined is not None


def test_damage_met_while_reading_asks_for_quarantine(path: Path) -> None:
    a_file_with_history(path)
    key = SeriesKey(workload="llm/w3", signal="demand_rps")
    db = sqlite3.connect(path)
    db.execute("UPDATE block SET value = substr(value, 1, 20)")
    db.commit()
    db.close()
    with HistoryStore.open(path, now=NOW) as store, pytest.raises(HistoryDamaged, match="damaged"):
        store.read([key], start=NOW - timedelta(days=8), end=NOW)
    aside = quarantine(path, now=NOW)
    with HistoryStore.open(path, now=NOW) as store:
        assert store.keys() == ()
    assert quarantined(path) == (aside,)


def test_damaged_files_do_not_fill_the_disk(path: Path) -> None:
    for hour in range(6):
        path.write_bytes(b"not a database" * 100)
        HistoryStore.open(path, now=NOW + timedelta(hours=hour)).close()
    kept = quarantined(path)
    assert [p.name[-16:] for p in kept] == ["20261104T131530Z", "20261104T141530Z", "20261104T151530Z"]


def test_two_damaged_files_in_one_second_are_both_kept(path: Path) -> None:
    for _ in range(2):
        path.write_bytes(b"not a database" * 100)
        HistoryStore.open(path, now=NOW).close()
    assert len(quarantined(path)) == 2


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    a_file_with_history(path)
    db = sqlite3.connect(path)
    db.execute("UPDATE part SET version = version + 1")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryNewer, match=f"schema {len(PART.migrations) + 1}.*newer headstart.*--data-dir"):
        HistoryStore.open(path, now=NOW)
    assert path.read_bytes() == before
    assert quarantined(path) == ()


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE moz_places (url TEXT)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(HistoryError, match="another program"):
        HistoryStore.open(path, now=NOW)
    assert path.read_bytes() == before


def test_a_reader_says_that_another_programs_database_is_none_of_ours(path: Path) -> None:
    """Not "no such table": whoever mistyped a path learns that it is the wrong file."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(HistoryError, match="another program"):
        HistoryStore.open(path, now=NOW, read_only=True)


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be used"):
        HistoryStore.open(tmp_path / "file" / "headstart.db", now=NOW)


_FULL_DISK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
import numpy as np
from forecaster.errors import HistoryError
from forecaster.sources.history import HistoryStore
from forecaster.types import STEP, Panel, SeriesKey
now = datetime(2026, 11, 4, 10, 15, tzinfo=UTC)
keys = tuple(SeriesKey(workload=f"llm/w{i}", signal="demand_rps") for i in range(500))
panel = Panel(keys=keys, start=now - 400 * STEP, step=STEP, values=np.random.default_rng(0).random((500, 400)))
store = HistoryStore.open(Path(sys.argv[1]), now=now)
store.append([(keys[0], now, 1.0)], now=now)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    store.append(panel, now=now)
except HistoryError as error:
    print("refused:", error)
print("still there:", store.keys() == (keys[0],), store.span(keys[0]) == (now, now))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("recovered:", store.append(panel, now=now).stored)
"""


def test_a_full_disk_is_a_typed_error_and_the_next_append_recovers(path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _FULL_DISK, str(path)], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    refused, still_there, recovered = run.stdout.splitlines()
    assert refused.startswith("refused:")
    assert "cannot be used" in refused
    assert still_there == "still there: True True"
    assert recovered == "recovered: 200000"


_WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from forecaster.sources.history import HistoryLimits, HistoryStore
from forecaster.types import EPOCH, STEP, SeriesKey
from datetime import timedelta
first = int(sys.argv[2])
keys = [SeriesKey(workload=f"llm/w{i}", signal="demand_rps") for i in range(50)]
store = HistoryStore.open(Path(sys.argv[1]), now=EPOCH + first * STEP, limits=HistoryLimits(live_for=timedelta(0)))
for minute in range(first, first + 100_000, 20):
    now = EPOCH + minute * STEP
    store.append([(key, now, float(minute)) for key in keys], now=now)
    print(minute, flush=True)
    store.compact(now=now)
"""


def test_a_killed_writer_leaves_nothing_torn_and_nothing_lost(path: Path) -> None:
    """Six kills at different moments, in the middle of appends and folds: whole minutes only, all acknowledged ones."""
    acknowledged: set[int] = set()
    first = 0
    for round_ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(first)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            acknowledged.add(int(line))
            if count >= 60 + 37 * round_:
                child.send_signal(signal.SIGKILL)
                break
        acknowledged.update(int(line) for line in child.stdout.read().split())
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        last = max(acknowledged)
        with HistoryStore.open(path, now=EPOCH + (last + 20) * STEP) as store:
            assert store.report.quarantined is None
            keys = store.keys()
            assert len(keys) == 50
            values = store.read(keys, start=EPOCH, end=EPOCH + (last + 41) * STEP).values
        known = ~np.isnan(values)
        assert (known == known[0]).all(), "a minute is there for some series only"
        minutes = set(np.flatnonzero(known[0]).tolist())
        assert acknowledged <= minutes
        assert len(minutes - acknowledged) <= 1, "at most the append whose answer was never read"
        np.testing.assert_array_equal(values[0][known[0]], sorted(minutes))
        acknowledged = minutes
        first = max(minutes) + 20
