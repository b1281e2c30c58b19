"""Many plays of one trace, spread over the machine's cores where that pays. The answers do not depend on how.

Worker processes are started afresh (no forked locks), get what all tasks share once, and answer with plain data.
Nothing is written. Whatever ends the sweep early, an interrupt included, ends its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scaler.simulate.trace import PRODUCT, REACTIVE, TraceRun, simulate

if TYPE_CHECKING:
    from forecaster.trace import Trace
    from forecaster.types import Forecaster
    from scaler.simulate.scoring import Course
    from scaler.simulate.trace import Progress, Setting

Shared = TypeVar("Shared")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Tell = Callable[[float], None]
"""Told how far one task is, 0 to 1."""

RIVAL_BINS_PER_S = 20_000.0
"""How many bins a rival is played in a second, roughly …"""
PRODUCT_BINS_PER_S = 200.0
"""… and the product, forecasts included."""
PAYS_FROM_S = 10.0
"""A worker is there after two seconds of imports: below ten of work, one process is as fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[Shared, Asked, Answer]):
    """Tasks that know nothing of each other, and how one is done."""

    play: Callable[[Shared, Asked, Tell], Answer]
    """A function of a module, so that another process finds it by its name."""
    shared: Shared
    """What all tasks have in common, sent to each worker once."""
    tasks: Sequence[Asked]
    seconds: Sequence[float]
    """About how long each takes; decides whether more processes pay, their order, and what progress is worth."""
    said: Sequence[str]
    """What to tell while each is done."""


def spread(
    work: Work[Shared, Asked, Answer], *, progress: Progress | None = None, processes: int | None = None
) -> tuple[Answer, ...]:
    """Each task's answer, in the order given. In one process where `processes` is 1, or None and the work is short.

    Raises what `play` raises, and `concurrent.futures.process.BrokenProcessPool` if a worker was killed.
    """
    tell = _Told(work.seconds, progress)
    if processes is None:
        processes = _cores() if sum(work.seconds) > PAYS_FROM_S else 1
    if min(processes, len(work.tasks)) <= 1:
        return tuple(_alone(work, index, tell) for index in range(len(work.tasks)))
    return _spread(work, tell, processes=min(processes, len(work.tasks)))


class _Told:
    """Progress over tasks of unequal length."""

    def __init__(self, weights: Sequence[float], progress: Progress | None) -> None:
        self._weights, self._progress = weights, progress
        self._whole = sum(weights) or 1.0
        self._done = 0.0

    def part(self, index: int, share: float, what: str) -> None:
        """`share` of task `index` is done, all before are."""
        if self._progress is not None:
            self._progress((self._done + share * self._weights[index]) / self._whole, what)

    def finished(self, index: int, what: str) -> None:
        """Task `index` is done."""
        self._done += self._weights[index]
        if self._progress is not None:
            self._progress(min(1.0, self._done / self._whole), what)


def _alone(work: Work[Shared, Asked, Answer], index: int, tell: _Told) -> Answer:
    what = work.said[index]
    answer = work.play(work.shared, work.tasks[index], lambda share: tell.part(index, share, what))
    tell.finished(index, what)
    return answer


# ── Workers ───────────────────────────────────────────────────────────────────────────────────────────────────


def _spread(work: Work[Shared, Asked, Answer], tell: _Told, *, processes: int) -> tuple[Answer, ...]:
    others = {each.pid for each in multiprocessing.active_children()}
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(work.play, work.shared),
    )
    try:
        # The longest first, so that no core is left with a long one at the end.
        order = sorted(range(len(work.tasks)), key=lambda index: -work.seconds[index])
        futures: dict[Future[Answer], int] = {pool.submit(_play, work.tasks[index]): index for index in order}
        answers: dict[int, Answer] = {}
        for future in as_completed(futures):
            index = futures[future]
            answers[index] = future.result()
            tell.finished(index, work.said[index])
    except BaseException:
        # Before the shutdown: it would wait for what is being played, and forgets its workers if told not to wait.
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return tuple(answers[index] for index in range(len(work.tasks)))


_begun: tuple[Callable[[Any, Any, Tell], Any], Any] | None = None
"""In a worker: how a task is done, and what all have in common; sent once."""


def _begin(play: Callable[[Any, Any, Tell], Any], shared: Any) -> None:
    global _begun
    _begun = (play, shared)
    # Ctrl-C reaches the whole terminal: a worker then goes without a word, the asker says what happened.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_leave_with_the_asker, name="asker", daemon=True).start()


def _leave_with_the_asker() -> None:
    """An asker that was killed (`kill`, `timeout`, no memory) ends nobody: its workers would wait for ever."""
    asker = multiprocessing.parent_process()
    if asker is not None:
        asker.join()
        os._exit(1)


def _play(task: Any) -> Any:
    if _begun is None:
        raise RuntimeError("a worker was given a task before its trace")
    play, shared = _begun
    return play(shared, task, lambda _: None)


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


# ── The decision protocol ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One policy to play, and how."""

    policy: str
    setting: Setting

    def seconds(self, bins: int) -> float:
        """About how long it takes to play so many bins."""
        own = self.policy.partition(":")[0] in (PRODUCT, REACTIVE)
        return bins / (PRODUCT_BINS_PER_S if own else RIVAL_BINS_PER_S)


def play_all(
    trace: Trace,
    tasks: Sequence[Task],
    *,
    members: Sequence[Forecaster],
    progress: Progress | None = None,
    processes: int | None = None,
) -> tuple[TraceRun, ...]:
    """Each task's run, in the order given; see `spread`. Raises what `simulate` raises, too."""
    work = Work(
        play=_simulated,
        shared=(trace, tuple(members)),
        tasks=tasks,
        seconds=[task.seconds(trace.series.values.size) for task in tasks],
        said=[f"{task.policy} decides" for task in tasks],
    )
    answers = spread(work, progress=progress, processes=processes)
    return tuple(_run(trace, task, answer) for task, answer in zip(tasks, answers, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    """A run without the trace, which the asker has."""

    capacity_rps: float
    start: datetime
    course: Course
    oracle: Course


def _simulated(shared: tuple[Trace, tuple[Forecaster, ...]], task: Task, tell: Tell) -> _Played:
    trace, members = shared
    run = simulate(trace, [task.policy], task.setting, members=members, progress=lambda share, _: tell(share))
    return _Played(capacity_rps=run.capacity_rps, start=run.start, course=run.courses[task.policy], oracle=run.oracle)


def _run(trace: Trace, task: Task, answer: _Played) -> TraceRun:
    return TraceRun(
        trace=trace,
        setting=task.setting,
        capacity_rps=answer.capacity_rps,
        start=answer.start,
        courses={task.policy: answer.course},
        oracle=answer.oracle,
    )
