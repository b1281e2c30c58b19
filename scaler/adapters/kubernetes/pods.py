"""From a workload's pods to its `ReplicaState`: which pod is ready, coming, waiting for a GPU, or broken.

Pure functions over the API's JSON. They never decide how many replicas there should be, and never count more pods
than `spec.replicas`: a rollout's surge pods would otherwise read as demand and ratchet upward (383 became 664 in
kubernetes#72775).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from scaler.policy.types import ReplicaState

CRASH_RESTARTS = 2
"""Restarts from which an unready pod counts as broken. One restart is common while a model loads; from the second
on the pod alternates between Running and CrashLoopBackOff, and must not flicker between starting and failed."""

_BROKEN = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that do not go away by waiting a little."""

_UNPLACED = frozenset({"Unschedulable", "SchedulingGated"})
"""Why `PodScheduled` is False: no node fits, or a quota holds the pod back. Either way no GPU is coming by itself."""


_GPU_WORDS = ("gpu", "nvidia.com/mig", "gaudi", "tpu", "neuron")
"""What the name of an extended resource holds that stands for an accelerator (nvidia.com/gpu, amd.com/gpu, …)."""

_PRODUCT_WORDS = ("gpu", "accelerator", "instance-type")
"""What a node label's name holds that tells which one (nvidia.com/gpu.product, cloud.google.com/gke-accelerator, …)."""


class PodPhase(StrEnum):
    """What a pod is to a scaler. `GONE` pods (terminating, finished) count as nothing."""

    READY = "ready"
    STARTING = "starting"
    UNSCHEDULABLE = "unschedulable"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStart:
    """One pod's way to Ready: what the measured start time is made of.

    `ready_at` is the time of its latest turn to Ready, None while it is not; `phase` tells a start that goes on
    (a lower bound of the start time) from one that failed (no measurement at all). `running_at` is when the last of
    its containers began to run; after a restart that is the restart's. `accelerator` names what GPUs it asks for, such
    as "nvidia.com/gpu:4 NVIDIA-H100-80GB-HBM3", "" for none. Kubernetes' times are whole seconds.
    """

    name: str
    uid: str
    created_at: datetime
    phase: PodPhase
    scheduled_at: datetime | None = None
    running_at: datetime | None = None
    ready_at: datetime | None = None
    restarts: int = 0
    accelerator: str = ""


UNHEARD: Final = (
    "orders on its annotations are not heard: of the object only its scale is read; order by command or through the API"
)
"""What is said where `WorkloadPods.annotations` is None: a pause there would look as if it were obeyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPods:
    """A workload's replicas and its pods' starts, oldest first, as they were at `read_at` (the caller's clock).

    `annotations` are those of the workload itself, None where only its scale could be read; `refused` says in the API
    server's words why pods were not made (a quota), or is empty.
    """

    replicas: ReplicaState
    starts: tuple[PodStart, ...]
    read_at: datetime
    annotations: Mapping[str, str] | None = None
    refused: str = ""


def phase_of(pod: Mapping[str, Any]) -> PodPhase:
    """What one pod of the API's JSON counts as."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Succeeded":
        return PodPhase.GONE
    if status.get("phase") == "Failed":
        return PodPhase.FAILED
    conditions = _conditions(status)
    if conditions.get("Ready", {}).get("status") == "True":
        return PodPhase.READY
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") in _UNPLACED:
        return PodPhase.UNSCHEDULABLE
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return PodPhase.FAILED if any(_is_broken(container) for container in containers) else PodPhase.STARTING


def _is_broken(container: Mapping[str, Any]) -> bool:
    waiting = (container.get("state") or {}).get("waiting") or {}
    return waiting.get("reason") in _BROKEN or int(container.get("restartCount") or 0) >= CRASH_RESTARTS


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {condition["type"]: condition for condition in status.get("conditions") or ()}


def is_owned(pod: Mapping[str, Any], *, kind: str, name: str) -> bool:
    """Whether the pod belongs to this workload and not to another one whose pods its selector matches too.

    A Deployment owns pods through a ReplicaSet named after it and the pod's template hash. Of other kinds the
    selector is all that is known.
    """
    if kind not in ("Deployment", "StatefulSet"):
        return True
    metadata = pod["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    owner = owners[0] if owners else {}
    if kind == "StatefulSet":
        return owner.get("kind") == "StatefulSet" and owner.get("name") == name
    template_hash = (metadata.get("labels") or {}).get("pod-template-hash")
    return owner.get("kind") == "ReplicaSet" and owner.get("name") == f"{name}-{template_hash}"


def refusal_of(workload: Mapping[str, Any]) -> str:
    """Why a workload's pods are not made, in the API server's words; empty while they are.

    A Deployment reports it in its conditions when its ReplicaSet cannot create pods: a ResourceQuota, a LimitRange, an
    admission webhook. Of a StatefulSet only Events tell, which may not be read.
    """
    conditions = _conditions(workload.get("status") or {})
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") != "True":
        return ""
    return str(failure.get("message") or failure.get("reason") or "pods are not made")


def start_of(pod: Mapping[str, Any]) -> PodStart:
    """One pod's way to Ready, from the API's JSON."""
    metadata, phase, status = pod["metadata"], phase_of(pod), pod.get("status") or {}
    conditions, containers = _conditions(status), status.get("containerStatuses") or ()
    return PodStart(
        name=metadata["name"],
        uid=metadata["uid"],
        created_at=_moment(metadata["creationTimestamp"]),
        phase=phase,
        scheduled_at=_turned_true(conditions.get("PodScheduled")),
        running_at=_running_since(containers),
        ready_at=_turned_true(conditions.get("Ready")),
        restarts=sum(int(container.get("restartCount") or 0) for container in containers),
        accelerator=_accelerator(pod.get("spec") or {}),
    )


class StartsRead:
    """The starts of pods from one reading to the next: made again only of a pod that has another version since.

    Of 10,000 pods some hundred change between two ticks. Whoever is not in a reading is forgotten with the next.
    """

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], PodStart] = {}
        self._before: dict[tuple[str, str], PodStart] = {}

    def begin(self) -> None:
        """A new reading."""
        self._before, self._now = self._now, {}

    def of(self, pod: Mapping[str, Any]) -> PodStart:
        """One pod's start. Its uid and `resourceVersion` name one content for ever; without either it is made anew."""
        metadata = pod["metadata"]
        uid, version = metadata.get("uid"), metadata.get("resourceVersion")
        if not uid or not version:
            return start_of(pod)
        start = self._before.get((uid, version)) or start_of(pod)
        self._now[uid, version] = start
        return start


def count(
    pods: Iterable[Mapping[str, Any]],
    *,
    desired: int,
    now: datetime,
    refused: str = "",
    made: Callable[[Mapping[str, Any]], PodStart] = start_of,
) -> WorkloadPods:
    """Count a workload's pods against `spec.replicas`.

    Together the counts are at most `desired`, filled in the order ready, starting, unschedulable, failed. So a surge
    pod that starts beside a full set counts as nothing, and neither does an evicted pod (phase Failed, kept for ever)
    that was replaced long ago: 8 desired, 8 ready and 2 starting reads 8 ready.

    With `refused`, pods that should be there and are not count as unschedulable: 5 desired and 3 ready under a quota
    of three are 2 that find no place, and ordering more would not bring them. `made` gives a pod's start where it is
    remembered (`StartsRead`).
    """
    starts = tuple(sorted(map(made, pods), key=lambda start: (start.created_at, start.name)))
    found = Counter(start.phase for start in starts)
    left, counted = desired, {}
    for phase in (PodPhase.READY, PodPhase.STARTING, PodPhase.UNSCHEDULABLE, PodPhase.FAILED):
        counted[phase] = min(found[phase], left)
        left -= counted[phase]
    if refused:
        counted[PodPhase.UNSCHEDULABLE] += left
    replicas = ReplicaState(
        desired=desired,
        ready=counted[PodPhase.READY],
        starting=counted[PodPhase.STARTING],
        unschedulable=counted[PodPhase.UNSCHEDULABLE],
        failed=counted[PodPhase.FAILED],
    )
    return WorkloadPods(replicas=replicas, starts=starts, read_at=now, refused=refused)


def _running_since(containers: Sequence[Mapping[str, Any]]) -> datetime | None:
    """When the last container began to run; None while one does not, or where the kubelet does not say."""
    begun = [str(((each.get("state") or {}).get("running") or {}).get("startedAt") or "") for each in containers]
    return max(map(_moment, begun)) if begun and all(begun) else None


def _accelerator(spec: Mapping[str, Any]) -> str:
    """The GPUs that a pod asks for and where it wants them. Nodes are not read: that would be a cluster-wide right."""
    wanted: Counter[str] = Counter()
    for container in spec.get("containers") or ():
        limits = (container.get("resources") or {}).get("limits") or {}
        for resource, amount in limits.items():
            if any(word in resource for word in _GPU_WORDS) and str(amount).isdecimal():
                wanted[resource] += int(amount)
    resources = " ".join(f"{resource}:{amount}" for resource, amount in sorted(wanted.items()) if amount)
    products = sorted(
        value for label, values in _placement(spec) for value in values if any(word in label for word in _PRODUCT_WORDS)
    )
    return " ".join((resources, *dict.fromkeys(products))) if resources else ""


def _placement(spec: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    """Labels of the nodes that a pod wants, with their values: by selector, and by required affinity."""
    for label, value in (spec.get("nodeSelector") or {}).items():
        yield label, (str(value),)
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for each in term.get("matchExpressions") or ():
            if each.get("operator") == "In":
                yield str(each.get("key")), tuple(map(str, each.get("values") or ()))


def _turned_true(condition: Mapping[str, Any] | None) -> datetime | None:
    if condition is None or condition.get("status") != "True" or not condition.get("lastTransitionTime"):
        return None
    return _moment(condition["lastTransitionTime"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
