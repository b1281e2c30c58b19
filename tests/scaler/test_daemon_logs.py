"""Logs are JSON lines with keys, and no secret gets into them: not by key, not in a URL, not in an error's text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from scaler.adapters import logs


@pytest.fixture
def lines() -> Iterator[Any]:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers, root.level
    logs.configure(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        pytest.param({"token": "abc123"}, {"token": "[redacted]"}, id="a token by its key"),
        pytest.param({"Authorization": "x"}, {"Authorization": "[redacted]"}, id="a header"),
        pytest.param({"prompt_tokens_per_s": 5}, {"prompt_tokens_per_s": 5}, id="tokens of a model are no secret"),
        pytest.param(
            {"url": "http://me:pass@prom:9090/x"}, {"url": "http://[redacted]@prom:9090/x"}, id="a password in a URL"
        ),
        pytest.param(
            {"detail": "sent Authorization: Bearer eyJhbGciOi.x.y"},
            {"detail": "sent Authorization: Bearer [redacted]"},
            id="a bearer token in a text",
        ),
        pytest.param(
            {"error": ValueError("http://me:pass@prom")},
            {"error": "ValueError: http://[redacted]@prom"},
            id="in an error",
        ),
    ],
)
def test_no_secret_is_logged(lines: Any, keys: dict[str, Any], kept: dict[str, Any]) -> None:
    logs.logger().warning("it_failed", **keys)
    (line,) = lines()
    assert {key: line[key] for key in keys} == kept
    assert (line["event"], line["level"]) == ("it_failed", "warning")
    assert line["timestamp"].endswith("Z")


def test_a_traceback_tells_the_place_and_no_secret(lines: Any) -> None:
    token = "http://me:hunter2@prom"
    try:
        raise RuntimeError(f"cannot reach {token}")
    except RuntimeError as error:
        logs.logger().error("job_failed", exc_info=error)
    (line,) = lines()
    assert "test_a_traceback_tells_the_place" in line["exception"]
    assert "hunter2" not in json.dumps(line)


def test_warnings_of_libraries_come_the_same_way_and_their_chatter_does_not(lines: Any) -> None:
    logging.getLogger("apscheduler.scheduler").info("Added job")
    logging.getLogger("urllib3").warning("retrying http://me:hunter2@prom")
    (line,) = lines()
    assert (line["logger"], line["event"]) == ("urllib3", "retrying http://[redacted]@prom")
