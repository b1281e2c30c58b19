"""Rows 25 and 26 of the table: a data folder that is full, read-only, damaged, or of a newer version."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from fault_world import LOOK_BACK_MINUTES, USUAL_REPLICAS, WORKLOAD, FaultWorld, Life
from scaler.adapters.documents import decision_document
from scaler.adapters.journal import StoreError
from scaler.adapters.states import State
from scaler.adapters.store import FILE_NAME, Store
from scaler.policy.types import Action

pytestmark = pytest.mark.server

DISK_BYTES = 4 * 2**20


@contextmanager
def small_disk(at: Path, *, options: str = "") -> Iterator[Path]:
    """A file system of 4 MiB; skipped where this process may not mount one."""
    at.mkdir(exist_ok=True)
    wanted = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}{options}", "tmpfs", str(at)]
    if os.geteuid() != 0 or subprocess.run(wanted, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(disk: Path) -> Path:
    """Use up whatever is left of it."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as stream:
        for size in (65536, 4096, 512, 1):
            with suppress(OSError):
                while True:
                    stream.write(b"\0" * size)
    return hog


def test_row_25_on_a_full_disk_scaling_goes_on_from_memory_and_the_log_has_the_record(world: FaultWorld) -> None:
    with small_disk(world.folder / "data") as disk, world.life() as life:
        life.settled()
        stored = len(life.store.journal.ticks())
        hog = fill(disk)
        world.traffic("surge")
        _goes_on_without_a_journal(life)
        hog.unlink()
        life.minute(2)
        assert life.events("journal_recovered")
        assert len(life.store.journal.ticks()) == stored + 2, "whole ticks before and after, nothing torn between"
        assert life.store.report.quarantined is None


def _goes_on_without_a_journal(life: Life) -> None:
    before = life.replicas
    report = life.seeing_minute()
    assert report.journal_error
    assert life.replicas == 2 * before
    life.minute()
    assert life.metric("headstart_journal_errors_total") >= 2.0, "what the alert looks at"
    (failed,) = life.events("journal_failed")
    assert "scaling goes on from memory" in failed["meanwhile"]
    told = life.events("not_journalled")
    assert [each["record"]["decision"]["target"] for each in told][:1] == [2 * before]
    (record,) = report.records
    assert told[0]["record"] == json.loads(json.dumps(decision_document(record, report.outcomes[WORKLOAD])))


def test_row_25_on_a_disk_that_became_read_only_too(life: Life, world: FaultWorld) -> None:
    life.store.journal._db.execute("PRAGMA query_only = 1")  # type: ignore[union-attr]
    world.traffic("surge")
    _goes_on_without_a_journal(life)
    life.store.journal._db.execute("PRAGMA query_only = 0")  # type: ignore[union-attr]
    assert not life.minute().journal_error
    assert life.events("journal_recovered")


def test_row_25_a_read_only_folder_at_the_start_is_said(world: FaultWorld) -> None:
    with small_disk(world.folder / "data", options=",ro") as disk, pytest.raises(StoreError, match="cannot be used"):
        Store.open(disk, now=world.now)


# ── A file that is no use ─────────────────────────────────────────────────────────────────────────────────────────


def test_row_26_a_damaged_file_is_set_aside_and_nothing_released_before_a_look_back(world: FaultWorld) -> None:
    with world.life() as life:
        life.settled()
    file = world.folder / "data" / FILE_NAME
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * (file.stat().st_size - 4096))
    world.traffic("idle")
    with world.life() as life:
        assert life.store.report.quarantined is not None
        assert life.store.report.quarantined.name.startswith(f"{FILE_NAME}.damaged-")
        life.seeing_minute()
        assert (life.state, life.replicas) == (State.REWARM, USUAL_REPLICAS)
        assert {each.action for each in life.minutes(LOOK_BACK_MINUTES - 1)} == {Action.HOLD}
        life.minutes_until(life.releases)


def test_row_26_damage_that_is_met_while_running_costs_no_tick(world: FaultWorld, life: Life) -> None:
    file = world.folder / "data" / FILE_NAME
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (file.stat().st_size - 4096))
    world.traffic("surge")
    before = life.replicas
    life.seeing_minute()
    assert life.replicas == 2 * before
    life.minute()
    assert [line["event"] for line in life.log if line["event"].startswith("store_")] == ["store_recovered"]
    assert len(life.store.journal.ticks()) >= 2, "the new file has every tick since"


def test_row_26_a_newer_schema_is_refused_with_the_way_out(world: FaultWorld) -> None:
    with world.life() as life:
        life.round()
    file = world.folder / "data" / FILE_NAME
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("UPDATE part SET version = 99 WHERE name = 'journal'")
    before = _contents(file)
    with pytest.raises(StoreError, match=r"A newer headstart wrote it: install that version again, or start with"):
        Store.open(world.folder / "data", now=world.now)
    assert _contents(file) == before
    assert not list((world.folder / "data").glob("*.damaged-*"))


def _contents(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as db:
        return list(db.iterdump())
