"""Asks the cluster about targets: their pods, objects, rivals, quotas and the account's permissions. Changes nothing.

It decides what a refusal costs: one question's fact, with the reason in its place, and no other question. What it asks
beyond the daemon's own rules (the object itself, other autoscalers, quotas) an account of least privilege is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, Permission, TargetRef
from scaler.adapters.kubernetes.drain import Drain
from scaler.adapters.kubernetes.errors import MISSHAPEN, Forbidden, Invalid, KubernetesError, NotFound
from scaler.adapters.kubernetes.http import Call, Json, Verb
from scaler.adapters.kubernetes.leases import LeaseApi, LeaseRef
from scaler.adapters.kubernetes.permissions import Feature, lease_permissions, needed
from scaler.adapters.kubernetes.targets import Budget, ScaleApi
from scaler.doctor.account import Purpose
from scaler.doctor.lease import LeaseFacts
from scaler.doctor.objects import ObjectFacts, TemplateFacts
from scaler.doctor.placeholders import PlaceholderFacts
from scaler.onboarding.candidates import gpus_of_replica, templates_of
from scaler.onboarding.cluster import start_time_of

ASK_S = 5.0
"""For one question beyond the daemon's own."""

_VERSION = re.compile(r"v(\d+)\.(\d+)")

Asked = Json | str
"""An answer, or why there is none."""


class _VersionCall(Call):
    """Discovery of the server's own version, which lies outside every API group."""

    @property
    def path(self) -> str:
        return "/version"


def look_version(api: ApiConnection) -> tuple[int, int] | None:
    """Major and minor of the server. Raises `KubernetesError` if it does not answer."""
    told = str(api.call(_VersionCall(verb=Verb.GET, group="", version="version")).get("gitVersion") or "")
    found = _VERSION.match(told)
    return None if found is None else (int(found[1]), int(found[2]))


def look_objects(
    cluster: KubernetesCluster, api: ApiConnection, purposes: Mapping[str, Purpose], *, now: datetime
) -> dict[str, ObjectFacts]:
    """What is to be known of each target, by workload. Raises `KubernetesError` where permissions cannot be asked."""
    targets = [purpose.target for purpose in purposes.values()]
    floors = {purpose.target: purpose.floor for purpose in purposes.values() if purpose.floor is not None}
    pods = cluster.read_pods(targets, now=now, floors=floors)
    rivals = cluster.rivals(targets)
    quotas = {namespace: _gpu_quota(api, namespace) for namespace in sorted({each.namespace for each in targets})}
    return {
        name: ObjectFacts(
            kind=purpose.target.kind,
            floor=purpose.floor,
            pods=pods[purpose.target],
            start_time=start_time_of(pods[purpose.target]),
            missing=_missing(cluster, purpose),
            template=_template(api, purpose.target),
            drain=_drain(cluster, purpose.target),
            rivals=rivals.get(purpose.target),
            gpu_quota=quotas[purpose.target.namespace],
        )
        for name, purpose in purposes.items()
    }


def look_placeholders(
    cluster: KubernetesCluster, api: ApiConnection, purposes: Mapping[str, Purpose], *, now: datetime
) -> dict[str, PlaceholderFacts]:
    """What is to be known of each set of placeholder pods; raises as `look_objects`."""
    seen = cluster.read([purpose.target for purpose in purposes.values()], now=now) if purposes else {}
    facts = {}
    for name, purpose in purposes.items():
        template = _template(api, purpose.target)
        facts[name] = PlaceholderFacts(
            kind=purpose.target.kind,
            replicas=seen[purpose.target],
            missing=_missing(cluster, purpose),
            gpus=template if isinstance(template, str) else template.gpus,
        )
    return facts


def look_lease(cluster: KubernetesCluster, api: ApiConnection, lease: LeaseRef) -> LeaseFacts:
    """The lease, and what the account may do with it; raises as `look_objects`."""
    missing = cluster.lacking(lease_permissions(namespace=lease.namespace, name=lease.name))
    create = Permission(verb="create", group="coordination.k8s.io", resource="leases", namespace=lease.namespace)
    may_create = not cluster.lacking([create])
    try:
        found = LeaseApi(api, lease, duration_s=1.0).read(timeout_s=ASK_S)
    except KubernetesError as error:
        return LeaseFacts(lease=lease, error=str(error), missing=missing, may_create=may_create)
    holder = None if found is None else found.holder
    return LeaseFacts(lease=lease, holder=holder, missing=missing, may_create=may_create)


def look_discovery(cluster: KubernetesCluster, namespaces: Sequence[str]) -> tuple[Permission, ...]:
    """What the account lacks to read Deployments where annotations are looked for; raises as `look_objects`."""
    wanted = (
        permission
        for namespace in namespaces
        for permission in needed({Feature.DISCOVER}, namespace=namespace, group="apps", plural="deployments")
    )
    return cluster.lacking(wanted)


def _missing(cluster: KubernetesCluster, purpose: Purpose) -> tuple[Permission, ...] | str:
    """What the account lacks; a text for a kind that the cluster does not serve, or that has no scale."""
    try:
        return cluster.missing_permissions([purpose.target], purpose.features)
    except (NotFound, Invalid) as error:
        return str(error)


def _ask(api: ApiConnection, call: Call) -> Asked:
    try:
        return api.call(call, timeout_s=ASK_S)
    except Forbidden:
        return f"this account may not {call.verb.value} {call.resource}; run doctor with your own kubeconfig to see"
    except NotFound:
        return {}  # the kind is not installed, or the object is gone: which the target's own check says
    except KubernetesError as error:
        return str(error)


# ── The object's template ─────────────────────────────────────────────────────────────────────────────────────


def _template(api: ApiConnection, target: TargetRef) -> TemplateFacts | str:
    try:
        call = ScaleApi(api).call_for(Verb.GET, target, Budget(ASK_S))
    except KubernetesError as error:
        return str(error)
    answer = _ask(api, call)
    if isinstance(answer, str):
        return answer
    try:
        return template_facts(answer.get("spec") or {}) if answer else f"{target} does not exist"
    except MISSHAPEN as error:
        return f"its template could not be read ({type(error).__name__}: {error})"


def template_facts(spec: Json) -> TemplateFacts:
    """What the template of the pods that serve says. `ValueError` and its like where it is misshapen."""
    containers = (templates_of(spec)[0].get("spec") or {}).get("containers") or ()
    return TemplateFacts(
        gpus=gpus_of_replica(spec), has_readiness_probe=any(each.get("readinessProbe") for each in containers)
    )


# ── Pods and quotas ───────────────────────────────────────────────────────────────────────────────────────────


def _drain(cluster: KubernetesCluster, target: TargetRef) -> Drain | str:
    try:
        return cluster.drain(target) or "no pod to see it by"
    except KubernetesError as error:
        return str(error)
    except MISSHAPEN as error:
        return f"its pods could not be read ({type(error).__name__}: {error})"


def _gpu_quota(api: ApiConnection, namespace: str) -> int | str | None:
    """The least number of GPUs that the namespace's quotas allow; None where none speaks of GPUs."""
    call = Call(verb=Verb.LIST, group="", version="v1", resource="resourcequotas", namespace=namespace)
    answer = _ask(api, call)
    if isinstance(answer, str):
        return answer
    try:
        allowed = [
            int(amount)
            for item in answer.get("items") or ()
            for name, amount in ((item.get("spec") or {}).get("hard") or {}).items()
            if name.endswith("/gpu")
        ]
    except MISSHAPEN as error:
        return f"its quotas could not be read ({type(error).__name__}: {error})"
    return min(allowed, default=None)
