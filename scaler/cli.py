"""The command line: names, options and exit codes. What a command does stands in `scaler.commands`, loaded on use.

Exit codes: 0 ok, 1 error, 2 usage or configuration, 3 a gate was missed. Data goes to stdout, everything else to
stderr. An error is one line without a traceback, unless --debug asks for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scaler.commands.printing import Output, put, put_json, say
from scaler.commands.typed import Refit
from scaler.errors import ConfigError, ScalerError

# rich's help takes 0.44 s where the plain one takes 0.19: `headstart --help` has 0.3 s.
app = typer.Typer(
    name="headstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
    help="""\
Predictive autoscaling for LLM serving: GPUs ready before the peak arrives.

\b
Three promises:
  1. If I die, nothing moves.
  2. If I am blind, I never scale in.
  3. I never exceed your limits.
""",
    epilog="Exit codes: 0 ok, 1 error, 2 usage or configuration, 3 a gate was missed.",
)
models_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The stored models: list, compare, promote, roll back."
)
app.add_typer(models_app, name="models")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file (YAML).")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How the data is printed.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="HEADSTART_URL", help="Ask the daemon there [http://127.0.0.1:8090]."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Read the daemon's data folder instead; nothing is written."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file", metavar="FILE", envvar="HEADSTART_TOKEN_FILE", help="File that holds the daemon's token."
    ),
]
Workload = Annotated[str, typer.Argument(metavar="WORKLOAD", help="namespace/name, such as llm/chat.")]
OneWorkload = Annotated[str | None, typer.Option("--workload", "-w", metavar="W", help="Only this one.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this moment on (UTC if it has no zone).")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to this moment, exclusive.")]
ModelsFolder = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="The daemon's data folder, in which its models lie.")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; `models list` shows it.")]


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["HEADSTART_DEBUG"] = "1"


# ── Deciding ──────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def demo(
    output: OutputFormat = Output.TABLE,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where report.html goes.")] = Path("headstart-demo"),
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the traffic.")] = 1,
) -> None:
    """Replay a seeded week and compare policies; needs no cluster.

    Several workloads live through it by the decision code that ships; a table of policies and a report come out.
    """
    from scaler.commands import offline

    offline.demo(out, seed=seed, output=output)


@app.command()
def run(config: ConfigFile) -> None:
    """The daemon: read, forecast, decide, scale, until told to stop."""
    from scaler.adapters.settings import read_settings

    checked = read_settings(config)
    from scaler import daemon

    raise typer.Exit(daemon.run(checked))


@app.command()
def tick(
    config: ConfigFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and print, write nothing.")] = False,
    workload: OneWorkload = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """One decision round, printed.

    As JSON it is the decision record itself, one a line where there are several workloads.
    """
    from scaler.commands import deciding

    deciding.tick(config, dry_run=dry_run, workload=workload, output=output)


@app.command()
def doctor(
    config: ConfigFile = Path("headstart.yaml"), workload: OneWorkload = None, output: OutputFormat = Output.TABLE
) -> None:
    """What works and what does not, each with its fix line.

    This machine, Prometheus (clock, past, each signal, bucket edges), the cluster (targets, permissions, other
    autoscalers, probes, quotas) and whether profiles are plausible. Changes nothing; exit 1 if anything fails. Reads
    headstart.yaml here unless told otherwise.
    """
    from scaler.commands import doctor as checks

    checks.doctor(config, workload=workload, output=output)


# ── The lab ───────────────────────────────────────────────────────────────────────────────────────────────────

TraceColumn = Annotated[
    str | None, typer.Option("--column", metavar="NAME", help="Which one; requests, else the first of numbers.")
]
ScoreFrom = Annotated[
    str | None,
    typer.Option("--score-from", metavar="TIME", help="Score from here on (UTC); the last four days if not given."),
]
RefitWhen = Annotated[
    Refit, typer.Option("--refit", help="Fit models on the trace's own past, before it is played or daily too.")
]
ScoreTo = Annotated[str | None, typer.Option("--score-to", metavar="TIME", help="Up to here, exclusive.")]


@app.command()
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


@app.command()
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


@app.command()
def profile(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="One replica, such as http://10.0.0.7:8000.")
    ] = None,
    raw: Annotated[
        Path, typer.Option("--raw", metavar="FILE", help="What was measured; written, gone on with, or only read.")
    ] = Path("sweep.jsonl"),
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile to write.")] = Path("profile.yaml"),
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write one HTML page to look at there.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="What it is called; as the file.")] = None,
    request_class: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="CLASS", help="As chat=256+128 or gui=64+48+1280x720 (tokens, pixels)."),
    ] = None,
    ttft: Annotated[str, typer.Option("--ttft", metavar="DURATION", help="First token, P95; off for none.")] = "3s",
    itl: Annotated[str, typer.Option("--itl", metavar="DURATION", help="Between tokens, the same.")] = "100ms",
    e2e: Annotated[str, typer.Option("--e2e", metavar="DURATION", help="Whole answer, the same.")] = "off",
    level: Annotated[str, typer.Option("--level", metavar="DURATION", help="How long at one rate.")] = "15s",
    budget: Annotated[str, typer.Option("--budget", metavar="DURATION", help="How long this call may take.")] = "10m",
    max_requests: Annotated[
        int, typer.Option("--max-requests", metavar="N", min=1, help="Requests that this call sends at most.")
    ] = 20_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of arrivals, words and pictures.")] = 1,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="As the server calls it; its only one.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", metavar="FILE", help="Else $VLLM_API_KEY, if it is set.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", metavar="N", min=1, help="GPUs of one replica.")] = 1,
    start: Annotated[
        str, typer.Option("--start", metavar="DURATION", help="From a pod's order to its first request.")
    ] = "180s",
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", metavar="N", min=1, help="The server's; as seen if not given.")
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option("--kv-tokens", metavar="N", min=1, help="Its KV cache; as it says if not given.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option("--max-num-batched-tokens", metavar="N", min=1, help="The server's.")
    ] = 8192,
    force: Annotated[bool, typer.Option("--force", help="Measure even if the server serves somebody else.")] = False,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Measure a vLLM replica and write its capacity profile.

    An open-loop sweep over the request classes, past the knee of each, with everything kept in the raw file: Ctrl-C
    loses one level, and the same command goes on. Refuses a server that serves somebody else. Without URL the raw
    file is fitted again.
    """
    from scaler.commands import profiling
    from scaler.commands.typed import duration, duration_or_off

    raise typer.Exit(
        profiling.profile(
            profiling.Measured(
                url=url,
                raw=raw,
                classes=tuple(request_class or ()),
                level=duration(level, "--level"),
                budget=duration(budget, "--budget"),
                seed=seed,
                max_requests=max_requests,
                model=model,
                api_key_file=api_key_file,
                force=force,
            ),
            profiling.Replica(
                ttft=duration_or_off(ttft, "--ttft"),
                itl=duration_or_off(itl, "--itl"),
                e2e=duration_or_off(e2e, "--e2e"),
                gpus=gpus,
                start=duration(start, "--start"),
                max_num_seqs=max_num_seqs,
                kv_tokens=kv_tokens,
                max_num_batched_tokens=max_num_batched_tokens,
            ),
            profiling.Wanted(name=name, out=out, page=page, output=output),
        )
    )


# ── Watching ──────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def get(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again after every tick, until interrupted.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Every workload's state, since when, why, and the way out."""
    from scaler.commands import reading, watching

    try:
        watching.get(reading.source_of(url, data_dir, token_file), output, watch=watch)
    except KeyboardInterrupt:
        raise typer.Exit from None  # the way in which watching ends


@app.command()
def explain(
    workload: Workload,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="The decision in force then, such as 2026-11-20T18:00Z.")
    ] = None,
    url: Url = None,
    data_dir: DataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """The whole chain of one decision.

    Inputs with their age, the forecast, each rule, each clamp, the result, and what can come next.
    """
    from scaler.commands import reading, watching

    watching.explain(reading.source_of(url, data_dir, token_file), workload, at, output)


@app.command()
def forecast(
    workload: Workload,
    url: Url = None,
    data_dir: DataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """The forecast in force: quantiles of the demand ahead."""
    from scaler.commands import reading, watching

    watching.forecast(reading.source_of(url, data_dir, token_file), workload, output)


# ── Taking over by hand ───────────────────────────────────────────────────────────────────────────────────────

OrderUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="HEADSTART_URL", help="Tell the daemon there [http://127.0.0.1:8090]."),
]
OrderDataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Write control.json in its data folder instead.")
]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the state is.")]
MaybeWorkload = Annotated[str | None, typer.Argument(metavar="[WORKLOAD]", help="namespace/name, such as llm/chat.")]
Every = Annotated[bool, typer.Option("--all", "-A", help="The whole fleet, workloads added later included.")]


@app.command()
def pause(
    workload: MaybeWorkload = None,
    every: Every = False,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Write nothing more, until it is resumed.

    The scale stays as it is, decisions are made and shown as ever.
    """
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.pause(place, control.one_or_all(workload, every=every), reason, output)


@app.command()
def resume(
    workload: MaybeWorkload = None,
    every: Every = False,
    mode: Annotated[bool, typer.Option("--mode", help="Also follow the mode of the settings again.")] = False,
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Give it back: a pause, an override or a hold ends.

    Also the respect for what another writer changed. A mode set by `enable` or `observe` stays, unless --mode is given.
    """
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.resume(place, control.one_or_all(workload, every=every), output, mode=mode)


@app.command()
def override(
    workload: Workload,
    replicas: Annotated[int, typer.Option("--replicas", metavar="N", min=0, help="Exactly so many.")],
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="For so long, such as 2h; 7d at most.")],
    reason: Why,
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Exactly N replicas for a while, whatever the load.

    Minimum, maximum and GPU budget hold; steps, the guard and blindness do not. It ends by itself.
    """
    from scaler.commands import control
    from scaler.commands.typed import duration

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.override(place, workload, replicas, duration(lasts, "--for"), reason, output)


@app.command()
def enable(
    workload: Workload,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Let it scale, even if its settings say observe."""
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.switch(place, workload, "active", reason, output)


@app.command()
def observe(
    workload: Workload,
    reason: Why = "",
    url: OrderUrl = None,
    data_dir: OrderDataDir = None,
    token_file: TokenFile = None,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Decide and write nothing, even if its settings say active."""
    from scaler.commands import control

    place = control.Place(url=url, data_dir=data_dir, token_file=token_file)
    control.switch(place, workload, "observe", reason, output)


# ── Settings ──────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def init(
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", metavar="URL", help="Look for vLLM's series there, too.")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option("--kubeconfig", metavar="FILE", help="Look at this cluster.")
    ] = None,
    context: Annotated[str | None, typer.Option("--context", metavar="NAME", help="By this context of it.")] = None,
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", metavar="N", help="Only this one; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where the settings go; stdout if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Find what vLLM serves and write a first settings file.

    Looks at the cluster (the pod's service account or a kubeconfig) and at Prometheus; one of the two is enough.
    The file is commented, observes everything and scales nothing.
    """
    from scaler.commands import init as first

    first.init(
        first.Where(prometheus=prometheus, kubeconfig=kubeconfig, context=context, namespaces=tuple(namespace or ())),
        out,
        force=force,
    )


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The settings file (YAML).")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server, and leave out whether secret files are readable here.")
    ] = False,
    output: OutputFormat = Output.TABLE,
) -> None:
    """Check a settings file; nothing is started.

    Every problem is printed with its file, line and column, and every query that the settings lead to is parsed. Of a
    file that is right the servers that it names are asked, unless --offline; what they say does not make it wrong.
    """
    from scaler.commands import settings

    raise typer.Exit(settings.validate(file, output, offline=offline))


@app.command()
def schema(
    output: Annotated[str, typer.Option("--output", "-o", metavar="json|markdown", help="How it is printed.")] = "json",
) -> None:
    """JSON schema of the settings file for editors.

    With -o markdown the page of settings for people.
    """
    from scaler.commands import settings

    if output not in ("json", "markdown"):
        raise typer.BadParameter(f"must be json or markdown, got {output!r}", param_hint="--output")
    settings.schema(markdown=output == "markdown")


# ── Jobs on files ─────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
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


@app.command()
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


@app.command()
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


@models_app.command("list")
def models_list(
    data_dir: ModelsFolder = Path("headstart-data"),
    output: OutputFormat = Output.TABLE,
) -> None:
    """Every stored version: its stage, since when and why, and what it was trained on."""
    from scaler.commands import models

    models.show(data_dir / "models", output)


@models_app.command("compare")
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


@models_app.command("promote")
def models_promote(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    version: Annotated[str, typer.Argument(metavar="VERSION")],
    data_dir: ModelsFolder = Path("headstart-data"),
    reason: Reason = "by hand",
) -> None:
    """Make one version the live one; a running daemon takes it up within a minute."""
    from scaler.commands import models

    models.promote(data_dir / "models", model, version, reason=reason)


@models_app.command("rollback")
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


@app.command()
def version(output: OutputFormat = Output.TABLE) -> None:
    """The version of this program."""
    from importlib import metadata

    number = metadata.version("headstart")
    if output is Output.JSON:
        put_json({"apiVersion": "headstart/v1", "kind": "Version", "version": number})
    else:
        put(f"headstart {number}")


# ── Entry ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code; an error is told, not thrown."""
    try:
        app(args=arguments, prog_name="headstart")
    except Exception as error:
        if os.environ.get("HEADSTART_DEBUG"):
            raise
        sys.exit(_told(error))


def _told(error: Exception) -> int:
    """Say what went wrong and answer the exit code. Only errors raised on purpose are told in their own words."""
    if isinstance(error, ConfigError):
        say(str(error))
        count = len(error.issues)
        say(f"{count} problem{'s' if count > 1 else ''} in the settings; nothing was started")
        return 2
    if isinstance(error, (ScalerError, OSError, _package_errors())):
        say(f"error: {error}")
        return 1
    say(f"internal error: {type(error).__name__}: {error}; `headstart --debug …` shows where")
    return 1


def _package_errors() -> Any:
    """Bases of the other packages' error trees, as far as they are loaded: one that is not cannot have been raised."""
    trees = (("forecaster.errors", "ForecasterError"), ("scaler.adapters.kubernetes.errors", "KubernetesError"))
    return tuple(getattr(sys.modules[module], name) for module, name in trees if module in sys.modules)


if __name__ == "__main__":
    main()
