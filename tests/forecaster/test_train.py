"""The retraining job: what it stores, what it takes up, what it says, what it leaves, and that it runs as a process.

Properties: the same data and seed give the same artefact whatever engine, worker count or interruption; whatever was
fitted before an interruption is not fitted again.
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import registry
from forecaster.engines import HERE, Engine, Pool
from forecaster.errors import SeriesError, TrainingError
from forecaster.fits import Device
from forecaster.train import Work, engine_for, main, pretrain, read_panel, train, write_panel
from forecaster.types import Panel, SeriesKey
from forecaster.unfinished import FOLDER, working_in
from training_cases import Watched, a_panel, quick, stored

PanelOf = Callable[..., Panel]


def with_hopeless_series(panel: Panel) -> Panel:
    """`panel` and one more series of which nothing is known."""
    key = SeriesKey(workload="llm/dead", signal="demand_rps")
    unknown = np.full((1, panel.values.shape[1]), np.nan)
    values = np.vstack([panel.values, unknown])
    return Panel(keys=(*panel.keys, key), start=panel.start, step=panel.step, values=values)


# ── What comes out ────────────────────────────────────────────────────────────────────────────────────────────


def wandering(panel: Panel) -> Panel:
    """`panel` with a level that wanders by 30 % and comes back within hours: no baseline can follow and average both."""
    draw = np.random.default_rng(1).normal(0.0, 1.0, panel.values.shape)
    kept, level = np.exp(-1.0 / 180.0), np.zeros(panel.values.shape)
    for minute in range(1, panel.values.shape[1]):
        level[:, minute] = kept * level[:, minute - 1] + 0.3 * np.sqrt(1.0 - kept**2) * draw[:, minute]
    return Panel(keys=panel.keys, start=panel.start, step=panel.step, values=panel.values * np.exp(level))


def test_models_that_pass_go_live_and_a_hopeless_series_is_reported(wave_panel: PanelOf, tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, Any]]] = []
    outcomes = train(
        with_hopeless_series(wandering(wave_panel(5, series=2))),
        out=tmp_path,
        seed=3,
        models=("holt-winters", "arima"),
        work=Work(on_event=lambda name, facts: events.append((name, facts))),
    )
    for outcome in outcomes:
        assert outcome.fitted == 2
        assert list(outcome.failed) == ["llm/dead/default"]
        assert outcome.passed, outcome.verdict
        assert (outcome.stage, outcome.promoted, outcome.left) == ("live", True, None)
        assert outcome.cpu_s > 0.0
        assert registry.live_version(tmp_path, outcome.model) == outcome.version
        report = registry.read(tmp_path, outcome.model)[0].report
        assert (report["fitted"], report["passed"], report["verdict"]) == (2, True, outcome.verdict)
        assert set(report["examination"]["competitors"]) >= {"candidate", "last-value"}
    assert [name for name, _ in events].count("series_failed") == 2
    assert [one.model_id.partition("@")[0] for one in registry.members(tmp_path).forecasters if "@" in one.model_id][
        :2
    ] == ["holt-winters", "arima"]


def test_the_held_out_day_is_seen_by_no_fit(tmp_path: Path) -> None:
    panel = a_panel(1)
    before = train(panel, out=tmp_path / "a", seed=3, models=("arima",))[0]
    panel.values[:, -144:] *= 7.0
    after = train(panel, out=tmp_path / "b", seed=3, models=("arima",))[0]
    assert before.version == after.version
    assert before.verdict != after.verdict


def test_a_model_that_fails_its_examination_stays_off(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(5)
    # A random walk on the last day alone: what was learnt on noise around a wave is no help there.
    steps = np.random.default_rng(1).normal(0.0, 1.5, 1440)
    panel.values[0, -1440:] = np.abs(60.0 + np.cumsum(steps))
    outcome = train(panel, out=tmp_path, seed=3, models=("holt-winters",))[0]
    assert outcome.version is not None
    assert "no better than" in outcome.verdict
    assert (outcome.passed, outcome.promoted, outcome.stage) == (False, False, "stored")
    assert registry.live_version(tmp_path, "holt-winters") is None


def test_with_nothing_to_examine_it_on_a_model_stays_off(tmp_path: Path) -> None:
    panel = a_panel(1)
    panel.values[:, -144:] = np.nan
    outcome = train(panel, out=tmp_path, seed=3, models=("holt-winters",))[0]
    assert (outcome.passed, outcome.stage) == (False, "stored")
    assert "none of 1 series has demand" in outcome.verdict


def test_promotion_can_be_left_to_a_person(tmp_path: Path) -> None:
    outcome = train(a_panel(1), out=tmp_path, seed=3, models=("arima",), promote=False, work=quick())[0]
    assert outcome.version is not None
    assert (outcome.passed, outcome.promoted) == (True, False)
    assert registry.live_version(tmp_path, "arima") is None


def test_a_newer_model_is_examined_against_the_live_one_and_waits_in_shadow(tmp_path: Path) -> None:
    incumbents = []
    work = quick(on_event=lambda name, facts: incumbents.append(facts["incumbent"]) if name == "examining" else None)
    arguments: dict[str, Any] = {"out": tmp_path, "seed": 3, "models": ("holt-winters",), "work": work}
    first = train(a_panel(1, days=5), **arguments)[0]
    again = train(a_panel(1, days=5), **arguments)[0]
    newer = train(a_panel(1, days=6, seed=2), **arguments)[0]
    # The second is the live one itself, so there is nothing to compare it with.
    assert incumbents == [None, None, f"holt-winters@{first.version}"]
    assert (first.stage, again.stage, newer.stage) == ("live", "live", "shadow")


def test_what_has_seen_the_day_held_back_is_no_rival(tmp_path: Path) -> None:
    incumbents = []
    work = quick(on_event=lambda name, facts: incumbents.append(facts["incumbent"]) if name == "examining" else None)
    for days in (6, 5):  # the first was fitted on five days, so it knows the fifth, which examines the second
        train(a_panel(1, days=days, seed=days), out=tmp_path, seed=3, models=("holt-winters",), work=work)
    assert incumbents == [None, None]


def test_a_model_that_fits_nothing_does_not_stop_the_next(wave_panel: PanelOf, tmp_path: Path) -> None:
    panel = wave_panel(5)
    panel.values[:, : -2 * 1440] = np.nan  # enough for the network, too little for a model of its own
    arima, lstm = train(panel, out=tmp_path, seed=3, models=("arima", "lstm"), work=quick(steps=10))
    assert arima.version is None
    assert "none of 1 series" in arima.failed["*"]
    assert lstm.version is not None
    assert registry.read(tmp_path, "lstm")[0].report["device"] == "cpu" or Device.CUDA in str(
        registry.read(tmp_path, "lstm")[0].report["device"]
    )


def test_a_gpu_that_is_not_there_is_said_and_costs_that_model_alone(wave_panel: PanelOf, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    lstm, holt_winters = train(
        wave_panel(4), out=tmp_path, seed=3, models=("lstm", "holt-winters"), work=quick(device=Device.CUDA, steps=5)
    )
    assert "no CUDA device" in lstm.failed["*"]
    assert holt_winters.version is not None


@pytest.mark.parametrize(
    ("days", "models", "text"),
    [pytest.param(5, ("oracle",), "oracle", id="unknown model"), pytest.param(1.5, ("arima",), "two days", id="short")],
)
def test_impossible_orders_are_refused(tmp_path: Path, days: float, models: Any, text: str) -> None:
    with pytest.raises(SeriesError, match=text):
        train(a_panel(1, days=days), out=tmp_path, seed=1, models=models)


def test_two_trainings_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    with working_in(tmp_path), pytest.raises(TrainingError, match="another training works in"):
        train(a_panel(1), out=tmp_path, seed=1, models=("holt-winters",), work=quick())
    assert train(a_panel(1), out=tmp_path, seed=1, models=("holt-winters",), work=quick())[0].version is not None


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(TrainingError, match="local or ray"):
        engine_for("dask")


# ── The same artefact, whoever fits it and however often it is interrupted ─────────────────────────────────────

MANY = with_hopeless_series(a_panel(47))  # six parts
ONE = ("holt-winters",)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, bytes]:
    """The model files of a training in this process from beginning to end."""
    with tempfile.TemporaryDirectory() as folder:
        train(MANY, out=Path(folder), seed=3, models=ONE, work=quick())
        return stored(Path(folder))


@pytest.mark.parametrize(
    "engine",
    [pytest.param(HERE, id="here"), pytest.param(Pool(workers=1), id="1"), pytest.param(Pool(workers=3), id="3")],
)
def test_every_engine_makes_the_same_bytes(engine: Engine, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    (outcome,) = train(MANY, out=tmp_path, seed=3, models=ONE, work=quick(engine=engine))
    assert stored(tmp_path) == undisturbed
    assert list(outcome.failed) == ["llm/dead/default"]


@pytest.mark.parametrize("model", ["arima", "trees", "lstm"])
def test_every_family_is_the_same_from_a_worker(model: str, wave_panel: PanelOf, tmp_path: Path) -> None:
    panel, files = a_panel(9) if model == "arima" else wave_panel(4, series=2), []
    for number, engine in enumerate((HERE, Pool(workers=2))):
        train(panel, out=tmp_path / str(number), seed=3, models=(model,), work=quick(engine=engine, steps=4))
        files.append(stored(tmp_path / str(number)))
    assert len(files[0]) == 1
    assert files[0] == files[1]


@settings(max_examples=8)
@given(ends=st.lists(st.integers(min_value=0, max_value=5), max_size=3), killed=st.booleans())
def test_whatever_interrupts_it_the_artefact_is_the_same_and_no_part_is_fitted_twice(
    ends: list[int], killed: bool, undisturbed: dict[str, bytes]
) -> None:
    fitted = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for most in ends:
            engine = Watched(most=most, ends_with=KeyboardInterrupt if killed else None)
            try:
                outcomes = train(MANY, out=folder, seed=3, models=ONE, work=quick(engine=engine))
            except KeyboardInterrupt:
                outcomes = ()
            assert len(engine.asked) == 6 - fitted
            fitted += min(most, 6 - fitted)
            if fitted == 6:
                return  # finished already: nothing left to go on with
            assert all(each.left or each.version for each in outcomes)
        last = Watched()
        train(MANY, out=folder, seed=3, models=ONE, work=quick(engine=last))
        assert len(last.asked) == 6 - fitted
        assert stored(folder) == undisturbed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"seed": 4}, id="another seed"),
        pytest.param({"panel": a_panel(19, seed=2)}, id="other data"),
        pytest.param({"panel": a_panel(19, days=5.5)}, id="another span"),
    ],
)
def test_what_was_left_by_another_training_is_not_taken_for_this_ones(change: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"panel": a_panel(19), "seed": 3}
    train(**arguments, out=tmp_path, models=("holt-winters",), work=quick(engine=Watched(most=2)))
    engine = Watched()
    train(**arguments | change, out=tmp_path, models=("holt-winters",), work=quick(engine=engine))
    assert len(engine.asked) == 3


def test_a_spent_budget_leaves_the_rest_and_says_so(tmp_path: Path) -> None:
    panel = a_panel(10)
    done, left = train(
        panel, out=tmp_path, seed=3, models=("holt-winters", "arima"), work=quick(engine=Watched(most=3))
    )
    assert (done.stage, done.left) == ("live", None)
    assert (left.version, left.stage, left.fitted) == (None, None, 8)
    assert left.left == "the budget was spent with 8 of 10 series fitted: the next run goes on from there"
    assert registry.versions(tmp_path, "arima") == ()


@pytest.mark.parametrize("engine", [pytest.param(HERE, id="here"), pytest.param(Pool(workers=2), id="pool")])
def test_no_budget_at_all_fits_nothing(engine: Engine, tmp_path: Path) -> None:
    work = quick(engine=engine, budget=timedelta(0))
    outcomes = train(a_panel(3), out=tmp_path, seed=3, models=("holt-winters", "trees"), work=work)
    assert [(each.version, each.fitted) for each in outcomes] == [(None, 0), (None, 0)]
    assert "0 of 3 series" in str(outcomes[0].left)
    assert "begins it first" in str(outcomes[1].left)


def test_a_finished_training_leaves_nothing_but_its_models(tmp_path: Path) -> None:
    train(MANY, out=tmp_path, seed=3, models=ONE, work=quick(engine=Watched(most=2)))
    assert len(list((tmp_path / FOLDER).glob("*.json"))) == 2
    train(MANY, out=tmp_path, seed=3, models=ONE, work=quick())
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_the_shipped_network_can_be_made_again(tmp_path: Path) -> None:
    folders = [pretrain(tmp_path / str(number), seed=7, workloads=2, steps=8) for number in range(2)]
    assert folders[0].name == folders[1].name
    assert [path.read_bytes() for path in sorted(folders[0].iterdir())] == [
        path.read_bytes() for path in sorted(folders[1].iterdir())
    ]
    assert registry.load(tmp_path / "0", "lstm").predict is not None


# ── As a process ──────────────────────────────────────────────────────────────────────────────────────────────


def command(panel: Path, out: Path, *more: str) -> list[str]:
    """The job's command line over `panel`."""
    job = [sys.executable, "-m", "forecaster.train", "--input", str(panel), "--out", str(out), "--seed", "3"]
    return [*job, "--models", "holt-winters", *more]


def test_the_job_runs_as_a_process_and_tells_its_progress(tmp_path: Path) -> None:
    write_panel(tmp_path / "panel.npz", a_panel(1))
    done = subprocess.run(
        command(tmp_path / "panel.npz", tmp_path / "models", "--workers", "1"),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == [
        "model_started",
        "series_done",
        "examining",
        "model_done",
    ]
    assert json.loads(done.stdout)[0]["model"] == "holt-winters"


def children(pid: int) -> set[int]:
    """Processes that `pid` has started and that still run, all the way down."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields[1] == str(pid) and fields[0] != "Z":
            child = int(stat.parent.name)
            found |= {child, *children(child)}
    return found


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(found: Callable[[], object], within_s: float = 120.0) -> None:
    ends = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.02)


LARGE = a_panel(400)  # fifty parts: long enough to be stopped in


@pytest.fixture(scope="module")
def large_undisturbed() -> dict[str, bytes]:
    """The model files of a training that nobody stopped."""
    with tempfile.TemporaryDirectory() as folder:
        train(LARGE, out=Path(folder), seed=3, models=ONE, work=quick())
        return stored(Path(folder))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize(
    ("blow", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, id="asked to go"),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, id="kill -9"),
    ],
)
def test_a_job_that_is_stopped_takes_its_workers_along_and_the_next_one_goes_on(
    blow: signal.Signals, code: int, tmp_path: Path, large_undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "models"
    write_panel(tmp_path / "panel.npz", LARGE)
    with (tmp_path / "events").open("w") as events:
        job = subprocess.Popen(
            command(tmp_path / "panel.npz", out, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=events
        )
    try:
        wait_for(lambda: list((out / FOLDER).glob("*.json")) if (out / FOLDER).exists() else job.poll() is not None)
        workers = children(job.pid)
        job.send_signal(blow)
        assert job.wait(timeout=60) == code
    finally:
        job.kill()
        job.wait()
    assert workers, "it was stopped while they worked"
    wait_for(lambda: not any(lives(pid) for pid in workers))
    said = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert ("interrupted" in said) == (blow == signal.SIGINT)
    kept = len(list((out / FOLDER).glob("*.json")))
    assert 0 < kept < 50
    engine = Watched()
    train(LARGE, out=out, seed=3, models=ONE, work=quick(engine=engine))
    assert len(engine.asked) == 50 - kept
    assert stored(out) == large_undisturbed


def test_unusable_input_is_refused_with_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("a.npz", b"PK broken"), ("b.csv", b"timestamp,requests\nyesterday,3\n"), ("c.csv", b"")):
        (tmp_path / name).write_bytes(content)
        assert main(["--input", str(tmp_path / name), "--out", str(tmp_path), "--seed", "1"]) == 2
        assert json.loads(capsys.readouterr().err)["event"] == "refused"
    assert main(["--input", str(tmp_path / "absent.csv"), "--out", str(tmp_path), "--seed", "1"]) == 2


# ── Panels on disk ────────────────────────────────────────────────────────────────────────────────────────────


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
