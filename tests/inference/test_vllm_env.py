"""The script behind `make vllm-env`: does nothing twice, and says what is missing before it downloads anything."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import slow_vllm

SCRIPT = Path(__file__).parent / "vllm_env.sh"
BUILD_STEPS = ("fit_torchvision.py", "name_distribution.py", "tiny_model.py")


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
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


def test_where_it_cannot_be_built_the_tests_run_without_it_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    folder = tmp_path / "env"

    answer = run_script("--or-without", VLLM_ENV_DIR=str(folder), PYTHON=str(old))

    assert answer.returncode == 0
    assert "NO REAL vLLM HERE" in answer.stderr
    monkeypatch.setattr(slow_vllm, "BUILT", folder)
    with pytest.raises(pytest.skip.Exception, match=r"is older than Python 3\.11"):
        slow_vllm.built()


@pytest.mark.parametrize(
    ("free_gib", "refused"), [pytest.param(7, True, id="too little"), pytest.param(9, False, id="enough")]
)
def test_a_disk_that_is_short_is_not_filled(tmp_path: Path, free_gib: int, refused: bool) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("df", f"printf 'Filesystem\\n/dev/x 0 0 {free_gib * 2**20} 0 /\\n'"),
        ("python3", 'case "$1" in -c) exit 0 ;; *) echo "asked for a venv" >&2; exit 1 ;; esac'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    answer = run_script(
        VLLM_ENV_DIR=str(tmp_path / "env"),
        PYTHON=str(programs / "python3"),
        PATH=f"{programs}:{os.environ['PATH']}",
    )

    assert answer.returncode == 1
    assert ("8 GiB of free disk are needed" in answer.stderr) is refused
    assert ("asked for a venv" in answer.stderr) is not refused
