"""Gradient-boosted quantile trees, one set for all series, predicted in numpy from exported splits.

They see shapes, never units: roots of demand centred on the present level and scaled by the series' own day; no clock,
no calendar and no identity go in. Where in its day a series is is read from its own last day, and which day stands for
the one before it the panel says. The horizon is a feature, so that one set answers all. A tree cannot extrapolate: it
answers what it has seen, in units of the scale.

Decides nothing about the fit (`forecaster.fitting.trees` does that, on the same `features`). Whatever passes
`Forest`'s checks can be asked safely: no content of a file can make an index wrong or a walk endless.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models.quantiles import STALE_SPAN, no_opinion, settled
from forecaster.preprocess import DAY, any_known, bins_in, carried, reaches_back, roots, tail
from forecaster.types import HORIZONS, LEVELS, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

    IntArray = NDArray[np.int64]
    BitArray = NDArray[np.uint32]

LAG_BINS = (0, 1, 2, 3, 4, 9, 14, 29, 59)
"""Single bins that are read, counted back from the newest."""
MEAN_MINUTES = (5, 30, 60, 180, 360)
EARLIER_MINUTES = (15, 30, 60)
"""How long ago the earlier levels are taken."""
JITTER_MINUTES = (15, 60, 180)
LEVEL_MINUTES = 15
"""Minutes whose mean is the present level."""
BLOCK_MINUTES = 5
"""The day's moments are taken over means of this width: the scale is how demand moves, not how it rattles."""
NOW = len(LAG_BINS) + len(MEAN_MINUTES) + len(EARLIER_MINUTES) + len(JITTER_MINUTES) + 10
AHEAD = 8
"""Features of a series, and of a series at one horizon: what one and two days before did from this minute on."""
FEATURES = NOW + AHEAD + 1
FEATURE_SET = 1
"""Stored with the trees: trees grown on another meaning of the same columns are refused."""
INPUT_LIMIT = 8.0
SCALE_FLOOR_RATIO = 0.05
"""The scale is at least this share of the day's root mean square: a quiet day must not turn noise into a storm."""
DIGITS = 6
"""Decimals of a feature. A constant's differences are 0 or 10⁻¹⁷ by luck, and a split at zero would tell them apart."""

LEAVES = 32
"""Most leaves of a tree: one bit each."""
MOST_TREES = 1024
CHUNK = 32
"""Series walked at once: 32 · 13 horizons · 400 trees of 4 bytes stay in a processor's cache."""

STORED: Mapping[str, Any] = {
    "feature_set": np.int32,
    "node.tree": np.int32,
    "node.feature": np.int32,
    "node.threshold": np.float64,
    "node.first_leaf": np.uint8,
    "node.middle_leaf": np.uint8,
    "node.missing_left": np.uint8,
    "tree.level": np.uint8,
    "tree.value": np.float64,
}
"""Every array of a stored forest and its type; see `Forest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the trees see of N windows: `now` (N, NOW), `ahead` (N, H, AHEAD), NaN for unknown, and the `level` and
    `scale` (N,) in roots that turn their answer back."""

    now: FloatArray
    ahead: FloatArray
    level: FloatArray
    scale: FloatArray

    def matrix(self, horizons: tuple[int, ...]) -> FloatArray:
        """All columns side by side, shape (N, H, FEATURES): what a fit learns from."""
        rows, count = self.ahead.shape[:2]
        now = np.broadcast_to(self.now[:, None, :], (rows, count, NOW))
        step = np.broadcast_to(np.array(horizons, dtype=np.float64)[None, :, None], (rows, count, 1))
        return np.concatenate([now, self.ahead, step], axis=2)


def window_bins(step: timedelta) -> int:
    """Bins of history that one forecast reads: two days, and the level before them."""
    return 2 * bins_in(DAY, step) + _bins(LEVEL_MINUTES, step)


def can_see(step: timedelta, horizons: tuple[int, ...]) -> bool:
    """Whether these horizons were learnt, and the day before is past half an hour on from the farthest of them.

    Bins of an hour and more are too few for what is read.
    """
    past = max(horizons) + _bins(60, step) // 2 <= bins_in(DAY, step)
    return past and max(horizons) <= HORIZONS[-1] and window_bins(step) > LAG_BINS[-1]


def features(
    root: FloatArray, horizons: tuple[int, ...], step: timedelta, *, reference: FloatArray | None = None
) -> Features:
    """Features of windows (N, ≤ `window_bins`) of roots, newest last; shorter ones are unknown on the left.

    Gaps are bridged by the last known value; a mean that reaches before the first known bin is NaN. `reference`, of
    the same shape, are the roots that stand for the day before (`Panel.reference`); without one these are `root`.
    """
    filled = _window(root, step)
    before = filled if reference is None else _window(reference, step)
    level = _mean(filled, LEVEL_MINUTES, step)
    day = filled[:, -bins_in(DAY, step) :]
    block = _bins(BLOCK_MINUTES, step)
    blocks = day[:, day.shape[1] % block :].reshape(day.shape[0], -1, block).mean(axis=2)
    mean, deviation = _moments(blocks)
    middle, spread = _moments(day)
    size = np.hypot(middle, spread)
    scale = np.maximum(deviation, SCALE_FLOOR_RATIO * size)
    divisor = np.where(scale > 0.0, scale, 1.0)

    def scaled(values: FloatArray) -> FloatArray:
        return (values - level) / divisor

    rows = [scaled(filled[:, -1 - lag]) for lag in LAG_BINS]
    rows += [scaled(_mean(filled, minutes, step)) for minutes in MEAN_MINUTES]
    rows += [scaled(_mean(filled[:, : -_bins(minutes, step)], LEVEL_MINUTES, step)) for minutes in EARLIER_MINUTES]
    rows += [
        np.log(np.maximum(filled[:, -max(3, _bins(minutes, step)) :].std(axis=1) / divisor, 1e-3))
        for minutes in JITTER_MINUTES
    ]
    rows += [scaled(filled[:, -_bins(minutes, step) :].max(axis=1)) for minutes in (15, 60)]
    rows += [scaled(filled[:, -_bins(60, step) :].min(axis=1)), scaled(mean)]
    rows += [_log_ratio(divisor, size), _log_ratio(level, size)]
    rows += _phase((blocks - mean[:, None]) / divisor[:, None])
    return Features(
        now=_settled_input(np.stack(rows, axis=1)),
        ahead=_settled_input(_ahead(filled, before, level, divisor, horizons, step)),
        level=level,
        scale=scale,
    )


def _window(root: FloatArray, step: timedelta) -> FloatArray:
    """Roots on `window_bins` columns, gaps bridged."""
    missing = window_bins(step) - root.shape[1]
    if missing > 0:
        root = np.concatenate([np.full((root.shape[0], missing), np.nan), root], axis=1)
    return carried(root)


def _ahead(
    filled: FloatArray,
    before: FloatArray,
    level: FloatArray,
    divisor: FloatArray,
    horizons: tuple[int, ...],
    step: timedelta,
) -> FloatArray:
    """What the same time one and two days before was, and how far it lay from the level then; (N, H, AHEAD)."""
    day, newest = bins_in(DAY, step), filled.shape[1] - 1
    of = {1: before, 2: filled}

    def around(days: int, minutes: int) -> FloatArray:
        """Means of that width around each horizon's bin; shape (N, H)."""
        width = _bins(minutes, step)
        ends = [newest + ahead - days * day + width // 2 + 1 for ahead in horizons]
        return np.stack([of[days][:, end - width : end].mean(axis=1) for end in ends], axis=1)

    def change(values: FloatArray, days: int) -> FloatArray:
        then = _mean(of[days][:, : filled.shape[1] - days * day], LEVEL_MINUTES, step)
        return (values - then[:, None]) / divisor[:, None]

    single = before[:, newest + np.array(horizons) - day]
    half = _bins(15, step)
    peaks = [newest + ahead - day + half // 2 + 1 for ahead in horizons]
    peak = np.stack([before[:, end - half : end].max(axis=1) for end in peaks], axis=1)
    quarter, hour = around(1, 15), around(1, 60)
    columns = [change(around(1, 5), 1), change(quarter, 1), change(single, 1), change(peak, 1)]
    columns += [(one - level[:, None]) / divisor[:, None] for one in (quarter, hour)]
    columns += [change(around(2, 5), 2), change(around(2, 15), 2)]
    return np.stack(columns, axis=2)


def _phase(day: FloatArray) -> list[FloatArray]:
    """Where in its day a series is, by its own last day: the first two harmonics, their zero at the newest block."""
    age = 2.0 * np.pi * np.arange(day.shape[1] - 1, -1, -1) / day.shape[1]
    held = np.where(np.isfinite(day), day, 0.0)
    # Multiplied and summed, not a matrix product: BLAS adds in another order for another number of rows.
    return [(held * wave(turns * age)).mean(axis=1) for turns in (1, 2) for wave in (np.cos, np.sin)]


def _bins(minutes: int, step: timedelta) -> int:
    return bins_in(timedelta(minutes=minutes), step)


def _mean(values: FloatArray, minutes: int, step: timedelta) -> FloatArray:
    means: FloatArray = values[:, -_bins(minutes, step) :].mean(axis=1)
    return means


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of the known values of each row; 0 where nothing is known."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, values, 0.0).sum(axis=1) / count
    return mean, np.sqrt(np.square(np.where(known, values - mean[:, None], 0.0)).sum(axis=1) / count)


def _log_ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.log(np.maximum(part / np.where(whole > 0.0, whole, 1.0), 1e-3))


def _settled_input(values: FloatArray) -> FloatArray:
    return np.asarray(np.round(np.clip(values, -INPUT_LIMIT, INPUT_LIMIT), DIGITS), dtype=np.float64)


# ── The trees ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Trees as arrays, each tree's leaves numbered from left to right.

    Node n of tree `tree[n]` sends a row whose `feature[n]` is above `threshold[n]` to the right, past the leaves
    [`first_leaf[n]`, `middle_leaf[n]`) of its left side; NaN goes left where `missing_left[n]`. Tree t adds
    `value[t, leaf]` to the scaled quantile `LEVELS[level[t]]`. Raises `ValueError` for anything else.
    """

    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        found = {name: array.dtype for name, array in self.arrays.items()}
        if found != {name: np.dtype(kind) for name, kind in STORED.items()}:
            raise ValueError(f"arrays {sorted(map(str, found.items()))} are not those of a forest")
        if not np.array_equal(self.arrays["feature_set"], [FEATURE_SET]):
            raise ValueError(f"grown on feature set {self.arrays['feature_set']}, this release has {FEATURE_SET}")
        trees, nodes = self.arrays["tree.level"].size, self.arrays["node.tree"].size
        if not 0 < trees <= MOST_TREES or nodes > trees * (LEAVES - 1):
            raise ValueError(f"{trees} trees with {nodes} splits, expected 1 to {MOST_TREES} with {LEAVES - 1} each")
        for name, array in self.arrays.items():
            shape = {"feature_set": (1,), "tree.level": (trees,), "tree.value": (trees, LEAVES)}.get(name, (nodes,))
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        self._check_ranges(trees)

    def _check_ranges(self, trees: int) -> None:
        """`first_leaf` < `middle_leaf` ≤ 31 is what makes every walk end: the last leaf's bit is never cleared."""
        tree, feature = self.arrays["node.tree"], self.arrays["node.feature"]
        first, middle = self.arrays["node.first_leaf"], self.arrays["node.middle_leaf"]
        level = self.arrays["tree.level"].astype(np.int64)
        sound = {
            "node.tree": ((tree >= 0) & (tree < trees)).all(),
            "node.feature": ((feature >= 0) & (feature < FEATURES)).all(),
            "node.threshold": np.isfinite(self.arrays["node.threshold"]).all(),
            "node.middle_leaf": ((first < middle) & (middle < LEAVES)).all(),
            "tree.level": np.array_equal(np.unique(level), np.arange(len(LEVELS))) and (np.diff(level) >= 0).all(),
            "tree.value": np.isfinite(self.arrays["tree.value"]).all(),
        }
        if not all(sound.values()):
            raise ValueError(f"out of range: {', '.join(name for name, is_sound in sound.items() if not is_sound)}")

    def scaled(self, seen: Features, horizons: tuple[int, ...]) -> FloatArray:
        """Scaled quantiles of every series and horizon, shape (N, H, levels), not yet in order along the levels.

        No tree is walked. Each split that sends a row to the right rules out the leaves on its left, the leaf that is
        reached is the first one left over. How far a value lies among a feature's thresholds says which leaves it
        rules out in all trees at once, and what the horizons share is ruled out once.
        """
        rows, trees = seen.now.shape[0], self.arrays["tree.level"].size
        tables = self._tables
        answer = np.empty((rows, len(horizons), len(LEVELS)))
        now = [tables[column].rank(seen.now[:, column]) for column in range(NOW)]
        ahead = [tables[NOW + column].rank(seen.ahead[:, :, column]) for column in range(AHEAD)]
        step = tables[-1].left_over[tables[-1].rank(np.array(horizons, dtype=np.float64))]
        offsets = np.arange(trees, dtype=np.int32) * LEAVES
        values = self.arrays["tree.value"].ravel()
        starts = np.searchsorted(self.arrays["tree.level"], np.arange(len(LEVELS)))
        for low in range(0, rows, CHUNK):
            chunk = slice(low, low + CHUNK)
            shared = np.full((min(CHUNK, rows - low), trees), ~np.uint32(0))
            for table, rank in zip(tables[:NOW], now, strict=True):
                shared &= table.left_over[rank[chunk]]
            left = shared[:, None, :] & step
            for table, rank in zip(tables[NOW:], ahead, strict=False):
                left &= table.left_over[rank[chunk]]
            answer[chunk] = np.add.reduceat(values[_lowest_bit(left) + offsets], starts, axis=2)
        return answer

    @cached_property
    def _tables(self) -> tuple[_Table, ...]:
        return tuple(self._table(feature) for feature in range(FEATURES))

    def _table(self, feature: int) -> _Table:
        mine = self.arrays["node.feature"] == feature
        tree, first, middle = (self.arrays[f"node.{name}"][mine] for name in ("tree", "first_leaf", "middle_leaf"))
        missing_right = self.arrays["node.missing_left"][mine] == 0
        thresholds, place = np.unique(self.arrays["node.threshold"][mine], return_inverse=True)
        one = np.uint32(1)
        ruled_out = (one << middle.astype(np.uint32)) - (one << first.astype(np.uint32))
        left_over = np.full((thresholds.size + 2, self.arrays["tree.level"].size), ~np.uint32(0))
        np.bitwise_and.at(left_over, (place + 1, tree), ~ruled_out)
        left_over[:-1] = np.bitwise_and.accumulate(left_over[:-1], axis=0)
        np.bitwise_and.at(left_over[-1], tree[missing_right], ~ruled_out[missing_right])
        return _Table(thresholds=thresholds, left_over=left_over)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One feature's splits in all trees: `left_over[r]` (trees,) are the leaves that a value above r of the ascending
    `thresholds` leaves possible; the last row is for a value that is not known."""

    thresholds: FloatArray
    left_over: BitArray

    def rank(self, values: FloatArray) -> IntArray:
        below = np.searchsorted(self.thresholds, values, side="left")
        return np.where(np.isnan(values), self.thresholds.size + 1, below)


def _lowest_bit(bits: BitArray) -> NDArray[np.int32]:
    """Index of the lowest bit set, read from the exponent of that power of two as a float; one bit is always set."""
    lowest = (bits & (~bits + np.uint32(1))).astype(np.float32)
    exponent: NDArray[np.int32] = (lowest.view(np.int32) >> 23) - 127
    return exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The pooled trees of one artefact; silent on a series younger than a day, and where a day has too few bins."""

    forest: Forest
    model_id: str = "trees"
    min_history: timedelta = DAY
    lookback: timedelta = 2 * DAY + timedelta(hours=1)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        answer = no_opinion(len(panel.keys), horizons)
        if not panel.keys or not panel.values.shape[1] or not can_see(panel.step, horizons):
            return answer
        recent = tail(panel, window_bins(panel.step))
        reference = None if recent.reference is None else roots(recent.reference)
        seen = features(roots(recent.values), horizons, panel.step, reference=reference)
        scaled = self.forest.scaled(seen, horizons)
        quantiles = np.square(np.maximum(seen.level[:, None, None] + seen.scale[:, None, None] * scaled, 0.0))
        usable = any_known(panel.values[:, -bins_in(STALE_SPAN, panel.step) :]) & reaches_back(panel, self.min_history)
        quantiles[~usable] = np.nan
        return settled(quantiles)
