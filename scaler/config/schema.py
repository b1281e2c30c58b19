"""The settings described for editors (JSON schema) and for people (Markdown), both from the dataclasses themselves.

Decides nothing about a setting: names, types, defaults and sentences all come from the code that reads them. What
the file may say beyond the dataclasses (the header, `defaults`, a profile by name, `events_file`) is added here.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final

from scaler.config import API_VERSION, shipped_profiles
from scaler.config.check import fields_of, shown_duration
from scaler.config.values import ConfigFile

_DURATION: Final = r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"
_CLOCK: Final = r"^[0-2]\d:[0-5]\d(:[0-5]\d)?$"

HEADER: Final = """\
# Configuration

One YAML file, checked as a whole before anything starts: `headstart validate FILE` prints every problem with its
file, line and column. `data/headstart.example.yaml` is a complete example; `headstart schema` prints the JSON schema
for editors. This page is printed by `headstart schema -o markdown`, and a test compares the two.

- The file starts with `apiVersion: headstart/v1` and `kind: Config`.
- Durations are written `5m`, `90s`, `1h30m` or `500ms`; a number without a unit is refused.
- Moments carry their zone (`2026-11-11T20:00+08:00`), wall-clock times are quoted (`"03:10"`).
- An unknown or doubled key is an error, and so is a value of the wrong kind: nothing is guessed or converted.
- Relative paths start at the settings file's folder. Secrets are only ever given by file.
- `defaults` may hold any setting of a workload but `workload` and `target`; each workload's own settings are merged
  over it key by key, lists are replaced as a whole.
- `profile` is the name of a shipped profile ({profiles}), a path ending in `.yaml`, or a mapping.
- `scheduled.events_file` names a file with `events` and `windows`, which are added to the workload's own
  (`data/events/sample.yaml`).
"""


@cache
def field_docs(kind: type) -> Mapping[str, str]:
    """The docstring under each field of a dataclass, inherited ones included, on one line each."""
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for above, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[above.target.id] = " ".join(text.split())
    return docs


# ── JSON schema ───────────────────────────────────────────────────────────────────────────────────────────────


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a settings file."""
    from pydantic import ConfigDict, TypeAdapter

    adapter = TypeAdapter(list[ConfigFile], config=ConfigDict(extra="forbid"))
    definitions: dict[str, Any] = adapter.json_schema(schema_generator=_generator())["$defs"]
    for kind in _dataclasses_in(ConfigFile):
        _describe(definitions[kind.__name__], kind)
    _add_workload_forms(definitions)
    root = definitions.pop("ConfigFile")
    root["properties"] = {
        "apiVersion": {"const": API_VERSION, "description": "Version of this file's shape."},
        "kind": {"const": "Config"},
        "defaults": {"$ref": "#/$defs/WorkloadDefaults"},
        **root["properties"],
    }
    root["required"] = ["apiVersion", "kind"]
    root["title"] = "Headstart settings"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _generator() -> Any:
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        """pydantic's generator with durations and clock times as this file writes them."""

        def timedelta_schema(self, schema: Any) -> dict[str, Any]:
            return {"type": "string", "pattern": _DURATION, "examples": ["5m", "90s", "1h30m"]}

        def time_schema(self, schema: Any) -> dict[str, Any]:
            return {"type": "string", "pattern": _CLOCK, "examples": ["03:10"]}

        def encode_default(self, dft: Any) -> Any:
            if isinstance(dft, timedelta):
                return shown_duration(dft)
            return f"{dft:%H:%M}" if isinstance(dft, time) else super().encode_default(dft)

    return Generator


def _describe(definition: dict[str, Any], kind: type) -> None:
    docs = field_docs(kind)
    for name, entry in definition["properties"].items():
        entry.pop("title", None)  # "Max Rps" tells an editor nothing that "max_rps" does not
        if name in docs:
            entry["description"] = docs[name]


def _add_workload_forms(definitions: dict[str, Any]) -> None:
    """What may stand in a workload's entry beyond its dataclass, and the same entry as `defaults`."""
    entry = definitions["WorkloadEntry"]
    del entry["properties"]["tick"]
    entry["required"] = ["workload"]
    entry["properties"]["profile"] = {
        "description": f"A shipped profile ({', '.join(shipped_profiles())}), a path ending in .yaml, or a mapping.",
        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/CapacityProfile"}],
    }
    definitions["ScheduledEntry"]["properties"]["events_file"] = {
        "description": "A file with more events and windows, relative to this one.",
        "type": "string",
    }
    shared = {name: each for name, each in entry["properties"].items() if name not in ("workload", "target")}
    definitions["WorkloadDefaults"] = {
        "type": "object",
        "additionalProperties": False,
        "description": "Settings that are merged under every workload's own.",
        "properties": shared,
    }


def _dataclasses_in(kind: type) -> Iterator[type]:
    """A dataclass and every one inside it."""
    yield kind
    for hint in fields_of(kind).values():
        inner = _inner(hint)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from _dataclasses_in(inner)


def _inner(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────────


def markdown() -> str:
    """docs/configuration.md."""
    parts = [HEADER.format(profiles=", ".join(f"`{name}`" for name in shipped_profiles()))]
    parts += _section("", "The file", ConfigFile)
    return "\n".join(parts)


def _section(path: str, title: str, kind: type) -> Iterator[str]:
    """A table of one dataclass's settings, then a section for each group inside it."""
    docs, defaults = field_docs(kind), {each.name: each for each in dataclasses.fields(kind)}
    rows, groups = [], []
    for name, hint in fields_of(kind).items():
        inner = _inner(hint)
        if path == "workloads[]" and name == "tick":
            continue
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            deeper = f"{path}.{name}" if path else name
            groups.append((f"{deeper}[]" if inner is not hint else deeper, inner))
        else:
            rows.append(f"| `{name}` | {_kind_name(hint)} | {_default(defaults[name])} | {docs.get(name, '')} |")
    yield f"## {title}\n\n{_summary(kind)}\n"
    if rows:
        yield "\n".join(["| setting | kind | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
    for deeper, inner in groups:
        yield from _section(deeper, f"`{deeper}`", inner)


def _summary(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _kind_name(hint: Any) -> str:
    names = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
        timedelta: "duration",
        datetime: "moment with zone",
        time: "wall-clock time",
    }
    if typing.get_origin(hint) is tuple:
        return f"list of {_kind_name(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is not None:
        return "names and values"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{member.value}`" for member in hint)
    return names[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "required"
        value = field.default_factory()
    match value:
        case None | "" | () | {}:
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case timedelta():
            return f"`{shown_duration(value)}`"
        case time():
            return f'`"{value:%H:%M}"`'
        case tuple():
            return f"`[{', '.join(map(str, value))}]`"
        case Enum():
            return f"`{value.value}`"
        case _:
            return f"`{value}`"
