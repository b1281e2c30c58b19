"""Demand → load → whole replicas: the arithmetic traps as tables.

Properties: enough (n replicas carry the load), tight (n - 1 do not), monotone in load, never above `MOST_REPLICAS`.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.policy.capacity import (
    EPSILON,
    MOST_REPLICAS,
    CapacityProfile,
    ClassCapacity,
    replicas_for,
    single_rate,
)


@pytest.mark.parametrize(
    ("load", "utilisation", "replicas"),
    [
        pytest.param(0.0, 1.0, 0, id="no load needs nothing"),
        pytest.param(0.9, 1.0, 1, id="never truncated to zero (crane)"),
        pytest.param(1e-6, 1.0, 1, id="a trickle needs one"),
        pytest.param(10 * 1.1, 1.0, 11, id="10 * 1.1 = 11.000000000000002 is eleven"),
        pytest.param(11.001, 1.0, 12, id="a real excess counts"),
        pytest.param(2.0, 0.7, 3, id="2 / 0.7 = 2.857"),
        pytest.param(2.1, 0.7, 3, id="2.1 / 0.7 = 3.0000000000000004"),
        pytest.param(2.1001, 0.7, 4, id="just above"),
        pytest.param(-3.0, 1.0, 0, id="negative load is none"),
        pytest.param(1e300, 1.0, MOST_REPLICAS, id="absurd load is cut"),
        pytest.param(math.inf, 1.0, MOST_REPLICAS, id="infinite load is cut"),
        pytest.param(math.nan, 1.0, MOST_REPLICAS, id="NaN is never small"),
        pytest.param(1e6 - 0.5, 1.0, 1_000_000, id="large and exact"),
        pytest.param(1e-9, 1.0, 0, id="a billionth of a replica is nothing"),
        pytest.param(1.5e-9, 1.0, 1, id="more than that is something"),
        pytest.param(12345.0 + 1e-7, 1.0, 12345, id="slack is relative"),
    ],
)
def test_replicas_for(load: float, utilisation: float, replicas: int) -> None:
    assert replicas_for(load, utilisation=utilisation) == replicas


@given(load=st.floats(0.0, 9e5), utilisation=st.floats(0.1, 1.0))
def test_enough_and_not_one_more(load: float, utilisation: float) -> None:
    n = replicas_for(load, utilisation=utilisation)
    slack = 2 * EPSILON * max(1.0, load / utilisation)
    if n < MOST_REPLICAS:
        assert load / utilisation <= n + slack
        assert n == 0 or load / utilisation > n - 1 - slack


@given(a=st.floats(0.0, 1e9), b=st.floats(0.0, 1e9))
def test_more_load_never_needs_fewer(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert replicas_for(low) <= replicas_for(high)


QWEN = CapacityProfile(
    name="qwen",
    classes=(
        ClassCapacity(name="text", max_rps=18.0),
        ClassCapacity(name="gui", max_rps=6.0),
        ClassCapacity(name="video", max_rps=2.0),
    ),
)


@pytest.mark.parametrize(
    ("demand", "load"),
    [
        pytest.param({}, 0.0, id="nothing"),
        pytest.param({"text": 18.0}, 1.0, id="one full replica"),
        pytest.param({"text": 9.0, "gui": 3.0}, 1.0, id="half and half"),
        pytest.param({"text": 9.0, "video": 3.0}, 2.0, id="rates of classes never add up"),
        pytest.param({"unknown": 4.0}, 2.0, id="an unknown class counts as the slowest"),
        pytest.param({"text": -5.0, "gui": 6.0}, 1.0, id="a negative rate takes nothing away"),
    ],
)
def test_load_of_a_mix(demand: dict[str, float], load: float) -> None:
    assert QWEN.load(demand) == pytest.approx(load)


@pytest.mark.parametrize(
    ("waiting", "demand", "within_s", "load"),
    [
        pytest.param(0.0, {"text": 9.0}, 60.0, 0.0, id="no backlog"),
        pytest.param(1080.0, {"text": 9.0}, 60.0, 1.0, id="1080 texts in a minute fill one replica"),
        pytest.param(60.0, {"text": 9.0, "gui": 3.0}, 60.0, 1.0 / 12.0, id="mixed as the demand is"),
        pytest.param(120.0, {}, 60.0, 1.0, id="without demand the slowest class"),
        pytest.param(120.0, {"text": 0.0}, 60.0, 1.0, id="with zero demand the slowest class"),
        pytest.param(18.0, {"text": 1.0}, 0.0, 1.0, id="no lead time still is a second"),
        pytest.param(-9.0, {"text": 1.0}, 1.0, 0.0, id="a negative queue is none"),
    ],
)
def test_backlog_load(waiting: float, demand: dict[str, float], within_s: float, load: float) -> None:
    assert QWEN.backlog_load(waiting, demand, within_s=within_s) == pytest.approx(load)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: single_rate("x", 0.0),
            "max_rps of class 'default' must be a finite number above 0, got 0",
            id="zero",
        ),
        pytest.param(lambda: single_rate("x", math.inf), "above 0, got inf", id="infinite"),
        pytest.param(lambda: single_rate("x", math.nan), "above 0, got nan", id="nan"),
        pytest.param(lambda: CapacityProfile(name="x", classes=()), "profile 'x' needs at least one class", id="empty"),
        pytest.param(
            lambda: CapacityProfile(name="x", classes=(ClassCapacity(name="a", max_rps=1.0),) * 2),
            "profile 'x' names a class twice: a, a",
            id="twice",
        ),
        pytest.param(
            lambda: CapacityProfile(name="x", classes=(ClassCapacity(name="a", max_rps=1.0),), gpus=0),
            "gpus of profile 'x' must be at least 1, got 0",
            id="no gpu",
        ),
    ],
)
def test_refuses_a_profile_that_cannot_be(make, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_single_rate_names_its_one_class() -> None:
    assert single_rate("x", 3.0) == CapacityProfile(name="x", classes=(ClassCapacity(name="default", max_rps=3.0),))
