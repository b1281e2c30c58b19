"""Which RBAC rules each feature takes: the one list behind `deploy/rbac.yaml`, the chart, `doctor` and the docs.

Pure: it asks no server and grants nothing. A test holds each list against the requests that are really made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

SCALE_GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"apps": ("deployments", "statefulsets"), "leaderworkerset.x-k8s.io": ("leaderworkersets",)}
)
"""Plurals by API group of the kinds that the shipped roles let us read and scale; others need a rule of their own."""

_VERBS: Final = ("get", "list", "create", "update", "patch", "delete")
"""The order in which verbs are written, so that equal rules are equal texts."""


class Feature(StrEnum):
    """What an account is to be good for. Every one of them reads replicas and pods; the comment says what it adds."""

    OBSERVE = "observe"  # nothing
    PUBLISH = "publish"  # nothing: whoever reads the metric writes
    DISCOVER = "discover"  # nothing: annotations come with the list of Deployments
    ACTIVE = "active"  # patch on scales
    FLOOR_HPA = "floor-hpa"  # get and patch on HPAs
    FLOOR_SCALED_OBJECT = "floor-scaled-object"  # get and patch on ScaledObjects
    RIVALS = "rivals"  # list HPAs, to tell of one that writes the same replicas
    EVENTS = "events"  # leave Events


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """One entry under `rules:` of a Role; a resource may end in a subresource ("deployments/scale")."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]

    def manifest(self) -> dict[str, list[str]]:
        """The rule as it stands in a Role."""
        return {"apiGroups": [self.group], "resources": list(self.resources), "verbs": list(self.verbs)}


def rules_for(features: Iterable[Feature]) -> tuple[PolicyRule, ...]:
    """The rules that `features` take together, reading included: no verb too many, each resource in one rule."""
    return _merged([*_reading(), *_added(features)])


def added_by(features: Iterable[Feature]) -> tuple[PolicyRule, ...]:
    """The rules that `features` take beside reading: for a role that is bound next to another one."""
    return _merged(_added(features))


_Row = tuple[str, str, str]
"""Group, resource, verb."""


def _reading() -> Iterator[_Row]:
    for plural in SCALE_GROUPS["apps"]:
        yield "apps", plural, "list"  # one request for all of a namespace, and their annotations and conditions
    for group, plurals in SCALE_GROUPS.items():
        for plural in plurals:
            yield group, f"{plural}/scale", "get"
    yield "", "pods", "list"


def _added(features: Iterable[Feature]) -> Iterator[_Row]:
    for feature in Feature:
        if feature in features:
            yield from _of(feature)


def _of(feature: Feature) -> Iterator[_Row]:
    match feature:
        case Feature.ACTIVE:
            for group, plurals in SCALE_GROUPS.items():
                for plural in plurals:
                    yield group, f"{plural}/scale", "patch"
        case Feature.FLOOR_HPA:
            yield from (("autoscaling", "horizontalpodautoscalers", verb) for verb in ("get", "patch"))
        case Feature.FLOOR_SCALED_OBJECT:
            yield from (("keda.sh", "scaledobjects", verb) for verb in ("get", "patch"))
        case Feature.RIVALS:
            yield "autoscaling", "horizontalpodautoscalers", "list"
        case Feature.EVENTS:
            yield "events.k8s.io", "events", "create"
        case Feature.OBSERVE | Feature.PUBLISH | Feature.DISCOVER:
            return


def _merged(rows: Iterable[_Row]) -> tuple[PolicyRule, ...]:
    verbs: dict[tuple[str, str], set[str]] = {}
    for group, resource, verb in rows:
        verbs.setdefault((group, resource), set()).add(verb)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), allowed in verbs.items():
        together.setdefault((group, tuple(sorted(allowed, key=_VERBS.index))), []).append(resource)
    return tuple(
        PolicyRule(group=group, resources=tuple(resources), verbs=allowed)
        for (group, allowed), resources in together.items()
    )
