"""Where the real vLLM is, for the tests that use it: they skip where `make vllm-env` has not built it."""

from __future__ import annotations

from pathlib import Path

import pytest

VLLM_ENVIRONMENT = Path(__file__).parents[2] / ".venv-vllm"


@pytest.fixture(scope="session")
def vllm_environment() -> Path:
    """The folder of the environment that holds a CPU build of vLLM and a tiny Qwen3-VL."""
    # The stamp is written last: without it the build is missing or was interrupted.
    if not (VLLM_ENVIRONMENT / "headstart.stamp").is_file():
        pytest.skip("no CPU build of vLLM in .venv-vllm: make vllm-env builds it (2.5 GB, some minutes)")
    return VLLM_ENVIRONMENT


@pytest.fixture(scope="session")
def vllm_python(vllm_environment: Path) -> Path:
    """The Python that imports vLLM."""
    return vllm_environment / "bin" / "python"
