"""From the rows of an answer to typed readings.

Decides which of the four kinds a reading is: known, zero by evidence, too few events, or blind and why. A missing
series is never zero. Pure: it sends nothing and reads no clock; ages come from the server's own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forecaster.errors import SourceError, SourceMalformed, SourceRefused, SourceTimeout
from forecaster.sources.answers import Row
from forecaster.sources.catalogue import Origin, Signal
from forecaster.sources.exchange import Answer, SourcePartial
from forecaster.sources.plan import DEMAND, ENGINE, TARGETS, candidates_of
from forecaster.sources.promql import TERM_LABEL, Choice, Part, Query, Term, probe_metric
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Blind, BlindReason, Known, Reading, SeriesKey, TooFew, Zero

SKEW_WARN_S = 30.0
SKEW_BLIND_S = 120.0
QUERY_CHARS = 400
"""How much of a query a detail repeats; a batch over hundreds of workloads is thousands of characters long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What one read brought. `values` holds every workload and signal asked for; demand has a key a class.

    A blind demand stands under the default class. `skew_s` is the server's clock minus ours, None if unknown.
    """

    values: Mapping[SeriesKey, Reading]
    queries: int
    query_s: float
    skew_s: float | None = None
    notes: tuple[str, ...] = ()
    partial: frozenset[str] = frozenset()
    """Workloads whose demand is a lower bound: of the front door's targets that counted it lately, some are down."""


@dataclass(slots=True, kw_only=True)
class Facts:
    """All rows of a read by workload, signal and part; the inner key is the term's extra label, "" without one."""

    measured: dict[tuple[str, str, Part], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    expressions: dict[tuple[str, str], str] = field(default_factory=dict)
    failures: dict[str, SourceError] = field(default_factory=dict)
    """By the query's name."""
    shared: set[tuple[str, str]] = field(default_factory=set)
    """Workload and signal whose series two selectors claim."""
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Label names by metric that was looked for anywhere, from a diagnosis; none where there is no such series."""
    server_times: list[float] = field(default_factory=list)
    infos: set[str] = field(default_factory=set)

    def get(self, workload: str, signal: str, part: Part) -> float | None:
        """The only value of that part, or None."""
        return self.measured.get((workload, signal, part), {}).get("")


def collect(facts: Facts, query: Query, answer: Answer | SourceError) -> None:
    """Add the rows of one answer, or its failure, to the facts."""
    for term in query.terms:
        if term.part is Part.VALUE:
            for workload in (w for owners in term.scope.owners.values() for w in owners):
                facts.expressions[(workload, term.signal)] = term.expression
    if isinstance(answer, SourceError):
        facts.failures[query.name] = answer
        return
    facts.infos.update(answer.infos)
    for term in query.terms:
        if term.part is Part.SEEN:
            facts.seen.setdefault(term.signal, set())
    facts.server_times += [row.times[-1] for row in answer.rows[:1]]
    for row in answer.rows:
        _place(facts, query.terms, row)


def _place(facts: Facts, terms: tuple[Term, ...], row: Row) -> None:
    term = term_of(terms, row)
    if term.part is Part.SEEN:
        facts.seen[term.signal] |= set(row.labels) - {TERM_LABEL, "__name__"}
        return
    owners = owners_of(term, row)
    if is_contested(term, row):
        facts.shared.update((workload, term.signal) for workload in owners)
    for workload in owners:
        extra = row.labels.get(term.extra, "") if term.extra else ""
        slot = facts.measured[(workload, term.signal, term.part)]
        # Targets are looked for in two ways; the better news counts: one healthy target is not "all down".
        slot[extra] = max(row.values[-1], slot[extra]) if term.part is Part.UP and extra in slot else row.values[-1]


def term_of(terms: tuple[Term, ...], row: Row) -> Term:
    """The term a row answers; `SourceMalformed` if it answers none of ours."""
    number = row.labels.get(TERM_LABEL, "")
    if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number) < len(terms)):
        raise SourceMalformed("a row of the answer belongs to no part of the query")
    return terms[int(number)]


def owners_of(term: Term, row: Row) -> tuple[str, ...]:
    """The workloads whose selectors claim a row."""
    return term.scope.owners.get(_key_of(term, row), ())


def is_contested(term: Term, row: Row) -> bool:
    """Whether selectors claim a row that are not of one service: then it is nobody's."""
    return len(owners_of(term, row)) > 1 and _key_of(term, row) not in term.scope.together


def _key_of(term: Term, row: Row) -> tuple[str, ...]:
    return tuple(row.labels.get(name, "") for name in term.scope.by)


def blind_from(error: SourceError) -> Blind:
    """The reading that a failed query leaves behind."""
    match error:
        case SourceTimeout():
            reason = BlindReason.TIMEOUT
        case SourcePartial():
            reason = BlindReason.PARTIAL
        case SourceMalformed():
            reason = BlindReason.MALFORMED
        case SourceRefused(status=None):
            reason = BlindReason.UNREACHABLE
        case SourceRefused(status=401 | 403):
            reason = BlindReason.FORBIDDEN
        case _:
            reason = BlindReason.REFUSED
    return Blind(reason=reason, detail=str(error))


def resolve(selector: WorkloadSelector, signal: Signal, choice: Choice | None, facts: Facts) -> dict[str, Reading]:
    """The readings of one signal of one workload, by request class."""
    workload = selector.workload
    # Without a choice nothing was asked for; then what failed is the search, or whatever else was asked in vain.
    asked = (signal.group,) if choice is not None else ("presence", TARGETS)
    failed = next((facts.failures[name] for name in asked if name in facts.failures), None)
    if failed is not None:
        return {DEFAULT_CLASS: blind_from(failed)}
    if (workload, signal.name) in facts.shared:
        detail = "another workload's selector matches the same series; give each its own labels"
        return {DEFAULT_CLASS: Blind(reason=BlindReason.AMBIGUOUS, detail=detail)}
    values = facts.measured.get((workload, signal.name, Part.VALUE), {})
    age_s = facts.get(workload, signal.name, Part.AGE)
    blind = _doubt(workload, signal, facts, age_s)
    if blind is not None:
        return {DEFAULT_CLASS: blind}
    if choice is None or age_s is None or not values:
        return {DEFAULT_CLASS: _missing(selector, signal, choice, facts, age_s)}
    if signal.min_count:
        fewest = signal.min_count if choice.candidate.min_count is None else choice.candidate.min_count
        events = facts.get(workload, signal.name, Part.COUNT) or 0.0
        if not events >= fewest:  # also for NaN
            return {DEFAULT_CLASS: TooFew(count=max(0.0, events) if math.isfinite(events) else 0.0)}
    return {
        request_class or DEFAULT_CLASS: _measured(value * choice.candidate.scale, max(0.0, age_s), signal, choice)
        for request_class, value in values.items()
    }


def _doubt(workload: str, signal: Signal, facts: Facts, age_s: float | None) -> Blind | None:
    """Reasons not to believe a value that is there."""
    copies = facts.get(workload, signal.name, Part.COPIES)
    if copies is not None:
        detail = (
            f"{copies:.0f} series match where one is expected; they differ only in labels such as job or replica. "
            "Scrape each pod once, or let the query layer deduplicate"
        )
        return Blind(reason=BlindReason.AMBIGUOUS, detail=detail)
    if age_s is None:
        return None
    if age_s > signal.max_age_s:
        detail = f"newest sample is {age_s:.0f} s old, at most {signal.max_age_s:g} s are allowed"
        return Blind(reason=BlindReason.STALE, detail=detail)
    if age_s < -SKEW_BLIND_S:
        return Blind(reason=BlindReason.CLOCK_SKEW, detail=f"newest sample lies {-age_s:.0f} s in the future")
    return None


def _measured(value: float, age_s: float, signal: Signal, choice: Choice) -> Reading:
    if not math.isfinite(value) or value < 0.0:
        return Blind(reason=BlindReason.NOT_FINITE, detail=f"{signal.name} read {value} from {choice.candidate.metric}")
    if value == 0.0:
        return Zero(evidence=f"{choice.candidate.metric} is there, {age_s:.0f} s old, and reads 0", age_s=age_s)
    return Known(value=value, age_s=age_s)


def _missing(
    selector: WorkloadSelector, signal: Signal, choice: Choice | None, facts: Facts, age_s: float | None
) -> Blind:
    """No value: the target is down, the series vanished, or it was never there."""
    workload = selector.workload
    asked = _asked(selector, signal, facts)
    on_gpu = signal.candidates[0].origin is Origin.GPU
    front_door = choice is not None and choice.candidate.origin is Origin.FRONT_DOOR and signal.name == DEMAND
    up = None if on_gpu else facts.get(workload, DEMAND if front_door else ENGINE, Part.UP)
    if up == 0.0:
        detail = f"{'the front door' if front_door else 'every target'} of {workload} is down (up == 0)"
        return Blind(reason=BlindReason.TARGET_DOWN, detail=detail)
    if age_s is not None:
        detail = f"the series is there but holds fewer than two samples in the window; {asked}"
        return Blind(reason=BlindReason.NO_SERIES, detail=detail)
    last = facts.get(workload, signal.name, Part.LAST_SEEN)
    if up is None and last is not None:
        detail = f"the series vanished, newest sample {last:.0f} s ago, and its target is gone"
        return Blind(reason=BlindReason.STALE, detail=detail)
    detail = f"query returned no series; {asked}; found {found_text(selector, signal, facts)}"
    return Blind(reason=BlindReason.NO_SERIES, detail=detail)


def _asked(selector: WorkloadSelector, signal: Signal, facts: Facts) -> str:
    expression = facts.expressions.get((selector.workload, signal.name))
    if expression is None:
        return "query for any of " + ", ".join(c.metric for c in candidates_of(signal, selector))
    return f"query {expression if len(expression) <= QUERY_CHARS else expression[:QUERY_CHARS] + '…'}"


def found_text(selector: WorkloadSelector, signal: Signal, facts: Facts) -> str:
    """What there is of the signal's metrics, whoever it belongs to."""
    looked_for = {
        candidate.metric: facts.seen[probe]
        for candidate in candidates_of(signal, selector)
        if (probe := probe_metric(signal, candidate)) in facts.seen
    }
    if not looked_for:
        return "was not looked for"
    texts = [
        f"{metric} exists, but not for these labels (labels seen: {', '.join(sorted(labels))})"
        for metric, labels in looked_for.items()
        if labels
    ]
    return "; ".join(texts) or "no series of these names anywhere"


def median(values: Iterable[float]) -> float | None:
    """The middle value, None of nothing; odd clocks of one answer must not move it."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None
