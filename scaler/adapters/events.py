"""Which events a tick is worth in the log: changes, the beginning and end of blindness, failures. Not steady ticks.

It compares two finished ticks and answers events; the shell writes them. The journal has everything, the log has
what a person on call wants to see pass by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from forecaster.types import Blind
from scaler.adapters.documents import decision_document
from scaler.adapters.invariants import Violation
from scaler.adapters.states import State, Status, blind_demand, way_out_of
from scaler.loop import TickReport
from scaler.policy.types import Reason
from scaler.ports import DecisionRecord, OutcomeKind

_BLIND = (State.HOLD, State.DEGRADED)
_FORECASTING = (State.ACTIVE, State.OBSERVE)
OTHER_WRITER = (State.HELD_MANUAL, State.HELD_CONFLICT)
"""States in which somebody else's value is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One line of the log."""

    level: str
    name: str
    keys: Mapping[str, Any] = field(default_factory=dict)


def events_of(
    report: TickReport,
    previous: TickReport | None,
    before: Mapping[str, Status],
    after: Mapping[str, Status],
    broken: tuple[Violation, ...] = (),
) -> Iterator[LogEvent]:
    """The events of one tick, given the tick before it and the statuses before and after it.

    A wish that was not carried out (observed, failed, held) is an event when it begins or changes, not at every tick.
    """
    wished = {} if previous is None else {each.policy.workload: _wish(each, previous) for each in previous.records}
    earlier = {} if previous is None else {each.policy.workload: each for each in previous.records}
    for record in report.records:
        name = record.policy.workload
        yield from _transition(record, before.get(name), after[name])
        if name in earlier:
            yield from _leaders(record, earlier[name])
        wish = _wish(record, report)
        if record.changes and (wish[-1] is OutcomeKind.SCALED or wish != wished.get(name)):
            yield _change(record, report)
    yield from _of_variants(report)
    yield from _of_the_journal(report, failed_before=previous is not None and bool(previous.journal_error))
    for violation in broken:
        keys = {"invariant": violation.invariant, "workload": violation.workload, "detail": violation.detail}
        yield LogEvent(level="critical", name="invariant_violated", keys=keys)


def _of_variants(report: TickReport) -> Iterator[LogEvent]:
    """Another variant of a model is to serve."""
    for each in report.variants:
        if each.switched and report.leads:
            keys = {
                "model": each.group.name,
                "chosen": each.chosen,
                "reason": each.reason.value,
                "detail": each.detail,
                "carried_out": each.acts,
            }
            yield LogEvent(level="info", name="variant_switched", keys=keys)


def _of_the_journal(report: TickReport, *, failed_before: bool) -> Iterator[LogEvent]:
    """When records cannot be stored, and when they can again. Meanwhile each change of scale is told in full, so that
    what was done without a journal can be decided again from the log."""
    if not report.journal_error:
        if failed_before:
            yield LogEvent(level="info", name="journal_recovered")
        return
    if not failed_before:
        keys = {
            "detail": report.journal_error,
            "meanwhile": "scaling goes on from memory; the log has the changes",
        }
        yield LogEvent(level="error", name="journal_failed", keys=keys)
    for record in report.records:
        if record.changes:
            document = decision_document(record, report.outcomes.get(record.policy.workload))
            yield LogEvent(level="warning", name="not_journalled", keys={"record": document})


def _wish(record: DecisionRecord, report: TickReport) -> tuple[int | None, int | None, OutcomeKind | None]:
    """From where to where, and what became of it."""
    outcome = report.outcomes.get(record.policy.workload)
    return record.decision.current, record.decision.target, None if outcome is None else outcome.kind


def _change(record: DecisionRecord, report: TickReport) -> LogEvent:
    decision, outcome = record.decision, report.outcomes.get(record.policy.workload)
    kind = None if outcome is None else outcome.kind
    failed = kind in (OutcomeKind.FAILED, OutcomeKind.CONFLICT, OutcomeKind.POSTPONED)
    return LogEvent(
        level="warning" if failed else "info",
        name="scale_failed" if failed else "scaled" if kind is OutcomeKind.SCALED else "would_scale",
        keys={
            "workload": decision.workload,
            "action": decision.action.value,
            "current": decision.current,
            "target": decision.target,
            "reason": decision.reason.value,
            "outcome": None if kind is None else kind.value,
            "detail": "" if outcome is None else outcome.detail,
            "proposals": {each.rule: each.want for each in decision.proposals},
            "clamps": [f"{each.rule}: {each.before} → {each.after} ({each.reason})" for each in decision.adjustments],
        },
    )


def _transition(record: DecisionRecord, before: Status | None, after: Status) -> Iterator[LogEvent]:
    """A change of state is an event; going blind comes with the whole block, and its end with how long it took."""
    if before is not None and before.state is after.state:
        return
    workload = record.policy.workload
    blind = blind_signal(record)
    if after.state in _BLIND and blind is not None:
        block = blind_block(record, blind, lasted=record.at - after.since)
        yield LogEvent(level="warning", name="blind", keys={"workload": workload, "block": block})
        return
    keys: dict[str, Any] = {"workload": workload, "state": after.state.value, "cause": after.cause}
    if after.way_out:
        keys["way_out"] = after.way_out
    if after.state in OTHER_WRITER:
        yield LogEvent(level="warning", name="other_writer", keys={**keys, "meanwhile": "nothing is written"})
        return
    was = None if before is None else before.state
    if was in _FORECASTING and after.state is State.REACTIVE_ONLY:
        heard = any(each.reason is Reason.FORECAST for each in record.decision.proposals)
        meanwhile = (
            f"the load rule keeps its own margin; the forecast {'still is a floor' if heard else 'asks for nothing'}"
        )
        yield LogEvent(level="warning", name="forecast_disabled", keys={**keys, "meanwhile": meanwhile})
        return
    if was is State.REACTIVE_ONLY and after.state in _FORECASTING:
        yield LogEvent(level="info", name="forecast_enabled", keys=keys)
        return
    if before is not None and before.state in _BLIND:
        keys["blind_for_s"] = round((record.at - before.since).total_seconds(), 1)
        yield LogEvent(level="info", name="seeing_again", keys=keys)
    else:
        yield LogEvent(level="info", name="state", keys=keys)


def _leaders(record: DecisionRecord, earlier: DecisionRecord) -> Iterator[LogEvent]:
    """Another member leads a forecast than in the tick before: it speaks in its name, most of the blend's weight."""
    was = {each.forecast.request_class: each.forecast.model for each in earlier.snapshot.forecasts}
    for each in record.snapshot.forecasts:
        name = each.forecast.request_class
        if was.get(name, each.forecast.model) != each.forecast.model:
            keys = {"workload": record.policy.workload, "request_class": name}
            facts = {"was": was[name], "now": each.forecast.model}
            yield LogEvent(level="info", name="leader", keys={**keys, **facts})


def conflicts_begun(
    report: TickReport, before: Mapping[str, Status], after: Mapping[str, Status]
) -> Iterator[tuple[DecisionRecord, Status]]:
    """The workloads that another writer has begun to fight for: each is worth an Event on the object itself."""
    for record in report.records:
        was, now = before.get(record.policy.workload), after[record.policy.workload]
        if now.state is State.HELD_CONFLICT and (was is None or was.state is not State.HELD_CONFLICT):
            yield record, now


def blind_signal(record: DecisionRecord) -> Blind | None:
    """The required signal that is missing: replicas before demand."""
    replicas = record.snapshot.replicas
    return replicas if isinstance(replicas, Blind) else blind_demand(record)


def blind_block(record: DecisionRecord, blind: Blind, *, lasted: timedelta) -> str:
    """What failed, on what, what happens meanwhile, and the next command: the text that people get everywhere."""
    workload, current = record.policy.workload, record.decision.current
    reason = blind.reason.value.replace("_", " ")
    first, *rest = (blind.detail or reason).split("; ")
    minutes, seconds = divmod(round(lasted.total_seconds()), 60)
    now = "nothing is written" if current is None else f"holding {current} replicas"
    if current is not None and record.decision.reason not in (Reason.BLIND_DEMAND, Reason.BLIND_REPLICAS):
        now = f"at {current} replicas, growing where the other rules say so"
    lines = [
        f"BLIND  {workload}  for {minutes}m{seconds:02d}s: {first}",
        *(_labelled(part) for part in rest),
        f"  now     {now}",
        f"  fix     {way_out_of(blind, workload)}",
    ]
    return "\n".join(lines)


def _labelled(part: str) -> str:
    """One part of a reading's detail under its own label: "query sum(…)" and "found …" name theirs."""
    for label in ("query", "found"):
        if part.startswith(f"{label} "):
            return f"  {label}   {part.removeprefix(label).strip()}"
    return f"          {part}"
