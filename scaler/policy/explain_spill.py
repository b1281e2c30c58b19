"""What spills over between pools, in words: for an explanation, the state table and the API alike.

Pure rendering of inflows that were already told; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from scaler.policy.types import Inflow, Reason

LIMITS: Final[dict[Reason, str]] = {
    Reason.AT_MAX: "its maximum",
    Reason.GPU_BUDGET: "the fleet's GPU budget",
    Reason.UNSCHEDULABLE: "pods that find no GPU",
    Reason.BLIND_REPLICAS: "it does not exist",
    Reason.HANDS_OFF: "somebody scaled it to zero",
    Reason.PAUSED: "it is paused",
    Reason.OVERRIDE: "an override",
    Reason.HELD_MANUAL: "somebody's change by hand",
    Reason.HELD_CONFLICT: "another writer",
}
"""What holds a pool at the replicas that it may come to have, by the limit that is told with an inflow."""

_BLIND: Final = "it cannot be told now: what it spilled last counts, and nothing is released"


def inflow_text(inflow: Inflow) -> str:
    """What comes over at this moment and what is planned for, and what holds the other pool."""
    parts = [
        f"{each.request_class} {each.now_rps:.4g} requests/s now, {each.planned_rps:.4g} to be ready for"
        for each in inflow.classes
    ]
    if inflow.reach is not None:
        replicas = "replica" if inflow.reach == 1 else "replicas"
        parts.append(f"it may have {inflow.reach} {replicas} ({LIMITS[inflow.limit]})")
    if inflow.blind:
        parts.append(_BLIND)
    return "; ".join(parts)


def foreseen_texts(inflow: Inflow, at: datetime) -> Iterator[str]:
    """What of its forecast will come over at `at`, by class."""
    for each in inflow.classes:
        if each.forecast is not None:
            quantiles = each.forecast.forecast.levels(at)
            shown = f"50 % {quantiles[0]:.4g}, 95 % {quantiles[2]:.4g}"
            yield f"{each.request_class} from {inflow.sender}, at {at:%H:%M:%S}: {shown} requests/s"
