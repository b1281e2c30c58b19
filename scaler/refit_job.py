"""The refit's own process: reads the history, fits, examines, promotes what passes. Never imported by the daemon.

    python -m scaler.refit_job DATA_FOLDER arima,holt-winters

A process of its own, so that what fitting loads (hundreds of MB) and what it breaks stays out of the daemon's. It
opens the data file for reading only; models are put in place by an atomic rename.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster import train
from forecaster.errors import ForecasterError
from forecaster.sources.history import HistoryStore
from forecaster.types import STEP, floor_to_step
from scaler.adapters.intake import DEMAND
from scaler.adapters.store import FILE_NAME

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
        panel = history.read(keys, start=start, end=end, step=STEP)
    return train.train(panel, out=folder / MODELS_FOLDER, seed=SEED, models=models, on_event=_say)


def _say(event: str, facts: Mapping[str, Any]) -> None:
    sys.stderr.write(json.dumps({"event": event, **facts}) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Exit 0 if every model was fitted, 1 if one was not, 2 if the history is no use."""
    folder, models = Path(arguments[0]), tuple(arguments[1].split(","))
    try:
        outcomes = refit(folder, models, now=datetime.now(UTC))
    except ForecasterError as error:
        _say("refused", {"error": str(error)})
        return 2
    sys.stdout.write(json.dumps([asdict(each) for each in outcomes]) + "\n")
    return 0 if all(each.version is not None for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
