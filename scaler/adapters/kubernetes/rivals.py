"""Other autoscalers that write the replicas we write: two writers of one field fight for ever.

It looks at HPAs, which KEDA makes too, and only tells. An account that may not list them is a supported one: there
the answer is "unknown", never an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from scaler.adapters.kubernetes.errors import MISSHAPEN, KubernetesError
from scaler.adapters.kubernetes.floors import HPA, SCALED_OBJECT, keeper_of, scales
from scaler.adapters.kubernetes.http import ApiConnection, Call, Json, Verb
from scaler.adapters.kubernetes.lists import items_of
from scaler.adapters.kubernetes.targets import Budget, TargetRef

WAY_OUT: Final = "delete it, or let it keep the replicas with mode floor or publish"


def rivals_of(api: ApiConnection, targets: Sequence[TargetRef], budget: Budget) -> dict[TargetRef, tuple[str, ...]]:
    """For each target the autoscalers above it, such as "HorizontalPodAutoscaler llm/chat"; mostly none.

    Targets of a namespace that cannot be asked are missing. Never raises.
    """
    namespaces: dict[str, list[TargetRef]] = defaultdict(list)
    for target in targets:
        namespaces[target.namespace].append(target)
    found: dict[TargetRef, tuple[str, ...]] = {}
    for place, (namespace, group) in enumerate(namespaces.items()):
        call = Call(
            verb=Verb.LIST,
            group="autoscaling",
            version="v2",
            resource="horizontalpodautoscalers",
            namespace=namespace,
        )
        try:
            items = items_of(api, call, budget.share(len(namespaces) - place))
            found |= {target: tuple(_above(target, items)) for target in group}
        except (KubernetesError, *MISSHAPEN):
            continue  # unknown: the account may not look, or the server has trouble that the ticks tell of
    return found


def _above(target: TargetRef, items: Sequence[Json]) -> list[str]:
    return [_named(item) for item in items if scales(item["spec"]["scaleTargetRef"], target)]


def _named(item: Json) -> str:
    metadata = item["metadata"]
    keeper = keeper_of(metadata)
    kind, name = (SCALED_OBJECT, keeper) if keeper else (HPA, metadata["name"])
    return f"{kind} {metadata['namespace']}/{name}"
