"""Settings to connections: which address, which credentials, which series, which object. No rule and no I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from forecaster.sources.connection import Connection
from forecaster.sources.selector import WorkloadSelector
from scaler.adapters.kubernetes import FloorRef, InCluster, Kubeconfig, TargetRef
from scaler.adapters.kubernetes.leases import LeaseRef
from scaler.config import Config, KubernetesConfig, PrometheusConfig, TargetConfig
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Mode


def connection_of(prometheus: PrometheusConfig) -> Connection:
    """The metrics server."""
    return Connection(
        url=prometheus.url,
        deadline_s=prometheus.deadline_s,
        bearer_token_file=_text(prometheus.bearer_token_file),
        username=prometheus.username,
        password_file=_text(prometheus.password_file),
        ca_file=_text(prometheus.ca_file),
        cert_file=_text(prometheus.cert_file),
        key_file=_text(prometheus.key_file),
        tenant=prometheus.tenant,
    )


def selectors_of(config: Config) -> tuple[WorkloadSelector, ...]:
    """How each workload's series are found, in the order of the fleet."""
    services = services_of(config)
    return tuple(selector_of(config, policy, services) for policy in config.fleet.workloads)


def services_of(config: Config) -> dict[str, str]:
    """The model of each workload that is one of its variants: they share its arrivals."""
    return {each.workload: group.name for group in config.fleet.variants for each in group.workloads}


def selector_of(config: Config, policy: WorkloadPolicy, services: Mapping[str, str] | None = None) -> WorkloadSelector:
    """How one workload's series are found. `ValueError` names a setting that no query can be made of.

    `services` is `services_of`, for whoever asks for many.
    """
    services = services_of(config) if services is None else services
    selector = config.selectors[policy.workload]
    return WorkloadSelector(
        workload=policy.workload,
        namespace=selector.namespace,
        namespaced=selector.namespaced,
        labels=tuple(sorted(selector.labels.items())),
        deployment_label=selector.deployment_label,
        pod_pattern=selector.pod_pattern,
        class_label=selector.class_label,
        classes=selector.classes,
        demand_metric=selector.demand_metric,
        demand_labels=tuple(sorted(selector.demand_labels.items())),
        service=services.get(policy.workload, ""),
        rate_window_s=round(policy.latency.rate_window.total_seconds()),
    )


def targets_of(config: Config) -> dict[str, TargetRef]:
    """What is scaled, by workload."""
    return {workload: _target(workload, target) for workload, target in config.targets.items()}


def floors_of(config: Config) -> dict[str, FloorRef]:
    """The autoscaler whose floor is set, by workload in mode floor."""
    floors = {}
    for workload in (each.workload for each in config.fleet.workloads if each.mode is Mode.FLOOR):
        target, floor = _target(workload, config.targets[workload]), config.targets[workload].floor
        floors[workload] = FloorRef(namespace=target.namespace, kind=floor.kind.value, name=floor.name or target.name)
    return floors


def placeholder_targets_of(config: Config) -> dict[str, TargetRef]:
    """What holds GPUs ahead of the forecast, by placeholder."""
    return {name: _target(name, target) for name, target in config.placeholder_targets.items()}


def lease_of(config: Config) -> LeaseRef | None:
    """The lease that decides which of several daemons writes; None for the only one."""
    if config.ha.lease is None:
        return None
    namespace, _, name = config.ha.lease.partition("/")
    return LeaseRef(namespace=namespace, name=name)


def _target(workload: str, target: TargetConfig) -> TargetRef:
    namespace, _, name = workload.partition("/")
    return TargetRef(namespace=namespace, api_version=target.api_version, kind=target.kind, name=target.name or name)


def access_of(config: Config) -> InCluster | Kubeconfig:
    """How the daemon reaches the cluster."""
    return access_by(config.kubernetes)


def access_by(kubernetes: KubernetesConfig) -> InCluster | Kubeconfig:
    """A kubeconfig where one is named; else the pod's service account; else the user's own kubeconfig."""
    named = kubernetes.kubeconfig is not None or kubernetes.context is not None
    if not named and "KUBERNETES_SERVICE_HOST" in os.environ:
        return InCluster()
    return Kubeconfig(path=kubernetes.kubeconfig, context=kubernetes.context)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
