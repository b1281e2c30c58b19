"""A simulated run on record: the commands that read a daemon's data folder read it, and a replay finds no difference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace, read_trace
from forecaster.types import Series
from scaler.adapters.journal import SqliteJournal
from scaler.cli import main
from scaler.ports import DecisionRecord, Outcome
from scaler.simulate.trace import Setting, simulate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "traces" / "nasa_1995_july.csv.gz"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process: its exit code, what it wrote to stdout and to stderr."""
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        code, captured = left.value.code, capsys.readouterr()
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


def a_trace(folder: Path, *, days: float, minutes: int = 10) -> Path:
    """A daily wave of requests with noise, in bins of that many minutes."""
    bins = np.arange(round(days * 1440 / minutes))
    wave = 60.0 * minutes * (10.0 - 7.0 * np.cos(2.0 * np.pi * bins * minutes / 1440))
    counts = np.random.default_rng(5).poisson(wave)
    rows = (
        f"{(MONDAY + timedelta(minutes=minutes * int(at))).isoformat()},{count}\n"
        for at, count in zip(bins, counts, strict=True)
    )
    path = folder / "wave.csv"
    path.write_text("timestamp,requests\n" + "".join(rows))
    return path


def replayed(headstart: Command, folder: Path) -> dict[str, Any]:
    code, out, _ = headstart("replay", folder, "-o", "json")
    document: dict[str, Any] = json.loads(out)
    assert (code, document["differences"]) == (0, 0)
    return document


# ── The story ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_on_record_is_read_like_a_daemons(headstart: Command, tmp_path: Path) -> None:
    """Simulate, replay without a difference, then ask: what holds now, and why was it so at that moment."""
    folder, bins = tmp_path / "run", tmp_path / "bins.csv"
    window = ("--score-from", "2026-03-04", "--score-to", "2026-03-05")
    code, _, told = headstart(
        "simulate", "--trace", a_trace(tmp_path, days=4), *window, "--journal", folder, "--csv", bins
    )
    assert code == 0
    assert f"headstart replay {folder}" in told
    assert "288 decisions on trace/wave, 2026-03-03 00:10 to 2026-03-05 00:00 UTC" in told

    document = replayed(headstart, folder)
    assert document["decisions"] == 288, "the warm-up day and the scored one, a decision a bin"

    rows = [row.split(",") for row in bins.read_text().splitlines()[1:]]
    billed = {row[1]: int(row[5]) for row in rows if row[3] == "headstart"}
    for hour in (3, 9, 20):
        at = datetime(2026, 3, 4, hour, tzinfo=UTC)
        _, out, _ = headstart("explain", "trace/wave", "--data-dir", folder, "--at", f"{at:%FT%TZ}", "-o", "json")
        assert json.loads(out)["decision"]["target"] == billed[at.isoformat()], "what is ordered then is billed then"
    _, out, _ = headstart("explain", "trace/wave", "--data-dir", folder)
    assert out.startswith("trace/wave  2026-03-05 00:00:00 UTC")

    code, out, _ = headstart("get", "--data-dir", folder, "-o", "json")
    (item,) = json.loads(out)["items"]
    assert (code, item["workload"]) == (0, "trace/wave")
    assert headstart("forecast", "trace/wave", "--data-dir", folder)[0] == 0


def test_requests_one_by_one_are_on_record_too(headstart: Command, tmp_path: Path) -> None:
    """With several classes, latencies and queues: the warm-up day and the window, to the last bit."""
    folder, trace = tmp_path / "run", a_trace(tmp_path, days=1.25, minutes=1)
    asked = ("--profile", "llama-3.1-8b-h100", "--policies", "headstart", "--peak-replicas", "4")
    window = ("--score-from", "2026-03-03T05:00", "--score-to", "2026-03-03T05:30", "--inject", "dark@+10m")
    code, _, told = headstart("simulate", "--trace", trace, *asked, *window, "--journal", folder)
    assert code == 0, told
    document = replayed(headstart, folder)
    assert document["decisions"] == 1440 + 29, "a decision after each bin; none after the last, when all is over"
    _, out, _ = headstart("explain", "trace/wave", "--data-dir", folder, "--at", "2026-03-03T05:20:00Z", "-o", "json")
    classes = {each["request_class"] for each in json.loads(out)["snapshot"]["classes"]}
    assert classes == {"conversation", "code"}


def test_real_traffic_replays_without_a_difference(headstart: Command, tmp_path: Path) -> None:
    if not REAL.is_file():
        pytest.skip(f"no traces in {REAL.parent}")
    window = ("--score-from", "1995-07-05T09:00", "--score-to", "1995-07-05T12:00")
    asked = ("--policies", "reactive,headstart:target=0.5%", "--journal", tmp_path / "run")
    assert headstart("simulate", "--trace", REAL, *window, *asked)[0] == 0
    assert replayed(headstart, tmp_path / "run")["decisions"] == 1440 + 180


def test_the_record_changes_nothing(tmp_path: Path) -> None:
    trace = read_trace(a_trace(tmp_path, days=3))
    with SqliteJournal.open(tmp_path / "run" / "headstart.db", now=MONDAY) as journal:
        with_one = simulate(trace, ["headstart"], Setting(), members=(LastValue(),), journals={"headstart": journal})
    without = simulate(trace, ["headstart"], Setting(), members=(LastValue(),))
    assert with_one.courses["headstart"].billed.tolist() == without.courses["headstart"].billed.tolist()


# ── What is kept ──────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_of_a_long_run_is_forgotten(headstart: Command, tmp_path: Path) -> None:
    """A daemon forgets after 14 days; a run of 16 is on record from its first decision on."""
    trace, folder = a_trace(tmp_path, days=16, minutes=30), tmp_path / "run"
    asked = ("--policies", "headstart:last-value", "--score-from", "2026-03-03", "--journal", folder)
    assert headstart("simulate", "--trace", trace, *asked)[0] == 0
    with SqliteJournal.open(folder / "headstart.db", now=MONDAY, read_only=True) as journal:
        ticks = journal.ticks()
    assert len(ticks) == 16 * 48
    assert (ticks[0], ticks[-1]) == (MONDAY + timedelta(minutes=30), MONDAY + 16 * DAY)


class FullDisk:
    """Takes a few ticks, then none."""

    def __init__(self, *, ticks: int) -> None:
        self.left = ticks

    def append(self, records: Sequence[DecisionRecord]) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("no space left on device")

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        pass


def test_a_journal_that_refuses_ends_the_run() -> None:
    """The daemon scales on without its record; a run that is played for it must not pretend."""
    series = Series(start=MONDAY, step=timedelta(minutes=10), values=np.full(300, 5.0))
    trace = Trace(name="flat", column="requests", series=series)
    with pytest.raises(OSError, match=r"did not take the decisions of 2026-03-02T01:10:00Z: no space left"):
        simulate(trace, ["headstart"], Setting(), members=(LastValue(),), journals={"headstart": FullDisk(ticks=6)})


# ── What is refused ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        pytest.param(("--journal", "kept"), "kept is not empty", id="a folder that holds something"),
        pytest.param(("--journal", "kept/notes.txt"), "is a file", id="a file"),
        pytest.param(("--journal", "no/such/run"), "there is no folder", id="nowhere"),
        pytest.param(("--journal", "run", "--policies", "hpa,oracle"), "--policies names none", id="no product"),
        pytest.param(
            ("--journal", "run", "--policies", "headstart,headstart:target=2%"),
            "one headstart policy, and --policies names headstart, headstart:target=2%",
            id="two products",
        ),
        pytest.param(
            ("--journal", "run", "--profile", "llama-3.1-8b-h100", "--seeds", "2"), "--seeds 1", id="two runs at once"
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_played(
    headstart: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], hint: str
) -> None:
    trace = a_trace(tmp_path, days=3)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    code, out, told = headstart("simulate", "--trace", trace, *arguments)
    assert (code, out) == (2, "")
    assert hint in told
    assert not (tmp_path / "run").exists()
    assert [each.name for each in (tmp_path / "kept").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("made", [pytest.param(True, id="new folder"), pytest.param(False, id="empty folder")])
def test_a_run_that_did_not_end_leaves_nothing_and_can_be_tried_again(
    headstart: Command, tmp_path: Path, made: bool
) -> None:
    trace, folder = a_trace(tmp_path, days=3), tmp_path / "run"
    if not made:
        folder.mkdir()
    asked = ("simulate", "--trace", trace, "--journal", folder, "--policies")
    assert headstart(*asked, "headstart,no-such-policy")[0] == 2
    assert list(folder.iterdir()) == [] if folder.exists() else made
    assert headstart(*asked, "headstart:last-value")[0] == 0
