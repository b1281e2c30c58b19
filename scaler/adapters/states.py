"""The state of a workload as people see it: one word, since when, why, and the way out.

Presentation of decision records: it reads them and never decides anything. `docs/operations.md` lists the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from forecaster.types import Blind, BlindReason
from scaler.loop import TickReport
from scaler.policy import control, guard, outage, spill, trust, writers
from scaler.policy.types import Mode, PolicyState, Reason, Trust, demand_of
from scaler.ports import DecisionRecord, Outcome, OutcomeKind


class State(StrEnum):
    """What a workload is in. The first that applies, from the bottom of the faults to normal work."""

    DEGRADED = "DEGRADED"
    PAUSED = "PAUSED"
    HELD = "HELD"
    HELD_CONFLICT = "HELD(conflict)"
    HELD_MANUAL = "HELD(manual)"
    OVERRIDDEN = "OVERRIDDEN"
    HOLD = "HOLD"
    REWARM = "REWARM"
    LEARNING = "LEARNING"
    REACTIVE_ONLY = "REACTIVE_ONLY"
    STANDBY = "STANDBY"
    OBSERVE = "OBSERVE"
    ACTIVE = "ACTIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A state, the moment since which it has lasted, why, and what ends it."""

    state: State
    since: datetime
    cause: str
    way_out: str


_FORECAST_CAUSES = {
    Trust.NO_FORECAST: "there is no forecast",
    Trust.EXPIRED: "the last forecast has expired",
    Trust.IMPLAUSIBLE: "the forecast holds a number that cannot be a demand",
    Trust.UNSCORED: "the forecast has not been scored for long enough",
    Trust.WORSE_THAN_LAST_VALUE: "the forecast is worse than the last value",
    Trust.COVERAGE_LOW: "too many minutes lie above the 95 % quantile",
    Trust.COVERAGE_HIGH: "the forecast's band is too wide",
    Trust.STAND_IN: "the day before stands in for it",
    Trust.CLASS_MISSING: "a request class has no forecast",
}

_FIXES = {
    BlindReason.UNREACHABLE: "check the address and the network policy",
    BlindReason.TIMEOUT: "the server is slow: check its load",
    BlindReason.REFUSED: "check the server's log",
    BlindReason.FORBIDDEN: "grant the missing permission",
    BlindReason.NOT_FOUND: "check the target's name, kind and namespace",
    BlindReason.NO_AUTOSCALER: "check target.floor and the autoscaler's own target",
    BlindReason.NO_SERIES: "set selector.deployment_label or selector.labels",
    BlindReason.TARGET_DOWN: "check the scrape target",
    BlindReason.AMBIGUOUS: "narrow the selector",
    BlindReason.CLOCK_SKEW: "check the clocks (NTP) of both machines",
}


def way_out_of(blind: Blind, workload: str) -> str:
    """The next command or setting for a signal that cannot be read."""
    doctor = f"headstart doctor --workload {workload}"
    fix = _FIXES.get(blind.reason)
    return f"{doctor}, or {fix}" if fix else doctor


def blind_demand(record: DecisionRecord) -> Blind | None:
    """Why demand is unknown or known in part, or None. Readings that are no number count as blind."""
    if demand_of(record.snapshot.classes) is not None:
        if record.snapshot.demand_partial:
            return Blind(reason=BlindReason.PARTIAL, detail="of the front door's targets some are down")
        unseen = [each.sender for each in record.snapshot.inflows if each.blind]
        if unseen:
            detail = f"what spills over from {', '.join(unseen)} cannot be told"
            return Blind(reason=BlindReason.PARTIAL, detail=detail)
        return None
    for readings in record.snapshot.classes:
        if isinstance(readings.demand_rps, Blind):
            return readings.demand_rps
    return Blind(reason=BlindReason.NOT_READ, detail="the source gave no demand for this workload")


def state_of(
    record: DecisionRecord,
    after: PolicyState,
    outcome: Outcome | None = None,
    *,
    learning: bool = False,
    last: State | None = None,
) -> tuple[State, datetime | None, str, str]:
    """State, since when as far as the record itself tells, cause and way out.

    `after` is the state that the decision returned; `learning` says that the history is younger than a day; `last` is
    the state of the tick before.
    """
    name, replicas = record.policy.workload, record.snapshot.replicas
    if isinstance(replicas, Blind):
        return State.DEGRADED, None, f"replicas unknown: {_words(replicas)}", way_out_of(replicas, name)
    if outcome is not None and outcome.kind is OutcomeKind.FAILED:
        return State.DEGRADED, None, f"the last write failed: {outcome.detail}", f"headstart doctor --workload {name}"
    if outcome is not None and outcome.kind is OutcomeKind.POSTPONED:
        return State.DEGRADED, None, f"the last write is postponed: {outcome.detail}", "decided anew at the next tick"
    by_hand = _by_hand_state(record, after)
    if by_hand is not None:
        return by_hand
    if outcome is not None and outcome.kind is OutcomeKind.CONFLICT:
        return State.HELD, None, f"another writer: {outcome.detail}", "remove the other autoscaler, or wait a tick"
    if record.decision.reason is Reason.OVERRIDE and record.policy.mode is not Mode.OBSERVE:
        return _overridden_state(record)
    demand = blind_demand(record)
    if demand is not None:
        cause = f"demand unknown: {_words(demand)}"
        if any(each.stand_in and not each.forecast.expired(now=record.at) for each in record.snapshot.forecasts):
            cause += "; the day before stands in for the forecast and may add replicas"
        return State.HOLD, None, cause, way_out_of(demand, name)
    silent_since = after.outage.silent_since
    doubted = outage.unusual(after.outage, record.policy.outage, now=record.at)
    if silent_since is not None and (doubted or record.decision.reason is Reason.SUDDEN_SILENCE):
        believed = silent_since + record.policy.outage.silence
        cause = f"the demand fell silent all at once, at {silent_since:%H:%M:%S} UTC: an outage in front of it?"
        return State.HOLD, silent_since, cause, f"believed from {believed:%H:%M:%S} UTC if nothing is in flight then"
    window = guard.look_back(timedelta(seconds=record.snapshot.lead_time_s))
    if after.known_since is not None and record.at - after.known_since < window:
        ends = after.known_since + window
        return (
            State.REWARM,
            after.known_since,
            "signals have been known for less than a look-back",
            f"ends {ends:%H:%M:%S} UTC",
        )
    if record.snapshot.standby and record.policy.mode.writes:
        cause = "this daemon does not lead; it decides in shadow and writes nothing"
        return State.STANDBY, None, cause, "none needed: it takes over when the lease is given back or runs out"
    return _trusted_state(record, after, learning=learning, last=last)


def _by_hand_state(record: DecisionRecord, after: PolicyState) -> tuple[State, datetime | None, str, str] | None:
    """The states in which nothing is written because of people or another writer."""
    name, ordered = record.policy.workload, record.snapshot.control
    if ordered.pause is not None:
        return State.PAUSED, ordered.pause.since, control.pause_text(ordered.pause), control.way_out(ordered, name)
    if record.decision.reason is Reason.HANDS_OFF:
        return State.HELD, None, "somebody scaled it to zero", "scale it to at least one replica"
    hold = writers.hold_of(after, record.policy.other_writers, now=record.at)
    if hold is None:
        return None
    give_back = f"ends {hold.until:%H:%M:%S} UTC if it is left alone, or headstart resume {name}"
    if hold.reason is Reason.HELD_CONFLICT:
        return State.HELD_CONFLICT, None, hold.detail, f"remove the other autoscaler (HPA, KEDA, GitOps); {give_back}"
    return State.HELD_MANUAL, after.foreign[-1].at, hold.detail, give_back


def _overridden_state(record: DecisionRecord) -> tuple[State, datetime | None, str, str]:
    override = record.snapshot.control.override
    assert override is not None  # the decision's reason says so
    name = record.policy.workload
    cause = control.override_text(override, now=record.at)
    if record.decision.target != override.replicas:
        cause = f"{cause}; {record.decision.target} is what the limits allow"
    ends = f"ends by itself, or {control.way_out(record.snapshot.control, name)}"
    return State.OVERRIDDEN, override.since, cause, ends


def _trusted_state(
    record: DecisionRecord, after: PolicyState, *, learning: bool, last: State | None
) -> tuple[State, datetime | None, str, str]:
    """The states in which every signal is known: they differ by the forecast and by the mode."""
    if after.disabled_since is not None:
        cause = "the forecast was so much worse than the last value that it is disabled"
        return State.REACTIVE_ONLY, after.disabled_since, cause, "ends by itself when forecasts improve"
    found, predictive = record.decision.trust, record.policy.predictive.enabled
    cause = _FORECAST_CAUSES.get(found, "")
    doubt = (
        trust.judge(spill.with_inflows(record.snapshot), record.policy.trust, now=record.at).doubt
        if predictive
        else 0.0
    )
    if doubt >= 1.0 or (last is State.REACTIVE_ONLY and doubt > trust.ENABLED_AGAIN):
        if learning:
            return State.LEARNING, None, f"{cause}: less than a day of history", "a day of history"
        out = "two hours of scored forecasts" if found is Trust.UNSCORED else "ends by itself when forecasts improve"
        return State.REACTIVE_ONLY, None, cause, out
    if record.policy.mode is Mode.OBSERVE:
        return State.OBSERVE, None, "decides and writes nothing", "mode: active in the settings lets it scale"
    if record.policy.mode is Mode.PUBLISH:
        return State.ACTIVE, None, "exports what is wanted, the other autoscaler scales", ""
    trusted = f"forecast doubted by {doubt:.0%}: {cause}" if doubt > 0.0 else "forecast trusted"
    return State.ACTIVE, None, trusted if predictive else "predictive rule switched off", ""


def statuses(
    report: TickReport, before: Mapping[str, Status], *, learning: frozenset[str] = frozenset()
) -> dict[str, Status]:
    """The status of every workload after a tick; a state that goes on keeps its beginning."""
    found = {}
    for record in report.records:
        name = record.policy.workload
        last = before.get(name)
        state, since, cause, way_out = state_of(
            record,
            report.states[name],
            report.outcomes.get(name),
            learning=name in learning,
            last=None if last is None else last.state,
        )
        if since is None:
            since = last.since if last is not None and last.state is state else report.at
        found[name] = Status(state=state, since=since, cause=cause, way_out=way_out)
    return found


def _words(blind: Blind) -> str:
    return f"{blind.reason.value}: {blind.detail}" if blind.detail else blind.reason.value
