"""A profile as one HTML page that asks nobody for anything: each class's latencies over its rate, and the check.

It turns figures into points of an SVG and judges none of them. It has the look of the simulator's pages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scaler.profiling.derive import GOOD_CHECK_RATIO, ClassLimit, Derived, slo_text
from scaler.profiling.prediction import seen, steady
from scaler.service.model import LatencySlo
from scaler.simulate.page import fill

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 40
MODEL_POINTS = 14
"""Rates at which the fitted replica's curve is drawn."""
NAMES = {
    "throughput_rps": "throughput",
    "ttft_p50_s": "TTFT P50",
    "itl_p50_s": "ITL P50",
    "e2e_p50_s": "end to end P50",
    "e2e_p95_s": "end to end P95",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """From a figure to a place on the page; logarithmic where `low` is above 0."""

    low: float
    high: float
    first_px: float
    last_px: float

    def px(self, value: float) -> float:
        if self.low > 0.0:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return round(self.first_px + (self.last_px - self.first_px) * min(1.0, max(0.0, share)), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels of a few round figures."""
        return [(self.px(each), f"{each:g}") for each in self._round() if self.low <= each <= self.high]

    def _round(self) -> list[float]:
        if self.low > 0.0:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            return [base * 10.0**power for power in range(first, last + 1) for base in (1, 2, 5)]
        step = 10.0 ** math.floor(math.log10(self.high))
        step = next(each for each in (step / 5, step / 2, step, 2 * step) if self.high / each <= 7)
        return [step * count for count in range(int(self.high / step) + 1)]


def render(derived: Derived) -> str:
    """The page, complete with style and figures."""
    return fill(
        "profile.html.j2",
        derived=derived,
        slo=slo_text(derived.asked.slo),
        charts=[_chart(derived, each) for each in derived.limits],
        checks=[_check_row(each) for each in derived.checks],
        check_names=list(NAMES.values()),
        good=sum(abs(each.worst[1]) <= GOOD_CHECK_RATIO for each in derived.checks),
        size={
            "width": WIDTH,
            "height": HEIGHT,
            "left": LEFT,
            "right": WIDTH - RIGHT,
            "top": TOP,
            "bottom": HEIGHT - BOTTOM,
        },
    )


def _chart(derived: Derived, limit: ClassLimit) -> dict[str, Any]:
    """One class: measured levels as dots, the fitted replica as lines, its limit and the SLO."""
    levels = [(each.sent / each.length_s, seen(each.served)) for each in derived.sweep.of(limit.name) if each.served]
    model = _model(derived, limit, most_rps=max(rate for rate, _ in levels))
    values = [value for _, each in levels for value in (each.ttft_p50_s, each.e2e_p95_s)]
    slo = derived.asked.slo
    values += [each for each in (slo.ttft_s, slo.e2e_s) if each is not None]
    across = _Axis(low=0.0, high=1.05 * max(rate for rate, _ in levels), first_px=LEFT, last_px=WIDTH - RIGHT)
    up = _Axis(
        low=0.5 * min(each for each in values if each > 0.0),
        high=1.3 * max(values),
        first_px=HEIGHT - BOTTOM,
        last_px=TOP,
    )
    return {
        "limit": limit,
        "x_ticks": across.ticks,
        "y_ticks": up.ticks,
        "ttft": [(across.px(rate), up.px(each.ttft_p50_s)) for rate, each in levels],
        "e2e": [(across.px(rate), up.px(each.e2e_p95_s)) for rate, each in levels],
        "ttft_line": _line([(across.px(rate), up.px(each.ttft_p50_s)) for rate, each in model]),
        "e2e_line": _line([(across.px(rate), up.px(each.e2e_p95_s)) for rate, each in model]),
        "limit_px": across.px(limit.max_rps),
        "slo": _slo_lines(slo, up),
    }


def _model(derived: Derived, limit: ClassLimit, *, most_rps: float) -> list[tuple[float, Any]]:
    """The fitted replica at rates up to where its queue has no end."""
    service = derived.fit.service(
        max_num_seqs=derived.service.max_num_seqs,
        kv_tokens=derived.service.kv_tokens,
        max_num_batched_tokens=derived.service.max_num_batched_tokens,
        request_class=limit.name,
    )
    top = min(most_rps, 1.02 * limit.modelled_rps)
    rates = [top * (index + 0.5) / MODEL_POINTS for index in range(MODEL_POINTS)] + [top]
    return [(rate, seen(steady(service, derived.fit, limit.shape, rate, seed=derived.sweep.seed))) for rate in rates]


def _line(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _slo_lines(slo: LatencySlo, up: _Axis) -> list[dict[str, Any]]:
    asked = (("ttft", "SLO TTFT", slo.ttft_s), ("e2e", "SLO end to end", slo.e2e_s))
    return [{"kind": kind, "name": name, "px": up.px(value)} for kind, name, value in asked if value is not None]


def _check_row(check: Any) -> dict[str, Any]:
    return {
        "name": check.level.name,
        "rate": check.level.rate_rps,
        "answers": len(check.level.served),
        "off": [
            {"text": f"{round(100 * value):+d}".replace("-", "−") + "\u00a0%", "far": abs(value) > GOOD_CHECK_RATIO}
            for value in check.off.values()
        ],
    }
