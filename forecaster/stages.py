"""Which version of a model is used for what, and how it came to that: the pointer file beside the stored versions.

A pointer is whole or as it was before: written beside its place, synced and renamed. It decides nothing; `registry`
moves versions from stage to stage.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from forecaster.errors import ArtefactError

LARGEST_BYTES = 64 * 2**20
"""A model file above this is not read: coefficients of 100,000 series take 20 MB."""
KEPT_BEFORE = 10
"""How many versions one can roll back over."""
KEPT_EVENTS = 60
"""Changes of stage that are remembered: two months of daily refits."""


class Stage(StrEnum):
    """What a stored version is used for."""

    LIVE = "live"
    SHADOW = "shadow"
    """Passed its examination; waits to be examined again on days that came after it."""
    RETIRED = "retired"
    """Was live until another took its place."""
    ROLLED_BACK = "rolled_back"
    STORED = "stored"
    """Never used, or no longer: it failed an examination, or nobody asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The stage of a version; why and since when, where that is on record."""

    stage: Stage
    reason: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of a version's stage, and why; `at` is None where nobody said when."""

    version: str
    stage: Stage
    reason: str
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What `current.json` holds; a file of an earlier release has neither shadow nor events."""

    live: str | None = None
    before: tuple[str, ...] = ()
    shadow: str | None = None
    events: tuple[Event, ...] = ()

    def noted(self, version: str, stage: Stage, reason: str, at: datetime | None) -> Pointer:
        """The same with one more event."""
        return replace(self, events=(*self.events, Event(version=version, stage=stage, reason=reason, at=at)))

    def last(self, version: str) -> Event | None:
        """The last that is on record of `version`."""
        return next((each for each in reversed(self.events) if each.version == version), None)


def read_pointer(root: Path, model: str) -> Pointer:
    """What is live and in shadow of a model; blank where there is no file, `ArtefactError` where it is damaged."""
    path = root / model / "current.json"
    if not path.exists():
        return Pointer()
    try:
        stored = json.loads(read_file(path))
        return Pointer(
            live=_name(stored["version"]),
            before=tuple(str(one) for one in stored["before"]),
            shadow=_name(stored.get("shadow")),
            events=tuple(
                Event(
                    version=str(one["version"]),
                    stage=Stage(one["stage"]),
                    reason=str(one["reason"]),
                    at=None if one["at"] is None else moment(one["at"]),
                )
                for one in stored.get("events", ())
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): promote a version again") from error


def _name(stored: Any) -> str | None:
    return None if stored is None else str(stored)


def write_pointer(root: Path, model: str, pointer: Pointer) -> None:
    """Put `pointer` in force at once, for readers in other processes too."""
    home = root / model
    stored = {
        "version": pointer.live,
        "before": pointer.before[:KEPT_BEFORE],
        "shadow": pointer.shadow,
        "events": [
            {
                "version": each.version,
                "stage": each.stage.value,
                "reason": each.reason,
                "at": None if each.at is None else each.at.isoformat(),
            }
            for each in pointer.events[-KEPT_EVENTS:]
        ],
    }
    handle, draft = tempfile.mkstemp(prefix=".current-", dir=home)
    os.close(handle)
    write_file(Path(draft), json.dumps(stored, indent=2).encode())
    os.chmod(draft, 0o644)
    os.replace(draft, home / "current.json")
    sync_folder(home)


def moment(text: str) -> datetime:
    """An ISO time in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def read_file(path: Path) -> bytes:
    """A file's content; `ArtefactError` if it cannot be read or is larger than anything stored here."""
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > LARGEST_BYTES:
        raise ArtefactError(f"{path} is larger than {LARGEST_BYTES} bytes and was not read")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write and sync."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames within a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
