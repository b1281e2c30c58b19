"""How many of the workloads that were found by annotations may join at once.

A selector that suddenly matches nothing, or everything, is a mistake somewhere else: nothing found is told as one and
never means everything, and a sudden growth waits for a confirmation. It reads no cluster and starts nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

GROWTH_RATIO: Final = 2
"""More than so many times the known workloads at once need a confirmation."""

LEAST_KNOWN: Final = 5
"""A smaller fleet counts as so many: up to ten may join one that is just being set up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What joins now; `held` is found and waits, and `told` says why and what to do, or is empty."""

    admitted: tuple[str, ...]
    held: tuple[str, ...] = ()
    told: str = ""


def admit(found: Collection[str], known: Collection[str], *, confirm: int | None, where: str) -> Admission:
    """Which of the `found` workloads join, those in `known` having been scaled before.

    `confirm` is the number of workloads that a person expects at most; `where` names what was searched.
    """
    if not found:
        told = f'no Deployment in {where} carries headstart.autoscaling/enabled: "true"'
        return Admission(admitted=(), told=told)
    most = GROWTH_RATIO * max(len(known), LEAST_KNOWN)
    if len(found) <= max(most, confirm or 0):
        return Admission(admitted=tuple(sorted(found)))
    before = f"{len(known)} were known before" if known else "none was known before"
    held = tuple(sorted(set(found) - set(known)))
    told = (
        f"{len(found)} Deployments in {where} are annotated, {before}: {len(held)} are held back; "
        f"set discover.confirm: {len(found)} if they are meant"
    )
    return Admission(admitted=tuple(sorted(set(found) & set(known))), held=held, told=told)
