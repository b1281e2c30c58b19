"""The cluster as the scaler sees it: read replicas and pods, write `spec.replicas`, leave an Event.

It decides whether a write may still happen given what stands there now. It never decides how many replicas there
should be and never overwrites a value that the decision did not see. The parts behind it: `kubernetes.http` (one
connection), `_targets` (scale subresources), `_read`, `_pods` and `_selectors` (counting), `_events`, `_errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Final, TypeVar

from forecaster.types import Blind, require_utc
from scaler.adapters.kubernetes.drain import Drain, drain_of
from scaler.adapters.kubernetes.errors import Conflict, Invalid, KubernetesError, Unavailable
from scaler.adapters.kubernetes.events import ScaleOutcome, ScaleResult, event_for
from scaler.adapters.kubernetes.floors import Floor, FloorApi, FloorRef, beneath
from scaler.adapters.kubernetes.http import ApiConnection, Call, Verb
from scaler.adapters.kubernetes.permissions import Feature, Permission, needed
from scaler.adapters.kubernetes.pods import WorkloadPods
from scaler.adapters.kubernetes.read import PodReader, blind_of
from scaler.adapters.kubernetes.rivals import rivals_of
from scaler.adapters.kubernetes.selectors import SelectorError
from scaler.adapters.kubernetes.targets import Budget, Scale, ScaleApi, TargetRef
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

NO_FLOORS: Final[Mapping[TargetRef, FloorRef]] = MappingProxyType({})

Written = TypeVar("Written", Scale, Floor)


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
        self._floors = FloorApi(api)
        self._pods = PodReader(api, self._scales)

    def read(
        self, targets: Sequence[TargetRef], *, now: datetime, floors: Mapping[TargetRef, FloorRef] = NO_FLOORS
    ) -> dict[TargetRef, ReplicaState | Blind]:
        """The replicas of every target; what could not be read is `Blind`, for that target alone. Never raises.

        A target with an entry in `floors` is seen from its floor.
        """
        pods = self.read_pods(targets, now=now, floors=floors)
        return {target: seen if isinstance(seen, Blind) else seen.replicas for target, seen in pods.items()}

    def read_pods(
        self, targets: Sequence[TargetRef], *, now: datetime, floors: Mapping[TargetRef, FloorRef] = NO_FLOORS
    ) -> dict[TargetRef, WorkloadPods | Blind]:
        """As `read`, with each pod's way to Ready beside the counts: the raw material of the measured start time."""
        budget = Budget(self._read_budget_s)
        above = self._read_floors(floors, budget.share(2)) if floors else {}
        seen = self._pods.read(targets, budget, now=require_utc(now, "now"))
        return {target: _seen_from(above[target], pods) if target in above else pods for target, pods in seen.items()}

    def _read_floors(self, floors: Mapping[TargetRef, FloorRef], budget: Budget) -> dict[TargetRef, Floor | Blind]:
        found: dict[TargetRef, Floor | Blind] = {}
        for place, (target, floor) in enumerate(floors.items()):
            try:
                found[target] = self._floors.get(floor, target, budget.share(len(floors) - place))
            except KubernetesError as error:
                found[target] = blind_of(error)
        return found

    def scale(self, target: TargetRef, replicas: int, *, expected: int) -> ScaleOutcome:
        """Set `spec.replicas` from `expected`, the value the decision saw, to `replicas`.

        Sent with the version and uid just read, so any change in between is a 409: read again, and go on only if
        the value is still `expected`, three tries in all. Another value is a conflict; whether a zero may be left is
        the decision's to say, it knows who wrote it. A write that happened although its answer was lost reads as
        scaled, or as unchanged on the next call. `KubernetesError` where neither is known; at most `SCALE_BUDGET_S`
        in all.
        """
        _check_number(target, replicas)
        budget = Budget(SCALE_BUDGET_S)
        return _write(
            lambda: self._scales.get(target, budget),
            lambda found: self._scales.patch(target, found, replicas, budget),
            replicas,
            expected=expected,
        )

    def set_floor(self, floor: FloorRef, target: TargetRef, replicas: int, *, expected: int) -> ScaleOutcome:
        """Set the floor of the autoscaler above `target` as `scale` sets replicas: the same promises and errors.

        `NoAutoscaler` where there is none, `Invalid` above its maximum. The outcome's uid is the autoscaler's.
        """
        _check_number(target, replicas)
        budget = Budget(SCALE_BUDGET_S)
        outcome = _write(
            lambda: self._floors.get(floor, target, budget),
            lambda found: self._floors.patch(floor, found, replicas, budget),
            replicas,
            expected=expected,
        )
        return replace(outcome, floor=True)

    def announce(self, target: TargetRef, outcome: ScaleOutcome, *, note: str, now: datetime) -> KubernetesError | None:
        """Leave an Event on the workload for a change or a conflict. Best effort: a failure is returned, not raised.

        Without a uid `kubectl describe` would not find it, so one that the outcome does not know is asked for.
        """
        if outcome.result is ScaleResult.UNCHANGED:
            return None
        if not outcome.uid:
            try:
                outcome = replace(outcome, uid=self._scales.get(target, Budget(EVENT_TIMEOUT_S)).uid)
            except KubernetesError as error:
                return error
        event = event_for(target, outcome, note=note, now=now, instance=self._instance)
        call = Call(
            verb=Verb.CREATE, group="events.k8s.io", version="v1", resource="events", namespace=target.namespace
        )
        try:
            self._api.call(call, body=event, timeout_s=EVENT_TIMEOUT_S)
        except KubernetesError as error:
            return error
        return None

    def rivals(self, targets: Sequence[TargetRef]) -> dict[TargetRef, tuple[str, ...]]:
        """Other autoscalers that scale `targets`; a target of which that is not known is missing. Never raises."""
        return rivals_of(self._api, targets, Budget(self._read_budget_s))

    def drain(self, target: TargetRef) -> Drain | None:
        """How a pod of the target ends, as its newest pod says; None while it has none. `KubernetesError`."""
        try:
            pods = self._pods.pods_of(target, Budget(self._read_budget_s))
        except SelectorError as error:
            raise Invalid(f"{target}: {error}") from error
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
        return None if newest is None else drain_of(newest)

    def missing_permissions(
        self, targets: Sequence[TargetRef], features: Collection[Feature]
    ) -> tuple[Permission, ...]:
        """What this account lacks for `features` on `targets`; for some of it there is a `loss_without`.

        Asks, and changes nothing. `KubernetesError` where the server cannot be asked.
        """
        budget = Budget(SCALE_BUDGET_S)
        rows = (
            needed(
                features,
                namespace=target.namespace,
                group=target.api_version.rpartition("/")[0],
                plural=self._scales.plural(target, budget),
            )
            for target in targets
        )
        return self._scales.lacking(chain.from_iterable(rows), budget)

    def lacking(self, permissions: Iterable[Permission]) -> tuple[Permission, ...]:
        """Those of `permissions` that this account does not have. As `missing_permissions`, for what has no target."""
        return self._scales.lacking(permissions, Budget(SCALE_BUDGET_S))


def _check_number(target: TargetRef, replicas: int) -> None:
    if not 0 <= replicas <= MAX_REPLICAS or isinstance(replicas, bool):
        raise Invalid(f"{target}: {replicas!r} is no number of replicas between 0 and {MAX_REPLICAS}")


def _seen_from(floor: Floor | Blind, pods: WorkloadPods | Blind) -> WorkloadPods | Blind:
    """A workload's pods against the floor above it; what is blind of the two blinds both."""
    if isinstance(pods, Blind):
        return pods
    return floor if isinstance(floor, Blind) else replace(pods, replicas=beneath(pods.replicas, floor))


def _write(
    get: Callable[[], Written], patch: Callable[[Written], Written], replicas: int, *, expected: int
) -> ScaleOutcome:
    """Read, compare, write over exactly what was read; three tries while something else of the object changes."""
    for _ in range(SCALE_TRIES):
        found = get()
        if found.replicas == replicas:
            return _outcome(ScaleResult.UNCHANGED, found, replicas)
        if found.replicas != expected:
            return _outcome(ScaleResult.CONFLICT, found, replicas)
        try:
            written = patch(found)
        except Conflict:
            continue
        except Unavailable as error:
            written = _after_silence(get, replicas, error)
        if written.replicas != replicas:  # an admission webhook holds the last word
            return _outcome(ScaleResult.CONFLICT, written, replicas)
        return _outcome(ScaleResult.SCALED, found, replicas)
    return _outcome(ScaleResult.CONFLICT, found, replicas)


def _after_silence(get: Callable[[], Written], replicas: int, error: Unavailable) -> Written:
    """What stands there after a write without an answer, if the write is seen to have happened; else `error` itself."""
    try:
        now_there = get()
    except KubernetesError:
        raise error from None
    if now_there.replicas != replicas:
        raise error
    return now_there


def _outcome(result: ScaleResult, found: Scale | Floor, replicas: int) -> ScaleOutcome:
    return ScaleOutcome(result=result, found=found.replicas, replicas=replicas, uid=found.uid)
