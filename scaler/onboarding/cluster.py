"""What runs in a cluster, asked through the one connection: objects of the kinds that serve models, and their starts.

It decides which lists are asked and what a refusal means for the others; it writes nothing and reads no pod's content
beyond its status.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from forecaster.types import Blind
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster, PodPhase, TargetRef, WorkloadPods
from scaler.adapters.kubernetes.errors import MISSHAPEN, KubernetesError, NotFound
from scaler.adapters.kubernetes.http import Call, Verb
from scaler.adapters.kubernetes.lists import items_of
from scaler.adapters.kubernetes.targets import Budget
from scaler.onboarding.candidates import Candidate, LeftOut, recognise

LIST_S = 20.0
"""For all pages of one list."""

LONGEST_START = timedelta(hours=1)
"""A pod that was Ready later than this lost and found its readiness again: no measurement of a start."""

KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("apps", "v1", "deployments", "Deployment"),
    ("apps", "v1", "statefulsets", "StatefulSet"),
    ("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet"),
)
"""Group, version, plural and kind of what serves models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """What a cluster runs; `troubles` are lists that were refused, in words."""

    candidates: tuple[Candidate, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    troubles: tuple[str, ...] = ()


def survey(api: ApiConnection, namespaces: Sequence[str], *, now: datetime) -> Surveyed:
    """Everything that serves with vLLM in these namespaces, or in the whole cluster where none is named.

    Raises `KubernetesError` where nothing at all could be listed.
    """
    found: list[Candidate] = []
    left: list[LeftOut] = []
    troubles: list[str] = []
    errors: list[KubernetesError] = []
    listed = 0
    for namespace in namespaces or (None,):
        for group, version, plural, kind in KINDS:
            call = Call(verb=Verb.LIST, group=group, version=version, resource=plural, namespace=namespace)
            try:
                items = items_of(api, call, Budget(LIST_S))
                candidates, others = recognise(items, api_version=f"{group}/{version}", kind=kind)
            except NotFound:
                continue  # a kind that is not installed
            except KubernetesError as error:
                errors.append(error)
                troubles.append(str(error))
            except MISSHAPEN as error:
                troubles.append(f"{plural}: an answer that could not be read ({type(error).__name__}: {error})")
            else:
                listed += 1
                found += candidates
                left += others
    if errors and not listed:
        raise errors[0]
    return Surveyed(candidates=_started(api, found, now=now), left_out=tuple(left), troubles=tuple(troubles))


def _started(api: ApiConnection, found: Sequence[Candidate], *, now: datetime) -> tuple[Candidate, ...]:
    """The candidates with the start times that their pods show; without where pods may not be read."""
    targets = {each: _target(each) for each in found}
    pods = KubernetesCluster(api).read_pods(tuple(targets.values()), now=now)
    return tuple(replace(each, start_time=start_time_of(pods[target])) for each, target in targets.items())


def _target(each: Candidate) -> TargetRef:
    return TargetRef(namespace=each.namespace, api_version=each.api_version, kind=each.kind, name=each.name)


def start_time_of(pods: WorkloadPods | Blind) -> timedelta | None:
    """Median time from created to Ready of the pods that are Ready now; None where there is none."""
    if isinstance(pods, Blind):
        return None
    took = [
        start.ready_at - start.created_at
        for start in pods.starts
        if start.phase is PodPhase.READY and start.ready_at is not None
    ]
    plausible_s = [each.total_seconds() for each in took if timedelta(0) <= each <= LONGEST_START]
    return timedelta(seconds=statistics.median(plausible_s)) if plausible_s else None
