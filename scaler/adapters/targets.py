"""The loop's targets on Kubernetes: workload names to scale subresources, and outcomes in the loop's words.

It decides how an answer of the cluster is told, and that an Event follows each change. It never decides a number of
replicas, never writes for a workload that is only observed (the loop does not ask), and never raises.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import datetime

from forecaster.types import Blind
from scaler.adapters.kubernetes import KubernetesCluster, ScaleOutcome, ScaleResult, TargetRef
from scaler.adapters.kubernetes.errors import KubernetesError
from scaler.policy.types import Decision, ReplicaState
from scaler.ports import Outcome, OutcomeKind

ANNOUNCE_BUDGET_S = 4.0
"""All Events of one tick together; the rest is dropped: people can still read the journal."""

_KINDS = {
    ScaleResult.SCALED: OutcomeKind.SCALED,
    ScaleResult.UNCHANGED: OutcomeKind.UNCHANGED,
    ScaleResult.CONFLICT: OutcomeKind.CONFLICT,
}


class KubernetesTargets:
    """The loop's `Targets` over one cluster."""

    def __init__(self, cluster: KubernetesCluster, targets: Mapping[str, TargetRef]) -> None:
        """`targets` by workload."""
        self._cluster = cluster
        self._targets = dict(targets)
        self._lock = threading.Lock()
        self._untold: list[tuple[TargetRef, ScaleOutcome, str]] = []

    def use(self, targets: Mapping[str, TargetRef]) -> None:
        """Read and scale these from the next read on. Not during one."""
        self._targets = dict(targets)

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Replica counts by workload."""
        seen = self._cluster.read(tuple(self._targets.values()), now=now)
        return {workload: seen[target] for workload, target in self._targets.items()}

    def scale(self, decision: Decision) -> Outcome:
        """Write `decision.target` if the scale still is `decision.current`."""
        target = self._targets[decision.workload]
        if decision.target is None or decision.current is None:
            return Outcome(kind=OutcomeKind.UNCHANGED, detail="nothing to write")
        try:
            outcome = self._cluster.scale(target, decision.target, expected=decision.current)
        except KubernetesError as error:
            return Outcome(kind=OutcomeKind.FAILED, detail=str(error))
        with self._lock:
            self._untold.append((target, outcome, _note(decision, outcome)))
        return Outcome(kind=_KINDS[outcome.result], detail=_detail(decision, outcome), found=outcome.found)

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


def _detail(decision: Decision, outcome: ScaleOutcome) -> str:
    if outcome.result is ScaleResult.CONFLICT:
        return f"found {outcome.found} replicas where the decision saw {decision.current}"
    return f"{outcome.found} → {outcome.replicas}"


def _note(decision: Decision, outcome: ScaleOutcome) -> str:
    """The Event's text: what changed, why, and which rules wanted what."""
    wishes = "; ".join(f"{each.rule} {each.want}: {each.detail or each.reason}" for each in decision.proposals)
    head = (
        f"held: {_detail(decision, outcome)}, another writer?"
        if outcome.result is ScaleResult.CONFLICT
        else f"scaled {_detail(decision, outcome)}"
    )
    return f"{head} ({decision.reason}). {wishes}"
