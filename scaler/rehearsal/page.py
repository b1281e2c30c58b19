"""The rehearsal's picture: one HTML file that asks nobody for anything.

It turns lines into paths and judges none of them. What is not known leaves a gap in its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from scaler.rehearsal.notes import Change, Line, Notes

WIDTH, LEFT = 1000, 44
LOAD_HEIGHT, GAP, P95_HEIGHT, FOOT = 260, 26, 90, 20
HEIGHT = LOAD_HEIGHT + GAP + P95_HEIGHT + FOOT

Point = tuple[float, float]
Value = Callable[[Line], float | None]


class _Axes:
    """From moments and values to places on the picture."""

    def __init__(self, notes: Notes) -> None:
        lines = notes.lines
        self.begin, end = lines[0].at, lines[-1].at
        self._span_s = max(1.0, (end - self.begin).total_seconds())
        self.most_rps = max(
            1.0, *(max(each.offered_rps, notes.max_rps * max(each.ready or 0, each.wanted or 0)) for each in lines)
        )
        self.most_s = max(1.0, *(each.p95_s or 0.0 for each in lines))

    def x(self, at: datetime) -> float:
        """Left to right, clipped to the picture."""
        share = (at - self.begin).total_seconds() / self._span_s
        return round(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT), 1)

    def y_rps(self, rate_rps: float) -> float:
        """In the upper part."""
        return round(LOAD_HEIGHT * (1.0 - min(1.0, rate_rps / (1.05 * self.most_rps))), 1)

    def y_s(self, seconds: float) -> float:
        """In the lower part."""
        return round(LOAD_HEIGHT + GAP + P95_HEIGHT * (1.0 - seconds / (1.05 * self.most_s)), 1)


def page(notes: Notes) -> str:
    """The picture of at least one line."""
    axes, max_rps = _Axes(notes), notes.max_rps
    last = notes.lines[-1]

    def rps(value: Value) -> Callable[[Line], float | None]:
        return lambda line: None if (found := value(line)) is None else axes.y_rps(found)

    ready = rps(lambda line: None if line.ready is None else line.ready * max_rps)
    wanted = rps(lambda line: None if line.wanted is None else line.wanted * max_rps)
    curves: tuple[tuple[str, Value, bool], ...] = (
        ("wanted", wanted, True),
        ("ready", ready, True),
        ("soon", rps(lambda line: line.soon_rps), False),
        ("load", rps(lambda line: line.offered_rps), False),
        ("p95", lambda line: None if line.p95_s is None else axes.y_s(line.p95_s), False),
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html.j2",), default=True),
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html.j2").render(
        sent=last.sent,
        failed=last.failed,
        max_rps=f"{max_rps:g}",
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        bursts=list(_bursts(notes, axes)),
        levels=list(_levels(axes)),
        area=_area(notes.lines, axes, ready),
        paths=[{"kind": kind, "d": _path(notes.lines, axes, y, stepped=stepped)} for kind, y, stepped in curves],
        times=list(_times(notes.lines, axes)),
        changes=[_row(each) for each in notes.changes],
    )


def _path(lines: Sequence[Line], axes: _Axes, y: Value, *, stepped: bool) -> str:
    words: list[str] = []
    pen_down = False
    for line in lines:
        place = y(line)
        if place is None:
            pen_down = False
            continue
        x = axes.x(line.at)
        words.append(f"M{x} {place}" if not pen_down else f"H{x} V{place}" if stepped else f"L{x} {place}")
        pen_down = True
    return " ".join(words)


def _area(lines: Sequence[Line], axes: _Axes, y: Value) -> str:
    """Below the Ready servers; nothing where their number is not known."""
    foot = axes.y_rps(0.0)
    known = [(axes.x(line.at), foot if (place := y(line)) is None else place) for line in lines]
    steps = " ".join(f"H{x} V{place}" for x, place in known)
    return f"M{known[0][0]} {foot} {steps} V{foot} Z"


def _bursts(notes: Notes, axes: _Axes) -> Iterator[Point]:
    rhythm, end = notes.rhythm, notes.lines[-1].at
    at = rhythm.next_burst_at(axes.begin) - rhythm.period
    while at < end:
        left, right = axes.x(at), axes.x(at + rhythm.burst)
        if right > left:
            yield left, round(right - left, 1)
        at += rhythm.period


def _levels(axes: _Axes) -> Iterator[dict[str, Any]]:
    for share in (0.0, 0.5, 1.0):
        rate, seconds = share * axes.most_rps, share * axes.most_s
        yield {"y": axes.y_rps(rate), "text": f"{rate:.3g}/s"}
        yield {"y": axes.y_s(seconds), "text": f"{seconds:.3g} s"}


def _times(lines: Sequence[Line], axes: _Axes) -> Iterator[dict[str, Any]]:
    span = lines[-1].at - lines[0].at
    step = next((timedelta(minutes=m) for m in (1, 2, 5, 10, 30, 60) if span <= timedelta(minutes=12 * m)), span / 6)
    at = lines[0].at.replace(second=0, microsecond=0) + step
    while at < lines[-1].at:
        yield {"x": axes.x(at), "text": f"{at:%H:%M}"}
        at += step


def _row(change: Change) -> dict[str, Any]:
    when = f"{change.burst_in_s:.0f} s before it" if change.burst_in_s else "while it is on"
    return {
        "at": f"{change.at:%H:%M:%S}",
        "before": change.before,
        "after": change.after,
        "reason": change.reason,
        "when": when,
    }
