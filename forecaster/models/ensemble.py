"""The engine: every member forecasts every series, what came true decides whom to believe, one forecast comes out.

Pure: `step` takes members, what is known, and the state that the step before returned; it reads no clock, mutates
nothing and answers the same for the same arguments. It decides, per series and horizon, which member speaks
(`_choose`: lowest recent pinball loss, with hysteresis), how far the upper quantiles are moved so that they cover
what they claim (an online conformal tracker), and when to say nothing. It never turns demand into replicas.

The seat for a weighted ensemble is `_choose`: it returns weights over members, today one-hot; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from forecaster.models.memory import EngineState, aligned, blank
from forecaster.models.quantiles import QUANTILE_LEVELS, STALE_SPAN, pinball, settled
from forecaster.models.tracking import Track, Tracking, follow
from forecaster.preprocess import DAY, bin_index, bins_in, carried
from forecaster.types import HORIZONS, LEVELS, STEP, Forecast, Forecaster, ForecastQuality, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray


class Strength(StrEnum):
    """How much forecasting a history of this age allows; shown by `headstart get`."""

    NONE = "none"
    POOLED = "pooled"
    PER_SERIES = "per_series"
    FULL = "full"


class Silence(StrEnum):
    """Why a series got no forecast in a step."""

    TOO_LITTLE_HISTORY = "too_little_history"
    STALE = "stale"
    NO_MEMBER = "no_member"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRule:
    """The engine's parameters; the defaults are the product's."""

    ttl: timedelta = timedelta(minutes=10)
    """A forecast older than this is not acted on."""
    loss_half_life: timedelta = timedelta(hours=8)
    """Half-life of the members' losses: long enough for a night, short enough for a regime change (6-12 h)."""
    scale_half_life: timedelta = timedelta(hours=4)
    """Half-life of the error scale in which the conformal offset moves."""
    min_scored: float = 60.0
    """Scored bins (decayed) before a member may be chosen over the fallback."""
    switch_ratio: float = 0.97
    """A member takes over at a loss at most this share of the present one's: near-ties do not flicker."""
    conformal_gain: float = 0.02
    """Offset step a scored bin, in error scales: a miss of the .95 quantile adds .019, a hit takes .001."""
    max_offset: float = 6.0
    """Bound of the offset, in error scales."""
    ceiling_ratio: float = 3.0
    """No forecast above this multiple of the highest value ever seen; a member whose median is, is not heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStep:
    """What one step answers: forecasts and measured quality by series, silences with their reason, the new state.

    `gated` counts the series of which a member's forecast was refused (exploded), `failed` holds a member's error
    text if it raised; such a member is silent for this step and nothing else stops.
    """

    forecasts: Mapping[SeriesKey, Forecast]
    quality: Mapping[SeriesKey, ForecastQuality]
    silent: Mapping[SeriesKey, Silence]
    gated: Mapping[str, int]
    failed: Mapping[str, str]
    state: EngineState


DEFAULT_RULE = EngineRule()
FALLBACK = "last-value"
"""The member (by the name before its version) that speaks until others have earned it."""


def strength(history_age: timedelta) -> Strength:
    """What a history of this age allows: nothing under a day, pooled models, per-series models from 3 days, all
    from 14 days on."""
    if history_age < DAY:
        return Strength.NONE
    if history_age < 3 * DAY:
        return Strength.POOLED
    return Strength.PER_SERIES if history_age < 14 * DAY else Strength.FULL


def lookback(members: Sequence[Forecaster], *, step: timedelta = STEP) -> timedelta:
    """History that a step with a state needs; without a state more is better, up to 14 days."""
    del step
    wanted = [getattr(member, "lookback", 14 * DAY) for member in members]
    return max([DAY, *wanted])


def step(
    members: Sequence[Forecaster],
    panel: Panel,
    state: EngineState | None = None,
    *,
    lead_steps: Mapping[SeriesKey, int] | int = 5,
    horizons: tuple[int, ...] = HORIZONS,
    rule: EngineRule = DEFAULT_RULE,
    frozen: Set[SeriesKey] = frozenset(),
) -> EngineStep:
    """One forecast a series from what is known at `panel.end`, and the state to hand to the next call.

    `panel` may be the whole history, a growing one, or its last `lookback(members)`; bins skipped since the state
    was made are scored where they are known. `lead_steps` (steps from now to the bin an order placed now can first
    change) names the horizon at which quality is measured. Series in `frozen` are forecast but teach nothing (I13).
    A series under one day old gets no forecast.
    """
    ids = tuple(member.model_id for member in members)
    before = _state_for(ids, panel, state, horizons, rule)
    lead = _lead_columns(panel.keys, lead_steps, horizons)
    learning = np.array([key not in frozen for key in panel.keys], dtype=bool)
    after = _observe(before, panel, lead, learning, rule)

    raw, tracks, failed = _member_quantiles(members, panel, after, horizons)
    ceiling = rule.ceiling_ratio * after.peak
    raw, gated = _gate(raw, ceiling)
    weights, chosen = _choose(raw, after, rule)
    final = _calibrated(_blend(raw, weights), after, ceiling)
    silent = _silences(panel, after, final)
    for row, key in enumerate(panel.keys):
        if key in silent:
            final[row] = np.nan

    after = after.replaced(tracks=tracks, chosen=chosen, pending=_issued(after, raw, final))
    return EngineStep(
        forecasts=_forecasts(panel, ids, final, chosen, lead, horizons, rule, silent),
        quality=_quality(after),
        silent=silent,
        gated={ids[index]: int(count) for index, count in enumerate(gated) if count},
        failed=failed,
        state=after,
    )


# ── Learning from what came true ──────────────────────────────────────────────────────────────────────────────


def _state_for(
    ids: tuple[str, ...], panel: Panel, state: EngineState | None, horizons: tuple[int, ...], rule: EngineRule
) -> EngineState:
    """The state to go on from: its rows and members aligned to today's, or a blank one.

    A changed grid or set of horizons, and a clock that went back, make old scores meaningless: start blank.
    """
    if state is None or state.horizons != horizons or state.step != panel.step or state.end > panel.end:
        return blank(panel, ids, horizons)
    if state.keys != panel.keys or state.members != ids:
        state = aligned(state, panel, ids)
    return state


def _lead_columns(
    keys: tuple[SeriesKey, ...], lead_steps: Mapping[SeriesKey, int] | int, horizons: tuple[int, ...]
) -> NDArray[np.int64]:
    """For each series the column of the first horizon that is not before its lead time, else the last."""
    wanted = [lead_steps if isinstance(lead_steps, int) else lead_steps.get(key, 5) for key in keys]
    return np.minimum(np.searchsorted(np.array(horizons), np.array(wanted, dtype=np.int64)), len(horizons) - 1)


def _observe(
    state: EngineState, panel: Panel, lead: NDArray[np.int64], learning: NDArray[np.bool_], rule: EngineRule
) -> EngineState:
    """Score every pending forecast whose bin has come since `state.end`, oldest first."""
    fresh = (panel.end - state.end) // panel.step
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(panel.values) & (panel.values >= 0.0), panel.values, np.nan)[
            :, -(fresh + max(state.horizons) + bins_in(STALE_SPAN, panel.step) + 1) :
        ]
    now = bin_index(panel.end, panel.step)
    reach = min(fresh, max(state.horizons))
    # What was issued before a pause can be checked for as long as the longest horizon; later bins have no forecast.
    scorable = range(now - fresh + 1, now - fresh + reach + 1)
    carried_values = carried(values, limit=bins_in(STALE_SPAN, panel.step))
    learnt = state.learning_copy()
    for end in scorable:
        column = values.shape[1] - 1 - (now - end)
        if column >= 0:
            learnt.score(end, column, values, carried_values, lead, learning, rule)
    return learnt.finished(panel, values[:, -fresh:] if fresh else values[:, :0])
