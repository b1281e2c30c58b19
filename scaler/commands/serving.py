"""`simulate --profile`: the traffic served request by request by simulated vLLM replicas, in numbers.

It turns what was typed into a run and the run into a table, a document, a CSV or a page; how requests are served and
judged stands in `scaler.simulate.serving`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scaler.commands import journalling
from scaler.commands.printing import Output, progress_bar, put_json, put_table, say
from scaler.commands.refits import Fits
from scaler.commands.reporting import of_serving, put_cliffs, write_page, write_rows
from scaler.commands.typed import ENGINE, duration, listed, without_nan

if TYPE_CHECKING:
    from forecaster.registry import Members
    from scaler.commands.simulating import Play, Recorded, Replicas, Wanted
    from scaler.policy.capacity import CapacityProfile
    from scaler.simulate.serving.run import ServingRun, ServingSetting
    from scaler.simulate.serving.sweep import ServingColdStartSweep, ServingParetoSweep

    Progress = Callable[[float, str], None]


def simulate(
    recorded: Recorded,
    ends: tuple[datetime | None, datetime | None],
    replicas: Replicas,
    play: Play,
    wanted: Wanted,
) -> None:
    """Play the traffic request by request and print each policy's service and cost."""
    from scaler.simulate.serving.outcome import COLUMNS
    from scaler.simulate.serving.run import EventError, ProfileError, UnknownPolicyError, simulate_serving
    from scaler.simulate.serving.stage import Stage
    from scaler.simulate.trace import DEFAULT_POLICIES

    names = DEFAULT_POLICIES if play.policies is None else listed(play.policies, "--policies")
    assert replicas.profile is not None  # the caller looked
    profile = _profile(replicas.profile)
    setting = _setting(recorded, ends, replicas, play)
    fits = Fits(play.refit, seed=play.seed, step=recorded.trace.series.step)
    journalling.check(wanted.journal, names, seeds=play.seeds)
    try:
        with progress_bar() as progress, journalling.kept(wanted.journal, names, recorded.trace.series) as kept:
            stage = Stage.of(recorded.trace, profile, setting, ())
            members = fits.opening(stage.known_at_opening, progress)
            run = simulate_serving(
                recorded.trace,
                profile,
                names,
                setting,
                members=members.forecasters,
                progress=progress,
                journals=kept.journals,
            )
            sweeps = _swept(run, setting, names, members, progress) if play.sweep else None
    except UnknownPolicyError as error:
        raise typer.BadParameter(str(error), param_hint="--policies") from error
    except ProfileError as error:
        raise typer.BadParameter(str(error), param_hint="--profile") from error
    except EventError as error:
        raise typer.BadParameter(str(error), param_hint="--inject") from error
    forecast = any(name.partition(":")[0] == ENGINE for name in names)
    if forecast:
        fits.tell()
    kept.tell(recorded.trace)
    if wanted.csv_file is not None:
        write_rows(wanted.csv_file, run, COLUMNS)
    if wanted.report is not None:
        write_page(wanted.report, of_serving(run, label=recorded.label, facts=recorded.facts))
    document = run.as_json(recorded.label)
    if forecast:
        document["forecasters"] = fits.as_json()
    if replicas.price is not None:
        for each in document["policies"]:
            each["money"] = round(each["gpu_hours"] * replicas.price, 2)
    if sweeps is not None:
        document["sweep"], document["cold_start_sweep"] = (each.as_json(recorded.label) for each in sweeps)
    if wanted.output is Output.JSON:
        put_json(without_nan(document))
        return
    _put(document)
    if sweeps is not None:
        _put_matched(document["sweep"])
        put_cliffs(document["cold_start_sweep"])
    say(
        f"{run.trace.name} on {profile.name}: served {run.start:%Y-%m-%d %H:%M} to {run.end:%Y-%m-%d %H:%M} UTC, "
        f"cold start {run.cold_start_s:g} s, requests × {run.requests_scale:.4g}"
    )


def _swept(
    run: ServingRun, setting: ServingSetting, names: tuple[str, ...], members: Members, progress: Progress
) -> tuple[ServingParetoSweep, ServingColdStartSweep]:
    """Each family over its knob at equal attainment, and each policy over slower and slower starts."""
    from scaler.simulate.policies import KNOBS
    from scaler.simulate.serving.sweep import serving_cold_start_sweep, serving_pareto_sweep
    from scaler.simulate.sweep import DEFAULT_FAMILIES, grids

    asked = (family for name in names if (family := name.partition(":")[0]) in KNOBS)
    known = grids(tuple(dict.fromkeys((*DEFAULT_FAMILIES, *asked))), own=setting.missed_target_ratio)
    found = members.forecasters
    pareto = serving_pareto_sweep(run.trace, run.profile, known, setting, members=found, progress=progress)
    return pareto, serving_cold_start_sweep(run.trace, run.profile, names, setting, members=found, progress=progress)


def _profile(path: Path) -> CapacityProfile:
    """The profile in a file, or a shipped one by its name."""
    from scaler.config.reading import data_folder, read_profile, shipped_profiles

    if not path.exists() and str(path) in shipped_profiles():
        return read_profile(data_folder() / "profiles" / f"{path}.yaml")
    return read_profile(path)


def _setting(
    recorded: Recorded, ends: tuple[datetime | None, datetime | None], replicas: Replicas, play: Play
) -> ServingSetting:
    from scaler.simulate.serving.run import ServingSetting

    cold_start = None if replicas.cold_start is None else duration(replicas.cold_start, "--cold-start")
    return ServingSetting(
        score_from=ends[0],
        score_to=ends[1],
        peak_replicas=replicas.peak_replicas,
        cold_start=cold_start,
        seeds=tuple(range(play.seed, play.seed + play.seeds)),
        events=play.events,
        max_replicas=replicas.max_replicas,
    )


def _put(document: dict[str, Any]) -> None:
    columns = ("POLICY", "ATTAINED", "BAD MINUTES", "DROPPED", "GPU-HOURS", "GPU RATIO", "POD STARTS")
    rows = [
        (
            each["name"],
            f"{100.0 * each['slo_attainment']:.2f} %{_give_or_take(each, 'slo_attainment', 100.0)}",
            f"{each['slo_violation_minutes']:.0f}",
            f"{each['dropped_requests']:.0f}",
            f"{each['gpu_hours']:.1f}{_give_or_take(each, 'gpu_hours', 1.0)}",
            f"{each['gpu_ratio']:.3f}",
            f"{each['pod_starts']:.0f}",
        )
        for each in document["policies"]
    ]
    put_table(columns, rows, right=columns[1:])
    by_class = ("POLICY", "CLASS", "ATTAINED", "TTFT P50", "P95", "P99", "ITL P50", "P95", "E2E P95", "REQUESTS")
    rows_by_class = [
        (
            each["name"],
            name,
            f"{100.0 * one['attainment']:.2f} %",
            *(f"{1000.0 * one[key]:.0f} ms" for key in ("ttft_p50_s", "ttft_p95_s", "ttft_p99_s")),
            *(f"{1000.0 * one[key]:.1f} ms" for key in ("itl_p50_s", "itl_p95_s")),
            f"{one['e2e_p95_s']:.2f} s",
            f"{one['requests']:.0f}",
        )
        for each in document["policies"]
        for name, one in each["classes"].items()
    ]
    put_table(by_class, rows_by_class, right=by_class[2:])


def _put_matched(sweep: dict[str, Any]) -> None:
    columns = (
        "FAMILY",
        f"CHEAPEST WITH {100.0 * sweep['target_attainment']:.2f} %",
        "ATTAINED",
        "GPU-HOURS",
        "AGAINST HEADSTART",
    )
    rows = []
    for each in sweep["matched"]:
        family = each["family"] if each["tuned_in_hindsight"] else f"{each['family']} (as it comes)"
        if each["policy"] is None:
            rows.append((family, "none attains it", "–", "–", "–"))
            continue
        against = each.get("gpu_hours_against_headstart")
        attained, hours = f"{100.0 * each['slo_attainment']:.2f} %", f"{each['gpu_hours']:.1f}"
        rows.append((family, each["policy"], attained, hours, "–" if against is None else f"{against['ratio']:.3f} ×"))
    put_table(columns, rows, right=columns[2:])


def _give_or_take(policy: dict[str, Any], figure: str, factor: float) -> str:
    """Half the 95 % confidence interval over the seeds, where there are several."""
    half = policy.get("ci95", {}).get(figure)
    return "" if half is None else f" ± {factor * half:.2f}"
