"""Reading a trace: which column, how wide a bin, what is unknown, and what is said of a file that is no trace.

Property: a clock that is seconds off loses no row.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SeriesError
from forecaster.trace import read_trace
from forecaster.types import EPOCH

MONDAY, MINUTE = datetime(2026, 3, 2, tzinfo=UTC), timedelta(minutes=1)
PLAIN = "timestamp,requests\n2026-03-02 00:00,60\n2026-03-02 00:01,120\n2026-03-02 00:02,60\n"


def a_file(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    ("header", "rows", "asked", "column", "first"),
    [
        pytest.param(
            "timestamp,tokens,requests", ("5,60", "5,60"), None, "requests", 1.0, id="requests wherever it is"
        ),
        pytest.param("timestamp,class,tokens", ("chat,120", "chat,60"), None, "tokens", 2.0, id="the first of numbers"),
        pytest.param("timestamp,tokens,requests", ("240,6", "0,6"), "tokens", "tokens", 4.0, id="as asked for"),
        pytest.param("timestamp, total_tokens", ("60", "0"), None, "total_tokens", 1.0, id="spaces in the header"),
        pytest.param("timestamp,a,b", (",60", ",0"), None, "b", 1.0, id="an empty column holds no numbers"),
    ],
)
def test_columns(
    tmp_path: Path, header: str, rows: tuple[str, str], asked: str | None, column: str, first: float
) -> None:
    lines = [header, *(f"2026-03-02 00:0{minute}:00,{row}" for minute, row in enumerate(rows))]
    trace = read_trace(a_file(tmp_path, "\n".join(lines)), column=asked)
    assert (trace.name, trace.column) == ("t", column)
    assert trace.series.values[0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("step", "moments", "bins"),
    [
        pytest.param(timedelta(seconds=1), (0, 1, 2, 5), 6, id="a second"),
        pytest.param(timedelta(minutes=1), (0, 60, 120, 600), 11, id="a minute with a hole"),
        pytest.param(timedelta(minutes=10), (0, 600, 1200), 3, id="ten minutes"),
        pytest.param(timedelta(days=1), (0, 86400, 172800), 3, id="a day"),
    ],
)
def test_the_width_of_a_bin_is_the_commonest_distance(
    tmp_path: Path, step: timedelta, moments: tuple[int, ...], bins: int
) -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)
    lines = ["timestamp,requests", *(f"{(start + timedelta(seconds=each)).isoformat()},{60}" for each in moments)]
    series = read_trace(a_file(tmp_path, "\n".join(lines), "t.csv.gz")).series
    assert (series.start, series.step, series.values.size) == (start, step, bins)
    assert int(np.isfinite(series.values).sum()) == len(moments)


def test_what_no_counter_says_is_unknown(tmp_path: Path) -> None:
    cells = ("60", "", "-3", "nan", "inf", "0")
    lines = ["timestamp,requests", *(f"2026-03-02T00:0{minute}:00Z,{cell}" for minute, cell in enumerate(cells))]
    values = read_trace(a_file(tmp_path, "\n".join(lines))).series.values
    assert values == pytest.approx([1.0, np.nan, np.nan, np.nan, np.nan, 0.0], nan_ok=True)


@pytest.mark.parametrize(
    ("text", "column", "complaint"),
    [
        pytest.param("", None, "no column timestamp", id="empty"),
        pytest.param("d,req\n1,2\n", None, "no column timestamp in d, req", id="another header"),
        pytest.param("timestamp,requests\nyesterday,3\n", None, "line 2: .*yesterday", id="no moment"),
        pytest.param("timestamp,requests\n2026-03-02,3\n2026-03-03,many\n", None, "line 3: .*many", id="no number"),
        pytest.param("timestamp,requests\n2026-03-02,3\n2026-03-03\n", None, "line 3", id="a row that is too short"),
        pytest.param("timestamp,requests\n2026-03-02,3\n", None, "at least two bins", id="one bin"),
        pytest.param("timestamp,class\n2026-03-02,a\n2026-03-03,b\n", None, "no column of numbers", id="words alone"),
        pytest.param("timestamp,a,b\n2026-03-02,1,2\n", "c", "no column 'c'; there are a, b", id="another column"),
        pytest.param(
            "time,n\n02/03/2026 1:00 PM,3\n", None, "line 2: .*no time: write 2026-11-20T18:00", id="a local time"
        ),
        pytest.param("time,n\n2026-03-02,3\n", "time", "no column 'time'; there are n", id="times are no counts"),
        pytest.param(
            "timestamp,requests\n2026-03-02T00:00:00,1\n2026-03-02T00:00:01,1\n9026-03-02,1\n",
            None,
            "is a year mistyped",
            id="seven thousand years of seconds",
        ),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, column: str | None, complaint: str) -> None:
    with pytest.raises(SeriesError, match=complaint):
        read_trace(a_file(tmp_path, text), column=column)


@pytest.mark.parametrize(
    ("head", "cells", "start"),
    [
        pytest.param("Time,Value", ("1772409600,60", "1772409660,60"), MONDAY, id="seconds since 1970"),
        pytest.param('"Time","A"', ("1772409600000,60", "1772409660000,60"), MONDAY, id="milliseconds, as Grafana's"),
        pytest.param("TIMESTAMP,Requests", ("1772409600000000,60", "1772409660000000,60"), MONDAY, id="microseconds"),
        pytest.param("ds,y", ("1772409600000000000,60", "1772409660000000000,60"), MONDAY, id="nanoseconds"),
        pytest.param("time,n", ("1772409600.5,60", "1772409660.5,60"), MONDAY, id="fractions"),
        pytest.param("time,n", ("0,60", "60,60"), EPOCH, id="since the recording's start"),
        pytest.param("time,n", ("11111.25,60", "11171.25,60"), EPOCH + 185 * MINUTE, id="eight characters, no date"),
        pytest.param("date,n", ("20260302T0000,60", "20260302T0001,60"), MONDAY, id="without punctuation"),
        pytest.param("time;requests", ("2026-03-02 00:00;60", "2026-03-02 00:01;60"), MONDAY, id="semicolons"),
        pytest.param("time\trequests", ("2026-03-02 00:00\t60", "2026-03-02 00:01\t60"), MONDAY, id="tabs"),
        pytest.param("time,n", ("2026-03-02T01:00+01:00,60", "2026-03-02T01:01+01:00,60"), MONDAY, id="a zone"),
    ],
)
def test_times_as_tools_write_them(tmp_path: Path, head: str, cells: tuple[str, str], start: datetime) -> None:
    series = read_trace(a_file(tmp_path, "\n".join((head, *cells)))).series
    assert (series.start, series.step, series.values.tolist()) == (start, MINUTE, [1.0, 1.0])


def test_eight_digits_are_a_date(tmp_path: Path) -> None:
    series = read_trace(a_file(tmp_path, "date,n\n20260302,86400\n20260303,86400\n")).series
    assert (series.start, series.step, series.values.tolist()) == (MONDAY, timedelta(days=1), [1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("t.csv", PLAIN.encode("utf-8-sig"), id="a spreadsheet's byte order mark"),
        pytest.param("t.csv", PLAIN.replace("\n", "\r\n").encode(), id="Windows line ends"),
        pytest.param("t.csv.gz", PLAIN.encode(), id="unpacked by the browser"),
        pytest.param("t.csv", gzip.compress(PLAIN.encode()), id="packed under another name"),
        pytest.param("t.csv", PLAIN.replace(",60", ",60\n").encode(), id="empty lines"),
        pytest.param("t.csv", "\n".join((*PLAIN.split("\n")[:1], *PLAIN.split("\n")[:0:-1])).encode(), id="backwards"),
        pytest.param("t.csv", (PLAIN + PLAIN.partition("\n")[2]).encode(), id="every row twice"),
        pytest.param("t.csv", (PLAIN + PLAIN.partition("\n")[2].replace(",60", ",")).encode(), id="and once unknown"),
    ],
)
def test_one_trace_in_many_wrappings(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    series = read_trace(path).series
    assert (series.start, series.step, series.values.tolist()) == (MONDAY, MINUTE, [1.0, 2.0, 1.0])


def test_two_counts_for_one_time_are_refused_and_not_picked_from(tmp_path: Path) -> None:
    """A row for each pod, or a clock that went back an hour: the last one is not the truth."""
    text = PLAIN + "2026-03-02 00:01,30\n"
    with pytest.raises(
        SeriesError, match=r"lines 3 and 5 have different counts for 2026-03-02T00:01:00\+00:00: add up"
    ):
        read_trace(a_file(tmp_path, text))


@given(
    phase_s=st.floats(0.0, 60.0),
    late_s=st.lists(st.floats(-14.0, 14.0), min_size=30, max_size=60),
    holes=st.sets(st.integers(1, 28), max_size=5),  # never the last row: a trace ends with what there is
)
def test_an_unsteady_clock_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, phase_s: float, late_s: list[float], holes: set[int]
) -> None:
    """Rows a minute apart, each up to 14 s off, from anywhere in the minute: as many known bins, holes where they are."""
    kept = [index for index in range(len(late_s)) if index not in holes]
    late_s = [0.0] * 20 + late_s[20:]  # most are punctual, or nobody could tell the width
    moments = [MONDAY.timestamp() + 60.0 + phase_s + 60.0 * index + late_s[index] for index in kept]
    rows = (f"{moment:.3f},{60 * (1 + index)}" for moment, index in zip(moments, kept, strict=True))
    values = read_trace(a_file(tmp_path_factory.mktemp("t"), "\n".join(("time,n", *rows)))).series.values
    wanted = [float(1 + index) if index not in holes else float("nan") for index in range(len(late_s))]
    assert values == pytest.approx(wanted, nan_ok=True)


def test_several_rows_in_one_bin_are_averaged(tmp_path: Path) -> None:
    rows = ("00:00:00,60", "00:01:00,60", "00:02:00,60", "00:02:59,180", "00:03:20,60")
    text = "\n".join(("timestamp,n", *(f"2026-03-02 {each}" for each in rows)))
    assert read_trace(a_file(tmp_path, text)).series.values.tolist() == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"timestamp,requests\n", id="a header alone"),
        pytest.param(gzip.compress(b"timestamp,requests\n" * 99)[:-20], id="cut off"),
        pytest.param(gzip.compress(b"\xff\xfe\x00"), id="not text"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(SeriesError, match=r"cannot read t\.csv\.gz as a trace"):
        read_trace(path)
