"""The options that several commands take alike: one name, one help text, one metavar each. It decides nothing.

What a command does with them stands in its own module; the command line is put together in `scaler.cli`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaler.commands.printing import Output
from scaler.commands.typed import Refit

ConfigFile = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The settings file (YAML).")]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How the data is printed.")]
Workload = Annotated[str, typer.Argument(metavar="WORKLOAD", help="namespace/name, such as llm/chat.")]
OneWorkload = Annotated[str | None, typer.Option("--workload", "-w", metavar="W", help="Only this one.")]
MaybeWorkload = Annotated[str | None, typer.Argument(metavar="[WORKLOAD]", help="namespace/name, such as llm/chat.")]
Every = Annotated[bool, typer.Option("--all", "-A", help="The whole fleet, workloads added later included.")]

# ── Where the daemon is: asked, or its data folder read ───────────────────────────────────────────────────────

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

# ── Where the daemon is: told, or its data folder written ─────────────────────────────────────────────────────

OrderUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="HEADSTART_URL", help="Tell the daemon there [http://127.0.0.1:8090]."),
]
OrderDataDir = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Write control.json in its data folder instead.")
]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown wherever the state is.")]

# ── Which part of what is stored ──────────────────────────────────────────────────────────────────────────────

Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this moment on (UTC if it has no zone).")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to this moment, exclusive.")]
ModelsFolder = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="The daemon's data folder, in which its models lie.")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; `models list` shows it.")]

# ── A trace and what is scored of it ──────────────────────────────────────────────────────────────────────────

TraceColumn = Annotated[
    str | None, typer.Option("--column", metavar="NAME", help="Which one; requests, else the first of numbers.")
]
ScoreFrom = Annotated[
    str | None,
    typer.Option("--score-from", metavar="TIME", help="Score from here on (UTC); the last four days if not given."),
]
ScoreTo = Annotated[str | None, typer.Option("--score-to", metavar="TIME", help="Up to here, exclusive.")]
RefitWhen = Annotated[
    Refit, typer.Option("--refit", help="Fit models on the trace's own past, before it is played or daily too.")
]
