"""`train`: the daemon's history, or a trace, handed to the training job in a process of its own.

It decides which part of the history is trained on and what the result looks like. It never fits anything itself: the
job imports torch and statsmodels, this process must not.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scaler.commands.printing import Output, put, put_json, put_table
from scaler.errors import CommandError

TRAIN_PACKAGES = ("torch", "statsmodels")
"""What the `train` extra brings, as far as the job imports it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, on what, and where the result goes."""

    data_dir: Path
    trace: Path | None = None
    models: str | None = None
    days: int = 14
    """More history adds nothing: the gain was measured to end there."""
    seed: int = 1
    promote: bool = True


def train(job: Job, output: Output) -> int:
    """Run the job and print each model's result; 0 if one passed its examination, 3 if none did, 1 if one failed."""
    missing = [name for name in TRAIN_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"this needs {', '.join(missing)}: pip install 'headstart[train]'")
    with tempfile.TemporaryDirectory(prefix="headstart-train-") as folder:
        panel = job.trace or _history(job, Path(folder) / "history.npz")
        done = subprocess.run(_command(job, panel), stdout=subprocess.PIPE, text=True, check=False)
    outcomes = _outcomes(done.stdout)
    if outcomes is None:
        raise CommandError(f"the training job ended with exit code {done.returncode}; its last lines say why")
    if output is Output.JSON:
        put_json({"apiVersion": "headstart/v1", "kind": "Training", "models": outcomes})
    else:
        _put(outcomes)
    if done.returncode:
        return 1
    return 0 if any(_passed(each) for each in outcomes) else 3


def _command(job: Job, panel: Path) -> list[str]:
    command = [sys.executable, "-m", "forecaster.train", "--input", str(panel), "--out", str(job.data_dir / "models")]
    command += ["--seed", str(job.seed)]
    if job.models is not None:
        command += ["--models", job.models]
    return command if job.promote else [*command, "--no-promote"]


def _history(job: Job, file: Path) -> Path:
    """The last days of demand of every workload, as the file that the job reads."""
    from forecaster.registry import DEMAND
    from forecaster.sources.history import HistoryStore
    from forecaster.train import write_panel
    from forecaster.types import STEP, floor_to_step
    from scaler.adapters.store import FILE_NAME

    store_file = job.data_dir / FILE_NAME
    if not store_file.is_file():
        raise CommandError(f"there is no data file {store_file}; name the daemon's data folder, or a --trace")
    now = datetime.now(UTC)
    with HistoryStore.open(store_file, now=now, read_only=True) as store:
        keys = [key for key in sorted(store.keys()) if key.signal == DEMAND]
        spans = [span for key in keys if (span := store.span(key)) is not None]
        if not spans:
            raise CommandError(f"the history in {store_file} holds no demand yet; training needs over two days of it")
        end = max(span[1] for span in spans) + STEP
        start = max(min(span[0] for span in spans), end - timedelta(days=job.days))
        write_panel(file, store.read(keys, start=floor_to_step(start), end=end))
    return file


def _outcomes(text: str) -> list[dict[str, Any]] | None:
    """The job's report; None if it ended without one. A loss that is no number (nothing to compare) becomes null."""
    try:
        outcomes = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return None
    return outcomes if isinstance(outcomes, list) else None


def _passed(outcome: dict[str, Any]) -> bool:
    ratio = outcome["loss_ratio"]
    return ratio is not None and ratio < 1.0


def _put(outcomes: Sequence[dict[str, Any]]) -> None:
    rows = [
        (
            each["model"],
            each["version"] or "–",
            "–" if each["loss_ratio"] is None else f"{each['loss_ratio']:.3f}",
            "passed" if _passed(each) else "failed",
            "yes" if each["promoted"] else "no",
            str(each["fitted"]),
            str(len(each["failed"])),
            f"{each['seconds']:.0f}",
        )
        for each in outcomes
    ]
    columns = ("MODEL", "VERSION", "LOSS / LAST VALUE", "EXAMINATION", "LIVE NOW", "FITTED", "NOT FITTED", "SECONDS")
    put_table(columns, rows, right=("LOSS / LAST VALUE", "FITTED", "NOT FITTED", "SECONDS"))
    for each in outcomes:
        for series, error in list(each["failed"].items())[:10]:
            put(f"{each['model']}: {series}: {error}")
