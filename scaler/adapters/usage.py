"""What requests are made of, beside how many come: forecasts of tokens and images, and how they fit the profile.

It joins what the forecaster published with the last minutes of the history, and remembers what has left its profile,
so that a mean at the very tolerance is told once. It never touches a capacity or a decision; a workload that tells
nothing of its tokens is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError

from forecaster.errors import HistoryError
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, SeriesKey, floor_to_step
from scaler.adapters.forecasts import ForecastRun
from scaler.adapters.intake import DEMAND, PastSource, usage_keys
from scaler.adapters.request_shape import FIX, LASTING, Amount, compare, departure, expected
from scaler.adapters.store import Store, read_blob
from scaler.policy.capacity import CapacityProfile
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import DemandForecast

if TYPE_CHECKING:
    from forecaster.types import FloatArray

USAGE_BLOB = "usage"
"""The name under which the daemon leaves it for who reads the data file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """As of one run of the forecasts, by workload. Only workloads that tell tokens or images are in it."""

    at: datetime
    forecasts: Mapping[str, Mapping[str, tuple[DemandForecast, ...]]] = field(default_factory=dict)
    """By workload and signal, each in its signal's unit."""
    amounts: Mapping[str, tuple[Amount, ...]] = field(default_factory=dict)
    """What a request holds beside what the profile says, where both are known."""
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What to tell of workloads whose requests have left their profile."""


_USAGE: TypeAdapter[Usage] = TypeAdapter(Usage)


def to_bytes(usage: Usage) -> bytes:
    """`usage` as JSON."""
    return _USAGE.dump_json(usage)


def from_bytes(stored: bytes) -> Usage:
    """What `to_bytes` wrote; `HistoryError` if it is something else."""
    try:
        return _USAGE.validate_json(stored)
    except ValidationError as error:
        raise HistoryError(f"the usage of requests is unreadable: {error.error_count()} faults") from error


def stored_usage(file: Path) -> Usage | None:
    """What a daemon stored last in its data file: up to ten minutes old; None where there is nothing of this version.

    Raises `OSError` where the file cannot be read.
    """
    stored = read_blob(file, USAGE_BLOB)
    try:
        return None if stored is None else from_bytes(stored[0])
    except HistoryError:
        return None


class UsageWatch:
    """Puts the usage together after each run of the forecasts. One thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left: frozenset[SeriesKey] = frozenset()

    def look(self, run: ForecastRun, policies: Sequence[WorkloadPolicy], *, now: datetime) -> Usage:
        """The usage as of `now`. Raises `HistoryError`."""
        profiled = {each.workload: each for each in policies if any(one.tokens for one in each.profile.classes)}
        keys = usage_keys(self._store.history, set(profiled)) if profiled else ()
        amounts = self._amounts(keys, profiled, run, now=now) if keys else {}
        self._remember(amounts, set(profiled))
        return Usage(
            at=now,
            forecasts=_by_workload(run),
            amounts=amounts,
            warnings={name: said for name, each in amounts.items() if (said := _warnings(profiled[name], each))},
        )

    def _amounts(
        self, keys: Sequence[SeriesKey], policies: Mapping[str, WorkloadPolicy], run: ForecastRun, *, now: datetime
    ) -> dict[str, tuple[Amount, ...]]:
        signals: dict[SeriesKey, list[SeriesKey]] = defaultdict(list)
        for key in keys:
            signals[replace(key, signal=DEMAND)].append(key)
        end = floor_to_step(now)
        panel = self._store.history.read([*signals, *keys], start=end - LASTING, end=end)
        rows = dict(zip(panel.keys, panel.values, strict=True))
        found: dict[str, tuple[Amount, ...]] = defaultdict(tuple)
        for demand, used in signals.items():
            policy = policies[demand.workload]
            tokens = expected(policy.profile, demand.request_class)
            if tokens is None:
                continue
            found[demand.workload] += compare(
                tokens,
                rows[demand],
                {key.signal: rows[key] for key in used},
                request_class=demand.request_class,
                ahead=_ahead(demand, used, run, at=now + policy.start_time),
                left_before=frozenset(key.signal for key in used if key in self._left),
            )
        return {workload: each for workload, each in found.items() if each}

    def _remember(self, amounts: Mapping[str, tuple[Amount, ...]], workloads: set[str]) -> None:
        """What could not be compared this time, for want of requests, stays as it was."""
        told = {_key(workload, each): each.left for workload, of in amounts.items() for each in of}
        silent = {key for key in self._left if key not in told and key.workload in workloads}
        self._left = frozenset(silent | {key for key, left in told.items() if left})


def compared_now(
    source: PastSource, selectors: Sequence[WorkloadSelector], profiles: Mapping[str, CapacityProfile], *, now: datetime
) -> dict[tuple[str, str], tuple[Amount, ...]]:
    """What requests of the last minutes hold beside the profile, by workload and request class, with no daemon.

    Raises `SourceError`.
    """
    end = floor_to_step(now)
    span = {"start": end - LASTING, "end": end}
    demand = source.history(selectors, DEMAND, **span, step=STEP)
    rows = {key: row for key, row in zip(demand.keys, demand.values, strict=True) if np.isfinite(row).any()}
    classes: dict[str, set[str]] = defaultdict(set)
    for key in rows:
        classes[key.workload].add(key.request_class)
    usage = source.usage(selectors, classes, **span, step=STEP)
    used: dict[SeriesKey, dict[str, FloatArray]] = defaultdict(dict)
    for key, row in zip(usage.keys, usage.values, strict=True):
        used[replace(key, signal=DEMAND)][key.signal] = row[: demand.values.shape[1]]
    found: dict[tuple[str, str], tuple[Amount, ...]] = {}
    for key in sorted(used.keys() & rows.keys()):
        tokens = expected(profiles[key.workload], key.request_class)
        if tokens is not None:
            at_once = rows[key][: usage.values.shape[1]]
            each = compare(tokens, at_once, used[key], request_class=key.request_class)
            found[(key.workload, key.request_class)] = each
    return {of: each for of, each in found.items() if each}


class Reminder:
    """Which warnings to say now: when they begin or others join, then once in `every` while they last."""

    def __init__(self, every: timedelta = timedelta(hours=6)) -> None:
        self._every = every
        self._said: dict[str, tuple[frozenset[SeriesKey], datetime]] = {}

    def due(self, usage: Usage) -> dict[str, tuple[str, ...]]:
        """The warnings to say, by workload. One that ended and comes again within that time is not said again."""
        # The distance: after a clock was put back a moment in the future is none.
        self._said = {name: each for name, each in self._said.items() if abs(usage.at - each[1]) < self._every}
        due: dict[str, tuple[str, ...]] = {}
        for workload, said in usage.warnings.items():
            gone = frozenset(_key(workload, each) for each in usage.amounts[workload] if each.left)
            known, _ = self._said.get(workload, (frozenset(), usage.at))
            if not gone <= known:
                due[workload] = said
                self._said[workload] = (gone | known, usage.at)
        return due


def _key(workload: str, each: Amount) -> SeriesKey:
    return SeriesKey(workload=workload, signal=each.signal, request_class=each.request_class)


def _warnings(policy: WorkloadPolicy, amounts: Iterable[Amount]) -> tuple[str, ...]:
    """One a class."""
    of_class: dict[str, tuple[Amount, ...]] = defaultdict(tuple)
    for each in amounts:
        of_class[each.request_class] += (each,)
    texts = (departure(policy.profile, each) for each in of_class.values())
    return tuple(f"{text}; fix: {FIX}" for text in texts if text)


def _by_workload(run: ForecastRun) -> dict[str, dict[str, tuple[DemandForecast, ...]]]:
    found: dict[str, dict[str, tuple[DemandForecast, ...]]] = defaultdict(dict)
    for signal, of_workloads in sorted(run.usage.items()):
        for workload, each in of_workloads.items():
            found[workload][signal] = each
    return dict(found)


def _ahead(demand: SeriesKey, used: Iterable[SeriesKey], run: ForecastRun, *, at: datetime) -> dict[str, float]:
    """What a request holds by the median forecasts of `at`, by signal; nothing where requests are not forecast."""
    requests = _median(run.forecasts.get(demand.workload, ()), demand.request_class, at)
    if not requests:
        return {}
    medians = {
        key.signal: _median(run.usage.get(key.signal, {}).get(key.workload, ()), key.request_class, at) for key in used
    }
    return {signal: value / requests for signal, value in medians.items() if value is not None}


def _median(forecasts: Iterable[DemandForecast], request_class: str, at: datetime) -> float | None:
    return next(
        (f.quantile(at, z=0.0) for f in (each.forecast for each in forecasts) if f.request_class == request_class), None
    )
