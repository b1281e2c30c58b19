"""Before a scale-in: tell the controller which pods to remove, by their `pod-deletion-cost`.

It decides how little is sent: the pods that should go, and those still marked from a scale-in that did not happen. It
ranks nothing itself, never touches a cost that somebody else gave, and never keeps a release from happening: whatever
fails is answered in words. Only a Deployment's controller looks at the cost; others remove the highest ordinal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scaler.adapters.kubernetes.errors import MISSHAPEN, Conflict, KubernetesError, NotFound
from scaler.adapters.kubernetes.http import ApiConnection, Call, Verb
from scaler.adapters.kubernetes.pods import PodPhase, phase_of
from scaler.adapters.kubernetes.read import PodReader
from scaler.adapters.kubernetes.targets import FIELD_MANAGER, Budget, ScaleApi, TargetRef
from scaler.policy.victims import Candidate, costs

COST = "controller.kubernetes.io/pod-deletion-cost"
"""What a ReplicaSet's controller sorts Ready pods by; without it a pod counts 0."""

MARK = "headstart.autoscaling/deletion-cost"
"""Our copy of the cost: one that differs from it, or has none beside it, is somebody else's."""

MARK_BUDGET_S = 4.0
"""All calls of one `mark`, so that a scale-in begins soon even where marking hangs."""

InFlight = Callable[[str, Sequence[str]], Mapping[str, float]]
"""Running and waiting requests by pod, of pods of a namespace; those that are not known are left out. Never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """Pods that were marked to go first, and what failed, "" if nothing did."""

    pods: tuple[str, ...] = ()
    failed: str = ""

    def __str__(self) -> str:
        first = f"first to go: {', '.join(self.pods)}" if self.pods else ""
        return "; ".join(part for part in (first, self.failed and f"pods not marked: {self.failed}") if part)


class VictimMarker:
    """Marks pods through one connection; safe to share between threads."""

    def __init__(self, api: ApiConnection, in_flight: InFlight, *, budget_s: float = MARK_BUDGET_S) -> None:
        self._api = api
        self._in_flight = in_flight
        self._budget_s = budget_s
        self._pods = PodReader(api, ScaleApi(api))

    def mark(self, target: TargetRef, *, leaving: int) -> Marking:
        """Mark the pods that should be among the `leaving` ones, and unmark those that we marked before."""
        if target.kind != "Deployment":
            return Marking()
        budget, marked = Budget(self._budget_s), []
        try:
            pods = self._pods.pods_of(target, budget)
            alive = [pod for pod in pods if phase_of(pod) is not PodPhase.GONE]
            busy = self._in_flight(target.namespace, [pod["metadata"]["name"] for pod in alive])
            wanted = costs([_candidate(pod, busy) for pod in alive], leaving=leaving)
            for pod in alive:
                name = pod["metadata"]["name"]
                is_there = _ours(pod) == wanted.get(name) or self._patched(pod, wanted.get(name), budget)
                if is_there and name in wanted:
                    marked.append(name)
        except (KubernetesError, *MISSHAPEN) as error:
            return Marking(pods=tuple(marked), failed=str(error) or type(error).__name__)
        return Marking(pods=tuple(sorted(marked, key=wanted.__getitem__)))

    def _patched(self, pod: Mapping[str, Any], cost: int | None, budget: Budget) -> bool:
        """Set or take away a pod's cost; False where it is gone, or another pod has its name now."""
        metadata, value = pod["metadata"], None if cost is None else str(cost)
        body = {"metadata": {"uid": metadata["uid"], "annotations": {COST: value, MARK: value}}}
        call = Call(
            verb=Verb.PATCH,
            group="",
            version="v1",
            resource="pods",
            namespace=metadata["namespace"],
            name=metadata["name"],
            query=(("fieldManager", FIELD_MANAGER),),
        )
        try:
            self._api.call(call, body=body, timeout_s=budget.left_s())
        except (NotFound, Conflict):
            return False
        return True


def _candidate(pod: Mapping[str, Any], busy: Mapping[str, float]) -> Candidate:
    metadata = pod["metadata"]
    given = (metadata.get("annotations") or {}).get(COST)
    return Candidate(
        pod=metadata["name"],
        ready=phase_of(pod) is PodPhase.READY,
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]).astimezone(UTC),
        in_flight=busy.get(metadata["name"]),
        own_cost=None if given is None or _ours(pod) is not None else int(given),
    )


def _ours(pod: Mapping[str, Any]) -> int | None:
    """The cost that we gave this pod, None without one."""
    annotations = pod["metadata"].get("annotations") or {}
    given = annotations.get(COST)
    return int(given) if given is not None and given == annotations.get(MARK) else None
