"""Which pods of a workload should go when some go: not Ready before Ready, idle before busy, young before old.

It ranks and decides nothing else: how many go is the decision's, and the cluster's own controller removes them. A pod
whose requests cannot be counted is taken for the busiest: unknown is not idle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One pod: whether it is Ready, its running and waiting requests (None: unknown), and its age.

    `own_cost` is a deletion cost that somebody else gave it: below 0 the controller removes it before ours, from 0 on
    after them; either way it is not ours to change.
    """

    pod: str
    ready: bool
    created_at: datetime
    in_flight: float | None = None
    own_cost: int | None = None


def costs(candidates: Sequence[Candidate], *, leaving: int) -> dict[str, int]:
    """The deletion cost of each pod that should be among the `leaving`: -leaving for the first to go, up to -1.

    Pods without one count 0 for the controller and go later. Those that somebody else sent first are among the
    leaving; with as many of these nobody else is named.
    """
    sent = sum(each.own_cost is not None and each.own_cost < 0 for each in candidates)
    free = sorted((each for each in candidates if each.own_cost is None), key=_order)
    return {each.pod: place - leaving for place, each in enumerate(free[: max(0, leaving - sent)], start=sent)}


def _order(candidate: Candidate) -> tuple[bool, float, float, str]:
    busy = math.inf if candidate.in_flight is None else candidate.in_flight
    return candidate.ready, busy, -candidate.created_at.timestamp(), candidate.pod
