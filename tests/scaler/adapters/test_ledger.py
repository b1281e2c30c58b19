"""The loop's journal on the data file: damage found in the middle of the work, and a recovery that fails at first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from forecaster.errors import HistoryError
from forecaster.sources.history.file import quarantined
from forecaster.types import SeriesKey
from policy_cases import MINUTE, NOON, a_policy, a_snapshot
from scaler.adapters import store as store_module
from scaler.adapters.ledger import StoreJournal
from scaler.adapters.store import FILE_NAME, Store
from scaler.policy.decide import decide
from scaler.policy.types import PolicyState
from scaler.ports import DecisionRecord

CHAT = SeriesKey(workload="llm/chat", signal="demand_rps")


def a_record(minute: int) -> DecisionRecord:
    at, policy, snapshot, state = NOON + minute * MINUTE, a_policy(), a_snapshot(rps=3.0), PolicyState()
    decision, _ = decide(snapshot, state, policy, now=at)
    return DecisionRecord(at=at, policy=policy, snapshot=snapshot, state=state, grant=None, decision=decision)


def damage(path: Path) -> None:
    """Every page but the first is rubbish."""
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)


@pytest.mark.parametrize("step", [pytest.param("quarantine", id="renaming"), pytest.param("open_writer", id="opening")])
def test_a_recovery_that_fails_is_tried_again_at_every_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The file is damaged because the disk is full, so there is no room for a new one either; later there is."""
    with Store.open(tmp_path, now=NOON) as store:
        StoreJournal(store).append([a_record(0)])
        store.save_blob("weights", b"x" * 200_000, now=NOON)
    told: list[str] = []
    real: Callable[..., object] = getattr(store_module, step)

    def full(*_: object, **__: object) -> object:
        raise HistoryError("no space left on device")

    with Store.open(tmp_path, now=NOON) as store:
        journal = StoreJournal(store, on_recovery=told.append)
        damage(tmp_path / FILE_NAME)
        monkeypatch.setattr(store_module, step, full)
        for minute in (1, 2, 3, 4, 5):
            with pytest.raises(OSError, match="no space left"):
                journal.append([a_record(minute)])
        monkeypatch.setattr(store_module, step, real)
        journal.append([a_record(6)])
        assert store.journal.ticks() == (NOON + 6 * MINUTE,)
        store.history.append([(CHAT, NOON + timedelta(minutes=6), 1.0)], now=NOON + timedelta(minutes=7))
        journal.append([a_record(7)])
    (aside,) = quarantined(tmp_path / FILE_NAME)
    assert aside.stat().st_size > 100_000, "the damaged file is kept, not the attempts"
    (text,) = told
    assert aside.name in text
