"""`simulate --journal`: the product's decisions in a data folder like the daemon's, for all commands that read one.

It decides whose decisions are kept, that none of them is forgotten however old the trace is, and that a run which did
not end leaves nothing behind. It never writes into a folder that holds anything. What is kept is the daemon's journal
(`scaler.adapters.journal`), written tick by tick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaler.commands.printing import say
from scaler.commands.typed import ENGINE

if TYPE_CHECKING:
    from forecaster.trace import Trace
    from forecaster.types import Series
    from scaler.adapters.journal import SqliteJournal
    from scaler.ports import Journal

OPTION = "--journal"


def check(folder: Path | None, names: Sequence[str], *, seeds: int) -> None:
    """Refuse, before anything is played, a folder that cannot be written and what cannot be told apart in it."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is a file; a journal is kept in a folder", param_hint=OPTION)
    if folder.is_dir() and any(folder.iterdir()):
        raise typer.BadParameter(
            f"{folder} is not empty: a run gets a folder of its own; name a new one", param_hint=OPTION
        )
    if not folder.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {folder.absolute().parent}", param_hint=OPTION)
    if seeds > 1:
        raise typer.BadParameter(
            f"{seeds} runs live through the same minutes; a journal holds one: --seeds 1", param_hint=OPTION
        )
    products = _products(names)
    if len(products) != 1:
        named = ", ".join(products) or "none"
        raise typer.BadParameter(
            f"keeps the decisions of one headstart policy, and --policies names {named}", param_hint=OPTION
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A folder that takes a run's decisions; nothing where none was asked for."""

    policy: str = ""
    folder: Path | None = None
    journal: SqliteJournal | None = None

    @property
    def journals(self) -> dict[str, Journal]:
        """As the simulator takes them: by policy."""
        return {} if self.journal is None else {self.policy: self.journal}

    def tell(self, trace: Trace) -> None:
        """Say what was kept, and what reads it."""
        if self.journal is None:
            return
        from scaler.simulate.product_run import workload_name

        ticks = self.journal.ticks()
        say(
            f"journal of {self.policy} in {self.folder}: {len(ticks):,} decisions on {workload_name(trace)}, "
            f"{ticks[0]:%Y-%m-%d %H:%M} to {ticks[-1]:%Y-%m-%d %H:%M} UTC"
        )
        say(f"headstart replay {self.folder}")
        say(f"headstart explain {workload_name(trace)} --data-dir {self.folder} --at {ticks[-1]:%FT%TZ}")


@contextmanager
def kept(folder: Path | None, names: Sequence[str], series: Series) -> Iterator[Kept]:
    """The folder, open, for a run of policies of those names over `series`; `check` has found nothing against it.

    The daemon forgets what is 14 days older than its last tick. Here nothing is: what is kept reaches over the whole
    trace. An error on the way, an interrupt included, takes the folder back.
    """
    if folder is None:
        yield Kept()
        return
    from scaler.adapters.journal import JournalLimits
    from scaler.adapters.store import Store

    limits = JournalLimits(keep_for=series.end - series.start, max_bytes=sys.maxsize)
    with ExitStack() as undo:
        undo.callback(_take_back, folder, made=not folder.exists())
        with Store.open(folder, now=series.start, journal_limits=limits) as store:
            yield Kept(policy=_products(names)[0], folder=folder, journal=store.journal)
        undo.pop_all()


def _products(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name.partition(":")[0] == ENGINE))


def _take_back(folder: Path, *, made: bool) -> None:
    """Remove the data file and its companions, and the folder if it was not there before."""
    from scaler.adapters.store import FILE_NAME

    for file in folder.glob(f"{FILE_NAME}*"):
        file.unlink()
    if made and folder.is_dir():
        folder.rmdir()
