"""A server that answers like vLLM, in a process of its own, and fails on request. Holds no test.

`fake` in a request's body says how this one is answered: {"tokens": 3, "pause_s": 0.0, "first_s": 0.0, "status": 200,
"hang": false, "drop_after": n, "size": n, "held_at": n}. POST /control sets the same for all requests that say nothing, `sick` for
/health, and `closed`: requests are held until it is gone, before the token `held_at` if that is given. GET /seen tells what came in.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PROMPT_TOKENS = 11


class Fake:
    """What one server has seen, and how it behaves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour: dict[str, Any] = {}
        self.door = asyncio.Event()
        self.door.set()
        self.seen: dict[str, Any] = {"started": 0, "finished": 0, "cancelled": 0, "headers": {}, "body": None}

    async def health(self, request: Request) -> Response:
        return Response(status_code=503 if self.behaviour.get("sick") else 200)

    async def control(self, request: Request) -> Response:
        self.behaviour = await request.json()
        (self.door.clear if self.behaviour.get("closed") else self.door.set)()
        return JSONResponse(self.behaviour)

    async def told(self, request: Request) -> Response:
        return JSONResponse(self.seen)

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        how = {**self.behaviour, **body.pop("fake", {})}
        self.seen |= {"started": self.seen["started"] + 1, "headers": dict(request.headers), "body": body}
        if how.get("hang"):
            await self._until_left(request)
        if how.get("drop_after") == 0:
            os.kill(os.getpid(), 9)
        try:
            if "held_at" not in how:
                await self.door.wait()
            await asyncio.sleep(how.get("first_s", 0.0))
        except asyncio.CancelledError:
            self.seen["cancelled"] += 1
            raise
        if how.get("status", 200) != 200:
            return JSONResponse({"error": {"message": "told to fail"}}, status_code=how["status"])
        if body.get("stream"):
            return StreamingResponse(self._events(request, body, how), media_type="text/event-stream")
        self.seen["finished"] += 1
        return JSONResponse(self._whole(body, how))

    async def _until_left(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.seen["cancelled"] += 1

    def _whole(self, body: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
        tokens = how.get("tokens", 3)
        text = " ".join([self.name] * tokens)
        return {"model": body["model"], "choices": [{"message": {"content": text}}], "usage": usage(tokens)}

    async def _events(self, request: Request, body: dict[str, Any], how: dict[str, Any]) -> AsyncIterator[bytes]:
        tokens, finished = how.get("tokens", 3), False
        try:
            for number in range(tokens):
                if how.get("drop_after") == number:
                    os.kill(os.getpid(), 9)
                if how.get("held_at") == number:
                    await self.door.wait()
                await asyncio.sleep(how.get("pause_s", 0.0))
                text = self.name + "x" * how.get("size", 0)
                yield event({"model": body["model"], "choices": [{"index": 0, "delta": {"content": text}}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                yield event({"model": body["model"], "choices": [], "usage": usage(tokens)})
            yield b"data: [DONE]\n\n"
            finished = True
        finally:
            self.seen["finished" if finished else "cancelled"] += 1


def usage(tokens: int) -> dict[str, Any]:
    """As vLLM counts."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event, as compact as vLLM's."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def main() -> None:
    """Serve on a free port, and print it."""
    fake = Fake(sys.argv[1])
    listener = socket.socket()
    listener.bind(("127.0.0.1", int(sys.argv[2])))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    inference = [f"/v1/{path}" for path in ("chat/completions", "completions", "embeddings")]
    routes = [
        *(Route(path, fake.answer, methods=["POST"]) for path in inference),
        Route("/health", fake.health),
        Route("/control", fake.control, methods=["POST"]),
        Route("/seen", fake.told),
    ]
    config = uvicorn.Config(Starlette(routes=routes), access_log=False, log_level="error", timeout_keep_alive=5)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
