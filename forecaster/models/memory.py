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
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.errors import ArtefactError
from forecaster.models.tracking import Track
from forecaster.preprocess import bins_in
from forecaster.types import LEVELS, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE_VERSION = 1
QUALITY_SPAN = timedelta(hours=6)
"""Over how long `ForecastQuality` is measured."""
QUALITY_COLUMNS = ("hit_95", "error", "error_last_value", "actual")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """The engine's memory at `end`; with S series, H horizons, M members, Q levels, W = sum of the horizons:

    - `pending` (S, W, M + 1, Q) float32: what was issued and has not come true yet, the published forecast last.
      Horizon h owns h slots; what is issued at bin number t lies in slot t mod h of them.
    - `loss`, `evidence` (S, H, M): decayed sums of pinball losses and of the bins behind them.
    - `chosen` (S, H) int16: the member in use, -1 for none. `offset` (S, H, Q): conformal offset in error scales.
    - `error`, `error_weight` (S, H): decayed sums whose quotient is the error scale, in roots.
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
    widths = np.array(horizons, dtype=np.int64)
    return np.cumsum(widths) - widths + moment % widths


def blank(panel: Panel, members: tuple[str, ...], horizons: tuple[int, ...]) -> EngineState:
    """The memory of an engine that has seen nothing before this panel."""
    series, width, models, levels = len(panel.keys), len(horizons), len(members), len(LEVELS)
    arrays: dict[str, NDArray[Any]] = {
        "pending": np.full((series, sum(horizons), models + 1, levels), np.nan, dtype=np.float32),
        "loss": np.zeros((series, width, models)),
        "evidence": np.zeros((series, width, models)),
        "chosen": np.full((series, width), -1, dtype=np.int16),
        "offset": np.zeros((series, width, levels)),
        "error": np.zeros((series, width)),
        "error_weight": np.zeros((series, width)),
        "window": np.full((series, bins_in(QUALITY_SPAN, panel.step), len(QUALITY_COLUMNS)), np.nan, np.float32),
        "since_s": np.full(series, np.nan),
        "peak": np.zeros(series),
    }
    first = panel.start
    return EngineState(
        keys=panel.keys, members=members, horizons=horizons, step=panel.step, end=first, arrays=_seen(arrays, panel)
    ).ending(panel.end)


def aligned(state: EngineState, panel: Panel, members: tuple[str, ...]) -> EngineState:
    """`state` with the panel's series and today's members; what it does not know of them starts blank.

    A new version of a model inherits its family's record: a retraining in mid-peak must not silence it.
    """
    fresh = blank(panel, members, state.horizons)
    row_of = {key: row for row, key in enumerate(state.keys)}
    rows = np.array([row_of.get(key, -1) for key in panel.keys], dtype=np.int64)
    kept = rows >= 0
    column_of = {family(one): index for index, one in enumerate(state.members)}
    columns = np.array([column_of.get(family(one), -1) for one in members], dtype=np.int64)
    heirs = columns >= 0

    arrays = {name: array.copy() for name, array in fresh.arrays.items()}
    for name, array in state.arrays.items():
        if name in ("loss", "evidence"):
            arrays[name][np.ix_(kept, np.ones(array.shape[1], dtype=bool), heirs)] = array[rows[kept]][:, :, columns[heirs]]
        elif name == "pending":
            everything = np.append(heirs, True)
            source = np.append(columns[heirs], len(state.members))
            target = np.flatnonzero(everything)
            old = array[rows[kept]][:, :, source]
            part = arrays[name][kept]
            part[:, :, target] = old
            arrays[name][kept] = part
        elif name == "chosen":
            new_of = np.full(len(state.members) + 1, -1, dtype=np.int16)
            for index, old_index in enumerate(columns):
                if old_index >= 0:
                    new_of[old_index] = index
            arrays[name][kept] = new_of[array[rows[kept]]]
        elif name == "peak":
            arrays[name][kept] = np.maximum(arrays[name][kept], array[rows[kept]])
        elif name == "since_s":
            arrays[name][kept] = np.fmin(arrays[name][kept], array[rows[kept]])
        else:
            arrays[name][kept] = array[rows[kept]]
    return replace(state, keys=panel.keys, members=members, arrays=arrays)
