"""Orders written on the workload itself, as annotations: what they say, and what is wrong with them. Pure.

    headstart.autoscaling/paused:   "true"                                        or "true: node maintenance"
    headstart.autoscaling/override: "8 until 2026-11-21T18:00:00Z: load test"     the reason may be left out
    headstart.autoscaling/mode:     "observe"                                     or another mode's name

What cannot be read is told and errs on the careful side: a `paused` or `mode` that nobody understands pauses the
workload, an `override` that nobody understands is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from scaler.adapters.orders import MOST_REPLICAS, OrderRefused, mode_named, moment, plain_text
from scaler.policy.control import together
from scaler.policy.types import Control, ModeSwitch, Override, Pause, Source
from scaler.ports import Controls

PREFIX: Final = "headstart.autoscaling/"
PAUSED: Final = f"{PREFIX}paused"
OVERRIDE: Final = f"{PREFIX}override"
MODE: Final = f"{PREFIX}mode"

_OVERRIDE: Final = re.compile(r"(\d{1,10})\s+until\s+(\S+?)(?::\s+(.*)|:?)", re.ASCII | re.DOTALL)
_PAUSED: Final = re.compile(r"(true|false)(?::\s*(.*))?", re.IGNORECASE | re.DOTALL)


def control_from_annotations(annotations: Mapping[str, str], *, now: datetime) -> tuple[Control, tuple[str, ...]]:
    """The orders in force at `now`, and a sentence for each annotation that cannot be read. Raises nothing."""
    problems: list[str] = []
    pause = _pause(annotations[PAUSED], problems) if PAUSED in annotations else None
    override = _override(annotations[OVERRIDE], problems) if OVERRIDE in annotations else None
    switch = _mode(annotations[MODE], problems) if MODE in annotations else None
    if isinstance(switch, Pause):
        pause, switch = pause or switch, None
    if override is not None and not override.lasts(now=now):
        override = None
    return Control(pause=pause, override=override, mode=switch), tuple(problems)


class AnnotatedControls:
    """The loop's `Controls` of two places: what a first one says, and what stands on the workload itself.

    Whoever stops it is obeyed; of two overrides the first place's goes first (`scaler.policy.control.together`).
    """

    def __init__(self, first: Controls, annotations: Callable[[str], Mapping[str, str]]) -> None:
        """`annotations` answers a workload's, as the last read of the cluster found them."""
        self._first = first
        self._annotations = annotations

    def of(self, workload: str, *, now: datetime) -> Control:
        """See `scaler.ports.Controls`."""
        noted, _ = control_from_annotations(self._annotations(workload), now=now)
        return together(self._first.of(workload, now=now), noted)

    def problems(self, workload: str, *, now: datetime) -> tuple[str, ...]:
        """A sentence for each annotation of the workload that cannot be read."""
        return control_from_annotations(self._annotations(workload), now=now)[1]


def _pause(text: str, problems: list[str]) -> Pause | None:
    found = _PAUSED.fullmatch(text.strip())
    if found is None:
        return _careful(f'{PAUSED} must be "true" or "false", got {text[:100]!r}', problems)
    if found[1].lower() == "false":
        return None
    return Pause(source=Source.ANNOTATION, reason=_reason(found[2]))


def _override(text: str, problems: list[str]) -> Override | None:
    found = _OVERRIDE.fullmatch(text.strip())
    wanted = f'{OVERRIDE} must look like "8 until 2026-11-21T18:00:00Z: load test", got {text[:100]!r}'
    if found is None or int(found[1]) > MOST_REPLICAS:
        problems.append(f"{wanted}; it is not followed")
        return None
    try:
        until = moment(found[2], "its end")
    except OrderRefused as error:
        problems.append(f"{wanted}: {error}; it is not followed")
        return None
    return Override(replicas=int(found[1]), until=until, source=Source.ANNOTATION, reason=_reason(found[3]))


def _mode(text: str, problems: list[str]) -> ModeSwitch | Pause:
    try:
        return ModeSwitch(mode=mode_named(text.strip().lower(), MODE), source=Source.ANNOTATION)
    except OrderRefused as error:
        return _careful(str(error)[:300], problems)


def _careful(problem: str, problems: list[str]) -> Pause:
    problems.append(f"{problem}; nothing is written until it is mended")
    return Pause(source=Source.ANNOTATION, reason=problem)


def _reason(text: str | None) -> str:
    """One line of the reason; a longer one is cut, because an annotation has nobody who could be told."""
    return plain_text(" ".join((text or "").split())[:200], "reason")
