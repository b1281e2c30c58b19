"""How a request's body comes in: within its size and its time, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Receive

from inference.gateway.refusals import Reason, Refusal
from inference.gateway.settings import Limits

LINGER_S = 2.0
"""How long the rest of a refused body is read and thrown away, so that its sender gets to read the answer: closing at
once would make its kernel drop an answer that has already come."""


class ClientGone(Exception):
    """The client left before its request was complete."""


async def receive_body(receive: Receive, limits: Limits, *, announced: str | None) -> bytes:
    """The whole body. Raises `Refusal` (413, 408) and `ClientGone`."""
    if announced is not None and announced.isdigit() and int(announced) > limits.max_body_bytes:
        raise _too_large(limits)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece: bytes = message.get("body", b"")
                size += len(piece)
                if size > limits.max_body_bytes:
                    raise _too_large(limits)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        message_text = f"the body did not come within {limits.body_timeout_s:g} s"
        raise Refusal(Reason.BODY_TIMEOUT, message_text) from None


async def linger(receive: Receive) -> None:
    """Throw away what still comes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass


def _too_large(limits: Limits) -> Refusal:
    return Refusal(Reason.TOO_LARGE, f"the body is longer than {limits.max_body_bytes} bytes")
