"""The retraining job: what it stores, what it promotes, what it says, and that it runs as a child process."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster import registry
from forecaster.errors import SeriesError
from forecaster.models.seasonal import LastValue, SeasonalDelta
from forecaster.train import loss_ratio, main, pretrain, read_panel, train, write_panel
from forecaster.types import Panel, SeriesKey

PanelOf = Callable[..., Panel]


def with_hopeless_series(panel: Panel) -> Panel:
    """`panel` and one more series of which nothing is known."""
    key = SeriesKey(workload="llm/dead", signal="demand_rps")
    unknown = np.full((1, panel.values.shape[1]), np.nan)
    values = np.vstack([panel.values, unknown])
    return Panel(keys=(*panel.keys, key), start=panel.start, step=panel.step, values=values)


def test_models_that_pass_go_live_and_a_hopeless_series_is_reported(wave_panel: PanelOf, tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, Any]]] = []
    outcomes = train(
        with_hopeless_series(wave_panel(5, series=2)),
        out=tmp_path,
        seed=3,
        models=("holt-winters", "arima"),
        on_event=lambda name, facts: events.append((name, facts)),
    )
    for outcome in outcomes:
        assert outcome.fitted == 2
        assert list(outcome.failed) == ["llm/dead/default"]
        assert outcome.loss_ratio < 0.95  # white noise on a slow wave: any averaging beats last value
        assert outcome.promoted
        assert registry.live_version(tmp_path, outcome.model) == outcome.version
    assert [name for name, _ in events].count("series_failed") == 2
    assert [one.model_id.partition("@")[0] for one in registry.members(tmp_path).forecasters][3:5] == [
        "holt-winters",
        "arima",
    ]


def test_the_held_out_day_is_seen_by_no_fit(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(5)
    before = train(panel, out=tmp_path / "a", seed=3, models=("arima",))[0]
    panel.values[:, -1440:] *= 7.0
    after = train(panel, out=tmp_path / "b", seed=3, models=("arima",))[0]
    assert before.version == after.version
    assert before.loss_ratio != after.loss_ratio


def test_a_model_that_does_not_beat_last_value_stays_off(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(5)
    # A random walk on the last day alone: what was learnt on noise around a wave is worse than last value there.
    steps = np.random.default_rng(1).normal(0.0, 1.5, 1440)
    panel.values[0, -1440:] = np.abs(60.0 + np.cumsum(steps))
    outcome = train(panel, out=tmp_path, seed=3, models=("holt-winters",))[0]
    assert outcome.version is not None
    assert outcome.loss_ratio > 1.0
    assert not outcome.promoted
    assert registry.live_version(tmp_path, "holt-winters") is None


def test_promotion_can_be_left_to_a_person(wave_panel: PanelOf, tmp_path: Path) -> None:
    outcome = train(wave_panel(5), out=tmp_path, seed=3, models=("arima",), promote=False)[0]
    assert outcome.version is not None
    assert not outcome.promoted
    assert registry.live_version(tmp_path, "arima") is None


def test_a_model_that_fits_nothing_does_not_stop_the_next(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(5)
    panel.values[:, : -2 * 1440] = np.nan  # enough for the network, too little for a model of its own
    arima, lstm = train(panel, out=tmp_path, seed=3, models=("arima", "lstm"), steps=10)
    assert arima.version is None
    assert "none of 1 series" in arima.failed["*"]
    assert lstm.version is not None


@pytest.mark.parametrize(
    ("days", "models", "text"),
    [pytest.param(5, ("oracle",), "oracle", id="unknown model"), pytest.param(1.5, ("arima",), "two days", id="short")],
)
def test_impossible_orders_are_refused(
    wave_panel: PanelOf, tmp_path: Path, days: float, models: Any, text: str
) -> None:
    with pytest.raises(SeriesError, match=text):
        train(wave_panel(days), out=tmp_path, seed=1, models=models)


def test_last_values_loss_ratio_against_itself_is_one(wave_panel: PanelOf) -> None:
    panel = wave_panel(4)
    assert loss_ratio(LastValue(), panel) == pytest.approx(1.0)
    assert loss_ratio(SeasonalDelta(), panel) < 1.0


def test_the_shipped_network_can_be_made_again(tmp_path: Path) -> None:
    folders = [pretrain(tmp_path / str(number), seed=7, workloads=2, steps=8) for number in range(2)]
    assert folders[0].name == folders[1].name
    assert [path.read_bytes() for path in sorted(folders[0].iterdir())] == [
        path.read_bytes() for path in sorted(folders[1].iterdir())
    ]
    assert registry.load(tmp_path / "0", "lstm").predict is not None


def test_the_job_runs_as_a_child_process_and_tells_its_progress(wave_panel: PanelOf, tmp_path: Path) -> None:
    write_panel(tmp_path / "panel.npz", wave_panel(5))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "forecaster.train",
            *("--input", str(tmp_path / "panel.npz"), "--out", str(tmp_path / "models")),
            *("--models", "holt-winters", "--seed", "3"),
        ],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "model_started",
        "series_done",
        "model_done",
    ]
    assert json.loads(done.stdout)[0]["model"] == "holt-winters"


def test_unusable_input_is_refused_with_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("a.npz", b"PK broken"), ("b.csv", b"timestamp,requests\nyesterday,3\n"), ("c.csv", b"")):
        (tmp_path / name).write_bytes(content)
        assert main(["--input", str(tmp_path / name), "--out", str(tmp_path), "--seed", "1"]) == 2
        assert json.loads(capsys.readouterr().err)["event"] == "refused"
    assert main(["--input", str(tmp_path / "absent.csv"), "--out", str(tmp_path), "--seed", "1"]) == 2


def test_a_panel_survives_the_way_through_a_file(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(1, series=2)
    panel.values[0, 5] = np.nan
    write_panel(tmp_path / "panel.npz", panel)
    back = read_panel(tmp_path / "panel.npz")
    assert (back.keys, back.start, back.step) == (panel.keys, panel.start, panel.step)
    assert np.array_equal(back.values, panel.values, equal_nan=True)


@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_becomes_requests_a_second_with_gaps_kept(tmp_path: Path, packed: bool) -> None:
    text = (
        "timestamp,tokens,requests\n"
        "2026-03-02T00:10:00,5,120\n"
        "2026-03-02 00:00:00,1,600\n"
        "2026-03-02T03:30:00+03:00,9,60\n"
    )
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    panel = read_panel(path)
    assert panel.keys[0].workload == "trace/t"
    assert panel.start == datetime(2026, 3, 2, tzinfo=UTC)
    assert panel.step == timedelta(minutes=10)
    assert panel.values[0] == pytest.approx([1.0, 0.2, np.nan, 0.1], nan_ok=True)
    assert read_panel(path, column="tokens").values[0, 0] == pytest.approx(1 / 600)
