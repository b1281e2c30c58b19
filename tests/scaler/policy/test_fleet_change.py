"""The fleet's change budget and the order of writes alone: what may go at once, who goes first, what is written first."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON
from scaler.policy import order
from scaler.policy.budget import BudgetRule, Wish, grant, releases
from scaler.policy.memory import carry, observe_replicas
from scaler.policy.order import Change
from scaler.policy.types import Action, At, Decision, PolicyState, Reason, ReplicaState

FIFTH = BudgetRule()


def wish(
    name: str,
    current: int,
    target: int,
    *,
    gpus: int = 1,
    priority: int = 0,
    went: int = 0,
    ago: float = 5,
    most: int | None = None,
    refused: bool = False,
    counted: bool = True,
    unseen: int = 0,
) -> Wish:
    """A wish of a workload that let `went` replicas go `ago` minutes before noon."""
    released = (At(at=NOON - ago * MINUTE, replicas=went),) if went else ()
    return Wish(
        workload=name,
        current=current,
        target=target,
        gpus=gpus,
        priority=priority,
        released=released,
        most=most,
        refused=refused,
        counted=counted,
        unseen=unseen,
    )


@pytest.mark.parametrize(
    ("wishes", "down_to"),
    [
        pytest.param([wish("a", 8, 4)], {"a": 4}, id="a fleet of one is not cut, whatever its own rules let go"),
        pytest.param([wish("a", 4, 2, went=4)], {"a": 2}, id="nor the second time in a period"),
        pytest.param([wish("a", 1, 0)], {"a": 0}, id="one replica of something may always go"),
        pytest.param([wish("a", 3, 2), wish("b", 3, 3)], {"a": 2}, id="a fifth of six is one"),
        pytest.param([wish("a", 3, 2), wish("b", 3, 2)], {"a": 2, "b": 3}, id="one of two: ties by name"),
        pytest.param(
            [wish("a", 8, 4), wish("b", 8, 4), wish("c", 8, 8)], {"a": 6, "b": 6}, id="what one alone would release, shared"
        ),
        pytest.param(
            [wish("a", 20, 12), wish("b", 20, 18), wish("c", 60, 60)], {"a": 12, "b": 18}, id="a fifth of 100 is enough for ten"
        ),
        pytest.param(
            [*(wish(name, 10, 5) for name in "abcde"), wish("z", 50, 50)],
            dict.fromkeys("abcde", 6),
            id="25 wanted, a fifth of 100 is 20: the same share for each",
        ),
        pytest.param(
            [wish("a", 10, 6, priority=1), wish("b", 10, 6), wish("z", 10, 10)],
            {"a": 8, "b": 6},
            id="the lowest priority gives first",
        ),
        pytest.param(
            [wish("a", 10, 8), wish("b", 80, 80, went=18)], {"a": 8}, id="releases of the period count, 18 of 108 leave 3"
        ),
        pytest.param([wish("a", 10, 8), wish("b", 80, 80, went=24)], {"a": 10}, id="the period's share is spent"),
        pytest.param(
            [wish("a", 20, 19), wish("b", 20, 20, went=8, unseen=8)], {"a": 20}, id="8 of 40: what went unseen is not had twice"
        ),
        pytest.param(
            [wish("a", 10, 8), wish("b", 80, 80, went=24, ago=9.99)], {"a": 10}, id="still within ten minutes"
        ),
        pytest.param([wish("a", 10, 8), wish("b", 80, 80, went=24, ago=10)], {"a": 8}, id="ten minutes later it is not"),
        pytest.param(
            [wish("a", 20, 10, most=10), wish("b", 20, 20, went=20)],
            {"a": 10},
            id="what lies above the user's maximum goes, spent or not",
        ),
        pytest.param(
            [wish("a", 20, 5, most=10), wish("b", 20, 20, went=30)], {"a": 10}, id="and the rest of that release waits"
        ),
        pytest.param(
            [wish("a", 10, 6, refused=True), wish("b", 10, 6, priority=9), wish("z", 10, 10)],
            {"a": 8, "b": 6},
            id="a release that was refused goes last",
        ),
        pytest.param([wish("a", 10, 6), wish("b", 90, 10, counted=False)], {"a": 6}, id="others' workloads are neither cut nor counted"),
        pytest.param(
            [wish("a", 4, 2, gpus=4), wish("b", 14, 11)], {"a": 3, "b": 11}, id="a replica of four GPUs that finds no room stays"
        ),
        pytest.param([wish("a", 2, 5), wish("b", 2, 2)], {}, id="nothing shrinks"),
    ],
)  # fmt: skip
def test_what_may_go(wishes: list[Wish], down_to: dict[str, int]) -> None:
    for arranged in itertools.islice(itertools.permutations(wishes), 24):
        assert releases(arranged, FIFTH, now=NOON) == down_to


rows = st.tuples(
    st.integers(0, 12), st.integers(0, 12), st.integers(1, 4), st.integers(0, 2), st.integers(0, 6), st.booleans()
)
fleets = st.lists(rows, min_size=1, max_size=6).map(
    lambda rows: [
        wish(f"w{i}", current, target, gpus=gpus, priority=priority, went=went, refused=refused)
        for i, (current, target, gpus, priority, went, refused) in enumerate(rows)
    ]
)


@given(wishes=fleets, ratio=st.floats(0.01, 1.0), order_of=st.randoms(use_true_random=False))
def test_never_more_goes_than_the_share_or_than_one_alone_and_never_less_than_fits(wishes, ratio, order_of) -> None:
    rule = BudgetRule(most_inward_ratio=ratio)
    down_to = releases(wishes, rule, now=NOON)
    shuffled = list(wishes)
    order_of.shuffle(shuffled)
    assert releases(shuffled, rule, now=NOON) == down_to
    spent = {each.workload: each.gpus * sum(went.replicas for went in each.released) for each in wishes}
    had = sum(each.current * each.gpus for each in wishes) + sum(spent.values())
    alone = max(spent[each.workload] + each.gpus * max(0, each.current - each.target) for each in wishes)
    allowed = max(ratio * had + 1e-6, alone)
    going = {each.workload: (each.current - down_to.get(each.workload, each.current)) * each.gpus for each in wishes}
    assert sum(going.values()) == 0 or sum(going.values()) + sum(spent.values()) <= allowed
    for each in wishes:
        assert min(each.current, each.target) <= down_to.get(each.workload, each.current) <= each.current
        cut = down_to.get(each.workload, each.target) > each.target
        room = allowed - sum(spent.values()) - sum(going.values())
        assert not (cut and each.gpus <= room - 1), "nobody waits while its next replica would fit"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: BudgetRule(most_inward_ratio=0.0), "budget.most_inward_ratio must lie in (0, 1], got 0.0", id="no share"),
        pytest.param(lambda: BudgetRule(most_inward_ratio=1.1), "budget.most_inward_ratio must lie in (0, 1], got 1.1", id="above all"),
        pytest.param(lambda: BudgetRule(inward_period=timedelta(0)), "budget.inward_period must lie in (0, 1h], got 0s", id="no time"),
        pytest.param(lambda: BudgetRule(inward_period=61 * MINUTE), "budget.inward_period must lie in (0, 1h], got 1h1m", id="beyond memory"),
    ],
)  # fmt: skip
def test_refuses_impossible_parameters(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def a_release(current: int = 8, target: int = 4) -> Decision:
    return Decision(workload="a", at=NOON, current=current, target=target, reason=Reason.LOAD)


def test_a_release_is_cut_remembered_and_explained() -> None:
    cut, after = grant(a_release(), PolicyState(asked=4, ready=4), 6)
    assert (cut.target, cut.action, cut.reason) == (6, Action.IN, Reason.LOAD)
    assert [(each.rule, each.before, each.after, each.reason, each.detail) for each in cut.adjustments] == [
        ("budget", 4, 6, Reason.FLEET_CHANGE, "2 of 4 may go now, the fleet's change budget says")
    ]
    assert (after.asked, after.ready, after.over_budget) == (6, 6, False)
    assert after.released == (At(at=NOON, replicas=2),)


def test_a_release_that_must_wait_as_a_whole_holds_and_releases_nothing() -> None:
    held, after = grant(a_release(), PolicyState(asked=4, ready=3), 8)
    assert (held.target, held.action, held.reason) == (8, Action.HOLD, Reason.FLEET_CHANGE)
    assert (after.asked, after.ready, after.released) == (8, 3, ())


@pytest.mark.parametrize("granted", [None, 4, 3], ids=["no limit", "as much as was wanted", "more than was wanted"])
def test_a_release_that_is_not_cut_stays_as_it_is(granted: int | None) -> None:
    decision, after = grant(a_release(), PolicyState(), granted)
    assert decision == a_release()
    assert after.released == (At(at=NOON, replicas=4),)


LATER = NOON + MINUTE
ORDERED = PolicyState(
    last_tick_at=NOON, desired=(At(at=NOON, replicas=8),), released=(At(at=NOON, replicas=4),)
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "desired", "released"),
    [
        pytest.param(ORDERED, 4, (At(at=NOON, replicas=4),), id="the order was carried out"),
        pytest.param(ORDERED, 8, (), id="the order failed: nothing went"),
        pytest.param(ORDERED, 9, (), id="somebody scaled it out instead"),
        pytest.param(ORDERED, 2, (At(at=NOON, replicas=6),), id="more went than was ordered, by whomever"),
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=8),)), 5, (At(at=NOON, replicas=3),), id="not ordered, and gone all the same"),
        pytest.param(PolicyState(released=(At(at=NOON, replicas=2),)), 5, (At(at=NOON, replicas=2),), id="after a break the orders count"),
        pytest.param(
            PolicyState(desired=(At(at=NOON, replicas=5),), released=(At(at=LATER - timedelta(hours=1), replicas=2),)),
            5,
            (),
            id="an hour later it is forgotten",
        ),
    ],
)  # fmt: skip
def test_what_was_ordered_gives_way_to_what_is_seen(state: PolicyState, desired: int, released: tuple[At, ...]) -> None:
    pods = ReplicaState(desired=desired, ready=desired)
    assert observe_replicas(state, pods, period=MINUTE, now=LATER).released == released


def test_releases_outlive_a_break_and_those_from_the_future_do_not() -> None:
    went = (At(at=NOON, replicas=2), At(at=NOON + 30 * MINUTE, replicas=1))
    state = PolicyState(last_tick_at=NOON, released=went)
    assert carry(state, tick=MINUTE, now=NOON + 20 * MINUTE).released == went[:1]


def change(name: str, current: int, target: int, *, priority: int = 0, gpus: int = 1) -> Change:
    return Change(workload=name, current=current, target=target, gpus=gpus, priority=priority)


OUTS = [change("out/a", 1, 3), change("out/b", 1, 3, priority=5)]
INS = [change("in/a", 4, 2), change("in/b", 4, 2, priority=5)]


@pytest.mark.parametrize(
    ("changes", "missing", "steps"),
    [
        pytest.param([], 0, (), id="nothing changes"),
        pytest.param([*INS, *OUTS], 0, (("out/b",), ("out/a",), ("in/a",), ("in/b",)), id="growth by priority, then releases the other way"),
        pytest.param([*INS, *OUTS], 1, (("in/a",), ("out/b",), ("out/a",), ("in/b",)), id="a GPU is missing: the lowest priority's release first"),
        pytest.param([*INS, *OUTS], 2, (("in/a",), ("out/b",), ("out/a",), ("in/b",)), id="two are missing, two are released"),
        pytest.param([*INS, *OUTS], 3, (("in/a",), ("in/b",), ("out/b",), ("out/a",)), id="three are missing: both go first"),
        pytest.param(OUTS, 9, (("out/b",), ("out/a",)), id="nothing to release"),
        pytest.param([change("y", 1, 2), change("x", 1, 2)], 0, (("x", "y"),), id="equals go together, by name"),
        pytest.param([change("a", 4, 3, gpus=8), *INS], 8, (("a",), ("in/a",), ("in/b",)), id="a replica frees all its GPUs"),
    ],
)  # fmt: skip
def test_the_order_of_writes(changes: list[Change], missing: int, steps: tuple[tuple[str, ...], ...]) -> None:
    for arranged in itertools.permutations(changes):
        assert order.steps(arranged, missing_gpus=missing) == steps


@given(
    current=st.integers(0, 200),
    target=st.integers(0, 200),
    went=st.integers(0, 200),
    gpus=st.integers(1, 8),
    ratio=st.floats(0.01, 1.0),
)
def test_a_fleet_of_one_is_never_cut(current: int, target: int, went: int, gpus: int, ratio: float) -> None:
    alone = wish("a", current, target, went=went, gpus=gpus)
    down_to = releases([alone], BudgetRule(most_inward_ratio=ratio), now=NOON)
    assert down_to == ({"a": target} if target < current else {})
