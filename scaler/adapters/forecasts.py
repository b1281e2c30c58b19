"""The forecasts in force: the engine run once a minute over the stored history, published whole.

It decides in which portions the engine works and when it has to learn its way in again. It never decides which model
to believe (the engine does) and never waits for anybody: the loop reads the last published forecasts, and a slow or
failing model leaves those in force until they expire.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from forecaster.day_kinds import Calendar
from forecaster.models import ensemble, stand_in
from forecaster.models.ensemble import EngineRule, EngineStep, Silence
from forecaster.models.memory import EngineState
from forecaster.preprocess import DAY, up_to
from forecaster.types import HORIZONS, STEP, Forecast, Forecaster, Panel, SeriesKey, floor_to_step
from scaler.adapters.accounts import Account, accounts_of
from scaler.adapters.demand import Known, as_announced, clocks_changed, usual_demand, with_like_days
from scaler.adapters.intake import DEMAND, demand_keys, usage_keys
from scaler.adapters.store import Store
from scaler.adapters.turns import GiveWay, at_once
from scaler.policy.types import DemandForecast

SHARD = 128
"""Series in one portion: 14 days of them are 21 MB, of 2,000 at once they would be 320 MB."""

READ_TOGETHER = 8
"""Portions whose last day is read at once. A minute of the file holds all series: of 24 portions read one by one, a
fleet of 2,000 spent two thirds of its forecast's time reading it 24 times over."""

MOST_USAGE_SERIES = 1_000
"""Series of tokens and images that are forecast, by name: each takes as much memory and time as one of demand, and
every replica's own counters make three. Demand is never cut."""

PAST = 14 * DAY
"""What the first step sees; more adds nothing (9-evaluation: the gain saturates at 14 days)."""

WARM_UP = timedelta(hours=6)
"""Replayed before the first forecast, minute by minute: what a forecast's trust is measured over."""

WARM_UP_MOST_STEPS = 150_000
"""Series × minutes that all portions together replay: the whole six hours of 400 series, 75 minutes of 2,000. One to
two minutes of a core, once: a restart goes on from what was saved."""


class ForecastBoard:
    """The last published forecasts by workload: the loop's `Forecasts`. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: Mapping[str, tuple[DemandForecast, ...]] = {}

    def publish(self, forecasts: Mapping[str, tuple[DemandForecast, ...]]) -> None:
        """Put all forecasts in force at once."""
        with self._lock:
            self._latest = dict(forecasts)

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        """The forecasts in force, expired ones among them."""
        del now
        with self._lock:
            return self._latest


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastRun:
    """What one run brought: forecasts by workload, the workloads whose history is too short, members' failures.

    Among the forecasts are stand-ins, of series that have not been known for half an hour.
    `usage` are the forecasts of tokens and images by signal and workload, each in its signal's unit.
    """

    forecasts: Mapping[str, tuple[DemandForecast, ...]] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, tuple[DemandForecast, ...]]] = field(default_factory=dict)
    learning: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    gated: Mapping[str, int] = field(default_factory=dict)


class DemandForecaster:
    """Runs the engine over the demand of every workload, and over its tokens and images where they are told.

    One thread at a time.
    """

    def __init__(
        self,
        store: Store,
        *,
        workloads: Set[str],
        ttl: timedelta,
        known: Known | None = None,
        holidays: Mapping[str, Set[date]] | None = None,
        give_way: GiveWay = at_once,
    ) -> None:
        """`known` are the workloads' events, which the models never see, and the clocks their people live by;
        `holidays` the days that the people of some workloads keep; `give_way` is called between portions."""
        self._store = store
        self._give_way = give_way
        self._states: dict[int, EngineState] = {}
        self.use(workloads=workloads, ttl=ttl, known=known, holidays=holidays)

    def use(
        self,
        *,
        workloads: Set[str],
        ttl: timedelta,
        known: Known | None = None,
        holidays: Mapping[str, Set[date]] | None = None,
    ) -> None:
        """Forecast these from the next run on; what was learnt of those that stay is kept."""
        self._known = known or {}
        self._calendars = {
            workload: Calendar(zone=ZoneInfo(_clock(self._known, workload)), holidays=frozenset(days))
            for workload, days in (holidays or {}).items()
        }
        self._workloads = set(workloads)
        self._rule = EngineRule(ttl=ttl)

    def run(
        self,
        members: Sequence[Forecaster],
        *,
        lead: Mapping[str, timedelta],
        frozen: Set[SeriesKey] = frozenset(),
        now: datetime,
    ) -> ForecastRun:
        """Forecast every stored series at the last whole minute. Raises `HistoryError`.

        `lead` is each workload's lead time, `frozen` the demand that must not teach from this minute (I13), nor what
        came with it.
        """
        demand = demand_keys(self._store.history, self._workloads)
        used = usage_keys(self._store.history, self._workloads)[:MOST_USAGE_SERIES]
        shards = self._portions((*demand, *used))
        mute = frozen | {key for key in used if replace(key, signal=DEMAND) in frozen}
        moment = _Moment(now=now, lead=lead, frozen=mute, series=len(demand) + len(used))
        steps = []
        for shard, panel in enumerate(self._pasts(shards, members, moment)):
            steps.append(self._step(shard, members, panel, moment))
            del panel  # a view of its group's past, 24 MB, which must be gone before the next group's is read
        stale = tuple(sorted(key for done in steps for key, why in done.silent.items() if why is Silence.STALE))
        blind = tuple(key for key in stale if key.signal == DEMAND)
        run = _run_of(
            steps,
            workloads=self._workloads,
            known={key.workload for key in demand},
            stand_ins=self._stand_ins(blind, end=floor_to_step(now)),
        )
        usage = {signal: as_announced(each, self._known) for signal, each in run.usage.items()}
        return replace(run, forecasts=as_announced(run.forecasts, self._known), usage=usage)

    def forget(self) -> None:
        """Learn anew from the whole history at the next run: after the past was filled in."""
        self._states.clear()

    def accounts(self, workload: str) -> dict[str, Account]:
        """How the last forecasts of a workload came about, by request class. May be called from any thread."""
        return accounts_of(list(self._states.values()), workload, self._read)

    def saved(self) -> Iterator[tuple[str, bytes]]:
        """The engine's memory as it can be stored, a portion at a time: of 2,000 workloads all are 110 MB."""
        for shard, state in list(self._states.items()):
            self._give_way()
            yield f"{shard:04d}", ensemble.to_bytes(state)

    def restore(self, saved: Iterable[tuple[str, bytes]]) -> None:
        """Go on from a stored memory. `ArtefactError` if it is damaged: nothing is restored then."""
        restored = {}
        for name, stored in saved:
            restored[int(name)] = ensemble.from_bytes(stored)
            self._give_way()
        self._states = restored

    def _portions(self, keys: Sequence[SeriesKey]) -> list[tuple[SeriesKey, ...]]:
        """The series of each portion: those that it remembers, then new ones where there is room.

        Cut anew from the names, a series that appears would push one of every later portion into the next, where
        nothing is remembered of it. Portions of which nothing is left are dropped, and the memory renumbered.
        """
        left = dict.fromkeys(keys)
        kept: list[tuple[list[SeriesKey], EngineState]] = []
        for _, state in sorted(self._states.items()):
            own = [key for key in state.keys if key in left]
            for key in own:
                del left[key]
            if own:
                kept.append((own, state))
        portions, fresh = [own for own, _ in kept], list(left)
        for own in portions:
            room = max(0, SHARD - len(own))
            own += fresh[:room]
            fresh = fresh[room:]
        portions += [fresh[at : at + SHARD] for at in range(0, len(fresh), SHARD)]
        self._states = {shard: state for shard, (_, state) in enumerate(kept)}
        return [tuple(sorted(own)) for own in portions]

    def _pasts(
        self, shards: Sequence[tuple[SeriesKey, ...]], members: Sequence[Forecaster], moment: _Moment
    ) -> Iterator[Panel]:
        """The past that the step of each portion needs, in their order: a day of those that go on, all of new ones."""
        end = floor_to_step(moment.now)
        numbered = list(enumerate(shards))
        for at in range(0, len(numbered), READ_TOGETHER):
            group = numbered[at : at + READ_TOGETHER]
            going_on = {shard for shard, keys in group if self._goes_on(shard, keys, end)}
            together = tuple(key for shard, keys in group if shard in going_on for key in keys)
            self._give_way()
            recent = self._read(together, start=end - ensemble.lookback(members), end=end)
            first = 0
            for shard, keys in group:
                if shard not in going_on:
                    self._give_way()
                    yield self._read(keys, start=end - PAST, end=end)
                    continue
                rows = slice(first, first + len(keys))
                first += len(keys)
                reference = None if recent.reference is None else recent.reference[rows]
                yield replace(recent, keys=keys, values=recent.values[rows], reference=reference)
            del recent

    def _goes_on(self, shard: int, keys: tuple[SeriesKey, ...], end: datetime) -> bool:
        """Whether what a portion remembers is of use at `end`."""
        state = self._states.get(shard)
        if state is None or not timedelta(0) <= end - state.end <= DAY:
            return False
        # Holt-Winters' season lies by minute of the UTC day: since the clocks were changed, an hour beside the days.
        return not clocks_changed(self._known, keys, since=state.end - STEP, until=end - STEP)

    def _step(self, shard: int, members: Sequence[Forecaster], panel: Panel, moment: _Moment) -> EngineStep:
        self._give_way()
        lead_steps = _lead_steps(panel.keys, moment.lead)
        state = self._states.get(shard)
        if not self._goes_on(shard, panel.keys, panel.end):
            minutes = min(WARM_UP // STEP, WARM_UP_MOST_STEPS // moment.series)
            state = self._warmed(members, panel, lead_steps=lead_steps, minutes=minutes)
        done = ensemble.step(members, panel, state, lead_steps=lead_steps, frozen=moment.frozen, rule=self._rule)
        self._states[shard] = done.state
        return done

    def _stand_ins(self, keys: tuple[SeriesKey, ...], *, end: datetime) -> dict[SeriesKey, Forecast]:
        """The day before of series of which nothing has been known for half an hour, where there is one.

        They go on while the source is gone: the past that they need is in the history.
        """
        found: dict[SeriesKey, Forecast] = {}
        for at in range(0, len(keys), SHARD):
            self._give_way()
            panel = self._read(keys[at : at + SHARD], start=end - stand_in.LOOKBACK, end=end)
            for key, values in zip(panel.keys, stand_in.predict(panel), strict=True):
                if np.isfinite(values).all():
                    found[key] = Forecast(
                        model=stand_in.MODEL_ID,
                        issued_at=end,
                        expires_at=end + self._rule.ttl,
                        step_s=STEP.total_seconds(),
                        horizons=HORIZONS,
                        values=tuple(map(tuple, values.tolist())),
                        request_class=key.request_class,
                    )
        return found

    def _read(self, keys: tuple[SeriesKey, ...], *, start: datetime, end: datetime) -> Panel:
        panel = usual_demand(self._store.history, keys, start=start, end=end, known=self._known)
        return with_like_days(self._store.history, panel, known=self._known, calendars=self._calendars)

    def _warmed(
        self, members: Sequence[Forecaster], panel: Panel, *, lead_steps: Mapping[SeriesKey, int], minutes: int
    ) -> EngineState | None:
        """The memory of an engine that had been running for the last `minutes`.

        A blank one knows no member's record, so the fallback would speak for an hour and the forecast could earn no
        trust for two.
        """
        state: EngineState | None = None
        for back in range(minutes, 0, -1):
            self._give_way()
            known = up_to(panel, panel.end - back * STEP)
            state = ensemble.step(members, known, state, lead_steps=lead_steps, rule=self._rule).state
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """What every portion of one run shares."""

    now: datetime
    lead: Mapping[str, timedelta]
    frozen: Set[SeriesKey]
    series: int


def _class_of(each: DemandForecast) -> str:
    return each.forecast.request_class


def _clock(known: Known, workload: str) -> str:
    return known[workload].timezone if workload in known else "UTC"


def _lead_steps(keys: Sequence[SeriesKey], lead: Mapping[str, timedelta]) -> dict[SeriesKey, int]:
    """Steps from now to the bin that an order placed now can first change: a start of 3 min reaches the 4th."""
    default = timedelta(minutes=5)
    return {key: -(-lead.get(key.workload, default) // STEP) + 1 for key in keys}


def _run_of(
    steps: Sequence[EngineStep], *, workloads: Set[str], known: Set[str], stand_ins: Mapping[SeriesKey, Forecast]
) -> ForecastRun:
    found: dict[str, dict[str, list[DemandForecast]]] = defaultdict(lambda: defaultdict(list))
    learning = set(workloads) - set(known)
    failed: dict[str, str] = {}
    gated: dict[str, int] = defaultdict(int)
    for done in steps:
        for key, forecast in done.forecasts.items():
            each = DemandForecast(forecast=forecast, quality=done.quality.get(key))
            found[key.signal][key.workload].append(each)
        too_little = {key for key, why in done.silent.items() if why is Silence.TOO_LITTLE_HISTORY}
        learning |= {key.workload for key in too_little if key.signal == DEMAND}
        failed.update(done.failed)
        for member, count in done.gated.items():
            gated[member] += count
    for key, forecast in stand_ins.items():
        found[key.signal][key.workload].append(DemandForecast(forecast=forecast, stand_in=True))
    by_signal = {
        signal: {workload: tuple(sorted(each, key=_class_of)) for workload, each in of_workloads.items()}
        for signal, of_workloads in found.items()
    }
    return ForecastRun(
        forecasts=by_signal.pop(DEMAND, {}),
        usage=by_signal,
        learning=frozenset(learning),
        failed=failed,
        gated=dict(gated),
    )
