"""Whether models have drifted: forecasts that have become worse than they were, or bands that no longer hold.

Looked at once an hour, series by series, on the quality that the engine measures over six hours anyway. A series has
drifted when its error is half as large again as its own median of seven days, or when its .95 band held too few or too
many minutes for six looks in a row. Errors are taken in units of last value's: the same forecaster errs by twice as
much of the demand at night as at noon, and against its own median that fired in up to 38 % of the hours of healthy
traffic (`docs/decisions/0010`). It decides that a refit is due and why, never what becomes of it. Pure.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import ArtefactError
from forecaster.types import ForecastQuality, SeriesKey

if TYPE_CHECKING:
    from forecaster.types import FloatArray

EVERY = timedelta(hours=1)
"""Looks are so far apart; an hour that was missed is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRule:
    """When a series has drifted, and how often that may cause a refit."""

    most_error_ratio: float = 1.5
    """Error above this multiple of its own median …"""
    memory: timedelta = timedelta(days=7)
    """… over so long, of which at least …"""
    least_memory: timedelta = timedelta(days=1)
    """… so much must be known."""
    least_coverage: float = 0.90
    most_coverage: float = 0.99
    lasting: timedelta = timedelta(hours=6)
    """Coverage counts when it was outside, on the same side, at every look for so long."""
    least_scored_bins: int = 120
    """Minutes that must have been scored before a look says anything."""
    pause: timedelta = timedelta(hours=6)
    """Refits for drift are at least so far apart, and from any other refit."""
    answered_for: timedelta = timedelta(days=1)
    """A series that has caused a refit causes no other for so long: another of the same data would help as little."""


DEFAULT_RULE = DriftRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """What was seen at the last looks, newest last; NaN for unknown.

    `errors` (series, looks of `memory`) in units of last value's, `coverages` (series, looks of `lasting`),
    `answered_s` (series,) Unix time of the last refit that a series caused, all float32 or float64.
    """

    keys: tuple[SeriesKey, ...] = ()
    at: datetime | None = None
    errors: FloatArray
    coverages: FloatArray
    answered_s: FloatArray
    refitted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One series that has drifted, and what says so."""

    key: SeriesKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The state after a look, every series that has drifted, and whether a refit is due for them."""

    state: DriftState
    drifted: tuple[Drift, ...] = ()
    refit: bool = False


def blank(rule: DriftRule = DEFAULT_RULE) -> DriftState:
    """Nothing seen yet."""
    return _aligned(None, (), rule)


def look(
    state: DriftState,
    quality: Mapping[SeriesKey, ForecastQuality],
    *,
    now: datetime,
    rule: DriftRule = DEFAULT_RULE,
) -> Looked:
    """Take in the quality of every series at `now`; what has left is forgotten. Nothing happens within the hour."""
    passed = 1 if state.at is None else (now - state.at) // EVERY
    if passed < 1:
        return Looked(state=state)
    state = _aligned(state, tuple(sorted(quality)), rule)
    seen = np.array([_told(quality[key], rule) for key in state.keys]).reshape(-1, 2)
    state = replace(
        state,
        at=now,
        errors=_pushed(state.errors, seen[:, 0], passed),
        coverages=_pushed(state.coverages, seen[:, 1], passed),
    )
    drifted = _drifted(state, rule)
    unanswered = [
        row for row in drifted if not now.timestamp() - state.answered_s[row] < rule.answered_for.total_seconds()
    ]
    rested = state.refitted_at is None or now - state.refitted_at >= rule.pause
    refit = bool(unanswered) and rested
    if refit:
        answered = state.answered_s.copy()
        answered[list(drifted)] = now.timestamp()
        state = replace(state, answered_s=answered, refitted_at=now)
    found = tuple(Drift(key=state.keys[row], reason=reason) for row, reason in drifted.items())
    return Looked(state=state, drifted=found, refit=refit)


def refitted(state: DriftState, *, now: datetime) -> DriftState:
    """The same after a refit for another reason, the night's: the pause begins anew."""
    return replace(state, refitted_at=now)


def _told(quality: ForecastQuality, rule: DriftRule) -> tuple[float, float]:
    """Error in units of last value's and coverage of one look; NaN where too little was scored or nothing moved."""
    if quality.scored_bins < rule.least_scored_bins:
        return float("nan"), float("nan")
    error = quality.wape / quality.wape_last_value if quality.wape_last_value > 0.0 else float("nan")
    return (error if np.isfinite(error) else float("nan")), quality.coverage_95


def _pushed(looks: FloatArray, newest: FloatArray, passed: int) -> FloatArray:
    """`looks` moved on by so many hours: those missed are unknown, the newest stands last."""
    moved = np.full_like(looks, np.nan)
    if passed < looks.shape[1]:
        moved[:, :-passed] = looks[:, passed:]
    moved[:, -1] = newest
    return moved


def _drifted(state: DriftState, rule: DriftRule) -> dict[int, str]:
    """By row, why a series has drifted."""
    past = state.errors[:, :-1]
    enough = np.isfinite(past).sum(axis=1) >= rule.least_memory // EVERY
    usual = np.full(len(state.keys), np.nan)
    usual[enough] = np.nanmedian(past[enough], axis=1)
    now = state.errors[:, -1]
    with np.errstate(invalid="ignore"):
        worse = now > rule.most_error_ratio * usual
        narrow = (state.coverages < rule.least_coverage).all(axis=1)
        wide = (state.coverages > rule.most_coverage).all(axis=1)
    found = {}
    for row in np.flatnonzero(worse | narrow | wide).tolist():
        if worse[row]:
            found[row] = f"error {now[row]:.2f} of last value's, in the last days {usual[row]:.2f}"
        else:
            hours = rule.lasting // EVERY
            found[row] = f"the .95 band has held {state.coverages[row, -1]:.3f} of the minutes, {hours} h in a row"
    return found


def _aligned(state: DriftState | None, keys: tuple[SeriesKey, ...], rule: DriftRule) -> DriftState:
    """`state` with these series in this order; those that it does not know are unknown."""
    fresh = DriftState(
        keys=keys,
        errors=np.full((len(keys), rule.memory // EVERY + 1), np.nan, dtype=np.float32),
        coverages=np.full((len(keys), rule.lasting // EVERY), np.nan, dtype=np.float32),
        answered_s=np.full(len(keys), -np.inf),
    )
    if state is None:
        return fresh
    row_of = {key: row for row, key in enumerate(state.keys)}
    old = np.array([row_of.get(key, -1) for key in keys], dtype=np.int64)
    for name in ("errors", "coverages", "answered_s"):
        getattr(fresh, name)[old >= 0] = getattr(state, name)[old[old >= 0]]
    return replace(fresh, at=state.at, refitted_at=state.refitted_at)


# ── Storage ───────────────────────────────────────────────────────────────────────────────────────────────────


def to_bytes(state: DriftState) -> bytes:
    """The state as an archive of plain arrays: 1.4 MB for 2,000 series."""
    buffer = io.BytesIO()
    names = [[key.workload, key.signal, key.request_class] for key in state.keys]
    np.savez(
        buffer,
        keys=np.array(names, dtype=np.str_).reshape(-1, 3),
        moments=np.array([_seconds(state.at), _seconds(state.refitted_at)]),
        errors=state.errors,
        coverages=state.coverages,
        answered_s=state.answered_s,
    )
    return buffer.getvalue()


def from_bytes(stored: bytes, *, rule: DriftRule = DEFAULT_RULE) -> DriftState:
    """What `to_bytes` wrote; `ArtefactError` if it is damaged or of other lengths: begin with a blank one."""
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            keys = tuple(SeriesKey(workload=a, signal=b, request_class=c) for a, b, c in archive["keys"].tolist())
            at, refitted_at = (_moment(float(each)) for each in archive["moments"])
            state = DriftState(
                keys=keys,
                at=at,
                refitted_at=refitted_at,
                errors=archive["errors"],
                coverages=archive["coverages"],
                answered_s=archive["answered_s"],
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"what was seen of drift is damaged ({error}); drop it and begin anew") from error
    like = _aligned(None, keys, rule)
    if any(getattr(state, name).shape != getattr(like, name).shape for name in ("errors", "coverages", "answered_s")):
        raise ArtefactError("what was seen of drift has another length; drop it and begin anew")
    return state


def _seconds(moment: datetime | None) -> float:
    return float("nan") if moment is None else moment.timestamp()


def _moment(seconds: float) -> datetime | None:
    return None if np.isnan(seconds) else datetime.fromtimestamp(seconds, tz=UTC)
