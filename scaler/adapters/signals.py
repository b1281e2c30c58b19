"""Readings of the metrics source as the loop wants them, and SLOs moved to where a histogram can judge them.

It decides which reading belongs to which request class. It never turns a missing reading into a number, and never
says what a value is good for.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from forecaster.sources.catalogue import CATALOGUE, USAGE, Judged, Use
from forecaster.sources.prometheus import SignalCheck
from forecaster.sources.readings import Readings
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Reading, SeriesKey
from scaler.policy.latency import SIGNALS as LATENCIES
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.types import NOT_READ, ClassReadings
from scaler.ports import WorkloadSignals

DEMAND = "demand_rps"
WAITING = "requests_waiting"
RUNNING = "requests_running"

REPORTED = tuple(
    signal.name
    for signal in CATALOGUE
    if signal.use is Use.REPORTING or signal.name not in (DEMAND, WAITING, *LATENCIES)
)
"""Signals that are shown and never decided on, but for running requests: they speak against a demand of zero."""


_NO_TARGETS = LatencyRule()


class Source(Protocol):
    """What reads the metrics."""

    def read(self, selectors: Sequence[WorkloadSelector], *, now: datetime, judged: Judged) -> Readings:
        """Every signal of every workload, latencies without a target now and then; a failure is a blind reading."""
        ...


class SourceSignals:
    """The loop's `Signals` over a metrics source."""

    def __init__(
        self,
        source: Source,
        selectors: Sequence[WorkloadSelector],
        latency: Mapping[str, LatencyRule],
        *,
        observer: Callable[[float], None] = lambda _: None,
        on_read: Callable[[Readings], None] = lambda _: None,
    ) -> None:
        """`latency` are the rules by workload; `observer` is told the seconds that each round of queries took,
        `on_read` what it brought."""
        self._source = source
        self._selectors = tuple(selectors)
        self._latency = latency
        self._observer = observer
        self._on_read = on_read
        self._lock = threading.Lock()
        self._notes: tuple[str, ...] = ()

    def use(
        self, source: Source | None, selectors: Sequence[WorkloadSelector], latency: Mapping[str, LatencyRule]
    ) -> None:
        """Read these from the next read on, from another source if one is given. Not during a read."""
        self._source, self._selectors, self._latency = source or self._source, tuple(selectors), latency

    @property
    def notes(self) -> tuple[str, ...]:
        """What the source remarked on its last read, such as a skew of the clocks."""
        with self._lock:
            return self._notes

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        """Signals by workload."""
        begun = time.monotonic()
        judged = {selector.workload: _judged(self._latency.get(selector.workload)) for selector in self._selectors}
        readings = self._source.read(self._selectors, now=now, judged=judged)
        self._observer(time.monotonic() - begun)
        self._on_read(readings)
        with self._lock:
            self._notes = readings.notes
        of_workload: dict[str, dict[SeriesKey, Reading]] = defaultdict(dict)
        for key, reading in readings.values.items():
            of_workload[key.workload][key] = reading
        return {
            name: signals_of(
                of_workload[name], self._latency.get(name, _NO_TARGETS), demand_partial=name in readings.partial
            )
            for name in (selector.workload for selector in self._selectors)
        }


def _judged(rule: LatencyRule | None) -> tuple[str, ...]:
    """The latencies in which any class has a target."""
    slos = () if rule is None else rule.slos
    return tuple(name for name in LATENCIES if any(getattr(slo, name) is not None for slo in slos))


def signals_of(
    values: Mapping[SeriesKey, Reading], rule: LatencyRule, *, demand_partial: bool = False
) -> WorkloadSignals:
    """One workload's readings by request class.

    The engine does not tell classes apart in its latencies. A mixed percentile is given to one class only: the one
    with the loosest target, because above that one the mix breaks every promise; judged against a stricter class it
    would fire for ever.
    """
    demand = {key.request_class: reading for key, reading in values.items() if key.signal == DEMAND}
    classes = sorted(demand) or [DEFAULT_CLASS]
    latencies: dict[str, dict[str, Reading]] = {name: {} for name in classes}
    for signal in LATENCIES:
        for key, reading in values.items():
            if key.signal != signal:
                continue
            mixed = key.request_class not in latencies
            owner = _loosest(classes, rule, signal) if mixed else key.request_class
            latencies[owner].setdefault(signal, reading)
    by_name = {key.signal: reading for key, reading in values.items() if key.request_class == DEFAULT_CLASS}
    told_apart = {key: reading for key, reading in sorted(values.items()) if key.request_class != DEFAULT_CLASS}
    return WorkloadSignals(
        classes=tuple(
            ClassReadings(
                request_class=name,
                demand_rps=demand.get(name, NOT_READ),
                **latencies[name],
            )
            for name in classes
        ),
        requests_waiting=by_name.get(WAITING, NOT_READ),
        requests_running=by_name.get(RUNNING, NOT_READ),
        demand_partial=demand_partial,
        reported=(
            *((name, by_name[name]) for name in REPORTED if name in by_name),
            *((f"{key.signal}[{key.request_class}]", told_apart[key]) for key in told_apart if key.signal in USAGE),
        ),
    )


def _loosest(classes: Iterable[str], rule: LatencyRule, signal: str) -> str:
    """The class with the highest target for `signal`; the first class if none has one."""

    def target_s(request_class: str) -> float:
        slo = rule.slo_for(request_class)
        value = getattr(slo, signal) if slo is not None else None
        return 0.0 if value is None else float(value)

    return max(classes, key=target_s)


# ── Targets at bucket edges ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRule:
    """A latency rule whose targets lie on bucket edges, and what that changed."""

    rule: LatencyRule
    notes: tuple[str, ...] = ()


def at_bucket_edges(rule: LatencyRule, checks: Iterable[SignalCheck]) -> JudgedRule:
    """Lower each target to the next edge of the histogram it is judged by.

    A percentile inside a bucket is interpolated, a guess: with edges 1.0 and 1.5 s a target of 1.2 s would be judged
    by where in the bucket a straight line says the requests are. At 1.0 s it is a count. A target below the first
    edge stays, and the note says that it cannot be judged exactly.
    """
    by_signal = {check.signal: check for check in checks if check.edges_s}
    slos, notes = [], []
    for slo in rule.slos:
        changed, said = _slo_at_edges(slo, by_signal)
        slos.append(changed)
        notes += said
    return JudgedRule(rule=replace(rule, slos=tuple(slos)), notes=tuple(notes))


def _slo_at_edges(slo: Slo, checks: Mapping[str, SignalCheck]) -> tuple[Slo, list[str]]:
    changes: dict[str, Any] = {}
    notes = []
    for signal in LATENCIES:
        target_s, check = getattr(slo, signal), checks.get(signal)
        if target_s is None or check is None:
            continue
        edge_s = check.judged_at(target_s)
        whose = f"{slo.request_class or 'every class'}: {signal}"
        if edge_s is None:
            notes.append(
                f"{whose} {target_s:g} s lies below the first bucket edge {check.edges_s[0]:g} s: interpolated"
            )
        elif abs(edge_s - target_s) > 1e-9 * target_s:
            changes[signal] = edge_s
            notes.append(f"{whose} {target_s:g} s is judged at the bucket edge {edge_s:g} s")
    return (replace(slo, **changes) if changes else slo), notes
