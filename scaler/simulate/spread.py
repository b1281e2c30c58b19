"""Many plays of one trace, spread over the machine's cores where that pays. The answers do not depend on how.

Worker processes are started afresh (no forked locks), get the trace and the forecasters once, and answer with arrays.
Nothing is written. Whatever ends the sweep early, an interrupt included, ends its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from scaler.simulate.trace import PRODUCT, REACTIVE, TraceRun, simulate

if TYPE_CHECKING:
    from forecaster.trace import Trace
    from forecaster.types import Forecaster
    from scaler.simulate.scoring import Course
    from scaler.simulate.trace import Progress, Setting

RIVAL_BINS_PER_S = 20_000.0
"""How many bins a rival is played in a second, roughly …"""
PRODUCT_BINS_PER_S = 200.0
"""… and the product, forecasts included."""
PAYS_FROM_S = 10.0
"""A worker is there after two seconds of imports: below ten of work, one process is as fast."""


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
    """Each task's run, in the order given. In one process where `processes` is 1, or None and the work is short.

    Raises what `simulate` raises, and `concurrent.futures.process.BrokenProcessPool` if a worker was killed.
    """
    weights = [task.seconds(trace.series.values.size) for task in tasks]
    tell = _Told(weights, progress)
    if processes is None:
        processes = _cores() if sum(weights) > PAYS_FROM_S else 1
    if min(processes, len(tasks)) <= 1:
        return tuple(_alone(trace, task, members, tell, index) for index, task in enumerate(tasks))
    return _spread(trace, tasks, members, tell, processes=min(processes, len(tasks)))


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


def _alone(trace: Trace, task: Task, members: Sequence[Forecaster], tell: _Told, index: int) -> TraceRun:
    run = simulate(
        trace,
        [task.policy],
        task.setting,
        members=members,
        progress=lambda share, what: tell.part(index, share, what),
    )
    tell.finished(index, f"{task.policy} decides")
    return run


# ── Workers ───────────────────────────────────────────────────────────────────────────────────────────────────


def _spread(
    trace: Trace, tasks: Sequence[Task], members: Sequence[Forecaster], tell: _Told, *, processes: int
) -> tuple[TraceRun, ...]:
    others = {each.pid for each in multiprocessing.active_children()}
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(trace, tuple(members)),
    )
    try:
        # The longest first, so that no core is left with a long one at the end.
        order = sorted(range(len(tasks)), key=lambda index: -tasks[index].seconds(1))
        futures: dict[Future[_Answer], int] = {pool.submit(_play, tasks[index]): index for index in order}
        answers: dict[int, _Answer] = {}
        for future in as_completed(futures):
            index = futures[future]
            answers[index] = future.result()
            tell.finished(index, f"{tasks[index].policy} decides")
    except BaseException:
        # Before the shutdown: it would wait for what is being played, and forgets its workers if told not to wait.
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return tuple(_run(trace, task, answers[index]) for index, task in enumerate(tasks))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A run without the trace, which the asker has."""

    capacity_rps: float
    start: datetime
    course: Course
    oracle: Course


_shared: tuple[Trace, tuple[Forecaster, ...]] | None = None
"""In a worker: what all its tasks have in common, sent once."""


def _begin(trace: Trace, members: tuple[Forecaster, ...]) -> None:
    global _shared
    _shared = (trace, members)
    # Ctrl-C reaches the whole terminal: a worker then goes without a word, the asker says what happened.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _play(task: Task) -> _Answer:
    if _shared is None:
        raise RuntimeError("a worker was given a task before its trace")
    trace, members = _shared
    run = simulate(trace, [task.policy], task.setting, members=members)
    return _Answer(capacity_rps=run.capacity_rps, start=run.start, course=run.courses[task.policy], oracle=run.oracle)


def _run(trace: Trace, task: Task, answer: _Answer) -> TraceRun:
    return TraceRun(
        trace=trace,
        setting=task.setting,
        capacity_rps=answer.capacity_rps,
        start=answer.start,
        courses={task.policy: answer.course},
        oracle=answer.oracle,
    )


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
