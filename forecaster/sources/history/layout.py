"""How the history's rows and blocks lie in the file, and how they are laid out on a grid of minutes.

It decides the bytes of a block and that live minutes lie over blocks, later batches over earlier ones; it never
writes, and never decides which points are worth keeping.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.sources.history.file import HistoryDamaged
from forecaster.types import EPOCH, STEP, SeriesKey, require_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTES_A_DAY = 1440
_PLACES = 8
"""Batches of a minute at most whose series are remembered: demand, usage, evidence, and what came late."""


def select_ids(db: sqlite3.Connection) -> dict[SeriesKey, int]:
    """The number of every series in the file."""
    rows = db.execute("SELECT id, workload, signal, request_class FROM series")
    return {SeriesKey(workload=w, signal=s, request_class=c): number for number, w, s, c in rows}


def rows_by_number(ids: dict[SeriesKey, int], keys: Sequence[SeriesKey]) -> NDArray[np.int64]:
    """For each series number its row in the panel, -1 for those not asked for."""
    rows = np.full(max(ids.values(), default=0) + 1, -1, dtype=np.int64)
    for row, key in enumerate(keys):
        if key in ids:
            rows[ids[key]] = row
    return rows


def fill_from_blocks(
    db: sqlite3.Connection, rows: NDArray[np.int64], values: NDArray[np.float64], first: int, path: Path
) -> None:
    """Lay the blocks over `values`, shape (rows, bins), whose first bin is minute `first`."""
    bins = values.shape[1]
    found = db.execute(
        "SELECT day, series, value FROM block WHERE day BETWEEN ? AND ? AND series IN (SELECT value FROM json_each(?))",
        (
            first // MINUTES_A_DAY,
            (first + bins - 1) // MINUTES_A_DAY,
            json.dumps(np.flatnonzero(rows >= 0).tolist()),
        ),
    )
    for day, number, block in found:
        offset = day * MINUTES_A_DAY - first
        low, high = max(0, offset), min(bins, offset + MINUTES_A_DAY)
        values[rows[number], low:high] = unpack(block, path)[low - offset : high - offset]


def fill_from_live(db: sqlite3.Connection, rows: NDArray[np.int64], values: NDArray[np.float64], first: int) -> None:
    """Lay the live minutes over the blocks, in the order in which they were written."""
    found = db.execute(
        "SELECT minute, series, value FROM live WHERE minute >= ? AND minute < ? ORDER BY minute, batch",
        (first, first + values.shape[1]),
    )
    # The batches of a minute hold the same series as those of the minute before: where each lies is looked up once.
    places: list[tuple[bytes, NDArray[np.int64], NDArray[np.int64]]] = []
    for minute, numbers, points in found:
        place = next((each for each in places if each[0] == numbers), None)
        if place is None:
            place = (numbers, *_placed(numbers, rows))
            places = [place, *places[: _PLACES - 1]]
        _, row, at = place
        if row.size:
            values[row, minute - first] = np.frombuffer(points, "<f4")[at]


def _placed(numbers: bytes, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of a batch the rows of the panel that it has values for, and where in the batch they are."""
    series = np.frombuffer(numbers, "<u4").astype(np.int64)
    row = np.where(series < len(rows), rows[np.minimum(series, len(rows) - 1)], -1)
    at = np.flatnonzero(row >= 0)
    return row[at], at


def load_live_day(db: sqlite3.Connection, day: int) -> tuple[NDArray[np.uint32], NDArray[np.float32], int]:
    """The live minutes of one UTC day: series numbers, values of shape (series, 1440), and the newest batch seen."""
    span = (day * MINUTES_A_DAY, (day + 1) * MINUTES_A_DAY)
    found = db.execute(
        "SELECT batch, minute, series, value FROM live WHERE minute >= ? AND minute < ? ORDER BY minute, batch", span
    ).fetchall()
    numbers = np.unique(np.concatenate([np.frombuffer(series, "<u4") for _, _, series, _ in found]))
    values = np.full((len(numbers), MINUTES_A_DAY), np.nan, dtype=np.float32)
    for _, minute, series, points in found:
        rows = np.searchsorted(numbers, np.frombuffer(series, "<u4"))
        values[rows, minute - span[0]] = np.frombuffer(points, "<f4")
    return numbers, values, max(batch for batch, *_ in found)


def live_series(db: sqlite3.Connection) -> set[int]:
    """Numbers of all series that have a live minute."""
    found: set[int] = set()
    for (numbers,) in db.execute("SELECT series FROM live"):
        found.update(np.frombuffer(numbers, "<u4").tolist())
    return found


def block_ends(db: sqlite3.Connection, number: int, path: Path) -> Iterator[int]:
    """First and last known minute of the blocks of one series."""
    for end in ("min", "max"):
        row = db.execute(
            f"SELECT day, value FROM block WHERE series = ? AND day = (SELECT {end}(day) FROM block WHERE series = ?)",
            (number, number),
        ).fetchone()
        if row:
            known = np.flatnonzero(~np.isnan(unpack(row[1], path)))
            yield row[0] * MINUTES_A_DAY + int(known[0 if end == "min" else -1])


def live_ends(db: sqlite3.Connection, number: int) -> Iterator[int]:
    """First and last live minute of one series."""
    for order in ("ASC", "DESC"):
        for minute, numbers in db.execute(f"SELECT minute, series FROM live ORDER BY minute {order}"):
            if number in np.frombuffer(numbers, "<u4"):
                yield int(minute)
                break


def folded(values: NDArray[np.float64], fold: int) -> NDArray[np.float64]:
    """Means over `fold` bins, NaN where less than half of them are known."""
    if fold == 1:
        return values
    parts = values.reshape(values.shape[0], -1, fold)
    known = (~np.isnan(parts)).sum(axis=2)
    sums = np.nansum(parts, axis=2)
    return np.where(known * 2 >= fold, sums / np.maximum(known, 1), np.nan)


def pack(day: NDArray[np.float32]) -> bytes:
    """One series' day, 1440 values, as a block."""
    # 5,760 bytes to about 3,250 for noisy traffic in 0.1 ms; shuffling the bytes first made it 8 % longer.
    return zlib.compress(day.astype("<f4").tobytes(), 6)


def unpack(block: bytes, path: Path) -> NDArray[np.float32]:
    """The 1440 values of a block; `HistoryDamaged` if it is not one."""
    try:
        day = np.frombuffer(zlib.decompress(block), "<f4")
    except (zlib.error, ValueError) as error:
        raise HistoryDamaged(f"{path} is damaged: a block does not unpack ({error})") from error
    if day.shape != (MINUTES_A_DAY,):
        raise HistoryDamaged(f"{path} is damaged: a block of {day.size} minutes")
    return day.astype(np.float32, copy=False)


def minutes_in(step: timedelta) -> int:
    """Whole minutes in `step`; `SeriesError` if it is not a multiple of one minute."""
    if step < STEP or step % STEP:
        raise SeriesError(f"history is read in whole minutes, got a step of {step}")
    return step // STEP


def minute_of(moment: datetime) -> int:
    """Minutes from the epoch to the bin that holds `moment`."""
    return (require_utc(moment, "moment") - EPOCH) // STEP


def moment_of(minute: int) -> datetime:
    """Start of the bin that lies `minute` minutes after the epoch."""
    return EPOCH + minute * STEP
