"""Where the real vLLM is, for the tests that use it: they skip where `make vllm-env` has not built it."""

from __future__ import annotations

from pathlib import Path

import pytest

from slow_vllm import built


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    """The folder of the environment that holds a CPU build of vLLM and a tiny Qwen3-VL."""
    return built()


@pytest.fixture(scope="session")
def vllm_python(vllm_environment: Path) -> Path:
    """The Python that imports vLLM."""
    return vllm_environment / "bin" / "python"
