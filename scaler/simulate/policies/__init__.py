"""The competitors: the rules that people run today, and some that know the future. Each with its formula's source.

The product is not here: it runs through its own loop (`product`). This package's front page is the catalogue: which
name means which policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from forecaster.types import STEP
from scaler.simulate.policies.dynamo import Dynamo
from scaler.simulate.policies.hpa import Hpa, HpaPlain
from scaler.simulate.policies.knative import Kpa
from scaler.simulate.policies.naive import LastValue, Schedule, SeasonalNaive
from scaler.simulate.policies.plans import PLANS, oracle, oracle_instant, static_mean, static_peak
from scaler.simulate.policies.playing import (
    DEFAULT_UTILISATION,
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
    "PLANNERS",
    "PLANS",
    "RULES",
    "Dynamo",
    "Hpa",
    "HpaPlain",
    "Kpa",
    "LastValue",
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


RULES: dict[str, Callable[[float | None, timedelta], Rule]] = {
    "hpa": lambda utilisation, step: Hpa.for_bins(step, utilisation=utilisation or DEFAULT_UTILISATION),
    "hpa-plain": lambda utilisation, step: HpaPlain(utilisation=utilisation or DEFAULT_UTILISATION),
}
"""The rules by family, each made for a utilisation (None: its default) and a width of bins."""

PLANNERS: dict[str, Callable[[float | None, Past], Planner]] = {
    "kpa": lambda utilisation, past: Kpa(target_ratio=utilisation or DEFAULT_UTILISATION),
    "last-value": lambda utilisation, past: LastValue(utilisation=utilisation or DEFAULT_UTILISATION),
    "seasonal-naive": lambda utilisation, past: SeasonalNaive(utilisation=utilisation or DEFAULT_UTILISATION),
    "dynamo": lambda utilisation, past: Dynamo(utilisation=utilisation or 1.0),
    "schedule": lambda utilisation, past: Schedule.of(
        past.loads, start=past.start, step=past.step, utilisation=utilisation or 1.0
    ),
}
"""The planners by family, each made for a utilisation (None: its default) and what was known before."""


def rule(name: str, *, step: timedelta = STEP) -> Rule:
    """The rule of that name: "hpa", "hpa:0.6", "hpa-plain:0.7"; `ValueError` names what there is."""
    family, utilisation = _parsed(name, tuple(RULES), "policy rule")
    return RULES[family](utilisation, step)


def planner(name: str, past: Past) -> Planner:
    """The planner of that name: "kpa", "kpa:0.6", "schedule"; `ValueError` names what there is."""
    family, utilisation = _parsed(name, tuple(PLANNERS), "planner")
    return PLANNERS[family](utilisation, past)


def _parsed(name: str, families: tuple[str, ...], kind: str) -> tuple[str, float | None]:
    """Family and utilisation of "family:utilisation"."""
    family, colon, argument = name.partition(":")
    if family not in families:
        raise ValueError(f"no {kind} {name!r}; there are {', '.join(sorted(families))}, each with :utilisation")
    if not colon:
        return family, None
    try:
        utilisation = float(argument)
    except ValueError:
        raise ValueError(f"{name!r} needs a number after the colon, such as {family}:0.7") from None
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"the utilisation of {name!r} must lie in (0, 1]")
    return family, utilisation
