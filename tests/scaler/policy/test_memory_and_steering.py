"""What survives from tick to tick, and how the score is steered."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy import memory, steering
from scaler.policy.decide import decide
from scaler.policy.steering import SteeringRule
from scaler.policy.types import Action, At, Breach, LatencyState, PolicyState, Reason, ReplicaState
from scaler.policy.writers import OtherWritersRule

FULL = PolicyState(
    last_tick_at=NOON - MINUTE,
    known_since=NOON - timedelta(hours=1),
    calm_since=NOON - timedelta(minutes=4),
    last_scale_in_at=NOON - timedelta(minutes=20),
    desired=(At(at=NOON - MINUTE, replicas=4),),
    peaks=(At(at=NOON - MINUTE, replicas=3),),
    latency=LatencyState(breaches=(Breach(request_class="a", signal="e2e_p95_s", since=NOON - MINUTE),)),
    latency_active_at=NOON - MINUTE,
    model="arima",
    model_since=NOON - timedelta(hours=2),
    z=2.5,
    missed_share=0.1,
    ready=4,
    asked=4,
    unschedulable_since=NOON - MINUTE,
    over_budget=True,
)
KEPT = PolicyState(
    last_scale_in_at=FULL.last_scale_in_at,
    model="arima",
    model_since=FULL.model_since,
    z=2.5,
    asked=4,
)


@pytest.mark.parametrize(
    ("gap", "carried"),
    [
        pytest.param(timedelta(0), FULL, id="the same moment"),
        pytest.param(timedelta(minutes=3), FULL, id="three ticks"),
        pytest.param(timedelta(minutes=3, seconds=1), KEPT, id="a break: every unbroken run ends, measurements stay"),
        pytest.param(timedelta(days=30), KEPT, id="a month off"),
        pytest.param(timedelta(seconds=-1), KEPT, id="the clock went back"),
    ],
)
def test_carry(gap: timedelta, carried: PolicyState) -> None:
    assert FULL.last_tick_at is not None
    assert memory.carry(FULL, tick=MINUTE, now=FULL.last_tick_at + gap) == carried


def test_moments_in_the_future_are_dropped() -> None:
    back = NOON - timedelta(hours=3)
    assert memory.carry(FULL, tick=MINUTE, now=back) == replace(KEPT, last_scale_in_at=None, model_since=None)
    same = memory.carry(FULL, tick=MINUTE, now=NOON - timedelta(minutes=20))
    assert same.last_scale_in_at == NOON - timedelta(minutes=20), "exactly now is not the future"


def test_an_empty_state_stays_empty() -> None:
    assert memory.carry(PolicyState(), tick=MINUTE, now=NOON) == PolicyState()


@pytest.mark.parametrize(
    ("desired", "scaled_in_at"),
    [
        pytest.param(5, FULL.last_scale_in_at, id="grew"),
        pytest.param(4, FULL.last_scale_in_at, id="same"),
        pytest.param(3, FULL.last_tick_at, id="shrank since the last tick: dated to it"),
    ],
)
def test_scale_ins_are_seen_whoever_made_them(desired: int, scaled_in_at: object) -> None:
    after = memory.observe_replicas(FULL, ReplicaState(desired=desired, ready=desired), period=MINUTE, now=NOON)
    assert after.last_scale_in_at == scaled_in_at
    assert after.desired == (At(at=NOON, replicas=desired),), "a value one whole period old is forgotten"


def test_recent_scales_are_kept_for_the_step_limit() -> None:
    soon = NOON - MINUTE + timedelta(seconds=15)
    after = memory.observe_replicas(FULL, ReplicaState(desired=5, ready=4), period=MINUTE, now=soon)
    assert after.desired == (At(at=NOON - MINUTE, replicas=4), At(at=soon, replicas=5))
    first = memory.observe_replicas(PolicyState(), ReplicaState(desired=2, ready=2), period=MINUTE, now=NOON)
    assert (first.desired, first.last_scale_in_at) == ((At(at=NOON, replicas=2),), None)


def test_since_when_pods_find_no_gpu() -> None:
    waits = ReplicaState(desired=4, ready=3, unschedulable=1)
    first = memory.observe_replicas(PolicyState(), waits, period=MINUTE, now=NOON)
    later = memory.observe_replicas(first, waits, period=MINUTE, now=NOON + MINUTE)
    assert (first.unschedulable_since, later.unschedulable_since) == (NOON, NOON)
    gone = memory.observe_replicas(later, ReplicaState(desired=4, ready=4), period=MINUTE, now=NOON + MINUTE)
    assert gone.unschedulable_since is None


def test_a_change_of_model_is_dated_the_first_one_is_none() -> None:
    first = memory.observe_model(PolicyState(), a_snapshot(forecasts=(a_forecast(1.0, model="arima"),)), now=NOON)
    assert (first.model, first.model_since) == ("arima", None)
    same = memory.observe_model(first, a_snapshot(forecasts=(a_forecast(2.0, model="arima"),)), now=NOON + MINUTE)
    assert same == first
    none = memory.observe_model(first, a_snapshot(), now=NOON + MINUTE)
    assert none == first, "a missing forecast is no change of model"
    other = memory.observe_model(first, a_snapshot(forecasts=(a_forecast(1.0, model="lstm"),)), now=NOON + MINUTE)
    assert (other.model, other.model_since) == ("lstm", NOON + MINUTE)
    both = (a_forecast(1.0, model="lstm"), a_forecast(1.0, model="arima", request_class="gui"))
    assert memory.observe_model(first, a_snapshot(forecasts=both), now=NOON).model == "arima,lstm"


LEAD = timedelta(minutes=3)


def steered(z: float, *, load: float, ready: int, tick: timedelta = MINUTE, lead_time: timedelta = LEAD) -> float:
    return steering.steer(z, 0.0, SteeringRule(), load=load, ready=ready, tick=tick, lead_time=lead_time)[0]


def share_after(missed: float, *, load: float, tick: timedelta = MINUTE) -> float:
    return steering.steer(1.9, missed, SteeringRule(), load=load, ready=1, tick=tick, lead_time=LEAD)[1]


@pytest.mark.parametrize(
    ("z", "load", "ready", "after"),
    [
        pytest.param(1.9, 3.0, 3, 1.89975, id="just enough: a hair down"),
        pytest.param(1.9, 3.01, 3, 1.92475, id="missed: up by 0.025 · 0.99"),
        pytest.param(1.9, 3.0 + 1e-10, 3, 1.89975, id="rounding is no miss"),
        pytest.param(4.48, 9.0, 3, 4.5, id="capped above"),
        pytest.param(1.0002, 0.0, 3, 1.0, id="capped below"),
    ],
)
def test_steer(z: float, load: float, ready: int, after: float) -> None:
    assert steered(z, load=load, ready=ready) == pytest.approx(after)


@pytest.mark.parametrize(
    ("tick_s", "lead_s", "up"),
    [
        pytest.param(60, 0, 0.05, id="an effect that shows within the minute"),
        pytest.param(60, 180, 0.025, id="a start of three minutes: 0.05 / √4"),
        pytest.param(60, 540, 0.05 / 10**0.5, id="a start of nine: 0.05 / √10"),
        pytest.param(600, 600, 0.5 / 20**0.5, id="ten-minute bins: one observation, not ten"),
        pytest.param(5, 180, 0.05 / 12 / (3 + 1 / 12) ** 0.5, id="five seconds"),
    ],
)
def test_the_step_falls_with_the_root_of_the_delay(tick_s: int, lead_s: int, up: float) -> None:
    tick, lead_time = timedelta(seconds=tick_s), timedelta(seconds=lead_s)
    assert steered(2.0, load=2.0, ready=1, tick=tick, lead_time=lead_time) == pytest.approx(2.0 + 0.99 * up)


@given(start=st.floats(1.0, 4.5), target=st.floats(0.005, 0.1))
def test_steering_finds_the_quantile_that_misses_the_target_share(start: float, target: float) -> None:
    """A world whose misses fall with z: in the long run the missed share is the target, whatever it started from."""
    rule, z, late, missed = SteeringRule(missed_target_ratio=target), start, 0.0, 0
    for minute in range(20000):
        load = 1.0 + 2.0 * (minute * 0.618033988749895 % 1.0)  # equidistributed in [1, 3)
        ready_share = 1.0 + min(1.0, max(0.0, (steering.score(z, late, rule) - 0.5) / 4.0)) * 2.0
        miss = load > ready_share
        missed += miss and minute >= 16000
        seen = 2.0 if miss else 0.0
        z, late = steering.steer(z, late, rule, load=seen, ready=1, tick=MINUTE, lead_time=LEAD)
    assert missed / 4000 == pytest.approx(target, abs=0.012)


@pytest.mark.parametrize(
    ("missed", "score"),
    [
        pytest.param(0.0, 1.9, id="nothing missed of late"),
        pytest.param(0.05, 2.3, id="one minute in twenty: 8 · 0.05"),
        pytest.param(1.0, 4.5, id="capped"),
    ],
)
def test_what_was_missed_of_late_adds_to_the_score(missed: float, score: float) -> None:
    assert steering.score(1.9, missed, SteeringRule()) == pytest.approx(score)


def test_a_miss_fades_with_its_half_life() -> None:
    once = share_after(0.0, load=2.0)
    assert once * 8.0 == pytest.approx(0.1223, abs=1e-4)
    share = once
    for _ in range(45):
        share = share_after(share, load=0.0)
    assert share == pytest.approx(once / 2)
    assert share_after(once, load=0.0, tick=45 * MINUTE) == pytest.approx(once / 2), "whatever the tick"


@given(shares=st.lists(st.booleans(), min_size=1, max_size=200))
def test_the_share_of_late_minutes_is_a_share(shares: list[bool]) -> None:
    late = 0.0
    for missed in shares:
        late = share_after(late, load=2.0 if missed else 0.0)
    assert 0.0 <= late <= 1.0


def test_the_first_score_may_be_an_edge() -> None:
    assert [SteeringRule(first_z=z).first_z for z in (1.0, 4.5)] == [1.0, 4.5]


@pytest.mark.parametrize(
    ("state", "replicas", "frozen"),
    [
        pytest.param(
            PolicyState(), ReplicaState(desired=3, ready=2, starting=1), False, id="starting pods do not freeze"
        ),
        pytest.param(PolicyState(), ReplicaState(desired=8, ready=8), True, id="at the maximum"),
        pytest.param(PolicyState(), ReplicaState(desired=9, ready=8), True, id="above the maximum"),
        pytest.param(PolicyState(over_budget=True), ReplicaState(desired=3, ready=3), True, id="over budget"),
        pytest.param(PolicyState(), ReplicaState(desired=3, ready=2, unschedulable=1), True, id="no GPU"),
        pytest.param(PolicyState(), ReplicaState(desired=3, ready=2, failed=1), True, id="a failed start"),
        pytest.param(
            PolicyState(model_since=NOON - timedelta(seconds=179)),
            ReplicaState(desired=3, ready=3),
            True,
            id="a new model",
        ),
        pytest.param(
            PolicyState(model_since=NOON - timedelta(seconds=180)),
            ReplicaState(desired=3, ready=3),
            False,
            id="one lead time later",
        ),
    ],
)
def test_frozen(state: PolicyState, replicas: ReplicaState, frozen: bool) -> None:
    assert steering.frozen(state, replicas, most_replicas=8, lead_time=LEAD, now=NOON) is frozen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: SteeringRule(missed_target_ratio=0.0),
            "steering.missed_target_ratio must lie in (0, 1), got 0.0",
            id="zero",
        ),
        pytest.param(
            lambda: SteeringRule(missed_target_ratio=1.0),
            "steering.missed_target_ratio must lie in (0, 1), got 1.0",
            id="one",
        ),
        pytest.param(lambda: SteeringRule(first_z=5.0), "steering.first_z must lie in [1.0, 4.5], got 5.0", id="above"),
        pytest.param(
            lambda: SteeringRule(burst_z=-0.1), "steering.burst_z must be at least 0, got -0.1", id="burst downwards"
        ),
        pytest.param(
            lambda: SteeringRule(burst_half_life=timedelta(0)),
            "steering.burst_half_life must be above 0, got 0:00:00",
            id="no half-life",
        ),
        pytest.param(
            lambda: SteeringRule(first_z=-2.0), "steering.first_z must lie in [1.0, 4.5], got -2.0", id="below"
        ),
    ],
)
def test_refuses_impossible_parameters(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_twelve_short_ticks_move_it_nearly_as_far_as_one_minute() -> None:
    z = 2.0
    for _ in range(12):
        z = steered(z, load=2.0, ready=1, tick=MINUTE / 12)
    # Less delay, a larger step: √(4 / (3 + 1/12)) = 1.14.
    assert z - 2.0 == pytest.approx((steered(2.0, load=2.0, ready=1) - 2.0) * (4 / (3 + 1 / 12)) ** 0.5)


RESPECTS_NOBODY = OtherWritersRule(manual_hold=timedelta(0), conflict_hold=timedelta(0))


def test_a_scale_that_is_raised_right_after_our_release_is_not_released_again_at_once() -> None:
    """Four are released to two; somebody sets nine before the next tick. Ten minutes count from our release all the same."""
    policy, calm = a_policy(other_writers=RESPECTS_NOBODY), a_snapshot(rps=5.0, desired=4)
    released, state = decide(calm, settled(calm, policy), policy, now=NOON)
    assert (released.action, released.target) == (Action.IN, 2)
    for minute in range(1, 10):
        raised = a_snapshot(rps=5.0, desired=9)
        decision, state = decide(raised, state, policy, now=NOON + minute * MINUTE)
        assert decision.target == 9, f"after {minute} minutes"
    assert decide(raised, state, policy, now=NOON + 10 * MINUTE)[0].action is Action.IN


def test_a_release_of_which_nothing_came_may_be_tried_again_at_once() -> None:
    policy, calm = a_policy(), a_snapshot(rps=5.0, desired=4)
    _, state = decide(calm, settled(calm, policy), policy, now=NOON)
    assert decide(calm, state, policy, now=NOON + MINUTE)[0].action is Action.IN


def test_a_release_that_was_carried_out_is_not_forgotten_when_the_clock_is_set_back_to_it() -> None:
    policy, calm = a_policy(), a_snapshot(rps=5.0, desired=4)
    _, state = decide(calm, settled(calm, policy), policy, now=NOON)
    left = a_snapshot(rps=5.0, desired=2)
    for now in (NOON + MINUTE, NOON, NOON + MINUTE):
        _, state = decide(left, state, policy, now=now)
        assert state.last_scale_in_at == NOON


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ReplicaState(desired=3, ready=3), ReplicaState(desired=1, ready=1, held=3), id="to a floor"),
        pytest.param(ReplicaState(desired=1, ready=1, held=3), ReplicaState(desired=3, ready=3), id="from a floor"),
    ],
)
def test_a_floor_and_a_scale_are_not_compared(before: ReplicaState, after: ReplicaState) -> None:
    policy, calm = a_policy(), a_snapshot(rps=25.0)
    state = settled(replace(calm, replicas=before), policy)
    decision, state = decide(replace(calm, replicas=after), state, policy, now=NOON)
    assert decision.reason not in (Reason.HELD_MANUAL, Reason.HELD_CONFLICT)
    assert (state.foreign, state.released, state.last_scale_in_at) == ((), (), None)
    assert state.desired == (At(at=NOON, replicas=after.desired),)
