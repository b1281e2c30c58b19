"""What came true: members' losses, the conformal offset, and the quality of what was published.

Decides how much one checked forecast teaches (`Learning`), never which member speaks. A bin that is unknown, and a
series that must not learn now, teach nothing and make nothing older.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models.memory import EngineState, seen, slots
from forecaster.models.quantiles import QUANTILE_LEVELS, STALE_SPAN, pinball
from forecaster.preprocess import bin_index, bins_in, carried
from forecaster.types import LEVELS, ForecastQuality, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

COLUMN_95 = LEVELS.index(0.95)
TOLERANCE = 1e-6
"""Forecasts wait as float32: a constant series must not miss its own value by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How fast scores move."""

    loss_half_life: timedelta = timedelta(hours=4)
    """Half-life of the members' losses: long enough to tell equals apart, short enough for a new regime (3-6 h)."""
    scale_half_life: timedelta = timedelta(hours=4)
    """Half-life of the error scale in which the offset moves."""
    conformal_gain: float = 0.02
    """Offset step a scored bin, in error scales: a miss of the .95 quantile adds .019, a hit takes .001."""
    max_offset: float = 6.0
    """Bound of the offset, in error scales, either way."""


def observe(
    state: EngineState,
    panel: Panel,
    *,
    lead: NDArray[np.int64],
    learning: NDArray[np.bool_],
    rule: Learning,
) -> EngineState:
    """`state` at `panel.end`: every pending forecast whose bin has become known since is scored, oldest first.

    `lead` (series,) is the horizon's column at which quality is measured, `learning` (series,) who may learn now.
    """
    fresh = (panel.end - state.end) // panel.step
    if fresh <= 0:
        return state
    reach = min(fresh, max(state.horizons))
    width = min(panel.values.shape[1], fresh + max(state.horizons) + bins_in(STALE_SPAN, panel.step))
    recent = panel.values[:, panel.values.shape[1] - width :]
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(recent) & (recent >= 0.0), recent, np.nan)
    as_it_was = carried(values, limit=bins_in(STALE_SPAN, panel.step))

    now = bin_index(panel.end, panel.step)
    arrays = {name: array.copy() for name, array in state.arrays.items()}
    quality_bins = arrays["window"].shape[1]
    for end in range(now - fresh + 1, now - fresh + reach + 1):
        column = width - 1 - (now - end)
        actual = values[:, column] if column >= 0 else np.full(len(panel.keys), np.nan)
        due = arrays["pending"][:, slots(state.horizons, end)].astype(np.float64)
        back = column - np.array(state.horizons)[lead]
        naive = np.where(back >= 0, as_it_was[np.arange(len(panel.keys)), np.maximum(back, 0)], np.nan)
        taught = np.where(learning, actual, np.nan)
        _weigh_members(arrays, due[:, :, :-1], taught, panel.step, rule)
        _move_offsets(arrays, due[:, :, -1], taught, panel.step, rule)
        arrays["window"][:, end % quality_bins] = _marks(due[:, :, -1], actual, naive, lead)
        arrays["pending"][:, slots(state.horizons, end)] = np.nan
    # Bins after the longest pending horizon have no forecast to check: their marks take the place of older ones.
    unchecked = np.arange(now - fresh + reach + 1, now + 1)[-quality_bins:]
    arrays["window"][:, unchecked % quality_bins] = np.nan
    return seen(
        EngineState(
            keys=state.keys,
            members=state.members,
            horizons=state.horizons,
            step=state.step,
            end=panel.end,
            arrays=arrays,
            tracks=state.tracks,
        ),
        panel,
        panel.values[:, max(0, panel.values.shape[1] - fresh) :],
    )


def quality_of(state: EngineState) -> Mapping[SeriesKey, ForecastQuality]:
    """Quality by series over the last six hours; series of which nothing was scored are absent."""
    window = state.arrays["window"].astype(np.float64)
    scored = np.asarray(np.isfinite(window).all(axis=2))
    counts = scored.sum(axis=1)
    sums = np.where(scored[:, :, None], window, 0.0).sum(axis=1)
    return {
        key: ForecastQuality(
            coverage_95=float(sums[row, 0] / counts[row]),
            wape=_ratio(sums[row, 1], sums[row, 3]),
            wape_last_value=_ratio(sums[row, 2], sums[row, 3]),
            scored_bins=int(counts[row]),
        )
        for row, key in enumerate(state.keys)
        if counts[row]
    }


def _ratio(error: float, total: float) -> float:
    """Error relative to demand; with no demand at all, 0 for a perfect forecast and infinity for any other."""
    if total > 0.0:
        return float(error / total)
    return 0.0 if error == 0.0 else float("inf")


def _decay(half_life: timedelta, step: timedelta) -> float:
    return float(0.5 ** (step / half_life))


def _weigh_members(
    arrays: dict[str, NDArray[Any]], due: FloatArray, actual: FloatArray, step: timedelta, rule: Learning
) -> None:
    """Members' decayed losses, in place; `due` (series, horizons, members, levels), NaN where nothing was said."""
    loss = pinball(actual[:, None, None], due)
    scored = np.isfinite(loss)
    decay = np.where(scored, _decay(rule.loss_half_life, step), 1.0)
    arrays["loss"] *= decay
    arrays["loss"] += np.where(scored, loss, 0.0)
    arrays["evidence"] *= decay
    arrays["evidence"] += scored


def _move_offsets(
    arrays: dict[str, NDArray[Any]], due: FloatArray, actual: FloatArray, step: timedelta, rule: Learning
) -> None:
    """The conformal tracker δ += gain·(miss - (1 - level)) of the upper levels, in place; the median stays."""
    scored = np.isfinite(due).all(axis=2) & np.isfinite(actual)[:, None]
    with np.errstate(invalid="ignore"):
        missed = actual[:, None, None] > due * (1.0 + TOLERANCE)
        error = np.abs(np.sqrt(actual)[:, None] - np.sqrt(due[:, :, 0]))
    moved = rule.conformal_gain * (missed - (1.0 - QUANTILE_LEVELS))
    moved[:, :, 0] = 0.0
    arrays["offset"] = np.clip(
        arrays["offset"] + np.where(scored[:, :, None], moved, 0.0), -rule.max_offset, rule.max_offset
    )
    decay = np.where(scored, _decay(rule.scale_half_life, step), 1.0)
    arrays["error"] = arrays["error"] * decay + np.where(scored, error, 0.0)
    arrays["error_weight"] = arrays["error_weight"] * decay + scored


def _marks(due: FloatArray, actual: FloatArray, naive: FloatArray, lead: NDArray[np.int64]) -> FloatArray:
    """One bin's `QUALITY_COLUMNS` (series, 4) at each series' lead horizon; NaN where it could not be checked."""
    published = due[np.arange(len(lead)), lead]
    with np.errstate(invalid="ignore"):
        hit = (actual <= published[:, COLUMN_95] * (1.0 + TOLERANCE)).astype(np.float64)
    marks = np.stack([hit, np.abs(actual - published[:, 0]), np.abs(actual - naive), actual], axis=1)
    marks[~np.isfinite(marks).all(axis=1)] = np.nan
    return marks
