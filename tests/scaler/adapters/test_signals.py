"""Which reading belongs to which request class, and where a latency target can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest

from forecaster.sources.catalogue import Judged, Use
from forecaster.sources.prometheus import SignalCheck
from forecaster.sources.readings import Readings
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Blind, BlindReason, Known, Reading, SeriesKey, TooFew
from policy_cases import NOON
from scaler.adapters.signals import SourceSignals, at_bucket_edges, signals_of
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.types import NOT_READ

CHAT = "llm/chat"
EDGES = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0)


def key(signal: str, request_class: str = DEFAULT_CLASS) -> SeriesKey:
    return SeriesKey(workload=CHAT, signal=signal, request_class=request_class)


class FixedSource:
    """A metrics source that always reads the same."""

    def __init__(
        self, values: dict[SeriesKey, Reading], notes: tuple[str, ...] = (), partial: frozenset[str] = frozenset()
    ) -> None:
        self._readings = Readings(values=values, queries=4, query_s=0.1, notes=notes, partial=partial)

    def read(self, selectors: Sequence[WorkloadSelector], *, now: datetime, judged: Judged) -> Readings:
        return self._readings


def test_one_class_gets_everything_and_the_rest_is_reported() -> None:
    values = {
        key("demand_rps"): Known(value=12.0),
        key("e2e_p95_s"): Known(value=0.9),
        key("ttft_p95_s"): TooFew(count=12),
        key("itl_p95_s"): Known(value=0.04),
        key("requests_waiting"): Known(value=3.0),
        key("gpu_utilisation_ratio"): Known(value=0.4),
        key("requests_running"): Known(value=7.0),
    }
    seen = signals_of(values, LatencyRule())
    (only,) = seen.classes
    assert (only.request_class, only.demand_rps, only.e2e_p95_s) == (DEFAULT_CLASS, Known(value=12.0), Known(value=0.9))
    assert (only.ttft_p95_s, only.queue_time_p95_s) == (TooFew(count=12), NOT_READ)
    assert only.itl_p95_s == Known(value=0.04)
    assert seen.requests_waiting == Known(value=3.0)
    assert dict(seen.reported) == {"gpu_utilisation_ratio": Known(value=0.4), "requests_running": Known(value=7.0)}


def test_what_is_told_per_class_is_reported_per_class() -> None:
    values = {
        key("demand_rps", "gui"): Known(value=30.0),
        key("prompt_tokens_per_s", "gui"): Known(value=36_000.0),
        key("prompt_tokens_per_s", "html"): Known(value=48_000.0),
        key("output_tokens_per_s"): Known(value=2_000.0),
        key("images_per_s"): Blind(reason=BlindReason.NO_SERIES),
    }
    seen = signals_of(values, LatencyRule())
    assert [each.request_class for each in seen.classes] == ["gui"], "tokens make no class of their own"
    assert dict(seen.reported) == {
        "output_tokens_per_s": Known(value=2_000.0),
        "images_per_s": Blind(reason=BlindReason.NO_SERIES),
        "prompt_tokens_per_s[gui]": Known(value=36_000.0),
        "prompt_tokens_per_s[html]": Known(value=48_000.0),
    }


@pytest.mark.parametrize("partial", [frozenset[str](), frozenset({CHAT})])
def test_a_front_door_that_is_partly_down_makes_the_demand_partial(partial: frozenset[str]) -> None:
    source = FixedSource({key("demand_rps"): Known(value=12.0)}, partial=partial)
    seen = SourceSignals(source, [WorkloadSelector.for_workload("llm", "chat")], {}).read(now=NOON)[CHAT]
    assert seen.demand_partial is bool(partial)
    assert seen.classes[0].demand_rps == Known(value=12.0)


def test_a_mixed_percentile_is_judged_by_the_loosest_target_alone() -> None:
    """With videos at 5 s and screenshots at 1 s, a P95 of 4 s over both says nothing against the screenshots."""
    values = {
        key("demand_rps", "gui"): Known(value=10.0),
        key("demand_rps", "video"): Known(value=2.0),
        key("e2e_p95_s"): Known(value=4.0),
    }
    rule = LatencyRule(slos=(Slo(request_class="gui", e2e_p95_s=1.0), Slo(request_class="video", e2e_p95_s=5.0)))
    by_class = {each.request_class: each for each in signals_of(values, rule).classes}
    assert by_class["video"].e2e_p95_s == Known(value=4.0)
    assert by_class["gui"].e2e_p95_s is NOT_READ


def test_a_class_whose_own_percentile_is_known_keeps_it() -> None:
    values = {
        key("demand_rps", "gui"): Known(value=10.0),
        key("demand_rps", "video"): Known(value=2.0),
        key("e2e_p95_s", "gui"): Known(value=0.7),
    }
    by_class = {each.request_class: each for each in signals_of(values, LatencyRule()).classes}
    assert by_class["gui"].e2e_p95_s == Known(value=0.7)
    assert by_class["video"].e2e_p95_s is NOT_READ


def test_a_blind_demand_stays_blind() -> None:
    blind = Blind(reason=BlindReason.NO_SERIES, detail="query returned no series")
    (only,) = signals_of({key("demand_rps"): blind}, LatencyRule()).classes
    assert only.demand_rps is blind


def test_every_workload_has_an_answer_the_time_is_told_and_the_notes_are_kept() -> None:
    took: list[float] = []
    selectors = [WorkloadSelector.for_workload("llm", "chat"), WorkloadSelector.for_workload("llm", "other")]
    source = FixedSource({key("demand_rps"): Known(value=1.0)}, notes=("the clocks differ by 40 s",))
    signals = SourceSignals(source, selectors, {}, observer=took.append)
    seen = signals.read(now=NOON)
    assert set(seen) == {"llm/chat", "llm/other"}
    assert seen["llm/other"].classes[0].demand_rps is NOT_READ
    assert len(took) == 1
    assert signals.notes == ("the clocks differ by 40 s",)


def a_check(signal: str = "e2e_p95_s", edges: tuple[float, ...] = EDGES) -> SignalCheck:
    return SignalCheck(workload=CHAT, signal=signal, use=Use.RULES, metric="vllm:x", edges_s=edges)


@pytest.mark.parametrize(
    ("target_s", "judged_s", "said"),
    [
        pytest.param(1.2, 1.0, "every class: e2e_p95_s 1.2 s is judged at the bucket edge 1 s", id="next lower edge"),
        pytest.param(1.0, 1.0, None, id="an edge is judged as it is"),
        pytest.param(0.1 + 0.2, 0.1 + 0.2, None, id="0.30000000000000004 is the edge 0.3"),
        pytest.param(99.0, 2.0, "every class: e2e_p95_s 99 s is judged at the bucket edge 2 s", id="above the last"),
        pytest.param(
            0.2,
            0.2,
            "every class: e2e_p95_s 0.2 s lies below the first bucket edge 0.3 s: interpolated",
            id="below all",
        ),
    ],
)
def test_a_target_is_judged_at_a_bucket_edge(target_s: float, judged_s: float, said: str | None) -> None:
    judged = at_bucket_edges(LatencyRule(slos=(Slo(e2e_p95_s=target_s),)), [a_check()])
    assert judged.rule.slos[0].e2e_p95_s == judged_s
    assert judged.notes == (() if said is None else (said,))


def test_targets_without_a_histogram_stay_and_others_move_on_their_own() -> None:
    rule = LatencyRule(slos=(Slo(request_class="gui", e2e_p95_s=1.2, ttft_p95_s=0.9, itl_p95_s=0.12),))
    tokens = a_check("itl_p95_s", edges=(0.075, 0.1, 0.15))
    judged = at_bucket_edges(rule, [a_check(), a_check("ttft_p95_s", edges=()), tokens])
    assert judged.rule.slos == (Slo(request_class="gui", e2e_p95_s=1.0, ttft_p95_s=0.9, itl_p95_s=0.1),)
    assert judged.notes[-1] == "gui: itl_p95_s 0.12 s is judged at the bucket edge 0.1 s"
