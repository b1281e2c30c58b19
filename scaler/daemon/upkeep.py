"""The daemon's work beside the tick: forecasts, history, settings that depend on what is measured, refits.

Each method is one job; it catches what its own edge can fail with, says so once, and leaves what was there in force.
Nothing here runs in the tick's thread, and no failure here stops a tick.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from forecaster.errors import ForecasterError, HistoryError, SourceError
from forecaster.sources.prometheus import PrometheusSource, SignalCheck
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import ForecastQuality, SeriesKey
from scaler.adapters.accounts import ENGINE_BLOB
from scaler.adapters.board import Board, View
from scaler.adapters.demand import KNOWN_BLOB, known_to_bytes
from scaler.adapters.forecasts import DemandForecaster, ForecastBoard, ForecastRun
from scaler.adapters.intake import DEMAND, HistoryIntake
from scaler.adapters.models import ModelShelf
from scaler.adapters.refit import Refit
from scaler.adapters.signals import at_bucket_edges
from scaler.adapters.starts import STARTS_BLOB, StartLedger, StartsUnreadable
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.turns import GiveWay, at_once
from scaler.adapters.usage import USAGE_BLOB, Reminder, UsageWatch, to_bytes
from scaler.daemon.refits import Refits
from scaler.daemon.round import Round, frozen_series
from scaler.loop import Fleet
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.scheduled import ScheduledRule

RELEARN_FROM_POINTS = 1440
"""A back-fill that brought a day of some series changes what the models should know; a filled hole does not."""

EDGES_TOGETHER = 200
"""Workloads whose edges are asked for at once. Four histograms of 2,000 workloads are 150,000 series: as one answer
110 MiB for a moment, of which the process kept half."""

EDGES_EVERY = timedelta(hours=1)

SAVE_EVERY = timedelta(minutes=10)
"""The engine's memory of 2,000 workloads and their tokens is some 110 MB. Minutes it misses are scored again from the
history."""


class Told:
    """Says a failure when it begins and when it ends, not every minute of it."""

    def __init__(self, log: Any, telemetry: Telemetry) -> None:
        self._log = log
        self._telemetry = telemetry
        self._open: dict[str, str] = {}
        self._lock = threading.Lock()

    def failed(self, job: str, error: object, *, meanwhile: str) -> None:
        """A run of `job` failed with `error`; `meanwhile` says what stays in force."""
        self._telemetry.job_failed(job)
        kind = f"{type(error).__name__}"
        with self._lock:
            known = self._open.get(job) == kind
            self._open[job] = kind
        if not known:
            self._log.warning(f"{job}_failed", error=str(error), meanwhile=meanwhile)

    def succeeded(self, job: str) -> None:
        """A run of `job` went well."""
        with self._lock:
            was_open = self._open.pop(job, None)
        if was_open is not None:
            self._log.info(f"{job}_recovered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the jobs work with."""

    selectors: tuple[WorkloadSelector, ...]
    source: PrometheusSource
    store: Store
    intake: HistoryIntake
    forecaster: DemandForecaster
    shelf: ModelShelf
    forecasts: ForecastBoard
    starts: StartLedger
    board: Board
    telemetry: Telemetry
    round: Round
    refit: Refit
    log: Any
    stopping: Callable[[], bool] = lambda: False
    give_way: GiveWay = at_once


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """What the jobs follow of the settings, and the parts that were made for them."""

    selectors: tuple[WorkloadSelector, ...]
    source: PrometheusSource | None
    """The metrics source to ask from now on; None: the one that is asked now."""
    known: Mapping[str, ScheduledRule]
    """What is known in advance, by workload."""
    holidays: Mapping[str, Set[date]]
    ttl: timedelta
    shelf: ModelShelf | None
    """The models to use from now on; None: those that are used now."""
    train_command: tuple[str, ...]


class Upkeep:
    """The jobs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._told = Told(parts.log, parts.telemetry)
        self._refits = Refits(parts.refit, parts.store, parts.telemetry, parts.log)
        self._quality: Mapping[SeriesKey, ForecastQuality] = {}
        self._filled = False
        self._relearn = True
        self._restored = False
        self._edges_at: datetime | None = None
        self._checks: Mapping[str, Sequence[SignalCheck]] = {}
        self._settings_lock = threading.Lock()
        self._wanted: JobSettings | None = None
        self._saved_at: datetime | None = None
        self._failed_models: Mapping[str, str] = {}
        self._configured = parts.round.fleet.workloads
        self._told_notes: Mapping[str, tuple[str, ...]] = {}
        self._usage = UsageWatch(parts.store)
        self._reminder = Reminder()

    # ── settings that change ──────────────────────────────────────────────────────────────────────────────────

    def use(self, fleet: Fleet, settings: JobSettings) -> None:
        """Decide by this fleet from the next round on; the jobs follow `settings` from the next forecast on.

        Latency targets are judged at the edges seen last, until the check that is now due has answered.
        """
        with self._settings_lock:
            if self._wanted is not None:  # not taken up yet, and what it changed must not be lost
                source, shelf = settings.source or self._wanted.source, settings.shelf or self._wanted.shelf
                settings = replace(settings, source=source, shelf=shelf)
            self._configured, self._wanted, self._edges_at = fleet.workloads, settings, None
            self._decide_by(fleet)

    def _take_up(self, now: datetime) -> None:
        """In the forecast's thread: what it works with must not change under it."""
        with self._settings_lock:
            wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        parts = self._parts
        parts.forecaster.use(
            workloads=set(wanted.known), ttl=wanted.ttl, known=dict(wanted.known), holidays=dict(wanted.holidays)
        )
        parts.refit.use(wanted.train_command)
        self.leave_known(wanted.known, now=now)
        source, shelf = wanted.source or parts.source, wanted.shelf or parts.shelf
        self._parts = replace(parts, selectors=wanted.selectors, source=source, shelf=shelf)
        if wanted.source is None and wanted.selectors == parts.selectors:
            return  # rules alone: what was asked of the source need not be asked again
        intake = HistoryIntake(source, wanted.selectors, parts.store, on_stored=parts.telemetry.stored)
        self._parts = replace(self._parts, intake=intake)
        self._filled = False
        # The past of a workload that came must not cost the others what the models have learnt of them.
        stay = {each.workload for each in parts.selectors} & set(wanted.known)
        self._relearn = wanted.source is not None or not stay

    def leave_known(self, known: Mapping[str, ScheduledRule], *, now: datetime) -> None:
        """The refit is a process that has not read the settings: leave it the events and clocks in the data file."""
        try:
            self._parts.store.save_blob(KNOWN_BLOB, known_to_bytes(known), now=now)
        except OSError as error:
            meanwhile = "refits see events as ordinary demand"
            self._parts.log.warning("known_not_saved", error=str(error), meanwhile=meanwhile)

    # ── every minute ──────────────────────────────────────────────────────────────────────────────────────────

    def forecast(self, *, now: datetime) -> None:
        """Take in the last minute, forecast, publish. On a first start the past is taken in before."""
        self._parts.give_way()
        begun = time.monotonic()
        self._take_up(now)
        if not self._restored:
            self._restored = True
            self._restore_engine()
        try:
            self._take_in(now)
            run = self._run(now)
        except ForecasterError as error:
            self._told.failed("forecast", error, meanwhile="the last forecasts stay in force until they expire")
            return
        self._told.succeeded("forecast")
        self._parts.forecasts.publish(run.forecasts)
        self._parts.round.set_learning(run.learning)
        self._quality = quality_of(run)
        self._parts.telemetry.forecast_finished(time.monotonic() - begun)
        self._tell_members(run)
        self._look_at_requests(run, now=now)
        if self._saved_at is None or now - self._saved_at >= SAVE_EVERY:
            self.save_engine(now=now)

    def _take_in(self, now: datetime) -> None:
        """What the source knows and the history does not. A source that fails leaves the history as it is."""
        parts = self._parts
        try:
            if not self._filled:
                brought = parts.intake.backfill(now=now, stopped=self._stopped_between_ticks)
                if brought.most >= RELEARN_FROM_POINTS:
                    parts.log.info("history_filled", points=brought.stored, queries=brought.pieces)
                    if self._relearn:
                        parts.forecaster.forget()
                if brought.error:
                    self._told.failed("backfill", brought.error, meanwhile="forecasts use the history that is here")
                else:
                    self._told.succeeded("backfill")
                    self._filled = self._relearn = True
            parts.intake.collect(now=now)
        except SourceError as error:
            self._told.failed("history", error, meanwhile="the minutes are asked for again later")
        else:
            self._told.succeeded("history")

    def _stopped_between_ticks(self) -> bool:
        """Asked before each portion of work that takes long: whether to leave it."""
        self._parts.give_way()
        return self._parts.stopping()

    def _run(self, now: datetime) -> ForecastRun:
        parts = self._parts
        shelf, changed = parts.shelf.current()
        if changed:
            parts.telemetry.models_in_use(shelf.trained_at)
            members = [member.model_id for member in shelf.members]
            parts.log.info("models", members=members, left_out=dict(shelf.refused))
        view = parts.board.view()
        return parts.forecaster.run(
            shelf.members,
            lead=_lead_times(parts.round.fleet.workloads, view),
            frozen=frozen_series(view.report) if view is not None else frozenset(),
            now=now,
        )

    def _tell_members(self, run: ForecastRun) -> None:
        for member, error in run.failed.items():
            if self._failed_models.get(member) != error:
                self._parts.log.error("model_failed", model=member, error=error, meanwhile="the other members speak")
        self._failed_models = run.failed

    def _look_at_requests(self, run: ForecastRun, *, now: datetime) -> None:
        """What requests are made of, and whether that still is what their profiles say."""
        parts = self._parts
        parts.give_way()
        try:
            policies = parts.round.fleet.workloads
            leads = _lead_times(policies, parts.board.view())
            usage = self._usage.look(run, [replace(p, start_time=leads[p.workload]) for p in policies], now=now)
        except HistoryError as error:
            self._told.failed("usage", error, meanwhile="what requests hold is shown as it was")
            return
        self._told.succeeded("usage")
        parts.board.publish_usage(usage)
        parts.round.set_remarks(usage.warnings)
        for workload, said in self._reminder.due(usage).items():
            parts.log.warning("requests_left_profile", workload=workload, detail=list(said))

    # ── hourly, and at the end ────────────────────────────────────────────────────────────────────────────────

    def compact(self, *, now: datetime) -> None:
        """Fold old days of the history, and look for holes in it at the next forecast."""
        try:
            while self._parts.store.history.compact(now=now) and not self._stopped_between_ticks():
                pass
        except HistoryError as error:
            self._told.failed("compact", error, meanwhile="the history grows; the next hour tries again")
        else:
            self._told.succeeded("compact")
        self._filled = False

    def save_engine(self, *, now: datetime) -> None:
        """Store what the engine has learnt, and the starts that were measured."""
        self._saved_at = now
        try:
            self._parts.store.save_blob(STARTS_BLOB, self._parts.starts.saved(), now=now)
            for shard, stored in self._parts.forecaster.saved():
                self._parts.store.save_blob(f"{ENGINE_BLOB}/{shard}", stored, now=now)
            usage = self._parts.board.usage()
            if usage is not None and (usage.forecasts or usage.amounts):
                self._parts.store.save_blob(USAGE_BLOB, to_bytes(usage), now=now)
        except OSError as error:
            self._told.failed("save", error, meanwhile="a restart would learn again from the history")
        else:
            self._told.succeeded("save")

    def _restore_engine(self) -> None:
        """Go on with what was learnt before the restart; anything unusable is learnt again.

        In the forecast's thread: of 2,000 workloads it takes seconds, and the first tick has the last forecasts.
        """
        try:
            self._parts.forecaster.restore(self._stored_engine())
        except (ForecasterError, OSError) as error:
            self._parts.log.warning("engine_not_restored", error=str(error), meanwhile="learning from the history")

    def restore_starts(self) -> None:
        """Go on with the starts measured before the restart; pods that are still there tell theirs anyway."""
        try:
            if (stored := self._parts.store.load_blob(STARTS_BLOB)) is not None:
                self._parts.starts.restore(stored[0])
        except (StartsUnreadable, OSError) as error:
            meanwhile = "start times come from the pods that are there, or as configured"
            self._parts.log.warning("starts_not_restored", error=str(error), meanwhile=meanwhile)

    def _stored_engine(self) -> Iterator[tuple[str, bytes]]:
        for number in itertools.count():
            stored = self._parts.store.load_blob(f"{ENGINE_BLOB}/{number:04d}")
            if stored is None:
                return
            yield f"{number:04d}", stored[0]

    # ── settings that depend on what is measured ──────────────────────────────────────────────────────────────

    def judge_edges(self, *, now: datetime) -> None:
        """Move latency targets to bucket edges; hourly, and every minute until the source has answered once."""
        if self._edges_at is not None and now - self._edges_at < EDGES_EVERY:
            return
        parts, configured = self._parts, self._configured
        try:
            checks = self._with_edges(parts, now=now)
        except SourceError as error:
            self._told.failed("check", error, meanwhile="latency targets are judged as they are set")
            return
        self._told.succeeded("check")
        with self._settings_lock:
            # Of settings that came meanwhile the source was not asked: the next minute asks it again.
            asked_all = self._wanted is None and parts is self._parts and configured is self._configured
            self._edges_at = now if asked_all else None
            self._checks = checks
            self._decide_by(replace(parts.round.fleet, workloads=self._configured))

    def _with_edges(self, parts: Parts, *, now: datetime) -> Mapping[str, Sequence[SignalCheck]]:
        """The histograms of every workload, by its name; edges that are alike are held once. `SourceError`."""
        found: dict[str, list[SignalCheck]] = defaultdict(list)
        alike: dict[tuple[float, ...], tuple[float, ...]] = {}
        for first in range(0, len(parts.selectors), EDGES_TOGETHER):
            parts.give_way()
            for each in parts.source.check(parts.selectors[first : first + EDGES_TOGETHER], now=now):
                if each.edges_s:
                    found[each.workload].append(replace(each, edges_s=alike.setdefault(each.edges_s, each.edges_s)))
        return found

    def _decide_by(self, fleet: Fleet) -> None:
        """Let rounds decide by this fleet, its latency targets moved to the edges that are known."""
        workloads, notes = [], {}
        for policy in fleet.workloads:
            judged = at_bucket_edges(policy.latency, self._checks.get(policy.workload, ()))
            workloads.append(replace(policy, latency=judged.rule))
            notes[policy.workload] = judged.notes
            if judged.notes and self._told_notes.get(policy.workload) != judged.notes:
                self._parts.log.info("slo_at_bucket_edge", workload=policy.workload, notes=list(judged.notes))
        self._told_notes = notes
        self._parts.round.use(replace(fleet, workloads=tuple(workloads)), notes)

    # ── refits ────────────────────────────────────────────────────────────────────────────────────────────────

    def refit(self, *, now: datetime) -> None:
        """Fit the models again in a child process; what it promotes is picked up by the next forecast."""
        self._refits.nightly(now=now)

    def watch_drift(self, *, now: datetime) -> None:
        """The same before the night where the last forecasts show that the models have drifted."""
        self._refits.watch(self._quality, now=now)

    def stop(self) -> None:
        """Let no refit go on."""
        self._refits.stop()


def _lead_times(policies: Sequence[WorkloadPolicy], view: View | None) -> dict[str, timedelta]:
    """The lead times of the last tick; before the first, and for a workload that it did not see, as configured."""
    leads = {policy.workload: policy.start_time for policy in policies}
    if view is not None:
        leads |= {each.policy.workload: timedelta(seconds=each.snapshot.lead_time_s) for each in view.report.records}
    return leads


def quality_of(run: ForecastRun) -> dict[SeriesKey, ForecastQuality]:
    """Measured quality of every forecast of demand in a run, by series."""
    return {
        SeriesKey(workload=workload, signal=DEMAND, request_class=each.forecast.request_class): each.quality
        for workload, of_classes in run.forecasts.items()
        for each in of_classes
        if each.quality is not None
    }
