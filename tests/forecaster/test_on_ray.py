"""The same training on a Ray cluster: one real cluster on this machine, jobs that join it, and what they may differ in.

The cluster and the jobs are processes of their own, as in life: `ray start`, then `python -m forecaster.train`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forecaster.train import train, write_panel
from forecaster.types import Panel, SeriesKey
from forecaster.unfinished import FOLDER
from training_cases import Watched, a_panel, quick, stored

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

ray_missing = "needs the ray extra"
STORE_BYTES = 100_000_000
"""The least object store that Ray starts with is 75 MB."""
QUIET = {
    **os.environ,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two processors; it ends with the module."""
    pytest.importorskip("ray", reason=ray_missing)
    port = free_port()
    # A socket's path may have 107 characters, so its folder lies near the root.
    with tempfile.TemporaryDirectory(prefix="hs-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2", "--temp-dir", folder]
        command += ["--object-store-memory", str(STORE_BYTES), "--include-dashboard", "false", "--disable-usage-stats"]
        with (Path(folder) / "said").open("w") as said:
            head = subprocess.Popen(command, stdout=said, stderr=said, env=QUIET, start_new_session=True)
        try:
            _await_port(port, head, Path(folder) / "said")
            yield f"127.0.0.1:{port}"
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=60)
            finally:
                _end_session(head)


def _await_port(port: int, head: subprocess.Popen[bytes], said: Path) -> None:
    ends = time.monotonic() + 120.0
    while True:
        assert head.poll() is None, said.read_text()
        assert time.monotonic() < ends, said.read_text()
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


def _end_session(head: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(head.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def job(panel: Path, out: Path, address: str, *more: str) -> list[str]:
    command = [sys.executable, "-m", "forecaster.train", "--input", str(panel), "--out", str(out), "--seed", "3"]
    return [*command, "--models", "holt-winters", "--engine", "ray", "--ray-address", address, *more]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=QUIET)


def events(said: str) -> list[dict[str, object]]:
    """The job's own lines; Ray may add some."""
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_it_makes_the_same_bytes_as_this_process_and_reports_what_failed(cluster: str, tmp_path: Path) -> None:
    panel = a_panel(19)
    dead = np.full((1, panel.values.shape[1]), np.nan)
    keys = (*panel.keys, SeriesKey(workload="llm/dead", signal="demand_rps"))
    panel = Panel(keys=keys, start=panel.start, step=panel.step, values=np.vstack([panel.values, dead]))
    write_panel(tmp_path / "panel.npz", panel)
    done = run(job(tmp_path / "panel.npz", tmp_path / "models", cluster))
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)
    assert (outcome["fitted"], list(outcome["failed"])) == (19, ["llm/dead/default"])
    assert sum(each["event"] == "series_done" for each in events(done.stderr)) == 20
    train(panel, out=tmp_path / "here", seed=3, models=("holt-winters",), work=quick())
    assert stored(tmp_path / "models") == stored(tmp_path / "here")


def test_a_job_that_is_interrupted_frees_the_cluster_and_is_continued_by_any_engine(
    cluster: str, tmp_path: Path
) -> None:
    panel, out = a_panel(800), tmp_path / "models"
    write_panel(tmp_path / "panel.npz", panel)
    said = tmp_path / "said"
    with said.open("w") as stream:
        begun = subprocess.Popen(job(tmp_path / "panel.npz", out, cluster), stdout=stream, stderr=stream, env=QUIET)
    try:
        ends = time.monotonic() + 240.0
        while not list(out.glob(f"{FOLDER}/*.json")):
            assert begun.poll() is None, said.read_text()
            assert time.monotonic() < ends, said.read_text()
            time.sleep(0.01)
        begun.send_signal(signal.SIGINT)
        assert begun.wait(timeout=120) == 130, said.read_text()
    finally:
        begun.kill()
        begun.wait()
    kept = len(list(out.glob(f"{FOLDER}/*.json")))
    assert 0 < kept < 100
    engine = Watched(most=3)
    train(panel, out=out, seed=3, models=("holt-winters",), work=quick(engine=engine))
    assert len(engine.asked) == 100 - kept
    assert len(list(out.glob(f"{FOLDER}/*.json"))) == kept + 3
    # The cluster is free for the next job, which finds nothing to do but to begin.
    done = run(job(tmp_path / "panel.npz", tmp_path / "later", cluster, "--budget-s", "0"))
    assert done.returncode == 0, done.stderr
    assert "0 of 800 series" in json.loads(done.stdout)[0]["left"]


def test_no_cluster_there_is_told_in_one_line(cluster: str, tmp_path: Path) -> None:
    write_panel(tmp_path / "panel.npz", a_panel(1))
    done = run(job(tmp_path / "panel.npz", tmp_path / "models", f"127.0.0.1:{free_port()}"))
    assert done.returncode == 2
    (refused,) = [each for each in events(done.stderr) if each["event"] == "refused"]
    assert "no Ray cluster at 127.0.0.1:" in str(refused["error"])
