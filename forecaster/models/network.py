"""A small LSTM, one for all workloads, predicted in numpy from exported weights.

It sees shapes, never units: each series is centred on its present level and scaled by its own day, on square roots of
demand; no clock, no calendar and no identity go in, so a weekend it has never seen cannot make it explode. Bins of two,
five and ten minutes are laid out on the minutes that they cover, and how wide they are goes in. One pass answers every
horizon and quantile. The guards are part of the model: the scale has a floor, inputs are clipped to ±6, forecasts stop
at three times what the history has seen, and a row that is not finite is no opinion. It never trains;
`forecaster.fitting.neural` does, on the same `features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models.quantiles import STALE_SPAN, no_opinion, settled
from forecaster.preprocess import DAY, any_known, bins_in, carried, reaches_back, roots, tail
from forecaster.types import HORIZONS, LEVELS, STEP, Panel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.types import FloatArray

    Float32Array = NDArray[np.float32]

WIDTHS = (1, 2, 5, 10)
"""Minutes of the bins that it has learnt to read …"""
READS = tuple(STEP * minutes for minutes in WIDTHS)
"""… and those bins."""
BLOCK = 5
"""Minutes averaged into one step of the sequence."""
BLOCKS = 36
"""Steps of the sequence: three hours."""
RECENT = 10
"""Newest minutes that go in one by one."""
LEVEL_BINS = 15
"""Minutes whose mean is the present level."""
DAY_BINS = 1440
WINDOW_BINS = DAY_BINS + BLOCK * BLOCKS + LEVEL_BINS
"""Minutes of history that one forecast reads."""
HIDDEN = 32
DENSE = 48
CHANNELS = 2
STATIC = RECENT + len(HORIZONS) + 5
INPUT_LIMIT = 6.0
SCALE_FLOOR_RATIO = 0.05
"""The scale is at least this share of the day's root mean square: a quiet day must not turn noise into a storm."""
CEILING_RATIO = 3.0

SHAPES: dict[str, tuple[int, ...]] = {
    "lstm.weight_ih_l0": (4 * HIDDEN, CHANNELS),
    "lstm.weight_hh_l0": (4 * HIDDEN, HIDDEN),
    "lstm.bias_ih_l0": (4 * HIDDEN,),
    "lstm.bias_hh_l0": (4 * HIDDEN,),
    "dense.weight": (DENSE, HIDDEN + STATIC),
    "dense.bias": (DENSE,),
    "head.weight": (len(HORIZONS) * len(LEVELS), DENSE),
    "head.bias": (len(HORIZONS) * len(LEVELS),),
    "skip.weight": (len(HORIZONS), STATIC),
}
"""Every weight by the name that training exports it under; what differs is refused when it is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the network sees of N windows: `sequence` (N, BLOCKS, CHANNELS), `static` (N, STATIC), float32, and the
    `level` and `scale` (N,) in roots that turn its answer back."""

    sequence: Float32Array
    static: Float32Array
    level: FloatArray
    scale: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The pooled LSTM with one artefact's `weights` (see `SHAPES`); silent on bins of a width not in `WIDTHS`."""

    weights: Mapping[str, Float32Array]
    model_id: str = "lstm"
    min_history: timedelta = DAY
    lookback: timedelta = STEP * WINDOW_BINS + timedelta(minutes=45)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`; horizons between those it was trained on are interpolated."""
        answer = no_opinion(len(panel.keys), horizons)
        if panel.step not in READS or max(horizons) > HORIZONS[-1] or not panel.keys or not panel.values.shape[1]:
            return answer
        minutes = panel.step // STEP
        root = roots(tail(panel, -(-WINDOW_BINS // minutes)).values)
        seen = features(root, minutes=minutes)
        scaled = forward(self.weights, seen.sequence, seen.static).astype(np.float64)
        quantiles = np.square(np.maximum(seen.level[:, None, None] + seen.scale[:, None, None] * scaled, 0.0))
        ceiling = CEILING_RATIO * np.square(np.nan_to_num(root)).max(axis=1)
        with np.errstate(invalid="ignore"):
            quantiles = np.minimum(quantiles, ceiling[:, None, None])
        usable = any_known(panel.values[:, -bins_in(STALE_SPAN, panel.step) :]) & reaches_back(panel, self.min_history)
        quantiles[~usable] = np.nan
        return settled(_at(quantiles, horizons))


def features(root: FloatArray, *, minutes: int = 1) -> Features:
    """Features of windows (N, bins) of roots, newest last, each bin `minutes` wide; what is older than `WINDOW_BINS`
    minutes is not read.

    Shorter windows are unknown on the left. Gaps are bridged by the last known value; what was never known is 0 after
    scaling, that is "as usual".
    """
    if minutes > 1:
        root = np.repeat(root, minutes, axis=1)[:, -WINDOW_BINS:]
    if root.shape[1] < WINDOW_BINS:
        root = np.concatenate([np.full((root.shape[0], WINDOW_BINS - root.shape[1]), np.nan), root], axis=1)
    filled = carried(root)
    span = BLOCK * BLOCKS
    level = filled[:, -LEVEL_BINS:].mean(axis=1)
    level_before = filled[:, -LEVEL_BINS - DAY_BINS : -DAY_BINS].mean(axis=1)
    day = filled[:, -DAY_BINS:].reshape(-1, DAY_BINS // BLOCK, BLOCK).mean(axis=2)
    mean, deviation, size = _moments(day)
    scale = np.maximum(deviation, SCALE_FLOOR_RATIO * size)
    divisor = np.where(scale > 0.0, scale, 1.0)[:, None]

    now = (_blocks(filled[:, -span:]) - level[:, None]) / divisor
    before = (_blocks(filled[:, -span - DAY_BINS : -DAY_BINS]) - level_before[:, None]) / divisor
    recent = (filled[:, -RECENT:] - level[:, None]) / divisor
    after = (_day_before(filled, minutes) - level_before[:, None]) / divisor
    jitter = np.abs(np.diff(filled[:, -span:], axis=1)).mean(axis=1) / divisor[:, 0]
    rest = np.stack(
        [
            (level - level_before) / divisor[:, 0],
            (level - mean) / divisor[:, 0],
            np.log(np.maximum(jitter, 1e-3)),
            np.isfinite(level_before).astype(np.float64),
            np.full(level.size, np.log2(minutes)),
        ],
        axis=1,
    )
    return Features(
        sequence=_clipped(np.stack([now, before], axis=2)),
        static=_clipped(np.concatenate([recent, after, rest], axis=1)),
        level=level,
        scale=scale,
    )


def forward(weights: Mapping[str, Float32Array], sequence: Float32Array, static: Float32Array) -> Float32Array:
    """The network itself: scaled quantiles (N, horizons, levels), non-decreasing along the levels.

    Equal to the torch module it was trained as (`test_network`): gates in torch's order input, forget, cell, output.
    """
    inputs: Float32Array = (
        sequence @ weights["lstm.weight_ih_l0"].T + weights["lstm.bias_ih_l0"] + weights["lstm.bias_hh_l0"]
    )
    recurrent = np.ascontiguousarray(weights["lstm.weight_hh_l0"].T)
    hidden: NDArray[Any] = np.zeros((sequence.shape[0], HIDDEN), dtype=np.float32)
    cell: NDArray[Any] = np.zeros_like(hidden)
    # σ(x) = (1 + tanh(x / 2)) / 2: one tanh over all four gates, and nothing to overflow.
    half = np.full(4 * HIDDEN, 0.5, dtype=np.float32)
    half[2 * HIDDEN : 3 * HIDDEN] = 1.0
    for index in range(sequence.shape[1]):
        gates = np.tanh((inputs[:, index] + hidden @ recurrent) * half)
        opened = 0.5 * (1.0 + gates)
        cell = opened[:, HIDDEN : 2 * HIDDEN] * cell + opened[:, :HIDDEN] * gates[:, 2 * HIDDEN : 3 * HIDDEN]
        hidden = opened[:, 3 * HIDDEN :] * np.tanh(cell)
    joined = np.concatenate([hidden, static], axis=1)
    dense = np.maximum(joined @ weights["dense.weight"].T + weights["dense.bias"], 0.0)
    head = (dense @ weights["head.weight"].T + weights["head.bias"]).reshape(-1, len(HORIZONS), len(LEVELS))
    median = head[:, :, :1] + (static @ weights["skip.weight"].T)[:, :, None]
    above = np.cumsum(np.logaddexp(head[:, :, 1:], np.float32(0.0)), axis=2)
    return np.concatenate([median, median + above], axis=2)


def _blocks(values: FloatArray) -> FloatArray:
    means: FloatArray = values.reshape(values.shape[0], BLOCKS, BLOCK).mean(axis=2)
    return means


def _day_before(filled: FloatArray, minutes: int) -> FloatArray:
    """Five-minute means around the middle of each horizon's bin, 24 hours earlier; shape (N, horizons)."""
    middle = filled.shape[1] - 1 - DAY_BINS + minutes * np.array(HORIZONS) - minutes // 2
    around = middle[:, None] + np.arange(-2, 3)
    means: FloatArray = filled[:, around].mean(axis=2)
    return means


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, standard deviation and root mean square of the known values of each row; 0 where nothing is known."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=1), 1)
    held = np.where(known, values, 0.0)
    mean = held.sum(axis=1) / count
    deviation = np.sqrt(np.where(known, np.square(values - mean[:, None]), 0.0).sum(axis=1) / count)
    return mean, deviation, np.sqrt(np.square(held).sum(axis=1) / count)


def _clipped(values: FloatArray) -> Float32Array:
    return np.clip(np.nan_to_num(values), -INPUT_LIMIT, INPUT_LIMIT).astype(np.float32)


def _at(quantiles: FloatArray, horizons: tuple[int, ...]) -> FloatArray:
    """The trained horizons' quantiles at the horizons asked for, linear in between."""
    if horizons == HORIZONS:
        return quantiles
    grid, asked = np.array(HORIZONS), np.array(horizons)
    upper = np.clip(np.searchsorted(grid, asked), 1, len(HORIZONS) - 1)
    lower = upper - 1
    share = np.clip((asked - grid[lower]) / (grid[upper] - grid[lower]), 0.0, 1.0)[None, :, None]
    return np.asarray(quantiles[:, lower] * (1.0 - share) + quantiles[:, upper] * share)
