"""A gateway for stories of the local scale target: least in flight, the backends file, and nothing else. No test.

It speaks what the target needs: it reads `kind: Backends` again when it changes, answers GET /backends, counts
arrivals as `headstart_gateway_requests_total`, tries another server before the first byte only. Run as a program:
`stand_in_gateway.py gateway.yaml`, the product's own settings file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml
from prometheus_client import Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

ARRIVALS = Counter("headstart_gateway_requests", "Arrivals.", ("model", "request_class", "priority"))


class Gateway:
    def __init__(self, backends: Path) -> None:
        self._path = backends
        self._rows: list[dict[str, Any]] = []
        self._in_flight: dict[str, int] = {}
        self._client = httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None))

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                self._rows = json.loads(self._path.read_text())["backends"]
            await asyncio.sleep(0.2)

    async def backends(self, request: Request) -> Response:
        listed = [{**row, "in_flight": self._in_flight.get(row["url"], 0), "healthy": True} for row in self._rows]
        return JSONResponse({"backends": listed})

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(generate_latest())

    async def healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        ARRIVALS.labels(json.loads(body)["model"], "other", "normal").inc()
        tried: set[str] = set()
        for _ in range(3):
            ready = [row["url"] for row in self._rows if row["state"] == "ready" and row["url"] not in tried]
            if not ready:
                break
            url = min(ready, key=lambda each: self._in_flight.get(each, 0))
            tried.add(url)
            self._in_flight[url] = self._in_flight.get(url, 0) + 1
            try:
                sent = self._client.build_request(
                    "POST", f"{url}{request.url.path}", content=body, headers={"content-type": "application/json"}
                )
                answer = await self._client.send(sent, stream=True)
                chunks = answer.aiter_raw()
                first = await anext(chunks, b"")
            except httpx.HTTPError:
                self._in_flight[url] -= 1
                continue
            kind = answer.headers.get("content-type")
            return StreamingResponse(self._rest(url, first, chunks, answer), answer.status_code, media_type=kind)
        return PlainTextResponse("no server", 503, headers={"retry-after": "1"})

    async def _rest(
        self, url: str, first: bytes, chunks: AsyncIterator[bytes], answer: httpx.Response
    ) -> AsyncIterator[bytes]:
        try:
            yield first
            async for chunk in chunks:
                yield chunk
        finally:
            self._in_flight[url] -= 1
            await answer.aclose()


def main() -> None:
    settings = yaml.safe_load(Path(sys.argv[1]).read_text())
    gateway = Gateway(Path(settings["backends"]["file"]))

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        del app
        watching = asyncio.create_task(gateway.watch())
        yield
        watching.cancel()

    routes = [
        Route("/backends", gateway.backends),
        Route("/metrics", gateway.metrics),
        Route("/healthz", gateway.healthz),
        Route("/v1/chat/completions", gateway.serve, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=life)
    uvicorn.run(app, host="127.0.0.1", port=settings["listen"]["port"], log_level="warning")


if __name__ == "__main__":
    main()
