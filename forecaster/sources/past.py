"""History from Prometheus as a panel on the product's grid.

Decides how a long stretch is cut into range queries, over which window a bin is measured, and which bins exist: only
those that had ended by the server's own clock. Never fills a gap: what was not measured is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from forecaster.errors import SeriesError, SourceError, SourceMalformed
from forecaster.sources import plan
from forecaster.sources.answers import Row
from forecaster.sources.catalogue import USAGE, Origin, Signal, signal_named
from forecaster.sources.exchange import Answer, Question
from forecaster.sources.promql import TERM_LABEL, Choice, Query, Term
from forecaster.sources.readings import is_contested, owners_of, term_of
from forecaster.sources.selection import find_choices
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Panel, SeriesKey, require_utc

MAX_POINTS = 10_000
"""Per series and request; Prometheus refuses more than 11,000."""
MAX_SAMPLES = 200_000
"""Per answer, about 6 MB of JSON: keeps a chunk far below the size at which an answer is cut."""
CLASSES_EXPECTED = 4
PROBES = 24
"""Moments at which a long stretch is probed for live metrics and scrape intervals."""
SAMPLE_WINDOW_S = 600

Ask = Callable[[Question], Answer | SourceError]


def read_history(
    ask: Ask,
    selectors: Sequence[WorkloadSelector],
    signal: str,
    *,
    start: datetime,
    end: datetime,
    step: timedelta,
) -> Panel:
    """See `PrometheusSource.history`."""
    wanted, step_s = signal_named(signal), _whole_seconds(start, end, step)
    bins = _bins_ended(ask, start, end, step)
    rows: dict[SeriesKey, np.ndarray] = {}
    if bins and selectors:
        stretch = (start + step, start + step * bins)
        choices = _past_choices(ask, selectors, [wanted], stretch)
        window_s = _window_s(ask, [wanted], selectors, choices, stretch, step_s)
        query = plan.history_query([wanted], selectors, choices, window_s)
        for question in _chunks(query, len(selectors), stretch, step):
            _fill(rows, query, _answer(ask(question)), start=start, step_s=step_s, bins=bins)
    for selector in selectors:
        if not any(key.workload == selector.workload for key in rows):
            rows[SeriesKey(workload=selector.workload, signal=signal)] = np.full(bins, np.nan)
    keys = tuple(sorted(rows))
    values = np.array([rows[key] for key in keys]) if keys else np.empty((0, bins))
    return Panel(keys=keys, start=start, step=step, values=values.reshape(len(keys), bins))


def read_origins(
    ask: Ask, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime
) -> dict[str, Choice]:
    """See `PrometheusSource.origins`."""
    choices = _past_choices(ask, selectors, [signal_named(signal)], (start, end))
    return {workload: choice for (workload, _), choice in choices.items()}


def read_evidence(
    ask: Ask, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta
) -> Panel:
    """See `PrometheusSource.evidence`."""
    demand, step_s = signal_named(plan.DEMAND), _whole_seconds(start, end, step)
    bins = _bins_ended(ask, start, end, step)
    rows: dict[SeriesKey, np.ndarray] = {}
    if bins and selectors:
        stretch = (start + step, start + step * bins)
        choices = _past_choices(ask, selectors, [demand], stretch)
        window_s = _window_s(ask, [demand], selectors, choices, stretch, step_s)
        query = plan.evidence_query(selectors, choices, window_s)
        for question in _chunks(query, len(selectors), stretch, step):
            _fill(rows, query, _answer(ask(question)), start=start, step_s=step_s, bins=bins)
    keys = tuple(sorted(rows))
    values = np.array([rows[key] for key in keys]).reshape(len(keys), bins)
    return Panel(keys=keys, start=start, step=step, values=values)


def read_usage(
    ask: Ask,
    selectors: Sequence[WorkloadSelector],
    classes: Mapping[str, Collection[str]],
    *,
    start: datetime,
    end: datetime,
    step: timedelta,
) -> Panel:
    """See `PrometheusSource.usage`."""
    signals, step_s = [signal_named(name) for name in USAGE], _whole_seconds(start, end, step)
    bins = _bins_ended(ask, start, end, step)
    rows: dict[SeriesKey, np.ndarray] = {}
    if bins and selectors:
        stretch = (start + step, start + step * bins)
        found = _past_choices(ask, selectors, signals, stretch)
        choices = {key: choice for key, choice in found.items() if _tells(choice, key[0], classes)}
        window_s = _window_s(ask, signals, selectors, choices, stretch, step_s)
        query = plan.history_query(signals, selectors, choices, window_s)
        for question in _chunks(query, len(signals) * len(selectors), stretch, step):
            _fill(rows, query, _answer(ask(question)), start=start, step_s=step_s, bins=bins)
    rows = _of_classes(rows, classes)
    keys = tuple(sorted(rows))
    return Panel(
        keys=keys, start=start, step=step, values=np.array([rows[key] for key in keys]).reshape(len(keys), bins)
    )


def _tells(choice: Choice, workload: str, classes: Mapping[str, Collection[str]]) -> bool:
    """Whether a metric can say what requests of a class are made of: the engine counts all classes together."""
    return choice.candidate.origin is not Origin.ENGINE or len(classes.get(workload, ())) <= 1


def _of_classes(
    rows: Mapping[SeriesKey, np.ndarray], classes: Mapping[str, Collection[str]]
) -> dict[SeriesKey, np.ndarray]:
    """What no label told apart goes to the workload's only class; of several classes it belongs to none."""
    told: dict[SeriesKey, np.ndarray] = {}
    for key, row in rows.items():
        known = set(classes.get(key.workload, ())) or {key.request_class}
        if key.request_class != DEFAULT_CLASS or DEFAULT_CLASS in known:
            told[key] = row
        elif len(known) == 1:
            told[replace(key, request_class=min(known))] = row
    return told


def _whole_seconds(start: datetime, end: datetime, step: timedelta) -> int:
    require_utc(start, "start")
    require_utc(end, "end")
    step_s = int(step.total_seconds())
    if step_s < 1 or timedelta(seconds=step_s) != step or start.microsecond:
        raise SeriesError(f"history needs a start and a step of whole seconds, got {start.isoformat()} and {step}")
    return step_s


def _answer(answer: Answer | SourceError) -> Answer:
    if isinstance(answer, SourceError):
        raise answer
    return answer


def _bins_ended(ask: Ask, start: datetime, end: datetime, step: timedelta) -> int:
    """How many bins had ended by `end` and by the server's clock: ours may be ahead, and rates there read low."""
    rows = _answer(ask(Question(text=f'label_replace(vector(time()), "{TERM_LABEL}", "0", "", "")'))).rows
    server = rows[0].values[0] if rows else end.timestamp()
    if not math.isfinite(server):
        raise SourceMalformed(f"the server's clock reads {server}")
    known_s = min(end.timestamp(), server) - start.timestamp()
    return max(0, int(known_s // step.total_seconds()))


def _coarse(query: Query, stretch: tuple[datetime, datetime]) -> Question:
    first, last = stretch
    step_s = max(1, math.ceil((last - first).total_seconds() / PROBES))
    return Question(text=query.text, start=first, end=last, step_s=step_s)


def _past_choices(
    ask: Ask, selectors: Sequence[WorkloadSelector], signals: Sequence[Signal], stretch: tuple[datetime, datetime]
) -> dict[tuple[str, str], Choice]:
    """The metrics that were live during the stretch, which need not be those that are live now."""
    within_s = max(300, math.ceil((stretch[1] - stretch[0]).total_seconds() / PROBES))
    choices = find_choices(selectors, lambda query: ask(_coarse(query, stretch)), signals=signals, within_s=within_s)
    if isinstance(choices, SourceError):
        raise choices
    return choices


def _window_s(
    ask: Ask,
    signals: Sequence[Signal],
    selectors: Sequence[WorkloadSelector],
    choices: Mapping[tuple[str, str], Choice],
    stretch: tuple[datetime, datetime],
    step_s: int,
) -> int:
    """The step, or wider where a step holds fewer than two samples: a rate needs two.

    Scraped every 60 s, ten minutes hold 10 samples, so a bin of 60 s is measured over 150 s that end with it.
    """
    query = plan.samples_query(signals, selectors, choices, SAMPLE_WINDOW_S)
    if not query.terms:
        return step_s
    counts = [max(row.values) for row in _answer(ask(_coarse(query, stretch))).rows if row.values]
    if not counts or max(counts) < 1:
        return step_s
    interval_s = SAMPLE_WINDOW_S / max(counts)
    return step_s if 2.0 * interval_s <= 1.1 * step_s else max(step_s, math.ceil(2.5 * interval_s))


def _chunks(query: Query, series: int, stretch: tuple[datetime, datetime], step: timedelta) -> Iterator[Question]:
    if not query.terms:
        return
    points = max(1, min(MAX_POINTS, MAX_SAMPLES // (series * CLASSES_EXPECTED)))
    first, last = stretch
    while first <= last:
        stop = min(last, first + step * (points - 1))
        yield Question(text=query.text, start=first, end=stop, step_s=int(step.total_seconds()))
        first = stop + step


def _fill(
    rows: dict[SeriesKey, np.ndarray], query: Query, answer: Answer, *, start: datetime, step_s: int, bins: int
) -> None:
    """Enter an answer's samples: the one at a bin's end is that bin's value."""
    for row in answer.rows:
        term = term_of(query.terms, row)
        if is_contested(term, row):
            continue
        request_class = (row.labels.get(term.extra, "") if term.extra else "") or DEFAULT_CLASS
        index = np.rint((np.array(row.times) - start.timestamp()) / step_s) - 1.0
        inside = (index >= 0) & (index < bins)
        for workload in owners_of(term, row):
            key = SeriesKey(workload=workload, signal=term.signal, request_class=request_class)
            line = rows.setdefault(key, np.full(bins, np.nan))
            line[index[inside].astype(np.int64)] = _clean(row, term)[inside]


def _clean(row: Row, term: Term) -> np.ndarray:
    """Values in the signal's unit; what is not a finite number ≥ 0 is unknown."""
    scale = term.choice.candidate.scale if term.choice is not None else 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(row.values) * scale
    return np.where(np.isfinite(values) & (values >= 0.0), values, np.nan)
