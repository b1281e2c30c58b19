"""How measured demand gets into the history: the last minutes every minute, and the past in bounded pieces.

It decides what is worth asking for and how much at once, and that what speaks against a minute is stored beside it:
a lower bound and a true fall look alike afterwards. Tokens and images come after demand and never in its way. It
never fills a hole with a guess, never runs in the tick's thread, and a source that fails costs nothing but the
minutes it failed for: they are asked for again later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from forecaster.errors import SourceError
from forecaster.sources.catalogue import USAGE
from forecaster.sources.history import AppendReport, HistoryStore
from forecaster.sources.history.backfill import Span, backfill_window, missing_spans
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Panel, SeriesKey, floor_to_step
from scaler.adapters.store import Store

DEMAND = "demand_rps"

OVERLAP = 2 * STEP
"""Minutes asked for again: a minute's last scrape may arrive after the minute was first read."""

REACH = timedelta(minutes=30)
"""The most that the minute's round asks for; longer holes are the back-fill's."""

LOOK_EVERY = timedelta(hours=1)
"""How often workloads that tell nothing of tokens are asked whether they do by now: three queries for all of them."""

READ_AT_ONCE = 64
"""Series whose stored past is looked through at once for holes: 14 days of them are 10 MB."""

AT_ONCE = 500
"""Workloads in one piece of the back-fill: a day of them is 720,000 points, which the source asks for in chunks."""


class PastSource(Protocol):
    """What knows the past."""

    def history(
        self, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        """The signal on the grid; `SourceError` if it cannot be had."""
        ...

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        """What speaks against the demand of that grid: shares of scrapes that came; `SourceError`."""
        ...

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
    ) -> Panel:
        """Tokens and images of these classes on that grid, only the series that are there; `SourceError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """What one pass over the past brought: points stored, pieces asked for, and the failure that ended it early.

    `most` is how many of the points one series can have had: of 2,000 workloads every minute that is missing brings
    2,000, and is a minute all the same.
    """

    stored: int = 0
    pieces: int = 0
    most: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True)
class _Tells:
    """Who tells tokens and images: as of the last look, and how far their past and their last minutes are taken in."""

    workloads: frozenset[str] = frozenset()
    looked_at: datetime | None = None
    collected_to: datetime | None = None
    filled: frozenset[str] = frozenset()


class HistoryIntake:
    """Feeds one store from one source. `collect` and `backfill` may run in different threads."""

    def __init__(
        self,
        source: PastSource,
        selectors: Sequence[WorkloadSelector],
        store: Store,
        *,
        on_stored: Callable[[AppendReport], None] = lambda _: None,
    ) -> None:
        """`on_stored` is told what became of the points of each stretch."""
        self._on_stored = on_stored
        self._source = source
        self._selectors = tuple(selectors)
        self._store = store
        self._collected_to: datetime | None = None
        self._asked: set[tuple[int, datetime, datetime]] = set()
        self._tells = _Tells()

    def collect(self, *, now: datetime) -> None:
        """Store the minutes since the last call. Raises `SourceError`, `HistoryError`; the next call asks again."""
        end = floor_to_step(now)
        known_to = self._collected_to
        if known_to is None or known_to > end:  # the clock was put back: what was collected since has other minutes
            known_to = end - REACH + OVERLAP
        start = max(known_to - OVERLAP, end - REACH)
        if start >= end:
            return
        self._take(self._selectors, start=start, end=end, now=now)
        self._collected_to = end
        self._collect_usage(end=end, now=now)

    def _collect_usage(self, *, end: datetime, now: datetime) -> None:
        """Tokens and images of those that tell them; now and then of all, to learn who does."""
        tells = self._tells
        looking = tells.looked_at is None or not timedelta(0) <= now - tells.looked_at < LOOK_EVERY
        selectors = [each for each in self._selectors if looking or each.workload in tells.workloads]
        known_to = end - REACH + OVERLAP if tells.collected_to is None else min(tells.collected_to, end)
        if selectors:
            found = self._take_usage(selectors, start=max(known_to - OVERLAP, end - REACH), end=end, now=now)
            if looking:
                tells.workloads, tells.looked_at = found, now
        tells.collected_to = end

    def backfill(self, *, now: datetime, stopped: Callable[[], bool]) -> Backfill:
        """Ask for every hole of the last 14 days, newest first, a day of some workloads at a time.

        A piece that the source answered is not asked for again by this process, even if nothing was in it: the
        source does not reach back that far. The first failure ends the pass. Raises `HistoryError`.
        """
        window = backfill_window(now=now)
        self._asked = {mark for mark in self._asked if mark[2] > window.start}
        so_far = Backfill()
        for batch, selectors in enumerate(self._batches()):
            known, minutes = self._known(selectors, start=window.start, end=window.end), 0
            for span in missing_spans(known):
                mark = (batch, span.start, span.end)
                if mark in self._asked:
                    continue
                if stopped():
                    return replace(so_far, error="stopped")
                try:
                    stored = self._take(selectors, start=span.start, end=span.end, now=now)
                except SourceError as error:
                    return replace(so_far, error=str(error))
                minutes += (span.end - span.start) // STEP if stored else 0
                so_far = replace(
                    so_far,
                    stored=so_far.stored + stored,
                    pieces=so_far.pieces + 1,
                    most=max(so_far.most, min(minutes, so_far.stored + stored)),
                )
                self._asked.add(mark)
        if so_far.stored:  # where demand had a hole, what came with it may have one as well
            self._tells.filled = frozenset()
        return self._backfill_usage(window, now=now, stopped=stopped, so_far=so_far)

    def _backfill_usage(
        self, window: Span, *, now: datetime, stopped: Callable[[], bool], so_far: Backfill
    ) -> Backfill:
        """The past of those that were found to tell tokens since the last pass, as far as it is not there."""
        if self._tells.looked_at is None:
            try:
                self._collect_usage(end=window.end, now=now)
            except SourceError as error:
                return replace(so_far, error=str(error))
        fresh = [each for each in self._selectors if each.workload in self._tells.workloads - self._tells.filled]
        for selectors in _in_batches(fresh):
            names = {selector.workload for selector in selectors}
            # One signal tells where the holes are: the three are asked for together.
            keys = [key for key in usage_keys(self._store.history, names) if key.signal == USAGE[0]]
            for span in missing_spans(self._stored(keys, selectors[0].workload, window)):
                if stopped():
                    return replace(so_far, error="stopped")
                try:
                    self._take_usage(selectors, start=span.start, end=span.end, now=now)
                except SourceError as error:
                    return replace(so_far, error=str(error))
                so_far = replace(so_far, pieces=so_far.pieces + 1)
            self._tells.filled |= names
        return so_far

    def _take(self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, now: datetime) -> int:
        """Store a stretch of demand with what speaks against it; the points of demand that were stored.

        Demand comes first: where the evidence cannot be had it is there all the same, and both are asked for again.
        """
        demand = self._source.history(selectors, DEMAND, start=start, end=end, step=STEP)
        report = self._store.history.append(demand, now=now)
        self._on_stored(report)
        evidence = self._source.evidence(selectors, start=start, end=end, step=STEP)
        against = against_demand(evidence)
        if against.keys:
            self._store.history.append(against, now=now)
        return report.stored

    def _take_usage(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, now: datetime
    ) -> frozenset[str]:
        """Store a stretch of tokens and images; the workloads that have any.

        A counter that is there and has never counted is no series: engines export theirs for images from the start,
        also where no request will ever hold one.
        """
        classes = self._classes(selectors, start=min(start, end - LOOK_EVERY), end=end)
        panel = self._source.usage(selectors, classes, start=start, end=end, step=STEP)
        stored = set(usage_keys(self._store.history, {key.workload for key in panel.keys}))
        highest = np.nan_to_num(panel.values).max(axis=1, initial=0.0)
        rows = [row for row, key in enumerate(panel.keys) if highest[row] > 0.0 or key in stored]
        if rows:
            kept = replace(panel, keys=tuple(panel.keys[row] for row in rows), values=panel.values[rows])
            self._store.history.append(kept, now=now)
        return frozenset(panel.keys[row].workload for row in rows)

    def _classes(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime
    ) -> Mapping[str, Collection[str]]:
        """The request classes of each workload's demand in a stretch; one that was given up long ago is none."""
        keys = demand_keys(self._store.history, {selector.workload for selector in selectors})
        known = np.isfinite(self._store.history.read(keys, start=start, end=end).values)
        classes: dict[str, set[str]] = defaultdict(set)
        for row in np.flatnonzero(known.any(axis=1)):
            classes[keys[row].workload].add(keys[row].request_class)
        return classes

    def _batches(self) -> list[Sequence[WorkloadSelector]]:
        """Workloads to ask for together; those without any history by themselves, for the others' has no holes."""
        every = {selector.workload for selector in self._selectors}
        stored = {key.workload for key in demand_keys(self._store.history, every)}
        old = [selector for selector in self._selectors if selector.workload in stored]
        new = [selector for selector in self._selectors if selector.workload not in stored]
        return [*_in_batches(old), *_in_batches(new)]

    def _known(self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime) -> Panel:
        """Where the store has anything of these workloads."""
        keys = demand_keys(self._store.history, {selector.workload for selector in selectors})
        return self._stored(keys, selectors[0].workload, Span(start=start, end=end))

    def _stored(self, keys: Sequence[SeriesKey], anyone: str, span: Span) -> Panel:
        """One row, known where any of these series is: all that a hole is judged by.

        Read a few at a time: 14 days of 500 series at once are 80 MB, and as much again to look at them.
        """
        known = np.zeros((span.end - span.start) // STEP, dtype=bool)
        for at in range(0, len(keys), READ_AT_ONCE):
            read = self._store.history.read(keys[at : at + READ_AT_ONCE], start=span.start, end=span.end)
            known |= np.isfinite(read.values).any(axis=0)
        nobody = SeriesKey(workload=anyone, signal=DEMAND)
        return Panel(keys=(nobody,), start=span.start, step=STEP, values=np.where(known, 0.0, np.nan)[None, :])


def against_demand(evidence: Panel) -> Panel:
    """The evidence that says something: shares below 1, in the series that hold any. A quiet fleet stores nothing."""
    with np.errstate(invalid="ignore"):
        values = np.where(evidence.values < 1.0, evidence.values, np.nan)
    rows = np.flatnonzero(np.isfinite(values).any(axis=1))
    return replace(evidence, keys=tuple(evidence.keys[row] for row in rows), values=values[rows])


def demand_keys(store: HistoryStore, workloads: set[str]) -> tuple[SeriesKey, ...]:
    """The stored demand series of these workloads, one a request class, sorted."""
    stored = store.keys()
    return tuple(key for key in stored if key.signal == DEMAND and key.workload in workloads)


def usage_keys(store: HistoryStore, workloads: set[str]) -> tuple[SeriesKey, ...]:
    """The stored series of tokens and images of these workloads, sorted."""
    stored = store.keys()
    return tuple(key for key in stored if key.signal in USAGE and key.workload in workloads)


def _in_batches(selectors: Sequence[WorkloadSelector]) -> list[Sequence[WorkloadSelector]]:
    return [selectors[at : at + AT_ONCE] for at in range(0, len(selectors), AT_ONCE)]
