"""The decision protocol's arithmetic.

Properties: needed replicas are the fewest that carry a load; a window's score is the sum of its parts' scores.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.scoring import Course, capacity_for_peak, needed, score, total


def a_course(load: list[float], serving: list[int], billed: list[int] | None = None, before: int = 1) -> Course:
    return Course(
        load=np.array(load),
        serving=np.array(serving),
        billed=np.array(serving if billed is None else billed),
        before=before,
    )


@pytest.mark.parametrize(
    ("load", "replicas"),
    [
        pytest.param(0.0, 1, id="nothing still needs the one"),
        pytest.param(1.0, 1, id="exactly full is enough"),
        pytest.param(3.0000000001, 3, id="rounding is no load"),
        pytest.param(3.00001, 4, id="a little more is"),
        pytest.param(float("nan"), 1, id="unknown asks for the least"),
    ],
)
def test_needed(load: float, replicas: int) -> None:
    assert needed(np.array([load])).tolist() == [replicas]


@given(st.floats(0.0, 1e6))
def test_needed_is_the_fewest_that_carry_the_load(load: float) -> None:
    fewest = int(needed(np.array([load]))[0])
    assert load <= fewest + 1e-8
    assert fewest == 1 or load > fewest - 1 - 1e-8


def test_a_minute_is_missed_when_its_load_exceeds_what_serves() -> None:
    result = score(a_course([1.5, 2.0, 2.5, 3.5], [2, 2, 2, 3], billed=[2, 3, 3, 3], before=2))
    assert (result.missed_bins, result.scored_bins) == (2, 4)
    assert result.billed_gpu_bins == 11
    assert result.needed_gpu_bins == 2 + 2 + 3 + 4
    assert result.gpu_ratio == pytest.approx(1.0)
    assert (result.scale_events, result.pod_starts) == (1, 1)


def test_unknown_bins_are_neither_scored_nor_billed() -> None:
    result = score(a_course([1.0, float("nan"), 1.0], [1, 50, 1]))
    assert (result.scored_bins, result.missed_bins, result.billed_gpu_bins) == (2, 0, 2)


def test_gpus_and_wide_bins_count() -> None:
    result = score(a_course([2.5], [2]), bin_s=600.0, gpus=4)
    assert result.gpu_hours == pytest.approx(2 * 4 * 600 / 3600)
    assert result.under_provisioned_minutes == pytest.approx(10.0)


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 20)), min_size=2, max_size=40), st.data())
def test_windows_add_up(bins: list[tuple[float, int]], data: st.DataObject) -> None:
    course = a_course([load for load, _ in bins], [serving for _, serving in bins])
    cut = data.draw(st.integers(1, len(bins) - 1))
    parts = [score(course.window(0, cut)), score(course.window(cut, len(bins)))]
    assert total(parts) == score(course)


def test_scores_of_different_bins_do_not_add_up() -> None:
    course = a_course([1.0], [1])
    with pytest.raises(ValueError, match="equal bins"):
        total([score(course), score(course, bin_s=600.0)])


def test_capacity_puts_the_peak_at_the_asked_replicas() -> None:
    values = np.append(np.linspace(0.0, 160.0, 5000), np.nan)
    capacity = capacity_for_peak(values, peak_replicas=16)
    assert capacity == pytest.approx(0.999 * 160.0 / 16)


@pytest.mark.parametrize(
    "values", [pytest.param([np.nan, np.nan], id="nothing known"), pytest.param([0.0, 0.0], id="no traffic")]
)
def test_capacity_needs_traffic(values: list[float]) -> None:
    with pytest.raises(ValueError, match="peak above 0"):
        capacity_for_peak(np.array(values))
