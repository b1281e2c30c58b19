"""What the gateway must know of an answer that it passes on: its usage, and whether it came to its end.

Server-sent events go on as they came; only the last one, which holds the usage, is looked into. It decides nothing and
does no I/O.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
"""Only the event that carries the usage has none. In a generated text the quotes would be escaped."""

_END = b"data: [DONE]"
_MOST_HELD_BYTES = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one request took, as the replica counted it."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class EventStream:
    """A streamed answer on its way. `strip` takes out the usage event, where the client didn't ask for one."""

    __slots__ = ("_held", "_strip", "complete", "usage")

    def __init__(self, *, strip: bool) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self._strip = strip
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What goes on to the client now: whole events, so that a usage event is never half sent."""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        if not chunk.endswith(b"\n\n"):
            # vLLM ends its events with two line feeds; servers that write carriage returns must not be held back.
            end = max(_after(chunk, b"\n\n"), _after(chunk, b"\r\n\r\n"))
            chunk, self._held = chunk[:end], chunk[end:]
            if len(self._held) > _MOST_HELD_BYTES:
                chunk, self._held = chunk + self._held, b""
        if _END in chunk:
            self.complete = True
        return self._without_usage(chunk) if _NO_CHOICES.search(chunk) else chunk

    def end(self) -> bytes:
        """What is left when the replica is done."""
        rest, self._held = self._held, b""
        return rest

    def _without_usage(self, chunk: bytes) -> bytes:
        kept = []
        for event in chunk.split(b"\n\n"):
            usage = _usage_of(event.removeprefix(b"data:")) if _NO_CHOICES.search(event) else None
            if usage is not None:
                self.usage = usage
            if usage is None or not self._strip:
                kept.append(event)
        return b"\n\n".join(kept)


class WholeAnswer:
    """An answer in one piece; the same interface."""

    __slots__ = ("_pieces", "_size", "complete", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.complete = False
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """Everything goes on."""
        self._size += len(chunk)
        if self._size <= _MOST_HELD_BYTES:
            self._pieces.append(chunk)
        return chunk

    def end(self) -> bytes:
        """Nothing is left; now the usage is known, where the answer was no longer than a mebibyte."""
        self.complete = True
        if self._size <= _MOST_HELD_BYTES:
            self.usage = _usage_of(b"".join(self._pieces))
        return b""


def _after(chunk: bytes, mark: bytes) -> int:
    """Where the last `mark` ends; 0 if there is none."""
    found = chunk.rfind(mark)
    return 0 if found < 0 else found + len(mark)


def _usage_of(text: bytes) -> Usage | None:
    try:
        document: Any = json.loads(text)
        usage = document["usage"]
        details = usage.get("prompt_tokens_details") or {}
        return Usage(
            prompt_tokens=int(usage["prompt_tokens"]),
            output_tokens=int(usage.get("completion_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
