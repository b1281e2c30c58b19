"""What people see of orders and of other writers: the state, its since-when and way out, the log, `get` and `explain`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from daemon_cases import a_tick
from forecaster.types import Blind, BlindReason
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.board import View
from scaler.adapters.documents import workloads_document
from scaler.adapters.events import LogEvent, conflicts_begun, events_of
from scaler.adapters.invariants import violations
from scaler.adapters.states import State, Status, statuses
from scaler.daemon.round import frozen_series
from scaler.loop import TickReport
from scaler.policy.control import NO_FLOOR
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.explain import as_text, explain
from scaler.policy.types import (
    NO_CONTROL,
    Control,
    ForeignChange,
    Mode,
    ModeSwitch,
    Override,
    Pause,
    PolicyState,
    Snapshot,
    Source,
)
from scaler.ports import OutcomeKind

SEEN = a_snapshot(rps=25.0, desired=4, forecasts=(a_forecast(25.0),))
LONG = settled(SEEN, a_policy())
PAUSE = Pause(since=NOON - timedelta(hours=1), by="ana", reason="new nodes")
OVERRIDE = Override(replicas=8, until=NOON + timedelta(hours=2), since=NOON, by="ana", reason="load test")
CHANGE = ForeignChange(at=NOON - MINUTE, before=3, after=4)


def after_changes(*minutes_ago: int) -> PolicyState:
    changes = tuple(replace(CHANGE, at=NOON - each * MINUTE) for each in minutes_ago)
    return replace(LONG, foreign=changes)


def told(
    control: Control = NO_CONTROL,
    *,
    snapshot: Snapshot = SEEN,
    state: PolicyState = LONG,
    outcome: OutcomeKind | None = None,
    now: datetime = NOON,
    **policy: Any,
) -> TickReport:
    return a_tick(
        replace(snapshot, control=control),
        a_policy(**policy),
        state=replace(state, heeded=control.override),
        outcome=outcome,
        now=now,
    )


@pytest.mark.parametrize(
    ("report", "state", "cause", "way_out"),
    [
        pytest.param(
            told(Control(pause=PAUSE)),
            State.PAUSED,
            "paused by ana since 2026-03-02 11:00:00: new nodes",
            "headstart resume llm/chat",
            id="paused",
        ),
        pytest.param(
            told(Control(pause=Pause(source=Source.FLEET))),
            State.PAUSED,
            "the whole fleet is paused",
            "headstart resume -A",
            id="the fleet paused",
        ),
        pytest.param(
            told(Control(pause=PAUSE), snapshot=a_snapshot(rps=1.0, desired=0)),
            State.PAUSED,
            "paused by ana since 2026-03-02 11:00:00: new nodes",
            "headstart resume llm/chat",
            id="paused goes before switched off",
        ),
        pytest.param(
            told(Control(override=OVERRIDE), outcome=OutcomeKind.SCALED),
            State.OVERRIDDEN,
            "8 replicas until 2026-03-02 14:00:00 (2h left) by ana since 2026-03-02 12:00:00: load test",
            "ends by itself, or headstart resume llm/chat",
            id="overridden",
        ),
        pytest.param(
            told(Control(override=OVERRIDE), most=6),
            State.OVERRIDDEN,
            "8 replicas until 2026-03-02 14:00:00 (2h left) by ana since 2026-03-02 12:00:00: load test; "
            "6 is what the limits allow",
            "ends by itself, or headstart resume llm/chat",
            id="overridden beyond the maximum",
        ),
        pytest.param(
            told(Control(override=OVERRIDE), snapshot=a_snapshot(rps=Blind(reason=BlindReason.STALE), desired=4)),
            State.OVERRIDDEN,
            "8 replicas until 2026-03-02 14:00:00 (2h left) by ana since 2026-03-02 12:00:00: load test",
            "ends by itself, or headstart resume llm/chat",
            id="overridden while blind",
        ),
        pytest.param(
            told(Control(override=OVERRIDE), mode=Mode.OBSERVE),
            State.OBSERVE,
            "decides and writes nothing",
            "mode: active in the settings lets it scale",
            id="an override of what is only observed",
        ),
        pytest.param(
            told(state=after_changes(1)),
            State.HELD_MANUAL,
            "somebody changed the scale 3 → 4 at 11:59:00",
            "ends 12:14:00 UTC if it is left alone, or headstart resume llm/chat",
            id="one change by hand",
        ),
        pytest.param(
            told(state=after_changes(40, 1)),
            State.HELD_CONFLICT,
            "another writer changed the scale 2 times within 1h, last 3 → 4 at 11:59:00",
            "remove the other autoscaler (HPA, KEDA, GitOps); "
            "ends 12:29:00 UTC if it is left alone, or headstart resume llm/chat",
            id="two changes",
        ),
        pytest.param(
            told(Control(override=OVERRIDE), state=after_changes(1)),
            State.HELD_MANUAL,
            "somebody changed the scale 3 → 4 at 11:59:00",
            "ends 12:14:00 UTC if it is left alone, or headstart resume llm/chat",
            id="a change by hand during an override",
        ),
    ],
)
def test_state(report: TickReport, state: State, cause: str, way_out: str) -> None:
    status = statuses(report, {})["llm/chat"]
    assert (status.state, status.cause, status.way_out) == (state, cause, way_out)


def test_a_pause_lasts_since_it_was_ordered_and_a_hold_since_the_change() -> None:
    assert statuses(told(Control(pause=PAUSE)), {})["llm/chat"].since == PAUSE.since
    assert statuses(told(state=after_changes(3)), {})["llm/chat"].since == NOON - 3 * MINUTE


def test_a_conflict_lasts_since_it_was_first_seen() -> None:
    before: dict[str, Status] = {}
    for minute in range(3):
        now = NOON + minute * MINUTE
        before = statuses(told(state=replace(after_changes(40, 1), last_tick_at=now - MINUTE), now=now), before)
    assert before["llm/chat"].since == NOON


@pytest.mark.parametrize(
    ("report", "notes"),
    [
        pytest.param(told(Control(pause=PAUSE)), [], id="the state says it"),
        pytest.param(told(Control(override=OVERRIDE)), [], id="and here"),
        pytest.param(
            told(Control(pause=PAUSE, override=OVERRIDE)),
            [
                "override: 8 replicas until 2026-03-02 14:00:00 (2h left) by ana since 2026-03-02 12:00:00: load test; "
                "something stands before it"
            ],
            id="an override behind a pause",
        ),
        pytest.param(
            told(Control(mode=ModeSwitch(mode=Mode.OBSERVE, by="ana")), mode=Mode.OBSERVE),
            ["mode by hand: observe by ana"],
            id="a mode over the settings'",
        ),
        pytest.param(
            told(Control(mode=ModeSwitch(mode=Mode.FLOOR, by="ana")), mode=Mode.OBSERVE),
            [f"mode by hand: floor by ana; {NO_FLOOR}"],
            id="a floor that no settings name",
        ),
        pytest.param(
            told(Control(mode=ModeSwitch(mode=Mode.FLOOR, by="ana")), mode=Mode.FLOOR),
            ["mode by hand: floor by ana"],
            id="a floor that they name",
        ),
        pytest.param(
            told(Control(pause=PAUSE), snapshot=replace(SEEN, replicas=Blind(reason=BlindReason.TIMEOUT))),
            ["paused by ana since 2026-03-02 11:00:00: new nodes"],
            id="a pause while the cluster cannot be read",
        ),
    ],
)
def test_get_notes_what_the_state_does_not_say(report: TickReport, notes: list[str]) -> None:
    (row,) = workloads_document(View(report=report, statuses=statuses(report, {})))["items"]
    assert row["notes"] == notes


def test_the_row_holds_the_control_in_force() -> None:
    report = told(Control(pause=PAUSE, override=OVERRIDE))
    (row,) = workloads_document(View(report=report))["items"]
    assert row["control"]["pause"]["by"] == "ana"
    assert row["control"]["override"]["replicas"] == 8
    later = told(Control(override=OVERRIDE), now=OVERRIDE.until)
    assert workloads_document(View(report=later))["items"][0]["control"]["override"] is None


def events(*reports: TickReport) -> list[LogEvent]:
    """The events of the last of these ticks."""
    before: dict[str, Status] = {}
    previous, found = None, []
    for report in reports:
        after = statuses(report, before)
        found = list(events_of(report, previous, before, after))
        previous, before = report, after
    return found


def test_another_writer_is_a_warning_when_it_begins() -> None:
    calm, held = told(), told(state=after_changes(1))
    (event,) = events(calm, held)
    assert (event.level, event.name, event.keys["state"]) == ("warning", "other_writer", "HELD(manual)")
    assert "headstart resume" in event.keys["way_out"]
    assert events(calm, held, held) == []


def test_an_event_is_left_when_a_conflict_begins_and_not_for_one_change() -> None:
    manual, fight = told(state=after_changes(1)), told(state=after_changes(40, 1))
    first, second = statuses(manual, {}), statuses(fight, {})
    assert list(conflicts_begun(manual, {}, first)) == []
    assert [status.state for _, status in conflicts_begun(fight, first, second)] == [State.HELD_CONFLICT]
    assert list(conflicts_begun(fight, second, second)) == []


@pytest.mark.parametrize(
    ("report", "mutating", "broken"),
    [
        pytest.param(told(Control(pause=PAUSE)), 1, ["I8"], id="a write while paused"),
        pytest.param(told(Control(pause=PAUSE), outcome=OutcomeKind.SCALED), 1, ["I8", "I8"], id="and an outcome"),
        pytest.param(told(Control(pause=PAUSE)), 0, [], id="none"),
        pytest.param(
            told(
                Control(override=replace(OVERRIDE, replicas=2)),
                snapshot=a_snapshot(rps=Blind(reason=BlindReason.STALE), desired=4),
                outcome=OutcomeKind.SCALED,
            ),
            1,
            [],
            id="inward while blind, as a person ordered",
        ),
    ],
)
def test_promises_are_checked_under_orders_too(report: TickReport, mutating: int, broken: list[str]) -> None:
    assert [each.invariant for each in violations(report, mutating_requests=mutating)] == broken


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        pytest.param(
            told(Control(pause=PAUSE), snapshot=replace(SEEN, replicas=a_snapshot(desired=1).replicas)),
            [
                "people  pause",
                "paused by ana since 2026-03-02 11:00:00: new nodes",
                "holds 1 because somebody paused it: nothing is written until it is resumed",
                "nothing is written until it is given back: headstart resume llm/chat",
            ],
            id="paused",
        ),
        pytest.param(
            told(Control(override=OVERRIDE)),
            [
                "people  override",
                "out 4 → 8 because somebody ordered so many until a stated time",
                "the rules decide again at 2026-03-02 14:00:00, or at once: headstart resume llm/chat; "
                "out at once then, in after 5m of calm",
            ],
            id="overridden",
        ),
        pytest.param(
            told(Control(mode=ModeSwitch(mode=Mode.FLOOR, by="ana")), mode=Mode.OBSERVE),
            ["people  mode", f"floor by ana; {NO_FLOOR}"],
            id="a floor that no settings name",
        ),
        pytest.param(
            told(state=after_changes(40, 1)),
            [
                "people  others",
                "holds 4 because another writer keeps changing the scale, and nothing is written until that stops",
                "nothing is written before 12:29:00, later if the scale is changed again, or at once: "
                "headstart resume llm/chat",
            ],
            id="another writer",
        ),
    ],
)
def test_explain_says_who_and_how_it_ends(report: TickReport, lines: list[str]) -> None:
    (record,) = report.records
    policy: WorkloadPolicy = record.policy
    text = as_text(record.decision, explain(record.decision, record.snapshot, policy, report.states["llm/chat"]))
    for line in lines:
        assert line in text


@pytest.mark.parametrize(
    ("report", "frozen"),
    [
        pytest.param(told(), False, id="the rules decide"),
        pytest.param(told(Control(pause=PAUSE)), True, id="paused"),
        pytest.param(told(Control(override=OVERRIDE)), True, id="overridden"),
        pytest.param(told(state=after_changes(1)), True, id="held"),
        pytest.param(
            told(state=replace(LONG, by_hand_at=NOON - 3 * MINUTE)), True, id="a lead time later at the latest"
        ),
        pytest.param(told(state=replace(LONG, by_hand_at=NOON - 4 * MINUTE)), False, id="and no longer"),
    ],
)
def test_the_forecasts_trackers_stand_still_meanwhile(report: TickReport, frozen: bool) -> None:
    assert bool(frozen_series(report)) is frozen


def test_without_orders_an_explanation_says_nothing_of_people() -> None:
    (record,) = told().records
    text = as_text(record.decision, explain(record.decision, record.snapshot, record.policy, PolicyState()))
    assert "people" not in text
