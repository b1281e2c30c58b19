"""What people ordered for the whole fleet and for each workload, as a value and as the JSON of `control.json`.

It decides what an order looks like in the file, which ones are refused, and what giving a workload back ends. It reads
no file, and never guesses: an unknown key or a misspelt moment is an error that names its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from scaler.adapters.codec import to_plain
from scaler.policy import control
from scaler.policy.types import NO_CONTROL, Control, Mode, ModeSwitch, Override, Pause, Source

VERSION: Final = 1
LONGEST_OVERRIDE: Final = timedelta(days=7)
"""An override that is to last longer is a change of the bounds, and belongs in the settings."""
MOST_REPLICAS: Final = 2**31 - 1
MOST_TEXT: Final = 500
"""Characters of a reason or a name: it is shown in a table and in an Event."""
_REMEMBER_RESUMED: Final = timedelta(days=2)
"""By then no change that it gave back is remembered."""

_WORKLOAD: Final = re.compile(r"[^/\s]+/[^/\s]+")


class OrderRefused(ValueError):
    """An order, or a file of them, that cannot be followed; the text names the place and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All orders: `fleet` holds a pause of everything, `workloads` what concerns one alone."""

    fleet: Control = NO_CONTROL
    workloads: Mapping[str, Control] = field(default_factory=dict)

    def of(self, workload: str, *, now: datetime) -> Control:
        """What holds for one workload: its own, and the fleet's behind it."""
        own = control.current_only(self.workloads.get(workload, NO_CONTROL), now=now)
        return control.together(own, self.fleet)

    def with_one(self, workload: str | None, changed: Control) -> Orders:
        """The orders with one workload's, or for None the fleet's, replaced."""
        if workload is None:
            return replace(self, fleet=changed)
        return replace(self, workloads={**self.workloads, workload: changed})

    def own(self, workload: str | None) -> Control:
        """What concerns one workload, or for None the fleet, alone."""
        return self.fleet if workload is None else self.workloads.get(workload, NO_CONTROL)

    def pruned(self, *, now: datetime) -> Orders:
        """The orders without what is over, so that the file does not grow with what was ordered once."""
        kept = {name: _pruned(each, now=now) for name, each in self.workloads.items()}
        return Orders(
            fleet=_pruned(self.fleet, now=now),
            workloads={name: each for name, each in sorted(kept.items()) if each != NO_CONTROL},
        )


def _pruned(ordered: Control, *, now: datetime) -> Control:
    ordered = control.current_only(ordered, now=now)
    over = ordered.resumed_at is not None and now - ordered.resumed_at > _REMEMBER_RESUMED
    return replace(ordered, resumed_at=None) if over else ordered


def given_back(orders: Orders, workload: str | None, *, mode: bool = False, now: datetime) -> Orders:
    """Headstart takes over again: pause, override and the respect for other writers end; a person's mode with `mode`.

    For None the fleet's pause and everybody's own orders end.
    """

    def back(own: Control) -> Control:
        return Control(mode=None if mode else own.mode, resumed_at=now)

    if workload is not None:
        return orders.with_one(workload, back(orders.own(workload)))
    every = {name: back(each) for name, each in orders.workloads.items()}
    return Orders(fleet=Control(resumed_at=now), workloads=every)


def checked_override(override: Override, *, now: datetime) -> Override:
    """The override, if it may be ordered now. Raises `OrderRefused`."""
    if not 0 <= override.replicas <= MOST_REPLICAS:
        raise OrderRefused(f"replicas must lie in [0, {MOST_REPLICAS}], got {override.replicas}")
    if override.until <= now:
        raise OrderRefused(f"the override would be over already: it ends {override.until:%FT%TZ}, now is {now:%FT%TZ}")
    if override.until - now > LONGEST_OVERRIDE:
        raise OrderRefused("an override lasts 7 days at most; for longer set bounds.min_replicas and max_replicas")
    return override


def plain_text(text: str, name: str) -> str:
    """A reason or a person's name on one line. Raises `OrderRefused` where it is too long."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if len(line) > MOST_TEXT:
        raise OrderRefused(f"{name} may have {MOST_TEXT} characters, got {len(line)}")
    return line


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────


def to_json(orders: Orders) -> str:
    """The file's content."""
    document = {
        "version": VERSION,
        "fleet": _as_json(orders.fleet),
        "workloads": {name: _as_json(each) for name, each in orders.workloads.items()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _as_json(ordered: Control) -> dict[str, Any]:
    """What is set, without the source: the file is the source."""
    plain = {name: value for name, value in to_plain(ordered).items() if value is not None}
    for each in plain.values():
        if isinstance(each, dict):
            del each["source"]
    return plain


def from_json(text: str | bytes) -> Orders:
    """The orders in the file's content. Raises `OrderRefused`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OrderRefused(f"it is not JSON ({error})") from None
    top = _object(document, "the file", ("version", "fleet", "workloads"))
    if top.get("version") != VERSION:
        raise OrderRefused(f"version must be {VERSION}, got {top.get('version')!r}: another Headstart wrote it")
    fleet = _control(top.get("fleet", {}), "fleet", Source.FLEET)
    if fleet.override is not None or fleet.mode is not None:
        raise OrderRefused("fleet: only a pause can be ordered for all at once")
    found = _object(top.get("workloads", {}), "workloads", None)
    for name in found:
        if not _WORKLOAD.fullmatch(name):
            raise OrderRefused(f"workloads: a workload is named namespace/name, got {name!r}")
    orders = {name: _control(each, f"workloads[{name}]", Source.WORKLOAD) for name, each in found.items()}
    return Orders(fleet=fleet, workloads=orders)


def _control(value: Any, where: str, source: Source) -> Control:
    keys = _object(value, where, ("pause", "override", "mode", "resumed_at"))
    readers: dict[str, Callable[[Any, str, Source], Any]] = {"pause": _pause, "override": _override, "mode": _mode}
    found = {name: readers[name](keys[name], f"{where}.{name}", source) for name in readers if name in keys}
    if "resumed_at" in keys:
        found["resumed_at"] = moment(keys["resumed_at"], f"{where}.resumed_at")
    return Control(**found)


def _pause(value: Any, where: str, source: Source) -> Pause:
    keys = _object(value, where, ("since", "by", "reason"))
    return Pause(source=source, **_told(keys, where))


def _override(value: Any, where: str, source: Source) -> Override:
    keys = _object(value, where, ("replicas", "until", "since", "by", "reason"))
    replicas = keys.get("replicas")
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 <= replicas <= MOST_REPLICAS:
        raise OrderRefused(f"{where}.replicas must be a whole number in [0, {MOST_REPLICAS}], got {replicas!r}")
    until = moment(keys.get("until"), f"{where}.until")
    return Override(replicas=replicas, until=until, source=source, **_told(keys, where))


def _mode(value: Any, where: str, source: Source) -> ModeSwitch:
    keys = _object(value, where, ("mode", "since", "by", "reason"))
    return ModeSwitch(mode=mode_named(keys.get("mode"), f"{where}.mode"), source=source, **_told(keys, where))


def mode_named(value: Any, where: str) -> Mode:
    """The mode of that name. Raises `OrderRefused`."""
    try:
        return Mode(value)
    except ValueError:
        known = ", ".join(each.value for each in Mode)
        raise OrderRefused(f"{where} must be one of {known}, got {value!r}") from None


def moment(value: Any, where: str) -> datetime:
    """A moment with a zone, in UTC. Raises `OrderRefused`."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        raise OrderRefused(f"{where} must be a moment with its zone, such as 2026-11-21T18:00:00Z, got {value!r}")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise OrderRefused(f"{where} is out of range: {value!r}") from None


def _told(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Since when, by whom and why, as far as it is said."""
    told: dict[str, Any] = {}
    if keys.get("since") is not None:
        told["since"] = moment(keys["since"], f"{where}.since")
    for name in ("by", "reason"):
        text = keys.get(name, "")
        if not isinstance(text, str):
            raise OrderRefused(f"{where}.{name} must be a text, got {text!r}")
        told[name] = plain_text(text, f"{where}.{name}")
    return told


def _object(value: Any, where: str, allowed: tuple[str, ...] | None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise OrderRefused(f"{where} must be an object, got {type(value).__name__}")
    unknown = [name for name in value if allowed is not None and name not in allowed]
    if unknown:
        raise OrderRefused(f"{where} has the unknown key {unknown[0]!r}; there are {', '.join(allowed or ())}")
    return value
