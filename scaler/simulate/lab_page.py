"""The lab's page: one HTML file that needs no network, made of a `LabReport`.

It turns figures into tables, bars and arrays for the page's script, and leaves out whatever the report does not hold.
It judges nothing and computes no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from scaler.policy import explain
from scaler.simulate.lab_report import CAPTIONS, HINDSIGHT, Injection, LabPolicy, LabReport, frontier
from scaler.simulate.page import change, clamps, fill, packed, percent, stretches
from scaler.simulate.recording import REASONS, TRUSTS, Track
from scaler.simulate.scoring import needed

HUES: Final[Mapping[str, str]] = {
    "hpa-plain": "hpa",
    "hpa-pods": "hpa",
    "static-peak": "static",
    "static-mean": "static",
    "oracle-instant": "oracle",
}
"""Families that share another's hue; every other one has its own, or takes a spare."""
OWN_HUES: Final = (
    *("headstart", "reactive", "hpa", "kpa", "dynamo", "seasonal-naive"),
    *("last-value", "schedule", "static", "oracle", "llmd"),
)
SPARE_HUES: Final = ("other", "event", "band", "dark")
DASHES: Final[tuple[tuple[int, ...], ...]] = ((), (6, 3), (2, 2), (9, 3, 2, 3))
"""Of the first, second … policy of one hue; who knows the future begins with the second."""

CAUSES: Final[Mapping[str, tuple[str, str]]] = {
    "late_signal": ("late signal", "nothing had shown the load when the bin began"),
    "late_decision": ("late decision", "a pod ordered when the load was seen would have served"),
    "cold_start": ("cold start", "a pod ordered when the load was seen was still starting: only a forecast helps"),
    "bounds": ("bounds", "more was needed than the most replicas that are allowed"),
    "early": ("early", "it came sooner than its start requires"),
    "late_release": ("late release", "needed before, never again, and kept"),
    "bridged": ("bridged", "kept over a gap that is longer than a start"),
    "unneeded": ("unneeded", "never needed between its order and its end"),
}
"""Causes of a miss or of a GPU-hour by key, in the order of the bars: name and meaning. Others are in tables alone."""
SUMS: Final[Mapping[str, str]] = {"unbilled": "billed by the oracle alone", "above_oracle": "above the oracle"}
"""What else a split may hold, by key."""


def render(report: LabReport) -> str:
    """The page, complete with style, script and data."""
    styles = _styles(report)
    return fill(
        "lab.html.j2",
        report=report,
        columns=_columns(report),
        styles=styles,
        captions={each.name: each.caption or CAPTIONS.get(each.family, "") for each in report.policies},
        headline=_headline(report),
        regret=_regret(report),
        facts=_facts(report),
        frontier=frontier(report.points),
        data=_data(report, styles),
    )


# ── What stands in the tables ─────────────────────────────────────────────────────────────────────────────────


class _Column(NamedTuple):
    """A column of the table: where its figure stands, how it is written, and whether it has a bar."""

    key: str
    title: str
    hint: str
    unit: str = ""
    digits: int = 0
    bar: bool = False

    def value(self, policy: LabPolicy) -> float | None:
        """None where the policy has no such figure."""
        found = {**policy.score, **(policy.slo or {})}.get(self.key)
        return None if found is None or not math.isfinite(found) else float(found)

    def share(self, policy: LabPolicy, among: Sequence[LabPolicy]) -> float:
        """The figure as a share of the largest, for its bar."""
        return (self.value(policy) or 0.0) / (max(self.value(each) or 0.0 for each in among) or 1.0)


_COLUMNS: Final = (
    _Column("under_provisioned_ratio", "missed", "share of bins whose load exceeded what served", "%", 2, bar=True),
    _Column("under_provisioned_minutes", "minutes", "the same in minutes"),
    _Column("gpu_ratio", "GPU ratio", "GPU time over the least that carries every bin", "", 2, bar=True),
    _Column("gpu_hours", "GPU-hours", "starting and serving pods", "", 1),
    _Column("money", "money", "what those GPU-hours cost", "money", 2),
    _Column("slo_attainment", "SLO met", "share of requests within their SLO", "%", 2),
    _Column("slo_violation_minutes", "SLO min.", "minutes in which an SLO was broken", "", 0),
    _Column("dropped_requests", "dropped", "requests rejected or not finished", "", 0),
    _Column("scale_events", "changes", "bins in which the scale changed"),
    _Column("pod_starts", "pod starts", "pods ordered"),
)


def _columns(report: LabReport) -> list[_Column]:
    return [each for each in _COLUMNS if any(each.value(policy) is not None for policy in report.policies)]


def _headline(report: LabReport) -> dict[str, Any]:
    """The tiles: what the subject reached, what that costs, and what the others took for it."""
    mine, rival = report.subject, report.rival
    return {
        "within": mine.missed_ratio <= report.target_ratio,
        "known_minutes": _known(report) * report.step.total_seconds() / 60.0,
        "peak": float(np.nanmax(report.load)) if np.isfinite(report.load).any() else None,
        "gpu_against": _against(mine.score["gpu_hours"], rival.score["gpu_hours"] if rival else None),
        "starts_against": _against(mine.score["pod_starts"], rival.score["pod_starts"] if rival else None),
        "as_safe_against": _against(mine.gpu_ratio, report.as_safe and report.as_safe.gpu_ratio),
        "fixed": next((each for each in report.policies if each.name == "static-peak"), None),
    }


def _known(report: LabReport) -> int:
    """Bins that are scored."""
    return int(np.isfinite(report.load).sum())


def _against(ours: float, theirs: float | None) -> str | None:
    """ "−27 %" of theirs, or None."""
    if not theirs or not math.isfinite(ours / theirs):
        return None
    share = ours / theirs - 1.0
    return ("+" if round(100.0 * share) > 0 else "") + percent(share, 0)


def _regret(report: LabReport) -> list[dict[str, Any]]:
    """Two pictures: missed minutes by cause, GPU-hours that the oracle does not bill by cause."""
    titles = (("missed", "Missed minutes", "min"), ("gpu_hours", "GPU-hours that the oracle does not bill", "GPU-h"))
    return [
        {"title": title, "unit": unit, **_split(split)}
        for key, title, unit in titles
        if (split := {each.name: each.regret[key] for each in report.policies if each.regret and key in each.regret})
    ]


def _split(regrets: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Rows of parts, each with its share of the longest bar."""
    keys = dict.fromkeys(key for each in regrets.values() for key in each)
    causes = [cause for cause in CAUSES if cause in keys]
    more = [key for key in keys if key not in CAUSES]
    totals = {name: sum(each.get(cause, 0.0) for cause in causes) for name, each in regrets.items()}
    most = max(totals.values()) or 1.0
    return {
        "causes": [(cause, *CAUSES[cause]) for cause in causes],
        "more": [SUMS.get(key, key.replace("_", " ")) for key in more],
        "rows": [
            {
                "name": name,
                "total": totals[name],
                "parts": [(each.get(cause, 0.0), each.get(cause, 0.0) / most) for cause in causes],
                "more": [each.get(key) for key in more],
            }
            for name, each in regrets.items()
        ],
    }


def _facts(report: LabReport) -> dict[str, str]:
    minutes = report.cold_start.total_seconds() / 60.0
    return {
        "trace": report.trace,
        "column": report.column,
        "window": f"{report.start:%a %-d %b %Y %H:%M} to {report.end:%a %-d %b %Y %H:%M} UTC, end exclusive",
        "bins": f"{report.load.size:,} of {report.step.total_seconds():g} s" + _unknown(report),
        "one replica serves": f"{report.capacity_rps:g} a second",
        "cold start": f"{report.cold_start.total_seconds():g} s ({minutes:g} min)",
        "target": f"{percent(report.target_ratio, 1)} of bins missed",
        "seed": str(report.seed),
        "version": report.version,
        **(report.facts or {}),
    }


def _unknown(report: LabReport) -> str:
    unknown = report.load.size - _known(report)
    return f", {unknown:,} of them unknown: neither scored nor billed" if unknown else ""


# ── How policies are told apart ───────────────────────────────────────────────────────────────────────────────


class _Style(NamedTuple):
    color: str
    """A custom property of the page."""
    dash: tuple[int, ...]


def _styles(report: LabReport) -> dict[str, _Style]:
    """By policy, family of the sweep and policy of the cliff."""
    names = dict.fromkeys((*(each.name for each in report.policies), *(report.sweep or {}), *(report.cliff or {})))
    spared, used = dict[str, str](), dict[str, int]()
    styles: dict[str, _Style] = {}
    for name in names:
        family = name.partition(":")[0]
        hue = HUES.get(family, family)
        if hue not in OWN_HUES:
            hue = spared.setdefault(hue, SPARE_HUES[len(spared) % len(SPARE_HUES)])
        used[hue] = used.get(hue, 0 if family in HINDSIGHT else -1) + 1
        styles[name] = _Style(f"--{hue}", DASHES[used[hue] % len(DASHES)])
    return styles


# ── The data that the page's script draws ─────────────────────────────────────────────────────────────────────


def _data(report: LabReport, styles: Mapping[str, _Style]) -> dict[str, Any]:
    return {
        "start": report.start.timestamp(),
        "step": report.step.total_seconds(),
        "bins": report.load.size,
        "capacity": report.capacity_rps,
        "load": packed(report.load),
        "need": packed(np.where(np.isfinite(report.load), needed(report.load), np.nan)),
        "subject": report.subject.name,
        "rival": report.rival.name if report.rival else None,
        "target": report.target_ratio,
        "styles": styles,
        "policies": [_policy(each) for each in report.policies],
        "events": [[each.name, *_span(report, each)] for each in report.events],
        "sweep": {family: [_finite(point) for point in line] for family, line in (report.sweep or {}).items()},
        "cliff": {name: [_finite(point) for point in line] for name, line in (report.cliff or {}).items()},
        "frontier": frontier(report.points),
        "reasons": [[reason.value, explain.REASONS[reason]] for reason in REASONS],
        "trusts": [[trust.value, explain.TRUSTS[trust]] for trust in TRUSTS],
    }


def _policy(policy: LabPolicy) -> dict[str, Any]:
    course = policy.course
    return {
        "name": policy.name,
        "hindsight": policy.hindsight,
        "missedRatio": _finite([policy.missed_ratio])[0],
        "gpuRatio": _finite([policy.gpu_ratio])[0],
        "serving": packed(course.serving),
        "billed": packed(course.billed),
        "before": course.before,
        "missed": stretches(course.missed),
        "track": None if policy.track is None else _track(policy.track),
    }


def _track(track: Track) -> dict[str, Any]:
    """Every decision in numbers, those that changed the scale with their details as well."""
    rules = sorted({each.rule for decision in track.decisions if decision for each in decision.proposals})
    opinions = {rule: np.full((2, len(track.decisions)), np.nan) for rule in rules}
    clamped = np.full(len(track.decisions), np.nan)
    seen: dict[tuple[tuple[Any, ...], ...], int] = {}
    for index, decision in enumerate(track.decisions):
        if decision is None:
            continue
        for each in decision.proposals:
            opinions[each.rule][:, index] = each.want, each.keep
        chain = tuple(tuple(clamp[:4]) for clamp in clamps(decision))
        clamped[index] = seen.setdefault(chain, len(seen))
    return {
        "median": packed(track.median),
        "order": packed(track.order),
        "z": packed(track.z + 10.0),
        "reason": packed(track.reason),
        "trust": packed(track.trust),
        "opinions": {rule: [packed(want), packed(keep)] for rule, (want, keep) in opinions.items()},
        "clamped": packed(clamped),
        "clamps": list(seen),
        "changes": [change(after, decision) for after, decision in track.changes],
    }


def _span(report: LabReport, event: Injection) -> list[float]:
    """From and to in bins."""
    return [(moment - report.start) / report.step for moment in (event.start, event.end)]


def _finite(values: Sequence[Any]) -> list[Any]:
    """JSON knows no NaN."""
    return [None if isinstance(each, float) and not math.isfinite(each) else each for each in values]
