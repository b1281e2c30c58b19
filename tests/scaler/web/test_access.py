"""Who is heard, where a real server on loopback cannot show it: requests as they come from other machines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from scaler.web.access import AccessGuard

PAUSE = "/api/v1/workloads/llm/chat/pause"


def asked(
    method: str, path: str, client: tuple[str, int] | None, *, token_file: Path | None = None, sent: bytes = b""
) -> int:
    """The status that a request from `client` is answered with; 200 where it is passed on."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    guard = AccessGuard(PlainTextResponse("passed on"), token_file=token_file)
    headers = [(b"host", b"10.0.0.7:8090"), *([(b"authorization", sent)] if sent else ())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": client}
    asyncio.run(guard(scope, receive, send))
    return int(told[0]["status"])


@pytest.mark.parametrize(
    ("client", "status"),
    [
        pytest.param(("127.0.0.1", 40000), 200, id="this machine"),
        pytest.param(("127.3.2.1", 40000), 200, id="another of its own addresses"),
        pytest.param(("::1", 40000), 200, id="this machine, by IPv6"),
        pytest.param(("10.0.0.9", 40000), 403, id="another pod"),
        pytest.param(("::ffff:10.0.0.9", 40000), 403, id="another pod, as a dual-stack socket sees it"),
        pytest.param(("unix", 0), 403, id="no address"),
        pytest.param(None, 403, id="nobody knows"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_without_a_token_only_this_machine_may_order(method: str, client: tuple[str, int] | None, status: int) -> None:
    assert asked(method, PAUSE, client) == status
    assert asked("GET", "/metrics", client) == 200, "reading is what the listening address decides"


@pytest.mark.parametrize(
    ("path", "method", "sent", "status"),
    [
        pytest.param(PAUSE, "POST", b"Bearer s3cret", 200, id="an order with the token"),
        pytest.param(PAUSE, "POST", b"", 401, id="an order without"),
        pytest.param("/metrics", "GET", b"", 401, id="reading without"),
        pytest.param("/healthz", "GET", b"", 200, id="a probe"),
        pytest.param("/readyz", "GET", b"", 200, id="another probe"),
        pytest.param("/healthz", "POST", b"Bearer s3cret", 405, id="nothing can be ordered there"),
    ],
)
def test_with_a_token_other_machines_may_too(tmp_path: Path, path: str, method: str, sent: bytes, status: int) -> None:
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    assert asked(method, path, ("10.0.0.9", 40000), token_file=tmp_path / "token", sent=sent) == status
