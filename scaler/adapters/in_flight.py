"""Running and waiting requests of single pods, in one query: who would lose least by going.

It decides the query and what an answer means. It never raises and never guesses: a pod that the metrics do not name is
left out, and whatever fails leaves all of them out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from forecaster.errors import SourceError
from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Question, Wire
from forecaster.sources.promql import one_of

DEADLINE_S = 2.0
"""A release does not wait longer to learn whom it would hurt least."""

_METRICS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class PodRequests:
    """Asks one Prometheus."""

    def __init__(self, connection: Connection, *, deadline_s: float = DEADLINE_S) -> None:
        self._wire = Wire(connection)
        self._deadline_s = deadline_s

    def use(self, connection: Connection) -> None:
        """Ask this one from the next question on."""
        self._wire = Wire(connection)

    def __call__(self, namespace: str, pods: Sequence[str]) -> Mapping[str, float]:
        """Requests by pod. Pods are told by name alone: theirs are unique, and not every setup labels namespaces."""
        if not pods:
            return {}
        (answer,) = self._wire.ask([Question(text=query_for(namespace, pods))], deadline_s=self._deadline_s)
        if isinstance(answer, SourceError):
            return {}
        found = {row.labels.get("pod", ""): row.values[-1] for row in answer.rows}
        return {pod: found[pod] for pod in pods if math.isfinite(found.get(pod, math.nan))}


def query_for(namespace: str, pods: Sequence[str]) -> str:
    """PromQL: one value a pod, both metrics and all engines of a pod added, the copies of an HA pair counted once.

    The namespace is matched where series carry one: an empty value matches those without the label.
    """
    both, ours = one_of("__name__", _METRICS), one_of("pod", pods)
    where = one_of("namespace", ("", namespace))
    return f"sum by (pod) (max by (pod, __name__, engine) ({{{both},{ours},{where}}}))"
