"""Stored models: versioned folders that are whole or absent, checked before a byte of them is believed.

    <root>/<model>/<version>/manifest.json + one data file
    <root>/<model>/current.json                             which version is live, which is in shadow, and why

Decides whether a stored model may be used: schema, class, signal, step, hash and shape must all fit, else
`ArtefactError` says which did not and what to do. The version is the hash of the content, so the same training gives
the same version. A version that passed its examination is first in shadow (`admit`): it is live once it has passed on
days that came after it was made (`shadow.review`), at once where there is nothing to compare it with. Every step is on
record with its reason. Nothing here executes what it loads: weights and trees are safetensors, coefficients JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster.errors import ArtefactError
from forecaster.models.harmonic import Harmonic
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.recent import RecentHours
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.models.smoothing import Ewma, ExpSmoothing
from forecaster.models.stored import KINDS
from forecaster.stages import (
    Pointer,
    Stage,
    Standing,
    moment,
    read_file,
    read_pointer,
    sync_folder,
    write_file,
    write_pointer,
)
from forecaster.types import STEP, Forecaster

SCHEMA = 1
DEMAND = "demand_rps"
"""The signal that every model here is made for."""
_VERSION = re.compile(r"[0-9a-f]{12}")
BY_HAND = "by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpan:
    """What a model was trained on: the span and the number of series."""

    start: datetime
    end: datetime
    series: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is said of a stored model beside its data file."""

    model: str
    version: str
    signal: str
    step_s: float
    span: DataSpan
    seed: int
    file: str
    sha256: str
    report: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


# ── Versions and the pointer ──────────────────────────────────────────────────────────────────────────────────


def save(
    root: Path,
    model: str,
    data: bytes,
    *,
    span: DataSpan,
    seed: int,
    report: Mapping[str, Any],
    signal: str = DEMAND,
    step: timedelta = STEP,
) -> Path:
    """Store one version and answer its folder; it isn't live before `promote`.

    Written beside its place, synced and renamed: a reader sees the whole version or none. Storing the same content
    again changes nothing.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    facts = {
        "schema": SCHEMA,
        "model": model,
        "signal": signal,
        "step_s": step.total_seconds(),
        "span": {"start": span.start.isoformat(), "end": span.end.isoformat(), "series": span.series},
        "seed": seed,
        "file": KINDS[model].file,
        "sha256": sha256,
        "report": dict(report),
    }
    version = hashlib.sha256(json.dumps({**facts, "report": None}, sort_keys=True).encode()).hexdigest()[:12]
    home = root / model
    folder = home / version
    if folder.exists():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
    try:
        draft.chmod(0o755)
        write_file(draft / KINDS[model].file, data)
        write_file(
            draft / "manifest.json", json.dumps({**facts, "version": version}, indent=2, sort_keys=True).encode()
        )
        sync_folder(draft)
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(home)
    return folder


def admit(root: Path, model: str, version: str, *, reason: str, now: datetime) -> Stage:
    """Take up a version that passed its examination: into shadow, or live at once where the family has none.

    One that waits in shadow already keeps its place until it is judged, and one that was rolled back stays off: the
    answer says which stage the version is in now. Raises `ArtefactError` for a version that is not there or not whole.
    """
    _require_stored(root, model, version)
    pointer = read_pointer(root, model)
    if pointer.live is None:
        promote(root, model, version, reason=f"{reason}; nothing was live", now=now)
        return Stage.LIVE
    last = pointer.last(version)
    rolled_back = last is not None and last.stage is Stage.ROLLED_BACK
    if version in (pointer.live, pointer.shadow) or rolled_back:
        return stages(root, model)[version].stage
    if pointer.shadow is not None:
        set_aside(root, model, version, reason=f"not taken up while {pointer.shadow} is in shadow: {reason}", now=now)
        return Stage.STORED
    write_pointer(root, model, replace(pointer, shadow=version).noted(version, Stage.SHADOW, reason, now))
    return Stage.SHADOW


def set_aside(root: Path, model: str, version: str, *, reason: str, now: datetime) -> None:
    """Leave a version off, with the reason on record: it failed its examination, or its days in shadow.

    A live version is not touched: `roll_back` is what takes it back.
    """
    pointer = read_pointer(root, model)
    if version != pointer.live:
        shadow = None if version == pointer.shadow else pointer.shadow
        write_pointer(root, model, replace(pointer, shadow=shadow).noted(version, Stage.STORED, reason, now))


def promote(root: Path, model: str, version: str, *, reason: str = BY_HAND, now: datetime | None = None) -> None:
    """Make `version` the live one; the one before stays at hand for `roll_back`. `now` is when, for the record.

    A pointer that is damaged begins anew. Raises `ArtefactError` for a version that is not there or not whole.
    """
    _require_stored(root, model, version)
    try:
        pointer = read_pointer(root, model)
    except ArtefactError:
        pointer = Pointer()
    if version == pointer.live:
        return
    shadow = None if version == pointer.shadow else pointer.shadow
    after = replace(pointer, live=version, shadow=shadow)
    if pointer.live is not None:
        after = replace(after, before=(pointer.live, *pointer.before))
        after = after.noted(pointer.live, Stage.RETIRED, f"{version} took its place", now)
    write_pointer(root, model, after.noted(version, Stage.LIVE, reason, now))


def roll_back(root: Path, model: str, *, reason: str = BY_HAND, now: datetime | None = None) -> str:
    """Make the version before the live one live again, and answer it; `ArtefactError` if there is none.

    What is rolled back, and why, stays on record: `admit` does not take that version up again.
    """
    pointer = read_pointer(root, model)
    if pointer.live is None or not pointer.before:
        raise ArtefactError(f"{model} in {root} has no earlier version to go back to; see `headstart models list`")
    again, bad = pointer.before[0], pointer.live
    _require_stored(root, model, again)
    pointer = replace(pointer, live=again, before=pointer.before[1:]).noted(bad, Stage.ROLLED_BACK, reason, now)
    write_pointer(root, model, pointer.noted(again, Stage.LIVE, f"{bad} was rolled back: {reason}", now))
    return again


def stages(root: Path, model: str) -> Mapping[str, Standing]:
    """The stage of every stored version, and the reason that was given for it last."""
    pointer = read_pointer(root, model)
    found = {}
    for version in versions(root, model):
        last = pointer.last(version)
        if version in (pointer.live, pointer.shadow):
            stage = Stage.LIVE if version == pointer.live else Stage.SHADOW
        elif last is not None:
            stage = last.stage
        else:  # of an earlier release, or so long ago that the record has dropped it
            stage = Stage.RETIRED if version in pointer.before else Stage.STORED
        known = last if last is not None and last.stage is stage else None
        found[version] = Standing(stage=stage, reason=known.reason if known else "", since=known.at if known else None)
    return found


def _require_stored(root: Path, model: str, version: str) -> None:
    """`ArtefactError` unless the version is there and whole, whatever step it was made for."""
    if model not in KINDS or not _VERSION.fullmatch(version):
        raise ArtefactError(f"{root} holds no {model}@{version}; see `headstart models list`")
    manifest = _manifest(root / model / version, model)
    read(root, model, version=version, signal=manifest.signal, step_s=manifest.step_s)


def live_version(root: Path, model: str) -> str | None:
    """The version in use, or None where the model has none."""
    return read_pointer(root, model).live


def shadow_version(root: Path, model: str) -> str | None:
    """The version that waits in shadow, or None where none does."""
    return read_pointer(root, model).shadow


def versions(root: Path, model: str) -> tuple[str, ...]:
    """Every stored version, in alphabetical order."""
    home = root / model
    return tuple(sorted(one.name for one in home.iterdir() if _VERSION.fullmatch(one.name))) if home.is_dir() else ()


def read(
    root: Path,
    model: str,
    *,
    version: str | None = None,
    signal: str = DEMAND,
    step_s: float = STEP.total_seconds(),
) -> tuple[Manifest, bytes]:
    """A version's manifest and data (the live one by default), both checked.

    Raises `ArtefactError` if it is missing, damaged, or made for another signal or step.
    """
    wanted = version if version is not None else live_version(root, model)
    if wanted is None or not _VERSION.fullmatch(wanted):
        raise ArtefactError(f"no live version of {model} in {root}: run `headstart train --models {model}`")
    folder = root / model / wanted
    manifest = _manifest(folder, model)
    if (manifest.signal, manifest.step_s) != (signal, step_s):
        raise ArtefactError(
            f"{folder} was made for {manifest.signal} in steps of {manifest.step_s:g} s, wanted {signal} in steps of"
            f" {step_s:g} s: train one for this signal"
        )
    data = read_file(folder / manifest.file)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise ArtefactError(f"{folder / manifest.file} does not match its hash: restore it, or promote another version")
    return manifest, data


def _manifest(folder: Path, model: str) -> Manifest:
    try:
        stored = json.loads(read_file(folder / "manifest.json"))
        span = stored["span"]
        manifest = Manifest(
            schema=int(stored["schema"]),
            model=str(stored["model"]),
            version=str(stored["version"]),
            signal=str(stored["signal"]),
            step_s=float(stored["step_s"]),
            span=DataSpan(start=moment(span["start"]), end=moment(span["end"]), series=int(span["series"])),
            seed=int(stored["seed"]),
            file=str(stored["file"]),
            sha256=str(stored["sha256"]),
            report=dict(stored["report"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{folder / 'manifest.json'} is damaged ({error}): promote another version") from error
    if manifest.schema != SCHEMA:
        raise ArtefactError(f"{folder} has schema {manifest.schema}, this release reads {SCHEMA}: train it again")
    if manifest.model != model or manifest.file != KINDS[model].file:
        raise ArtefactError(f"{folder} says it holds {manifest.model} in {manifest.file}: not a stored {model}")
    return manifest


def load(root: Path, model: str, *, version: str | None = None, step: timedelta = STEP) -> Forecaster:
    """A stored model ready to predict on bins of `step` (the live version by default), its id "model@version".

    Raises `ArtefactError` if it is missing, damaged, or does not fit; the caller goes on with the members it has.
    """
    if model not in KINDS:
        raise ArtefactError(f"no stored model is called {model!r}; there are {', '.join(sorted(KINDS))}")
    made_of = STEP if step in KINDS[model].reads else step
    manifest, data = read(root, model, version=version, step_s=made_of.total_seconds())
    try:
        return KINDS[model].build(data, f"{model}@{manifest.version}")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{root / model / manifest.version / manifest.file} holds no usable {model} ({error}): train it again"
        ) from error


# ── The members of an engine ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Forecasters for an engine, and why a stored one is not among them."""

    forecasters: tuple[Forecaster, ...]
    refused: Mapping[str, str]


def shipped_models() -> Path | None:
    """The folder of the models that come with the product, in a checkout or an installed package; None if absent."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "data" / "models", package / "scaler" / "data" / "models")
    return next((one for one in places if one.is_dir()), None)


ON_REQUEST: Mapping[str, Callable[[], Forecaster]] = {
    "ewma": Ewma,
    "exp-smoothing": ExpSmoothing,
    "harmonic": Harmonic,
}
"""Models that need no fit and speak only where they are asked for by name: in the blend of all they cost more than
they bring (docs/decisions/0009)."""


def members(root: Path | None = None, *, step: timedelta = STEP, also: Sequence[str] = ()) -> Members:
    """Everything that can forecast here: the models that need no fit, and the live stored ones.

    A family is looked for in `root` (the site's own training), then among the shipped ones. A stored model that is
    refused is reported and left out; Holt-Winters then speaks with its default gains (fault 27). `also` are names of
    models; those of `ON_REQUEST` among them join.
    """
    places = [one for one in (root, shipped_models()) if one is not None]
    found: dict[str, Forecaster] = {}
    refused: dict[str, str] = {}
    for model in KINDS:
        for place in places:
            if model in found:
                break
            try:
                if live_version(place, model) is not None:
                    found[model] = load(place, model, step=step)
            except ArtefactError as error:
                refused[model] = str(error)
    found.setdefault("holt-winters", HoltWinters())
    stored = tuple(found[name] for name in ("holt-winters", "arima", "lstm", "trees") if name in found)
    asked_for = tuple(build() for name, build in ON_REQUEST.items() if name in also)
    always = (LastValue(), RecentHours(), SeasonalNaive(), SeasonalDelta())
    return Members(forecasters=(*always, *stored, *asked_for), refused=refused)
