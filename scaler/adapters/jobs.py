"""When things run: a few coarse jobs on APScheduler, each kind with a thread of its own.

A hung job can only delay its own kind: with one pool for all, two hung jobs starve a third without a single event.
Times are UTC and aligned to the interval, so that a minute's tick sees a whole minute. It decides nothing but time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    JobEvent,
)
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.types import EPOCH

LATE = timedelta(seconds=5)
"""A run that begins so much after its time still belongs to that time."""

_TROUBLES = {
    EVENT_JOB_ERROR: "failed",
    EVENT_JOB_MISSED: "missed",
    EVENT_JOB_MAX_INSTANCES: "still running",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something that runs every `interval`, `offset` after the interval's start, in the thread called `lane`."""

    name: str
    run: Callable[[], None]
    interval: timedelta
    lane: str
    offset: timedelta = timedelta(0)
    at_start: bool = False
    """Run once at once, besides the regular times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A job that raised, came too late, or was skipped because its last run is not over."""

    job: str
    what: str
    error: BaseException | None = None


def next_run(job: Job, *, now: datetime) -> datetime:
    """The first regular time of `job` after `now`: whole intervals since the epoch, plus its offset."""
    since: timedelta = (now - EPOCH - job.offset) % job.interval
    return now - since + job.interval


def due_time(job: Job, *, now: datetime) -> datetime:
    """The regular time that a run of `job` beginning at `now` belongs to, or `now` itself if none was just due.

    Threads wake some tenths of a millisecond early or late, and the rules count whole periods: with ticks 59.9993 s
    apart a limit of one step a minute lets one step through in two, and a surge waits twice as long.
    """
    regular = next_run(job, now=now) - job.interval
    return regular if now - regular < min(LATE, job.interval / 2) else now


class _Busy:
    """Which jobs run right now."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[str] = []

    def during(self, job: Job) -> None:
        """Run `job` and be seen to."""
        with self._changed:
            self._running.append(job.name)
        try:
            job.run()
        finally:
            with self._changed:
                self._running.remove(job.name)
                self._changed.notify_all()

    def wait(self, lasting: Callable[[str], bool], *, timeout_s: float) -> bool:
        """Wait until no job for which `lasting` is true runs; False if one still does after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(map(lasting, self._running)), timeout=timeout_s)


class Schedule:
    """The running jobs."""

    def __init__(self, jobs: tuple[Job, ...], *, on_trouble: Callable[[Trouble], None]) -> None:
        self._jobs = jobs
        self._on_trouble = on_trouble
        self._busy = _Busy()
        lanes = {job.lane: ThreadPoolExecutor(max_workers=1) for job in jobs}
        self._scheduler = BackgroundScheduler(timezone=UTC, executors=lanes)
        self._scheduler.add_listener(self._report, EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)

    def start(self, *, now: datetime) -> None:
        """Begin; jobs marked so run at once."""
        for job in self._jobs:
            # A run is worth doing until the next one is due: after a suspend the last of the missed ones is run,
            # the others are merged into it.
            run = partial(self._busy.during, job)
            common: dict[str, Any] = {
                "executor": job.lane,
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": max(1, int(job.interval.total_seconds())),
            }
            if job.at_start:
                self._scheduler.add_job(run, DateTrigger(run_date=now), id=f"{job.name}:first", **common)
            self._scheduler.add_job(run, self._trigger(job, now=now), id=job.name, **common)
        self._scheduler.start()

    def realign(self, *, now: datetime) -> None:
        """Plan every job anew: after the clock was set back, the next run would be as far off as the jump was wide."""
        for job in self._jobs:
            self._scheduler.reschedule_job(job.name, trigger=self._trigger(job, now=now))

    def move(self, name: str, offset: timedelta, *, now: datetime) -> None:
        """Run the job of that name `offset` after its interval's start from now on."""
        self._jobs = tuple(replace(job, offset=offset) if job.name == name else job for job in self._jobs)
        job = next(job for job in self._jobs if job.name == name)
        self._scheduler.reschedule_job(name, trigger=self._trigger(job, now=now))

    def stop(self) -> None:
        """Plan nothing more; what runs is left to end by itself, and `wait` tells when it has."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def wait(self, name: str | None = None, *, timeout_s: float) -> bool:
        """Wait until the job of that name, or every job, is over; False if one still runs after `timeout_s`."""
        return self._busy.wait(lambda running: name in (None, running), timeout_s=timeout_s)

    def _trigger(self, job: Job, *, now: datetime) -> IntervalTrigger:
        return IntervalTrigger(seconds=job.interval.total_seconds(), start_date=next_run(job, now=now), timezone=UTC)

    def _report(self, event: JobEvent) -> None:
        name = str(event.job_id).partition(":")[0]
        error = getattr(event, "exception", None)
        self._on_trouble(Trouble(job=name, what=_TROUBLES[event.code], error=error))
