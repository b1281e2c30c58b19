"""Alive means that ticks finish: not that a port answers, and not that a thread exists."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from scaler.adapters.watchdog import Health, ProgressWatchdog


class Clock:
    """Monotonic seconds that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("tick_s", "quiet_s", "alive"),
    [
        pytest.param(60, 180, True, id="three intervals are allowed"),
        pytest.param(60, 181, False, id="more are not"),
        pytest.param(5, 29, True, id="a short tick may still use its deadlines of 8 s"),
        pytest.param(5, 31, False, id="but not for ever"),
    ],
)
def test_health(clock: Clock, tick_s: int, quiet_s: float, alive: bool) -> None:
    watchdog = ProgressWatchdog(timedelta(seconds=tick_s), on_stall=lambda _: None, monotonic_s=clock)
    watchdog.progressed()
    clock.seconds += quiet_s
    assert watchdog.health().alive is alive


def test_a_first_tick_that_never_finishes_is_a_stall_too(clock: Clock) -> None:
    watchdog = ProgressWatchdog(timedelta(minutes=1), on_stall=lambda _: None, monotonic_s=clock)
    assert (watchdog.health().alive, watchdog.ready) == (True, False)
    clock.seconds += 181
    assert "the first tick has not finished for 181 s" in watchdog.health().reason


def test_a_stall_is_told_once_with_all_stacks_and_again_after_a_recovery(clock: Clock, tmp_path: Path) -> None:
    told: list[Health] = []
    with (tmp_path / "stacks").open("w+") as stacks:
        watchdog = ProgressWatchdog(timedelta(minutes=1), on_stall=told.append, monotonic_s=clock, stacks=stacks)
        for _ in range(3):
            clock.seconds += 181
            watchdog.check()
        assert len(told) == 1
        watchdog.progressed()
        assert watchdog.health().alive
        clock.seconds += 181
        watchdog.check()
        assert len(told) == 2
        stacks.seek(0)
        assert "test_a_stall_is_told_once" in stacks.read()
