"""Rows 1 to 10 and 12 to 15 of the table: what the metrics source can do to a daemon. Real Prometheus, fault proxy.

HOLD means: the scale stays, the decision says why, and the tick is over in time.
"""

from __future__ import annotations

import time
from datetime import timedelta
from itertools import pairwise

import pytest

import fault_proxy
from fault_world import LOOK_BACK_MINUTES, USUAL_REPLICAS, USUAL_RPS, FaultWorld, Life
from forecaster.types import Blind, BlindReason, Known, Reading
from scaler.adapters.states import State
from scaler.policy.types import Action, Reason

pytestmark = pytest.mark.server

TICK_S = 60.0

OF_FAILED_SCRAPES = (BlindReason.TARGET_DOWN, BlindReason.NO_SERIES, BlindReason.STALE)
"""What a story may be blind for besides, on a machine on which a scrape did not get its turn in time."""


def demand(life: Life) -> Reading:
    """What the last decision knew of the demand."""
    return life.snapshot.classes[0].demand_rps


def blind_reason(life: Life) -> BlindReason:
    """Why it did not know it."""
    reading = demand(life)
    assert isinstance(reading, Blind), reading
    return reading.reason


def blinded(life: Life, reason: BlindReason) -> None:
    """Minutes until it is blind for this reason: a scrape that fails on a busy machine blinds for another."""
    life.minutes_until(lambda: isinstance(demand(life), Blind) and blind_reason(life) is reason)


def numbers_of(life: Life, *, at_least: int) -> tuple[list[float], set[BlindReason]]:
    """Demand in so many minutes in which it was known, a tenth of a second apart; and why it was not in the others."""
    numbers: list[float] = []
    reasons: set[BlindReason] = set()
    ends = time.monotonic() + 60
    while len(numbers) < at_least:
        assert time.monotonic() < ends, f"{len(numbers)} of {at_least} within a minute, else {reasons}"
        life.minute()
        reading = demand(life)
        if isinstance(reading, Blind):
            reasons.add(reading.reason)
        else:
            numbers.append(reading.value)  # type: ignore[union-attr]
        time.sleep(0.1)
    return numbers, reasons


def test_the_world_is_well(life: Life) -> None:
    assert demand(life).kind == "known"
    assert life.state in (State.LEARNING, State.REACTIVE_ONLY)
    assert "headstart_invariant_violations_total" in life.metrics


# ── No answer ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_01_refused_connections_hold_within_one_tick_and_other_sources_go_on(world: FaultWorld, life: Life) -> None:
    world.proxy.refuse()
    begun = time.monotonic()
    (record,) = life.minute().records
    assert time.monotonic() - begun < TICK_S / 2
    assert blind_reason(life) is BlindReason.UNREACHABLE
    assert (record.decision.action, record.decision.reason) == (Action.HOLD, Reason.BLIND_DEMAND)
    assert life.state is State.HOLD
    # The cluster is another source: what happens there is seen, and answered where the bounds ask for it.
    world.cluster.set_replicas("llm", "chat", 6)
    assert life.minute().records[0].decision.current == 6
    world.cluster.set_replicas("llm", "chat", 45)
    assert life.minute().records[0].decision.current == 45
    # What the alert looks at for five minutes.
    for _ in range(5):
        life.minute()
        assert life.metric(_blind_series("unreachable")) == 1.0
    assert life.replicas == 45, "above the maximum, and still nothing is released by the blind"


def _blind_series(reason: str) -> str:
    return f'headstart_blind{{namespace="llm",reason="{reason}",signal="demand_rps",workload="chat"}}'


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault_proxy.black_hole, id="never answers"),
        pytest.param(fault_proxy.drip, id="a byte every 50 ms"),
        pytest.param(fault_proxy.delayed(TICK_S / 2), id="answers after 30 s"),
    ],
)
def test_row_02_a_hanging_server_is_cut_at_the_total_deadline(world: FaultWorld, fault: fault_proxy.Fault) -> None:
    config = world.config(prometheus=f'{{url: "{world.proxy.url}", deadline_s: 2}}')
    with world.life(config) as life:
        life.seeing_minute()
        held = life.replicas
        world.proxy.always(fault)
        begun = time.monotonic()
        life.minute()
        assert time.monotonic() - begun < TICK_S / 2  # the last of these answers comes after as long
        assert blind_reason(life) is BlindReason.TIMEOUT
        assert (life.state, life.replicas) == (State.HOLD, held)
        world.proxy.heal()
        life.seeing_minute()


def test_row_02_eight_seconds_are_what_a_read_may_take(world: FaultWorld) -> None:
    assert world.config(prometheus=f'{{url: "{world.proxy.url}"}}').prometheus.deadline_s == 8.0


@pytest.mark.parametrize(
    ("code", "fewest", "most"),
    [
        pytest.param(503, 4, 7, id="503"),
        pytest.param(429, 4, 7, id="429"),
        pytest.param(422, 8, 8, id="422 is about the query: no back-off"),
    ],
)
def test_row_03_an_overloaded_server_is_asked_once_a_tick_and_then_less(
    world: FaultWorld, life: Life, code: int, fewest: int, most: int
) -> None:
    world.proxy.always(fault_proxy.status(code))
    asked = []
    for _ in range(8):
        before = len(world.proxy.received)
        life.minute()
        bodies = [each.body for each in world.proxy.received[before:]]
        assert len(bodies) == len(set(bodies)), "no query is tried twice within a tick"
        asked.append(bool(bodies))
        assert (life.state, life.replicas) == (State.HOLD, USUAL_REPLICAS)
    # 5, 10, 20, 40 s, then a minute: with up to half as much again of jitter, some ticks of the last ones are left out.
    assert fewest <= sum(asked) <= most
    world.proxy.heal()
    life.seeing_minute()
    assert demand(life).kind == "known"


# ── Answers without a value ───────────────────────────────────────────────────────────────────────────────────────


def test_row_04_an_empty_result_of_a_target_that_is_up_names_query_and_labels(world: FaultWorld, life: Life) -> None:
    world.traffic("bare")
    decisions = life.minutes(12)
    assert {each.action for each in decisions} == {Action.HOLD}
    blinded(life, BlindReason.NO_SERIES)
    reading = demand(life)
    assert isinstance(reading, Blind)
    assert "query" in reading.detail
    assert "labels seen: " in reading.detail
    assert "pod" in reading.detail.partition("labels seen: ")[2]
    (told,) = life.events("blind")
    assert "fix" in told["block"]
    assert life.replicas == USUAL_REPLICAS


def test_row_04_whatever_is_empty_throughout_is_never_zero(world: FaultWorld, life: Life) -> None:
    world.proxy.always(fault_proxy.emptied)
    assert {each.action for each in life.minutes(12)} == {Action.HOLD}
    assert blind_reason(life) is BlindReason.NO_SERIES
    assert life.replicas == USUAL_REPLICAS


def test_row_05_an_empty_result_of_a_target_that_is_down_never_scales_in(world: FaultWorld, life: Life) -> None:
    world.traffic("dead")
    assert {each.action for each in life.minutes(12)} == {Action.HOLD}
    assert blind_reason(life) is BlindReason.TARGET_DOWN
    assert life.replicas == USUAL_REPLICAS


def test_row_06_true_zero_is_zero_by_evidence_and_goes_to_the_minimum(world: FaultWorld, life: Life) -> None:
    world.traffic("idle")
    life.minutes_until(lambda: demand(life).kind == "zero")
    assert life.replicas == USUAL_REPLICAS, "not before it has been calm for five minutes"
    life.minutes_until(lambda: life.replicas == 1)
    life.minute(5)
    assert life.replicas == 1


# ── Values that are none ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("of", ["broken", "endless"])
def test_row_07_nan_and_inf_are_dropped_and_counted(world: FaultWorld, life: Life, of: str) -> None:
    dropped = 'headstart_samples_dropped_total{reason="not_finite"}'
    before = life.metric(dropped)
    world.traffic(of)
    decisions = life.minutes_until(lambda: life.metric(dropped) >= before + 8)
    assert {each.action for each in decisions} == {Action.HOLD}
    blinded(life, BlindReason.NOT_FINITE)
    assert life.replicas == USUAL_REPLICAS


def test_row_07_a_single_nan_is_never_a_wrong_number(world: FaultWorld, life: Life) -> None:
    """One scrape of twenty: while it stands at an end of the window the tick is blind, else it is left out."""
    world.traffic("hiccup")
    numbers, reasons = numbers_of(life, at_least=25)
    assert all(each == pytest.approx(USUAL_RPS, rel=0.25) for each in numbers)
    assert reasons <= {BlindReason.NOT_FINITE, *OF_FAILED_SCRAPES}
    assert life.replicas == USUAL_REPLICAS


def test_row_08_copies_of_a_series_are_an_error_and_never_summed(world: FaultWorld, life: Life) -> None:
    world.traffic("twin")
    blinded(life, BlindReason.AMBIGUOUS)
    reading = demand(life)
    assert isinstance(reading, Blind)
    assert reading.detail.startswith("2 series match where one is expected")
    assert life.replicas == USUAL_REPLICAS


def test_row_09_what_a_deleted_pod_left_behind_does_not_swing_the_scale(world: FaultWorld, life: Life) -> None:
    """Two pods serve half of the traffic each, then one is deleted: its series are still in every window."""
    world.traffic("churn")
    life.minutes_until(lambda: isinstance(life.snapshot.requests_waiting, Known))
    assert life.snapshot.requests_waiting.value == 6.0  # type: ignore[union-attr]
    world.scraped.churn.both = False
    try:
        targets, waiting = [], []
        ends = time.monotonic() + 90
        while waiting.count(3.0) < 30 and time.monotonic() < ends:
            targets.append(life.minute().records[0].decision.target)
            if isinstance(life.snapshot.requests_waiting, Known):  # or a scrape failed
                waiting.append(life.snapshot.requests_waiting.value)
        assert set(waiting) <= {6.0, 3.0}
        assert waiting[-1] == 3.0, "gone with the pod"
        changes = [after - before for before, after in pairwise(targets) if after != before]
        assert all(change < 0 for change in changes), f"no oscillation: {targets}"
    finally:
        world.scraped.churn.both = True


def test_row_10_a_counter_that_begins_anew_is_neither_negative_nor_a_spike(world: FaultWorld, life: Life) -> None:
    world.traffic("reset")
    seen, _ = numbers_of(life, at_least=25)
    assert all(0 < rps < 1.5 * USUAL_RPS for rps in seen), seen
    assert life.replicas == USUAL_REPLICAS


# ── Back again ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_row_12_after_a_gap_nothing_is_released_for_a_look_back(world: FaultWorld, life: Life) -> None:
    world.proxy.always(fault_proxy.reset)
    life.minute(10)
    world.proxy.heal()
    world.traffic("idle")
    life.seeing_minute()
    assert (life.state, life.replicas) == (State.REWARM, USUAL_REPLICAS)
    assert life.status.way_out.startswith("ends ")
    assert {each.action for each in life.minutes(LOOK_BACK_MINUTES - 1)} == {Action.HOLD}
    life.minutes_until(life.releases)


# ── Clocks ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    ("skew", "is_blind", "is_noted"),
    [
        pytest.param(timedelta(seconds=10), False, False, id="10 s"),
        pytest.param(timedelta(seconds=60), False, True, id="1 min warns"),
        pytest.param(timedelta(seconds=130), True, True, id="2 min are too many"),
        pytest.param(timedelta(hours=2), True, True, id="2 h"),
    ],
)
def test_row_13_clock_skew_is_measured_told_and_at_last_blinds(
    world: FaultWorld, life: Life, skew: timedelta, direction: int, is_blind: bool, is_noted: bool
) -> None:
    world.proxy.skew = direction * skew
    life.minute(2)
    if not is_blind:
        life.seeing_minute()
    assert isinstance(demand(life), Blind) is is_blind
    assert any("clock is" in str(line["notes"]) for line in life.events("metrics_source")) is is_noted
    assert life.metric("headstart_clock_skew_seconds") == pytest.approx((direction * skew).total_seconds(), abs=5)
    if is_blind:
        assert blind_reason(life) is BlindReason.CLOCK_SKEW
        assert life.state is State.HOLD
    assert life.replicas == USUAL_REPLICAS


# ── Answers that are none ─────────────────────────────────────────────────────────────────────────────────────────

LOGIN = b"<html><title>Sign in</title><input name=token value=s3cr3t-session> http://me:hunter2@proxy/</html>"


@pytest.mark.parametrize(
    ("fault", "reason", "told"),
    [
        pytest.param(
            fault_proxy.with_warnings("store 10.0.0.7 timed out, token=s3cr3t-session"),
            BlindReason.PARTIAL,
            "store 10.0.0.7 timed out",
            id="warnings",
        ),
        pytest.param(fault_proxy.page(LOGIN), BlindReason.MALFORMED, "Sign in", id="a web page with status 200"),
        pytest.param(
            fault_proxy.cut_json, BlindReason.MALFORMED, "not JSON (application/json, ", id="JSON that ends early"
        ),
        pytest.param(fault_proxy.truncated, BlindReason.MALFORMED, "the body ended early", id="a body that ends early"),
    ],
)
def test_row_14_an_answer_that_is_none_blinds_and_its_head_is_told_without_secrets(
    world: FaultWorld, life: Life, fault: fault_proxy.Fault, reason: BlindReason, told: str
) -> None:
    world.proxy.always(fault)
    life.minute()
    assert blind_reason(life) is reason
    assert (life.state, life.replicas) == (State.HOLD, USUAL_REPLICAS)
    text = str([life.events("metrics_source"), life.events("blind")])
    assert told in text
    assert "s3cr3t" not in life.stream.getvalue()
    assert "hunter2" not in life.stream.getvalue()
    world.proxy.heal()
    life.seeing_minute()
    assert demand(life).kind == "known"
