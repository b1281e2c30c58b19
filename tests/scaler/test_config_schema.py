"""The schema and the page of settings say what the reader does."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scaler.config import data_folder, parse_config
from scaler.config import schema as config_schema
from scaler.config.check import fields_of
from scaler.config.document import parse_document, read_document
from scaler.config.values import ConfigFile
from scaler.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]
HEADER = "apiVersion: headstart/v1\nkind: Config\n"
ONE = "workloads: [{workload: llm/chat, profile: qwen3-vl-2b-24gb}]\n"


def sections(kind: type) -> Iterator[type]:
    yield kind
    for hint in fields_of(kind).values():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner):
            yield from sections(typing.cast(type, inner))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made = config_schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_the_example_meets_the_schema(schema: dict[str, Any]) -> None:
    example = data_folder() / "headstart.example.yaml"
    jsonschema.validate(read_document(example, "example").plain(), schema)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        pytest.param(ONE, True, id="smallest"),
        pytest.param("tik: 60s\n" + ONE, False, id="unknown key"),
        pytest.param("tick: 60\n" + ONE, False, id="duration without a unit"),
        pytest.param("tick: 1m30s\n" + ONE, True, id="duration"),
        pytest.param("workloads: [{workload: a/b}]", False, id="no profile anywhere"),
        pytest.param(
            "defaults: {profile: qwen3-vl-2b-24gb}\nworkloads: [{workload: a/b}]", True, id="profile in defaults"
        ),
        pytest.param(
            "workloads: [{workload: a/b, profile: {name: x, classes: [{name: y}]}}]", False, id="half a profile"
        ),
        pytest.param("defaults: {workload: a/b}\n" + ONE, False, id="a name in defaults"),
        pytest.param(
            "workloads: [{workload: a/b, profile: qwen3-vl-2b-24gb, tick: 5s}]", False, id="tick of one workload"
        ),
        pytest.param("workloads: [{workload: a/b, profile: qwen3-vl-2b-24gb, mode: activ}]", False, id="mode"),
        pytest.param("forecast: {refit: '25:99'}\n" + ONE, False, id="clock time"),
    ],
)
def test_schema_and_reader_agree(text: str, valid: bool, schema: dict[str, Any]) -> None:
    try:
        parse_config(HEADER + text, Path("h.yaml"))
        read = True
    except ConfigError:
        read = False
    assert read is valid
    document = parse_document(HEADER + text, "h.yaml").plain()
    met = jsonschema.Draft202012Validator(schema).is_valid(document)
    # What only the whole file tells (a profile from defaults) is left to the reader.
    assert met is valid or text == "workloads: [{workload: a/b}]"


def test_every_setting_is_in_the_schema_with_the_sentence_of_its_dataclass(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    for kind in sections(ConfigFile):
        definition = schema if kind is ConfigFile else definitions[kind.__name__]
        names = set(fields_of(kind)) - ({"tick"} if kind.__name__ == "WorkloadEntry" else set())
        assert names <= set(definition["properties"]), kind
        assert definition["additionalProperties"] is False
        for name, text in config_schema.field_docs(kind).items():
            if name in names and name != "profile":
                assert definition["properties"][name]["description"] == text


def test_every_section_of_this_layer_documents_every_setting() -> None:
    """The rules' own files are checked where they lie; groups are described by their class."""
    for kind in sections(ConfigFile):
        if kind.__module__ != "scaler.config.values":
            continue
        own = {each.name for each in dataclasses.fields(kind)} & set(kind.__annotations__)
        plain = {name for name in own if not dataclasses.is_dataclass(fields_of(kind)[name])}
        assert plain <= set(config_schema.field_docs(kind)), kind


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == config_schema.markdown(), "run: headstart schema -o markdown > docs/configuration.md"


def test_the_page_names_every_setting() -> None:
    page = config_schema.markdown()
    for kind in sections(ConfigFile):
        for name, hint in fields_of(kind).items():
            if not (kind.__name__ == "WorkloadEntry" and name == "tick"):
                inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
                assert (
                    f".{name}" if dataclasses.is_dataclass(inner) else f"| `{name}` |"
                ) in page or f"`{name}" in page
