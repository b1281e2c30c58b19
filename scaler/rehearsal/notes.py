"""What was seen while the rehearsal went on: a line every few seconds, and every change of the scale with its reason.

It looks and writes down. What a line means is for the reader; no figure here is a measurement of the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from scaler.rehearsal.load import Target
from scaler.rehearsal.rhythm import Rhythm

MOST_LINES = 20_000
"""Kept; at one in five seconds a day has 17,280."""

SOON_S = 300.0
"""How far ahead the forecast is shown: a start and four minutes, what an order looks at."""

P95_OVER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One look. None is "not known"."""

    at: datetime
    offered_rps: float
    measured_rps: float | None
    soon_rps: float | None
    """The highest median of the forecast within the next five minutes."""
    wanted: int | None
    ready: int | None
    p95_s: float | None
    sent: int
    failed: int
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One decision that moved the scale."""

    at: datetime
    before: int
    after: int
    reason: str
    burst_in_s: float
    """Seconds until the next burst, 0 in the middle of one."""


@dataclass(slots=True, kw_only=True)
class Notes:
    """Everything that was seen."""

    rhythm: Rhythm
    max_rps: float
    lines: list[Line] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    _decided_at: str = ""

    def look(
        self,
        row: Mapping[str, Any] | None,
        decision: Mapping[str, Any] | None,
        forecast: Mapping[str, Any] | None,
        target: Target,
        *,
        now: datetime,
    ) -> Line:
        """One line more, from the daemon's own documents and the load's results."""
        replicas: Mapping[str, Any] = row["replicas"] if row is not None else {}
        demand = [each for each in (row or {}).get("demand_rps", {}).values() if each is not None]
        line = Line(
            at=now,
            offered_rps=self.rhythm.rate_rps(now),
            measured_rps=sum(demand) if demand else None,
            soon_rps=_soon(forecast),
            wanted=replicas.get("desired"),
            ready=replicas.get("ready"),
            p95_s=target.p95_s(now - P95_OVER),
            sent=len(target.shots),
            failed=len(target.failed),
            state=str((row or {}).get("state", "")),
        )
        self.lines = [*self.lines[-MOST_LINES:], line]
        self._note_change(decision)
        return line

    def _note_change(self, decision: Mapping[str, Any] | None) -> None:
        made: Mapping[str, Any] = (decision or {}).get("decision", {})
        at, before, after = str((decision or {}).get("at", "")), made.get("current"), made.get("target")
        if not at or at == self._decided_at or before is None or after is None or before == after:
            return
        self._decided_at = at
        moment = datetime.fromisoformat(at)
        left = timedelta(0) if self.rhythm.bursting(moment) else self.rhythm.next_burst_at(moment) - moment
        self.changes.append(
            Change(at=moment, before=before, after=after, reason=str(made["reason"]), burst_in_s=left.total_seconds())
        )

    @property
    def ahead(self) -> list[Change]:
        """Growth that was ordered while it was quiet, for the burst that was to come."""
        return [each for each in self.changes if each.after > each.before and each.burst_in_s > 0]


def _soon(forecast: Mapping[str, Any] | None) -> float | None:
    medians = [
        float(point["quantiles"]["0.5"])
        for each in (forecast or {}).get("classes", ())
        for point in each["points"]
        if point["horizon_s"] <= SOON_S
    ]
    return max(medians, default=None)


def in_words(change: Change) -> str:
    """ "14:05:12  1 → 2, forecast, 283 s before the burst"."""
    when = f"{change.burst_in_s:.0f} s before the burst" if change.burst_in_s else "in the burst"
    return f"{change.at:%H:%M:%S}  {change.before} → {change.after}, {change.reason}, {when}"
