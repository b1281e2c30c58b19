"""The demo's report: one HTML file that needs no network, with every figure and every decision in it.

It turns a finished run into a page and judges nothing: figures come from `scoring`, reasons from the decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scaler.simulate.demo import POLICIES, DemoRun, WorkloadRun
from scaler.simulate.page import change, fill, packed, stretches
from scaler.simulate.recording import REASONS, TRUSTS
from scaler.simulate.scoring import Score

DRAWN_POLICIES = ("headstart", "reactive", "hpa", "oracle")
"""Whose serving replicas are drawn; a fixed fleet is a line that needs no picture."""

CAPTIONS: Mapping[str, str] = {
    "headstart": "the product: forecast, load, latency and calendar rules",
    "reactive": "the same code with the forecast switched off",
    "hpa": "the Kubernetes HPA at 70 %, its real algorithm",
    "static-peak": "a fixed fleet for the 99.9 % quantile of the week",
    "oracle": "knows the future, pods still take their time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One policy in the table; bars are shares of the largest in their column."""

    name: str
    caption: str
    score: Score
    missed_bar: float
    gpu_bar: float


def render(run: DemoRun) -> str:
    """The page, complete with style, script and data."""
    scores = run.scores
    return fill(
        "report.html.j2",
        run=run,
        rows=_rows(scores),
        dots=_dots(scores),
        scores=scores,
        versus=_versus(scores),
        captions=CAPTIONS,
        data=_data(run),
    )


def _rows(scores: Mapping[str, Score]) -> list[_Row]:
    most_missed = max(each.under_provisioned_minutes for each in scores.values()) or 1.0
    most_hours = max(each.gpu_hours for each in scores.values()) or 1.0
    return [
        _Row(
            name=name,
            caption=CAPTIONS[name],
            score=scores[name],
            missed_bar=scores[name].under_provisioned_minutes / most_missed,
            gpu_bar=scores[name].gpu_hours / most_hours,
        )
        for name in POLICIES
    ]


def _versus(scores: Mapping[str, Score]) -> dict[str, float]:
    """The product against its rivals, as ratios; infinite where the rival's figure is zero and ours is not."""
    ours = scores["headstart"]
    return {
        "missed_reactive": _ratio(ours.missed_bins, scores["reactive"].missed_bins),
        "gpu_reactive": _ratio(ours.gpu_hours, scores["reactive"].gpu_hours),
        "gpu_static": _ratio(ours.gpu_hours, scores["static-peak"].gpu_hours),
        "starts_reactive": _ratio(ours.pod_starts, scores["reactive"].pod_starts),
    }


def _ratio(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return float("inf") if ours else 1.0


def _dots(scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Each policy as a point, cost to the right and misses upwards, as shares of the axes (room at the far ends)."""
    most_hours = 1.08 * max(each.gpu_hours for each in scores.values())
    most_missed = 1.15 * max(each.under_provisioned_ratio for each in scores.values()) or 1.0
    return [
        {
            "name": name,
            "x": scores[name].gpu_hours / most_hours,
            "y": scores[name].under_provisioned_ratio / most_missed,
        }
        for name in POLICIES
    ]


# ── The data that the page's script draws ─────────────────────────────────────────────────────────────────────


def _data(run: DemoRun) -> dict[str, Any]:
    return {
        "start": int(run.start.timestamp()),
        "bins": run.days * 1440,
        "learning": run.learning_days * 1440,
        "reasons": [reason.value for reason in REASONS],
        "trusts": [trust.value for trust in TRUSTS],
        "workloads": [_workload(run, each) for each in run.runs],
    }


def _workload(run: DemoRun, one: WorkloadRun) -> dict[str, Any]:
    virtual, track = one.workload.virtual, one.track
    own = one.courses["headstart"]
    return {
        "name": one.name,
        "maxRps": virtual.max_rps,
        "leadBins": virtual.cold_start_bins,
        "load": packed(own.load),
        "median": packed(track.median),
        "upper": packed(track.upper),
        "order": packed(track.order),
        "z": packed(track.z + 10.0),
        "ordered": packed(own.billed),
        "serving": {name: packed(one.courses[name].serving) for name in DRAWN_POLICIES},
        "missed": {name: stretches(one.courses[name].missed) for name in ("headstart", "reactive")},
        "reason": packed(track.reason),
        "trust": packed(track.trust),
        "changes": [change(after, decision) for after, decision in track.changes],
        "events": [[event.name, *_span(run, event.start, event.end)] for event in one.workload.events],
        "dark": [_span(run, begin, finish) for begin, finish in virtual.dark],
        "bursts": [_span(run, begin, finish) for begin, finish in one.workload.bursts],
    }


def _span(run: DemoRun, begin: datetime, finish: datetime) -> list[int]:
    """A span of time as bins [first, last)."""
    return [int((moment - run.start).total_seconds() // 60) for moment in (begin, finish)]
