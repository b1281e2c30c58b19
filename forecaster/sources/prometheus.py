"""The Prometheus source: readings for a tick, history for the models, and a check of what is there.

Decides in which order questions are asked, how long all of them may take together, and when not to ask at all.
Never turns a missing answer into a number, and never lets one failed query blind the signals of another.
At most eight queries a tick: one each for demand, latencies with a target, gauges and the targets' health; one where
it is somebody's turn to have read what is only reported (everyone's every five minutes); two more when live metrics
are looked for; one more when something is missing, to say why.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from forecaster.errors import SourceError, SourceRefused, SourceTimeout
from forecaster.sources import plan
from forecaster.sources.catalogue import CATALOGUE, Group, Judged, Signal, Use, as_needed
from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Answer, Question, Wire
from forecaster.sources.past import read_evidence, read_history, read_origins, read_usage
from forecaster.sources.plan import DEMAND, TARGETS
from forecaster.sources.promql import Choice, Part, Query
from forecaster.sources.readings import (
    SKEW_BLIND_S,
    SKEW_WARN_S,
    Facts,
    Readings,
    blind_from,
    collect,
    found_text,
    median,
    resolve,
)
from forecaster.sources.reported import Reported
from forecaster.sources.selection import Selection, find_choices
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import (
    STEP,
    Blind,
    BlindReason,
    Known,
    Panel,
    Reading,
    SeriesKey,
    Zero,
    require_utc,
)

MIN_ASK_S = 0.2
"""With less time than this left, nothing more is asked."""
BACK_OFF_FIRST_S, BACK_OFF_MOST_S = 5.0, 60.0
OVERLOADED = (429, 503)
LOOK_AT_LEAST, LOOK_AT_MOST = 100, 1_000_000
"""Workloads whose live metrics are looked for in one read. A look that does not fit the deadline is tried with half as
many: all or nothing, a fleet too large for its server would stay blind for ever."""
EXECUTION_FAILED = 422
"""What Prometheus answers where its own time for a query was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalCheck:
    """Where a workload's signal comes from, or why from nowhere.

    `edges_s` are the finite bucket edges of a histogram, ascending, in the signal's unit.
    """

    workload: str
    signal: str
    use: Use
    metric: str | None
    reach: str | None = None
    edges_s: tuple[float, ...] = ()
    detail: str = ""

    @property
    def found(self) -> bool:
        """Whether a live metric was found."""
        return self.metric is not None

    def judged_at(self, threshold_s: float) -> float | None:
        """The edge at which a threshold is judged: itself if it is one, else the next lower; None below the first."""
        # 1e-9: an edge written "0.1" and a threshold computed as 0.1 may differ in the last bit.
        return max((edge for edge in self.edges_s if edge <= threshold_s * (1 + 1e-9)), default=None)


class _Budget:
    """The time and the queries of one read, shared by its steps."""

    def __init__(self, wire: Wire, deadline_s: float) -> None:
        self._wire = wire
        self._deadline_s = deadline_s
        self._started = time.monotonic()
        self.queries = 0
        self.notes: list[str] = []

    def ask(self, queries: Sequence[Query]) -> list[Answer | SourceError]:
        """Ask these at once in what is left of the time."""
        left_s = max(MIN_ASK_S, self._deadline_s - self.spent_s)
        self.queries += len(queries)
        return self._wire.ask([Question(text=query.text) for query in queries], deadline_s=left_s)

    def ask_one(self, query: Query) -> Answer | SourceError:
        """Ask this one."""
        return self.ask([query])[0]

    @property
    def spent_s(self) -> float:
        """Seconds since the read began."""
        return time.monotonic() - self._started

    @property
    def is_spent(self) -> bool:
        """Whether there is no time for another query."""
        return self._deadline_s - self.spent_s < MIN_ASK_S


class PrometheusSource:
    """Reads workloads' signals from one Prometheus, Thanos or Mimir. Safe to use from several threads."""

    def __init__(self, connection: Connection, *, jitter: random.Random | None = None) -> None:
        self._connection = connection
        self._wire = Wire(connection)
        self._jitter = jitter or random.Random()
        self._lock = threading.Lock()
        self._selection = Selection()
        self._reported = Reported()
        self._look_at = LOOK_AT_MOST
        self._overloads = 0
        self._ask_again_at: datetime | None = None

    def __repr__(self) -> str:
        return f"PrometheusSource({self._connection!r})"

    # ── A tick ────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(
        self, selectors: Sequence[WorkloadSelector], *, now: datetime, judged: Judged = MappingProxyType({})
    ) -> Readings:
        """Every signal of every workload as a reading, within one deadline for all queries together.

        `judged` are the latencies with a target: the others are read every five minutes.
        Raises nothing for what a server does: a failure is a `Blind` reading of the signals that it hit.
        """
        require_utc(now, "now")
        _check_distinct(selectors)
        budget = _Budget(self._wire, self._connection.deadline_s)
        facts = Facts()
        with self._lock:
            wait_s = 0.0 if self._ask_again_at is None else (self._ask_again_at - now).total_seconds()
            # A wait longer than any we set means that our clock was put back: ask.
            if 0.0 < wait_s <= 1.5 * BACK_OFF_MOST_S:
                error = SourceRefused(f"server overloaded; asked again in {wait_s:.0f} s", status=503)
                return Readings(values=_all_blind(selectors, error), queries=0, query_s=0.0)
            self._selection.keep_only(selectors)
            values, readable = self._choose(selectors, budget, facts, now=now)
            shown = self._reported.due(readable, now=now)
            self._measure(readable, shown, judged, budget, facts)
            values |= self._resolve(readable, shown, judged, facts, now=now)
            self._back_off(facts, now=now)
        return _finished(values, facts, budget, now=now)

    def _choose(
        self, selectors: Sequence[WorkloadSelector], budget: _Budget, facts: Facts, *, now: datetime
    ) -> tuple[dict[SeriesKey, Reading], list[WorkloadSelector]]:
        """Look for live metrics where due: blind readings of those that stay unknown, and the others."""
        due = self._selection.due(selectors, now=now)
        looked_at = due[: self._look_at]
        error = self._selection.look(looked_at, budget.ask_one, now=now) if looked_at else None
        unknown = {s for s in due if not self._selection.knows(s)}
        if error is not None:
            budget.notes.append(f"live metrics could not be looked for: {error}")
            facts.failures["presence"] = error
        if isinstance(error, SourceTimeout) or getattr(error, "status", None) == EXECUTION_FAILED:
            self._look_at = max(LOOK_AT_LEAST, len(looked_at) // 2)
        elif error is None and looked_at and not unknown:
            self._look_at = min(LOOK_AT_MOST, 2 * self._look_at)
        if not unknown:
            return {}, list(selectors)
        why = error or SourceTimeout(f"live metrics of {len(unknown)} workloads are looked for at the next reads")
        return _all_blind(sorted(unknown, key=lambda s: s.workload), why), [s for s in selectors if s not in unknown]

    def _measure(
        self,
        selectors: Sequence[WorkloadSelector],
        shown: Sequence[WorkloadSelector],
        judged: Judged,
        budget: _Budget,
        facts: Facts,
    ) -> None:
        """Ask everything at once, then why something is missing."""
        queries = plan.reading_queries(selectors, shown, self._selection.choices, judged)
        for query, answer in zip(queries, budget.ask(queries), strict=True):
            _collect_safely(facts, query, answer)
        missing = {
            signal.name: lost
            for signal in CATALOGUE
            if signal.use is not Use.REPORTING
            and signal.group not in facts.failures
            and (
                lost := [
                    s
                    for s in selectors
                    if facts.get(s.workload, signal.name, Part.AGE) is None
                    and as_needed(signal, s.workload, judged).use is not Use.REPORTING
                ]
            )
        }
        if missing and TARGETS not in facts.failures and not budget.is_spent:
            query = plan.diagnosis_query(missing, self._selection.choices)
            _collect_safely(facts, query, budget.ask_one(query))

    def _resolve(
        self,
        selectors: Sequence[WorkloadSelector],
        shown: Sequence[WorkloadSelector],
        judged: Judged,
        facts: Facts,
        *,
        now: datetime,
    ) -> dict[SeriesKey, Reading]:
        values: dict[SeriesKey, Reading] = {}
        whose_turn = set(shown)
        for selector in selectors:
            lost = alive = False
            for signal in (as_needed(each, selector.workload, judged) for each in CATALOGUE):
                choice = self._selection.choices.get((selector.workload, signal.name))
                if signal.use is Use.REPORTING and selector not in whose_turn:
                    continue
                by_class = resolve(selector, signal, choice, facts)
                values |= {
                    SeriesKey(workload=selector.workload, signal=signal.name, request_class=name): reading
                    for name, reading in by_class.items()
                }
                lost |= signal.use is not Use.REPORTING and any(_is_lost(reading) for reading in by_class.values())
                alive |= signal.name == DEMAND and any(isinstance(each, Known | Zero) for each in by_class.values())
            self._selection.note_read(selector, lost=lost, demand_alive=alive, now=now)
        failed = Group.REPORTING in facts.failures
        return values | self._reported.brought_up(selectors, shown, values, judged, failed=failed, now=now)

    def _back_off(self, facts: Facts, *, now: datetime) -> None:
        """After 429 or 503: 5 s, doubled each time up to 60 s, and up to half as much again so that daemons spread."""
        statuses = [getattr(error, "status", None) for error in facts.failures.values()]
        if not any(status in OVERLOADED for status in statuses):
            self._overloads, self._ask_again_at = 0, None
            return
        wait_s = min(BACK_OFF_MOST_S, BACK_OFF_FIRST_S * 2.0 ** min(self._overloads, 10))
        self._overloads += 1
        self._ask_again_at = now + timedelta(seconds=wait_s * (1.0 + 0.5 * self._jitter.random()))

    # ── What is there ─────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, selectors: Sequence[WorkloadSelector], *, now: datetime) -> tuple[SignalCheck, ...]:
        """The live metric of every workload and signal, with histograms' edges. `SourceError` if nobody answers."""
        require_utc(now, "now")
        _check_distinct(selectors)
        found = find_choices(selectors, self._ask_one)  # outside the lock: a slow server must not hold up a tick
        if isinstance(found, SourceError):
            raise found
        with self._lock:
            self._selection.adopt(selectors, found, now=now)
            choices = dict(self._selection.choices)
        facts = Facts()
        missing = {
            signal.name: lost
            for signal in CATALOGUE
            if (lost := [s for s in selectors if (s.workload, signal.name) not in choices])
        }
        for query in (plan.edge_query(selectors, choices), plan.diagnosis_query(missing, choices)):
            if query.terms:
                answer = self._ask_one(query)
                if isinstance(answer, SourceError):
                    raise answer
                collect(facts, query, answer)
        return tuple(
            _checked(selector, signal, choices.get((selector.workload, signal.name)), facts)
            for selector in selectors
            for signal in CATALOGUE
        )

    # ── The past ──────────────────────────────────────────────────────────────────────────────────────────────────

    def history(
        self,
        selectors: Sequence[WorkloadSelector],
        signal: str,
        *,
        start: datetime,
        end: datetime,
        step: timedelta = STEP,
    ) -> Panel:
        """A signal on the grid from `start`, one row a workload and request class present, NaN for unknown.

        Bin i is measured over [start + i·step, start + (i + 1)·step); only bins that ended by `end` and by the server's
        own clock are there. A workload without data has one row of NaN. `SourceError` if a chunk fails; the deadline
        counts for each chunk. `start` and `step` are whole seconds.
        """
        _check_distinct(selectors)
        return read_history(self._ask, selectors, signal, start=start, end=end, step=step)

    def origins(
        self, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime
    ) -> dict[str, Choice]:
        """Where `history` of the same stretch comes from, by workload; those with no data then are left out.

        Not what is live now: a workload that sleeps has none of that, and its past has. Errors as `history`.
        """
        _check_distinct(selectors)
        return read_origins(self._ask, selectors, signal, start=start, end=end)

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta = STEP
    ) -> Panel:
        """What speaks against the demand of each bin, on the grid of `history`; two rows a workload at most.

        `demand_seen_ratio` is the share of the scrapes of what counts the demand that came, `service_up_ratio` the same
        of the engines. Both lie in [0, 1]; NaN, or no row, where nothing is known of the targets. Errors as `history`.
        """
        _check_distinct(selectors)
        return read_evidence(self._ask, selectors, start=start, end=end, step=step)

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta = STEP,
    ) -> Panel:
        """Tokens and images (`catalogue.USAGE`) on the grid of `history`: a row for each series that is there.

        `classes` are the request classes of each workload's demand: what the engine counts belongs to the only one,
        and is left out where there are several. Three queries where nobody tells any of it, five else. Errors as
        `history`.
        """
        _check_distinct(selectors)
        return read_usage(self._ask, selectors, classes, start=start, end=end, step=step)

    def _ask(self, question: Question) -> Answer | SourceError:
        return self._wire.ask([question], deadline_s=self._connection.deadline_s)[0]

    def _ask_one(self, query: Query) -> Answer | SourceError:
        return self._ask(Question(text=query.text))


# ── Parts of a read ───────────────────────────────────────────────────────────────────────────────────────────────


def _check_distinct(selectors: Sequence[WorkloadSelector]) -> None:
    names = [s.workload for s in selectors]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"more than one selector for {', '.join(twice)}")


def _collect_safely(facts: Facts, query: Query, answer: Answer | SourceError) -> None:
    try:
        collect(facts, query, answer)
    except SourceError as error:
        facts.failures[query.name] = error


def _all_blind(selectors: Sequence[WorkloadSelector], error: SourceError) -> dict[SeriesKey, Reading]:
    blind = blind_from(error)
    return {SeriesKey(workload=s.workload, signal=signal.name): blind for s in selectors for signal in CATALOGUE}


def _is_lost(reading: Reading) -> bool:
    """Whether to look for another metric: targets that were down may come back under a newer name."""
    reasons = (BlindReason.NO_SERIES, BlindReason.STALE, BlindReason.TARGET_DOWN)
    return isinstance(reading, Blind) and reading.reason in reasons


def _finished(values: dict[SeriesKey, Reading], facts: Facts, budget: _Budget, *, now: datetime) -> Readings:
    """Judge the clocks, and count."""
    server = median(facts.server_times)
    skew_s = None if server is None else server - now.timestamp()
    partly = {key[0]: slot[""] for key, slot in facts.measured.items() if key[2] is Part.UP and 0.0 < slot[""] < 1.0}
    notes = [f"{workload}: only {share:.0%} of its targets are up" for workload, share in sorted(partly.items())]
    notes += [*budget.notes, *(f"{name}: {error}" for name, error in facts.failures.items()), *sorted(facts.infos)]
    if skew_s is not None and abs(skew_s) > SKEW_WARN_S:
        notes.append(f"the server's clock is {skew_s:+.0f} s from ours")
    if skew_s is not None and abs(skew_s) > SKEW_BLIND_S:
        detail = f"the server's clock is {skew_s:+.0f} s from ours, at most {SKEW_BLIND_S:g} s are allowed"
        blind = Blind(reason=BlindReason.CLOCK_SKEW, detail=detail)
        values = {key: reading if isinstance(reading, Blind) else blind for key, reading in values.items()}
    return Readings(
        values=values,
        queries=budget.queries,
        query_s=budget.spent_s,
        skew_s=skew_s,
        notes=tuple(notes),
        partial=frozenset(
            workload
            for (workload, signal, part), slot in facts.measured.items()
            if part is Part.UP and signal == DEMAND and 0.0 < slot[""] < 1.0
        ),
    )


def _edge(label: str) -> float:
    """A bucket's edge; +Inf for the last one and for what is no number."""
    try:
        return float(label)
    except ValueError:
        return math.inf


def _checked(selector: WorkloadSelector, signal: Signal, choice: Choice | None, facts: Facts) -> SignalCheck:
    if choice is None:
        detail = f"none of its metrics is live for this workload; found {found_text(selector, signal, facts)}"
        return SignalCheck(workload=selector.workload, signal=signal.name, use=signal.use, metric=None, detail=detail)
    slot = facts.measured.get((selector.workload, signal.name, Part.EDGES), {})
    edges = tuple(sorted(edge for edge in map(_edge, slot) if math.isfinite(edge)))
    return SignalCheck(
        workload=selector.workload,
        signal=signal.name,
        use=signal.use,
        metric=choice.candidate.metric,
        reach=choice.reach,
        edges_s=edges,
        detail=choice.remark,
    )
