"""A variant's place put over what its own rules want: ordered when it takes over, given back when another has.

It moves a target to the place's `least` and `most` and leaves a trace of each. It never releases while that is
forbidden to everybody, never goes above the workload's own maximum, and knows nothing of how the place came about.
"""

from __future__ import annotations

from scaler.policy.types import Adjustment, Reason, VariantPlace

RULE = "variants"


def placed(
    target: int, place: VariantPlace, *, current: int, most: int, held_by: Reason | None
) -> tuple[int, tuple[Adjustment, ...]]:
    """`target` within the place, and the clamps; `held_by` is why nothing may be released now, None where it may.

    Demand is the whole service's, so a variant that hands over still asks for all of it: 4 replicas of 8B want 5, the
    place leaves 3, and 3 it is. One whose place is 0 sleeps below its own minimum: another one keeps the promise.
    """
    why = f"{place.group}: {place.detail}" if place.detail else place.group
    wanted = max(target, min(place.least, most))
    if wanted > target:
        return wanted, (_clamp(target, wanted, Reason.VARIANT_SWITCH, why),)
    if place.most is None or target <= place.most:
        return target, ()
    if place.most < current and held_by is not None:
        if target <= current:
            return target, ()
        # It may not be released yet, but nothing of it is ordered any more either.
        return current, (_clamp(target, current, held_by, why),)
    retires = not place.serves_all or place.most == 0
    return place.most, (_clamp(target, place.most, Reason.VARIANT_SWITCH if retires else Reason.VARIANT_GPUS, why),)


def _clamp(before: int, after: int, reason: Reason, detail: str) -> Adjustment:
    return Adjustment(rule=RULE, before=before, after=after, reason=reason, detail=detail)
