"""`--refit`: fits on the trace's own past, each on what was known at its moment and on nothing that came after."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.models.holt_winters import HoltWinters, Smoothing
from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.registry import Members
from forecaster.trace import Trace
from forecaster.types import Forecaster, Panel, Series, SeriesKey
from scaler.cli import main
from scaler.commands.refits import Fits
from scaler.commands.typed import Refit
from scaler.simulate.product_run import known_at_opening
from scaler.simulate.trace import Setting, simulate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
STEP = timedelta(minutes=10)
CHEAP = ("holt-winters",)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def headstart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process, fitting Holt-Winters alone: its exit code, its stdout and its stderr."""
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("forecaster.refitting.can_be_fitted", lambda: CHEAP)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(each) for each in arguments])
        code, captured = left.value.code, capsys.readouterr()
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


def waves(days: float, *, seed: int = 5) -> np.ndarray:
    """A daily wave with autocorrelated noise, requests a second in bins of ten minutes."""
    bins = np.arange(round(days * 144))
    noise = np.random.default_rng(seed).normal(0.0, 1.0, bins.size)
    slow = np.convolve(noise, np.full(12, 0.3), mode="full")[: bins.size]
    return np.maximum(20.0 - 12.0 * np.cos(2.0 * np.pi * bins / 144) + slow + 0.2 * noise, 0.1)


def a_trace(days: float) -> Trace:
    return Trace(name="wave", column="requests", series=Series(start=MONDAY, step=STEP, values=waves(days)))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven days of the same as a file."""
    path = tmp_path_factory.mktemp("traces") / "wave.csv"
    rows = (f"{(MONDAY + STEP * at).isoformat()},{600.0 * rate:.0f}\n" for at, rate in enumerate(waves(7).tolist()))
    path.write_text("timestamp,requests\n" + "".join(rows))
    return path


def gains(level: float) -> HoltWinters:
    """A fitted Holt-Winters whose id tells its level gain."""
    key = SeriesKey(workload="trace/wave", signal="demand_rps")
    return HoltWinters(model_id=f"holt-winters@{level:g}", fitted={key: Smoothing(level=level)})


class Watched:
    """A refit that notes what it was shown, and answers gains that follow from the newest bin it knows."""

    def __init__(self) -> None:
        self.shown: list[Panel] = []

    def __call__(self, known: Panel) -> Sequence[Forecaster]:
        self.shown.append(known)
        return (LastValue(), gains(0.05 + float(np.nan_to_num(known.values[0, -1])) % 0.5))


# ── In a simulation ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_daily_refit_is_shown_what_is_known_then_once_a_day() -> None:
    refit = Watched()
    trace = a_trace(6)
    run = simulate(
        trace, ["headstart"], Setting(score_from=MONDAY + 3 * DAY), members=(LastValue(), gains(0.1)), refit=refit
    )
    opened = MONDAY + 2 * DAY + STEP  # where the warm-up day's first bin ends
    assert [known.end for known in refit.shown] == [opened + day * DAY for day in (1, 2, 3)]
    for known in refit.shown:
        bins = (known.end - MONDAY) // STEP
        assert known.start == MONDAY, "the whole history is shown, not its tail"
        assert np.array_equal(known.values[0], trace.series.values[:bins])
    assert run.courses["headstart"].load.size == 3 * 144


def test_a_refit_changes_what_is_forecast_and_only_from_then_on() -> None:
    arguments = (a_trace(6), ["headstart"], Setting(score_from=MONDAY + 3 * DAY))
    members = (LastValue(), gains(0.1))
    kept = simulate(*arguments, members=members, recorded=True).tracks["headstart"]
    anew = simulate(*arguments, members=members, refit=lambda _: (LastValue(), gains(0.9)), recorded=True).tracks[
        "headstart"
    ]
    # The first refit comes a day after the first forecast, with the first bin of the window: what is ordered after it.
    assert np.array_equal(kept.median[:1], anew.median[:1])
    assert not np.array_equal(kept.median[1:], anew.median[1:])


def test_a_policy_of_one_model_stays_one_of_one_model() -> None:
    """The refit names others too; `headstart:last-value` goes on as it was."""
    arguments = (a_trace(5), ["headstart:last-value"], Setting(score_from=MONDAY + 2 * DAY))
    members = (LastValue(), SeasonalNaive())
    alone, refitted = (
        simulate(*arguments, members=members, refit=refit).courses["headstart:last-value"]
        for refit in (None, Watched())
    )
    assert alone.billed.tolist() == refitted.billed.tolist()


def test_a_refit_that_finds_nobody_leaves_the_members_as_they_are() -> None:
    arguments = (a_trace(5), ["headstart"], Setting(score_from=MONDAY + 2 * DAY))
    one, other = (
        simulate(*arguments, members=(LastValue(),), refit=refit).courses["headstart"].billed.tolist()
        for refit in (None, lambda _: ())
    )
    assert one == other


@settings(max_examples=5, deadline=None)
@given(
    after=st.integers(1, 400),
    surprise=st.sampled_from(("five times", "nothing", "unknown", "shuffled")),
)
def test_no_refit_knows_the_future(after: int, surprise: str) -> None:
    """Whatever comes after a bin, every decision up to it is the same, refits on the way included."""
    calm, other = a_trace(6), a_trace(6)
    values = other.series.values[3 * 144 + after :]
    values[:] = {
        "five times": values * 5.0,
        "nothing": values * 0.0,
        "unknown": np.full(values.size, np.nan),
        "shuffled": np.random.default_rng(after).permutation(values),
    }[surprise]
    setting = Setting(score_from=MONDAY + 3 * DAY, capacity_rps=3.0)
    members = (LastValue(), gains(0.1))
    one, two = (
        simulate(each, ["headstart"], setting, members=members, refit=Watched(), recorded=True).tracks["headstart"]
        for each in (calm, other)
    )
    assert one.decisions[:after] == two.decisions[:after]
    assert np.array_equal(one.median[:after], two.median[:after], equal_nan=True)


def test_a_fit_before_the_run_ends_where_the_warm_up_day_opens() -> None:
    trace, setting = a_trace(6), Setting(score_from=MONDAY + 4 * DAY)
    known = known_at_opening(trace, setting)
    assert known.end == MONDAY + 3 * DAY
    assert known.keys == (SeriesKey(workload="trace/wave", signal="demand_rps"),)
    assert known_at_opening(trace, Setting(score_from=MONDAY + DAY / 2)).values.size == 0, "nothing is known"


# ── As commands ───────────────────────────────────────────────────────────────────────────────────────────────


def fits_of(document: dict[str, Any]) -> list[str]:
    return [fit["at"] for fit in document["forecasters"]["fits"]]


WINDOW = ("--score-from", "2026-03-07", "--score-to", "2026-03-08")


@pytest.mark.parametrize(
    ("refit", "fitted_at"),
    [
        pytest.param("never", [], id="never"),
        pytest.param("once", ["2026-03-06T00:00:00+00:00"], id="once"),
        pytest.param("daily", ["2026-03-06T00:00:00+00:00", "2026-03-07T00:10:00+00:00"], id="daily"),
    ],
)
def test_simulate_says_who_forecast_and_when_they_were_fitted(
    headstart: Command, file: Path, refit: str, fitted_at: list[str]
) -> None:
    code, out, told = headstart(
        "simulate", "--trace", file, *WINDOW, "--policies", "headstart", "--refit", refit, "-o", "json"
    )
    assert code == 0, told
    document = json.loads(out)
    assert document["forecasters"]["refit"] == refit
    assert fits_of(document) == fitted_at
    assert {"never": "nothing is refitted", "once": "fitted once, on what was known at 2026-03-06 00:00"}.get(
        refit, "fitted 2 times, daily from 2026-03-06 00:00 to 2026-03-07 00:10"
    ) in told
    assert "last-value" in document["forecasters"]["models"]


def test_backtest_takes_the_same_option(headstart: Command, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(known: Panel, *, until: datetime, seed: int) -> Members:
        assert (until, seed) == (known.end, 1)
        model = HoltWinters(model_id="holt-winters@own", fitted=dict.fromkeys(known.keys, Smoothing(level=0.5)))
        return Members(forecasters=(LastValue(), model), refused={})

    monkeypatch.setattr("forecaster.refitting.fitted_members", fitted)
    documents = {}
    for refit in ("never", "once", "daily"):
        code, out, told = headstart(
            *("backtest", "--trace", file, "--score-from", "2026-03-07", "--score-to", "2026-03-07T06:00"),
            *("--models", "holt-winters,last-value", "--horizons", "10m", "--refit", refit, "-o", "json"),
        )
        assert code == 0, told
        documents[refit] = json.loads(out)
    assert fits_of(documents["never"]) == []
    assert fits_of(documents["once"]) == ["2026-03-06T00:00:00+00:00"]
    assert fits_of(documents["daily"]) == ["2026-03-06T00:00:00+00:00", "2026-03-07T00:00:00+00:00"]
    wapes = {
        refit: {each["model"]: each["wape"] for each in document["results"]} for refit, document in documents.items()
    }
    assert wapes["never"]["last-value"] == wapes["once"]["last-value"] == wapes["daily"]["last-value"]
    assert wapes["never"]["holt-winters"] != wapes["once"]["holt-winters"], "fitted gains are others than the defaults"


def test_with_a_profile_each_class_is_fitted_under_its_own_key(
    headstart: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Panel] = []

    def fitted(known: Panel, *, until: datetime, seed: int) -> Members:
        assert (until, seed) == (known.end, 1)
        shown.append(known)
        return Members(forecasters=(LastValue(),), refused={})

    monkeypatch.setattr("forecaster.refitting.fitted_members", fitted)
    trace = tmp_path / "minutes.csv"
    rows = (f"{(MONDAY + timedelta(minutes=at)).isoformat()},{90 + at % 50}\n" for at in range(2 * 1440))
    trace.write_text("timestamp,requests\n" + "".join(rows))
    asked = ("--profile", "llama-3.1-8b-h100", "--policies", "headstart", "--refit", "once")
    window = ("--score-from", "2026-03-03T12:00", "--score-to", "2026-03-03T12:10")
    code, out, told = headstart("simulate", "--trace", trace, *asked, *window, "-o", "json")
    assert code == 0, told
    (known,) = shown
    assert known.end == MONDAY + DAY / 2
    assert [(key.workload, key.request_class) for key in known.keys] == [
        ("trace/minutes/conversation", "conversation"),
        ("trace/minutes/code", "code"),
    ]
    assert json.loads(out)["forecasters"]["models"] == ["last-value"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        pytest.param(("--refit", "daily", "--sweep"), "--sweep plays hundreds of runs", id="sweep"),
        pytest.param(("--refit", "daily", "--profile", "llama-3.1-8b-h100"), "--profile lives through", id="profile"),
        pytest.param(("--refit", "weekly"), "weekly", id="no such time"),
    ],
)
def test_what_cannot_be_refitted_is_refused(
    headstart: Command, file: Path, arguments: tuple[str, ...], hint: str
) -> None:
    code, out, told = headstart("simulate", "--trace", file, *arguments)
    assert (code, out) == (2, "")
    assert hint in told


# ── What a fit leaves behind ──────────────────────────────────────────────────────────────────────────────────


def test_a_family_that_fails_its_examination_leaves_yesterdays_version_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the daemon does: what was live stays live until something passes."""
    answers = iter(
        (
            Members(forecasters=(LastValue(), gains(0.2)), refused={}),
            Members(forecasters=(LastValue(), HoltWinters()), refused={"holt-winters": "no better"}),
            Members(forecasters=(LastValue(), gains(0.4)), refused={}),
        )
    )
    monkeypatch.setattr("forecaster.refitting.fitted_members", lambda *_, **__: next(answers))
    fits = Fits(Refit.DAILY, seed=1, step=STEP)
    panel = Panel(keys=(), start=MONDAY, step=STEP, values=np.empty((0, 4)))
    said = [[each.model_id for each in fits(panel)] for _ in range(3)]
    assert said == [["last-value", f"holt-winters@{gain}"] for gain in (0.2, 0.2, 0.4)]
