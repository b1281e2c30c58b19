"""How a replica is asked: one pooled HTTP client, and what each of its failures means.

aiohttp's client rather than httpx's: a streamed answer costs it a fifth of the CPU time (docs/decisions/0018).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum

import aiohttp

from inference.gateway.settings import Upstream

KEEP_ALIVE_S = 4.0
"""Below the five seconds after which uvicorn, and so vLLM, closes an idle connection: a request that meets the close
would have to be sent again."""

STOOD_STILL_S = 0.25
"""A timer that fires so long after its time says that this process stood still, not that a replica did: on a machine
without a free core the connection may have come long ago. Three such failures at once would take a replica out, and
every replica with it. A loop that runs is late by a few milliseconds."""

STALLS = 3
"""So often a connection is made again after one; a process that never runs in time must say so at last."""

_READ_BUFFER_BYTES = 65_536
_MOST_DOCUMENT_BYTES = 1_048_576


class Failure(StrEnum):
    """What a replica did instead of answering."""

    REFUSED = "refused"
    """No connection: it never saw the request."""
    BROKE_OFF = "broke_off"
    """The connection ended before the answer did."""
    SILENT = "silent"
    """Nothing came for too long."""


class UpstreamError(Exception):
    """A replica failed; `failure` says how."""

    def __init__(self, failure: Failure, detail: str) -> None:
        self.failure = failure
        super().__init__(f"{failure}: {detail}")


def translated(error: Exception) -> UpstreamError:
    """The client library's error in the gateway's words."""
    detail = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return UpstreamError(Failure.REFUSED, detail)
    if isinstance(error, TimeoutError):
        return UpstreamError(Failure.SILENT, detail)
    return UpstreamError(Failure.BROKE_OFF, detail)


FAILURES = (aiohttp.ClientError, TimeoutError, ConnectionError)
"""What the client library raises where a replica failed."""


class Client:
    """The connections to all replicas. Create it inside the event loop, and close it."""

    def __init__(self, rule: Upstream, *, api_key: str | None) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=rule.connect_timeout_s, sock_read=rule.silence_timeout_s
        )
        self._connect_timeout_s = rule.connect_timeout_s
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(
            # No limit here: how many requests a replica holds is the fleet's business.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=30),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept", "accept-encoding"),
            read_bufsize=_READ_BUFFER_BYTES,
        )

    async def ask(self, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Send a request; answers once status and headers are there. Raises `UpstreamError`."""
        stalls_left = STALLS
        while True:
            began_s = time.monotonic()
            try:
                return await self._session.post(
                    url.rstrip("/") + path, data=body, headers={**headers, **self._headers}, allow_redirects=False
                )
            except FAILURES as error:
                unheard = isinstance(error, aiohttp.ConnectionTimeoutError)
                if not (unheard and stalls_left and _stood_still(began_s, self._connect_timeout_s)):
                    raise translated(error) from error
                stalls_left -= 1  # the replica never saw the request, so it may be sent again

    async def probe(self, url: str, path: str, *, timeout_s: float) -> bool | None:
        """Whether a replica says that it is well; None: this process stood still and cannot tell."""
        began_s = time.monotonic()
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.get(url.rstrip("/") + path, timeout=timeout, allow_redirects=False) as answer:
                return answer.status == 200
        except TimeoutError:
            return None if _stood_still(began_s, timeout_s) else False
        except FAILURES:
            return False

    async def fetch(self, url: str, *, token: str | None, timeout_s: float) -> str:
        """A document of another server's; raises `OSError` with what is wrong where there is none."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise OSError(f"it answers {answer.status}")
                body = bytearray()
                async for part in answer.content.iter_chunked(_READ_BUFFER_BYTES):
                    body += part
                    if len(body) > _MOST_DOCUMENT_BYTES:
                        raise OSError(f"it answers more than {_MOST_DOCUMENT_BYTES} bytes")
                return body.decode("utf-8")
        except FAILURES as error:
            raise OSError(f"no answer: {type(error).__name__}") from error

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()


def _stood_still(began_s: float, timeout_s: float) -> bool:
    """Whether a timer that began then was heard long after its time."""
    return time.monotonic() - began_s > timeout_s + STOOD_STILL_S
