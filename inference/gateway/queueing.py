"""Who waits for a free slot, in which order, and for how long: VIP first, then first come, first served.

A bounded line with deadlines, in one object that knows no clock and no event loop: the shell tells it the time and
wakes whom it names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from inference.gateway.admission import Priority
from inference.gateway.bounds import check_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRule:
    """How long the line may be."""

    max_waiting: int = 256
    """Requests that wait for one model in this copy of the gateway; 0 turns waiting off."""
    deadline_s: float = 30.0
    """How long one may wait; a client's `x-headstart-deadline-s` may only shorten it."""
    asleep_retry_after_s: float = 15.0
    """`Retry-After` of a model that has no replica now."""

    def __post_init__(self) -> None:
        check_bounds(self, max_waiting=(0, 1_000_000), deadline_s=(0.01, 3600), asleep_retry_after_s=(1, 3600))


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket:
    """One request in the line."""

    priority: Priority
    since_s: float
    until_s: float
    wake: Callable[[], None]
    """Called by the shell when it is this one's turn or when it must leave."""
    evicted: bool = False
    """A VIP request needed its place."""


@dataclass(slots=True, kw_only=True)
class Line:
    """The line of one model."""

    rule: QueueRule
    _vip: deque[Ticket] = field(default_factory=deque)
    _normal: deque[Ticket] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._vip) + len(self._normal)

    def __iter__(self) -> Iterator[Ticket]:
        """Whose turn it is, first to last."""
        yield from self._vip
        yield from self._normal

    def join(self, ticket: Ticket) -> bool:
        """Whether there was room. A VIP request takes the place of the normal one that came last, which is `evicted`
        and woken."""
        if len(self) >= self.rule.max_waiting:
            if ticket.priority is not Priority.VIP or not self._normal:
                return False
            last = self._normal.pop()
            last.evicted = True
            last.wake()
        (self._vip if ticket.priority is Priority.VIP else self._normal).append(ticket)
        return True

    def leave(self, ticket: Ticket) -> None:
        """It got its slot, gave up, or its time is over; leaving twice is no error."""
        for line in (self._vip, self._normal):
            if ticket in line:
                line.remove(ticket)

    def first_is_ahead_of(self, priority: Priority) -> bool:
        """Whether somebody waits who would be passed by a newcomer of that priority that didn't join."""
        return bool(self._vip) or (priority is not Priority.VIP and bool(self._normal))


def retry_after_s(*, waiting: int, slots: int, mean_service_s: float) -> float:
    """When the line will have moved past those who wait now: `waiting` requests over `slots` slots.

    40 waiting, 20 slots, 2 s each: 4 s. At least one second, at most a minute: nobody knows the load in an hour.
    """
    rounds = waiting / max(1, slots)
    return min(60.0, max(1.0, rounds * mean_service_s))
