"""The catalogue: the contract's names, its page in the docs, and what every signal must say of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecaster.sources.catalogue import (
    CATALOGUE,
    SIGNAL_NAMES,
    USAGE,
    Group,
    Kind,
    Origin,
    Signal,
    Use,
    render_markdown,
    signal_named,
)
from forecaster.sources.selector import LABEL_NAME, METRIC_NAME

ROOT = Path(__file__).resolve().parents[3]

CONTRACT = {
    "demand_rps", "e2e_p95_s", "ttft_p95_s", "queue_time_p95_s", "requests_running", "requests_waiting",
    "kv_cache_usage_ratio", "prompt_tokens_per_s", "output_tokens_per_s", "itl_p95_s", "preemptions_per_s",
    "prefix_cache_hit_ratio", "gpu_utilisation_ratio", "gpu_memory_used_bytes", "gpu_memory_free_bytes",
    "gpu_power_watts", "gpu_energy_joules_total", "gpu_xid_errors",
}  # fmt: skip

UNIT_OF_SUFFIX = {
    "_rps": "requests/s", "_s": "s", "_ratio": "ratio", "_bytes": "bytes", "_watts": "W", "_joules_total": "J",
    "tokens_per_s": "tokens/s", "images_per_s": "images/s", "preemptions_per_s": "1/s", "rejections_per_s": "requests/s",
    "requests_running": "requests", "requests_waiting": "requests", "_xid_errors": "GPUs",
}  # fmt: skip


def test_every_name_of_the_contract_is_there():
    assert set(SIGNAL_NAMES) >= CONTRACT
    assert len(set(SIGNAL_NAMES)) == len(SIGNAL_NAMES)


def test_the_page_in_the_docs_is_what_the_catalogue_renders():
    assert (ROOT / "docs" / "signals.md").read_text(encoding="utf-8") == render_markdown()


def test_only_demand_is_required():
    assert [signal.name for signal in CATALOGUE if signal.use is Use.REQUIRED] == ["demand_rps"]


def test_what_is_only_reported_is_asked_for_apart_from_what_the_rules_read():
    assert {s.group for s in CATALOGUE if s.use is Use.REPORTING} == {Group.REPORTING}
    assert Group.REPORTING not in {s.group for s in CATALOGUE if s.use is not Use.REPORTING}


@pytest.mark.parametrize("signal", CATALOGUE, ids=lambda signal: signal.name)
def test_a_signal_says_its_unit_in_its_name_and_can_be_asked_for(signal: Signal):
    suffix = max((s for s in UNIT_OF_SUFFIX if signal.name.endswith(s)), key=len)
    assert signal.unit == UNIT_OF_SUFFIX[suffix]
    assert signal.candidates
    assert signal.max_age_s > 0
    for candidate in signal.candidates:
        assert METRIC_NAME.fullmatch(candidate.metric)
        assert candidate.scale > 0
        assert (candidate.per_metric is not None) == (signal.kind is Kind.COUNTER_RATIO)
        for label in (candidate.class_label, candidate.model_label):
            assert label is None or LABEL_NAME.fullmatch(label)


def test_completions_are_the_last_resort_for_demand():
    candidates = signal_named("demand_rps").candidates
    assert [bool(c.in_flight) for c in candidates] == [False] * (len(candidates) - 1) + [True]


def test_tokens_and_images_are_read_at_the_door_first_and_never_needed():
    for name in USAGE:
        signal = signal_named(name)
        assert signal.use is Use.REPORTING
        assert [c.origin is Origin.ENGINE for c in signal.candidates] == [False] * (len(signal.candidates) - 1) + [True]
        assert signal.candidates[0].class_label == signal_named("demand_rps").candidates[0].class_label


def test_an_unknown_signal_lists_the_known_ones():
    with pytest.raises(KeyError, match="ttft_p95_s"):
        signal_named("ttft")
