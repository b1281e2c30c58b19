"""One request through the simulated servers, and what became of it.

Whoever serves it fills it in; it decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    REJECTED = "rejected"
    """Never entered a replica; set by whoever routes."""
    ABORTED = "aborted"
    """Entered a replica and did not finish: the replica was killed, or the client left."""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request and what became of it. Times are seconds since the run's start, NaN until they are known."""

    request_class: str
    arrived_s: float
    """When it reached the front door."""
    input_tokens: int
    """Prompt tokens, those of images included; at least 1."""
    output_tokens: int
    """Tokens it will generate; at least 1, as vLLM's max_tokens."""
    image_tokens: int = 0
    routed_s: float = math.nan
    """When it was given to its replica."""
    scheduled_s: float = math.nan
    """When its replica first began to compute it; a preemption does not change it."""
    first_token_s: float = math.nan
    finished_s: float = math.nan
    preemptions: int = 0
    """How often it lost its place in its replica to a full KV cache."""
    status: Status = Status.WAITING
    emitted_tokens: int = 0
    """Tokens generated so far; brought up to date when it is preempted, aborted or finished."""
    last_token_s: float = math.nan
    """Last token before a preemption."""

    @property
    def queue_s(self) -> float:
        """In the replica's queue before it was first scheduled, seconds; NaN before that."""
        return self.scheduled_s - self.routed_s

    @property
    def ttft_s(self) -> float:
        """Front door to first token, seconds; NaN before it."""
        return self.first_token_s - self.arrived_s

    @property
    def e2e_s(self) -> float:
        """Front door to last token, seconds; NaN before it."""
        return self.finished_s - self.arrived_s

    @property
    def itl_s(self) -> float:
        """Mean time between two tokens, seconds; NaN while unfinished or with a single token."""
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1) if self.output_tokens > 1 else math.nan
