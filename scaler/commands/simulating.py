"""`simulate` and `backtest`: a traffic trace, played by policies or forecast by models, in numbers.

It turns what a person typed into a run and the run into a table or a document; what is played and how it is scored
stands in `scaler.simulate.trace` and `forecaster.backtest`. No daemon, no cluster, nothing is written but the CSV that
was asked for.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaler.commands.printing import Output, progress_bar, put_json, put_table, say

if TYPE_CHECKING:
    from forecaster.backtest import BacktestResult, Window
    from forecaster.registry import Members
    from forecaster.trace import Trace
    from forecaster.types import Forecaster
    from scaler.simulate.trace import TraceRun

ENGINE = "headstart"
"""What the calibrated selection of all models is called."""
BESIDE = ("last-value", "seasonal-naive")
"""What a backtest shows beside the engine unless told otherwise."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A trace, its column and the part that is scored, as typed."""

    column: str | None
    score_from: str | None
    score_to: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """What the replicas of a simulation are like, as typed."""

    cold_start: str
    peak_replicas: int | None
    capacity_rps: float | None


# ── simulate ──────────────────────────────────────────────────────────────────────────────────────────────────


def simulate(
    file: Path,
    span: Span,
    replicas: Replicas,
    *,
    policies: str | None,
    seed: int,
    csv_file: Path | None,
    output: Output,
) -> None:
    """Play the trace and print each policy's score."""
    if replicas.peak_replicas is not None and replicas.capacity_rps is not None:
        raise typer.BadParameter("give either --peak-replicas or --capacity-rps", param_hint="--capacity-rps")
    if replicas.capacity_rps is not None and not 0.0 < replicas.capacity_rps < math.inf:
        raise typer.BadParameter(f"must be above 0, got {replicas.capacity_rps}", param_hint="--capacity-rps")
    cold_start = duration(replicas.cold_start, "--cold-start")
    score_from, score_to = _ends(span)

    from forecaster import registry
    from forecaster.trace import read_trace
    from scaler.simulate.trace import DEFAULT_POLICIES, Setting, UnknownPolicyError
    from scaler.simulate.trace import simulate as played

    names = DEFAULT_POLICIES if policies is None else _listed(policies, "--policies")
    setting = Setting(
        cold_start=cold_start,
        score_from=score_from,
        score_to=score_to,
        peak_replicas=replicas.peak_replicas or 16,
        capacity_rps=replicas.capacity_rps,
        seed=seed,
    )
    trace = read_trace(file, column=span.column)
    members = registry.members(step=trace.series.step)
    try:
        with progress_bar() as progress:
            run = played(trace, names, setting, members=members.forecasters, progress=progress)
    except UnknownPolicyError as error:
        raise typer.BadParameter(str(error), param_hint="--policies") from error
    if any(name == ENGINE for name in names):
        _say_members(members)
    if csv_file is not None:
        _write(csv_file, run)
    document = run.as_json(str(file))
    if output is Output.JSON:
        put_json(_without_nan(document))
        return
    _put_scores(document)
    scored = f"{run.start:%Y-%m-%d %H:%M} to {run.end:%Y-%m-%d %H:%M} UTC"
    say(f"{trace.name}, {trace.column}: scored {scored}, cold start {replicas.cold_start}")


def _write(path: Path, run: TraceRun) -> None:
    """Every bin of every policy, for notebooks and spreadsheets; an unknown load is an empty cell."""
    from scaler.simulate.trace import COLUMNS

    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for name, at, load, *rest in run.rows():
            writer.writerow((name, at, "" if math.isnan(load) else f"{load:.6g}", *rest))


def _put_scores(document: dict[str, Any]) -> None:
    columns = ("POLICY", "GPU-HOURS", "GPU RATIO", "MISSED", "MISSED MIN", "SCALE EVENTS", "POD STARTS")
    rows = [
        (
            each["name"],
            f"{each['gpu_hours']:.1f}",
            f"{each['gpu_ratio']:.3f}",
            f"{100.0 * each['under_provisioned_ratio']:.2f} %",
            f"{each['under_provisioned_minutes']:.0f}",
            str(each["scale_events"]),
            str(each["pod_starts"]),
        )
        for each in document["policies"]
    ]
    put_table(columns, rows, right=columns[1:])


# ── backtest ──────────────────────────────────────────────────────────────────────────────────────────────────


def backtest(
    files: Sequence[Path], span: Span, *, models: str | None, horizons: str, seed: int, output: Output
) -> None:
    """Forecast every bin of each trace from the past alone and print how far off it was; one document a trace."""
    ahead = [duration(each, "--horizons") for each in _listed(horizons, "--horizons")]
    if min(ahead) <= timedelta(0):
        raise typer.BadParameter("every horizon must be above 0", param_hint="--horizons")
    ends = _ends(span)

    from forecaster import registry
    from forecaster.trace import read_trace

    documents = []
    for file in files:
        trace = read_trace(file, column=span.column)
        members = registry.members(step=trace.series.step)
        wanted = _models(models, members)
        if ENGINE in wanted:
            _say_members(members)
        with progress_bar() as progress:
            progress(0.0, f"{trace.name}: forecasting")
            results = _scored(trace, wanted, members.forecasters, ahead, ends)
        documents.append(_document(file, trace, seed, results))
    if output is Output.JSON:
        for document in documents:
            put_json(document, compact=len(documents) > 1)
    else:
        _put_accuracy(documents)


def _scored(
    trace: Trace,
    wanted: Sequence[str],
    members: Sequence[Forecaster],
    ahead: Sequence[timedelta],
    ends: tuple[datetime | None, datetime | None],
) -> list[BacktestResult]:
    """The results of the wanted models, in the order asked for. The engine hears all members, wanted or not."""
    from forecaster.backtest import backtest as tested
    from forecaster.models.ensemble import family

    step = trace.series.step
    engine = ENGINE in wanted
    chosen = [each for each in members if engine or family(each.model_id) in wanted]
    # Up to whole bins: 5, 15 and 30 minutes are 10, 20 and 30 on bins of ten.
    steps = tuple(dict.fromkeys(-(-each // step) for each in ahead))
    results = tested(trace.series, chosen, window=_window(trace, ends), horizons=steps, engine=engine)
    return sorted((each for each in results if each.model in wanted), key=lambda each: wanted.index(each.model))


def _window(trace: Trace, ends: tuple[datetime | None, datetime | None]) -> Window:
    from forecaster.backtest import Window, default_window
    from forecaster.errors import SeriesError
    from forecaster.types import Series

    series = trace.series
    score_from, score_to = ends
    end = series.end if score_to is None else min(score_to, series.end)
    if score_from is not None:
        return Window(score_from=score_from, score_to=end)
    bins = (end - series.start) // series.step
    if bins <= 0:
        raise SeriesError(f"the trace begins at {series.start}, after the end of the window {end}")
    return default_window(Series(start=series.start, step=series.step, values=series.values[:bins]))


def _models(asked: str | None, members: Members) -> tuple[str, ...]:
    from forecaster.models.ensemble import family

    if asked is None:
        return (ENGINE, *BESIDE)
    wanted = _listed(asked, "--models")
    known = (ENGINE, *(family(each.model_id) for each in members.forecasters))
    for name in wanted:
        if name not in known:
            raise typer.BadParameter(_unknown("model", name, known), param_hint="--models")
    return wanted


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} {name!r}.{meant} There are {', '.join(known)}."


def _document(file: Path, trace: Trace, seed: int, results: Sequence[BacktestResult]) -> dict[str, Any]:
    return _without_nan(
        {
            "apiVersion": "headstart/v1",
            "kind": "Backtest",
            "trace": str(file),
            "column": trace.column,
            "seed": seed,
            "results": [
                {
                    "model": each.model,
                    "horizon_s": each.horizon_s,
                    "wape": each.wape,
                    "mase": each.mase,
                    "pinball": {f"{level:g}": loss for level, loss in each.pinball.items()},
                    "coverage": {f"{level:g}": share for level, share in each.coverage.items()},
                    "fit_s": each.fit_s,
                    "predict_ms": each.predict_ms,
                    "n": each.n,
                }
                for each in results
            ],
        }
    )


def _put_accuracy(documents: Sequence[dict[str, Any]]) -> None:
    columns = ("TRACE", "MODEL", "HORIZON", "WAPE", "MASE", "PINBALL .95", "COVERAGE .95", "MS A FORECAST", "N")
    rows = [
        (
            Path(document["trace"]).name,
            each["model"],
            f"{each['horizon_s'] / 60.0:g} min",
            _figure(each["wape"], ".3f"),
            _figure(each["mase"], ".3f"),
            _figure(each["pinball"]["0.95"], ".2f"),
            _figure(each["coverage"]["0.95"], ".3f"),
            _figure(each["predict_ms"], ".2f"),
            str(each["n"]),
        )
        for document in documents
        for each in document["results"]
    ]
    put_table(columns, rows, right=columns[2:])


def _figure(value: float | None, shape: str) -> str:
    return "–" if value is None else format(value, shape)


# ── What was typed ────────────────────────────────────────────────────────────────────────────────────────────


def duration(text: str, option: str) -> timedelta:
    """A span such as 180s, 3m or 1h30m; a usage error naming `option` otherwise."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"a duration is written like 180s, 3m or 1h30m, got {text!r}", param_hint=option)
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long", param_hint=option) from None


def _ends(span: Span) -> tuple[datetime | None, datetime | None]:
    ends = (_moment(span.score_from, "--score-from"), _moment(span.score_to, "--score-to"))
    if ends[0] is not None and ends[1] is not None and ends[1] <= ends[0]:
        raise typer.BadParameter(f"must come after --score-from {span.score_from}", param_hint="--score-to")
    return ends


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"a moment is written like 2026-11-20 or 2026-11-20T18:00:00Z, got {text!r}", param_hint=option
        ) from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _listed(text: str, option: str) -> tuple[str, ...]:
    """Names between commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise typer.BadParameter("needs at least one name", param_hint=option)
    return names


def _say_members(members: Members) -> None:
    """Which models speak for the product here, and which cannot."""
    say(f"headstart forecasts with {', '.join(each.model_id for each in members.forecasters)}; nothing is refitted")
    for model, why in members.refused.items():
        say(f"without {model}: {why}")


def _without_nan(document: dict[str, Any]) -> dict[str, Any]:
    """The document with null where JSON has no number."""
    from scaler.adapters.documents import finite

    plain: dict[str, Any] = finite(document)
    return plain
