"""Known history replayed quickly: many origins of one model answered in one batch.

For simulation and backtest alone, where the whole trace is at hand: a model without memory forecasts from a window of
its last `lookback`, so the windows of the next origins are laid out as so many rows and asked at once. What is answered
at an origin is what the model itself would have answered there (`test_replay`), and a window ends where its origin
does: nothing of what comes later is in it. Decides nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.models.quantiles import RESIDUAL_STRIDE
from forecaster.models.tracking import is_tracking
from forecaster.preprocess import bins_in
from forecaster.types import HORIZONS, LEVELS, Forecaster, Panel

if TYPE_CHECKING:
    from forecaster.types import FloatArray

ROWS = 768
"""Windows asked in one batch: enough to spread numpy's cost a call, small enough (20 MB) to stay in memory."""


def replayed(member: Forecaster, history: Panel) -> Forecaster:
    """`member`, faster on the origins of `history`; a model with memory, or of unknown lookback, as it is."""
    lookback = getattr(member, "lookback", None)
    if is_tracking(member) or not isinstance(lookback, timedelta):
        return member
    return Replayed(member, history, lookback)


class Replayed:
    """A forecaster that looks its answers up; origins and series that it was not made for go to the model itself.

    It keeps the answers of one block of origins at a time: asked in order, each is worked out once.
    """

    def __init__(self, member: Forecaster, history: Panel, lookback: timedelta) -> None:
        self.lookback = lookback
        self._member = member
        self._history = history
        self._width = bins_in(lookback, history.step)
        self._begin = 0
        self._horizons: tuple[int, ...] = ()
        self._answers = np.empty((0, 0, 0, 0))

    @property
    def model_id(self) -> str:
        """As the model's."""
        return self._member.model_id

    @property
    def min_history(self) -> timedelta:
        """As the model's."""
        return self._member.min_history

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """See `forecaster.types.Forecaster`."""
        end = self._column(panel.end)
        # Before a whole window has passed the model judges the history's age itself; elsewhere it isn't its history.
        if panel.keys != self._history.keys or panel.step != self._history.step or end is None or end < self._width:
            return self._member.predict(panel, horizons=horizons)
        if horizons != self._horizons or not self._begin <= end < self._begin + len(self._answers):
            self._answers = self._block(end, horizons)
            self._begin, self._horizons = end, horizons
        answer: FloatArray = self._answers[end - self._begin].copy()
        return answer

    def _column(self, end: datetime) -> int | None:
        """How many bins of the history are known at `end`, or None if it doesn't lie on its grid."""
        bins, rest = divmod(end - self._history.start, self._history.step)
        return bins if not rest and 0 <= bins <= self._history.values.shape[1] else None

    def _block(self, end: int, horizons: tuple[int, ...]) -> FloatArray:
        """Answers at `end` and the origins after it, shape (origins, series, horizons, levels).

        One batch for each phase of the stride at which residuals are kept: a panel has one end, and where it lies on
        the time axis says which errors count.
        """
        history, step = self._history, self._history.step
        series, stride = len(history.keys), bins_in(RESIDUAL_STRIDE, step)
        origins = max(1, min(ROWS // max(1, series), history.values.shape[1] - end + 1))
        windows = _windows(history.values, self._width)
        references = None if history.reference is None else _windows(history.reference, self._width)
        first, answers = end - self._width, np.empty((origins, series, len(horizons), len(LEVELS)))
        for phase in range(min(stride, origins)):
            rows = windows[:, first + phase : first + origins : stride].swapaxes(0, 1)
            count = rows.shape[0]
            batch = Panel(
                keys=history.keys * count,
                start=history.start + (first + phase) * step,
                step=step,
                values=rows.reshape(count * series, self._width),
                reference=None
                if references is None
                else references[:, first + phase : first + origins : stride]
                .swapaxes(0, 1)
                .reshape(count * series, self._width),
            )
            said = self._member.predict(batch, horizons=horizons)
            answers[phase::stride] = said.reshape(count, series, *said.shape[1:])
        return answers


def _windows(values: FloatArray, width: int) -> FloatArray:
    """Every stretch of `width` bins, shape (series, bins - width + 1, width); a view."""
    windows: FloatArray = np.lib.stride_tricks.sliding_window_view(values, width, axis=1)
    return windows
