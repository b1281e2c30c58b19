"""The Kubernetes API: the only place that talks to it, through one wrapper."""

from scaler.adapters.kubernetes.cluster import KubernetesCluster
from scaler.adapters.kubernetes.events import ScaleOutcome, ScaleResult
from scaler.adapters.kubernetes.http import ApiConnection, InCluster, Kubeconfig, ServerAddress
from scaler.adapters.kubernetes.pods import PodPhase, PodStart, WorkloadPods
from scaler.adapters.kubernetes.targets import Permission, TargetRef

__all__ = [
    "ApiConnection",
    "InCluster",
    "Kubeconfig",
    "KubernetesCluster",
    "Permission",
    "PodPhase",
    "PodStart",
    "ScaleOutcome",
    "ScaleResult",
    "ServerAddress",
    "TargetRef",
    "WorkloadPods",
]
