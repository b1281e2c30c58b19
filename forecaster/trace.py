"""A traffic trace on disk becomes a series of rates: the one reader of trace CSVs.

A trace has a header, a column `timestamp` (ISO 8601, UTC if it names no zone) and counts per bin. It decides which
column is meant, how wide a bin is, and that a bin without a row, a number or a sensible count is unknown; it never
fills a gap. Counts become rates a second.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import EPOCH, Series

PREFERRED_COLUMN = "requests"
"""The column that is taken where none is named; else the first that holds numbers."""
MOST_BINS = 20_000_000
"""A trace that spans more bins than this holds a wrong year: twenty million seconds are 231 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One column of a trace: `series` in counts a second, `name` the file's without its endings."""

    name: str
    column: str
    series: Series


def trace_name(path: Path) -> str:
    """What a trace is called: "nasa_1995_july" for nasa_1995_july.csv.gz."""
    return path.name.removesuffix(".gz").removesuffix(".csv")


def read_trace(path: Path, *, column: str | None = None) -> Trace:
    """The trace in a CSV (plain or gzip); `column` picks one, else `requests`, else the first of numbers.

    The bin's width is the commonest distance of two rows. Raises `SeriesError` saying what is wrong and where.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            rows = csv.reader(stream)
            head = [name.strip() for name in next(rows, [])]
            body = [(rows.line_num, row) for row in rows if row]
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise SeriesError(f"cannot read {path.name} as a trace: {error}") from error
    if "timestamp" not in head:
        raise SeriesError(f"cannot read {path.name} as a trace: no column timestamp in {', '.join(head) or 'it'}")
    wanted = _column(path, head, body, column)
    return Trace(name=trace_name(path), column=wanted, series=_series(path, head, body, wanted))


def _column(path: Path, head: Sequence[str], body: Sequence[tuple[int, list[str]]], asked: str | None) -> str:
    """Which column is meant; `SeriesError` naming the ones there are."""
    others = [name for name in head if name != "timestamp"]
    if asked is not None:
        if asked not in others:
            raise SeriesError(f"{path.name} has no column {asked!r}; there are {', '.join(others) or 'none'}")
        return asked
    if PREFERRED_COLUMN in others:
        return PREFERRED_COLUMN
    for name in others:
        place = head.index(name)
        cells = [row[place].strip() for _, row in body if place < len(row)]
        if any(cells) and all(_is_number(cell) for cell in cells if cell):
            return name
    raise SeriesError(f"{path.name} has no column of numbers beside timestamp; there are {', '.join(others) or 'none'}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _series(path: Path, head: Sequence[str], body: Sequence[tuple[int, list[str]]], column: str) -> Series:
    at, number = head.index("timestamp"), head.index(column)
    pairs: list[tuple[float, float]] = []
    for line, row in body:
        try:
            pairs.append((_utc(row[at]).timestamp(), _count(row[number])))
        except (ValueError, IndexError, OverflowError) as error:
            raise SeriesError(f"cannot read {path.name} as a trace: line {line}: {error}") from error
    moments = sorted({moment for moment, _ in pairs})
    distances = Counter(later - sooner for sooner, later in pairwise(moments))
    if not distances:
        raise SeriesError(f"cannot read {path.name} as a trace: it needs at least two bins, got {len(moments)}")
    # The commonest distance, the shorter of two: holes only make longer ones.
    step_s = min(distances, key=lambda each: (-distances[each], each))
    step = timedelta(seconds=step_s)
    start = datetime.fromtimestamp(moments[0], UTC)
    start -= (start - EPOCH) % step
    first_s = start.timestamp()
    bins = round((moments[-1] - first_s) / step_s) + 1
    if bins > MOST_BINS:
        raise SeriesError(f"{path.name} spans {bins} bins of {step_s:g} s, more than {MOST_BINS}: is a year mistyped?")
    values = np.full(bins, np.nan)
    for moment, count in pairs:
        values[round((moment - first_s) / step_s)] = count / step_s
    return Series(start=start, step=step, values=values)


def _count(cell: str) -> float:
    """A count; NaN for an empty cell and for what no counter says (negative, infinite)."""
    if not cell.strip():
        return math.nan
    value = float(cell)
    return value if math.isfinite(value) and value >= 0.0 else math.nan


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text.strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
