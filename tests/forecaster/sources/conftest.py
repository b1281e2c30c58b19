"""Fixtures of the sources' tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from metrics_fleet import Fleet, running_fleet
from servers import prometheus_is_installed


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The fleet, warmed up for one rate window."""
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    with running_fleet() as running:
        yield running


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)
