"""The refit's own process: reads the history, fits, examines, takes up what passes. Never imported by the daemon.

    python -m scaler.refit_job DATA_FOLDER [arima,holt-winters]

Without names it fits every family whose packages are installed here. `headstart train` is the same function with more
to choose from.

A process of its own, so that what fitting loads (hundreds of MB) and what it breaks stays out of the daemon's. It
opens the data file for reading only; models are put in place by an atomic rename. A refit that was killed, or whose
time was up, is continued by the next one on the data that it was begun on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from forecaster import train
from forecaster.engines import Pool
from forecaster.errors import ArtefactError, ForecasterError, HistoryError, SeriesError
from forecaster.fits import Progress, missing_packages
from forecaster.levels import level_shifts, levelled
from forecaster.shadow import review
from forecaster.sources.history import HistoryStore
from forecaster.types import STEP, Panel, floor_to_step
from forecaster.unfinished import forget_history, keep_history, kept_history
from scaler.adapters.demand import KNOWN_BLOB, known_from_bytes, usual_demand
from scaler.adapters.intake import DEMAND
from scaler.adapters.store import FILE_NAME, read_blob
from scaler.policy.scheduled import ScheduledRule

MODELS_FOLDER = "models"
"""Where a site's own models lie in its data folder."""

SPAN_DAYS = 14
"""More history adds nothing (9-evaluation: the gain saturates at 14 days)."""

SEED = 1

BUDGET = timedelta(minutes=50)
"""For the fits of the daemon's refit. It is killed after an hour, and the examination takes minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a site wants trained on its own history: of how many days, by which seed, and whether it may go live.

    `fresh` starts over where an unfinished training would be continued.
    """

    models: tuple[str, ...]
    days: int = SPAN_DAYS
    seed: int = SEED
    promote: bool = True
    fresh: bool = False


def refit(
    folder: Path, request: Request, *, now: datetime, work: train.Work = train.UNHURRIED
) -> tuple[train.Outcome, ...]:
    """Fit on the stored demand of the last days. Raises `ForecasterError` where that is impossible."""
    root = folder / MODELS_FOLDER
    panel = None if request.fresh else kept_history(root, days=request.days, now=now)
    if panel is not None:
        work.on_event("continued", {"history_until": panel.end.isoformat(), "series": len(panel.keys)})
    else:
        panel = _history(folder, request, now=now, on_event=work.on_event)
        keep_history(root, panel, days=request.days)
    try:
        if request.promote:
            _review(root, panel, request, now=now, on_event=work.on_event)
        outcomes = train.train(
            panel, out=root, seed=request.seed, models=request.models, promote=request.promote, work=work, now=now
        )
    except SeriesError:  # this history is no use: the next try must not begin with it
        forget_history(root, days=request.days)
        raise
    if all(outcome.left is None for outcome in outcomes):
        forget_history(root, days=request.days)
    return outcomes


def _review(root: Path, panel: Panel, request: Request, *, now: datetime, on_event: Progress) -> None:
    """Judge what an earlier refit left in shadow, before a newer one asks for its place."""
    try:
        reviews = review(root, panel, models=request.models, now=now)
    except (ArtefactError, SeriesError) as error:  # it stays in shadow; what is fitted next does not depend on it
        on_event("not_reviewed", {"error": str(error)})
        return
    for each in reviews:
        facts = {"model": each.model, "version": each.version, "stage": each.stage.value, "reason": each.reason}
        on_event("reviewed", facts)


def _history(folder: Path, request: Request, *, now: datetime, on_event: Progress) -> Panel:
    """The usual demand of every series over the days before the newest known minute, brought to today's level."""
    file = folder / FILE_NAME
    if not file.is_file():
        raise HistoryError(f"there is no data file {file}; name the daemon's data folder, or a --trace")
    with HistoryStore.open(file, now=now, read_only=True) as history:
        keys = tuple(key for key in history.keys() if key.signal == DEMAND)  # noqa: SIM118 — not a dict
        spans = [span for key in keys if (span := history.span(key)) is not None]
        end = min([floor_to_step(now), max((last + STEP for _, last in spans), default=now)])
        start = max(min((first for first, _ in spans), default=end), end - timedelta(days=request.days))
        panel = usual_demand(history, keys, start=floor_to_step(start), end=floor_to_step(end), known=_known(folder))
    shifts = level_shifts(panel)
    for shift in shifts:
        workload = {"workload": shift.key.workload, "request_class": shift.key.request_class}
        on_event("level_shift", {**workload, "since": shift.since.isoformat(), "ratio": round(shift.ratio, 2)})
    return levelled(panel, shifts)


def _known(folder: Path) -> Mapping[str, ScheduledRule]:
    """What the daemon knew in advance when it started; nothing where no daemon has run."""
    stored = read_blob(folder / FILE_NAME, KNOWN_BLOB)
    return {} if stored is None else known_from_bytes(stored[0])


def fitted_here(models: Sequence[str], on_event: Progress) -> tuple[str, ...]:
    """`models` without those whose packages are not installed: the job would fail every night for one family."""
    here = []
    for model in models:
        missing = missing_packages(model)
        if missing:
            reason = f"not installed: {', '.join(missing)}; pip install 'headstart[train]'"
            on_event("model_skipped", {"model": model, "reason": reason})
        else:
            here.append(model)
    return tuple(here)


def main(arguments: Sequence[str]) -> int:
    """Exit 0 if every model was fitted or is left for the next run, 1 if one was not, 2 if the history is no use."""
    folder, say = Path(arguments[0]), train.say_event
    models = fitted_here(tuple(arguments[1].split(",")) if arguments[1:] else train.MODELS, say)
    # One worker beside the daemon: the tick has the other cores, and a fit that breaks its process breaks no more.
    work = train.Work(engine=Pool(workers=1), budget=BUDGET, on_event=say)
    try:
        outcomes = refit(folder, Request(models=models), now=datetime.now(UTC), work=work)
    except ForecasterError as error:
        say("refused", {"error": str(error)})
        return 2
    sys.stdout.write(json.dumps([asdict(each) for each in outcomes]) + "\n")
    return 0 if all(each.version is not None or each.left is not None for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
