"""The daemon does not grow: weeks of ticks in a process of their own (`benchmarks.soak`).

In `make bench` some hours of the fleet's time; with HEADSTART_SOAK=1 (`make soak`) a week, 10,000 ticks of 50 workloads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks.fleet_world import REPO
from servers import prometheus_is_installed

LONG = bool(os.environ.get("HEADSTART_SOAK"))
WORKLOADS, TICKS = (50, 10_000) if LONG else (10, 600)
MOST_DRIFT_MIB_PER_HOUR = 1.0

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(6 * 3600),
    pytest.mark.skipif(not prometheus_is_installed(), reason="needs prometheus and promtool on the PATH"),
]


def test_it_does_not_grow() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--workloads", str(WORKLOADS), "--ticks", str(TICKS), "--json"]
    paths = os.pathsep.join([str(REPO), str(REPO / "tests")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    sys.stdout.write(f"\n{json.dumps(found, indent=1)}\n")
    assert found["drift_mib_per_hour"] < MOST_DRIFT_MIB_PER_HOUR
    assert found["open_files"] <= found["open_files_half"] + 8, "files are left open"
    assert found["written"] > 0, "a fleet that stands still proves nothing"
    assert found["failures"] == 0
