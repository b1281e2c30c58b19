"""In which order a tick's changes are written: growth before releases, but first the releases that growth waits for.

It orders what was decided and decides nothing. GPUs are counted as if any fitted any workload: where that is wrong, a
release that goes first comes a few milliseconds early, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One decided change: from `current` to `target` replicas of `gpus` each."""

    workload: str
    current: int
    target: int
    gpus: int
    priority: int


def steps(changes: Sequence[Change], *, missing_gpus: int) -> tuple[tuple[str, ...], ...]:
    """Workloads in steps: all of one step before any of the next; the same for the same changes in any order.

    `missing_gpus` is what growth lacks: cut by the GPU budget, or pods that no node has a GPU for. So much is released
    first, of the lowest priority on; then growth, highest priority first; then the other releases, lowest first.
    """
    releases = sorted((each for each in changes if each.target < each.current), key=lambda c: (c.priority, c.workload))
    needed: list[Change] = []
    while releases and sum((each.current - each.target) * each.gpus for each in needed) < missing_gpus:
        needed.append(releases.pop(0))
    growth = sorted((each for each in changes if each.target > each.current), key=lambda c: (-c.priority, c.workload))
    return (*_by_priority(needed), *_by_priority(growth), *_by_priority(releases))


def _by_priority(ordered: Iterable[Change]) -> list[tuple[str, ...]]:
    return [tuple(each.workload for each in same) for _, same in groupby(ordered, key=lambda c: c.priority)]
