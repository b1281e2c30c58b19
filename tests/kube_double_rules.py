"""What a strict Kubernetes API refuses, and how it patches, selects and names things: the double's rules.

Pure functions over JSON. Each refusal is an `ApiRefusal` with the status a real control plane was seen to give.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Json = dict[str, Any]

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class ApiRefusal(Exception):
    """A Status to answer with."""

    def __init__(self, status: int, message: str, *, reason: str | None = None, details: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or REASONS[status],
            **({"details": details} if details else {}),
            "code": status,
        }


@dataclass(frozen=True, kw_only=True)
class ApiKind:
    """A kind that the double serves. `custom` kinds refuse strategic merge; only `scalable` ones have `/scale`."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    scalable: bool = False
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS = (
    ApiKind(group="", version="v1", kind="Namespace", plural="namespaces", namespaced=False),
    ApiKind(group="", version="v1", kind="Pod", plural="pods"),
    ApiKind(group="", version="v1", kind="ServiceAccount", plural="serviceaccounts"),
    ApiKind(group="", version="v1", kind="ConfigMap", plural="configmaps"),
    ApiKind(group="apps", version="v1", kind="Deployment", plural="deployments", scalable=True),
    ApiKind(group="apps", version="v1", kind="StatefulSet", plural="statefulsets", scalable=True),
    ApiKind(group="coordination.k8s.io", version="v1", kind="Lease", plural="leases"),
    ApiKind(group="events.k8s.io", version="v1", kind="Event", plural="events"),
    ApiKind(group="rbac.authorization.k8s.io", version="v1", kind="Role", plural="roles"),
    ApiKind(group="rbac.authorization.k8s.io", version="v1", kind="RoleBinding", plural="rolebindings"),
    ApiKind(
        group="rbac.authorization.k8s.io", version="v1", kind="ClusterRole", plural="clusterroles", namespaced=False
    ),
    ApiKind(
        group="rbac.authorization.k8s.io",
        version="v1",
        kind="ClusterRoleBinding",
        plural="clusterrolebindings",
        namespaced=False,
    ),
    ApiKind(group="autoscaling", version="v2", kind="HorizontalPodAutoscaler", plural="horizontalpodautoscalers"),
    ApiKind(group="keda.sh", version="v1alpha1", kind="ScaledObject", plural="scaledobjects", custom=True),
    ApiKind(
        group="leaderworkerset.x-k8s.io",
        version="v1",
        kind="LeaderWorkerSet",
        plural="leaderworkersets",
        scalable=True,
        custom=True,
    ),
)

# ── Validation ────────────────────────────────────────────────────────────────────────────────────────────────

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(\d{6})(Z|[+-]\d\d:\d\d)")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def _invalid(kind: ApiKind, name: str, where: str, why: str) -> ApiRefusal:
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": [{"field": where, "message": why}]}
    return ApiRefusal(422, f'{qualified} "{name}" is invalid: {where}: {why}', details=details)


def check_names(kind: ApiKind, metadata: Mapping[str, Any]) -> None:
    """Names are DNS subdomains; of a generateName one trailing dash is forgiven and nothing else."""
    name, prefix = metadata.get("name") or "", metadata.get("generateName") or ""
    if not name and not prefix:
        raise _invalid(kind, "", "metadata.name", "Required value: name or generateName is required")
    if name and (len(name) > 253 or not _SUBDOMAIN.fullmatch(name)):
        raise _invalid(kind, name, "metadata.name", f'Invalid value: "{name}": not a lowercase RFC 1123 subdomain')
    if prefix and not _SUBDOMAIN.fullmatch(prefix.removesuffix("-") + ("a" if prefix.endswith("-") else "")):
        raise _invalid(kind, prefix, "metadata.generateName", f'Invalid value: "{prefix}": not a valid prefix')


def check(kind: ApiKind, new: Json, old: Json | None) -> None:
    """Refuse what the real API refuses for this kind."""
    checks: dict[str, Callable[[ApiKind, Json, Json | None], None]] = {
        "leases": _check_lease,
        "events": _check_event,
        "horizontalpodautoscalers": _check_hpa,
        "scaledobjects": _check_scaled_object,
        "pods": _check_pod,
    }
    if kind.scalable:
        _check_replicas(kind, new, old)
    checks.get(kind.plural, lambda *_: None)(kind, new, old)


def _check_pod(kind: ApiKind, new: Json, old: Json | None) -> None:
    """A deletion cost is an int32 in its plainest form: no sign before a zero, no plus, no leading zeros."""
    cost = (new["metadata"].get("annotations") or {}).get("controller.kubernetes.io/pod-deletion-cost")
    if cost is None:
        return
    plain = re.fullmatch(r"0|-?[1-9][0-9]*", cost) if isinstance(cost, str) else None
    if plain is None or not -(2**31) <= int(cost) < 2**31:
        where = "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]"
        raise _invalid(kind, new["metadata"].get("name", ""), where, f'Invalid value: "{cost}": must be an integer')


def _micro_time(where: str, text: object) -> None:
    """A MicroTime has exactly six digits; a client that drops a zero fraction is answered 400, and so is zero here."""
    found = _MICRO_TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[1] == "000000":
        raise ApiRefusal(400, f'{where}: parsing time "{text}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse')


def replicas_of(value: object, where: str = "spec.replicas") -> int:
    """An int32 or 400: the decoder's own complaint, before validation."""
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise ApiRefusal(400, f"cannot unmarshal {value!r} into Go struct field {where} of type int32")
    return value


def _check_replicas(kind: ApiKind, new: Json, old: Json | None) -> None:
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    if "replicas" in spec and replicas_of(spec["replicas"]) < 0:
        why = f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        raise _invalid(kind, name, "spec.replicas", why)
    if kind.group != "apps":
        return
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    selector = spec.get("selector") or {}
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        raise _invalid(kind, name, "spec.selector", "Required value")
    if not matches(selector_text(selector), labels):
        raise _invalid(kind, name, "spec.template.metadata.labels", "Invalid value: `selector` does not match")
    if old is not None and old["spec"]["selector"] != selector:
        raise _invalid(kind, name, "spec.selector", "Invalid value: field is immutable")


def _check_lease(kind: ApiKind, new: Json, old: Json | None) -> None:
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    for key in ("renewTime", "acquireTime"):
        if spec.get(key) is not None:
            _micro_time(f"spec.{key}", spec[key])
    if spec.get("leaseDurationSeconds") is not None and replicas_of(spec["leaseDurationSeconds"]) <= 0:
        raise _invalid(kind, name, "spec.leaseDurationSeconds", "Invalid value: must be greater than 0")
    if (spec.get("leaseTransitions") or 0) < 0:
        raise _invalid(kind, name, "spec.leaseTransitions", "Invalid value: must be greater than or equal to 0")


def _check_event(kind: ApiKind, new: Json, old: Json | None) -> None:
    name = new["metadata"].get("name", "")
    if not new.get("eventTime"):
        raise _invalid(kind, name, "eventTime", "Required value")
    _micro_time("eventTime", new["eventTime"])
    for key in ("reportingController", "reportingInstance", "action", "reason"):
        if not new.get(key):
            raise _invalid(kind, name, key, "Required value")
        if len(new[key]) > 128:
            raise _invalid(kind, name, key, "Invalid value: can have at most 128 characters")
    if not _QUALIFIED.fullmatch(new["reportingController"]):
        raise _invalid(kind, name, "reportingController", "Invalid value: must be a qualified name")
    if new.get("type") not in ("Normal", "Warning"):
        raise _invalid(kind, name, "type", f'Invalid value: "{new.get("type")}"')
    if len((new.get("note") or "").encode()) > 1024:
        raise _invalid(kind, name, "note", "Invalid value: can have at most 1024 characters")
    about = (new.get("regarding") or {}).get("namespace") or "default"
    if about != new["metadata"]["namespace"]:
        raise _invalid(kind, name, "regarding.namespace", f'Invalid value: "{about}": does not match event.namespace')


def _check_hpa(kind: ApiKind, new: Json, old: Json | None) -> None:
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    reference = spec.get("scaleTargetRef") or {}
    for key in ("kind", "name"):
        if not reference.get(key):
            raise _invalid(kind, name, f"spec.scaleTargetRef.{key}", "Required value")
    most = replicas_of(spec.get("maxReplicas", 0), "spec.maxReplicas")
    least = replicas_of(spec.setdefault("minReplicas", 1), "spec.minReplicas")
    if least < 1:  # 0 only behind the feature gate HPAScaleToZero
        raise _invalid(kind, name, "spec.minReplicas", f"Invalid value: {least}: must be greater than or equal to 1")
    if most < 1:
        raise _invalid(kind, name, "spec.maxReplicas", f"Invalid value: {most}: must be greater than 0")
    if most < least:
        why = f"Invalid value: {most}: must be greater than or equal to `minReplicas`"
        raise _invalid(kind, name, "spec.maxReplicas", why)


def _check_scaled_object(kind: ApiKind, new: Json, old: Json | None) -> None:
    """The schema answers 422; what spans fields is KEDA's webhook's, whose refusal is a 403."""
    spec, name = new.get("spec") or {}, new["metadata"].get("name", "")
    if not (spec.get("scaleTargetRef") or {}).get("name"):
        raise _invalid(kind, name, "spec.scaleTargetRef.name", "Required value")
    if "triggers" not in spec:
        raise _invalid(kind, name, "spec.triggers", "Required value")
    least = replicas_of(spec.get("minReplicaCount", 0), "spec.minReplicaCount")
    most = replicas_of(spec.get("maxReplicaCount", 100), "spec.maxReplicaCount")
    idle = spec.get("idleReplicaCount")
    if least < 0:
        raise _denied(f"MinReplicaCount={least} must be greater than or equal to 0")
    if least > most:
        raise _denied(f"MinReplicaCount={least} must be less than MaxReplicaCount={most}")
    if idle is not None and idle >= least:
        raise _denied(f"IdleReplicaCount={idle} must be less than MinReplicaCount={least}")


def _denied(why: str) -> ApiRefusal:
    return ApiRefusal(403, f'admission webhook "vscaledobject.kb.io" denied the request: {why}')


_DURATION = re.compile(r"\d+(\.\d+)?(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def time_limit_s(query: Mapping[str, str]) -> float:
    """How long a request may take by its own `timeout`, a duration as Go writes it; 60 s without one."""
    text = query.get("timeout")
    if text is None:
        return 60.0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ApiRefusal(400, f'invalid timeout specified in the request URL - time: invalid duration "{text}"')
    return float(text[: found.start(2)]) * _SECONDS[found[2]]


# ── Selectors ─────────────────────────────────────────────────────────────────────────────────────────────────


def selector_text(selector: Mapping[str, Any]) -> str:
    """An object's `spec.selector` in text form, as Go prints it."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for item in selector.get("matchExpressions") or ():
        values = ",".join(sorted(item.get("values") or ()))
        text = {
            "In": f"{item['key']} in ({values})",
            "NotIn": f"{item['key']} notin ({values})",
            "Exists": item["key"],
            "DoesNotExist": f"!{item['key']}",
        }
        parts.append(text[item["operator"]])
    return ",".join(parts)


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether `labels` fulfil a label selector; a selector that cannot be parsed is a 400."""
    return all(
        (key in labels if values is None else labels.get(key) in values) is wanted
        for key, values, wanted in _requirements(selector)
    )


@lru_cache(maxsize=256)
def _requirements(selector: str) -> tuple[tuple[str, frozenset[str] | None, bool], ...]:
    """Each requirement's key, its values (None: any), and whether they are wanted. Parsed once for all pods of a list."""
    parts = (part.strip() for part in re.split(r",(?![^()]*\))", selector))
    return tuple(_requirement(part) for part in parts if part)


def _requirement(part: str) -> tuple[str, frozenset[str] | None, bool]:
    if found := re.fullmatch(r"([\w./-]+)\s+(in|notin)\s*\(([^()]*)\)", part):
        return found[1], frozenset(value.strip() for value in found[3].split(",")), found[2] == "in"
    if found := re.fullmatch(r"([\w./-]+)\s*(==|=|!=)\s*([\w.-]*)", part):
        return found[1], frozenset([found[3]]), found[2] != "!="
    if found := re.fullmatch(r"(!?)([\w./-]+)", part):
        return found[2], None, not found[1]
    raise ApiRefusal(400, f"unable to parse requirement: {part!r}")


_FIELDS: dict[str, Callable[[Json], str]] = {
    "metadata.name": lambda item: str(item["metadata"]["name"]),
    "metadata.namespace": lambda item: str(item["metadata"].get("namespace", "")),
    "status.phase": lambda item: str((item.get("status") or {}).get("phase", "")),
    "spec.nodeName": lambda item: str((item.get("spec") or {}).get("nodeName", "")),
    "regarding.name": lambda item: str((item.get("regarding") or {}).get("name", "")),
    "regarding.uid": lambda item: str((item.get("regarding") or {}).get("uid", "")),
}


def fields_match(selector: str, item: Json) -> bool:
    """Whether an object fulfils a field selector; an unsupported field is a 400."""
    for part in filter(None, (part.strip() for part in selector.split(","))):
        found = re.fullmatch(r"([\w.]+)(==|=|!=)(.*)", part)
        if found is None or found[1] not in _FIELDS:
            raise ApiRefusal(400, f"field label not supported: {part}")
        if (_FIELDS[found[1]](item) == found[3]) != (found[2] != "!="):
            return False
    return True


# ── Patches ───────────────────────────────────────────────────────────────────────────────────────────────────

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "conditions": "type",
    "ownerReferences": "uid",
}


def patched(kind: ApiKind, old: Json, patch: object, content_type: str) -> Json:
    """`old` after a patch of that content type."""
    content_type = content_type.split(";")[0].strip()
    if content_type == "application/json-patch+json":
        if not isinstance(patch, list):
            raise ApiRefusal(400, "error decoding patch: cannot unmarshal object into []handlers.jsonPatchOp")
        return _json_patched(old, patch)
    strategic = content_type == "application/strategic-merge-patch+json" and not kind.custom
    if not strategic and content_type != "application/merge-patch+json":
        raise ApiRefusal(415, f"the body of the request was in an unknown format - {content_type} is not supported")
    if not isinstance(patch, dict):
        raise ApiRefusal(400, "error decoding patch: not a JSON object")
    return merged(old, patch, strategic=strategic)


def merged(old: Mapping[str, Any], patch: Mapping[str, Any], *, strategic: bool) -> Json:
    """RFC 7386 merge; strategic merge also merges the well-known lists by their key."""
    result = dict(copy.deepcopy(dict(old)))
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            inside = result.get(key)
            result[key] = merged(inside if isinstance(inside, dict) else {}, value, strategic=strategic)
        elif strategic and key in _MERGE_KEYS and isinstance(value, list):
            result[key] = _merged_list(result.get(key) or [], value, _MERGE_KEYS[key])
        else:
            result[key] = copy.deepcopy(value)
    return result


def _merged_list(old: list[Json], patch: list[Json], key: str) -> list[Json]:
    result = {item[key]: item for item in old}
    for item in patch:
        if item.get("$patch") == "delete":
            result.pop(item[key], None)
        else:
            result[item[key]] = merged(result.get(item[key], {}), item, strategic=True)
    return list(result.values())


@dataclass
class _Place:
    """Where a JSON pointer leads: a container and its last step."""

    inside: Any
    step: Any = field(default="")


def _place(document: Json, pointer: str) -> _Place:
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    inside: Any = document
    try:
        for step in steps[:-1]:
            inside = inside[int(step)] if isinstance(inside, list) else inside[step]
    except (KeyError, IndexError, ValueError, TypeError):
        raise ApiRefusal(422, f"the server rejected our request: no path {pointer}") from None
    last = steps[-1] if steps else ""
    return _Place(inside, int(last) if isinstance(inside, list) and last != "-" else last)


def _json_patched(old: Json, operations: list[Any]) -> Json:
    document: Json = copy.deepcopy(old)
    for operation in operations:
        place = _place(document, operation["path"])
        present = place.step in place.inside if isinstance(place.inside, dict) else True
        match operation["op"]:
            case "test":
                if not present or place.inside[place.step] != operation["value"]:
                    raise ApiRefusal(422, f"the server rejected our request: testing {operation['path']} failed")
            case "add" if isinstance(place.inside, list):
                at = len(place.inside) if place.step == "-" else place.step
                place.inside.insert(at, operation["value"])
            case "add":
                place.inside[place.step] = operation["value"]
            case "replace" | "remove" if not present:
                raise ApiRefusal(422, f"the server rejected our request: no path {operation['path']}")
            case "replace":
                place.inside[place.step] = operation["value"]
            case "remove":
                del place.inside[place.step]
            case unknown:
                raise ApiRefusal(422, f"the server rejected our request: operation {unknown!r}")
    return document
