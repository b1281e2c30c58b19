"""`simulate`: a traffic trace, played by policies, in numbers.

It turns what a person typed into a run and the run into a table or a document; what is played and how it is scored
stands in `scaler.simulate`. No daemon, no cluster, nothing is written but the files that were asked for.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaler.commands.printing import Output, progress_bar, put_json, put_table, say
from scaler.commands.typed import ENGINE, Span, duration, ends_of, listed, say_members, without_nan

if TYPE_CHECKING:
    from scaler.simulate.trace import TraceRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """What the replicas of a simulation are like, as typed."""

    cold_start: str
    peak_replicas: int | None
    capacity_rps: float | None


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
    score_from, score_to = ends_of(span)

    from forecaster import registry
    from forecaster.trace import read_trace
    from scaler.simulate.trace import DEFAULT_POLICIES, Setting, UnknownPolicyError
    from scaler.simulate.trace import simulate as played

    names = DEFAULT_POLICIES if policies is None else listed(policies, "--policies")
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
        say_members(members)
    if csv_file is not None:
        _write(csv_file, run)
    document = run.as_json(str(file))
    if output is Output.JSON:
        put_json(without_nan(document))
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
