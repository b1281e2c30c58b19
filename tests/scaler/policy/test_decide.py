"""The composition: which proposal wins, in which order the clamps come, what the decision says of itself."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from forecaster.types import Blind, BlindReason, ForecastQuality, Known, Reading, TooFew, Zero
from policy_cases import GOOD, MINUTE, NOON, a_forecast, a_policy, a_snapshot, run, settled
from scaler.policy.decide import WorkloadPolicy, decide, decide_within
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import StepRule
from scaler.policy.predictive import PredictiveRule
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow
from scaler.policy.types import (
    Action,
    At,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
    Trust,
)

BLIND = Blind(reason=BlindReason.TIMEOUT)


def decided(snapshot: Snapshot, policy: WorkloadPolicy | None = None, *, state: PolicyState | None = None) -> Decision:
    return decide(snapshot, state or PolicyState(), policy or a_policy(), now=NOON)[0]


def calmly(snapshot: Snapshot, policy: WorkloadPolicy | None = None) -> Decision:
    """The decision after ten minutes of the same."""
    policy = policy or a_policy()
    return decided(snapshot, policy, state=settled(snapshot, policy))


def test_the_highest_want_orders() -> None:
    """Load wants 3 (20 rps at 70 % of 10), the forecast 5, the event 4: out to 5, and it says why."""
    event = ScheduledEvent(
        name="live",
        start=NOON,
        end=NOON + timedelta(hours=1),
        expected_peak=(ExpectedDemand(request_class="x", rps=40.0),),
    )
    policy = a_policy(scheduled=ScheduledRule(events=(event,)))
    decision = decided(a_snapshot(rps=20.0, desired=2, forecasts=(a_forecast(50.0),), quality=None), policy)
    assert [(each.rule, each.want) for each in decision.proposals] == [("load", 3), ("predictive", 5), ("scheduled", 4)]
    assert (decision.current, decision.target, decision.action, decision.reason) == (2, 5, Action.OUT, Reason.FORECAST)


def test_between_want_and_keep_nothing_moves() -> None:
    """The forecast sinks towards the end of a start (want 2) but holds until then (keep 6): 4 stays 4."""
    forecast = a_forecast(60.0, later_rps={4: 20.0})
    decision = calmly(a_snapshot(rps=10.0, desired=4, forecasts=(forecast,)))
    assert (decision.target, decision.reason, decision.adjustments) == (4, Reason.STEADY, ())


def test_the_highest_keep_limits_the_release() -> None:
    decision = calmly(a_snapshot(rps=10.0, desired=8, forecasts=(a_forecast(50.0),)))
    assert (decision.target, decision.action, decision.reason) == (5, Action.IN, Reason.LOAD)


def test_trust_carries_the_margin() -> None:
    """30 rps at 10 a replica: ceil(30 / 7) = 5 without trust, 3 with it."""
    forecast = (a_forecast(30.0),)
    assert decided(a_snapshot(rps=30.0, forecasts=forecast, quality=None)).target == 5
    trusted = decided(a_snapshot(rps=30.0, forecasts=forecast, quality=GOOD))
    assert (trusted.target, trusted.trust) == (3, Trust.TRUSTED)


def test_switching_the_forecast_off_restores_the_margin() -> None:
    decision = decided(
        a_snapshot(rps=30.0, forecasts=(a_forecast(99.0),)), a_policy(predictive=PredictiveRule(enabled=False))
    )
    assert (decision.target, decision.trust) == (5, Trust.NO_FORECAST)


@pytest.mark.parametrize(
    ("rps", "target", "reason"),
    [
        pytest.param(BLIND, 6, Reason.BLIND_DEMAND, id="blind"),
        pytest.param(TooFew(count=2), 6, Reason.BLIND_DEMAND, id="too few"),
        pytest.param(Known(value=float("nan")), 6, Reason.BLIND_DEMAND, id="NaN without evidence"),
        pytest.param(Known(value=float("-inf")), 6, Reason.BLIND_DEMAND, id="-inf"),
        pytest.param(Zero(evidence="up"), 3, Reason.LOAD, id="zero with evidence scales in, by half"),
        pytest.param(Known(value=1e300), 12, Reason.LOAD, id="1e300 grows by one step"),
    ],
)
def test_unknown_is_not_zero(rps: Reading, target: int, reason: Reason) -> None:
    """Six replicas after ten quiet minutes; then this reading."""
    policy = a_policy()
    state = settled(a_snapshot(rps=1.0, desired=6), policy, minutes=4)
    state = replace(state, known_since=NOON - timedelta(hours=1), calm_since=NOON - timedelta(minutes=5))
    decision = decided(a_snapshot(rps=rps, desired=6), policy, state=state)
    assert (decision.target, decision.reason) == (target, reason)


def test_blind_holds_and_a_fresh_forecast_may_still_raise() -> None:
    decision = decided(a_snapshot(rps=BLIND, desired=2, forecasts=(a_forecast(50.0),)))
    assert (decision.target, decision.reason) == (5, Reason.FORECAST)
    falling = calmly(a_snapshot(rps=BLIND, desired=9, forecasts=(a_forecast(50.0),)))
    assert (falling.target, falling.reason) == (9, Reason.BLIND_DEMAND)


def test_after_blindness_a_full_look_back_passes_before_a_release() -> None:
    policy, quiet = a_policy(), a_snapshot(rps=10.0, desired=6)
    minutes = [quiet] * 4 + [a_snapshot(rps=BLIND, desired=6)] + [quiet] * 8
    decisions = run(
        minutes, policy, state=replace(settled(quiet, policy), last_scale_in_at=NOON - timedelta(minutes=5))
    )
    reasons = [decision.reason for decision in decisions]
    assert reasons[:5] == [Reason.RECENT_SCALE_IN] * 4 + [Reason.BLIND_DEMAND]
    assert reasons[5:10] == [Reason.REWARM] * 5
    assert (decisions[10].action, decisions[10].target) == (Action.IN, 3)


def test_unreadable_replicas_mean_no_decision() -> None:
    snapshot = replace(a_snapshot(rps=500.0), replicas=BLIND)
    before = settled(a_snapshot(rps=1.0, desired=6), a_policy())
    assert None not in (before.known_since, before.calm_since, before.ready)
    decision, state = decide(snapshot, before, a_policy(), now=NOON)
    assert decision == Decision(workload="llm/chat", at=NOON, current=None, target=None, reason=Reason.BLIND_REPLICAS)
    assert decision.action is Action.HOLD
    assert state == replace(before, known_since=None, calm_since=None, ready=None, last_tick_at=NOON)


def test_restart_holds_the_scale() -> None:
    """An empty state, eight replicas, hardly any load: five minutes of holding, then a release by half."""
    decisions = run([a_snapshot(rps=3.0, desired=8)] * 6, a_policy())
    assert [decision.target for decision in decisions] == [8] * 5 + [4]
    assert decisions[0].reason is Reason.REWARM


def test_a_zero_that_we_did_not_write_means_hands_off() -> None:
    for policy in (a_policy(), a_policy(least=0)):
        before = settled(a_snapshot(rps=1.0, desired=6), policy)
        decision, state = decide(a_snapshot(rps=99.0, desired=0), before, policy, now=NOON)
        assert decision == Decision(workload="llm/chat", at=NOON, current=0, target=0, reason=Reason.HANDS_OFF)
        assert (state.known_since, state.calm_since, state.ready, state.last_tick_at) == (None, None, None, NOON)


def test_a_zero_that_we_wrote_wakes_on_demand() -> None:
    policy, asleep = a_policy(least=0), PolicyState(asked=0, last_tick_at=NOON - MINUTE)
    assert decided(a_snapshot(rps=3.0, desired=0), policy, state=asleep).target == 1
    assert decided(a_snapshot(rps=Zero(evidence="up"), desired=0), policy, state=asleep).target == 0
    assert decided(a_snapshot(rps=3.0, desired=0), a_policy(), state=asleep).reason is Reason.HANDS_OFF, (
        "min 1 never sleeps"
    )


@pytest.mark.parametrize(
    ("later", "wakes"),
    [
        pytest.param([], True, id="the write of the wake-up failed: asked again at the next tick"),
        pytest.param([0, 0], True, id="and again, for as long as it fails"),
        pytest.param([1], False, id="it woke, and then somebody switched it off"),
        pytest.param([3], False, id="somebody woke it, and somebody switched it off"),
    ],
)
def test_a_zero_stays_ours_until_another_scale_was_seen(later: list[int], wakes: bool) -> None:
    """A wake-up that the budget cuts or the API refuses must not read as a human's zero: it would sleep for ever."""
    policy = a_policy(least=0)
    _, state = decide(
        a_snapshot(rps=3.0, desired=0), PolicyState(asked=0, last_tick_at=NOON - MINUTE), policy, now=NOON
    )
    for minute, scale in enumerate(later, start=1):
        _, state = decide(a_snapshot(rps=3.0, desired=scale), state, policy, now=NOON + minute * MINUTE)
    decision, _ = decide(a_snapshot(rps=3.0, desired=0), state, policy, now=NOON + 9 * MINUTE)
    assert decision.target == (1 if wakes else 0)


def test_a_zero_that_was_only_wished_for_is_not_ours() -> None:
    """The write of the zero failed, or the workload is only observed; the zero that follows later is a human's."""
    policy = a_policy(least=0)
    state = PolicyState(asked=0, last_tick_at=NOON - MINUTE)
    _, state = decide(a_snapshot(rps=3.0, desired=1), state, policy, now=NOON)
    decision, _ = decide(a_snapshot(rps=3.0, desired=0), state, policy, now=NOON + MINUTE)
    assert decision.reason is Reason.HANDS_OFF


def test_demand_that_is_only_a_part_adds_and_never_releases() -> None:
    """One of two gateways is not scraped: 30 rps of 60 are seen, for an hour, with a forecast that believes them."""
    policy = a_policy()
    state = settled(a_snapshot(rps=60.0, desired=9), policy)
    for minute in range(60):
        now = NOON + minute * MINUTE
        seen = a_snapshot(rps=30.0, desired=9, forecasts=(a_forecast(30.0, issued_at=now),))
        decision, state = decide(replace(seen, demand_partial=True), state, policy, now=now)
        assert (decision.target, decision.reason) == (9, Reason.BLIND_DEMAND)
    z_before = state.z
    more = replace(a_snapshot(rps=99.0, desired=9), demand_partial=True)
    decision, state = decide(more, state, policy, now=NOON + 60 * MINUTE)
    assert decision.target == 15
    assert state.z == z_before
    back, _ = decide(a_snapshot(rps=30.0, desired=15), state, policy, now=NOON + 61 * MINUTE)
    assert (back.target, back.reason) == (15, Reason.REWARM)


def test_above_the_maximum_nothing_is_released_on_a_part_of_the_demand() -> None:
    policy = a_policy(most=8)
    seen = replace(a_snapshot(rps=30.0, desired=12), demand_partial=True)
    before = settled(a_snapshot(rps=30.0, desired=12), a_policy())
    assert decide(seen, before, policy, now=NOON)[0].target == 12


def test_sleep_is_reached_only_with_min_zero() -> None:
    silence = a_snapshot(rps=Zero(evidence="up"), desired=1)
    assert calmly(silence, a_policy(least=0)).target == 0
    assert calmly(silence).target == 1


def test_minimum_is_enforced_even_if_nothing_is_known() -> None:
    decision = decided(a_snapshot(rps=BLIND, desired=1), a_policy(least=3))
    assert (decision.target, decision.reason, decision.action) == (3, Reason.AT_MIN, Action.OUT)


def test_a_release_stops_at_the_minimum() -> None:
    decision = calmly(a_snapshot(rps=1.0, desired=4), a_policy(least=3))
    assert (decision.target, decision.reason) == (3, Reason.LOAD)
    assert [each.reason for each in decision.adjustments] == [Reason.STEP_IN, Reason.AT_MIN]


def test_growth_stops_at_the_maximum_and_says_so() -> None:
    decision = decided(a_snapshot(rps=999.0, desired=8), a_policy(most=8))
    assert (decision.target, decision.action, decision.reason) == (8, Action.HOLD, Reason.AT_MAX)
    partly = decided(a_snapshot(rps=999.0, desired=6), a_policy(most=8))
    assert (partly.target, partly.reason) == (8, Reason.LOAD)
    assert [each.reason for each in partly.adjustments] == [Reason.STEP_OUT, Reason.AT_MAX]


def test_a_scale_above_the_maximum_comes_down_unless_blind() -> None:
    """Somebody set 12 with a maximum of 8. Blind or re-warming it stays; in sight it comes down to the limit."""
    busy = a_snapshot(rps=500.0, desired=12)
    seen = calmly(busy, a_policy(most=8))
    assert (seen.target, seen.action, seen.reason) == (8, Action.IN, Reason.AT_MAX)
    blind = calmly(a_snapshot(rps=BLIND, desired=12), a_policy(most=8))
    assert (blind.target, blind.reason) == (12, Reason.BLIND_DEMAND)
    fresh = decided(busy, a_policy(most=8))
    assert (fresh.target, fresh.reason) == (12, Reason.REWARM)
    quiet = decided(
        a_snapshot(rps=1.0, desired=12),
        a_policy(most=8),
        state=settled(a_snapshot(rps=1.0, desired=12), a_policy(most=8)),
    )
    assert quiet.target == 6, "an agreed release may go further than the limit"


def test_a_window_moves_the_bounds() -> None:
    noon = TimeWindow(name="lunch", start=NOON.time(), end=(NOON + timedelta(hours=1)).time(), min_replicas=5)
    decision = decided(a_snapshot(rps=1.0), a_policy(scheduled=ScheduledRule(windows=(noon,))))
    assert (decision.target, decision.reason) == (5, Reason.AT_MIN)


def test_pods_without_gpu_stop_growth_after_ten_minutes() -> None:
    policy = a_policy()
    waits = a_snapshot(rps=90.0, desired=6, ready=4, unschedulable=2)
    assert decided(waits, policy).target == 12
    stuck = decided(
        waits, policy, state=replace(settled(waits, policy), unschedulable_since=NOON - timedelta(minutes=10))
    )
    assert (stuck.target, stuck.reason) == (6, Reason.UNSCHEDULABLE)


def test_latency_orders_are_remembered_until_they_are_ready() -> None:
    policy = a_policy(slo_s=1.0)
    slow = a_snapshot(rps=20.0, desired=3, p95_s=5.0, quality=None)
    state = settled(slow, policy, minutes=4)
    decision, state = decide(slow, state, policy, now=NOON)
    assert (decision.target, decision.reason) == (4, Reason.PROFILE_DOUBTED)
    assert (state.latency.ordered, state.asked) == (At(at=NOON, replicas=4), 4)
    starting = a_snapshot(rps=20.0, desired=4, ready=3, starting=1, p95_s=5.0)
    decision, state = decide(starting, state, policy, now=NOON + MINUTE)
    assert (decision.target, decision.proposals[-1].reason) == (4, Reason.P95_PENDING)


def test_a_latency_order_waits_for_no_more_than_the_maximum() -> None:
    policy = a_policy(slo_s=1.0, most=4)
    slow = a_snapshot(rps=20.0, desired=3, p95_s=5.0, waiting=36000.0)
    _, state = decide(slow, settled(slow, policy, minutes=2), policy, now=NOON)
    assert state.latency.ordered == At(at=NOON, replicas=4)


def test_an_order_of_another_rule_is_not_the_latency_rules() -> None:
    policy = a_policy(slo_s=1.0)
    _, state = decide(a_snapshot(rps=50.0, desired=1, p95_s=5.0), PolicyState(), policy, now=NOON)
    assert (state.asked, state.latency.ordered) == (5, None)


def test_a_blind_latency_signal_blocks_release_only_if_its_rule_was_active() -> None:
    policy = a_policy(slo_s=1.0)
    fine, unseen = (a_snapshot(rps=5.0, desired=4, p95_s=p95) for p95 in (0.2, BLIND))
    assert decided(unseen, policy, state=settled(fine, policy)).action is Action.IN
    active = replace(settled(fine, policy), latency_active_at=NOON - timedelta(minutes=4))
    held = decided(unseen, policy, state=active)
    assert (held.target, held.reason) == (4, Reason.BLIND_RULE)
    assert decided(fine, policy, state=active).action is Action.IN
    long_ago = replace(active, latency_active_at=NOON - timedelta(minutes=5))
    assert decided(unseen, policy, state=long_ago).action is Action.IN


def test_a_backlog_keeps_the_survivors() -> None:
    """50 rps fit 5 replicas by the trusted forecast, but 5400 waiting requests are 30 rps more for three minutes."""
    queue = a_snapshot(rps=50.0, desired=8, waiting=5400.0, forecasts=(a_forecast(50.0),))
    decision = calmly(queue)
    assert (decision.target, decision.reason) == (8, Reason.SURVIVORS)
    assert calmly(replace(queue, requests_waiting=Known(value=0.0))).target == 5


def z_after(snapshot: Snapshot, policy: WorkloadPolicy, **state: object) -> float | None:
    before = PolicyState(last_tick_at=NOON - MINUTE, z=2.0, **{"ready": 3, **state})  # type: ignore[arg-type]
    return decide(snapshot, before, policy, now=NOON)[1].z


@pytest.mark.parametrize(
    ("snapshot", "policy", "state", "z"),
    [
        pytest.param(a_snapshot(rps=29.0, desired=3, forecasts=(a_forecast(9.0),)), a_policy(), {}, 1.99975, id="met"),
        pytest.param(
            a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),)), a_policy(), {}, 2.02475, id="missed"
        ),
        pytest.param(
            a_snapshot(rps=31.0, desired=9, ready=9, forecasts=(a_forecast(9.0),)),
            a_policy(),
            {},
            2.02475,
            id="what was Ready when the minute began counts",
        ),
        pytest.param(
            a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),)),
            a_policy(mode=Mode.OBSERVE),
            {},
            2.0,
            id="observed: not our doing",
        ),
        pytest.param(
            replace(a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),)), standby=True),
            a_policy(),
            {},
            2.0,
            id="in standby: another daemon's doing",
        ),
        pytest.param(a_snapshot(rps=31.0, desired=3), a_policy(), {}, 2.0, id="no forecast to blame"),
        pytest.param(
            a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0, issued_at=NOON - timedelta(hours=1)),)),
            a_policy(),
            {},
            2.0,
            id="an expired one neither",
        ),
        pytest.param(a_snapshot(rps=BLIND, desired=3, forecasts=(a_forecast(9.0),)), a_policy(), {}, 2.0, id="blind"),
        pytest.param(
            a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),)),
            a_policy(),
            {"ready": None},
            2.0,
            id="first tick",
        ),
        pytest.param(
            a_snapshot(rps=99.0, desired=8, ready=8, forecasts=(a_forecast(9.0),)),
            a_policy(most=8),
            {},
            2.0,
            id="at the maximum",
        ),
    ],
)
def test_steering_moves_only_on_evidence(
    snapshot: Snapshot, policy: WorkloadPolicy, state: dict[str, object], z: float
) -> None:
    assert z_after(snapshot, policy, **state) == pytest.approx(z)


def doubted(coverage: float) -> Snapshot:
    quality = replace(GOOD, coverage_95=coverage)
    return a_snapshot(rps=30.0, desired=3, forecasts=(a_forecast(9.0),), quality=quality)


@pytest.mark.parametrize(
    ("coverage", "trust", "wanted"),
    [
        pytest.param(0.90, Trust.TRUSTED, 3, id="trusted: 30 rps fill three to the brim"),
        pytest.param(0.899, Trust.COVERAGE_LOW, 4, id="a hair of doubt, a hair of margin"),
        pytest.param(0.80, Trust.COVERAGE_LOW, 5, id="no trust left: 30 / 7 = 4.3"),
        pytest.param(1.00, Trust.TRUSTED, 3, id="a band too wide costs nothing twice"),
    ],
)
def test_the_margin_follows_the_doubt(coverage: float, trust: Trust, wanted: int) -> None:
    decision = decided(doubted(coverage), a_policy())
    assert (decision.trust, decision.target) == (trust, wanted)


def test_without_a_predictive_rule_the_load_rule_keeps_its_margin() -> None:
    policy = replace(a_policy(), predictive=PredictiveRule(enabled=False))
    decision = decided(doubted(0.95), policy)
    assert (decision.trust, decision.target) == (Trust.NO_FORECAST, 5)


def test_a_new_workload_starts_at_the_first_score() -> None:
    decision, state = decide(a_snapshot(rps=1.0, forecasts=(a_forecast(9.0),)), PolicyState(), a_policy(), now=NOON)
    assert (decision.z, state.z) == (1.645, None)


def test_the_steered_score_orders() -> None:
    """Levels 20, 30, 40, 50: at z = 2.3263 the 0.99 quantile is ordered."""
    snapshot = a_snapshot(rps=1.0, forecasts=(a_forecast(20.0, spread_rps=10.0),))
    low, high = (
        decided(snapshot, state=PolicyState(z=z, last_tick_at=NOON - MINUTE)) for z in (0.0, 2.3263478740408408)
    )
    assert (low.target, high.target) == (2, 5)
    assert (low.z, high.z) == (0.0, 2.3263478740408408)


def test_within_a_grant() -> None:
    snapshot = a_snapshot(rps=90.0, desired=4)
    cut, state = decide_within(snapshot, PolicyState(), a_policy(), 6, now=NOON)
    assert (cut.target, cut.reason, state.over_budget) == (6, Reason.GPU_BUDGET, True)
    free, state = decide_within(snapshot, PolicyState(), a_policy(), None, now=NOON)
    assert (free.target, state.over_budget) == (8, False)


def test_four_ticks_a_minute_do_not_grow_four_times() -> None:
    policy, state, scale, seen = a_policy(tick=timedelta(seconds=15), step=StepRule()), PolicyState(), 1, []
    for i in range(9):
        now = NOON + i * timedelta(seconds=15)
        decision, state = decide(a_snapshot(rps=9000.0, desired=scale), state, policy, now=now)
        scale = decision.target or scale
        seen.append(scale)
    assert seen == [5, 5, 5, 5, 10, 10, 10, 10, 20]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: a_policy(tick=timedelta(0)), "tick of llm/chat must be above 0, got 0:00:00", id="tick"),
        pytest.param(
            lambda: a_policy(start_time=timedelta(seconds=-1)),
            "start_time of llm/chat must be at least 0",
            id="start time",
        ),
    ],
)
def test_refuses_impossible_settings(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_action_is_derived() -> None:
    base = Decision(workload="a", at=NOON, current=2, target=2, reason=Reason.STEADY)
    assert base.action is Action.HOLD
    assert replace(base, target=3).action is Action.OUT
    assert replace(base, target=1).action is Action.IN
    assert replace(base, current=None).action is Action.HOLD
    assert isinstance(a_snapshot().replicas, ReplicaState)


def test_exactly_what_is_there_is_steady() -> None:
    decision = decided(a_snapshot(rps=28.0, desired=4))
    assert (decision.target, decision.reason, decision.adjustments) == (4, Reason.STEADY, ())


@pytest.mark.parametrize(
    ("quality", "target"),
    [
        pytest.param(None, 5, id="without trust the peak of four minutes ago stays"),
        pytest.param(GOOD, 3, id="with trust the forecast says what may go"),
    ],
)
def test_the_look_back_counts_only_without_trust(quality: ForecastQuality | None, target: int) -> None:
    """3 replicas are enough since ten minutes, but for one minute four minutes ago 5 were kept. Scale 6, calm throughout."""
    policy = a_policy()
    quiet = a_snapshot(rps=20.0, desired=6, forecasts=(a_forecast(30.0),), quality=quality)
    burst = a_snapshot(rps=34.0, desired=6, forecasts=(a_forecast(45.0),), quality=quality)
    state = settled(quiet, policy, now=NOON - 4 * MINUTE)
    for ago, snapshot in ((4, burst), (3, quiet), (2, quiet), (1, quiet)):
        _, state = decide(snapshot, state, policy, now=NOON - ago * MINUTE)
    decision = decided(quiet, policy, state=state)
    assert (decision.target, decision.action) == (target, Action.IN)


def test_when_the_latency_rule_was_last_active_is_remembered() -> None:
    policy = a_policy(slo_s=1.0)
    _, state = decide(a_snapshot(rps=5.0, p95_s=9.0), PolicyState(), policy, now=NOON)
    assert state.latency_active_at == NOON
    _, state = decide(a_snapshot(rps=5.0, p95_s=0.2), state, policy, now=NOON + MINUTE)
    assert state.latency_active_at == NOON


def test_two_blind_signals_are_named() -> None:
    policy = a_policy(latency=LatencyRule(slos=(Slo(e2e_p95_s=1.0, ttft_p95_s=0.5),)))
    fine = a_snapshot(rps=5.0, desired=4, p95_s=0.2, ttft_s=Known(value=0.1))
    state = replace(settled(fine, policy), latency_active_at=NOON)
    held = decided(a_snapshot(rps=5.0, desired=4, p95_s=BLIND, ttft_s=BLIND), policy, state=state)
    assert held.adjustments[0].detail == "default/e2e_p95_s, default/ttft_p95_s is blind and was active within 5m"


def test_above_the_maximum_the_look_back_ends_to_the_second() -> None:
    busy, policy = a_snapshot(rps=500.0, desired=12), a_policy(most=8)
    at_edge = replace(settled(busy, policy), known_since=NOON - timedelta(minutes=5))
    assert decided(busy, policy, state=at_edge).target == 8
    before = decided(busy, policy, state=replace(at_edge, known_since=NOON - timedelta(seconds=299)))
    assert before.target == 12
    assert [(each.rule, each.detail) for each in before.adjustments[-1:]] == [
        ("guard", "above the maximum 8, but no release while blind or re-warming")
    ]


def test_a_second_latency_order_waits_anew() -> None:
    policy = a_policy(slo_s=1.0)
    slow = a_snapshot(rps=20.0, desired=3, p95_s=5.0)
    state = settled(slow, policy, minutes=4)
    rested = replace(state.latency, settled_at=NOON - timedelta(minutes=2), ordered=None)
    _, state = decide(slow, replace(state, latency=rested), policy, now=NOON)
    assert (state.latency.ordered, state.latency.settled_at) == (At(at=NOON, replicas=4), None)


def test_an_order_that_a_lower_maximum_turns_round_is_not_waited_for() -> None:
    """P95 fires at 12 replicas just when the maximum falls to 8: the scale comes down, nothing is pending."""
    policy = a_policy(slo_s=1.0, most=8)
    slow = a_snapshot(rps=20.0, desired=12, p95_s=5.0)
    state = settled(slow, policy)
    assert decided(slow, policy, state=state).action is Action.IN
    _, after = decide(slow, state, policy, now=NOON)
    assert (after.asked, after.latency.ordered) == (8, None)


def test_a_new_model_freezes_the_steering_for_one_lead_time() -> None:
    policy = a_policy()
    old = a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0, model="old"),))
    new = a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0, model="new"),))
    _, state = decide(old, PolicyState(z=2.0, ready=3, last_tick_at=NOON - MINUTE, model="old"), policy, now=NOON)
    assert state.z == pytest.approx(2.02475)
    scores = []
    for minute in range(1, 6):
        _, state = decide(new, state, policy, now=NOON + minute * MINUTE)
        scores.append(state.z)
    assert state.model_since == NOON + MINUTE
    assert scores == pytest.approx([2.02475, 2.02475, 2.02475, 2.0495, 2.07425])


def test_misses_of_late_raise_the_score_that_orders() -> None:
    """Three of the last minutes were missed: the same forecast and lasting score now order more."""
    forecast = a_forecast(9.0)
    snapshot = a_snapshot(rps=29.0, desired=3, forecasts=(forecast,))
    quiet = PolicyState(last_tick_at=NOON - MINUTE, z=2.0, ready=3)
    calm, after_calm = decide(snapshot, quiet, a_policy(), now=NOON)
    burst, after_burst = decide(snapshot, replace(quiet, missed_share=0.05), a_policy(), now=NOON)
    assert (after_calm.z, after_burst.z) == (pytest.approx(1.99975), pytest.approx(1.99975))
    assert burst.z - calm.z == pytest.approx(8.0 * after_burst.missed_share)
    assert after_burst.missed_share == pytest.approx(0.05 * 0.5 ** (1 / 45))


def test_what_teaches_nothing_does_not_fade_a_miss_either() -> None:
    snapshot = a_snapshot(rps=BLIND, desired=3, forecasts=(a_forecast(9.0),))
    before = PolicyState(last_tick_at=NOON - MINUTE, z=2.0, ready=3, missed_share=0.05)
    assert decide(snapshot, before, a_policy(), now=NOON)[1].missed_share == 0.05


def test_no_start_time_is_a_start_time() -> None:
    assert a_policy(start_time=timedelta(0)).start_time == timedelta(0)


def test_a_release_that_goes_wrong_is_seen_by_the_steering() -> None:
    """Six were Ready, three are left; the next minute brings load for four: a miss, although six were Ready before."""
    policy = a_policy()
    quiet = a_snapshot(rps=20.0, desired=6, forecasts=(a_forecast(25.0),))
    decision, state = decide(quiet, replace(settled(quiet, policy), z=2.0), policy, now=NOON)
    assert (decision.target, state.ready) == (3, 3)
    lower = state.z
    _, state = decide(a_snapshot(rps=40.0, desired=3, forecasts=(a_forecast(25.0),)), state, policy, now=NOON + MINUTE)
    assert state.z == pytest.approx(lower + 0.02475)


def test_a_short_tick_moves_the_score_by_its_share_of_a_minute() -> None:
    policy = a_policy(tick=timedelta(seconds=15))
    missed = a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),))
    before = PolicyState(last_tick_at=NOON - timedelta(seconds=15), z=2.0, ready=3)
    assert decide(missed, before, policy, now=NOON)[1].z == pytest.approx(2.0 + 0.0495 / 4 / 3.25**0.5)


def test_part_of_the_demand_teaches_the_steering_nothing() -> None:
    snapshot = a_snapshot(rps=31.0, desired=3, forecasts=(a_forecast(9.0),))
    assert z_after(replace(snapshot, demand_partial=True), a_policy()) == 2.0
    assert z_after(snapshot, a_policy()) == pytest.approx(2.02475)


def test_at_the_maximum_the_latency_rule_has_ordered_nothing_to_wait_for() -> None:
    policy = a_policy(slo_s=1.0, most=3)
    slow = a_snapshot(rps=28.0, desired=3, p95_s=5.0)
    decision, state = decide(slow, settled(slow, policy, minutes=6), policy, now=NOON)
    assert (decision.target, decision.reason) == (3, Reason.AT_MAX)
    assert (state.latency.ordered, state.asked) == (None, None)


# ── A forecast that is worse than the last value ──────────────────────────────────────────────────────────────


def with_error(ratio: float, *, at: datetime, rps: float = 20.0) -> Snapshot:
    """Two replicas' load now, and a forecast of nine that errs by so many times the last value's error."""
    quality = ForecastQuality(coverage_95=0.95, wape=0.1 * ratio, wape_last_value=0.1, scored_bins=360)
    return a_snapshot(rps=rps, desired=3, forecasts=(a_forecast(90.0, issued_at=at),), quality=quality)


def test_a_forecast_far_worse_than_the_last_value_asks_for_nothing_until_half_its_trust_is_back() -> None:
    state, wanted, since = PolicyState(), [], []
    for minute, ratio in enumerate([1.4, 1.6, 1.4, 1.3, 1.2, 1.4]):
        now = NOON + minute * MINUTE
        decision, state = decide(with_error(ratio, at=now), state, a_policy(), now=now)
        wanted.append({each.rule: each.want for each in decision.proposals}.get("predictive"))
        since.append(state.disabled_since)
    assert wanted == [9, None, None, None, 9, 9]
    assert since == [None, *[NOON + MINUTE] * 3, None, None]


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(a_snapshot(rps=20.0, desired=3), id="there is none"),
        pytest.param(
            a_snapshot(rps=20.0, desired=3, forecasts=(a_forecast(90.0, issued_at=NOON - timedelta(hours=1)),)),
            id="it has expired",
        ),
        pytest.param(
            a_snapshot(rps=20.0, desired=3, forecasts=(a_forecast(90.0),), quality=replace(GOOD, wape=float("nan"))),
            id="its error is unknown",
        ),
    ],
)
def test_only_a_bad_record_disables_and_only_a_good_one_enables(snapshot: Snapshot) -> None:
    assert decide(snapshot, PolicyState(), a_policy(), now=NOON)[1].disabled_since is None
    earlier = NOON - MINUTE
    off = PolicyState(last_tick_at=earlier, disabled_since=earlier)
    decision, after = decide(snapshot, off, a_policy(), now=NOON)
    assert after.disabled_since == earlier
    assert "predictive" not in {each.rule for each in decision.proposals}


def test_a_restart_does_not_enable_and_steering_rests_meanwhile() -> None:
    off = PolicyState(last_tick_at=NOON - timedelta(hours=1), disabled_since=NOON - timedelta(hours=2), z=2.0, ready=1)
    _, woken = decide(with_error(1.6, at=NOON), off, a_policy(), now=NOON)
    assert woken.disabled_since == NOON - timedelta(hours=2)
    ticking = replace(off, last_tick_at=NOON - MINUTE)
    assert decide(with_error(1.6, at=NOON), ticking, a_policy(), now=NOON)[1].z == 2.0
    enabled = replace(ticking, disabled_since=None)
    assert decide(with_error(1.0, at=NOON), enabled, a_policy(), now=NOON)[1].z > 2.0


def test_the_day_before_stands_in_although_the_forecast_was_disabled() -> None:
    """Blind for half an hour: what stands in is not the forecast that erred, and may add replicas like any stand-in."""
    off = PolicyState(last_tick_at=NOON - MINUTE, disabled_since=NOON - timedelta(hours=1))
    stand_in = DemandForecast(forecast=a_forecast(90.0), stand_in=True)
    blind = replace(a_snapshot(rps=Blind(reason=BlindReason.TIMEOUT), desired=3), forecasts=(stand_in,))
    decision, after = decide(blind, off, a_policy(), now=NOON)
    assert ([(each.rule, each.reason) for each in decision.proposals], after.disabled_since) == (
        [("predictive", Reason.STAND_IN)],
        NOON - timedelta(hours=1),
    )
    ours = replace(blind, forecasts=(replace(stand_in, stand_in=False),))
    assert decide(ours, off, a_policy(), now=NOON)[0].proposals == ()
