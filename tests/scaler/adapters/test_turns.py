"""Work that can wait lets a tick go first, and is starved by none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from scaler.adapters.turns import LONGEST_S, TickFirst

PATIENCE_S = 60.0
"""For what must happen sooner or later: a busy machine may take its time."""


class Portion:
    """Work in a thread of its own that gives way before it begins."""

    def __init__(self, give_way: Callable[[], None]) -> None:
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(give_way,), daemon=True)
        self._thread.start()

    def _run(self, give_way: Callable[[], None]) -> None:
        give_way()
        self.done.set()


def a_patient(turns: TickFirst) -> TickFirst:
    """One whose tick is given way to for as long as the test takes."""
    turns.longest_s = 10.0 * PATIENCE_S
    return turns


def test_between_ticks_nothing_waits() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    turns.give_way(at_most_s=10.0 * PATIENCE_S)
    with turns.under_way():
        pass
    turns.give_way(at_most_s=10.0 * PATIENCE_S)


def test_a_portion_goes_on_when_the_tick_is_over_and_not_before() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    with turns.under_way():
        portion = Portion(lambda: turns.give_way(at_most_s=10.0 * PATIENCE_S))
        assert not portion.done.wait(0.2)
    assert portion.done.wait(PATIENCE_S)


def test_a_tick_that_raises_is_over() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    with pytest.raises(OSError), turns.under_way():
        raise OSError("a defect")
    turns.give_way(at_most_s=10.0 * PATIENCE_S)


def test_the_first_tick_is_waited_for_before_it_begins() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    turns.expect()
    portion = Portion(lambda: turns.give_way(at_most_s=10.0 * PATIENCE_S))
    assert not portion.done.wait(0.2)
    with turns.under_way():
        pass
    assert portion.done.wait(PATIENCE_S)


def test_a_tick_that_hangs_is_given_way_to_once_and_not_before_each_portion() -> None:
    turns = TickFirst(timedelta(seconds=0.2))
    with turns.under_way():
        portions = [Portion(turns.give_way) for _ in range(3)]
        assert all(portion.done.wait(PATIENCE_S) for portion in portions)
        turns.longest_s = 10.0 * PATIENCE_S  # the next tick's: this one's time is up
        turns.give_way(at_most_s=10.0 * PATIENCE_S)


def test_who_ends_the_process_waits_for_nobody() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    with turns.under_way():
        portion = Portion(lambda: turns.give_way(at_most_s=10.0 * PATIENCE_S))
        turns.release()
        assert portion.done.wait(PATIENCE_S)
    turns.expect()
    turns.give_way(at_most_s=10.0 * PATIENCE_S)


def test_a_page_waits_for_less_than_a_tick() -> None:
    turns = a_patient(TickFirst(timedelta(minutes=1)))
    with turns.under_way():
        turns.give_way(at_most_s=0.05)


@pytest.mark.parametrize(
    ("interval_s", "longest_s"),
    [
        pytest.param(60.0, LONGEST_S, id="a usual tick: as long as its reads may take"),
        pytest.param(15.0, 7.5, id="a short one: half of the time belongs to the others"),
        pytest.param(5.0, 2.5, id="the shortest"),
    ],
)
def test_half_of_the_time_is_the_others(interval_s: float, longest_s: float) -> None:
    assert TickFirst(timedelta(seconds=interval_s)).longest_s == longest_s
