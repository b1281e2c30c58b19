"""The live-stream story (S4) as two scripted tables: 1 replica, 300 QPS for ten minutes, then 120 QPS.

Readings are scripted, the decisions are not: first the latency rule alone, then the whole decision without forecast.
"""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from policy_cases import MINUTE, NOON, a_policy, a_snapshot, run
from scaler.policy import latency
from scaler.policy.capacity import single_rate
from scaler.policy.decide import decide
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.types import Action, LatencyState, PolicyState, Reason, ReplicaState

RULE = LatencyRule(slos=(Slo(e2e_p95_s=1.2),))


def test_latency_rule_alone_acts_after_two_minutes_and_sizes_by_load() -> None:
    """Profile of 110 QPS a replica, no backlog: nothing until P95 1.38 s has held for 2 min, then ceil(2.73) = 3."""
    state, wants = LatencyState(), []
    for minute, p95_s in enumerate([0.9, 1.38, 1.38, 1.38]):
        snapshot = a_snapshot(rps=300.0, p95_s=p95_s, desired=1, lead_s=18.0)
        proposal, state = latency.propose(snapshot, RULE, single_rate("s4", 110.0), state, now=NOON + minute * MINUTE)
        wants.append(None if proposal is None else (proposal.want, proposal.reason))
    assert wants == [
        None,
        (0, Reason.P95_WATCH),
        (0, Reason.P95_WATCH),
        (3, Reason.P95_BREACH),
    ]


def test_whole_decision_from_one_to_three_and_back_to_two() -> None:
    """Profile of 150 QPS: the load rule acts at the first tick, 300 / (0.7 · 150) = 2.86 → 3; 120 QPS → 2 after 5 min.

    18 s of start: the new pods are Ready at the next tick.
    """
    policy = a_policy(max_rps=150.0, slo_s=1.2, most=8)
    busy = [a_snapshot(rps=300.0, p95_s=1.38 if minute < 1 else 0.8, lead_s=18.0) for minute in range(10)]
    quiet = [a_snapshot(rps=120.0, p95_s=0.5, lead_s=18.0) for _ in range(30)]
    decisions = run(busy + quiet, policy)

    targets = [decision.target for decision in decisions]
    assert targets == [3] * 15 + [2] * 25, "out at once, in after five calm minutes, then steady"
    assert decisions[0].reason is Reason.LOAD
    assert decisions[15].action is Action.IN
    assert [decision.at for decision in decisions if decision.action is Action.IN] == [NOON + 15 * MINUTE]


def test_never_two_scale_ins_within_ten_minutes() -> None:
    """From eight replicas down to a trickle: 8 → 4 → 2 → 1, ten minutes apart."""
    policy = a_policy(max_rps=150.0, most=8)
    decisions = run(
        [a_snapshot(rps=800.0, desired=8, lead_s=18.0)] * 6 + [a_snapshot(rps=10.0, lead_s=18.0)] * 60, policy
    )
    scale_ins = [(decision.at, decision.target) for decision in decisions if decision.action is Action.IN]
    assert [target for _, target in scale_ins] == [4, 2, 1]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(scale_ins)]
    assert gaps == [timedelta(minutes=10)] * 2


def test_a_dip_that_returns_causes_no_thrash() -> None:
    """300 → 120 for four minutes → 300, again and again: one scale-out and nothing else."""
    policy = a_policy(max_rps=150.0, most=8)
    wave = ([300.0] * 6 + [120.0] * 4) * 6
    decisions = run([a_snapshot(rps=rps, lead_s=18.0) for rps in wave], policy)
    assert [decision.action for decision in decisions if decision.action is not Action.HOLD] == [Action.OUT]


def test_pods_that_start_are_not_ordered_twice() -> None:
    """While the three ordered pods start, P95 stays high for minutes; the target stays 3."""
    policy = a_policy(max_rps=150.0, slo_s=1.2, most=8)
    state, targets = PolicyState(), []
    for minute in range(8):
        replicas = ReplicaState(desired=1 if minute == 0 else 3, ready=1, starting=0 if minute == 0 else 2)
        snapshot = replace(a_snapshot(rps=300.0, p95_s=2.5, lead_s=180.0), replicas=replicas)
        decision, state = decide(snapshot, state, policy, now=NOON + minute * MINUTE)
        targets.append(decision.target)
    assert targets == [3] * 8
