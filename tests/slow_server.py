"""A small server that speaks vLLM's dialect over real HTTP, with a batch whose iterations take a set time.

Holds no test. It has a queue, sequence slots, streamed answers and a metrics page; its faults are switches. Its time
is real, so a test may ask what it did but never how fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web


@dataclass(slots=True, kw_only=True)
class Speed:
    """How fast it iterates and how much at once; seconds."""

    step_s: float = 0.002
    sequence_s: float = 0.0002
    token_s: float = 0.000001
    slots: int = 4


@dataclass(slots=True, kw_only=True)
class Faults:
    """What it does wrong; may be changed while it runs."""

    has_metrics: bool = True
    strangers: int = 0
    """Running requests of somebody else on the metrics page."""
    refuse: bool = False
    """Answer 503 to every completion."""
    break_off: bool = False
    """End every stream before its last token."""
    hide_usage: bool = False


@dataclass(slots=True)
class _Sequence:
    prompt_tokens: int
    left: int
    out: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue)


class SlowServer:
    """Serves on loopback from a thread of its own until the block ends."""

    def __init__(self, speed: Speed | None = None, faults: Faults | None = None) -> None:
        self.speed = speed or Speed()
        self.faults = faults or Faults()
        self.url = ""
        self.completions = 0
        self.pictures = 0
        self.aborted = 0
        """Streams whose client left before the end."""
        self.keys: set[str] = set()
        """Authorization headers that came."""
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)

    @property
    def in_flight(self) -> int:
        """Requests waiting or running."""
        return len(self._waiting) + len(self._running)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(timeout=30.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30.0)

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._stop = asyncio.Event()
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._completion)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        engine = asyncio.create_task(self._iterate())
        self._ready.set()
        await self._stop.wait()
        engine.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await engine
        await runner.cleanup()

    async def _iterate(self) -> None:
        """The scheduler: admit, sleep as long as the iteration takes, give every sequence a token."""
        while True:
            computed = 0
            while self._waiting and len(self._running) < self.speed.slots:
                sequence = self._waiting.popleft()
                computed += sequence.prompt_tokens
                self._running.append(sequence)
            if not self._running:
                await asyncio.sleep(0.0005)
                continue
            speed = self.speed
            await asyncio.sleep(speed.step_s + speed.sequence_s * len(self._running) + speed.token_s * computed)
            for sequence in list(self._running):
                sequence.left -= 1
                sequence.out.put_nowait(sequence.left)
                if sequence.left <= 0:
                    self._running.remove(sequence)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "slow", "max_model_len": 4096}]})

    async def _metrics(self, _: web.Request) -> web.Response:
        if not self.faults.has_metrics:
            raise web.HTTPNotFound
        labels = '{engine="0",model_name="slow"}'
        page = (
            f"vllm:num_requests_running{labels} {len(self._running) + self.faults.strangers}\n"
            f"vllm:num_requests_waiting{labels} {len(self._waiting)}\n"
            f"vllm:kv_cache_usage_perc{labels} 0.25\n"
            f"vllm:num_preemptions_total{labels} 0\n"
            'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1000"} 1.0\n'
        )
        return web.Response(text=page)

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        self.keys.add(request.headers.get("Authorization", ""))
        if self.faults.refuse:
            return web.json_response({"error": {"message": "out of service"}}, status=503)
        asked = json.loads(await request.read())
        content = asked["messages"][0]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        pictures = 0 if isinstance(content, str) else len(content) - 1
        prompt = 7 + 2 * len(text.split()) + 50 * pictures
        self.completions += 1
        self.pictures += pictures
        sequence = _Sequence(prompt, asked["max_tokens"])
        self._waiting.append(sequence)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        try:
            await self._stream(answer, sequence, prompt, asked["max_tokens"])
        except (ConnectionError, asyncio.CancelledError):
            self.aborted += 1
            self._forget(sequence)
            raise
        return answer

    async def _stream(self, answer: web.StreamResponse, sequence: _Sequence, prompt: int, tokens: int) -> None:
        left = await sequence.out.get()
        await _send(answer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        while True:
            # half a character now and then, as byte-level tokens are
            await _send(answer, {"choices": [{"delta": {"content": "" if left == tokens - 1 else "word "}}]})
            if not left:
                break
            if self.faults.break_off:
                return
            left = await sequence.out.get()
        if not self.faults.hide_usage:
            await _send(answer, {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}})
        await answer.write(b"data: [DONE]\n\n")

    def _forget(self, sequence: _Sequence) -> None:
        for place in (self._waiting, self._running):
            with contextlib.suppress(ValueError):
                place.remove(sequence)


async def _send(answer: web.StreamResponse, chunk: object) -> None:
    await answer.write(b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
