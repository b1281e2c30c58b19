"""What a training is made of: parts that can be fitted anywhere, each by the same function, in any order.

`parts_of` cuts a training: a pooled family (lstm, trees) is one part that holds every series, a family with a fit a
series (holt-winters, arima) is cut into parts of `SERIES_PER_PART`. `fit_part` fits one, in this process, a worker or
on another machine; it never raises for what the data holds, says for each series why it could not be fitted, and
writes nothing. `merged` makes the artefact: the same parts give the same bytes, whoever fitted them and in whatever
order. The cut depends on the panel alone, never on how many workers there are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecaster.errors import FittingError, ForecasterError
from forecaster.models.stored import KINDS, arima_bytes, holt_winters_bytes, network_bytes, trees_bytes
from forecaster.types import STEP, Panel, Series

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODELS = ("holt-winters", "trees", "arima", "lstm")
"""What can be trained, cheapest first."""
POOLED = frozenset({"trees", "lstm"})
"""Families with one fit for all series."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "holt-winters": (),
    "trees": ("lightgbm",),
    "arima": ("statsmodels",),
    "lstm": ("torch",),
}
"""Packages a family's fit takes, all of the `train` extra."""
SERIES_PER_PART = 8
"""Some three seconds of work: little is lost with a part, and a start of 1,000 series is 125 files."""
SOURCE = ("fits.py", "fitting/**/*.py", "models/*.py", "preprocess.py", "synthetic.py", "types.py")
"""The files of this package that a fit's result can depend on."""
FLEET_WORKLOADS = 48
"""Synthetic workloads that the pooled models are also shown: a single short series starves them."""

Progress = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of an event and its facts."""


class Device(StrEnum):
    """Where networks are trained; AUTO is a GPU where torch finds one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a training that is fitted in one go.

    `panel` holds its series, `steps` shortens the training of pooled models, `digest` names all that the result
    depends on: the data, the seed, the settings, and the code that fits.
    """

    model: str
    panel: Panel
    seed: int
    steps: int | None
    device: Device
    revision: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What became of a part: its artefact (None if no series could be fitted) and, by series name, what failed.

    `failed` says "*" for the one fit of a pooled family.
    `report` is said of the model in its manifest; `cpu_s` is the processor time that the fit took.
    """

    model: str
    digest: str
    data: bytes | None
    series: tuple[str, ...]
    failed: Mapping[str, str]
    report: Mapping[str, Any] = field(default_factory=dict)
    cpu_s: float = 0.0


def missing_packages(model: str) -> tuple[str, ...]:
    """Packages that a fit of `model` takes and that are not installed here; none of them is loaded."""
    return tuple(name for name in NEEDS[model] if importlib.util.find_spec(name) is None)


# ── The cut ───────────────────────────────────────────────────────────────────────────────────────────────────


def parts_of(model: str, panel: Panel, *, seed: int, steps: int | None, device: Device) -> tuple[Part, ...]:
    """The parts of a training of `model` on `panel`, in the panel's order."""
    size = len(panel.keys) if model in POOLED else SERIES_PER_PART
    cuts = [slice(first, first + size) for first in range(0, len(panel.keys), size)]
    asked = {"model": model, "seed": seed, "steps": steps, "device": device.value, "revision": revision()}
    parts = []
    for cut in cuts:
        rows = Panel(keys=panel.keys[cut], start=panel.start, step=panel.step, values=panel.values[cut])
        digest = _digest(asked, rows)
        parts.append(
            Part(
                model=model,
                panel=rows,
                seed=seed,
                steps=steps,
                device=device,
                revision=revision(),
                digest=digest,
            )
        )
    return tuple(parts)


def names_of(panel: Panel) -> tuple[str, ...]:
    """How the series of `panel` are called in reports: "namespace/name/class"."""
    return tuple(f"{key.workload}/{key.request_class}" for key in panel.keys)


def _digest(asked: Mapping[str, Any], panel: Panel) -> str:
    keys = [[key.workload, key.signal, key.request_class] for key in panel.keys]
    grid = {"start": panel.start.isoformat(), "step_s": panel.step.total_seconds(), "keys": keys}
    text = json.dumps({**asked, **grid}, sort_keys=True)
    return hashlib.sha256(text.encode() + b"\0" + panel.values.tobytes()).hexdigest()[:32]


@cache
def revision() -> str:
    """A name for the code that fits: its own source and the versions of what it calls.

    A fit that another release left is not continued, and a machine with other versions is not asked for one.
    """
    package = Path(__file__).resolve().parent
    source = hashlib.sha256()
    for file in sorted(file for pattern in SOURCE for file in package.glob(pattern)):
        source.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    libraries = [f"{name} {_version(name)}" for name in ("numpy", "statsmodels", "lightgbm", "torch")]
    return f"forecaster {source.hexdigest()[:12]}, {', '.join(libraries)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]  # torch's "+cpu" names the build, not the release
    except metadata.PackageNotFoundError:
        return "none"


# ── The fit ───────────────────────────────────────────────────────────────────────────────────────────────────


def fit_part(part: Part, progress: Progress = lambda _name, _facts: None) -> Fitted:
    """Fit `part` here. Whatever goes wrong is said in the result, series by series: one never stops the others."""
    began = time.process_time()
    data: bytes | None = None
    failed: dict[str, str] = {}
    report: dict[str, Any] = {}
    try:
        if part.revision != revision():
            raise FittingError(f"this machine has {revision()}, the job {part.revision}: install the same everywhere")
        data, failed, report = _FITS[part.model](part, progress)
    except ForecasterError as error:
        failed = _all_failed(part, str(error))
    except Exception as error:  # a fault of ours or of a library costs this part alone, and is told in the report
        failed = _all_failed(part, f"{type(error).__name__}: {error}")
    return Fitted(
        model=part.model,
        digest=part.digest,
        data=data,
        series=names_of(part.panel),
        failed=failed,
        report=report,
        cpu_s=time.process_time() - began,
    )


def given_up(part: Part, reason: str) -> Fitted:
    """The result of a part that was never fitted, and why."""
    failed = _all_failed(part, reason)
    return Fitted(model=part.model, digest=part.digest, data=None, series=names_of(part.panel), failed=failed)


def _all_failed(part: Part, reason: str) -> dict[str, str]:
    return {"*": reason} if part.model in POOLED else dict.fromkeys(names_of(part.panel), reason)


_Result = tuple[bytes | None, dict[str, str], dict[str, Any]]


def _each(part: Part, fit: Callable[[Series], Any], to_bytes: Callable[[Mapping[Any, Any]], bytes]) -> _Result:
    fitted, failed = {}, {}
    for key, name in zip(part.panel.keys, names_of(part.panel), strict=True):
        try:
            fitted[key] = fit(part.panel.series(key))
        except ForecasterError as error:
            failed[name] = str(error)
        except (ValueError, ArithmeticError, IndexError) as error:  # what numpy and statsmodels raise for odd data
            failed[name] = f"{type(error).__name__}: {error}"
    return to_bytes(fitted) if fitted else None, failed, {}


def _fit_arima(part: Part, progress: Progress) -> _Result:
    from forecaster.fitting.arima import fit_arima

    return _each(part, fit_arima, arima_bytes)


def _fit_holt_winters(part: Part, progress: Progress) -> _Result:
    from forecaster.fitting.holt_winters import fit_holt_winters

    return _each(part, fit_holt_winters, holt_winters_bytes)


def _fit_lstm(part: Part, progress: Progress) -> _Result:
    from forecaster.fitting.neural.lstm import Schedule, chosen_device, device_name, train_lstm
    from forecaster.fitting.neural.pretrain import training_fleet

    if part.panel.step != STEP:
        raise FittingError(f"the network learns from bins of {STEP}, got {part.panel.step}")
    schedule = Schedule() if part.steps is None else Schedule(steps=part.steps)
    device = chosen_device(part.device)
    weights = train_lstm(
        [*_own(part), *training_fleet(workloads=FLEET_WORKLOADS, seed=part.seed)],
        seed=part.seed,
        schedule=schedule,
        device=device,
        progress=lambda step, loss: progress("network_step", {"step": step, "of": schedule.steps, "loss": loss}),
    )
    report = {"steps": schedule.steps, "synthetic_workloads": FLEET_WORKLOADS, "device": device_name(device)}
    return network_bytes(weights), {}, report


def _fit_trees(part: Part, progress: Progress) -> _Result:
    from forecaster.fitting.neural.pretrain import training_fleet
    from forecaster.fitting.trees import Growth, fit_trees

    growth = Growth() if part.steps is None else Growth(trees_per_level=min(part.steps, Growth().trees_per_level))
    arrays: dict[str, NDArray[np.generic]] = fit_trees(
        _own(part),
        fleet=training_fleet(workloads=FLEET_WORKLOADS, seed=part.seed),
        seed=part.seed,
        growth=growth,
        progress=lambda done, of: progress("trees_level", {"done": done, "of": of}),
    )
    return trees_bytes(arrays), {}, {"trees": int(arrays["tree.level"].size), "synthetic_workloads": FLEET_WORKLOADS}


def _own(part: Part) -> list[Series]:
    return [part.panel.series(key) for key in part.panel.keys]


_FITS: Mapping[str, Callable[[Part, Progress], _Result]] = {
    "arima": _fit_arima,
    "holt-winters": _fit_holt_winters,
    "lstm": _fit_lstm,
    "trees": _fit_trees,
}


# ── The artefact ──────────────────────────────────────────────────────────────────────────────────────────────


def merged(model: str, fitted: Sequence[Fitted]) -> bytes | None:
    """The artefact of all parts of `model`, None if they hold not one fitted series. Their order does not matter.

    Raises `ValueError` if a part's bytes hold no usable model.
    """
    found = [one.data for one in fitted if one.data is not None]
    if not found:
        return None
    if model in POOLED:
        (data,) = found
        return data
    built: list[Any] = [KINDS[model].build(data, model) for data in found]
    return _TO_BYTES[model]({key: one for part in built for key, one in part.fitted.items()})


_TO_BYTES: Mapping[str, Callable[[Mapping[Any, Any]], bytes]] = {
    "arima": arima_bytes,
    "holt-winters": holt_winters_bytes,
}
