"""What the fitted replica would do: with a measured level's own arrivals, and under a steady rate of one class.

The same iterations that `headstart simulate --profile` plays. Whether a prediction is good is judged where it is
compared (`derive`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaler.service.fit_requests import RequestsFit, Served
from scaler.service.model import LatencySlo, ServiceModel, TokenShape
from scaler.simulate.serving.driven import open_loop
from scaler.simulate.serving.engine import Request

ATTAINED_RATIO = 0.95
"""Share of the requests that must keep the SLO at a class's limit: the SLO is one on the 95th percentile."""
STEADY_REQUESTS = 1_500
"""Requests of a simulated steady rate, after as many fill it up as run at once: 95 % is then known to ±1.1 %."""
RATE_RESOLUTION = 0.01
"""A limit is searched to 1 %: arrivals alone make more difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What clients saw of some requests; seconds, NaN without any."""

    ttft_p50_s: float
    ttft_p95_s: float
    itl_p50_s: float
    e2e_p50_s: float
    e2e_p95_s: float
    throughput_rps: float
    """Requests over the time until the last was answered."""


FIGURES = ("throughput_rps", "ttft_p50_s", "itl_p50_s", "e2e_p50_s", "e2e_p95_s")
"""What a prediction is judged by."""


def seen(requests: Sequence[Served]) -> Seen:
    """Percentiles by the nearest rank."""
    last_s = max((each.finished_s for each in requests), default=math.nan)
    return Seen(
        ttft_p50_s=_percentile([each.ttft_s for each in requests], 0.50),
        ttft_p95_s=_percentile([each.ttft_s for each in requests], 0.95),
        itl_p50_s=_percentile([each.itl_s for each in requests], 0.50),
        e2e_p50_s=_percentile([each.e2e_s for each in requests], 0.50),
        e2e_p95_s=_percentile([each.e2e_s for each in requests], 0.95),
        throughput_rps=len(requests) / last_s if requests else 0.0,
    )


def replayed(service: ServiceModel, found: RequestsFit, level: Sequence[Served]) -> tuple[Served, ...]:
    """A level's own requests, sent when they were sent, served by the fitted replica."""
    ordered = sorted(level, key=lambda each: each.sent_s)
    return _served(
        service,
        found,
        [
            Request(
                request_class=each.request_class,
                arrived_s=each.sent_s,
                input_tokens=each.input_tokens,
                output_tokens=each.output_tokens,
                image_tokens=each.image_tokens,
            )
            for each in ordered
        ],
    )


def attainment(served: Sequence[Served], slo: LatencySlo) -> float:
    """Share of requests that kept the SLO; 1 where there are none."""
    kept = sum(
        (slo.ttft_s is None or each.ttft_s <= slo.ttft_s)
        and (slo.itl_s is None or each.itl_s <= slo.itl_s)
        and (slo.e2e_s is None or each.e2e_s <= slo.e2e_s)
        for each in served
    )
    return kept / len(served) if served else 1.0


def limit_rps(service: ServiceModel, found: RequestsFit, shape: TokenShape, slo: LatencySlo, *, seed: int) -> float:
    """The highest steady rate of one class at which 95 % of the requests keep the SLO; 0 where not even lone ones do.

    Poisson arrivals of equal requests, always the same ones at another pace, so that more is never better.
    """
    full_rps = _most_rps(service, shape)

    def keeps(rate_rps: float) -> bool:
        return attainment(steady(service, found, shape, rate_rps, seed=seed), slo) >= ATTAINED_RATIO

    return _highest(keeps, 1e-3 * full_rps, full_rps)


def steady(
    service: ServiceModel, found: RequestsFit, shape: TokenShape, rate_rps: float, *, seed: int
) -> tuple[Served, ...]:
    """Requests of one shape at a steady rate, those left out that came before the replica was in its stride."""
    dice, at_s, requests = random.Random(seed), 0.0, []
    first = 2 * service.batch_limit(shape)
    for _ in range(first + STEADY_REQUESTS):
        at_s += dice.expovariate(1.0) / rate_rps
        requests.append(
            Request(
                request_class="one",
                arrived_s=at_s,
                input_tokens=max(1, round(shape.input_tokens)),
                output_tokens=max(1, round(shape.output_tokens)),
                image_tokens=round(shape.image_tokens),
            )
        )
    return _served(service, found, requests)[first:]


def _most_rps(service: ServiceModel, shape: TokenShape) -> float:
    """A rate that no such replica keeps up with: its batch full all the time, at no cost for prompts."""
    batch = service.batch_limit(shape)
    return 2.0 * batch / (shape.output_tokens * service.alpha_s)


def _highest(keeps: Callable[[float], bool], low: float, high: float) -> float:
    if not keeps(low):
        return 0.0
    while high > (1.0 + RATE_RESOLUTION) * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _served(service: ServiceModel, found: RequestsFit, requests: list[Request]) -> tuple[Served, ...]:
    plain_s = found.overhead_s or 0.0
    open_loop(
        service,
        [(each, plain_s + (found.image_overhead_s if each.image_tokens else 0.0)) for each in requests],
    )
    return tuple(
        Served(
            request_class=each.request_class,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            image_tokens=each.image_tokens,
            sent_s=each.arrived_s,
            first_token_s=each.first_token_s,
            finished_s=each.finished_s,
        )
        for each in requests
    )


def _percentile(values: Sequence[float], share: float) -> float:
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]
