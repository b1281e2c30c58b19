"""Deployments that carry our annotation, from one LIST a namespace.

It asks only where it was told to, and never takes what it may not read for empty: a namespace that could not be read is
answered as one. What the annotations mean is not its matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scaler.adapters.kubernetes.errors import MISSHAPEN, KubernetesError
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb
from scaler.adapters.kubernetes.lists import items_of
from scaler.adapters.kubernetes.targets import Budget
from scaler.config.annotations import ENABLED, PREFIX, Annotated

DISCOVER_BUDGET_S = 20.0
"""All namespaces together; it runs before the first tick and beside the others, never within one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found, and why the namespaces in `unread` could not be searched."""

    objects: tuple[Annotated, ...]
    unread: Mapping[str, str] = field(default_factory=dict)


def annotated_in(api: ApiConnection, namespaces: Sequence[str], labels: Mapping[str, str]) -> Found:
    """The Deployments in `namespaces` with these labels that carry our annotation `enabled`. Never raises."""
    budget = Budget(DISCOVER_BUDGET_S)
    objects: list[Annotated] = []
    unread: dict[str, str] = {}
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    for place, namespace in enumerate(namespaces):
        call = Call(
            verb=Verb.LIST,
            group="apps",
            version="v1",
            resource="deployments",
            namespace=namespace,
            query=(("labelSelector", selector),) if selector else (),
        )
        try:
            items = items_of(api, call, budget.share(len(namespaces) - place))
            objects += [_annotated(item) for item in items if PREFIX + ENABLED in _annotations(item)]
        except KubernetesError as error:
            unread[namespace] = str(error)
        except MISSHAPEN as error:
            unread[namespace] = f"{call.path} answered no Deployments ({type(error).__name__}: {error})"
    return Found(objects=tuple(objects), unread=unread)


def _annotations(item: Json) -> dict[str, str]:
    return {str(key): str(text) for key, text in (item["metadata"].get("annotations") or {}).items()}


def _annotated(item: Json) -> Annotated:
    metadata = item["metadata"]
    return Annotated(namespace=str(metadata["namespace"]), name=str(metadata["name"]), annotations=_annotations(item))
