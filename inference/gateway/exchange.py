"""One request on its way through the gateway: what is known of it, and the one way in which it can be given up."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from starlette.types import Send

from inference.gateway.admission import PUBLIC, Tenant
from inference.gateway.body import Body
from inference.gateway.classify import DEFAULT, ClassRule
from inference.gateway.degradation import Level
from inference.gateway.replica import Replica
from inference.gateway.streaming import Usage

_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)

Headers = list[tuple[bytes, bytes]]


class Outcome(StrEnum):
    """How a request ended."""

    SERVED = "served"
    CACHED = "cached"
    REFUSED = "refused"
    CLIENT_LEFT = "client_left"
    CLIENT_SLOW = "client_slow"
    CUT_OFF = "cut_off"
    """The replica failed after its first byte: the client has half an answer, and knows it."""
    STOPPED = "stopped"
    """The gateway itself was told to end."""


class Exchange:
    """The mutable record of one request; one task owns it."""

    __slots__ = (
        "abandoned_as", "began_s", "body", "cache", "changes", "first_byte_s", "level", "model", "outcome", "queued_s",
        "reason", "replica", "request_class", "request_headers", "request_id", "sending_since_s", "sent_bytes",
        "started", "status", "task", "tenant", "usage", "variant",
    )  # fmt: skip

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], *, now_s: float) -> None:
        self.request_headers: dict[bytes, bytes] = dict(headers)
        given = self.request_headers.get(b"x-request-id", b"")
        # Only what cannot break a header or a log line is taken over.
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.began_s = now_s
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.body: Body | None = None
        self.tenant: Tenant = PUBLIC
        self.request_class: ClassRule = DEFAULT
        self.model = ""
        self.variant = ""
        self.level = Level.FULL
        self.changes: tuple[str, ...] = ()
        self.cache = ""
        self.reason = ""
        self.replica: Replica | None = None
        self.queued_s = 0.0
        self.first_byte_s: float | None = None
        self.started = False
        self.sending_since_s: float | None = None
        self.sent_bytes = 0
        self.status = 0
        self.usage: Usage | None = None
        self.outcome = Outcome.STOPPED
        self.abandoned_as: Outcome | None = None

    def header(self, name: bytes) -> str | None:
        """A header of the client; what is no ASCII is read as if it were not there."""
        value = self.request_headers.get(name)
        return value.decode("ascii") if value is not None and value.isascii() else None

    def abandon(self, outcome: Outcome) -> None:
        """Give the request up: its task is cancelled, and with it the answer of the replica."""
        if self.abandoned_as is None and self.task is not None:
            self.abandoned_as = outcome
            self.task.cancel()

    def response_headers(self) -> Headers:
        """What the gateway says of this answer. Every value is the gateway's own, none the client's."""
        headers: Headers = [(b"x-request-id", self.request_id.encode())]
        told: Mapping[bytes, str] = {
            b"x-headstart-class": self.request_class.name if self.body is not None else "",
            b"x-headstart-model": self.variant,
            b"x-headstart-backend": self.replica.backend.url if self.replica is not None else "",
            b"x-headstart-cache": self.cache,
            b"x-headstart-degradation": "; ".join([str(int(self.level)), *self.changes]) if self.model else "",
        }
        headers.extend((name, value.encode()) for name, value in told.items() if value)
        return headers

    async def start(self, status: int, headers: Headers, send: Send) -> None:
        """Send the answer's head."""
        self.started, self.status = True, status
        headers = [*headers, *self.response_headers()]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, send: Send, *, more: bool, now_s: float) -> None:
        """Send a part of the answer. Whoever sweeps sees since when it has waited for the client."""
        self.sent_bytes += len(body)
        self.sending_since_s = now_s
        await send({"type": "http.response.body", "body": body, "more_body": more})
        self.sending_since_s = None

    def facts(self, *, now_s: float) -> dict[str, Any]:
        """The line of the access log."""
        facts: dict[str, Any] = {
            "request_id": self.request_id,
            "tenant": self.tenant.name,
            "priority": self.tenant.priority.value,
            "model": self.model,
            "request_class": self.request_class.name,
            "status": self.status,
            "outcome": self.outcome.value,
            "duration_ms": round((now_s - self.began_s) * 1000, 1),
            "bytes": self.sent_bytes,
        }
        optional = {
            "reason": self.reason,
            "served_by": self.variant,
            "backend": self.replica.backend.url if self.replica is not None else None,
            "cache": self.cache,
            "level": int(self.level),
            "changes": list(self.changes),
            "queued_ms": round(self.queued_s * 1000, 1),
            "first_byte_ms": None if self.first_byte_s is None else round(self.first_byte_s * 1000, 1),
            "images": len(self.body.images) if self.body is not None else 0,
            "prompt_tokens": self.usage.prompt_tokens if self.usage is not None else None,
            "output_tokens": self.usage.output_tokens if self.usage is not None else None,
        }
        return facts | {name: value for name, value in optional.items() if value}
