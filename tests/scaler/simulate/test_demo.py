"""The demo: seeded, lived through the daemon's tick, told in the shape of `simulate -o json`."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue
from scaler.policy.types import Action
from scaler.simulate import demo
from scaler.simulate.columns import (
    Columns,
    decision_columns,
    forecast_columns,
    load_columns,
    replica_columns,
    score_columns,
)
from scaler.simulate.demo import POLICIES, DemoRun, run_demo, simulate_week
from scaler.simulate.demo_fleet import FLEET, START, draw
from scaler.simulate.scoring import total


def test_the_same_seed_draws_the_same_week_and_another_one_another() -> None:
    first, again, other = (draw(FLEET[0], start=START, days=2, seed=seed).virtual for seed in (1, 1, 2))
    assert np.array_equal(first.demand_rps.values, again.demand_rps.values)
    assert not np.array_equal(first.demand_rps.values, other.demand_rps.values)


@pytest.mark.parametrize("plan", [pytest.param(each, id=each.traffic.name) for each in FLEET])
def test_peaks_come_back_by_the_clock(plan) -> None:
    """On a working day each peak stands out against the quarter of an hour before it."""
    load = draw(plan, start=START, days=1, seed=5).virtual.demand_rps.values
    lifts = []
    for peak in plan.peaks:
        if 0 in peak.weekdays and peak.minute >= 20:
            middle = peak.minute + int(peak.duration / timedelta(minutes=2))
            lifts.append(load[middle - 3 : middle + 4].mean() / load[peak.minute - 16 : peak.minute - 1].mean())
    assert np.median(lifts) > 1.4


def test_the_campaign_in_the_calendar_is_the_one_that_happens() -> None:
    drawn = draw(FLEET[0], start=START, days=7, seed=1)
    (event,) = drawn.events
    series = drawn.virtual.demand_rps
    first, last = ((moment - series.start) // series.step for moment in (event.start, event.end))
    promised = event.expected_peak[0].rps
    assert 0.6 * promised < np.quantile(series.values[first:last], 0.9) < 1.4 * promised
    assert series.values[first - 60 : first - 5].mean() < 0.6 * promised


def test_cold_starts_lie_between_three_and_eight_minutes() -> None:
    assert {plan.cold_start for plan in FLEET} == {timedelta(minutes=each) for each in (3, 4, 5, 6, 8)}


def test_every_policy_is_scored_over_the_same_minutes_of_every_workload(two_days: DemoRun) -> None:
    assert {one.scores[name].scored_bins for one in two_days.runs for name in POLICIES} == {1440}
    for name, summed in two_days.scores.items():
        assert summed == total(one.scores[name] for one in two_days.runs)


def test_the_oracle_bounds_them_all(two_days: DemoRun) -> None:
    assert two_days.scores["oracle"].missed_bins == 0
    assert two_days.scores["oracle"].gpu_hours < min(
        two_days.scores[name].gpu_hours for name in POLICIES if name != "oracle"
    )


def test_the_track_tells_every_change_that_the_cluster_saw(two_days: DemoRun) -> None:
    for one in two_days.runs:
        billed = one.courses["headstart"].billed
        moved = np.flatnonzero(np.diff(billed)).tolist()
        told = [after for after, _ in one.track.changes if after < billed.size - 1]
        assert told == moved
        assert all(decision.action is not Action.HOLD for _, decision in one.track.changes)


def test_forecasts_stand_at_the_minute_that_they_are_about(two_days: DemoRun) -> None:
    for one in two_days.runs:
        lead = one.workload.virtual.cold_start_bins + 1
        load, median = one.courses["headstart"].load, one.track.median
        known = np.flatnonzero(np.isfinite(median))
        assert known.size > 1000
        # The stand-in says "as it is now", so what is told of minute t is the load of t - lead.
        lit = known[known >= 1440 + 60]
        assert np.median(np.abs(median[lit] - load[lit - lead])) < 0.05


def test_json_has_the_shape_of_the_contract(two_days: DemoRun) -> None:
    document = json.loads(json.dumps(two_days.as_json(), allow_nan=False))
    assert (document["apiVersion"], document["kind"], document["seed"]) == ("headstart/v1", "Simulation", 3)
    figures = {
        "name",
        "gpu_hours",
        "gpu_ratio",
        "under_provisioned_ratio",
        "under_provisioned_minutes",
        "scale_events",
        "pod_starts",
    }
    assert {each["name"] for each in document["policies"]} >= {"reactive", "headstart", "oracle", "static-peak"}
    assert all(set(each) == figures for each in document["policies"])
    assert document["cold_start_s"] == pytest.approx(60 * (3 + 4 + 5 + 6 + 8) / 5)
    by_workload = [
        each["gpu_hours"] for one in document["workloads"] for each in one["policies"] if each["name"] == "hpa"
    ]
    (summed,) = (each["gpu_hours"] for each in document["policies"] if each["name"] == "hpa")
    assert sum(by_workload) == pytest.approx(summed, abs=0.01)


def test_the_whole_demo_writes_its_report_and_tells_how_far_it_is(
    tmp_path: Path, two_days: DemoRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "simulate_week", lambda seed, *, progress: replace(two_days, seed=seed))
    told: list[float] = []
    result = run_demo(tmp_path / "headstart-demo", 9, lambda share, _what: told.append(share))
    assert result.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert result.as_json()["seed"] == 9
    assert told[-1] == 1.0


def test_progress_rises_from_nothing_to_nearly_all() -> None:
    told: list[float] = []
    simulate_week(1, days=1, learning_days=0, members=(LastValue(),), progress=lambda share, _what: told.append(share))
    assert told == sorted(told)
    assert told[0] == 0.0
    assert 0.9 < told[-1] < 1.0


def test_a_week_needs_scored_days() -> None:
    with pytest.raises(ValueError, match="learning_days"):
        simulate_week(1, days=3, learning_days=3)


@pytest.mark.parametrize(
    ("columns_of", "rows"),
    [
        pytest.param(load_columns, 5 * 2880, id="loads"),
        pytest.param(forecast_columns, 5 * 2880, id="forecasts"),
        pytest.param(replica_columns, 5 * 2880 * len(POLICIES), id="replicas"),
        pytest.param(score_columns, 5 * len(POLICIES), id="scores"),
        pytest.param(decision_columns, None, id="decisions"),
    ],
)
def test_columns_are_long_frames(two_days: DemoRun, columns_of, rows: int | None) -> None:
    columns: Columns = columns_of(two_days)
    assert next(iter(columns)) == "unique_id"
    lengths = {values.size for values in columns.values()}
    assert len(lengths) == 1
    assert rows is None or lengths == {rows}
    if "ds" in columns:
        assert columns["ds"].min() >= np.datetime64(START.replace(tzinfo=None))


def test_missed_minutes_in_the_columns_are_those_of_the_scores(two_days: DemoRun) -> None:
    replicas, loads = replica_columns(two_days), load_columns(two_days)
    scored = np.tile(loads["scored"], len(POLICIES))
    for policy in POLICIES:
        of_policy = replicas["policy"] == policy
        assert int(replicas["missed"][of_policy & scored].sum()) == two_days.scores[policy].missed_bins
