"""What a decision and a forecast cost, as ratios within one run.

Measured on two shared, busy cores: a decision with a forecast 100 µs, 12 to 14 times the encoding of the forecast's
numbers as JSON (8 µs); one warm engine step 1.6 ms for one series and 104 ms for 256, so that a series in a batch costs
a quarter of one alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from forecaster import registry
from forecaster.models import ensemble
from forecaster.synthetic import ARCHETYPES, generate
from forecaster.types import Panel, SeriesKey
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy.decide import decide

START = datetime(2026, 3, 2, tzinfo=UTC)


def fastest_s(run: Callable[[], object], *, runs: int = 5) -> float:
    """The fastest of some runs: the one that was disturbed least."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def test_a_decision_costs_a_few_encodings_of_what_it_reads() -> None:
    forecast = a_forecast(50.0, spread_rps=5.0)
    snapshot, policy = a_snapshot(rps=50.0, desired=6, p95_s=0.4, forecasts=(forecast,)), a_policy(slo_s=1.2)
    state = settled(snapshot, policy)
    numbers = [[*levels] for levels in forecast.values]
    decide_s = fastest_s(lambda: [decide(snapshot, state, policy, now=NOON) for _ in range(1000)])
    encode_s = fastest_s(lambda: [json.dumps(numbers) for _ in range(1000)])
    assert decide_s < 30 * encode_s, f"decide {decide_s * 1000:.0f} µs, JSON of the forecast {encode_s * 1000:.0f} µs"


def step_s(series: int) -> float:
    """Seconds of one warm engine step."""
    names = sorted(ARCHETYPES)
    week = np.stack(
        [
            generate(ARCHETYPES[names[i % len(names)]], start=START, days=4, seed=i % 8).series.values
            for i in range(min(series, 8))
        ]
    )
    values = np.tile(week, (-(-series // len(week)), 1))[:series]
    keys = tuple(SeriesKey(workload=f"llm/w{i}", signal="demand_rps") for i in range(series))
    members = registry.members().forecasters
    state, times = None, []
    for grown in range(6):
        panel = Panel(keys=keys, start=START, step=MINUTE, values=values[:, : values.shape[1] - 6 + grown])
        began = time.perf_counter()
        state = ensemble.step(members, panel, state).state
        times.append(time.perf_counter() - began)
    return min(times[1:])


def test_a_batch_is_far_cheaper_than_its_series_one_by_one() -> None:
    one, many = step_s(1), step_s(256)
    assert many < 256 / 2 * one, f"one series {one * 1000:.1f} ms, 256 series {many * 1000:.1f} ms"
