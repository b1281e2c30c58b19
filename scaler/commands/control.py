"""`pause`, `resume`, `override`, `enable`, `observe`: a person takes over, through the daemon or on its data folder.

Both ways write the same `control.json`; what is printed is what is in force then. Nothing here talks to the cluster.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaler.commands.printing import Output, put, put_json, say
from scaler.commands.reading import DEFAULT_URL, Daemon, Document, path_of, split_name
from scaler.errors import CommandError

if TYPE_CHECKING:
    from scaler.adapters.control_desk import ControlDesk, Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Who is told: the daemon at `url`, or the one whose data folder is `data_dir`."""

    url: str | None
    data_dir: Path | None
    token_file: Path | None


Order = Callable[["ControlDesk", datetime], Document]
"""An order as the desk takes it, at a moment."""


def pause(place: Place, workload: str | None, reason: str, output: Output) -> None:
    """Write nothing, for one workload or for None for the whole fleet, until it is resumed."""
    _put(
        _told(
            place,
            workload,
            "pause",
            {"reason": reason, "by": _me()},
            lambda desk, now: desk.pause(workload, _word(reason), now=now),
        ),
        output,
    )


def resume(place: Place, workload: str | None, output: Output, *, mode: bool) -> None:
    """Give it back: pause, override and the respect for other writers end, with `mode` a mode by hand as well."""

    def order(desk: ControlDesk, now: datetime) -> Document:
        return desk.resume(workload, mode=mode, now=now)

    _put(_told(place, workload, "resume", {"mode": mode}, order), output)


def override(place: Place, workload: str, replicas: int, lasts: timedelta, reason: str, output: Output) -> None:
    """Exactly so many replicas for so long."""
    body = {"replicas": replicas, "for_s": lasts.total_seconds(), "reason": reason, "by": _me()}

    def order(desk: ControlDesk, now: datetime) -> Document:
        return desk.override(workload, replicas, now + lasts, _word(reason), now=now)

    _put(_told(place, workload, "override", body, order), output)


def switch(place: Place, workload: str, mode: str, reason: str, output: Output) -> None:
    """A mode over the settings'."""
    from scaler.policy.types import Mode

    def order(desk: ControlDesk, now: datetime) -> Document:
        return desk.switch(workload, Mode(mode), _word(reason), now=now)

    _put(_told(place, workload, "mode", {"mode": mode, "reason": reason, "by": _me()}, order), output)


def one_or_all(workload: str | None, *, every: bool) -> str | None:
    """The workload, or None for all. A usage error where neither or both are named."""
    if every == (workload is not None):
        raise typer.BadParameter("name one workload, such as llm/chat, or all of them with -A", param_hint="WORKLOAD")
    return workload


def _told(place: Place, workload: str | None, what: str, body: Document, order: Order) -> Document:
    if workload is not None:
        split_name(workload)
    if place.data_dir is None:
        root = "/api/v1" if workload is None else path_of(workload)
        return Daemon(place.url or DEFAULT_URL, place.token_file).order("POST", f"{root}/{what}", body)
    if place.url is not None:
        raise CommandError("--url and --data-dir exclude each other; keep one")
    return _on_file(place.data_dir, workload, order)


def _on_file(folder: Path, workload: str | None, order: Order) -> Document:
    from scaler.adapters.control_desk import ControlDesk
    from scaler.adapters.control_file import ControlFile
    from scaler.adapters.orders import OrderRefused

    known = _known(folder)
    if not known and workload is not None:
        say(f"{folder} holds no decision yet: whether there is a workload {workload} could not be checked")
    try:
        return order(ControlDesk(ControlFile(folder), known=lambda: known), datetime.now(UTC))
    except OrderRefused as error:
        raise CommandError(str(error)) from None


def _known(folder: Path) -> Collection[str]:
    """The workloads of the newest tick on record. Raises `CommandError` for what is no folder."""
    if not folder.is_dir():
        raise CommandError(f"there is no folder {folder}; name the daemon's data folder (data_dir in its settings)")
    from scaler.adapters.store import FILE_NAME
    from scaler.commands.reading import open_journal

    if not (folder / FILE_NAME).is_file():
        return ()
    return [entry.workload for entry in open_journal(folder).latest(now=datetime.now(UTC))]


def _word(reason: str) -> Word:
    from scaler.adapters.control_desk import Word

    return Word(by=_me(), reason=reason)


def _me() -> str:
    """Who is asking, as far as this machine knows."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "somebody"
    return f"{name}@{socket.gethostname()}"


def _put(document: Document, output: Output) -> None:
    """What is in force now."""
    if output is Output.JSON:
        put_json(document)
        return
    fleet = document["fleet"]["pause"]
    if fleet is not None:
        put(f"the whole fleet is paused by {fleet['by']}; nothing is written until headstart resume -A")
    for item in document["items"]:
        for text in item["says"]:
            put(f"{item['workload']}: {text}")
    if fleet is None and not document["items"]:
        put("nothing is ordered by hand: the rules decide")
    say("in force for every write from now on; one that is being sent is finished")
