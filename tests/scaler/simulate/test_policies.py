"""The competitors against their sources.

Properties: the oracle misses nothing and no rule that misses nothing is cheaper; the instant oracle has ratio 1.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.simulate.policies import Hpa, HpaPlain, oracle, oracle_instant, replay, rule, static_peak
from scaler.simulate.scoring import Course, score

loads = st.lists(st.floats(0.0, 12.0), min_size=1, max_size=60).map(np.array)


# ── hpa-plain ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_hpa_plain_goes_out_at_once_and_in_to_the_highest_of_five() -> None:
    course = replay(HpaPlain(utilisation=0.5), np.array([1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), cold_start_bins=2)
    assert course.billed.tolist() == [2, 2, 8, 8, 8, 8, 8, 2], "after bin t; the peak of bin 1 counts until bin 5"
    assert course.serving.tolist() == [2, 2, 2, 2, 8, 8, 8, 2]


def test_rules_hold_after_a_bin_that_they_cannot_see() -> None:
    load = np.array([1.0, 5.0, 1.0])
    blind = replay(HpaPlain(), load, cold_start_bins=1, seen=np.array([1.0, np.nan, 1.0]))
    assert blind.billed.tolist() == [2, 2, 2]
    assert blind.missed.tolist() == [False, True, False], "it was blind, the users were not"


# ── the real HPA ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("load", "replicas", "ordered"),
    [
        pytest.param(7.7, 10, 10, id="1.1 of the target is within the tolerance"),
        pytest.param(7.71, 10, 12, id="just above it is not"),
        pytest.param(6.3, 10, 10, id="0.9 of the target is within"),
        pytest.param(70.0, 1, 40, id="out by at most double or four a sync: 1, 5, 10, 20, 40"),
        pytest.param(0.0, 3, 1, id="never below one"),
    ],
)
def test_hpa_decides(load: float, replicas: int, ordered: int) -> None:
    decided, _ = Hpa().decide(load, replicas, ())
    assert decided == ordered


def test_hpa_goes_in_after_five_minutes_and_not_before() -> None:
    load = np.array([7.0] + [0.7] * 9)
    course = replay(Hpa(), load, cold_start_bins=0)
    assert course.billed.tolist() == [10] * 6 + [1] * 4, "last wished for at 1:45, so until the sync before 6:45"


# ── those that know ───────────────────────────────────────────────────────────────────────────────────────────


def test_oracle_keeps_through_a_short_gap_and_releases_in_a_long_one() -> None:
    load = np.array([2.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 2.0])
    course = oracle(load, 2)
    assert course.serving.tolist() == [2, 2, 2, 2, 1, 1, 1, 2]
    assert course.billed.tolist() == [2, 2, 2, 2, 1, 2, 2, 2], "ordered two bins before it is needed again"


@settings(max_examples=60)
@given(loads, st.integers(0, 5))
def test_oracle_misses_nothing_and_nothing_that_misses_nothing_is_cheaper(load: np.ndarray, cold_start: int) -> None:
    best = score(oracle(load, cold_start))
    assert best.missed_bins == 0
    assert best.gpu_ratio >= 1.0
    for policy in (HpaPlain(utilisation=0.3), HpaPlain(utilisation=1.0), Hpa(utilisation=0.5)):
        rival = score(replay(policy, load, cold_start_bins=cold_start))
        assert rival.missed_bins or rival.billed_gpu_bins >= best.billed_gpu_bins


@given(loads)
def test_the_instant_oracle_is_the_yardstick(load: np.ndarray) -> None:
    result = score(oracle_instant(load, 7))
    assert (result.gpu_ratio, result.missed_bins) == (1.0, 0)


@pytest.mark.parametrize("cold_start", [pytest.param(each, id=f"L = {each}") for each in (0, 1, 2, 3)])
def test_oracle_equals_an_exhaustive_search(cold_start: int) -> None:
    """One level, every load of nine bins: keep or release in each gap, whichever is cheaper."""
    for bits in itertools.product((1.0, 2.0), repeat=9):
        load = np.array(bits)
        busy = np.flatnonzero(load > 1.0)
        gaps = np.diff(busy) - 1 if busy.size else np.array([], dtype=int)
        second = busy.size + sum(min(gap, cold_start) for gap in gaps) if busy.size else 0
        second += min(int(busy[0]), cold_start) if busy.size else 0
        assert int(oracle(load, cold_start).billed.sum()) == 9 + second


def test_static_peak_has_the_replicas_of_the_capacity_rule() -> None:
    load = np.append(np.full(2000, 3.0), [15.5] * 3 + [40.0])
    assert set(static_peak(load, 9).serving.tolist()) == {16}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("hpa", "hpa:0.7", id="hpa means 70 percent"),
        pytest.param("hpa:0.6", "hpa:0.6", id="another utilisation"),
        pytest.param("hpa:0.6:2m", "hpa:0.6:120s", id="another window"),
        pytest.param("hpa-plain:0.7", "hpa-plain:0.7", id="the reference"),
    ],
)
def test_rules_have_names(name: str, found: str) -> None:
    assert rule(name).name == found


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("hpaa", "there are hpa, hpa-plain", id="a typo is told what there is"),
        pytest.param("hpa:high", "number after the colon", id="no number"),
        pytest.param("hpa:0", r"\(0, 1\]", id="no division by zero"),
    ],
)
def test_unknown_rules_are_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rule(name)


def test_a_course_of_unknown_bins_has_one_replica() -> None:
    course: Course = replay(HpaPlain(), np.array([np.nan, np.nan]), cold_start_bins=3)
    assert course.billed.tolist() == [1, 1]
