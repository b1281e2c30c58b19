"""Retraining as a job: fit, hold the last day back as an examination, store, and take up only what passes.

    python -m forecaster.train --input panel.npz|trace.csv[.gz] --out DIR --models arima,holt-winters,trees --seed N

Runs as a job of its own, never in the daemon's process (the fits import statsmodels, LightGBM and torch). Decides
what is fitted and what is left for the next run when time is up. Where the fits run is an engine's business, whether a
model may be used the gate's (`gate.examine`), and at which stage the registry's (`registry.admit`). The same data and
seed give the same versions on every engine and after any interruption. One series that cannot be fitted is reported
and skipped; progress goes to stderr as one JSON object a line, the report to stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from forecaster import gate, registry
from forecaster.engines import HERE, Engine, Pool, usable_cores
from forecaster.errors import ArtefactError, ForecasterError, SeriesError, TrainingError
from forecaster.fits import MODELS, POOLED, Device, Fitted, Part, Progress, merged, parts_of
from forecaster.models.stored import KINDS, network_bytes
from forecaster.on_ray import Ray
from forecaster.panels import read_panel, write_panel
from forecaster.preprocess import DAY, bins_in, up_to
from forecaster.stages import Stage
from forecaster.types import Forecaster, Panel
from forecaster.unfinished import Kept, working_in

__all__ = ["MODELS", "Outcome", "Work", "engine_for", "pretrain", "read_panel", "say_event", "train", "write_panel"]

HELD_OUT = DAY
"""The examination: the last day of the panel, which no fit sees."""
SHIPPED_WORKLOADS = 512
"""Synthetic workloads behind each of the networks that the shipped one is made of; it learns on twice as many."""
SHIPPED_TEACHERS = 3
SHIPPED_STEPS = 20_000
"""Steps of each. A site's own network takes a quarter (`Schedule`), and is judged against the shipped one first."""


def _silent(_name: str, _facts: Mapping[str, Any]) -> None:
    """Nobody listens."""


class Examine(Protocol):
    """Judges a candidate against what is live in its place, on the days that no fit saw: `gate.examine`."""

    def __call__(
        self, candidate: Forecaster, incumbent: Forecaster | None, panel: Panel, *, held_out: timedelta
    ) -> gate.Verdict: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How a training is carried out: where, for how long, on which device, who judges and who is told.

    `budget` is the wall-clock time for the fits, endless if None; `steps` shortens the training of pooled models.
    """

    engine: Engine = HERE
    budget: timedelta | None = None
    device: Device = Device.AUTO
    steps: int | None = None
    examine: Examine = gate.examine
    on_event: Progress = _silent


UNHURRIED = Work()
"""In this process, to the end, without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one model.

    `version` is None if nothing could be fitted, or if it is unfinished: then `left` says what the next run will do.
    `stage` is what it is used for now (`stages.Stage`), `verdict` the examination's in words; `failed` says by series
    why it was not fitted ("*": the whole model); `cpu_s` is the processor time of its fits, also of those that an
    earlier run did.
    """

    model: str
    fitted: int
    failed: Mapping[str, str]
    cpu_s: float
    version: str | None = None
    stage: str | None = None
    promoted: bool = False
    passed: bool = False
    verdict: str = ""
    left: str | None = None


def train(
    panel: Panel,
    *,
    out: Path,
    seed: int,
    models: Sequence[str] = MODELS,
    promote: bool = True,
    work: Work = UNHURRIED,
    now: datetime | None = None,
) -> tuple[Outcome, ...]:
    """Fit `models` on all but the last day of `panel`, examine them on it, store them under `out`.

    A model that passes is taken up if `promote`: it goes live where its family has no live version, else into shadow
    for a day. One that fails is stored for comparison and stays off. One model's failure does not stop the others.
    `now` is the moment that goes on record, this one unless given. What is not finished when the budget is spent, or
    when the job is killed, goes on in the next call with the same panel and seed. Raises `SeriesError` for an unknown
    model or a panel of two days or less, `TrainingError` if another training works in `out` or the engine is not to
    be had.
    """
    unknown = set(models) - set(MODELS)
    if unknown:
        raise SeriesError(f"cannot train {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    known = up_to(panel, panel.end - HELD_OUT)
    if known.values.shape[1] < bins_in(DAY, panel.step):
        raise SeriesError(
            f"training needs over two days, got {panel.step * panel.values.shape[1]} for {panel.keys[:1]}"
        )
    parts = {model: parts_of(model, known, seed=seed, steps=work.steps, device=work.device) for model in models}
    order = _Order(
        panel=panel, known=known, out=out, seed=seed, promote=promote, work=work, now=now or datetime.now(UTC)
    )
    with working_in(out) as kept:
        fitted = _fit(parts, kept, work)
        outcomes = []
        for model, each in parts.items():
            done = [fitted[part.digest] for part in each if part.digest in fitted]
            outcome = _finished(model, each, done, order)
            work.on_event("model_done", asdict(outcome))
            outcomes.append(outcome)
        if all(outcome.left is None for outcome in outcomes):
            kept.forget(part for each in parts.values() for part in each)
    return tuple(outcomes)


# ── The fits ──────────────────────────────────────────────────────────────────────────────────────────────────


def _fit(parts: Mapping[str, Sequence[Part]], kept: Kept, work: Work) -> dict[str, Fitted]:
    """Every part's result by digest: those that were kept, and those that the engine fits within the budget."""
    until_s = None if work.budget is None else time.monotonic() + work.budget.total_seconds()
    everything = [part for each in parts.values() for part in each]
    fitted = kept.fitted(everything)
    tally = _Tally(parts, work.on_event)
    for model, each in parts.items():
        before = sum(len(part.panel.keys) for part in each if part.digest in fitted)
        facts = {"model": model, "series": sum(len(part.panel.keys) for part in each), "kept": before}
        work.on_event("model_started", facts)
    for one in fitted.values():
        tally.kept(one)
    todo = [part for part in everything if part.digest not in fitted]
    with closing(work.engine.run(todo, until_s=until_s, progress=work.on_event)) as run:
        for one in run:
            kept.keep(one)
            fitted[one.digest] = one
            tally.add(one)
    return fitted


class _Tally:
    """Tells, series by series, what is fitted and what is not."""

    def __init__(self, parts: Mapping[str, Sequence[Part]], on_event: Progress) -> None:
        self._of = {model: sum(len(part.panel.keys) for part in each) for model, each in parts.items()}
        self._done = dict.fromkeys(parts, 0)
        self._on_event = on_event

    def kept(self, one: Fitted) -> None:
        """A part that an earlier run has told of."""
        self._done[one.model] += len(one.series)

    def add(self, one: Fitted) -> None:
        """A part that has just been fitted."""
        for name, reason in one.failed.items():
            self._on_event("series_failed", {"model": one.model, "workload": name, "error": reason})
        for name in one.series:
            self._done[one.model] += 1
            facts = {"model": one.model, "workload": name, "done": self._done[one.model], "of": self._of[one.model]}
            self._on_event("series_done", facts)


# ── The examination ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What the fits of one job have in common."""

    panel: Panel
    known: Panel
    out: Path
    seed: int
    promote: bool
    work: Work
    now: datetime


def _finished(model: str, parts: Sequence[Part], fitted: Sequence[Fitted], order: _Order) -> Outcome:
    """Examine, store and take up `model` if all its parts are there, else say what is left."""
    failed = {name: reason for one in fitted for name, reason in one.failed.items()}
    outcome = Outcome(
        model=model,
        fitted=sum(len(one.series) - len(one.failed) for one in fitted if one.data is not None),
        failed=failed,
        cpu_s=round(sum(one.cpu_s for one in fitted), 3),
    )
    if len(fitted) < len(parts):
        return replace(outcome, left=_left(model, fitted, order.known))
    try:
        data = merged(model, fitted)
        if data is None:
            of = len(order.known.keys)
            return replace(outcome, failed={"*": f"{model}: none of {of} series could be fitted", **failed})
        verdict = _examined(model, data, order)
        report = {**_facts_of(fitted), "fitted": outcome.fitted, "passed": verdict.passed, "verdict": verdict.reason}
        version = _stored(model, data, {**report, "examination": dict(verdict.report)}, order)
    except (ForecasterError, ValueError) as error:  # ValueError: bytes of a part that make no model
        return replace(outcome, failed={"*": str(error), **failed})
    stage = Stage.STORED
    if verdict.passed and order.promote:
        stage = registry.admit(order.out, model, version, reason=verdict.reason, now=order.now)
    return replace(
        outcome,
        version=version,
        stage=stage.value,
        promoted=stage is Stage.LIVE,
        passed=verdict.passed,
        verdict=verdict.reason,
    )


def _left(model: str, fitted: Sequence[Fitted], known: Panel) -> str:
    if model in POOLED:
        return "the budget was spent before its fit had ended: the next run begins it first"
    done = sum(len(one.series) for one in fitted)
    return f"the budget was spent with {done} of {len(known.keys)} series fitted: the next run goes on from there"


def _facts_of(fitted: Sequence[Fitted]) -> dict[str, Any]:
    return {name: value for one in fitted for name, value in one.report.items()}


def _examined(model: str, data: bytes, order: _Order) -> gate.Verdict:
    """The gate's verdict on the fitted bytes, as the daemon would read them. Raises `ValueError` if it could not."""
    candidate = KINDS[model].build(data, f"{model}@candidate")
    incumbent = _incumbent(model, data, order)
    order.work.on_event("examining", {"model": model, "incumbent": incumbent.model_id if incumbent else None})
    try:
        return order.work.examine(candidate, incumbent, order.panel, held_out=HELD_OUT)
    except SeriesError as error:  # nothing to be judged on: it stays off
        return gate.Verdict(passed=False, reason=str(error), report={})


def _incumbent(model: str, data: bytes, order: _Order) -> Forecaster | None:
    """What is live in the candidate's place and may be compared: not itself, and nothing that saw the day held back."""
    step_s = order.panel.step.total_seconds()
    try:
        manifest, _ = registry.read(order.out, model, step_s=step_s)
        if manifest.sha256 == hashlib.sha256(data).hexdigest():
            return None
        if manifest.span.start < order.panel.end and manifest.span.end > order.known.end:
            return None
        return registry.load(order.out, model, step=order.panel.step)
    except ArtefactError:  # there is none, or the daemon refuses it too
        return None


def _stored(model: str, data: bytes, report: Mapping[str, Any], order: _Order) -> str:
    known = order.known
    span = registry.DataSpan(start=known.start, end=known.end, series=len(known.keys))
    folder = registry.save(order.out, model, data, span=span, seed=order.seed, report=report, step=known.step)
    return folder.name


# ── The shipped network ───────────────────────────────────────────────────────────────────────────────────────


def pretrain(
    out: Path,
    *,
    seed: int,
    workloads: int = SHIPPED_WORKLOADS,
    steps: int | None = None,
    on_event: Progress = _silent,
) -> Path:
    """Train the network that is shipped, on synthetic traffic alone, and make it live under `out`; its folder.

    Several are trained, each on a fleet of its own, and one learns to say what they say on average.
    """
    from forecaster.fitting.neural.lstm import Schedule, distil_lstm, train_lstm
    from forecaster.fitting.neural.pretrain import training_fleet

    teaching = Schedule(steps=SHIPPED_STEPS if steps is None else steps)
    learning = Schedule(steps=teaching.steps * 3 // 5, learning_rate=teaching.learning_rate / 2)
    of = SHIPPED_TEACHERS * teaching.steps + learning.steps

    def told(before: int) -> Callable[[int, float], None]:
        return lambda step, loss: on_event("network_step", {"step": before + step, "of": of, "loss": loss})

    teachers = [
        train_lstm(
            training_fleet(workloads=workloads, seed=seed + number),
            seed=seed + number,
            schedule=teaching,
            progress=told(number * teaching.steps),
        )
        for number in range(SHIPPED_TEACHERS)
    ]
    fleet = training_fleet(workloads=2 * workloads, seed=seed + SHIPPED_TEACHERS)
    weights = distil_lstm(teachers, fleet, seed=seed, schedule=learning, progress=told(of - learning.steps))
    span = registry.DataSpan(start=fleet[0].start, end=fleet[0].end, series=len(fleet))
    report = {"data": "synthetic", "steps": of, "batch": teaching.batch, "teachers": SHIPPED_TEACHERS}
    folder = registry.save(out, "lstm", network_bytes(weights), span=span, seed=seed, report=report)
    registry.promote(out, "lstm", folder.name)
    return folder


# ── Command line ──────────────────────────────────────────────────────────────────────────────────────────────


def engine_for(name: str, *, workers: int | None = None, ray_address: str | None = None) -> Engine:
    """The engine called `name`, "local" or "ray"; `workers` are a local pool's, one a usable processor unless given."""
    if name == "ray":
        return Ray(address=ray_address)
    if name != "local":
        raise TrainingError(f"there is no engine {name!r}: local or ray")
    return Pool(workers=workers if workers is not None else usable_cores())


def main(arguments: Sequence[str] | None = None) -> int:
    """The job's command line: exit 0 if nothing failed (what the budget left included), 1 if a model could not be
    fitted, 2 if the input is unusable, 130 if it was interrupted."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.pretrain == (given.input is not None):
        parser.error("give either --input or --pretrain")
    try:
        if given.pretrain:
            sys.stdout.write(f"{pretrain(given.out, seed=given.seed, steps=given.steps, on_event=say_event)}\n")
            return 0
        outcomes = train(
            read_panel(given.input, column=given.column),
            out=given.out,
            seed=given.seed,
            models=tuple(given.models.split(",")),
            promote=not given.no_promote,
            work=Work(
                engine=engine_for(given.engine, workers=given.workers, ray_address=given.ray_address),
                budget=None if given.budget_s is None else timedelta(seconds=given.budget_s),
                device=Device(given.device),
                steps=given.steps,
                on_event=say_event,
            ),
        )
    except ForecasterError as error:
        say_event("refused", {"error": str(error)})
        return 2
    except KeyboardInterrupt:
        say_event("interrupted", {"next": "the same command goes on from here"})
        return 130
    sys.stdout.write(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    return 0 if all(one.version is not None or one.left is not None for one in outcomes) else 1


def say_event(name: str, facts: Mapping[str, Any]) -> None:
    """An event as one JSON object a line on stderr, for machines."""
    sys.stderr.write(json.dumps({"event": name, **facts}) + "\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m forecaster.train", description=__doc__)
    parser.add_argument("--input", type=Path, help="panel (.npz) or trace (.csv, .csv.gz)")
    parser.add_argument("--pretrain", action="store_true", help="make the shipped network, from synthetic traffic")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--column")
    parser.add_argument("--steps", type=int, help="training steps of the network, most trees of a level")
    parser.add_argument("--no-promote", action="store_true")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--workers", type=int, help="processes of the local engine; one a processor")
    parser.add_argument("--ray-address", help="the cluster; one of this machine alone if not given")
    parser.add_argument("--budget-s", type=float, help="seconds for the fits; the rest is left for the next run")
    parser.add_argument("--device", choices=[each.value for each in Device], default=Device.AUTO.value)
    return parser


if __name__ == "__main__":
    sys.exit(main())
