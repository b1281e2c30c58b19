"""Whose turn it is to have read what is only shown: never the whole of a large fleet at once, everyone in five minutes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from forecaster.sources.reported import AGAIN_AFTER, AT_ONCE, EVERY, Reported
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Known, SeriesKey

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TICK = timedelta(seconds=15)


def fleet(count: int) -> list[WorkloadSelector]:
    return [WorkloadSelector(workload=f"llm/w{number:05d}") for number in range(count)]


def turn(
    reported: Reported, selectors: list[WorkloadSelector], now: datetime, *, failed: bool = False
) -> list[WorkloadSelector]:
    due = reported.due(selectors, now=now)
    reported.brought_up(selectors, due, {}, {}, failed=failed, now=now)
    return list(due)


def test_a_small_fleet_has_its_turn_at_once_and_again_in_five_minutes() -> None:
    reported, selectors = Reported(), fleet(AT_ONCE)
    assert turn(reported, selectors, NOON) == selectors
    assert turn(reported, selectors, NOON + EVERY - TICK) == []
    assert turn(reported, selectors, NOON + EVERY) == selectors


def test_a_large_fleet_takes_turns_and_nobody_waits_longer_than_five_minutes() -> None:
    reported, selectors = Reported(), fleet(2000)
    read_at: dict[str, list[datetime]] = {selector.workload: [] for selector in selectors}
    for tick in range(60):
        now = NOON + tick * TICK
        taken = turn(reported, selectors, now)
        assert len(taken) <= 200
        for selector in taken:
            read_at[selector.workload].append(now)
    for moments in read_at.values():
        assert moments[0] < NOON + EVERY
        assert all(b - a <= EVERY + TICK for a, b in itertools.pairwise(moments))


def test_after_a_failed_query_nobody_is_asked_again_for_a_minute() -> None:
    """A query that does not fit the server's time would else be its load at every tick."""
    reported, selectors = Reported(), fleet(3)
    assert turn(reported, selectors, NOON, failed=True) == selectors
    assert turn(reported, selectors, NOON + AGAIN_AFTER - TICK) == []
    assert turn(reported, selectors, NOON + AGAIN_AFTER) == selectors


def test_a_clock_that_is_put_back_does_not_stop_the_turns() -> None:
    reported, selectors = Reported(), fleet(3)
    turn(reported, selectors, NOON)
    assert turn(reported, selectors, NOON - timedelta(hours=1)) == selectors


def test_what_was_read_is_shown_with_its_age_until_it_is_read_again() -> None:
    reported, (only,) = Reported(), fleet(1)
    key = SeriesKey(workload=only.workload, signal="gpu_power_watts")
    reported.brought_up([only], [only], {key: Known(value=300.0, age_s=5.0)}, {}, failed=False, now=NOON)
    shown = reported.brought_up([only], [], {}, {}, failed=False, now=NOON + timedelta(seconds=45))
    assert shown[key] == Known(value=300.0, age_s=50.0)
