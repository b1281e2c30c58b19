"""The `behavior` field of autoscaling/v2 against the worked examples of the documentation and of its proposal.

Sources: kubernetes.io "Horizontal Pod Autoscaling", sections "Scaling policies" and "Default behavior"; KEP-853
"Configurable scale up/down velocity for HPA", stories 1 to 6 (a controller cycle of one minute unless said).

Properties: never below one replica; a disabled direction does not move; a window never speeds anything up.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.policies.behaviour import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    NOTHING_YET,
    Behaviour,
    PolicyKind,
    ScalingPolicy,
    ScalingRules,
    Select,
)


def pods(value: int, period_s: float = 60.0) -> ScalingPolicy:
    return ScalingPolicy(kind=PolicyKind.PODS, value=value, period_s=period_s)


def percent(value: int, period_s: float = 60.0) -> ScalingPolicy:
    return ScalingPolicy(kind=PolicyKind.PERCENT, value=value, period_s=period_s)


def rules(*policies: ScalingPolicy, window_s: float = 0.0, select: Select = Select.MOST_CHANGE) -> ScalingRules:
    return ScalingRules(stabilisation_s=window_s, policies=policies, select=select)


def course(behaviour: Behaviour, start: int, wishes: list[int]) -> list[int]:
    """Replicas after each sync."""
    replicas, history, seen = start, NOTHING_YET, []
    for wanted in wishes:
        replicas, history = behaviour.settle(wanted, replicas, history)
        seen.append(replicas)
    return seen


IN_BY_FOUR_OR_TEN_PERCENT = rules(pods(4), percent(10))


@pytest.mark.parametrize(
    ("behaviour", "start", "wishes", "replicas"),
    [
        pytest.param(
            Behaviour(down=IN_BY_FOUR_OR_TEN_PERCENT, sync_s=60.0),
            80,
            [10] * 12,
            [72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16],
            id="docs: 80 pods to 10: first 8, then 10 % of 72 is rounded up to 8, from 40 on 4 at a time",
        ),
        pytest.param(
            Behaviour(down=rules(pods(4), percent(10), select=Select.LEAST_CHANGE), sync_s=60.0),
            80,
            [10] * 3,
            [76, 72, 68],
            id="docs: Min selects the smallest change",
        ),
        pytest.param(
            Behaviour(up=rules(percent(900)), sync_s=60.0), 1, [1000] * 4, [10, 100, 1000, 1000], id="KEP story 1"
        ),
        pytest.param(
            Behaviour(up=rules(percent(900)), down=rules(pods(1, 600.0)), sync_s=60.0),
            1000,
            [1] * 12,
            [999] * 10 + [998] * 2,
            id="KEP story 2: one pod in ten minutes",
        ),
        pytest.param(
            Behaviour(up=rules(pods(1, 300.0)), sync_s=60.0),
            1,
            [9] * 11,
            [2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4],
            id="KEP story 3: 1, 2, 3, 4, one in five minutes",
        ),
        pytest.param(
            Behaviour(down=rules(select=Select.DISABLED), sync_s=60.0),
            3,
            [9, 1, 1, 9, 1],
            [7, 7, 7, 9, 9],
            id="KEP story 4: out as usual, never in",
        ),
        pytest.param(
            Behaviour(down=rules(pods(5), window_s=600.0), sync_s=60.0),
            10,
            [10, 9, 8, 9, 9, 8, 9, 8, 9, 8, 7],
            [10] * 10 + [9],
            id="KEP story 5: the largest of ten recommendations",
        ),
        pytest.param(
            # The story keeps six recommendations in 300 s; the code keeps those younger than 300 s, which are five.
            Behaviour(up=rules(pods(20), window_s=300.0), sync_s=60.0),
            2,
            [2, 3, 19, 10, 3, 4, 7],
            [2, 2, 2, 2, 2, 3, 3],
            id="KEP story 6: the smallest of the window on the way out",
        ),
        pytest.param(Behaviour(), 1, [40] * 5, [5, 10, 20, 40, 40], id="docs, default: max(100 %, 4 pods) each 15 s"),
        pytest.param(
            Behaviour(),
            10,
            [10] + [2] * 21,
            [10] * 20 + [2] * 2,
            id="docs, default: in after 300 s, at once and all the way",
        ),
        pytest.param(
            Behaviour(up=rules(percent(100), pods(4))),
            4,
            [100] * 6,
            [8, 8, 8, 8, 16, 16],
            id="a minute's limit counts from the minute's start",
        ),
        pytest.param(
            Behaviour(up=rules(pods(4)), down=rules(pods(8, 15.0))),
            4,
            [8, 2, 100, 100],
            [8, 2, 8, 8],
            id="what was removed in the period is put back before its limit counts",
        ),
        pytest.param(
            Behaviour(up=rules(percent(10))), 100, [999], [111], id="ceil(100 · 1.1) is 111 in floats, in Go as here"
        ),
    ],
)
def test_behaviour(behaviour: Behaviour, start: int, wishes: list[int], replicas: list[int]) -> None:
    assert course(behaviour, start, wishes) == replicas


wishes = st.lists(st.integers(0, 60), min_size=1, max_size=60)


@given(wishes, st.integers(1, 60), st.sampled_from([0.0, 15.0, 60.0, 300.0]))
def test_a_scale_in_window_never_speeds_a_scale_in_up(wanted: list[int], start: int, window_s: float) -> None:
    held = Behaviour(down=ScalingRules(stabilisation_s=window_s, policies=DEFAULT_DOWN.policies))
    replicas, history = start, NOTHING_YET
    for index, each in enumerate(wanted):
        after, history = held.settle(each, replicas, history)
        assert after >= 1
        assert min(replicas, max(1, each)) <= after <= max(replicas * 2, replicas + 4)
        window = wanted[max(0, index - max(0, int(window_s / 15.0) - 1)) : index + 1]
        assert after >= min(replicas, max(window)), "in at most to the highest wish of the window"
        replicas = after


@given(wishes, st.integers(1, 60))
def test_a_disabled_direction_does_not_move(wanted: list[int], start: int) -> None:
    still = rules(select=Select.DISABLED)
    outward = course(Behaviour(down=still), start, wanted)
    assert outward == sorted(outward)
    inward = course(Behaviour(up=still), start, wanted)
    assert inward == sorted(inward, reverse=True)
    assert course(Behaviour(up=still, down=still), start, wanted) == [start] * len(wanted)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(lambda: pods(0), "value and a period above 0", id="no pods"),
        pytest.param(lambda: percent(10, 0.0), "value and a period above 0", id="no period"),
        pytest.param(lambda: rules(pods(1), window_s=3601.0), r"\[0, 3600\]", id="a window above an hour"),
        pytest.param(lambda: rules(), "unless it is disabled", id="no policy"),
        pytest.param(lambda: Behaviour(up=DEFAULT_UP, sync_s=0.0), "more than 0 seconds", id="no time between syncs"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
