"""A proxy before a real Prometheus that injects the faults of the table in docs/faults.md. Holds no test.

    with FaultProxy(prometheus.url) as proxy:
        proxy.always(drip)                       # every answer from now on
        proxy.next(status(503), passed_on)       # one fault a request, then as before
        proxy.heal()
        proxy.ahead = timedelta(minutes=7)       # the world's clock, as far as its answers show it
        proxy.skew = timedelta(minutes=2)        # how much more the server's own clock is ahead
        proxy.instead("chat", "idle")            # what is asked of chat is answered with what idle does

Time and traffic of the last two are the proxy's: a story of twenty minutes over a real Prometheus takes seconds.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit

from servers import MisbehavingServer, RawConversation, Received

ANSWER_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server behind the proxy answered."""

    status: int
    content_type: str
    body: bytes


class Proxied:
    """One request on its way: what was asked, what the server says, and the raw connection to the asker."""

    def __init__(self, proxy: FaultProxy, conversation: RawConversation) -> None:
        self._proxy = proxy
        self.conversation = conversation

    @property
    def received(self) -> Received:
        """The request."""
        return self.conversation.received

    def asked(self) -> Reply:
        """The real server's answer, as seen through the proxy's clock and traffic."""
        return self._proxy.forward(self.received)

    def pass_on(self, reply: Reply | None = None) -> None:
        """Answer with `reply`, or with what the server says."""
        reply = reply or self.asked()
        self.conversation.answer(reply.status, reply.body, content_type=reply.content_type)

    def raw(self) -> bytes:
        """The whole answer as bytes, head included."""
        reply = self.asked()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {reply.content_type}\r\nContent-Length: {len(reply.body)}\r\n\r\n"
        return head.encode() + reply.body

    def reset(self) -> None:
        """Break the connection with a RST: what a peer that died or a firewall sends."""
        connection: socket.socket = self.conversation.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


Fault = Callable[[Proxied], None]


# ── The faults ────────────────────────────────────────────────────────────────────────────────────────────────────


def passed_on(request: Proxied) -> None:
    """No fault."""
    request.pass_on()


def black_hole(request: Proxied) -> None:
    """Accept, and never say anything."""
    request.conversation.hang()


def drip(request: Proxied) -> None:
    """A byte every 50 ms: no socket timeout is ever reached."""
    request.conversation.drip(request.raw(), every_s=0.05)


def reset(request: Proxied) -> None:
    """Break the connection without a word."""
    request.reset()


def truncated(request: Proxied) -> None:
    """Half of the answer, then the end of the connection."""
    whole = request.raw()
    request.conversation.send(whole[: len(whole) // 2])


def cut_json(request: Proxied) -> None:
    """A well-formed response whose JSON ends in the middle."""
    body = request.asked().body
    request.conversation.answer(200, body[: len(body) // 2])


def delayed(by_s: float) -> Fault:
    """The true answer, late."""

    def fault(request: Proxied) -> None:
        request.conversation.stopping.wait(by_s)
        request.pass_on()

    return fault


def status(code: int, *, body: bytes = b'{"status":"error","error":"as the test asked"}', head: str = "") -> Fault:
    """An error status."""
    return lambda request: request.conversation.answer(code, body, head=head)


def page(html: bytes) -> Fault:
    """A web page with status 200: what a login proxy says."""
    return lambda request: request.conversation.answer(200, html, content_type="text/html")


def with_warnings(*texts: str) -> Fault:
    """The true answer, marked as partial."""

    def edited(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "warnings": list(texts)}

    return edited_document(edited)


def emptied(request: Proxied) -> None:
    """Success, and not one series."""
    edited_document(lambda document: {**document, "data": {**document["data"], "result": []}})(request)


def edited_document(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Fault:
    """The true answer with its JSON changed."""

    def fault(request: Proxied) -> None:
        reply = request.asked()
        body = json.dumps(edit(json.loads(reply.body))).encode()
        request.pass_on(Reply(status=reply.status, content_type=reply.content_type, body=body))

    return fault


# ── The proxy ─────────────────────────────────────────────────────────────────────────────────────────────────────


class FaultProxy:
    """One listening address before one server; every request is answered by a fault, `passed_on` at first."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._server = MisbehavingServer(self._converse)
        self._usual: Fault = passed_on
        self._queue: list[Fault] = []
        self._swap = ("", "")
        self.ahead = timedelta(0)
        self.skew = timedelta(0)

    @property
    def url(self) -> str:
        """Its address."""
        return self._server.url

    @property
    def received(self) -> list[Received]:
        """Every request so far."""
        return self._server.received

    def always(self, fault: Fault) -> None:
        """Answer every request with `fault` from now on."""
        self._usual, self._queue = fault, []

    def next(self, *faults: Fault) -> None:
        """Answer the coming requests with these, one each."""
        self._queue += faults

    def refuse(self) -> None:
        """Stop listening: connections are refused from now on."""
        self._server.__exit__()

    def heal(self) -> None:
        """No fault any more; clock and traffic stay as they are."""
        self._usual, self._queue = passed_on, []

    def instead(self, asked: str, told: str) -> None:
        """Answer what is asked of one name with what is measured of another; both must be words of their own."""
        self._swap = (asked, told) if asked != told else ("", "")

    def forward(self, received: Received) -> Reply:
        """Ask the server behind."""
        asked, told = (word.encode() for word in self._swap)
        body = received.body.encode()
        connection = http.client.HTTPConnection(*self._upstream, timeout=ANSWER_WITHIN_S)
        try:
            headers = {name: value for name, value in received.headers.items() if name == "Content-Type"}
            sent = body.replace(asked, told) if asked else body
            connection.request("POST" if body else "GET", received.path, body=sent or None, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        content = content.replace(told, asked) if asked else content
        kind = answer.headers.get("Content-Type", "application/json")
        return Reply(status=answer.status, content_type=kind, body=self._on_our_clock(content))

    def _on_our_clock(self, content: bytes) -> bytes:
        """The sample times of an instant answer, moved on."""
        moved = self.ahead + self.skew
        if not moved:
            return content
        document = json.loads(content)
        for row in document.get("data", {}).get("result", []):
            if "value" in row:
                row["value"][0] += moved.total_seconds()
        return json.dumps(document).encode()

    def _converse(self, conversation: RawConversation) -> None:
        fault = self._queue.pop(0) if self._queue else self._usual
        fault(Proxied(self, conversation))

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()
