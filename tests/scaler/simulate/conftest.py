"""A short week for the tests that look at a whole run."""

from __future__ import annotations

import pytest

from forecaster.models.seasonal import LastValue
from scaler.simulate.demo import DemoRun, simulate_week


@pytest.fixture(scope="session")
def two_days() -> DemoRun:
    """Two days of the demo, the first not scored, with the plainest forecaster there is."""
    return simulate_week(3, days=2, learning_days=1, members=(LastValue(),))
