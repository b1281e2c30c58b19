"""A document's tree to frozen values, checked by pydantic over the values' own dataclasses.

Decides how a setting may be written (durations as `5m`, nothing coerced: "8" is no number and `true` no count) and
how a problem reads: its place in the file, what is wrong, what was given, what was probably meant. All problems are
collected, not only the first. It knows no setting by name; the limits of a value are its dataclass's business.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, Final, TypeVar

from scaler.config.document import Node, Place, join
from scaler.errors import ConfigIssue

Value = TypeVar("Value")

_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_S: Final = 10 * 365 * 86400.0

_SECRET: Final = re.compile(r"pass|secret|token|credential|api_?key", re.IGNORECASE)
_URL_USER: Final = re.compile(r"//[^/@\s]*@")

_TEXTS: Final = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "dataclass_type": "must be a mapping of settings",
    "time_delta_type": "must be a duration such as 5m, 90s or 1h30m",
    "time_type": 'must be a wall-clock time such as "03:10"',
    "time_parsing": 'must be a wall-clock time such as "03:10"',
    "datetime_type": "must be a date and time with its zone, such as 2026-11-11T20:00+08:00",
    "datetime_parsing": "must be a date and time with its zone, such as 2026-11-11T20:00+08:00",
    "datetime_from_date_parsing": "must be a date and time with its zone, such as 2026-11-11T20:00+08:00",
}
"""What each of pydantic's error types means in a settings file; its own text is used for any other."""


def check(
    node: Node, kind: type[Value], *, also: Mapping[type, Sequence[str]] = types.MappingProxyType({})
) -> tuple[Value | None, list[ConfigIssue]]:
    """The tree as a `kind`, or None with every problem that was found.

    `also` names settings of a dataclass that the caller has already taken out of the tree: they may be suggested.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # lazy: 70 ms that `headstart --help` does not pay

    issues: list[ConfigIssue] = []
    preparation = _Preparation(also, issues)
    prepared = preparation.prepare(node, kind, "")
    # A list around the dataclass, because only then may the adapter carry a config; it reaches every dataclass in
    # it. Strict JSON is exactly what a settings file needs: ISO times and lists are read, "8" is no number.
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    try:
        value = TypeAdapter(list[kind], config=config).validate_json(json.dumps([prepared]), strict=True)[0]  # type: ignore[valid-type]
    except ValidationError as error:
        found = [_explained(node, each["loc"][1:], each) for each in error.errors(include_url=False)]
        # "is required" about a group with a misspelt key says the same thing a second time, and less clearly.
        issues += [each for each in found if (each.file, each.line, each.column) not in preparation.misspelt]
        return None, issues
    return (None if issues else value), issues


def issue_at(place: Place, setting: str, text: str) -> ConfigIssue:
    """One problem at a place."""
    return ConfigIssue(file=place.file, line=place.line, column=place.column, setting=setting, text=text)


def duration_of(text: str) -> timedelta | None:
    """The duration that a text such as "5m", "1h30m" or "500ms" means, or None."""
    if not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text))
    return timedelta(seconds=seconds) if seconds <= _LONGEST_S else None


def shown_duration(value: timedelta) -> str:
    """A duration as a person would write it: 300 s is "5m", 5400 s "1h30m"."""
    left, text = round(value.total_seconds() * 1000), ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        if left >= size:
            text += f"{left // size}{unit}"
            left %= size
    return text or "0s"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean X?" for the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def shown(value: Any, setting: str = "") -> str:
    """A value as it may be printed: short, on one line, never a secret."""
    if _SECRET.search(setting):
        return "a value that is not shown"
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = _URL_USER.sub("//…@", text)
    return text if len(text) <= 60 else f"{text[:57]}…"


@cache
def fields_of(kind: type) -> Mapping[str, Any]:
    """The settings of a dataclass: name to type, `None` taken out of optional ones."""
    hints = typing.get_type_hints(kind)
    return {each.name: _required(hints[each.name]) for each in dataclasses.fields(kind) if each.init}


def _required(hint: Any) -> Any:
    """`X` for `X | None`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (each for each in typing.get_args(hint) if each is not type(None))
        return inner
    return hint


# ── Tree to JSON ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class _Preparation:
    """The tree as JSON values in which durations are ISO 8601; unknown keys and bad durations become issues."""

    also: Mapping[type, Sequence[str]]
    issues: list[ConfigIssue]
    misspelt: set[tuple[str, int, int]] = dataclasses.field(default_factory=set)
    """Places of the groups in which a key is unknown."""

    def prepare(self, node: Node, hint: Any, setting: str) -> Any:
        """One value, as its type wants it."""
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(node.value, dict):
            return self._settings(node, hint, setting)
        if typing.get_origin(hint) is tuple and isinstance(node.value, tuple):
            inner = typing.get_args(hint)[0]
            return [self.prepare(child, inner, join(setting, i)) for i, child in enumerate(node.value)]
        if hint is timedelta and node.value is not None:
            return self._duration(node, setting)
        return node.plain()

    def _settings(self, node: Node, kind: type, setting: str) -> dict[str, Any]:
        assert isinstance(node.value, dict)
        known = fields_of(kind)
        prepared = {}
        for key, child in node.value.items():
            if key not in known:
                text = f"is not a setting; {self._meant(key, kind)}"
                self.misspelt.add((node.place.file, node.place.line, node.place.column))
                self.issues.append(issue_at(node.key_place(key), join(setting, key), text))
            elif child.value is None and _is_group(known[key]):
                continue  # `latency:` with every line under it commented out means "as if it were not there"
            else:
                prepared[key] = self.prepare(child, known[key], join(setting, key))
        return prepared

    def _meant(self, key: str, kind: type) -> str:
        known = fields_of(kind)
        deeper = [f"{group}.{key}" for group, hint in known.items() if key in _names_in(hint)]
        if deeper:
            return f"did you mean {deeper[0]}?"
        names = (*known, *self.also.get(kind, ()))
        return did_you_mean(key, names) or f"known here: {', '.join(names)}"

    def _duration(self, node: Node, setting: str) -> str:
        duration = duration_of(node.value) if isinstance(node.value, str) else None
        if duration is None:
            text = f"must be a duration such as 5m, 90s or 1h30m, got {shown(node.plain(), setting)}"
            if isinstance(node.value, int | float) and not isinstance(node.value, bool):
                text += "; add its unit"
            self.issues.append(issue_at(node.place, setting, text))
            return _ANY_DURATION
        return f"PT{duration.total_seconds():.6f}S"


_ANY_DURATION: Final = "PT300S"
"""Stands for a duration that was already refused, so that the rest of its group is still checked."""


def _is_group(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or typing.get_origin(hint) is not None


def _names_in(hint: Any) -> Sequence[str]:
    return tuple(fields_of(hint)) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else ()


# ── pydantic's errors to places and words ─────────────────────────────────────────────────────────────────────


def _explained(root: Node, loc: Sequence[str | int], error: Mapping[str, Any]) -> ConfigIssue:
    """One of pydantic's errors, at its place in the file."""
    node, setting = root, ""
    for step in loc:
        setting = join(setting, step)
        child = node.child(step)
        if child is None:
            break
        node = child
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return _own_error(node, setting, str(context["error"]))
    if kind == "missing":
        return issue_at(node.place, setting, "is required")
    got = shown(error.get("input"), setting)
    if kind == "enum":
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        text = f"must be one of {', '.join(known)}, got {got}"
        hint = did_you_mean(str(error.get("input")), known)
        return issue_at(node.place, setting, f"{text}; {hint}" if hint else text)
    text = f"{_TEXTS.get(kind, error['msg'])}, got {got}"
    if kind == "string_type" and isinstance(error.get("input"), int | float):
        text += "; put it in quotes"
    return issue_at(node.place, setting, text)


def _own_error(node: Node, setting: str, text: str) -> ConfigIssue:
    """A dataclass's own refusal, at the key that its text names first; the mapping's place if it names none."""
    if isinstance(node.value, dict):
        for word in re.findall(r"\w+", text):
            if word in node.value:
                said = re.sub(rf"^(?:\w+[.\[\]]*)*\b{word} (?=must )", "", text)
                return issue_at(node.value[word].place, join(setting, word), said)
    return issue_at(node.place, setting, text)
