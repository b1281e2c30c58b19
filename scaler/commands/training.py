"""`train`: the daemon's history, or a trace, handed to the training job, and what became of it.

It decides what is trained on, where the fits run, and how the result is told. It never fits anything itself: that is
done by worker processes or a Ray cluster, so this process loads neither torch nor statsmodels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scaler.commands.printing import Output, put, put_json, put_table, say
from scaler.commands.training_progress import telling
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.fits import Progress
    from forecaster.train import Outcome

NAMED = 3
"""Series that a line about failures names; all of them are in the JSON."""
INTERRUPTED = 130
ENGINES = ("local", "ray")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the fits run, on what and for how long; a usage error where the options contradict each other."""

    engine: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    budget: timedelta | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for option, value, names in (("--engine", self.engine, ENGINES), ("--device", self.device, DEVICES)):
            if value not in names:
                raise typer.BadParameter(f"must be {' or '.join(names)}, got {value!r}", param_hint=option)
        if self.ray_address is not None and self.engine != "ray":
            raise typer.BadParameter("only goes with --engine ray", param_hint="--ray-address")
        if self.workers is not None and self.engine != "local":
            raise typer.BadParameter("only goes with --engine local: a cluster has its own", param_hint="--workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to train, on what, and where the result goes."""

    data_dir: Path
    trace: Path | None = None
    models: tuple[str, ...] | None = None
    days: int = 14
    """More history adds nothing: the gain was measured to end there."""
    seed: int = 1
    promote: bool = True
    fresh: bool = False


def train(job: Job, place: Place, output: Output) -> int:
    """Run the job and print what became of each model.

    Answers 0 if one passed its examination or the budget left something, 3 if none passed, 1 if one could not be
    fitted, 130 after Ctrl-C.
    """
    try:
        with telling(output) as tell:
            outcomes = _trained(job, place, tell)
    except KeyboardInterrupt:
        say("interrupted; what was fitted is kept, and the same command goes on from here")
        return INTERRUPTED
    if output is Output.JSON:
        put_json({"apiVersion": "headstart/v1", "kind": "Training", "models": [asdict(each) for each in outcomes]})
    else:
        _put(outcomes)
    if any(each.version is None and each.left is None for each in outcomes):
        return 1
    return 0 if any(each.passed or each.left is not None for each in outcomes) else 3


def _trained(job: Job, place: Place, tell: Progress) -> tuple[Outcome, ...]:
    from forecaster.fits import Device
    from forecaster.panels import read_panel
    from forecaster.train import Work, engine_for
    from forecaster.train import train as fit
    from scaler.refit_job import MODELS_FOLDER, Request, refit

    models = _wanted(job, tell)
    work = Work(
        engine=engine_for(place.engine, workers=place.workers, ray_address=place.ray_address),
        budget=place.budget,
        device=Device(place.device),
        on_event=tell,
    )
    if job.trace is not None:
        panel, root = read_panel(job.trace), job.data_dir / MODELS_FOLDER
        return fit(panel, out=root, seed=job.seed, models=models, promote=job.promote, work=work)
    request = Request(models=models, days=job.days, seed=job.seed, promote=job.promote, fresh=job.fresh)
    return refit(job.data_dir, request, now=datetime.now(UTC), work=work)


def _wanted(job: Job, tell: Progress) -> tuple[str, ...]:
    """The models that were named, or all that can be fitted here."""
    from forecaster.fits import MODELS, missing_packages
    from scaler.refit_job import fitted_here

    if job.models is None:
        return fitted_here(MODELS, tell)  # Holt-Winters at least: it needs numpy alone
    missing = [name for model in job.models if model in MODELS for name in missing_packages(model)]
    if missing:
        raise CommandError(f"this needs {', '.join(missing)}: pip install 'headstart[train]'")
    return job.models


def _put(outcomes: Sequence[Outcome]) -> None:
    rows = [
        (
            each.model,
            each.version or "–",
            _examination(each),
            each.stage or "–",
            str(each.fitted),
            str(sum(name != "*" for name in each.failed)),
            f"{each.cpu_s:.1f}",
        )
        for each in outcomes
    ]
    columns = ("MODEL", "VERSION", "EXAMINATION", "STAGE", "FITTED", "NOT FITTED", "CPU SECONDS")
    put_table(columns, rows, right=("FITTED", "NOT FITTED", "CPU SECONDS"))
    for each in outcomes:
        for line in (each.verdict, each.left, *_failures(each.failed)):
            if line:
                put(f"{each.model}: {line}")


def _examination(outcome: Outcome) -> str:
    if outcome.version is None:
        return "left" if outcome.left is not None else "–"
    return "passed" if outcome.passed else "failed"


def _failures(failed: Mapping[str, str]) -> list[str]:
    """A line for each reason, with some of the series that it stopped."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in failed.items():
        by_reason[reason].append(name)
    lines = []
    for reason, names in by_reason.items():
        if names == ["*"]:
            lines.append(reason)
            continue
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"not fitted: {', '.join(names[:NAMED])}{more}: {reason}")
    return lines
