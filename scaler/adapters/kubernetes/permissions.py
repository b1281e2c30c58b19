"""Which RBAC rules each feature takes: the one list behind `deploy/rbac.yaml`, the chart, `doctor` and the docs.

Pure: it asks no server and grants nothing. A test holds each list against the requests that are really made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    PLACEHOLDERS = "placeholders"  # patch on scales, in the placeholders' namespace
    FLOOR_HPA = "floor-hpa"  # get and patch on HPAs
    FLOOR_SCALED_OBJECT = "floor-scaled-object"  # get and patch on ScaledObjects
    DELETION_COST = "deletion-cost"  # patch on pods, to mark those that go first
    RIVALS = "rivals"  # list HPAs, to tell of one that writes the same replicas
    EVENTS = "events"  # leave Events
    LEASE = "lease"  # get and update on one Lease, in its own namespace: limit the rule to its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """One thing that an account may do; `resource` may end in a subresource ("deployments/scale").

    With a `name` only to that object.
    """

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """One entry under `rules:` of a Role; a resource may end in a subresource. With `names` for those objects alone."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()

    def limited_to(self, *names: str) -> PolicyRule:
        """The same rule for objects of these names alone; `list` and `create` cannot be limited."""
        return replace(self, names=names)

    def manifest(self) -> dict[str, list[str]]:
        """The rule as it stands in a Role."""
        names = {"resourceNames": list(self.names)} if self.names else {}
        return {"apiGroups": [self.group], "resources": list(self.resources), **names, "verbs": list(self.verbs)}


def rules_for(
    features: Collection[Feature], scaled: Mapping[str, tuple[str, ...]] = SCALE_GROUPS
) -> tuple[PolicyRule, ...]:
    """The rules that `features` take together, reading included: no verb too many, each resource in one rule.

    `scaled` are the kinds that run, plurals by API group.
    """
    return _merged([*_reading(scaled), *_added(features, scaled)])


def added_by(features: Collection[Feature]) -> tuple[PolicyRule, ...]:
    """The rules that `features` take beside reading: for a role that is bound next to another one."""
    return _merged(_added(features, SCALE_GROUPS))


def needed(features: Collection[Feature], *, namespace: str, group: str, plural: str) -> tuple[Permission, ...]:
    """What `features` take on an object of the kind `plural` of `group`: the rows of `rules_for`, to be asked about."""
    scaled = {group: (plural,)}
    rows = dict.fromkeys([*_reading(scaled), *_added(features, scaled)])
    return tuple(Permission(verb=verb, group=of, resource=name, namespace=namespace) for of, name, verb in rows)


def lease_permissions(*, namespace: str, name: str) -> tuple[Permission, ...]:
    """What standing for election takes, on the lease of that name alone."""
    return tuple(
        Permission(verb=verb, group=group, resource=resource, namespace=namespace, name=name)
        for group, resource, verb in _of(Feature.LEASE, {})
    )


def loss_without(permission: Permission) -> str:
    """What is given up where `permission` is missing, "" where nothing works without it."""
    match permission.verb, permission.resource:
        case "list", "deployments" | "statefulsets":
            return "annotations, and why pods are not made, stay unseen; scales are read one by one"
        case "create", "events":
            return "no Event tells of a change; the scale is written all the same"
        case "patch", "pods":
            return "pods are not marked: which of them go is the controller's choice"
        case _:
            return ""


_Row = tuple[str, str, str]
"""Group, resource, verb."""


def _reading(scaled: Mapping[str, tuple[str, ...]]) -> Iterator[_Row]:
    for plural in scaled.get("apps", ()):
        yield "apps", plural, "list"  # one request for all of a namespace, and their annotations and conditions
    yield from _on_scales("get", scaled)
    yield "", "pods", "list"


def _on_scales(verb: str, scaled: Mapping[str, tuple[str, ...]]) -> Iterator[_Row]:
    yield from ((group, f"{plural}/scale", verb) for group, plurals in scaled.items() for plural in plurals)


def _added(features: Collection[Feature], scaled: Mapping[str, tuple[str, ...]]) -> Iterator[_Row]:
    for feature in Feature:
        if feature in features:
            yield from _of(feature, scaled)


def _of(feature: Feature, scaled: Mapping[str, tuple[str, ...]]) -> Iterator[_Row]:
    match feature:
        case Feature.ACTIVE | Feature.PLACEHOLDERS:
            yield from _on_scales("patch", scaled)
        case Feature.FLOOR_HPA:
            yield from (("autoscaling", "horizontalpodautoscalers", verb) for verb in ("get", "patch"))
        case Feature.FLOOR_SCALED_OBJECT:
            yield from (("keda.sh", "scaledobjects", verb) for verb in ("get", "patch"))
        case Feature.DELETION_COST:
            yield "", "pods", "patch"
        case Feature.RIVALS:
            yield "autoscaling", "horizontalpodautoscalers", "list"
        case Feature.EVENTS:
            yield "events.k8s.io", "events", "create"
        case Feature.LEASE:
            yield from (("coordination.k8s.io", "leases", verb) for verb in ("get", "update"))
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
