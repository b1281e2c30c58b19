"""What `simulate` leaves besides its scores: the page, the rows of a CSV, where cold starts become too long.

Nothing is computed here but which figure goes where.
"""

from __future__ import annotations

import csv
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import put_table, say

if TYPE_CHECKING:
    from scaler.simulate.lab_report import CliffPoint, LabReport, SweepPoint
    from scaler.simulate.serving.run import ServingRun
    from scaler.simulate.sweep import ColdStartSweep, ParetoSweep
    from scaler.simulate.trace import TraceRun


def write_rows(path: Path, run: TraceRun | ServingRun, columns: Sequence[str]) -> None:
    """Every bin of every policy, for notebooks and spreadsheets; an unknown load is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for name, at, load, *rest in run.rows():
            writer.writerow((name, at, "" if math.isnan(load) else f"{load:.6g}", *rest))


def put_cliffs(sweep: dict[str, Any]) -> None:
    """Up to which cold start each policy holds, and where it falls off."""
    columns = ("POLICY", "BEARS A COLD START OF", "FALLS AT")
    rows = [
        (
            each["policy"],
            "–" if each["within_s"] is None else f"{each['within_s']:g} s",
            "–" if each["over_s"] is None else f"{each['over_s']:g} s",
        )
        for each in sweep["cliffs"]
    ]
    put_table(columns, rows, right=columns[1:])


def write_page(path: Path, report: LabReport) -> None:
    """The page at `path`; raises `OSError`."""
    from scaler.simulate.lab_page import render

    path.write_text(render(report), encoding="utf-8")
    say(f"wrote {path}")


def of_trace(
    run: TraceRun, sweeps: tuple[ParetoSweep, ColdStartSweep] | None, *, label: str, facts: Mapping[str, str]
) -> LabReport:
    """The report of a run in the decision protocol."""
    from scaler.simulate.lab_report import LabPolicy, LabReport

    scores = {each["name"]: each for each in run.as_json()["policies"]}
    return LabReport(
        trace=label,
        column=run.trace.column,
        start=run.start,
        step=run.step,
        load=next(iter(run.courses.values())).load,
        policies=tuple(
            LabPolicy(
                name=name,
                score=scores[name],
                course=course,
                regret=scores[name]["regret"],
                track=run.tracks.get(name),
            )
            for name, course in run.courses.items()
        ),
        capacity_rps=run.capacity_rps,
        cold_start=run.cold_start,
        seed=run.setting.seed,
        version=_version(),
        command=_command(),
        sweep=None if sweeps is None else _lines(sweeps[0]),
        cliff=None if sweeps is None else _cliffs(sweeps[1]),
        target_ratio=run.setting.missed_target_ratio,
        facts={**_rounded(run), **facts} or None,
    )


def _rounded(run: TraceRun) -> dict[str, str]:
    """The cold start that was asked for, where the bins are too wide for it."""
    if run.cold_start == run.setting.cold_start:
        return {}
    return {"cold start asked for": f"{run.setting.cold_start.total_seconds():g} s, rounded up to whole bins"}


def of_serving(run: ServingRun, *, label: str, facts: Mapping[str, str]) -> LabReport:
    """The report of a run with requests: figures over all seeds, courses of the first one."""
    from scaler.simulate.lab_report import Injection, LabPolicy, LabReport
    from scaler.simulate.serving.events import parse_event

    documents = {each["name"]: each for each in run.as_json()["policies"]}
    first = {name: outcomes[0] for name, outcomes in run.outcomes.items()}
    events = []
    for text in run.events:
        event = parse_event(text, start=run.start, end=run.end)
        end = run.end if math.isinf(event.end_s) else min(run.end, run.start + timedelta(seconds=event.end_s))
        events.append(Injection(name=event.kind.value, start=run.start + timedelta(seconds=event.at_s), end=end))
    shares = run.profile.load({each.name: 1.0 for each in run.profile.classes}) / len(run.profile.classes)
    return LabReport(
        trace=label,
        column=run.trace.column,
        start=run.start,
        step=run.trace.series.step,
        load=next(iter(first.values())).course.load,
        policies=tuple(
            LabPolicy(
                name=name,
                score=documents[name],
                course=outcome.course,
                regret=outcome.regret.as_json(),
                slo=documents[name],
            )
            for name, outcome in first.items()
        ),
        capacity_rps=1.0 / shares,
        cold_start=timedelta(seconds=run.cold_start_s),
        seed=run.seeds[0],
        version=_version(),
        command=_command(),
        events=tuple(events),
        facts={"profile": run.profile.name, "seeds": ", ".join(map(str, run.seeds)), **facts},
    )


def _lines(sweep: ParetoSweep) -> dict[str, list[SweepPoint]]:
    from scaler.simulate.lab_report import SweepPoint

    lines: dict[str, list[SweepPoint]] = {}
    for point in sweep.points:
        score = point.score
        lines.setdefault(point.family, []).append(
            SweepPoint(point.policy, score.under_provisioned_ratio, score.gpu_ratio)
        )
    return lines


def _cliffs(sweep: ColdStartSweep) -> dict[str, list[CliffPoint]]:
    from scaler.simulate.lab_report import CliffPoint

    lines: dict[str, list[CliffPoint]] = {}
    for point in sweep.points:
        score = point.score
        lines.setdefault(point.policy, []).append(
            CliffPoint(point.cold_start.total_seconds(), score.under_provisioned_ratio, score.gpu_ratio)
        )
    return lines


def _version() -> str:
    from importlib.metadata import version

    return version("headstart")


def _command() -> str:
    """What was typed, such that it can be typed again; an address loses whatever stands before its @."""
    from forecaster.sources.connection import redact_url

    words = (redact_url(word) if "://" in word else word for word in sys.argv[1:])
    return shlex.join(["headstart", *words])
