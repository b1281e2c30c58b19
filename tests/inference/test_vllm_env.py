"""The script behind `make vllm-env`: does nothing twice, and says what is missing before it downloads anything."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parent / "vllm_env.sh"
BUILD_STEPS = ("fit_torchvision.py", "name_distribution.py", "tiny_model.py")


def run_script(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_an_environment_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    sources = [SCRIPT, *(SCRIPT.parent / "vllm_env" / step for step in BUILD_STEPS)]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    (tmp_path / "headstart.stamp").write_text(digest + "\n")

    answer = run_script(VLLM_ENV_DIR=str(tmp_path), PYTHON="/nowhere/python")

    assert answer.returncode == 0, answer.stderr
    assert "is up to date" in answer.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["headstart.stamp"]


def test_an_older_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    answer = run_script(VLLM_ENV_DIR=str(tmp_path / "env"), PYTHON=str(old))

    assert answer.returncode == 1
    assert "is older than Python 3.11" in answer.stderr
    assert not (tmp_path / "env").exists()
