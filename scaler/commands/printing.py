"""How commands print: data on stdout as a table or JSON, everything else on stderr, no colour where none is wanted.

It decides widths, colours and spinners, never content. With NO_COLOR a table holds no escape at all; a progress bar is
only drawn on a terminal.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from scaler.errors import CommandError


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"


def say(text: str) -> None:
    """A message for people, on stderr; to nobody where that is closed."""
    if sys.stderr is not None:
        sys.stderr.write(text if text.endswith("\n") else f"{text}\n")


def put(text: str) -> None:
    """Data, on stdout. A reader that has left, as `head` does, ends the command without an error.

    Raises `CommandError` where stdout is closed.
    """
    if sys.stdout is None:  # how Python shows a standard stream that was closed before it started
        raise CommandError("stdout is closed, so nothing could be printed")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without arrows gets "?", not an error
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer must go nowhere, or the interpreter complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def put_json(document: Any, *, compact: bool = False) -> None:
    """A document on stdout: indented, or on one line."""
    indent = None if compact else 2
    put(json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False))


def put_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; columns named in `right` are aligned to the right.

    As wide as its cells, as kubectl's: a terminal that is narrower wraps the line, a cell is never cut or folded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # rich's NO_COLOR leaves bold alone; people who set it want text without escapes.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    console = Console(file=sys.stdout, width=_WIDEST, highlight=False)
    with console.capture() as capture:
        console.print(table)
    put("\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip()))


_WIDEST = 10_000


def _plain(cell: str) -> Any:
    """A cell as text: what looks like rich's markup in a label or name is no markup."""
    from rich.text import Text

    return Text(cell)


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A function that is told how far things are (0 to 1) and what is done; drawn only if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _share, _text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, text: bar.update(task, completed=share, description=text)


def clear_screen() -> None:
    """Start over at the top of a terminal; nothing where stdout is no terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout.write("\x1b[2J\x1b[H")
