"""One level of a sweep: requests sent at their moments whatever becomes of the others, and the server watched.

It never waits for an answer before it sends the next request. Whose server this is, is looked at before and during a
level: nobody's answers are slowed down without their knowing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from inference.errors import ProfilingError, ServerBusy
from inference.profiling.client import Answer, Scrape, Server
from inference.profiling.ramp import Ended

LOOK_EVERY_S = 1.0
"""Between two looks at the metrics page."""
STRANGERS_LOOKS = 3
"""So many looks in a row must show requests that are not ours: the page is a moment older than our own count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One request to come."""

    at_s: float
    """From the level's start, seconds."""
    name: str
    """Its class."""
    payload: bytes
    """The body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the metrics page."""

    at_s: float
    """From the level's start, seconds."""
    in_flight: int
    """Requests of ours without an answer."""
    running: float
    waiting: float
    kv_usage: float | None
    preemptions: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of a level."""

    answers: tuple[tuple[str, Answer], ...]
    """Class and answer of every request that was sent, in order."""
    samples: tuple[Sample, ...]
    ended: Ended
    started_at: str
    """UTC, ISO 8601."""
    began_s: float
    """The start on the client's clock."""
    length_s: float
    """For how long requests were sent."""


async def quiet(server: Server, *, force: bool) -> Scrape | None:
    """The metrics page of a server that nobody uses. Raises `ServerBusy`, or `ProfilingError` if it does not tell."""
    page = await server.scrape()
    for _ in range(STRANGERS_LOOKS - 1):
        if page is None or not page.running + page.waiting:
            break
        await asyncio.sleep(LOOK_EVERY_S)
        page = await server.scrape()
    if page is None and not force:
        raise ProfilingError(
            subject=server.url,
            problem="/metrics does not say whether vLLM serves somebody else right now",
            fix="give the address of one replica, or --force to measure all the same",
        )
    if page is not None and page.running + page.waiting and not force:
        raise ServerBusy(
            subject=server.url,
            problem=f"serves somebody else: {page.running:g} requests run, {page.waiting:g} wait",
            fix="take the replica out of its Service first, or --force to measure all the same",
        )
    return page


_Answers = list[tuple[str, "asyncio.Task[Answer]"]]


class LevelRun:
    """Plays levels, one after the other."""

    def __init__(self, server: Server, *, max_in_flight: int, watched: bool) -> None:
        """`watched`: stop as soon as the metrics page shows that others use the server, too."""
        self._server = server
        self._max_in_flight = max_in_flight
        self._watched = watched
        self._in_flight = 0

    async def play(self, sends: Sequence[Send], *, length_s: float, drain_s: float) -> Played:
        """Send everything, wait for the answers for `drain_s` at most, and give up the rest.

        Raises:
            ServerBusy: others use the server. Nothing of ours is in flight then.
        """
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        began_s = time.monotonic()
        samples: list[Sample] = []
        answers: _Answers = []
        watcher = asyncio.create_task(self._watch(began_s, samples))
        try:
            ended = await self._send_all(sends, answers, began_s, length_s, watcher)
            sent_for_s = time.monotonic() - began_s
            if answers:
                await asyncio.wait([task for _, task in answers], timeout=drain_s)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            await _give_up(answers)
        _pass_on(watcher)
        return Played(
            answers=tuple((name, task.result()) for name, task in answers),
            samples=tuple(samples),
            ended=ended,
            started_at=started_at,
            began_s=began_s,
            length_s=sent_for_s,
        )

    async def _send_all(
        self,
        sends: Sequence[Send],
        answers: _Answers,
        began_s: float,
        length_s: float,
        watcher: asyncio.Task[None],
    ) -> Ended:
        for send in sends:
            await asyncio.sleep(max(0.0, began_s + send.at_s - time.monotonic()))
            _pass_on(watcher)
            if self._in_flight >= self._max_in_flight:
                return Ended.CROWDED
            answers.append((send.name, asyncio.create_task(self._asked(send.payload))))
            self._in_flight += 1  # at once: the task begins later
        await asyncio.sleep(max(0.0, began_s + length_s - time.monotonic()))
        return Ended.FULL

    async def _asked(self, payload: bytes) -> Answer:
        try:
            return await self._server.ask(payload)
        finally:
            self._in_flight -= 1

    async def _watch(self, began_s: float, samples: list[Sample]) -> None:
        """Look at the metrics page now and then. Raises `ServerBusy` once others use the server, too."""
        strangers = 0
        while True:
            mine = self._in_flight
            page = await self._server.scrape()
            if page is not None:
                samples.append(
                    Sample(
                        at_s=round(time.monotonic() - began_s, 3),
                        in_flight=mine,
                        running=page.running,
                        waiting=page.waiting,
                        kv_usage=page.kv_usage,
                        preemptions=page.preemptions,
                    )
                )
                # what we sent or got meanwhile may or may not be on the page
                most = max(mine, self._in_flight)
                strangers = strangers + 1 if page.running + page.waiting > most + 1 else 0
                if strangers >= STRANGERS_LOOKS and self._watched:
                    raise ServerBusy(
                        subject=self._server.url,
                        problem=f"serves somebody else: {page.running + page.waiting:g} requests, {most} of them ours",
                        fix="take the replica out of its Service, then give the same command to go on",
                    )
            await asyncio.sleep(LOOK_EVERY_S)


def _pass_on(watcher: asyncio.Task[None]) -> None:
    """Raise what the watcher found."""
    if watcher.done() and not watcher.cancelled() and (error := watcher.exception()) is not None:
        raise error


async def _give_up(answers: _Answers) -> None:
    """Cancel what is under way and wait until the connections are closed, which makes vLLM abort it."""
    tasks = [task for _, task in answers if not task.done()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
