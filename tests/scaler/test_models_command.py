"""`headstart models` as people and scripts meet it: stages with their reasons, two models compared, one taken back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster import registry
from forecaster.models.holt_winters import Smoothing
from forecaster.models.stored import holt_winters_bytes
from forecaster.types import STEP, Panel, SeriesKey
from scaler.adapters.store import Store
from scaler.cli import main

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
GOOD = Smoothing(level=0.02, trend=0.0, season=0.1, damping=0.9)
BAD = Smoothing(level=0.95, trend=0.3, season=0.9, damping=0.98)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`headstart models …` on a data folder; answers exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["models", *arguments, "--data-dir", str(tmp_path)])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def a_panel(days: int) -> Panel:
    minutes = np.arange(days * 1440)
    mean = 10.0 * (1.0 + 0.6 * np.sin(2.0 * np.pi * minutes / 1440.0))
    values = np.random.default_rng(1).poisson(mean * 60.0) / 60.0
    return Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :])


def stored(data_dir: Path, gains: Smoothing, *, until: datetime = START + timedelta(days=2)) -> str:
    """A version of Holt-Winters that was fitted on data until then."""
    span = registry.DataSpan(start=START, end=until, series=1)
    report = {"verdict": "no better than last-value: …"}
    return registry.save(
        data_dir / "models", "holt-winters", holt_winters_bytes({KEY: gains}), span=span, seed=1, report=report
    ).name


@pytest.fixture
def history(tmp_path: Path) -> Panel:
    """Six days in the daemon's history."""
    panel = a_panel(6)
    with Store.open(tmp_path, now=START) as store:
        store.history.append(panel, now=panel.end)
    return panel


def rows_of(out: str) -> dict[str, dict[str, Any]]:
    return {row["version"]: row for row in json.loads(out)["items"] if row["from"] == "own"}


def test_list_says_each_versions_stage_and_why(models: Run, tmp_path: Path) -> None:
    first, second, third = (
        stored(tmp_path, gains) for gains in (GOOD, BAD, Smoothing(level=0.1, trend=0.1, season=0.1, damping=0.9))
    )
    now = START + timedelta(days=7)
    registry.admit(tmp_path / "models", "holt-winters", first, reason="beats every rival", now=now)
    registry.admit(tmp_path / "models", "holt-winters", second, reason="a little better", now=now)
    code, out, _ = models("list", "-o", "json")
    rows = rows_of(out)
    assert code == 0
    assert {version: (row["stage"], row["live"]) for version, row in rows.items()} == {
        first: ("live", True),
        second: ("shadow", False),
        third: ("stored", False),
    }
    assert rows[first]["reason"] == "beats every rival; nothing was live"
    assert rows[second] | {"reason": "a little better", "since": now.isoformat(), "seed": 1} == rows[second]
    assert rows[third]["reason"] == "no better than last-value: …", "what its examination said"
    assert len(rows[first]["sha256"]) == 64
    table = models("list")[1].splitlines()
    line = next(each for each in table if second in each)
    assert line.split()[1:5] == [second, "shadow", "2026-03-09", "00:00"]
    assert line.endswith("a little better")


def test_list_shows_what_is_damaged_and_goes_on(models: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, GOOD), stored(tmp_path, BAD)
    (tmp_path / "models" / "holt-winters" / first / "coefficients.json").write_bytes(b"{}")
    rows = rows_of(models("list", "-o", "json")[1])
    assert "does not match its hash" in rows[first]["error"]
    assert "error" not in rows[second]
    (tmp_path / "models" / "holt-winters" / "current.json").write_text("[]")
    code, out, err = models("list", "-o", "json")
    assert (code, rows_of(out)) == (0, {})
    assert "promote a version again" in err


@pytest.mark.usefixtures("history")
def test_compare_says_which_is_better_on_the_daemons_history(models: Run, tmp_path: Path) -> None:
    good, bad = stored(tmp_path, GOOD), stored(tmp_path, BAD)
    registry.promote(tmp_path / "models", "holt-winters", bad)
    names = (f"holt-winters@{good}", "holt-winters")
    code, out, err = models("compare", *names, "--days", "1", "-o", "json")
    document = json.loads(out)
    assert (code, err, document["kind"], document["series"]) == (0, "", "ModelComparison", 1)
    one, other = document["items"]
    assert (one["name"], one["model"], other["model"]) == (names[0], names[0], f"holt-winters@{bad}")
    assert one["decision_gpu_ratio"] < other["decision_gpu_ratio"]
    assert one["pinball"] < other["pinball"]
    assert 0.9 < one["coverage_95"] < 1.0
    assert document["better"] is True
    table = models("compare", "last-value", names[0], "--days", "1")[1]
    assert f"last-value is no better than {names[0]} (2026-03-07T00:00 to 2026-03-08T00:00, 1 series)" in table


def test_compare_on_a_trace_warns_where_a_model_has_seen_it(models: Run, tmp_path: Path) -> None:
    panel = a_panel(4)
    lines = [f"{(START + number * STEP):%FT%T},{round(60 * rps)}" for number, rps in enumerate(panel.values[0])]
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp,requests\n" + "\n".join(lines) + "\n")
    version = stored(tmp_path, GOOD, until=panel.end)
    ran = models("compare", f"holt-winters@{version}", "seasonal-delta", "--trace", str(trace), "--days", "1")
    assert ran[0] == 0
    assert "it has seen days that it is compared on" in ran[2]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(("lstn", "last-value"), "no stored model is called 'lstn'; there are arima", id="no such model"),
        pytest.param(("arima@000000000000", "last-value"), "cannot read", id="no such version"),
        pytest.param(("arima", "last-value"), "no live version of arima", id="nothing live"),
    ],
)
@pytest.mark.usefixtures("history")
def test_compare_refuses(models: Run, names: tuple[str, str], said: str) -> None:
    code, out, err = models("compare", *names)
    assert (code, out) == (1, "")
    assert said in err


def test_compare_without_a_history(models: Run) -> None:
    code, _, err = models("compare", "last-value", "seasonal-naive")
    assert code == 1
    assert "there is no data file" in err


def test_rollback_remembers_why(models: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, GOOD), stored(tmp_path, BAD)
    assert models("promote", "holt-winters", first)[1] == f"holt-winters: {first} is live now\n"
    models("promote", "holt-winters", second, "--reason", "looked better")
    assert models("rollback", "holt-winters", "--reason", "missed the Monday peak")[1] == (
        f"holt-winters: {first} is live again\n"
    )
    rows = rows_of(models("list", "-o", "json")[1])
    assert (rows[second]["stage"], rows[second]["reason"]) == ("rolled_back", "missed the Monday peak")
    assert rows[first]["reason"] == f"{second} was rolled back: missed the Monday peak"
