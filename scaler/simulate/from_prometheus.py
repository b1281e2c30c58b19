"""A workload's past in Prometheus becomes a trace that policies can be played on.

It decides which days are asked for and in which pieces, how the demand of request classes adds up to a total, and how
much of a past is enough. Which series are the workload's and how a bin is measured is the daemon's own business and
taken from there (`forecaster.sources`), so that what is simulated is what the daemon would have seen. It never fills a
hole: a minute that was not measured is unknown in the trace.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SourceError
from forecaster.sources.connection import Connection, redact_url
from forecaster.sources.exchange import Question, Wire
from forecaster.sources.plan import DEMAND, ENGINE_METRIC
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.promql import LAST_SEEN_S, OWNER_LABEL, POD_SUFFIX, literal
from forecaster.sources.selector import WorkloadSelector
from forecaster.trace import PREFERRED_COLUMN, Trace
from forecaster.types import DEFAULT_CLASS, STEP, Panel, Series, floor_to_step, require_utc
from scaler.adapters.connections import connection_of, selectors_of
from scaler.config import Config
from scaler.errors import CommandError
from scaler.policy.decide import WorkloadPolicy

if TYPE_CHECKING:
    from forecaster.types import FloatArray

Progress = Callable[[float, str], None]
"""Told how far things are, 0 to 1, and what is done."""

LEAST_DAYS, DEFAULT_DAYS, MOST_DAYS = 1, 14, 60
"""60 days of minutes are 86,400 bins, asked for in 60 pieces of a day; more buys no policy anything."""
PIECE = timedelta(days=1)
ENOUGH = timedelta(days=2)
"""A day that policies learn from and a day to be scored on …"""
MAY_MISS = 0.1
"""… of which a tenth may be unknown."""
LEAST_DEADLINE_S = 30.0
"""A day of minutes may take a busy server longer than the 8 s that a tick can wait."""
AGAIN_AFTER_S = (1.0, 4.0)
"""A piece that failed is asked for again after these waits: one slow moment must not cost a pull of 60 pieces."""
SLEPT_AFTER = timedelta(hours=1)
"""All classes come from the same scrapes: one that is gone for longer while others are there has had no request since
its gateway was started anew, and was not overlooked."""
MOST_LISTED = 500
"""Workloads looked through for the name that was meant."""


class NoTrafficError(CommandError):
    """Nothing of the workload's demand is known there; `nearest` are workloads that have series and similar names."""

    def __init__(self, message: str, *, workload: str, nearest: tuple[str, ...]) -> None:
        super().__init__(message)
        self.workload = workload
        self.nearest = nearest


class TooLittleTrafficError(CommandError):
    """Some of the workload's demand is known there, too little to learn from and to score on."""

    def __init__(self, message: str, *, known: timedelta, needed: timedelta) -> None:
        super().__init__(message)
        self.known = known
        self.needed = needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A workload's demand as the daemon would have measured it, from its first known minute to its last."""

    trace: Trace
    """All request classes together, requests a second in bins of a minute; its column is `requests`."""
    classes: Mapping[str, Series]
    """Requests a second by request class, on the trace's grid; empty where the source tells none apart."""
    policy: WorkloadPolicy | None
    """The workload's own settings, where a configuration was given."""
    notes: tuple[str, ...]
    """What a person should know before believing the figures, such as that the server keeps less than was asked."""

    @property
    def known(self) -> timedelta:
        """How much of it is known."""
        return self.trace.series.step * int(np.isfinite(self.trace.series.values).sum())

    @property
    def capacity_rps(self) -> float | None:
        """What one replica serves of this mix of classes, by the configured profile: Σ demand / Σ load.

        None without a configuration, and where there was no demand at all.
        """
        if self.policy is None:
            return None
        by_class = self.classes or {DEFAULT_CLASS: self.trace.series}
        sums = {name: float(np.nansum(series.values)) for name, series in by_class.items()}
        load = self.policy.profile.load(sums)
        return sum(sums.values()) / load if load > 0.0 else None


def record(
    workload: str,
    *,
    url: str,
    days: int = DEFAULT_DAYS,
    now: datetime,
    config: Config | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Recording:
    """The last `days` whole days of `workload` ("namespace/name") up to `now`, from the Prometheus at `url`.

    With a configuration its selector, credentials and profile of this workload are used, as the daemon does; the
    address stays `url`, so that a server inside the cluster can be asked through a forwarded port.

    Raises `ValueError` for what was typed wrong (days, address, name), `SourceError` where the server cannot be asked,
    `NoTrafficError` and `TooLittleTrafficError` where it has not got enough.
    """
    require_utc(now, "now")
    if not LEAST_DAYS <= days <= MOST_DAYS:
        raise ValueError(f"days must lie between {LEAST_DAYS} and {MOST_DAYS}, got {days}")
    connection, selector = _whom_to_ask(url, workload, config)
    end = floor_to_step(now)
    source = PrometheusSource(connection)
    rows = _rows(source, selector, end - timedelta(days=days), end, progress, pause)
    total = _total(rows)
    known = np.flatnonzero(np.isfinite(total))
    if not known.size:
        raise _no_traffic(connection, workload, days=days, now=end)
    first, last = int(known[0]), int(known[-1]) + 1
    _require_enough(workload, known.size * STEP, days)
    start = end - timedelta(days=days) + first * STEP
    named = {name: row for name, row in rows.items() if name != DEFAULT_CLASS}
    return Recording(
        trace=Trace(
            name=workload.replace("/", "-"),
            column=PREFERRED_COLUMN,
            series=Series(start=start, step=STEP, values=total[first:last]),
        ),
        classes={
            name: Series(start=start, step=STEP, values=row[first:last])
            for name, row in sorted((rows if named else {}).items())
        },
        policy=config.policy(workload) if config is not None else None,
        notes=(*_origin(source, selector, start, end), *_notes(days, first=first, last=last, known=known.size)),
    )


def _whom_to_ask(url: str, workload: str, config: Config | None) -> tuple[Connection, WorkloadSelector]:
    if config is None:
        namespace, _, name = workload.partition("/")
        selector = WorkloadSelector.for_workload(namespace, name)
        return Connection(url=url, deadline_s=LEAST_DEADLINE_S), selector
    found = next((each for each in selectors_of(config) if each.workload == workload), None)
    if found is None:
        known = [each.workload for each in config.fleet.workloads]
        raise ValueError(f"{config.path} has no workload {workload}{_or_else(workload, known)}")
    connection = connection_of(config.prometheus)
    return replace(connection, url=url, deadline_s=max(connection.deadline_s, LEAST_DEADLINE_S)), found


# ── Asking ────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(
    source: PrometheusSource,
    selector: WorkloadSelector,
    start: datetime,
    end: datetime,
    progress: Progress | None,
    pause: Callable[[float], None],
) -> dict[str, FloatArray]:
    """Demand by request class over the whole stretch, NaN where unknown; a day at a time, oldest first."""
    rows: dict[str, FloatArray] = {}
    pieces = math.ceil((end - start) / PIECE)
    for piece in range(pieces):
        begin = start + piece * PIECE
        if progress is not None:
            progress(piece / pieces, f"{selector.workload}: asking for {begin:%d %b %Y}")
        # Where nobody has answered yet nobody will in five seconds: the first piece tells at once that it failed.
        waits = AGAIN_AFTER_S if piece else ()
        panel = _piece(source, selector, begin, min(begin + PIECE, end), waits, pause)
        offset = (begin - start) // STEP
        for key, row in zip(panel.keys, panel.values, strict=True):
            if np.isfinite(row).any():
                line = rows.setdefault(key.request_class, np.full((end - start) // STEP, np.nan))
                line[offset : offset + row.size] = row
    if progress is not None:
        progress(1.0, f"{selector.workload}: {pieces} days asked for")
    return rows


def _piece(
    source: PrometheusSource,
    selector: WorkloadSelector,
    start: datetime,
    end: datetime,
    waits_s: Sequence[float],
    pause: Callable[[float], None],
) -> Panel:
    for wait_s in waits_s:
        try:
            return source.history([selector], DEMAND, start=start, end=end)
        except SourceError as error:
            if not error.retryable:
                raise
            pause(wait_s)
    return source.history([selector], DEMAND, start=start, end=end)


# ── From classes to a total ───────────────────────────────────────────────────────────────────────────────────


def _total(rows: Mapping[str, FloatArray]) -> FloatArray:
    """Demand of all classes together.

    A class that has not been seen yet, or is not seen any more, brought nothing. One that is missing for a while
    between two of its own minutes was not measured, and then the sum is not known either: it would read low.
    """
    if not rows:
        return np.full(0, np.nan)
    stacked = np.stack(list(rows.values()))
    known = np.isfinite(stacked)
    hidden = np.zeros(stacked.shape[1], dtype=np.bool_)
    for row in known:
        at = np.flatnonzero(row)
        for before in np.flatnonzero(np.diff(at) > 1):
            first, after = int(at[before]) + 1, int(at[before + 1])
            if (after - first) * STEP <= SLEPT_AFTER:
                hidden[first:after] = True
    total: FloatArray = np.where(known.any(axis=0) & ~hidden, np.where(known, stacked, 0.0).sum(axis=0), np.nan)
    return total


# ── What is not there ─────────────────────────────────────────────────────────────────────────────────────────


def _require_enough(workload: str, known: timedelta, days: int) -> None:
    needed = min(ENOUGH, timedelta(days=days)) * (1.0 - MAY_MISS)
    if known >= needed:
        return
    raise TooLittleTrafficError(
        f"only {_hours(known)} of {workload} are known in the last {_days(days)}, {_hours(needed)} are needed: a day "
        "to learn from and a day to score. Ask for more --days, or wait until the server has more",
        known=known,
        needed=needed,
    )


def _origin(source: PrometheusSource, selector: WorkloadSelector, start: datetime, end: datetime) -> tuple[str, ...]:
    """Which metric told the demand then. Completions are told apart: they never exceed what the fleet could serve."""
    try:
        choice = source.origins([selector], DEMAND, start=start, end=end).get(selector.workload)
    except SourceError:
        return ()  # a remark is not worth a failure: the recording itself is complete
    if choice is None:
        return ()
    return (f"demand is read from {choice.candidate.metric}{f': {choice.remark}' if choice.remark else ''}",)


def _notes(days: int, *, first: int, last: int, known: int) -> tuple[str, ...]:
    """What came instead of what was asked; bins are minutes from the stretch's start."""
    notes = []
    came, asked = (last - first) * STEP, timedelta(days=days)
    late = first * STEP
    # An hour: a scrape or two lost at the edge is no news.
    if late > timedelta(hours=1):
        notes.append(f"{_days(days)} were asked for; what is known begins {_hours(late)} later, {_hours(came)} came")
    if (gone := asked - last * STEP) > timedelta(hours=1):
        notes.append(f"nothing is known of the last {_hours(gone)}")
    if unknown := (last - first) - known:
        notes.append(f"{unknown} of {last - first} minutes are unknown; they stay so and are not scored")
    return tuple(notes)


def _no_traffic(connection: Connection, workload: str, *, days: int, now: datetime) -> NoTrafficError:
    """Why nothing came, and which workloads there are instead."""
    said = f"no demand of {workload} in the last {_days(days)} at {redact_url(connection.url)}"
    known = _workloads_with_series(connection, now=now)
    if known is None or not known:
        why = "no engine's series carry the labels namespace and pod there: is it the right server?"
        if known is None:
            why = "which workloads it does know could not be asked"
        return NoTrafficError(f"{said}; {why}", workload=workload, nearest=())
    if workload in known:
        why = "its engine has series, its demand has none: `headstart doctor` says which metrics were looked for"
        return NoTrafficError(f"{said}; {why}", workload=workload, nearest=())
    return NoTrafficError(f"{said}{_or_else(workload, known)}", workload=workload, nearest=_near(workload, known))


def _workloads_with_series(connection: Connection, *, now: datetime) -> tuple[str, ...] | None:
    """Workloads whose engines were scraped within the hour before `now`, told by their pods' names; None if unasked."""
    # The shortest owner that leaves a whole suffix: chat-7d9f8b6c5d-x2x4z is a pod of chat, not of chat-7d9f8b6c5d.
    shape = literal(f"(.+?)-{POD_SUFFIX}")
    seen = f'last_over_time({ENGINE_METRIC}{{namespace!="",pod!=""}}[{LAST_SEEN_S}s])'
    owned = f'label_replace({seen}, "{OWNER_LABEL}", "$1", "pod", {shape})'
    text = f"topk({MOST_LISTED}, count by (namespace, {OWNER_LABEL}) ({owned}))"
    question = Question(text=text, start=now, end=now, step_s=60)
    answer = Wire(connection).ask([question], deadline_s=connection.deadline_s)[0]
    if isinstance(answer, SourceError):
        return None
    pairs = ((row.labels.get("namespace", ""), row.labels.get(OWNER_LABEL, "")) for row in answer.rows)
    return tuple(sorted(f"{namespace}/{owner}" for namespace, owner in pairs if namespace and owner))


def _near(workload: str, known: Sequence[str]) -> tuple[str, ...]:
    """Workloads that may have been meant: those of a similar name, and the same name elsewhere."""
    name = workload.partition("/")[2]
    elsewhere = [each for each in known if each.partition("/")[2] == name]
    return tuple(dict.fromkeys([*elsewhere, *difflib.get_close_matches(workload, known, n=3)]))[:3]


def _or_else(workload: str, known: Sequence[str]) -> str:
    near = _near(workload, known)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    some = ", ".join(sorted(known)[:5])
    return f"; there {'is' if len(known) == 1 else 'are'} {some}{' …' if len(known) > 5 else ''}"


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"


def _hours(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours / 24.0:.1f} days" if hours >= 48.0 else f"{hours:.1f} hours"


# ── On disk ───────────────────────────────────────────────────────────────────────────────────────────────────


def save_trace(recording: Recording, path: Path) -> None:
    """Write the recording in the format of traces (`forecaster.trace`): counts a minute, an empty cell for unknown.

    `requests` is the total; each class has a column `requests_<class>`, so that none can be called `timestamp` or
    `requests`. Compressed where the name ends in .gz; equal recordings give equal files. Raises `OSError`.
    """
    series = recording.trace.series
    bin_s = series.step.total_seconds()
    columns = {PREFERRED_COLUMN: series.values}
    columns |= {f"{PREFERRED_COLUMN}_{name}": each.values for name, each in recording.classes.items()}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["timestamp", *columns])
    for index, counts in enumerate(zip(*(values * bin_s for values in columns.values()), strict=True)):
        at = (series.start + series.step * index).strftime("%Y-%m-%dT%H:%M:%SZ")
        writer.writerow([at, *("" if math.isnan(count) else f"{count:.10g}" for count in counts)])
    body = text.getvalue().encode()
    path.write_bytes(gzip.compress(body, mtime=0) if path.suffix == ".gz" else body)
