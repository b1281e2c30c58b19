"""What many clients at once may take: requests under way, open connections, and time to say or hear something.

It decides who is answered later and which connection is closed. Whoever opens connections and says nothing, or says it
a byte at a time, or does not take its answer, costs a descriptor for some seconds, never a probe its answer: a daemon
that decides and scales must not be restarted because a scanner came by. Who may ask at all is said by `access`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from scaler.web.access import OPEN_PATHS

MOST_RUNNING: Final = 64
"""Requests under way, the probes' aside. A page of 2,000 workloads takes some 100 ms of one core."""

MOST_CONNECTIONS: Final = 256
"""Open connections; a process often may have 1,024 descriptors, and needs those of its files and its API server."""

ASK_WITHIN_S: Final = 10.0
"""From the connection, or the first byte of a later request on it, until the request is there in full."""

TAKE_WITHIN_S: Final = 30.0
"""Until a client has taken what it is sent: 4 MB at 1 Mbit/s."""


_HEARD = itertools.count(1)
"""Numbers what is heard: a clock may not tell two moments of one loop apart."""


class RunningRequests:
    """ASGI middleware: beyond `most` requests at a time the next one is told to come back."""

    def __init__(self, app: ASGIApp, *, most: int = MOST_RUNNING) -> None:
        self._app = app
        self._most = most
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 503; `access.OPEN_PATHS` always pass: they answer one word."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._running >= self._most:
            detail = f"{self._most} requests are being answered; ask again"
            await JSONResponse({"error": "busy", "detail": detail}, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


class TimelyProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with an end to waiting; by itself it waits for a first request for ever, and for its end."""

    ask_within_s = ASK_WITHIN_S
    take_within_s = TAKE_WITHIN_S
    most_connections = MOST_CONNECTIONS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._asks, self._takes = _Timer(self.loop), _Timer(self.loop)
        self.heard = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered here."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more: where that is one too many, the idle one that has been silent for longest goes."""
        super().connection_made(transport)
        self.heard = next(_HEARD)
        self._asks.start(self.ask_within_s, transport.abort)
        if len(self.connections) <= self.most_connections:
            return
        others = (each for each in self.connections if isinstance(each, TimelyProtocol))
        there = [each for each in others if not each.transport.is_closing()]
        if len(there) > self.most_connections:
            idle = (each for each in there if each.idle)  # this new one at least
            min(idle, key=lambda each: each.heard).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of a request, or all of it."""
        self.heard = next(_HEARD)
        super().data_received(data)
        if not self.idle and not self.cycle.more_body:
            self._asks.stop()
        else:
            self._asks.start(self.ask_within_s, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        self._takes.start(self.take_within_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken it."""
        self._takes.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Over, whoever closed it."""
        self._asks.stop()
        self._takes.stop()
        super().connection_lost(exc)


class _Timer:
    """One deadline: what has been started runs until it is stopped, however often it is started meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, within_s: float, act: Callable[[], object]) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(within_s, act)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
