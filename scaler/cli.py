"""The command line: which commands there are, and exit codes. What one does stands in `scaler.commands`, loaded on use.

Exit codes: 0 ok, 1 error, 2 usage or configuration, 3 a gate was missed. Data goes to stdout, everything else to
stderr. An error is one line without a traceback, unless --debug asks for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scaler.commands import file_jobs, ordering
from scaler.commands.options import ConfigFile, DataDir, OneWorkload, OutputFormat, TokenFile, Url, Workload
from scaler.commands.printing import Output, put, put_json, say
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

app.command()(file_jobs.simulate)
app.command()(file_jobs.backtest)


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

app.command()(ordering.pause)
app.command()(ordering.resume)
app.command()(ordering.override)
app.command()(ordering.enable)
app.command()(ordering.observe)


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

app.command()(file_jobs.replay)
app.command()(file_jobs.export)
app.command()(file_jobs.train)
models_app.command("list")(file_jobs.models_list)
models_app.command("compare")(file_jobs.models_compare)
models_app.command("promote")(file_jobs.models_promote)
models_app.command("rollback")(file_jobs.models_rollback)


@app.command()
def gateway(config: ConfigFile) -> None:
    """The gateway before the replicas, until told to stop.

    OpenAI-compatible. One process is one copy; docs/gateway.md describes its settings.
    """
    from scaler.commands import gateway

    raise typer.Exit(gateway.run(config))


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
