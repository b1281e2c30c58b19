"""Where the real servers of the end-to-end stories come from; without them the stories are skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scaler.rehearsal.recipe import Recipe, tiny_vllm
from slow_vllm import SUPPORT, built


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    """The folder of the environment that holds a CPU build of vLLM and a tiny Qwen3-VL."""
    return built()


@pytest.fixture(scope="session")
def recipe(vllm_environment: Path) -> Recipe:
    """A real vLLM with a tiny Qwen3-VL, as slow as a GPU, for a target that starts it by itself."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("prometheus and promtool are not installed: apt-get install prometheus")
    return tiny_vllm(vllm_environment, SUPPORT)
