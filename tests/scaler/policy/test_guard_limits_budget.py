"""The guard, the limits and the budget alone: each clamp at both sides of its edge."""

import itertools
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON
from scaler.policy import guard, limits
from scaler.policy.budget import BudgetRule, Wish, grant, grants
from scaler.policy.guard import GuardRule, Release, falling_peaks, look_back
from scaler.policy.limits import Bounds, StepRule
from scaler.policy.types import At, Decision, PolicyState, Reason, ReplicaState

LEAD = timedelta(minutes=3)


def ago(minutes: float) -> datetime:
    return NOON - timedelta(minutes=minutes)


def a_release(current: int = 8, target: int = 6, **changes: object) -> Release:
    settings: dict[str, object] = {
        "replicas": ReplicaState(desired=current, ready=current),
        "load": 0.0,
        "trusted": True,
    }
    return Release(current=current, target=target, **{**settings, **changes})  # type: ignore[arg-type]


def a_state(**changes: object) -> PolicyState:
    return PolicyState(**{"known_since": ago(60), "calm_since": ago(60), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("release", "state", "target", "reason"),
    [
        pytest.param(a_release(), a_state(), 6, None, id="nothing speaks against it"),
        pytest.param(a_release(), a_state(known_since=None), 8, Reason.REWARM, id="never known"),
        pytest.param(a_release(), a_state(known_since=ago(4.99)), 8, Reason.REWARM, id="known for less than the look-back"),
        pytest.param(a_release(), a_state(known_since=ago(5)), 6, None, id="known for the look-back"),
        pytest.param(a_release(blind_rule="default/e2e_p95_s"), a_state(), 8, Reason.BLIND_RULE, id="an active rule is blind"),
        pytest.param(a_release(), a_state(calm_since=None), 8, Reason.NOT_CALM, id="not calm"),
        pytest.param(a_release(), a_state(calm_since=ago(4.99)), 8, Reason.NOT_CALM, id="calm for less than five minutes"),
        pytest.param(a_release(), a_state(calm_since=ago(5)), 6, None, id="calm for five minutes"),
        pytest.param(a_release(), a_state(last_scale_in_at=ago(9.99)), 8, Reason.RECENT_SCALE_IN, id="scaled in just now"),
        pytest.param(a_release(), a_state(last_scale_in_at=ago(10)), 6, None, id="ten minutes ago"),
        pytest.param(a_release(trusted=False), a_state(peaks=(At(at=ago(1), replicas=7),)), 7, Reason.RECENT_PEAK, id="without trust the look-back's peak stays"),
        pytest.param(a_release(trusted=False), a_state(peaks=(At(at=ago(1), replicas=99),)), 8, Reason.RECENT_PEAK, id="a peak never raises"),
        pytest.param(a_release(trusted=False), a_state(peaks=(At(at=ago(1), replicas=6),)), 6, None, id="a peak no higher than the target"),
        pytest.param(a_release(trusted=True), a_state(peaks=(At(at=ago(1), replicas=7),)), 6, None, id="with trust there is no look-back"),
        pytest.param(a_release(8, 1), a_state(), 4, Reason.STEP_IN, id="at most half"),
        pytest.param(a_release(9, 1), a_state(), 5, Reason.STEP_IN, id="half of nine is four"),
        pytest.param(a_release(8, 4), a_state(), 4, None, id="exactly half"),
        pytest.param(a_release(2, 1), a_state(), 1, None, id="one may always go"),
        pytest.param(a_release(1, 0), a_state(), 0, None, id="even the last one"),
        pytest.param(a_release(2, 0), a_state(), 1, Reason.STEP_IN, id="but not two of two"),
        pytest.param(a_release(1, 0, trusted=False), a_state(), 0, None, id="no peak in the look-back"),
        pytest.param(a_release(trusted=False, load=99.0), a_state(peaks=(At(at=ago(1), replicas=8),)), 8, Reason.RECENT_PEAK, id="one reason to stay is enough"),
        pytest.param(a_release(load=6.0), a_state(), 6, None, id="survivors are just full"),
        pytest.param(a_release(load=6.01), a_state(), 8, Reason.SURVIVORS, id="survivors would be over-full"),
        pytest.param(a_release(replicas=ReplicaState(desired=8, ready=4), load=4.5), a_state(), 8, Reason.SURVIVORS, id="only Ready ones survive"),
    ],
)  # fmt: skip
def test_guard(release: Release, state: PolicyState, target: int, reason: Reason | None) -> None:
    result, trace = guard.hold(release, GuardRule(), state, lead_time=LEAD, now=NOON)
    assert result == target
    assert [each.reason for each in trace] == ([] if reason is None else [reason])
    assert all(each.rule == "guard" for each in trace)
    if trace:
        assert (trace[0].before, trace[-1].after) == (release.target, target)


def test_guard_clamps_leave_a_chain() -> None:
    """8 → 1 wanted: the look-back keeps 3, the half-step 4; each trace starts where the last one ended."""
    state = a_state(peaks=(At(at=ago(1), replicas=3),))
    target, trace = guard.hold(a_release(8, 1, trusted=False), GuardRule(), state, lead_time=LEAD, now=NOON)
    assert target == 4
    assert [(each.before, each.after, each.reason) for each in trace] == [
        (1, 3, Reason.RECENT_PEAK),
        (3, 4, Reason.STEP_IN),
    ]


def test_guard_says_since_when() -> None:
    _, (calm,) = guard.hold(a_release(), GuardRule(), a_state(calm_since=ago(2)), lead_time=LEAD, now=NOON)
    assert calm.detail == "calm since 11:58:00, 5m must pass"
    _, (warm,) = guard.hold(a_release(), GuardRule(), a_state(known_since=None), lead_time=LEAD, now=NOON)
    assert warm.detail == "signals known since never, a look-back of 5m must pass"
    _, (warm,) = guard.hold(a_release(), GuardRule(), a_state(known_since=ago(3)), lead_time=LEAD, now=NOON)
    assert warm.detail == "signals known since 11:57:00, a look-back of 5m must pass"
    _, (again,) = guard.hold(a_release(), GuardRule(), a_state(last_scale_in_at=ago(4)), lead_time=LEAD, now=NOON)
    assert again.detail == "last scale-in 11:56:00, 10m must pass"
    _, (full,) = guard.hold(a_release(load=7.0), GuardRule(), a_state(), lead_time=LEAD, now=NOON)
    assert full.detail == "load 7.000 does not fit 6 Ready survivors"
    state = a_state(peaks=(At(at=ago(1), replicas=3),))
    _, (peak, half) = guard.hold(a_release(8, 1, trusted=False), GuardRule(), state, lead_time=LEAD, now=NOON)
    assert (peak.detail, half.detail) == ("no trusted forecast: highest of the look-back 3", "at most 4 at once")


@pytest.mark.parametrize(
    ("lead", "window"),
    [
        pytest.param(timedelta(seconds=18), timedelta(minutes=5), id="short start"),
        pytest.param(timedelta(minutes=3), timedelta(minutes=5), id="three minutes"),
        pytest.param(timedelta(minutes=9), timedelta(minutes=11), id="nine minutes"),
    ],
)
def test_look_back(lead: timedelta, window: timedelta) -> None:
    assert look_back(lead) == window


@given(keeps=st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_falling_peaks_hold_the_maximum_of_the_window_in_few_values(keeps: list[int]) -> None:
    peaks: tuple[At, ...] = ()
    for minute, keep in enumerate(keeps):
        now = NOON + minute * MINUTE
        peaks = falling_peaks(peaks, keep, window=timedelta(minutes=5), now=now)
        assert max(each.replicas for each in peaks) == max(keeps[max(0, minute - 4) : minute + 1])
        assert [each.replicas for each in peaks] == sorted({each.replicas for each in peaks}, reverse=True)
        assert len(peaks) <= 5


@pytest.mark.parametrize(
    ("target", "current", "history", "result"),
    [
        pytest.param(100, 1, (), 5, id="one grows by four"),
        pytest.param(5, 1, (), 5, id="exactly four more"),
        pytest.param(100, 10, (), 20, id="ten doubles"),
        pytest.param(3, 10, (), 3, id="shrinking is none of its business"),
        pytest.param(
            100, 5, (At(at=ago(0.5), replicas=1), At(at=NOON, replicas=5)), 5, id="counted from the period's start"
        ),
        pytest.param(
            100, 4, (At(at=ago(0.5), replicas=1), At(at=NOON, replicas=4)), 5, id="the rest of the period's growth"
        ),
        pytest.param(100, 5, (At(at=ago(1), replicas=1), At(at=NOON, replicas=5)), 10, id="a minute ago is over"),
        pytest.param(100, 5, (At(at=ago(0.5), replicas=9), At(at=NOON, replicas=5)), 10, id="after a fall from here"),
        pytest.param(
            100,
            30,
            (At(at=ago(0.5), replicas=2), At(at=NOON, replicas=30)),
            30,
            id="somebody else grew it: never below now",
        ),
    ],
)
def test_step_out(target: int, current: int, history: tuple[At, ...], result: int) -> None:
    after, trace = limits.step_out(target, StepRule(), history, current=current, now=NOON)
    assert after == result
    assert [each.reason for each in trace] == ([Reason.STEP_OUT] if result < target else [])


def test_step_out_by_share_and_its_words() -> None:
    after, (trace,) = limits.step_out(99, StepRule(most_growth_ratio=0.5), (), current=20, now=NOON)
    assert (after, trace.rule, trace.detail) == (30, "limits", "at most 10 more than the 20 of 1m ago")
    assert (trace.before, trace.after) == (99, 30)


@pytest.mark.parametrize(
    ("target", "since", "result"),
    [
        pytest.param(9, None, 9, id="all pods have a GPU"),
        pytest.param(9, ago(9.99), 9, id="a node may still come"),
        pytest.param(9, ago(10), 4, id="nothing came for ten minutes"),
        pytest.param(4, ago(60), 4, id="staying is allowed"),
        pytest.param(2, ago(60), 2, id="shrinking is allowed"),
    ],
)
def test_no_gpu(target: int, since: datetime | None, result: int) -> None:
    after, trace = limits.no_gpu(target, StepRule(), since, current=4, now=NOON)
    assert after == result
    assert [(each.rule, each.before, each.after, each.reason) for each in trace] == (
        [("limits", target, result, Reason.UNSCHEDULABLE)] if result < target else []
    )
    assert all(each.detail == "pods find no GPU since 11:50:00" for each in trace)


@pytest.mark.parametrize(
    ("target", "result", "reason"),
    [
        pytest.param(1, 2, Reason.AT_MIN, id="below"),
        pytest.param(2, 2, None, id="at the minimum"),
        pytest.param(6, 6, None, id="at the maximum"),
        pytest.param(7, 6, Reason.AT_MAX, id="above"),
    ],
)
def test_clamp(target: int, result: int, reason: Reason | None) -> None:
    after, trace = limits.clamp(target, least=2, most=6)
    assert after == result
    found = [(each.rule, each.reason, each.before, each.after) for each in trace]
    assert found == ([] if reason is None else [("limits", reason, target, result)])
    assert [each.detail for each in trace] == {Reason.AT_MIN: ["minimum 2"], Reason.AT_MAX: ["maximum 6"], None: []}[
        reason
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Bounds(min_replicas=-1), "bounds.min_replicas must be at least 0, got -1", id="min"),
        pytest.param(lambda: Bounds(min_replicas=3, max_replicas=2), "bounds.max_replicas must be at least 3, got 2", id="crossed"),
        pytest.param(lambda: Bounds(min_replicas=0, max_replicas=0), "bounds.max_replicas must be at least 1, got 0", id="zero max"),
        pytest.param(lambda: StepRule(most_added=0), "step.most_added must be at least 1, got 0", id="added"),
        pytest.param(lambda: StepRule(most_growth_ratio=-0.1), "step.most_growth_ratio must be at least 0, got -0.1", id="growth"),
        pytest.param(lambda: GuardRule(most_step_ratio=0.0), "guard.most_step_ratio must lie in (0, 1], got 0.0", id="step"),
        pytest.param(lambda: GuardRule(most_step_ratio=1.1), "guard.most_step_ratio must lie in (0, 1], got 1.1", id="step above"),
        pytest.param(lambda: BudgetRule(gpus=0), "budget.gpus must be at least 1, got 0", id="budget"),
    ],
)  # fmt: skip
def test_refuses_impossible_parameters(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_accepts_the_edges() -> None:
    assert GuardRule(most_step_ratio=1.0).most_step_ratio == 1.0
    assert (StepRule(most_added=1).most_added, StepRule(most_growth_ratio=0.0).most_growth_ratio) == (1, 0.0)


def wish(name: str, current: int, target: int, *, gpus: int = 1, priority: int = 0) -> Wish:
    return Wish(workload=name, current=current, target=target, gpus=gpus, priority=priority)


@pytest.mark.parametrize(
    ("budget", "wishes", "granted"),
    [
        pytest.param(None, [wish("a", 1, 99)], {"a": 99}, id="no budget"),
        pytest.param(10, [wish("a", 2, 5), wish("b", 2, 5)], {"a": 5, "b": 5}, id="all fits exactly"),
        pytest.param(9, [wish("a", 2, 5), wish("b", 2, 5)], {"a": 5, "b": 4}, id="one short: ties by name"),
        pytest.param(7, [wish("a", 2, 5, priority=0), wish("b", 2, 5, priority=1)], {"a": 2, "b": 5}, id="priority first"),
        pytest.param(6, [wish("a", 4, 9), wish("b", 0, 4)], {"a": 4, "b": 2}, id="the smallest share first"),
        pytest.param(3, [wish("a", 1, 10), wish("b", 1, 2)], {"a": 2, "b": 1}, id="share of the wish, not its size"),
        pytest.param(4, [wish("a", 3, 9), wish("b", 3, 9)], {"a": 3, "b": 3}, id="over budget already: nobody grows, nobody shrinks"),
        pytest.param(6, [wish("a", 4, 1), wish("b", 1, 9)], {"a": 1, "b": 2}, id="a release frees its GPUs only when it is done"),
        pytest.param(9, [wish("a", 1, 3, gpus=4), wish("b", 1, 3)], {"a": 2, "b": 1}, id="replicas of four GPUs"),
        pytest.param(8, [wish("a", 1, 3, gpus=4), wish("b", 1, 3)], {"a": 1, "b": 3}, id="what does not fit is passed over"),
    ],
)  # fmt: skip
def test_budget(budget: int | None, wishes: list[Wish], granted: dict[str, int]) -> None:
    for order in itertools.permutations(wishes):
        assert grants(order, BudgetRule(gpus=budget)) == granted


wishes_strategy = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(1, 4), st.integers(0, 2)), max_size=6
).map(lambda rows: [wish(f"w{i}", *row[:2], gpus=row[2], priority=row[3]) for i, row in enumerate(rows)])


@given(wishes=wishes_strategy, budget=st.integers(1, 60))
def test_budget_is_never_exceeded_by_growth_and_takes_nothing_away(wishes: list[Wish], budget: int) -> None:
    granted = grants(wishes, BudgetRule(gpus=budget))
    held = sum(each.current * each.gpus for each in wishes)
    after = sum(max(each.current, granted[each.workload]) * each.gpus for each in wishes)
    assert after <= max(budget, held)
    for each in wishes:
        assert (
            min(each.current, each.target) <= granted[each.workload] <= max(each.target, min(each.current, each.target))
        )
        cut = granted[each.workload] < each.target
        assert not (cut and after + each.gpus <= budget), "nobody is cut while its next replica would fit"


def test_grant_cuts_and_remembers() -> None:
    decision = Decision(workload="a", at=NOON, current=2, target=5, reason=Reason.FORECAST)
    cut, state = grant(decision, PolicyState(), 3)
    assert (cut.target, cut.reason, state.over_budget) == (3, Reason.GPU_BUDGET, True)
    assert [(each.rule, each.before, each.after, each.reason) for each in cut.adjustments] == [
        ("budget", 5, 3, Reason.GPU_BUDGET)
    ]
    assert cut.adjustments[0].detail == "the fleet's GPU budget allows 3"
    again, state = grant(decision, state, 5)
    assert (again, state.over_budget) == (decision, False)
    assert grant(decision, PolicyState(), None) == (decision, PolicyState())
    unread = Decision(workload="a", at=NOON, current=None, target=None, reason=Reason.BLIND_REPLICAS)
    assert grant(unread, PolicyState(over_budget=True), 0) == (unread, PolicyState())
