"""`replay`, `export` and `demo`: jobs on files, with no daemon and no cluster."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import Output, progress_bar, put, put_json, put_table
from scaler.commands.reading import open_journal
from scaler.commands.watching import moment
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.types import SeriesKey
    from scaler.adapters.journal import ReplayRow
    from scaler.policy.decide import WorkloadPolicy

MOST_ROWS = 50
"""Differences that are printed one by one; the rest is counted."""


def demo(out: Path, *, seed: int, output: Output) -> None:
    """The seeded week of `scaler.simulate.demo`, with a table of policies."""
    from scaler.adapters.documents import finite
    from scaler.simulate.demo import run_demo

    with progress_bar() as progress:
        result = run_demo(out, seed=seed, progress=progress)
    document = result.as_json()
    if output is Output.JSON:
        put_json(finite(document))
        return
    put_policies(document)
    put(f"report: {result.report}   ({result.wall_s:.0f} s, {document['trace']})")


def put_policies(document: Mapping[str, Any]) -> None:
    """The table of a `kind: Simulation` document, each policy also as a multiple of `reactive` where that is there."""
    by_name = {each["name"]: each for each in document["policies"]}
    reactive = by_name.get("reactive")
    columns = ("POLICY", "GPU-HOURS", "× REACTIVE", "MISSED MIN", "× REACTIVE", "SCALE EVENTS", "POD STARTS")
    rows = [
        (
            each["name"],
            f"{each['gpu_hours']:.1f}",
            _ratio(each, reactive, "gpu_hours"),
            f"{each['under_provisioned_minutes']:.0f}",
            _ratio(each, reactive, "under_provisioned_minutes"),
            str(each["scale_events"]),
            str(each["pod_starts"]),
        )
        for each in document["policies"]
    ]
    put_table(columns, rows, right=columns[1:])


def _ratio(each: Mapping[str, Any], reactive: Mapping[str, Any] | None, key: str) -> str:
    if reactive is None or not reactive[key]:
        return "–"
    return f"{each[key] / reactive[key]:.2f}"


# ── replay ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a journal is meant."""

    workload: str | None = None
    since: str | None = None
    until: str | None = None

    def span(self) -> dict[str, datetime]:
        """The ends that were named, as keywords of whoever reads."""
        ends = {"since": self.since, "until": self.until}
        return {name: moment(text) for name, text in ends.items() if text is not None}


def replay(journal: Path, output: Output, *, part: Part, policy_file: Path | None) -> int:
    """Decide every record again and print what differs; 3 if anything does, else 0."""
    from scaler.adapters.journal import replay as replayed
    from scaler.policy.decide import decide_within

    policies = None if policy_file is None else _policies(policy_file)
    opened = open_journal(journal)
    entries = opened.records(part.workload, **part.span())
    count, first, last = 0, None, None
    different: list[ReplayRow] = []
    total = 0
    seen: set[str] = set()
    for row in replayed(entries, decide_within, policies=policies):
        count, first, last = count + 1, first or row.at, row.at
        seen.add(row.workload)
        if _differs(row, under_others=policies is not None):
            total += 1
            if len(different) < MOST_ROWS or output is Output.JSON:
                different.append(row)
    if count == 0:
        raise CommandError(f"{journal} holds no decision of {part.workload or 'any workload'} in that span")
    if policies is not None and seen.isdisjoint(policies):
        raise CommandError(f"{policy_file} names none of the workloads on record: {', '.join(sorted(seen)[:20])}")
    starts_at = opened.starts_at()
    document = {
        "apiVersion": "headstart/v1",
        "kind": "Replay",
        "journal": str(journal),
        "starts_at": None if starts_at is None else starts_at.isoformat(),
        "from": first.isoformat() if first else None,
        "to": last.isoformat() if last else None,
        "decisions": count,
        "differences": total,
        "rows": [_difference(row) for row in different],
    }
    if output is Output.JSON:
        put_json(document)
    else:
        _put_replay(document, other_policy=policy_file)
    return 3 if total else 0


def _differs(row: ReplayRow, *, under_others: bool) -> bool:
    """Whether a replay is told about this row.

    The same settings must give the same decision to the last bit. Other settings always give other numbers on the way
    (a steered quantile, a rule's detail); there the question is whether the replicas or their reason are others.
    """
    if row.equal or not under_others or row.recorded is None:
        return not row.equal
    return (row.recorded.target, row.recorded.reason) != (row.replayed.target, row.replayed.reason)


def _policies(path: Path) -> dict[str, WorkloadPolicy]:
    from scaler.config import read_config

    return {policy.workload: policy for policy in read_config(path).fleet.workloads}


def _difference(row: ReplayRow) -> dict[str, Any]:
    recorded = row.recorded
    return {
        "workload": row.workload,
        "at": row.at.isoformat(),
        "recorded": None if recorded is None else {"target": recorded.target, "reason": recorded.reason.value},
        "replayed": {
            "current": row.replayed.current,
            "target": row.replayed.target,
            "reason": row.replayed.reason.value,
        },
    }


def _put_replay(document: Mapping[str, Any], *, other_policy: Path | None) -> None:
    if document["rows"]:
        rows = [
            (
                each["at"],
                each["workload"],
                *_side(each["recorded"]),
                *_side(each["replayed"]),
            )
            for each in document["rows"]
        ]
        put_table(("AT", "WORKLOAD", "RECORDED", "BECAUSE", "NOW", "BECAUSE "), rows, right=("RECORDED", "NOW"))
    if document["differences"] > len(document["rows"]):
        put(f"… and {document['differences'] - len(document['rows'])} more; -o json prints all")
    under = "" if other_policy is None else f" under {other_policy}"
    put(
        f"{document['decisions']} decisions from {document['from']} to {document['to']} decided again{under}: "
        f"{document['differences']} differ"
    )


def _side(decision: Mapping[str, Any] | None) -> tuple[str, str]:
    if decision is None:
        return "only a digest", "–"
    target = decision["target"]
    return ("–" if target is None else str(target)), decision["reason"]


# ── export ────────────────────────────────────────────────────────────────────────────────────────────────────


def export(data_dir: Path, out: Path, *, part: Part, signals: Sequence[str]) -> None:
    """The history as Parquet."""
    from forecaster.sources.history import HistoryStore
    from forecaster.sources.history.export import export as write
    from forecaster.types import STEP
    from scaler.adapters.store import FILE_NAME

    _need("pyarrow", extra="analytics")
    if not out.absolute().parent.is_dir():
        raise CommandError(f"there is no folder {out.absolute().parent} to write {out.name} in; make it first")
    file = data_dir / FILE_NAME if data_dir.is_dir() else data_dir
    if not file.is_file():
        raise CommandError(f"there is no data file {file}; name the daemon's data folder (data_dir in its settings)")
    now = datetime.now(UTC)
    with HistoryStore.open(file, now=now, read_only=True) as store:
        stored = sorted(store.keys())
        keys = [
            key for key in stored if part.workload in (None, key.workload) and (not signals or key.signal in signals)
        ]
        if not keys:
            raise CommandError(f"the history in {file} has no such series; it holds {_held(stored)}")
        spans = [span for key in keys if (span := store.span(key)) is not None]
        if not spans:
            raise CommandError(f"the history in {file} holds no point of these {len(keys)} series")
        start = part.span().get("since", min(span[0] for span in spans))
        end = part.span().get("until", max(span[1] for span in spans) + STEP)
        rows = write(store, out, keys=keys, start=start, end=end)
    put(f"{out}: {rows} rows of {len(keys)} series, {start:%FT%TZ} to {end:%FT%TZ}")


def _held(keys: Sequence[SeriesKey]) -> str:
    """Which signals and workloads a history holds, in a few words."""
    if not keys:
        return "nothing yet"
    signals = sorted({key.signal for key in keys})
    workloads = sorted({key.workload for key in keys})
    return f"{', '.join(signals)} of {', '.join(workloads[:20])}{', …' if len(workloads) > 20 else ''}"


def _need(package: str, *, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise CommandError(f"this needs {package}: pip install 'headstart[{extra}]'")
