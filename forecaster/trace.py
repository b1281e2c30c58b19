"""A traffic trace on disk becomes a series of rates: the one reader of trace CSVs.

A trace has a header, a column of times (`TIME_COLUMNS`) and counts per bin. It decides which column is meant, how wide
a bin is, to which bin a row belongs, and that a bin without a row, a number or a sensible count is unknown; it never
fills a gap and never picks one of two different counts. Counts become rates a second.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import EPOCH, Series

if TYPE_CHECKING:
    from forecaster.types import FloatArray

TIME_COLUMNS = ("timestamp", "time", "datetime", "date", "ds")
"""What the column of times may be called, in any case; the first of these that is there."""
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

    Times are ISO 8601 (UTC if they name no zone) or numbers since 1970 in s, ms, µs or ns, told apart by their size;
    the bin's width is the commonest distance of two rows. Raises `SeriesError` saying what is wrong and where.
    """
    try:
        lines = _lines(path)
        head = next(lines, (0, []))[1]
        times = _times(head)
        wanted = column if column is not None else _known_column(head)
        if wanted is None:
            body = list(lines)
            wanted, lines = _first_of_numbers(body, head, times), iter(body)
        others = ", ".join(name for name in head if name != times) or "none"
        if wanted is None:
            raise SeriesError(f"no column of numbers beside {times}; there are {others}")
        if wanted not in head or wanted == times:
            raise SeriesError(f"no column {wanted!r}; there are {others}")
        series = _series(lines, head.index(times), head.index(wanted))
    except (SeriesError, OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise SeriesError(f"cannot read {path.name or path} as a trace: {error}") from error
    return Trace(name=trace_name(path), column=wanted, series=series)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header, then the rows that hold anything, each with its line.

    What is gzip says so in its first two bytes, whatever it is called: browsers unpack downloads and keep the name.
    """
    with path.open("rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        # A spreadsheet's UTF-8 begins with a byte order mark, which is no part of the first column's name.
        with io.TextIOWrapper(gzip.open(raw) if packed else raw, encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            # Where the decimal sign is a comma, spreadsheets put semicolons between cells.
            rows = csv.reader(chain([first], stream), delimiter=max(",;\t", key=first.count))
            yield 1, [name.strip() for name in next(rows, [])]
            for row in rows:
                if row:
                    yield rows.line_num, row


def _times(head: Sequence[str]) -> str:
    """The column of times, as the header writes it."""
    lower = {name.lower(): name for name in reversed(head)}
    found = next((lower[name] for name in TIME_COLUMNS if name in lower), None)
    if found is None:
        also = ", ".join(TIME_COLUMNS[1:])
        raise SeriesError(f"no column {TIME_COLUMNS[0]} in {', '.join(head) or 'it'}, nor any called {also}")
    return found


def _known_column(head: Sequence[str]) -> str | None:
    return next((name for name in head if name.lower() == PREFERRED_COLUMN), None)


def _first_of_numbers(body: Sequence[tuple[int, list[str]]], head: Sequence[str], times: str) -> str | None:
    for place, name in enumerate(head):
        cells = [row[place].strip() for _, row in body if place < len(row)]
        if name != times and any(cells) and all(_is_number(cell) for cell in cells if cell):
            return name
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _series(rows: Iterable[tuple[int, list[str]]], at: int, number: int) -> Series:
    """Counts of rows of any order on a grid; several rows in one bin, as an unsteady clock makes them, are averaged."""
    moments, counts = _in_order(rows, at, number)
    if moments.size < 2:
        raise SeriesError(f"it needs at least two bins, got {moments.size}")
    step_s = _width_s(moments)
    step = timedelta(seconds=step_s)
    start = datetime.fromtimestamp(moments[0], UTC)
    start -= (start - EPOCH) % step
    # Counted from the first row and not from its bin's edge: rows at :29.9 and :30.1 are as far apart as all others.
    bins = round((moments[-1] - moments[0]) / step_s) + 1
    if bins > MOST_BINS:
        raise SeriesError(f"it spans {bins} bins of {step_s:g} s, more than {MOST_BINS}: is a year mistyped?")
    known = np.isfinite(counts)
    place = np.rint((moments[known] - moments[0]) / step_s).astype(np.int64)
    rows_in, total = np.bincount(place, minlength=bins), np.bincount(place, weights=counts[known], minlength=bins)
    values = np.divide(total, rows_in * step_s, out=np.full(bins, np.nan), where=rows_in > 0)
    return Series(start=start, step=step, values=values)


def _in_order(rows: Iterable[tuple[int, list[str]]], at: int, number: int) -> tuple[FloatArray, FloatArray]:
    """Moments (seconds since 1970) and counts of all rows, oldest first and each moment once."""
    lines, found, said = list[int](), list[float](), list[float]()
    for line, row in rows:
        try:
            found.append(_seconds(row[at].strip()))
            said.append(_count(row[number]))
        except (ValueError, IndexError, OverflowError) as error:
            raise SeriesError(f"line {line}: {error}") from error
        lines.append(line)
    moments, counts = np.array(found), np.array(said)
    # Unknown ones first among equal moments, so that the last of each is the one that says most.
    order = np.lexsort((np.isfinite(counts), moments))
    moments, counts = moments[order], counts[order]
    same = moments[1:] == moments[:-1]
    twice = np.flatnonzero(same & (counts[1:] != counts[:-1]) & np.isfinite(counts[:-1]))
    if twice.size:
        first, other = sorted(order[twice[0] : twice[0] + 2].tolist())
        raise SeriesError(
            f"lines {lines[first]} and {lines[other]} have different counts for {_iso(found[first])}: add up rows of "
            "one time, and name the zone where clocks go back"
        )
    last = np.append(~same, True) if moments.size else same
    return moments[last], counts[last]


def _width_s(moments: FloatArray) -> float:
    """The commonest distance of neighbours, the shorter of two: holes only make longer ones.

    To the second where rows are seconds apart, so that an unsteady clock (59.98 s, 60.01 s) does not hide it; else to
    the microsecond.
    """
    distances = np.diff(moments)
    digits = 0 if float(np.median(distances)) >= 2.0 else 6
    counted: Counter[float] = Counter(np.round(distances, digits).tolist())
    del counted[0.0]
    if not counted:
        raise SeriesError(f"its {moments.size} rows are less than a microsecond apart")
    return min(counted, key=lambda each: (-counted[each], each))


def _count(cell: str) -> float:
    """A count; NaN for an empty cell and for what no counter says (negative, infinite)."""
    if not cell.strip():
        return math.nan
    value = float(cell)
    return value if math.isfinite(value) and value >= 0.0 else math.nan


_NUMBER = re.compile(r"\d+(\.\d*)?", re.ASCII)
_PER_SECOND = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))
"""Numbers below the first are in units of which the second make a second: 1e11 s is the year 5138, 1e11 ms is 1973."""


def _seconds(text: str) -> float:
    """A moment in seconds since 1970; eight digits are a date."""
    if _NUMBER.fullmatch(text) and not (text.isdigit() and len(text) == len("20261120")):
        number = float(text)
        return number / next(each for below, each in _PER_SECOND if number < below)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2026-11-20T18:00:00Z, or seconds since 1970") from None
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat()
