"""The refit is a child: budgeted, modest, killed with all it started, and skipped with a message where it cannot run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster import registry
from forecaster.errors import SeriesError
from forecaster.types import STEP, Panel, SeriesKey
from forecaster.unfinished import kept_history
from policy_cases import NOON
from scaler import refit_job
from scaler.adapters.demand import KNOWN_BLOB, known_to_bytes
from scaler.adapters.models import ModelShelf
from scaler.adapters.refit import NICENESS, Refit, RefitOutcome, missing_packages
from scaler.adapters.store import Store
from scaler.policy.scheduled import ScheduledEvent, ScheduledRule
from scaler.refit_job import Request, refit
from training_cases import Watched, quick

HOLT_WINTERS = Request(models=("holt-winters",))


def a_refit(script: str, *, budget_s: float = 120.0, needs: tuple[str, ...] = ()) -> Refit:
    return Refit((sys.executable, "-c", script), budget=timedelta(seconds=budget_s), needs=needs)


@pytest.mark.parametrize(
    ("script", "outcome", "said"),
    [
        pytest.param("print('fitted 3 models')", RefitOutcome.DONE, "fitted 3 models", id="it works"),
        pytest.param("import sys; sys.exit('no history')", RefitOutcome.FAILED, "no history", id="it refuses"),
        pytest.param("import os; os.kill(os.getpid(), 9)", RefitOutcome.FAILED, "", id="out of memory"),
    ],
)
def test_the_outcome_comes_with_its_last_words(script: str, outcome: RefitOutcome, said: str) -> None:
    report = a_refit(script).run()
    assert (report.outcome, report.detail) == (outcome, said)
    assert report.duration_s > 0


def test_without_the_train_extra_it_is_skipped_with_the_next_command() -> None:
    report = a_refit("raise SystemExit('must not run')", needs=("no_such_package", "json")).run()
    assert report.outcome is RefitOutcome.SKIPPED
    assert report.detail == "not installed: no_such_package; pip install 'headstart[train]' for fitted models"


def test_looking_for_packages_imports_none() -> None:
    before = set(sys.modules)
    missing_packages()
    assert not {"torch", "statsmodels", "lightgbm"} & (set(sys.modules) - before)


def test_a_hung_refit_is_killed_at_its_budget_with_everything_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pid_file)!r} + ".new", "w").write(str(child.pid))
os.rename({str(pid_file)!r} + ".new", {str(pid_file)!r})
time.sleep(600)
"""
    for budget_s in (2.0, 10.0, 60.0):  # with the lowest claim on the processor it may not get to its child in two
        report = a_refit(script, budget_s=budget_s).run()
        assert report.outcome is RefitOutcome.TIMED_OUT
        if pid_file.exists():
            break
    _await(lambda: not _lives(int(pid_file.read_text())))


def test_stopping_the_daemon_ends_a_refit_and_lets_none_begin() -> None:
    refit = a_refit("import time; time.sleep(600)")
    reports = []
    thread = threading.Thread(target=lambda: reports.append(refit.run()))
    thread.start()
    _await(lambda: refit._child is not None)
    refit.stop()
    thread.join(timeout=60)
    assert reports[0].outcome is RefitOutcome.STOPPED
    assert refit.run().outcome is RefitOutcome.STOPPED


def test_it_has_the_lowest_claim_on_cpu_and_memory() -> None:
    script = f"""
import os, time
ends = time.monotonic() + 60  # its claim is lowered from outside, a moment after it has begun
while (mine := (os.nice(0), open('/proc/self/oom_score_adj').read().strip())) != ({NICENESS}, '1000'):
    if time.monotonic() > ends:
        break
    time.sleep(.01)
print(*mine)
"""
    niceness, oom_score = a_refit(script).run().detail.split()
    assert int(niceness) == NICENESS
    assert int(oom_score) == 1000


def test_endless_words_do_not_fill_the_log() -> None:
    report = a_refit("print('x' * 100_000 + 'the end')").run()
    assert len(report.detail) <= 2000
    assert report.detail.endswith("the end")


def _lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _await(found, within_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    ends = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.02)


# ── The child itself, and what the daemon makes of its work ───────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with four days of a daily pattern."""
    with Store.open(tmp_path, now=NOON) as store:
        minutes = 4 * 1440
        rates = (
            10.0
            + 6.0 * np.sin(2 * np.pi * np.arange(minutes) / 1440)
            + np.random.default_rng(1).normal(0, 0.3, minutes)
        )
        key = SeriesKey(workload="llm/chat", signal="demand_rps")
        panel = Panel(keys=(key,), start=NOON - minutes * STEP, step=STEP, values=rates[None, :])
        store.history.append(panel, now=NOON)
    return tmp_path


def test_the_child_fits_on_the_stored_history_and_the_shelf_takes_up_what_it_promotes(folder: Path) -> None:
    pytest.importorskip("statsmodels", reason="needs the train extra")
    shelf = ModelShelf(folder / "models", ("last-value", "holt-winters"))
    before, _ = shelf.current()
    assert [member.model_id for member in before.members] == ["last-value", "holt-winters"]
    (outcome,) = refit(folder, HOLT_WINTERS, now=NOON)
    assert outcome.promoted, "on a clean daily pattern it beats last value"
    after, changed = shelf.current()
    assert changed
    assert [member.model_id for member in after.members] == ["last-value", f"holt-winters@{outcome.version}"]
    assert after.trained_at["holt-winters"] <= NOON
    assert shelf.current() == (after, False)


def test_a_refit_does_not_learn_the_events_that_the_daemon_knew_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Yesterday's sale is in the history; with what the daemon left in the data file the fit sees usual demand."""
    shown: list[Panel] = []

    def look(panel: Panel, **_: object) -> tuple[()]:
        shown.append(panel)
        return ()

    monkeypatch.setattr(refit_job.train, "train", look)
    refit(folder, HOLT_WINTERS, now=NOON)
    sale = ScheduledEvent(
        name="sale", start=NOON - 1500 * STEP, end=NOON - 1440 * STEP, expected_peak=(), demand_ratio=2.0
    )
    with Store.open(folder, now=NOON) as store:
        store.save_blob(KNOWN_BLOB, known_to_bytes({"llm/chat": ScheduledRule(events=(sale,))}), now=NOON)
    refit(folder, HOLT_WINTERS, now=NOON)
    ratio = shown[1].values[0] / shown[0].values[0]
    assert ratio[-1500:-1440] == pytest.approx(0.5)
    assert np.delete(ratio, np.arange(ratio.size - 1500, ratio.size - 1440)) == pytest.approx(1.0)


def test_a_refit_that_was_stopped_goes_on_with_the_history_it_was_begun_on(folder: Path) -> None:
    """The next night has newer minutes, but half a model of each would be none: the unfinished one comes first."""
    begun = refit(folder, HOLT_WINTERS, now=NOON, work=quick(engine=Watched(most=0)))
    assert begun[0].left is not None
    with Store.open(folder, now=NOON) as store:
        later = Panel(
            keys=(SeriesKey(workload="llm/chat", signal="demand_rps"),),
            start=NOON,
            step=STEP,
            values=np.full((1, 600), 7.0),
        )
        store.history.append(later, now=NOON + 600 * STEP)
    told: list[str] = []
    work = quick(on_event=lambda name, facts: told.append(name))
    tomorrow = NOON + timedelta(hours=24)
    (outcome,) = refit(folder, HOLT_WINTERS, now=tomorrow, work=work)
    assert (told[0], outcome.stage) == ("continued", "live")
    assert registry.read(folder / "models", "holt-winters")[0].span.end == NOON - timedelta(days=1)
    refit(folder, HOLT_WINTERS, now=tomorrow, work=work)  # the one after that reads the history anew
    assert told.count("continued") == 1
    spans = {
        registry.read(folder / "models", "holt-winters", version=version)[0].span.end
        for version in registry.versions(folder / "models", "holt-winters")
    }
    assert spans == {NOON - timedelta(days=1), NOON + 600 * STEP - timedelta(days=1)}


def test_one_may_start_over(folder: Path) -> None:
    refit(folder, HOLT_WINTERS, now=NOON, work=quick(engine=Watched(most=0)))
    told: list[str] = []
    fresh = Request(models=("holt-winters",), fresh=True)
    refit(folder, fresh, now=NOON, work=quick(on_event=lambda name, facts: told.append(name)))
    assert "continued" not in told


def test_a_history_that_is_no_use_is_not_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path, now=NOON) as store:
        key = SeriesKey(workload="llm/chat", signal="demand_rps")
        short = Panel(keys=(key,), start=NOON - 60 * STEP, step=STEP, values=np.full((1, 60), 7.0))
        store.history.append(short, now=NOON)
    with pytest.raises(SeriesError, match="over two days"):
        refit(tmp_path, HOLT_WINTERS, now=NOON)
    assert kept_history(tmp_path / "models", days=14, now=NOON) is None


def test_what_waits_in_shadow_is_judged_before_the_next_asks_for_its_place(folder: Path) -> None:
    told: list[tuple[str, str]] = []

    def note(name: str, facts: Mapping[str, Any]) -> None:
        if name == "reviewed":
            told.append((facts["version"], facts["stage"]))

    root, versions = folder / "models", []
    for seed, days_later in ((1, 0), (2, 0), (3, 0)):
        request = Request(models=("holt-winters",), seed=seed)
        (outcome,) = refit(folder, request, now=NOON + timedelta(days=days_later), work=quick(on_event=note))
        versions.append(outcome.version)
    assert registry.live_version(root, "holt-winters") == versions[0]
    assert told == [(versions[1], "shadow")]  # no day has passed: it waits on, and the third cannot take its place
    assert registry.shadow_version(root, "holt-winters") == versions[1]


def test_a_family_that_cannot_be_fitted_here_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit_job, "missing_packages", lambda model: ("lightgbm",) if model == "trees" else ())
    told: list[str] = []
    wanted = ("trees", "holt-winters")
    assert refit_job.fitted_here(wanted, lambda name, facts: told.append(facts["reason"])) == ("holt-winters",)
    assert told == ["not installed: lightgbm; pip install 'headstart[train]'"]


def test_a_damaged_model_is_refused_and_the_last_good_one_goes_on(folder: Path) -> None:
    pytest.importorskip("statsmodels", reason="needs the train extra")
    shelf = ModelShelf(folder / "models", ("last-value", "holt-winters"))
    (outcome,) = refit(folder, HOLT_WINTERS, now=NOON)
    good, _ = shelf.current()
    home = folder / "models" / "holt-winters"
    for file in (home / str(outcome.version)).iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    pointer = home / "current.json"
    pointer.write_bytes(pointer.read_bytes() + b"\n")
    still, changed = shelf.current()
    assert changed
    assert still.members == good.members
    assert "holt-winters" in still.refused


def test_a_model_on_request_joins_where_it_is_named(tmp_path: Path) -> None:
    names = ("last-value", "harmonic", "ewma")
    asked, plain = (ModelShelf(tmp_path, wanted).current()[0] for wanted in (names, ("last-value",)))
    assert [member.model_id for member in asked.members] == list(names)
    assert asked.refused == {}
    assert [member.model_id for member in plain.members] == ["last-value"]


def test_a_model_that_is_wanted_and_not_there_is_named(tmp_path: Path) -> None:
    shelf, _ = ModelShelf(tmp_path, ("last-value", "no-such-model")).current()
    assert [member.model_id for member in shelf.members] == ["last-value"]
    assert shelf.refused == {"no-such-model": "no no-such-model is stored here: the next refit may bring one"}


def test_without_a_usable_history_the_child_says_so(tmp_path: Path) -> None:
    with Store.open(tmp_path, now=NOON):
        pass
    command = (sys.executable, "-m", "scaler.refit_job", str(tmp_path), "holt-winters")
    report = Refit(command, budget=timedelta(seconds=60), needs=()).run()
    assert report.outcome is RefitOutcome.FAILED
    assert "training needs over two days" in report.detail
