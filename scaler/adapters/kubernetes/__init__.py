"""The Kubernetes API: the only place that talks to it, through one wrapper."""

from scaler.adapters.kubernetes.cluster import KubernetesCluster
from scaler.adapters.kubernetes.events import ScaleOutcome, ScaleResult
from scaler.adapters.kubernetes.floors import HPA, SCALED_OBJECT, FloorRef
from scaler.adapters.kubernetes.http import ApiConnection, InCluster, Kubeconfig, ServerAddress
from scaler.adapters.kubernetes.permissions import Feature, Permission
from scaler.adapters.kubernetes.pods import UNHEARD, PodPhase, PodStart, WorkloadPods
from scaler.adapters.kubernetes.targets import TargetRef

__all__ = [
    "HPA",
    "SCALED_OBJECT",
    "UNHEARD",
    "ApiConnection",
    "Feature",
    "FloorRef",
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
