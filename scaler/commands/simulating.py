"""`simulate`: traffic, played by policies, in numbers.

It turns what a person typed into runs and the runs into a table, a document, a CSV or a page; what is played and how
it is scored stands in `scaler.simulate`. No daemon, no cluster, nothing is written but the files that were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaler.commands import journalling
from scaler.commands.printing import Output, progress_bar, put_json, put_table, say
from scaler.commands.refits import Fits
from scaler.commands.reporting import of_trace, put_cliffs, write_page, write_rows
from scaler.commands.typed import ENGINE, Refit, Span, duration, ends_of, listed, without_nan

if TYPE_CHECKING:
    from forecaster.registry import Members
    from forecaster.trace import Trace
    from scaler.simulate.sweep import ColdStartSweep, ParetoSweep
    from scaler.simulate.trace import Setting, TraceRun

    Progress = Callable[[float, str], None]

DEFAULT_COLD_START = "180s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Where the traffic comes from, as typed: a file, or a workload's past in Prometheus."""

    file: Path | None
    url: str | None = None
    workload: str | None = None
    days: int = 14
    config: Path | None = None
    save: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """What the replicas of a simulation are like, as typed."""

    cold_start: str | None
    peak_replicas: int | None
    capacity_rps: float | None
    max_replicas: int | None = None
    profile: Path | None = None
    price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What is to be played, as typed."""

    policies: str | None
    seed: int
    seeds: int = 1
    events: tuple[str, ...] = ()
    sweep: bool = False
    refit: Refit = Refit.NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to come out, as typed."""

    output: Output
    csv_file: Path | None = None
    report: Path | None = None
    journal: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The traffic as a trace, and what a configuration said of its workload."""

    trace: Trace
    label: str
    capacity_rps: float | None = None
    cold_start: timedelta | None = None
    facts: dict[str, str] = field(default_factory=dict)


def simulate(traffic: Traffic, span: Span, replicas: Replicas, play: Play, wanted: Wanted) -> None:
    """Play the traffic and print each policy's score."""
    _check(traffic, replicas, play, wanted)
    ends = ends_of(span)
    recorded = _traffic(traffic, span.column)
    if replicas.profile is not None:
        from scaler.commands import serving

        serving.simulate(recorded, ends, replicas, play, wanted)
        return

    from scaler.simulate.product_run import known_at_opening
    from scaler.simulate.trace import COLUMNS, DEFAULT_POLICIES, UnknownPolicyError
    from scaler.simulate.trace import simulate as played

    names = DEFAULT_POLICIES if play.policies is None else listed(play.policies, "--policies")
    setting = _setting(recorded, ends, replicas, play)
    fits = Fits(play.refit, seed=play.seed, step=recorded.trace.series.step)
    journalling.check(wanted.journal, names, seeds=play.seeds)
    try:
        with progress_bar() as progress, journalling.kept(wanted.journal, names, recorded.trace.series) as kept:
            members = fits.opening(lambda: known_at_opening(recorded.trace, setting), progress)
            run = played(
                recorded.trace,
                names,
                setting,
                members=members.forecasters,
                refit=fits.again,
                progress=_part(progress, 0.0, play.sweep),
                recorded=wanted.report is not None,
                journals=kept.journals,
            )
            sweeps = _swept(run, names, members, progress) if play.sweep else None
    except UnknownPolicyError as error:
        raise typer.BadParameter(str(error), param_hint="--policies") from error
    forecast = any(name.partition(":")[0] == ENGINE for name in names)
    if forecast:
        fits.tell()
    kept.tell(recorded.trace)
    if wanted.csv_file is not None:
        write_rows(wanted.csv_file, run, COLUMNS)
    if wanted.report is not None:
        write_page(wanted.report, of_trace(run, sweeps, label=recorded.label, facts=recorded.facts))
    document = run.as_json(recorded.label)
    if forecast:
        document["forecasters"] = fits.as_json()
    _print(run, document, sweeps, recorded, wanted.output)


def _check(traffic: Traffic, replicas: Replicas, play: Play, wanted: Wanted) -> None:
    """Refuse what does not go together, before anything is read."""
    if (traffic.file is None) == (traffic.url is None):
        raise typer.BadParameter("give either --trace FILE or --from-prometheus URL", param_hint="--trace")
    if traffic.url is not None and traffic.workload is None:
        raise typer.BadParameter("needs --workload NAMESPACE/NAME", param_hint="--from-prometheus")
    if traffic.url is None and (traffic.workload or traffic.config or traffic.save):
        raise typer.BadParameter(
            "--workload, --config and --save-trace go with --from-prometheus", param_hint="--from-prometheus"
        )
    if replicas.peak_replicas is not None and replicas.capacity_rps is not None:
        raise typer.BadParameter("give either --peak-replicas or --capacity-rps", param_hint="--capacity-rps")
    for option, value in (("--capacity-rps", replicas.capacity_rps), ("--price", replicas.price)):
        if value is not None and not 0.0 < value < math.inf:
            raise typer.BadParameter(f"must be above 0, got {value}", param_hint=option)
    if replicas.profile is None and (play.seeds > 1 or play.events):
        raise typer.BadParameter(
            "--seeds and --inject need --profile: without requests nothing here is random", param_hint="--profile"
        )
    if play.refit is Refit.DAILY and (play.sweep or replicas.profile is not None):
        what = "--profile lives through hours" if replicas.profile is not None else "--sweep plays hundreds of runs"
        raise typer.BadParameter(f"{what}: fit once, before the first", param_hint="--refit")
    if replicas.profile is not None and replicas.capacity_rps is not None:
        raise typer.BadParameter("the profile says what a replica serves", param_hint="--capacity-rps")
    for option, path in (("--csv", wanted.csv_file), ("--report", wanted.report), ("--save-trace", traffic.save)):
        # Now, not after minutes of work.
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            why = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise typer.BadParameter(f"cannot write {path}: {why}", param_hint=option)


# ── The traffic ───────────────────────────────────────────────────────────────────────────────────────────────


def _traffic(traffic: Traffic, column: str | None) -> Recorded:
    if traffic.file is not None:
        from forecaster.trace import read_trace

        return Recorded(trace=read_trace(traffic.file, column=column), label=str(traffic.file))
    return _from_prometheus(traffic)


def _from_prometheus(traffic: Traffic) -> Recorded:
    from scaler.adapters.settings import read_settings
    from scaler.simulate.from_prometheus import record, save_trace

    assert traffic.url is not None  # _check
    assert traffic.workload is not None
    config = None if traffic.config is None else read_settings(traffic.config)
    try:
        with progress_bar() as progress:
            recording = record(
                traffic.workload,
                url=traffic.url,
                days=traffic.days,
                now=datetime.now(UTC),
                config=config,
                progress=progress,
            )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from-prometheus") from error
    for note in recording.notes:
        say(note)
    if traffic.save is not None:
        save_trace(recording, traffic.save)
        say(f"saved {traffic.save}: play it again with --trace {traffic.save}")
    return Recorded(
        trace=recording.trace,
        label=traffic.workload,
        capacity_rps=recording.capacity_rps,
        cold_start=None if recording.policy is None else recording.policy.start_time,
        facts={"from": "Prometheus"},
    )


def _setting(
    recorded: Recorded, ends: tuple[datetime | None, datetime | None], replicas: Replicas, play: Play
) -> Setting:
    """What was typed comes first, then what the workload's configuration says, then the protocol's defaults."""
    from scaler.simulate.trace import Setting

    cold_start = recorded.cold_start or duration(DEFAULT_COLD_START, "--cold-start")
    if replicas.cold_start is not None:
        cold_start = duration(replicas.cold_start, "--cold-start")
    capacity_rps = replicas.capacity_rps
    if capacity_rps is None and replicas.peak_replicas is None:
        capacity_rps = recorded.capacity_rps
    return Setting(
        cold_start=cold_start,
        score_from=ends[0],
        score_to=ends[1],
        peak_replicas=replicas.peak_replicas or 16,
        capacity_rps=capacity_rps,
        max_replicas=replicas.max_replicas,
        price_per_gpu_hour=replicas.price,
        seed=play.seed,
    )


# ── Sweeps ────────────────────────────────────────────────────────────────────────────────────────────────────

Sweeps = tuple["ParetoSweep", "ColdStartSweep"]

_RUN_SHARE = 0.1
"""Of the whole work that a run without its sweeps is."""


def _part(progress: Progress, begins: float, swept: bool, share: float = _RUN_SHARE) -> Progress:
    """The progress of a part that begins there; the whole bar where nothing is swept."""
    return (lambda done, text: progress(begins + share * done, text)) if swept else progress


def _swept(run: TraceRun, names: tuple[str, ...], members: Members, progress: Progress) -> Sweeps:
    """Each family over its knob, and each policy over slower and slower starts."""
    from scaler.simulate.sweep import DEFAULT_FAMILIES, cold_start_sweep, grids, pareto_sweep

    families = tuple(dict.fromkeys((*DEFAULT_FAMILIES, *_families_with_knobs(names))))
    pareto = pareto_sweep(
        run.trace,
        grids(families, own=run.setting.missed_target_ratio),
        run.setting,
        target_ratio=run.setting.missed_target_ratio,
        members=members.forecasters,
        progress=_part(progress, _RUN_SHARE, True, 0.6),
    )
    cliff = cold_start_sweep(
        run.trace,
        names,
        run.setting,
        target_ratio=run.setting.missed_target_ratio,
        members=members.forecasters,
        progress=_part(progress, _RUN_SHARE + 0.6, True, 0.3),
    )
    return pareto, cliff


def _families_with_knobs(names: tuple[str, ...]) -> tuple[str, ...]:
    from scaler.simulate.policies import KNOBS

    return tuple(family for name in names if (family := name.partition(":")[0]) in KNOBS)


# ── What comes out ────────────────────────────────────────────────────────────────────────────────────────────


def _print(run: TraceRun, document: dict[str, Any], sweeps: Sweeps | None, recorded: Recorded, output: Output) -> None:
    if sweeps is not None:
        document["sweep"], document["cold_start_sweep"] = (each.as_json(recorded.label) for each in sweeps)
    if output is Output.JSON:
        put_json(without_nan(document))
        return
    _put_scores(document)
    if sweeps is not None:
        _put_matched(document["sweep"])
        put_cliffs(document["cold_start_sweep"])
    scored = f"{run.start:%Y-%m-%d %H:%M} to {run.end:%Y-%m-%d %H:%M} UTC"
    say(f"{run.trace.name}, {run.trace.column}: scored {scored}, cold start {_cold_start(run)}")
    if run.unknown_bins:
        say(f"{run.unknown_bins} of {run.bins} bins are unknown: neither scored nor billed")


def _cold_start(run: TraceRun) -> str:
    """As asked for, and as played: 30 s on ten-minute bins are ten minutes."""
    asked_s, played_s = (each.total_seconds() for each in (run.setting.cold_start, run.cold_start))
    return f"{asked_s:g} s" + ("" if asked_s == played_s else f", played as {played_s:g} s (whole bins)")


def _put_scores(document: dict[str, Any]) -> None:
    columns = ["POLICY", "GPU-HOURS", "GPU RATIO", "MISSED", "MISSED MIN", "SCALE EVENTS", "POD STARTS"]
    priced = any("money" in each for each in document["policies"])
    rows = [
        [
            each["name"],
            f"{each['gpu_hours']:.1f}",
            f"{each['gpu_ratio']:.3f}",
            f"{100.0 * each['under_provisioned_ratio']:.2f} %",
            f"{each['under_provisioned_minutes']:.0f}",
            str(each["scale_events"]),
            str(each["pod_starts"]),
            *([f"{each['money']:.2f}"] if priced else []),
        ]
        for each in document["policies"]
    ]
    put_table(columns + ["COST"] * priced, rows, right=(*columns[1:], "COST"))


def _put_matched(sweep: dict[str, Any]) -> None:
    target = f"{100.0 * sweep['target_ratio']:g} %"
    columns = ("FAMILY", f"CHEAPEST WITHIN {target}", "GPU RATIO", "MISSED", "AGAINST HEADSTART")
    rows = []
    for each in sweep["matched"]:
        family = each["family"] if each["tuned_in_hindsight"] else f"{each['family']} (as it comes)"
        if each["policy"] is None:
            rows.append((family, "none is within it", "–", "–", "–"))
            continue
        against = each.get("gpu_hours_against_headstart")
        missed = f"{100.0 * each['under_provisioned_ratio']:.2f} %"
        versus = "–" if against is None else f"{against['ratio']:.3f} ×"
        rows.append((family, each["policy"], f"{each['gpu_ratio']:.3f}", missed, versus))
    put_table(columns, rows, right=columns[2:])
