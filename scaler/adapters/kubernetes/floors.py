"""The floor of an existing autoscaler: `minReplicas` of an HPA, or `minReplicaCount` of a KEDA ScaledObject.

It reads and writes that one field, and says when the object is missing or scales something else. It never touches the
maximum, the metrics or the workload itself: the autoscaler goes on owning the replicas above the floor. Nothing here
decides whether a write is due.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from scaler.adapters.kubernetes.errors import MISSHAPEN, Invalid, NoAutoscaler, NotFound, Unavailable
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb
from scaler.adapters.kubernetes.permissions import Feature
from scaler.adapters.kubernetes.targets import FIELD_MANAGER, Budget, TargetRef
from scaler.policy.types import ReplicaState

HPA: Final = "HorizontalPodAutoscaler"
SCALED_OBJECT: Final = "ScaledObject"


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRef:
    """An autoscaler by its kind (`HPA` or `SCALED_OBJECT`) and name."""

    namespace: str
    kind: str
    name: str

    @property
    def feature(self) -> Feature:
        """What setting its floor takes of an account."""
        return Feature.FLOOR_HPA if self.kind == HPA else Feature.FLOOR_SCALED_OBJECT

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The part of an autoscaler that matters: its least and most replicas."""

    replicas: int
    most: int
    uid: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Where a kind is served and how it names things; the defaults are those of its API server or operator."""

    group: str
    version: str
    plural: str
    least: str
    most: str
    default_least: int
    default_most: int | None


_SHAPES: Final[Mapping[str, _Shape]] = MappingProxyType(
    {
        HPA: _Shape(
            group="autoscaling",
            version="v2",
            plural="horizontalpodautoscalers",
            least="minReplicas",
            most="maxReplicas",
            default_least=1,
            default_most=None,
        ),
        SCALED_OBJECT: _Shape(
            group="keda.sh",
            version="v1alpha1",
            plural="scaledobjects",
            least="minReplicaCount",
            most="maxReplicaCount",
            default_least=0,
            default_most=100,
        ),
    }
)


class FloorApi:
    """Reads and writes floors through one connection."""

    def __init__(self, api: ApiConnection) -> None:
        self._api = api

    def get(self, floor: FloorRef, target: TargetRef, budget: Budget) -> Floor:
        """The floor as the server holds it now; `NoAutoscaler` where there is none above `target`."""
        call = _call(Verb.GET, floor)
        try:
            found = self._api.call(call, timeout_s=budget.left_s())
        except NotFound as error:
            message = f"{floor} does not exist: create it, or name the one that scales {target} in target.floor"
            raise NoAutoscaler(message, status=error.status, path=error.path) from error
        _check_above(floor, target, found)
        return _floor_from(floor, found, call)

    def patch(self, floor: FloorRef, found: Floor, replicas: int, budget: Budget) -> Floor:
        """Write `replicas` over `found`, and nothing but `found`: any change since is a `Conflict`.

        `Invalid` above the autoscaler's own maximum: the server would refuse it, and raising that is not ours.
        """
        shape = _SHAPES[floor.kind]
        if replicas > found.most:
            raise Invalid(
                f"{floor}: a floor of {replicas} is above its {shape.most} of {found.most}; raise that, or lower "
                "bounds.min_replicas"
            )
        # The uid refuses an autoscaler that was deleted and made anew under the same name.
        body = {"metadata": {"resourceVersion": found.version, "uid": found.uid}, "spec": {shape.least: replicas}}
        call = _call(Verb.PATCH, floor, (("fieldManager", FIELD_MANAGER),))
        return _floor_from(floor, self._api.call(call, body=body, timeout_s=budget.left_s()), call)


def beneath(replicas: ReplicaState, floor: Floor) -> ReplicaState:
    """A workload seen from its floor: of its pods those up to the floor count, best first, as a decision's scale.

    Six replicas, five of them Ready, over a floor of four are four Ready ones: what the autoscaler adds above the
    floor is not ours to judge the floor by.
    """
    left, counted = floor.replicas, {}
    for name in ("ready", "starting", "unschedulable", "failed"):
        counted[name] = min(getattr(replicas, name), left)
        left -= counted[name]
    return ReplicaState(
        desired=floor.replicas, held=replicas.desired, ceiling=floor.most, age_s=replicas.age_s, **counted
    )


def _call(verb: Verb, floor: FloorRef, query: tuple[tuple[str, str], ...] = ()) -> Call:
    shape = _SHAPES[floor.kind]
    return Call(
        verb=verb,
        group=shape.group,
        version=shape.version,
        resource=shape.plural,
        namespace=floor.namespace,
        name=floor.name,
        query=query,
    )


def _check_above(floor: FloorRef, target: TargetRef, found: Json) -> None:
    """Whether the autoscaler is the one that scales `target`, and may be changed at all."""
    metadata, spec = found.get("metadata") or {}, found.get("spec") or {}
    reference = spec.get("scaleTargetRef") or {}
    if not scales(reference, target):
        what = f"{reference.get('kind') or 'Deployment'} {reference.get('name')}"
        raise NoAutoscaler(f"{floor} scales {what}, not {target}: name the right one in target.floor")
    keeper = keeper_of(metadata)
    if floor.kind == HPA and keeper:
        raise NoAutoscaler(
            f"{floor} is kept by ScaledObject {keeper}, which would undo a change: set target.floor to kind "
            f"{SCALED_OBJECT}, name {keeper}"
        )


def scales(reference: Mapping[str, Any], target: TargetRef) -> bool:
    """Whether a scaleTargetRef names `target`; a missing kind is a Deployment, the version of the API is no matter."""
    group = str(reference.get("apiVersion") or target.api_version).rpartition("/")[0]
    return (group, reference.get("kind") or "Deployment", reference.get("name")) == (
        target.api_version.rpartition("/")[0],
        target.kind,
        target.name,
    )


def keeper_of(metadata: Mapping[str, Any]) -> str:
    """The ScaledObject that made an HPA and keeps it as it wants it, or ""."""
    owners = metadata.get("ownerReferences") or ()
    return next((str(each.get("name")) for each in owners if each.get("kind") == SCALED_OBJECT), "")


def _floor_from(floor: FloorRef, body: Json, call: Call) -> Floor:
    shape = _SHAPES[floor.kind]
    try:
        metadata, spec = body["metadata"], body["spec"]
        most = spec.get(shape.most, shape.default_most)
        return Floor(
            replicas=int(spec.get(shape.least, shape.default_least)),
            most=int(most),
            uid=str(metadata["uid"]),
            version=str(metadata["resourceVersion"]),
        )
    except MISSHAPEN as error:
        raise Unavailable(f"{call.path} answered something that is no {floor.kind}", status=200) from error
