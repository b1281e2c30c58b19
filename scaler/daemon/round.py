"""One decision round of the daemon: tick, check the promises, publish, tell. Order only, no rule of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from forecaster.types import Blind, SeriesKey
from scaler.adapters import events
from scaler.adapters.board import Board, View
from scaler.adapters.intake import DEMAND
from scaler.adapters.invariants import violations
from scaler.adapters.states import Status, statuses
from scaler.adapters.telemetry import Telemetry
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy import limits, memory, outage, scheduled, steering
from scaler.policy.types import Decision, PolicyState, demand_of
from scaler.ports import DecisionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Where a round's results go besides the cluster and the journal."""

    board: Board
    telemetry: Telemetry
    log: Any
    announce: Callable[[datetime], tuple[Exception, ...]] = lambda _: ()
    """Leave the Events of this round's writes; answers what could not be left."""
    mutating_requests: Callable[[], int] = lambda: 0
    """Writes sent to the cluster since the start."""
    target_remarks: Callable[[], Mapping[str, tuple[str, ...]]] = dict
    """What the cluster remarked on workloads at its last read."""
    control_trouble: Callable[[], str] = lambda: ""
    """What keeps people's orders from being read; empty if nothing does."""
    tell_conflict: Callable[[Decision, str], None] = lambda _decision, _note: None
    """Have an Event left on a workload that another writer fights for."""
    source_notes: Callable[[], tuple[str, ...]] = lambda: ()
    """What the metrics source remarked on its last read."""


class Leadership(Protocol):
    """Whether this daemon is the one that writes."""

    @property
    def leads(self) -> bool:
        """Whether it may write now."""
        ...

    @property
    def holder(self) -> str:
        """Who leads, as far as is known; empty if nobody does."""
        ...


class Round:
    """Runs rounds one after another and carries each one's memory to the next."""

    def __init__(
        self,
        fleet: Fleet,
        ports: Ports,
        outlets: Outlets,
        *,
        states: Mapping[str, PolicyState],
        leadership: Leadership | None = None,
    ) -> None:
        """Without `leadership` no lease decides who writes: this daemon always does."""
        self._ports = ports
        self._outlets = outlets
        self._leadership = leadership
        self._led = leadership is None
        self._settings: tuple[Fleet, Mapping[str, tuple[str, ...]]] = (fleet, {})
        self._learning: frozenset[str] = frozenset()
        self._remarks: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._states = dict(states)
        self._statuses: dict[str, Status] = {}
        self._report: TickReport | None = None
        self._notes: tuple[str, ...] = ()

    @property
    def fleet(self) -> Fleet:
        """The settings that the next round decides with."""
        return self._settings[0]

    def use(self, fleet: Fleet, notes: Mapping[str, tuple[str, ...]]) -> None:
        """Decide with these settings from the next round on; `notes` say by workload what differs from the file."""
        self._settings = (fleet, notes)

    def forget(self, workloads: Collection[str]) -> None:
        """Begin anew with these: they hold their scale first. Not during a round."""
        for workload in workloads:
            self._states.pop(workload, None)
            self._statuses.pop(workload, None)

    def set_learning(self, workloads: frozenset[str]) -> None:
        """Which workloads have less than a day of history."""
        self._learning = workloads

    def set_remarks(self, remarks: Mapping[str, tuple[str, ...]], *, about: str = "requests") -> None:
        """What to tell of workloads beside the notes on their settings, until it is set again for the same matter."""
        self._remarks = {**self._remarks, about: dict(remarks)}

    def run(self, *, now: datetime) -> TickReport:
        """One round at `now`."""
        outlets, (fleet, notes) = self._outlets, self._settings
        begun, written = time.monotonic(), outlets.mutating_requests()
        leads, leader = self._asked_who_leads(now=now)
        report = tick(fleet, self._states, self._ports, now=now, leads=leads)
        self._states = dict(report.states)
        broken = violations(report, mutating_requests=outlets.mutating_requests() - written)
        before, after = self._statuses, statuses(report, self._statuses, learning=self._learning)
        self._statuses = after
        self.set_remarks(outlets.target_remarks(), about="pods")
        for remarks in self._remarks.values():
            notes = {name: (*notes.get(name, ()), *remarks.get(name, ())) for name in {*notes, *remarks}}
        trouble = outlets.control_trouble()
        if trouble:
            notes = {name: (*notes.get(name, ()), trouble) for name in after}
        view = View(report=report, statuses=after, notes=notes, gpu_budget=fleet.budget.gpus, leader=leader)
        outlets.board.publish(view)
        outlets.telemetry.tick_finished(report, broken, duration_s=time.monotonic() - begun)
        for event in events.events_of(report, self._report, before, after, broken):
            getattr(outlets.log, event.level)(event.name, **event.keys)
        for record, status in events.conflicts_begun(report, before, after):
            outlets.tell_conflict(record.decision, f"held: {status.cause}. Nothing is written; {status.way_out}")
        self._tell_failed(report)
        self._report = report
        self._tell_source_notes()
        for error in outlets.announce(now):
            outlets.log.warning("event_not_left", error=error, meanwhile="the scale was written")
        return report

    def _asked_who_leads(self, *, now: datetime) -> tuple[bool, str | None]:
        """Asked once, so that a whole tick has one answer. Who takes over begins with a look-back without releases."""
        if self._leadership is None:
            return True, None
        leads = self._leadership.leads
        if leads and not self._led:
            self._states = {name: memory.begun_anew(state, now=now) for name, state in self._states.items()}
        self._led = leads
        return leads, self._leadership.holder

    def _tell_failed(self, report: TickReport) -> None:
        """A decision that raised: with its traceback when it begins, and counted at every tick."""
        before = {} if self._report is None else self._report.failed
        for workload, error in report.failed.items():
            self._outlets.telemetry.job_failed("decide")
            if repr(before.get(workload)) != repr(error):
                meanwhile = "its scale is held; the other workloads go on"
                self._outlets.log.error("decision_failed", workload=workload, exc_info=error, meanwhile=meanwhile)

    def _tell_source_notes(self) -> None:
        notes = self._outlets.source_notes()
        fresh = [note for note in notes if note not in self._notes]
        if fresh:
            self._outlets.log.warning("metrics_source", notes=fresh)
        self._notes = notes


def frozen_series(report: TickReport) -> frozenset[SeriesKey]:
    """Series whose last minute says nothing about the forecast (I13): the engine must not learn from it."""
    return frozenset(
        SeriesKey(workload=record.policy.workload, signal=DEMAND, request_class=readings.request_class)
        for record in report.records
        if _is_frozen(record, report.states[record.policy.workload])
        for readings in record.snapshot.classes
    )


def _is_frozen(record: DecisionRecord, after: PolicyState) -> bool:
    replicas, policy = record.snapshot.replicas, record.policy
    if isinstance(replicas, Blind) or demand_of(record.snapshot.classes) is None or record.snapshot.demand_partial:
        return True
    bounds = policy.bounds
    in_force = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=record.at)
    _, most = limits.under_ceiling(in_force, replicas.ceiling)
    lead = timedelta(seconds=record.snapshot.lead_time_s)
    if outage.unusual(after.outage, policy.outage, now=record.at):
        return True
    # A member that takes over within the ensemble is ordinary: only steering waits for that.
    same_model = replace(after, model_since=None)
    if policy.spills_to is not None:
        # At its limits all day, maybe, and on purpose: the pool behind it serves the rest and orders by this forecast.
        same_model, most = replace(same_model, over_budget=False), replicas.desired + 1
    return steering.frozen(same_model, replicas, most_replicas=most, lead_time=lead, now=record.at)
