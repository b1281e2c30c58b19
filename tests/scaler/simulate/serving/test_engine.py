"""One replica's life in stories, on round numbers: 10 ms an iteration unless a story says more.

Properties, for any traffic with kills in between: each request comes back exactly once, with times in order; the
tokens generated are those asked for; the KV cache and the slots are never overfull, and empty when nobody is left.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import NEVER, Replica, Request, Status
from scaler.simulate.serving.gaps import GAP_BUCKETS, gap_quantile_s


def a_service(**changes: float) -> ServiceModel:
    values: dict[str, float] = {"alpha_s": 0.01, "beta_s": 0.0, "gamma_s": 0.0, "max_num_seqs": 8, "kv_tokens": 10_000}
    return ServiceModel(**{**values, **changes})  # type: ignore[arg-type]


def a_request(prompt: int = 10, output: int = 5, *, at: float = 0.0, image: int = 0) -> Request:
    return Request(request_class="any", arrived_s=at, input_tokens=prompt, output_tokens=output, image_tokens=image)


def submitted(replica: Replica, *requests: Request) -> list[Request]:
    for request in requests:
        replica.submit(request, request.arrived_s)
    return list(requests)


def test_a_lone_request_has_one_iteration_a_token() -> None:
    replica = Replica(a_service(beta_s=1e-4, gamma_s=1e-6))
    assert replica.next_event_s == NEVER
    (request,) = submitted(replica, a_request(100, 3, at=2.0))
    assert (replica.in_flight, replica.next_event_s) == (1, 2.0)
    assert list(replica.advance(10.0)) == [request]
    # prefill: 10 ms + 100 · 0.1 ms + 100 · 1 µs; then 10 ms + 0.1 ms + 101 µs and 102 µs
    assert request.first_token_s == pytest.approx(2.0 + 0.0201)
    assert request.finished_s == pytest.approx(2.0 + 0.0201 + 0.010201 + 0.010202)
    assert request.itl_s == pytest.approx(0.0102015)
    assert (request.ttft_s, request.e2e_s) == (request.first_token_s - 2.0, request.finished_s - 2.0)
    assert (request.routed_s, request.status, request.emitted_tokens) == (2.0, Status.FINISHED, 3)
    assert (replica.in_flight, replica.next_event_s, replica.kv_used_tokens) == (0, NEVER, 0)
    assert (replica.prompt_tokens, replica.generated_tokens) == (100, 3)


def test_one_token_is_a_prefill_and_no_more() -> None:
    replica = Replica(a_service())
    (request,) = submitted(replica, a_request(output=1))
    replica.advance(1.0)
    assert request.first_token_s == request.finished_s == pytest.approx(0.01)
    assert math.isnan(request.itl_s)
    assert sum(replica.token_gaps) == 0


def test_who_arrives_in_mid_iteration_joins_at_its_end() -> None:
    replica = Replica(a_service())
    early, late = submitted(replica, a_request(output=10), a_request(output=10, at=0.034))
    replica.advance(0.039)
    assert (replica.running, replica.waiting) == (1, 1)
    replica.advance(0.041)
    assert (replica.running, replica.waiting) == (2, 0)
    replica.advance(1.0)
    assert late.first_token_s == pytest.approx(0.05)
    assert early.finished_s == pytest.approx(0.10)


def test_who_arrives_together_at_an_idle_replica_is_prefilled_together() -> None:
    replica = Replica(a_service(beta_s=1e-4))
    requests = submitted(replica, a_request(100), a_request(100))
    replica.advance(1.0)
    assert [each.first_token_s for each in requests] == [pytest.approx(0.03)] * 2


def test_first_tokens_are_told_before_the_last() -> None:
    noted: list[Request] = []
    replica = Replica(a_service(), first_tokens=noted)
    (request,) = submitted(replica, a_request(output=100))
    assert list(replica.advance(0.02)) == []
    assert noted == [request]
    assert request.first_token_s == pytest.approx(0.01)
    assert (request.status, math.isnan(request.finished_s)) == (Status.RUNNING, True)
    replica.advance(2.0)
    assert noted == [request]


def test_the_queue_is_served_in_order_as_slots_free() -> None:
    replica = Replica(a_service(max_num_seqs=2))
    requests = submitted(replica, *(a_request(output=5) for _ in range(6)))
    replica.advance(0.0)
    assert (replica.running, replica.waiting, replica.in_flight) == (2, 4, 6)
    assert [each.status for each in requests] == [Status.RUNNING] * 2 + [Status.WAITING] * 4
    assert list(replica.advance(1.0)) == requests
    assert [round(each.ttft_s, 9) for each in requests] == [0.01, 0.01, 0.06, 0.06, 0.11, 0.11]


def test_a_long_prompt_comes_in_chunks_and_delays_decodes_by_a_bounded_time() -> None:
    service = a_service(beta_s=1e-4, max_num_batched_tokens=64)
    replica = Replica(service)
    talker, reader = submitted(replica, a_request(10, 200), a_request(1000, 2, at=0.2))
    replica.advance(10.0)
    # 63 tokens of the prompt beside each decode: ceil(1000 / 63) = 16 iterations of at most 10 ms + 64 · 0.1 ms
    assert 16 * 0.0164 - 0.0164 < reader.ttft_s < 17 * 0.0164
    assert gap_quantile_s(replica.token_gaps, 1.0) == pytest.approx(0.0164, rel=0.06)
    assert talker.itl_s < 0.0164
    unchunked = Replica(a_service(beta_s=1e-4))
    submitted(unchunked, a_request(10, 200), a_request(1000, 2, at=0.2))
    unchunked.advance(10.0)
    assert gap_quantile_s(unchunked.token_gaps, 1.0) == pytest.approx(0.11, rel=0.06)


def test_a_full_cache_preempts_the_youngest_and_all_finish() -> None:
    replica = Replica(a_service(kv_tokens=100))
    oldest, middle, youngest = submitted(replica, *(a_request(20, 40, at=at) for at in (0.0, 0.005, 0.015)))
    finished = replica.advance(10.0)
    assert list(finished) == [oldest, middle, youngest]
    assert oldest.preemptions == 0
    assert youngest.preemptions >= 1
    assert replica.preemptions == sum(each.preemptions for each in finished)
    # what it had said it never takes back: its first token stands, and the tokens are those it was to make
    assert youngest.first_token_s == pytest.approx(0.03)
    assert replica.generated_tokens == 120
    assert sum(replica.token_gaps) == 117
    assert gap_quantile_s(replica.token_gaps, 1.0) > 0.1  # somebody saw the text stop


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    replica = Replica(a_service(kv_tokens=100))
    first, second = submitted(replica, a_request(60, 20), a_request(50, 2, at=0.05))
    replica.advance(10.0)
    assert second.first_token_s == pytest.approx(first.finished_s + 0.01)
    assert (first.preemptions, second.preemptions) == (0, 0)


def test_images_are_encoded_one_after_another_and_everybody_waits() -> None:
    replica = Replica(a_service(encoder_base_s=0.1, encoder_per_token_s=0.001))
    talker, *seers = submitted(
        replica, a_request(output=100), a_request(60, 2, at=0.05, image=50), a_request(60, 2, at=0.05, image=50)
    )
    replica.advance(10.0)
    assert [each.ttft_s for each in seers] == [pytest.approx(0.01 + 0.01 + 2 * 0.15)] * 2
    assert talker.e2e_s == pytest.approx(100 * 0.01 + 2 * 0.15)


def test_a_slow_gpu_is_slow_in_everything() -> None:
    good, bad = (Replica(a_service(beta_s=1e-4, encoder_base_s=0.1), slowdown=each) for each in (1.0, 3.0))
    (one,), (other,) = (submitted(each, a_request(50, 20, image=10)) for each in (good, bad))
    good.advance(10.0)
    bad.advance(10.0)
    assert (other.ttft_s, other.e2e_s) == (pytest.approx(3 * one.ttft_s), pytest.approx(3 * one.e2e_s))


def test_a_gpu_may_go_bad_and_recover_in_mid_run() -> None:
    replica = Replica(a_service())
    (request,) = submitted(replica, a_request(output=100))
    replica.advance(0.25)
    replica.set_slowdown(5.0, 0.495)  # 50 iterations take 10 ms each …
    assert replica.slowdown == 5.0
    replica.set_slowdown(1.0, 0.98)  # … the next ten 50 ms each, until 1.0 s, and 40 are left
    replica.advance(10.0)
    assert request.finished_s == pytest.approx(0.5 + 10 * 0.05 + 40 * 0.01)


def test_a_kill_gives_everything_back_unfinished() -> None:
    replica = Replica(a_service(max_num_seqs=2, max_num_batched_tokens=40))
    requests = submitted(
        replica, a_request(output=3), a_request(output=50), *(a_request(200, at=0.04) for _ in range(2))
    )
    done = requests[0]
    aborted = replica.abort(0.085)
    assert [id(each) for each in aborted] == [id(each) for each in requests[1:]]
    assert {each.status for each in aborted} == {Status.ABORTED}
    assert all(math.isnan(each.finished_s) for each in aborted)
    assert [each.emitted_tokens for each in aborted] == [8, 0, 0]
    assert replica.generated_tokens == 3 + 8
    assert (replica.in_flight, replica.running, replica.waiting, replica.next_event_s) == (0, 0, 0, NEVER)
    assert replica.kv_used_tokens == 0
    assert list(replica.advance(1.0)) == [done]


def test_who_was_killed_may_start_over_elsewhere() -> None:
    first, second = Replica(a_service(kv_tokens=100, encoder_base_s=0.5)), Replica(a_service(encoder_base_s=0.5))
    submitted(first, a_request(20, 60))
    (request,) = submitted(first, a_request(20, 60, image=10))
    first.advance(0.95)
    assert (request.preemptions, first.waiting) == (1, 1)
    assert first.abort(0.95)[-1] is request
    assert request.emitted_tokens == 31  # 20 + 30 tokens of each are cached: 100
    second.submit(request, 1.0)
    assert list(second.advance(10.0)) == [request]
    assert request.first_token_s == pytest.approx(1.0 + 0.51)  # its image is encoded again
    assert request.finished_s == pytest.approx(1.0 + 0.5 + 60 * 0.01)
    assert second.generated_tokens == 60
    assert second.prompt_tokens == 20


def test_the_cache_fills_as_tokens_are_made() -> None:
    replica = Replica(a_service())
    submitted(replica, a_request(100, 50))
    replica.advance(0.005)
    assert replica.kv_used_tokens == 100
    replica.advance(0.205)  # the 20th decode runs
    assert replica.kv_used_tokens == 120
    replica.advance(0.495)
    assert replica.kv_used_tokens == 149


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        pytest.param(a_request(90, 12), "90 input and 12 output tokens does not fit .* 100 tokens", id="too long"),
        pytest.param(a_request(0, 5), "got 0 and 5", id="no prompt"),
        pytest.param(a_request(5, 0), "got 5 and 0", id="no output"),
    ],
)
def test_what_can_never_be_served_is_refused(request_: Request, said: str) -> None:
    replica = Replica(a_service(kv_tokens=100))
    with pytest.raises(ValueError, match=said):
        replica.submit(request_, 0.0)
    assert (replica.in_flight, replica.next_event_s) == (0, NEVER)


def test_what_just_fits_is_served() -> None:
    replica = Replica(a_service(kv_tokens=100))
    submitted(replica, a_request(90, 11))
    assert len(replica.advance(10.0)) == 1


def test_time_runs_forward() -> None:
    replica = Replica(a_service())
    replica.advance(5.0)
    for act in (lambda: replica.advance(4.0), lambda: replica.abort(4.0), lambda: replica.submit(a_request(), 4.0)):
        with pytest.raises(ValueError, match=r"told of 4.0 s after 5.0 s"):
            act()
    with pytest.raises(ValueError, match="slowdown"):
        replica.set_slowdown(0.0, 6.0)


def test_who_is_cancelled_frees_its_place_with_the_iteration_that_runs() -> None:
    replica = Replica(a_service(max_num_seqs=1))
    first, second, third = submitted(replica, *(a_request(output=100) for _ in range(3)))
    replica.advance(0.305)
    replica.cancel(second, 0.305)
    assert (second.status, replica.in_flight, replica.waiting) == (Status.ABORTED, 2, 1), "at once from the queue"
    replica.cancel(first, 0.305)
    assert (first.status, replica.in_flight, replica.next_event_s) == (Status.ABORTED, 2, pytest.approx(0.31))
    assert list(replica.advance(10.0)) == [third]
    assert (first.emitted_tokens, math.isnan(first.finished_s)) == (31, True)
    assert third.scheduled_s == pytest.approx(0.31)
    assert third.queue_s == pytest.approx(0.31)
    assert (replica.in_flight, replica.kv_used_tokens, replica.next_event_s) == (0, 0, math.inf)
    assert replica.idle_since_s == pytest.approx(1.31)
    with pytest.raises(ValueError, match="only a request in flight can be cancelled, this one is finished"):
        replica.cancel(third, 10.0)


def test_who_finishes_with_the_iteration_in_which_its_client_left_is_returned_by_nobody() -> None:
    replica = Replica(a_service())
    (request,) = submitted(replica, a_request(output=3))
    replica.cancel(request, 0.025)
    assert list(replica.abort(0.026)) == [], "it has an owner already"
    (request,) = submitted(replica, a_request(output=3, at=1.0))
    replica.cancel(request, 1.025)
    assert list(replica.advance(2.0)) == []
    assert (request.status, replica.in_flight, replica.kv_used_tokens) == (Status.ABORTED, 0, 0)


def test_a_blocked_head_that_leaves_lets_the_next_in() -> None:
    replica = Replica(a_service(kv_tokens=100))
    _, big, small = submitted(replica, a_request(40, 50), a_request(90, 2, at=0.005), a_request(10, 2, at=0.006))
    replica.advance(0.1)
    replica.cancel(big, 0.105)
    replica.advance(1.0)
    assert small.scheduled_s == pytest.approx(0.11)


def test_a_woken_replica_whose_only_request_leaves_is_idle() -> None:
    replica = Replica(a_service())
    (request,) = submitted(replica, a_request(at=1.0))
    replica.cancel(request, 1.0)
    assert (replica.in_flight, replica.next_event_s, replica.idle_since_s) == (0, math.inf, 1.0)
    assert list(replica.advance(5.0)) == []


def test_quantiles_of_gaps() -> None:
    counts = [0] * GAP_BUCKETS
    assert math.isnan(gap_quantile_s(counts, 0.5))
    replica = Replica(a_service())
    submitted(replica, a_request(output=101))
    replica.advance(0.505)
    replica.set_slowdown(10.0, 0.505)
    replica.advance(100.0)
    assert gap_quantile_s(replica.token_gaps, 0.4) == pytest.approx(0.01, rel=0.06)
    assert gap_quantile_s(replica.token_gaps, 0.6) == pytest.approx(0.1, rel=0.06)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 40), st.integers(1, 30)),
        st.tuples(st.just("wait"), st.integers(0, 300), st.just(0)),
        st.tuples(st.just("abort"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.integers(1, 5), st.integers(70, 150), st.integers(0, 60))
def test_each_request_comes_back_exactly_once(
    story: list[tuple[str, int, int]], slots: int, kv_tokens: int, more_budget: int
) -> None:
    service = a_service(
        beta_s=1e-4, gamma_s=1e-5, max_num_seqs=slots, kv_tokens=kv_tokens, max_num_batched_tokens=slots + more_budget
    )
    replica, now_s = Replica(service), 0.0
    sent: list[Request] = []
    back: list[Request] = []
    for act, one, two in story:
        if act == "submit":
            sent += submitted(replica, a_request(one, two, at=now_s))
        elif act == "wait":
            now_s += one / 1000
            back += replica.advance(now_s)
        else:
            back += replica.abort(now_s)
        assert 0 <= replica.kv_used_tokens <= kv_tokens
        assert 0 <= replica.running <= slots
        assert replica.in_flight == replica.running + replica.waiting
        assert (replica.next_event_s == NEVER) == (replica.in_flight == 0)
    back += replica.advance(NEVER)
    assert sorted(map(id, back)) == sorted(map(id, sent))
    assert replica.in_flight == replica.kv_used_tokens == 0
    assert replica.generated_tokens == sum(each.emitted_tokens for each in back)
    for request in back:
        if request.status is Status.FINISHED:
            assert request.emitted_tokens == request.output_tokens
            assert request.arrived_s <= request.routed_s < request.first_token_s <= request.finished_s
        else:
            assert request.status is Status.ABORTED
            assert 0 <= request.emitted_tokens < request.output_tokens
            assert math.isnan(request.first_token_s) == (request.emitted_tokens == 0)
