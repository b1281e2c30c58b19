"""Which holes are worth asking the metrics source for.

Properties: spans lie inside the panel, never overlap, cover only unknown bins, cover every long enough hole, and
none is longer than a query may be.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SeriesError
from forecaster.sources.history.backfill import Span, backfill_window, missing_spans
from forecaster.types import STEP, Panel, SeriesKey

START = datetime(2026, 11, 1, tzinfo=UTC)
KEYS = (SeriesKey(workload="llm/a", signal="demand_rps"), SeriesKey(workload="llm/b", signal="demand_rps"))


def a_panel(*rows: str) -> Panel:
    values = [[math.nan if mark == "." else 1.0 for mark in row] for row in rows]
    return Panel(keys=KEYS[: len(rows)], start=START, step=STEP, values=np.array(values))


def minutes(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    return [((s.start - START) // STEP, (s.end - START) // STEP) for s in spans]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(["xxxxxxxx"], [], id="nothing missing"),
        pytest.param(["xx..xxxx"], [], id="too short to ask for"),
        pytest.param(["xxx....."], [(3, 8)], id="down until now"),
        pytest.param(["........"], [(4, 8), (0, 4)], id="first start, newest piece first"),
        pytest.param(["...xx..."], [(5, 8), (0, 3)], id="two holes, newest first"),
        pytest.param(["...xx...", "xx......"], [(5, 8)], id="a minute is known if any row is"),
    ],
)
def test_missing_spans(rows: list[str], expected: list[tuple[int, int]]) -> None:
    longest = timedelta(minutes=4) if expected[:1] == [(4, 8)] else timedelta(days=1)
    assert minutes(missing_spans(a_panel(*rows), shortest=3 * STEP, longest=longest)) == expected


def test_first_start_asks_fourteen_times_for_a_day() -> None:
    window = backfill_window(now=START + timedelta(seconds=42))
    bins = (window.end - window.start) // STEP
    panel = Panel(keys=KEYS[:1], start=window.start, step=STEP, values=np.full((1, bins), np.nan))
    spans = missing_spans(panel)
    assert len(spans) == 14
    assert spans[0].end == START
    assert all(span.end - span.start == timedelta(days=1) for span in spans)


def test_the_number_of_queries_is_bounded() -> None:
    assert minutes(missing_spans(a_panel("." * 12), shortest=STEP, longest=STEP, limit=3)) == [
        (11, 12),
        (10, 11),
        (9, 10),
    ]


def test_pieces_longer_than_prometheus_answers_are_a_bug() -> None:
    with pytest.raises(SeriesError, match="longest=14 days"):
        missing_spans(a_panel("..."), longest=timedelta(days=14))


@given(holes=st.lists(st.booleans(), max_size=80), shortest=st.integers(1, 6), longest=st.integers(1, 20))
def test_spans_are_exactly_the_holes(holes: list[bool], shortest: int, longest: int) -> None:
    panel = a_panel("".join("." if hole else "x" for hole in holes))
    spans = minutes(missing_spans(panel, shortest=shortest * STEP, longest=longest * STEP, limit=1000))
    asked = [bin_ for low, high in spans for bin_ in range(low, high)]
    assert len(asked) == len(set(asked))
    assert all(0 < high - low <= longest for low, high in spans)
    assert spans == sorted(spans, reverse=True)
    runs = "".join("." if hole else "x" for hole in holes).split("x")
    assert len(asked) == sum(len(run) for run in runs if len(run) >= shortest)
    assert all(holes[bin_] for bin_ in asked)
