"""Rows 38 and 39 of the table: calendars that jump, and clocks that do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from itertools import pairwise

import pytest

from fault_world import LOOK_BACK_MINUTES, USUAL_REPLICAS, FaultWorld, Life
from policy_cases import MINUTE
from scaler.adapters.jobs import Job, Schedule, next_run
from scaler.adapters.states import State
from scaler.policy.scheduled import DAYS, ScheduledRule, TimeWindow, bounds_at
from scaler.policy.types import Action

DAY = timedelta(days=1)
TICK_OFFSET = timedelta(seconds=8)


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The zone that the machine is set to; Lord Howe moves by half an hour, Kathmandu lies at +05:45."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "day",
    [
        pytest.param(datetime(2026, 3, 28, 12, tzinfo=UTC), id="spring in Berlin: an hour is missing"),
        pytest.param(datetime(2026, 10, 24, 12, tzinfo=UTC), id="autumn in Berlin: an hour comes twice"),
        pytest.param(datetime(2026, 3, 7, 12, tzinfo=UTC), id="spring in New York"),
        pytest.param(datetime(2026, 4, 4, 3, tzinfo=UTC), id="autumn on Lord Howe"),
        pytest.param(datetime(2028, 2, 28, 12, tzinfo=UTC), id="a leap day"),
        pytest.param(datetime(2027, 12, 31, 12, tzinfo=UTC), id="the turn of a year"),
    ],
)
def test_row_38_a_day_has_1440_ticks_whatever_local_clocks_do(zone: str, day: datetime) -> None:
    job = Job(name="tick", run=lambda: None, interval=MINUTE, lane="tick", offset=TICK_OFFSET)
    trigger = Schedule((job,), on_trouble=lambda _: None)._trigger(job, now=day)
    planned, fired, at = [], [], day
    while (at := next_run(job, now=at)) <= day + DAY:
        planned.append(at)
    last = None
    while (last := trigger.get_next_fire_time(last, last or day)) <= day + DAY:
        fired.append(last)
    assert len(planned) == 1440
    assert {later - earlier for earlier, later in pairwise(planned)} == {MINUTE}
    assert fired == planned, "the scheduler means the same moments"
    assert os.environ["TZ"] == zone


@pytest.mark.parametrize(
    ("where", "day", "minutes"),
    [
        pytest.param("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC), 4 * 60, id="spring: 1 to 6 o'clock is 4 h"),
        pytest.param("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC), 6 * 60, id="autumn: it is 6 h"),
        pytest.param("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC), 5 * 60 + 30, id="half an hour more"),
        pytest.param("Asia/Kathmandu", datetime(2026, 3, 29, tzinfo=UTC), 5 * 60, id="a zone that never moves"),
        pytest.param("UTC", datetime(2028, 2, 29, tzinfo=UTC), 5 * 60, id="a leap day"),
    ],
)
def test_row_38_a_window_follows_the_local_clock_and_is_never_missed_or_doubled(
    where: str, day: datetime, minutes: int
) -> None:
    weekday = DAYS[day.weekday()]
    window = TimeWindow(
        name="early", start=time_of_day(1), end=time_of_day(6), timezone=where, days=(weekday,), min_replicas=7
    )
    moments = [day - DAY + minute * MINUTE for minute in range(3 * 1440)]
    raised = [bounds_at(ScheduledRule(windows=(window,)), least=1, most=9, now=at) == (7, 9) for at in moments]
    assert sum(raised) == minutes
    assert sum(is_ and not was for was, is_ in pairwise(raised)) == 1, "it begins once"


# ── Row 39 ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.server
def test_row_39_after_a_suspend_one_tick_runs_and_nothing_is_released_before_a_look_back(
    world: FaultWorld, life: Life
) -> None:
    ticks = len(life.store.journal.ticks())
    world.proxy.ahead += timedelta(minutes=5)
    world.traffic("idle")
    life.minute()
    assert len(life.store.journal.ticks()) == ticks + 1, "the missed ones are not made up for"
    life.minutes_until(lambda: life.sees)
    assert (life.state, life.replicas) == (State.REWARM, USUAL_REPLICAS)
    assert {each.action for each in life.minutes(LOOK_BACK_MINUTES - 1)} == {Action.HOLD}
    life.minutes_until(life.releases)


@pytest.mark.server
def test_row_39_two_runs_that_belong_to_one_moment_are_one_tick(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that starts a blink before a tick is due: the first run and the regular one are due at the same time."""
    ticks, due = len(life.store.journal.ticks()), life.world.now + MINUTE
    monkeypatch.setattr("scaler.daemon.process.due_time", lambda _, *, now: due)
    life.daemon.tick()
    life.daemon.tick()
    assert len(life.store.journal.ticks()) == ticks + 1
    assert life.daemon.watchdog.ready


@pytest.mark.server
@pytest.mark.parametrize("jump", [timedelta(minutes=5), timedelta(minutes=-5)], ids=["forward", "back"])
def test_row_39_a_clock_that_is_set_blinds_until_it_is_right_and_then_warms_up(
    world: FaultWorld, life: Life, jump: timedelta
) -> None:
    """Only ours is wrong: the server's clock is what shows it."""
    world.proxy.ahead += jump
    world.proxy.skew -= jump
    world.traffic("idle")
    decisions = life.minutes(3)
    assert life.state is State.HOLD
    assert "clock_skew" in life.status.cause
    world.proxy.ahead -= jump
    world.proxy.skew += jump
    decisions += life.minutes(LOOK_BACK_MINUTES)
    assert {each.action for each in decisions} == {Action.HOLD}
    assert life.replicas == USUAL_REPLICAS
    assert not life.events("decision_failed")
    life.minutes_until(life.releases)
