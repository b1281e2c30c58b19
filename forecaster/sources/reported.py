"""What is only shown: asked for every few minutes, a part of the fleet at a time, and shown at every tick.

It decides whose turn it is, and what is shown between two reads: the last reading with its true age, or that none was
made yet. It never asks for anything, and keeps nothing of workloads that are no longer asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from forecaster.sources.catalogue import CATALOGUE, Judged, Use, as_needed
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Blind, BlindReason, Known, Reading, SeriesKey, Zero

EVERY = timedelta(minutes=5)
AGAIN_AFTER = timedelta(minutes=1)
"""After a query that failed: what did not fit the server's time now will not fit it at the next tick either."""
AT_ONCE = 200
"""Workloads that have their turn together, or a tenth of the fleet if that is more. All of 2,000 at once are a query of
seconds beside a tick's; a tick of 15 s has twenty turns in five minutes."""

_NOT_YET = {DEFAULT_CLASS: Blind(reason=BlindReason.NOT_READ, detail="read every five minutes, not yet")}

_NEVER = datetime.min.replace(tzinfo=UTC)

_Told = tuple[Mapping[str, Reading], datetime]
"""Readings by request class, and when they were made."""


class Reported:
    """What was read last. Not thread-safe: the source holds its lock."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}
        self._due_at: dict[str, datetime] = {}

    def due(self, selectors: Sequence[WorkloadSelector], *, now: datetime) -> tuple[WorkloadSelector, ...]:
        """Whose turn it is: those that were read too long ago, the longest first."""

        def waits(selector: WorkloadSelector) -> bool:
            due_at = self._due_at.get(selector.workload)
            # A turn further away than any we give means that our clock was put back.
            return due_at is None or not now < due_at <= now + EVERY

        waiting = [selector for selector in selectors if waits(selector)]
        waiting.sort(key=lambda selector: self._due_at.get(selector.workload, _NEVER))
        return tuple(waiting[: max(AT_ONCE, -(-len(selectors) // 10))])

    def brought_up(
        self,
        selectors: Sequence[WorkloadSelector],
        asked: Collection[WorkloadSelector],
        values: Mapping[SeriesKey, Reading],
        judged: Judged,
        *,
        failed: bool,
        now: datetime,
    ) -> dict[SeriesKey, Reading]:
        """Every shown signal of these workloads: from `values` where it was just `asked` for, else as it was last."""
        again_at = now + (AGAIN_AFTER if failed else EVERY)
        self._due_at |= {selector.workload: again_at for selector in asked}
        self._due_at = {each.workload: at for each in selectors if (at := self._due_at.get(each.workload)) is not None}
        fresh: dict[tuple[str, str], dict[str, Reading]] = defaultdict(dict)
        for key, reading in values.items():
            fresh[(key.workload, key.signal)][key.request_class] = reading
        told: dict[tuple[str, str], _Told] = {}
        for of in _shown(selectors, judged):
            told[of] = (fresh[of], now) if of in fresh else self._told.get(of, (_NOT_YET, now))
        self._told = told
        return {
            SeriesKey(workload=workload, signal=signal, request_class=name): _aged(reading, now - at)
            for (workload, signal), (by_class, at) in told.items()
            for name, reading in by_class.items()
        }


def _shown(selectors: Sequence[WorkloadSelector], judged: Judged) -> Iterator[tuple[str, str]]:
    for workload in (selector.workload for selector in selectors):
        for signal in CATALOGUE:
            if as_needed(signal, workload, judged).use is Use.REPORTING:
                yield workload, signal.name


def _aged(reading: Reading, by: timedelta) -> Reading:
    if isinstance(reading, Known | Zero):
        return replace(reading, age_s=reading.age_s + max(0.0, by.total_seconds()))
    return reading
