"""How slow a replica gets: a latency curve with its knee at capacity, and a queue that carries over.

Deliberately simple: enough for the latency rule to have something true to see. A bin's traffic is a fluid, the
capacity of all replicas is one, and who has waited longer than the client's patience gives up. It never decides
whether a bin counts as missed; that is the protocol's comparison of load and capacity (`scoring`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLatency:
    """The end-to-end P95 of one replica, from idle to exactly full."""

    idle_p95_s: float = 0.45
    """95th percentile at next to no load, seconds."""
    full_p95_s: float = 1.2
    """The same at exactly the rate the profile promises: by its definition the SLO."""
    knee: float = 4.0
    """How late the curve bends: p95 = idle + (full - idle) · utilisation^knee; at 80 % and 4, 41 % of the way."""
    patience_s: float = 60.0
    """After so long in the queue a client gives up; it bounds the backlog."""

    def __post_init__(self) -> None:
        if not 0.0 < self.idle_p95_s <= self.full_p95_s:
            raise ValueError(f"need 0 < idle_p95_s ≤ full_p95_s seconds, got {self.idle_p95_s} and {self.full_p95_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One bin after it flowed: requests still waiting at its end, the P95 in it, and how many requests came."""

    backlog: float
    p95_s: float
    arrived: float


def serve(arriving_rps: float, *, capacity_rps: float, backlog: float, bin_s: float, latency: ReplicaLatency) -> Served:
    """Let one bin of `bin_s` seconds flow: `arriving_rps` on top of `backlog` waiting requests.

    The P95 is the curve at the utilisation of the bin (at most 1) plus the longer of the waits at its two ends.
    With nothing serving, everybody waits until they lose patience.
    """
    arrived = arriving_rps * bin_s
    if capacity_rps <= 0.0:
        waiting = min(backlog + arrived, arriving_rps * latency.patience_s)
        return Served(backlog=waiting, p95_s=latency.full_p95_s + latency.patience_s, arrived=arrived)
    work = backlog + arrived
    left = min(max(0.0, work - capacity_rps * bin_s), capacity_rps * latency.patience_s)
    utilisation = min(1.0, work / (capacity_rps * bin_s))
    p95_s = latency.idle_p95_s + (latency.full_p95_s - latency.idle_p95_s) * utilisation**latency.knee
    return Served(backlog=left, p95_s=p95_s + max(backlog, left) / capacity_rps, arrived=arrived)
