"""Stored demand as whoever learns from it should see it, and the forecast as whoever decides by it should.

The engine reads it every minute and the refit every night, both through `usual_demand`. It decides what is kept from
them: bins that an outage hid or bent, and what an event added. The store keeps what was measured; nothing here is
written back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import TypeAdapter, ValidationError

from forecaster.day_kinds import Calendar, StandIn, departures, with_reference
from forecaster.errors import HistoryError
from forecaster.preprocess import by_local_clock, clock_stands, without_censored
from forecaster.sources.history import HistoryStore
from forecaster.sources.plan import DEMAND_SEEN, SERVICE_UP
from forecaster.types import STEP, Forecast, Panel, SeriesKey
from scaler.policy.scheduled import ScheduledRule, usual_multiple
from scaler.policy.types import DemandForecast

Known = Mapping[str, ScheduledRule]
"""What is known in advance, by workload; a workload that is missing has no events and lives by UTC."""

KNOWN_BLOB = "known"
"""The name under which the daemon leaves it for the refit."""

MASKED_AFTER = timedelta(hours=1)
"""An event without a ratio leaves what is learnt from when it has been over for so long: the last hour says at which
level today goes on, and without it there would be no forecast at all for a minute."""

COMPARED = timedelta(days=3)
"""How far back days are compared with their like: two days are what the members look at, and the warm-up before."""

COMPARED_AT_ONCE = 200_000
"""Values that are compared with their evidence at once, some ten arrays of that size: after an outage of everything all
of a thousand series would be 200 MB."""

_KNOWN: TypeAdapter[dict[str, ScheduledRule]] = TypeAdapter(dict[str, ScheduledRule])


def usual_demand(
    history: HistoryStore,
    keys: Sequence[SeriesKey],
    *,
    start: datetime,
    end: datetime,
    known: Known,
    as_of: datetime | None = None,
) -> Panel:
    """Demand of [start, end) as it would have been without outages and events, on the clock its people live by.

    An event's ratio is divided out; an event without one is unknown once it is over, `as_of` the end unless another
    moment is given. Then what the evidence speaks against goes, and then days become 24 hours long. Raises
    `HistoryError`.
    """
    panel = history.read(keys, start=start, end=end)
    values = panel.values
    for row, key in enumerate(keys):
        rule = known.get(key.workload)
        if rule is not None and rule.events:
            values[row] = _without_events(values[row], rule, panel, as_of=as_of or end)
    _hide_censored(history, panel)
    return replace(panel, values=_by_local_clocks(values, panel, known))


def with_like_days(history: HistoryStore, panel: Panel, *, known: Known, calendars: Mapping[str, Calendar]) -> Panel:
    """`panel`, made by `usual_demand`, with what its days are to be compared with for workloads that have a calendar.

    At most a day more is read, and only where a day of another kind is forecast or was a day ago. Raises
    `HistoryError`.
    """
    rows_of: dict[Calendar, list[int]] = defaultdict(list)
    for row, key in enumerate(panel.keys):
        if key.workload in calendars:
            rows_of[calendars[key.workload]].append(row)
    since, stand_ins = max(panel.start, panel.end - COMPARED), []
    for calendar, rows in rows_of.items():
        keys = tuple(panel.keys[row] for row in rows)
        for each in departures(calendar, start=since, end=panel.end, step=panel.step):
            like = usual_demand(history, keys, start=each.like_start, end=each.like_end, known=known, as_of=panel.end)
            stand_ins.append(StandIn(rows=tuple(rows), start=each.start, values=like.values))
    return with_reference(panel, stand_ins) if stand_ins else panel


def as_announced(
    forecasts: Mapping[str, tuple[DemandForecast, ...]], known: Known
) -> dict[str, tuple[DemandForecast, ...]]:
    """The forecasts of usual demand, times what events make of it, bin by bin."""
    return {
        workload: tuple(replace(each, forecast=_lifted(each.forecast, known[workload])) for each in of_classes)
        if workload in known and known[workload].events
        else of_classes
        for workload, of_classes in forecasts.items()
    }


def clocks_changed(known: Known, keys: Sequence[SeriesKey], *, since: datetime, until: datetime) -> bool:
    """Whether a clock that people of these series live by has another offset from UTC at `until` than at `since`.

    Then every minute of the day that was learnt by its number in UTC has moved.
    """
    zones = {known[key.workload].timezone for key in keys if key.workload in known}
    clocks = (ZoneInfo(zone) for zone in zones)
    return any(since.astimezone(clock).utcoffset() != until.astimezone(clock).utcoffset() for clock in clocks)


def known_to_bytes(known: Known) -> bytes:
    """`known` as JSON, without the workloads of which nothing is."""
    return _KNOWN.dump_json({name: rule for name, rule in known.items() if rule != ScheduledRule()})


def known_from_bytes(stored: bytes) -> dict[str, ScheduledRule]:
    """What `known_to_bytes` wrote; `HistoryError` if it is something else."""
    try:
        return _KNOWN.validate_json(stored)
    except ValidationError as error:
        raise HistoryError(
            f"what is known in advance is unreadable: {error.error_count()} faults in {KNOWN_BLOB!r}"
        ) from error


def _without_events(values: np.ndarray, rule: ScheduledRule, panel: Panel, *, as_of: datetime) -> np.ndarray:
    """One series with its events divided out, or hidden."""
    usual = values.copy()
    for event in rule.events:
        first = max(0, -((panel.start - event.start) // panel.step))
        last = max(first, -((panel.start - event.end) // panel.step))
        if event.demand_ratio is not None:
            usual[first:last] /= event.demand_ratio
        elif event.end + MASKED_AFTER <= as_of:
            usual[first:last] = np.nan
    return usual


def _hide_censored(history: HistoryStore, panel: Panel) -> None:
    """Take from the panel's values what the stored evidence speaks against: nearly everywhere there is none.

    One kind of evidence is held at a time, and then only of workloads that it speaks against: of a thousand series and
    two days each kind is 24 MB.
    """
    stored = {key for key in history.keys() if key.signal in (DEMAND_SEEN, SERVICE_UP)}  # noqa: SIM118 — not a dict
    told = {key.workload for key in stored}
    workloads = [each for each in dict.fromkeys(key.workload for key in panel.keys) if each in told]
    if not workloads:
        return
    seen = _evidence(history, panel, workloads, DEMAND_SEEN, speaks=lambda ratios: ratios < 1.0)
    served = _evidence(history, panel, workloads, SERVICE_UP, speaks=lambda ratios: ratios <= 0.0)
    rows = [row for row, key in enumerate(panel.keys) if key.workload in seen or key.workload in served]
    nothing = np.full(panel.values.shape[1], np.nan)
    at_once = max(1, COMPARED_AT_ONCE // max(1, panel.values.shape[1]))
    for first in range(0, len(rows), at_once):
        part = rows[first : first + at_once]
        of = [panel.keys[row].workload for row in part]
        panel.values[part] = without_censored(
            panel.values[part],
            seen_ratio=np.stack([seen.get(workload, nothing) for workload in of]),
            service_up_ratio=np.stack([served.get(workload, nothing) for workload in of]),
            step=panel.step,
        )


def _evidence(
    history: HistoryStore,
    panel: Panel,
    workloads: Sequence[str],
    signal: str,
    *,
    speaks: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The evidence of those workloads against which it `speaks` in any bin of the panel."""
    keys = [SeriesKey(workload=workload, signal=signal) for workload in workloads]
    ratios = history.read(keys, start=panel.start, end=panel.end, step=STEP).values
    with np.errstate(invalid="ignore"):
        against = np.asarray(speaks(ratios).any(axis=1))
    return {workload: ratios[row].copy() for row, workload in enumerate(workloads) if against[row]}


def _by_local_clocks(values: np.ndarray, panel: Panel, known: Known) -> np.ndarray:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(panel.keys):
        if key.workload in known:
            rows_of[known[key.workload].timezone].append(row)
    moved = values
    for zone, rows in rows_of.items():
        if clock_stands(start=panel.start, step=panel.step, bins=values.shape[1], zone=ZoneInfo(zone)):
            continue  # nearly always: two copies of two days of a thousand series less, 49 MB
        own = by_local_clock(values[rows], start=panel.start, step=panel.step, zone=ZoneInfo(zone))
        if moved is values:
            moved = values.copy()
        moved[rows] = own
    return moved


def _lifted(forecast: Forecast, rule: ScheduledRule) -> Forecast:
    step = timedelta(seconds=forecast.step_s)
    multiples = [usual_multiple(rule, at=forecast.issued_at + (horizon - 1) * step) for horizon in forecast.horizons]
    if all(multiple == 1.0 for multiple in multiples):
        return forecast
    lifted = (
        tuple(multiple * value for value in levels) for multiple, levels in zip(multiples, forecast.values, strict=True)
    )
    return replace(forecast, values=tuple(lifted))
