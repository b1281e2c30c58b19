"""`backtest`: a traffic trace, forecast by models from its past, in numbers.

What is forecast and how it is scored stands in `forecaster.backtest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaler.commands.printing import Output, progress_bar, put_json, put_table
from scaler.commands.refits import Fits
from scaler.commands.typed import ENGINE, Refit, Span, duration, ends_of, listed, without_nan

if TYPE_CHECKING:
    from forecaster.backtest import BacktestResult, Window
    from forecaster.trace import Trace
    from forecaster.types import Forecaster

BESIDE = ("last-value", "seasonal-naive")
"""What a backtest shows beside the engine unless told otherwise."""


def backtest(
    files: Sequence[Path],
    span: Span,
    *,
    models: str | None,
    horizons: str,
    seed: int,
    refit: Refit,
    output: Output,
) -> None:
    """Forecast every bin of each trace from the past alone and print how far off it was; one document a trace."""
    ahead = [duration(each, "--horizons") for each in listed(horizons, "--horizons")]
    if min(ahead) <= timedelta(0):
        raise typer.BadParameter("every horizon must be above 0", param_hint="--horizons")
    ends = ends_of(span)

    from forecaster.trace import read_trace

    documents = []
    for file in files:
        trace = read_trace(file, column=span.column)
        fits = Fits(refit, seed=seed, step=trace.series.step)
        wanted = _models(models, fits)
        with progress_bar() as progress:
            progress(0.0, f"{trace.name}: forecasting")
            results = _scored(trace, wanted, fits, ahead, ends)
        if ENGINE in wanted or fits.made:
            fits.tell()
        documents.append({**_document(file, trace, seed, results), "forecasters": fits.as_json()})
    if output is Output.JSON:
        for document in documents:
            put_json(document, compact=len(documents) > 1)
    else:
        _put_accuracy(documents)


def _scored(
    trace: Trace,
    wanted: Sequence[str],
    fits: Fits,
    ahead: Sequence[timedelta],
    ends: tuple[datetime | None, datetime | None],
) -> list[BacktestResult]:
    """The results of the wanted models, in the order asked for. The engine hears all members, wanted or not."""
    from forecaster.backtest import backtest as tested
    from forecaster.models.ensemble import family

    step = trace.series.step
    engine = ENGINE in wanted

    def chosen(found: Sequence[Forecaster]) -> list[Forecaster]:
        return [each for each in found if engine or family(each.model_id) in wanted]

    fitted = fits.refit is not Refit.NEVER and (engine or not fits.fitted.isdisjoint(wanted))
    refit = (lambda known: chosen(fits(known))) if fitted else None
    members = chosen(fits.shipped.forecasters)
    # Up to whole bins: 5, 15 and 30 minutes are 10, 20 and 30 on bins of ten.
    steps = tuple(dict.fromkeys(-(-each // step) for each in ahead))
    results = tested(trace.series, members, window=_window(trace, ends), horizons=steps, engine=engine, refit=refit)
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


def _models(asked: str | None, fits: Fits) -> tuple[str, ...]:
    if asked is None:
        return (ENGINE, *BESIDE)
    wanted = listed(asked, "--models")
    known = (ENGINE, *fits.families)
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
    return without_nan(
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
                    "decision_gpu_ratio": each.decision_gpu_ratio,
                    "fit_s": each.fit_s,
                    "predict_ms": each.predict_ms,
                    "n": each.n,
                }
                for each in results
            ],
        }
    )


def _put_accuracy(documents: Sequence[dict[str, Any]]) -> None:
    columns = (
        "TRACE",
        "MODEL",
        "HORIZON",
        "WAPE",
        "MASE",
        "PINBALL .95",
        "COVERAGE .95",
        "GPU RATIO",
        "MS A FORECAST",
        "N",
    )
    rows = [
        (
            Path(document["trace"]).name,
            each["model"],
            f"{each['horizon_s'] / 60.0:g} min",
            _figure(each["wape"], ".3f"),
            _figure(each["mase"], ".3f"),
            _figure(each["pinball"]["0.95"], ".2f"),
            _figure(each["coverage"]["0.95"], ".3f"),
            _figure(each["decision_gpu_ratio"], ".3f"),
            _figure(each["predict_ms"], ".2f"),
            str(each["n"]),
        )
        for document in documents
        for each in document["results"]
    ]
    put_table(columns, rows, right=columns[2:])


def _figure(value: float | None, shape: str) -> str:
    return "–" if value is None else format(value, shape)
