"""A tick's changes on their way out: their order, and what one that hangs, is refused or comes too late does to the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from policy_cases import NOON
from scaler.adapters.writes import BEGIN_WITHIN_S, SLOW_S, WORKERS, ParallelWrites
from scaler.policy.types import Decision, Reason
from scaler.ports import Outcome, OutcomeKind

SCALED = Outcome(kind=OutcomeKind.SCALED)
LONG_S = 60.0
"""For waits that end by themselves unless something is broken."""


def decisions(*workloads: str) -> list[Decision]:
    return [Decision(workload=name, at=NOON, current=1, target=2, reason=Reason.LOAD) for name in workloads]


@dataclass
class Server:
    """What is written to: answers by workload, and a clock that only its answers and waits move."""

    answer: Callable[[str], Outcome] = lambda _: SCALED
    stopping: bool = False
    now_s: float = 0.0
    log: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def scale(self, decision: Decision) -> Outcome:
        with self.lock:
            self.log.append(decision.workload)
        return self.answer(decision.workload)

    def wait(self, seconds: float) -> bool:
        with self.lock:
            self.waits.append(seconds)
            self.now_s += seconds
        return self.stopping

    def takes(self, seconds: float) -> Outcome:
        with self.lock:
            self.now_s += seconds
        return SCALED

    def writes(self, **limits: float) -> ParallelWrites:
        return ParallelWrites(wait=self.wait, clock=lambda: self.now_s, **limits)  # type: ignore[arg-type]


def kinds(outcomes: object) -> dict[str, OutcomeKind]:
    return {name: each.kind for name, each in outcomes.items()}  # type: ignore[attr-defined]


def test_a_step_is_over_before_the_next_begins() -> None:
    server = Server()
    steps: Sequence[Sequence[Decision]] = [decisions(*(f"n/{step}{i}" for i in range(9))) for step in "abc"]
    outcomes = server.writes().carry_out(steps, server.scale)
    assert "".join(name[2] for name in server.log) == "a" * 9 + "b" * 9 + "c" * 9
    assert kinds(outcomes) == {each.workload: OutcomeKind.SCALED for step in steps for each in step}


def test_nothing_to_write() -> None:
    server = Server()
    assert server.writes().carry_out([], server.scale) == {}


def test_beside_a_write_that_hangs_the_others_of_its_step_go_on() -> None:
    others_done, names = threading.Event(), [f"b/{i}" for i in range(20)]

    def answer(name: str) -> Outcome:
        if name == "a/hangs":
            return SCALED if others_done.wait(LONG_S) else Outcome(kind=OutcomeKind.FAILED, detail="the others waited")
        if {*names} <= {*server.log}:
            others_done.set()
        return SCALED

    server = Server(answer=answer)
    outcomes = server.writes().carry_out([decisions("a/hangs", *names)], server.scale)
    assert set(kinds(outcomes).values()) == {OutcomeKind.SCALED}


def test_a_write_that_never_answers_is_given_up_and_the_next_step_begins() -> None:
    for_ever = threading.Event()

    def answer(name: str) -> Outcome:
        if name == "a/x":
            for_ever.wait(LONG_S)
        return SCALED

    server = Server(answer=answer)
    writes = ParallelWrites(answer_within_s=0.05, begin_within_s=LONG_S)
    outcomes = writes.carry_out([decisions("a/x"), decisions("b/y")], server.scale)
    for_ever.set()
    assert outcomes["a/x"] == Outcome(
        kind=OutcomeKind.FAILED, detail="no answer within 0.05 s; it may have been written"
    )
    assert outcomes["b/y"].kind is not OutcomeKind.POSTPONED


def test_a_server_that_hangs_bounds_the_tick_be_there_2000_writes() -> None:
    """Ten seconds each: the first step is cut at 20 s, and what is left is told, not sent."""
    server = Server()
    server.answer = lambda name: (server.takes(10.0), Outcome(kind=OutcomeKind.FAILED, detail="no answer"))[1]
    names = [f"n{i}/x" for i in range(2_000)]
    outcomes = server.writes().carry_out([decisions(*names)], server.scale)
    assert len(outcomes) == 2_000
    assert len(server.log) <= BEGIN_WITHIN_S / 10.0 + WORKERS
    postponed = [each for each in outcomes.values() if each.kind is OutcomeKind.POSTPONED]
    assert len(postponed) == 2_000 - len(server.log)
    assert postponed[0].detail == "not sent: the time for this tick's writes is over; decided anew at the next tick"


def test_a_slow_namespace_goes_last_in_this_tick_and_in_the_next() -> None:
    server = Server()
    server.answer = lambda name: server.takes(SLOW_S * 1.5 if name == "a/0" else 0.0)
    writes = server.writes()
    steps = [decisions("a/0"), decisions("a/1", "b/1"), decisions("b/2")]
    assert set(kinds(writes.carry_out(steps, server.scale)).values()) == {OutcomeKind.SCALED}
    assert server.log == ["a/0", "b/1", "b/2", "a/1"]
    server.log.clear()
    server.answer = lambda name: SCALED
    writes.carry_out([decisions("a/0"), decisions("b/1")], server.scale)
    assert server.log == ["b/1", "a/0"], "it was slow a tick ago"
    server.log.clear()
    writes.carry_out([decisions("a/0"), decisions("b/1")], server.scale)
    assert server.log == ["a/0", "b/1"], "it was not slow any more"


def throttled(retry_after_s: float) -> Outcome:
    return Outcome(kind=OutcomeKind.POSTPONED, detail="429 too many requests", retry_after_s=retry_after_s)


def test_a_429_is_waited_out_by_everybody_and_the_refused_write_goes_first() -> None:
    answers = iter([throttled(5.0)])
    server = Server(answer=lambda name: next(answers, SCALED))
    outcomes = server.writes().carry_out([decisions("a/out"), decisions("b/in")], server.scale)
    assert server.log == ["a/out", "a/out", "b/in"]
    assert server.waits == [5.0]
    assert set(kinds(outcomes).values()) == {OutcomeKind.SCALED}


def test_a_429_that_asks_for_more_time_than_there_is_ends_the_tick() -> None:
    server = Server(answer=lambda name: throttled(BEGIN_WITHIN_S + 1.0))
    outcomes = server.writes().carry_out([decisions("a/out"), decisions("b/in")], server.scale)
    assert (server.log, server.waits) == (["a/out"], [])
    assert kinds(outcomes) == {"a/out": OutcomeKind.POSTPONED, "b/in": OutcomeKind.POSTPONED}
    assert outcomes["b/in"].detail == "not sent: 429 too many requests; decided anew at the next tick"


def test_a_daemon_that_stops_does_not_wait_out_a_429() -> None:
    server = Server(answer=lambda name: throttled(5.0), stopping=True)
    outcomes = server.writes().carry_out([decisions("a/out"), decisions("b/in")], server.scale)
    assert server.log == ["a/out"]
    assert outcomes["b/in"].detail == "not sent: the daemon is stopping; decided anew at the next tick"


@pytest.mark.parametrize("steps", [1, 3])
def test_every_decision_has_exactly_one_outcome(steps: int) -> None:
    server = Server()
    server.answer = lambda name: server.takes(SLOW_S * 2 if name.endswith("7") else 0.1)
    planned = [decisions(*(f"n{i % 5}/{step}-{i}" for i in range(40))) for step in range(steps)]
    outcomes = server.writes().carry_out(planned, server.scale)
    assert {*outcomes} == {each.workload for step in planned for each in step}
    assert len(server.log) == len({*server.log})
