"""`headstart profile` as people meet it: measured over real HTTP, fitted again from the file, and played by `simulate`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scaler.cli import main
from scaler.config import read_profile
from slow_server import Faults, SlowServer, Speed
from sweep_cases import raw_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    code: int
    out: str
    err: str


Headstart = Callable[..., Ran]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Headstart:
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as left:
            main([*arguments])
        told = capsys.readouterr()
        return Ran(code=int(left.value.code or 0), out=told.out, err=told.err)

    return run


@pytest.mark.server
def test_a_server_is_measured_and_its_profile_written(headstart: Headstart, tmp_path: Path) -> None:
    """The server's time is real and this machine may be busy, so what is asked is that it all comes together."""
    with SlowServer(Speed(step_s=0.004, sequence_s=0.001)) as server:
        ran = headstart(
            *(
                "profile",
                server.url,
                "--level",
                "1s",
                "--budget",
                "2m",
                "--class",
                "chat=40+6",
                "--class",
                "long=200+3",
            ),
            *("--ttft", "30s", "--itl", "off", "--page", "profile.html", "--max-num-seqs", "4"),
        )
    assert ran.code == 0, ran.err
    profile = read_profile(tmp_path / "profile.yaml")
    assert [each.name for each in profile.classes] == ["chat", "long"]
    assert "wrote profile.yaml and profile.html" in ran.err
    assert "What one replica of slow serves" in (tmp_path / "profile.html").read_text()
    assert "MAX RPS" in ran.out


def test_a_raw_file_alone_is_enough(headstart: Headstart, tmp_path: Path) -> None:
    raw_file(tmp_path / "sweep.jsonl")
    ran = headstart("profile", "--ttft", "1s", "--itl", "50ms", "--gpus", "2", "--name", "mine", "-o", "json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["kind"] == "ProfileReport"
    assert [each["name"] for each in document["classes"]] == ["chat", "long", "write"]
    assert document["fit"]["identified"] is True
    assert all(abs(each["worst_off_ratio"]) < 0.15 for each in document["checks"])
    profile = read_profile(tmp_path / "profile.yaml")
    assert (profile.name, profile.gpus) == ("mine", 2)


def test_the_table_says_what_was_found(headstart: Headstart, tmp_path: Path) -> None:
    raw_file(tmp_path / "sweep.jsonl")
    ran = headstart("profile", "--ttft", "1s", "--itl", "50ms", "--out", "p.yaml")
    assert ran.code == 0, ran.err
    for told in ("α", "β", "γ", "δ", "front end", "8 sequences, 60000 tokens", "LEFT OUT"):
        assert told in ran.out


def test_simulate_plays_the_profile(headstart: Headstart, tmp_path: Path) -> None:
    raw_file(tmp_path / "sweep.jsonl")
    assert headstart("profile", "--ttft", "1s", "--itl", "50ms").code == 0
    start = datetime(2026, 11, 20, tzinfo=UTC)
    rows = "".join(f"{(start + timedelta(minutes=each)).isoformat()},{20 + 10 * (each % 7)}\n" for each in range(240))
    (tmp_path / "trace.csv").write_text("timestamp,requests\n" + rows)
    ran = headstart(
        *("simulate", "--trace", "trace.csv", "--profile", "profile.yaml", "--policies", "hpa", "-o", "json"),
        *("--score-from", "2026-11-20T02:00", "--max-replicas", "4"),
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["policies"][0]["gpu_hours"] > 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--raw", "none.jsonl"], 1, "none.jsonl", id="no file"),
        pytest.param(["--ttft", "fast"], 2, "a duration is written like", id="no duration"),
        pytest.param(["--ttft", "0s"], 2, "must be above 0, or off", id="no time"),
        pytest.param(["http://127.0.0.1:9"], 1, "/v1/models cannot be read", id="nobody there"),
        pytest.param(["http://127.0.0.1:9", "--class", "chat"], 1, "write NAME=PROMPT+OUTPUT", id="no class"),
    ],
)
def test_what_it_cannot_do(headstart: Headstart, arguments: list[str], code: int, said: str) -> None:
    ran = headstart("profile", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.server
def test_a_busy_server_is_left_alone(headstart: Headstart, tmp_path: Path) -> None:
    with SlowServer(faults=Faults(strangers=1)) as server:
        ran = headstart("profile", server.url)
        assert server.completions == 0
    assert ran.code == 1
    assert "serves somebody else" in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.server
def test_ctrl_c_keeps_the_levels_and_says_so(tmp_path: Path) -> None:
    raw = tmp_path / "sweep.jsonl"
    with SlowServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "scaler.cli", "profile", server.url, "--level", "1s", "--class", "chat=40+6"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (raw.exists() and '"kind":"level"' in raw.read_text()):
            assert process.poll() is None, process.stderr
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert not (tmp_path / "profile.yaml").exists()
