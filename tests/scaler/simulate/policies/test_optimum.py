"""The oracle against every way that there is to order pods.

Properties: on small windows no sequence of orders that misses nothing is cheaper than the oracle, and one costs the
same; on any window no competitor that misses nothing is cheaper; the oracle never misses, whatever the cold start.
"""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.cluster import Pods
from scaler.simulate.policies import KNOBS, PLANNERS, RULES, Past, oracle, planner, replay, replay_planner, rule
from scaler.simulate.scoring import needed, score

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

needs = st.lists(st.integers(1, 3), min_size=1, max_size=8)


def cheapest(need: list[int], cold_start: int) -> float:
    """Billed pod-bins of the best sequence of orders that misses nothing, found by trying all of them.

    Every bin the target may be any number up to the largest need; the window may open with any pods, serving or due at
    any moment of the first cold start.
    """
    most = max(need)
    splits = itertools.product(range(most + 1), repeat=cold_start + 1)
    costs = {_opening(split): 0.0 for split in splits if 1 <= sum(split) <= most}
    for index, wanted in enumerate(need):
        following: dict[Pods, float] = {}
        for found, cost in costs.items():
            pods = found.at(index)
            if pods.serving < wanted:
                continue
            for target in range(1, most + 1):
                after = pods.scaled(target, after_bin=index, cold_start_bins=cold_start)
                following[after] = min(following.get(after, math.inf), cost + pods.ordered)
        costs = following
    return min(costs.values())


def _opening(split: tuple[int, ...]) -> Pods:
    """`split[k]` pods serve from bin k on."""
    starting = tuple((index, count) for index, count in enumerate(split) if index and count)
    return Pods(serving=split[0], starting=starting)


@settings(max_examples=60, deadline=None)
@given(needs, st.integers(0, 2))
def test_oracle_equals_the_cheapest_of_all_orders(need: list[int], cold_start: int) -> None:
    found = oracle(np.array(need, dtype=float), cold_start)
    assert not found.missed.any()
    assert int(found.billed.sum()) == cheapest(need, cold_start)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.0, 12.0), min_size=1, max_size=40).map(np.array),
    st.integers(0, 5),
    st.sampled_from(sorted(KNOBS)),
    st.integers(0, 7),
)
def test_no_competitor_that_misses_nothing_is_cheaper(
    load: np.ndarray, cold_start: int, family: str, point: int
) -> None:
    best = score(oracle(load, cold_start))
    assert best.missed_bins == 0
    name = KNOBS[family][point]
    if family in RULES:
        rival = score(replay(rule(name), load, cold_start_bins=cold_start))
    else:
        past = Past(loads=np.full(120, 5.0), start=MONDAY, step=MINUTE)
        rival = score(
            replay_planner(
                planner(name, past), load, start=MONDAY, step=MINUTE, cold_start_bins=cold_start, history=past.loads
            )
        )
    assert rival.missed_bins or rival.billed_gpu_bins >= best.billed_gpu_bins


@pytest.mark.parametrize("cold_start", [pytest.param(each, id=f"L = {each}") for each in (0, 1, 5, 60)])
def test_oracle_serves_exactly_what_is_needed_at_least(cold_start: int) -> None:
    load = np.array([0.0, 3.2, 1.0, np.nan, 7.0, 7.0, 0.5] * 5)
    course = oracle(load, cold_start)
    assert (course.serving >= needed(load)).all()
    assert (course.billed >= course.serving).all()
    assert set(PLANNERS).isdisjoint(RULES)
