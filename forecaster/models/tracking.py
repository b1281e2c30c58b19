"""How a recursive model goes on from where it was instead of re-reading its whole history every minute.

A `Track` is all that a model remembers of each series: arrays whose first axis is the series, so that rows can be
kept, dropped, re-ordered and stored without knowing the model. Tracks are values: advancing one returns another.
Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np

from forecaster.types import HORIZONS, Forecaster, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray, SeriesKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A model's memory at `end`: row i of every array belongs to `keys[i]`."""

    keys: tuple[SeriesKey, ...]
    end: datetime
    arrays: Mapping[str, NDArray[Any]]

    def rows(self, keys: tuple[SeriesKey, ...]) -> Track:
        """The same memory for `keys` alone, in their order; `KeyError` for a series it does not know."""
        row_of = {key: row for row, key in enumerate(self.keys)}
        index = [row_of[key] for key in keys]
        return Track(keys=keys, end=self.end, arrays={name: array[index] for name, array in self.arrays.items()})


def joined(first: Track, second: Track) -> Track:
    """Two tracks of one model at one moment as one; the second's rows follow the first's."""
    arrays = {name: np.concatenate([array, second.arrays[name]]) for name, array in first.arrays.items()}
    return Track(keys=first.keys + second.keys, end=first.end, arrays=arrays)


class Tracking(Forecaster, Protocol):
    """A forecaster with memory: `predict(panel)` is `predict_from(start(panel), panel)`.

    Advancing bin by bin equals advancing over them all; a track started earlier predicts what a fresh start does, but
    for what only the fresh one's first estimates have seen (contract suite).
    """

    def start(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """The memory after reading the whole panel."""
        ...

    def advance(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """The memory after the bins of `panel` that end after `track.end`; same keys, same order as the track."""
        ...

    def predict_from(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """As `predict`, from the memory; of the panel only the last day and the longest horizon are read."""
        ...


def is_tracking(model: Forecaster) -> TypeGuard[Tracking]:
    """Whether the model has a memory (asked every minute: a protocol's own isinstance costs ten times as much)."""
    return hasattr(model, "advance")


def follow(model: Tracking, track: Track | None, panel: Panel, *, horizons: tuple[int, ...], reach: int) -> Track:
    """The model's memory at the panel's end, by the cheapest way that is exact enough.

    Goes on from `track` where at most `reach` bins are new and the panel holds them all; series that the track
    does not know are started from the panel and appended; a longer pause, a clock that went back or no track at
    all starts afresh.
    """
    if track is None or not _continues(track, panel, reach):
        return model.start(panel, horizons=horizons)
    if track.keys == panel.keys:
        return model.advance(track, panel, horizons=horizons)
    known = set(track.keys)
    kept = tuple(key for key in panel.keys if key in known)
    fresh = tuple(key for key in panel.keys if key not in known)
    if not kept:
        return model.start(panel, horizons=horizons)
    followed = model.advance(track.rows(kept), _only(panel, kept), horizons=horizons)
    if fresh:
        followed = joined(followed, model.start(_only(panel, fresh), horizons=horizons))
    return followed.rows(panel.keys)


def _continues(track: Track, panel: Panel, reach: int) -> bool:
    return panel.start <= track.end <= panel.end and (panel.end - track.end) // panel.step <= reach


def _only(panel: Panel, keys: tuple[SeriesKey, ...]) -> Panel:
    row_of = {key: row for row, key in enumerate(panel.keys)}
    rows = [row_of[key] for key in keys]
    reference = None if panel.reference is None else panel.reference[rows]
    return Panel(keys=keys, start=panel.start, step=panel.step, values=panel.values[rows], reference=reference)
