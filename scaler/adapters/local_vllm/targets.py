"""The loop's targets on this machine: what is wanted of the keeper, and how its servers are told.

It decides how a look at servers reads as replicas. It never decides a number of them, never overwrites one that the
decision did not see, never ends a process, and never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from forecaster.types import Blind, BlindReason
from scaler.adapters.kubernetes import FloorRef, TargetRef, WorkloadPods
from scaler.adapters.local_vllm import crew
from scaler.adapters.local_vllm.files import FOLDER
from scaler.adapters.local_vllm.keeper import FIRST_WANTED, STALE_AFTER_S, Keeper, Machine
from scaler.adapters.local_vllm.launches import Kind, kinds_of
from scaler.config import Config
from scaler.policy.types import Decision, ReplicaState
from scaler.ports import Outcome, OutcomeKind


class LocalTargets:
    """The loop's `Targets` over the servers of this machine."""

    def __init__(
        self,
        keeper: Keeper,
        kinds: Mapping[str, Kind],
        *,
        gpus: tuple[str, ...] = (),
        may_write: Callable[[], bool] = lambda: True,
        on_pods: Callable[[Mapping[str, WorkloadPods | Blind]], None] = lambda _: None,
    ) -> None:
        """`on_pods` is told of all servers at every read."""
        self._keeper = keeper
        self._kinds = dict(kinds)
        self._gpus = gpus
        self._may_write = may_write
        self._on_pods = on_pods
        self._workloads = tuple(kinds)
        self.mutating_requests = 0
        """Numbers that were changed since the start."""

    def use(self, targets: Mapping[str, TargetRef], floors: Mapping[str, FloorRef] | None = None) -> None:
        """Read and scale these workloads from the next read on; how servers are started needs a restart."""
        del floors
        self._workloads = tuple(targets)

    @property
    def workloads(self) -> tuple[str, ...]:
        """Whose targets these are."""
        return self._workloads

    def annotations(self, workload: str) -> Mapping[str, str]:
        """Servers carry none."""
        del workload
        return {}

    @property
    def remarks(self) -> dict[str, tuple[str, ...]]:
        """What there is to tell of servers beside their number."""
        said: dict[str, tuple[str, ...]] = {}
        state = self._keeper.state
        for workload, kind in self._kinds.items():
            servers = [each for each in state.servers if each.workload == workload]
            counts = crew.replicas_of(servers, state.wanted.get(workload, FIRST_WANTED))
            if counts.unschedulable:
                needs = f"{kind.gpus_each} GPU(s) each of {len(self._gpus)}" if self._gpus else "a port"
                said[workload] = (f"{counts.unschedulable} servers find no place on this machine: they need {needs}",)
        return said

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Replica counts by workload."""
        if not self._keeper.runs:
            try:
                self._keeper.look(now=now)
            except OSError as error:
                refused = Blind(reason=BlindReason.REFUSED, detail=f"nothing can be written down: {error}")
                return dict.fromkeys(self._workloads, refused)
        pods = {workload: self._pods(workload, now=now) for workload in self._workloads}
        self._on_pods(pods)
        return {name: each if isinstance(each, Blind) else each.replicas for name, each in pods.items()}

    def _pods(self, workload: str, *, now: datetime) -> WorkloadPods | Blind:
        kind, state, looked_at = self._kinds.get(workload), self._keeper.state, self._keeper.looked_at
        if kind is None:
            detail = "no entry of local.servers starts it; what was added since the start needs a restart"
            return Blind(reason=BlindReason.NOT_FOUND, detail=detail)
        if looked_at is None:
            return Blind(reason=BlindReason.NOT_READ, detail="the servers were not looked at yet")
        age_s = (now - looked_at).total_seconds()
        if age_s > STALE_AFTER_S:
            return Blind(reason=BlindReason.STALE, detail=f"the servers were looked at {age_s:.0f} s ago")
        servers = [each for each in state.servers if each.workload == workload]
        return WorkloadPods(
            replicas=crew.replicas_of(servers, state.wanted.get(workload, FIRST_WANTED)),
            starts=crew.starts_of(servers, accelerator=crew.accelerator_of(kind.gpus_each, self._gpus)),
            read_at=now,
        )

    def scale(self, decision: Decision) -> Outcome:
        """Want `decision.target` servers if `decision.current` are wanted now; they come and go by themselves."""
        if decision.target is None or decision.current is None:
            return Outcome(kind=OutcomeKind.UNCHANGED, detail="nothing to write")
        if not self._may_write():
            return Outcome(kind=OutcomeKind.FAILED, detail="this process may not write now")
        try:
            found = self._keeper.want(decision.workload, decision.target, instead_of=decision.current)
        except OSError as error:
            return Outcome(kind=OutcomeKind.FAILED, detail=f"not written down: {error}")
        if found == decision.target:
            return Outcome(kind=OutcomeKind.UNCHANGED, detail=f"{found} are wanted already", found=found)
        if found != decision.current:
            detail = f"found {found} replicas where the decision saw {decision.current}"
            return Outcome(kind=OutcomeKind.CONFLICT, detail=detail, found=found)
        self.mutating_requests += 1
        return Outcome(kind=OutcomeKind.SCALED, detail=f"{found} → {decision.target}", found=found)

    def tell_conflict(self, decision: Decision, note: str) -> None:
        """There is nobody on this machine to leave an Event with; the log has it."""

    def announce(self, *, now: datetime) -> tuple[Exception, ...]:
        """As `tell_conflict`."""
        del now
        return ()

    def start(self) -> None:
        """Begin to keep the servers."""
        self._keeper.start()

    def stop(self) -> None:
        """Keep them no more: they go on as they are."""
        self._keeper.stop()


def local_targets(
    config: Config,
    log: Any,
    *,
    dry_run: bool,
    may_write: Callable[[], bool],
    on_pods: Callable[[Mapping[str, WorkloadPods | Blind]], None],
) -> LocalTargets:
    """The targets that the settings describe; what ran before is found again. Raises `OSError` for an unusable folder.

    With `dry_run` nothing is begun, ended or written.
    """
    kinds = kinds_of(config.local)
    machine = Machine(
        folder=(config.data_dir / FOLDER).resolve(),
        home=config.path.parent.resolve(),
        gpus=config.local.gpus,
        gateways=config.local.gateways,
    )
    keeper = Keeper(machine, kinds, log, may_act=not dry_run)
    return LocalTargets(
        keeper, kinds, gpus=config.local.gpus, may_write=lambda: not dry_run and may_write(), on_pods=on_pods
    )
