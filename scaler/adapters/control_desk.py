"""Where people's orders are taken, by a command or over HTTP: checked, written to `control.json`, and read back.

It decides which workloads are known and what a person is told. It never talks to the cluster: the next tick does what
was ordered, and a write that is about to leave asks once more.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from scaler.adapters import orders as book
from scaler.adapters.control_file import ControlFile
from scaler.adapters.documents import API_VERSION, Document, control_document
from scaler.adapters.orders import OrderRefused, Orders
from scaler.policy import control
from scaler.policy.types import NO_CONTROL, Control, Mode, ModeSwitch, Override, Pause, Source


class UnknownWorkload(OrderRefused):
    """No workload of that name is scaled here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Who orders, and why."""

    by: str = ""
    reason: str = ""


class ControlDesk:
    """One method an order; each answers what is in force then, `kind: Control`.

    Each raises `OrderRefused` for what cannot be followed, and `OSError` where the file cannot be written or read.
    """

    def __init__(
        self,
        file: ControlFile,
        *,
        known: Callable[[], Collection[str]],
        floors: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`known` names the workloads that are scaled; none where that cannot be told, then any name is taken.

        `floors` names those whose settings say mode `floor`: it can be ordered for no other one.
        """
        self._file = file
        self._known = known
        self._floors = floors

    def pause(self, workload: str | None, word: Word, *, now: datetime) -> Document:
        """Write nothing for one workload, or for None for all there are or will be, until it is given back."""
        source = Source.FLEET if workload is None else Source.WORKLOAD
        pause = Pause(source=source, since=now, **_said(word))
        return self._change(workload, lambda own: replace(own, pause=pause), now=now)

    def end_pause(self, workload: str | None, *, now: datetime) -> Document:
        """End a pause and nothing else."""
        return self._change(workload, lambda own: replace(own, pause=None), now=now)

    def override(self, workload: str, replicas: int, until: datetime, word: Word, *, now: datetime) -> Document:
        """Exactly `replicas` until `until`, within the bounds."""
        asked = Override(replicas=replicas, until=until, since=now, **_said(word))
        checked = book.checked_override(asked, now=now)
        return self._change(workload, lambda own: replace(own, override=checked), now=now)

    def end_override(self, workload: str, *, now: datetime) -> Document:
        """End an override and nothing else."""
        return self._change(workload, lambda own: replace(own, override=None), now=now)

    def switch(self, workload: str, mode: Mode | None, word: Word, *, now: datetime) -> Document:
        """A mode over the settings', or for None the settings' again."""
        self._check(workload)
        if mode is Mode.FLOOR and workload not in self._floors():
            raise OrderRefused(
                f"the settings of {workload} do not say mode: floor, and whose floor it is stands there alone; "
                "set it there, or order observe or active"
            )
        switched = None if mode is None else ModeSwitch(mode=mode, since=now, **_said(word))
        return self._change(workload, lambda own: replace(own, mode=switched), now=now)

    def resume(self, workload: str | None, *, mode: bool = False, now: datetime) -> Document:
        """Take over again: pause, override and the respect for other writers' changes end, with `mode` modes too."""
        self._check(workload)
        orders = self._file.change(lambda all_: book.given_back(all_, workload, mode=mode, now=now), now=now)
        return self._document(orders, workload, now=now)

    def shown(self, workload: str | None, *, now: datetime) -> Document:
        """What is in force, changed by nobody."""
        self._check(workload)
        return self._document(self._file.load(), workload, now=now)

    def _change(self, workload: str | None, edit: Callable[[Control], Control], *, now: datetime) -> Document:
        self._check(workload)
        orders = self._file.change(lambda all_: all_.with_one(workload, edit(all_.own(workload))), now=now)
        return self._document(orders, workload, now=now)

    def _check(self, workload: str | None) -> None:
        known = self._known()
        if workload is None or not known or workload in known:
            return
        close = difflib.get_close_matches(workload, known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known)[:20])}"
        raise UnknownWorkload(f"no workload {workload!r}; {meant}")

    def _document(self, orders: Orders, workload: str | None, *, now: datetime) -> Document:
        names = [workload] if workload is not None else [n for n, each in orders.workloads.items() if _orders(each)]
        return {
            "apiVersion": API_VERSION,
            "kind": "Control",
            "at": now.isoformat().replace("+00:00", "Z"),
            "fleet": control_document(orders.fleet, now=now),
            "items": [
                {
                    "workload": name,
                    **control_document(orders.of(name, now=now), now=now),
                    "says": list(says(orders.of(name, now=now), name, now=now)),
                }
                for name in names
            ],
        }


def _orders(own: Control) -> bool:
    return replace(own, resumed_at=None) != NO_CONTROL


def _said(word: Word) -> dict[str, Any]:
    return {"by": book.plain_text(word.by, "by"), "reason": book.plain_text(word.reason, "reason")}


def says(ordered: Control, workload: str, *, now: datetime) -> Iterator[str]:
    """What is in force on a workload, a sentence an order, and how each ends."""
    if ordered.pause is not None:
        ends = control.way_out(ordered, workload)
        yield f"{control.pause_text(ordered.pause)}; nothing is written until {ends}"
    if ordered.override is not None and ordered.override.lasts(now=now):
        text = f"override: {control.override_text(ordered.override, now=now)}"
        yield f"{text}; waits for the end of the pause" if ordered.pause is not None else text
    if ordered.mode is not None:
        yield f"mode by hand: {control.mode_text(ordered.mode)}"
    if ordered.pause is None and ordered.override is None and ordered.mode is None:
        yield "nothing is ordered by hand: the rules decide"
