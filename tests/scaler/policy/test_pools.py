"""Pools of one service through the loop itself, in virtual time: who grows when, and what is told of it.

Property: whatever the day, every record of every pool decides again from itself alone, and the receiver stays within
its own bounds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason, Known
from policy_cases import a_policy
from pool_world import Day, PoolCourse
from scaler.adapters.board import View
from scaler.adapters.documents import workloads_document
from scaler.adapters.invariants import violations
from scaler.adapters.states import State, statuses
from scaler.daemon.round import frozen_series
from scaler.loop import Fleet, TickReport
from scaler.policy.budget import BudgetRule
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.types import Action, Inflow, Reason
from scaler.pools import in_spill_order
from scaler.ports import DecisionRecord

CARD = CapacityProfile(
    name="card", classes=(ClassCapacity(name="gui", max_rps=6.0), ClassCapacity(name="text", max_rps=18.0))
)
BIG_CARD = CapacityProfile(
    name="big-card",
    classes=(ClassCapacity(name="gui", max_rps=15.0), ClassCapacity(name="text", max_rps=40.0)),
    gpus=2,
)
DOWN = Blind(reason=BlindReason.TARGET_DOWN)
ROUTES = {"llm/gui": "llm/text", "llm/text": "llm/last"}


def a_pool(name: str, most: int, to: str | None = None, *, profile: CapacityProfile = CARD) -> WorkloadPolicy:
    policy = a_policy(profile=profile, most=most)
    slo = LatencyRule(slos=(Slo(e2e_p95_s=1.2),))
    return replace(policy, workload=name, spills_to=to, latency=slo, priority=1 if to else 0)


def a_day(peak_rps: float = 30.0, *, minutes: int = 240, at: int = 90) -> Day:
    """Screenshots that climb by 45 minutes to a peak and back, beside a steady text."""
    gui = [6.0 + peak_rps * max(0.0, 1.0 - abs(minute - at) / 45.0) for minute in range(minutes)]
    return {"gui": gui, "text": [18.0] * minutes}


def two_pools(
    *, told: bool = True, day: Day | None = None, forecasts: bool = True, budget: int | None = None, most: int = 3
) -> PoolCourse:
    """Screenshots on at most three replicas, text behind them on eight; the scaler is told of the spill or not."""
    return PoolCourse(
        fleet=Fleet(
            workloads=(a_pool("llm/gui", most, "llm/text" if told else None), a_pool("llm/text", 8)),
            budget=BudgetRule(gpus=budget),
        ),
        day=day or a_day(),
        reads={"llm/gui": ("gui",), "llm/text": ("text",)},
        start_minutes={"llm/gui": 4, "llm/text": 4},
        routes={"llm/gui": "llm/text"},
        forecasts=forecasts,
    )


def record(report: TickReport, name: str) -> DecisionRecord:
    return next(each for each in report.records if each.policy.workload == name)


def inflow_of(report: TickReport, name: str = "llm/text") -> Inflow:
    (found,) = record(report, name).snapshot.inflows
    return found


# ── The peak of one class above its pool's maximum ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("forecasts", [pytest.param(True, id="with forecasts"), pytest.param(False, id="without")])
def test_the_next_pool_grows_before_the_peak_and_late_where_nobody_tells_it(forecasts: bool) -> None:
    told, untold = two_pools(forecasts=forecasts), two_pools(told=False, forecasts=forecasts)
    told.run(200)
    untold.run(200)
    assert told.missed == 0
    assert untold.missed >= 10  # the latency rule alone sees it, and against the load it orders one more at most
    assert max(told.scales["llm/gui"]) == max(untold.scales["llm/gui"]) == 3


def test_it_grows_before_anything_comes_over() -> None:
    course = two_pools()
    reports = course.run(120)
    grown = next(at for at, size in enumerate(course.scales["llm/text"]) if size > 2)
    over = next(at for at, rate in enumerate(course.day["gui"]) if rate > 18.0)
    assert grown <= over
    assert inflow_of(reports[grown]).reach == 3
    assert record(reports[grown], "llm/text").decision.reason is Reason.FORECAST


def test_after_the_peak_it_goes_back_once() -> None:
    course = two_pools()
    course.run(230)
    sizes = course.scales["llm/text"]
    top = sizes.index(max(sizes))
    assert sizes[-1] == 2
    assert sizes[top:] == sorted(sizes[top:], reverse=True)  # down only: no flapping on the way


def test_what_the_budget_does_not_give_to_one_pool_is_foreseen_by_the_next() -> None:
    """Five GPUs for both: of the eight replicas that gui might have by its maximum, the budget gives three."""
    course = two_pools(budget=5, most=8)
    reports = course.run(80)
    limited = [each for each in reports if record(each, "llm/text").snapshot.inflows]
    assert inflow_of(limited[0]).limit is Reason.GPU_BUDGET
    assert all(sum(each.gpus.values()) <= 5 for each in reports)


def test_a_receiver_of_larger_cards_orders_fewer_of_them() -> None:
    course = PoolCourse(
        fleet=Fleet(workloads=(a_pool("llm/gui", 3, "llm/text"), a_pool("llm/text", 8, profile=BIG_CARD))),
        day=a_day(),
        reads={"llm/gui": ("gui",), "llm/text": ("text",)},
        start_minutes={"llm/gui": 4, "llm/text": 4},
        routes=ROUTES,
    )
    course.run(200)
    assert max(course.scales["llm/text"]) == 2  # .45 of text and at most 18 + band of gui at 15 each
    assert course.missed == 0


def test_a_chain_of_three() -> None:
    course = PoolCourse(
        fleet=Fleet(
            workloads=(a_pool("llm/gui", 2, "llm/text"), a_pool("llm/text", 3, "llm/last"), a_pool("llm/last", 8))
        ),
        day={**a_day(36.0), "video": [0.5] * 240},
        reads={"llm/gui": ("gui",), "llm/text": ("text",), "llm/last": ("video",)},
        start_minutes={"llm/gui": 4, "llm/text": 4, "llm/last": 4},
        routes=ROUTES,
    )
    reports = course.run(200)
    assert course.missed == 0
    at_peak = inflow_of(reports[90], "llm/last")
    assert at_peak.sender == "llm/text"
    assert {each.request_class for each in at_peak.classes} == {"gui", "text"}
    assert max(course.scales["llm/last"]) > 2


# ── Blindness, people, defects ────────────────────────────────────────────────────────────────────────────────


def test_a_pool_that_goes_blind_at_its_peak_spills_what_it_did_and_nothing_behind_it_is_released() -> None:
    course = two_pools(forecasts=False)
    course.run(90)
    before = inflow_of(course.step())
    course.pools["llm/gui"].rates["gui"] = DOWN
    held = course.scales["llm/text"][-1]
    reports = course.run(60)
    for report in reports:
        found = inflow_of(report)
        assert found.blind
        assert [each.planned_rps for each in found.classes] == [each.planned_rps for each in before.classes]
        assert record(report, "llm/text").decision.action is not Action.IN
    assert course.scales["llm/text"][-1] >= held
    shown = statuses(reports[-1], {})["llm/text"]
    assert shown.state is State.HOLD
    assert "llm/gui cannot be told" in shown.cause


def test_it_is_released_as_usual_once_the_pool_is_seen_again() -> None:
    course = two_pools(forecasts=False)
    course.run(90)
    course.pools["llm/gui"].rates["gui"] = DOWN
    course.run(60)
    course.pools["llm/gui"].rates["gui"] = Known(value=6.0)
    course.run(80)
    assert course.scales["llm/text"][-1] == 2


def test_a_defect_of_one_pool_is_blindness_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    course = two_pools(forecasts=False)
    course.run(90)
    before = inflow_of(course.step())

    def broken(snapshot: object, state: object, policy: WorkloadPolicy, *, now: object) -> object:
        if policy.workload == "llm/gui":
            raise ZeroDivisionError
        return real(snapshot, state, policy, now=now)  # type: ignore[arg-type]

    from scaler import loop

    real = loop.decide
    monkeypatch.setattr(loop, "decide", broken)
    report = course.step()
    assert set(report.failed) == {"llm/gui"}
    found = inflow_of(report)
    assert found.blind
    assert [each.planned_rps for each in found.classes] == [each.planned_rps for each in before.classes]


def test_a_defect_in_what_is_told_costs_the_receiver_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Inflow:
        raise ZeroDivisionError

    monkeypatch.setattr("scaler.pools.inflow_from", broken)
    course = two_pools()
    reports = course.run(100)
    assert all(set(each.failed) == {"llm/text"} for each in reports)
    assert max(course.scales["llm/gui"]) == 3
    assert set(course.scales["llm/text"]) == {1}  # held as it was


def test_pods_without_a_gpu_spill_over_after_a_start() -> None:
    course = two_pools(day={"gui": [12.0] * 60, "text": [18.0] * 60})
    course.pools["llm/gui"].scale, course.pools["llm/gui"].ready = 3, 1
    course.scales["llm/gui"] = [1] * 4
    reports = []
    for _ in range(12):
        course.pools["llm/gui"].ready, course.pools["llm/gui"].unschedulable = 1, 2
        course.scales["llm/gui"] = [1] * 4
        reports.append(course.step())
    limits = [record(each, "llm/text").snapshot.inflows for each in reports]
    assert limits[2][0].limit is Reason.AT_MAX
    assert limits[-1][0].limit is Reason.UNSCHEDULABLE


def test_the_forecast_goes_on_learning_at_a_maximum_behind_which_another_pool_serves() -> None:
    told, untold = two_pools(), two_pools(told=False)
    at_its_maximum, alone = told.run(91)[-1], untold.run(91)[-1]
    assert {key.workload for key in frozen_series(at_its_maximum)} == set()
    assert {key.workload for key in frozen_series(alone)} == {"llm/gui"}


# ── What is told of it ────────────────────────────────────────────────────────────────────────────────────────


def test_both_pools_show_it() -> None:
    report = two_pools().run(91)[-1]
    gui, text = workloads_document(View(report=report))["items"]
    (coming,) = text["spill"]["in"]
    assert gui["spill"]["to"] == "llm/text"
    assert gui["spill"]["out"] == coming
    assert coming["from"] == "llm/gui"
    assert coming["limit"] == "at_max"
    assert coming["classes"][0]["now_rps"] > 0.0
    assert text["demand_rps"] == {"text": 18.0}  # its own alone: the fleet's demand counts nothing twice
    assert any("takes over from llm/gui" in note for note in text["notes"])
    assert any("spills over to llm/text: gui" in note for note in gui["notes"])


def test_a_workload_without_pools_says_nothing_of_it() -> None:
    report = two_pools(told=False).run(91)[-1]
    assert [each["spill"] for each in workloads_document(View(report=report))["items"]] == [None, None]
    assert all(each.snapshot.inflows == () for each in report.records)


# ── The order ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given_order", "found"),
    [
        pytest.param([("a", None), ("b", None)], "ab", id="no pools: as they stand"),
        pytest.param([("a", "b"), ("b", "c"), ("c", None)], "abc", id="a chain as it is written"),
        pytest.param([("c", None), ("b", "c"), ("a", "b")], "abc", id="a chain written backwards"),
        pytest.param([("x", None), ("c", None), ("b", "c"), ("a", "c")], "xabc", id="two into one"),
        pytest.param([("a", "gone")], "a", id="a receiver that is not there"),
        pytest.param([("a", "b"), ("b", "a")], "ba", id="a ring still decides everybody once"),
    ],
)
def test_a_pool_is_decided_before_the_one_behind_it(given_order: list[tuple[str, str | None]], found: str) -> None:
    fleet = [a_pool(f"llm/{name}", 3, None if to is None else f"llm/{to}") for name, to in given_order]
    assert sorted(each.workload for each in in_spill_order(fleet)) == sorted(each.workload for each in fleet)
    assert "".join(each.workload[-1] for each in in_spill_order(fleet)) in (found, _other_equal(found))


def _other_equal(found: str) -> str:
    """Two senders of one pool may be decided in either order."""
    return "xbac" if found == "xabc" else found


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────

levels = st.lists(st.tuples(st.sampled_from([0.0, 3.0, 18.0, 40.0, 90.0]), st.integers(1, 9)), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(gui=levels, text=levels, forecasts=st.booleans(), blind=st.integers(0, 40))
def test_every_record_decides_again_and_no_promise_is_broken(
    gui: list[tuple[float, int]], text: list[tuple[float, int]], forecasts: bool, blind: int
) -> None:
    day = {
        "gui": [rate for rate, times in gui for _ in range(times)],
        "text": [rate for rate, times in text for _ in range(times)],
    }
    minutes = min(len(each) for each in day.values())
    course = two_pools(day=day, forecasts=forecasts)
    for minute in range(minutes):
        course.pools["llm/gui"].readable = minute != blind
        report = course.step()
        assert violations(report, mutating_requests=1) == ()
        assert report.failed == {}
        for each in report.records:
            decision, _ = decide_within(each.snapshot, each.state, each.policy, each.grant, now=each.at)
            assert decision == each.decision
