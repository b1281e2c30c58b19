"""Which spans of history to ask the metrics source for again: on the first start, and after the daemon was down.

It decides what is worth asking for and in which pieces; it never asks, and never fills a hole by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from forecaster.errors import SeriesError
from forecaster.types import Panel, floor_to_step

MAX_POINTS = 11_000
"""Prometheus answers 400 to a range query with more points than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bins from `start` up to, not including, `end`."""

    start: datetime
    end: datetime


def missing_spans(
    panel: Panel,
    *,
    shortest: timedelta = timedelta(minutes=5),
    longest: timedelta = timedelta(days=1),
    limit: int = 64,
) -> tuple[Span, ...]:
    """Spans of `panel` in which no row is known, newest first, at most `limit` of them.

    Pass the rows of one query (all workloads of one signal, or one new workload). Holes under `shortest` are left
    alone: a query each would cost more than the models lose. Pieces are at most `longest`, so that 14 missing days
    are 14 queries of 1,440 points. Newest first, because the last hours matter most if the source gives up.
    """
    bins_shortest, bins_longest = -(-shortest // panel.step), longest // panel.step
    if not 1 <= bins_longest <= MAX_POINTS or bins_shortest < 1 or limit < 0:
        raise SeriesError(
            f"missing_spans: need step ≤ longest ≤ {MAX_POINTS} steps and shortest > 0, "
            f"got longest={longest}, shortest={shortest}, step={panel.step}, limit={limit}"
        )
    hole = np.isnan(panel.values).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], hole, [False])).astype(np.int8)))
    spans: list[Span] = []
    for first, after in reversed(list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))):
        if after - first < bins_shortest:
            continue
        for high in range(after, first, -bins_longest):
            low = max(first, high - bins_longest)
            spans.append(Span(start=panel.start + low * panel.step, end=panel.start + high * panel.step))
            if len(spans) >= limit:
                return tuple(spans[:limit])
    return tuple(spans)


def backfill_window(*, now: datetime, days: int = 14) -> Span:
    """The span to look for holes in: `days` up to the last whole minute before `now`."""
    end = floor_to_step(now)
    return Span(start=end - timedelta(days=days), end=end)
