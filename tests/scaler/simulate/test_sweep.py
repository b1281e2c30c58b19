"""Sweeps: every family over its knob, every policy under slower starts, in one process or in many, and how sure it is.

Properties: the frontier holds no beaten point and beats every other; the bootstrap's interval holds the figure of an
even window and widens where misses cling together.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import SeriesError
from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace
from forecaster.types import Series
from scaler.simulate.confidence import interval
from scaler.simulate.policies import KNOBS
from scaler.simulate.regret import Excess, Miss, Regret
from scaler.simulate.scoring import Course, Score
from scaler.simulate.spread import Task, play_all
from scaler.simulate.sweep import (
    ColdStartSweep,
    ParetoSweep,
    Point,
    Window,
    cold_start_sweep,
    cold_starts_for,
    grids,
    pareto_sweep,
)
from scaler.simulate.trace import Setting, TraceRun, UnknownPolicyError, simulate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE, TEN, DAY = timedelta(minutes=1), timedelta(minutes=10), timedelta(days=1)
MEMBERS = (LastValue(),)


def a_trace(days: float = 2.0, *, step: timedelta = TEN) -> Trace:
    """A daily wave with noise from a seed."""
    bins = int(timedelta(days=days) / step)
    wave = 60.0 - 40.0 * np.cos(2.0 * np.pi * np.arange(bins) * (step / DAY))
    noise = np.random.default_rng(5).normal(0.0, 5.0, bins)
    return Trace(name="wave", column="requests", series=Series(start=MONDAY, step=step, values=wave + noise))


def stairs() -> Trace:
    """Two hours of one-minute bins after a day: one full replica, and a second one for ten minutes of each twenty."""
    values = np.full(1440 + 120, 10.0)
    for begin in range(1440 + 10, values.size, 20):
        values[begin : begin + 10] = 20.0
    return Trace(name="stairs", column="requests", series=Series(start=MONDAY, step=MINUTE, values=values))


def a_point(policy: str, *, missed: int, billed: int, family: str = "f", cold_start: timedelta = TEN) -> Point:
    """One that missed so many of a hundred bins and billed so much."""
    load, fleet, serving = np.ones(100), np.ones(100, dtype=np.int64), np.ones(100, dtype=np.int64)
    serving[:missed] = 0
    return Point(
        policy=policy,
        family=family,
        cold_start=cold_start,
        cold_start_bins=1,
        course=Course(load=load, serving=serving, billed=fleet, before=1),
        score=Score(
            scored_bins=100,
            missed_bins=missed,
            billed_gpu_bins=billed,
            needed_gpu_bins=100,
            scale_events=0,
            pod_starts=0,
            bin_s=60.0,
        ),
        regret=Regret(
            missed_replica_bins=dict.fromkeys(Miss, 0),
            missed_bins=dict.fromkeys(Miss, 0),
            excess_replica_bins=dict.fromkeys(Excess, 0),
            unbilled_replica_bins=0,
            plan_replica_bins=100,
            bin_s=60.0,
            gpus=1,
        ),
    )


def a_pareto(*points: Point, target_ratio: float = 0.01) -> ParetoSweep:
    window = Window(trace=a_trace(), setting=Setting(), capacity_rps=1.0, start=MONDAY, end=MONDAY + DAY)
    return ParetoSweep(window=window, points=points, target_ratio=target_ratio)


# ── The frontier and matched cost ─────────────────────────────────────────────────────────────────────────────


def test_the_frontier_is_what_nothing_beats() -> None:
    sweep = a_pareto(
        a_point("best of both", missed=2, billed=120),
        a_point("as many misses, dearer", missed=2, billed=130),
        a_point("never misses", missed=0, billed=200),
        a_point("worse in both", missed=3, billed=150),
        a_point("frugal", missed=40, billed=90),
    )
    assert [each.policy for each in sweep.frontier] == ["never misses", "best of both", "frugal"]


figures = st.tuples(st.integers(0, 8), st.integers(90, 100))


@given(st.lists(figures, min_size=1, max_size=12))
def test_everything_off_the_frontier_is_beaten_by_something_on_it(drawn: list[tuple[int, int]]) -> None:
    points = [a_point(str(index), missed=missed, billed=billed) for index, (missed, billed) in enumerate(drawn)]
    frontier = {
        each.policy: (each.score.missed_bins, each.score.billed_gpu_bins) for each in a_pareto(*points).frontier
    }
    for point in points:
        mine = (point.score.missed_bins, point.score.billed_gpu_bins)
        no_worse = [each for each in frontier.values() if each[0] <= mine[0] and each[1] <= mine[1]]
        assert no_worse
        if point.policy in frontier:
            assert no_worse == [mine], "nothing on it is beaten"


def test_each_familys_cheapest_within_the_target_and_the_product_as_it_comes() -> None:
    sweep = a_pareto(
        a_point("headstart", family="headstart", missed=2, billed=120),
        a_point("headstart:target=0.1%", family="headstart", missed=1, billed=125),
        a_point("hpa:0.5", family="hpa", missed=0, billed=200),
        a_point("hpa:0.6", family="hpa", missed=1, billed=150),
        a_point("hpa:0.7", family="hpa", missed=2, billed=130),
        a_point("kpa:1", family="kpa", missed=9, billed=100),
    )
    rows = [(each.family, each.point and each.point.policy, each.tuned_in_hindsight) for each in sweep.matched]
    assert rows == [
        ("headstart", "headstart", False),
        ("headstart", "headstart:target=0.1%", True),
        ("hpa", "hpa:0.6", True),
        ("kpa", None, True),
    ]


def test_costs_are_compared_bin_for_bin() -> None:
    one, other = a_point("a", missed=0, billed=0), a_point("b", missed=0, billed=0)
    doubled = replace(one, course=replace(one.course, billed=one.course.billed * 2))
    ratio, between = doubled.cost_against(other)
    assert (ratio, between.low, between.high) == (2.0, 2.0, 2.0), "paired: twice as dear in every hour"


# ── Grids ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_products_knob_is_its_target_and_the_settings_own_has_its_plain_name() -> None:
    assert grids(["headstart"], own=0.01)["headstart"] == (
        "headstart:target=10%",
        "headstart:target=5%",
        "headstart:target=2%",
        "headstart",
        "headstart:target=0.5%",
        "headstart:target=0.25%",
        "headstart:target=0.1%",
    )
    assert grids(["headstart"], own=0.03)["headstart"][2:5] == (
        "headstart",
        "headstart:target=2%",
        "headstart:target=1%",
    )


def test_rivals_are_swept_as_their_catalogue_says() -> None:
    assert grids(["kpa", "hpa", "kpa"], own=0.01) == {"kpa": KNOBS["kpa"], "hpa": KNOBS["hpa"]}
    with pytest.raises(UnknownPolicyError, match="no family 'oracle' to sweep; there are headstart, "):
        grids(["kpa", "oracle"], own=0.01)


# ── Played ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_point_is_what_simulate_says_of_that_policy() -> None:
    names = ["headstart", "headstart:target=5%", "hpa-plain:0.8"]
    sweep = pareto_sweep(a_trace(), {"all": names}, Setting(), members=MEMBERS)
    alone = simulate(a_trace(), names, Setting(), members=MEMBERS)
    assert [each.policy for each in sweep.points] == names
    assert {each.policy: each.score for each in sweep.points} == alone.scores
    assert {each.policy: each.regret for each in sweep.points} == alone.regrets
    assert (sweep.window.capacity_rps, sweep.window.start, sweep.window.end) == (
        alone.capacity_rps,
        alone.start,
        alone.end,
    )


def test_more_processes_give_the_same_sweep_in_the_same_order() -> None:
    families = {"headstart": ["headstart"], "kpa": ["kpa:0.9", "kpa:0.5"], "static": ["static-peak"]}
    told: list[float] = []
    one, two = (
        pareto_sweep(
            a_trace(),
            families,
            Setting(),
            members=MEMBERS,
            processes=processes,
            progress=lambda share, what: told.append(share),
        ).as_json()
        for processes in (1, 2)
    )
    assert one == two
    assert [each["policy"] for each in two["points"]] == ["headstart", "kpa:0.9", "kpa:0.5", "static-peak"]
    assert max(told) == pytest.approx(1.0)
    assert min(told) >= 0.0


class Impatient(Exception):
    """Whoever watches has seen enough."""


def test_whoever_leaves_early_leaves_no_workers_behind() -> None:
    def leave(share: float, what: str) -> None:
        raise Impatient(what)

    tasks = [Task(policy=f"kpa:{each / 10}", setting=Setting()) for each in range(1, 9)]
    with pytest.raises(Impatient):
        play_all(a_trace(), tasks, members=(), progress=leave, processes=2)
    assert multiprocessing.active_children() == []


ASKER = """
import sys
from pathlib import Path
from datetime import timedelta
from forecaster.trace import read_trace
from scaler.simulate.spread import Task, play_all
from scaler.simulate.trace import Setting
import multiprocessing

def seen(share, what):
    print(*(each.pid for each in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    tasks = [Task(policy=f"kpa:{each / 1000}", setting=Setting()) for each in range(1, 1000)]
    play_all(read_trace(Path(sys.argv[1])), tasks, members=(), progress=seen, processes=2)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="tells the living by /proc")
def test_workers_end_with_an_asker_that_was_killed(tmp_path: Path) -> None:
    """`timeout 60 headstart simulate --sweep` once left two idle processes behind for ever."""
    rows = (f"{(MONDAY + index * TEN).isoformat()},{100 + index % 7}" for index in range(432))
    (tmp_path / "t.csv").write_text("\n".join(("timestamp,requests", *rows)))
    (tmp_path / "asker.py").write_text(ASKER)
    command = [sys.executable, str(tmp_path / "asker.py"), str(tmp_path / "t.csv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        workers = [int(each) for each in asker.stdout.readline().split()]
        asker.kill()
    assert len(workers) == 2
    until = time.monotonic() + 60.0
    while alive := [each for each in workers if Path(f"/proc/{each}").exists()]:
        if time.monotonic() > until:
            for each in alive:
                os.kill(each, signal.SIGKILL)
            pytest.fail("the workers outlived their asker")
        time.sleep(0.05)


def test_what_simulate_refuses_is_refused_from_a_worker_too() -> None:
    tasks = [Task(policy=each, setting=Setting()) for each in ("hpa", "hpaa")]
    with pytest.raises(UnknownPolicyError, match="Did you mean 'hpa'"):
        play_all(a_trace(), tasks, members=(), processes=2)
    with pytest.raises(SeriesError, match="nothing to score"):
        pareto_sweep(a_trace(), {"hpa": ["hpa"]}, Setting(score_from=MONDAY + 9 * DAY))
    with pytest.raises(UnknownPolicyError, match="at least one policy"):
        pareto_sweep(a_trace(), {}, Setting())


def test_short_work_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pool(*_: object, **__: object) -> None:
        raise AssertionError("a pool was opened")

    monkeypatch.setattr("scaler.simulate.spread.ProcessPoolExecutor", no_pool)
    runs: Sequence[TraceRun] = play_all(
        a_trace(), [Task(policy=each, setting=Setting()) for each in ("hpa", "kpa")], members=()
    )
    assert [list(each.courses) for each in runs] == [["hpa"], ["kpa"]]
    if len(os.sched_getaffinity(0)) > 1:
        long = [Task(policy="headstart", setting=Setting())] * 100
        with pytest.raises(AssertionError, match="a pool was opened"):
            play_all(a_trace(), long, members=MEMBERS)


# ── Cold starts ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("step_s", "expected"),
    [
        pytest.param(10, [0, 30, 60, 90, 120, 180, 240, 300], id="all differ"),
        pytest.param(60, [0, 60, 120, 180, 240, 300], id="30 s is a minute, 90 s are two"),
        pytest.param(600, [0, 300], id="any start is one bin"),
    ],
)
def test_cold_starts_that_differ_on_bins_of_a_width(step_s: int, expected: list[int]) -> None:
    assert [each.total_seconds() for each in cold_starts_for(timedelta(seconds=step_s))] == expected


def test_the_slower_the_start_the_more_is_missed_until_it_never_serves() -> None:
    """Ten minutes of two replicas in each twenty: a start of L bins misses 1 + L of them, and never the tenth."""
    sweep = cold_start_sweep(
        stairs(), ["last-value:1", "static-peak"], Setting(capacity_rps=10.0), target_ratio=0.16, members=()
    )
    missed = {(each.policy, each.cold_start_bins): each.score.missed_bins for each in sweep.points}
    assert [missed["last-value:1", bins] for bins in range(6)] == [6 * (1 + bins) for bins in range(6)]
    assert [missed["static-peak", bins] for bins in range(6)] == [0] * 6
    reactor = [each.regret.missed_bins for each in sweep.points if each.policy == "last-value:1"]
    assert [each[Miss.LATE_SIGNAL] for each in reactor] == [6] * 6
    assert [each[Miss.COLD_START] for each in reactor] == [6 * bins for bins in range(6)]
    assert [(each.policy, each.within, each.over) for each in sweep.cliffs] == [
        ("last-value:1", 2 * MINUTE, 3 * MINUTE),
        ("static-peak", 5 * MINUTE, None),
    ]


def test_the_setting_is_that_of_each_point_and_the_capacity_that_of_all() -> None:
    sweep = cold_start_sweep(a_trace(), ["hpa"], Setting(cold_start=DAY), cold_starts=[TEN, timedelta(0), TEN])
    assert [(each.cold_start, each.cold_start_bins) for each in sweep.points] == [(timedelta(0), 0), (TEN, 1)]
    assert sweep.window.capacity_rps == simulate(a_trace(), ["hpa"], Setting()).capacity_rps


def test_a_hair_over_the_target_is_no_cliff() -> None:
    points = tuple(
        a_point("p", missed=missed, billed=1, cold_start=MINUTE * at) for at, missed in enumerate((1, 2, 40))
    )
    (cliff,) = ColdStartSweep(window=a_pareto(*points).window, points=points, target_ratio=0.015).cliffs
    assert (cliff.within, cliff.over) == (MINUTE, 2 * MINUTE), "2 % of one window may be 1.5 % of another"


def test_a_cliff_at_the_first_step_bears_nothing() -> None:
    points = tuple(
        a_point("p", missed=missed, billed=1, cold_start=MINUTE * at) for at, missed in enumerate((50, 0, 0))
    )
    window = a_pareto(*points).window
    (cliff,) = ColdStartSweep(window=window, points=points, target_ratio=0.01).cliffs
    assert (cliff.within, cliff.over) == (None, timedelta(0)), "what recovers later is no plateau"


# ── Documents ─────────────────────────────────────────────────────────────────────────────────────────────────

HEAD = {
    "apiVersion": "headstart/v1",
    "kind": "SimulationSweep",
    "trace": "stairs.csv",
    "column": "requests",
    "bin_s": 60.0,
    "capacity_rps": 10.0,
    "score_from": "2026-03-03T00:00:00+00:00",
    "score_to": "2026-03-03T02:00:00+00:00",
    "confidence": {
        "level": 0.95,
        "method": "moving-block bootstrap",
        "block_s": 3600.0,
        "resamples": 200,
        "seeds": [1, 2, 3, 4, 5],
    },
}


def test_a_pareto_document() -> None:
    sweep = pareto_sweep(
        stairs(),
        {"static": ["static-peak"], "reactor": ["last-value:1"]},
        Setting(capacity_rps=10.0, cold_start=MINUTE, score_from=MONDAY + DAY, price_per_gpu_hour=3.0),
        members=(),
    )
    # Two replicas for two hours; the reactor bills the second one for ten minutes of each twenty, a bin late.
    peak = {"gpu_hours": 4.0, "gpu_ratio": 1.3333, "under_provisioned_ratio": 0.0}
    reactor = {"gpu_hours": 3.0, "gpu_ratio": 1.0, "under_provisioned_ratio": 0.1}
    document = sweep.as_json("stairs.csv")
    points = document.pop("points")
    assert document == {
        **HEAD,
        "sweep": "pareto",
        "cold_start_s": 60.0,
        "target_ratio": 0.01,
        "matched": [
            {"family": "static", "tuned_in_hindsight": True, "policy": "static-peak", **peak, "money": 12.0},
            {"family": "reactor", "tuned_in_hindsight": True, "policy": None},
        ],
    }
    assert [each["frontier"] for each in points] == [True, True]
    for point, expected in zip(points, (peak, reactor), strict=True):
        assert {name: point[name] for name in expected} == expected
        low, high = point["interval"]["gpu_ratio"]
        assert low <= point["gpu_ratio"] <= high
    assert points[0]["interval"]["under_provisioned_ratio"] == [0.0, 0.0]


def test_a_cold_start_document() -> None:
    sweep = cold_start_sweep(
        stairs(),
        ["last-value:1"],
        Setting(capacity_rps=10.0, score_from=MONDAY + DAY),
        cold_starts=[timedelta(seconds=90)],
        members=(),
    )
    document = sweep.as_json("stairs.csv")
    (point,) = document.pop("points")
    assert document == {
        **HEAD,
        "sweep": "cold-start",
        "target_ratio": 0.01,
        "cliffs": [{"policy": "last-value:1", "within_s": None, "over_s": 90.0}],
    }
    assert (point["cold_start_s"], point["cold_start_bins"]) == (90.0, 2), "90 s reach into two bins"
    assert point["regret"]["missed"] == {"bounds": 0.0, "late_signal": 6.0, "cold_start": 12.0, "late_decision": 0.0}


def test_a_run_says_what_is_regretted_and_what_it_costs() -> None:
    setting = Setting(capacity_rps=10.0, score_from=MONDAY + DAY, price_per_gpu_hour=2.0)
    document = simulate(stairs(), ["static-peak"], setting, members=()).as_json()
    (policy,) = document["policies"]
    assert document["price_per_gpu_hour"] == 2.0
    assert "max_replicas" not in document
    assert (policy["gpu_hours"], policy["money"]) == (4.0, 8.0)
    # The plan bills each second replica for ten minutes and its start of three: 78 of the 120 minutes.
    assert policy["regret"]["gpu_hours"]["above_oracle"] == 0.7
    assert policy["regret"]["money"]["bridged"] == pytest.approx(
        2.0 * policy["regret"]["gpu_hours"]["bridged"], abs=0.01
    )
    free = simulate(stairs(), ["static-peak"], replace(setting, price_per_gpu_hour=None), members=()).as_json()
    assert "money" not in free["policies"][0]
    assert "money" not in free["policies"][0]["regret"]


# ── Settings of a run that sweeps need ────────────────────────────────────────────────────────────────────────


def test_a_looser_target_is_cheaper_by_name_or_by_setting() -> None:
    trace, strict, loose = a_trace(3), "headstart:target=0.1%", "headstart:last-value:target=0.2"
    named = simulate(trace, [strict, "headstart", loose], Setting(), members=MEMBERS).scores
    assert named[strict].billed_gpu_bins > named["headstart"].billed_gpu_bins > named[loose].billed_gpu_bins
    by_setting = simulate(trace, ["headstart"], Setting(missed_target_ratio=0.2), members=MEMBERS)
    assert by_setting.scores["headstart"] == named[loose]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("headstart:target=", "needs a share after target=", id="no number"),
        pytest.param("headstart:target=much", "such as headstart:target=0.5%", id="a word"),
        pytest.param("headstart:target=100%", "above 0 and below 100%", id="everything"),
        pytest.param("headstart:target=0", "above 0 and below 100%", id="nothing"),
        pytest.param("headstart:target=nan", "above 0 and below 100%", id="not a number"),
        pytest.param("headstart:", "no policy 'headstart:'", id="nothing after the colon"),
    ],
)
def test_targets_that_are_none(name: str, complaint: str) -> None:
    with pytest.raises(UnknownPolicyError, match=complaint):
        simulate(a_trace(), [name], Setting(), members=MEMBERS)


def test_nobody_orders_more_than_the_bound_and_what_it_costs_is_the_bounds() -> None:
    names = ["headstart", "reactive", "hpa", "kpa", "schedule", "static-peak", "oracle"]
    run = simulate(a_trace(3), names, Setting(max_replicas=9), members=MEMBERS)
    for name, course in run.courses.items():
        assert course.billed[1:].max() <= 9, name
        assert run.regrets[name].missed_bins[Miss.BOUNDS] > 0, name
    assert run.regrets["oracle"].above_plan_replica_bins == 0
    assert {run.regrets["oracle"].missed_bins[each] for each in Miss if each is not Miss.BOUNDS} == {0}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        pytest.param({"max_replicas": 0}, "max_replicas must be at least 1, got 0", id="no replica"),
        pytest.param({"missed_target_ratio": 1.0}, "must lie in (0, 1), got 1.0", id="a target of all"),
        pytest.param({"price_per_gpu_hour": -1.0}, "at least 0, got -1.0", id="a price below nothing"),
        pytest.param({"price_per_gpu_hour": float("nan")}, "at least 0, got nan", id="no price"),
    ],
)
def test_settings_that_are_none(wrong: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError) as refused:
        Setting(**wrong)  # type: ignore[arg-type]
    assert complaint in str(refused.value)


# ── How sure ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_even_is_certain_and_what_never_happened_is_zero() -> None:
    ones = np.ones(600)
    assert interval(ones * 3, ones * 2, step=MINUTE).as_json() == [1.5, 1.5]
    assert interval(ones * 0, ones, step=MINUTE).as_json() == [0.0, 0.0]
    assert interval(np.tile([1.0, 0.0], 300), ones, step=MINUTE).as_json() == [0.5, 0.5], "whole hours are drawn"


def test_misses_that_cling_together_are_less_certain_than_as_many_scattered() -> None:
    scattered, clinging = np.zeros(5760), np.zeros(5760)
    scattered[np.random.default_rng(3).choice(5760, 60, replace=False)] = 1.0
    clinging[3000:3060] = 1.0
    one, two = (interval(each, np.ones(5760), step=MINUTE) for each in (scattered, clinging))
    assert one.low < 60 / 5760 < one.high
    assert two.high - two.low > 2.0 * (one.high - one.low)


def test_unknown_bins_weigh_nothing() -> None:
    missed, known = np.tile([1.0, 0.0], 300), np.ones(600)
    missed[100:400] = known[100:400] = 0.0
    assert interval(missed, known, step=MINUTE).as_json() == pytest.approx([0.5, 0.5], abs=0.01)
    nothing = interval(np.zeros(90), np.zeros(90), step=MINUTE)
    empty = interval(np.zeros(0), np.zeros(0), step=MINUTE)
    assert np.isnan([nothing.low, nothing.high, empty.low, empty.high]).all()


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Two hundred windows of independent misses at 5 %: the 95 % interval holds it in most of them."""
    held = 0
    for seed in range(200):
        missed = (np.random.default_rng(seed).random(2880) < 0.05).astype(float)
        found = interval(missed, np.ones(2880), step=MINUTE)
        held += found.low <= 0.05 <= found.high
    assert 0.88 <= held / 200 <= 0.99


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([MINUTE, TEN, timedelta(hours=3)]))
def test_an_interval_lies_within_what_a_bin_can_be(seed: int, bins: int, step: timedelta) -> None:
    missed = (np.random.default_rng(seed).random(bins) < 0.3).astype(float)
    found = interval(missed, np.ones(bins), step=step)
    assert 0.0 <= found.low <= found.high <= 1.0
    assert found == interval(missed, np.ones(bins), step=step), "drawn from fixed seeds"
