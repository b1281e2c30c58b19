"""Regret: whose fault a miss is, and what GPU-hours above the best plan were for.

Properties: the causes of misses add up to what the score counts, in bins and in replica-bins; the causes of excess
less what only the plan bills are what was billed above the plan; whoever follows the plan has neither; whoever orders
at once what it sees never decided late.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from scaler.simulate.cluster import Pods
from scaler.simulate.policies import oracle
from scaler.simulate.regret import Excess, Miss, Regret, regret
from scaler.simulate.scoring import Course, needed, score

L = 3

# A load is drawn as a digit a bin, in exactly full replicas; "?" is a bin that was not measured.


def drawn(picture: str) -> np.ndarray:
    return np.array([math.nan if each == "?" else float(each) for each in picture.replace(" ", "")])


def counts(picture: str) -> np.ndarray:
    return np.array([int(each) for each in picture.replace(" ", "")], dtype=np.int64)


def lived(
    load: np.ndarray,
    orders: dict[int, int],
    *,
    opening: int = 1,
    cold_start_bins: int = L,
) -> Course:
    """Orders by the bin after which they were given."""
    pods, serving, billed = Pods(serving=opening), [], []
    for index in range(load.size):
        pods = pods.at(index)
        serving.append(pods.serving)
        billed.append(pods.ordered)
        pods = pods.scaled(orders.get(index, pods.ordered), after_bin=index, cold_start_bins=cold_start_bins)
    return Course(load=load, serving=np.array(serving), billed=np.array(billed), before=opening)


def reacting(load: np.ndarray, *, cold_start_bins: int = L, opening: int = 1) -> Course:
    """Orders what it sees at once, outward and inward; holds after a bin that it cannot see."""
    need = needed(load)
    known = np.isfinite(load)
    orders = {index: int(need[index]) for index in range(load.size) if known[index]}
    return lived(load, orders, cold_start_bins=cold_start_bins, opening=opening)


def judged(course: Course, *, cold_start_bins: int = L, **more: object) -> Regret:
    return regret(course, oracle(course.load, cold_start_bins), cold_start_bins=cold_start_bins, **more)  # type: ignore[arg-type]


def causes(found: dict[Miss, int] | dict[Excess, int]) -> dict[str, int]:
    return {cause.value: count for cause, count in found.items() if count}


# ── Misses ────────────────────────────────────────────────────────────────────────────────────────────────────

STEP = "1111111111 2222222222"
"""One replica's load for ten bins, then two."""


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        pytest.param({10: 2}, {"late_signal": 1, "cold_start": 3}, id="a perfect reactor: only a forecast would help"),
        pytest.param({12: 2}, {"late_signal": 1, "cold_start": 3, "late_decision": 2}, id="two bins more of thought"),
        pytest.param({6: 2}, {}, id="a perfect forecast"),
        pytest.param({8: 2}, {"late_signal": 1, "cold_start": 1}, id="a forecast two bins too late"),
        pytest.param(
            {10: 2, 11: 1, 12: 2},
            {"late_signal": 1, "cold_start": 3, "late_decision": 2},
            id="ordered at once, cancelled, ordered again",
        ),
        pytest.param({6: 2, 14: 1}, {"late_decision": 5}, id="there in time, let go while needed"),
        pytest.param({}, {"late_signal": 1, "cold_start": 3, "late_decision": 6}, id="never ordered"),
    ],
)
def test_a_step_that_a_policy_met(orders: dict[int, int], expected: dict[str, int]) -> None:
    found = judged(lived(drawn(STEP), orders))
    assert causes(found.missed_bins) == expected
    assert causes(found.missed_replica_bins) == expected, "one replica is missing in each of them"


def test_pods_that_start_at_once_leave_only_the_signal() -> None:
    found = judged(reacting(drawn(STEP), cold_start_bins=0), cold_start_bins=0)
    assert causes(found.missed_bins) == {"late_signal": 1}


def test_each_level_is_judged_by_its_own_run_and_a_bin_by_its_highest() -> None:
    # Two are needed from bin 2 and never ordered, three from bin 8: bin 8 misses the second replica by a late
    # decision, the third by the signal. Ordering at once would not have carried it, so it is the signal's.
    found = judged(lived(drawn("11 222222 333"), {}))
    assert causes(found.missed_replica_bins) == {"late_signal": 1 + 1, "cold_start": 3 + 2, "late_decision": 2 + 3}
    assert causes(found.missed_bins) == {"late_signal": 2, "cold_start": 3 + 2, "late_decision": 2}


def test_what_the_bounds_forbid_is_theirs_however_it_was_seen() -> None:
    found = judged(lived(drawn("1111 3333333333"), {4: 2}), max_replicas=2)
    assert causes(found.missed_replica_bins) == {"bounds": 10, "late_signal": 1, "cold_start": 3}
    assert causes(found.missed_bins) == {"bounds": 10}


def test_a_run_begins_anew_when_the_load_went_below() -> None:
    found = judged(reacting(drawn("11 2222 1 22")))
    # Seen in bin 2 and Ready by bin 6, when it was let go; the second run's first bins are nobody's decision.
    assert causes(found.missed_bins) == {"late_signal": 2, "cold_start": 4}


def test_in_the_dark_a_miss_is_the_signals_until_it_is_seen() -> None:
    load = drawn("1111 2222 2222 2222")
    seen = np.ones(load.size, dtype=bool)
    seen[4:8] = False
    course = lived(load, {8: 2})
    assert causes(judged(course, seen=seen).missed_bins) == {"late_signal": 5, "cold_start": 3}
    assert causes(judged(course).missed_bins) == {"late_signal": 1, "cold_start": 3, "late_decision": 4}


def test_never_seen_is_the_signals_to_the_end() -> None:
    load = drawn("11 2222222")
    seen = np.arange(load.size) < 2
    assert causes(judged(lived(load, {}), seen=seen).missed_bins) == {"late_signal": 7}


def test_an_unmeasured_bin_neither_counts_nor_ends_a_run() -> None:
    found = judged(lived(drawn("11 2? ?2 222"), {}))
    # Seen in bin 2; a pod ordered then serves from bin 6, whatever bins 3 and 4 were.
    assert causes(found.missed_bins) == {"late_signal": 1, "cold_start": 1, "late_decision": 3}


def test_the_windows_first_bin_is_the_first_sight() -> None:
    assert causes(judged(lived(drawn("2222222"), {})).missed_bins) == {
        "late_signal": 1,
        "cold_start": 3,
        "late_decision": 3,
    }


# ── Excess ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("load", "billed", "cold_start_bins", "expected", "unbilled"),
    [
        pytest.param("1111111222", "1122222222", 3, {"early": 2}, 0, id="two bins sooner than its start takes"),
        pytest.param("1122211111", "2222222211", 3, {"late_release": 3}, 0, id="three bins too long"),
        pytest.param("2111111112", "2222222222", 3, {"bridged": 5}, 0, id="kept over a gap longer than a start"),
        pytest.param("2111222222", "2222222222", 3, {}, 0, id="kept over a gap as long as a start"),
        pytest.param("1111111111", "1122221111", 3, {"unneeded": 4}, 0, id="ordered and never needed"),
        pytest.param("1111111222", "1211111222", 3, {"unneeded": 1}, 3, id="let go before it was needed, then late"),
        pytest.param(
            "1122111111", "1113333111", 1, {"late_release": 3, "unneeded": 4}, 2, id="late and twice too much"
        ),
        pytest.param("2211?11122", "22222222 22", 1, {"bridged": 4}, 0, id="an unmeasured bin costs nothing"),
        pytest.param("1???111122", "1222222222", 1, {"early": 3}, 0, id="nor is anything needed in it"),
    ],
)
def test_what_was_billed_above_the_plan(
    load: str, billed: str, cold_start_bins: int, expected: dict[str, int], unbilled: int
) -> None:
    fleet = counts(billed)
    course = Course(load=drawn(load), serving=fleet, billed=fleet, before=1)
    found = judged(course, cold_start_bins=cold_start_bins)
    assert causes(found.excess_replica_bins) == expected
    assert found.unbilled_replica_bins == unbilled


def test_headroom_that_is_never_used_is_unneeded() -> None:
    # 0.7 of ten replicas: seven are needed all along, three never.
    fleet = np.full(20, 10)
    course = Course(load=np.full(20, 7.0), serving=fleet, billed=fleet, before=10)
    assert causes(judged(course).excess_replica_bins) == {"unneeded": 60}


def test_courses_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="20 bins has no regret against a plan of 10"):
        regret(reacting(np.ones(20)), oracle(np.ones(10), L), cold_start_bins=L)


# ── As a document ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_document() -> None:
    # A step that is met two bins late and kept three bins too long, on ten-minute bins of two-GPU replicas.
    load = drawn("1111111111 2222222222 111111")
    course = lived(load, {12: 2, 22: 1})
    found = judged(course, bin_s=600.0, gpus=2)
    assert found.as_json(price=2.5) == {
        "missed": {"bounds": 0.0, "late_signal": 10.0, "cold_start": 30.0, "late_decision": 20.0},
        "missed_replica_minutes": {"bounds": 0.0, "late_signal": 10.0, "cold_start": 30.0, "late_decision": 20.0},
        "gpu_hours": {
            "early": 0.0,
            "late_release": 1.0,
            "bridged": 0.0,
            "unneeded": 0.0,
            "unbilled": 2.0,
            "above_oracle": -1.0,
        },
        "money": {
            "early": 0.0,
            "late_release": 2.5,
            "bridged": 0.0,
            "unneeded": 0.0,
            "unbilled": 5.0,
            "above_oracle": -2.5,
        },
    }
    assert "money" not in found.as_json()


# ── Properties ────────────────────────────────────────────────────────────────────────────────────────────────

loads = arrays.arrays(
    np.float64,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(0.0, 6.0),
        st.integers(0, 6).map(float),
        st.integers(1, 6).map(lambda each: each + 1e-9),
        st.just(math.nan),
    ),
)


@st.composite
def courses(draw: st.DrawFn) -> tuple[Course, int]:
    """Any orders at all, on any load, and the cold start in bins."""
    load = draw(loads)
    cold_start_bins = draw(st.integers(0, 5))
    orders = draw(st.dictionaries(st.integers(0, load.size - 1), st.integers(0, 8), max_size=load.size))
    return lived(load, orders, opening=draw(st.integers(0, 8)), cold_start_bins=cold_start_bins), cold_start_bins


@given(courses(), st.integers(1, 8) | st.none(), st.randoms(use_true_random=False))
def test_the_causes_of_misses_add_up(played: tuple[Course, int], max_replicas: int | None, random: object) -> None:
    course, cold_start_bins = played
    seen = np.array([random.random() < 0.7 for _ in range(course.load.size)])  # type: ignore[attr-defined]
    found = judged(course, cold_start_bins=cold_start_bins, max_replicas=max_replicas, seen=seen)
    assert sum(found.missed_bins.values()) == score(course).missed_bins
    short = np.maximum(needed(course.load) - course.serving, 1)
    assert sum(found.missed_replica_bins.values()) == short[course.missed].sum()
    assert all(found.missed_replica_bins[cause] >= found.missed_bins[cause] for cause in Miss)


@given(courses())
def test_the_causes_of_excess_add_up(played: tuple[Course, int]) -> None:
    course, cold_start_bins = played
    plan = oracle(course.load, cold_start_bins)
    found = regret(course, plan, cold_start_bins=cold_start_bins)
    known = np.isfinite(course.load)
    assert found.above_plan_replica_bins == (course.billed - plan.billed)[known].sum()
    assert all(each >= 0 for each in (*found.excess_replica_bins.values(), found.unbilled_replica_bins))


@given(loads, st.integers(0, 5))
def test_whoever_follows_the_plan_regrets_nothing(load: np.ndarray, cold_start_bins: int) -> None:
    found = judged(oracle(load, cold_start_bins), cold_start_bins=cold_start_bins)
    assert not causes(found.missed_bins)
    assert not causes(found.excess_replica_bins)
    assert found.unbilled_replica_bins == 0


@given(loads, st.integers(0, 5))
def test_whoever_orders_at_once_never_decides_late(load: np.ndarray, cold_start_bins: int) -> None:
    found = judged(reacting(load, cold_start_bins=cold_start_bins), cold_start_bins=cold_start_bins)
    assert found.missed_bins[Miss.LATE_DECISION] == 0
    assert found.missed_replica_bins[Miss.LATE_DECISION] == 0


@given(courses(), st.integers(1, 8))
def test_a_tighter_bound_takes_misses_over_and_makes_none(played: tuple[Course, int], most: int) -> None:
    course, cold_start_bins = played
    tight, wide = (judged(course, cold_start_bins=cold_start_bins, max_replicas=each) for each in (most, most + 1))
    assert tight.missed_bins[Miss.BOUNDS] >= wide.missed_bins[Miss.BOUNDS]
    for cause in (Miss.LATE_SIGNAL, Miss.COLD_START, Miss.LATE_DECISION):
        assert tight.missed_replica_bins[cause] <= wide.missed_replica_bins[cause]
