"""Pools of one service within a tick: who is decided before whom, and what reaches the next pool's snapshot.

It joins the rules of `scaler.policy.spill` and `scaler.policy.overflow` to the round and decides nothing itself. What
a pool is told lies in its snapshot, so that its decision can be made again from its own record alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from scaler.policy import spill
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.overflow import Sender, inflow_from
from scaler.policy.types import Decision, Inflow, PolicyState, Snapshot


def in_spill_order(workloads: Sequence[WorkloadPolicy]) -> tuple[WorkloadPolicy, ...]:
    """Every pool before the one that it spills to, and otherwise as they stand.

    Of a ring, which `validate` refuses, some pool is decided before one that spills to it, and hears nothing of it.
    """
    if not any(each.spills_to for each in workloads):
        return tuple(workloads)
    named = {each.workload: each for each in workloads}
    senders: dict[str, list[WorkloadPolicy]] = {}
    for each in workloads:
        if each.spills_to in named:
            senders.setdefault(each.spills_to, []).append(each)
    placed: dict[str, WorkloadPolicy] = {}
    for each in workloads:
        for before in _before(each, senders):
            placed.setdefault(before.workload, before)
    return tuple(placed.values())


def _before(last: WorkloadPolicy, senders: dict[str, list[WorkloadPolicy]]) -> Iterator[WorkloadPolicy]:
    """The pools that something comes from to `last`, the farthest first, and itself. No recursion: a chain is as long
    as the settings say."""
    found, waiting = {last.workload: last}, [last]
    while waiting:
        for sender in senders.get(waiting.pop(0).workload, ()):
            if sender.workload not in found:
                found[sender.workload] = sender
                waiting.append(sender)
    yield from reversed(found.values())


@dataclass(slots=True, kw_only=True)
class Spilling:
    """What the pools that were decided so far in one round have to tell. `free_gpus`: see `overflow.Sender`."""

    now: datetime
    free_gpus: int | None = None
    _told: dict[str, list[Sender | str]] = field(default_factory=dict)
    """By receiving pool: the senders, or the name of one whose decision failed."""

    def onto(self, snapshot: Snapshot, before: PolicyState) -> Snapshot:
        """The snapshot with what spills over to this pool; of what cannot be told, what `before` remembers."""
        told = self._told.get(snapshot.workload)
        if told is None:
            return snapshot
        inflows = (self._inflow(each, snapshot.lead_time_s) for each in told)
        return replace(snapshot, inflows=tuple(spill.held(each, before.inflows) for each in inflows if each))

    def decided(self, snapshot: Snapshot, policy: WorkloadPolicy, decision: Decision, after: PolicyState) -> None:
        """Note a pool's decision, if anything may spill over from it."""
        if policy.spills_to:
            sender = Sender(snapshot=snapshot, policy=policy, decision=decision, after=after, free_gpus=self.free_gpus)
            self._told.setdefault(policy.spills_to, []).append(sender)

    def failed(self, policy: WorkloadPolicy) -> None:
        """Note that a pool's decision raised: nothing can be told of it in this round."""
        if policy.spills_to:
            self._told.setdefault(policy.spills_to, []).append(policy.workload)

    def _inflow(self, told: Sender | str, receiver_lead_s: float) -> Inflow | None:
        if isinstance(told, str):
            return Inflow(sender=told, blind=True)
        return inflow_from(told, receiver_lead_s=receiver_lead_s, now=self.now)
