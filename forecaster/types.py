"""The values that cross every boundary: readings, series, panels, forecasts, and what a forecaster is.

This module decides nothing and reads nothing; it only fixes shapes and units. Time is aware UTC, the grid is
regular, unknown is NaN inside arrays and `Blind` outside them, and zero is always a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from forecaster.errors import SeriesError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

DEFAULT_CLASS = "default"
"""The request class of a workload whose traffic is not told apart."""

LEVELS: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99)
"""Quantile levels of every forecast, ascending."""

LEVEL_Z: tuple[float, ...] = (0.0, 1.2815515655446004, 1.6448536269514722, 2.3263478740408408)
"""Standard-normal scores of `LEVELS`: the axis in which quantiles are interpolated and extrapolated."""

STEP = timedelta(minutes=1)
"""The product's grid: one bin a minute."""

HORIZONS: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
"""Steps ahead that every model forecasts; horizon h is the bin that starts (h - 1) steps after the issue time."""


# ── Readings: one measured value, or why there is none ────────────────────────────────────────────────────────


class BlindReason(StrEnum):
    """Why a signal could not be read. A machine value: texts may change, these do not."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    MALFORMED = "malformed"
    PARTIAL = "partial_response"
    NO_SERIES = "no_series"
    TARGET_DOWN = "target_down"
    STALE = "stale"
    NOT_FINITE = "not_finite"
    AMBIGUOUS = "ambiguous"
    CLOCK_SKEW = "clock_skew"
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    NOT_READ = "not_read"
    NO_AUTOSCALER = "no_autoscaler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A measured value in the unit its signal's name says, `age_s` seconds old."""

    value: float
    age_s: float = 0.0
    kind: Literal["known"] = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Zero:
    """Zero by evidence: the target is up, the counter is there, and nothing arrived."""

    evidence: str
    age_s: float = 0.0
    kind: Literal["zero"] = "zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class TooFew:
    """Fewer events than the statistic needs: the rule abstains and blocks nothing."""

    count: float
    kind: Literal["too_few"] = "too_few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind:
    """Not measured. `detail` says on what and what was seen; never to be read as zero."""

    reason: BlindReason
    detail: str = ""
    kind: Literal["blind"] = "blind"


Reading = Known | Zero | TooFew | Blind


def value_of(reading: Reading) -> float | None:
    """The number in a reading, or None where there is none to be had.

    Only finite numbers ≥ 0 count: every signal here is a rate, a duration, a share or a count, so a negative or
    non-finite value is an instrument's fault, and a fault is "unknown", never "small".
    """
    match reading:
        case Known(value=value) if math.isfinite(value) and value >= 0.0:
            return value
        case Zero():
            return 0.0
        case _:
            return None


# ── Series and panels: regular UTC grids ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class SeriesKey:
    """Which series: `workload` is "namespace/name", `signal` a catalogue name such as "demand_rps"."""

    workload: str
    signal: str
    request_class: str = DEFAULT_CLASS


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One signal on a regular UTC grid.

    `values[i]`, float64, covers [start + i·step, start + (i + 1)·step) and is known from that interval's end on.
    NaN is "unknown"; a gap stays a gap.
    """

    start: datetime
    step: timedelta
    values: FloatArray

    def __post_init__(self) -> None:
        require_utc(self.start, "Series.start")
        if self.values.ndim != 1:
            raise SeriesError(f"Series.values must have one dimension, got shape {self.values.shape}")

    @property
    def end(self) -> datetime:
        """End of the last bin: the moment from which the whole series is known."""
        return self.start + self.step * len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Several series on one common grid: `values` has shape (len(keys), bins), float64, NaN for unknown.

    `reference`, of the same shape, is what each bin's time of day was on the day that the *next* day should resemble:
    the bin itself, or before a holiday the last day of rest's (`day_kinds`). Without one it is `values`.
    """

    keys: tuple[SeriesKey, ...]
    start: datetime
    step: timedelta
    values: FloatArray
    reference: FloatArray | None = None

    def __post_init__(self) -> None:
        require_utc(self.start, "Panel.start")
        if self.values.ndim != 2 or self.values.shape[0] != len(self.keys):
            raise SeriesError(f"Panel.values must be ({len(self.keys)}, bins), got shape {self.values.shape}")
        if self.reference is not None and self.reference.shape != self.values.shape:
            raise SeriesError(f"Panel.reference must be {self.values.shape}, got shape {self.reference.shape}")

    @property
    def day_before(self) -> FloatArray:
        """What lies one day before the bins of the next day, as they should be compared: `reference`, or `values`."""
        return self.values if self.reference is None else self.reference

    @property
    def end(self) -> datetime:
        """End of the last bin: the moment from which the whole panel is known, and the issue time of a forecast."""
        bins: int = self.values.shape[1]
        return self.start + self.step * bins

    def series(self, key: SeriesKey) -> Series:
        """One row as a series; `KeyError` if the panel has no such key."""
        try:
            row = self.keys.index(key)
        except ValueError:
            raise KeyError(key) from None
        return Series(start=self.start, step=self.step, values=self.values[row])


# ── Forecasts ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Quantiles of one series over the coming bins.

    `values[h][q]` is the `LEVELS[q]` quantile, in the series' own unit, of the bin that starts
    (`horizons[h]` - 1) steps after `issued_at`. Plain tuples: a forecast is journalled, compared and hashed.
    """

    model: str
    issued_at: datetime
    expires_at: datetime
    step_s: float
    horizons: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    request_class: str = DEFAULT_CLASS

    def expired(self, *, now: datetime) -> bool:
        """Whether this forecast is too old to act on at `now`."""
        return now >= self.expires_at

    @property
    def plausible(self) -> bool:
        """Whether every value is finite and at least zero: nothing else may be acted on."""
        return all(0.0 <= value < math.inf for levels in self.values for value in levels)

    def quantile(self, at: datetime, *, z: float) -> float:
        """Demand in the bin that holds `at`, at the normal score `z` (0 = median, 1.645 = 95 %).

        Linear in time between the horizons of the grid, linear in normal-score space between the levels, along
        the last segment above the highest level and along the first below the median; never below zero.
        Outside the grid the nearest horizon counts.
        """
        low, high, share = self._between(at)
        below = _quantile_at(self.values[low], z)
        return below if share == 0.0 else below + share * (_quantile_at(self.values[high], z) - below)

    def levels(self, at: datetime) -> tuple[float, ...]:
        """`quantile` at each of `LEVELS`, for a quarter of the work of asking for them one by one."""
        low, high, share = self._between(at)
        between = zip(self.values[low], self.values[high], strict=True)
        return tuple(max(below + share * (above - below) if share else below, 0.0) for below, above in between)

    def _between(self, at: datetime) -> tuple[int, int, float]:
        """The rows of the grid around `at`, and how far it lies from the first to the second: 0 on the grid."""
        steps = (at - self.issued_at).total_seconds() / self.step_s + 1.0
        low = max((i for i, h in enumerate(self.horizons) if h <= steps), default=0)
        high = min(low + 1, len(self.horizons) - 1)
        if high == low or steps <= self.horizons[low]:
            return low, low, 0.0
        return low, high, (steps - self.horizons[low]) / (self.horizons[high] - self.horizons[low])

    def grid_between(self, start: datetime, end: datetime) -> tuple[datetime, ...]:
        """`start`, `end`, and the starts of the grid's bins strictly between: where a span's peak can lie."""
        inside = (self.issued_at + timedelta(seconds=(h - 1) * self.step_s) for h in self.horizons)
        return (start, *(at for at in inside if start < at < end), end)


def _quantile_at(levels: tuple[float, ...], z: float) -> float:
    """Interpolate one horizon's quantiles at the normal score `z`; see `Forecast.quantile`."""
    upper = next((i for i in range(1, len(LEVEL_Z) - 1) if z <= LEVEL_Z[i]), len(LEVEL_Z) - 1)
    lower = upper - 1
    slope = (levels[upper] - levels[lower]) / (LEVEL_Z[upper] - LEVEL_Z[lower])
    return max(levels[lower] + slope * (z - LEVEL_Z[lower]), 0.0)  # this order keeps a NaN a NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastQuality:
    """How far recent forecasts of one series can be trusted, measured on what came after them.

    `coverage_95` is the share of bins at or below their 0.95 quantile over the last six hours, `wape` and
    `wape_last_value` are Σ|y - ŷ| / Σ|y| of the forecast in use and of "as it is now", at the lead time's horizon.
    """

    coverage_95: float
    wape: float
    wape_last_value: float
    scored_bins: int


@runtime_checkable
class Forecaster(Protocol):
    """What every model is: a function of known history, vectorised over series.

    `predict` sees nothing after `panel.end`, never mutates its arguments, and answers float64 of shape
    (series, len(horizons), len(LEVELS)): finite, ≥ 0 and non-decreasing along the levels, or all-NaN for a series
    on which the model has no opinion (too little history).
    """

    @property
    def model_id(self) -> str:
        """Name and version of what predicts, such as "seasonal-naive" or "lstm@3f2a91c0"."""
        ...

    @property
    def min_history(self) -> timedelta:
        """History under which `predict` answers NaN for a series."""
        ...

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> FloatArray:
        """Quantiles of the coming bins, shape (series, len(horizons), len(LEVELS))."""
        ...


def require_utc(moment: datetime, name: str) -> datetime:
    """`moment` itself if it is aware and in UTC, else `SeriesError`: a naive time is a bug, never a guess."""
    if moment.tzinfo is None or moment.utcoffset() != timedelta(0):
        raise SeriesError(f"{name} must be an aware UTC datetime, got {moment!r}; use datetime.now(UTC)")
    return moment


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Bins are aligned to whole steps since this moment."""


def floor_to_step(moment: datetime, step: timedelta = STEP) -> datetime:
    """The start of the bin that holds `moment`."""
    require_utc(moment, "moment")
    into_bin: timedelta = (moment - EPOCH) % step
    start: datetime = moment - into_bin
    return start
