"""Placeholder pods beside the rounds: reads the last finished tick and their own scales, writes only their own.

Order only: `scaler.policy.placeholders` decides. It runs in a lane and on a connection of its own, so that nothing
that happens to placeholders can delay or count as a write of a workload. Its decisions follow from the journalled
ones of the workloads; what it did is in the log and in Events on the placeholders.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from forecaster.types import Blind
from scaler.adapters.board import Board, View
from scaler.adapters.connections import placeholder_targets_of
from scaler.adapters.jobs import Job
from scaler.adapters.kubernetes import ApiConnection, KubernetesCluster
from scaler.adapters.targets import KubernetesTargets
from scaler.config import Config
from scaler.loop import TickReport
from scaler.policy import scheduled
from scaler.policy.placeholders import UNKNOWN, Outlook, PlaceholderRule, PlaceholderState, grows, outlook, size
from scaler.policy.spill import with_inflows
from scaler.policy.types import Action, Decision, Mode, ReplicaState
from scaler.ports import DecisionRecord, Outcome, OutcomeKind

FRESH_TICKS = 3
"""A tick older than so many intervals tells nothing any more: placeholders stay as they are."""


class PlaceholderTargets(Protocol):
    """The placeholders' scales; `scaler.adapters.targets.KubernetesTargets` is one."""

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]: ...

    def scale(self, decision: Decision) -> Outcome: ...

    def announce(self, *, now: datetime) -> tuple[Exception, ...]: ...


class Placeholders:
    """Sizes every set of placeholder pods after each tick; remembers what `size` returned."""

    def __init__(
        self, rules: Sequence[PlaceholderRule], targets: PlaceholderTargets, board: Board, log: Any, *, tick: timedelta
    ) -> None:
        self._rules = tuple(rules)
        self._targets = targets
        self._board = board
        self._log = log
        self._tick = tick
        self._states: dict[str, PlaceholderState] = {}
        self._told: dict[str, tuple[Any, ...]] = {}

    def run(self, *, now: datetime) -> None:
        """Once over all of them. One that raises is a defect: it is logged, and the others have their turn."""
        view = self._board.view()
        if view is None or now - view.at > FRESH_TICKS * self._tick:
            return
        scales = self._targets.read(now=now)
        for rule in self._rules:
            try:
                self._size(rule, view, scales.get(rule.placeholder), now=now)
            except Exception as error:
                self._tell("error", "placeholder_failed", rule, exc_info=error)
        for lost in self._targets.announce(now=now):
            self._log.warning("event_not_left", error=lost, meanwhile="the scale was written")

    def _size(self, rule: PlaceholderRule, view: View, scale: ReplicaState | Blind | None, *, now: datetime) -> None:
        if scale is None or isinstance(scale, Blind):
            detail = "" if scale is None else scale.detail or scale.reason.value
            self._tell("warning", "placeholder_blind", rule, detail=detail, meanwhile="they stay as they are")
            return
        decision, self._states[rule.placeholder] = size(
            rule,
            _outlooks(rule, view.report, now=now),
            self._states.get(rule.placeholder, PlaceholderState()),
            current=scale.desired,
            free_gpus=_free_gpus(view),
            now=now,
        )
        if decision.action is Action.HOLD:
            self._told.pop(rule.placeholder, None)
            return
        facts = {"current": decision.current, "target": decision.target, "reason": decision.reason.value}
        detail = decision.proposals[0].detail
        if rule.mode is not Mode.ACTIVE:
            self._tell("info", "placeholder_would_scale", rule, **facts, detail=detail)
            return
        outcome = self._targets.scale(decision)
        if outcome.kind in (OutcomeKind.SCALED, OutcomeKind.UNCHANGED):
            self._told.pop(rule.placeholder, None)
            self._log.info("placeholder_scaled", placeholder=rule.placeholder, **facts, detail=detail)
        else:
            self._tell("warning", "placeholder_not_scaled", rule, **facts, detail=outcome.detail)

    def _tell(self, level: str, event: str, rule: PlaceholderRule, **keys: Any) -> None:
        """An event about one set of placeholders, once until another one follows."""
        mark = (event, *(repr(value) for value in keys.values()))
        if self._told.get(rule.placeholder) != mark:
            self._told[rule.placeholder] = mark
            getattr(self._log, level)(event, placeholder=rule.placeholder, **keys)


def _outlooks(rule: PlaceholderRule, report: TickReport, *, now: datetime) -> list[Outlook]:
    """What each workload that these placeholders are for holds and will want."""
    records = {record.policy.workload: record for record in report.records}
    return [
        _outlook(rule, records[name], gpus=report.gpus[name], now=now) if name in records else UNKNOWN
        for name in rule.workloads or (*records, *report.failed)
    ]


def _outlook(rule: PlaceholderRule, record: DecisionRecord, *, gpus: int, now: datetime) -> Outlook:
    """What one workload holds is what it counts with against the budget, `gpus`: pods above a floor included."""
    decision, policy = record.decision, record.policy
    if decision.current is None or decision.target is None:
        return UNKNOWN
    bounds = policy.bounds
    _, most = scheduled.bounds_at(policy.scheduled, least=bounds.min_replicas, most=bounds.max_replicas, now=now)
    place = record.snapshot.variant
    if place is not None and place.most is not None:  # a service's demand is served once, not by each of its variants
        most = min(most, place.most)
    return outlook(
        with_inflows(record.snapshot),
        policy.profile,
        rule,
        z=decision.z,
        held=gpus // policy.profile.gpus,
        most=most,
        grows=grows(decision.reason, policy.mode),
        now=now,
    )


def _free_gpus(view: View) -> int | None:
    """GPUs of the budget that no workload holds or has ordered; the loop says what one that is not known may hold."""
    return None if view.gpu_budget is None else view.gpu_budget - sum(view.report.gpus.values())


def placeholder_job(config: Config, api: ApiConnection, board: Board, log: Any) -> Job:
    """The job that sizes all placeholders half an interval after each tick, when its pods have been ordered."""
    cluster = KubernetesCluster(api, instance=os.environ.get("HOSTNAME", "headstart"))
    targets = KubernetesTargets(cluster, placeholder_targets_of(config))
    placeholders = Placeholders(config.placeholders, targets, board, log, tick=config.tick)
    return Job(
        name="placeholders",
        run=lambda: placeholders.run(now=datetime.now(UTC)),
        interval=config.tick,
        lane="placeholders",
        offset=config.tick / 2,
    )
