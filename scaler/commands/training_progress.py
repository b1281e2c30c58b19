"""How a training's events are shown while it runs: bars on a terminal, JSON for machines, else a line now and then.

It decides words and widths, never what is done. Everything goes to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import Output, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from forecaster.fits import Progress

COUNTED = {"series_done": "done", "network_step": "step", "trees_level": "done"}
"""Events that say how far a model is, and which of their facts does; "of" is the whole."""
OF_MODEL = {"network_step": "lstm", "trees_level": "trees"}
"""Whose fit tells its progress without naming itself."""


@contextmanager
def telling(output: Output) -> Iterator[Progress]:
    """What a training's events are handed to while the block lasts.

    Bars if stderr is a terminal; else JSON objects, one a line, where the result is JSON too, and plain lines if not.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        with _bars() as bars:
            yield _OnTerminal(bars)
    elif output is Output.JSON:
        from forecaster.train import say_event

        yield say_event
    else:
        yield _InLines()


def told(name: str, facts: Mapping[str, Any]) -> str | None:
    """An event that is worth a line, in words."""
    match name:
        case "continued":
            return f"going on with an unfinished training, on the history until {facts['history_until']}; see --fresh"
        case "level_shift":
            ratio, since = facts["ratio"], facts["since"]
            return f"{facts['workload']}: demand is {ratio} times what it was since {since}; what was before is scaled"
        case "model_skipped":
            return f"{facts['model']}: skipped, {facts['reason']}"
        case "model_started":
            kept = f", {facts['kept']} of them fitted before" if facts["kept"] else ""
            return f"{facts['model']}: {facts['series']} series{kept}"
        case "reviewed":
            return f"{facts['model']}@{facts['version']}: {facts['stage']} now, {facts['reason']}"
        case "not_reviewed":
            return f"what is in shadow stays there: {facts['error']}"
        case "examining":
            return f"{facts['model']}: examined against {facts['incumbent'] or 'the baselines'}"
        case _:
            return None


class _InLines:
    """A line for whatever begins, and one for each tenth of a model's way."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def __call__(self, name: str, facts: Mapping[str, Any]) -> None:
        line = told(name, facts)
        if line is not None:
            say(line)
        if name in COUNTED:
            model, done, of = _counted(name, facts)
            tenth = 10 * done // of
            if tenth > self._tenths.get(model, 0):
                self._tenths[model] = tenth
                say(f"{model}: {done} of {of}")


class _OnTerminal:
    """A bar for each model."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, facts: Mapping[str, Any]) -> None:
        if name == "model_started":
            self._tasks[facts["model"]] = self._bars.add_task(
                facts["model"], total=facts["series"], completed=facts["kept"], doing="fitting"
            )
        elif name in COUNTED:
            model, done, of = _counted(name, facts)
            self._bars.update(self._tasks[model], completed=done, total=of)
        elif name == "examining":
            self._bars.update(self._tasks[facts["model"]], doing="examining")
        elif name == "model_done":
            self._bars.update(self._tasks[facts["model"]], doing="left" if facts["left"] else "done")
        else:
            line = told(name, facts)
            if line is not None:
                self._bars.console.print(line, markup=False, highlight=False)


def _counted(name: str, facts: Mapping[str, Any]) -> tuple[str, int, int]:
    return OF_MODEL.get(name) or facts["model"], facts[COUNTED[name]], max(1, facts["of"])


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<13}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[doing]:<9}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
