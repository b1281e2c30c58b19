"""When requests no longer are those that a profile was measured with.

Properties: nothing is found in requests that are exactly the profile's, whatever their number; what is found does not
depend on the unit of time in which demand came, only on what a request holds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.sources.catalogue import IMAGES, OUTPUT_TOKENS, PROMPT_TOKENS
from scaler.adapters.request_shape import Amount, compare, departure, expected
from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens

TOKENS = RequestTokens(input_tokens=1150.0, output_tokens=60.0, image_tokens=900.0, input_cv=0.3, output_cv=0.3)
PROFILE = CapacityProfile(
    name="vl", classes=(ClassCapacity(name="gui", max_rps=8.0, tokens=TOKENS), ClassCapacity(name="html", max_rps=0.7))
)
BUSY = np.full(20, 10.0)
"""12,000 requests in twenty minutes: chance explains under one per cent."""


def amounts(
    per_request: float | list[float],
    *,
    signal: str = PROMPT_TOKENS,
    demand: np.ndarray = BUSY,
    tokens: RequestTokens = TOKENS,
    left_before: frozenset[str] = frozenset(),
) -> tuple[Amount, ...]:
    used = demand * np.array(per_request)
    return compare(tokens, demand, {signal: used}, request_class="gui", left_before=left_before)


@pytest.mark.parametrize(
    ("per_request", "left"),
    [
        pytest.param(1150.0, False, id="as measured"),
        pytest.param(1430.0, False, id="24 % longer"),
        pytest.param(1500.0, True, id="30 % longer"),
        pytest.param(800.0, True, id="30 % shorter"),
        pytest.param([1150.0] * 5 + [2300.0] * 15, False, id="for a quarter of an hour, not more"),
        pytest.param([1150.0] * 3 + [2300.0] * 17, True, id="for seventeen minutes"),
        pytest.param([2300.0] * 5 + [1150.0] * 5 + [2300.0] * 10, False, id="not five minutes of it"),
        pytest.param([2300.0, 1150.0] * 10, True, id="every other minute is long, and so is each part"),
    ],
)
def test_it_has_left_for_good(per_request: float | list[float], left: bool) -> None:
    (found,) = amounts(per_request)
    assert found.left is left


def test_the_mean_counts_requests_not_minutes() -> None:
    """One busy minute of short requests outweighs nineteen quiet ones of long ones."""
    demand = np.array([190.0] + [1.0] * 19)
    (found,) = amounts([1150.0] + [2300.0] * 19, demand=demand)
    assert found.now == pytest.approx((190 * 1150 + 19 * 2300) / 209)


@pytest.mark.parametrize(
    ("rps", "found"),
    [
        pytest.param(0.04, [], id="48 requests say nothing"),
        pytest.param(0.08, [False], id="96 requests may be 40 % longer by chance: 2 / √96 is a fifth"),
        pytest.param(1.00, [True], id="1,200 are not"),
    ],
)
def test_few_requests_are_long_by_chance(rps: float, found: list[bool]) -> None:
    spread = replace(TOKENS, input_cv=1.0)
    assert [each.left for each in amounts(1.4 * 1150.0, demand=np.full(20, rps), tokens=spread)] == found


def test_a_class_whose_profile_tells_no_spread_is_given_the_usual_one() -> None:
    plain = replace(TOKENS, input_cv=0.0)
    assert [each.left for each in amounts(1.4 * 1150.0, demand=np.full(20, 0.08), tokens=plain)] == [False]


def test_unknown_minutes_are_left_out_and_too_many_of_them_say_nothing() -> None:
    demand = BUSY.copy()
    demand[::3] = np.nan
    (found,) = amounts(2300.0, demand=demand)
    assert (found.now, found.left) == (2300.0, True)
    demand[:12] = np.nan
    assert amounts(2300.0, demand=demand) == ()


def test_a_part_of_which_nothing_is_known_ends_nothing_and_begins_nothing() -> None:
    demand = BUSY.copy()
    demand[5:10] = np.nan
    assert [each.left for each in amounts(2300.0, demand=demand)] == [False]
    assert [each.left for each in amounts(2300.0, demand=demand, left_before=frozenset({PROMPT_TOKENS}))] == [True]


def test_at_the_tolerance_it_is_said_once() -> None:
    """Between 20 and 25 % what had left has left, and what had not has not."""
    assert not amounts(1.22 * 1150.0)[0].left
    assert amounts(1.22 * 1150.0, left_before=frozenset({PROMPT_TOKENS}))[0].left
    assert not amounts(1.18 * 1150.0, left_before=frozenset({PROMPT_TOKENS}))[0].left


@pytest.mark.parametrize(
    ("image_tokens", "images", "off", "left"),
    [
        pytest.param(900.0, 1.0, 0.0, False, id="an image each"),
        pytest.param(900.0, 2.0, 1.0, True, id="two each"),
        pytest.param(0.0, 0.0, 0.0, False, id="none expected, none there"),
        pytest.param(0.0, 0.5, 0.5, True, id="none expected, every other has one"),
    ],
)
def test_images(image_tokens: float, images: float, off: float, left: bool) -> None:
    tokens = replace(TOKENS, image_tokens=image_tokens)
    (found,) = amounts(images, signal=IMAGES, tokens=tokens)
    assert (found.off, found.left) == (pytest.approx(off), left)


def test_which_lengths_the_profile_expects() -> None:
    assert expected(PROFILE, "gui") == TOKENS
    assert expected(PROFILE, "html") is None, "a class that tells none is not judged by another's"
    assert expected(PROFILE, "video") is None
    only = CapacityProfile(name="one", classes=PROFILE.classes[:1])
    assert expected(only, "video") == TOKENS


def test_the_warning_says_what_it_means() -> None:
    both = compare(
        TOKENS,
        BUSY,
        {PROMPT_TOKENS: 2300.0 * BUSY, OUTPUT_TOKENS: 30.0 * BUSY, IMAGES: BUSY},
        request_class="gui",
        ahead={PROMPT_TOKENS: 2500.0},
    )
    assert departure(PROFILE, both) == (
        "requests of class 'gui' are no longer those of profile 'vl': 30 output tokens a request instead of 60 (-50 %), "
        "2300 prompt tokens a request, 2500 ahead instead of 1150 (+100 %); its max_rps of 8 does not describe them, "
        "the scale may be too small"
    )
    shorter = tuple(each for each in both if each.signal == OUTPUT_TOKENS)
    assert departure(PROFILE, shorter).endswith("the scale may be too large")
    assert departure(PROFILE, tuple(each for each in both if not each.left)) == ""


@given(rps=st.lists(st.floats(0.0, 1e6), min_size=20, max_size=20))
def test_requests_as_measured_never_leave(rps: list[float]) -> None:
    assert not any(each.left for each in amounts(1150.0, demand=np.array(rps)))


@given(
    per_request=st.lists(st.floats(1.0, 1e6), min_size=20, max_size=20),
    rps=st.lists(st.floats(1.0, 1e3), min_size=20, max_size=20),
    power=st.integers(0, 8),
)
def test_only_what_a_request_holds_counts(per_request: list[float], rps: list[float], power: int) -> None:
    """More of the same requests change the mean by nothing; they only leave less to chance."""
    demand = np.array(rps)
    (few,), (many,) = amounts(per_request, demand=demand), amounts(per_request, demand=demand * 2.0**power)
    assert many.now == pytest.approx(few.now)
    assert many.left or not few.left
