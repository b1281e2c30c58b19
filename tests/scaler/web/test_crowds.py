"""Many clients at once, and rude ones: the probes are answered whatever they do, and nobody is waited for for ever."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from scaler.web.crowds import MOST_CONNECTIONS, MOST_RUNNING, RunningRequests, TimelyProtocol
from scaler.web.server import WebServer

PATIENCE_S = 30.0
"""So long a test waits for what it is sure of."""

BIG = 32 * 2**20
"""More than the sockets' buffers of both ends hold."""


async def _short(_: object) -> Response:
    return PlainTextResponse("ok")


async def _big(_: object) -> Response:
    return Response(b"x" * BIG)


@contextmanager
def serving() -> Iterator[int]:
    """A server with a short and a big page; answers its port."""
    app = Starlette(routes=[Route("/healthz", _short), Route("/short", _short), Route("/big", _big)])
    server = WebServer(RunningRequests(app), host="127.0.0.1", port=0)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


def status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def connected(port: int, said: bytes = b"") -> socket.socket:
    other_end = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    other_end.sendall(said)
    return other_end


def is_closed(other_end: socket.socket) -> bool:
    """Waits until the server has closed the connection."""
    try:
        while other_end.recv(2**20):
            pass
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("said", [b"", b"GET /short HTTP/1.1\r\nHost: "], ids=["nothing", "half a request"])
@pytest.mark.parametrize("count", [MOST_RUNNING + 20, MOST_CONNECTIONS + 20])
def test_probes_are_answered_beside_connections_that_say(said: bytes, count: int) -> None:
    with serving() as port, ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connected(port, said))
        assert [status(port, path) for path in ("/healthz", "/short")] == [200, 200]


def test_of_too_many_connections_those_that_are_silent_for_longest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimelyProtocol, "most_connections", 5)
    monkeypatch.setattr(TimelyProtocol, "ask_within_s", 100 * PATIENCE_S)
    with serving() as port, ExitStack() as stack:
        opened = [stack.enter_context(connected(port)) for _ in range(25)]
        assert all(is_closed(each) for each in opened[:20])
        opened[-1].sendall(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
        assert opened[-1].recv(2**10).startswith(b"HTTP/1.1 200"), "the newest is heard"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET /short HTTP/1.1\r\nHost: ", id="half a request"),
        pytest.param(b"POST /short HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", id="half a body"),
    ],
)
def test_who_does_not_come_to_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(TimelyProtocol, "ask_within_s", 0.1)
    with serving() as port, connected(port, said) as other_end:
        assert is_closed(other_end)
        assert status(port, "/short") == 200


def test_who_begins_a_second_request_has_to_end_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimelyProtocol, "ask_within_s", 0.1)
    with serving() as port, connected(port, b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n") as other_end:
        heard = b""
        while not heard.endswith(b"ok"):
            heard += other_end.recv(2**10)
        other_end.sendall(b"GET /short")
        assert is_closed(other_end)


def test_who_does_not_take_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimelyProtocol, "take_within_s", 0.1)
    lost = threading.Event()

    def note(self: TimelyProtocol, exc: Exception | None) -> None:
        lost.set()
        H11Protocol.connection_lost(self, exc)

    monkeypatch.setattr(TimelyProtocol, "connection_lost", note)
    with serving() as port, connected(port, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n") as other_end:
        assert lost.wait(PATIENCE_S)
        taken = 0
        with suppress(ConnectionError):
            while piece := other_end.recv(2**20):
                taken += len(piece)
        assert 0 < taken < BIG


def test_who_takes_it_gets_all_of_it() -> None:
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        for _ in range(2):
            connection.request("GET", "/big")
            assert len(connection.getresponse().read()) == BIG
        connection.close()


def test_a_connection_is_kept_from_one_request_to_the_next() -> None:
    with serving() as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        for _ in range(3):
            connection.request("GET", "/short")
            assert connection.getresponse().read() == b"ok"
            assert connection.sock is not None, "else it would be opened anew"
        connection.close()


# ── Requests under way ────────────────────────────────────────────────────────────────────────────────────────


class Slow:
    """An application whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun += 1
        if scope["path"] not in ("/healthz", "/readyz"):
            await self.let_go.wait()
        await PlainTextResponse("ok")(scope, receive, send)


async def asked(app: RunningRequests, path: str) -> int:
    """The status of a request."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    await app({"type": "http", "path": path, "method": "GET", "headers": []}, receive, send)
    return int(told[0]["status"])


def test_one_too_many_is_told_to_come_back_and_a_probe_is_not() -> None:
    async def story() -> None:
        slow = Slow()
        app = RunningRequests(slow, most=3)
        running = [asyncio.create_task(asked(app, "/metrics")) for _ in range(3)]
        await asyncio.sleep(0)
        assert slow.begun == 3
        assert await asked(app, "/metrics") == 503
        assert [await asked(app, path) for path in ("/healthz", "/readyz")] == [200, 200]
        slow.let_go.set()
        assert [await each for each in running] == [200] * 3
        assert await asked(app, "/metrics") == 200

    asyncio.run(story())


def test_a_request_that_raises_or_is_given_up_is_no_longer_under_way() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        app = RunningRequests(fails, most=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await asked(app, "/metrics")
        app = RunningRequests(Slow(), most=1)
        for _ in range(3):
            given_up = asyncio.create_task(asked(app, "/metrics"))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up

    asyncio.run(story())
