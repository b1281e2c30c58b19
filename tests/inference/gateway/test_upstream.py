"""A gateway that stood still for a moment does not hold it against its replicas.

On a machine without a free core, or at a pause of the whole VM, timers are long over when the process runs again: what
they waited for may have happened meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from gateway_world import FakeVllm, replicas
from inference.gateway.settings import Upstream
from inference.gateway.upstream import Client, Failure, UpstreamError

pytestmark = pytest.mark.server

TIMEOUT_S = 1.0
STALL_S = 2.5
RULE = Upstream(connect_timeout_s=TIMEOUT_S)
T = TypeVar("T")


@pytest.fixture
def one() -> Iterator[FakeVllm]:
    with replicas("one") as (replica,):
        yield replica


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address whose line of connections is full: nobody is refused, and nobody gets through."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        held = []
        for _ in range(8):
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for each in held:
            each.close()


def stalled(work: Coroutine[Any, Any, T], *, at: threading.Event) -> T:
    """The work's result, on a loop that stands still from the moment in which the other side has a connection."""

    async def story() -> T:
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.sleep(0)
            if at.wait(0.3):  # of the whole loop, on purpose: its side of the connection is not seen meanwhile
                threading.Event().wait(STALL_S)
                break
        return await task

    return asyncio.run(story())


class Doorbell:
    """A replica's address that says when somebody connects, and answers 200 to everything."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.rung.set()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=30)


@pytest.fixture
def doorbell() -> Iterator[Doorbell]:
    door = Doorbell()
    yield door
    door.close()


def test_a_connection_that_came_while_the_gateway_stood_still_is_made_again(doorbell: Doorbell) -> None:
    async def asked() -> int:
        client = Client(RULE, api_key=None)
        try:
            answer = await client.ask(doorbell.url, "/v1/chat/completions", b"{}", {})
            answer.close()
            return answer.status
        finally:
            await client.close()

    assert stalled(asked(), at=doorbell.rung) == 200


def test_a_probe_that_nobody_could_have_heard_says_nothing(doorbell: Doorbell) -> None:
    async def probed() -> bool | None:
        client = Client(RULE, api_key=None)
        try:
            return await client.probe(doorbell.url, "/health", timeout_s=TIMEOUT_S)
        finally:
            await client.close()

    assert stalled(probed(), at=doorbell.rung) is None


def test_a_probe_that_is_answered_is_well_and_one_that_is_not_is_a_failure(one: FakeVllm, deaf: str) -> None:
    async def probed() -> list[bool | None]:
        client = Client(Upstream(connect_timeout_s=30), api_key=None)
        try:
            return [
                await client.probe(url, "/health", timeout_s=limit_s) for url, limit_s in ((one.url, 30), (deaf, 1))
            ]
        finally:
            await client.close()

    # A machine that stands still while this is asked knows less, never something else.
    well, heard = asyncio.run(probed())
    assert well is True
    assert heard in (False, None)


def test_a_replica_that_takes_no_connection_is_still_refused(deaf: str) -> None:
    async def asked() -> None:
        client = Client(RULE, api_key=None)
        try:
            await client.ask(deaf, "/v1/chat/completions", b"{}", {})
        finally:
            await client.close()

    with pytest.raises(UpstreamError) as caught:
        asyncio.run(asked())
    assert caught.value.failure is Failure.REFUSED
