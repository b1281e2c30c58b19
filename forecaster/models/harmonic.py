"""Level-adaptive harmonic regression: a smooth shape of the day, laid on the level of the last hours.

The shape is a Fourier series of eight waves a day, fitted by ridge least squares on roots of demand divided by their
mean over a day: of a series that triples it is the same again within a day, where a regression on the demand itself
would be wrong for weeks. How high the shape lies now is read from the last hours, and what it leaves over of the
last minutes dies away within the hour. The fit is two decayed sums a series, so a bin costs a few vector operations;
it is solved anew every hour. It knows no calendar and no week: waves of seven days
were fitted too and made it worse on every horizon, for the level has followed a weekend by breakfast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.models.quantiles import (
    RESIDUAL_SPAN,
    RESIDUAL_STRIDE,
    STALE_SPAN,
    from_residuals,
    past_origins,
    residual_span_bins,
)
from forecaster.models.tracking import Track
from forecaster.preprocess import (
    DAY,
    LARGEST_ROOT,
    any_known,
    bin_index,
    bins_in,
    reaches_back,
    roots,
    tail,
    window_means,
)
from forecaster.types import HORIZONS, Panel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

DAILY_WAVES = 8
"""Down to three hours: what is quicker is not the same every day."""
TERMS = 1 + 2 * DAILY_WAVES
RIDGE_DAYS = 0.02
"""Days of history that pull the k-th wave to nothing, times k²: quick waves have to show themselves longer."""
FIT_BLOCK = timedelta(minutes=15)
"""A first fit reads means of this width: the quickest wave takes three hours."""
SOLVED_EVERY = timedelta(hours=1)
LEAST_SHAPE = 0.05
"""A shape never lies below this share of its own mean: what divides by it must not turn a quiet night into a storm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harmonic:
    """A Fourier shape of the day on the present level; see the module.

    `fit_half_life` is how fast old days are forgotten, `scale_half_life` how far back the level is read,
    `rest_half_life` over what the newest deviation is averaged, `fade_half_life` how long it is believed to go on.
    """

    model_id: str = "harmonic"
    min_history: timedelta = 3 * DAY
    history: timedelta = 14 * DAY
    lookback: timedelta = DAY + timedelta(hours=2)
    fit_half_life: timedelta = 7 * DAY
    scale_half_life: timedelta = timedelta(hours=2)
    rest_half_life: timedelta = timedelta(minutes=3)
    fade_half_life: timedelta = timedelta(hours=2)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`; reads the last `history` of the panel."""
        return self.predict_from(self.start(panel, horizons=horizons), panel, horizons=horizons)

    def start(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """One fit over the last `history`, then its level and its own forecasts over the last day."""
        step, series = panel.step, len(panel.keys)
        recent = tail(panel, bins_in(self.history, step))
        end = bin_index(panel.end, step)
        arrays: dict[str, NDArray[Any]] = {
            "gram": np.zeros((series, TERMS, TERMS)),
            "moment": np.zeros((series, TERMS)),
            "shape": np.zeros((series, TERMS)),
            # Numbers are kept by row, because rows of several tracks may be joined.
            "learnt": np.full(series, end - recent.values.shape[1], dtype=np.int64),
            "level": np.zeros((series, 2)),
            "rest": np.zeros((series, 2)),
            "points": np.full((series, _slots(step, horizons), len(horizons)), np.nan, dtype=np.float16),
            # Kept, because later panels may hold only the last day.
            "mature": reaches_back(panel, self.min_history),
        }
        root = roots(recent.values)
        self._learn(arrays, root, window_means(root, bins_in(DAY, step)), end, step)
        again = residual_span_bins(step, horizons) + bins_in(3 * self.scale_half_life, step)
        self._follow_level(arrays, root[:, -again:], end - min(again, root.shape[1]), step, horizons)
        return Track(keys=panel.keys, end=panel.end, arrays=arrays)

    def advance(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Track:
        """See `forecaster.models.tracking.Tracking`."""
        step = panel.step
        fresh = (panel.end - track.end) // step
        if fresh <= 0:
            return track
        # The sums and the shape are replaced as a whole when they are learnt anew, the others written in place.
        own = ("level", "rest", "points", "mature")
        arrays = {name: array.copy() if name in own else array for name, array in track.arrays.items()}
        hour, day = bins_in(SOLVED_EVERY, step), bins_in(DAY, step)
        root = roots(tail(panel, fresh + day + hour).values)
        first = bin_index(track.end, step)
        for number in range(first, first + fresh):
            column = root.shape[1] - fresh + number - first
            if (number + 1) % hour == 0:
                last_day = root[:, max(0, column + 1 - day) : column + 1]
                self._learn(arrays, last_day[:, -hour:], window_means(last_day, day)[:, -1:], number + 1, step)
            self._follow_level(arrays, root[:, column : column + 1], number, step, horizons)
        arrays["mature"] |= reaches_back(panel, self.min_history)
        return Track(keys=track.keys, end=panel.end, arrays=arrays)

    def predict_from(self, track: Track, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.models.tracking.Tracking`."""
        arrays, step = track.arrays, panel.step
        next_bin, stride = bin_index(track.end, step), bins_in(RESIDUAL_STRIDE, step)
        slots = arrays["points"].shape[1]
        root = roots(tail(panel, slots * stride + max(horizons)).values)
        bins = root.shape[1]
        # Column c is bin number next_bin - bins + c; the ring keeps what was forecast after every stride-th bin.
        origins = past_origins(bins, next_bin, step, horizons)
        kept = arrays["points"][:, ((next_bin - bins + origins + 1) // stride) % slots, :].swapaxes(1, 2)
        targets = np.array(horizons)[:, None] + origins[None, :]
        values = from_residuals(self._ahead(arrays, next_bin, step, horizons), root[:, targets] - kept)
        fresh = any_known(panel.values[:, -bins_in(STALE_SPAN, step) :])
        values[~(fresh & arrays["mature"])] = np.nan
        return values

    def _learn(
        self, arrays: dict[str, NDArray[Any]], root: FloatArray, mean: FloatArray, end: int, step: timedelta
    ) -> None:
        """The columns of `root` that are not learnt yet into the decayed sums, and the shape from these; in place.

        `end` is the bin number after the last column, `mean` the day's mean at each column or at all of them. Sums of
        x·xᵀ and x·y are in days. What is learnt in blocks ends with the last column, so that nothing depends on where
        an hour begins. Time passes for a row as far as it was not learnt.
        """
        block = min(bins_in(FIT_BLOCK, step), root.shape[1])
        bins = root.shape[1] // max(block, 1) * block
        numbers = np.arange(end - bins, end)
        shape = _relative(root, mean)[:, root.shape[1] - bins :]
        known = np.isfinite(shape) & (numbers >= arrays["learnt"][:, None])
        parts = (root.shape[0], -1, block) if bins else (root.shape[0], 0, 1)
        count, total = known.reshape(parts).sum(axis=2), np.where(known, shape, 0.0).reshape(parts).sum(axis=2)
        middles = end - (block + 1) / 2.0 - block * np.arange(bins // max(block, 1))[::-1]
        waves = basis(middles, step)
        faded = (step / DAY) * np.exp2((middles - end) * (step / self.fit_half_life))
        kept = np.exp2((arrays["learnt"] - end) * (step / self.fit_half_life))
        pairs = (waves[:, :, None] * waves[:, None, :]).reshape(-1, TERMS * TERMS)
        arrays["gram"] = arrays["gram"] * kept[:, None, None] + ((count * faded) @ pairs).reshape(-1, TERMS, TERMS)
        arrays["moment"] = arrays["moment"] * kept[:, None] + (total * faded) @ waves
        arrays["shape"] = solved(arrays["gram"], arrays["moment"])
        arrays["learnt"] = np.full_like(arrays["learnt"], end)

    def _follow_level(
        self, arrays: dict[str, NDArray[Any]], root: FloatArray, first: int, step: timedelta, horizons: tuple[int, ...]
    ) -> None:
        """Level and rest over the columns of `root`, in place, column 0 being bin number `first`."""
        level_kept, rest_kept = (0.5 ** (step / each) for each in (self.scale_half_life, self.rest_half_life))
        stride, slots = bins_in(RESIDUAL_STRIDE, step), arrays["points"].shape[1]
        numbers = first + np.arange(root.shape[1], dtype=np.float64)
        shapes = _laid(arrays["shape"], basis(numbers, step))
        for column in range(root.shape[1]):
            known, shape = np.isfinite(root[:, column]), shapes[:, column]
            value = np.where(known, root[:, column], 0.0)
            arrays["level"] *= level_kept
            arrays["level"] += np.stack([value * shape, known * np.square(shape)], axis=1)
            over = np.where(known, value - shape * _ratio(arrays["level"]), 0.0)
            arrays["rest"] *= rest_kept
            arrays["rest"] += np.stack([over, known], axis=1)
            following = first + column + 1
            if following % stride == 0:
                said = self._ahead(arrays, following, step, horizons)
                arrays["points"][:, (following // stride) % slots, :] = np.minimum(said, LARGEST_ROOT)

    def _ahead(
        self, arrays: Mapping[str, NDArray[Any]], next_bin: int, step: timedelta, horizons: tuple[int, ...]
    ) -> FloatArray:
        """Roots forecast for the bins `next_bin` + h - 1, shape (series, H), never below zero."""
        steps = np.array(horizons, dtype=np.float64)
        shape = _laid(arrays["shape"], basis(next_bin + steps - 1.0, step))
        fade = np.exp2(-steps * (step / self.fade_half_life))
        said = _ratio(arrays["level"])[:, None] * shape + _ratio(arrays["rest"])[:, None] * fade
        return np.asarray(np.maximum(said, 0.0))


def basis(numbers: FloatArray, step: timedelta) -> FloatArray:
    """The regression's terms at these bin numbers, shape (N, TERMS): one, then sine and cosine of every wave."""
    days = numbers * (step / DAY)
    turns = np.arange(1.0, DAILY_WAVES + 1.0)
    # Whole turns are taken off before the sine: of twenty thousand days since 1970 it would keep eleven digits.
    angle = 2.0 * np.pi * np.remainder(days[:, None] * turns, 1.0)
    return np.concatenate([np.ones((numbers.size, 1)), np.sin(angle), np.cos(angle)], axis=1)


def solved(gram: FloatArray, moment: FloatArray) -> FloatArray:
    """Ridge least squares from decayed sums: coefficients (series, TERMS). Sine and cosine are pulled alike, so that
    no hour of the clock is another's better."""
    waves = RIDGE_DAYS * np.square(np.arange(1.0, DAILY_WAVES + 1.0))
    ridge = np.concatenate([[RIDGE_DAYS], waves, waves])
    return np.asarray(np.linalg.solve(gram + np.diag(ridge), moment[..., None])[..., 0])


def _relative(root: FloatArray, mean: FloatArray) -> FloatArray:
    """How far roots lie from the mean of the day that ends with them, as a share of it; NaN where unknown."""
    return np.divide(root - mean, mean, out=np.where(np.isnan(root), np.nan, 0.0), where=mean > 0.0)


def _laid(coefficients: FloatArray, waves: FloatArray) -> FloatArray:
    """The shape (mean about 1) at the moments of `waves`, shape (series, N)."""
    # Multiplied and summed, not a matrix product: BLAS adds in another order for another number of rows.
    return np.asarray(np.maximum(1.0 + np.einsum("st,nt->sn", coefficients, waves), LEAST_SHAPE))


def _ratio(sums: FloatArray) -> FloatArray:
    return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(sums.shape[0]), where=sums[:, 1] > 0.0)


def _slots(step: timedelta, horizons: tuple[int, ...]) -> int:
    """Ring size: the origins of one residual span, and those still too young to be checked."""
    return -(-(bins_in(RESIDUAL_SPAN, step) + max(horizons)) // bins_in(RESIDUAL_STRIDE, step)) + 1
