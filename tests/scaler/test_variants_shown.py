"""What people, gateways and Prometheus are told of a switch between variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from scaler.adapters.board import Board, View
from scaler.adapters.documents import shares_document, workloads_document
from scaler.adapters.events import events_of
from scaler.adapters.states import statuses
from scaler.adapters.telemetry import Telemetry
from scaler.commands.watching import put_workloads
from scaler.loop import TickReport
from scaler.policy.explain import explain
from scaler.policy.explain_variants import WHY, variant_lines
from scaler.policy.types import Mode, VariantReason
from variant_world import BIG, SMALL, Service, a_variant


@pytest.fixture(scope="module")
def half_way() -> Service:
    return in_mid_switch()


def in_mid_switch() -> Service:
    """4B is chosen, one of its three replicas is Ready and carries 42.5 % of 12/s."""
    service = Service()
    service.minutes(15)
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    service.minute()
    return service


def view_of(report: TickReport) -> View:
    return View(report=report, statuses=statuses(report, {}))


def test_gateways_are_told_the_shares_by_the_names_that_replicas_give_their_model(half_way: Service) -> None:
    document = shares_document(view_of(half_way.reports[-1]))
    assert document["leads"] is True
    (model,) = document["models"]
    assert model["model"] == "chat"
    assert model["shares"] == pytest.approx({"small": 0.425, "chat-8b": 0.575})


@pytest.mark.parametrize(
    ("changed", "leads", "models"),
    [
        pytest.param(lambda report: replace(report, leads=False), False, ["chat"], id="a standby says so"),
        pytest.param(
            lambda report: replace(report, variants=tuple(replace(each, acts=False) for each in report.variants)),
            True,
            [],
            id="of what is only observed nothing is said",
        ),
    ],
)
def test_only_who_acts_has_a_say(
    half_way: Service, changed: Callable[[TickReport], TickReport], leads: bool, models: list[str]
) -> None:
    document = shares_document(view_of(changed(half_way.reports[-1])))
    assert (document["leads"], [each["model"] for each in document["models"]]) == (leads, models)


def test_get_has_a_line_for_the_group(half_way: Service, capsys: pytest.CaptureFixture[str]) -> None:
    put_workloads(workloads_document(view_of(half_way.reports[-1])))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("variants of chat")]
    assert f"{SMALL} serves because {WHY[VariantReason.COPES]} ({SMALL} needs 3 of 4 GPUs)" in line
    assert f"57 % {BIG}" in line or f"58 % {BIG}" in line


def test_get_and_explain_do_not_call_an_unknown_share_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    service = in_mid_switch()
    service.world.workloads[SMALL].readable = False
    report = service.minute()
    assert shares_document(view_of(report))["models"] == [{"model": "chat", "shares": {}}]
    put_workloads(workloads_document(view_of(report)))
    assert "traffic: by what gateways see" in capsys.readouterr().out
    record = next(each for each in report.records if each.policy.workload == BIG)
    (place,) = [text for _, text in variant_lines(record.decision, record.snapshot)]
    assert "its part of the traffic is as gateways see it" in place


def test_get_says_where_nothing_follows_it(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(policies=(a_variant(BIG, mode=Mode.OBSERVE), a_variant(SMALL, mode=Mode.OBSERVE)))
    put_workloads(workloads_document(view_of(service.minute())))
    assert "only shown, nothing follows it" in capsys.readouterr().out


def test_explain_names_the_place_and_the_clamp(half_way: Service) -> None:
    report = half_way.reports[-1]
    record = next(each for each in report.records if each.policy.workload == BIG)
    lines = explain(record.decision, record.snapshot, record.policy, report.states[BIG])
    (place,) = [line.text for line in lines if line.part == "variant"]
    assert place.startswith(f"{SMALL} serves because")
    assert "58 % of the traffic is here" in place or "57 % of the traffic is here" in place
    assert any(line.topic == "variants" and "hands over step by step" in line.text for line in lines)


def test_every_reason_has_its_sentence() -> None:
    assert set(WHY) == set(VariantReason)


def test_metrics_show_who_serves_and_count_switches() -> None:
    service, board = Service(), Board()
    telemetry = Telemetry(board)
    for _ in range(30):
        service.demand_rps = 12.0
        report = service.minute()
        board.publish(view_of(report))
        telemetry.tick_finished(report, (), duration_s=0.1)

    def value(name: str, **labels: str) -> float | None:
        return telemetry.registry.get_sample_value(f"headstart_{name}", {"model": "chat", **labels})

    big, small = ({"namespace": "llm", "workload": name} for name in ("chat-8b", "chat-4b"))
    assert (value("variant_chosen", **big), value("variant_chosen", **small)) == (0.0, 1.0)
    assert (value("variant_share", **big), value("variant_share", **small)) == (0.0, 1.0)
    assert value("variant_switches_total") == 1.0
    service.world.workloads[BIG].readable = False
    board.publish(view_of(service.minute()))
    assert value("variant_chosen", **small) == 1.0
    assert (value("variant_share", **big), value("variant_share", **small)) == (None, None), "unknown is not 0"


def test_a_switch_is_told_once_in_the_log(half_way: Service) -> None:
    told = [
        event
        for report in half_way.reports
        for event in events_of(report, None, {}, statuses(report, {}))
        if event.name == "variant_switched"
    ]
    (event,) = told
    assert (event.keys["chosen"], event.keys["reason"]) == (SMALL, "too_slow")
