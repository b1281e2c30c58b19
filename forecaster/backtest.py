"""Rolling-origin evaluation: what a model would have said at every minute, scored on what came true and what
decisions on it would have cost.

Decides nothing; it replays. At each origin a model sees the bins that were known then and no other; it may be refitted
once a day, on the past alone. Masked bins are not scored. The engine (`headstart`) is run as in production: one state,
handed on from minute to minute, with one day of warm-up before the scored window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.decision_cost import decision_cost
from forecaster.errors import SeriesError
from forecaster.models import ensemble
from forecaster.models.replay import replayed
from forecaster.models.tracking import Track, follow, is_tracking
from forecaster.preprocess import DAY, bins_in, up_to
from forecaster.types import HORIZONS, LEVELS, Forecaster, Panel, Series, SeriesKey, require_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

Refit = Callable[[Panel], Sequence[Forecaster]]
"""Members to use from now on, fitted on nothing but the panel given."""

REPORTED = (0.5, 0.9, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """One model at one horizon over the scored window.

    `wape` = Σ|y - q50| / Σ|y|; `mase` = mean |y - q50| over the mean one-day difference before the window; `pinball`
    by level, in % of the mean demand; `coverage` by level, the share of bins ≤ that quantile; `n` scored bins.
    `decision_gpu_ratio` is what a fleet whose orders take this horizon to arrive costs on these forecasts, at equal
    risk (`decision_cost`); NaN where that risk is out of reach.
    """

    model: str
    horizon_s: float
    wape: float
    mase: float
    pinball: Mapping[float, float]
    coverage: Mapping[float, float]
    decision_gpu_ratio: float
    fit_s: float
    predict_ms: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is scored: origins whose newest bin starts in [`score_from`, `score_to`), and targets before its end."""

    score_from: datetime
    score_to: datetime
    warm_up: timedelta = DAY

    def __post_init__(self) -> None:
        require_utc(self.score_from, "score_from")
        require_utc(self.score_to, "score_to")
        if self.score_to <= self.score_from:
            raise SeriesError(f"score_to {self.score_to} must come after score_from {self.score_from}")


def default_window(series: Series) -> Window:
    """The last four days, after at least one day of history; whole days as far as the series allows."""
    score_from = max(series.start + DAY, series.end - 4 * DAY)
    if score_from >= series.end:
        raise SeriesError(f"need more than one day of history, got {series.end - series.start}")
    return Window(score_from=score_from, score_to=series.end)


def backtest(
    series: Series,
    members: Sequence[Forecaster],
    *,
    window: Window,
    horizons: tuple[int, ...] = (5, 15, 30),
    engine: bool = True,
    refit: Refit | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[BacktestResult, ...]:
    """Every member alone, and with `engine` their calibrated selection as model "headstart", at each horizon.

    `refit` is called once a day of the window (warm-up included) with what was known then; its members take the
    place of `members`. `horizons` are steps. Raises `SeriesError` if nothing can be scored.
    """
    key = SeriesKey(workload="backtest/series", signal="demand_rps")
    panel = Panel(keys=(key,), start=series.start, step=series.step, values=series.values[None, :])
    first = _column(series, window.score_from)
    last = _column(series, window.score_to)
    begin = max(1, first - window.warm_up // series.step)
    if last <= first:
        raise SeriesError(f"nothing to score between {window.score_from} and {window.score_to}")

    grid = tuple(sorted(set(horizons) | set(HORIZONS)))
    members = [replayed(member, panel) for member in members]
    fit = (lambda known: [replayed(member, panel) for member in refit(known)]) if refit is not None else None
    shares: dict[str, _Answers] = {}
    for origin, members_now, fit_s in _origins(panel, members, fit, begin, last, clock):
        known = up_to(panel, panel.start + panel.step * (origin + 1))
        for name, run in _runs(members_now, engine).items():
            answers = shares.setdefault(name, _Answers(np.full((last, len(grid), len(LEVELS)), np.nan)))
            started = clock()
            answers.values[origin], answers.memory = run(known, grid, answers.memory)
            answers.spent_s += clock() - started
            answers.fit_s += fit_s
            answers.calls += 1
    columns = [grid.index(one) for one in horizons]
    return tuple(
        _score(name, series, answers, first, last, grid, column)
        for name, answers in shares.items()
        for column in columns
    )


@dataclass(slots=True)
class _Answers:
    """What one model said at each origin, its memory in between, and what it cost."""

    values: FloatArray
    memory: object = None
    spent_s: float = 0.0
    fit_s: float = 0.0
    calls: int = 0


_Run = Callable[[Panel, tuple[int, ...], object], tuple["FloatArray", object]]


def _column(series: Series, moment: datetime) -> int:
    return min(max(0, (moment - series.start) // series.step), series.values.size)


def _origins(
    panel: Panel,
    members: Sequence[Forecaster],
    refit: Refit | None,
    begin: int,
    last: int,
    clock: Callable[[], float],
) -> Iterator[tuple[int, Sequence[Forecaster], float]]:
    """Each origin's column, the members of its day, and the seconds that a refit just took."""
    day = bins_in(DAY, panel.step)
    for origin in range(begin, last):
        spent = 0.0
        if refit is not None and (origin - begin) % day == 0:
            started = clock()
            members = refit(up_to(panel, panel.start + panel.step * origin))
            spent = clock() - started
        yield origin, members, spent


def _runs(members: Sequence[Forecaster], engine: bool) -> dict[str, _Run]:
    """By the name reported, how to ask it: the engine over all members, then each member alone."""
    runs: dict[str, _Run] = {}
    if engine:

        def asked(known: Panel, grid: tuple[int, ...], memory: object) -> tuple[FloatArray, object]:
            state = memory if isinstance(memory, ensemble.EngineState) else None
            done = ensemble.step(members, known, state, horizons=grid)
            forecast = done.forecasts.get(known.keys[0])
            empty = np.full((len(grid), len(LEVELS)), np.nan)
            return (np.array(forecast.values) if forecast is not None else empty), done.state

        runs[ensemble.MODEL_NAME] = asked
    for member in members:
        runs[ensemble.family(member.model_id)] = _alone(member)
    return runs


def _alone(member: Forecaster) -> _Run:
    def asked(known: Panel, grid: tuple[int, ...], memory: object) -> tuple[FloatArray, object]:
        if not is_tracking(member):
            return member.predict(known, horizons=grid)[0], None
        track = memory if isinstance(memory, Track) else None
        track = follow(member, track, known, horizons=grid, reach=bins_in(DAY, known.step))
        return member.predict_from(track, known, horizons=grid)[0], track

    return asked


def _score(
    name: str, series: Series, answers: _Answers, first: int, last: int, grid: tuple[int, ...], column: int
) -> BacktestResult:
    horizon, window = grid[column], slice(first, last)
    decided = decision_cost(answers.values[window], series.values[window], horizons=grid, lead=horizon)
    origins = np.arange(first, last - horizon)
    said, actual = answers.values[origins, column], series.values[origins + horizon]
    scored = np.isfinite(actual) & np.isfinite(said).all(axis=1)
    said, actual = said[scored], actual[scored]
    n, total = int(scored.sum()), float(np.abs(actual).sum())
    error = float(np.abs(actual - said[:, 0]).sum())
    return BacktestResult(
        model=name,
        horizon_s=horizon * series.step.total_seconds(),
        wape=_share(error, total),
        mase=_share(error, n * _daily_difference(series.values[:first], bins_in(DAY, series.step))),
        pinball={level: 100.0 * _share(_pinball_sum(actual, said, level), total) for level in REPORTED},
        coverage={level: _coverage(actual, said, level) for level in REPORTED[1:]},
        decision_gpu_ratio=decided.gpu_ratio,
        fit_s=answers.fit_s,
        predict_ms=1000.0 * answers.spent_s / max(1, answers.calls),
        n=n,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0.0 else float("nan")


def _pinball_sum(actual: FloatArray, said: FloatArray, level: float) -> float:
    error = actual - said[:, LEVELS.index(level)]
    return float(np.maximum(level * error, (level - 1.0) * error).sum())


def _coverage(actual: FloatArray, said: FloatArray, level: float) -> float:
    covered: NDArray[np.bool_] = actual <= said[:, LEVELS.index(level)] * (1.0 + 1e-9)
    return float(covered.mean()) if covered.size else float("nan")


def _daily_difference(past: FloatArray, day: int) -> float:
    """Mean absolute difference to one day before, over the known bins; 0 where there is no such pair."""
    difference = np.abs(past[day:] - past[:-day]) if past.size > day else np.zeros(0)
    known = difference[np.isfinite(difference)]
    return float(known.mean()) if known.size else 0.0
