"""What is asked over HTTP on this machine: whether a server is healthy, and what gateways have in flight to it.

It answers what was said and never guesses: a gateway that does not answer makes every server's load unknown. It
decides nothing.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

HEALTH_TIMEOUT_S = 2.0
GATEWAY_TIMEOUT_S = 3.0

MOST_BYTES = 4 * 2**20
"""Of one answer: 10,000 backends are 2 MB."""

WORKERS = 8
"""Asked at a time: eight servers that hang cost one time-out, not eight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """What one gateway says of one server."""

    state: str
    requests: float


GatewayAnswer = Mapping[str, InFlight] | None
"""By server address; None where the gateway did not answer."""


def is_healthy(url: str) -> bool:
    """Whether GET /health answers 200 in time."""
    try:
        status, _ = _get(f"{url}/health", timeout_s=HEALTH_TIMEOUT_S)
    except (OSError, http.client.HTTPException):
        return False
    return status == http.client.OK


def in_flight(gateway: str) -> GatewayAnswer:
    """What a gateway's GET /backends says."""
    try:
        status, body = _get(f"{gateway.rstrip('/')}/backends", timeout_s=GATEWAY_TIMEOUT_S)
        if status != http.client.OK:
            return None
        rows: list[dict[str, Any]] = json.loads(body)["backends"]
        return {
            str(row["url"]).rstrip("/"): InFlight(state=str(row["state"]), requests=float(row["in_flight"]))
            for row in rows
        }
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def is_idle(url: str, answers: Sequence[GatewayAnswer]) -> bool | None:
    """Whether a draining server has nothing in flight: every gateway knows that it drains, or knows it not at all.

    None where one of them did not answer, or there is none: unknown is not idle.
    """
    if not answers or any(answer is None for answer in answers):
        return None
    said = [answer[url] for answer in answers if answer is not None and url in answer]
    return all(each.state == "draining" and each.requests <= 0 for each in said)


def load_of(url: str, answers: Sequence[GatewayAnswer]) -> float | None:
    """Requests in flight to a server over all gateways; None where that is not known."""
    if not answers or any(answer is None for answer in answers):
        return None
    return sum(answer[url].requests for answer in answers if answer is not None and url in answer)


class Asker:
    """Asks several at a time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="local-ask")

    def healthy(self, urls: Sequence[str]) -> dict[str, bool]:
        """Health by address."""
        return dict(zip(urls, self._pool.map(is_healthy, urls), strict=True))

    def gateways(self, urls: Sequence[str]) -> tuple[GatewayAnswer, ...]:
        """Every gateway's answer, in order."""
        return tuple(self._pool.map(in_flight, urls))

    def close(self) -> None:
        """Ask no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _get(url: str, *, timeout_s: float) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_BYTES)
    finally:
        connection.close()
