"""The published laws: the ramp is the published one, cells say what was played, and the page has a place for each table.

The figures themselves are worked out by `make laws` alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import published, published_laws
from scaler.config import read_profile
from scaler.service.model import max_rate_rps
from scaler.simulate.serving.outcome import Interval, Outcome
from scaler.simulate.serving.run import simulate_serving
from scaler.simulate.serving.sweep import ServingParetoSweep, ServingPoint


def test_the_ramp_is_the_published_one():
    rates = published_laws.ramp_rps()
    assert sum(rates) * 60.0 == sum(rate * span_s for rate, span_s in published_laws.STAGES) == 12_480
    assert rates[:8] == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0], "half a minute without load, then whole minutes"
    assert (max(rates), rates[30], rates[36], rates[40], rates[41]) == (10.0, 4.0, 1.0, 1.0, 0.0)
    assert published_laws.LOAD_MIN == 41


@pytest.mark.parametrize(
    ("case", "ramps"),
    [
        pytest.param(published_laws.day_one, 0, id="never seen"),
        pytest.param(published_laws.daily, 7, id="a week of days"),
        pytest.param(published_laws.two_hourly, 84, id="a week of every two hours"),
    ],
)
def test_what_was_seen_before(case, ramps):
    found = case()
    before = (found.opens - found.trace.series.start) // published_laws.MINUTE
    values = found.trace.series.values
    assert values[before:].tolist() == published_laws.ramp_rps()
    assert values[:before].sum() * 60.0 == pytest.approx(ramps * 12_480, rel=0.01)


def test_the_profile_keeps_its_word():
    profile = read_profile(published_laws.PROFILE)
    (one,) = profile.classes
    assert one.max_rps == pytest.approx(max_rate_rps(profile.service, one.tokens.shape, one.slo), rel=0.001)
    assert profile.start.total_s == 100.0
    assert profile.gpus == 2
    for other in published_laws.sensitivity(profile).values():
        assert other.classes[0].max_rps == pytest.approx(
            max_rate_rps(other.service, other.classes[0].tokens.shape, other.classes[0].slo), rel=0.001
        )


def test_spread_of_a_request_from_sums_over_a_few():
    generator = np.random.default_rng(1)
    counts = generator.poisson(3.0, 5000)
    sums = np.array([generator.normal(100.0, 30.0, count).sum() for count in counts])
    assert published_laws._cv(sums, counts) == pytest.approx(0.3, abs=0.02)


def served(**changed: int) -> Outcome:
    case = published_laws.day_one()
    setting = replace(published_laws.setting(case, seeds=(1,)), **changed)
    run = simulate_serving(case.trace, read_profile(published_laws.PROFILE), ["hpa"], setting, members=())
    return run.outcomes["hpa"][0]


def test_an_episode_ends_when_the_pool_is_back_at_its_floor():
    average, minutes = published_laws.episode(served())
    assert published_laws.LOAD_MIN <= minutes < published_laws.LOAD_MIN + published_laws.DRAIN_MIN
    assert 3.0 < average < 8.0
    assert published_laws.episode(served(min_replicas=8), floor=8) == (8.0, published_laws.LOAD_MIN)
    never = served(min_replicas=4)
    assert published_laws.episode(never)[1] == never.billed_s.size, "a pool that never drains is billed to the end"


@pytest.mark.parametrize(
    ("interval", "cell"),
    [
        pytest.param(Interval(mean=0.9997, half_width=0.0005), "99.97 ± 0.05", id="several seeds"),
        pytest.param(Interval(mean=0.9997, half_width=float("nan")), "99.97", id="one seed"),
        pytest.param(Interval(mean=float("inf"), half_width=float("nan")), "∞", id="never"),
        pytest.param(Interval(mean=float("nan"), half_width=float("nan")), "–", id="not known"),
    ],
)
def test_cells(interval, cell):
    assert published_laws.shown(interval, factor=100.0) == cell


def test_who_knows_no_past_is_taken_from_day_one():
    def points(*families: str) -> tuple[ServingPoint, ...]:
        return tuple(ServingPoint(policy=each, family=each, cold_start_s=100.0, outcomes=()) for each in families)

    seen = ServingParetoSweep(window=None, points=points("headstart", "dynamo"), target_attainment=0.9)
    unseen = ServingParetoSweep(window=None, points=points("headstart", "dynamo", "hpa"), target_attainment=0.9)
    both = published_laws.with_the_others(seen, unseen)
    assert [each.family for each in both.points] == ["headstart", "dynamo", "hpa"]
    assert both.points[:2] == seen.points


def test_the_page_has_a_place_for_every_table_and_makes_no_claim_without_a_source():
    page = published_laws.PAGE.read_text(encoding="utf-8")
    names = ["ramp-day-one", "ramp-daily", "ramp-every-two-hours", "pareto-day-one", "pareto-daily", "sensitivity"]
    tables = {name: [["policy", "a"], ["hpa", "1"]] for name in (*names, "cliff")}
    again, changes = published.placed(page, tables)
    assert changes, "the tables stand there"
    assert again.count("<!-- table:") == len(tables)
    for fact in ("95.8", "84.7", "5.93", "llm-d-autoscaling#1249", "make laws"):
        assert fact in page


def test_without_the_trace_the_rest_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(published_laws, "CLIFF_POLICIES", ("hpa", "dynamo"))
    monkeypatch.setattr(published_laws, "SEEDS", (1,))
    case = published_laws.day_one()
    profile = read_profile(published_laws.PROFILE)
    quick = replace(published_laws.setting(case), seeds=(1,))
    monkeypatch.setattr(published_laws, "setting", lambda *_, **__: quick)
    told = published_laws.Told(said.append)
    found = published_laws._cliffs(case, case, profile, tmp_path / "none.csv.gz", told, said.append, 1)
    assert list(found) == ["ramp, day one", "ramp, daily"]
    assert "none.csv.gz is not there: its rows are left out" in said
    table = published_laws.cliff_table(found)
    starts = ["0 s", "30 s", "60 s", "90 s", "120 s", "180 s", "240 s", "300 s"]
    assert table[0] == ["traffic, policy", *starts, "over 3 s", "over 30 s", "GPU-hours at 120 s"]
    assert table[1][9:11] == ["never", "never"], "seven replicas' headroom bears any start"
    rows = ["ramp, day one, hpa", "ramp, day one, dynamo", "ramp, daily, dynamo"]
    assert [row[0] for row in table[1:]] == rows, "who knows no past is played once"
