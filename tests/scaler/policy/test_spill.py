"""Spill-over as arithmetic: what goes over, of which class, for which limit, and what the receiver makes of it.

Properties: what goes over and what is carried add up to the demand; more demand never means less overflow, of no
class and at no quantile; a forecast that spills stays a forecast (finite, ≥ 0, non-decreasing along the levels); more
inflow never means fewer replicas of the receiver; a blind pool never spills less than it did last.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, run
from scaler.adapters.codec import Codec
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.limits import Bounds
from scaler.policy.overflow import Sender, inflow_from
from scaler.policy.scheduled import ExpectedDemand, ScheduledEvent, ScheduledRule, TimeWindow
from scaler.policy.spill import RULE, beyond, held, propose, with_inflows
from scaler.policy.types import (
    Action,
    Decision,
    Inflow,
    Mode,
    PolicyState,
    Reason,
    Snapshot,
    SpilledClass,
    demand_of,
)

PROFILE = CapacityProfile(
    name="card", classes=(ClassCapacity(name="gui", max_rps=6.0), ClassCapacity(name="text", max_rps=18.0))
)
UNREADABLE = Blind(reason=BlindReason.UNREACHABLE)
FEW = st.floats(0.0, 500.0)


def gui(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, workload="llm/gui")


def a_pool(most: int = 4, **rules: object) -> WorkloadPolicy:
    """The pool for screenshots, at most four replicas of six requests a second each."""
    policy = a_policy(profile=PROFILE, most=most, **rules)  # type: ignore[arg-type]
    return replace(policy, workload="llm/gui", spills_to="llm/text")


def inflow(
    snapshot: Snapshot,
    policy: WorkloadPolicy | None = None,
    *,
    after: PolicyState | None = None,
    reason: Reason = Reason.STEADY,
    target: int | None = None,
    free_gpus: int | None = None,
    receiver_lead_s: float = 180.0,
    now: datetime = NOON,
) -> Inflow | None:
    """What the pool behind hears of it."""
    current = None if isinstance(snapshot.replicas, Blind) else snapshot.replicas.desired
    decision = Decision(
        workload="llm/gui", at=now, current=current, target=current if target is None else target, reason=reason
    )
    sender = Sender(
        snapshot=gui(snapshot),
        policy=policy or a_pool(),
        decision=decision,
        after=after or PolicyState(),
        free_gpus=free_gpus,
    )
    return inflow_from(sender, receiver_lead_s=receiver_lead_s, now=now)


def rates(found: Inflow | None) -> tuple[float, float]:
    """Planned and present requests per second of all classes."""
    assert found is not None
    return sum(each.planned_rps for each in found.classes), sum(each.now_rps for each in found.classes)


FORECAST = (a_forecast(30.0, request_class="gui"),)
"""Trusted, so that the sender's load rule keeps no margin of its own: four replicas carry 24 of 30."""


# ── Which limit, and how much ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("found", "reach", "limit", "planned", "now"),
    [
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=4, forecasts=FORECAST)), 4, Reason.AT_MAX, 6.0, 6.0,
            id="at its maximum",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=2, forecasts=FORECAST)), 4, Reason.AT_MAX, 6.0, 18.0,
            id="still growing: what it may order is not planned for, what comes over now is told",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=2, forecasts=FORECAST), free_gpus=1),
            3, Reason.GPU_BUDGET, 12.0, 18.0,
            id="one GPU is left",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=2, forecasts=FORECAST), free_gpus=-3),
            2, Reason.GPU_BUDGET, 18.0, 18.0,
            id="a fleet that holds more than its budget",
        ),
        pytest.param(
            inflow(
                a_snapshot(rps={"gui": 30.0}, desired=2, forecasts=FORECAST), a_pool(mode=Mode.OBSERVE), free_gpus=0
            ),
            4, Reason.AT_MAX, 6.0, 18.0,
            id="only observed: the budget is not its own",
        ),
        pytest.param(
            inflow(
                a_snapshot(rps={"gui": 30.0}, desired=4, ready=3, unschedulable=1, forecasts=FORECAST),
                after=PolicyState(unschedulable_since=NOON - 3 * MINUTE),
            ),
            3, Reason.UNSCHEDULABLE, 12.0, 12.0,
            id="a pod without a GPU for a whole start",
        ),
        pytest.param(
            inflow(
                a_snapshot(rps={"gui": 30.0}, desired=4, ready=3, unschedulable=1, forecasts=FORECAST),
                after=PolicyState(unschedulable_since=NOON - 2 * MINUTE),
            ),
            4, Reason.AT_MAX, 6.0, 12.0,
            id="one that waits no longer than starts take: a node may be on its way",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=4, ready=3, failed=1, forecasts=FORECAST)),
            3, Reason.AT_MAX, 12.0, 12.0,
            id="a pod that crashes carries nothing",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=2, forecasts=FORECAST), reason=Reason.PAUSED),
            2, Reason.PAUSED, 18.0, 18.0,
            id="paused: it stays as it is",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=3, forecasts=FORECAST), reason=Reason.OVERRIDE, target=1),
            1, Reason.OVERRIDE, 24.0, 12.0,
            id="ordered down to one by hand",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 30.0}, desired=0, forecasts=FORECAST), reason=Reason.HANDS_OFF),
            0, Reason.HANDS_OFF, 30.0, 30.0,
            id="switched off: all of it",
        ),
        pytest.param(
            inflow(
                replace(
                    a_snapshot(rps={"gui": 30.0}, forecasts=FORECAST), replicas=Blind(reason=BlindReason.NOT_FOUND)
                )
            ),
            0, Reason.BLIND_REPLICAS, 30.0, 30.0,
            id="it does not exist: all of it",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 21.0}, desired=4)), 4, Reason.AT_MAX, 4.2, 0.0,
            id="without a trusted forecast the margin that finds no room goes along: 21 - .7 · 24",
        ),
    ],
)  # fmt: skip
def test_what_spills_over(found: Inflow | None, reach: int, limit: Reason, planned: float, now: float) -> None:
    assert found is not None
    assert not found.blind
    assert (found.reach, found.limit) == (reach, limit)
    assert rates(found) == pytest.approx((planned, now))


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(
            inflow(a_snapshot(rps={"gui": 20.0}, desired=4, forecasts=(a_forecast(20.0, request_class="gui"),))),
            id="what fits",
        ),
        pytest.param(
            inflow(a_snapshot(rps={"gui": 24.0}, desired=4, forecasts=(a_forecast(24.0, request_class="gui"),))),
            id="what fits exactly",
        ),
        pytest.param(inflow(a_snapshot(rps={"gui": 0.0}, desired=1)), id="no demand"),
    ],
)
def test_nothing_spills_over_that_fits(found: Inflow | None) -> None:
    assert found is None


def test_every_class_gives_the_same_share() -> None:
    over = beyond({"gui": 24.0, "text": 36.0}, PROFILE, 4.0)  # six replicas' worth on four
    assert over == pytest.approx({"gui": 8.0, "text": 12.0})


def test_a_window_that_lowers_the_maximum_is_foreseen() -> None:
    evening = TimeWindow(
        name="evening", start=(NOON + 10 * MINUTE).time(), end=(NOON + 120 * MINUTE).time(), max_replicas=2
    )
    found = inflow(
        a_snapshot(rps={"gui": 18.0}, desired=3, forecasts=(a_forecast(18.0, request_class="gui"),)),
        a_pool(scheduled=ScheduledRule(windows=(evening,))),
    )
    assert found is not None
    (of_gui,) = found.classes
    assert (of_gui.planned_rps, of_gui.now_rps) == (0.0, 0.0)
    assert of_gui.forecast is not None
    spilled = of_gui.forecast.forecast
    assert spilled.quantile(NOON + 3 * MINUTE, z=0.0) == 0.0
    assert spilled.quantile(NOON + 14 * MINUTE, z=0.0) == pytest.approx(6.0)


def test_an_event_beyond_the_maximum_is_made_ready_for_behind_it() -> None:
    sale = ScheduledEvent(
        name="sale",
        start=NOON + 30 * MINUTE,
        end=NOON + 90 * MINUTE,
        expected_peak=(ExpectedDemand(request_class="gui", rps=96.0),),
    )
    found = inflow(
        a_snapshot(rps={"gui": 6.0}, desired=4, forecasts=(a_forecast(6.0, request_class="gui"),)),
        a_pool(scheduled=ScheduledRule(events=(sale,))),
    )
    assert rates(found) == pytest.approx((0.5 * 96.0 - 24.0, 0.0))  # half of it an hour ahead, as in any pool


# ── Pools that are still starting ─────────────────────────────────────────────────────────────────────────────


def test_a_shortage_that_ends_by_itself_orders_nothing_and_keeps_what_serves_it() -> None:
    found = inflow(a_snapshot(rps={"gui": 24.0}, desired=4, ready=1, starting=3, forecasts=FORECAST[:0]), a_pool(6))
    assert found is not None
    receiver = replace(
        a_snapshot(rps={"text": 9.0}, desired=4, forecasts=(a_forecast(9.0, request_class="text"),)), inflows=(found,)
    )
    kept = propose(receiver, PROFILE)
    assert kept is not None
    assert (kept.rule, kept.want, kept.keep) == (RULE, 0, 4)  # half a replica of its own and three of gui
    assert rates(found)[0] == 0.0


@pytest.mark.parametrize(
    ("own_lead_s", "receiver_lead_s", "planned"),
    [
        pytest.param(600.0, 60.0, 18.0, id="nine minutes sooner: it serves them"),
        pytest.param(300.0, 60.0, 0.0, id="four minutes sooner: it would come to serve nobody"),
        pytest.param(60.0, 600.0, 0.0, id="later"),
    ],
)
def test_a_pool_that_starts_much_sooner_helps_out(own_lead_s: float, receiver_lead_s: float, planned: float) -> None:
    found = inflow(
        a_snapshot(
            rps={"gui": 24.0},
            desired=1,
            lead_s=own_lead_s,
            forecasts=(a_forecast(24.0, request_class="gui"),),
        ),
        receiver_lead_s=receiver_lead_s,
    )
    assert found is not None
    assert rates(found) == pytest.approx((planned, 18.0))


def test_the_forecast_of_the_minutes_until_its_own_are_ready_is_kept_and_not_ordered_for() -> None:
    found = inflow(a_snapshot(rps={"gui": 24.0}, desired=1, forecasts=(a_forecast(24.0, request_class="gui"),)))
    assert found is not None
    forecast = found.classes[0].forecast
    assert forecast is not None
    assert forecast.forecast.quantile(NOON + MINUTE, z=0.0) == pytest.approx(18.0)
    assert forecast.forecast.quantile(NOON + 3 * MINUTE, z=0.0) == 0.0


def test_a_round_between_two_minutes_orders_nothing_for_them_either() -> None:
    """Half a minute into a bin what is Ready by then is interpolated between that bin and the next."""
    late = NOON + timedelta(seconds=30)
    found = inflow(
        a_snapshot(rps={"gui": 24.0}, desired=1, forecasts=(a_forecast(24.0, request_class="gui"),)), now=late
    )
    assert found is not None
    forecast = found.classes[0].forecast
    assert forecast is not None
    assert forecast.forecast.quantile(late, z=0.0) == pytest.approx(18.0)
    assert forecast.forecast.quantile(late + 3 * MINUTE, z=0.0) == 0.0


# ── The receiver ──────────────────────────────────────────────────────────────────────────────────────────────


def coming(rps: float, *, sender: str = "llm/gui", blind: bool = False, now_rps: float | None = None) -> Inflow:
    spilled = SpilledClass(request_class="gui", planned_rps=rps, now_rps=rps if now_rps is None else now_rps)
    return Inflow(sender=sender, classes=(spilled,), reach=4, blind=blind)


def test_what_comes_over_counts_in_the_receivers_own_units() -> None:
    snapshot = replace(a_snapshot(rps={"text": 18.0}, desired=1), inflows=(coming(12.0),))
    decision, _ = decide(snapshot, PolicyState(), a_policy(profile=PROFILE, predictive=_off()), now=NOON)
    assert decision.target == 5  # one replica of text, two of gui, at 70 % each
    assert decision.action is Action.OUT


def _off() -> object:
    from scaler.policy.predictive import PredictiveRule

    return PredictiveRule(enabled=False)


def test_of_one_class_its_own_and_what_comes_over_add_up() -> None:
    snapshot = with_inflows(replace(a_snapshot(rps={"gui": 6.0}), inflows=(coming(12.0), coming(3.0, sender="a/b"))))
    assert demand_of(snapshot.classes) == {"gui": 21.0}


def test_nothing_is_released_while_a_pool_in_front_is_blind() -> None:
    policy = a_policy(profile=PROFILE)
    busy = replace(a_snapshot(rps={"text": 9.0}, desired=20), inflows=(coming(24.0),))
    state, before = PolicyState(), []
    for ago in range(40, 20, -1):
        decision, state = decide(busy, state, policy, now=NOON - ago * MINUTE)
        before.append(decision.action)
    assert Action.IN in before  # so much is released as long as it can be told
    for ago in range(20, 0, -1):
        lost = held(Inflow(sender="llm/gui", blind=True), state.inflows)
        blind = replace(busy, inflows=(lost,))
        decision, state = decide(blind, state, policy, now=NOON - ago * MINUTE)
        assert decision.target == decision.current
        assert lost.classes[0].planned_rps == 24.0


def course(snapshots: list[Snapshot], policy: WorkloadPolicy) -> list[int]:
    """The replicas that each minute's decision leaves, from those of the first snapshot on."""
    return [decision.target or 0 for decision in run(snapshots, policy)]


def test_what_serves_the_overflow_of_this_moment_is_not_released() -> None:
    own = a_snapshot(rps={"text": 9.0}, desired=4)
    policy = a_policy(profile=PROFILE)
    passing = replace(own, inflows=(coming(0.0, now_rps=21.0),))
    assert course([passing] * 40, policy) == [4] * 40  # .5 of text and 3.5 of gui
    assert min(course([own] * 40, policy)) == 1


def test_an_overflow_that_ends_at_once_is_no_sudden_silence() -> None:
    """The other pool got its replicas: the receiver goes back as from any fall, not after half an hour."""
    own = a_snapshot(rps={"text": 0.05}, desired=6)
    policy = a_policy(profile=PROFILE)
    decisions = run([replace(own, inflows=(coming(24.0),))] * 200 + [own] * 30, policy)
    assert decisions[199].target == 6
    assert Reason.SUDDEN_SILENCE not in {each.reason for each in decisions}
    assert decisions[-1].target is not None
    assert decisions[-1].target < 6


@given(last=FEW, seen=st.none() | FEW)
def test_a_blind_pool_never_spills_less_than_it_did_last(last: float, seen: float | None) -> None:
    told = Inflow(sender="llm/gui", blind=True, classes=() if seen is None else coming(seen).classes)
    (found,) = held(told, (coming(last), coming(1e6, sender="llm/other"))).classes
    assert found.planned_rps == max(last, seen or 0.0)


def test_a_pool_that_is_seen_again_spills_what_it_does_now() -> None:
    assert held(coming(3.0), (coming(24.0),)) == coming(3.0)


def test_unreadable_replicas_are_blindness_and_not_an_overflow() -> None:
    found = inflow(replace(a_snapshot(rps={"gui": 30.0}), replicas=UNREADABLE))
    assert found == Inflow(sender="llm/gui", blind=True)


def test_a_demand_that_is_seen_in_part_spills_at_least_that() -> None:
    found = inflow(replace(a_snapshot(rps={"gui": 30.0}, desired=4, forecasts=FORECAST), demand_partial=True))
    assert found is not None
    assert found.blind
    assert rates(found)[1] == pytest.approx(6.0)


def test_a_chain_hands_on_what_its_middle_cannot_carry() -> None:
    middle = replace(
        a_snapshot(rps={"text": 18.0}, desired=2, forecasts=(a_forecast(18.0, request_class="text"),)),
        inflows=(coming(18.0),),
    )
    policy = replace(a_pool(2), workload="llm/text", spills_to="llm/last")
    found = inflow(middle, policy)
    assert found is not None
    # 1 + 3 replicas' worth on two; without a forecast of gui the load rule's margin goes along.
    assert {each.request_class: each.now_rps for each in found.classes} == pytest.approx({"text": 9.0, "gui": 9.0})


def test_one_class_that_comes_from_two_pools_goes_on_as_one() -> None:
    def forecast_from(sender: str, rps: float) -> Inflow:
        told = a_snapshot(forecasts=(a_forecast(rps, request_class="gui"),)).forecasts[0]
        spilled = SpilledClass(request_class="gui", planned_rps=rps, now_rps=rps, forecast=told)
        return Inflow(sender=sender, classes=(spilled,), reach=1)

    middle = replace(
        a_snapshot(rps={"text": 0.0}, desired=2, forecasts=(a_forecast(0.0, request_class="text"),)),
        inflows=(forecast_from("a/gui", 18.0), forecast_from("b/gui", 12.0)),
    )
    found = inflow(middle, replace(a_pool(2), workload="llm/text", spills_to="llm/last"))
    assert found is not None
    (of_gui,) = (each for each in found.classes if each.request_class == "gui")
    assert of_gui.now_rps == pytest.approx(18.0)  # five replicas' worth on two
    assert of_gui.forecast is not None
    assert of_gui.forecast.forecast.quantile(NOON + 5 * MINUTE, z=1.0) == pytest.approx(18.0)


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────


@given(gui_rps=FEW, text_rps=FEW, replicas=st.integers(0, 50))
def test_what_goes_over_and_what_is_carried_add_up(gui_rps: float, text_rps: float, replicas: int) -> None:
    demand = {"gui": gui_rps, "text": text_rps}
    over = beyond(demand, PROFILE, replicas)
    assert all(0.0 <= over[name] <= demand[name] * (1 + 1e-9) for name in demand)
    assert PROFILE.load(over) == pytest.approx(max(0.0, PROFILE.load(demand) - replicas), abs=1e-6)


@given(low=st.tuples(FEW, FEW), more=st.tuples(FEW, FEW), replicas=st.integers(0, 20))
def test_more_demand_never_means_less_overflow(
    low: tuple[float, float], more: tuple[float, float], replicas: int
) -> None:
    less = beyond({"gui": low[0], "text": low[1]}, PROFILE, replicas)
    high = beyond({"gui": low[0] + more[0], "text": low[1] + more[1]}, PROFILE, replicas)
    assert PROFILE.load(high) >= PROFILE.load(less) - 1e-6


@given(
    medians=st.tuples(FEW, FEW),
    spread=st.floats(0.0, 50.0),
    most=st.integers(1, 20),
    ready=st.integers(0, 20),
    late_s=st.floats(0.0, 59.0),
)
def test_a_forecast_that_spills_stays_a_forecast(
    medians: tuple[float, float], spread: float, most: int, ready: int, late_s: float
) -> None:
    forecasts = tuple(
        a_forecast(median, spread_rps=spread, request_class=name)
        for name, median in zip(("gui", "text"), medians, strict=True)
    )
    snapshot = a_snapshot(
        rps={"gui": medians[0], "text": medians[1]}, desired=max(most, ready), ready=ready, forecasts=forecasts
    )
    found = inflow(snapshot, a_pool(most), now=NOON + timedelta(seconds=late_s))
    for each in () if found is None else found.classes:
        if each.forecast is not None:
            assert each.forecast.forecast.plausible
            whole = next(one for one in forecasts if one.request_class == each.request_class)
            for row, own in zip(each.forecast.forecast.values, whole.values, strict=True):
                assert all(low <= high + 1e-9 for low, high in itertools.pairwise(row))
                assert all(one <= other * (1 + 1e-9) for one, other in zip(row, own, strict=True))


@given(own=FEW, less=FEW, more=FEW, current=st.integers(1, 40))
def test_more_inflow_never_means_fewer_replicas(own: float, less: float, more: float, current: int) -> None:
    policy = replace(a_policy(profile=PROFILE), bounds=Bounds(min_replicas=1, max_replicas=60))
    base = a_snapshot(rps={"text": own}, desired=current)

    def target(extra: float) -> int:
        snapshot = replace(base, inflows=(coming(extra),) if extra > 0.0 else ())
        decision, _ = decide(snapshot, PolicyState(), policy, now=NOON)
        assert decision.target is not None
        return decision.target

    assert target(less + more) >= target(less) >= target(0.0)


def test_an_inflow_is_journalled_exactly() -> None:
    found = inflow(a_snapshot(rps={"gui": 30.0}, desired=4, forecasts=FORECAST))
    assert found is not None
    snapshot = replace(a_snapshot(rps={"text": 1.0}), inflows=(found, coming(2.0, sender="a/b", blind=True)))
    codec = Codec(Snapshot)
    assert codec.decode(codec.encode([snapshot]), layout=codec.layout) == [snapshot]
    _, after = decide(snapshot, PolicyState(), a_policy(profile=PROFILE), now=NOON)
    states = Codec(PolicyState)
    assert states.decode(states.encode([after]), layout=states.layout) == [after]
