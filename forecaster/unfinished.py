"""What a training keeps until it has finished, so that one that was killed goes on instead of starting over.

    <root>/.unfinished/<digest>.json    one fitted part, whole or absent
    <root>/.unfinished/history-14d.npz  the data it trains on, where that is a history that grows meanwhile
    <root>/.unfinished/lock             held by the one training that works in <root>

Decides whether something kept may be used: a digest names data, seed, settings and code, and what is damaged, of
another training or too old counts as not there. Nothing here is executed when it is read, and nothing is a model:
`registry` holds those.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster.errors import SeriesError, TrainingError
from forecaster.fits import Fitted, Part
from forecaster.panels import read_panel, replacing, write_panel
from forecaster.types import Panel

FOLDER = ".unfinished"
LARGEST_BYTES = 128 * 2**20
"""A kept part above this is not read: a model file has 64 MiB at most, and base64 makes four bytes of three."""
CONTINUED_WITHIN = timedelta(hours=30)
"""A training is continued by the next night's, not by the one after: its data would be two days old by then."""


class Kept:
    """The folder of an unfinished training; made by `working_in`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fitted(self, parts: Iterable[Part]) -> dict[str, Fitted]:
        """Those of `parts` that are kept, by digest."""
        found = ((part.digest, self._read(part)) for part in parts)
        return {digest: one for digest, one in found if one is not None}

    def keep(self, one: Fitted) -> None:
        """Keep a fitted part; `OSError` where it cannot be written."""
        data = None if one.data is None else base64.b64encode(one.data).decode()
        document = {
            "model": one.model,
            "digest": one.digest,
            "data": data,
            "series": list(one.series),
            "failed": dict(one.failed),
            "report": dict(one.report),
            "cpu_s": one.cpu_s,
        }
        text = json.dumps(document, sort_keys=True)
        sealed = json.dumps({"sha256": _sha256(text), "fitted": text}).encode()
        with replacing(self._folder / f"{one.digest}.json") as stream:
            stream.write(sealed)

    def forget(self, parts: Iterable[Part]) -> None:
        """Drop what was kept of `parts`: their models are stored."""
        for part in parts:
            self._path(part).unlink(missing_ok=True)

    def clear(self, *, now: datetime) -> None:
        """Drop what a training left that nobody continued, and the part that one was writing when it was killed."""
        oldest = (now - CONTINUED_WITHIN).timestamp()
        for draft in self._folder.glob(".*.json-*"):  # nobody's: whoever writes parts holds the lock
            draft.unlink(missing_ok=True)
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.name != "lock" and path.stat().st_mtime < oldest:
                    path.unlink()

    def _path(self, part: Part) -> Path:
        return self._folder / f"{part.digest}.json"

    def _read(self, part: Part) -> Fitted | None:
        """A kept part, or None if there is none that can be believed: then it is fitted again."""
        try:
            path = self._path(part)
            if path.stat().st_size > LARGEST_BYTES:
                return None
            sealed = json.loads(path.read_bytes())
            if sealed["sha256"] != _sha256(sealed["fitted"]):
                return None
            return _fitted(json.loads(sealed["fitted"]), part)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _fitted(stored: Mapping[str, Any], part: Part) -> Fitted | None:
    if (stored["model"], stored["digest"]) != (part.model, part.digest):
        return None
    return Fitted(
        model=part.model,
        digest=part.digest,
        data=None if stored["data"] is None else base64.b64decode(stored["data"], validate=True),
        series=tuple(map(str, stored["series"])),
        failed={str(name): str(reason) for name, reason in stored["failed"].items()},
        report=dict(stored["report"]),
        cpu_s=float(stored["cpu_s"]),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def working_in(root: Path) -> Iterator[Kept]:
    """Be the only training that works in `root` inside the block; the lock ends with this process, however it ends.

    Raises `TrainingError` if another one does, `OSError` if `root` cannot be written.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another training works in {root}: wait for it, or stop it; it loses nothing"
            ) from None
        kept = Kept(folder)
        kept.clear(now=datetime.now(UTC))
        yield kept
    finally:
        os.close(lock)


# ── The history that a training was begun on ──────────────────────────────────────────────────────────────────


def kept_history(root: Path, *, days: float, now: datetime) -> Panel | None:
    """The history of `days` that an unfinished training was begun on, None if there is none to go on with."""
    try:
        panel = read_panel(_history(root, days))
    except SeriesError:
        return None
    return panel if timedelta(0) <= now - panel.end <= CONTINUED_WITHIN else None


def keep_history(root: Path, panel: Panel, *, days: float) -> None:
    """Keep the history of `days` that a training begins on: a next try has the same data, so its fits are the same."""
    path = _history(root, days)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        write_panel(stream, panel)


def forget_history(root: Path, *, days: float) -> None:
    """The training has finished: the next one reads the history anew."""
    _history(root, days).unlink(missing_ok=True)


def _history(root: Path, days: float) -> Path:
    return root / FOLDER / f"history-{days:g}d.npz"
