"""The loop's targets on Kubernetes: workload names to scale subresources, and outcomes in the loop's words.

It decides how an answer of the cluster is told, and that an Event follows each change. It never decides a number of
replicas, never writes for a workload that is only observed (the loop does not ask), and never raises.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Protocol

from forecaster.types import Blind
from scaler.adapters.kubernetes import (
    UNHEARD,
    FloorRef,
    KubernetesCluster,
    ScaleOutcome,
    ScaleResult,
    TargetRef,
    WorkloadPods,
)
from scaler.adapters.kubernetes.errors import KubernetesError, Throttled
from scaler.adapters.kubernetes.victims import VictimMarker
from scaler.policy.types import Action, Decision, ReplicaState
from scaler.ports import Outcome, OutcomeKind

ANNOUNCE_BUDGET_S = 4.0
"""All Events of one tick together; the rest is dropped: people can still read the journal."""

_KINDS = {
    ScaleResult.SCALED: OutcomeKind.SCALED,
    ScaleResult.UNCHANGED: OutcomeKind.UNCHANGED,
    ScaleResult.CONFLICT: OutcomeKind.CONFLICT,
}


class ScaleTargets(Protocol):
    """What the daemon asks of its targets beside what the loop does."""

    @property
    def workloads(self) -> tuple[str, ...]:
        """Whose targets these are."""
        ...

    @property
    def remarks(self) -> dict[str, tuple[str, ...]]:
        """What the last read has to tell of workloads beside their replicas."""
        ...

    def use(self, targets: Mapping[str, TargetRef], floors: Mapping[str, FloorRef] | None = None) -> None:
        """Read and scale these from the next read on. Not during one."""
        ...

    def annotations(self, workload: str) -> Mapping[str, str]:
        """A workload's own annotations, as they were read last."""
        ...

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Replica counts by workload."""
        ...

    def scale(self, decision: Decision) -> Outcome:
        """Write `decision.target` if `decision.current` still stands there."""
        ...

    def tell_conflict(self, decision: Decision, note: str) -> None:
        """Have people told that another writer is left alone; `note` says why."""
        ...

    def announce(self, *, now: datetime) -> tuple[Exception, ...]:
        """Tell people of the writes since the last call; answers what could not be told."""
        ...


class KubernetesTargets:
    """The loop's `Targets` over one cluster."""

    def __init__(
        self,
        cluster: KubernetesCluster,
        targets: Mapping[str, TargetRef],
        floors: Mapping[str, FloorRef] | None = None,
        *,
        victims: VictimMarker | None = None,
        on_pods: Callable[[Mapping[str, WorkloadPods | Blind]], None] = lambda _: None,
    ) -> None:
        """`targets` by workload; those in `floors` are read from, and scaled by, the floor of that autoscaler. With
        `victims` the pods that should go are marked before a scale-in. `on_pods` is told of all pods at every read."""
        self._cluster = cluster
        self._victims = victims
        self._on_pods = on_pods
        self._targets = dict(targets)
        self._floors = dict(floors or {})
        self._remarks: dict[str, tuple[str, ...]] = {}
        self._annotations: dict[str, Mapping[str, str]] = {}
        self._lock = threading.Lock()
        self._untold: list[tuple[TargetRef, ScaleOutcome, str]] = []

    def use(self, targets: Mapping[str, TargetRef], floors: Mapping[str, FloorRef] | None = None) -> None:
        """Read and scale these from the next read on. Not during one."""
        self._targets, self._floors = dict(targets), dict(floors or {})

    @property
    def workloads(self) -> tuple[str, ...]:
        """Whose targets these are."""
        return tuple(self._targets)

    def annotations(self, workload: str) -> Mapping[str, str]:
        """A workload's own, as they were read last; none where they never were."""
        return self._annotations.get(workload, {})

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Replica counts by workload."""
        floors = {self._targets[workload]: floor for workload, floor in self._floors.items()}
        pods = self._cluster.read_pods(tuple(self._targets.values()), now=now, floors=floors)
        seen = {workload: pods[target] for workload, target in self._targets.items()}
        self._on_pods(seen)
        known = {name: each for name, each in seen.items() if not isinstance(each, Blind)}
        self._remarks = {name: told for name, each in known.items() if (told := tuple(_remarks(each)))}
        read = {name: each.annotations for name, each in known.items() if each.annotations is not None}
        # Who paused by annotation stays paused while the object, or more than its scale, cannot be read.
        self._annotations = {name: read.get(name, self.annotations(name)) for name in seen}
        return {name: each if isinstance(each, Blind) else each.replicas for name, each in seen.items()}

    @property
    def remarks(self) -> dict[str, tuple[str, ...]]:
        """What the last read has to tell of workloads beside their replicas: pods that the cluster does not make, and
        objects on which nobody can leave an order."""
        return dict(self._remarks)

    def scale(self, decision: Decision) -> Outcome:
        """Write `decision.target` if the scale, or the floor, still is `decision.current`."""
        target = self._targets[decision.workload]
        if decision.target is None or decision.current is None:
            return Outcome(kind=OutcomeKind.UNCHANGED, detail="nothing to write")
        marked, floor = "", self._floors.get(decision.workload)
        # A floor that is lowered removes nobody: which pods go, and how many, is the autoscaler's to say.
        if self._victims is not None and floor is None and decision.action is Action.IN:
            marked = str(self._victims.mark(target, leaving=decision.current - decision.target))
        try:
            outcome = (
                self._cluster.scale(target, decision.target, expected=decision.current)
                if floor is None
                else self._cluster.set_floor(floor, target, decision.target, expected=decision.current)
            )
        except Throttled as error:
            return Outcome(kind=OutcomeKind.POSTPONED, detail=str(error), retry_after_s=error.retry_after_s)
        except KubernetesError as error:
            return Outcome(kind=OutcomeKind.FAILED, detail=str(error))
        with self._lock:
            self._untold.append((target, outcome, _note(decision, outcome)))
        detail = "; ".join(part for part in (_detail(decision, outcome), marked) if part)
        return Outcome(kind=_KINDS[outcome.result], detail=detail, found=outcome.found)

    def tell_conflict(self, decision: Decision, note: str) -> None:
        """Have the next `announce` leave a warning that another writer is left alone; `note` says why."""
        if decision.current is None:
            return
        held = ScaleOutcome(result=ScaleResult.CONFLICT, found=decision.current, replicas=decision.current)
        with self._lock:
            self._untold.append((self._targets[decision.workload], held, note))

    def announce(self, *, now: datetime) -> tuple[KubernetesError, ...]:
        """Leave the Events of the writes since the last call; what could not be left is answered and forgotten."""
        with self._lock:
            untold, self._untold = self._untold, []
        errors, ends = [], time.monotonic() + ANNOUNCE_BUDGET_S
        for target, outcome, note in untold:
            if time.monotonic() >= ends:
                break
            error = self._cluster.announce(target, outcome, note=note, now=now)
            if error is not None:
                errors.append(error)
        return tuple(errors)


def _remarks(pods: WorkloadPods) -> Iterator[str]:
    if pods.refused:
        yield f"pods are not made: {pods.refused}"
    if pods.annotations is None:
        yield UNHEARD


def _detail(decision: Decision, outcome: ScaleOutcome) -> str:
    if outcome.result is ScaleResult.CONFLICT:
        seen = f"a floor of {outcome.found}" if outcome.floor else f"{outcome.found} replicas"
        return f"found {seen} where the decision saw {decision.current}"
    return f"{'floor ' if outcome.floor else ''}{outcome.found} → {outcome.replicas}"


def _note(decision: Decision, outcome: ScaleOutcome) -> str:
    """The Event's text: what changed, why, and which rules wanted what."""
    wishes = "; ".join(f"{each.rule} {each.want}: {each.detail or each.reason}" for each in decision.proposals)
    head = (
        f"held: {_detail(decision, outcome)}, another writer?"
        if outcome.result is ScaleResult.CONFLICT
        else f"{'set the ' if outcome.floor else 'scaled '}{_detail(decision, outcome)}"
    )
    return f"{head} ({decision.reason}). {wishes}"
