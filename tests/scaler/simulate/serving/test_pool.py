"""The pool: routing, starts, draining, rejections, the bill.

Property, for any orders and arrivals: every request is in flight or ended, and ends once; as many pods are ordered as
was asked for; those that are billed are those that are not gone, and nobody drains longer than the grace.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.policy.capacity import StartPhases
from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import Request, Status
from scaler.simulate.serving.pool import Pool, PoolRule

SERVICE = ServiceModel(alpha_s=1.0, beta_s=0.0, gamma_s=0.0, max_num_seqs=4, kv_tokens=1000)
"""A token a second, whatever runs."""
START = StartPhases(node_s=10.0, image_s=20.0, weights_s=30.0, warmup_s=40.0)


def a_request(at_s: float, tokens: int = 10) -> Request:
    return Request(request_class="chat", arrived_s=at_s, input_tokens=5, output_tokens=tokens)


def submit(pool: Pool, *requests: Request) -> None:
    for request in requests:
        pool.advance(request.arrived_s)
        pool.submit(request)


def test_a_new_pod_serves_when_its_phases_are_over() -> None:
    pool = Pool(SERVICE, START, replicas=1)
    pool.scale(3, 50.0)
    assert (pool.ordered, pool.serving, pool.starting, pool.pod_starts) == (3, 1, 2, 2)
    pool.advance(149.0)
    assert pool.serving == 1
    pool.advance(150.0)
    assert (pool.serving, pool.starting) == (3, 0)
    assert pool.pods[1].phases_s == (10.0, 20.0, 30.0, 40.0)


def test_jitter_is_seeded_by_the_pods_number_and_keeps_the_mean() -> None:
    start = StartPhases(warmup_s=100.0, jitter_cv=0.2)
    ready = []
    for seed in (1, 1, 2):
        pool = Pool(SERVICE, start, replicas=0, seed=seed)
        pool.scale(400, 0.0)
        ready.append([pod.ready_s for pod in pool.pods])
    assert ready[0] == ready[1] != ready[2]
    mean = sum(ready[0]) / 400
    assert mean == pytest.approx(100.0, abs=3.0)
    assert math.sqrt(sum((each - mean) ** 2 for each in ready[0]) / 400) == pytest.approx(20.0, rel=0.15)


def test_the_one_with_the_fewest_in_flight_serves_the_older_of_two() -> None:
    pool = Pool(SERVICE, START, replicas=2)
    requests = [a_request(at, tokens) for at, tokens in ((0.0, 100), (1.0, 2), (2.0, 2), (10.0, 2))]
    submit(pool, *requests)
    replicas = [pod.replica for pod in pool.pods]
    assert [each.in_flight for each in replicas if each is not None] == [1, 1]
    pool.advance(30.0)
    assert [r.status for r in requests] == [Status.RUNNING, Status.FINISHED, Status.FINISHED, Status.FINISHED]


def test_scale_in_cancels_the_youngest_start_first_then_drains_the_least_busy() -> None:
    pool = Pool(SERVICE, START, replicas=2)
    submit(pool, a_request(0.0, 50))
    pool.scale(3, 10.0)
    pool.scale(4, 20.0)
    pool.scale(3, 30.0)
    assert pool.pods[3].gone_s == 30.0
    assert pool.starting == 1
    pool.scale(1, 40.0)
    assert pool.pods[2].gone_s == 40.0
    assert pool.pods[1].gone_s == 40.0, "nothing in flight: gone at once"
    assert pool.serving == 1
    assert pool.pods[0].gone_s == math.inf


def test_a_draining_pod_gets_nothing_new_finishes_and_is_billed_until_then() -> None:
    pool = Pool(SERVICE, START, replicas=2)
    submit(pool, a_request(0.0, 50), a_request(0.0, 20))
    pool.scale(1, 5.0)
    assert (pool.draining, pool.ordered, pool.billed) == (1, 1, 2)
    submit(pool, a_request(6.0, 5), a_request(7.0, 5))
    drained = pool.pods[1].replica
    assert drained is not None
    assert drained.in_flight == 1
    pool.advance(100.0)
    assert pool.draining == 0
    assert pool.pods[1].gone_s == 20.0
    assert pool.pods[1].billed_s(0.0, 100.0) == 20.0


def test_what_runs_longer_than_the_grace_is_killed() -> None:
    pool = Pool(SERVICE, START, replicas=2, rule=PoolRule(grace_s=30.0))
    quick, slow = a_request(0.0, 100), a_request(0.0, 100)
    submit(pool, quick, slow)
    pool.scale(1, 10.0)
    pool.advance(39.0)
    assert slow.status is Status.RUNNING
    pool.advance(200.0)
    assert slow.status is Status.ABORTED
    assert slow.emitted_tokens == 40, "one a second until the kill"
    assert pool.pods[1].gone_s == 40.0
    assert quick.status is Status.FINISHED
    assert {id(each) for each in pool.take_ended()} == {id(quick), id(slow)}


def test_nothing_ready_requests_wait_at_the_door_until_they_are_turned_away() -> None:
    pool = Pool(SERVICE, StartPhases(warmup_s=20.0), replicas=0, rule=PoolRule(door_s=15.0))
    early, late = a_request(0.0), a_request(8.0)
    pool.scale(1, 0.0)
    submit(pool, early, late)
    assert pool.waiting == 2
    pool.advance(19.0)
    assert early.status is Status.REJECTED
    assert pool.waiting == 1
    pool.advance(40.0)
    assert late.routed_s == 20.0
    assert late.first_token_s == 21.0
    assert late.status is Status.FINISHED


def test_a_client_that_waited_long_enough_leaves_and_frees_its_place() -> None:
    pool = Pool(SERVICE, START, replicas=1, rule=PoolRule(client_s=20.0))
    running = [a_request(0.0, tokens) for tokens in (100, 100, 100, 19)]
    patient, late = a_request(5.5, 10), a_request(1.0, 10)
    submit(pool, *running, late, patient)
    pool.advance(20.5)
    assert [each.status for each in running] == [Status.ABORTED] * 3 + [Status.FINISHED]
    pool.advance(100.0)
    assert late.first_token_s == 21.0, "in the place of the one that finished"
    assert late.status is Status.ABORTED, "ten tokens until 30, its client stayed until 21"
    assert patient.scheduled_s == 21.0, "in the place of one that left at 20 and ran to its iteration's end"
    assert patient.status is Status.ABORTED
    assert len(pool.take_ended()) == 6
    assert pool.in_flight == 0


def test_a_draining_pod_that_the_last_client_leaves_is_gone_with_its_iteration() -> None:
    pool = Pool(SERVICE, START, replicas=2, rule=PoolRule(client_s=20.5))
    submit(pool, a_request(0.0, 5), a_request(0.0, 50))
    pool.scale(1, 10.0)
    pool.advance(60.0)
    assert pool.pods[1].gone_s == 21.0


def test_who_waits_at_the_door_leaves_it_too() -> None:
    pool = Pool(SERVICE, START, replicas=0, rule=PoolRule(client_s=10.0))
    request = a_request(0.0)
    submit(pool, request)
    pool.advance(10.0)
    assert request.status is Status.REJECTED
    with pytest.raises(ValueError, match="client_s must be above 0 seconds"):
        PoolRule(client_s=0.0)


def test_one_more_than_may_wait_is_turned_away() -> None:
    pool = Pool(SERVICE, START, replicas=1, rule=PoolRule(most_waiting=2))
    requests = [a_request(float(at), 1000 - 10) for at in range(8)]
    submit(pool, *requests)
    assert [r.status for r in requests].count(Status.REJECTED) == 2, "four run, two wait"


def test_a_bad_pod_is_slower() -> None:
    pool = Pool(SERVICE, START, replicas=1)
    request = a_request(0.0, 10)
    submit(pool, request)
    pool.advance(4.5)
    pool.slow_down_oldest(4.0, 4.5)
    pool.advance(100.0)
    assert request.finished_s == 5.0 + 5 * 4.0


def test_a_start_that_takes_no_time_serves_at_once() -> None:
    pool = Pool(SERVICE, StartPhases(), replicas=1)
    pool.scale(2, 60.0)
    assert pool.serving == 2


def test_token_gaps_outlive_their_pod() -> None:
    pool = Pool(SERVICE, START, replicas=2)
    submit(pool, a_request(0.0, 11), a_request(0.0, 21))
    pool.scale(1, 1.0)
    pool.advance(60.0)
    assert pool.billed == 1
    assert pool.token_gaps().sum() == 10 + 20


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_requests_are_conserved_and_pods_are_accounted_for(data: st.DataObject) -> None:
    client_s = data.draw(st.sampled_from((math.inf, 3.0, 12.5)))
    rule = PoolRule(most_waiting=3, door_s=5.0, grace_s=10.0, client_s=client_s)
    start = StartPhases(node_s=1.0, warmup_s=7.0, jitter_cv=0.5)
    pool = Pool(SERVICE, start, replicas=data.draw(st.integers(0, 2)), rule=rule)
    came: list[Request] = []
    ended: list[Request] = []
    now_s = 0.0
    for _ in range(data.draw(st.integers(1, 40))):
        step_s = data.draw(st.sampled_from((0.0, 0.25, 1.0, 6.5, 20.0)))
        now_s += step_s
        pool.advance(now_s)
        action = data.draw(st.sampled_from(("request", "request", "scale", "look")))
        if action == "request":
            came.append(a_request(now_s, data.draw(st.integers(1, 30))))
            pool.submit(came[-1])
        elif action == "scale":
            wanted = data.draw(st.integers(0, 4))
            pool.scale(wanted, now_s)
            assert pool.ordered == wanted
        ended += pool.take_ended()
        left = sum(each.status is Status.ABORTED for each in ended) if client_s < math.inf else 0
        assert len(came) <= len(ended) + pool.in_flight <= len(came) + left, "who left may run to an iteration's end"
        assert pool.in_flight == pool.waiting + pool.running
        assert pool.billed == sum(pod.gone_s > now_s for pod in pool.pods)
    pool.advance(now_s + 1000.0)
    ended += pool.take_ended()
    assert len({id(each) for each in ended}) == len(ended), "nobody ends twice"
    assert all(r.status in (Status.FINISHED, Status.REJECTED, Status.ABORTED) for r in ended)
    assert all(r.finished_s - r.arrived_s <= client_s for r in ended if r.status is Status.FINISHED)
    assert len(ended) == len(came), "even at the door nobody waits for ever"
    for pod in pool.pods:
        assert pod.gone_s >= pod.ordered_s
        if not math.isnan(pod.drained_s):
            assert pod.gone_s <= pod.drained_s + rule.grace_s
