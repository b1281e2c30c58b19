"""What the engine remembers between two steps, as one value that can be stored and read back.

Every array has the series on its first axis, so rows follow their workload when others come and go. Decides nothing:
`scoring` writes it, `ensemble` reads it. It holds no code and is read without pickle.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.errors import ArtefactError
from forecaster.models.heights import NO_RANK, RANKS
from forecaster.models.tracking import Track
from forecaster.preprocess import DAY, bins_in
from forecaster.types import LEVELS, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

STATE_VERSION = 4
QUALITY_SPAN = timedelta(hours=6)
"""Over how long `ForecastQuality` is measured."""
QUALITY_COLUMNS = ("hit_95", "error", "error_last_value", "actual")
SLOT = timedelta(minutes=15)
"""What happens every day is remembered by quarters of an hour, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """The engine's memory at `end`; with S series, H horizons, M members, Q levels, W = sum of the horizons:

    - `pending` (S, W, M + 1, Q) float32: what was issued and has not come true yet, the published forecast last.
      Horizon h owns h slots; what is issued at bin number t lies in slot t mod h of them.
    - `loss`, `evidence` (S, H, M): decayed sums of pinball losses and of the bins behind them.
    - `gain`, `gain_square` (S, H, M): decayed sums of what more of a member would have gained the blend (`blending`).
    - `chosen` (S, H) int16: the member in use, -1 for none. `offset` (S, H, Q): conformal offset in band widths.
    - `error`, `error_weight` (S, H): decayed sums whose quotient is the error scale, in roots.
    - `pending_width` (S, W) float32: how wide the blend's band was before it was calibrated (.95 quantile minus
      median, in roots), in the slots of `pending`.
    - `ratio`, `ratio_weight` (S, H): decayed sums of (error / width)² and of the bins behind them.
    - `slot_ratio`, `slot_weight` (S, 96) float32: the same by quarter of an hour of the day, over all horizons, each
      relative to its horizon's mean: 4 says that errors are twice as large there as the bands let expect.
    - `median`, `median_square`, `median_weight` (S, H): decayed sums of the medians said, of their squares and of their
      number, in roots; `pending_rank` (S, W) int8: how high among them the one that waits lay (`heights`), in the slots
      of `pending`. `height_ratio`, `height_weight` (S, H, 6) float32: decayed sums, by that rank, of (error / width)²
      above the forecast, relative to the horizon's mean, and of the bins behind them.
    - `window` (S, 6 h of bins, 4) float32: `QUALITY_COLUMNS` by bin number, at the lead time's horizon.
    - `since_s` (S): start of the first known bin, Unix seconds; NaN before it. `peak` (S): highest known value.
    """

    keys: tuple[SeriesKey, ...]
    members: tuple[str, ...]
    horizons: tuple[int, ...]
    step: timedelta
    end: datetime
    arrays: Mapping[str, NDArray[Any]]
    tracks: Mapping[str, Track] = field(default_factory=dict)

    def with_arrays(self, **arrays: NDArray[Any]) -> EngineState:
        """The same state with some arrays replaced."""
        return replace(self, arrays={**self.arrays, **arrays})


def family(model_id: str) -> str:
    """The model's name without its version: "lstm@3f2a91c0" is an "lstm"."""
    return model_id.partition("@")[0]


def slots(horizons: tuple[int, ...], moment: int) -> NDArray[np.int64]:
    """The slot of each horizon in `EngineState.pending` for what is issued at bin number `moment`.

    What is issued at t for horizon h comes true at t + h, and t and t + h share the slot: read it, then overwrite.
    """
    begins, widths = _rings(horizons)
    found: NDArray[np.int64] = begins + moment % widths
    return found


@lru_cache(maxsize=16)
def _rings(horizons: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each horizon's slots begin and how many it owns: asked six times a step, for ever the same."""
    widths = np.array(horizons, dtype=np.int64)
    return np.cumsum(widths) - widths, widths


def blank(panel: Panel, members: tuple[str, ...], horizons: tuple[int, ...]) -> EngineState:
    """The memory of an engine that has seen nothing before this panel."""
    series, width, models, levels = len(panel.keys), len(horizons), len(members), len(LEVELS)
    arrays: dict[str, NDArray[Any]] = {
        "pending": np.full((series, sum(horizons), models + 1, levels), np.nan, dtype=np.float32),
        "loss": np.zeros((series, width, models)),
        "evidence": np.zeros((series, width, models)),
        "gain": np.zeros((series, width, models)),
        "gain_square": np.zeros((series, width, models)),
        "chosen": np.full((series, width), -1, dtype=np.int16),
        "offset": np.zeros((series, width, levels)),
        "error": np.zeros((series, width)),
        "error_weight": np.zeros((series, width)),
        "pending_width": np.full((series, sum(horizons)), np.nan, dtype=np.float32),
        "ratio": np.zeros((series, width)),
        "ratio_weight": np.zeros((series, width)),
        "slot_ratio": np.zeros((series, DAY // SLOT), dtype=np.float32),
        "slot_weight": np.zeros((series, DAY // SLOT), dtype=np.float32),
        "median": np.zeros((series, width)),
        "median_square": np.zeros((series, width)),
        "median_weight": np.zeros((series, width)),
        "pending_rank": np.full((series, sum(horizons)), NO_RANK, dtype=np.int8),
        "height_ratio": np.zeros((series, width, RANKS), dtype=np.float32),
        "height_weight": np.zeros((series, width, RANKS), dtype=np.float32),
        "window": np.full((series, bins_in(QUALITY_SPAN, panel.step), len(QUALITY_COLUMNS)), np.nan, np.float32),
        "since_s": np.full(series, np.nan),
        "peak": np.zeros(series),
    }
    state = EngineState(
        keys=panel.keys, members=members, horizons=horizons, step=panel.step, end=panel.end, arrays=arrays
    )
    return seen(state, panel, panel.values)


def seen(state: EngineState, panel: Panel, fresh: FloatArray) -> EngineState:
    """`state` with the age and the peak of each series brought up to the panel's end; `fresh` are its newest bins."""
    known = np.isfinite(fresh) & (fresh >= 0.0)
    peak = np.maximum(state.arrays["peak"], np.where(known, fresh, 0.0).max(axis=1, initial=0.0))
    since_s = state.arrays["since_s"]
    if np.isnan(since_s).any() and fresh.shape[1]:
        first_s = panel.end.timestamp() - (fresh.shape[1] - known.argmax(axis=1)) * panel.step.total_seconds()
        since_s = np.where(np.isnan(since_s) & known.any(axis=1), first_s, since_s)
    return state.with_arrays(peak=peak, since_s=since_s)


def for_series(state: EngineState, panel: Panel) -> EngineState:
    """`state` with the panel's series in the panel's order; those it does not know start blank."""
    row_of = {key: row for row, key in enumerate(state.keys)}
    rows = np.array([row_of.get(key, -1) for key in panel.keys], dtype=np.int64)
    kept = rows >= 0
    arrays = dict(blank(panel, state.members, state.horizons).arrays)
    for name, array in state.arrays.items():
        arrays[name][kept] = array[rows[kept]]
    return replace(state, keys=panel.keys, arrays=arrays)


def for_members(state: EngineState, members: tuple[str, ...]) -> EngineState:
    """`state` with today's members in their order; a new version of a model inherits its family's record.

    A retraining in mid-peak must not throw away what the family has earned; a new family starts blank.
    """
    column_of = {family(one): column for column, one in enumerate(state.members)}
    columns = np.array([column_of.get(family(one), -1) for one in members], dtype=np.int64)

    def moved(array: NDArray[Any], empty: float) -> NDArray[Any]:
        absent = np.full_like(array[:, :, :1], empty)
        return np.concatenate([array[:, :, : len(state.members)], absent], axis=2)[:, :, columns]

    pending = state.arrays["pending"]
    column_now = np.full(len(state.members) + 1, -1, dtype=np.int16)
    for now, old in enumerate(columns):
        if old >= 0:
            column_now[old] = now
    old_tracks = {family(name): track for name, track in state.tracks.items()}
    moved_state = state.with_arrays(
        loss=moved(state.arrays["loss"], 0.0),
        gain=moved(state.arrays["gain"], 0.0),
        gain_square=moved(state.arrays["gain_square"], 0.0),
        evidence=moved(state.arrays["evidence"], 0.0),
        pending=np.concatenate([moved(pending, np.nan), pending[:, :, -1:]], axis=2),
        chosen=column_now[state.arrays["chosen"]],
    )
    tracks = {one: old_tracks[family(one)] for one in members if family(one) in old_tracks}
    return replace(moved_state, members=members, tracks=tracks)


# ── Storage ───────────────────────────────────────────────────────────────────────────────────────────────────


def to_bytes(state: EngineState) -> bytes:
    """The state as one archive of plain arrays and a JSON head."""
    head = {
        "version": STATE_VERSION,
        "keys": [[key.workload, key.signal, key.request_class] for key in state.keys],
        "members": list(state.members),
        "horizons": list(state.horizons),
        "step_s": state.step.total_seconds(),
        "end": state.end.isoformat(),
        "tracks": [
            {
                "model": model,
                "keys": [[key.workload, key.signal, key.request_class] for key in track.keys],
                "end": track.end.isoformat(),
                "arrays": sorted(track.arrays),
            }
            for model, track in state.tracks.items()
        ],
    }
    stored: dict[str, Any] = {f"engine.{name}": array for name, array in state.arrays.items()}
    for number, track in enumerate(state.tracks.values()):
        stored |= {f"track{number}.{name}": array for name, array in track.arrays.items()}
    stored["head"] = np.frombuffer(json.dumps(head).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    return buffer.getvalue()


def from_bytes(stored: bytes) -> EngineState:
    """The state that `to_bytes` wrote.

    Raises `ArtefactError` if it is damaged or of another version; the way out is to start without a state.
    """
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("head").tobytes())
        if head["version"] not in (1, 2, 3, STATE_VERSION):
            raise ArtefactError(f"engine state has version {head['version']}, this one reads {STATE_VERSION}; drop it")
        tracks = {
            one["model"]: Track(
                keys=_keys(one["keys"]),
                end=_moment(one["end"]),
                arrays={name: arrays[f"track{number}.{name}"] for name in one["arrays"]},
            )
            for number, one in enumerate(head["tracks"])
        }
        state = EngineState(
            keys=_keys(head["keys"]),
            members=tuple(head["members"]),
            horizons=tuple(int(one) for one in head["horizons"]),
            step=timedelta(seconds=float(head["step_s"])),
            end=_moment(head["end"]),
            arrays={name.removeprefix("engine."): one for name, one in arrays.items() if name.startswith("engine.")},
            tracks=tracks,
        )
        state = _of_today(state, head["version"])
        _require_whole(state)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtefactError(f"engine state is damaged ({error}); drop it and start without one") from error
    return state


def _of_today(state: EngineState, version: int) -> EngineState:
    """A state of an earlier version in today's layout: what was not kept then starts blank.

    Before version 2 offsets were counted in errors and not in widths of the band: they are learnt again, which takes
    hours. Before version 3 nobody counted gains: members of a record share alike until they have some. Before
    version 4 nobody ranked forecasts by their height: every rank starts like all. What the members have earned, what
    waits for its bin, and the quality stay.
    """
    if version == STATE_VERSION:
        return state
    dropped = {"offset"} if version == 1 else set[str]()
    kept = {name: array for name, array in state.arrays.items() if name not in dropped}
    return replace(state, arrays={**_blank_arrays(state), **kept})


def _blank_arrays(state: EngineState) -> Mapping[str, NDArray[Any]]:
    """The arrays of a blank state of the same kind."""
    shape = Panel(keys=state.keys, start=state.end, step=state.step, values=np.empty((len(state.keys), 0)))
    return blank(shape, state.members, state.horizons).arrays


def _require_whole(state: EngineState) -> None:
    """`ValueError` unless every array has the shape and type that a blank state of the same kind has."""
    for name, wanted in _blank_arrays(state).items():
        found = state.arrays[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(f"{name} is {found.dtype} {found.shape}, expected {wanted.dtype} {wanted.shape}")


def _keys(stored: list[list[str]]) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(workload=one, signal=two, request_class=three) for one, two, three in stored)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
