"""Asks the cluster about targets: their pods, objects, rivals, quotas and the account's permissions. Changes nothing.

It decides what a refusal costs: one question's fact, with the reason in its place, and no other question. What it asks
beyond the daemon's own rules (the object itself, other autoscalers, quotas) an account of least privilege is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, Permission, TargetRef
from scaler.adapters.kubernetes.errors import Forbidden, KubernetesError, NotFound
from scaler.adapters.kubernetes.http import Call, Json, Verb
from scaler.adapters.kubernetes.targets import Budget, ScaleApi
from scaler.doctor.objects import ObjectFacts, Rival, TemplateFacts
from scaler.onboarding.candidates import gpus_of_replica, templates_of
from scaler.onboarding.cluster import start_time_of

ASK_S = 5.0
"""For one question beyond the daemon's own."""

DEFAULT_GRACE_S = 30
"""What Kubernetes gives a pod that names no terminationGracePeriodSeconds."""

_VERSION = re.compile(r"v(\d+)\.(\d+)")

_RIVALS: tuple[tuple[str, str, str, str, str], ...] = (
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "Deployment"),
    ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject", "Deployment"),
)
"""Group, version, plural and kind of autoscalers, and which kind they mean where they name none."""

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
    api: ApiConnection, targets: Mapping[str, TargetRef], active: Sequence[str], *, now: datetime
) -> dict[str, ObjectFacts]:
    """What is to be known of each target, by workload. Raises `KubernetesError` where permissions cannot be asked."""
    cluster = KubernetesCluster(api)
    pods = cluster.read_pods(list(targets.values()), now=now)
    namespaces = sorted({target.namespace for target in targets.values()})
    rivals = {namespace: _rivals(api, namespace) for namespace in namespaces}
    quotas = {namespace: _gpu_quota(api, namespace) for namespace in namespaces}
    return {
        name: ObjectFacts(
            kind=target.kind,
            pods=pods[target],
            start_time=start_time_of(pods[target]),
            missing=missing_permissions(cluster, target, active=name in active),
            template=_template(api, target),
            rivals=_against(target, rivals[target.namespace]),
            gpu_quota=quotas[target.namespace],
        )
        for name, target in targets.items()
    }


def missing_permissions(cluster: KubernetesCluster, target: TargetRef, *, active: bool) -> tuple[Permission, ...]:
    """What the account lacks for this target: the one place that knows where the needed rules are listed."""
    return cluster.missing_permissions([target], active=active)


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"its template could not be read ({type(error).__name__}: {error})"


def template_facts(spec: Json) -> TemplateFacts:
    """What the template of the pods that serve says. `ValueError` and its like where it is misshapen."""
    pod = templates_of(spec)[0].get("spec") or {}
    containers = pod.get("containers") or ()
    hooks = [hook for each in containers if (hook := (each.get("lifecycle") or {}).get("preStop"))]
    return TemplateFacts(
        gpus=gpus_of_replica(spec),
        has_readiness_probe=any(each.get("readinessProbe") for each in containers),
        grace_s=int(pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)),
        pre_stop_s=max((slept for hook in hooks if (slept := _sleeps(hook)) is not None), default=None),
        has_pre_stop=bool(hooks),
    )


def _sleeps(hook: Json) -> int | None:
    """Seconds that a preStop hook sleeps, where that is what it does."""
    if "sleep" in hook:
        return int(hook["sleep"]["seconds"])
    command = " ".join(map(str, (hook.get("exec") or {}).get("command") or ()))
    found = re.search(r"\bsleep (\d+)", command)
    return None if found is None else int(found[1])


# ── Other autoscalers, and quotas ─────────────────────────────────────────────────────────────────────────────


def _rivals(api: ApiConnection, namespace: str) -> list[tuple[str, str, str, str]] | str:
    """Kind and name of each autoscaler of a namespace, and kind and name of what it scales."""
    found = []
    for group, version, plural, kind, default in _RIVALS:
        call = Call(verb=Verb.LIST, group=group, version=version, resource=plural, namespace=namespace)
        answer = _ask(api, call)
        if isinstance(answer, str):
            return answer
        for item in answer.get("items") or ():
            ref = (item.get("spec") or {}).get("scaleTargetRef") or {}
            found.append((kind, item["metadata"]["name"], ref.get("kind") or default, ref.get("name") or ""))
    return found


def _against(target: TargetRef, rivals: list[tuple[str, str, str, str]] | str) -> tuple[Rival, ...] | str:
    if isinstance(rivals, str):
        return rivals
    named = [(kind, name) for kind, name, *scaled in rivals if scaled == [target.kind, target.name]]
    # KEDA makes an HPA for each ScaledObject; deleting that one would not help.
    if any(kind == "ScaledObject" for kind, _ in named):
        named = [each for each in named if not each[1].startswith("keda-hpa-")]
    return tuple(Rival(kind=kind, name=name) for kind, name in named)


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
    except (TypeError, ValueError, AttributeError) as error:
        return f"its quotas could not be read ({type(error).__name__}: {error})"
    return min(allowed, default=None)
