"""The Kubernetes objects of one served variant: Deployment, Service, PodDisruptionBudget, PodMonitor.

Pure functions from a variant and a placement to plain dictionaries, and one rendering to YAML whose bytes depend on
nothing else. They never talk to a cluster and never choose how many replicas there are.

Built for Kubernetes 1.30 and later (the native `sleep` of preStop).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from inference.errors import InvalidValue
from inference.launch import SCRATCH_PATH, environment, serve_arguments
from inference.variants import Variant

Manifest = dict[str, Any]

PORT = 8000
PORT_NAME = "http"

PRE_STOP_S = 15
"""Between "no longer in the Service" and SIGTERM. Routers and gateways need seconds to hear of it, and a vLLM that
has its SIGTERM answers new requests with 500."""

TEARDOWN_S = 30
"""From the last answered request to the process's end: 5 to 10 s were measured with one worker of the CPU build, and
workers that free GPU memory and NCCL take longer. What is still there afterwards is killed."""

STARTUP_PERIOD_S = 2
"""Probing while starting: it adds one second on average to a start, and every second is a second of forecast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and as whom replicas run: what differs between clusters and not between variants."""

    namespace: str = "llm"
    gpu_resource: str = "nvidia.com/gpu"
    """The device plugin's resource; a MIG slice has its own, such as "nvidia.com/mig-3g.40gb"."""
    gpu_taint: str | None = "nvidia.com/gpu"
    """The taint that keeps other pods off GPU nodes, tolerated here; None where there is none."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    cpu: str = "4"
    """Requested, not limited: a throttled engine thread makes every step of every sequence longer."""
    run_as_user: int = 2000
    """Numeric user and group; the image needs no name for it."""
    service_account: str | None = None
    priority_class: str | None = None
    image_pull_secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", self.namespace):
            raise self._refuse("namespace", "is no DNS label", "use a-z, 0-9 and -, at most 63 characters")
        if not re.fullmatch(r"[a-z0-9.-]+/[\w.-]+", self.gpu_resource):
            raise self._refuse("gpu_resource", "is no extended resource", "use nvidia.com/gpu or a MIG slice's name")
        if not re.fullmatch(r"[1-9]\d*m?", self.cpu):
            raise self._refuse("cpu", "is no CPU quantity", 'use cores or thousandths, such as "4" or "3500m"')
        if not 1 <= self.run_as_user <= 2**31 - 1:
            raise self._refuse("run_as_user", "is root or no user id", "use an unprivileged id such as 2000")

    def scheduling(self) -> Manifest:
        """The part of a pod's spec that says on which nodes it may run and how they may pull; empty keys left out."""
        taint = {"key": self.gpu_taint, "operator": "Exists", "effect": "NoSchedule"}
        keys: Manifest = {
            "nodeSelector": dict(sorted(self.node_selector.items())),
            "tolerations": [taint] if self.gpu_taint else [],
            "imagePullSecrets": [{"name": name} for name in self.image_pull_secrets],
        }
        return {key: value for key, value in keys.items() if value}

    def _refuse(self, name: str, problem: str, fix: str) -> InvalidValue:
        return InvalidValue(subject="placement", field=name, value=getattr(self, name), problem=problem, fix=fix)


def selector_labels(variant: Variant) -> dict[str, str]:
    """The labels that tell this variant's pods from all others; a Deployment's selector can never change."""
    return {"app.kubernetes.io/name": variant.name, "app.kubernetes.io/component": "inference"}


def labels(variant: Variant) -> dict[str, str]:
    """Labels of every object. Metrics need none of them: Prometheus adds `namespace` and `pod` to what it scrapes."""
    return {**selector_labels(variant), "app.kubernetes.io/part-of": "headstart"}


def grace_period_s(variant: Variant) -> int:
    """Seconds from a pod's deletion to SIGKILL: the preStop wait, the longest drain, and the engine's teardown."""
    return PRE_STOP_S + variant.shutdown_timeout_s + TEARDOWN_S


def host_memory_gib(variant: Variant) -> int:
    """Host memory of one replica: 6 GiB of processes a GPU, both copies of the picture cache, shared memory, and the
    weights once, because they pass through the page cache and a start that evicts its own pages is a slow one."""
    processes = 6.0 * variant.gpus
    return math.ceil(processes + 2.0 * variant.mm_processor_cache_gb + shared_memory_gib(variant) + variant.weights_gib)


def shared_memory_gib(variant: Variant) -> int:
    """Size of /dev/shm: the engine's message queues and NCCL's buffers; a container's default of 64 MiB fails at 2."""
    return 1 + variant.gpus


def deployment(variant: Variant, *, placement: Placement | None = None, replicas: int | None = None) -> Manifest:
    """The Deployment of `variant`.

    Leave `replicas` out when a scaler owns the number. A manifest that states it resets the scaler's choice at every
    `kubectl apply` and every sync of a GitOps controller; without it, Kubernetes creates one replica and from then on
    only /scale changes the number. Raises `InvalidValue` for a negative one.
    """
    where = placement or Placement()
    if replicas is not None and replicas < 0:
        subject, fix = f"variant {variant.name}", "use 0 or more, or leave it out"
        raise InvalidValue(subject=subject, field="replicas", value=replicas, problem="is negative", fix=fix)
    spec: Manifest = {
        **({} if replicas is None else {"replicas": replicas}),
        "selector": {"matchLabels": selector_labels(variant)},
        # A new version is Ready before an old pod goes: unload-then-load costs every request in between.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        # Longer than a start may take, and five minutes for a node: else a slow rollout is reported as a failed one.
        "progressDeadlineSeconds": variant.start_budget_s + 300,
        "revisionHistoryLimit": 3,
        "template": {"metadata": {"labels": labels(variant)}, "spec": _pod(variant, where)},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(variant, where), "spec": spec}


def service(variant: Variant, *, placement: Placement | None = None) -> Manifest:
    """The Service in front of the variant's Ready pods. A gateway that chooses replicas reads its EndpointSlices."""
    spec = {
        "type": "ClusterIP",
        "selector": selector_labels(variant),
        "ports": [{"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME, "protocol": "TCP"}],
    }
    metadata = _metadata(variant, placement or Placement())
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def disruption_budget(variant: Variant, *, placement: Placement | None = None) -> Manifest:
    """At most one replica at a time is evicted by a node drain.

    By `maxUnavailable`, because `minAvailable: 1` would block every drain of a variant that the scaler has taken down
    to one replica; and a pod that never became healthy may always go.
    """
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector_labels(variant)},
    }
    metadata = _metadata(variant, placement or Placement())
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}


def pod_monitor(variant: Variant, *, placement: Placement | None = None, interval_s: int = 15) -> Manifest:
    """The Prometheus operator's order to scrape each pod, every `interval_s` seconds.

    Pods and not the Service: capacity and waiting requests are per replica, and a Service would show a random one.
    """
    spec = {
        "selector": {"matchLabels": selector_labels(variant)},
        "podMetricsEndpoints": [{"port": PORT_NAME, "path": "/metrics", "interval": f"{interval_s}s"}],
    }
    metadata = _metadata(variant, placement or Placement())
    return {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": metadata, "spec": spec}


class _PlainDumper(yaml.SafeDumper):
    """Safe YAML without anchors: two equal label sets are two label sets."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(*manifests: Manifest) -> str:
    """The manifests as one YAML stream. Equal manifests give equal bytes: nothing is sorted, dated or counted."""
    return yaml.dump_all(manifests, Dumper=_PlainDumper, sort_keys=False, explicit_start=True, width=118)


# ── Parts of the pod ─────────────────────────────────────────────────────────────────────────────────────────


def _metadata(variant: Variant, placement: Placement) -> Manifest:
    return {"name": variant.name, "namespace": placement.namespace, "labels": labels(variant)}


def _pod(variant: Variant, placement: Placement) -> Manifest:
    names = {"serviceAccountName": placement.service_account, "priorityClassName": placement.priority_class}
    return {
        "terminationGracePeriodSeconds": grace_period_s(variant),
        "automountServiceAccountToken": False,
        # A Service called "vllm" in the namespace would set VLLM_PORT=tcp://…, which vLLM reads as its own setting.
        "enableServiceLinks": False,
        **{key: value for key, value in names.items() if value},
        **placement.scheduling(),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": placement.run_as_user,
            "runAsGroup": placement.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(variant, placement)],
        "volumes": _volumes(variant),
    }


def _container(variant: Variant, placement: Placement) -> Manifest:
    memory = f"{host_memory_gib(variant)}Gi"
    return {
        "name": "vllm",
        "image": variant.image,
        # The tag never changes its meaning (`Variant` refuses "latest"), so an image pulled ahead is used as it is.
        "imagePullPolicy": "IfNotPresent",
        "command": ["vllm", "serve"],
        "args": list(serve_arguments(variant, port=PORT)),
        "env": [{"name": name, "value": value} for name, value in environment(variant).items()],
        "ports": [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": placement.cpu, "memory": memory, placement.gpu_resource: str(variant.gpus)},
            "limits": {"memory": memory, placement.gpu_resource: str(variant.gpus)},
        },
        **_probes(variant),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "weights", "mountPath": variant.weights.mount_path, "readOnly": variant.weights.prepulled},
            {"name": "scratch", "mountPath": SCRATCH_PATH},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _probes(variant: Variant) -> Manifest:
    """vLLM opens its port when the model is loaded, so /health tells all three; they differ in patience."""
    get = {"httpGet": {"path": "/health", "port": PORT_NAME}}
    return {
        "startupProbe": {
            **get,
            "periodSeconds": STARTUP_PERIOD_S,
            "timeoutSeconds": STARTUP_PERIOD_S,
            "failureThreshold": math.ceil(variant.start_budget_s / STARTUP_PERIOD_S),
        },
        # Three failures in 30 s take a replica out of the Service (S12).
        "readinessProbe": {**get, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        # A dead engine answers 503 and is restarted after two minutes. No sooner: an API server that is busy decoding
        # pictures answers late, and restarting it under overload would take capacity away for a whole start.
        "livenessProbe": {**get, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 12},
    }


def _volumes(variant: Variant) -> list[Manifest]:
    weights = variant.weights
    source: Manifest
    if weights.claim is not None:
        source = {"persistentVolumeClaim": {"claimName": weights.claim, "readOnly": True}}
    elif weights.host_path is not None:
        # "Directory": a node without the files holds the pod in ContainerCreating with an event that says so.
        source = {"hostPath": {"path": weights.host_path, "type": "Directory"}}
    else:
        source = {"emptyDir": {}}
    return [
        {"name": "weights", **source},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_memory_gib(variant)}Gi"}},
    ]
