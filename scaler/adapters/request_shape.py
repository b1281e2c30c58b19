"""Whether requests still are those that a capacity profile was measured with: tokens and images a request.

It decides when their mean has left the profile's for good: by more than a quarter, for fifteen minutes at least, to
the same side in each five of them, and by more than the spread of so many requests explains. Pure: it reads no clock
and no metric, and it changes no capacity; `max_rps` stays what the profile says until somebody measures again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.sources.catalogue import IMAGES, OUTPUT_TOKENS, PROMPT_TOKENS
from forecaster.types import STEP
from scaler.policy.capacity import CapacityProfile, RequestTokens

if TYPE_CHECKING:
    from forecaster.types import FloatArray

TOLERANCE = 0.25
"""Capacity moves about as the tokens do: a quarter more of them leaves four fifths of max_rps."""

STAYS_OVER = 0.20
"""What was found to have left is back below this: at 25 % exactly it would be said and taken back for ever."""

LASTING = timedelta(minutes=20)
PARTS = 4
"""Where the mean of each part is off, so it was for fifteen minutes at least: from some moment of the first part on."""
FEWEST_REQUESTS = 50.0
"""As for a P95: a mean over fewer requests says little about the next ones."""

NAMES = {PROMPT_TOKENS: "prompt tokens", OUTPUT_TOKENS: "output tokens", IMAGES: "images"}

_USUAL_CV = 1.0
"""Spread of a class whose profile tells none: lengths of requests have about that (standard deviation over mean)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """One thing that requests of a class are made of: what a request holds on average, measured and by the profile."""

    request_class: str
    signal: str
    """Of `catalogue.USAGE`."""
    profile: float
    """What the profile's `tokens` say of it."""
    now: float
    """Mean over the last twenty minutes, weighted by requests."""
    ahead: float | None = None
    """Median forecast of it over median forecast demand at the lead time; None without both."""
    left: bool = False
    """Whether it has left the profile's for good."""

    @property
    def off(self) -> float:
        """How far `now` is from the profile's, in shares of it; of nothing expected, in units: 0.5 images."""
        return (self.now - self.profile) / (self.profile or 1.0)


def expected(profile: CapacityProfile, request_class: str) -> RequestTokens | None:
    """The lengths that the profile was measured with for this class; an only class's stand for every class."""
    named = [each for each in profile.classes if each.name == request_class]
    only = profile.classes if len(profile.classes) == 1 else ()
    return next((each.tokens for each in (*named, *only)), None)


def compare(
    tokens: RequestTokens,
    demand_rps: FloatArray,
    used_per_s: Mapping[str, FloatArray],
    *,
    request_class: str,
    ahead: Mapping[str, float] | None = None,
    left_before: frozenset[str] = frozenset(),
) -> tuple[Amount, ...]:
    """Each thing that is told of a class, beside its profile's; nothing below fifty requests or half the minutes.

    `demand_rps` and each of `used_per_s` (by signal) are the last twenty minutes, oldest first, NaN for unknown;
    `ahead` is what a request holds by the forecasts, and `left_before` the signals that had left at the last look.
    """
    found = []
    for signal, used in sorted(used_per_s.items()):
        both = np.isfinite(demand_rps) & np.isfinite(used)
        requests = float(demand_rps[both].sum()) * STEP.total_seconds()
        if requests < FEWEST_REQUESTS or 2 * int(both.sum()) < len(demand_rps):
            continue
        profile, cv = _profiled(tokens, signal)
        amount = Amount(
            request_class=request_class,
            signal=signal,
            profile=profile,
            now=_mean(demand_rps, used),
            ahead=None if ahead is None else ahead.get(signal),
        )
        by_chance = 2.0 * cv / math.sqrt(requests)
        if signal in left_before:
            left = abs(amount.off) > STAYS_OVER
        else:
            left = abs(amount.off) > TOLERANCE + by_chance and _lasts(amount, demand_rps, used)
        found.append(replace(amount, left=left))
    return tuple(found)


FIX = "measure max_rps with such requests, and set it with its tokens in the profile"


def departure(profile: CapacityProfile, amounts: tuple[Amount, ...]) -> str:
    """What to say of those amounts of one class that have left its profile; empty where none has. `FIX` helps."""
    gone = [each for each in amounts if each.left]
    if not gone:
        return ""
    name = gone[0].request_class
    return (
        f"requests of class {name!r} are no longer those of profile {profile.name!r}: "
        f"{', '.join(_fact(each) for each in gone)}; its max_rps of {profile.max_rps(name):g} does not describe them, "
        f"the scale may be too {_way(gone)}"
    )


def held_text(each: Amount) -> str:
    """What a request holds, in words."""
    return f"{_figure(each.now)} {NAMES[each.signal]} a request"


def _fact(each: Amount) -> str:
    ahead = "" if each.ahead is None else f", {_figure(each.ahead)} ahead"
    share = f" ({100 * each.off:+.0f} %)" if each.profile else ""
    return f"{held_text(each)}{ahead} instead of {_figure(each.profile)}{share}"


def _figure(value: float) -> str:
    """Three digits or all whole ones, never an exponent: 16000, not 1.6e+04."""
    return f"{value:.0f}" if value >= 1000.0 else f"{value:.3g}"


def _way(gone: list[Amount]) -> str:
    """Too small where anything grew: a missed minute costs more than a spare one."""
    return "small" if any(each.off > 0.0 for each in gone) else "large"


def _profiled(tokens: RequestTokens, signal: str) -> tuple[float, float]:
    """The profile's mean of a signal a request, and its spread."""
    if signal == PROMPT_TOKENS:
        return tokens.input_tokens, max(tokens.input_cv, tokens.image_cv) or _USUAL_CV
    if signal == OUTPUT_TOKENS:
        return tokens.output_tokens, tokens.output_cv or _USUAL_CV
    return (1.0 if tokens.image_tokens > 0.0 else 0.0), _USUAL_CV


def _mean(demand_rps: FloatArray, used: FloatArray) -> float:
    """Used over requests, of the minutes in which both are known; NaN without any request."""
    both = np.isfinite(demand_rps) & np.isfinite(used)
    requests = float(demand_rps[both].sum())
    return float(used[both].sum()) / requests if requests > 0.0 else math.nan


def _lasts(amount: Amount, demand_rps: FloatArray, used: FloatArray) -> bool:
    """Whether every part of the stretch is off by more than the tolerance to the same side as the whole of it."""
    side = math.copysign(1.0, amount.off)
    parts = zip(np.array_split(demand_rps, PARTS), np.array_split(used, PARTS), strict=True)
    offs = [(_mean(demand, part) - amount.profile) / (amount.profile or 1.0) for demand, part in parts]
    return all(side * off > TOLERANCE for off in offs)
