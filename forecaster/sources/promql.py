"""PromQL text: how a signal of many workloads is asked for in one batched query.

Decides the text of every query and which row of its answer belongs to which workload and signal. Never sends one,
and never reads a clock. Valid in Prometheus 2.42 and 3.x. Every value is a quoted literal, every regular expression
is escaped, and every selector is scoped to its workloads, so that a hostile name cannot widen a query and gauges
that a router exports again are not counted twice.

A query is a list of terms joined by `or`; each term's rows carry its number in the label `headstart_term`, so rows
of different terms never merge and one workload's answer is found without parsing metric names.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from forecaster.sources.catalogue import Candidate, Kind, Origin, Signal
from forecaster.sources.selector import WorkloadSelector

TERM_LABEL = "headstart_term"
OWNER_LABEL = "headstart_owner"
NAME_LABEL = "__name__"

REPLICA_LABELS = (
    "prometheus", "prometheus_replica", "replica", "__replica__", "prometheus_group", "monitor", "receive",
    "job", "endpoint", "service", "container", "metrics_path",
)  # fmt: skip
"""Labels in which two copies of one series differ: a highly available pair of servers, or one pod scraped twice."""

KV_WINDOW_S = 60
LAST_SEEN_S = 3600
"""How far back a vanished series is looked for."""

# A pod's name is its owner's and: a template hash (a 32-bit number written with the ten signs 4-9bcdf) and five random
# signs for a Deployment, five signs for a ReplicaSet, an ordinal for a StatefulSet. Hand-made hashes are accepted if
# they hold a digit, so that `chat` never takes the pods of a job called `chat-preview`.
POD_SUFFIX = "(?:(?:[4-9bcdf]{6,10}|[a-z]*[0-9][a-z0-9]{2,9})-[a-z0-9]{5}|[a-z0-9]{5}|[0-9]{1,5})"


class Reach(StrEnum):
    """By which labels a metric's series are tied to a workload."""

    OWN = "own"
    MODEL = "model"
    DEMAND_LABELS = "demand labels"
    GPU_EXPORTED = "exported_pod"
    GPU_POD = "pod"


class Part(StrEnum):
    """What a term measures about a signal."""

    VALUE = "value"
    COUNT = "count"
    AGE = "age"
    COPIES = "copies"
    UP = "up"
    PRESENT = "present"
    MODELS = "models"
    EDGES = "edges"
    LAST_SEEN = "last_seen"
    SEEN = "seen"
    SAMPLES = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where one workload's signal comes from: the live metric, and the labels that tie it to the workload."""

    candidate: Candidate
    reach: Reach
    model: str | None = None

    @property
    def remark(self) -> str:
        """What a person should know before believing it; empty where there is nothing."""
        return "completions + change of what is in flight stand in for arrivals" if self.candidate.in_flight else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Workloads that one expression can read together, and how its rows are told apart.

    `owners` maps the values of the labels `by`, in that order, to the workload; other rows are ignored, and a row
    with two owners is nobody's: their selectors say the same. Of the keys in `together` each owner has all: they are
    one service.
    """

    matchers: str
    by: tuple[str, ...]
    owners: Mapping[tuple[str, ...], tuple[str, ...]]
    namespaces: str = ""
    """The matcher for the namespaces alone, for series that carry only a target's labels."""
    rewrite: tuple[str, str] | None = None
    """Pod label and expression whose first group is the owner's name."""
    together: frozenset[tuple[str, ...]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One expression of a query, and what its rows mean."""

    signal: str
    part: Part
    scope: Scope
    expression: str
    choice: Choice | None = None
    extra: str | None = None
    """A further label of the rows that matters: the request class, the model, the bucket edge."""
    proves: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """By the name of a series, the signals and metrics whose presence it proves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Terms that are asked for together; `name` is the group that goes blind if it fails."""

    name: str
    terms: tuple[Term, ...]

    @property
    def text(self) -> str:
        """The PromQL of the whole query.

        Joined in pairs: `or` looks at every row of both sides, so that a chain of 61 terms over 2,000 workloads looked
        at 28,000 rows thirty times over (2.6 s of processor time, in pairs 1.7 s).
        """
        joined = [
            f'label_replace({term.expression}, "{TERM_LABEL}", "{number}", "", "")'
            for number, term in enumerate(self.terms)
        ]
        while len(joined) > 2:
            joined = [f"({' or '.join(pair)})" if len(pair) == 2 else pair[0] for pair in _pairs(joined)]
        return " or ".join(joined)


def _pairs(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[at : at + 2] for at in range(0, len(texts), 2)]


# ── Literals ──────────────────────────────────────────────────────────────────────────────────────────────────────


def literal(value: str) -> str:
    """`value` as a PromQL string. JSON's escapes are a subset of Go's as long as nothing becomes a surrogate pair."""
    return json.dumps(value, ensure_ascii=False)


def escape_regex(value: str) -> str:
    """`value` as an RE2 expression that matches it alone."""
    return "".join("\\" + c if c in r"\.+*?()|[]{}^$" else c for c in value)


def one_of(label: str, values: Iterable[str]) -> str:
    """A matcher for exactly these values of a label."""
    distinct = sorted(set(values))
    if len(distinct) == 1:
        return f"{label}={literal(distinct[0])}"
    return f"{label}=~{literal('|'.join(escape_regex(value) for value in distinct))}"


# ── Scopes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def class_label(candidate: Candidate, selector: WorkloadSelector) -> str | None:
    """The label in which a metric tells request classes apart for this workload: a front door's alone does."""
    if candidate.origin is not Origin.FRONT_DOOR:
        return None
    return selector.class_label or candidate.class_label


def scopes(selectors: Sequence[WorkloadSelector], choice: Choice, models: Mapping[str, str]) -> tuple[Scope, ...]:
    """The fewest scopes that cover these workloads. `models` maps a workload to the model name it serves.

    Workloads that take some classes only have a scope for each set of them: pools of one model have all else in
    common.
    """
    alike: dict[str, list[WorkloadSelector]] = defaultdict(list)
    for each in selectors:
        label = class_label(choice.candidate, each) if each.classes else None
        alike[f",{one_of(label, each.classes)}" if label is not None else ""].append(each)
    return tuple(
        replace(scope, matchers=scope.matchers + of_classes)
        for of_classes, members in alike.items()
        for scope in _scopes(members, choice, models)
    )


def _scopes(selectors: Sequence[WorkloadSelector], choice: Choice, models: Mapping[str, str]) -> tuple[Scope, ...]:
    match choice.reach:
        case Reach.OWN:
            return _own_scopes(selectors)
        case Reach.MODEL:
            label = choice.candidate.model_label or "model_name"
            return _label_scopes([(s, ((label, models[s.workload]),), s.namespaced) for s in selectors])
        case Reach.DEMAND_LABELS:
            return _label_scopes([(s, s.demand_labels, False) for s in selectors])
        case Reach.GPU_EXPORTED:
            return _pod_scopes(selectors, "exported_namespace", "exported_pod")
        case Reach.GPU_POD:
            return _pod_scopes(selectors, "namespace", "pod")


def _own_scopes(selectors: Sequence[WorkloadSelector]) -> tuple[Scope, ...]:
    labelled = [(s, s.labels, s.namespaced) for s in selectors if s.labels]
    deployed = [
        (s, ((s.deployment_label, s.name),), s.namespaced)
        for s in selectors
        if not s.labels and s.deployment_label is not None
    ]
    rest = [s for s in selectors if not s.labels and s.deployment_label is None]
    return (*_label_scopes(labelled), *_label_scopes(deployed), *_pod_scopes(rest, "namespace", "pod"))


def _label_scopes(
    wanted: Sequence[tuple[WorkloadSelector, tuple[tuple[str, str], ...], bool]],
) -> tuple[Scope, ...]:
    """One scope for each set of label names; the matchers may cover more pairs than wanted, `owners` does not."""
    shapes: dict[tuple[str, ...], dict[tuple[str, ...], tuple[str, ...]]] = defaultdict(dict)
    for selector, labels, namespaced in wanted:
        pairs = sorted({**({"namespace": selector.series_namespace} if namespaced else {}), **dict(labels)}.items())
        owners = shapes[tuple(name for name, _ in pairs)]
        key = tuple(value for _, value in pairs)
        owners[key] = (*owners.get(key, ()), selector.workload)
    services = {selector.workload: selector.service for selector, _, _ in wanted}
    return tuple(_label_scope(names, owners, services) for names, owners in shapes.items())


def _label_scope(
    names: tuple[str, ...], owners: Mapping[tuple[str, ...], tuple[str, ...]], services: Mapping[str, str]
) -> Scope:
    matchers = {name: one_of(name, (values[i] for values in owners)) for i, name in enumerate(names)}
    several = {key: {services[each] for each in workloads} for key, workloads in owners.items() if len(workloads) > 1}
    return Scope(
        matchers=",".join(matchers.values()),
        by=names,
        owners=owners,
        namespaces=matchers.get("namespace", ""),
        together=frozenset(key for key, found in several.items() if len(found) == 1 and "" not in found),
    )


def _pod_scopes(selectors: Sequence[WorkloadSelector], namespace_label: str, pod_label: str) -> tuple[Scope, ...]:
    """Scopes by the names of pods."""
    spelled = tuple(
        Scope(
            matchers=f"{one_of(namespace_label, [s.series_namespace])},{pod_label}=~{literal(s.pod_pattern)}",
            by=(),
            owners={(): (s.workload,)},
            namespaces=one_of("namespace", [s.series_namespace]),
        )
        for s in selectors
        if s.pod_pattern is not None
    )
    shaped = [s for s in selectors if s.pod_pattern is None]
    return (*spelled, *(_shape_scope(group, namespace_label, pod_label) for group in _apart(shaped)))


def _apart(selectors: Sequence[WorkloadSelector]) -> list[list[WorkloadSelector]]:
    """One group, or one a namespace where a name continues another: `a/chat` must not lose pods to `b/chat-7b2x9`."""
    names = {s.name for s in selectors}
    starts = ("-".join(parts[:n]) for parts in (name.split("-") for name in names) for n in range(1, len(parts)))
    if names.isdisjoint(starts):
        return [list(selectors)] if selectors else []
    groups: dict[str, list[WorkloadSelector]] = defaultdict(list)
    for selector in selectors:
        groups[selector.series_namespace].append(selector)
    return list(groups.values())


def _shape_scope(selectors: Sequence[WorkloadSelector], namespace_label: str, pod_label: str) -> Scope:
    # Longest name first: RE2 takes the first branch that matches, so `chat-large-x2x4z` is chat-large's.
    names = sorted({s.name for s in selectors}, key=lambda name: (-len(name), name))
    owner = f"({'|'.join(escape_regex(name) for name in names)})-{POD_SUFFIX}"
    owners: dict[tuple[str, ...], tuple[str, ...]] = {}
    for s in selectors:
        key = (s.series_namespace, s.name)
        owners[key] = (*owners.get(key, ()), s.workload)
    namespaces = [s.series_namespace for s in selectors]
    return Scope(
        matchers=f"{one_of(namespace_label, namespaces)},{pod_label}=~{literal(owner)}",
        by=(namespace_label, OWNER_LABEL),
        owners=owners,
        namespaces=one_of("namespace", namespaces),
        rewrite=(pod_label, owner),
    )


# ── Expressions ───────────────────────────────────────────────────────────────────────────────────────────────────


def probe_metric(signal: Signal, candidate: Candidate) -> str:
    """The series whose presence, age and copies stand for the signal's."""
    return f"{candidate.metric}_count" if signal.kind is Kind.HISTOGRAM_P95 else candidate.metric


def _series(metric: str, scope: Scope, window_s: int | None = None) -> str:
    return f"{metric}{{{scope.matchers}}}" + (f"[{window_s}s]" if window_s is not None else "")


def _rewritten(expression: str, scope: Scope) -> str:
    if scope.rewrite is None:
        return expression
    label, pattern = scope.rewrite
    return f'label_replace({expression}, "{OWNER_LABEL}", "$1", "{label}", {literal(pattern)})'


def _by(scope: Scope, *extra: str | None) -> str:
    return ", ".join(dict.fromkeys([*scope.by, *(label for label in extra if label)]))


def _grouped(operator: str, expression: str, scope: Scope, *extra: str | None) -> str:
    return f"{operator} by ({_by(scope, *extra)}) ({_rewritten(expression, scope)})"


def _rate(metric: str, scope: Scope, window_s: int, *extra: str | None) -> str:
    return _grouped("sum", f"rate({_series(metric, scope, window_s)})", scope, *extra)


def value(signal: Signal, candidate: Candidate, scope: Scope, window_s: int, class_label: str | None = None) -> str:
    """The signal's present value, in the metric's own unit."""
    now = _series(candidate.metric, scope)
    match signal.kind:
        case Kind.COUNTER_RATE if candidate.in_flight:
            return _arrivals(candidate, scope, window_s)
        case Kind.GAUGE_SUM | Kind.COUNTER_TOTAL:
            return _grouped("sum", now, scope)
        case Kind.GAUGE_MEAN:
            return _grouped("avg", now, scope)
        case Kind.GAUGE_FLAGS:
            return _grouped("sum", f"({now} != bool 0)", scope)
        case Kind.GAUGE_MAX:
            # `and` drops pods that are gone: their last minute would otherwise outlive them.
            peak = f"(max_over_time({_series(candidate.metric, scope, KV_WINDOW_S)}) and {now})"
            return _grouped("max", peak, scope)
        case _:
            return _windowed(signal, candidate, scope, window_s, class_label)


def past_value(
    signal: Signal, candidate: Candidate, scope: Scope, window_s: int, class_label: str | None = None
) -> str:
    """The signal over the window that ends at the evaluation time; nothing where copies of a series exist."""
    window = _series(candidate.metric, scope, window_s)
    match signal.kind:
        case Kind.GAUGE_SUM:
            expression = _grouped("sum", f"avg_over_time({window})", scope)
        case Kind.GAUGE_MEAN:
            expression = _grouped("avg", f"avg_over_time({window})", scope)
        case Kind.GAUGE_MAX:
            expression = _grouped("max", f"max_over_time({window})", scope)
        case Kind.GAUGE_FLAGS:
            expression = _grouped("sum", f"(max_over_time({window}) != bool 0)", scope)
        case Kind.COUNTER_TOTAL:
            expression = _grouped("sum", f"last_over_time({window})", scope)
        case _:
            expression = value(signal, candidate, scope, window_s, class_label)
    return f"({expression} unless on ({_by(scope)}) {copies(signal, candidate, scope)})"


def _windowed(signal: Signal, candidate: Candidate, scope: Scope, window_s: int, class_label: str | None) -> str:
    if signal.kind is Kind.HISTOGRAM_P95:
        return f"histogram_quantile(0.95, {_rate(f'{candidate.metric}_bucket', scope, window_s, 'le')})"
    if signal.kind is Kind.COUNTER_RATIO and candidate.per_metric is not None:
        return f"({_rate(candidate.metric, scope, window_s)} / {_rate(candidate.per_metric, scope, window_s)})"
    return _rate(candidate.metric, scope, window_s, class_label)


def _arrivals(candidate: Candidate, scope: Scope, window_s: int) -> str:
    """Completions plus the change of what is in flight, plus what was refused where that is counted (an engine older
    than the counter has refused nothing); never below zero: an aborted pod takes its requests with it."""
    changes = " + ".join(
        _grouped("sum", f"delta({_series(gauge, scope, window_s)})", scope) for gauge in candidate.in_flight
    )
    completed = _rate(candidate.metric, scope, window_s)
    refused = "".join(f" + ({_rate(counter, scope, window_s)} or {completed} * 0)" for counter in candidate.rejected)
    return f"clamp_min({completed} + ({changes}) / {window_s}{refused}, 0)"


def count(signal: Signal, candidate: Candidate, scope: Scope, window_s: int) -> str:
    """Events in the window, for signals that need a minimum."""
    metric = candidate.per_metric or probe_metric(signal, candidate)
    return _grouped("sum", f"increase({_series(metric, scope, window_s)})", scope)


def age(signal: Signal, candidate: Candidate, scope: Scope) -> str:
    """Seconds since the newest sample."""
    return f"(time() - {_grouped('max', f'timestamp({_series(probe_metric(signal, candidate), scope)})', scope)})"


def copies(signal: Signal, candidate: Candidate, scope: Scope) -> str:
    """How many copies of a series there are, where there is more than one."""
    ignored = ", ".join(label for label in REPLICA_LABELS if label not in scope.by)
    counted = f"count without ({ignored}) ({_series(probe_metric(signal, candidate), scope)})"
    return f"({_grouped('max', counted, scope)} > 1)"


def up_joined(metric: str, scope: Scope) -> str:
    """Share of up targets among those that exported this metric within the last hour; 0 is "all down"."""
    seen = f"(count_over_time({_series(metric, scope, LAST_SEEN_S)}) * 0 + 1)"
    up = f"max by (job, instance) (up{{{scope.namespaces}}})"
    return _grouped("avg", f"({seen} * on (job, instance) group_left () {up})", scope)


def scraped_share(metric: str, scope: Scope, window_s: int) -> str:
    """Share of the scrapes of the window that came, over the targets that exported this metric within the last hour.

    What is expected follows from the last ten minutes; a scrape counts from two thirds on: at 15 s four of a minute,
    at 45 s two of 113 s (2.51). Not expected are targets that service discovery has dropped, and those that never
    exported the metric (a pod that is starting).
    """
    up = f"up{{{scope.namespaces}}}"
    seen = f"(last_over_time({_series(metric, scope, LAST_SEEN_S)}) * 0 + 1)"
    expected = f"clamp_min(floor(count_over_time({up}[600s]) * {window_s / 600:g} + 0.33), 1)"
    came = f"max by (job, instance) (clamp_max(sum_over_time({up}[{window_s}s]) / {expected}, 1))"
    return _grouped("avg", f"({seen} * on (job, instance) group_left () {came})", scope)


def up_direct(scope: Scope) -> str:
    """Share of up targets among those that carry the scope's own labels."""
    return _grouped("avg", f"up{{{scope.matchers}}}", scope)


def last_seen(metric: str, scope: Scope) -> str:
    """Seconds since the newest sample of the last hour, vanished series included."""
    newest = f"max_over_time(timestamp({_series(metric, scope)})[{LAST_SEEN_S}s:60s])"
    return f"(time() - {_grouped('max', newest, scope)})"


def seen_anywhere(metric: str) -> str:
    """Up to three series of this name, with all labels: for a diagnosis, never for a reading."""
    return f"topk(3, {metric})"


def present(metric: str, scope: Scope, *extra: str, within_s: int | None = None) -> str:
    """How many series there are, by workload: now, or with a sample within the last `within_s`."""
    series = _series(metric, scope, within_s)
    return _grouped("count", series if within_s is None else f"last_over_time({series})", scope, *extra)


def which_present(metrics: Iterable[str], scope: Scope, *, within_s: int | None = None) -> str:
    """`present` of several metrics at once, a row for each name that is there.

    In place of a term for each name, which would join and label as many answers as there are names: for 2,000 workloads
    and 61 names two seconds of a server's processor time.
    """
    named = f"{{{one_of(NAME_LABEL, metrics)},{scope.matchers}}}"
    series = named if within_s is None else f"last_over_time({named}[{within_s}s])"
    return _grouped("count", series, scope, NAME_LABEL)


def samples(metric: str, scope: Scope, window_s: int) -> str:
    """Samples of one series within the window: the scrape interval is window / samples."""
    return _grouped("max", f"count_over_time({_series(metric, scope, window_s)})", scope)


def reaches(candidate: Candidate, selector: WorkloadSelector, model: str | None) -> tuple[Reach, ...]:
    """The ways this metric could be tied to the workload, best first."""
    match candidate.origin:
        case Origin.GPU:
            return (Reach.GPU_EXPORTED, Reach.GPU_POD)
        case Origin.FRONT_DOOR if selector.demand_labels:
            return (Reach.DEMAND_LABELS,)
        case Origin.FRONT_DOOR if candidate.model_label and model is not None:
            return (Reach.MODEL, Reach.OWN)
        case _:
            return (Reach.OWN,)
