"""Carrying a tick's changes out: in order, a few at a time, under one deadline, and obeying a server's "not now".

It decides when a write begins. It never decides what is written, never writes the same change twice, and never holds
a tick for longer than its limits: what has not begun by then is postponed, and decided anew at the next tick.

    a write hangs            its own time-out, ten seconds; beside it the others of its step go on
    a namespace is slow      its writes go last: one admission webhook that hangs costs its own namespace
    429 with Retry-After     everybody waits for so long, then the refused write goes first again
    the server hangs         20 s after the first write none begins any more, be there 2,000 of them
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from scaler.policy.types import Decision
from scaler.ports import Outcome, OutcomeKind

WORKERS = 4
"""Writes under way at a time: 2,000 of 30 ms each take 15 s, and a namespace that hangs holds four at most."""

BEGIN_WITHIN_S = 20.0
"""No write begins later than this after the first; reading before and Events after it fit a minute's tick as well."""

ANSWER_WITHIN_S = 15.0
"""A write without an outcome for so long is given up: a call is cut after 10 s, only its name look-up cannot be."""

SLOW_S = 2.0
"""A namespace with a write that takes longer is slow; a loaded API server answers one in 30 ms."""

_NEVER = threading.Event()
"""What a process without an end waits for."""


class ParallelWrites:
    """The loop's `Writes` for a real cluster. Remembers from one tick to the next which namespaces were slow."""

    def __init__(
        self,
        *,
        begin_within_s: float = BEGIN_WITHIN_S,
        answer_within_s: float = ANSWER_WITHIN_S,
        wait: Callable[[float], bool] = _NEVER.wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wait` sleeps for seconds and answers True, at once, when the process is to stop."""
        self._begin_within_s = begin_within_s
        self._answer_within_s = answer_within_s
        self._wait = wait
        self._clock = clock
        self._slow: frozenset[str] = frozenset()

    def carry_out(
        self, steps: Sequence[Sequence[Decision]], scale: Callable[[Decision], Outcome]
    ) -> Mapping[str, Outcome]:
        """An outcome for every decision; the steps one after another, slow namespaces at the end."""
        phase = _Phase(scale, wait=self._wait, clock=self._clock, answer_within_s=self._answer_within_s)
        phase.begin_until(self._clock() + self._begin_within_s)
        for step in steps:
            phase.run(each for each in step if _namespace(each) not in self._slow)
        for step in steps:
            phase.run((each for each in step if _namespace(each) in self._slow), put_off=False)
        phase.run(phase.put_off, put_off=False)
        self._slow = frozenset(phase.slow)
        return dict(phase.outcomes)


class _Phase:
    """The writes of one tick. What is shared is changed under `_changed` alone."""

    def __init__(
        self,
        scale: Callable[[Decision], Outcome],
        *,
        wait: Callable[[float], bool],
        clock: Callable[[], float],
        answer_within_s: float,
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.put_off: list[Decision] = []
        self.slow: set[str] = set()
        self._scale = scale
        self._wait = wait
        self._clock = clock
        self._answer_within_s = answer_within_s
        self._changed = threading.Condition()
        self._queue: deque[Decision] = deque()
        self._may_put_off = False
        self._begun: dict[str, float] = {}
        self._workers = 0
        self._ends_at = 0.0
        self._quiet_until = 0.0
        self._over = ""

    def begin_until(self, moment: float) -> None:
        """No write begins after `moment` of the clock."""
        self._ends_at = moment

    def run(self, decisions: Iterable[Decision], *, put_off: bool = True) -> None:
        """One step: returns when each of them has an outcome, or with `put_off` may be put off for a slow namespace."""
        with self._changed:
            self._queue, self._may_put_off = deque(decisions), put_off
            for _ in range(min(WORKERS, len(self._queue))):
                self._workers += 1
                threading.Thread(target=self._work, name="write", daemon=True).start()
            while self._workers:
                self._changed.wait(timeout=self._patience_s())
                self._give_up()
            for each in self._queue:
                self.outcomes[each.workload] = _postponed("no connection is free")
            self._queue.clear()

    def _patience_s(self) -> float | None:
        if not self._begun:
            return None
        return max(0.0, min(self._begun.values()) + self._answer_within_s - self._clock())

    def _give_up(self) -> None:
        """Writes that have been silent for too long count as failed; their threads end when they end."""
        for name, begun in list(self._begun.items()):
            if self._clock() - begun >= self._answer_within_s:
                del self._begun[name]
                self._workers -= 1
                self.slow.add(name.partition("/")[0])
                detail = f"no answer within {self._answer_within_s:g} s; it may have been written"
                self.outcomes[name] = Outcome(kind=OutcomeKind.FAILED, detail=detail)

    def _work(self) -> None:
        """One worker: takes the next decision until there is none, or it was given up."""
        while (decision := self._next()) is not None:
            outcome = self._scale(decision)
            if not self._finished(decision, outcome):
                return

    def _next(self) -> Decision | None:
        while True:
            pause_s = 0.0 if self._over else self._quiet_until - self._clock()
            stopping = pause_s > 0 and self._wait(pause_s)
            with self._changed:
                if stopping:
                    self._over = "the daemon is stopping"
                if self._queue and not self._over and self._clock() > self._ends_at:
                    self._over = "the time for this tick's writes is over"
                if self._over:
                    self.outcomes.update((each.workload, _postponed(self._over)) for each in self._queue)
                    self._queue.clear()
                if not self._queue:
                    self._workers -= 1
                    self._changed.notify_all()
                    return None
                if self._quiet_until > self._clock():  # refused in the meantime
                    continue
                decision = self._queue.popleft()
                if self._may_put_off and _namespace(decision) in self.slow:
                    self.put_off.append(decision)
                    continue
                self._begun[decision.workload] = self._clock()
                self._changed.notify_all()
                return decision

    def _finished(self, decision: Decision, outcome: Outcome) -> bool:
        """Note an outcome; False where it had been given up, and the step may be over."""
        with self._changed:
            begun = self._begun.pop(decision.workload, None)
            if begun is None:
                return False
            if self._clock() - begun > SLOW_S:
                self.slow.add(_namespace(decision))
            if outcome.retry_after_s is None:
                self.outcomes[decision.workload] = outcome
            else:
                self._throttled(decision, outcome)
            self._changed.notify_all()
            return True

    def _throttled(self, decision: Decision, outcome: Outcome) -> None:
        """Everybody waits, and the refused write is the next; unless the wait is longer than there is time."""
        self._quiet_until = max(self._quiet_until, self._clock() + (outcome.retry_after_s or 0.0))
        if self._quiet_until > self._ends_at:
            self.outcomes[decision.workload] = outcome
            self._over = outcome.detail
        else:
            self._queue.appendleft(decision)


def _namespace(decision: Decision) -> str:
    return decision.workload.partition("/")[0]


def _postponed(why: str) -> Outcome:
    return Outcome(kind=OutcomeKind.POSTPONED, detail=f"not sent: {why}; decided anew at the next tick")
