"""How many decisions a second the lab makes for simple policies: 27 days of one-minute bins, each decided on.

The floor is a figure, not a ratio: 20,000 a second of processor time, as `headstart simulate` promises for a trace of
four weeks in two seconds. Measured: hpa-plain 394,000, schedule 209,000, last-value
193,000, kpa 119,000, hpa 117,000 (four syncs a decision), hpa-pods 83,000, seasonal-naive 73,000, llmd 58,000, dynamo
48,000 (a regression each third bin).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from scaler.simulate.policies import (
    PLANNERS,
    PLANS,
    RULES,
    Past,
    planner,
    replay,
    replay_planner,
    rule,
)
from scaler.simulate.scoring import Course

START, MINUTE = datetime(2026, 3, 2, tzinfo=UTC), timedelta(minutes=1)
BINS = 27 * 1440
COLD_START_BINS = 3
LEAST_PER_S = 20_000


def a_month() -> np.ndarray:
    """Days with a wave and noise, in replicas."""
    noise = np.random.default_rng(7).normal(0.0, 1.5, BINS)
    wave: np.ndarray = np.clip(8.0 + 5.0 * np.sin(np.arange(BINS) / 1440.0 * 2.0 * np.pi) + noise, 0.0, None)
    return wave


def played(name: str, load: np.ndarray) -> Callable[[], Course]:
    """One whole run of the policy."""
    if name in PLANS:
        return lambda: PLANS[name](load, COLD_START_BINS)
    if name in RULES:
        chosen = rule(name)
        return lambda: replay(chosen, load, cold_start_bins=COLD_START_BINS)
    history = load[: 14 * 1440]
    planned = planner(name, Past(loads=history, start=START, step=MINUTE))
    return lambda: replay_planner(
        planned, load, start=START, step=MINUTE, cold_start_bins=COLD_START_BINS, history=history
    )


@pytest.mark.parametrize("name", [*RULES, *PLANNERS, *PLANS])
def test_a_simple_policy_decides_twenty_thousand_times_a_second(name: str) -> None:
    play, fastest_s = played(name, a_month()), float("inf")
    for _ in range(3):
        began = time.process_time()
        course = play()
        fastest_s = min(fastest_s, time.process_time() - began)
        if BINS / fastest_s >= LEAST_PER_S:
            break
    assert course.billed.size == BINS
    assert BINS / fastest_s >= LEAST_PER_S, f"{name}: {BINS / fastest_s:,.0f} decisions a second"
