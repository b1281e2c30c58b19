"""Who else writes the scale: what counts as another writer, how long it is left alone, and what gives it back.

The stories run `decide` minute by minute against a scale that our own writes reach, and others change as they like.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason
from policy_cases import MINUTE, NOON, a_policy, a_snapshot
from scaler.loop import settled
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.steering import frozen
from scaler.policy.types import (
    NO_CONTROL,
    Action,
    Control,
    Decision,
    Mode,
    Override,
    Pause,
    PolicyState,
    Reason,
    ReplicaState,
)
from scaler.policy.writers import OtherWritersRule, hold_of
from scaler.ports import Outcome, OutcomeKind


@dataclass
class Story:
    """One workload, minute by minute."""

    policy: WorkloadPolicy = field(default_factory=a_policy)
    rps: float = 14.0
    scale: int = 3
    control: Control = NO_CONTROL
    state: PolicyState = field(default_factory=PolicyState)
    now: datetime = NOON
    writes: list[int] = field(default_factory=list)

    def tick(
        self, outcome: OutcomeKind | None = OutcomeKind.SCALED, *, lands: bool = True, after: timedelta = MINUTE
    ) -> Decision:
        """One decision; `outcome` None: the answer was lost. `lands`: whether the write happened."""
        self.now += after
        snapshot = replace(a_snapshot(rps=self.rps, desired=self.scale), control=self.control)
        decision, after_it = decide(snapshot, self.state, self.policy, now=self.now)
        if decision.action is Action.HOLD or self.policy.mode is not Mode.ACTIVE:
            self.state = after_it
            return decision
        assert decision.target is not None
        kind = OutcomeKind.FAILED if outcome is None else outcome
        self.state = settled(after_it, decision, Outcome(kind=kind))
        if lands:
            self.scale = decision.target
            self.writes.append(decision.target)
        return decision

    def ticks(self, count: int) -> list[Reason]:
        return [self.tick().reason for _ in range(count)]


def test_a_change_by_hand_is_respected_for_a_while_and_then_released() -> None:
    """14 requests a second want 2 replicas; somebody sets 6."""
    story = Story()
    story.ticks(3)
    changed = story.now + MINUTE
    story.scale = 6
    assert story.ticks(15) == [Reason.HELD_MANUAL] * 15, "from the minute that sees it, for 15 minutes"
    assert story.writes == []
    after = story.ticks(30)
    assert Reason.HELD_MANUAL not in after
    assert story.writes, "then the rules decide again"
    assert story.scale < 6
    assert story.now > changed + timedelta(minutes=15)


def test_a_change_by_hand_is_left_alone_out_of_our_bounds_and_under_load_too() -> None:
    story = Story(policy=a_policy(least=2, most=8), rps=20.0)
    story.ticks(3)
    for value, rps in ((1, 20.0), (1, 500.0)):
        story.scale, story.rps = value, rps
        decision = story.tick()
        assert (decision.reason, decision.target) == (Reason.HELD_MANUAL, value)
    (would,) = [each for each in decision.adjustments if each.rule == "by hand"]
    assert would.before > 1, "what the rules would have done is on record"


def test_the_rules_wait_for_calm_anew_after_a_hold() -> None:
    story = Story()
    story.ticks(10)
    story.scale = 6
    story.ticks(15)
    reasons = story.ticks(5)
    assert reasons == [Reason.NOT_CALM] * 5


def test_two_changes_within_the_window_are_another_writer() -> None:
    story = Story(rps=60.0)
    seen = []
    for _ in range(60):
        if story.scale > 3:
            story.scale = 3  # it sets back whatever we write
        seen.append(story.tick().reason)
    assert Reason.HELD_CONFLICT in seen
    first = seen.index(Reason.HELD_CONFLICT)
    assert len([each for each in story.writes if each > 3]) <= 3, "no war: one write before each time it was held"
    assert set(seen[first : first + 30]) == {Reason.HELD_CONFLICT}
    hold = hold_of(story.state, story.policy.other_writers, now=story.now)
    assert hold is None or hold.reason is Reason.HELD_CONFLICT


def test_a_writer_that_does_not_stop_is_never_answered() -> None:
    story = Story(rps=60.0)
    story.ticks(1)
    begun = len(story.writes)
    for minute in range(180):
        story.scale = 3 + minute % 2
        story.tick()
    assert len(story.writes) - begun == 0


def test_a_value_set_back_between_two_ticks_is_seen_although_nothing_seems_to_have_changed() -> None:
    story = Story(rps=60.0)
    assert story.tick().action is Action.OUT
    story.scale = 3
    assert story.tick().reason is Reason.HELD_MANUAL


def lost_answer(story: Story) -> None:
    story.rps = 60.0
    story.tick(None)
    assert story.scale > 3, "the write happened, its answer was lost"


def failed_write(story: Story) -> None:
    story.rps = 60.0
    story.tick(None, lands=False)


def own_write(story: Story) -> None:
    story.rps = 60.0
    story.tick()


def after_a_break(story: Story) -> None:
    story.now += timedelta(minutes=10)
    story.scale = 5


def while_observing(story: Story) -> None:
    story.policy = replace(story.policy, mode=Mode.OBSERVE)
    story.tick()
    story.scale = 5
    story.tick()
    story.policy = replace(story.policy, mode=Mode.ACTIVE)


def while_observing_until_now(story: Story) -> None:
    story.policy = replace(story.policy, mode=Mode.OBSERVE)
    story.tick()
    story.policy = replace(story.policy, mode=Mode.ACTIVE)
    story.scale = 5


def while_paused(story: Story) -> None:
    story.control = Control(pause=Pause())
    story.tick()
    story.scale = 5
    story.tick()
    story.control = NO_CONTROL


def from_zero(story: Story) -> None:
    story.scale = 0
    assert story.tick().reason is Reason.HANDS_OFF
    story.scale = 3


def before_a_resume(story: Story) -> None:
    story.scale = 5
    story.control = Control(resumed_at=story.now + timedelta(seconds=30))


def stopped(story: Story) -> None:
    story.rps = 60.0
    story.tick(OutcomeKind.STOPPED, lands=False)


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(own_write, id="our own write"),
        pytest.param(lost_answer, id="our own write whose answer was lost"),
        pytest.param(failed_write, id="our own write that failed"),
        pytest.param(stopped, id="our own write that was called off"),
        pytest.param(after_a_break, id="first sight after a break"),
        pytest.param(while_observing, id="changed while we only observed"),
        pytest.param(while_observing_until_now, id="changed at the moment we take over"),
        pytest.param(while_paused, id="changed while we were paused"),
        pytest.param(from_zero, id="woken from zero: that gives it back"),
        pytest.param(before_a_resume, id="changed before somebody resumed"),
    ],
)
def test_what_is_no_other_writer(happens: object) -> None:
    story = Story()
    story.ticks(2)
    happens(story)  # type: ignore[operator]
    assert story.tick().reason not in (Reason.HELD_MANUAL, Reason.HELD_CONFLICT)


def test_first_sight_is_no_change_whoever_wrote_it() -> None:
    assert Story(scale=9).tick().reason is not Reason.HELD_MANUAL


def test_an_object_made_anew_begins_anew() -> None:
    story = Story()
    story.ticks(2)
    gone = replace(a_snapshot(rps=14.0), replicas=Blind(reason=BlindReason.NOT_FOUND))
    _, story.state = decide(gone, story.state, story.policy, now=story.now + MINUTE)
    story.now += MINUTE
    story.scale = 1
    assert story.tick().reason is not Reason.HELD_MANUAL


def test_a_hold_outlives_a_restart() -> None:
    story = Story()
    story.ticks(3)
    story.scale = 6
    story.tick()
    story.now += timedelta(minutes=8)  # the daemon was down
    assert story.tick().reason is Reason.HELD_MANUAL
    story.now += timedelta(minutes=8)
    assert story.tick().reason is not Reason.HELD_MANUAL


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        pytest.param(lambda now: Control(resumed_at=now), Reason.OVERRIDE, id="resume"),
        pytest.param(
            lambda now: Control(override=Override(replicas=4, until=now + timedelta(hours=1))),
            Reason.OVERRIDE,
            id="an override given after the change",
        ),
    ],
)
def test_a_persons_newer_word_ends_a_hold(word: object, reason: Reason) -> None:
    story = Story()
    story.ticks(3)
    story.scale = 6
    assert story.ticks(2) == [Reason.HELD_MANUAL] * 2
    story.control = word(story.now + timedelta(seconds=5))  # type: ignore[operator]
    decision = story.tick()
    assert decision.reason not in (Reason.HELD_MANUAL, Reason.HELD_CONFLICT)
    if story.control.override is not None:
        assert (decision.reason, decision.target) == (reason, 4)


def test_a_change_during_an_override_is_respected_before_it() -> None:
    story = Story(control=Control(override=Override(replicas=5, until=NOON + timedelta(hours=2))))
    story.ticks(2)
    assert story.scale == 5
    story.scale = 7
    assert story.ticks(15) == [Reason.HELD_MANUAL] * 15
    assert story.tick().target == 5, "then the override, which still lasts"


@pytest.mark.parametrize(
    ("rule", "reasons"),
    [
        pytest.param(OtherWritersRule(manual_hold=timedelta(0)), {Reason.HELD_CONFLICT}, id="no respect for one"),
        pytest.param(
            OtherWritersRule(manual_hold=timedelta(0), conflict_hold=timedelta(0)), set(), id="no respect at all"
        ),
        pytest.param(
            OtherWritersRule(conflict_hold=timedelta(0)), {Reason.HELD_MANUAL}, id="every change a change by hand"
        ),
    ],
)
def test_zero_switches_a_hold_off(rule: OtherWritersRule, reasons: set[Reason]) -> None:
    story = Story(policy=a_policy(other_writers=rule))
    story.ticks(2)
    seen = set()
    for value in (6, 4, 7, 5):
        story.scale = value
        seen.add(story.tick().reason)
    assert seen & {Reason.HELD_MANUAL, Reason.HELD_CONFLICT} == reasons


@pytest.mark.parametrize("name", ["manual_hold", "conflict_window", "conflict_hold"])
def test_a_negative_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"other_writers\.{name} must be at least 0"):
        OtherWritersRule(**{name: timedelta(seconds=-1)})


def test_steering_is_frozen_while_held_and_for_a_lead_time_after() -> None:
    story = Story()
    story.ticks(2)
    story.scale = 6
    story.tick()
    at, replicas = story.now, ReplicaState(desired=6, ready=6)

    def is_frozen(minutes: int) -> bool:
        lead = timedelta(minutes=3)
        return frozen(story.state, replicas, most_replicas=100, lead_time=lead, now=at + minutes * MINUTE)

    assert [is_frozen(minutes) for minutes in (0, 3, 4)] == [True, True, False]


@given(
    sets=st.lists(st.sampled_from([None, None, None, 0, 1, 2, 5, 9]), max_size=90),
    rates=st.lists(st.sampled_from([0.0, 5.0, 20.0, 90.0]), min_size=1, max_size=90),
)
def test_no_war_whatever_the_other_does(sets: list[int | None], rates: list[float]) -> None:
    """Over a value that somebody else set we write 15 minutes after it was seen at the earliest, so never twice within."""
    story = Story()
    story.tick()
    answered: list[datetime] = []
    set_at: datetime | None = None
    for i, value in enumerate(sets):
        if value is not None and value != story.scale:
            set_at = story.now + MINUTE if value > 0 and story.scale > 0 else None  # to and from zero is a switch
            story.scale = value
        story.rps = rates[i % len(rates)]
        if story.tick().action is not Action.HOLD and set_at is not None:
            assert story.now - set_at >= timedelta(minutes=15)
            answered.append(story.now)
            set_at = None
    assert all(later - earlier >= timedelta(minutes=15) for earlier, later in pairwise(answered))
