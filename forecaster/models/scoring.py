"""What came true: members' losses, the bands' width by time of day, the conformal offset, and the quality published.

Decides how much one checked forecast teaches (`Learning`), never which member speaks. A bin that is unknown, and a
series that must not learn now, teach nothing and make nothing older.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models import heights
from forecaster.models.blending import gains, mixture
from forecaster.models.memory import QUALITY_COLUMNS, SLOT, EngineState, seen, slots
from forecaster.models.quantiles import QUANTILE_LEVELS, STALE_SPAN, pinball
from forecaster.preprocess import DAY, bin_index, bins_in, carried
from forecaster.types import LEVELS, ForecastQuality, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

COLUMN_95 = LEVELS.index(0.95)
_IN_PLACE = frozenset(
    {
        "pending",
        "pending_width",
        "pending_rank",
        "loss",
        "evidence",
        "slot_ratio",
        "slot_weight",
        "height_ratio",
        "height_weight",
        "window",
    }
)
"""Arrays that `observe` writes into, and so copies; the others it leaves or replaces whole."""
TOLERANCE = 1e-6
"""Forecasts wait as float32: a constant series must not miss its own value by rounding."""
MOST_RATIO = 36.0
"""Six widths of the band: beyond it an error says no more about the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How fast scores move."""

    loss_half_life: timedelta = timedelta(hours=4)
    """Half-life of the members' losses: long enough to tell equals apart, short enough for a new regime (3-6 h)."""
    min_scored: float = 60.0
    """Scored bins (decayed) before a member may speak beside the fallback, or half of what a half-life can hold:
    of ten-minute bins a half-life of four hours never holds more than 35."""
    gain_half_life: timedelta = timedelta(hours=12)
    """Half-life of what more of a member would have gained the blend: half a day, so that its nights are remembered."""
    scale_half_life: timedelta = timedelta(hours=4)
    """Half-life of the error scale, by which the offset moves where the band is narrower than that."""
    ratio_half_life: timedelta = timedelta(days=1)
    """Half-life of what errors are on average, in widths of the band: a whole day, night and noon."""
    slot_half_life: timedelta = timedelta(days=7)
    """Half-life of what they are at one time of the day."""
    slot_prior_days: float = 0.5
    """Days like the average that every time of the day is taken to have had."""
    most_recurrent: float = 3.0
    """Bound of the factor by which the time of day widens a band, or narrows it; and of that by its height."""
    conformal_gain: float = 0.01
    """Offset step a scored bin, in widths of the band: a miss of the .95 quantile adds .0095, a hit takes .0005."""
    conformal_steps: int = 8
    """Up to this horizon that step is a whole one; from there on it falls with the horizon's root: 32 takes half a
    step. A forecast h steps ahead learns h steps late that it misses, and has missed in the same way meanwhile."""
    max_offset: float = 3.0
    """Bound of the offset, in widths of the band, either way."""

    def enough(self, step: timedelta) -> float:
        """Scored bins of this width (decayed) from which on a member may speak."""
        return min(self.min_scored, 0.5 / (1.0 - _decay(self.loss_half_life, step)))

    def paces(self, horizons: tuple[int, ...]) -> FloatArray:
        """The offset's step a scored bin at each of `horizons`, in widths of the band."""
        ahead = np.array(horizons, dtype=np.float64)
        found: FloatArray = self.conformal_gain * np.sqrt(np.minimum(1.0, self.conformal_steps / ahead))
        return found


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
    arrays = {name: array.copy() if name in _IN_PLACE else array for name, array in state.arrays.items()}
    quality_bins = arrays["window"].shape[1]
    rows, ahead = np.arange(len(panel.keys)), np.array(state.horizons)[lead]
    pace = rule.paces(state.horizons)
    for end in range(now - fresh + 1, now - fresh + reach + 1):
        column = width - 1 - (now - end)
        actual = values[:, column] if column >= 0 else np.full(len(panel.keys), np.nan)
        slot = slots(state.horizons, end)
        due = arrays["pending"][:, slot].astype(np.float64)
        back = column - ahead
        naive = np.where(back >= 0, as_it_was[rows, np.maximum(back, 0)], np.nan)
        taught = np.where(learning, actual, np.nan)
        published = due[:, :, -1]
        scored = np.isfinite(published).all(axis=2) & np.isfinite(taught)[:, None]
        medians = np.sqrt(published[:, :, 0])
        error = np.sqrt(taught)[:, None] - medians
        _weigh_members(arrays, due[:, :, :-1], taught, panel.step, rule)
        _learn_gains(arrays, due[:, :, :-1, 0], taught, panel.step, rule)
        ratio = _error_ratios(error, arrays["pending_width"][:, slot].astype(np.float64), scored)
        relative = _learn_ratios(arrays, ratio, _slot(end, panel.step), panel.step, rule)
        above = np.where(error > 0.0, relative, 0.0)
        heights.learn(arrays, arrays["pending_rank"][:, slot], medians, above, np.isfinite(ratio), panel.step)
        _move_offsets(arrays, published, taught, error, scored, pace, panel.step, rule)
        arrays["window"][:, end % quality_bins] = _marks(published[rows, lead], actual, naive)
        arrays["pending"][:, slot] = np.nan
        arrays["pending_width"][:, slot] = np.nan
        arrays["pending_rank"][:, slot] = heights.NO_RANK
    if reach < fresh:
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


def recurrent(state: EngineState, rule: Learning) -> FloatArray:
    """Factor (series, horizons) on the width of the band that ends at `state.end`: errors recur by time of day.

    The quarter of an hour in which the target lies and its two neighbours are compared with the whole day. Half way,
    in logarithms, from the day's error to theirs: four times the error asks for twice the width. A few days at three
    quarters of an hour are a rough estimate of an error's size, and the square root halves its noise too.
    """
    prior = rule.slot_prior_days * 3 * (SLOT / state.step)
    at = slot_of(bin_index(state.end, state.step) + np.array(state.horizons), state.step)
    squared = (_around(state.arrays["slot_ratio"], at) + prior) / (_around(state.arrays["slot_weight"], at) + prior)
    said: FloatArray = np.minimum(np.maximum(squared**0.25, 1.0 / rule.most_recurrent), rule.most_recurrent)
    return said


def _around(slots_of_day: NDArray[Any], at: NDArray[np.int64]) -> FloatArray:
    """The slots `at`, each with the one before and the one after it; midnight lies between the last and the first."""
    count = slots_of_day.shape[1]
    exact = slots_of_day[:, np.concatenate([at, (at - 1) % count, (at + 1) % count])].astype(np.float64)
    summed: FloatArray = exact[:, : at.size] + exact[:, at.size : 2 * at.size] + exact[:, 2 * at.size :]
    return summed


def slot_of(ends: NDArray[np.int64], step: timedelta) -> NDArray[np.int64]:
    """The quarter of an hour of the day, UTC, in which the bins with these numbers (of their ends) begin."""
    since_midnight_s = (ends - 1) * step.total_seconds() % DAY.total_seconds()
    found: NDArray[np.int64] = (since_midnight_s // SLOT.total_seconds()).astype(np.int64)
    return found


def _slot(end: int, step: timedelta) -> int:
    """`slot_of` one bin, asked every step: on a single number numpy takes ten times as long."""
    return int((end - 1) * step.total_seconds() % DAY.total_seconds() // SLOT.total_seconds())


def quality_of(state: EngineState) -> Mapping[SeriesKey, ForecastQuality]:
    """Quality by series over the last six hours; series of which nothing was scored are absent."""
    window = state.arrays["window"].astype(np.float64)
    known = np.isfinite(window)
    scored = known[:, :, 0] & known[:, :, 1] & known[:, :, 2] & known[:, :, 3]
    counts = np.count_nonzero(scored, axis=1)
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


def wape_day_before(state: EngineState, panel: Panel) -> Mapping[SeriesKey, float]:
    """Error Σ|y - ŷ| / Σy by series of ŷ = "as it was 24 hours before", over the bins that `quality_of` judges.

    `panel` ends at `state.end` and reaches a day beyond those bins; another end, or series of which less than half of
    those bins were known the day before, get no answer: an error over other bins could not be compared.
    """
    if panel.end != state.end:
        return {}
    window, row_of = state.arrays["window"].astype(np.float64), {key: row for row, key in enumerate(panel.keys)}
    bins, now = window.shape[1], bin_index(state.end, state.step)
    ends = np.arange(now - bins + 1, now + 1)  # the bin number at which each mark was made, oldest first
    columns = panel.values.shape[1] - 1 - (now - ends) - bins_in(DAY, state.step)
    found: dict[SeriesKey, float] = {}
    for row, key in enumerate(state.keys):
        marks = window[row, ends % bins]
        before = np.full(bins, np.nan)
        if key in row_of:
            before[columns >= 0] = panel.values[row_of[key], columns[columns >= 0]]
        scored = np.isfinite(marks).all(axis=1)
        both = scored & np.isfinite(before)
        if both.any() and 2 * both.sum() >= scored.sum():
            actual = marks[both, QUALITY_COLUMNS.index("actual")]
            found[key] = _ratio(float(np.abs(actual - before[both]).sum()), float(actual.sum()))
    return found


def narrowed(state: EngineState, keys: Set[SeriesKey]) -> EngineState:
    """The memory of some series alone, for looking at: without the members' tracks."""
    rows = [row for row, key in enumerate(state.keys) if key in keys]
    return replace(
        state,
        keys=tuple(state.keys[row] for row in rows),
        arrays={name: array[rows] for name, array in state.arrays.items()},
        tracks={},
    )


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


def _learn_gains(
    arrays: dict[str, NDArray[Any]], said: FloatArray, actual: FloatArray, step: timedelta, rule: Learning
) -> None:
    """What more of each member would have gained, by medians `said` (series, horizons, members), in place.

    The blend is the one that today's gains make of what was said then: what feedback so late can teach.
    """
    roots, speaks = np.sqrt(said), np.isfinite(said)
    earned = speaks & (arrays["evidence"] >= rule.enough(step))
    heard = np.where(earned.any(axis=2, keepdims=True), earned, speaks)
    found = gains(roots, mixture(arrays["gain"], arrays["gain_square"], heard), np.sqrt(actual))
    told = np.isfinite(found)
    decay = np.where(told, _decay(rule.gain_half_life, step), 1.0)
    found = np.where(told, found, 0.0)
    arrays["gain"] = arrays["gain"] * decay + found
    arrays["gain_square"] = arrays["gain_square"] * decay + np.square(found)


def _error_ratios(error: FloatArray, width: FloatArray, scored: NDArray[np.bool_]) -> FloatArray:
    """(error / width)² (series, horizons), in roots, at most `MOST_RATIO`; NaN where it cannot be told."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.minimum(np.square(error / width), MOST_RATIO)
    return np.where(scored & (width > 0.0), ratio, np.nan)


def _learn_ratios(
    arrays: dict[str, NDArray[Any]], ratio: FloatArray, slot: int, step: timedelta, rule: Learning
) -> FloatArray:
    """Errors in widths of the band, a horizon's over the day and all horizons' in this slot of the day, in place.

    Answers `ratio` (series, horizons) relative to the horizon's mean, 0 where it cannot be told.
    """
    told = np.isfinite(ratio)
    decay = np.where(told, _decay(rule.ratio_half_life, step), 1.0)
    known = np.where(told, ratio, 0.0)
    arrays["ratio"] = arrays["ratio"] * decay + known
    arrays["ratio_weight"] = arrays["ratio_weight"] * decay + told
    mean = arrays["ratio"] / np.maximum(arrays["ratio_weight"], 1e-300)
    relative = known / np.where(mean > 0.0, mean, 1.0)
    some = told.any(axis=1)
    # A slot is met SLOT / step times a day: together these bins age it by one day. Bins wider than it meet it once.
    aged = np.where(some, _decay(rule.slot_half_life, DAY) ** min(1.0, step / SLOT), 1.0)
    arrays["slot_ratio"][:, slot] *= aged
    arrays["slot_ratio"][:, slot] += relative.sum(axis=1) / np.maximum(told.sum(axis=1), 1)
    arrays["slot_weight"][:, slot] *= aged
    arrays["slot_weight"][:, slot] += some
    return relative


def _move_offsets(
    arrays: dict[str, NDArray[Any]],
    due: FloatArray,
    actual: FloatArray,
    error: FloatArray,
    scored: NDArray[np.bool_],
    pace: FloatArray,
    step: timedelta,
    rule: Learning,
) -> None:
    """The conformal tracker δ += pace·(miss - (1 - level)) of the upper levels, in place; the median stays.

    `pace` (horizons,) is how far a bin moves it. `error` (series, horizons) in roots feeds the scale that the offset
    moves by where the band is narrower.
    """
    with np.errstate(invalid="ignore"):
        missed = actual[:, None, None] > due * (1.0 + TOLERANCE)
    moved = pace[:, None] * (missed - (1.0 - QUANTILE_LEVELS))
    moved[:, :, 0] = 0.0
    offset = arrays["offset"] + np.where(scored[:, :, None], moved, 0.0)
    arrays["offset"] = np.minimum(np.maximum(offset, -rule.max_offset), rule.max_offset)
    decay = np.where(scored, _decay(rule.scale_half_life, step), 1.0)
    arrays["error"] = arrays["error"] * decay + np.where(scored, np.abs(error), 0.0)
    arrays["error_weight"] = arrays["error_weight"] * decay + scored


def _marks(published: FloatArray, actual: FloatArray, naive: FloatArray) -> FloatArray:
    """One bin's `QUALITY_COLUMNS` (series, 4) by the quantiles (series, levels) at each series' lead horizon; NaN
    where it could not be checked."""
    marks = np.empty((actual.size, len(QUALITY_COLUMNS)))
    with np.errstate(invalid="ignore"):
        marks[:, 0] = actual <= published[:, COLUMN_95] * (1.0 + TOLERANCE)
    marks[:, 1] = np.abs(actual - published[:, 0])
    marks[:, 2] = np.abs(actual - naive)
    marks[:, 3] = actual
    marks[~np.isfinite(marks).all(axis=1)] = np.nan
    return marks
