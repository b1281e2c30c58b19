"""Where a daemon's workloads run: a cluster, or this machine.

It picks the parts that belong to it, and decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from forecaster.types import Blind
from scaler.adapters.connections import access_of, floors_of, targets_of
from scaler.adapters.in_flight import PodRequests
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, TargetRef, WorkloadPods
from scaler.adapters.kubernetes.http import Observer
from scaler.adapters.kubernetes.victims import VictimMarker
from scaler.adapters.targets import KubernetesTargets, ScaleTargets
from scaler.config import Config

OnPods = Callable[[Mapping[str, WorkloadPods | Blind]], None]


class Ground(Protocol):
    """What the daemon needs of where its workloads run."""

    @property
    def targets(self) -> ScaleTargets:
        """What is scaled."""
        ...

    @property
    def mutating_requests(self) -> int:
        """Writes sent since the start."""
        ...

    @property
    def writes_settled(self) -> bool:
        """Whether no write is under way."""
        ...

    def rivals(self, targets: Sequence[TargetRef]) -> Mapping[TargetRef, tuple[str, ...]]:
        """Other autoscalers of `targets`, as far as they can be seen."""
        ...

    def start(self) -> None:
        """Before the first round."""
        ...

    def close(self) -> None:
        """After the last one. What runs goes on as it is."""
        ...


class ClusterGround:
    """A Kubernetes cluster."""

    def __init__(
        self,
        config: Config,
        *,
        may_write: Callable[[], bool],
        write_limit_s: float,
        observer: Observer,
        on_pods: OnPods,
        pod_requests: PodRequests,
    ) -> None:
        """`pod_requests` tells which pods are idle. Raises `KubernetesError` where there are no credentials."""
        self._api = ApiConnection(
            access_of(config), may_write=may_write, write_limit_s=write_limit_s, observer=observer
        )
        self._cluster = KubernetesCluster(self._api, instance=os.environ.get("HOSTNAME", "headstart"))
        self.victims = VictimMarker(self._api, pod_requests) if config.deletion_cost else None
        self.targets: ScaleTargets = KubernetesTargets(
            self._cluster, targets_of(config), floors_of(config), victims=self.victims, on_pods=on_pods
        )

    @property
    def mutating_requests(self) -> int:
        """Writes sent to the cluster since the start."""
        return self._api.mutating_requests

    @property
    def writes_settled(self) -> bool:
        """Whether every write has its answer, or will not be carried out any more."""
        return self._api.writes_settled

    def rivals(self, targets: Sequence[TargetRef]) -> Mapping[TargetRef, tuple[str, ...]]:
        """Other autoscalers of `targets`."""
        return self._cluster.rivals(targets)

    def start(self) -> None:
        """There is nothing to begin."""

    def close(self) -> None:
        """Close the connections."""
        self._api.close()


class MachineGround:
    """This machine."""

    def __init__(
        self, config: Config, log: Any, *, dry_run: bool, may_write: Callable[[], bool], on_pods: OnPods
    ) -> None:
        """Finds the servers that run; raises `OSError` where their folder cannot be used."""
        from scaler.adapters.local_vllm import local_targets  # lazy: a daemon of a cluster needs none of it

        self._local = local_targets(config, log, dry_run=dry_run, may_write=may_write, on_pods=on_pods)
        self.targets: ScaleTargets = self._local
        self.writes_settled = True

    @property
    def mutating_requests(self) -> int:
        """Numbers of servers that were changed since the start."""
        return self._local.mutating_requests

    def rivals(self, targets: Sequence[TargetRef]) -> Mapping[TargetRef, tuple[str, ...]]:
        """The lock on the data folder keeps others out."""
        del targets
        return {}

    def start(self) -> None:
        """Begin to keep the servers."""
        self._local.start()

    def close(self) -> None:
        """Keep them no more."""
        self._local.stop()
