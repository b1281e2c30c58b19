"""What people ordered and what another writer did, in words: the part of an explanation that no rule is behind.

Pure rendering, as `scaler.policy.explain`, which asks for it; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scaler.policy import control, writers
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Decision, PolicyState, Reason, Snapshot, in_words

BY_HAND: Final = (Reason.PAUSED, Reason.OVERRIDE, Reason.HELD_MANUAL, Reason.HELD_CONFLICT)
"""Reasons of a decision in which somebody else had the last word."""


def ordered(
    decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState
) -> Iterator[tuple[str, str]]:
    """What is in force, by topic; nothing where nobody interferes."""
    asked = snapshot.control
    if asked.pause is not None:
        yield "pause", control.pause_text(asked.pause)
    if asked.override is not None and asked.override.lasts(now=decision.at):
        yield "override", control.override_text(asked.override, now=decision.at)
    if asked.mode is not None:
        yield "mode", control.mode_text(asked.mode, in_force=policy.mode)
    hold = writers.hold_of(after, policy.other_writers, now=decision.at)
    if hold is not None:
        yield "others", hold.detail


def next_by_hand(decision: Decision, snapshot: Snapshot, policy: WorkloadPolicy, after: PolicyState) -> Iterator[str]:
    """When people's or another writer's word ends, and what happens then."""
    name, override = decision.workload, snapshot.control.override
    hold = writers.hold_of(after, policy.other_writers, now=decision.at)
    calm = f"out at once then, in after {in_words(policy.guard.calm)} of calm"
    ends = control.way_out(snapshot.control, name)
    if decision.reason is Reason.PAUSED:
        yield f"nothing is written until it is given back: {ends}"
    elif decision.reason is Reason.OVERRIDE and override is not None:
        yield f"the rules decide again at {override.until:%Y-%m-%d %H:%M:%S}, or at once: {ends}; {calm}"
    elif hold is not None:
        until = f"nothing is written before {hold.until:%H:%M:%S}, later if the scale is changed again"
        yield f"{until}, or at once: headstart resume {name}; {calm}"
