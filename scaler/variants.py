"""The variants of one model within a tick: what reaches the snapshot of each before it is decided.

It joins the rule of `scaler.policy.variant_groups` to the round and decides nothing itself. A variant's place lies in
its snapshot, so that its decision can be made again from its own record alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import PolicyState, Snapshot, VariantPlace
from scaler.policy.variant_groups import GroupView, Member, VariantGroup, arrange

Looked = list[tuple[WorkloadPolicy, Snapshot]]
"""Every workload of the round, with what was read of it."""


def in_their_groups(
    groups: Sequence[VariantGroup],
    looked: Looked,
    states: Mapping[str, PolicyState],
    *,
    now: datetime,
) -> tuple[Looked, tuple[GroupView, ...], dict[str, Exception]]:
    """The snapshots with each variant's place in them, what the groups came to, and the members of those that broke."""
    if not groups:
        return looked, (), {}
    of_groups = {each.workload for group in groups for each in group.workloads}
    members = {
        policy.workload: Member(policy=policy, snapshot=snapshot, state=states.get(policy.workload, PolicyState()))
        for policy, snapshot in looked
        if policy.workload in of_groups
    }
    places: dict[str, VariantPlace] = {}
    views: list[GroupView] = []
    placeless: dict[str, Exception] = {}
    for group in groups:
        of_group = tuple(members[each.workload] for each in group.workloads if each.workload in members)
        if len(of_group) < len(group.workloads):
            continue  # `validate` refuses a member that the fleet does not have: the others are left alone
        try:
            made = arrange(group, of_group, now=now)
        except Exception as error:
            # As a defect of a decision. Without a place each would order for the whole service.
            placeless |= dict.fromkeys((each.workload for each in group.workloads), error)
        else:
            places |= made.places
            views.append(made.view)
    placed = [
        (policy, replace(snapshot, variant=places[policy.workload]) if policy.workload in places else snapshot)
        for policy, snapshot in looked
    ]
    return placed, tuple(views), placeless
