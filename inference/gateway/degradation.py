"""How much the gateway takes back under overload, and when it gives it back: four levels, with hysteresis.

    0  full
    1  shorter outputs, smaller images
    2  also: cached answers preferred, the smaller variant where one is configured
    3  also: normal requests are shed

A pure rule over pressure: one level up after a short dwell, one level down after a long one and only below a lower
edge. VIP requests always wait first and are never changed or shed. It never scales anything: that is the scaler's
business, which sees the arrivals that were shed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from inference.gateway.body import EMBEDDINGS, Body, limit_field
from inference.gateway.bounds import check_bounds


class Level(IntEnum):
    """How much is taken back."""

    FULL = 0
    SHORTER = 1
    SMALLER = 2
    SHED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationRule:
    """When a level begins and ends, and what it does."""

    enabled: bool = True
    load_ratio: float = 0.9
    """Slots in use at which level 1 begins."""
    slow_ratio: float = 0.05
    """Share of answers later than the SLO at which level 1 begins: 0.05 is a P95 above the SLO."""
    very_slow_ratio: float = 0.25
    """The same for level 2."""
    waiting_ratio: float = 0.25
    """Part of the line that is full at which level 2 begins."""
    shed_waiting_ratio: float = 0.6
    """The same for level 3."""
    release_ratio: float = 0.7
    """A level ends below this part of the pressure at which it begins."""
    rise_after_s: float = 2.0
    """Pressure must last so long for each level up."""
    fall_after_s: float = 30.0
    """Calm must last so long for each level down."""
    max_output_tokens: int = 512
    """Longest output from level 1 on."""
    max_image_pixels: int | None = None
    """Largest picture from level 1 on, scaled down by the replica; 524288 are 512 tokens of Qwen3-VL. Only for replicas
    started with `--trust-request-mm-kwargs`, others answer 400 to it; clients' own `mm_processor_kwargs` are then
    dropped."""
    min_slow_samples: int = 20
    """Fewer answers in the window say nothing about lateness."""

    def __post_init__(self) -> None:
        check_bounds(self, load_ratio=(0.01, 10), slow_ratio=(0.001, 1), very_slow_ratio=(0.001, 1))
        check_bounds(self, waiting_ratio=(0.001, 1), shed_waiting_ratio=(0.001, 1), release_ratio=(0, 0.99))
        check_bounds(self, rise_after_s=(0, 600), fall_after_s=(0, 3600), min_slow_samples=(1, 1_000_000))
        check_bounds(self, max_output_tokens=(1, 1_000_000), max_image_pixels=(4096, 100_000_000))
        if self.shed_waiting_ratio < self.waiting_ratio:
            raise ValueError(f"shed_waiting_ratio = {self.shed_waiting_ratio:g} is below waiting_ratio; raise it")
        if self.very_slow_ratio < self.slow_ratio:
            raise ValueError(f"very_slow_ratio = {self.very_slow_ratio:g} is below slow_ratio; raise it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """What one model's replicas bear now."""

    load_ratio: float
    """Requests in flight over slots; 0 where there is no slot, since nothing can be relieved there."""
    waiting_ratio: float
    """Requests that wait over the line's length."""
    slow_ratio: float | None = None
    """Share of recent first tokens later than the SLO; None: too few to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """The level, and how long the pressure has asked for another one."""

    level: Level = Level.FULL
    above_since_s: float | None = None
    below_since_s: float | None = None


def step(state: Degradation, pressure: Pressure, rule: DegradationRule, *, now_s: float) -> Degradation:
    """The state after one more look, at most one level away."""
    if not rule.enabled:
        return Degradation()
    wanted, kept = asked_for(pressure, rule), asked_for(pressure, rule, scale=rule.release_ratio)
    level = state.level
    if wanted > level:
        since = now_s if state.above_since_s is None else state.above_since_s
        if now_s - since >= rule.rise_after_s:
            # The dwell starts again: each level gets its time to work before the next one comes.
            return Degradation(level=Level(level + 1), above_since_s=now_s)
        return Degradation(level=level, above_since_s=since)
    if kept < level:
        since = now_s if state.below_since_s is None else state.below_since_s
        if now_s - since >= rule.fall_after_s:
            return Degradation(level=Level(level - 1), below_since_s=now_s)
        return Degradation(level=level, below_since_s=since)
    return Degradation(level=level)


def asked_for(pressure: Pressure, rule: DegradationRule, *, scale: float = 1.0) -> Level:
    """The level that this pressure asks for; `scale` lowers every edge, which is what keeps a level that is there."""
    slow = pressure.slow_ratio or 0.0
    if pressure.waiting_ratio >= rule.shed_waiting_ratio * scale:
        return Level.SHED
    if pressure.waiting_ratio >= rule.waiting_ratio * scale or slow >= rule.very_slow_ratio * scale:
        return Level.SMALLER
    if pressure.load_ratio >= rule.load_ratio * scale or slow >= rule.slow_ratio * scale:
        return Level.SHORTER
    return Level.FULL


def changes(body: Body, level: Level, rule: DegradationRule) -> dict[str, Any]:
    """Top-level fields of the body that are other at this level; empty where nothing would change."""
    if level < Level.SHORTER or body.path == EMBEDDINGS:
        return {}
    changed: dict[str, Any] = {}
    if body.max_output_tokens is None or body.max_output_tokens > rule.max_output_tokens:
        changed[limit_field(body)] = rule.max_output_tokens
    if body.images and rule.max_image_pixels is not None:
        # The processor's own words: `longest_edge` is an area, despite its name. The replica scales each picture
        # anyway, so this costs the gateway nothing; encoding a screenshot again here would take some 50 ms of CPU.
        changed["mm_processor_kwargs"] = {"images_kwargs": {"size": {"longest_edge": rule.max_image_pixels}}}
    return changed
