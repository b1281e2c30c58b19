"""docs/profiling.md says what the code does: defaults, the raw file's fields, the load test's options."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from inference.profiling import level as module
from inference.profiling.plan import DEFAULT_CLASSES, SweepPlan, read_class
from inference.profiling.raw import FORMAT
from inference.profiling.sweep import sweep
from slow_server import SlowServer

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "profiling.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, flags=re.MULTILINE))
ONLY_WHEN_FAILED = {"error"}


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The fields of each kind of line that a sweep wrote."""
    raw = tmp_path_factory.mktemp("sweep") / "raw.jsonl"
    plan = SweepPlan(classes=(read_class("chat=20+3"),), level_s=0.2, budget_s=60.0)
    look_every_s, module.LOOK_EVERY_S = module.LOOK_EVERY_S, 0.05
    try:
        with SlowServer() as server:
            asyncio.run(sweep(server.url, plan, raw))
    finally:
        module.LOOK_EVERY_S = look_every_s
    found: dict[str, set[str]] = {}
    for text in raw.read_text().splitlines():
        line = json.loads(text)
        found.setdefault(line.pop("kind"), set()).update(line)
    return found


@pytest.mark.server
@pytest.mark.parametrize("kind", ["sweep", "facts", "calibrated", "request", "sample", "level"])
def test_every_field_of_the_raw_file_is_on_the_page(kind: str, fields: dict[str, set[str]]) -> None:
    told = set(re.findall(r"`(\w+)`", ROWS[kind]))
    assert fields[kind] <= told, "written and not described"
    by_value = {"ok", "failed", "cancelled", "full", "crowded", "mixed"}
    inner = {"name", "prompt_tokens", "output_tokens", "image_width", "image_height", "share"}
    more = told - fields[kind] - by_value - ONLY_WHEN_FAILED - (inner if kind == "sweep" else set())
    assert not {each for each in more if not each.startswith("vllm")}, "described and not written"


def test_the_format_and_the_default_classes_are_on_the_page() -> None:
    assert f"`{FORMAT}`" in PAGE
    for one in DEFAULT_CLASSES:
        assert f"`{one.name}`" in PAGE
        assert f"({one.prompt_tokens:,} + {one.output_tokens})" in PAGE


def test_the_defaults_are_on_the_page() -> None:
    plan = SweepPlan()
    assert f"`--budget` ({plan.budget_s / 60:g} m)" in PAGE
    assert f"`--max-requests` ({plan.max_requests:,})" in PAGE
    assert f"{plan.level_s:g} s each (`--level`)" in PAGE
    assert f"once {plan.max_in_flight:,} requests are" in PAGE


def test_the_load_tests_options_are_on_the_page() -> None:
    source = (REPOSITORY / "tests" / "loadtest" / "locustfile.py").read_text(encoding="utf-8")
    options = re.findall(r'add_argument\("(--[a-z-]+)"', source)
    assert len(options) >= 6
    assert [each for each in options if f"{each}" not in PAGE] == []
