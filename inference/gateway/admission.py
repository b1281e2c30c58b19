"""Who may ask, and how much of it: keys, tenants, rates, requests at once.

Keys are known by their SHA-256 alone, in files and in memory. The clock is an argument. It never decides on load: what
the fleet cannot take is the queue's and the degradation's business.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from inference.errors import DocumentError
from inference.gateway.bounds import check_bounds
from inference.gateway.problems import STRICT, chosen, told
from inference.gateway.refusals import Reason, Refusal

_TENANT = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Priority(StrEnum):
    """Whose requests go first."""

    VIP = "vip"
    NORMAL = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One customer of the gateway, and what it may use."""

    name: str
    priority: Priority = Priority.NORMAL
    """VIP requests wait before all others and are neither degraded nor shed."""
    keys_sha256: tuple[str, ...] = ()
    """SHA-256 of each of its API keys: `printf %s KEY | sha256sum`. Two while a key is rotated."""
    rate_rps: float | None = None
    """Requests a second over all copies of the gateway; no limit if none."""
    burst: float | None = None
    """Requests that may come at once after a quiet time; two seconds of the rate if none, and one at least."""
    max_at_once: int | None = None
    """Requests in flight or waiting over all copies of the gateway; no limit if none."""

    def __post_init__(self) -> None:
        if not _TENANT.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r} is no tenant's name; use a-z, 0-9, - and _")
        if any(not _SHA256.fullmatch(key) for key in self.keys_sha256):
            raise ValueError("keys_sha256 holds something that is no SHA-256 in hex; make one: printf %s KEY|sha256sum")
        check_bounds(self, rate_rps=(0.001, 1e6), burst=(1, 1e6), max_at_once=(1, 1_000_000))


PUBLIC = Tenant(name="public")
"""Everybody, where no tenants are configured."""

_TENANTS: TypeAdapter[tuple[Tenant, ...]] = TypeAdapter(tuple[Tenant, ...], config=STRICT)


def parse_tenants(text: str, *, source: str) -> tuple[Tenant, ...]:
    """The tenants of a `kind: Tenants` document; raises `DocumentError` with the place, and never quotes a key."""
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DocumentError(source=source, problem="is no YAML") from error
    if not isinstance(document, Mapping) or document.get("kind") != "Tenants":
        raise DocumentError(source=source, problem="is no list of tenants; start it with kind: Tenants")
    try:
        tenants = _TENANTS.validate_python(document.get("tenants"))
    except ValidationError as error:
        known = tuple(each.name for each in fields(Tenant))
        problem = told(chosen(error), prefix=("tenants",), known=known, quote=False)
        raise DocumentError(source=source, problem=problem) from None
    _check_distinct(tenants, source=source)
    return tenants


def _check_distinct(tenants: tuple[Tenant, ...], *, source: str) -> None:
    names = [tenant.name for tenant in tenants]
    keys = [key for tenant in tenants for key in tenant.keys_sha256]
    for name in names:
        if names.count(name) > 1:
            raise DocumentError(source=source, problem=f"tenant {name} is there twice; rename or remove one")
    if len(set(keys)) < len(keys):
        raise DocumentError(source=source, problem="one key belongs to two tenants; give each its own")
    if not keys:
        raise DocumentError(source=source, problem="holds no key, so nobody could ask; add keys_sha256 to a tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A token bucket: one token is one request."""

    tokens: float
    at_s: float
    """When that was so, on the caller's monotonic clock."""


def take(bucket: Bucket | None, *, rate_rps: float, burst: float, now_s: float) -> tuple[Bucket, float]:
    """Take one token; the new bucket, and 0.0 or how many seconds until a token is there."""
    before = bucket or Bucket(tokens=burst, at_s=now_s)
    tokens = min(burst, before.tokens + max(0.0, now_s - before.at_s) * rate_rps)
    if tokens >= 1.0:
        return Bucket(tokens=tokens - 1.0, at_s=now_s), 0.0
    return Bucket(tokens=tokens, at_s=now_s), (1.0 - tokens) / rate_rps


@dataclass(slots=True, kw_only=True)
class Admission:
    """The tenants of one copy of the gateway, with what each has used. `copies` share each limit evenly."""

    everybody: bool = True
    """Whether no key is asked for. False from the start on where tenants are configured: until they are read nobody may
    ask."""
    copies: int = 1
    _by_key: dict[str, Tenant] = field(default_factory=dict)
    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _at_once: dict[str, int] = field(default_factory=dict)

    def replace(self, tenants: Iterable[Tenant]) -> None:
        """Other tenants from now on; what each has used is kept."""
        known = tuple(tenants)
        self.everybody = False
        self._by_key = {key: tenant for tenant in known for key in tenant.keys_sha256}
        names = {tenant.name for tenant in known}
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in names}

    def tenant_of(self, authorization: str | None) -> Tenant:
        """Whose key this is; raises `Refusal` (401). Without tenants everybody is `PUBLIC`."""
        if self.everybody:
            return PUBLIC
        scheme, _, key = (authorization or "").partition(" ")
        # Looked up by its hash: a comparison's time tells nothing of a key.
        known = self._by_key.get(hashlib.sha256(key.strip().encode()).hexdigest())
        if known is None or scheme.lower() != "bearer":
            raise Refusal(Reason.NO_KEY, "no valid API key; send Authorization: Bearer KEY")
        return known

    def admit(self, tenant: Tenant, *, now_s: float) -> None:
        """Count one more request of the tenant, to be ended by `leave`; raises `Refusal` (429) above its limits."""
        at_once = self._at_once.get(tenant.name, 0)
        if tenant.max_at_once is not None and at_once >= math.ceil(tenant.max_at_once / self.copies):
            limit = f"tenant {tenant.name} has {tenant.max_at_once} requests at once, its limit"
            raise Refusal(Reason.TOO_MANY_AT_ONCE, limit, retry_after_s=1.0)
        if tenant.rate_rps is not None:
            rate = tenant.rate_rps / self.copies
            burst = max(1.0, (2.0 * tenant.rate_rps if tenant.burst is None else tenant.burst) / self.copies)
            bucket, wait_s = take(self._buckets.get(tenant.name), rate_rps=rate, burst=burst, now_s=now_s)
            self._buckets[tenant.name] = bucket
            if wait_s > 0:
                limit = f"tenant {tenant.name} is above its {tenant.rate_rps:g} requests a second"
                raise Refusal(Reason.RATE_LIMITED, limit, retry_after_s=wait_s)
        self._at_once[tenant.name] = at_once + 1

    def leave(self, tenant: Tenant) -> None:
        """The request is over."""
        left = self._at_once.get(tenant.name, 0) - 1
        if left > 0:
            self._at_once[tenant.name] = left
        else:
            self._at_once.pop(tenant.name, None)
