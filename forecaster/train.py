"""Retraining as a job: fit, hold the last day back as an examination, store, and promote only what passes.

    python -m forecaster.train --input panel.npz|trace.csv[.gz] --out DIR --models arima,holt-winters,trees --seed N

Runs as a child process or by hand, never in the daemon's process (it imports statsmodels, LightGBM and torch). Decides
whether a fitted model may go live: its pinball loss over the held-out day must be below last value's. One series that
cannot be fitted is reported and skipped; progress goes to stderr as one JSON object a line, the report to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster import registry
from forecaster.errors import ForecasterError, SeriesError
from forecaster.models.quantiles import pinball
from forecaster.models.seasonal import LastValue
from forecaster.models.stored import arima_bytes, holt_winters_bytes, network_bytes, trees_bytes
from forecaster.models.tracking import Track, follow, is_tracking
from forecaster.preprocess import DAY, bins_in, up_to
from forecaster.trace import read_trace
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, Series, SeriesKey

if TYPE_CHECKING:
    from forecaster.types import FloatArray

MODELS = ("holt-winters", "trees", "arima", "lstm")
"""What can be trained, cheapest first."""
HELD_OUT = DAY
"""The examination: the last day of the panel, which no fit sees."""
EXAMINED_EVERY = timedelta(minutes=15)
PASS_RATIO = 1.0
"""Loss over last value's below which a model may go live."""
FLEET_WORKLOADS = 48
"""Synthetic workloads that the pooled models are also shown: a single short series starves them."""
SHIPPED_WORKLOADS = 128
"""Synthetic workloads behind the network that is shipped."""

Event = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of an event and its facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one model: `version` is None if nothing could be fitted, `loss_ratio` is against last value."""

    model: str
    version: str | None
    promoted: bool
    loss_ratio: float
    fitted: int
    failed: Mapping[str, str]
    seconds: float


def train(
    panel: Panel,
    *,
    out: Path,
    seed: int,
    models: Sequence[str] = MODELS,
    promote: bool = True,
    on_event: Event = lambda _name, _facts: None,
    steps: int | None = None,
) -> tuple[Outcome, ...]:
    """Fit `models` on all but the last day of `panel`, examine them on it, store them under `out`.

    A model that passes becomes the live version if `promote`; one that fails is stored for comparison and stays off.
    `steps` shortens the training of the pooled models. One model's failure does not stop the others. Raises
    `SeriesError` for an unknown model or a panel of two days or less.
    """
    unknown = set(models) - set(MODELS)
    if unknown:
        raise SeriesError(f"cannot train {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    known = up_to(panel, panel.end - HELD_OUT)
    if known.values.shape[1] < bins_in(DAY, panel.step):
        raise SeriesError(
            f"training needs over two days, got {panel.step * panel.values.shape[1]} for {panel.keys[:1]}"
        )
    outcomes = []
    for model in models:
        on_event("model_started", {"model": model, "series": len(panel.keys)})
        outcome = _train_one(model, panel, known, out=out, seed=seed, promote=promote, on_event=on_event, steps=steps)
        on_event("model_done", asdict(outcome))
        outcomes.append(outcome)
    return tuple(outcomes)


def _train_one(
    model: str,
    panel: Panel,
    known: Panel,
    *,
    out: Path,
    seed: int,
    promote: bool,
    on_event: Event,
    steps: int | None,
) -> Outcome:
    started = time.monotonic()
    failed: dict[str, str] = {}

    def report_failure(key: SeriesKey, error: ForecasterError) -> None:
        failed[f"{key.workload}/{key.request_class}"] = str(error)
        on_event("series_failed", {"model": model, "workload": key.workload, "error": str(error)})

    version, member, fitted = None, None, 0
    try:
        folder, fitted = _FITS[model](known, out, seed, report_failure, on_event, steps)
        version = folder.name
        member = registry.load(out, model, version=version, step=panel.step)
    except ForecasterError as error:
        failed["*"] = str(error)
    ratio = loss_ratio(member, panel, held_out=HELD_OUT) if member is not None else float("nan")
    passed = bool(ratio < PASS_RATIO)
    if version is not None and passed and promote:
        registry.promote(out, model, version)
    return Outcome(
        model=model,
        version=version,
        promoted=passed and promote,
        loss_ratio=ratio,
        fitted=fitted,
        failed=failed,
        seconds=time.monotonic() - started,
    )


# ── The fits ──────────────────────────────────────────────────────────────────────────────────────────────────

_Failure = Callable[[SeriesKey, ForecasterError], None]
_Fit = Callable[[Panel, Path, int, _Failure, Event, int | None], tuple[Path, int]]


def _each(
    panel: Panel, fit: Callable[[Series], Any], failure: _Failure, on_event: Event, model: str
) -> dict[SeriesKey, Any]:
    """`fit` on every series; what cannot be fitted is handed to `failure` and left out."""
    fitted = {}
    for number, key in enumerate(panel.keys, start=1):
        try:
            fitted[key] = fit(panel.series(key))
        except ForecasterError as error:
            failure(key, error)
        on_event("series_done", {"model": model, "workload": key.workload, "done": number, "of": len(panel.keys)})
    if not fitted:
        raise SeriesError(f"{model}: none of {len(panel.keys)} series could be fitted")
    return fitted


def _fit_arima(
    panel: Panel, out: Path, seed: int, failure: _Failure, on_event: Event, steps: int | None
) -> tuple[Path, int]:
    from forecaster.fitting.arima import fit_arima

    fitted = _each(panel, fit_arima, failure, on_event, "arima")
    return _stored(out, "arima", arima_bytes(fitted), panel, seed, {"series": len(fitted)}), len(fitted)


def _fit_holt_winters(
    panel: Panel, out: Path, seed: int, failure: _Failure, on_event: Event, steps: int | None
) -> tuple[Path, int]:
    from forecaster.fitting.holt_winters import fit_holt_winters

    fitted = _each(panel, fit_holt_winters, failure, on_event, "holt-winters")
    return _stored(out, "holt-winters", holt_winters_bytes(fitted), panel, seed, {"series": len(fitted)}), len(fitted)


def _fit_lstm(
    panel: Panel, out: Path, seed: int, failure: _Failure, on_event: Event, steps: int | None
) -> tuple[Path, int]:
    from forecaster.fitting.neural.lstm import Schedule, train_lstm
    from forecaster.fitting.neural.pretrain import training_fleet

    if panel.step != STEP:
        raise SeriesError(f"the network is made for bins of {STEP}, got {panel.step}")
    schedule = Schedule() if steps is None else Schedule(steps=steps)
    own = [panel.series(key) for key in panel.keys]
    weights = train_lstm(
        [*own, *training_fleet(workloads=FLEET_WORKLOADS, seed=seed)],
        seed=seed,
        schedule=schedule,
        progress=lambda step, loss: on_event("network_step", {"step": step, "of": schedule.steps, "loss": loss}),
    )
    report = {"steps": schedule.steps, "synthetic_workloads": FLEET_WORKLOADS}
    return _stored(out, "lstm", network_bytes(weights), panel, seed, report), len(own)


def _fit_trees(
    panel: Panel, out: Path, seed: int, failure: _Failure, on_event: Event, steps: int | None
) -> tuple[Path, int]:
    from forecaster.fitting.neural.pretrain import training_fleet
    from forecaster.fitting.trees import Growth, fit_trees

    growth = Growth() if steps is None else Growth(trees_per_level=min(steps, Growth().trees_per_level))
    own = [panel.series(key) for key in panel.keys]
    arrays = fit_trees(
        own,
        fleet=training_fleet(workloads=FLEET_WORKLOADS, seed=seed),
        seed=seed,
        growth=growth,
        progress=lambda done, of: on_event("trees_level", {"done": done, "of": of}),
    )
    report = {"trees": int(arrays["tree.level"].size), "synthetic_workloads": FLEET_WORKLOADS}
    return _stored(out, "trees", trees_bytes(arrays), panel, seed, report), len(own)


_FITS: Mapping[str, _Fit] = {
    "arima": _fit_arima,
    "holt-winters": _fit_holt_winters,
    "lstm": _fit_lstm,
    "trees": _fit_trees,
}


def _stored(out: Path, model: str, data: bytes, panel: Panel, seed: int, report: Mapping[str, Any]) -> Path:
    span = registry.DataSpan(start=panel.start, end=panel.end, series=len(panel.keys))
    return registry.save(out, model, data, span=span, seed=seed, report=report, step=panel.step)


def pretrain(
    out: Path,
    *,
    seed: int,
    workloads: int = SHIPPED_WORKLOADS,
    steps: int | None = None,
    on_event: Event = lambda _name, _facts: None,
) -> Path:
    """Train the network that is shipped, on synthetic traffic alone, and make it live under `out`; its folder."""
    from forecaster.fitting.neural.lstm import Schedule, train_lstm
    from forecaster.fitting.neural.pretrain import training_fleet

    schedule = Schedule() if steps is None else Schedule(steps=steps)
    fleet = training_fleet(workloads=workloads, seed=seed)
    weights = train_lstm(
        fleet,
        seed=seed,
        schedule=schedule,
        progress=lambda step, loss: on_event("network_step", {"step": step, "of": schedule.steps, "loss": loss}),
    )
    span = registry.DataSpan(start=fleet[0].start, end=fleet[0].end, series=len(fleet))
    report = {"data": "synthetic", "steps": schedule.steps, "batch": schedule.batch}
    folder = registry.save(out, "lstm", network_bytes(weights), span=span, seed=seed, report=report)
    registry.promote(out, "lstm", folder.name)
    return folder


# ── The examination ───────────────────────────────────────────────────────────────────────────────────────────


def loss_ratio(member: Forecaster, panel: Panel, *, held_out: timedelta = HELD_OUT) -> float:
    """Pinball loss over the panel's last `held_out` against last value's: the mean over series of their quotients.

    Only series on which the member speaks count, and only origins at which both do; NaN where there is none.
    """
    stride, bins = bins_in(EXAMINED_EVERY, panel.step), panel.values.shape[1]
    losses = np.zeros((2, len(panel.keys)))
    track: Track | None = None
    horizons = np.array(HORIZONS)
    for origin in range(bins - bins_in(held_out, panel.step), bins - HORIZONS[-1], stride):
        known = up_to(panel, panel.start + panel.step * origin)
        said, track = _asked(member, known, track)
        naive = LastValue().predict(known)
        actual = panel.values[:, origin + horizons - 1]
        pair = np.stack([pinball(actual, said), pinball(actual, naive)])
        losses += np.where(np.isfinite(pair).all(axis=0), pair, 0.0).sum(axis=2)
    counted = losses[1] > 0.0
    return float((losses[0, counted] / losses[1, counted]).mean()) if counted.any() else float("nan")


def _asked(member: Forecaster, known: Panel, track: Track | None) -> tuple[FloatArray, Track | None]:
    if not is_tracking(member):
        return member.predict(known), None
    followed = follow(member, track, known, horizons=HORIZONS, reach=bins_in(DAY, known.step))
    return member.predict_from(followed, known), followed


# ── Panels on disk ────────────────────────────────────────────────────────────────────────────────────────────


def write_panel(path: Path, panel: Panel) -> None:
    """`panel` as an archive of plain arrays, for a child process to read."""
    keys = [[key.workload, key.signal, key.request_class] for key in panel.keys]
    with path.open("wb") as stream:
        np.savez_compressed(
            stream,
            keys=np.array(keys, dtype=np.str_).reshape(-1, 3),
            start=np.array(panel.start.isoformat()),
            step_s=np.array(panel.step.total_seconds()),
            values=panel.values,
        )


def read_panel(path: Path, *, column: str | None = None) -> Panel:
    """A panel from `write_panel`'s archive, or from a trace in CSV (plain or gzip), one series "trace/<name>".

    A trace is read by `trace.read_trace`; `column` picks one of its columns. Raises `SeriesError` saying what is wrong.
    """
    if path.suffix != ".npz":
        trace = read_trace(path, column=column)
        key = SeriesKey(workload=f"trace/{trace.name}", signal=registry.DEMAND)
        series = trace.series
        return Panel(keys=(key,), start=series.start, step=series.step, values=series.values[None, :])
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Panel(
                keys=tuple(
                    SeriesKey(workload=one, signal=two, request_class=three)
                    for one, two, three in stored["keys"].tolist()
                ),
                start=datetime.fromisoformat(str(stored["start"])).astimezone(UTC),
                step=timedelta(seconds=float(stored["step_s"])),
                values=np.asarray(stored["values"], dtype=np.float64),
            )
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise SeriesError(f"cannot read {path.name} as a panel: {error}") from error


# ── Command line ──────────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str] | None = None) -> int:
    """The job's command line; exit 0 if every model was fitted, 1 if one was not, 2 if the input is unusable."""
    parser = argparse.ArgumentParser(prog="python -m forecaster.train", description=__doc__)
    parser.add_argument("--input", type=Path, help="panel (.npz) or trace (.csv, .csv.gz)")
    parser.add_argument("--pretrain", action="store_true", help="make the shipped network, from synthetic traffic")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--column")
    parser.add_argument("--steps", type=int, help="training steps of the network, most trees of a level")
    parser.add_argument("--no-promote", action="store_true")
    given = parser.parse_args(arguments)

    def on_event(name: str, facts: Mapping[str, Any]) -> None:
        sys.stderr.write(json.dumps({"event": name, **facts}) + "\n")
        sys.stderr.flush()

    if given.pretrain == (given.input is not None):
        parser.error("give either --input or --pretrain")
    try:
        if given.pretrain:
            sys.stdout.write(f"{pretrain(given.out, seed=given.seed, steps=given.steps, on_event=on_event)}\n")
            return 0
        outcomes = train(
            read_panel(given.input, column=given.column),
            out=given.out,
            seed=given.seed,
            models=tuple(given.models.split(",")),
            promote=not given.no_promote,
            on_event=on_event,
            steps=given.steps,
        )
    except ForecasterError as error:
        on_event("refused", {"error": str(error)})
        return 2
    sys.stdout.write(json.dumps([asdict(one) for one in outcomes], indent=2) + "\n")
    return 0 if all(one.version is not None for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
