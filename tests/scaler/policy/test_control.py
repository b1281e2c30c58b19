"""What people order: a pause, an override, a mode, and what each does to a decision.

I8   paused, nothing is ever changed
I12  an override never outlives its end, whoever looked or did not
I13  the steered score stands still meanwhile
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.policy.control import current_only, mode_under, override_text, pause_text, together, way_out
from scaler.policy.decide import decide, decide_within
from scaler.policy.scheduled import ScheduledRule, TimeWindow
from scaler.policy.types import (
    NO_CONTROL,
    Action,
    Adjustment,
    Control,
    Decision,
    Mode,
    ModeSwitch,
    Override,
    Pause,
    PolicyState,
    Reason,
    Snapshot,
    Source,
)

PAUSED = Control(pause=Pause(since=NOON, by="ana", reason="node maintenance"))
UNSEEN = Blind(reason=BlindReason.NO_SERIES)


def eight(*, replicas: int = 8, until: datetime = NOON + timedelta(hours=2)) -> Control:
    return Control(override=Override(replicas=replicas, until=until, by="ana", reason="load test"))


def decided(snapshot: Snapshot, control: Control, *, now: datetime = NOON, **policy: object) -> Decision:
    """After ten minutes of the same world without any order."""
    rules = a_policy(**policy)  # type: ignore[arg-type]
    state = settled(snapshot, rules, now=now)
    return decide(replace(snapshot, control=control), state, rules, now=now)[0]


@pytest.mark.parametrize(
    ("snapshot", "would"),
    [
        pytest.param(a_snapshot(rps=90.0, desired=2), 6, id="out"),
        pytest.param(a_snapshot(rps=10.0, desired=8), 4, id="in"),
        pytest.param(a_snapshot(rps=UNSEEN, desired=4), 4, id="blind"),
        pytest.param(a_snapshot(rps=10.0, desired=200), 100, id="above the maximum"),
    ],
)
def test_paused_the_scale_stays_and_what_would_have_been_done_is_on_record(snapshot: Snapshot, would: int) -> None:
    decision = decided(snapshot, PAUSED)
    current = decision.current
    assert (decision.action, decision.target, decision.reason) == (Action.HOLD, current, Reason.PAUSED)
    assert decision.proposals == decided(snapshot, NO_CONTROL).proposals
    traces = [each for each in decision.adjustments if each.rule == "by hand"]
    if would == current:
        assert traces == []
    else:
        detail = "paused by ana since 2026-03-02 12:00:00: node maintenance"
        reason = Reason.PAUSED
        assert traces == [Adjustment(rule="by hand", before=would, after=current, reason=reason, detail=detail)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("snapshot", "replicas", "target", "clamp"),
    [
        pytest.param(a_snapshot(rps=5.0, desired=2), 40, 40, None, id="out at once, whatever the step limit says"),
        pytest.param(
            a_snapshot(rps=300.0, desired=30), 3, 3, None, id="in at once, whatever the load and the guard say"
        ),
        pytest.param(a_snapshot(rps=UNSEEN, desired=9), 4, 4, None, id="in while blind: a person sees what we do not"),
        pytest.param(a_snapshot(rps=5.0, desired=2), 400, 100, Reason.AT_MAX, id="never above the maximum"),
        pytest.param(a_snapshot(rps=5.0, desired=4), 0, 2, Reason.AT_MIN, id="never below the minimum"),
        pytest.param(a_snapshot(rps=5.0, desired=8), 8, 8, None, id="there already"),
        pytest.param(a_snapshot(rps=5.0, desired=4, ready=1, unschedulable=3), 9, 9, None, id="without a GPU in sight"),
    ],
)
def test_an_override_is_the_target_within_the_bounds_and_nothing_else(
    snapshot: Snapshot, replicas: int, target: int, clamp: Reason | None
) -> None:
    decision = decided(snapshot, eight(replicas=replicas), least=2)
    assert (decision.target, decision.reason) == (target, Reason.OVERRIDE)
    by_hand = next((i for i, each in enumerate(decision.adjustments) if each.rule == "by hand"), None)
    after = () if by_hand is None else decision.adjustments[by_hand + 1 :]
    assert [each.reason for each in after] == ([] if clamp is None else [clamp])


def test_a_window_of_the_calendar_bounds_an_override_too() -> None:
    window = TimeWindow(
        name="night", start=(NOON - timedelta(hours=1)).time(), end=(NOON + timedelta(hours=1)).time(), max_replicas=4
    )
    decision = decided(a_snapshot(rps=5.0, desired=2), eight(), scheduled=ScheduledRule(windows=(window,)))
    assert decision.target == 4


def test_the_fleets_budget_cuts_an_override() -> None:
    snapshot = replace(a_snapshot(rps=5.0, desired=2), control=eight())
    decision, after = decide_within(snapshot, PolicyState(), a_policy(), 5, now=NOON)
    assert (decision.target, decision.reason) == (5, Reason.GPU_BUDGET)
    assert after.pending == 5, "what was cut will not be written"


def test_a_zero_by_somebody_goes_before_an_override() -> None:
    assert decided(a_snapshot(rps=5.0, desired=0), eight()).reason is Reason.HANDS_OFF


def test_a_pause_goes_before_an_override() -> None:
    both = replace(eight(), pause=PAUSED.pause)
    assert decided(a_snapshot(rps=5.0, desired=2), both).reason is Reason.PAUSED


def test_without_a_cluster_an_override_waits() -> None:
    blind = replace(a_snapshot(rps=5.0), replicas=Blind(reason=BlindReason.TIMEOUT))
    assert decided(blind, eight()).target is None


@pytest.mark.parametrize(
    ("until", "reason"),
    [
        pytest.param(NOON + timedelta(microseconds=1), Reason.OVERRIDE, id="until the last moment"),
        pytest.param(NOON, Reason.STEADY, id="its end is not in it"),
        pytest.param(NOON - timedelta(days=3), Reason.STEADY, id="over while the daemon was down"),
    ],
)
def test_an_override_ends_by_itself(until: datetime, reason: Reason) -> None:
    assert decided(a_snapshot(rps=15.0, desired=3), eight(replicas=3, until=until)).reason is reason


def test_after_an_override_the_calm_starts_anew() -> None:
    """4 want 1; six minutes at 4 by hand would have been calm enough."""
    rules, state, snapshot = a_policy(), PolicyState(), a_snapshot(rps=5.0, desired=4)
    until = NOON + 20 * MINUTE
    reasons = []
    for minute in range(27):
        ordered = replace(snapshot, control=eight(replicas=4, until=until))
        decision, state = decide(ordered, state, rules, now=NOON + minute * MINUTE)
        reasons.append(decision.reason)
    assert reasons[:20] == [Reason.OVERRIDE] * 20
    assert reasons[20:25] == [Reason.NOT_CALM] * 5
    assert decision.action is Action.IN


controls = st.builds(
    Control,
    pause=st.sampled_from([None, None, Pause()]),
    override=st.one_of(
        st.none(),
        st.builds(
            Override,
            replicas=st.integers(0, 200),
            until=st.integers(-90, 90).map(lambda minutes: NOON + minutes * MINUTE),
        ),
    ),
    resumed_at=st.sampled_from([None, NOON, NOON + 10 * MINUTE]),
)
worlds = st.lists(
    st.tuples(controls, st.sampled_from([0.0, 5.0, 60.0, UNSEEN]), st.sampled_from([None, None, None, 0, 1, 9])),
    min_size=1,
    max_size=40,
)


@given(world=worlds, mode=st.sampled_from(Mode), gap=st.sampled_from([1, 1, 7]))
def test_people_are_obeyed_whatever_else_happens(
    world: list[tuple[Control, object, int | None]], mode: Mode, gap: int
) -> None:
    """I1, I8, I12, I13, and the same again from the same."""
    rules, state, scale, now = a_policy(mode=mode, least=1, most=20), PolicyState(), 3, NOON
    for control, rps, set_by_others in world:
        now += gap * MINUTE
        scale = scale if set_by_others is None else set_by_others
        forecasts = (a_forecast(30.0, issued_at=now),)
        snapshot = replace(a_snapshot(rps=rps, desired=scale, forecasts=forecasts), control=control)  # type: ignore[arg-type]
        decision, after = decide(snapshot, state, rules, now=now)
        assert decide(snapshot, state, rules, now=now) == (decision, after)
        in_force = control.override is not None and now < control.override.until
        if control.pause is not None:
            assert decision.action is Action.HOLD, "I8"
        if decision.reason is Reason.OVERRIDE:
            assert in_force, "I12"
            assert decision.target == min(20, max(1, control.override.replicas))  # type: ignore[union-attr]
        if decision.action is not Action.HOLD:
            assert decision.target is not None
            assert 1 <= decision.target <= 20, "I1"
        if control.pause is not None or decision.reason is Reason.OVERRIDE:
            assert after.z == state.z, "I13"
        state = after
        scale = scale if decision.target is None or mode is Mode.OBSERVE else decision.target


@pytest.mark.parametrize(
    ("asked", "configured", "mode"),
    [
        pytest.param(None, Mode.ACTIVE, Mode.ACTIVE, id="as the settings say"),
        pytest.param(Mode.OBSERVE, Mode.ACTIVE, Mode.OBSERVE, id="observed by hand"),
        pytest.param(Mode.ACTIVE, Mode.OBSERVE, Mode.ACTIVE, id="enabled by hand"),
        pytest.param(Mode.ACTIVE, Mode.ACTIVE, Mode.ACTIVE, id="enabled, and it was"),
        pytest.param(Mode.ACTIVE, Mode.FLOOR, Mode.FLOOR, id="enabled, as a floor"),
        pytest.param(Mode.FLOOR, Mode.FLOOR, Mode.FLOOR, id="the floor that the settings name"),
        pytest.param(Mode.FLOOR, Mode.ACTIVE, Mode.OBSERVE, id="no floor is known: not the replicas instead"),
        pytest.param(Mode.FLOOR, Mode.OBSERVE, Mode.OBSERVE, id="no floor is known: as before"),
        pytest.param(Mode.FLOOR, Mode.PUBLISH, Mode.OBSERVE, id="no floor is known: nor published"),
    ],
)
def test_a_persons_mode_goes_over_the_settings(asked: Mode | None, configured: Mode, mode: Mode) -> None:
    control = Control(mode=None if asked is None else ModeSwitch(mode=asked))
    assert mode_under(control, configured) is mode


def test_of_two_places_whoever_stops_it_is_obeyed() -> None:
    file, note = Source.WORKLOAD, Source.ANNOTATION
    first = Control(override=Override(replicas=8, until=NOON, source=file), mode=ModeSwitch(mode=Mode.ACTIVE))
    second = Control(
        pause=Pause(source=note),
        override=Override(replicas=4, until=NOON, source=note),
        mode=ModeSwitch(mode=Mode.OBSERVE, source=note),
        resumed_at=NOON,
    )
    both = together(first, second)
    assert (both.pause, both.override, both.mode) == (second.pause, first.override, second.mode)
    assert both.resumed_at == NOON
    assert together(NO_CONTROL, second) == together(second, NO_CONTROL) == second
    assert together(NO_CONTROL, NO_CONTROL) == NO_CONTROL


def test_an_override_that_is_over_does_not_stand_in_anothers_way() -> None:
    assert current_only(eight(until=NOON), now=NOON) == NO_CONTROL
    assert current_only(eight(), now=NOON) == eight()


def test_in_words() -> None:
    assert pause_text(Pause()) == "paused"
    assert pause_text(Pause(source=Source.FLEET, by="ana")) == "the whole fleet is paused by ana"
    assert override_text(eight().override, now=NOON) == (  # type: ignore[arg-type]
        "8 replicas until 2026-03-02 14:00:00 (2h left) by ana: load test"
    )


@pytest.mark.parametrize(
    ("control", "words"),
    [
        pytest.param(PAUSED, "headstart resume llm/chat", id="a pause"),
        pytest.param(eight(), "headstart resume llm/chat", id="an override"),
        pytest.param(Control(pause=Pause(source=Source.FLEET)), "headstart resume -A", id="the fleet's pause"),
        pytest.param(
            Control(pause=Pause(source=Source.ANNOTATION)),
            "remove the annotation headstart.autoscaling/paused",
            id="an annotation",
        ),
        pytest.param(
            Control(pause=Pause(source=Source.UNREADABLE)),
            "mend or remove control.json in the data folder",
            id="a file that cannot be read",
        ),
    ],
)
def test_the_way_out_is_where_the_word_stands(control: Control, words: str) -> None:
    assert way_out(control, "llm/chat") == words
