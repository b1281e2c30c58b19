"""At which rate to go on: up until arrivals wait longer and longer, then closer to where that began.

A pure function of the levels that are over, so a sweep that was interrupted goes on as if it had not been. Arrivals
never wait for answers here, so a rate above the server's limit shows as a queue that grows: clients that wait for
each other would slow down instead and hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

FIRST_BUSY_RATIO = 0.5
"""First level: a request every two lone answers' time, so that most still run alone."""
WIDE_STEP, NARROW_STEP = 2.5, 1.5
"""Factor to the next level while answers are as fast as alone, and once they are slower."""
AS_ALONE_RATIO = 1.15
"""Answers that take up to 1.15 of a lone one's time have hardly company."""
CLOSE_ENOUGH_RATIO = 1.15
"""The knee is known well enough when the level below and the one above it are no further apart."""
FAILED_RATIO = 0.05
"""A larger share of failed requests is a limit too."""
MOST_LEVELS = 14
"""A class ends here: 2.5^13 times the first rate is no server's limit."""
MIXED_RATIOS = (0.5, 0.85)
"""Of what the classes' own limits add up to, the rates of the mixed traffic: nothing of it is searched for."""


class Ended(StrEnum):
    """Why a level stopped sending."""

    FULL = "full"
    """Its time was over."""
    CROWDED = "crowded"
    """Too many requests were without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What a lone request of a class took."""

    ttft_s: float
    """Time to its first token, seconds; the median of a few."""
    e2e_s: float
    """Time to its last token, seconds; the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSeen:
    """What a level of one class showed, as far as the next rate depends on it."""

    rate_rps: float
    """Arrivals a second that were meant."""
    ended: Ended
    sent: int
    """Requests sent."""
    failed: int
    """Of them without a whole answer."""
    e2e_p50_s: float | None
    """Median time to the last token, seconds; None without any answer."""
    late_ttft_p50_s: float | None
    """Median time to the first token of the last third that was sent, seconds; None without any."""


def beyond(level: LevelSeen, alone: Alone) -> bool:
    """Whether the level was beyond the knee: whoever came last waited for long, or many failed.

    Half a lone answer's time is what a full server makes people wait for a place, again and again. 98 ms at 4 rps,
    49.9 s at 6 rps were measured once: it is a knee and no slope, so the exact limit matters little.
    """
    if level.ended is Ended.CROWDED or level.failed > FAILED_RATIO * level.sent:
        return True
    if level.late_ttft_p50_s is None:
        return level.sent > 0
    return level.late_ttft_p50_s > 2.0 * alone.ttft_s + 0.5 * alone.e2e_s


def knee_rps(levels: Sequence[LevelSeen], alone: Alone) -> float | None:
    """The highest rate below every one that was beyond the knee; None before any was kept."""
    over = min((each.rate_rps for each in levels if beyond(each, alone)), default=float("inf"))
    return max((each.rate_rps for each in levels if each.rate_rps < over), default=None)


def bracketed(levels: Sequence[LevelSeen], alone: Alone) -> bool:
    """Whether the knee lies between two levels that were measured."""
    kept = knee_rps(levels, alone)
    return kept is not None and kept < max(each.rate_rps for each in levels)


def next_rate_rps(levels: Sequence[LevelSeen], alone: Alone) -> float | None:
    """The rate of the next level of a class; None when its knee is known."""
    if not levels:
        return FIRST_BUSY_RATIO / alone.e2e_s
    if len(levels) >= MOST_LEVELS:
        return None
    over = min((each.rate_rps for each in levels if beyond(each, alone)), default=None)
    kept = knee_rps(levels, alone)
    if over is None:
        last = max(levels, key=lambda each: each.rate_rps)
        free = last.e2e_p50_s is not None and last.e2e_p50_s <= AS_ALONE_RATIO * alone.e2e_s
        return last.rate_rps * (WIDE_STEP if free else NARROW_STEP)
    if kept is None:
        return over / WIDE_STEP  # not even the first was kept: the lone answers were faster than it ever is
    if over <= CLOSE_ENOUGH_RATIO * kept:
        return None
    return float((over * kept) ** 0.5)


def alone_of(ttfts_s: Sequence[float], e2es_s: Sequence[float]) -> Alone:
    """Of a few requests, one after the other; at least one."""
    return Alone(ttft_s=median(ttfts_s), e2e_s=median(e2es_s))
