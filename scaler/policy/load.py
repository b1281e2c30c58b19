"""The load rule: enough replicas for the demand of now. Always on; the only rule whose fall lets replicas fall.

It leaves a margin of its own only as far as no trusted forecast carries one. It never looks at latency, GPUs or the
clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaler.policy.capacity import CapacityProfile, replicas_for
from scaler.policy.types import Proposal, Reason, Snapshot, demand_of

RULE = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRule:
    """Parameters of the load rule."""

    target_utilisation: float = 0.7
    """Share of a replica's capacity to fill while no forecast can be trusted to carry the margin, 0 < ρ ≤ 1. Meant for
    the default target of 1 % missed minutes; another target asks for more or less margin (`propose`)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.target_utilisation <= 1.0:
            raise ValueError(f"load.target_utilisation must lie in (0, 1], got {self.target_utilisation}")


def planned_utilisation(rule: LoadRule, *, doubt: float, margin_ratio: float = 1.0) -> float:
    """ρ, the share of a replica's capacity that is filled: 1 where the forecast carries the margin, see `propose`."""
    full = rule.target_utilisation
    alone = full / (full + margin_ratio * (1.0 - full))
    return 1.0 - doubt * (1.0 - alone)


def propose(
    snapshot: Snapshot, rule: LoadRule, profile: CapacityProfile, *, doubt: float, margin_ratio: float = 1.0
) -> Proposal | None:
    """ceil(demand / (ρ · max_rps)) over the classes; None while demand is unknown.

    `doubt` says how much of the margin the forecast does not carry: ρ falls from 1 (none: a second margin on top of
    the forecast's costs 4 to 7 % GPU-hours on smooth traffic and prevents nothing there) to `target_utilisation`
    (all of it). At 0.7 a doubt of 0.5 leaves 15 % free. `margin_ratio` (`MissTarget.margin_ratio`) scales the room
    above the demand, 1/0.7 - 1 = 43 %, by the misses that are allowed: 24 % at a target of 10 %, ρ = 0.81.
    """
    demand_rps = demand_of(snapshot.classes)
    if demand_rps is None:
        return None
    utilisation = planned_utilisation(rule, doubt=doubt, margin_ratio=margin_ratio)
    load = profile.load(demand_rps)
    replicas = replicas_for(load, utilisation=utilisation)
    return Proposal(
        rule=RULE,
        want=replicas,
        keep=replicas,
        reason=Reason.LOAD,
        detail=f"{sum(demand_rps.values()):.6g} rps fill {load:.3f} replicas, at most {utilisation:.0%} each",
    )
