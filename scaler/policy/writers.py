"""Who else writes the scale: tells another writer's change from our own, and how long it is left alone.

A value that was seen and that we neither found nor asked for is somebody else's. One such change is a person at work
and is respected; a second one is a second opinion that will not go away (an HPA, a GitOps controller), and two
controllers that write one number in turn start and stop pods for nothing. So we are the one who stops: until the
changes stop for a while, or a person says who is in charge. It never writes back, and never guesses who it was.

What is not another writer: our own write whose answer was lost (`pending`), the first sight after a start, a break or a
take-over (`own` is None), anything while we write nothing ourselves, and a change from zero, which hands the workload
back. docs/decisions/0013 has the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scaler.policy.types import Control, ForeignChange, PolicyState, Reason, in_words

_MOST_KEPT = 8
"""Changes that are remembered: two decide, the others are only told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherWritersRule:
    """How long somebody else's change of the scale is left alone."""

    manual_hold: timedelta = timedelta(minutes=15)
    """After one change by somebody else nothing is written for so long; 0 respects none. Longer than most starts, so
    that what was changed is seen at work before it is judged."""
    conflict_window: timedelta = timedelta(hours=1)
    """A second change within this is another writer, not a hand."""
    conflict_hold: timedelta = timedelta(minutes=30)
    """Then nothing is written until the changes have stopped for so long; 0 switches it off, and the writers fight."""

    def __post_init__(self) -> None:
        for name in ("manual_hold", "conflict_window", "conflict_hold"):
            if getattr(self, name) < timedelta(0):
                raise ValueError(f"other_writers.{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Another writer's value is left alone until `until`."""

    reason: Reason
    until: datetime
    detail: str


def observe(
    state: PolicyState, desired: int, rule: OtherWritersRule, control: Control, *, writes: bool, now: datetime
) -> PolicyState:
    """Note who brought the scale to `desired` since the last tick.

    `writes` says that this workload is written by us at all: observed or paused, every change is somebody else's and
    none of our business. A person's newer word (a resume, another override) ends what was noted before it.
    """
    if not writes:
        return replace(state, own=None, pending=None, foreign=(), heeded=control.override)
    spoken = _newer_word(state, control)
    resumed_at = control.resumed_at
    noted = tuple(
        each
        for each in state.foreign
        if timedelta(0) <= now - each.at < _memory(rule) and not spoken and (resumed_at is None or each.at > resumed_at)
    )
    changed = state.own is not None and state.own > 0 and desired > 0 and desired not in (state.own, state.pending)
    if changed and not spoken and state.own is not None:
        noted = (*noted, ForeignChange(at=now, before=state.own, after=desired))[-_MOST_KEPT:]
    return replace(
        state,
        own=desired,
        pending=None if changed or desired == state.pending else state.pending,
        foreign=noted,
        heeded=control.override,
    )


def _newer_word(state: PolicyState, control: Control) -> bool:
    """Whether a person spoke since the last tick: a change from before that cannot be told from one after it."""
    if control.override is not None and control.override != state.heeded:
        return True
    resumed_at, last = control.resumed_at, state.last_tick_at
    return resumed_at is not None and last is not None and resumed_at >= last


def _memory(rule: OtherWritersRule) -> timedelta:
    return max(rule.manual_hold, rule.conflict_window, rule.conflict_hold)


def hold_of(state: PolicyState, rule: OtherWritersRule, *, now: datetime) -> Hold | None:
    """What the changes on record ask for at `now`: nothing, respect for one, or peace after two."""
    if not state.foreign:
        return None
    last = state.foreign[-1]
    recent = [each for each in state.foreign if last.at - each.at < rule.conflict_window]
    quiet = now - last.at
    seen = f"{last.before} → {last.after} at {last.at:%H:%M:%S}"
    if len(recent) > 1 and quiet < rule.conflict_hold:
        detail = f"another writer changed the scale {len(recent)} times within {in_words(rule.conflict_window)}"
        return Hold(reason=Reason.HELD_CONFLICT, until=last.at + rule.conflict_hold, detail=f"{detail}, last {seen}")
    if quiet < rule.manual_hold:
        return Hold(
            reason=Reason.HELD_MANUAL, until=last.at + rule.manual_hold, detail=f"somebody changed the scale {seen}"
        )
    return None


def ordered(state: PolicyState, target: int) -> PolicyState:
    """Note a scale that is about to be written: whether it was, may never be told."""
    return replace(state, pending=target)


def written(state: PolicyState, target: int) -> PolicyState:
    """Note a write that is known to have happened.

    Then even a value that was there before is somebody else's: 3, written to 5, found at 3 again was set back.
    """
    return replace(state, own=target, pending=None)


def not_written(state: PolicyState) -> PolicyState:
    """Note an order that is known not to have been carried out."""
    return replace(state, pending=None)


def disowned(state: PolicyState) -> PolicyState:
    """The state of a writer that does not know who wrote last: what it sees next is taken as it is."""
    return replace(state, own=None, pending=None)
