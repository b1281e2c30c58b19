"""The data file as a whole: three users of one file, opened, recovered and closed together."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import pytest

from forecaster.sources.history.file import quarantine, quarantined
from forecaster.types import SeriesKey
from scaler.adapters.journal import StoreDamaged, StoreError
from scaler.adapters.store import FILE_NAME, MAX_BLOB_BYTES, Store

NOW = datetime(2026, 11, 4, 10, 20, tzinfo=UTC)
CHAT = SeriesKey(workload="llm/chat", signal="demand_rps")


def test_all_three_live_in_one_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data", now=NOW) as store:
        store.history.append([(CHAT, NOW, 1.0)], now=NOW)
        store.save_blob("trackers", b"\x00\xff" * 1000, now=NOW)
        assert store.journal.ticks() == ()
    assert [p.name for p in (tmp_path / "data").iterdir()] == [FILE_NAME]
    assert (tmp_path / "data" / FILE_NAME).stat().st_mode & 0o777 == 0o600
    with Store.open(tmp_path / "data", now=NOW) as store:
        assert store.history.keys() == (CHAT,)
        assert store.load_blob("trackers") == (b"\x00\xff" * 1000, NOW)
        assert not store.report.created


def test_another_program_that_opens_the_file_takes_nothing_away(tmp_path: Path) -> None:
    """The documented backup, a second daemon by mistake, an administrator's look: each may close while we write on.

    The last one to close a SQLite file folds its log in and deletes it. Whoever comes by must see that we are there.
    """
    log = tmp_path / f"{FILE_NAME}-wal"
    visit = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM blob'); db.close()"
    with Store.open(tmp_path, now=NOW) as store:
        store.save_blob("before", b"1", now=NOW)
        ours = log.stat().st_ino
        subprocess.run([sys.executable, "-c", visit, str(store.path)], check=True, timeout=60)
        assert log.stat().st_ino == ours
        store.save_blob("after", b"2", now=NOW)
    with Store.open(tmp_path, now=NOW) as again:
        assert again.report.quarantined is None
        assert (again.load_blob("before"), again.load_blob("after")) == ((b"1", NOW), (b"2", NOW))


def test_the_last_blob_of_a_name_counts(tmp_path: Path) -> None:
    with Store.open(tmp_path, now=NOW) as store:
        assert store.load_blob("weights") is None
        store.save_blob("weights", b"old", now=NOW)
        store.save_blob("weights", b"new", now=NOW + timedelta(minutes=1))
        store.save_blob("other", b"", now=NOW)
        assert store.load_blob("weights") == (b"new", NOW + timedelta(minutes=1))
        assert store.load_blob("other") == (b"", NOW)


def test_a_blob_without_bound_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path, now=NOW) as store, pytest.raises(StoreError, match="not stored"):
        store.save_blob("weights", bytes(MAX_BLOB_BYTES + 1), now=NOW)


def test_damage_found_at_the_start_sets_the_whole_file_aside(tmp_path: Path) -> None:
    with Store.open(tmp_path, now=NOW) as store:
        store.save_blob("weights", b"gone", now=NOW)
    (tmp_path / FILE_NAME).write_bytes(b"\x00" * 8192)
    with Store.open(tmp_path, now=NOW) as store:
        assert store.report.quarantined is not None
        assert store.report.quarantined.exists()
        assert store.load_blob("weights") is None
        store.save_blob("weights", b"again", now=NOW)


def test_damage_found_while_running_is_recovered_from(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with Store.open(tmp_path, now=NOW) as store:
        store.save_blob("weights", b"x" * 200_000, now=NOW)
    pages = path.stat().st_size // 4096
    with Store.open(tmp_path, now=NOW) as store:
        with path.open("r+b") as file:
            for page in range(1, pages):
                file.seek(4096 * page)
                file.write(b"\xff" * 4096)
        with pytest.raises(StoreDamaged, match="damaged"):
            store.load_blob("weights")
        report = store.recover(now=NOW + timedelta(minutes=1))
        assert report.quarantined is not None
        assert report.quarantined.name == f"{FILE_NAME}.damaged-20261104T102100Z"
        store.save_blob("weights", b"new", now=NOW)
        store.history.append([(CHAT, NOW, 1.0)], now=NOW)
        assert store.load_blob("weights") == (b"new", NOW)
        assert store.history.keys() == (CHAT,)
        assert store.journal.ticks() == ()


def test_threads_that_meet_the_damage_together_recover_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calling = threading.Barrier(3)
    inside = threading.Event()

    def slow_quarantine(path: Path, *, now: datetime) -> Path:
        inside.wait(5.0)
        return quarantine(path, now=now)

    def recover() -> None:
        calling.wait()
        store.recover(now=NOW)

    monkeypatch.setattr("scaler.adapters.store.quarantine", slow_quarantine)
    with Store.open(tmp_path, now=NOW) as store:
        threads = [threading.Thread(target=recover) for _ in range(3)]
        for thread in threads:
            thread.start()
        sleep(0.1)  # all three are past the barrier: one is inside, two wait for it
        inside.set()
        for thread in threads:
            thread.join()
        assert len(quarantined(tmp_path / FILE_NAME)) == 1
        store.save_blob("weights", b"new", now=NOW)
        assert store.load_blob("weights") == (b"new", NOW)


@pytest.mark.parametrize("part", ["history", "journal", "blob"])
def test_a_newer_schema_of_any_part_is_refused(tmp_path: Path, part: str) -> None:
    Store.open(tmp_path, now=NOW).close()
    db = sqlite3.connect(tmp_path / FILE_NAME)
    db.execute("UPDATE part SET version = 99 WHERE name = ?", (part,))
    db.commit()
    db.close()
    with pytest.raises(StoreError, match=f"its {part} tables have schema 99"):
        Store.open(tmp_path, now=NOW)
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(tmp_path / "file" / "data", now=NOW)


def test_a_closed_store_refuses_to_write_and_closes_twice(tmp_path: Path) -> None:
    store = Store.open(tmp_path, now=NOW)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.save_blob("weights", b"", now=NOW)


_FULL_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_journal import NOW, STEP, Fleet
from scaler.adapters.store import Store
from scaler.adapters.journal import StoreError, replay
from scaler.policy.decide import decide_within
store = Store.open(Path(sys.argv[1]), now=NOW)
fleet = Fleet(300)
store.journal.append(fleet.tick(NOW))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
refused = 0
for minute in range(1, 12):
    try:
        store.journal.append(fleet.tick(NOW + minute * STEP))
    except OSError as error:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("refused", refused > 0, "kept", len(store.journal.ticks()) == 12 - refused)
store.journal.append(fleet.tick(NOW + 12 * STEP))
rows = list(replay(store.journal.records(), decide_within))
print("recovered", len(rows) == 300 * (13 - refused), all(row.equal for row in rows))
"""


def test_a_full_disk_stops_neither_the_daemon_nor_the_journal_for_good(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.stderr == ""
    assert run.stdout.splitlines() == ["refused True kept True", "recovered True True"]
