"""What is loaded when, and what the core needs: a scaler must be small, and its decision must load nothing at all."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires

import pytest

from scaler.adapters.states import _FORECAST_CAUSES
from scaler.policy.types import Trust

HEAVY = {"torch", "pandas", "scipy", "statsmodels", "lightgbm", "pyarrow", "kubernetes"}


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh process that ran `statement`."""
    code = f"{statement}\nimport sys\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        pytest.param(
            "import scaler.policy.decide, scaler.policy.explain, scaler.loop",
            HEAVY | {"numpy", "pydantic"},
            id="the decision",
        ),
        pytest.param(
            "import scaler.cli", HEAVY | {"numpy", "pydantic", "requests", "starlette"}, id="the command line"
        ),
        pytest.param("import scaler.daemon", HEAVY, id="the daemon"),
        pytest.param("import scaler.simulate.demo", HEAVY, id="the demo"),
        pytest.param("import inference.manifests", HEAVY | {"numpy", "forecaster", "scaler"}, id="the served side"),
    ],
)
def test_what_stays_unloaded(statement: str, absent: set[str]) -> None:
    loaded = loaded_after(statement)
    assert "sys" in loaded
    assert not loaded & absent


def test_the_core_installs_without_the_heavy_packages() -> None:
    core = {
        re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in requires("headstart") or () if "extra ==" not in line
    }
    assert {"numpy", "kubernetes", "prometheus-api-client"} <= core
    assert not core & (HEAVY - {"kubernetes"})


def test_each_verdict_on_the_forecast_has_a_cause() -> None:
    assert set(_FORECAST_CAUSES) == set(Trust) - {Trust.TRUSTED}
