"""The Parquet export: the long frame, whole or not at all."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.errors import HistoryError
from forecaster.sources.history import HistoryStore
from forecaster.sources.history.export import export
from forecaster.types import STEP, Panel, SeriesKey

parquet = pytest.importorskip("pyarrow.parquet")

NOW = datetime(2026, 11, 4, 10, 15, tzinfo=UTC)
CHAT = SeriesKey(workload="llm/chat", signal="demand_rps")
CODE = SeriesKey(workload="llm/code", signal="demand_rps", request_class="batch")


@pytest.fixture
def store(tmp_path: Path):
    with HistoryStore.open(tmp_path / "headstart.db", now=NOW) as store:
        values = np.array([[1.5, np.nan, 3.0], [np.nan, 0.0, np.nan]])
        store.append(Panel(keys=(CHAT, CODE), start=NOW - 2 * STEP, step=STEP, values=values), now=NOW)
        yield store


def test_one_row_a_known_bin(store: HistoryStore, tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    assert export(store, path, keys=[CHAT, CODE], start=NOW - timedelta(hours=1), end=NOW + STEP) == 3
    rows = parquet.read_table(path).to_pylist()
    assert rows == [
        {"unique_id": "llm/chat/demand_rps/default", "ds": NOW - 2 * STEP, "y": 1.5}
        | {"workload": "llm/chat", "signal": "demand_rps", "request_class": "default"},
        {"unique_id": "llm/chat/demand_rps/default", "ds": NOW, "y": 3.0}
        | {"workload": "llm/chat", "signal": "demand_rps", "request_class": "default"},
        {"unique_id": "llm/code/demand_rps/batch", "ds": NOW - STEP, "y": 0.0}
        | {"workload": "llm/code", "signal": "demand_rps", "request_class": "batch"},
    ]


def test_many_series_are_written_in_groups(
    store: HistoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecaster.sources.history.export.CELLS_A_GROUP", 3)
    path = tmp_path / "history.parquet"
    assert export(store, path, keys=[CODE, CHAT], start=NOW - 2 * STEP, end=NOW + STEP) == 3
    file = parquet.ParquetFile(path)
    assert file.num_row_groups == 2
    assert file.read().column("workload").to_pylist() == ["llm/code", "llm/chat", "llm/chat"]


def test_nothing_to_export_is_an_empty_frame_with_all_columns(store: HistoryStore, tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    assert export(store, path, keys=[], start=NOW, end=NOW) == 0
    assert parquet.read_table(path).column_names == ["unique_id", "ds", "y", "workload", "signal", "request_class"]


def test_a_failed_export_leaves_the_old_file_and_no_litter(store: HistoryStore, tmp_path: Path) -> None:
    path = tmp_path / "out" / "history.parquet"
    path.parent.mkdir()
    path.write_bytes(b"yesterday's")
    store.path.rename(store.path.with_suffix(".moved"))
    with pytest.raises(HistoryError):
        export(store, path, keys=[CHAT], start=NOW, end=NOW + STEP)
    assert [p.name for p in path.parent.iterdir()] == ["history.parquet"]
    assert path.read_bytes() == b"yesterday's"


def test_a_folder_that_is_not_there_is_a_typed_error(store: HistoryStore, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="was not written"):
        export(store, tmp_path / "nowhere" / "x.parquet", keys=[CHAT], start=NOW, end=NOW)


def test_without_pyarrow_the_extra_is_named(
    store: HistoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(HistoryError, match=r"pip install 'headstart\[analytics\]'"):
        export(store, tmp_path / "x.parquet", keys=[CHAT], start=NOW, end=NOW)
