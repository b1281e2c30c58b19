"""Traffic and panels that the forecasting tests share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from forecaster.types import STEP, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)

PanelOf = Callable[..., Panel]


@pytest.fixture(scope="session")
def wave_panel() -> PanelOf:
    """A builder: `series` rows of Poisson arrivals over a daily wave, `days` long, at 10 requests a second."""

    def build(days: float, *, series: int = 1, seed: int = 1, start: datetime = START) -> Panel:
        minutes = np.arange(int(days * 1440))
        mean = 10.0 * (1.0 + 0.6 * np.sin(2 * np.pi * minutes / 1440))
        values = np.random.default_rng(seed).poisson(np.tile(mean * 60.0, (series, 1))) / 60.0
        keys = tuple(SeriesKey(workload=f"llm/w{number}", signal="demand_rps") for number in range(series))
        return Panel(keys=keys, start=start, step=STEP, values=values)

    return build
