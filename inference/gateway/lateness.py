"""Which share of the last seconds' answers came later than promised. It counts; what follows is a rule's business."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

SECONDS = 10
"""The window: long enough for a share of a few percent, short enough that a recovery shows."""


@dataclass(slots=True, kw_only=True)
class Lateness:
    """Counts of one model's answers, by second."""

    _seconds: deque[list[int]] = field(default_factory=deque)
    """[second, answers, late ones], oldest first."""

    def add(self, *, late: bool, now_s: float) -> None:
        """One answer."""
        second = int(now_s)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][1] += 1
        self._seconds[-1][2] += late
        self._forget(second)

    def share(self, *, now_s: float, at_least: int) -> float | None:
        """Late ones over all of the window; None where fewer than `at_least` came."""
        self._forget(int(now_s))
        answers = sum(each[1] for each in self._seconds)
        return sum(each[2] for each in self._seconds) / answers if answers >= at_least else None

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - SECONDS:
            self._seconds.popleft()
