"""History as a Parquet file in the long shape that analysts and training read: one row a known bin.

It decides the columns and that the file appears whole or not at all; it never exports a gap as a value.
pyarrow is loaded here only, on first use.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from forecaster.errors import HistoryError
from forecaster.sources.history import HistoryStore
from forecaster.types import EPOCH, STEP, Panel, SeriesKey, require_utc

CELLS_A_GROUP = 500_000
"""Values read at once and written as one row group: 24 series over 14 days, about 60 MB while it is written."""


def unique_id(key: SeriesKey) -> str:
    """The series' name in a long frame: workload, signal and class, such as "llm/chat/demand_rps/default"."""
    return f"{key.workload}/{key.signal}/{key.request_class}"


def export(store: HistoryStore, path: Path, *, keys: Sequence[SeriesKey], start: datetime, end: datetime) -> int:
    """Write the known bins in [start, end) to `path` and answer how many there were.

    Columns: `unique_id`, `ds` (UTC, start of the bin), `y` (float64, the signal's unit), `workload`, `signal`,
    `request_class`; sorted by series in the order of `keys`, then by time. Written beside `path`, forced to disk,
    then renamed. Raises `HistoryError` if pyarrow is missing or the disk refuses.
    """
    arrow, parquet = _pyarrow()
    bins = max(1, (require_utc(end, "end") - require_utc(start, "start")) // STEP)
    group = max(1, CELLS_A_GROUP // bins)
    rows = 0
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                with parquet.ParquetWriter(file, _schema(arrow)) as writer:
                    for at in range(0, len(keys), group):
                        panel = store.read(keys[at : at + group], start=start, end=end)
                        table = _table(arrow, panel)
                        writer.write_table(table)
                        rows += table.num_rows
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HistoryError(f"{path} was not written ({error}); an older file of that name is unchanged") from error
    return rows


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise HistoryError(
            "exporting to Parquet needs pyarrow, which is not installed: pip install 'headstart[analytics]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _schema(arrow: Any) -> Any:
    text = arrow.string()
    return arrow.schema(
        [
            ("unique_id", text),
            ("ds", arrow.timestamp("us", tz="UTC")),
            ("y", arrow.float64()),
            ("workload", text),
            ("signal", text),
            ("request_class", text),
        ]
    )


def _table(arrow: Any, panel: Panel) -> Any:
    rows, columns = np.nonzero(~np.isnan(panel.values))
    start_us = (panel.start - EPOCH) // STEP * 60_000_000
    step_us = panel.step // STEP * 60_000_000

    def named(texts: list[str]) -> Any:
        return arrow.array(texts, arrow.string()).take(arrow.array(rows))

    return arrow.Table.from_arrays(
        [
            named([unique_id(key) for key in panel.keys]),
            arrow.array(start_us + columns.astype(np.int64) * step_us, arrow.timestamp("us", tz="UTC")),
            arrow.array(panel.values[rows, columns]),
            named([key.workload for key in panel.keys]),
            named([key.signal for key in panel.keys]),
            named([key.request_class for key in panel.keys]),
        ],
        schema=_schema(arrow),
    )


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to disk: without it a power cut may bring the old name back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
