"""docs/gateway.md says what the code does: settings with their defaults, headers, codes, metrics, levels."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.gateway.backends import Backend
from inference.gateway.degradation import DegradationRule
from inference.gateway.exchange import Outcome
from inference.gateway.metrics import Metrics
from inference.gateway.refusals import STATUS, Reason
from inference.gateway.settings import Settings, Slo, parse_settings

PAGE = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([\w.\[\]]+)` \| (.*?) \|", PAGE, flags=re.MULTILINE))


def default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else "none"
    if field.default is None or field.default == ():
        return "none"
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    return f"`{', '.join(map(str, values))}`"


def settings(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            yield from settings(typing.cast(type, hint), f"{name}.")
            continue
        yield name, default(field)
        for inner in typing.get_args(hint):
            if dataclasses.is_dataclass(inner):
                yield from settings(typing.cast(type, inner), f"{name}[].")


@pytest.mark.parametrize(("name", "expected"), list(settings(Settings)))
def test_every_setting_is_on_the_page_with_its_default(name: str, expected: str) -> None:
    assert ROWS[name] == expected


def test_no_setting_is_on_the_page_that_the_code_has_not() -> None:
    table = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w.\[\]]+)`", table, flags=re.MULTILINE)) == {name for name, _ in settings(Settings)}


def test_every_field_of_a_backend_is_on_the_page() -> None:
    assert {field.name for field in dataclasses.fields(Backend)} <= set(ROWS)


def test_every_code_is_on_the_page_beside_its_status() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (`.*?`) \|", PAGE, flags=re.MULTILINE)
    told = {code: statuses for statuses, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert set(told) == {reason.value for reason in Reason}
    assert all(str(STATUS[reason]) in told[reason.value] for reason in Reason)


def test_every_metric_is_on_the_page_and_none_that_is_not_there() -> None:
    table = PAGE.partition("## Metrics")[2].partition("Attainment")[0]
    named = set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row.count("|") > 2))
    )
    families = {
        family.name.removeprefix("headstart_gateway_") + ("_total" if family.type == "counter" else "")
        for family in Metrics(Slo()).registry.collect()
    }
    assert named == families


def test_every_outcome_is_on_the_page() -> None:
    assert ", ".join(outcome.value for outcome in Outcome) in PAGE


def test_the_levels_are_what_the_code_does() -> None:
    rule = DegradationRule()
    assert f"{rule.load_ratio:.0%}".replace("%", " %") + " of the slots" in PAGE
    assert f"output at most {rule.max_output_tokens} tokens; pictures at most `max_image_pixels`, if" in PAGE
    assert rule.max_image_pixels is None
    assert f"after two seconds of pressure, one down after {rule.fall_after_s:.0f} s below 70 % of the edge" in PAGE
    assert (rule.rise_after_s, rule.release_ratio, rule.shed_waiting_ratio) == (2.0, 0.7, 0.6)


def test_the_quick_start_is_accepted() -> None:
    example = re.search(r"```yaml\n(# gateway.yaml\n.*?)```", PAGE, flags=re.DOTALL)
    assert example is not None
    assert parse_settings(example[1], source="the page").models[0].fallback == "chat-small"
