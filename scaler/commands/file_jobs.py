"""Commands on files, as the command line takes them: traces, journals, histories and stored models. No daemon is asked.

Names, options and help texts; `scaler.cli` registers them. What each does is loaded on use, or `--help` would take
seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaler.commands.options import (
    ModelsFolder,
    OneWorkload,
    OutputFormat,
    Reason,
    RefitWhen,
    ScoreFrom,
    ScoreTo,
    Since,
    TraceColumn,
    Until,
)
from scaler.commands.printing import Output
from scaler.commands.typed import Refit


def simulate(
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Traffic as CSV, plain or gzip.")
    ] = None,
    column: TraceColumn = None,
    from_prometheus: Annotated[
        str | None, typer.Option("--from-prometheus", metavar="URL", help="Instead: a workload's past, from there.")
    ] = None,
    workload: Annotated[
        str | None, typer.Option("--workload", metavar="NAMESPACE/NAME", help="With --from-prometheus: whose.")
    ] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", help="With --from-prometheus: how many.")] = 14,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="With --from-prometheus: as the daemon reads it.")
    ] = None,
    save_trace: Annotated[
        Path | None, typer.Option("--save-trace", metavar="FILE", help="With --from-prometheus: keep it as a trace.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option("--policies", metavar="A,B", help="Which ones [headstart,reactive,hpa,oracle].")
    ] = None,
    cold_start: Annotated[
        str | None,
        typer.Option("--cold-start", metavar="DURATION", help="From a pod's order to its first request [180s]."),
    ] = None,
    score_from: ScoreFrom = None,
    score_to: ScoreTo = None,
    peak_replicas: Annotated[
        int | None,
        typer.Option("--peak-replicas", metavar="N", min=1, help="Replicas for the 99.9 % quantile of the load [16]."),
    ] = None,
    capacity_rps: Annotated[
        float | None,
        typer.Option("--capacity-rps", metavar="X", help="Instead: what one replica serves a second."),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="Instead: serve each request as this profile's replicas do."),
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option("--max-replicas", metavar="N", min=1, help="No policy orders more.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Each family over its knob, and each policy over cold starts.")
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option("--inject", metavar="EVENT@WHEN", help="With --profile: such as step@+2h; may be repeated."),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="With --profile: so many runs, with intervals.")
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the run; on record.")] = 1,
    refit: RefitWhen = Refit.NEVER,
    price: Annotated[float | None, typer.Option("--price", metavar="X", help="Of a GPU-hour, in any money.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write every bin of every policy there.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write one HTML page to look at there.")
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="DIR", help="Keep headstart's decisions there, to replay and explain."),
    ] = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Play policies on traffic: cost and misses.

    The product decides by the code that ships, its rivals by theirs, all on the same traffic with the same cold start.
    """
    from scaler.commands import simulating, typed

    simulating.simulate(
        simulating.Traffic(
            file=trace, url=from_prometheus, workload=workload, days=days, config=config, save=save_trace
        ),
        typed.Span(column=column, score_from=score_from, score_to=score_to),
        simulating.Replicas(
            cold_start=cold_start,
            peak_replicas=peak_replicas,
            capacity_rps=capacity_rps,
            max_replicas=max_replicas,
            profile=profile,
            price=price,
        ),
        simulating.Play(
            policies=policies, seed=seed, seeds=seeds, events=tuple(inject or ()), sweep=sweep, refit=refit
        ),
        simulating.Wanted(output=output, csv_file=csv, report=report, journal=journal),
    )


def backtest(
    trace: Annotated[
        list[Path], typer.Option("--trace", metavar="FILE", help="Traffic as CSV, plain or gzip; may be repeated.")
    ],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More traces.")] = None,
    column: TraceColumn = None,
    models: Annotated[
        str | None,
        typer.Option("--models", metavar="A,B", help="Which ones [headstart,last-value,seasonal-naive]."),
    ] = None,
    horizons: Annotated[
        str, typer.Option("--horizons", metavar="A,B", help="How far ahead, in whole bins (rounded up).")
    ] = "5m,15m,30m",
    score_from: ScoreFrom = None,
    score_to: ScoreTo = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the run; on record.")] = 1,
    refit: RefitWhen = Refit.DAILY,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Forecast a trace from its past: accuracy and calibration.

    From every bin of the scored days, with one day of warm-up before them; models are fitted again each night, as the
    daemon does. As JSON one document a trace, one a line where there are several.
    """
    from scaler.commands import backtesting, typed

    backtesting.backtest(
        [*trace, *(more or ())],
        typed.Span(column=column, score_from=score_from, score_to=score_to),
        models=models,
        horizons=horizons,
        seed=seed,
        refit=refit,
        output=output,
    )


def replay(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="A data folder, or the data file in it.")],
    policy_file: Annotated[
        Path | None, typer.Option("--policy-file", metavar="FILE", help="Decide under these settings instead.")
    ] = None,
    workload: OneWorkload = None,
    since: Since = None,
    until: Until = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Decide every record again; exit 3 if anything differs."""
    from scaler.commands import offline

    part = offline.Part(workload=workload, since=since, until=until)
    raise typer.Exit(offline.replay(journal, output, part=part, policy_file=policy_file))


def export(
    data_dir: Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The daemon's data folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The Parquet file to write.")],
    workload: OneWorkload = None,
    signal: Annotated[
        list[str] | None, typer.Option("--signal", metavar="NAME", help="Only this signal; may be repeated.")
    ] = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """The history as Parquet (needs the analytics extra).

    One row a known minute: unique_id, ds, y, workload, signal, request_class.
    """
    from scaler.commands import offline

    part = offline.Part(workload=workload, since=since, until=until)
    offline.export(data_dir, out, part=part, signals=signal or ())


def train(
    data_dir: ModelsFolder = Path("headstart-data"),
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Train on this CSV instead of the daemon's history.")
    ] = None,
    models: Annotated[str | None, typer.Option("--models", metavar="A,B", help="Which ones; all if not given.")] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", min=3, help="How much of the history.")] = 14,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the fits.")] = 1,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="Store only; nothing goes live.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of going on with an unfinished one.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="DURATION", help="Time for the fits, as 50m; the next run does the rest."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="local|ray", help="Where the fits run.")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Processes of the local engine; one a processor if not given."
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", metavar="ADDRESS", help="The cluster, as auto; this machine if not given."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="What networks train on.")] = "auto",
    output: OutputFormat = Output.TABLE,
) -> None:
    """Fit models, promote what passes its examination (train extra).

    The last day is held back; a model goes live only if decisions with it cost less there. Exit 3 if none does.
    A run that was killed, or whose budget was spent, is continued by the next one. Ctrl-C loses nothing.
    """
    from scaler.commands import training
    from scaler.commands.typed import duration, listed

    job = training.Job(
        data_dir=data_dir,
        trace=trace,
        models=listed(models, "--models") if models is not None else None,
        days=days,
        seed=seed,
        promote=not no_promote,
        fresh=fresh,
    )
    place = training.Place(
        engine=engine,
        workers=workers,
        ray_address=ray_address,
        budget=duration(budget, "--budget") if budget is not None else None,
        device=device,
    )
    raise typer.Exit(training.train(job, place, output))


def models_list(
    data_dir: ModelsFolder = Path("headstart-data"),
    output: OutputFormat = Output.TABLE,
) -> None:
    """Every stored version: its stage, since when and why, and what it was trained on."""
    from scaler.commands import models

    models.show(data_dir / "models", output)


def models_compare(
    one: Annotated[str, typer.Argument(metavar="A", help="As lstm@3f2a91c0d4e5, or lstm for the live one.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another, or a model that needs no fit: last-value.")],
    data_dir: ModelsFolder = Path("headstart-data"),
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="On this CSV instead of the daemon's history.")
    ] = None,
    column: TraceColumn = None,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, help="On so many of the last days.")] = 2,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Two models on recent days: what decisions cost, how far off.

    GPU-minutes at equal risk over the fewest possible, pinball loss, coverage, and which of the two is better.
    """
    from scaler.commands import models

    over = models.Days(data_dir=data_dir, trace=trace, column=column, days=days)
    models.compare(one, other, over, output)


def models_promote(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    data_dir: ModelsFolder = Path("headstart-data"),
    reason: Reason = "by hand",
) -> None:
    """Make one version the live one; a running daemon takes it up within a minute."""
    from scaler.commands import models

    models.promote(data_dir / "models", model, version, reason=reason)


def models_rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    data_dir: ModelsFolder = Path("headstart-data"),
    reason: Reason = "by hand",
) -> None:
    """Go back to the version that was live before.

    What is taken back stays off: no refit promotes it again.
    """
    from scaler.commands import models

    models.roll_back(data_dir / "models", model, reason=reason)
