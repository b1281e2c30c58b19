"""Who goes first, as a table, and what no set of pods can change about it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON
from scaler.policy.victims import Candidate, costs


def pod(
    name: str, *, ready: bool = True, busy: float | None = 1.0, age: float = 60.0, cost: int | None = None
) -> Candidate:
    return Candidate(pod=name, ready=ready, created_at=NOON - age * MINUTE, in_flight=busy, own_cost=cost)


@pytest.mark.parametrize(
    ("pods", "leaving", "named"),
    [
        pytest.param([pod("a"), pod("b", ready=False, busy=None)], 1, {"b": -1}, id="not Ready goes before Ready"),
        pytest.param([pod("a", busy=3), pod("b", busy=0)], 1, {"b": -1}, id="idle before busy"),
        pytest.param([pod("a", busy=None), pod("b", busy=9)], 1, {"b": -1}, id="unknown counts as busiest"),
        pytest.param([pod("a", busy=None, age=9), pod("b", busy=None, age=2)], 1, {"b": -1}, id="all unknown: the youngest"),
        pytest.param([pod("a", age=9), pod("b", age=2)], 1, {"b": -1}, id="equally busy: the youngest"),
        pytest.param([pod("b"), pod("a")], 1, {"a": -1}, id="twins: by name"),
        pytest.param([pod("a", busy=2), pod("b", busy=1), pod("c", busy=0)], 2, {"c": -2, "b": -1}, id="two, in order"),
        pytest.param([pod("a"), pod("b", busy=0, cost=5)], 1, {"a": -1}, id="another's cost is left alone"),
        pytest.param([pod("a", busy=0), pod("b", cost=-5)], 1, {}, id="another has sent one already"),
        pytest.param([pod("a", busy=0), pod("b", busy=1), pod("c", cost=-5)], 2, {"a": -1}, id="and one more goes"),
        pytest.param([pod("a"), pod("b")], 0, {}, id="nobody goes"),
        pytest.param([pod("a"), pod("b")], 5, {"a": -5, "b": -4}, id="more go than there are"),
        pytest.param([], 1, {}, id="no pods"),
    ],
)  # fmt: skip
def test_who_goes(pods: list[Candidate], leaving: int, named: dict[str, int]) -> None:
    for arranged in itertools.permutations(pods):
        assert costs(arranged, leaving=leaving) == named


candidates = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 5)),
        st.integers(0, 5),
        st.one_of(st.none(), st.integers(-3, 3)),
    ),
    max_size=8,
).map(
    lambda rows: [
        pod(f"p{i}", ready=ready, busy=busy, age=age, cost=cost) for i, (ready, busy, age, cost) in enumerate(rows)
    ]
)


@given(pods=candidates, leaving=st.integers(0, 9))
def test_costs_are_negative_distinct_and_never_for_a_pod_that_should_stay(pods, leaving: int) -> None:
    named = costs(pods, leaving=leaving)
    sent = sum((each.own_cost or 0) < 0 for each in pods)
    free = [each for each in pods if each.own_cost is None]
    assert len(named) == min(len(free), max(0, leaving - sent))
    assert all(-leaving <= cost < 0 for cost in named.values())
    assert len(set(named.values())) == len(named)
    stays = [each for each in free if each.pod not in named]
    for goes in (each for each in free if each.pod in named):
        assert all((goes.ready, goes.in_flight is None) <= (stay.ready, True) for stay in stays)
        assert not any(
            goes.ready
            and stay.ready
            and None not in (goes.in_flight, stay.in_flight)
            and goes.in_flight > stay.in_flight
            for stay in stays
        )
