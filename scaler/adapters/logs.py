"""Structured logs: JSON lines on stderr, with secrets cut out on their way.

Called by the shell alone. An event has a name and keys; it never carries a rule. The journal is the record of
decisions, the log says what changed and what failed.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

REDACTED = "[redacted]"

_SECRET_KEYS = re.compile(r"(^|_)(token|password|passwd|secret|authori[sz]ation|api_?key|cookie)($|_)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s:@]*:[^/\s@]*@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")

Event = MutableMapping[str, Any]


def redacted(text: str) -> str:
    """`text` without passwords in URLs and without credentials of an Authorization header."""
    text = _URL_PASSWORD.sub(rf"\g<scheme>{REDACTED}@", text)
    return _BEARER.sub(rf"\g<1> {REDACTED}", text)


def _redact(_: object, __: str, event: Event) -> Event:
    """The processor that runs last before rendering: nothing is added after it."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = REDACTED
        elif isinstance(value, str):
            event[key] = redacted(value)
        elif isinstance(value, BaseException):
            event[key] = redacted(f"{type(value).__name__}: {value}")
    return event


def configure(*, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send every event, and the warnings of the libraries in use, to `stream` (stderr) as one JSON object a line.

    Tracebacks are texts without local variables: those may hold tokens.
    """
    out = stream or sys.stderr
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(default=str)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    renderer = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(renderer)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))


def logger() -> Any:
    """The bound logger of the shell."""
    return structlog.get_logger()
