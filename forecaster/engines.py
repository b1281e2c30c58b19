"""Where the parts of a training are fitted: here, or by a pool of worker processes of this machine.

Decides who fits which part when, and when to stop; never what a fit is (`fits.fit_part`, the same for every engine) and
never what becomes of the results. No worker outlives its job: one that is interrupted kills them, one that is killed
is noticed by them. A worker that dies costs its part one more try, not the job.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Protocol

from forecaster.fits import Fitted, Part, Progress, fit_part, given_up

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

TRIES = 2
"""How often a part is begun: one that kills its worker twice is given up."""
ONE_THREAD: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""The environment of a worker: a fit's matrices are so small that threads only wait for each other. An ARIMA took 1.3
CPU-seconds with BLAS's two threads and 0.4 with one, for the same coefficients."""
GONE_WITHIN_S = 5.0
"""How long a killed worker is waited for."""


class Engine(Protocol):
    """Who fits parts; `name` is what people call it."""

    @property
    def name(self) -> str: ...

    def run(self, parts: Sequence[Part], *, until_s: float | None, progress: Progress) -> Generator[Fitted]:
        """Each part's result as soon as it is there, in any order.

        Ends early when `time.monotonic()` has passed `until_s`: what is not finished by then is dropped. Closing the
        iterator stops all that runs. Raises `TrainingError` where the engine is not to be had.
        """
        ...


class _BudgetSpent(BaseException):
    """Thrown through a running fit when its time is over: a BaseException, so that no fit takes it for its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """One part after the other in this process, which thereby loads what the fits need."""

    name: str = "here"

    def run(self, parts: Sequence[Part], *, until_s: float | None, progress: Progress) -> Generator[Fitted]:
        """See `Engine.run`. A pooled fit ends at its next sign of progress when time is up."""

        def heeding(name: str, facts: Mapping[str, Any]) -> None:
            if _over(until_s):
                raise _BudgetSpent
            progress(name, facts)

        with suppress(_BudgetSpent):
            for part in parts:
                if _over(until_s):
                    return
                yield fit_part(part, heeding)


HERE = Here()
"""What the tests and the lab use: no process to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """`workers` processes, started afresh (spawned, never forked: torch and BLAS hold threads and locks)."""

    workers: int
    name: str = "local"

    def run(self, parts: Sequence[Part], *, until_s: float | None, progress: Progress) -> Generator[Fitted]:
        """See `Engine.run`."""
        todo, tries, crew = deque(parts), Counter[str](), list[_Worker]()
        try:
            while todo or any(worker.part for worker in crew):
                _staff(crew, todo, tries, self.workers)
                for worker in _heard(crew, until_s):
                    result = _next_word(worker, todo, tries, progress)
                    if result is not None:
                        yield result
                crew[:] = [worker for worker in crew if worker.lives]
                if _over(until_s):
                    return
        finally:
            for worker in crew:
                worker.kill()


def usable_cores() -> int:
    """Processors that this process may run on: under a container's CPU set fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _over(until_s: float | None) -> bool:
    return until_s is not None and time.monotonic() >= until_s


# ── The pool's side ───────────────────────────────────────────────────────────────────────────────────────────


class _Worker:
    """A process that fits one part at a time, and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.part: Part | None = None
        # A child inherits which signals are blocked: the terminal's Ctrl-C is for the job, which ends its workers.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        environment = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)
        try:
            self.process.start()
        finally:
            for name, value in environment.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self.lives = True

    def begin(self, part: Part) -> None:
        self.part = part
        with suppress(OSError):  # a dead worker is met when it is next listened to
            self.pipe.send(part)

    def kill(self) -> None:
        self.lives = False
        self.process.kill()
        self.process.join(GONE_WITHIN_S)
        self.pipe.close()


def _staff(crew: list[_Worker], todo: deque[Part], tries: Counter[str], most: int) -> None:
    """Take on workers while there are places and parts for them, then give every idle one a part.

    All are started before the first is spoken to: that waits until it has loaded, and the others load meanwhile.
    """
    idle = sum(worker.part is None for worker in crew)
    crew += [_Worker() for _ in range(min(most - len(crew), len(todo) - idle))]
    for worker in crew:
        if worker.part is None and todo:
            tries[todo[0].digest] += 1
            worker.begin(todo.popleft())


def _heard(crew: Sequence[_Worker], until_s: float | None) -> list[_Worker]:
    """The workers that have something to say, or have died; none if time is up first."""
    wait_s = None if until_s is None else max(0.0, until_s - time.monotonic())
    by_pipe: dict[Any, _Worker] = {worker.pipe: worker for worker in crew if worker.part is not None}
    return [by_pipe[each] for each in connection.wait(list(by_pipe), timeout=wait_s)]


def _next_word(worker: _Worker, todo: deque[Part], tries: Counter[str], progress: Progress) -> Fitted | None:
    """A worker's next message: a result, a sign of progress (None), or its end (None, or the part given up)."""
    part = worker.part
    assert part is not None, "only workers at work are listened to"
    try:
        said = worker.pipe.recv()
    except (EOFError, OSError):
        worker.kill()
        if tries[part.digest] < TRIES:
            todo.appendleft(part)
            return None
        return given_up(part, f"its worker died {TRIES} times ({_end_of(worker.process.exitcode)})")
    if isinstance(said, Fitted):
        worker.part = None
        return said
    progress(*said)
    return None


def _end_of(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "killed: out of memory?"
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# ── The worker's side ─────────────────────────────────────────────────────────────────────────────────────────


def _serve(pipe: connection.Connection[Any, Any]) -> None:
    """A worker's life: fit what comes, until the job hangs up."""
    threading.Thread(target=_end_with_the_job, daemon=True).start()
    with suppress(EOFError, OSError):  # the job is gone
        while True:
            part = pipe.recv()
            pipe.send(fit_part(part, lambda name, facts: pipe.send((name, facts))))


def _end_with_the_job() -> None:
    """A job that is killed outright cannot end its workers, and one in a fit does not look at its pipe."""
    job = multiprocessing.parent_process()
    if job is not None:
        connection.wait([job.sentinel])
        os._exit(1)
