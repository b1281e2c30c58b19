"""The competitors: the rules that people run today, and some that know the future. Each with its formula's source.

The product is not here: it runs through its own loop (`product`). This package's front page is the catalogue: which
name means which policy, and which names a sweep tries of each family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from forecaster.types import STEP
from scaler.simulate.policies.dynamo import Dynamo, Predictor
from scaler.simulate.policies.hpa import Hpa, HpaPlain, HpaPods
from scaler.simulate.policies.knative import Kpa
from scaler.simulate.policies.llmd import OUT_ABOVE, Llmd
from scaler.simulate.policies.naive import LastValue, Schedule, SeasonalNaive
from scaler.simulate.policies.names import Accepts, Options, parsed
from scaler.simulate.policies.plans import PLANS, oracle, oracle_instant, static_mean, static_peak
from scaler.simulate.policies.playing import (
    DEFAULT_UTILISATION,
    ClassLatency,
    Memory,
    Plan,
    Planner,
    Rule,
    Sight,
    opening_replicas,
    replay,
    replay_planner,
)

if TYPE_CHECKING:
    from forecaster.types import FloatArray

__all__ = [
    "DEFAULT_UTILISATION",
    "KNOBS",
    "PLANNERS",
    "PLANS",
    "RULES",
    "ClassLatency",
    "Dynamo",
    "Hpa",
    "HpaPlain",
    "HpaPods",
    "Kpa",
    "LastValue",
    "Llmd",
    "Memory",
    "Past",
    "Plan",
    "Planner",
    "Rule",
    "Schedule",
    "SeasonalNaive",
    "Sight",
    "opening_replicas",
    "oracle",
    "oracle_instant",
    "planner",
    "replay",
    "replay_planner",
    "rule",
    "static_mean",
    "static_peak",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What is known when the window opens: `loads` before `start` in exactly full replicas, newest last."""

    loads: FloatArray
    start: datetime
    step: timedelta


RULES: dict[str, Callable[[Options, timedelta], Rule]] = {
    "hpa": lambda options, step: Hpa.for_bins(
        step, utilisation=options.utilisation or DEFAULT_UTILISATION, window_s=options.window_s
    ),
    "hpa-plain": lambda options, step: HpaPlain.for_bins(
        step, utilisation=options.utilisation or DEFAULT_UTILISATION, window_s=options.window_s
    ),
}
"""The rules by family, each made of its options and a width of bins."""

PLANNERS: dict[str, Callable[[Options, Past], Planner]] = {
    "hpa-pods": lambda options, past: HpaPods.for_bins(
        past.step, utilisation=options.utilisation or DEFAULT_UTILISATION, window_s=options.window_s
    ),
    "kpa": lambda options, past: Kpa(target_ratio=options.utilisation or DEFAULT_UTILISATION),
    "llmd": lambda options, past: Llmd.for_bins(
        past.step, out_above=options.utilisation or OUT_ABOVE, mean_signal=options.variant == "mean"
    ),
    "last-value": lambda options, past: LastValue(utilisation=options.utilisation or DEFAULT_UTILISATION),
    "seasonal-naive": lambda options, past: SeasonalNaive(utilisation=options.utilisation or DEFAULT_UTILISATION),
    "dynamo": lambda options, past: Dynamo(
        utilisation=options.utilisation or 1.0, predictor=Predictor(options.variant or Predictor.ARIMA)
    ),
    "schedule": lambda options, past: Schedule.of(
        past.loads, start=past.start, step=past.step, utilisation=options.utilisation or 1.0
    ),
}
"""The planners by family, each made of its options and of what was known before."""

_ACCEPTS: dict[str, Accepts] = {
    "hpa": Accepts(window=True),
    "hpa-plain": Accepts(window=True),
    "hpa-pods": Accepts(window=True),
    "llmd": Accepts(variants=("mean",)),
    "dynamo": Accepts(variants=(Predictor.ARIMA, Predictor.CONSTANT)),
}
"""Options besides the utilisation, by family; the others take none."""


def rule(name: str, *, step: timedelta = STEP) -> Rule:
    """The rule of that name: "hpa", "hpa:0.6", "hpa:0.6:120s", "hpa-plain:0.7"; `ValueError` names what there is."""
    family, options = parsed(name, {each: _ACCEPTS.get(each, Accepts()) for each in RULES}, "policy rule")
    return RULES[family](options, step)


def planner(name: str, past: Past) -> Planner:
    """The planner of that name: "kpa", "kpa:0.6", "llmd:mean", "schedule"; `ValueError` names what there is."""
    family, options = parsed(name, {each: _ACCEPTS.get(each, Accepts()) for each in PLANNERS}, "planner")
    return PLANNERS[family](options, past)


_UTILISATIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_TARGETS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.5)
_WINDOWS = ("60s", "300s", "1800s", "2700s")
"""A high target with a long window is what bursty traffic asks for: `hpa:0.9:2700s` is the best on nasa (1.87)."""


def _by_utilisation(family: str, utilisations: tuple[float, ...] = _UTILISATIONS) -> tuple[str, ...]:
    return tuple(f"{family}:{each:g}" for each in utilisations)


def _by_utilisation_and_window(family: str) -> tuple[str, ...]:
    """24 of them: the HPA that is tuned in hindsight has its target and its scale-in window tuned together."""
    return tuple(f"{family}:{target:g}:{window}" for target in _TARGETS for window in _WINDOWS)


KNOBS: Mapping[str, tuple[str, ...]] = {
    "hpa": _by_utilisation_and_window("hpa"),
    "hpa-plain": _by_utilisation_and_window("hpa-plain"),
    "hpa-pods": _by_utilisation_and_window("hpa-pods"),
    "kpa": _by_utilisation("kpa"),
    "llmd": _by_utilisation("llmd", (1.0, 0.9, 0.8, 0.7, 0.6, OUT_ABOVE, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25)),
    "last-value": _by_utilisation("last-value"),
    "seasonal-naive": _by_utilisation("seasonal-naive"),
    "dynamo": _by_utilisation("dynamo"),
    "schedule": _by_utilisation("schedule"),
}
"""What a sweep tries of each family: full names, from frugal to generous."""
