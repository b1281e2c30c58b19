"""Which queries one purpose needs: a tick's readings, the choice of metrics, a diagnosis, a stretch of history.

Decides how signals and workloads are put together so that their number never grows with the number of workloads.
Pure: text in, text out; it sends nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forecaster.sources import promql
from forecaster.sources.catalogue import (
    CATALOGUE,
    USAGE,
    Candidate,
    Group,
    Judged,
    Kind,
    Origin,
    Signal,
    as_needed,
    signal_named,
)
from forecaster.sources.promql import Choice, Part, Query, Reach, Scope, Term
from forecaster.sources.selector import WorkloadSelector

Choices = Mapping[tuple[str, str], Choice]
"""By workload and signal."""

DEMAND = "demand_rps"
TOLD_APART = frozenset({DEMAND, *USAGE})
"""Signals that are read per request class."""
ENGINE = ""
"""Stands for the engine's targets where a term needs a signal's name."""
ANY = ""
"""Stands for the signals that a term's rows name themselves."""
ENGINE_METRIC = "vllm:num_requests_running"
TARGETS = "targets"
DEMAND_SEEN = "demand_seen_ratio"
"""Evidence: share of the scrapes of what counts the demand that came; below 1 the minute's demand is a lower bound."""
SERVICE_UP = "service_up_ratio"
"""Evidence: the same of the engines themselves; at 0 the workload was not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Workloads that take one signal from the same metric in the same way."""

    choice: Choice
    window_s: int
    class_label: str | None
    scopes: tuple[Scope, ...]


def candidates_of(signal: Signal, selector: WorkloadSelector) -> tuple[Candidate, ...]:
    """The signal's metrics for this workload, best first: one named in the selector goes before all.

    A workload that takes some request classes only has no use for a metric that does not tell them apart: what its
    engines complete is other pools' traffic as well, and lacks what went to other pools.
    """
    candidates = signal.candidates
    if signal.name == DEMAND and selector.demand_metric is not None:
        known = next((c for c in candidates if c.metric == selector.demand_metric and not c.in_flight), None)
        named = known or Candidate(metric=selector.demand_metric, origin=Origin.FRONT_DOOR)
        candidates = (named, *(c for c in candidates if c != named))
    if not selector.classes or signal.name not in TOLD_APART:
        return candidates
    return tuple(each for each in candidates if promql.class_label(each, selector) is not None)


def class_label_of(signal: Signal, candidate: Candidate, selector: WorkloadSelector) -> str | None:
    """The label that tells request classes apart in this metric: of a front door, in what comes with requests."""
    return promql.class_label(candidate, selector) if signal.name in TOLD_APART else None


class Scoping:
    """The scopes made for one purpose, each once: most signals take the same workloads in the same way.

    Of 2,000 workloads a set of scopes is 20 ms; a tick has 26 batches, a look for live metrics 61.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], tuple[Scope, ...]] = {}

    def of(self, members: Sequence[WorkloadSelector], choice: Choice, models: Mapping[str, str]) -> tuple[Scope, ...]:
        """`promql.scopes` of these."""
        named = tuple(models[each.workload] for each in members) if choice.reach is Reach.MODEL else ()
        told_apart = (choice.candidate.origin, choice.candidate.class_label)
        alike = (choice.reach, choice.candidate.model_label, told_apart, named, tuple(map(id, members)))
        if alike not in self._made:
            self._made[alike] = promql.scopes(members, choice, models)
        return self._made[alike]


def batches(
    signal: Signal, selectors: Sequence[WorkloadSelector], choices: Choices, scoping: Scoping | None = None
) -> Iterator[Batch]:
    """Workloads with a choice for this signal, in the fewest batches."""
    scoping = scoping or Scoping()
    alike: dict[tuple[Candidate, Reach, int, str | None], list[WorkloadSelector]] = defaultdict(list)
    models: dict[str, str] = {}
    for selector in selectors:
        choice = choices.get((selector.workload, signal.name))
        if choice is None:
            continue
        label = class_label_of(signal, choice.candidate, selector)
        alike[(choice.candidate, choice.reach, selector.rate_window_s, label)].append(selector)
        if choice.model is not None:
            models[selector.workload] = choice.model
    for (candidate, reach, window_s, class_label), members in alike.items():
        choice = Choice(candidate=candidate, reach=reach)
        yield Batch(
            choice=choice,
            window_s=window_s,
            class_label=class_label,
            scopes=scoping.of(members, choice, models),
        )


# ── A tick ────────────────────────────────────────────────────────────────────────────────────────────────────────


def reading_queries(
    selectors: Sequence[WorkloadSelector], shown: Sequence[WorkloadSelector], choices: Choices, judged: Judged
) -> tuple[Query, ...]:
    """One query a group and one for the targets' health, whatever the number of workloads.

    `shown` are those of them whose turn it is to have read what is only shown.
    """
    asked = {group: shown if group is Group.REPORTING else selectors for group in Group}
    scoping = Scoping()
    queries = [
        Query(name=group, terms=tuple(_group_terms(group, asked[group], choices, judged, scoping))) for group in Group
    ]
    queries.append(Query(name=TARGETS, terms=tuple(_target_terms(selectors, choices, scoping))))
    return tuple(query for query in queries if query.terms)


def _group_terms(
    group: Group, selectors: Sequence[WorkloadSelector], choices: Choices, judged: Judged, scoping: Scoping
) -> Iterator[Term]:
    for signal in CATALOGUE:
        members = [each for each in selectors if as_needed(signal, each.workload, judged).group is group]
        for batch in batches(signal, members, choices, scoping):
            for scope in batch.scopes:
                yield from _signal_terms(signal, batch, scope)


def _signal_terms(signal: Signal, batch: Batch, scope: Scope) -> Iterator[Term]:
    """A value, and beside it in the same query what is needed to believe it: age, copies, number of events."""
    candidate, window_s, label = batch.choice.candidate, batch.window_s, batch.class_label

    def term(part: Part, expression: str, extra: str | None = None) -> Term:
        return Term(signal=signal.name, part=part, scope=scope, expression=expression, choice=batch.choice, extra=extra)

    yield term(Part.VALUE, promql.value(signal, candidate, scope, window_s, label), label)
    yield term(Part.AGE, promql.age(signal, candidate, scope))
    yield term(Part.COPIES, promql.copies(signal, candidate, scope))
    if signal.min_count:
        yield term(Part.COUNT, promql.count(signal, candidate, scope, window_s))


def _target_terms(selectors: Sequence[WorkloadSelector], choices: Choices, scoping: Scoping) -> Iterator[Term]:
    own = Choice(candidate=Candidate(metric=ENGINE_METRIC), reach=Reach.OWN)
    for scope in scoping.of(selectors, own, {}):
        yield Term(signal=ENGINE, part=Part.UP, scope=scope, expression=promql.up_joined(ENGINE_METRIC, scope))
        yield Term(signal=ENGINE, part=Part.UP, scope=scope, expression=promql.up_direct(scope))
    for batch in batches(signal_named(DEMAND), selectors, choices, scoping):
        if batch.choice.candidate.origin is Origin.FRONT_DOOR:
            for scope in batch.scopes:
                joined = promql.up_joined(batch.choice.candidate.metric, scope)
                yield Term(signal=DEMAND, part=Part.UP, scope=scope, expression=joined)


# ── Which metrics are live ────────────────────────────────────────────────────────────────────────────────────────


def model_query(selectors: Sequence[WorkloadSelector], within_s: int | None = None) -> Query:
    """The model names that each workload serves, by which a front door may name it."""
    own = Choice(candidate=Candidate(metric=ENGINE_METRIC), reach=Reach.OWN)
    terms = tuple(
        Term(
            signal=ENGINE,
            part=Part.MODELS,
            scope=scope,
            expression=promql.present(ENGINE_METRIC, scope, "model_name", within_s=within_s),
            extra="model_name",
        )
        for scope in promql.scopes(selectors, own, {})
    )
    return Query(name="models", terms=terms)


def presence_query(
    selectors: Sequence[WorkloadSelector],
    models: Mapping[str, str],
    *,
    signals: Iterable[Signal] = CATALOGUE,
    within_s: int | None = None,
) -> Query:
    """Which candidate of which signal is live for which workload, in every way it could be tied to it.

    One term for all metrics that are looked for in the same way for the same workloads.
    """
    possible: dict[tuple[str, Candidate, Reach], list[WorkloadSelector]] = defaultdict(list)
    for signal in signals:
        for selector in selectors:
            for candidate in candidates_of(signal, selector):
                for reach in promql.reaches(candidate, selector, models.get(selector.workload)):
                    possible[(signal.name, candidate, reach)].append(selector)
    scoping = Scoping()
    alike: dict[tuple[Reach, int], tuple[Choice, tuple[Scope, ...], dict[str, list[tuple[str, str]]]]] = {}
    for (name, candidate, reach), members in possible.items():
        choice = Choice(candidate=candidate, reach=reach)
        scopes = scoping.of(members, choice, models)
        _, _, proves = alike.setdefault((reach, id(scopes)), (choice, scopes, defaultdict(list)))
        proves[promql.probe_metric(signal_named(name), candidate)].append((name, candidate.metric))
    return Query(
        name="presence",
        terms=tuple(
            Term(
                signal=ANY,
                part=Part.PRESENT,
                scope=scope,
                expression=promql.which_present(proves, scope, within_s=within_s),
                choice=choice,
                extra=promql.NAME_LABEL,
                proves={probe: tuple(proven) for probe, proven in proves.items()},
            )
            for choice, scopes, proves in alike.values()
            for scope in scopes
        ),
    )


def edge_query(selectors: Sequence[WorkloadSelector], choices: Choices) -> Query:
    """The bucket edges of every chosen histogram."""
    terms = tuple(
        Term(
            signal=signal.name,
            part=Part.EDGES,
            scope=scope,
            expression=promql.present(f"{batch.choice.candidate.metric}_bucket", scope, "le"),
            choice=batch.choice,
            extra="le",
        )
        for signal in CATALOGUE
        if signal.kind is Kind.HISTOGRAM_P95
        for batch in batches(signal, selectors, choices)
        for scope in batch.scopes
    )
    return Query(name="edges", terms=terms)


def diagnosis_query(missing: Mapping[str, Sequence[WorkloadSelector]], choices: Choices) -> Query:
    """For signals without an answer: when the chosen series was last there, and what series of that name exist.

    The second half is not scoped to a workload on purpose, it shows what the scope missed; three rows a name at most.
    """
    terms: list[Term] = []
    names: dict[str, str] = {}
    for name, selectors in missing.items():
        signal = signal_named(name)
        for batch in batches(signal, selectors, choices):
            metric = promql.probe_metric(signal, batch.choice.candidate)
            terms += [
                Term(signal=name, part=Part.LAST_SEEN, scope=scope, expression=promql.last_seen(metric, scope))
                for scope in batch.scopes
            ]
        for selector in selectors:
            for candidate in candidates_of(signal, selector):
                names.setdefault(promql.probe_metric(signal, candidate), name)
    anywhere = Scope(matchers="", by=(), owners={})
    terms += [
        Term(signal=metric, part=Part.SEEN, scope=anywhere, expression=promql.seen_anywhere(metric)) for metric in names
    ]
    return Query(name="diagnosis", terms=tuple(terms))


# ── History ───────────────────────────────────────────────────────────────────────────────────────────────────────


def samples_query(
    signals: Sequence[Signal], selectors: Sequence[WorkloadSelector], choices: Choices, window_s: int
) -> Query:
    """Samples of each workload's series within a window, from which the scrape interval follows."""
    terms = tuple(
        Term(
            signal=signal.name,
            part=Part.SAMPLES,
            scope=scope,
            expression=promql.samples(promql.probe_metric(signal, batch.choice.candidate), scope, window_s),
        )
        for signal in signals
        for batch in batches(signal, selectors, choices)
        for scope in batch.scopes
    )
    return Query(name="samples", terms=terms)


def history_query(
    signals: Sequence[Signal], selectors: Sequence[WorkloadSelector], choices: Choices, window_s: int
) -> Query:
    """The signals over the window before each evaluation."""
    terms = tuple(
        Term(
            signal=signal.name,
            part=Part.VALUE,
            scope=scope,
            expression=promql.past_value(signal, batch.choice.candidate, scope, window_s, batch.class_label),
            choice=batch.choice,
            extra=batch.class_label,
        )
        for signal in signals
        for batch in batches(signal, selectors, choices)
        for scope in batch.scopes
    )
    return Query(name="history", terms=terms)


def evidence_query(selectors: Sequence[WorkloadSelector], choices: Choices, window_s: int) -> Query:
    """What speaks against a minute's demand: scrapes that did not come, of what counts it and of the engines."""
    terms = [
        Term(
            signal=DEMAND_SEEN,
            part=Part.UP,
            scope=scope,
            expression=promql.scraped_share(batch.choice.candidate.metric, scope, window_s),
        )
        for batch in batches(signal_named(DEMAND), selectors, choices)
        for scope in batch.scopes
    ]
    own = Choice(candidate=Candidate(metric=ENGINE_METRIC), reach=Reach.OWN)
    terms += [
        Term(
            signal=SERVICE_UP,
            part=Part.UP,
            scope=scope,
            expression=promql.scraped_share(ENGINE_METRIC, scope, window_s),
        )
        for scope in promql.scopes(selectors, own, {})
    ]
    return Query(name="evidence", terms=tuple(terms))
