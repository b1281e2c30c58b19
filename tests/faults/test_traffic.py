"""Rows 30 and 31 of the table: traffic that nobody forecast, and a forecast that no traffic follows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from forecaster.types import Known
from policy_cases import GOOD, MINUTE, a_forecast, a_policy
from scaler.loop import Fleet, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.types import Action, DemandForecast, Reason
from virtual_world import Course, VirtualWorkload, VirtualWorld

CALM_RPS = 28.0
"""Four replicas of 10 rps at 70 %."""


def settled(course: Course) -> Course:
    course.minutes(12)
    assert course.workload.scale == 4
    return course


def a_course(**policy: object) -> Course:
    workload = VirtualWorkload(scale=4, ready=4, demand=Known(value=CALM_RPS))
    return settled(Course(policy=a_policy(**policy), workload=workload))  # type: ignore[arg-type]


def test_row_30_ten_times_the_load_is_answered_at_the_next_tick_up_to_the_step() -> None:
    course = a_course()
    course.workload.demand = Known(value=10 * CALM_RPS)
    first, *others = course.minutes(6)
    assert (first.action, first.target, first.reason) == (Action.OUT, 8, Reason.LOAD)
    scales = [first.target, *(each.target for each in others)]
    # Doubled each minute until ceil(280 / 7) = 40 are there.
    assert scales == [8, 16, 32, 40, 40, 40]


def test_row_30_and_up_to_the_budget() -> None:
    policy, workload = a_policy(), VirtualWorkload(scale=4, ready=4, demand=Known(value=10 * CALM_RPS))
    world = VirtualWorld(workloads={policy.workload: workload})
    fleet = Fleet(workloads=(policy,), budget=BudgetRule(gpus=6))
    report = tick(fleet, {}, world.ports(), now=Course(policy=policy, workload=workload).now)
    (record,) = report.records
    assert (workload.scale, record.decision.adjustments[-1].reason) == (6, Reason.GPU_BUDGET)


@pytest.mark.parametrize("held_minutes", [10, 30])
def test_row_31_a_predicted_peak_that_does_not_come_is_given_back(held_minutes: int) -> None:
    """A forecast promises 120 rps for a while; nothing comes. Once it promises no more, the replicas go."""
    course = a_course()
    for _ in range(held_minutes):
        peak = a_forecast(120.0, issued_at=course.now)
        course.workload.forecasts = (DemandForecast(forecast=peak, quality=GOOD),)
        course.minute()
    ordered = course.workload.scale
    assert ordered >= 12
    assert max(course.orders) == ordered, "no more than the forecast asked for"
    given_back_at = None
    for minute in range(60):
        quiet = a_forecast(CALM_RPS, issued_at=course.now)
        course.workload.forecasts = (DemandForecast(forecast=quiet, quality=GOOD),)
        course.minute()
        if course.workload.scale <= 4:
            given_back_at = minute
            break
    # Five calm minutes, then halves ten minutes apart: 12 → 6 → 4 after 5 + 10 minutes, one more step for 24.
    assert given_back_at is not None
    assert given_back_at * MINUTE <= timedelta(minutes=5 + 2 * 10 + 2)


def test_row_31_a_forecast_that_only_promises_costs_no_more_than_its_own_wish() -> None:
    course = a_course(most=20)
    for _ in range(30):
        absurd = a_forecast(100_000.0, issued_at=course.now)
        course.workload.forecasts = (DemandForecast(forecast=absurd, quality=GOOD),)
        course.minute()
    assert max(course.orders) == 20, "the bounds are the bound of its cost"
