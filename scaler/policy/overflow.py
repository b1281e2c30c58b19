"""What one pool cannot carry at its limits, as the pool behind it hears of it.

It says how many replicas a pool may come to have: its maximum in force at a moment, the GPUs that the fleet's budget
still has, pods that find no GPU or fail, and the word of a person. Step limits, a slow order and the guard are no
limits here: they pass. It orders nothing and cuts nothing; the arithmetic is `scaler.policy.spill`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from forecaster.types import Blind, BlindReason
from scaler.policy import limits, load, placeholders, scheduled, spill, trust
from scaler.policy.types import Decision, DemandForecast, Inflow, PolicyState, Reason, ReplicaState, Snapshot, demand_of
from scaler.policy.workload import WorkloadPolicy

_GONE = ReplicaState(desired=0, ready=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A pool at a tick at which it was decided: what was read, the settings, the decision, and what it remembers.

    `free_gpus` are those of the fleet's budget that nobody holds, None without a budget.
    """

    snapshot: Snapshot
    policy: WorkloadPolicy
    decision: Decision
    after: PolicyState
    free_gpus: int | None = None


def inflow_from(sender: Sender, *, receiver_lead_s: float, now: datetime) -> Inflow | None:
    """What spills over to a pool whose replicas take `receiver_lead_s` to be Ready; None where nothing ever does.

    Blind where the sending pool's demand or replicas cannot be told in full. One that does not exist carries nothing.
    """
    snapshot, policy = spill.with_inflows(sender.snapshot), sender.policy
    replicas = snapshot.replicas
    if isinstance(replicas, Blind):
        if replicas.reason is not BlindReason.NOT_FOUND:
            return Inflow(sender=policy.workload, blind=True)
        replicas = _GONE
    arrival = now + timedelta(seconds=receiver_lead_s)
    reach, limit = _reach(sender, replicas, at=arrival, now=now)
    lead = timedelta(seconds=max(receiver_lead_s, snapshot.lead_time_s))
    burden = spill.Burden(
        demand_rps=demand_of(snapshot.classes) or {},
        announced_rps=scheduled.announced(policy.scheduled, policy.profile, lead=lead, now=now),
        forecasts=_forecasts(sender, snapshot, now=now),
        profile=policy.profile,
    )
    supply = _supply(sender, replicas, snapshot, arrival=arrival, now=now)
    classes = spill.outflow(burden, supply, arrival=arrival)
    blind = not snapshot.demand_known
    if not classes and not blind:
        return None
    return Inflow(sender=policy.workload, classes=classes, reach=reach, limit=limit, blind=blind)


def _supply(
    sender: Sender, replicas: ReplicaState, snapshot: Snapshot, *, arrival: datetime, now: datetime
) -> spill.Supply:
    """Who carries the load until the sender's own orders are Ready, and after that."""
    policy = sender.policy
    ready = replicas.ready + replicas.taken - replicas.desired  # above a floor more serve than the floor says
    own = now + timedelta(seconds=snapshot.lead_time_s)
    sooner = own - arrival >= spill.WORTH_A_START
    doubt = trust.judge(snapshot, policy.trust, now=now).doubt if policy.predictive.enabled else 1.0
    return spill.Supply(
        now=ready,
        soon=ready + replicas.starting,
        until=own if sooner else min(own, arrival),
        reach=lambda at: _reach(sender, replicas, at=at, now=now)[0],
        utilisation=load.planned_utilisation(policy.load, doubt=doubt, margin_ratio=policy.miss_target.margin_ratio),
    )


def _forecasts(sender: Sender, snapshot: Snapshot, *, now: datetime) -> tuple[DemandForecast, ...]:
    """The forecasts by which the pool itself orders, one a class: none that is off, disabled, expired or absurd."""
    if not sender.policy.predictive.enabled:
        return ()
    disabled = sender.after.disabled_since is not None
    by_class: dict[str, DemandForecast] = {}
    for each in snapshot.forecasts_in_force:
        if each.forecast.expired(now=now) or not each.forecast.plausible or (disabled and not each.stand_in):
            continue
        name = each.forecast.request_class
        by_class[name] = spill.added(by_class[name], each) if name in by_class else each
    return tuple(by_class.values())


def _reach(sender: Sender, replicas: ReplicaState, *, at: datetime, now: datetime) -> tuple[int, Reason]:
    """Replicas that the pool may come to have by `at`, and what holds it there."""
    if isinstance(sender.snapshot.replicas, Blind):
        return 0, Reason.BLIND_REPLICAS
    policy, decision, bounds = sender.policy, sender.decision, sender.policy.bounds
    in_force = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=at)
    _, most = limits.under_ceiling(in_force, replicas.ceiling)
    limited = [(most, Reason.AT_MAX)]
    if decision.target is not None and not placeholders.grows(decision.reason, policy.mode):
        limited.append((decision.target, decision.reason))
    if sender.free_gpus is not None and policy.mode.counts:
        limited.append((replicas.taken + max(0, sender.free_gpus) // policy.profile.gpus, Reason.GPU_BUDGET))
    since = sender.after.unschedulable_since
    patience = timedelta(seconds=sender.snapshot.lead_time_s)
    if since is not None and now - since >= patience:  # before that a node may be on its way, as in any start
        limited.append((replicas.desired - replicas.unschedulable, Reason.UNSCHEDULABLE))
    reach, limit = min(limited, key=lambda each: each[0])  # the first of equals
    return max(0, reach - replicas.failed), limit
