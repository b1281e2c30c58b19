"""What the shipped network has seen: seeded synthetic workloads.

Decides the training fleet: habits are drawn over the whole range that people show, from clockwork to no clock at all,
from a request a minute to thousands a second. No recorded traffic goes in, so the network can be judged on any. It is
made by `python -m forecaster.train --pretrain --seed 7 --out data/models`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.synthetic import ARCHETYPES, TrafficSpec, generate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.types import Series

START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday, so that the weekend factors fall where they belong."""
DAYS = 9
"""One week, and the two days that the first windows look back on."""


def drawn_spec(number: int, draw: np.random.Generator) -> TrafficSpec:
    """One workload of the training fleet: an archetype's habit, stretched, shifted and disturbed at random."""
    base = list(ARCHETYPES.values())[number % len(ARCHETYPES)]
    hours = np.roll(np.array(base.hours, dtype=np.float64), draw.integers(0, 24)) ** draw.uniform(0.1, 1.3)
    return replace(
        base,
        name=f"{base.name}-{number}",
        mean_rps=float(10 ** draw.uniform(-1.5, 3.0)),
        hours=tuple((hours + 1e-6).tolist()),
        growth_per_week_ratio=float(draw.uniform(-0.1, 0.3)),
        wander_ratio=float(10 ** draw.uniform(-1.7, -0.3)),
        wander_memory=timedelta(minutes=float(10 ** draw.uniform(0.7, 3.0))),
        dispersion=float(1.0 + 10 ** draw.uniform(-0.5, 1.5)),
        bursts_per_day=float(draw.choice([0.0, 0.5, 2.0, 10.0])),
        burst_ratio=float(draw.uniform(1.3, 4.0)),
        burst_duration=timedelta(minutes=float(draw.uniform(2.0, 30.0))),
        outages_per_week=float(draw.choice([0.0, 1.0])),
    )


def training_fleet(*, workloads: int, seed: int) -> Sequence[Series]:
    """The synthetic series that the shipped network learns from."""
    draw = np.random.default_rng(seed)
    return [generate(drawn_spec(number, draw), start=START, days=DAYS, seed=seed).series for number in range(workloads)]
