"""The virtual cluster: pods take their time, traffic flows, metrics go dark, and the ports say what the loop may know.

Properties: pods never appear or vanish unordered, and none serves before its cold start is over.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import STEP, Blind, BlindReason, Known, Series, TooFew, Zero, value_of
from scaler.policy.capacity import single_rate
from scaler.policy.types import Decision, Reason, ReplicaState
from scaler.ports import OutcomeKind
from scaler.simulate.cluster import Pods, VirtualCluster, VirtualWorkload

START = datetime(2026, 3, 2, tzinfo=UTC)


def a_workload(demand_rps: list[float], *, cold_start_bins: int = 3, dark_minutes: tuple[int, int] | None = None):
    dark = () if dark_minutes is None else (tuple(START + timedelta(minutes=each) for each in dark_minutes),)
    return VirtualWorkload(
        name="llm/chat",
        demand_rps=Series(start=START, step=STEP, values=np.array(demand_rps, dtype=np.float64)),
        profile=single_rate("chat", 10.0),
        cold_start_bins=cold_start_bins,
        dark=dark,
    )


def a_cluster(workload: VirtualWorkload, replicas: int = 2, first_bin: int = 0) -> VirtualCluster:
    return VirtualCluster([workload], replicas={workload.name: replicas}, first_bin=first_bin)


def scaling(current: int, target: int) -> Decision:
    return Decision(workload="llm/chat", at=START, current=current, target=target, reason=Reason.LOAD)


# ── Pods ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pod_ordered_after_bin_t_serves_from_bin_t_plus_l_plus_one() -> None:
    pods = Pods(serving=1).scaled(3, after_bin=10, cold_start_bins=3)
    assert [pods.at(each).serving for each in (11, 13, 14)] == [1, 1, 3]
    assert pods.ordered == 3, "billed from the order on"


def test_without_a_cold_start_it_serves_in_the_next_bin() -> None:
    assert Pods(serving=1).scaled(2, after_bin=4, cold_start_bins=0).at(5).serving == 2


def test_starting_pods_are_cancelled_first_and_the_youngest_of_them_before_others() -> None:
    pods = Pods(serving=2).scaled(4, after_bin=0, cold_start_bins=5).scaled(7, after_bin=1, cold_start_bins=5)
    assert pods.scaled(5, after_bin=2, cold_start_bins=5) == Pods(serving=2, starting=((6, 2), (7, 1)))
    assert pods.scaled(3, after_bin=2, cold_start_bins=5) == Pods(serving=2, starting=((6, 1),))
    assert pods.scaled(1, after_bin=2, cold_start_bins=5) == Pods(serving=1)


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 6))
def test_pods_are_what_was_ordered_and_serve_no_sooner_than_they_can(orders: list[int], cold_start: int) -> None:
    pods, history = Pods(serving=3), [3]
    for bin_index, order in enumerate(orders):
        pods = pods.at(bin_index).scaled(order, after_bin=bin_index, cold_start_bins=cold_start)
        history.append(order)
        assert pods.ordered == order
        assert all(serves_from > bin_index for serves_from, _ in pods.at(bin_index).starting)
        # Only what every order since then kept can serve now.
        assert pods.at(bin_index + 1).serving <= min(history[-(cold_start + 1) :])


# ── The ports ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_show_the_bin_that_ended_and_nothing_later() -> None:
    cluster = a_cluster(a_workload([5.0, 7.0, 9.0]))
    assert cluster.flow() == START + STEP
    cluster.flow()
    (readings,) = cluster.signals.read(now=START + 2 * STEP)["llm/chat"].classes
    assert readings.demand_rps == Known(value=7.0)


def test_dark_metrics_are_blind_but_pods_are_still_seen_and_traffic_still_counts() -> None:
    cluster = a_cluster(a_workload([5.0, 30.0, 5.0], dark_minutes=(1, 2)))
    cluster.flow()
    now = cluster.flow()
    signals = cluster.signals.read(now=now)["llm/chat"]
    assert isinstance(signals.classes[0].demand_rps, Blind)
    assert signals.classes[0].demand_rps.reason is BlindReason.UNREACHABLE
    assert isinstance(signals.requests_waiting, Blind)
    assert isinstance(cluster.targets.read(now=now)["llm/chat"], ReplicaState)
    assert cluster.course("llm/chat").missed.tolist() == [False, True]


def test_a_hole_in_the_trace_is_blind_and_not_scored() -> None:
    cluster = a_cluster(a_workload([5.0, float("nan")]))
    cluster.flow()
    now = cluster.flow()
    reading = cluster.signals.read(now=now)["llm/chat"].classes[0].demand_rps
    assert isinstance(reading, Blind)
    assert reading.reason is BlindReason.NO_SERIES
    assert not cluster.course("llm/chat").missed.any()


def test_no_arrivals_are_zero_by_evidence_and_few_say_nothing_of_latency() -> None:
    cluster = a_cluster(a_workload([0.0, 0.5]))
    now = cluster.flow()
    assert isinstance(cluster.signals.read(now=now)["llm/chat"].classes[0].demand_rps, Zero)
    now = cluster.flow()
    assert cluster.signals.read(now=now)["llm/chat"].classes[0].e2e_p95_s == TooFew(count=30.0)


def test_overload_shows_in_latency_and_queue_and_then_drains() -> None:
    cluster = a_cluster(a_workload([10.0, 25.0, 5.0, 5.0]), replicas=2)
    readings = []
    for _ in range(4):
        now = cluster.flow()
        signals = cluster.signals.read(now=now)["llm/chat"]
        readings.append((value_of(signals.classes[0].e2e_p95_s), value_of(signals.requests_waiting)))
    latencies, waiting = zip(*readings, strict=True)
    assert latencies[0] < 1.2 < latencies[1]
    assert waiting == (0.0, 300.0, 0.0, 0.0), "25 rps on 20 leave 5 · 60 behind, 15 spare drain them"
    assert latencies[3] < 1.2


def test_an_order_is_ready_in_the_reading_at_whose_bin_it_serves() -> None:
    cluster = a_cluster(a_workload([5.0] * 8, cold_start_bins=2))
    cluster.flow()
    assert cluster.targets.scale(scaling(2, 5)).kind is OutcomeKind.SCALED
    states = [cluster.targets.read(now=cluster.flow())["llm/chat"] for _ in range(3)]
    assert states == [
        ReplicaState(desired=5, ready=2, starting=3),
        ReplicaState(desired=5, ready=5),
        ReplicaState(desired=5, ready=5),
    ]
    assert cluster.course("llm/chat").serving.tolist() == [2, 2, 2, 5]
    assert cluster.course("llm/chat").billed.tolist() == [2, 5, 5, 5]


def test_a_decision_on_another_scale_is_a_conflict_and_writes_nothing() -> None:
    cluster = a_cluster(a_workload([5.0, 5.0]))
    cluster.flow()
    outcome = cluster.targets.scale(scaling(7, 9))
    assert (outcome.kind, outcome.found) == (OutcomeKind.CONFLICT, 2)
    assert cluster.targets.scale(scaling(7, 2)).kind is OutcomeKind.UNCHANGED
    cluster.flow()
    assert cluster.course("llm/chat").billed.tolist() == [2, 2]


def test_a_cluster_may_begin_in_the_middle_of_its_trace() -> None:
    cluster = a_cluster(a_workload([1.0, 2.0, 30.0, 4.0]), first_bin=2)
    assert cluster.flow() == START + 3 * STEP
    assert cluster.bins_left == 1
    assert cluster.course("llm/chat").load.tolist() == [3.0]


def test_workloads_share_one_grid() -> None:
    with pytest.raises(ValueError, match="one grid"):
        VirtualCluster([a_workload([1.0]), a_workload([1.0, 2.0])], replicas={"llm/chat": 1})
