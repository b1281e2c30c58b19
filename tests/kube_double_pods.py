"""The double's controllers and scheduler: workloads get pods, pods get GPUs, and become Ready after a while.

Pure state over the store's objects and an explicit time; everything real clusters do beside that is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from kube_double_rules import Json, merged

if TYPE_CHECKING:
    from kube_double_store import Store

GPU = "nvidia.com/gpu"


@dataclass(frozen=True, kw_only=True)
class PodBehaviour:
    """How a workload's pods behave: seconds from placed to Ready, or crash-looping instead, and their way out.

    The first `image_s` of `start_time_s` go by before the container runs.
    """

    start_time_s: float = 0.0
    image_s: float = 0.0
    crashing: bool = False
    grace_s: float = 0.0


@dataclass
class Controllers:
    """Reconciles everything at a given moment. `gpus` is the whole cluster's number, None for no limit."""

    store: Store
    gpus: int | None = None
    default: PodBehaviour = field(default_factory=PodBehaviour)
    behaviours: dict[tuple[str, str], PodBehaviour] = field(default_factory=dict)
    paused: bool = False
    quotas: dict[str, int] = field(default_factory=dict)  # namespace -> pods that its ResourceQuota allows
    _owner: dict[str, str] = field(default_factory=dict)  # pod uid -> workload uid
    _pods: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)  # workload uid -> pod uid -> its key
    _placed: dict[str, datetime] = field(default_factory=dict)  # pod uid -> when it got its node
    _serial: int = 0

    def behave(self, namespace: str, name: str, **changes: float | bool) -> None:
        """Change how one workload's pods behave from now on, those already there included."""
        key = (namespace, name)
        self.behaviours[key] = replace(self.behaviours.get(key, self.default), **changes)  # type: ignore[arg-type]

    def reconcile(self, now: datetime) -> None:
        """Bring pods and workload status up to `now`."""
        if self.paused:
            return
        self._remove_terminated(now)
        self._autoscale()
        workloads = list(self._workloads())
        for _, workload in workloads:
            self._keep_number(workload, now)
        self._place(now)
        for plural, workload in workloads:
            pods = self.pods_of(workload)
            for pod in pods:
                self._progress(workload, pod, now)
            self._report(plural, workload)

    def pods_of(self, workload: Json) -> list[Json]:
        """The workload's pods, terminating ones included, oldest first."""
        made = self._pods.get(workload["metadata"]["uid"], {})
        there = ((uid, self.store.find("pods", key)) for uid, key in made.items())
        return [pod for uid, pod in there if pod is not None and pod["metadata"]["uid"] == uid]

    def _workloads(self) -> Iterator[tuple[str, Json]]:
        for kind in self.store.kinds:
            if kind.scalable:
                for item in self.store.items(kind.plural):
                    yield kind.plural, item

    def _autoscale(self) -> None:
        """HPAs and ScaledObjects whose metrics ask for what is there: they only keep it within their bounds.

        An HPA keeps off a workload at zero, KEDA wakes it as soon as its minimum is above zero.
        """
        for plural, least, most in (
            ("horizontalpodautoscalers", "minReplicas", "maxReplicas"),
            ("scaledobjects", "minReplicaCount", "maxReplicaCount"),
        ):
            for item in self.store.items(plural):
                reference = item["spec"]["scaleTargetRef"]
                target = self._named(item["metadata"]["namespace"], reference)
                if target is None or (plural == "horizontalpodautoscalers" and not target[1]["spec"]["replicas"]):
                    continue
                there = int(target[1]["spec"]["replicas"])
                wanted = max(int(item["spec"].get(least, 0)), min(there, int(item["spec"].get(most, 100))))
                if wanted != there:
                    self.store.update(target[0], {**target[1], "spec": {**target[1]["spec"], "replicas": wanted}})

    def _named(self, namespace: str, reference: Json) -> tuple[str, Json] | None:
        wanted = (namespace, reference.get("kind") or "Deployment", reference["name"])
        for plural, item in self._workloads():
            if (item["metadata"]["namespace"], item["kind"], item["metadata"]["name"]) == wanted:
                return plural, item
        return None

    def _room(self, namespace: str) -> int:
        """Pods that the namespace's quota still allows; terminating ones count."""
        if namespace not in self.quotas:
            return 100_000
        there = sum(pod["metadata"]["namespace"] == namespace for pod in self.store.items("pods"))
        return max(0, self.quotas[namespace] - there)

    def _behaviour(self, workload: Json) -> PodBehaviour:
        metadata = workload["metadata"]
        return self.behaviours.get((metadata["namespace"], metadata["name"]), self.default)

    def _keep_number(self, workload: Json, now: datetime) -> None:
        metadata, wanted = workload["metadata"], int(workload["spec"].get("replicas", 1)) * _group_size(workload)
        alive = [
            pod
            for pod in self.pods_of(workload)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] not in ("Failed", "Succeeded")
        ]
        for _ in range(min(wanted - len(alive), self._room(metadata["namespace"]))):
            self.add_pod(workload, now)
        # As a ReplicaSet chooses: not yet Ready before Ready, young before old; a StatefulSet the highest ordinal.
        alive.sort(key=lambda pod: (_is_ready(pod), _deletion_cost(pod), -_serial(pod)))
        if workload["kind"] != "Deployment":
            alive.sort(key=lambda pod: -_serial(pod))
        for pod in alive[: max(0, len(alive) - wanted)]:
            self.terminate(pod, now, grace_s=self._behaviour(workload).grace_s)

    def add_pod(self, workload: Json, now: datetime) -> Json:
        """One more pod of `workload`'s present template, as its controller would make it."""
        self._serial += 1
        metadata, template = workload["metadata"], workload["spec"].get("template") or {}
        labels = dict((template.get("metadata") or {}).get("labels") or {"app": metadata["name"]})
        owner = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": metadata["name"]}
        owner |= {"uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True}
        name = f"{metadata['name']}-{self._ordinal(workload)}"
        if workload["kind"] == "Deployment":
            template_hash = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
            labels["pod-template-hash"] = template_hash
            owner |= {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{metadata['name']}-{template_hash}"}
            name = f"{metadata['name']}-{template_hash}-{self._serial:05d}"
        elif workload["kind"] == "LeaderWorkerSet":
            labels |= {"leaderworkerset.sigs.k8s.io/name": metadata["name"]}
            labels |= {"leaderworkerset.sigs.k8s.io/worker-index": str(self._ordinal(workload) % _group_size(workload))}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": labels,
                "ownerReferences": [owner],
                "annotations": {"double/serial": str(self._serial)},
            },
            "spec": _pod_spec(workload),
            "status": {"phase": "Pending", "conditions": []},
        }
        created = self.store.create("pods", pod, now=now)
        self._owner[created["metadata"]["uid"]] = metadata["uid"]
        key = (created["metadata"]["namespace"], created["metadata"]["name"])
        self._pods.setdefault(metadata["uid"], {})[created["metadata"]["uid"]] = key
        return created

    def _ordinal(self, workload: Json) -> int:
        taken = {pod["metadata"]["name"] for pod in self.pods_of(workload)}
        return next(n for n in range(100_000) if f"{workload['metadata']['name']}-{n}" not in taken)

    def terminate(self, pod: Json, now: datetime, *, grace_s: float) -> None:
        """Begin a pod's end: it stays, with its GPU, until its grace is over."""
        if grace_s <= 0:
            self._forget(pod)
            return
        end = now + timedelta(seconds=grace_s)
        metadata = {"deletionTimestamp": _stamp(end), "deletionGracePeriodSeconds": int(grace_s)}
        self.store.update("pods", {**pod, "metadata": {**pod["metadata"], **metadata}})

    def _remove_terminated(self, now: datetime) -> None:
        uids = {"", *(workload["metadata"]["uid"] for _, workload in self._workloads())}
        for pod in list(self.store.items("pods")):
            end = pod["metadata"].get("deletionTimestamp")
            orphan = self._owner.get(pod["metadata"]["uid"], "") not in uids
            if orphan or (end and datetime.fromisoformat(end) <= now):
                self._forget(pod)

    def _forget(self, pod: Json) -> None:
        self.store.remove("pods", pod)
        uid = pod["metadata"]["uid"]
        self._pods.get(self._owner.pop(uid, ""), {}).pop(uid, None)
        self._placed.pop(pod["metadata"]["uid"], None)

    def _place(self, now: datetime) -> None:
        pods = sorted(self.store.items("pods"), key=_serial)
        used = sum(_gpus(pod) for pod in pods if pod["spec"].get("nodeName"))
        for pod in pods:
            if pod["spec"].get("nodeName") or pod["metadata"]["uid"] not in self._owner:
                continue
            if self.gpus is None or used + _gpus(pod) <= self.gpus:
                used += _gpus(pod)
                self._placed[pod["metadata"]["uid"]] = now
                self._condition({**pod, "spec": {**pod["spec"], "nodeName": "node-0"}}, "PodScheduled", "True", now)
            else:
                message = f"0/1 nodes are available: 1 Insufficient {GPU}."
                self._condition(pod, "PodScheduled", "False", now, reason="Unschedulable", message=message)

    def _progress(self, workload: Json, pod: Json, now: datetime) -> None:
        placed, behaviour = self._placed.get(pod["metadata"]["uid"]), self._behaviour(workload)
        if placed is None or "deletionTimestamp" in pod["metadata"] or pod["status"]["phase"] == "Failed":
            return
        due = placed + timedelta(seconds=behaviour.start_time_s)
        if behaviour.crashing:
            restarts = int((now - placed).total_seconds() // 20) + 1
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
            status = {"phase": "Running", "containerStatuses": [_container(state, restarts, ready=False)]}
            self._condition(_with_status(pod, status), "Ready", "False", now, reason="ContainersNotReady")
        elif now >= due:
            if _is_ready(pod) and pod["status"]["phase"] == "Running":
                return
            self._condition(_with_status(pod, _running(placed, behaviour, ready=True)), "Ready", "True", due)
        elif now >= placed + timedelta(seconds=behaviour.image_s):
            status = _running(placed, behaviour, ready=False)
            self._condition(_with_status(pod, status), "Ready", "False", now, reason="ContainersNotReady")
        else:
            status = {"containerStatuses": [_container({"waiting": {"reason": "ContainerCreating"}}, 0, ready=False)]}
            self._condition(_with_status(pod, status), "Ready", "False", now, reason="ContainersNotReady")

    def _condition(self, pod: Json, kind: str, status: str, since: datetime, **text: str) -> None:
        old = next((c for c in pod["status"]["conditions"] if c["type"] == kind), {})
        since_text = old["lastTransitionTime"] if old.get("status") == status else _stamp(since)
        condition = {"type": kind, "status": status, "lastTransitionTime": since_text, **text}
        rest = [c for c in pod["status"]["conditions"] if c["type"] != kind]
        self.store.update("pods", _with_status(pod, {"conditions": [*rest, condition]}))

    def _refused(self, workload: Json, pods: list[Json]) -> bool:
        """Whether the quota keeps pods of the workload from being made."""
        namespace, wanted = workload["metadata"]["namespace"], int(workload["spec"].get("replicas", 1))
        return namespace in self.quotas and len(pods) < wanted and not self._room(namespace)

    def _report(self, plural: str, workload: Json) -> None:
        pods = [pod for pod in self.pods_of(workload) if "deletionTimestamp" not in pod["metadata"]]
        status: Json = {"replicas": len(pods) // _group_size(workload), "readyReplicas": sum(map(_is_ready, pods))}
        if workload["kind"] == "Deployment":
            status["conditions"] = [_replica_failure(workload)] if self._refused(workload, pods) else []
        self.store.update(plural, _with_status(workload, status))


def _replica_failure(workload: Json) -> Json:
    name = workload["metadata"]["name"]
    message = f'pods "{name}-" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    return {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}


def _with_status(item: Json, status: Json) -> Json:
    return {**item, "status": merged(item.get("status") or {}, status, strategic=False)}


def _pod_spec(workload: Json) -> Json:
    template = workload["spec"].get("template") or {}
    return dict(template.get("spec") or {"containers": [{"name": "server"}]})


def _group_size(workload: Json) -> int:
    return int((workload["spec"].get("leaderWorkerTemplate") or {}).get("size", 1))


def _container(state: Json, restarts: int, *, ready: bool) -> Json:
    return {"name": "server", "state": state, "restartCount": restarts, "ready": ready}


def _running(placed: datetime, behaviour: PodBehaviour, *, ready: bool) -> Json:
    begun = placed + timedelta(seconds=min(behaviour.image_s, behaviour.start_time_s))
    state = {"running": {"startedAt": _stamp(begun)}}
    return {"phase": "Running", "containerStatuses": [_container(state, 0, ready=ready)]}


def _gpus(pod: Json) -> int:
    limits = ((container.get("resources") or {}).get("limits") or {} for container in pod["spec"]["containers"])
    return sum(int(limit.get(GPU, 0)) for limit in limits)


def _is_ready(pod: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())


def _deletion_cost(pod: Json) -> int:
    annotations = pod["metadata"].get("annotations") or {}
    return int(annotations.get("controller.kubernetes.io/pod-deletion-cost", 0))


def _serial(pod: Json) -> int:
    return int((pod["metadata"].get("annotations") or {}).get("double/serial", 0))


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
