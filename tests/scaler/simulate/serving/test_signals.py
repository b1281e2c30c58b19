"""What the product and its rivals see of a pool, told as small stories."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from forecaster.types import Blind, BlindReason, Known, TooFew, Zero
from scaler.policy.capacity import ClassCapacity, StartPhases
from scaler.policy.types import NOT_READ, Decision, Reason
from scaler.ports import OutcomeKind
from scaler.service.model import LatencySlo, ServiceModel
from scaler.simulate.serving.engine import Request
from scaler.simulate.serving.pool import Pool
from scaler.simulate.serving.signals import Meter, ServingSignals, ServingTargets

SERVICE = ServiceModel(alpha_s=0.1, beta_s=0.0, gamma_s=0.0, max_num_seqs=256, kv_tokens=100_000)
"""Ten tokens a second, whatever runs."""
CLASSES = (
    ClassCapacity(name="chat", max_rps=4.0, slo=LatencySlo(ttft_s=3.0, itl_s=0.2)),
    ClassCapacity(name="code", max_rps=2.0),
)
NOW = datetime(2026, 11, 20, 6, tzinfo=UTC)


class Stand:
    """A pool under a meter, driven slot by slot."""

    def __init__(self, replicas: int = 1) -> None:
        self.pool = Pool(SERVICE, StartPhases(warmup_s=40.0), replicas=replicas)
        self.meter = Meter(CLASSES, self.pool)
        self.now_s = 0.0

    def slot(self, *, chat: int = 0, code: int = 0, tokens: int = 10, known: bool = True) -> None:
        """A slot in which so many requests arrive, evenly."""
        names = ["chat"] * chat + ["code"] * code
        for index, name in enumerate(names):
            at_s = self.now_s + 15.0 * index / len(names)
            self.pool.advance(at_s)
            self.pool.submit(Request(request_class=name, arrived_s=at_s, input_tokens=5, output_tokens=tokens))
            self.meter.arriving[name] += 1
        self.now_s += 15.0
        self.pool.advance(self.now_s)
        self.meter.close(self.pool.take_ended(), known=known)


def test_demand_is_the_mean_of_two_minutes_at_the_front_door_by_class() -> None:
    stand = Stand()
    for _ in range(4):
        stand.slot(chat=30, code=15)
    for _ in range(4):
        stand.slot(chat=60)
    chat, code = stand.meter.read().classes
    assert chat.demand_rps == Known(value=(4 * 30 + 4 * 60) / 120)
    assert code.demand_rps == Known(value=0.5)
    for _ in range(4):
        stand.slot(chat=60)
    assert isinstance(stand.meter.read().classes[1].demand_rps, Zero), "evidence: two minutes without any"


def test_a_percentile_of_few_requests_abstains() -> None:
    stand = Stand()
    stand.slot(chat=60, code=10, tokens=11)
    chat, code = stand.meter.read().classes
    assert isinstance(chat.ttft_p95_s, Known)
    assert chat.ttft_p95_s.value == pytest.approx(0.15, abs=0.06), "up to an iteration of waiting, and one of prefill"
    assert isinstance(chat.e2e_p95_s, Known)
    assert chat.e2e_p95_s.value == pytest.approx(1.15, abs=0.06)
    assert code.ttft_p95_s == TooFew(count=10.0)
    stand.slot(code=5)
    assert stand.meter.read().classes[1].ttft_p95_s == TooFew(count=15.0), "each request counts once"


def test_a_slow_replica_shows_between_tokens_as_a_share_of_requests_and_of_all_classes() -> None:
    """Half of the requests have tokens 0.4 s apart. One reading for all classes, as a vLLM tells none apart."""
    stand = Stand(replicas=2)
    stand.pool.slow_down_oldest(4.0, 0.0)
    for _ in range(4):
        stand.slot(chat=20, code=10, tokens=5)
    stand.slot()
    chat, code = stand.meter.read().classes
    assert isinstance(chat.itl_p95_s, Known)
    assert chat.itl_p95_s.value == pytest.approx(0.4)
    assert code.itl_p95_s is NOT_READ, "it promises nothing: the mix is judged by whoever does"
    assert not isinstance(chat.ttft_p95_s, Blind)


def test_single_tokens_count_as_no_time_between_tokens() -> None:
    stand = Stand()
    stand.slot(chat=60, tokens=1)
    assert stand.meter.read().classes[0].itl_p95_s == Known(value=0.0)


def test_the_time_in_the_queue_is_told_when_the_request_ends() -> None:
    stand = Stand()
    stand.slot(chat=256, tokens=400)
    stand.slot(chat=100, tokens=1)
    assert stand.meter.read().classes[0].queue_time_p95_s == TooFew(count=0.0), "nobody has ended yet"
    for _ in range(3):
        stand.slot()
    (chat, _) = stand.meter.read().classes
    assert isinstance(chat.queue_time_p95_s, Known)
    assert 20.0 < chat.queue_time_p95_s.value < 40.0, "the second hundred waited for a place among the first"


def test_in_a_jam_latencies_lag_and_the_queue_does_not() -> None:
    stand = Stand()
    stand.slot(chat=300, tokens=2000)
    signals = stand.meter.read()
    assert signals.requests_waiting == Known(value=300.0 - 256.0), "all slots of the replica are taken"
    (chat, _) = signals.classes
    assert isinstance(chat.ttft_p95_s, Known)
    assert chat.ttft_p95_s.value < 0.3, "of those that were let in: who waits is in no percentile"
    assert chat.e2e_p95_s == TooFew(count=0.0)


def test_dark_metrics_are_blind_and_count_on() -> None:
    stand = Stand()
    stand.slot(chat=30)
    stand.meter.dark = True
    stand.slot(chat=30)
    signals = stand.meter.read()
    assert isinstance(signals.requests_waiting, Blind)
    assert {each.demand_rps for each in signals.classes} == {signals.requests_waiting}
    assert signals.requests_waiting.reason is BlindReason.UNREACHABLE
    assert math.isnan(stand.meter.load(timedelta(minutes=1)))
    stand.meter.dark = False
    stand.slot(chat=30)
    assert stand.meter.read().classes[0].demand_rps == Known(value=2.0), "nothing was lost"


def test_a_bin_that_the_trace_does_not_know_is_no_zero() -> None:
    stand = Stand()
    stand.slot(known=False)
    demand = stand.meter.read().classes[0].demand_rps
    assert isinstance(demand, Blind)
    assert demand.reason is BlindReason.NO_SERIES
    stand.slot(chat=30)
    assert stand.meter.read().classes[0].demand_rps == Known(value=2.0), "the mean of what is known"


def test_rivals_see_load_in_full_replicas_over_a_minute() -> None:
    stand = Stand()
    stand.slot(chat=1000)
    for _ in range(4):
        stand.slot(chat=60, code=30)
    assert stand.meter.load(timedelta(minutes=1)) == pytest.approx(4.0 / 4.0 + 2.0 / 2.0)
    assert stand.meter.load(timedelta(seconds=15)) == pytest.approx(2.0)


def test_rivals_see_latencies_and_targets_by_class() -> None:
    stand = Stand()
    stand.slot(chat=60, tokens=21)
    chat, code = stand.meter.latencies()
    assert (chat.ttft_slo_s, chat.itl_slo_s) == (3.0, 0.2)
    assert chat.itl_p90_s == pytest.approx(0.1), "of finished requests, their means"
    assert chat.itl_mean_s == pytest.approx(0.1)
    assert 0.1 < chat.ttft_mean_s <= chat.ttft_p90_s < 0.21
    assert math.isnan(code.ttft_p90_s)
    assert math.isnan(code.ttft_slo_s)
    for _ in range(5):
        stand.slot()
    assert math.isnan(stand.meter.latencies()[0].itl_p90_s), "a minute later there is nothing to see"


def test_the_ports_show_the_pool_and_refuse_to_overwrite() -> None:
    stand = Stand(replicas=2)
    stand.slot(chat=10)
    targets = ServingTargets("ns/x", stand.pool)
    targets.now_s = stand.now_s
    order = Decision(workload="ns/x", at=NOW, current=2, target=3, reason=Reason.LOAD)
    assert targets.scale(order).kind is OutcomeKind.SCALED
    state = targets.read(now=NOW)["ns/x"]
    assert not isinstance(state, Blind)
    assert (state.desired, state.ready, state.starting) == (3, 2, 1)
    assert targets.scale(order).kind is OutcomeKind.UNCHANGED
    stale = replace(order, target=1)
    assert (targets.scale(stale).kind, targets.scale(stale).found) == (OutcomeKind.CONFLICT, 3)
    assert ServingSignals("ns/x", stand.meter).read(now=NOW)["ns/x"] == stand.meter.read()
