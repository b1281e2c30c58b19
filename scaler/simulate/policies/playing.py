"""How a competitor is played: what it is shown after every bin, what it may remember, and what becomes of its orders.

A rule sees one workload's load after every bin and answers how many replicas to order; it is a function of what it
saw and of the memory it returned before. A planner is the same with a longer view: the past, the pods, the clock. A
plan sees the whole window at once. Nothing here decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scaler.policy.capacity import replicas_for
from scaler.simulate.cluster import Pods
from scaler.simulate.scoring import Course

if TYPE_CHECKING:
    from forecaster.types import FloatArray

Memory = tuple[Any, ...]
"""What a competitor remembers, such as its recent recommendations, newest last: its own business, () at first."""

DEFAULT_UTILISATION = 0.7


class Rule(Protocol):
    """A policy that reacts to what it sees."""

    @property
    def name(self) -> str:
        """The policy as it is asked for, such as "hpa-plain:0.7"."""
        ...

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """Replicas to order after a bin with `load` (in exactly full replicas) and `replicas` ordered before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLatency:
    """What the newest bin's metrics say of one request class: seconds, NaN where nothing is known."""

    request_class: str
    ttft_mean_s: float = math.nan
    ttft_p90_s: float = math.nan
    itl_mean_s: float = math.nan
    itl_p90_s: float = math.nan
    ttft_slo_s: float = math.nan
    """The target for the time to the first token; NaN: the class has none."""
    itl_slo_s: float = math.nan
    """The target for the time between tokens; NaN: the class has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a planner is shown after a bin."""

    at: datetime
    """End of the newest bin."""
    past: FloatArray
    """Loads up to now in exactly full replicas, newest last, NaN unknown; the newest is known. Not to be written to."""
    step: timedelta
    """Width of a bin."""
    cold_start_bins: int
    ordered: int
    """Pods that serve or start."""
    ready: int
    """Pods that served in the newest bin: a new one counts from its first full bin on."""
    latency: tuple[ClassLatency, ...] = ()
    """Latencies by class; empty where the protocol has no latencies to show."""
    waiting: float = math.nan
    """Requests that wait, over all replicas; NaN where the protocol has no queue."""
    running: float = math.nan
    """Requests that are being served, over all replicas; NaN likewise."""

    @property
    def load(self) -> float:
        """The newest bin's load."""
        return float(self.past[-1])


class Planner(Protocol):
    """A policy that looks back further than one bin, or at the clock."""

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """Replicas to order now, at least 1."""
        ...


Plan = Callable[["FloatArray", int], Course]
"""A policy that knows the window's whole load, given the cold start in bins."""


def replay(policy: Rule, load: FloatArray, *, cold_start_bins: int, seen: FloatArray | None = None) -> Course:
    """Run a rule over `load` (in exactly full replicas, NaN unknown), from ceil(first load / 0.7) replicas on.

    It decides after each bin on what is `seen` (the load itself unless metrics went dark), and holds after a bin
    that it cannot see.
    """
    shown = (load if seen is None else seen).tolist()

    def decide(index: int, pods: Pods, memory: Memory) -> tuple[int, Memory]:
        return policy.decide(shown[index], pods.ordered, memory)

    return _played(decide, load, known=np.isfinite(shown).tolist(), cold_start_bins=cold_start_bins)


def replay_planner(
    policy: Planner,
    load: FloatArray,
    *,
    start: datetime,
    step: timedelta,
    cold_start_bins: int,
    history: FloatArray | None = None,
) -> Course:
    """Run a planner over `load`, whose first bin begins at `start`; `history` are the loads before it.

    As `replay`: it opens with ceil(first load / 0.7) replicas and holds after a bin that is not known.
    """
    past = load if history is None else np.concatenate([history, load])
    before = past.size - load.size

    def decide(index: int, pods: Pods, memory: Memory) -> tuple[int, Memory]:
        sight = Sight(
            at=start + step * (index + 1),
            past=past[: before + index + 1],
            step=step,
            cold_start_bins=cold_start_bins,
            ordered=pods.ordered,
            ready=pods.serving,
        )
        return policy.decide(sight, memory)

    return _played(decide, load, known=np.isfinite(load).tolist(), cold_start_bins=cold_start_bins)


def _played(
    decide: Callable[[int, Pods, Memory], tuple[int, Memory]],
    load: FloatArray,
    *,
    known: list[bool],
    cold_start_bins: int,
) -> Course:
    pods = Pods(serving=opening_replicas(load))
    before = pods.ordered
    memory: Memory = ()
    serving, billed = np.empty(load.size, dtype=np.int64), np.empty(load.size, dtype=np.int64)
    for index, visible in enumerate(known):
        pods = pods.at(index)
        serving[index], billed[index] = pods.serving, pods.ordered
        if visible:
            target, memory = decide(index, pods, memory)
            pods = pods.scaled(target, after_bin=index, cold_start_bins=cold_start_bins)
    return Course(load=load, serving=serving, billed=billed, before=before)


def opening_replicas(load: FloatArray) -> int:
    """What a window opens with: ceil(first known load / 0.7), at least 1."""
    known = load[np.isfinite(load)]
    return max(1, replicas_for(float(known[0]), utilisation=DEFAULT_UTILISATION)) if known.size else 1


def bins_of(seconds: float, step: timedelta) -> int:
    """Bins that a span covers, the last one begun counting whole; at least 1."""
    return max(1, math.ceil(seconds / step.total_seconds() - 1e-9))
