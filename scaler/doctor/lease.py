"""Judges the lease by which several daemons agree who writes. Pure, over facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scaler.adapters.kubernetes import Permission
from scaler.adapters.kubernetes.leases import LeaseRef
from scaler.doctor.account import lacks
from scaler.doctor.finding import FLEET, Finding, Health, skipped, well

_MAKE = "apply the Lease of deploy/rbac.yaml, which the Role headstart-lease goes with"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFacts:
    """What was found of the lease."""

    lease: LeaseRef
    holder: str | None = None
    """Who holds it, "" if nobody does; None: there is no such lease, or `error` says why that is not known."""
    error: str = ""
    missing: tuple[Permission, ...] = ()
    may_create: bool = False


def judge_lease(facts: LeaseFacts) -> Iterator[Finding]:
    """Whether a daemon could stand for election here, and who leads now."""
    yield _state(facts)
    yield from (lacks(FLEET, each) for each in facts.missing)


def _state(facts: LeaseFacts) -> Finding:
    if facts.error and facts.missing:
        return skipped("lease", f"{facts.lease} could not be read; the permissions say what to add")
    if facts.error:
        fix = "check ha.lease and the API server; a daemon that cannot renew it stops writing"
        return Finding(workload=FLEET, check="lease", health=Health.FAIL, found=facts.error, fix=fix)
    if facts.holder:
        return well("lease", f"{facts.lease} is held by {facts.holder}")
    if facts.holder is not None:
        return well("lease", f"{facts.lease} is free: the next daemon with something to write takes it")
    if facts.may_create:
        return well("lease", f"{facts.lease} does not exist; the first daemon makes it")
    found = f"{facts.lease} does not exist, and this account may not make it: no daemon would write"
    return Finding(workload=FLEET, check="lease", health=Health.FAIL, found=found, fix=_MAKE)
