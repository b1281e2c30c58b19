"""Which series belong to a workload.

Decides, from a selector's settings, which labels tell a workload's series from its neighbours'. Never builds a query
and never guesses: a selector that could mean everything is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)

POD_PATTERN = re.compile(r"(?:[a-zA-Z0-9._|)\[\]*+?{},^$:-]|\((?:\?:|(?!\?))|\\[.dw-])+", re.ASCII)
"""What a pattern of pods' names may be made of: the part of RE2 that Python reads alike, groups as (…) or (?:…)."""
NOT_RE2 = re.compile(r"[*+?}][+*]|\{\d*,?\d{4,}|\[[^]]*(?:\[|--|\|\|)")
"""Possessive or doubled repeats, repeats beyond a thousand, and what Python may one day read as operators on sets."""

MIN_WINDOW_S, MAX_WINDOW_S = 2, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSelector:
    """How to find one workload's series.

    The first that is given counts: `labels`, `deployment_label`, `pod_pattern`, else pods of the namespace whose
    names have the shape that a Deployment, ReplicaSet or StatefulSet called like the workload gives them.
    `ValueError` names a setting that cannot be used.
    """

    workload: str
    """ "namespace/name"."""
    namespace: str = ""
    """Value of the series' `namespace` label; the workload's own namespace if empty."""
    namespaced: bool = True
    """False where series carry no `namespace` label (outside Kubernetes); then `labels` must tell workloads apart."""
    labels: tuple[tuple[str, str], ...] = ()
    """Label names and exact values, such as (("model_name", "chat"),)."""
    deployment_label: str | None = None
    """A label whose value is the workload's name, such as "deployment"."""
    pod_pattern: str | None = None
    """RE2 expression that the whole `pod` label must match."""
    class_label: str | None = None
    """Label of the demand metric that tells request classes apart; None takes the metric's usual one."""
    classes: tuple[str, ...] = ()
    """Request classes that are this workload's, of those that its front door tells apart; all of them if empty. A
    metric that tells none apart is then not one of its demand."""
    demand_metric: str | None = None
    """A counter of arrivals that goes before the catalogue's, such as nginx_ingress_controller_requests."""
    demand_labels: tuple[tuple[str, str], ...] = ()
    """Label names and values that tell this workload's arrivals apart at the front door; replaces every other scope."""
    service: str = ""
    """What it serves together with others: series that workloads of one service claim belong to each of them in full,
    as the arrivals of a model belong to all its variants. Empty: a series has one owner."""
    rate_window_s: int = 120
    """Window of every rate, whole seconds; at least twice the scrape interval."""

    def __post_init__(self) -> None:
        namespace, slash, name = self.workload.partition("/")
        if not (namespace and slash and name):
            raise ValueError(f'selector.workload must be "namespace/name", got {self.workload!r}')
        if not self.namespaced and not self.labels:
            raise ValueError(f"selector of {self.workload}: without a namespace, labels are needed to scope queries")
        if not MIN_WINDOW_S <= self.rate_window_s <= MAX_WINDOW_S:
            raise ValueError(
                f"selector.rate_window_s must be {MIN_WINDOW_S} to {MAX_WINDOW_S}, got {self.rate_window_s} "
                f"for {self.workload}"
            )
        self._check_names()
        self._check_values()

    def _check_names(self) -> None:
        pairs = (*self.labels, *self.demand_labels)
        names = [name for name, _ in pairs]
        names += [name for name in (self.deployment_label, self.class_label) if name is not None]
        for name in names:
            if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
                raise ValueError(f"selector of {self.workload}: {name!r} is not a label name")
        if self.demand_metric is not None and not METRIC_NAME.fullmatch(self.demand_metric):
            raise ValueError(f"selector of {self.workload}: {self.demand_metric!r} is not a metric name")
        for pairs in (self.labels, self.demand_labels):
            if len({name for name, _ in pairs}) != len(pairs):
                raise ValueError(f"selector of {self.workload}: a label is given twice")

    def _check_values(self) -> None:
        for value in (
            self.workload,
            self.namespace,
            *self.classes,
            *(v for _, v in (*self.labels, *self.demand_labels)),
        ):
            # A lone surrogate cannot be sent as UTF-8; refused here, it cannot fail every workload's query later.
            if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
                raise ValueError(f"selector of {self.workload!r}: {value!r} is not valid Unicode")
        for _, value in (*self.labels, *self.demand_labels):
            if not value:
                raise ValueError(f"selector of {self.workload}: an empty label value would match every series")
        if not all(self.classes) or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"selector of {self.workload}: classes must name each class once, and none that is empty")
        if self.pod_pattern is not None:
            _check_pattern(self.pod_pattern, self.workload)

    @property
    def name(self) -> str:
        """The workload's name without its namespace."""
        return self.workload.partition("/")[2]

    @property
    def series_namespace(self) -> str:
        """The namespace that its series carry."""
        return self.namespace or self.workload.partition("/")[0]

    @classmethod
    def for_workload(cls, namespace: str, name: str) -> Self:
        """The selector of a workload with nothing configured: found by the shape of its pods' names."""
        return cls(workload=f"{namespace}/{name}")


def _check_pattern(pattern: str, workload: str) -> None:
    """Refuse what RE2 would refuse: one bad pattern would fail the query of every workload that shares it."""
    if not POD_PATTERN.fullmatch(pattern) or NOT_RE2.search(pattern):
        raise ValueError(
            f"selector of {workload}: pod_pattern {pattern!r} must be a plain regular expression over pod names: "
            "no look-around, back-references, flags or possessive repeats"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"selector of {workload}: pod_pattern is not a regular expression: {error}") from None
