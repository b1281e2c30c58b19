"""Jobs run on whole intervals in UTC, and one that hangs delays its own lane alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import EPOCH
from policy_cases import MINUTE, NOON, a_policy, a_snapshot
from scaler.adapters.jobs import Job, Schedule, Trouble, due_time, next_run
from scaler.policy.decide import decide
from scaler.policy.types import PolicyState

SECOND = timedelta(seconds=1)
PATIENCE_S = 60.0
"""A loaded machine is slow, not wrong."""


def a_job(run=lambda: None, **changes):  # type: ignore[no-untyped-def]
    return Job(**{"name": "tick", "run": run, "interval": timedelta(minutes=1), "lane": "tick", **changes})


@pytest.mark.parametrize(
    ("interval", "offset", "now", "expected"),
    [
        pytest.param(timedelta(minutes=1), 8 * SECOND, NOON, NOON + 8 * SECOND, id="this minute's is still to come"),
        pytest.param(timedelta(minutes=1), 8 * SECOND, NOON + 8 * SECOND, NOON + 68 * SECOND, id="this one is now"),
        pytest.param(5 * SECOND, timedelta(0), NOON + 3 * SECOND, NOON + 5 * SECOND, id="every five seconds"),
        pytest.param(
            timedelta(days=1),
            timedelta(hours=3, minutes=10),
            NOON,
            NOON + timedelta(hours=15, minutes=10),
            id="3:10 UTC",
        ),
    ],
)
def test_next_run(interval: timedelta, offset: timedelta, now: datetime, expected: datetime) -> None:
    assert next_run(a_job(interval=interval, offset=offset), now=now) == expected


@given(
    interval=st.timedeltas(SECOND, timedelta(days=1)),
    share=st.floats(0, 0.999),
    since=st.timedeltas(timedelta(0), timedelta(days=40_000)),
)
def test_the_next_run_is_within_one_interval(interval: timedelta, share: float, since: timedelta) -> None:
    now = EPOCH + since
    ahead = next_run(a_job(interval=interval, offset=share * interval), now=now) - now
    assert timedelta(0) < ahead <= interval


@pytest.mark.parametrize(
    ("interval", "late", "belongs"),
    [
        pytest.param(MINUTE, timedelta(0), True, id="on time"),
        pytest.param(MINUTE, timedelta(milliseconds=7), True, id="a thread wakes late"),
        pytest.param(MINUTE, timedelta(seconds=4), True, id="a busy machine"),
        pytest.param(MINUTE, timedelta(seconds=30), False, id="the run at the start is no regular one"),
        pytest.param(SECOND, timedelta(milliseconds=400), True, id="every second, within half of it"),
        pytest.param(SECOND, timedelta(milliseconds=600), False, id="every second, rather early for the next"),
    ],
)
def test_a_run_belongs_to_the_time_it_was_due_at(interval: timedelta, late: timedelta, belongs: bool) -> None:
    due = NOON + 8 * SECOND
    assert due_time(a_job(interval=interval, offset=8 * SECOND), now=due + late) == (due if belongs else due + late)


def test_a_surge_is_met_a_step_a_minute_however_threads_wake() -> None:
    """Without due times every second step is lost to ticks that are 59.9993 s apart: 5, 5, 10, 10, 20."""
    job, scale, course, state = a_job(offset=8 * SECOND), 1, [], PolicyState()
    for minute in range(5):
        woken = NOON + minute * MINUTE + 8 * SECOND + timedelta(milliseconds=7 * (5 - minute))
        snapshot = a_snapshot(rps=400.0, desired=scale)
        decision, state = decide(snapshot, state, a_policy(), now=due_time(job, now=woken))
        scale = decision.target or 0
        course.append(scale)
    assert course == [5, 10, 20, 40, 58]


def test_a_hung_forecast_does_not_delay_the_tick_and_is_reported() -> None:
    release, ticked, troubles = threading.Event(), threading.Semaphore(0), list[Trouble]()
    late = threading.Event()

    def on_trouble(trouble: Trouble) -> None:
        if trouble.what != "missed":  # that is a busy machine's
            troubles.append(trouble)
            late.set()

    schedule = Schedule(
        (
            a_job(name="forecast", run=release.wait, interval=SECOND, lane="forecast", at_start=False),
            a_job(run=ticked.release, interval=SECOND),
        ),
        on_trouble=on_trouble,
    )
    schedule.start(now=datetime.now(UTC))
    try:
        assert late.wait(PATIENCE_S), "a forecast was due while the last one still ran"
        assert all(ticked.acquire(timeout=PATIENCE_S) for _ in range(2))
        assert {(trouble.job, trouble.what) for trouble in troubles} == {("forecast", "still running")}
    finally:
        release.set()
        schedule.stop()


def test_a_job_that_raises_is_told_and_runs_again() -> None:
    told, runs = threading.Event(), threading.Semaphore(0)
    troubles: list[Trouble] = []

    def run() -> None:
        runs.release()
        raise ValueError("a defect")

    def on_trouble(trouble: Trouble) -> None:
        if trouble.what != "missed":  # that is a busy machine's
            troubles.append(trouble)
            told.set()

    schedule = Schedule((a_job(run=run, interval=SECOND, at_start=True),), on_trouble=on_trouble)
    schedule.start(now=datetime.now(UTC))
    try:
        assert told.wait(PATIENCE_S)
        assert all(runs.acquire(timeout=PATIENCE_S) for _ in range(2))
        assert (troubles[0].job, troubles[0].what, str(troubles[0].error)) == ("tick", "failed", "a defect")
    finally:
        schedule.stop()


def test_after_the_clock_was_set_back_jobs_go_on_at_once() -> None:
    """Planned an hour ahead, as they are when the clock is set back by an hour; realigned, they run within a second."""
    ran = threading.Event()
    schedule = Schedule((a_job(run=ran.set, interval=SECOND),), on_trouble=lambda _: None)
    schedule.start(now=datetime.now(UTC) + timedelta(hours=1))
    try:
        assert not ran.wait(1.2)
        schedule.realign(now=datetime.now(UTC))
        assert ran.wait(PATIENCE_S)
    finally:
        schedule.stop()


def test_a_job_moves_to_another_time_while_it_is_planned() -> None:
    """Due in 40 s, and moved to a moment from now."""
    ran = threading.Event()
    now = datetime.now(UTC)
    into = (now - EPOCH) % timedelta(minutes=1)
    job = replace(a_job(run=ran.set, interval=timedelta(minutes=1)), offset=into + timedelta(seconds=40))
    schedule = Schedule((job,), on_trouble=lambda _: None)
    schedule.start(now=now)
    try:
        schedule.move(job.name, into + timedelta(seconds=1), now=now)
        assert ran.wait(30)
    finally:
        schedule.stop()
