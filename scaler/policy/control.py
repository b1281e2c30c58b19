"""What people order by hand, and what that does to a decision: a pause, an override, a mode.

The decision of the rules is made as ever, so that everybody sees what they would do; then a person's word, or the peace
kept with another writer, has the last one. A pause goes before another writer's hold, that before an override: whoever
stops the scaler is obeyed first. It never reads where the word came from, and never makes one last longer than it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from scaler.policy.types import Adjustment, Control, Mode, ModeSwitch, Override, Pause, Reason, Source, in_words

RULE = "by hand"

NO_FLOOR = "not followed, it observes: the settings do not say mode: floor, and whose floor it is stands there alone"
"""What is said of a floor that was ordered by hand and cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """Who has the last word now: `replicas` is what is ordered, None where the scale is left as it is."""

    reason: Reason
    detail: str
    replicas: int | None = None
    until: datetime | None = None


def paused(control: Control) -> Hand | None:
    """The pause in force, if there is one."""
    if control.pause is None:
        return None
    return Hand(reason=Reason.PAUSED, detail=pause_text(control.pause))


def overridden(control: Control, *, now: datetime) -> Hand | None:
    """The override in force at `now`, if there is one; one that ended while nobody looked is over (I12)."""
    override = control.override
    if override is None or not override.lasts(now=now):
        return None
    return Hand(
        reason=Reason.OVERRIDE,
        detail=override_text(override, now=now),
        replicas=override.replicas,
        until=override.until,
    )


def apply(hand: Hand, target: int, *, current: int) -> tuple[int, tuple[Adjustment, ...]]:
    """The target under a person's or another writer's word, and a trace where it differs from the rules'."""
    wanted = current if hand.replicas is None else hand.replicas
    if wanted == target:
        return target, ()
    return wanted, (Adjustment(rule=RULE, before=target, after=wanted, reason=hand.reason, detail=hand.detail),)


def mode_under(control: Control, configured: Mode) -> Mode:
    """The mode in force: a person's over the settings'. `active` gives back what the settings write by, if they do.

    `floor` is had only where the settings say it as well, and is observed elsewhere: what would be read and written
    without the name of a floor are the replicas, which then are another autoscaler's.
    """
    if control.mode is None:
        return configured
    asked = control.mode.mode
    if asked is Mode.FLOOR and configured is not Mode.FLOOR:
        return Mode.OBSERVE
    return configured if asked is Mode.ACTIVE and configured is not Mode.OBSERVE else asked


def together(first: Control, second: Control) -> Control:
    """Two places' words on one workload: whoever stops it is obeyed, else the first goes before the second."""
    modes = [each for each in (first.mode, second.mode) if each is not None]
    stopping = [each for each in modes if each.mode is Mode.OBSERVE]
    resumed = [each for each in (first.resumed_at, second.resumed_at) if each is not None]
    return Control(
        pause=first.pause or second.pause,
        override=first.override or second.override,
        mode=next(iter((*stopping, *modes)), None),
        resumed_at=max(resumed, default=None),
    )


def current_only(control: Control, *, now: datetime) -> Control:
    """The control without an override that is over: it would only stand in the way of another place's."""
    override = control.override
    if override is None or override.lasts(now=now):
        return control
    return Control(pause=control.pause, mode=control.mode, resumed_at=control.resumed_at)


# ── In words ──────────────────────────────────────────────────────────────────────────────────────────────────


def pause_text(pause: Pause) -> str:
    """Such as "paused by ana since 2026-03-02 12:03:00: node maintenance", as far as it is known."""
    what = "the whole fleet is paused" if pause.source is Source.FLEET else "paused"
    return _said(what, pause.by, pause.since, pause.reason)


def override_text(override: Override, *, now: datetime) -> str:
    """Such as "8 replicas until 2026-03-02 18:00:00 (2h left) by ana: load test", as far as it is known."""
    left = in_words(override.until - now)
    what = f"{override.replicas} replicas until {override.until:%Y-%m-%d %H:%M:%S} ({left} left)"
    return _said(what, override.by, override.since, override.reason)


def mode_text(switch: ModeSwitch, *, in_force: Mode | None = None) -> str:
    """Such as "observe by ana since 2026-03-02 12:03:00: not before the launch", as far as it is known.

    With the mode `in_force` it also says where that is not what was ordered.
    """
    text = _said(switch.mode.value, switch.by, switch.since, switch.reason)
    return f"{text}; {NO_FLOOR}" if switch.mode is Mode.FLOOR and in_force is Mode.OBSERVE else text


def way_out(control: Control, workload: str) -> str:
    """The command that takes back a pause or an override."""
    word = control.pause or control.override
    source = Source.WORKLOAD if word is None else word.source
    if source is Source.FLEET:
        return "headstart resume -A"
    if source is Source.ANNOTATION:
        name = "paused" if control.pause is not None else "override"
        return f"remove the annotation headstart.autoscaling/{name}"
    if source is Source.UNREADABLE:
        return "mend or remove control.json in the data folder"
    return f"headstart resume {workload}"


def _said(what: str, by: str, since: datetime | None, reason: str) -> str:
    text = f"{what} by {by}" if by else what
    text = f"{text} since {since:%Y-%m-%d %H:%M:%S}" if since is not None else text
    return f"{text}: {reason}" if reason else text
