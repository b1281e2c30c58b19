"""A workload's place among the variants of its model, in words. Pure rendering, as `scaler.policy.explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scaler.policy.types import Decision, Snapshot, VariantReason

WHY: Final[dict[VariantReason, str]] = {
    VariantReason.FIRST: "it is the first choice: the best that copes, or the one that carries most",
    VariantReason.COPES: "it copes with the demand, and no better one has had room",
    VariantReason.TOO_SLOW: "the better one has needed more GPUs than there are for long enough",
    VariantReason.WAITS_DOWN: "it needs more GPUs than there are, not yet for long enough to hand over",
    VariantReason.ROOM: "it has had room for the demand and more, for long enough",
    VariantReason.WAITS_UP: "a better one has room, not yet for long enough to take over again",
    VariantReason.NOTHING_COPES: "no variant copes with the demand on these GPUs",
    VariantReason.BLIND_DEMAND: "the demand is unknown, so the variants stay as they are",
    VariantReason.FROZEN: "the group is out of our hands, so the variants stay as they are",
}
"""Why a variant serves, as the end of "… serves because"."""


def variant_lines(decision: Decision, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Who serves and why, and what that leaves to this workload, by topic; nothing where it is no variant."""
    place = snapshot.variant
    if place is None:
        return
    who = "this variant serves" if place.chosen == decision.workload else f"{place.chosen or 'none'} serves"
    detail = f" ({place.detail})" if place.detail else ""
    bounds = "" if place.most is None else f", {place.least} to {place.most} replicas for now"
    part = (
        "its part of the traffic is as gateways see it"
        if place.share is None
        else f"{100.0 * place.share:.0f} % of the traffic is here"
    )
    yield place.group, f"{who} because {WHY[place.reason]}{detail}; {part}{bounds}"
