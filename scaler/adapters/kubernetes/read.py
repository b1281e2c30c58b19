"""Reading many workloads in few calls: their Scales, their pods, and which of them could not be read.

It decides which LISTs cover the targets of a namespace. A failure blinds the targets it concerns and no others; it
never raises, never asks pod by pod, and never reads from the API server's cache
(`resourceVersion=0` answers in 10 ms while etcd is down: stale data looks healthy).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from forecaster.types import Blind, BlindReason
from scaler.adapters.kubernetes.errors import (
    MISSHAPEN,
    Forbidden,
    KubernetesError,
    NoAutoscaler,
    NotFound,
    TimedOut,
    Unauthorised,
    Unavailable,
)
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb
from scaler.adapters.kubernetes.lists import items_of
from scaler.adapters.kubernetes.pods import StartsRead, WorkloadPods, count, is_owned, refusal_of
from scaler.adapters.kubernetes.selectors import Labelled, Selector, parse_selector, query_for, selector_of
from scaler.adapters.kubernetes.targets import Budget, ScaleApi, TargetRef

LIST_FROM = 4
"""From this many workloads of one kind in a namespace on, one LIST of all is cheaper than one by name each (1.5 ms)."""

ASK_AGAIN_S = 300.0
"""After a LIST was forbidden, scales are read instead for so long: a rule that is granted later is noticed then."""

_LISTED = frozenset({("apps/v1", "Deployment"), ("apps/v1", "StatefulSet")})
"""Kinds whose objects hold both `spec.replicas` and a full `spec.selector`; of others only their Scale is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A target's `spec.replicas` and which pods may be its own."""

    desired: int
    selector: Selector
    annotations: Mapping[str, str] | None = None
    refused: str = ""


class PodReader:
    """Reads targets through one connection."""

    def __init__(self, api: ApiConnection, scales: ScaleApi) -> None:
        self._api = api
        self._scales = scales
        self._unlisted: dict[tuple[str, str, str], float] = {}  # namespace, api version, kind -> monotonic s, until
        self._starts = StartsRead()

    def read(
        self, targets: Sequence[TargetRef], budget: Budget, *, now: datetime
    ) -> dict[TargetRef, WorkloadPods | Blind]:
        """The pods of every target, or why they are not known. One thread at a time."""
        self._starts.begin()
        namespaces: dict[str, list[TargetRef]] = defaultdict(list)
        for target in targets:
            namespaces[target.namespace].append(target)
        seen: dict[TargetRef, WorkloadPods | Blind] = {}
        refused: Blind | None = None
        for place, group in enumerate(namespaces.values()):
            if refused is None:
                try:
                    seen |= self._read_namespace(group, budget.share(len(namespaces) - place), now)
                    continue
                except Unauthorised as error:  # the next namespace would only hear the same, a token reload later
                    refused = blind_of(error)
            seen |= dict.fromkeys(group, refused)
        return {target: seen[target] for target in targets}

    def pods_of(self, target: TargetRef, budget: Budget) -> list[Mapping[str, Any]]:
        """The pods of one target as the API has them; `KubernetesError`, `SelectorError`."""
        selector = parse_selector(self._scales.get(target, budget).selector)
        pods = items_of(self._api, _pods_call(target.namespace, [selector]), budget)
        selected = Labelled(pods).selected(selector)
        return [pod for pod in selected if is_owned(pod, kind=target.kind, name=target.name)]

    def _read_namespace(
        self, targets: Sequence[TargetRef], budget: Budget, now: datetime
    ) -> dict[TargetRef, WorkloadPods | Blind]:
        kinds: dict[tuple[str, str], list[TargetRef]] = defaultdict(list)
        for target in targets:
            kinds[target.api_version, target.kind].append(target)
        seen: dict[TargetRef, WorkloadPods | Blind] = {}
        wanted: dict[TargetRef, _Wanted] = {}
        for place, group in enumerate(kinds.values()):
            share = budget.share(len(kinds) - place + 1)  # beside it the other kinds, and the pods of them all
            for target, found in self._wanted(group, share).items():
                if isinstance(found, Blind):
                    seen[target] = found
                else:
                    wanted[target] = found
        return seen | (self._counted(wanted, budget, now) if wanted else {})

    def _counted(
        self, wanted: dict[TargetRef, _Wanted], budget: Budget, now: datetime
    ) -> dict[TargetRef, WorkloadPods | Blind]:
        """The pods of targets of one namespace, from one LIST."""
        call = _pods_call(next(iter(wanted)).namespace, [found.selector for found in wanted.values()])
        try:
            pods = Labelled(items_of(self._api, call, budget))
        except Unauthorised:
            raise
        except KubernetesError as error:
            return dict.fromkeys(wanted, blind_of(error))
        seen: dict[TargetRef, WorkloadPods | Blind] = {}
        for target, found in wanted.items():
            try:
                selected = pods.selected(found.selector)
                own = [pod for pod in selected if is_owned(pod, kind=target.kind, name=target.name)]
                counted = count(own, desired=found.desired, now=now, refused=found.refused, made=self._starts.of)
                seen[target] = replace(counted, annotations=found.annotations)
            except MISSHAPEN as error:
                seen[target] = _misshapen(target, error)
        return seen

    def _wanted(self, targets: Sequence[TargetRef], budget: Budget) -> dict[TargetRef, _Wanted | Blind]:
        """What targets of one kind in one namespace want: by one LIST where that pays, else by one request each."""
        if len(targets) >= LIST_FROM and self._may_list(targets[0]):
            try:
                return self._listed(targets, budget)
            except Forbidden:
                self._read_scales_of(targets[0])
            except Unauthorised:
                raise
            except KubernetesError as error:
                return dict.fromkeys(targets, blind_of(error))
        return {target: self._asked(target, budget.share(len(targets) - n)) for n, target in enumerate(targets)}

    def _may_list(self, target: TargetRef) -> bool:
        """Whether targets of this kind are read as objects: their annotations and conditions come along."""
        listed = (target.api_version, target.kind) in _LISTED
        return listed and time.monotonic() >= self._unlisted.get(_place_of(target), 0.0)

    def _read_scales_of(self, target: TargetRef) -> None:
        """An account that may touch only scales is a supported one: ask for each scale instead."""
        self._unlisted[_place_of(target)] = time.monotonic() + ASK_AGAIN_S

    def _asked(self, target: TargetRef, budget: Budget) -> _Wanted | Blind:
        if self._may_list(target):
            try:
                return self._listed([target], budget)[target]
            except Forbidden:
                self._read_scales_of(target)
            except Unauthorised:
                raise
            except KubernetesError as error:
                return blind_of(error)
        try:
            scale = self._scales.get(target, budget)
            return _Wanted(desired=scale.replicas, selector=parse_selector(scale.selector))
        except Unauthorised:
            raise
        except KubernetesError as error:
            return blind_of(error)
        except MISSHAPEN as error:
            return _misshapen(target, error)

    def _listed(self, targets: Sequence[TargetRef], budget: Budget) -> dict[TargetRef, _Wanted | Blind]:
        """The objects themselves, of one kind in one namespace; a single one is asked for by its name."""
        call = self._scales.call_for(Verb.LIST, targets[0], budget, named=False)
        if len(targets) == 1:
            call = replace(call, query=(("fieldSelector", f"metadata.name={targets[0].name}"),))
        objects = {_name_of(item): item for item in items_of(self._api, call, budget)}
        return {target: _wanted_by(target, objects.get(target.name)) for target in targets}


def _place_of(target: TargetRef) -> tuple[str, str, str]:
    return target.namespace, target.api_version, target.kind


def _pods_call(namespace: str, selectors: Sequence[Selector]) -> Call:
    labels = query_for(selectors)
    # Pods of finished jobs stay on the server.
    query = (("fieldSelector", "status.phase!=Succeeded"), *((("labelSelector", labels),) if labels else ()))
    return Call(verb=Verb.LIST, group="", version="v1", resource="pods", namespace=namespace, query=query)


def _name_of(item: Json) -> str | None:
    metadata = item.get("metadata")
    return metadata.get("name") if isinstance(metadata, dict) else None


def _wanted_by(target: TargetRef, item: Json | None) -> _Wanted | Blind:
    """What a listed object says; `item` is None where the list did not have it."""
    if item is None:
        return Blind(reason=BlindReason.NOT_FOUND, detail=f"{target} does not exist")
    try:
        spec = item["spec"]
        return _Wanted(
            desired=int(spec.get("replicas", 0)),
            selector=selector_of(spec.get("selector") or {}),
            annotations={str(key): str(text) for key, text in (item["metadata"].get("annotations") or {}).items()},
            refused=refusal_of(item),
        )
    except MISSHAPEN as error:
        return _misshapen(target, error)


def _misshapen(target: TargetRef, error: Exception) -> Blind:
    return Blind(reason=BlindReason.MALFORMED, detail=f"{target}: {type(error).__name__}: {error}")


def blind_of(error: KubernetesError) -> Blind:
    """Why something could not be read, in the words of a reading."""
    match error:
        case Forbidden():
            reason = BlindReason.FORBIDDEN
        case NoAutoscaler():
            reason = BlindReason.NO_AUTOSCALER
        case NotFound():
            reason = BlindReason.NOT_FOUND
        case TimedOut():
            reason = BlindReason.TIMEOUT
        case Unavailable(status=None):
            reason = BlindReason.UNREACHABLE
        case Unavailable(status=200):
            reason = BlindReason.MALFORMED
        case _:
            reason = BlindReason.REFUSED
    return Blind(reason=reason, detail=str(error))
