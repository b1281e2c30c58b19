"""The routes by which people order, over a real server on loopback: what they take and in which words they refuse.

Who may order at all is in tests/faults/test_people.py (row 44).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policy_cases import NOON
from scaler.adapters.board import Board
from scaler.adapters.control_desk import ControlDesk
from scaler.adapters.control_file import FILE_NAME, ControlFile
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.watchdog import Health
from scaler.policy.types import Control, Mode, Override, Pause
from scaler.web.app import Sources, create_app
from scaler.web.control import MAX_BODY_BYTES
from scaler.web.server import WebServer

CHAT = "/api/v1/workloads/llm/chat"


class NoRecords:
    def find(self, workload: str, *, at: datetime) -> None:
        return None


@dataclass
class Api:
    port: int
    folder: Path
    stop: Callable[[], None] = lambda: None

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON; a body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
            connection.request(method, path, body=data, headers={"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    @property
    def control(self) -> Control:
        return ControlFile(self.folder).load().of("llm/chat", now=NOON)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    board = Board()
    sources = Sources(
        board=board,
        registry=Telemetry(board).registry,
        health=lambda: Health(alive=True, since=NOON, reason="ticks finish"),
        ready=lambda: True,
        records=NoRecords(),
        desk=ControlDesk(ControlFile(tmp_path), known=lambda: ["llm/chat"]),
        clock=lambda: NOON,
    )
    server = WebServer(create_app(sources), host="127.0.0.1", port=0)
    server.start()
    yield Api(port=server.port, folder=tmp_path, stop=server.stop)
    server.stop()


def test_every_order_and_its_end(api: Api) -> None:
    assert api.send("POST", f"{CHAT}/pause", {"reason": "maintenance", "by": "ana"})[0] == 200
    assert api.control.pause == Pause(since=NOON, by="ana", reason="maintenance")
    assert api.send("DELETE", f"{CHAT}/pause")[0] == 200
    until = NOON + timedelta(hours=2)
    assert api.send("POST", f"{CHAT}/override", {"replicas": 8, "for_s": 7200})[0] == 200
    assert api.control == Control(override=Override(replicas=8, until=until, since=NOON))
    assert api.send("POST", f"{CHAT}/override", {"replicas": 9, "until": until.isoformat()})[0] == 200
    assert api.send("DELETE", f"{CHAT}/override")[0] == 200
    assert api.send("POST", f"{CHAT}/mode", {"mode": "observe"})[0] == 200
    assert api.control.mode is not None
    assert api.control.mode.mode is Mode.OBSERVE
    assert api.send("DELETE", f"{CHAT}/mode")[0] == 200
    assert api.control == Control()


def test_half_an_order_is_none(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as other_end:
        head = f"POST {CHAT}/pause HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        other_end.sendall(f"{head}Content-Length: 20\r\n\r\n{{".encode())
    assert api.send("GET", f"{CHAT}/control")[1]["items"][0]["pause"] is None
    api.stop()
    assert "Exception" not in caplog.text, "and no defect that somebody would look for"


def test_resume_ends_everything_but_the_mode_unless_told(api: Api) -> None:
    api.send("POST", f"{CHAT}/pause", {})
    api.send("POST", f"{CHAT}/mode", {"mode": "observe"})
    status, document = api.send("POST", f"{CHAT}/resume")
    (item,) = document["items"]
    assert (status, item["pause"], item["mode"]["mode"], item["resumed_at"]) == (
        200,
        None,
        "observe",
        "2026-03-02T12:00:00Z",
    )
    assert api.send("POST", f"{CHAT}/resume", {"mode": True})[1]["items"][0]["mode"] is None


def test_the_fleet(api: Api) -> None:
    assert api.send("POST", "/api/v1/pause", {"by": "ana"})[1]["fleet"]["pause"]["by"] == "ana"
    assert api.send("GET", f"{CHAT}/control")[1]["items"][0]["pause"]["source"] == "fleet"
    assert api.send("DELETE", "/api/v1/pause")[1]["fleet"]["pause"] is None
    api.send("POST", f"{CHAT}/pause", {})
    status, document = api.send("GET", "/api/v1/control")
    assert (status, [item["workload"] for item in document["items"]]) == (200, ["llm/chat"])
    assert api.send("POST", "/api/v1/resume", {})[1]["items"] == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        pytest.param(f"{CHAT}/override", {"replicas": 8}, 422, "needs an end", id="no end"),
        pytest.param(
            f"{CHAT}/override", {"replicas": 8, "for_s": 60, "until": "x"}, 422, "needs an end", id="two ends"
        ),
        pytest.param(f"{CHAT}/override", {"replicas": 8, "for_s": True}, 422, "for_s must be a number", id="true"),
        pytest.param(f"{CHAT}/override", {"replicas": 8, "for_s": -1}, 422, "for_s must be a number", id="negative"),
        pytest.param(f"{CHAT}/override", '{"replicas": 8, "for_s": NaN}', 422, "for_s must be a number", id="NaN"),
        pytest.param(f"{CHAT}/override", {"replicas": 8, "for_s": 1e300}, 422, "for_s must be a number", id="absurd"),
        pytest.param(f"{CHAT}/override", {"replicas": 8, "for_s": 9e5}, 422, "7 days at most", id="ten days"),
        pytest.param(f"{CHAT}/override", {"replicas": "8", "for_s": 60}, 422, "a whole number", id="a text"),
        pytest.param(f"{CHAT}/override", {"replicas": 2**40, "for_s": 60}, 422, "must lie in", id="too many"),
        pytest.param(f"{CHAT}/override", {"replicas": 8, "until": "6pm"}, 422, "a moment with its zone", id="6pm"),
        pytest.param(f"{CHAT}/mode", {"mode": "on"}, 422, "one of observe, active", id="no mode"),
        pytest.param(f"{CHAT}/mode", {"mode": "floor"}, 422, "do not say mode: floor", id="a floor that is not known"),
        pytest.param(f"{CHAT}/mode", {}, 422, "one of observe, active", id="mode left out"),
        pytest.param(f"{CHAT}/pause", {"why": "x"}, 422, "unknown key 'why'; there are reason, by", id="misspelt"),
        pytest.param(f"{CHAT}/pause", {"reason": 3}, 422, "reason must be a text", id="no text"),
        pytest.param(f"{CHAT}/pause", [], 422, "must be an object", id="a list"),
        pytest.param(f"{CHAT}/pause", "{", 400, "not JSON", id="half an object"),
        pytest.param(f"{CHAT}/pause", b"\xff\xfe{", 400, "not JSON", id="no text at all"),
        pytest.param(f"{CHAT}/pause", "[" * 16000, 400, "not JSON", id="nested without end"),
        pytest.param(f"{CHAT}/pause", " " * (MAX_BODY_BYTES + 1), 413, "at most", id="too big"),
        pytest.param(f"{CHAT}/resume", {"mode": "yes"}, 422, "mode must be true or false", id="no yes"),
        pytest.param("/api/v1/workloads/llm/chta/pause", {}, 404, "did you mean llm/chat?", id="unknown workload"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_reason(
    api: Api, path: str, body: Any, status: int, words: str
) -> None:
    found, answer = api.send("POST", path, body)
    assert found == status
    assert words in answer["error"]
    assert not (api.folder / FILE_NAME).exists()


def test_a_folder_that_cannot_be_written_is_said(api: Api) -> None:
    (api.folder / FILE_NAME).write_text("{", encoding="utf-8")
    status, answer = api.send("POST", f"{CHAT}/pause", {})
    assert status == 503
    assert "could not be stored" in answer["error"]
    assert "mend it" in answer["error"]


@pytest.mark.parametrize("path", [f"{CHAT}/pause", "/api/v1/resume"])
def test_orders_are_not_read(api: Api, path: str) -> None:
    assert api.send("GET", path)[0] == 405


def test_where_nobody_can_order_anything_there_are_no_such_routes(tmp_path: Path) -> None:
    board = Board()
    sources = Sources(
        board=board,
        registry=Telemetry(board).registry,
        health=lambda: Health(alive=True, since=NOON, reason="ticks finish"),
        ready=lambda: True,
        records=NoRecords(),
    )
    server = WebServer(create_app(sources), host="127.0.0.1", port=0)
    server.start()
    try:
        assert Api(port=server.port, folder=tmp_path).send("POST", f"{CHAT}/pause", {})[0] == 404
    finally:
        server.stop()
