"""Reading a trace: which column, how wide a bin, what is unknown, and what is said of a file that is no trace."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.errors import SeriesError
from forecaster.trace import read_trace


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
    "content",
    [
        pytest.param(b"timestamp,requests\n", id="not gzip"),
        pytest.param(gzip.compress(b"timestamp,requests\n" * 99)[:-20], id="cut off"),
        pytest.param(gzip.compress(b"\xff\xfe\x00"), id="not text"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(content)
    with pytest.raises(SeriesError, match=r"cannot read t\.csv\.gz as a trace"):
        read_trace(path)
