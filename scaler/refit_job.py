"""The refit's own process: reads the history, fits, examines, promotes what passes. Never imported by the daemon.

    python -m scaler.refit_job DATA_FOLDER [arima,holt-winters]

Without names it fits everything that can be fitted here; trees only where LightGBM is installed.

A process of its own, so that what fitting loads (hundreds of MB) and what it breaks stays out of the daemon's. It
opens the data file for reading only; models are put in place by an atomic rename.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster import train
from forecaster.errors import ForecasterError
from forecaster.levels import level_shifts, levelled
from forecaster.sources.history import HistoryStore
from forecaster.types import floor_to_step
from scaler.adapters.demand import KNOWN_BLOB, known_from_bytes, usual_demand
from scaler.adapters.intake import DEMAND
from scaler.adapters.store import FILE_NAME, read_blob
from scaler.policy.scheduled import ScheduledRule

MODELS_FOLDER = "models"
"""Where a site's own models lie in its data folder."""

SPAN = timedelta(days=14)
"""More history adds nothing (9-evaluation: the gain saturates at 14 days)."""

SEED = 1


def refit(folder: Path, models: Sequence[str], *, now: datetime) -> tuple[train.Outcome, ...]:
    """Fit `models` on the stored demand of the last `SPAN`. Raises `ForecasterError` where that is impossible."""
    end = floor_to_step(now)
    with HistoryStore.open(folder / FILE_NAME, now=now, read_only=True) as history:
        keys = tuple(key for key in history.keys() if key.signal == DEMAND)  # noqa: SIM118 — not a dict
        spans = [span for key in keys if (span := history.span(key)) is not None]
        start = max(min((first for first, _ in spans), default=end), end - SPAN)
        panel = usual_demand(history, keys, start=start, end=end, known=_known(folder))
    shifts = level_shifts(panel)
    for shift in shifts:
        workload = {"workload": shift.key.workload, "request_class": shift.key.request_class}
        _say("level_shift", {**workload, "since": shift.since.isoformat(), "ratio": round(shift.ratio, 2)})
    panel = levelled(panel, shifts)
    return train.train(panel, out=folder / MODELS_FOLDER, seed=SEED, models=models, on_event=_say)


def _known(folder: Path) -> Mapping[str, ScheduledRule]:
    """What the daemon knew in advance when it started; nothing where no daemon has run."""
    stored = read_blob(folder / FILE_NAME, KNOWN_BLOB)
    return {} if stored is None else known_from_bytes(stored[0])


def fitted_here(models: Sequence[str]) -> tuple[str, ...]:
    """`models` without the trees where LightGBM is not installed: the job would fail every night for one family."""
    if "trees" not in models or importlib.util.find_spec("lightgbm") is not None:
        return tuple(models)
    _say("model_skipped", {"model": "trees", "reason": "LightGBM is not installed: pip install 'headstart[train]'"})
    return tuple(model for model in models if model != "trees")


def _say(event: str, facts: Mapping[str, Any]) -> None:
    sys.stderr.write(json.dumps({"event": event, **facts}) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Exit 0 if every model was fitted, 1 if one was not, 2 if the history is no use."""
    folder, models = Path(arguments[0]), fitted_here(tuple(arguments[1].split(",")) if arguments[1:] else train.MODELS)
    try:
        outcomes = refit(folder, models, now=datetime.now(UTC))
    except ForecasterError as error:
        _say("refused", {"error": str(error)})
        return 2
    sys.stdout.write(json.dumps([asdict(each) for each in outcomes]) + "\n")
    return 0 if all(each.version is not None for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
