"""What a PromQL text asks for, held against what the daemon exports: names, labels, and the values labels can have.

Holds no test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from forecaster.types import BlindReason
from scaler.adapters.invariants import INVARIANTS
from scaler.adapters.kubernetes.http import Verb
from scaler.adapters.metrics import METRICS, SPECS
from scaler.adapters.refit import RefitOutcome
from scaler.adapters.states import State
from scaler.policy.types import Action, Mode, Reason, Trust

TARGET_LABELS = {"instance", "job", "pod", "container", "endpoint", "service"}
"""What the scrape itself adds."""

PROCESS = {
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}
"""The client library's own, served beside ours."""

VALUES: dict[str, set[str]] = {
    "action": {each.value for each in Action},
    "reason": {each.value for each in (*Reason, *BlindReason)},
    "state": {each.value for each in State},
    "mode": {each.value for each in Mode},
    "verb": {each.value for each in Verb},
    "outcome": {each.value for each in RefitOutcome},
    "invariant": set(INVARIANTS),
    "cause": {each.value for each in Trust},
    "signal": {"demand_rps", "replicas"},
    "code": {"2xx", "3xx", "4xx", "5xx", "none"},
    "quantile": {"0.5", "0.9", "0.95", "0.99"},
    "horizon": {"lead", "5m", "15m", "30m"},
    "model": {"headstart", "last-value", "lstm"},
    "at": {"now", "planned"},
    "source": {"measured", "forecast", "profile", "own", "same_gpus", "configured"},
}


def _exported() -> dict[str, set[str]]:
    """Every series name with its labels; a histogram is three names."""
    found: dict[str, set[str]] = {}
    for spec in METRICS:
        if spec.kind == "histogram":
            for suffix in ("bucket", "sum", "count"):
                found[f"{spec.full_name}_{suffix}"] = {*spec.labels, *(["le"] if suffix == "bucket" else [])}
        else:
            found[spec.full_name] = set(spec.labels)
    return found | {name: set() for name in PROCESS}


EXPORTED = _exported()
CATALOGUE_NAMES = {spec.full_name for spec in SPECS.values()} | set(EXPORTED)


def nodes_of(text: str) -> Iterator[Any]:
    """Every node of a query's syntax tree, the outermost first."""
    pending = [promql_parser.parse(text)]
    while pending:
        node = pending.pop()
        yield node
        inner = [getattr(node, part, None) for part in ("expr", "lhs", "rhs", "param", "vector_selector")]
        pending += [each for each in (*inner, *(getattr(node, "args", None) or ())) if each is not None]


def selectors_of(text: str) -> list[Any]:
    """Every vector selector of a query."""
    return [node for node in nodes_of(text) if isinstance(node, promql_parser.VectorSelector)]


def names_in(text: str) -> set[str]:
    """The metrics that a query reads."""
    return {each.name for each in selectors_of(text)}


def problems_of(text: str) -> list[str]:
    """What the query asks for that is never exported; empty is well. `ValueError` where it is no PromQL."""
    found = []
    for selector in selectors_of(text):
        if selector.name not in EXPORTED:
            found.append(f"{selector.name} is not exported")
            continue
        labels = EXPORTED[selector.name] | TARGET_LABELS
        for matcher in selector.matchers.matchers:
            if matcher.name not in labels:
                found.append(f"{selector.name} has no label {matcher.name}")
            elif matcher.value and "$" not in matcher.value and matcher.name in VALUES:
                known = VALUES[matcher.name]
                found += [
                    f"{selector.name}: {matcher.name} is never {value}"
                    for value in matcher.value.split("|")
                    if not any(re.fullmatch(value, each) for each in known)
                ]
    return found + _groupings_of_nothing(text)


def _groupings_of_nothing(text: str) -> list[str]:
    """Labels that are grouped by and that nothing below carries: the result would be one sum of everything."""
    found = []
    for node in nodes_of(text):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            below = node.expr.prettify()
            carried = set().union(*(EXPORTED.get(name, set()) for name in names_in(below))) | TARGET_LABELS
            found += [
                f"{label} is grouped by, and {below} has none" for label in node.modifier.labels if label not in carried
            ]
    return found
