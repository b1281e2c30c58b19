"""Why a request is not served, in the form that OpenAI's clients understand.

A refusal is a value that the shell turns into an answer. It never holds a key, a body or a header of the client.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum


class Reason(StrEnum):
    """The machine reason of a refusal: the `code` of the error and a label of the metrics."""

    BAD_REQUEST = "invalid_request"
    BAD_IMAGE = "invalid_image"
    TOO_LARGE = "request_too_large"
    BODY_TIMEOUT = "request_timeout"
    NO_KEY = "invalid_api_key"
    RATE_LIMITED = "rate_limit_exceeded"
    TOO_MANY_AT_ONCE = "too_many_concurrent_requests"
    UNKNOWN_MODEL = "model_not_found"
    ASLEEP = "model_asleep"
    NO_BACKEND = "no_healthy_backend"
    QUEUE_FULL = "queue_full"
    WAITED_TOO_LONG = "queue_deadline"
    SHED = "shed"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_SILENT = "upstream_timeout"


STATUS: dict[Reason, int] = {
    Reason.BAD_REQUEST: 400,
    Reason.BAD_IMAGE: 400,
    Reason.TOO_LARGE: 413,
    Reason.BODY_TIMEOUT: 408,
    Reason.NO_KEY: 401,
    Reason.RATE_LIMITED: 429,
    Reason.TOO_MANY_AT_ONCE: 429,
    Reason.UNKNOWN_MODEL: 404,
    # Never 404: a client that hears "no such model" gives up, one that hears 503 and Retry-After comes back.
    Reason.ASLEEP: 503,
    Reason.NO_BACKEND: 503,
    Reason.QUEUE_FULL: 503,
    Reason.WAITED_TOO_LONG: 503,
    Reason.SHED: 503,
    Reason.UPSTREAM_FAILED: 502,
    Reason.UPSTREAM_SILENT: 504,
}

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error"}


class Refusal(Exception):
    """This request gets no answer from a replica; `retry_after_s` is when trying again makes sense, if it does."""

    def __init__(self, reason: Reason, message: str, *, retry_after_s: float | None = None) -> None:
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(f"{reason}: {message}")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.reason]

    @property
    def retry_after(self) -> int | None:
        """Whole seconds for `Retry-After`, at least one: 0 would invite a storm."""
        return None if self.retry_after_s is None else max(1, math.ceil(self.retry_after_s))

    def body(self) -> bytes:
        """The answer's body."""
        kind = _TYPES.get(self.status, "rate_limit_error" if self.status == 429 else "server_error")
        kind = "invalid_request_error" if self.status in (408, 413) else kind
        error = {"message": self.message, "type": kind, "param": None, "code": self.reason.value}
        return json.dumps({"error": error}).encode()
