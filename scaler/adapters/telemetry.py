"""The exported metrics: one custom collector that reads the last finished tick, and the counts kept since the start.

Series of a workload exist only while it is in the last tick: a long-lived labelled gauge would show a deleted
workload for ever. Names and meanings are in `scaler.adapters.metrics`. Nothing here decides, and a scrape never waits
for a tick.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from forecaster.sources.history import AppendReport
from forecaster.sources.readings import Readings
from forecaster.types import LEVELS, Blind, BlindReason, Forecast, value_of
from scaler.adapters.board import Board, SettingsStatus, View
from scaler.adapters.invariants import INVARIANTS, Violation
from scaler.adapters.metrics import SPECS
from scaler.adapters.turns import GiveWay, at_once
from scaler.adapters.usage import Usage
from scaler.loop import TickReport
from scaler.policy.latency import SIGNALS as LATENCIES
from scaler.policy.spill import with_inflows
from scaler.policy.trust import judge
from scaler.ports import DecisionRecord

SHOWN_HORIZONS: tuple[tuple[str, timedelta], ...] = (
    ("5m", timedelta(minutes=5)),
    ("15m", timedelta(minutes=15)),
    ("30m", timedelta(minutes=30)),
)
"""Horizons exported besides the lead time's ("lead"): 13 horizons × 4 quantiles would be 52 series a workload."""

_LEVELS = tuple(f"{level:g}" for level in LEVELS)

DROPPED = ("not_finite", "negative", "future", "too_old", "over_limit")
"""Why a measured value is left out; each is exported from the start with a count of 0."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 30.0)
"""Bucket edges of durations; 8 s is the deadline of a metrics query, 10 s the budget of a tick."""


class Telemetry:
    """Counts since the start, and the registry that `/metrics` serves. Safe between threads."""

    def __init__(
        self,
        board: Board,
        *,
        in_force: Callable[[], bool] = lambda: True,
        leads: Callable[[], bool] = lambda: True,
        give_way: GiveWay = at_once,
    ) -> None:
        """`leads` says whether this daemon may write now, `in_force` whether the last decisions are still to be
        followed: ticks finish, and no other daemon leads instead. `give_way` is called before the page is made."""
        self.in_force = in_force
        self.give_way = give_way
        self._lock = threading.Lock()
        self._leads = leads
        self._decisions: Counter[tuple[str, str, str]] = Counter()
        self._violations: Counter[str] = Counter(dict.fromkeys(INVARIANTS, 0))
        self._job_failures: Counter[str] = Counter()
        self._job_late: Counter[str] = Counter()
        self._switches: Counter[str] = Counter()
        self._journal_errors = 0
        self._last_success_s = 0.0
        self._train: tuple[str, float] | None = None
        self._models: Mapping[str, datetime] = {}
        self._dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
        self._skew_s: float | None = None
        self._drifted: int | None = None
        self._drift_refits = 0
        self.registry = CollectorRegistry(auto_describe=False)
        self._tick_s = self._histogram("tick_duration_seconds")
        self._query_s = self._histogram("prometheus_query_seconds")
        self._request_s = self._histogram("kubernetes_request_seconds")
        self._forecast_s = self._histogram("forecast_duration_seconds")
        self.registry.register(_TickCollector(board, self))
        ProcessCollector(registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        spec = SPECS[name]
        return Histogram(spec.full_name, spec.meaning, spec.labels, registry=self.registry, buckets=SECONDS)

    # ── written by the shell ──────────────────────────────────────────────────────────────────────────────────

    def tick_finished(self, report: TickReport, broken: Iterable[Violation], *, duration_s: float) -> None:
        """Count a finished tick; what is known of workloads that left the fleet is dropped."""
        self._tick_s.observe(duration_s)
        present = {record.policy.workload for record in report.records}
        with self._lock:
            self._last_success_s = time.time()
            for record in report.records:
                decision = record.decision
                self._decisions[decision.workload, decision.action.value, decision.reason.value] += 1
            for key in [key for key in self._decisions if key[0] not in present]:
                del self._decisions[key]
            self._violations.update(violation.invariant for violation in broken)
            switches = {each.group.name: int(each.switched and report.leads) for each in report.variants}
            self._switches = Counter({name: self._switches[name] + count for name, count in switches.items()})
            self._journal_errors += bool(report.journal_error)

    def queried(self, duration_s: float) -> None:
        """Note one round of metrics queries."""
        self._query_s.observe(duration_s)

    def read(self, readings: Readings) -> None:
        """Note what one round of metrics queries brought: the skew of the clocks, and values that were not believed."""
        unsound = sum(
            isinstance(each, Blind) and each.reason is BlindReason.NOT_FINITE for each in readings.values.values()
        )
        with self._lock:
            self._dropped["not_finite"] += unsound
            if readings.skew_s is not None:
                self._skew_s = readings.skew_s

    def stored(self, report: AppendReport) -> None:
        """Note what became of points on their way into the history."""
        left_out = {
            "not_finite": report.infinite,
            "negative": report.negative,
            "future": report.future,
            "too_old": report.too_old,
            "over_limit": report.over_limit,
        }
        with self._lock:
            self._dropped.update(left_out)

    def requested(self, verb: str, status: int | None, duration_s: float) -> None:
        """Note one Kubernetes API request."""
        code = "none" if status is None else f"{status // 100}xx"
        self._request_s.labels(verb=verb, code=code).observe(duration_s)

    def forecast_finished(self, duration_s: float) -> None:
        """Note one forecast of all workloads."""
        self._forecast_s.observe(duration_s)

    def job_failed(self, job: str) -> None:
        """Count a failed run of a background job."""
        with self._lock:
            self._job_failures[job] += 1

    def job_late(self, job: str) -> None:
        """Count a run of a background job that began late, or was left out."""
        with self._lock:
            self._job_late[job] += 1

    def trained(self, outcome: str, duration_s: float) -> None:
        """Note the last refit."""
        with self._lock:
            self._train = (outcome, duration_s)

    def drifted(self, series: int) -> None:
        """Note how many series' forecasts have drifted."""
        with self._lock:
            self._drifted = series

    def drift_refit(self) -> None:
        """Count a refit that was begun for drift."""
        with self._lock:
            self._drift_refits += 1

    def models_in_use(self, trained_at: Mapping[str, datetime]) -> None:
        """Note which fitted models are in use, and when each was trained."""
        with self._lock:
            self._models = dict(trained_at)

    # ── read by the collector ─────────────────────────────────────────────────────────────────────────────────

    def counts(self) -> Iterator[Metric]:
        """What was counted since the start."""
        with self._lock:
            decisions, violations = dict(self._decisions), dict(self._violations)
            failures, late, journal_errors = dict(self._job_failures), dict(self._job_late), self._journal_errors
            last_success_s, train, models = self._last_success_s, self._train, self._models
            drifted, drift_refits = self._drifted, self._drift_refits
            dropped, skew_s = dict(self._dropped), self._skew_s
            switches = dict(self._switches)
        total = _counter("decision_total")
        for (workload, action, reason), count in decisions.items():
            total.add_metric((*_split(workload), action, reason), count)
        broken = _counter("invariant_violations_total")
        for invariant, count in violations.items():
            broken.add_metric((invariant,), count)
        failed = _counter("job_failures_total")
        for job, count in failures.items():
            failed.add_metric((job,), count)
        behind = _counter("job_late_total")
        for job, count in late.items():
            behind.add_metric((job,), count)
        lost = _counter("journal_errors_total")
        lost.add_metric((), journal_errors)
        success = _gauge("tick_last_success_timestamp_seconds")
        success.add_metric((), last_success_s)
        took = _gauge("train_duration_seconds")
        if train is not None:
            took.add_metric((train[0],), train[1])
        age = _gauge("model_age_seconds")
        for model, trained_at in models.items():
            age.add_metric((model,), max(0.0, time.time() - trained_at.timestamp()))
        drifting = _gauge("drifted_series")
        if drifted is not None:
            drifting.add_metric((), drifted)
        refits = _counter("drift_refits_total")
        refits.add_metric((), drift_refits)
        leader = _gauge("leader")
        leader.add_metric((), float(self._leads()))
        unsound = _counter("samples_dropped_total")
        for reason, count in dropped.items():
            unsound.add_metric((reason,), count)
        skew = _gauge("clock_skew_seconds")
        if skew_s is not None:
            skew.add_metric((), skew_s)
        switched = _counter("variant_switches_total")
        for model, count in switches.items():
            switched.add_metric((model,), count)
        yield switched
        yield from (total, broken, failed, behind, lost, success, took, age, drifting, refits, leader, unsound, skew)


class _TickCollector(Collector):
    """Makes every per-workload series anew from the last finished tick."""

    def __init__(self, board: Board, telemetry: Telemetry) -> None:
        self._board = board
        self._telemetry = telemetry

    def collect(self) -> Iterator[Metric]:
        self._telemetry.give_way()
        yield from self._telemetry.counts()
        yield from _of_settings(self._board.settings())
        view = self._board.view()
        if view is None:
            return
        yield from _of_decisions(view, in_force=self._telemetry.in_force())
        yield from _of_lead_times(view)
        yield from _of_signals(view)
        yield from _of_spill(view)
        yield from _of_forecasts(view)
        yield from _of_usage(view, self._board.usage() or Usage(at=view.at))
        yield from _of_variants(view)
        yield _budget_used(view)


def _of_settings(settings: SettingsStatus | None) -> Iterator[Metric]:
    ok, loaded = _gauge("config_reload_ok"), _gauge("config_reload_success_timestamp_seconds")
    if settings is not None:
        ok.add_metric((), float(settings.refused_at is None))
        loaded.add_metric((), settings.loaded_at.timestamp())
    yield from (ok, loaded)


def _of_decisions(view: View, *, in_force: bool) -> Iterator[Metric]:
    """A number of replicas that is wanted no more must not be followed: not `in_force`, it has no series."""
    desired, current, proposed = _gauge("replicas_desired"), _gauge("replicas_current"), _gauge("replicas_proposed")
    state = _gauge("state")
    for record in view.report.records:
        labels, decision = _split(record.policy.workload), record.decision
        if decision.target is not None and in_force:
            desired.add_metric(labels, decision.target)
        if decision.current is not None:
            current.add_metric(labels, decision.current)
        for proposal in decision.proposals:
            proposed.add_metric((*labels, proposal.rule), proposal.want)
        status = view.statuses.get(record.policy.workload)
        if status is not None:
            state.add_metric((*labels, record.policy.mode.value, status.state.value), 1)
    yield from (desired, current, proposed, state)


def _of_lead_times(view: View) -> Iterator[Metric]:
    lead, part, starts = _gauge("lead_time_seconds"), _gauge("lead_time_part_seconds"), _gauge("lead_time_starts")
    for record in view.report.records:
        if _is_gone(record):
            continue
        labels, found = _split(record.policy.workload), record.snapshot.lead_time
        lead.add_metric(labels, record.snapshot.lead_time_s)
        if found is None:
            continue
        starts.add_metric((*labels, found.source.value), found.starts)
        parts = {"node_wait": found.node_wait_s, "image": found.image_s, "load": found.load_s}
        for name, seconds in parts.items():
            if seconds is not None:
                part.add_metric((*labels, name), seconds)
    yield from (lead, part, starts)


def _is_gone(record: DecisionRecord) -> bool:
    """Whether the workload does not exist: of it only the state and the reason are shown."""
    replicas = record.snapshot.replicas
    return isinstance(replicas, Blind) and replicas.reason is BlindReason.NOT_FOUND


def _of_signals(view: View) -> Iterator[Metric]:
    demand, blind = _gauge("demand"), _gauge("blind")
    for record in view.report.records:
        labels = _split(record.policy.workload)
        for readings in record.snapshot.classes:
            value = value_of(readings.demand_rps)
            if value is not None and not _is_gone(record):
                demand.add_metric((*labels, readings.request_class), value)
        for signal, reason in sorted(blind_signals(record)):
            blind.add_metric((*labels, signal, reason), 1)
    yield from (demand, blind)


def _of_spill(view: View) -> Iterator[Metric]:
    """What each pool takes over from others, by the pool that it comes from."""
    rate, reach = _gauge("spill_rps"), _gauge("spill_sender_reach_replicas")
    for record in view.report.records:
        labels = _split(record.policy.workload)
        for inflow in record.snapshot.inflows:
            for each in inflow.classes:
                of_class = (*labels, inflow.sender, each.request_class)
                rate.add_metric((*of_class, "now"), each.now_rps)
                rate.add_metric((*of_class, "planned"), each.planned_rps)
            if inflow.reach is not None:
                reach.add_metric((*labels, inflow.sender), inflow.reach)
    yield from (rate, reach)


def blind_signals(record: DecisionRecord) -> set[tuple[str, str]]:
    """Signals that could not be read, with their reason; optional ones that nobody asked for are left out."""
    snapshot = record.snapshot
    required = [("demand_rps", readings.demand_rps) for readings in snapshot.classes]
    if not required:
        required = [("demand_rps", Blind(reason=BlindReason.NOT_READ))]
    optional = [("requests_waiting", snapshot.requests_waiting)]
    for readings in snapshot.classes:
        optional += [(signal, getattr(readings, signal)) for signal in LATENCIES]
    found = {(name, reading.reason) for name, reading in (*required, *optional) if isinstance(reading, Blind)}
    asked = {each for each in found if each[0] == "demand_rps" or each[1] is not BlindReason.NOT_READ}
    if isinstance(snapshot.replicas, Blind):
        asked.add(("replicas", snapshot.replicas.reason))
    return {(name, reason.value) for name, reason in asked}


def _of_forecasts(view: View) -> Iterator[Metric]:
    demand, wape, coverage = _gauge("forecast_demand"), _gauge("forecast_wape"), _gauge("forecast_coverage")
    doubt = _gauge("forecast_doubt")
    for record in (each for each in view.report.records if not _is_gone(each)):
        labels = _split(record.policy.workload)
        horizons = (("lead", timedelta(seconds=record.snapshot.lead_time_s)), *SHOWN_HORIZONS)
        if record.policy.predictive.enabled:
            verdict = judge(with_inflows(record.snapshot), record.policy.trust, now=record.at)
            doubt.add_metric((*labels, verdict.trust.value), verdict.doubt)
        for each in record.snapshot.forecasts:
            forecast, quality = each.forecast, each.quality
            request_class = forecast.request_class
            for level, name, value in _shown(forecast, horizons, at=record.at):
                demand.add_metric((*labels, request_class, level, name), value)
            if quality is not None:
                wape.add_metric((*labels, request_class, "headstart"), quality.wape)
                wape.add_metric((*labels, request_class, "last-value"), quality.wape_last_value)
                coverage.add_metric((*labels, request_class, "0.95"), quality.coverage_95)
    yield from (demand, wape, coverage, doubt)


def _of_usage(view: View, usage: Usage) -> Iterator[Metric]:
    """Tokens and images of the workloads of the last tick that tell them."""
    ahead, amount = _gauge("forecast_usage"), _gauge("request_amount")
    for record in (each for each in view.report.records if not _is_gone(each)):
        workload, labels = record.policy.workload, _split(record.policy.workload)
        horizons = (("lead", timedelta(seconds=record.snapshot.lead_time_s)), *SHOWN_HORIZONS)
        for signal, forecasts in usage.forecasts.get(workload, {}).items():
            for forecast in (each.forecast for each in forecasts):
                for level, name, value in _shown(forecast, horizons, at=record.at):
                    ahead.add_metric((*labels, forecast.request_class, signal, level, name), value)
        for each in usage.amounts.get(workload, ()):
            sources = {"measured": each.now, "forecast": each.ahead, "profile": each.profile}
            for source, held in sources.items():
                if held is not None:
                    amount.add_metric((*labels, each.request_class, each.signal, source), held)
    yield from (ahead, amount)


def _of_variants(view: View) -> Iterator[Metric]:
    chosen, share = _gauge("variant_chosen"), _gauge("variant_share")
    for each in view.report.variants:
        for member in each.group.workloads:
            labels = (each.group.name, *_split(member.workload))
            chosen.add_metric(labels, float(member.workload == each.chosen))
            if each.shares:
                share.add_metric(labels, each.shares.get(member.workload, 0.0))
    yield from (chosen, share)


def _shown(
    forecast: Forecast, horizons: Iterable[tuple[str, timedelta]], *, at: datetime
) -> Iterator[tuple[str, str, float]]:
    """Level, horizon's name and value of every quantile that is exported; none of a forecast that has expired."""
    if forecast.expired(now=at):
        return
    for name, ahead in horizons:
        for level, value in zip(_LEVELS, forecast.levels(at + ahead), strict=True):
            yield level, name, value


def _budget_used(view: View) -> Metric:
    ratio = _gauge("gpu_budget_used_ratio")
    if view.gpu_budget is not None:
        held = sum(_taken(record) * record.policy.profile.gpus for record in view.report.records)
        ratio.add_metric((), held / view.gpu_budget)
    return ratio


def _taken(record: DecisionRecord) -> int:
    """Replicas that take GPUs now: what stands above a floor counts too; 0 while it cannot be read."""
    replicas = record.snapshot.replicas
    return 0 if isinstance(replicas, Blind) else replicas.taken


def _gauge(name: str) -> GaugeMetricFamily:
    spec = SPECS[name]
    return GaugeMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)


def _counter(name: str) -> CounterMetricFamily:
    spec = SPECS[name]
    return CounterMetricFamily(spec.full_name, spec.meaning, labels=spec.labels)


def _split(workload: str) -> tuple[str, str]:
    """ "namespace/name" as the two labels."""
    namespace, _, name = workload.partition("/")
    return (namespace, name) if name else ("", namespace)
