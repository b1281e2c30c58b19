"""The cluster as the scaler sees it: read replicas and pods, write `spec.replicas`, leave an Event.

It decides whether a write may still happen given what stands there now. It never decides how many replicas there
should be and never overwrites a value that the decision did not see. The parts behind it: `kubernetes.http` (one
connection), `_targets` (scale subresources), `_read`, `_pods` and `_selectors` (counting), `_events`, `_errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from forecaster.types import Blind, require_utc
from scaler.adapters.kubernetes.drain import Drain, drain_of
from scaler.adapters.kubernetes.errors import Conflict, Invalid, KubernetesError, Unavailable
from scaler.adapters.kubernetes.events import ScaleOutcome, ScaleResult, event_for
from scaler.adapters.kubernetes.http import ApiConnection, Call, Verb
from scaler.adapters.kubernetes.pods import WorkloadPods
from scaler.adapters.kubernetes.read import PodReader
from scaler.adapters.kubernetes.selectors import SelectorError
from scaler.adapters.kubernetes.targets import Budget, Permission, Scale, ScaleApi, TargetRef
from scaler.policy.types import ReplicaState

READ_BUDGET_S = 8.0
"""All of one `read`: a tick has 10 s, and a hung API server must leave room to journal and to say so."""

SCALE_BUDGET_S = 10.0
"""All calls of one `scale` together, so that one hung workload delays the next by no more."""

EVENT_TIMEOUT_S = 2.0
"""An Event is a courtesy; the next workload's change does not wait longer for it."""

SCALE_TRIES = 3
"""Conflicts come in bursts while a rollout rewrites the object's status; after three the next tick decides anew."""

MAX_REPLICAS = 2**31 - 1
"""`spec.replicas` is an int32."""


class KubernetesCluster:
    """Reads and scales workloads through one `ApiConnection`; safe to share between threads."""

    def __init__(
        self, api: ApiConnection, *, instance: str = "headstart", read_budget_s: float = READ_BUDGET_S
    ) -> None:
        """`instance` names this process in Events, such as its pod's name."""
        self._api = api
        self._instance = instance
        self._read_budget_s = read_budget_s
        self._scales = ScaleApi(api)
        self._pods = PodReader(api, self._scales)

    def read(self, targets: Sequence[TargetRef], *, now: datetime) -> dict[TargetRef, ReplicaState | Blind]:
        """The replicas of every target; what could not be read is `Blind`, for that target alone. Never raises."""
        pods = self.read_pods(targets, now=now)
        return {target: seen if isinstance(seen, Blind) else seen.replicas for target, seen in pods.items()}

    def read_pods(self, targets: Sequence[TargetRef], *, now: datetime) -> dict[TargetRef, WorkloadPods | Blind]:
        """As `read`, with each pod's way to Ready beside the counts: the raw material of the measured start time."""
        return self._pods.read(targets, Budget(self._read_budget_s), now=require_utc(now, "now"))

    def scale(self, target: TargetRef, replicas: int, *, expected: int) -> ScaleOutcome:
        """Set `spec.replicas` from `expected`, the value the decision saw, to `replicas`.

        Sent with the version and uid just read, so any change in between is a 409: read again, and go on only if
        the value is still `expected`, three tries in all. Another value is a conflict; whether a zero may be left is
        the decision's to say, it knows who wrote it. A write that happened although its answer was lost reads as
        scaled, or as unchanged on the next call. `KubernetesError` where neither is known; at most `SCALE_BUDGET_S`
        in all.
        """
        if not 0 <= replicas <= MAX_REPLICAS or isinstance(replicas, bool):
            raise Invalid(f"{target}: {replicas!r} is no number of replicas between 0 and {MAX_REPLICAS}")
        budget = Budget(SCALE_BUDGET_S)
        for _ in range(SCALE_TRIES):
            found = self._scales.get(target, budget)
            if found.replicas == replicas:
                return _outcome(ScaleResult.UNCHANGED, found, replicas)
            if found.replicas != expected:
                return _outcome(ScaleResult.CONFLICT, found, replicas)
            try:
                written = self._scales.patch(target, found, replicas, budget)
            except Conflict:
                continue
            except Unavailable as error:
                written = self._after_silence(target, replicas, budget, error)
            if written.replicas != replicas:  # an admission webhook holds the last word
                return _outcome(ScaleResult.CONFLICT, written, replicas)
            return _outcome(ScaleResult.SCALED, found, replicas)
        return _outcome(ScaleResult.CONFLICT, found, replicas)

    def _after_silence(self, target: TargetRef, replicas: int, budget: Budget, error: Unavailable) -> Scale:
        """The scale after a write without an answer, if the write is seen to have happened; else `error` itself."""
        try:
            now_there = self._scales.get(target, budget)
        except KubernetesError:
            raise error from None
        if now_there.replicas != replicas:
            raise error
        return now_there

    def announce(self, target: TargetRef, outcome: ScaleOutcome, *, note: str, now: datetime) -> KubernetesError | None:
        """Leave an Event on the workload for a change or a conflict. Best effort: a failure is returned, not raised."""
        if outcome.result is ScaleResult.UNCHANGED:
            return None
        event = event_for(target, outcome, note=note, now=now, instance=self._instance)
        call = Call(
            verb=Verb.CREATE, group="events.k8s.io", version="v1", resource="events", namespace=target.namespace
        )
        try:
            self._api.call(call, body=event, timeout_s=EVENT_TIMEOUT_S)
        except KubernetesError as error:
            return error
        return None

    def drain(self, target: TargetRef) -> Drain | None:
        """How a pod of the target ends, as its newest pod says; None while it has none. `KubernetesError`."""
        try:
            pods = self._pods.pods_of(target, Budget(self._read_budget_s))
        except SelectorError as error:
            raise Invalid(f"{target}: {error}") from error
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        return None if newest is None else drain_of(newest)

    def missing_permissions(self, targets: Sequence[TargetRef], *, active: bool) -> tuple[Permission, ...]:
        """What this account lacks to observe `targets`, or to scale them if `active`; asks, and changes nothing.

        `KubernetesError` where the server cannot be asked.
        """
        return self._scales.missing_permissions(targets, Budget(SCALE_BUDGET_S), active=active)


def _outcome(result: ScaleResult, found: Scale, replicas: int) -> ScaleOutcome:
    return ScaleOutcome(result=result, found=found.replicas, replicas=replicas, uid=found.uid)
