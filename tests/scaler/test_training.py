"""`headstart train` as people and machines meet it: options, progress, what is left, what failed and why."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from forecaster.train import Outcome
from forecaster.unfinished import FOLDER
from scaler.cli import main
from scaler.commands.training import _failures, _put
from scaler.commands.training_progress import _InLines, _OnTerminal
from training_cases import a_panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


REPO = Path(__file__).resolve().parents[2]
Train = Callable[..., Ran]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Five days of one workload, in bins of ten minutes."""
    panel = a_panel(1)
    rows = [
        f"{(panel.start + number * panel.step):%Y-%m-%dT%H:%M:%S},{value * 600:.0f}"
        for number, value in enumerate(panel.values[0])
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(("timestamp,requests", *rows)) + "\n")
    return path


@pytest.fixture
def train(capsys: pytest.CaptureFixture[str], tmp_path: Path, trace: Path) -> Train:
    """The command in this process, on the trace, its fits in workers as always."""

    def run(*arguments: str) -> Ran:
        with pytest.raises(SystemExit) as left:
            main(["train", "--trace", str(trace), "--data-dir", str(tmp_path / "data"), "--workers", "1", *arguments])
        captured = capsys.readouterr()
        return Ran(code=int(left.value.code or 0), out=captured.out, err=captured.err)

    return run


def test_machines_get_json_on_both_streams(train: Train) -> None:
    ran = train("--models", "holt-winters", "-o", "json")
    document = json.loads(ran.out)
    (outcome,) = document["models"]
    assert (document["kind"], outcome["model"], outcome["fitted"]) == ("Training", "holt-winters", 1)
    assert ran.code == (0 if outcome["passed"] else 3)
    events = [json.loads(line)["event"] for line in ran.err.splitlines()]
    assert events == ["model_started", "series_done", "examining", "model_done"]


def test_people_get_lines_without_a_terminal(train: Train) -> None:
    ran = train("--models", "holt-winters")
    assert ran.err.splitlines() == [
        "holt-winters: 1 series",
        "holt-winters: 1 of 1",
        "holt-winters: examined against the baselines",
    ]
    assert ran.out.split()[:1] == ["MODEL"]
    assert "\x1b" not in ran.out + ran.err


def test_a_budget_that_is_spent_is_no_error_and_the_next_run_does_the_rest(train: Train) -> None:
    begun = train("--models", "holt-winters", "--budget", "0s")
    assert begun.code == 0
    assert "0 of 1 series fitted: the next run goes on from there" in begun.out
    ended = train("--models", "holt-winters", "-o", "json")
    assert json.loads(ended.out)["models"][0]["left"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("--budget", "soon"), 2, "a duration is written like", id="a budget that is none"),
        pytest.param(("--engine", "dask"), 2, "must be local or ray, got 'dask'", id="an engine that is none"),
        pytest.param(("--device", "tpu"), 2, "must be auto or cpu or cuda", id="a device that is none"),
        pytest.param(("--ray-address", "auto"), 2, "only goes with --engine ray", id="an address for nobody"),
        pytest.param(("--engine", "ray"), 2, "only goes with --engine local", id="workers of a cluster"),
        pytest.param(("--models", "oracle"), 1, "error: cannot train oracle", id="a model that is none"),
        pytest.param(("--workers", "0"), 2, "--workers", id="nobody to do it"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    train: Train, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = train(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_a_model_whose_packages_are_missing_is_refused_by_name(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.fits.missing_packages", lambda model: ("torch",) if model == "lstm" else ())
    ran = train("--models", "holt-winters,lstm")
    assert (ran.code, ran.out) == (1, "")
    assert "this needs torch: pip install 'headstart[train]'" in ran.err


def test_failures_are_listed_at_the_end_by_reason() -> None:
    failed = {f"llm/w{number}/default": "too short" for number in range(5)}
    assert _failures({**failed, "llm/flat/default": "constant"}) == [
        "not fitted: llm/w0/default, llm/w1/default, llm/w2/default and 2 more: too short",
        "not fitted: llm/flat/default: constant",
    ]
    assert _failures({"*": "arima: none of 5 series could be fitted"}) == ["arima: none of 5 series could be fitted"]


def test_the_table_tells_stored_left_and_failed_apart(capsys: pytest.CaptureFixture[str]) -> None:
    _put(
        [
            Outcome(model="arima", fitted=9, failed={"a/b/c": "flat"}, cpu_s=2.5, version="abc", stage="shadow",
                    passed=True, verdict="beats every rival"),
            Outcome(model="trees", fitted=0, failed={}, cpu_s=0.0, left="the budget was spent"),
            Outcome(model="lstm", fitted=0, failed={"*": "diverged"}, cpu_s=9.0),
        ]
    )  # fmt: skip
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line[0] in ("arima", "trees", "lstm")}
    assert rows["arima"] == ["abc", "passed", "shadow", "9", "1", "2.5"]
    assert rows["trees"] == ["–", "left", "–", "0", "0", "0.0"]
    assert rows["lstm"] == ["–", "–", "–", "0", "0", "9.0"]
    assert ["lstm:", "diverged"] in lines


# ── Progress ──────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = [
    ("model_skipped", {"model": "trees", "reason": "not installed"}),
    ("model_started", {"model": "arima", "series": 40, "kept": 8}),
    ("model_started", {"model": "lstm", "series": 40, "kept": 0}),
    *(("series_done", {"model": "arima", "workload": "a/b", "done": done, "of": 40}) for done in range(9, 41)),
    ("series_failed", {"model": "arima", "workload": "a/c", "error": "flat"}),
    ("network_step", {"step": 2500, "of": 5000, "loss": 0.3}),
    ("examining", {"model": "arima", "incumbent": "arima@0123"}),
    ("model_done", {"model": "arima", "left": None}),
    ("reviewed", {"model": "arima", "version": "0123", "stage": "live", "reason": "a day in shadow"}),
]


def test_lines_come_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    told = _InLines()
    for name, facts in EVENTS:
        told(name, facts)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "trees: skipped, not installed"
    assert "arima: 40 series, 8 of them fitted before" in said
    assert [line for line in said if line.startswith("arima: ") and line.endswith("of 40")] == [
        f"arima: {done} of 40" for done in (9, 12, 16, 20, 24, 28, 32, 36, 40)
    ]
    assert "lstm: 2500 of 5000" in said
    assert said[-1] == "arima@0123: live now, a day in shadow"


def test_bars_follow_each_model() -> None:
    from rich.console import Console
    from rich.progress import Progress

    bars = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    told = _OnTerminal(bars)
    for name, facts in EVENTS:
        told(name, facts)
    arima, lstm = bars.tasks
    assert (arima.completed, arima.total, arima.fields["doing"]) == (40, 40, "done")
    assert (lstm.completed, lstm.total, lstm.fields["doing"]) == (2500, 5000, "fitting")


def test_every_event_is_documented() -> None:
    sources = ("forecaster/train.py", "forecaster/fits.py", "scaler/refit_job.py")
    spoken = r'(?:on_event|progress|say|say_event)\(\s*"([a-z_]+)"'
    said = {name for path in sources for name in re.findall(spoken, (REPO / path).read_text(encoding="utf-8"))}
    page = (REPO / "docs" / "training.md").read_text(encoding="utf-8").partition("## Progress")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} == said


# ── Ctrl-C ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ctrl_c_ends_the_command_and_keeps_what_was_fitted(tmp_path: Path) -> None:
    """A history of many workloads, so that there is something to interrupt."""
    from datetime import UTC, datetime, timedelta

    from forecaster.types import Panel
    from scaler.adapters.store import Store

    wide = a_panel(300, days=3.5, step=timedelta(minutes=1))
    newest = datetime.now(UTC).replace(second=0, microsecond=0)
    panel = Panel(keys=wide.keys, start=newest - wide.step * wide.values.shape[1], step=wide.step, values=wide.values)
    with Store.open(tmp_path, now=newest) as store:
        store.history.append(panel, now=newest)
    command = [sys.executable, "-m", "scaler.cli", "train", "--data-dir", str(tmp_path), "--models", "holt-winters"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + 150.0
        while not list((tmp_path / "models").glob(f"{FOLDER}/*.json")):
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < ends
            time.sleep(0.02)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=60)
    finally:
        job.kill()
        job.wait()
    assert (job.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; what was fitted is kept, and the same command goes on from here"
    assert "Traceback" not in err
