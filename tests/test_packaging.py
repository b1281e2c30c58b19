"""What is loaded when, and what the core needs: a scaler must be small, and its decision must load nothing at all."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from scaler.adapters.states import _FORECAST_CAUSES
from scaler.policy.types import Trust

REPOSITORY = Path(__file__).parents[1]
OWN_ENVIRONMENT = {"vllm", "transformers", "tokenizers", "locust", "geventhttpclient"}
"""What runs in .venv-vllm or .venv-locust alone."""
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


def imported(folders: Iterable[str]) -> dict[str, Path]:
    """Top-level packages that the code imports, each with a file that does, but for our own and the standard library's."""
    tests = REPOSITORY / "tests"
    own = {*folders, *(path.stem for path in tests.rglob("*.py")), *(path.name for path in tests.iterdir())}
    found: dict[str, Path] = {}
    for folder in folders:
        for path in REPOSITORY.joinpath(folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                found |= {name.partition(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in own | set(sys.stdlib_module_names)}


def test_whatever_is_imported_is_pinned() -> None:
    """A package that happens to lie on this machine is missing on the next one."""
    pinned = {
        re.split(r"[=\s]", line)[0].lower().replace("_", "-")
        for line in REPOSITORY.joinpath("constraints.txt").read_text().splitlines()
    }
    owners = packages_distributions()
    unpinned = {
        name: str(path.relative_to(REPOSITORY))
        for name, path in imported(("forecaster", "scaler", "inference", "tests")).items()
        if name not in OWN_ENVIRONMENT
        and not {each.lower().replace("_", "-") for each in owners.get(name, ())} & pinned
    }
    assert not unpinned
