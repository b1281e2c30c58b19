"""What predicts stays light: the daemon's process must never load the fitting libraries."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "pandas", "scipy", "statsmodels", "lightgbm", "pyarrow"}

LIGHT_WORK = """
import sys
from datetime import UTC, datetime
from forecaster import registry, backtest, train
from forecaster.models import ensemble
from forecaster.preprocess import panel_of
from forecaster.synthetic import ARCHETYPES, generate
from forecaster.types import SeriesKey
traffic = generate(ARCHETYPES["bursty-agent"], start=datetime(2026, 3, 2, tzinfo=UTC), days=4, seed=1)
panel = panel_of([(SeriesKey(workload="a/b", signal="demand_rps"), traffic.series)])
done = ensemble.step(registry.members().forecasters, panel)
assert done.forecasts and not done.failed, done
ensemble.from_bytes(ensemble.to_bytes(done.state))
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_forecasting_with_every_shipped_model_loads_no_fitting_library() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT_WORK], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & HEAVY
