"""The Lease object: read, create and replace one, as a strict API server wants it.

It decides how a holder is written down. It never decides who may hold the lease, and never replaces one without naming
the version that it replaces: without a version the server would overwrite whatever is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from scaler.adapters.kubernetes.errors import MISSHAPEN, NotFound, Unavailable
from scaler.adapters.kubernetes.events import micro_time
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb

_API_VERSION = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRef:
    """Which lease."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as the server holds it; `body` is the whole object, which a replacement is made from."""

    holder: str
    version: str
    duration_s: float
    ever_held: bool
    body: Json

    @property
    def transitions(self) -> int:
        """How often it has changed hands."""
        return _whole(self.body["spec"].get("leaseTransitions"))


class LeaseApi:
    """One lease, through one connection; every call raises `KubernetesError` where it fails."""

    def __init__(self, api: ApiConnection, lease: LeaseRef, *, duration_s: float) -> None:
        """`duration_s` is what is written into the lease, for others to read."""
        self._api = api
        self._lease = lease
        self._whole_s = max(1, round(duration_s))  # 0 is refused with 422

    def read(self, *, timeout_s: float) -> Lease | None:
        """The lease as it is now, never from a cache; None if there is none."""
        try:
            return _lease_from(self._api.call(self._call(Verb.GET), timeout_s=timeout_s))
        except NotFound:
            return None

    def create(self, *, timeout_s: float) -> Lease:
        """Make it, held by nobody. `Conflict` if somebody was faster."""
        body: Json = {
            "apiVersion": _API_VERSION,
            "kind": "Lease",
            "metadata": {"namespace": self._lease.namespace, "name": self._lease.name},
            "spec": {"leaseDurationSeconds": self._whole_s},
        }
        return _lease_from(self._api.call(self._call(Verb.CREATE), body=body, timeout_s=timeout_s))

    def replace(self, found: Lease, holder: str, *, now: datetime, timeout_s: float) -> Lease:
        """Write `holder` ("" gives it back) over exactly `found`. `Conflict` if it is no longer what is there."""
        body = {**found.body, "spec": self._spec(found.body["spec"], holder, now=now)}
        assert body["metadata"]["resourceVersion"] == found.version
        return _lease_from(self._api.call(self._call(Verb.UPDATE), body=body, timeout_s=timeout_s))

    def _call(self, verb: Verb) -> Call:
        return Call(
            verb=verb,
            group="coordination.k8s.io",
            version="v1",
            resource="leases",
            namespace=self._lease.namespace,
            name=None if verb is Verb.CREATE else self._lease.name,
        )

    def _spec(self, found: Json, holder: str, *, now: datetime) -> Json:
        """The specification with `holder` in it; the times are for people, no contender reads them."""
        renewed = micro_time(now)
        if renewed == found.get("renewTime"):
            # A write that changes nothing leaves the version as it is, and would be no renewal to anybody else.
            renewed = micro_time(now + timedelta(microseconds=2))
        spec = {
            **found,
            "holderIdentity": holder,
            "leaseDurationSeconds": self._whole_s,
            "renewTime": renewed,
        }
        if holder and holder != found.get("holderIdentity"):
            spec["acquireTime"] = micro_time(now)
            spec["leaseTransitions"] = _whole(found.get("leaseTransitions")) + (1 if found.get("renewTime") else 0)
        return spec


def _lease_from(body: Json) -> Lease:
    try:
        metadata, spec = body["metadata"], body.get("spec") or {}
        return Lease(
            holder=str(spec.get("holderIdentity") or ""),
            version=str(metadata["resourceVersion"]),
            duration_s=float(_whole(spec.get("leaseDurationSeconds"))),
            ever_held=bool(spec.get("renewTime")),
            body={**body, "spec": spec},
        )
    except MISSHAPEN as error:
        raise Unavailable("the API server answered something that is no Lease", status=200) from error


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
