"""Open-loop load on an OpenAI-compatible address: requests leave when their time has come, answered or not.

It sends and writes down; it judges nothing. Arrivals are Poisson around the rhythm's rate, drawn from a seed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import random
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

MOST_SHOTS = 200_000
"""Kept; the oldest are forgotten."""

REQUEST_TIMEOUT_S = 120.0
IDLE_STEP_S = 1.0
"""How often the rate is looked at while nothing is offered."""

WORDS = "import the class and return the path of the file that holds it, then say what it is for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one request asks for."""

    model: str
    output_tokens: int = 32
    images_share: float = 0.0
    """Share of the requests that show a picture."""


@dataclass(slots=True, kw_only=True)
class Shot:
    """One request: when it left, and what became of it. `problem` is empty where it was served in full."""

    sent_at: datetime
    image: bool
    status: int | None = None
    ttft_s: float | None = None
    e2e_s: float | None = None
    chunks: int = 0
    answered_by: str = ""
    """The model that answered, as the gateway says."""
    problem: str = "not over"

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.problem != "not over"

    @property
    def served(self) -> bool:
        """Whether the whole answer came."""
        return not self.problem


@dataclass(slots=True, kw_only=True)
class Target:
    """Everything that was sent, newest last."""

    shots: deque[Shot] = field(default_factory=lambda: deque(maxlen=MOST_SHOTS))

    def since(self, moment: datetime) -> list[Shot]:
        """Those that left at `moment` or later."""
        return [each for each in self.shots if each.sent_at >= moment]

    @property
    def failed(self) -> list[Shot]:
        """Those that ended otherwise than well."""
        return [each for each in self.shots if each.is_over and not each.served]

    @property
    def in_flight(self) -> int:
        """Those that have not ended."""
        return sum(not each.is_over for each in self.shots)

    def p95_s(self, since: datetime) -> float | None:
        """95th percentile of the whole answer's time, of those that ended well; None of none."""
        times = sorted(each.e2e_s for each in self.since(since) if each.e2e_s is not None and each.served)
        return times[math.ceil(0.95 * len(times)) - 1] if times else None


class Shooter:
    """Sends until told to stop. One per event loop."""

    def __init__(self, url: str, ask: Ask, rate_rps: Callable[[datetime], float], *, seed: int = 1) -> None:
        self._url = url
        self._ask = ask
        self._rate_rps = rate_rps
        self._draw = random.Random(seed)
        self._picture = _picture_url(width=64, height=64)
        self._under_way: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.target = Target()
        self.stopped = asyncio.Event()

    def ask_to_stop(self) -> None:
        """Send no more; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.stopped.set)

    async def run(self) -> None:
        """Until `stopped`, and until everything that was sent has ended."""
        self._loop = asyncio.get_running_loop()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
            due_s = time.monotonic()
            while not self.stopped.is_set():
                rate = self._rate_rps(datetime.now(UTC))
                due_s += self._draw.expovariate(rate) if rate > 0.0 else IDLE_STEP_S
                # A machine that stood still does not get everything at once that it has missed.
                due_s = max(due_s, time.monotonic() - 1.0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), timeout=max(0.0, due_s - time.monotonic()))
                # Nothing is sent for a rate that has ended while its next request was waited for.
                if rate > 0.0 and self._rate_rps(datetime.now(UTC)) > 0.0 and not self.stopped.is_set():
                    self._shoot(client)
            if self._under_way:
                await asyncio.wait(self._under_way)

    def _shoot(self, client: httpx.AsyncClient) -> None:
        image = self._draw.random() < self._ask.images_share
        shot = Shot(sent_at=datetime.now(UTC), image=image)
        self.target.shots.append(shot)
        task = asyncio.create_task(self._answered(client, shot, nonce=self._draw.getrandbits(48)))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answered(self, client: httpx.AsyncClient, shot: Shot, *, nonce: int) -> None:
        begun = time.monotonic()
        problem = "cut off before its end"
        try:
            async with client.stream("POST", "/v1/chat/completions", json=self._body(shot, nonce)) as answer:
                shot.status = answer.status_code
                shot.answered_by = answer.headers.get("x-headstart-model", "")
                if answer.status_code != httpx.codes.OK:
                    problem = f"status {answer.status_code}: {(await answer.aread())[:200].decode(errors='replace')}"
                    return
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        problem = ""
                    elif line.startswith("data: "):
                        shot.chunks += 1
                        shot.ttft_s = shot.ttft_s if shot.ttft_s is not None else time.monotonic() - begun
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            problem = "given up"
            raise
        finally:
            shot.e2e_s = time.monotonic() - begun
            shot.problem = problem

    def _body(self, shot: Shot, nonce: int) -> dict[str, Any]:
        # A number of its own: an answer from a cache would be no load.
        text: Any = f"{nonce}: {WORDS}"
        if shot.image:
            text = [{"type": "image_url", "image_url": {"url": self._picture}}, {"type": "text", "text": text}]
        return {
            "model": self._ask.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self._ask.output_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
        }


def _picture_url(*, width: int, height: int) -> str:
    """A grey PNG as a data URL."""
    rows = b"".join(b"\0" + bytes([row % 256]) * width for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
