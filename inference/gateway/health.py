"""Whether a replica gets requests: three failures in a row within 30 s take it out, one success brings it back.

A pure state machine; probes and requests are reported to it, the clock is an argument. It never talks to a replica.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from inference.gateway.bounds import check_bounds


class Standing(StrEnum):
    """What a replica may get."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    """Nothing, until its time is over and a probe succeeds."""
    TRIAL = "trial"
    """One request at a time, until one succeeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRule:
    """When a replica is taken out and let in again."""

    path: str = "/health"
    """What is asked of each replica; 200 is a success."""
    probe_every_s: float = 2.0
    probe_timeout_s: float = 2.0
    failures: int = 3
    """So many in a row, probes and requests together …"""
    window_s: float = 30.0
    """… within this time take a replica out."""
    ejected_s: float = 30.0
    """For at least so long."""
    max_ejected_ratio: float = 0.5
    """Answers of 5xx take no more of a model's replicas out than this: a request that breaks every replica it meets
    must not take the whole fleet out. Replicas that don't answer at all are taken out without that limit."""

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f"path = {self.path!r} is no path; write one such as /health")
        check_bounds(self, probe_every_s=(0.05, 600), probe_timeout_s=(0.05, 60), failures=(1, 100))
        check_bounds(self, window_s=(1, 3600), ejected_s=(0.1, 3600), max_ejected_ratio=(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one replica."""

    standing: Standing = Standing.HEALTHY
    failed_at_s: tuple[float, ...] = ()
    """Failures since the last success."""
    until_s: float = 0.0
    """Ejected at least until then."""


NEW = Health()
"""A replica that its owner calls ready is believed until it fails."""


def after_failure(health: Health, rule: HealthRule, *, now_s: float, may_eject: bool = True) -> Health:
    """One more failure of a probe or a request."""
    if health.standing is Standing.EJECTED:
        # It is out for its time, not for its time after the last probe that failed.
        return health
    recent = tuple(at for at in health.failed_at_s if now_s - at <= rule.window_s)
    failed = (*recent, now_s)[-rule.failures :]
    # One that was just let in again has used its patience up: one failure is enough.
    out = len(failed) >= rule.failures or health.standing is not Standing.HEALTHY
    if out and may_eject:
        return Health(standing=Standing.EJECTED, failed_at_s=failed, until_s=now_s + rule.ejected_s)
    return replace(health, failed_at_s=failed)


def after_success(health: Health) -> Health:
    """A request got its first byte."""
    # A stream that began before the replica was taken out may still go well: that says nothing of new requests.
    return health if health.standing is Standing.EJECTED else NEW


def after_probe(health: Health, *, now_s: float) -> Health:
    """A probe succeeded. It clears no failures of requests: a process that only answers probes is no replica."""
    if health.standing is Standing.EJECTED and now_s >= health.until_s:
        return replace(health, standing=Standing.TRIAL)
    return health


def may_get(health: Health, *, in_flight: int) -> bool:
    """Whether a replica of this health may be given one more request."""
    return health.standing is Standing.HEALTHY or (health.standing is Standing.TRIAL and in_flight == 0)
