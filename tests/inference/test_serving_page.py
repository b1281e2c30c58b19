"""docs/serving.md says what the code does: every setting with its default, and the timings of probes and shutdown."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from inference.errors import InvalidValue
from inference.manifests import PRE_STOP_S, TEARDOWN_S, deployment, grace_period_s
from inference.variants import BATCHED_TOKENS_BY_PEAK_RPS, Variant, shipped_catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, flags=re.MULTILINE))
DESCRIBED_IN_WORDS = {"served_model_name": "the name", "weights": "from the hub"}


@pytest.mark.parametrize("setting", dataclasses.fields(Variant), ids=lambda setting: setting.name)
def test_every_setting_is_on_the_page_with_its_default(setting: dataclasses.Field[object]) -> None:
    if setting.name in DESCRIBED_IN_WORDS:
        expected = DESCRIBED_IN_WORDS[setting.name]
    elif setting.default is dataclasses.MISSING:
        expected = "required"
    else:
        expected = f"`{setting.default}`"

    assert ROWS[setting.name] == expected


def test_no_setting_is_on_the_page_that_the_code_has_not() -> None:
    assert set(ROWS) == {setting.name for setting in dataclasses.fields(Variant)}


def test_the_probe_table_is_what_is_rendered() -> None:
    variant = shipped_catalogue()[0]
    (container,) = deployment(variant)["spec"]["template"]["spec"]["containers"]

    startup, readiness, liveness = (container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert f"| startup | every {startup['periodSeconds']} s |" in PAGE
    assert f"| readiness | every {readiness['periodSeconds']} s | {readiness['failureThreshold']} failures" in PAGE
    assert f"| liveness | every {liveness['periodSeconds']} s | {liveness['failureThreshold']} failures" in PAGE


def test_the_shutdown_table_is_what_is_rendered() -> None:
    variant = shipped_catalogue()[0]

    assert f"`preStop` sleeps {PRE_STOP_S} s" in PAGE
    assert f"= {PRE_STOP_S} + `shutdown_timeout_s` + {TEARDOWN_S} |" in PAGE
    assert grace_period_s(variant) == PRE_STOP_S + variant.shutdown_timeout_s + TEARDOWN_S


def test_the_batch_sizes_are_what_the_code_chooses() -> None:
    tokens = [str(tokens) for _, tokens in BATCHED_TOKENS_BY_PEAK_RPS]

    assert f"{tokens[0]} up to 2,000 requests/s, {tokens[1]} up to 6,000, {tokens[2]} above" in PAGE


def test_the_error_on_the_page_is_the_real_one() -> None:
    eight = next(variant for variant in shipped_catalogue() if variant.name == "qwen3-vl-8b")
    with pytest.raises(InvalidValue, match="leaves at most") as caught:
        dataclasses.replace(eight, gpu_memory_gib=23.9)

    assert f"error: {caught.value}" in " ".join(PAGE.split())
