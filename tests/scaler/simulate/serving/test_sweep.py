"""Sweeps in the SLO protocol, and the bounds that they are played within.

Properties: what is on the frontier is beaten by nothing; a sweep does not depend on how many processes play it.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace
from forecaster.types import Series
from scaler.policy.capacity import CapacityProfile
from scaler.simulate.policies import KNOBS
from scaler.simulate.read_off import Cliff
from scaler.simulate.serving.outcome import Interval, Outcome
from scaler.simulate.serving.run import ServingSetting, UnknownPolicyError, simulate_serving
from scaler.simulate.serving.sweep import (
    ServingColdStartSweep,
    ServingParetoSweep,
    ServingPoint,
    ServingWindow,
    serving_cold_start_sweep,
    serving_pareto_sweep,
    ttft_p90_s,
)
from scaler.simulate.sweep import grids

START = datetime(2026, 11, 16, tzinfo=UTC)
STEP = START + timedelta(hours=2)


def a_step() -> Trace:
    """Two calm hours, a step to three times the load, and a quarter of an hour without anybody."""
    values = np.array([*([1.0] * 120), *([3.0] * 15), *([0.0] * 15)])
    return Trace(name="step", column="requests", series=Series(start=START, step=timedelta(minutes=1), values=values))


def a_setting(**changed: object) -> ServingSetting:
    return ServingSetting(**{"score_from": STEP - timedelta(minutes=10), "peak_replicas": 3, **changed})  # type: ignore[arg-type]


@functools.cache
def swept(profile: CapacityProfile) -> ServingParetoSweep:
    families = {"headstart": ["headstart"], "hpa": ["hpa:0.5", "hpa:1", "hpa:0.5"], "kpa": ["kpa:0.3"]}
    return serving_pareto_sweep(a_step(), profile, families, a_setting(seeds=(1, 2)), members=(LastValue(),))


@pytest.fixture
def played(profile: CapacityProfile) -> ServingParetoSweep:
    """Played once: nothing changes a sweep."""
    return swept(profile)


# ── Pareto ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_holds_what_each_run_says(played: ServingParetoSweep, profile: CapacityProfile) -> None:
    assert [each.policy for each in played.points] == ["headstart", "hpa:0.5", "hpa:1", "kpa:0.3"], "each setting once"
    alone = simulate_serving(a_step(), profile, ["hpa:1"], a_setting(seeds=(1, 2)), members=())
    point = played.points[2]
    assert point.attainment == alone.intervals("hpa:1")["slo_attainment"]
    assert point.gpu_hours == alone.intervals("hpa:1")["gpu_hours"]
    assert point.violation_minutes == alone.intervals("hpa:1")["slo_violation_minutes"]


def test_nobody_is_tuned_but_in_hindsight(played: ServingParetoSweep) -> None:
    first, own, hpa, kpa = played.matched
    assert (first.family, first.tuned_in_hindsight) == ("headstart", False)
    assert own.tuned_in_hindsight
    assert own.point is first.point is played.default
    for row in (hpa, kpa):
        assert row.point is None or row.point.attainment.mean >= played.target
    strict = replace(played, target_attainment=1.0)
    assert strict.matched[0].point is not None, "the product's default stands there whatever it attains"
    assert [row.point for row in strict.matched[2:] if row.point and row.point.attainment.mean < 1.0] == []


def test_ratios_are_paired_by_seed(played: ServingParetoSweep) -> None:
    point = played.points[1]
    assert point.cost_against(point) == Interval(mean=1.0, half_width=0.0)


def test_a_document_can_be_read_again(played: ServingParetoSweep) -> None:
    document = json.loads(json.dumps(played.as_json(label="a label"), allow_nan=False))
    assert (document["kind"], document["sweep"], document["trace"]) == ("ServingSweep", "pareto", "a label")
    assert document["seeds"] == [1, 2]
    assert {each["policy"] for each in document["points"] if each["frontier"]} == {
        each.policy for each in played.frontier
    }
    assert document["target_attainment"] == pytest.approx(played.points[0].attainment.mean, abs=1e-6)
    assert document["matched"][0]["gpu_hours_against_headstart"] == {"ratio": 1.0, "ci95": 0.0}


def test_processes_change_nothing(profile: CapacityProfile) -> None:
    families = {"hpa": ["hpa:0.5", "hpa:1"], "kpa": ["kpa:0.5"]}
    one, two = (
        serving_pareto_sweep(a_step(), profile, families, a_setting(), members=(), processes=each) for each in (1, 2)
    )
    assert one.as_json() == two.as_json()


def test_what_a_family_is_swept_over() -> None:
    found = grids(["headstart", "llmd"], own=0.02)
    assert found["llmd"] == KNOBS["llmd"]
    assert found["headstart"][2] == "headstart", "the setting's own target under the plain name"
    assert len(set(found["headstart"])) == 7
    with pytest.raises(UnknownPolicyError, match="no family 'oracle' to sweep"):
        grids(["oracle"], own=0.01)


def test_what_a_run_refuses_a_sweep_refuses(profile: CapacityProfile) -> None:
    with pytest.raises(UnknownPolicyError, match="at least one policy"):
        serving_pareto_sweep(a_step(), profile, {}, a_setting(), members=())
    with pytest.raises(UnknownPolicyError, match="Did you mean 'hpa'"):
        serving_pareto_sweep(a_step(), profile, {"hpa": ["hpaa"]}, a_setting(), members=())


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=12))
def test_nothing_beats_the_frontier(figures: list[tuple[int, int]]) -> None:
    points = tuple(_point(str(index), attained / 20.0, float(cost)) for index, (attained, cost) in enumerate(figures))
    sweep = ServingParetoSweep(window=_no_window(), points=points, target_attainment=0.9)
    for best in sweep.frontier:
        for point in points:
            no_worse = point.attainment.mean >= best.attainment.mean and point.gpu_hours.mean <= best.gpu_hours.mean
            same = (point.attainment.mean, point.gpu_hours.mean) == (best.attainment.mean, best.gpu_hours.mean)
            assert same or not no_worse
    attained = [each.attainment.mean for each in sweep.frontier]
    assert attained == sorted(attained, reverse=True)


# ── Cold start ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_slower_the_start_the_later_the_first_token(profile: CapacityProfile) -> None:
    spans = [timedelta(seconds=each) for each in (300, 0, 60)]
    sweep = serving_cold_start_sweep(
        a_step(), profile, ["hpa:1", "static-peak"], a_setting(), cold_starts=spans, limit_ttft_s=1.0, members=()
    )
    late = [each for each in sweep.points if each.policy == "hpa:1"]
    assert [each.cold_start_s for each in late] == [0.0, 60.0, 300.0], "from the fastest to the slowest"
    assert late[0].ttft_p90_s.mean < late[-1].ttft_p90_s.mean
    assert late[0].attainment.mean > late[-1].attainment.mean
    cliff, fixed = sweep.cliffs
    assert cliff.over is not None
    assert (fixed.within, fixed.over) == (300.0, None), "a fixed fleet starts nothing"
    document = json.loads(json.dumps(sweep.as_json(), allow_nan=False))
    assert document["cliffs"][1] == {"policy": "static-peak", "within_s": 300.0, "over_s": None}
    assert document["limit_ttft_s"] == 1.0


@pytest.mark.parametrize(
    ("ttfts_s", "expected"),
    [
        pytest.param([[1, 1, 1], [9, 9, 9], [1, 1, 1]], (0.0, 60.0), id="the first that is too late counts"),
        pytest.param([[1, 1, 1], [1, 2, 9], [9, 9, 9]], (60.0, 120.0), id="one late seed of three is chance"),
        pytest.param([[5, 5, 5], [9, 9, 9], [9, 9, 9]], (None, 0.0), id="not even the shortest"),
        pytest.param([[1, 1, 1], [2, 2, 2], [3, 3, 3]], (120.0, None), id="the limit itself is borne"),
        pytest.param([[1, 1, 1], [1, math.inf, 1], [9, 9, 9]], (0.0, 60.0), id="for ever is too late"),
    ],
)
def test_where_a_policy_falls_off(
    ttfts_s: list[list[float]], expected: tuple[float | None, float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.simulate.serving.sweep.ttft_p90_s", lambda outcome: outcome)
    points = tuple(
        ServingPoint(policy="p", family="p", cold_start_s=60.0 * index, outcomes=tuple(each))  # type: ignore[arg-type]
        for index, each in enumerate(ttfts_s)
    )
    sweep = ServingColdStartSweep(window=_no_window(), points=points, limit_ttft_s=3.0)
    assert sweep.cliffs == (Cliff(policy="p", within=expected[0], over=expected[1]),)


def test_who_is_dropped_waits_for_ever(profile: CapacityProfile) -> None:
    run = simulate_serving(a_step(), profile, ["static-peak"], a_setting(max_replicas=1, cold_start=None), members=())
    (outcome,) = run.outcomes["static-peak"]
    assert outcome.slo.dropped > 0.1 * outcome.slo.requests
    assert ttft_p90_s(outcome) == math.inf
    point = ServingPoint(policy="static-peak", family="static-peak", cold_start_s=0.0, outcomes=(outcome,))
    assert point.as_json()["ttft_p90_s"] is None


# ── Bounds ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_goes_below_the_floor_or_above_the_cap(profile: CapacityProfile) -> None:
    names = ["headstart", "reactive", "hpa", "kpa", "llmd", "dynamo", "oracle", "static-peak"]
    run = simulate_serving(a_step(), profile, names, a_setting(min_replicas=2, max_replicas=4), members=(LastValue(),))
    for name, (outcome,) in run.outcomes.items():
        assert outcome.course.serving[0] >= 2, name
        assert outcome.course.billed.min() >= 2, name
        assert outcome.course.serving.max() <= 4, name
    (perfect,) = run.outcomes["oracle"]
    assert perfect.regret.above_plan_replica_bins <= 2, "but for what drains: the plan keeps to the same bounds"


@pytest.mark.parametrize(
    ("fewest", "most"), [pytest.param(0, None, id="none at all"), pytest.param(5, 4, id="a floor above the cap")]
)
def test_bounds_that_are_none(fewest: int, most: int | None) -> None:
    with pytest.raises(ValueError, match="need 1 ≤ min_replicas ≤ max_replicas"):
        ServingSetting(min_replicas=fewest, max_replicas=most)


# ── What the tests above are made of ──────────────────────────────────────────────────────────────────────────


class _Figures:
    """As much of an outcome as a frontier looks at."""

    def __init__(self, attainment: float, gpu_hours: float) -> None:
        self.slo = self
        self.attainment = attainment
        self.gpu_hours = gpu_hours


def _point(policy: str, attainment: float, gpu_hours: float) -> ServingPoint:
    figures: tuple[Outcome, ...] = (_Figures(attainment, gpu_hours),)  # type: ignore[assignment]
    return ServingPoint(policy=policy, family=policy, cold_start_s=0.0, outcomes=figures)


def _no_window() -> ServingWindow:
    return None  # type: ignore[return-value]
