"""Stored models: versioned folders that are whole or absent, checked before a byte of them is believed.

    <root>/<model>/<version>/manifest.json + one data file
    <root>/<model>/current.json                             which version is live, and which were before it

Decides whether a stored model may be used: schema, class, signal, step, hash and shape must all fit, else
`ArtefactError` says which did not and what to do. The version is the hash of the content, so the same training gives
the same version. Nothing here executes what it loads: weights and trees are safetensors, coefficients JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster.errors import ArtefactError
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.models.stored import KINDS
from forecaster.types import STEP, Forecaster

SCHEMA = 1
DEMAND = "demand_rps"
"""The signal that every model here is made for."""
LARGEST_BYTES = 64 * 2**20
"""A model file above this is not read: coefficients of 100,000 series take 20 MB."""
_VERSION = re.compile(r"[0-9a-f]{12}")
KEPT_BEFORE = 10
"""How many versions one can roll back over."""


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
        _write(draft / KINDS[model].file, data)
        _write(draft / "manifest.json", json.dumps({**facts, "version": version}, indent=2, sort_keys=True).encode())
        _sync(draft)
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _sync(home)
    return folder


def promote(root: Path, model: str, version: str) -> None:
    """Make `version` the live one; the one before stays at hand for `roll_back`.

    Raises `ArtefactError` for a version that is not there or not whole.
    """
    _require_stored(root, model, version)
    live, before = _pointer(root, model)
    if version != live:
        _point(root, model, version, ([live] if live else []) + before)


def roll_back(root: Path, model: str) -> str:
    """Make the version before the live one live again, and answer it; `ArtefactError` if there is none."""
    _, before = _pointer(root, model)
    if not before:
        raise ArtefactError(f"{model} in {root} has no earlier version to go back to; see `headstart models list`")
    _require_stored(root, model, before[0])
    _point(root, model, before[0], before[1:])
    return before[0]


def _require_stored(root: Path, model: str, version: str) -> None:
    """`ArtefactError` unless the version is there and whole, whatever step it was made for."""
    if model not in KINDS or not _VERSION.fullmatch(version):
        raise ArtefactError(f"{root} holds no {model}@{version}; see `headstart models list`")
    manifest = _manifest(root / model / version, model)
    read(root, model, version=version, signal=manifest.signal, step_s=manifest.step_s)


def live_version(root: Path, model: str) -> str | None:
    """The version in use, or None where the model has none."""
    return _pointer(root, model)[0]


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
    data = _read_file(folder / manifest.file)
    if hashlib.sha256(data).hexdigest() != manifest.sha256:
        raise ArtefactError(f"{folder / manifest.file} does not match its hash: restore it, or promote another version")
    return manifest, data


def _pointer(root: Path, model: str) -> tuple[str | None, list[str]]:
    path = root / model / "current.json"
    if not path.exists():
        return None, []
    try:
        stored = json.loads(_read_file(path))
        return str(stored["version"]), [str(one) for one in stored["before"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): promote a version again") from error


def _point(root: Path, model: str, version: str, before: list[str]) -> None:
    home = root / model
    stored = json.dumps({"version": version, "before": before[:KEPT_BEFORE]}, indent=2).encode()
    handle, draft = tempfile.mkstemp(prefix=".current-", dir=home)
    os.close(handle)
    _write(Path(draft), stored)
    os.chmod(draft, 0o644)
    os.replace(draft, home / "current.json")
    _sync(home)


def _manifest(folder: Path, model: str) -> Manifest:
    try:
        stored = json.loads(_read_file(folder / "manifest.json"))
        span = stored["span"]
        manifest = Manifest(
            schema=int(stored["schema"]),
            model=str(stored["model"]),
            version=str(stored["version"]),
            signal=str(stored["signal"]),
            step_s=float(stored["step_s"]),
            span=DataSpan(start=_moment(span["start"]), end=_moment(span["end"]), series=int(span["series"])),
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


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > LARGEST_BYTES:
        raise ArtefactError(f"{path} is larger than {LARGEST_BYTES} bytes and was not read")
    return data


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(root: Path, model: str, *, version: str | None = None, step: timedelta = STEP) -> Forecaster:
    """A stored model ready to predict (the live version by default), its id "model@version".

    Raises `ArtefactError` if it is missing, damaged, or does not fit; the caller goes on with the members it has.
    """
    if model not in KINDS:
        raise ArtefactError(f"no stored model is called {model!r}; there are {', '.join(sorted(KINDS))}")
    manifest, data = read(root, model, version=version, step_s=step.total_seconds())
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


def members(root: Path | None = None, *, step: timedelta = STEP) -> Members:
    """Everything that can forecast here: the models that need no fit, and the live stored ones.

    A family is looked for in `root` (the site's own training), then among the shipped ones. A stored model that is
    refused is reported and left out; Holt-Winters then speaks with its default gains (fault 27).
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
    return Members(forecasters=(LastValue(), SeasonalNaive(), SeasonalDelta(), *stored), refused=refused)
