"""One line a request, as JSON: what was asked and what came of it. Never a body, a key, or a header of the client."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

import structlog


class AccessLog(Protocol):
    """Where events go."""

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write one event."""


class NoLog:
    """Writes nothing."""

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Nothing."""


class JsonLog:
    """One JSON object a line, on a stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._logger: Any = structlog.wrap_logger(
            structlog.PrintLogger(stream or sys.stdout),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
            wrapper_class=structlog.BoundLogger,
        )

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write one event; a full disk or a reader that has left costs the line and no request."""
        with contextlib.suppress(OSError, ValueError):
            self._logger.info(name, **facts)
