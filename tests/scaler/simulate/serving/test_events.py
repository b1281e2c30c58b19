"""Events by text, and what holds when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from scaler.simulate.serving.events import Event, EventError, EventKind, Timeline, parse_event

START = datetime(2026, 11, 20, 6, tzinfo=UTC)
END = START + timedelta(hours=6)


@pytest.mark.parametrize(
    ("text", "kind", "at_s"),
    [
        pytest.param("step@+2h", EventKind.STEP, 7200.0, id="hours from the start"),
        pytest.param("spike@+1h30m", EventKind.SPIKE, 5400.0, id="hours and minutes"),
        pytest.param("dark@+0s", EventKind.DARK, 0.0, id="at once"),
        pytest.param("bad-pod@2026-11-20T07:00:00Z", EventKind.BAD_POD, 3600.0, id="a moment"),
        pytest.param("mix@2026-11-20T07:00", EventKind.MIX, 3600.0, id="a moment without a zone is UTC"),
        pytest.param("images@2026-11-20T09:00+02:00", EventKind.IMAGES, 3600.0, id="a moment of another zone"),
    ],
)
def test_events_are_written_so(text: str, kind: EventKind, at_s: float) -> None:
    assert parse_event(text, start=START, end=END) == Event(kind=kind, at_s=at_s)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("stepp@+2h", "Did you mean 'step'?", id="unknown"),
        pytest.param("step", "needs a moment", id="no moment"),
        pytest.param("step@+two", "needs a duration", id="no duration"),
        pytest.param("step@soon", "needs a moment in ISO 8601", id="no time"),
        pytest.param("step@+6h", "outside the window", id="at the end"),
        pytest.param("step@2026-11-20T05:59Z", "outside the window", id="before it"),
    ],
)
def test_what_is_not_an_event_says_why(text: str, says: str) -> None:
    with pytest.raises(EventError, match=says):
        parse_event(text, start=START, end=END)


def test_surges_multiply_and_end() -> None:
    timeline = Timeline(events=(Event(kind=EventKind.STEP, at_s=0.0), Event(kind=EventKind.SPIKE, at_s=100.0)))
    assert [timeline.surge(at) for at in (0.0, 100.0, 159.9, 160.0, 1200.0)] == [3.0, 15.0, 15.0, 3.0, 1.0]
    assert timeline.edges_s(60.0, 170.0) == [60.0, 100.0, 160.0, 170.0]


def test_dark_is_dark_for_five_minutes() -> None:
    timeline = Timeline(events=(Event(kind=EventKind.DARK, at_s=60.0),))
    assert [timeline.dark(at, at) for at in (59.0, 60.0, 359.0, 360.0)] == [False, True, True, False]
    assert not Timeline().dark(0.0, 1e9)
