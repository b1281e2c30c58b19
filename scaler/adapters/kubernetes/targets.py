"""Scale targets: which REST path a kind has, what its Scale says, and what an account needs to touch it.

It asks API discovery and the scale subresource, one object at a time. It never counts pods and never decides
whether a write is due.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scaler.adapters.kubernetes.errors import MISSHAPEN, Invalid, NotFound, TimedOut, Unavailable
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb
from scaler.adapters.kubernetes.permissions import Permission

FIELD_MANAGER = "headstart"
"""How our writes are signed in `metadata.managedFields`; another name on `spec.replicas` is another writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    """A workload to scale: any object with a scale subresource (Deployment, LeaderWorkerSet, …)."""

    namespace: str
    api_version: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The part of a scale subresource that matters; `selector` is the text form, "" where the kind reports none."""

    replicas: int
    selector: str
    uid: str
    version: str


LEAST_SHARE_S = 2.0
"""No share of a budget is less, as long as there is so much: a loaded API server answers a page of pods in 1 s."""


class Budget:
    """Seconds left of a whole operation, as the time limit of its next call."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left; `TimedOut` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(f"not asked: the {self._seconds:.3g} s for this operation are over")
        return left

    def share(self, among: int) -> Budget:
        """The part for the next of `among` pieces of work: one that hangs leaves the others theirs."""
        left = max(0.0, self._end - time.monotonic())
        return Budget(min(left, max(left / among, LEAST_SHARE_S)))


class ScaleApi:
    """The scale subresource of any kind, found through discovery."""

    def __init__(self, api: ApiConnection) -> None:
        self._api = api
        self._plurals: dict[tuple[str, str], str] = {}  # (api version, kind) -> plural, for kinds with a scale

    def get(self, target: TargetRef, budget: Budget) -> Scale:
        """The target's Scale as the server holds it now."""
        call = self.call_for(Verb.GET, target, budget, subresource="scale")
        return _scale_from(call, self._api.call(call, timeout_s=budget.left_s()))

    def patch(self, target: TargetRef, found: Scale, replicas: int, budget: Budget) -> Scale:
        """Write `replicas` over `found`, and nothing but `found`: any change since is a `Conflict`."""
        # The uid refuses a workload that was deleted and made anew under the same name.
        body = {"metadata": {"resourceVersion": found.version, "uid": found.uid}, "spec": {"replicas": replicas}}
        call = self.call_for(Verb.PATCH, target, budget, subresource="scale")
        call = replace(call, query=(("fieldManager", FIELD_MANAGER),))
        return _scale_from(call, self._api.call(call, body=body, timeout_s=budget.left_s()))

    def call_for(
        self, verb: Verb, target: TargetRef, budget: Budget, *, subresource: str = "", named: bool = True
    ) -> Call:
        """The call on a target's object or subresource, or with `named=False` on all of its kind in its namespace."""
        group, _, version = target.api_version.rpartition("/")
        plural = self.plural(target, budget)
        return Call(
            verb=verb,
            group=group,
            version=version,
            resource=f"{plural}/{subresource}" if subresource else plural,
            namespace=target.namespace,
            name=target.name if named else None,
        )

    def plural(self, target: TargetRef, budget: Budget) -> str:
        """The kind's name in REST paths, from discovery. Only finds are kept: a CRD may be installed later."""
        known = self._plurals.get((target.api_version, target.kind))
        if known is not None:
            return known
        group, _, version = target.api_version.rpartition("/")
        try:
            served = self._api.call(Call(verb=Verb.GET, group=group, version=version), timeout_s=budget.left_s())
        except NotFound as error:
            message = f"{target}: the cluster does not serve {target.api_version}; is its CRD installed?"
            raise NotFound(message, status=error.status, path=error.path) from error
        try:
            entries = [(str(entry["name"]), str(entry["kind"])) for entry in served["resources"]]
        except (KeyError, TypeError) as error:
            raise Unavailable(f"discovery of {target.api_version} answered no resource list", status=200) from error
        plurals = [name for name, kind in entries if kind == target.kind and "/" not in name]
        for plural in plurals:
            if any(name == f"{plural}/scale" for name, _ in entries):
                self._plurals[target.api_version, target.kind] = plural
                return plural
        if plurals:
            raise Invalid(f"{target}: {plurals[0]} of {target.api_version} have no scale subresource", status=404)
        raise NotFound(f"{target}: {target.api_version} has no kind {target.kind}", status=404)

    def lacking(self, permissions: Iterable[Permission], budget: Budget) -> tuple[Permission, ...]:
        """Those of `permissions` that this account does not have. Asks, and changes nothing.

        `KubernetesError` where the server cannot be asked.
        """
        return tuple(each for each in dict.fromkeys(permissions) if not self._is_allowed(each, budget))

    def _is_allowed(self, permission: Permission, budget: Budget) -> bool:
        resource, _, subresource = permission.resource.partition("/")
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": permission.namespace,
            **({"name": permission.name} if permission.name else {}),
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        call = Call(verb=Verb.CREATE, group="authorization.k8s.io", version="v1", resource="selfsubjectaccessreviews")
        answer = self._api.call(call, body=review, timeout_s=budget.left_s())
        return bool((answer.get("status") or {}).get("allowed"))


def _scale_from(call: Call, body: Json) -> Scale:
    try:
        metadata, status = body["metadata"], body.get("status") or {}
        return Scale(
            replicas=int((body.get("spec") or {}).get("replicas", 0)),  # zero is left out of the API's JSON
            selector=str(status.get("selector") or ""),
            uid=str(metadata["uid"]),
            version=str(metadata["resourceVersion"]),
        )
    except MISSHAPEN as error:
        raise Unavailable(f"{call.path} answered something that is no Scale", status=200, path=call.path) from error
