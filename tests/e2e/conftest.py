"""Where the real servers of the end-to-end stories come from; without them the stories are skipped."""

from __future__ import annotations

import shutil

import pytest

from e2e_parts import ROOT
from scaler.rehearsal.recipe import Recipe, tiny_vllm


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """A real vLLM with a tiny Qwen3-VL, as slow as a GPU."""
    environment = ROOT / ".venv-vllm"
    if not (environment / "headstart.stamp").is_file():
        pytest.skip("no CPU build of vLLM in .venv-vllm: make vllm-env builds it (2.5 GB, some minutes)")
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("prometheus and promtool are not installed: apt-get install prometheus")
    return tiny_vllm(environment, ROOT / "tests" / "inference" / "vllm_env")
