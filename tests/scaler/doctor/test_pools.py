"""What `headstart doctor` says of pools, by what their front door counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forecaster.types import Blind, BlindReason, Known, Reading, Zero
from scaler.config import Config, parse_config
from scaler.doctor.finding import Finding, Health
from scaler.doctor.pools import judge_pools

SETTINGS = """\
apiVersion: headstart/v1
kind: Config
discover: {namespaces: [llm]}
workloads:
  - workload: llm/gui
    profile: {name: card, classes: [{name: gui, max_rps: 6}, {name: ocr, max_rps: 9}]}
    selector: {demand_labels: {model: chat}, classes: [gui, ocr]}
    spills_to: llm/text
  - workload: llm/text
    profile: {name: big, classes: [{name: gui, max_rps: 4}, {name: ocr, max_rps: 5}, {name: text, max_rps: 18}]}
    selector: {demand_labels: {model: chat}, classes: [text]}
"""

SOME, NONE = Known(value=3.0), Zero(evidence="it is there and reads 0")


def a_config() -> Config:
    return parse_config(SETTINGS, Path("headstart.yaml"))


def judged(config: Config, **demand: dict[str, Reading]) -> list[Finding]:
    return list(judge_pools(config, {f"llm/{name}": each for name, each in demand.items()}, {"llm/gui"}))


def test_a_pool_whose_classes_are_counted_is_well() -> None:
    (finding,) = judged(a_config(), gui={"gui": SOME, "ocr": NONE})
    assert finding.health is Health.OK
    assert finding.found == "takes gui, ocr, and spills over to llm/text"


def test_a_class_that_the_gateway_does_not_have_is_named() -> None:
    (finding,) = judged(a_config(), gui={"gui": SOME})
    assert finding.health is Health.WARN
    assert finding.found == "the front door counts no class ocr; it counts gui"


@pytest.mark.parametrize(
    "demand",
    [
        pytest.param({}, id="nothing was read"),
        pytest.param({"default": Blind(reason=BlindReason.NO_SERIES)}, id="blind, which the demand's own check tells"),
    ],
)
def test_a_blind_pool_is_told_once(demand: dict[str, Reading]) -> None:
    assert [each.health for each in judged(a_config(), gui=demand)] == [Health.OK]


def _with_first(config: Config, **changes: object) -> Config:
    first, second = config.fleet.workloads
    workloads = (replace(first, **changes), second)  # type: ignore[arg-type]
    return replace(config, fleet=replace(config.fleet, workloads=workloads))


def test_a_receiver_that_nobody_found_is_an_error() -> None:
    (finding,) = judged(_with_first(a_config(), spills_to="llm/elsewhere"), gui={"gui": SOME, "ocr": SOME})
    assert finding.health is Health.FAIL
    assert "llm/elsewhere, which is no workload" in finding.found


def test_a_class_that_is_seen_and_that_the_receiver_does_not_know_is_told() -> None:
    config = a_config()
    config = replace(
        config, selectors={**config.selectors, "llm/gui": replace(config.selectors["llm/gui"], classes=())}
    )
    (finding,) = judged(config, gui={"gui": SOME, "video": SOME})
    assert finding.health is Health.WARN
    assert finding.found == "llm/text's profile has no class video: it counts as its slowest there"


def test_a_workload_without_pools_has_no_line() -> None:
    config = _with_first(a_config(), spills_to=None)
    config = replace(
        config, selectors={**config.selectors, "llm/gui": replace(config.selectors["llm/gui"], classes=())}
    )
    assert judged(config, gui={"gui": SOME}) == []
