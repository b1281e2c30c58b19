"""YAML text to a tree that remembers where everything stood.

Decides what a safe and unambiguous document is: plain YAML with no tags, anchors or aliases, no key twice, and the
scalars of YAML 1.2 (`on` and `20:00` are texts, not a truth value and 1200). It knows nothing of settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

try:  # libyaml reads 2,000 workloads in 0.16 s, the pure parser in 1.2 s; every published wheel has it
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

from scaler.errors import ConfigError, ConfigIssue

MAX_BYTES: Final = 16 * 2**20
"""2,000 workloads with ten lines each are 0.6 MB; a file beyond this is not a configuration."""

MAX_DEPTH: Final = 32
"""The deepest setting lies seven levels down; the limit keeps a hostile file from exhausting the stack."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A position in a file; line and column count from 1."""

    file: str
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value and where it stands. `value` is a scalar, a tuple of nodes, or a mapping of text keys to nodes."""

    place: Place
    value: bool | int | float | str | tuple[Node, ...] | dict[str, Node] | None
    key_places: dict[str, Place] = field(default_factory=dict)
    """Where each key of a mapping stands."""

    def child(self, step: str | int) -> Node | None:
        """The value under a key or index, or None."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, tuple) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def key_place(self, key: str) -> Place:
        """Where a key of this mapping stands; the mapping's own place if it has no such key."""
        return self.key_places.get(key, self.place)

    def get(self, key: str) -> Any:
        """The plain value under a key of this mapping, or None."""
        child = self.child(key)
        return None if child is None else child.plain()

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value

    def without(self, *keys: str) -> Node:
        """This mapping without some keys."""
        assert isinstance(self.value, dict)
        left = {key: child for key, child in self.value.items() if key not in keys}
        return Node(place=self.place, value=left, key_places=self.key_places)

    def with_child(self, key: str, child: Node, *, key_place: Place | None = None) -> Node:
        """This mapping with one value put in or replaced."""
        assert isinstance(self.value, dict)
        places = {**self.key_places, key: self.key_places.get(key, key_place or child.place)}
        return Node(place=self.place, value={**self.value, key: child}, key_places=places)


def merged(below: Node, above: Node) -> Node:
    """`above` over `below`: mappings are merged key by key, everything else is replaced; places stay with values."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    value = dict(below.value)
    for key, child in above.value.items():
        value[key] = merged(value[key], child) if key in value else child
    return Node(place=above.place, value=value, key_places={**below.key_places, **above.key_places})


def places_in(node: Node) -> Iterator[Place]:
    """Where everything in a tree stands: values and keys."""
    yield node.place
    yield from node.key_places.values()
    children: Iterable[Node] = ()
    if isinstance(node.value, dict):
        children = node.value.values()
    elif isinstance(node.value, tuple):
        children = node.value
    for child in children:
        yield from places_in(child)


def read_document(path: Path, shown: str) -> Node:
    """The file's tree; `shown` is how errors name the file. Raises `ConfigError`."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _refused(Place(file=shown), f"is larger than {MAX_BYTES // 2**20} MiB; this is no configuration")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _refused(Place(file=shown), f"is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise _refused(Place(file=shown), f"cannot be read: {error.strerror or error}") from error
    return parse_document(text, shown)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, place: Place) -> str:
    """The parser's words, except for two mistakes that people make and the parser names by its own grammar."""
    problem = error.problem or error.context or "no reason given"
    if problem == "found character that cannot start any token":
        line = text.splitlines()[place.line - 1 : place.line]
        if line and line[0][place.column - 1 : place.column] == "\t":
            return "a tab stands here; indent with spaces"
    if problem == "but found another document":
        return "a second document begins here; one file holds one"
    return problem


def parse_document(text: str, shown: str) -> Node:
    """The tree of a YAML text. Raises `ConfigError` for a syntax error, or with every refused construct."""
    try:
        _refuse_aliases(text, shown)
        # compose builds nodes only: no object is ever constructed from a tag
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file=shown) if mark is None else Place(file=shown, line=mark.line + 1, column=mark.column + 1)
        raise _refused(place, f"is not YAML: {_syntax_problem(error, text, place)}") from error
    except yaml.YAMLError as error:
        raise _refused(Place(file=shown), f"is not YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise _refused(Place(file=shown), f"is nested deeper than {MAX_DEPTH} levels") from error
    if root is None:
        raise _refused(Place(file=shown), "is empty; it begins with apiVersion and kind")
    issues: list[ConfigIssue] = []
    tree = _node(root, shown, "", 0, issues)
    if issues:
        raise ConfigError(sorted(issues))
    return tree


class _Loader(_SafeLoader):
    """The safe loader with the scalars of YAML 1.2's core schema (YAML 1.1 reads 20:00 as 1200 and `no` as false)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 — the library's own class attribute, filled below


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)

_SCALARS: Final[dict[str, Callable[[str], bool | int | float | str | None]]] = {
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}

_COLLECTIONS: Final[dict[type[yaml.Node], str]] = {
    yaml.MappingNode: "tag:yaml.org,2002:map",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
}


def _refuse_aliases(text: str, shown: str) -> None:
    """Aliases let ten lines stand for a billion, and `defaults` does what people want them for."""
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            place = _place(event, shown)
            raise _refused(place, f"*{event.anchor} is a YAML alias, which is not supported; use `defaults` instead")


def _node(node: yaml.Node, shown: str, setting: str, depth: int, issues: list[ConfigIssue]) -> Node:
    place = _place(node, shown)
    if depth > MAX_DEPTH:
        raise _refused(place, f"is nested deeper than {MAX_DEPTH} levels")
    wanted = _COLLECTIONS.get(type(node))
    if wanted is not None and node.tag != wanted:
        issues.append(_issue(place, setting, f"has the tag {node.tag!r}; write the plain value instead"))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, shown, setting, depth, issues)
    if isinstance(node, yaml.SequenceNode):
        children = [
            _node(child, shown, f"{setting}[{index}]", depth + 1, issues) for index, child in enumerate(node.value)
        ]
        return Node(place=place, value=tuple(children))
    convert = _SCALARS.get(node.tag)
    if convert is None:
        issues.append(_issue(place, setting, f"has the tag {node.tag!r}; write the plain value instead"))
        return Node(place=place, value=None)
    try:
        return Node(place=place, value=convert(node.value))
    except ValueError:
        kind = node.tag.rpartition(":")[2]
        issues.append(_issue(place, setting, f"{str(node.value)[:40]!r} is not a usable {kind}"))
        return Node(place=place, value=None)


def _mapping(node: yaml.MappingNode, shown: str, setting: str, depth: int, issues: list[ConfigIssue]) -> Node:
    value: dict[str, Node] = {}
    places: dict[str, Place] = {}
    for key_node, value_node in node.value:
        key_place = _place(key_node, shown)
        if not isinstance(key_node, yaml.ScalarNode):
            issues.append(_issue(key_place, setting, "has a list or mapping as a key; keys are names"))
            continue
        key = str(key_node.value)
        if key in value:
            first = f"it already stands in line {places[key].line}; remove one of the two"
            issues.append(_issue(key_place, join(setting, key), f"is given twice: {first}"))
            continue
        places[key] = key_place
        value[key] = _node(value_node, shown, join(setting, key), depth + 1, issues)
    return Node(place=_place(node, shown), value=value, key_places=places)


def join(setting: str, step: str | int) -> str:
    """The path of a setting one step further down: "workloads[0]" and "mode" give "workloads[0].mode"."""
    if isinstance(step, int):
        return f"{setting}[{step}]"
    return f"{setting}.{step}" if setting else step


def _place(node: Any, shown: str) -> Place:
    return Place(file=shown, line=node.start_mark.line + 1, column=node.start_mark.column + 1)


def _issue(place: Place, setting: str, text: str) -> ConfigIssue:
    return ConfigIssue(file=place.file, line=place.line, column=place.column, setting=setting, text=text)


def _refused(place: Place, text: str) -> ConfigError:
    return ConfigError([_issue(place, "", text)])
