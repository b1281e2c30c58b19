"""Label selectors: read from the API, matched against pods here, and merged into one query for many workloads.

It never guesses: an empty selector, which Kubernetes reads as "every pod", is an error (fault 37).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_QUERY_CHARS = 4000
"""Proxies in front of API servers refuse request lines over 8 KiB; the selector shares it with the path."""

Operator = Literal["in", "notin", "exists", "absent"]

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"^(?P<key>{_KEY})\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(rf"^(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)$")
_BARE = re.compile(rf"^(?P<absent>!?)\s*(?P<key>{_KEY})$")
_BETWEEN_REQUIREMENTS = re.compile(r",(?![^(]*\))")  # commas, but not those inside a value list
_OPERATORS: dict[str, Operator] = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}


class SelectorError(ValueError):
    """Not a label selector, or one that selects everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition on one label; `values` is empty for `exists` and `absent`."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Kubernetes' rule: `notin` holds too where the label is missing."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None

    def __str__(self) -> str:
        match self.operator:
            case "in" if len(self.values) == 1:
                return f"{self.key}={next(iter(self.values))}"
            case "in" | "notin":
                return f"{self.key} {self.operator} ({','.join(sorted(self.values))})"
            case "exists":
                return self.key
            case "absent":
                return f"!{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """All `requirements` at once; there is at least one."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """A selector from its text form, as `status.selector` of a Scale holds it; `SelectorError`."""
    parts = [part.strip() for part in _BETWEEN_REQUIREMENTS.split(text) if part.strip()]
    if not parts:
        raise SelectorError("an empty selector selects every pod of the namespace")
    return Selector(requirements=tuple(_requirement(part) for part in parts))


def _requirement(text: str) -> Requirement:
    if found := _SET.match(text):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(key=found["key"], operator="in" if found["operator"] == "in" else "notin", values=values)
    if found := _EQUAL.match(text):
        operator: Operator = "notin" if found["operator"] == "!=" else "in"
        return Requirement(key=found["key"], operator=operator, values=frozenset({found["value"]}))
    if found := _BARE.match(text):
        return Requirement(key=found["key"], operator="absent" if found["absent"] else "exists")
    raise SelectorError(f"not a label selector: {text!r}")


def selector_of(spec: Mapping[str, Any]) -> Selector:
    """A selector from an object's `spec.selector` (`matchLabels` and `matchExpressions`); `SelectorError`."""
    labels = spec.get("matchLabels") or {}
    equal = (Requirement(key=key, operator="in", values=frozenset({value})) for key, value in sorted(labels.items()))
    expressions = spec.get("matchExpressions") or []
    others = (
        Requirement(key=item["key"], operator=_OPERATORS[item["operator"]], values=frozenset(item.get("values") or ()))
        for item in expressions
    )
    requirements = (*equal, *others)
    if not requirements:
        raise SelectorError("an empty selector selects every pod of the namespace")
    return Selector(requirements=requirements)


class Labelled:
    """Objects to be selected from again and again, found by one of a selector's labels.

    A hundred workloads of a namespace with five pods each are 50,000 comparisons one by one, and 500 this way. An
    object of another shape raises what reading its labels raises, at every selection.
    """

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        self._items = items
        self._by_key: dict[str, dict[str, list[Mapping[str, Any]]]] = {}

    def selected(self, selector: Selector) -> list[Mapping[str, Any]]:
        """The objects that `selector` matches; in their order where it asks for one value of a label."""
        first = next((each for each in selector.requirements if each.operator == "in"), None)
        if first is None:
            return [item for item in self._items if selector.matches(_labels_of(item))]
        by_value = self._by_value(first.key)
        near = [item for value in sorted(first.values) for item in by_value.get(value, ())]
        return [item for item in near if selector.matches(_labels_of(item))]

    def _by_value(self, key: str) -> dict[str, list[Mapping[str, Any]]]:
        if key not in self._by_key:
            by_value: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
            for item in self._items:
                value = _labels_of(item).get(key)
                if value is not None:
                    by_value[value].append(item)
            self._by_key[key] = by_value
        return self._by_key[key]


def _labels_of(item: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    return labels


def query_for(selectors: Sequence[Selector]) -> str | None:
    """One selector that covers all of `selectors`, or None where only the whole namespace does.

    Selectors cannot be or-ed across labels, so this finds one label on which every selector asks for values:
    `app=a` and `app=b,tier=gpu` become `app in (a,b)`. The answer may hold more than was asked for.
    """
    if len(selectors) == 1:
        return str(selectors[0])
    wanted = [{r.key: r.values for r in selector.requirements if r.operator == "in"} for selector in selectors]
    shared = sorted(set.intersection(*(set(keys) for keys in wanted))) if wanted else []
    for key in shared:
        values = frozenset[str]().union(*(keys[key] for keys in wanted))
        text = str(Requirement(key=key, operator="in", values=values))
        if len(text) <= MAX_QUERY_CHARS:
            return text
    return None
