"""Whether a fitted model may be used: on days that no fit saw, decisions on it must cost less than on its rivals.

The candidate by itself has to beat the incumbent and each baseline (last value, seasonal naive, seasonal delta) by
GPU-minutes at equal risk (`decision_cost`). A day or two hold few of the minutes that decide about those, so equals
differ by chance: within `MARGIN` the pinball loss decides. By itself and not in the blend that it would join: the blend
hears by recent loss and hides a member's worth, so that its costs on held-back days foretell those of the days after
worse (measured, `docs/decisions/0010`). It decides nothing else: it fits nothing, stores nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.decision_cost import RISK, decision_cost
from forecaster.errors import SeriesError
from forecaster.models.quantiles import pinball
from forecaster.models.replay import replayed
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.models.tracking import Track, follow, is_tracking
from forecaster.preprocess import DAY, bins_in, up_to
from forecaster.types import HORIZONS, LEVELS, Forecaster, Panel

if TYPE_CHECKING:
    from forecaster.types import FloatArray

MARGIN = 0.03
"""Costs that differ by less are equal: pinball loss decides."""
MOST_LOSS_RATIO = 1.25
"""Cheaper by more than chance is not enough at a pinball loss above this multiple of a rival's: cost at equal risk
forgives a forecast that is half as high again throughout, the engine does not."""
LEADS = (timedelta(minutes=4), timedelta(minutes=10))
"""From the newest known minute to the first that an order reaches: starts of three and of nine minutes."""
MOST_SERIES = 16
"""Series examined, evenly from the busiest to the quietest."""
LEAST_KNOWN = 0.5
"""Share of the bins held back that a series must have to be examined."""
MOST_RATIO = 2.0
"""One series counts at most so much for or against: also where a cost cannot be told."""

BASELINES: tuple[Forecaster, ...] = (LastValue(), SeasonalNaive(), SeasonalDelta())
"""What any model has to beat: as it is now, as it was yesterday, yesterday's shape at today's level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the candidate passed, why in one line, and the numbers of every competitor, ready for JSON."""

    passed: bool
    reason: str
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How one competitor did on the days held back; NaN where it cannot be told."""

    model: str
    costs: FloatArray
    """(series, leads): `decision_cost`'s GPU ratio."""
    losses: FloatArray
    """(series,): mean pinball loss over horizons and levels, in shares of the series' mean demand."""
    coverage_95: float
    """Share of all checked bins at or below their .95 quantile, over series and horizons."""

    def as_json(self) -> dict[str, Any]:
        """The figures over all series: geometric means of ratios, the mean of losses."""
        return {
            "model": self.model,
            "decision_gpu_ratio": _number(_geometric_mean(self.costs)),
            "out_of_reach": int(np.isnan(self.costs).sum()),
            "pinball": _number(_mean(self.losses)),
            "coverage_95": _number(self.coverage_95),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One competitor against a rival on the same days: below 1 it is the better one."""

    cost_ratio: float
    loss_ratio: float

    @property
    def better(self) -> bool:
        """Whether its decisions are cheaper by more than chance, or as cheap and its forecasts closer."""
        cheaper = self.cost_ratio < 1.0 - MARGIN and self.loss_ratio <= MOST_LOSS_RATIO
        return cheaper or (self.cost_ratio <= 1.0 + MARGIN and self.loss_ratio < 1.0)


def examine(
    candidate: Forecaster,
    incumbent: Forecaster | None,
    panel: Panel,
    *,
    held_out: timedelta,
) -> Verdict:
    """Judge `candidate` on the last `held_out` of `panel`, which neither it nor `incumbent` may have been fitted on.

    `incumbent` is what is used today in its place, None where nothing is. Raises `SeriesError` where nothing is held
    back, or no series is known well enough there.
    """
    judged = examined(panel, held_out=held_out)
    entries = {"candidate": candidate, **({} if incumbent is None else {"incumbent": incumbent})}
    entries |= {each.model_id: each for each in BASELINES}
    found = {name: figures_of(each, judged, held_out=held_out) for name, each in entries.items()}
    against = {name: compared(found["candidate"], each) for name, each in found.items() if name != "candidate"}
    silent = not np.isfinite(found["candidate"].losses).any()
    return Verdict(
        passed=not silent and all(each.better for each in against.values()),
        reason="it says nothing on the days held back" if silent else _reason(against),
        report=_report(found, against, judged, held_out),
    )


def examined(panel: Panel, *, held_out: timedelta) -> Panel:
    """The series of `panel` that are judged: known well enough on the days held back, from the busiest to the
    quietest at most `MOST_SERIES`. `SeriesError` where there is none."""
    bins = panel.values.shape[1]
    held = bins_in(held_out, panel.step)
    if not timedelta(0) < held_out < panel.step * bins:
        raise SeriesError(f"cannot hold back {held_out} of {panel.step * bins}")
    known = np.isfinite(panel.values[:, bins - held :])
    demand = np.where(known, panel.values[:, bins - held :], 0.0).sum(axis=1)
    usable = np.flatnonzero((known.mean(axis=1) >= LEAST_KNOWN) & (demand > 0.0))
    if not usable.size:
        raise SeriesError(f"none of {len(panel.keys)} series has demand in half of the last {held_out}")
    busiest = usable[np.argsort(-demand[usable], kind="stable")]
    rows = busiest[np.unique(np.linspace(0, busiest.size - 1, MOST_SERIES).astype(np.int64))]
    return replace(
        panel,
        keys=tuple(panel.keys[row] for row in rows),
        values=panel.values[rows],
        reference=None if panel.reference is None else panel.reference[rows],
    )


def figures_of(model: Forecaster, panel: Panel, *, held_out: timedelta) -> Figures:
    """Figures of `model` on the last `held_out` of `panel`, asked after every bin of it."""
    first = panel.values.shape[1] - bins_in(held_out, panel.step)
    said, actual = played(model, panel, first), panel.values[:, first:]
    leads = tuple(dict.fromkeys(max(1, -(-each // panel.step)) for each in LEADS))
    costs = [
        [decision_cost(row, demand, horizons=HORIZONS, lead=lead).gpu_ratio for lead in leads]
        for row, demand in zip(said, actual, strict=True)
    ]
    came = _came(actual)
    with np.errstate(invalid="ignore"):
        hits = (came <= said[..., LEVELS.index(0.95)] * (1.0 + 1e-9))[np.isfinite(came * said[..., 0])]
    return Figures(
        model=model.model_id,
        costs=np.array(costs),
        losses=_losses(came, said),
        coverage_95=float(hits.mean()) if hits.size else float("nan"),
    )


def compared(one: Figures, rival: Figures) -> Comparison:
    """`one` against `rival` over the series that both were played on: geometric means of the quotients."""
    return Comparison(cost_ratio=_quotient(one.costs, rival.costs), loss_ratio=_quotient(one.losses, rival.losses))


# ── Playing ───────────────────────────────────────────────────────────────────────────────────────────────────


def played(model: Forecaster, panel: Panel, first: int) -> FloatArray:
    """What `model` says after each bin from `first` on: (series, bins, horizons, levels), NaN where it is silent."""
    heard = replayed(model, panel)
    track: Track | None = None
    said = []
    for origin in range(first, panel.values.shape[1]):
        known = up_to(panel, panel.start + panel.step * (origin + 1))
        if is_tracking(heard):
            track = follow(heard, track, known, horizons=HORIZONS, reach=bins_in(DAY, panel.step))
            said.append(heard.predict_from(track, known, horizons=HORIZONS))
        else:
            said.append(heard.predict(known, horizons=HORIZONS))
    return np.stack(said, axis=1)


def _came(actual: FloatArray) -> FloatArray:
    """What came after each bin at each horizon, (series, bins, horizons); NaN after the end."""
    at = np.arange(actual.shape[1])[:, None] + np.array(HORIZONS)
    return np.where(at < actual.shape[1], actual[:, np.minimum(at, actual.shape[1] - 1)], np.nan)


def _losses(actual: FloatArray, said: FloatArray) -> FloatArray:
    """Mean pinball loss by series, in shares of its mean demand; NaN where nothing was said or came."""
    loss = pinball(actual, said)
    checked = np.isfinite(loss)
    total = np.where(checked, loss, 0.0).sum(axis=(1, 2))
    demand = np.where(checked, actual, 0.0).sum(axis=(1, 2))
    return np.where(demand > 0.0, total / np.where(demand > 0.0, demand, 1.0), np.nan)


# ── Summing up ────────────────────────────────────────────────────────────────────────────────────────────────


def _quotient(one: FloatArray, rival: FloatArray) -> float:
    """Geometric mean of one / rival, each within 1 / `MOST_RATIO` … `MOST_RATIO`; what only one can reach is at the
    end of that, what neither can is left out, and 1 where nothing is left."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(rival == one, 1.0, one / rival)
    ratio = np.where(np.isnan(one) & ~np.isnan(rival), MOST_RATIO, ratio)
    ratio = np.where(np.isnan(rival) & ~np.isnan(one), 1.0 / MOST_RATIO, ratio)
    told = np.clip(ratio[~np.isnan(ratio)], 1.0 / MOST_RATIO, MOST_RATIO)
    return float(np.exp(np.log(told).mean())) if told.size else 1.0


def _reason(against: Mapping[str, Comparison]) -> str:
    """The hardest rival: the first that was not beaten, else the one that came nearest."""
    lost = {name: each for name, each in against.items() if not each.better}
    name, each = max((lost or against).items(), key=lambda item: item[1].cost_ratio)
    said = f"{each.cost_ratio:.3f} of its cost and {each.loss_ratio:.3f} of its pinball loss"
    return f"{'no better than' if lost else 'beats every rival, nearest'} {name}: {said}"


def _report(
    found: Mapping[str, Figures], against: Mapping[str, Comparison], panel: Panel, held_out: timedelta
) -> dict[str, Any]:
    competitors = {name: each.as_json() for name, each in found.items()}
    for name, each in against.items():
        competitors[name] |= {"cost_ratio": _number(each.cost_ratio), "loss_ratio": _number(each.loss_ratio)}
    return {
        "held_out": {"start": (panel.end - held_out).isoformat(), "end": panel.end.isoformat()},
        "series": len(panel.keys),
        "risk": RISK,
        "leads_s": [each.total_seconds() for each in LEADS],
        "margin": MARGIN,
        "competitors": competitors,
    }


def _geometric_mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.exp(np.log(known).mean())) if known.size else float("nan")


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _number(value: float) -> float | None:
    """`value` with four digits after the point, None for what JSON has no number for."""
    return round(value, 4) if np.isfinite(value) else None
