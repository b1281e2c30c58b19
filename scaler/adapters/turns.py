"""Who goes first: the tick, and work that can wait goes on between two ticks.

It decides only when the others wait, and never for how long a tick may take or what anybody does. The threads of one
process take turns in one interpreter: beside a forecast a tick of 2,000 workloads takes twice its own time. So work
that comes in portions asks before each of them. A tick that hangs starves nobody: it is given way to for a part of its
interval at most, and what is under way is never interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

GiveWay = Callable[[], None]
"""To be called before a portion of work that can wait. Returns at once while no tick is under way."""

LONGEST_S = 8.0
"""A tick that takes longer waits for a server (that is the deadline of its reads): others need not."""

SHARE = 0.5
"""Of a tick's interval that others may be kept waiting: the other half is theirs, however long ticks take."""

PAGE_WAITS_S = 3.0
"""So long a page that is asked for waits at most: who scrapes gives up after ten seconds."""


def at_once() -> None:
    """`GiveWay` where nothing else is under way, as in a round by hand or a test."""


class TickFirst:
    """Given way to while a tick is under way. Safe between threads; one tick at a time."""

    def __init__(self, interval: timedelta) -> None:
        """`interval` is the time between two ticks."""
        self.longest_s = min(LONGEST_S, SHARE * interval.total_seconds())
        self._changed = threading.Condition()
        self._released = False
        self._until_s: float | None = None
        """Monotonic seconds until which the tick under way is given way to; None between ticks."""

    def expect(self) -> None:
        """A tick is about to begin: nothing that can wait should come before it."""
        with self._changed:
            self._until_s = None if self._released else time.monotonic() + self.longest_s

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A tick, from its first read to its last write."""
        self.expect()
        try:
            yield
        finally:
            with self._changed:
                self._until_s = None
                self._changed.notify_all()

    def give_way(self, *, at_most_s: float = LONGEST_S) -> None:
        """Wait until no tick is under way, `at_most_s` and the tick's own limit at most."""
        ends_s = time.monotonic() + at_most_s
        with self._changed:
            while self._until_s is not None:
                left_s = min(ends_s, self._until_s) - time.monotonic()
                if left_s <= 0.0:
                    return
                self._changed.wait(left_s)

    def release(self) -> None:
        """Let nobody wait any more: the process ends, and what others hold should be brought to its end."""
        with self._changed:
            self._released, self._until_s = True, None
            self._changed.notify_all()

    def give_way_to_page(self) -> None:
        """The same for a page that somebody waits for."""
        self.give_way(at_most_s=PAGE_WAITS_S)
