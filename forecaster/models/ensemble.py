"""The engine: every member forecasts every series, what came true decides whom to believe, one forecast comes out.

Pure: `step` takes members, what is known, and the state that the step before returned; it reads no clock, mutates
nothing and answers the same for the same arguments. It decides, per series and horizon, how much each member's word
weighs (in the median by what it adds to the others, `blending`; in the band by its own recent loss, `_choose`), how far
the upper quantiles move so that they cover what they claim (the conformal offset of `scoring`), and when to say
nothing. It never turns demand into replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from forecaster.models import heights
from forecaster.models.blending import mixed, mixture
from forecaster.models.memory import (
    EngineState,
    blank,
    family,
    for_members,
    for_series,
    from_bytes,
    slots,
    to_bytes,
)
from forecaster.models.quantiles import STALE_SPAN, disputed, settled
from forecaster.models.scoring import COLUMN_95, Learning, narrowed, observe, quality_of, recurrent
from forecaster.models.tracking import Track, follow, is_tracking
from forecaster.preprocess import DAY, any_known, bin_index, bins_in, tail
from forecaster.types import HORIZONS, LEVELS, Forecast, Forecaster, ForecastQuality, Panel, SeriesKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray

__all__ = [
    "DEFAULT_RULE",
    "MODEL_NAME",
    "EngineRule",
    "EngineState",
    "EngineStep",
    "Silence",
    "Standing",
    "Strength",
    "family",
    "from_bytes",
    "history_age",
    "lookback",
    "standings",
    "step",
    "strength",
    "to_bytes",
]

FALLBACK = "last-value"
"""The member (by its family's name) that speaks until others have earned it."""
SEASONAL = frozenset({"seasonal-naive", "seasonal-delta", "holt-winters", "harmonic"})
"""Families that repeat the clock time of earlier days; the network sees yesterday too, as one input of many."""
MODEL_NAME = "headstart"
"""What the calibrated blend is called in reports."""


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
    switch_ratio: float = 0.97
    """A member takes over the lead at a loss at most this share of the present one's: near-ties do not flicker."""
    sharpness: float = 6.0
    """How steeply a member's credit falls with its loss: credit = (lowest loss / loss) ** sharpness."""
    ceiling_ratio: float = 3.0
    """No forecast above this multiple of the highest value ever seen; a member whose median is, is not heard."""
    learning: Learning = field(default_factory=Learning)
    """How fast scores and offsets move."""


DEFAULT_RULE = EngineRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStep:
    """What one step answers: forecasts and measured quality by series, silences with their reason, the new state.

    `gated` counts, by member, the series for which its forecast was refused as exploded; `failed` holds the error
    text of a member that raised. Such a member is silent for this step and nothing else stops.
    """

    forecasts: Mapping[SeriesKey, Forecast]
    quality: Mapping[SeriesKey, ForecastQuality]
    silent: Mapping[SeriesKey, Silence]
    gated: Mapping[str, int]
    failed: Mapping[str, str]
    state: EngineState


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one series' forecast of `at` was put together: row h of each table belongs to `horizons[h]`."""

    at: datetime
    horizons: tuple[int, ...]
    members: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    """(horizons, members): each member's share of the median; a row sums to 1, or is all 0 where nobody spoke."""
    losses: tuple[tuple[float, ...], ...]
    """(horizons, members): decayed mean pinball loss in the series' unit, NaN for a member never scored there."""

    def seasonal_ratio(self, column: int) -> float:
        """The part of the blend, at `horizons[column]`, that repeats the clock time of earlier days."""
        named = zip(self.members, self.weights[column], strict=True)
        return sum((weight for one, weight in named if family(one) in SEASONAL), 0.0)

    def loss_ratios(self, column: int) -> tuple[float, ...]:
        """Each member's loss over the last value's at `horizons[column]`; NaN where either was never scored."""
        losses = self.losses[column]
        naive = next((one for name, one in zip(self.members, losses, strict=True) if family(name) == FALLBACK), np.nan)
        return tuple(one / naive if naive > 0.0 else float("nan") for one in losses)


def strength(history_age: timedelta) -> Strength:
    """What a history of this age allows: nothing under a day, pooled models and last value from then on, models of
    its own from 3 days, full strength from 14."""
    if history_age < DAY:
        return Strength.NONE
    if history_age < 3 * DAY:
        return Strength.POOLED
    return Strength.PER_SERIES if history_age < 14 * DAY else Strength.FULL


def lookback(members: Sequence[Forecaster]) -> timedelta:
    """How much history a step with a state has to be given. The first step, without one, wants 14 days if there are."""
    return max([DAY, *(getattr(member, "lookback", 14 * DAY) for member in members)])


def history_age(state: EngineState) -> Mapping[SeriesKey, timedelta]:
    """Age of each series: from its first known bin to the state's end; zero where nothing is known."""
    since_s = state.arrays["since_s"]
    ages = np.where(np.isnan(since_s), 0.0, state.end.timestamp() - since_s)
    return {key: timedelta(seconds=float(age)) for key, age in zip(state.keys, ages, strict=True)}


def standings(
    state: EngineState, *, keys: Set[SeriesKey] | None = None, rule: EngineRule = DEFAULT_RULE
) -> Mapping[SeriesKey, Standing]:
    """How the forecasts that `step` issued with this state were blended, for some series or all.

    Made again from the state, which holds what every member said and had lost: nothing is kept for the asking.
    """
    state = state if keys is None else narrowed(state, keys)
    issued = state.arrays["pending"][:, slots(state.horizons, bin_index(state.end, state.step)), :-1]
    credit, _ = _choose(issued.astype(np.float64), state, rule)
    weights = _mixture(credit, state)
    evidence = state.arrays["evidence"]
    losses = np.where(evidence > 0.0, state.arrays["loss"] / np.maximum(evidence, 1e-300), np.nan)
    return {
        key: Standing(
            at=state.end,
            horizons=state.horizons,
            members=state.members,
            weights=tuple(map(tuple, weights[row].tolist())),
            losses=tuple(map(tuple, losses[row].tolist())),
        )
        for row, key in enumerate(state.keys)
    }


def step(
    members: Sequence[Forecaster],
    panel: Panel,
    state: EngineState | None = None,
    *,
    lead_steps: Mapping[SeriesKey, int] | int = 5,
    horizons: tuple[int, ...] = HORIZONS,
    frozen: Set[SeriesKey] = frozenset(),
    rule: EngineRule = DEFAULT_RULE,
) -> EngineStep:
    """One forecast a series from what is known at `panel.end`, and the state to hand to the next call.

    `panel` may be the whole history, a growing one, or its last `lookback(members)`; bins skipped since the state
    was made are scored as far as they are known. `lead_steps` (steps from now to the bin that an order placed now
    can first change) names the horizon at which quality is measured. Series in `frozen` are forecast but teach
    nothing (I13). A series under one day old gets no forecast.
    """
    ids = tuple(member.model_id for member in members)
    lead = _lead_columns(panel.keys, lead_steps, horizons)
    learning = np.array([key not in frozen for key in panel.keys], dtype=bool)
    before = _state_for(ids, panel, state, horizons)
    learnt = observe(before, panel, lead=lead, learning=learning, rule=rule.learning)

    raw, tracks, failed = _member_quantiles(members, panel, learnt, horizons)
    ceiling = rule.ceiling_ratio * learnt.arrays["peak"]
    raw, gated = _gate(raw, ceiling)
    credit, chosen = _choose(raw, learnt, rule)
    blended = _blend(raw, _mixture(credit, learnt), credit)
    rank = heights.ranks(blended[..., 0], learnt.arrays, panel.step)
    final = _calibrated(blended, rank, learnt, ceiling, rule)
    silent = _silences(panel, learnt, final)
    # What is not said yet of a young series is scored all the same: its first band has a day's errors behind it.
    unheard = {None, Silence.TOO_LITTLE_HISTORY}
    final[[row for row, key in enumerate(panel.keys) if silent.get(key) not in unheard]] = np.nan

    after = replace(_issued(learnt, raw, final, blended, rank).with_arrays(chosen=chosen), tracks=tracks)
    speakers = chosen[np.arange(len(panel.keys)), lead]
    return EngineStep(
        forecasts=_forecasts(panel, ids, final, speakers, horizons, rule, silent),
        quality=quality_of(after),
        silent=silent,
        gated={one: int(count) for one, count in zip(ids, gated, strict=True) if count},
        failed=failed,
        state=after,
    )


def _state_for(ids: tuple[str, ...], panel: Panel, state: EngineState | None, horizons: tuple[int, ...]) -> EngineState:
    """The state to go on from, its rows and members aligned to today's, or a blank one.

    Another grid or set of horizons, and a clock that went back, make old scores meaningless: start blank.
    """
    if state is None or state.horizons != horizons or state.step != panel.step or state.end > panel.end:
        return blank(panel, ids, horizons)
    if state.members != ids:
        state = for_members(state, ids)
    return state if state.keys == panel.keys else for_series(state, panel)


def _lead_columns(
    keys: tuple[SeriesKey, ...], lead_steps: Mapping[SeriesKey, int] | int, horizons: tuple[int, ...]
) -> NDArray[np.int64]:
    """For each series the column of the first horizon not before its lead time, else the last."""
    wanted = [lead_steps if isinstance(lead_steps, int) else lead_steps.get(key, 5) for key in keys]
    columns = np.searchsorted(np.array(horizons), np.array(wanted, dtype=np.int64))
    return np.minimum(columns, len(horizons) - 1).astype(np.int64)


def _member_quantiles(
    members: Sequence[Forecaster], panel: Panel, state: EngineState, horizons: tuple[int, ...]
) -> tuple[FloatArray, dict[str, Track], dict[str, str]]:
    """What every member says, (series, horizons, members, levels), their memories, and the errors of those that raised.

    A member that raises is a defect, and one defect must not silence the others: it is reported and has no opinion.
    """
    shape = (len(panel.keys), len(horizons), len(LEVELS))
    answers = np.full((len(members), *shape), np.nan)
    tracks: dict[str, Track] = {}
    failed: dict[str, str] = {}
    for row, member in enumerate(members):
        try:
            if is_tracking(member):
                before = state.tracks.get(member.model_id)
                track = follow(member, before, panel, horizons=horizons, reach=bins_in(DAY, panel.step))
                answer = member.predict_from(track, panel, horizons=horizons)
                tracks[member.model_id] = track
            else:
                wanted = bins_in(getattr(member, "lookback", 14 * DAY), panel.step)
                answer = member.predict(tail(panel, wanted), horizons=horizons)
            if answer.shape != shape:
                raise ValueError(f"answered with shape {answer.shape} where {shape} was asked for")
            answers[row] = answer
        except Exception as error:
            failed[member.model_id] = f"{type(error).__name__}: {error}"
    # All members at once: row by row a series' answers stand and fall on their own.
    sound = settled(answers.reshape(len(members) * shape[0], *shape[1:])).reshape(answers.shape)
    return np.ascontiguousarray(np.moveaxis(sound, 0, 2)), tracks, failed


def _gate(raw: FloatArray, ceiling: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Members whose median explodes are not heard (fault 28), upper quantiles stop at the ceiling; counts by member."""
    with np.errstate(invalid="ignore"):
        exploded = np.asarray((raw[..., 0] > ceiling[:, None, None]).any(axis=1))
    heard = np.where(exploded[:, None, :, None], np.nan, raw)
    return np.minimum(heard, ceiling[:, None, None, None]), exploded.sum(axis=0)


def _choose(raw: FloatArray, state: EngineState, rule: EngineRule) -> tuple[FloatArray, NDArray[np.int16]]:
    """Credit of the members (series, horizons, members), summing to 1 or all 0, and the member that leads.

    A member that speaks now and has been scored for long enough has the credit (lowest loss / its loss) ** `sharpness`
    by decayed pinball loss: at a sharpness of 6 one that is 10 % worse counts for .56 of the best, one twice as bad
    for .016. Until one has, the fallback speaks alone, else the first that can. The leader, in whose name the blend
    is published, stays unless another's loss is lower by `switch_ratio`.
    """
    speaks = np.isfinite(raw[..., 0])
    evidence = state.arrays["evidence"]
    earned = speaks & (evidence >= rule.learning.enough(state.step))
    if not raw.shape[2]:
        return np.zeros(speaks.shape), np.full(speaks.shape[:2], -1, dtype=np.int16)
    loss = np.where(earned, state.arrays["loss"] / np.maximum(evidence, 1e-300), np.inf)
    lowest = loss.min(axis=2)
    ranked = np.isfinite(lowest)
    leader = _leader(loss, lowest, state, rule)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A loss of exactly 0 is as good as another of 0, and an infinite one weighs nothing.
        share = np.where(loss <= lowest[..., None], 1.0, lowest[..., None] / loss) ** rule.sharpness
    credit = np.where(np.isfinite(loss), share, 0.0)
    if not ranked.all():
        leader = np.where(ranked, leader, _standby(speaks, state))
        alone = (np.arange(raw.shape[2]) == leader[..., None]) & speaks
        credit = np.where(ranked[..., None], credit, alone.astype(np.float64))
    total = credit.sum(axis=2, keepdims=True)
    leads = np.where(total[..., 0] > 0.0, leader, -1).astype(np.int16)
    return credit / np.where(total > 0.0, total, 1.0), leads


def _leader(loss: FloatArray, lowest: FloatArray, state: EngineState, rule: EngineRule) -> NDArray[np.int64]:
    """The member of the lowest loss, or the present leader while that is not `switch_ratio` better."""
    present = state.arrays["chosen"].astype(np.int64)
    series, horizons = present.shape
    of_present = loss[np.arange(series)[:, None], np.arange(horizons), np.maximum(present, 0)]
    with np.errstate(invalid="ignore"):
        stays = (present >= 0) & np.isfinite(of_present) & (lowest > rule.switch_ratio * of_present)
    return np.where(stays, present, loss.argmin(axis=2))


def _standby(speaks: NDArray[np.bool_], state: EngineState) -> NDArray[np.int64]:
    """Who speaks before anybody has a record: the fallback, else the first that can."""
    names = [family(one) for one in state.members]
    order = np.array([1 + column - len(names) * (name == FALLBACK) for column, name in enumerate(names)])
    first: NDArray[np.int64] = np.where(speaks, order, 10_000).argmin(axis=2)
    return first


def _mixture(credit: FloatArray, state: EngineState) -> FloatArray:
    """Each member's share in the median (series, horizons, members): by what it adds to the others with any credit."""
    return mixture(state.arrays["gain"], state.arrays["gain_square"], credit > 0.0)


def _blend(raw: FloatArray, share: FloatArray, credit: FloatArray) -> FloatArray:
    """One forecast (series, horizons, levels) of all members, in roots, not yet calibrated.

    The median by `share`: what members add to each other. Its band by `credit`: how wide it must be shows in each
    member's own record (measured: shares of their own for the upper levels cost up to 7 % of the .95 quantile's pinball
    loss where the traffic's level shifts).
    """
    roots = np.sqrt(raw)
    levels = mixed(roots, credit)
    band = levels - levels[..., :1]
    return disputed(mixed(roots[..., 0], share)[..., None] + band, roots[..., 0], credit)


def _calibrated(
    root: FloatArray, rank: heights.RankArray, state: EngineState, ceiling: FloatArray, rule: EngineRule
) -> FloatArray:
    """Blended roots, as wide as the time of day and their `rank` among forecasts ask for, moved by the conformal
    offset: in the series' unit, ordered, at most the ceiling."""
    arrays = state.arrays
    asked = recurrent(state, rule.learning) * heights.factors(
        rank, arrays, state.step, most=rule.learning.most_recurrent
    )
    width = (root - root[..., :1]) * asked[..., None]
    # A band that is hopelessly narrow, or has no width at all, is moved by the size of its errors.
    unit = np.maximum(width[..., COLUMN_95], arrays["error"] / np.maximum(arrays["error_weight"], 1e-300))
    moved = np.maximum(width + arrays["offset"] * unit[..., None], 0.0)
    return settled(np.minimum(np.square(root[..., :1] + moved), ceiling[:, None, None]))


def _silences(panel: Panel, state: EngineState, final: FloatArray) -> dict[SeriesKey, Silence]:
    """Which series get no forecast, and why: the first reason that holds."""
    fresh = any_known(panel.values[:, -bins_in(STALE_SPAN, panel.step) :])
    speaks = np.isfinite(final[:, 0, 0]) if final.shape[1] else np.zeros(len(panel.keys), dtype=bool)
    reasons: dict[SeriesKey, Silence] = {}
    for row, (key, age) in enumerate(history_age(state).items()):
        if strength(age) is Strength.NONE:
            reasons[key] = Silence.TOO_LITTLE_HISTORY
        elif not fresh[row]:
            reasons[key] = Silence.STALE
        elif not speaks[row]:
            reasons[key] = Silence.NO_MEMBER
    return reasons


def _issued(
    state: EngineState, raw: FloatArray, final: FloatArray, root: FloatArray, rank: heights.RankArray
) -> EngineState:
    """`state` with this step's forecasts waiting for their bins; members wait even while nothing is published."""
    pending, width, ranked = (state.arrays[name].copy() for name in ("pending", "pending_width", "pending_rank"))
    with np.errstate(over="ignore"):
        issued = np.concatenate([raw, final[:, :, None]], axis=2).astype(np.float32)
    slot = slots(state.horizons, bin_index(state.end, state.step))
    pending[:, slot] = issued
    width[:, slot] = root[..., COLUMN_95] - root[..., 0]
    ranked[:, slot] = rank
    return state.with_arrays(pending=pending, pending_width=width, pending_rank=ranked)


def _forecasts(
    panel: Panel,
    ids: tuple[str, ...],
    final: FloatArray,
    speakers: NDArray[np.int16],
    horizons: tuple[int, ...],
    rule: EngineRule,
    silent: Mapping[SeriesKey, Silence],
) -> dict[SeriesKey, Forecast]:
    return {
        key: Forecast(
            model=ids[speakers[row]],
            issued_at=panel.end,
            expires_at=panel.end + rule.ttl,
            step_s=panel.step.total_seconds(),
            horizons=horizons,
            values=tuple(map(tuple, final[row].tolist())),
            request_class=key.request_class,
        )
        for row, key in enumerate(panel.keys)
        if key not in silent
    }
