"""The watch for other autoscalers on workloads that we scale: told in `get`, in the log, and never acted upon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from scaler.adapters.kubernetes import TargetRef
from scaler.adapters.kubernetes.rivals import WAY_OUT
from scaler.adapters.turns import GiveWay, at_once

EVERY = timedelta(minutes=5)

Look = Callable[[Sequence[TargetRef]], Mapping[TargetRef, tuple[str, ...]]]


class RivalWatch:
    """Looks, and tells what begins and what ends."""

    def __init__(
        self,
        look: Look,
        targets: Callable[[], Mapping[str, TargetRef]],
        *,
        tell: Callable[..., None],
        log: Any,
        give_way: GiveWay = at_once,
    ) -> None:
        """`targets` are those in mode active now, by workload; `tell` takes remarks by workload; `give_way` is called
        before a look."""
        self._give_way = give_way
        self._look = look
        self._targets = targets
        self._tell = tell
        self._log = log
        self._known: dict[str, tuple[str, ...]] = {}

    def look(self) -> None:
        """Look once; what cannot be seen now is left as it was seen last."""
        self._give_way()
        targets = self._targets()
        self._known = {workload: names for workload, names in self._known.items() if workload in targets}
        found = self._look(tuple(targets.values())) if targets else {}
        for workload, target in targets.items():
            if target not in found or found[target] == self._known.get(workload, ()):
                continue
            if found[target]:
                self._log.warning("rival", workload=workload, writers=list(found[target]), way_out=WAY_OUT)
            else:
                self._log.info("rival_gone", workload=workload, writers=list(self._known[workload]))
            self._known[workload] = found[target]
        remarks = {workload: (remark(names),) for workload, names in self._known.items() if names}
        self._tell(remarks, about="rivals")


def remark(rivals: Sequence[str]) -> str:
    """One sentence for people."""
    return f"{', '.join(rivals)} writes the same replicas: {WAY_OUT}"
