"""How fast one replica serves: the closed form from token counts and a request rate to mean latencies.

A replica is one batch server whose speed depends on how many requests it runs, never as many servers as it has slots.
The form is that of llm-d's queueing analyser (github.com/llm-inferno/queue-analysis): an iteration takes a fixed time,
plus a time per token computed, plus a time per token of context held; the requests in the replica are a birth–death
chain whose rates follow from that. With I, O mean input and output tokens, n requests running and E the encoder's time,

    T(n) = α + n · ( (β·(I+O) + E)/(O+1) + γ·(I+O/2) + δ )     one iteration
    P(n) = T(n) + (β+γ)·I + E                                  prefill
    D(n) = T(n) + β + γ·(I+O/2)                                one decoded token
    μ(n) = n / (P(n) + O·D(n)) for n ≤ B, then μ(B)            completions per second
    B    = min(max_num_seqs, 0.9 · KV tokens / (I+O/2))        requests that run at once

The encoder of images is not in llm-d's form. It works serially inside the iteration that begins a prefill, so it costs
what the prompt's computation costs: once in full for the request itself, and once in O+1 iterations for every other.
For many requests at once the rate then tends to at most 1/E, as that of one serial server must.

Not in llm-d's form either: δ, what a sequence costs an iteration whatever its length (sampling, its part of the
batch's bookkeeping). 0 unless measured.

All results are means. Percentiles come from the simulation of iterations (`scaler.simulate.serving.engine`). Prompts
longer than `max_num_batched_tokens` take several iterations, which the closed form does not see. This module never
measures and never fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KV_SHARE = 0.9
"""Share of the KV cache that a full batch uses on average; above it, requests begin to be preempted."""
QUEUE_PER_SLOT = 10
"""Requests that may wait for each one that runs, before the chain of states ends (llm-d's ratio): K = 11 · B."""
STABLE_SHARE = 1.0 - 1e-3
"""Largest answer of `max_rate_rps` as a share of μ(B): at μ(B) itself the queue has no mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceModel:
    """How fast one replica iterates, and how much it holds."""

    alpha_s: float
    """Fixed time of an iteration, seconds."""
    beta_s: float
    """Per token computed in the iteration: those of prefill chunks, and one for each decoding sequence; seconds."""
    gamma_s: float
    """Per token of context held in the KV cache by the sequences of the iteration, seconds."""
    max_num_seqs: int
    """Sequences that run at once at most."""
    kv_tokens: int
    """Size of the KV cache, tokens."""
    max_num_batched_tokens: int = 8192
    """Tokens computed in one iteration at most; longer prompts are computed in chunks."""
    encoder_base_s: float = 0.0
    """Time of the image encoder for a request that has images, seconds; serial in a replica."""
    encoder_per_token_s: float = 0.0
    """The same per image token, seconds."""
    per_sequence_s: float = 0.0
    """Per sequence in the iteration, whatever its length, seconds: sampling and bookkeeping."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha_s) and self.alpha_s > 0.0):
            raise ValueError(f"alpha_s must be a finite number above 0, got {self.alpha_s}")
        for name in ("beta_s", "gamma_s", "encoder_base_s", "encoder_per_token_s", "per_sequence_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        for name in ("max_num_seqs", "kv_tokens", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): every decoding sequence computes one token in each iteration"
            )

    def encoder_s(self, image_tokens: float) -> float:
        """Encoder time of one request, seconds; none without images."""
        return self.encoder_base_s + self.encoder_per_token_s * image_tokens if image_tokens > 0.0 else 0.0

    def batch_limit(self, shape: TokenShape) -> int:
        """B: requests of this shape that run at once, at least 1.

        Raises:
            ValueError: one such request alone does not fit in the KV cache.
        """
        if shape.input_tokens + shape.output_tokens > self.kv_tokens:
            raise ValueError(
                f"a request of {shape.input_tokens:g} input and {shape.output_tokens:g} output tokens does not fit in "
                f"a KV cache of {self.kv_tokens} tokens"
            )
        by_memory = KV_SHARE * self.kv_tokens / (shape.input_tokens + shape.output_tokens / 2)
        return max(1, min(self.max_num_seqs, int(by_memory)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShape:
    """Mean tokens of the requests of a class."""

    input_tokens: float
    """Prompt tokens, those of images included."""
    output_tokens: float
    """Generated tokens; 0 for a request that only has its prompt read."""
    image_tokens: float = 0.0
    """Tokens of images, part of `input_tokens`; above 0 each request of the class has an image."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.input_tokens) and self.input_tokens > 0.0):
            raise ValueError(f"input_tokens must be a finite number above 0, got {self.input_tokens}")
        if not (math.isfinite(self.output_tokens) and self.output_tokens >= 0.0):
            raise ValueError(f"output_tokens must be a finite number of at least 0, got {self.output_tokens}")
        if not 0.0 <= self.image_tokens <= self.input_tokens:
            raise ValueError(f"image_tokens must be 0 to input_tokens ({self.input_tokens}), got {self.image_tokens}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySlo:
    """Mean latencies to keep; None asks for nothing."""

    ttft_s: float | None = None
    """Time to the first token, seconds."""
    itl_s: float | None = None
    """Time between two tokens, seconds."""
    e2e_s: float | None = None
    """Arrival to last token, seconds."""

    def __post_init__(self) -> None:
        for name in ("ttft_s", "itl_s", "e2e_s"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{name} must be above 0 seconds, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Steady state of one replica at one rate; means."""

    throughput_rps: float
    """Completed requests a second: the rate offered, less what finds all K places taken."""
    running: float
    """Requests running: E[min(N, B)]."""
    wait_s: float
    """Time in the queue, seconds."""
    ttft_s: float
    """Time to the first token, seconds."""
    itl_s: float
    """Time between two tokens, seconds; 0 where there is no output."""
    e2e_s: float
    """Arrival to last token, seconds."""
    utilisation: float
    """Rate offered over μ(B); above 1 the replica is overloaded."""


def estimate(service: ServiceModel, shape: TokenShape, rate_rps: float) -> Estimate:
    """What one replica does at a steady rate of Poisson arrivals.

    Args:
        service: the replica.
        shape: mean tokens of a request.
        rate_rps: arrivals a second; 0 gives the latencies of a lone request.

    Raises:
        ValueError: a negative or infinite rate, or a shape that does not fit in the KV cache.
    """
    if not (math.isfinite(rate_rps) and rate_rps >= 0.0):
        raise ValueError(f"rate_rps must be a finite number of at least 0, got {rate_rps}")
    return _estimate(service, shape, rate_rps, _completion_rates(service, shape))


def max_rate_rps(service: ServiceModel, shape: TokenShape, slo: LatencySlo) -> float:
    """λ_max: the highest rate, requests a second, at which the mean latencies keep the SLO; 0 where none does.

    By bisection to one part in a million, between 0 and 99.9 % of μ(B).

    Raises:
        ValueError: the shape does not fit in the KV cache.
    """
    rates = _completion_rates(service, shape)

    def keeps(rate_rps: float) -> bool:
        found = _estimate(service, shape, rate_rps, rates)
        return (
            (slo.ttft_s is None or found.ttft_s <= slo.ttft_s)
            and (slo.itl_s is None or found.itl_s <= slo.itl_s)
            and (slo.e2e_s is None or found.e2e_s <= slo.e2e_s)
        )

    return _highest(keeps, rates[-1] * STABLE_SHARE)


def _highest(keeps: Callable[[float], bool], most: float) -> float:
    """The largest rate up to `most` for which `keeps` holds, given that it holds below it; 0 if it holds nowhere."""
    if keeps(most):
        return most
    if not keeps(0.0):
        return 0.0
    low, high = 0.0, most
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
        if high < 1e-9 * most:
            return 0.0
    return low


def _iteration_s(service: ServiceModel, shape: TokenShape, running: float) -> float:
    """T(n), seconds."""
    tokens_in, tokens_out = shape.input_tokens, shape.output_tokens
    computed = (service.beta_s * (tokens_in + tokens_out) + service.encoder_s(shape.image_tokens)) / (tokens_out + 1)
    held = service.gamma_s * (tokens_in + tokens_out / 2)
    return service.alpha_s + running * (computed + held + service.per_sequence_s)


def _prefill_s(service: ServiceModel, shape: TokenShape, running: float) -> float:
    """P(n), seconds."""
    own = (service.beta_s + service.gamma_s) * shape.input_tokens + service.encoder_s(shape.image_tokens)
    return _iteration_s(service, shape, running) + own


def _decode_s(service: ServiceModel, shape: TokenShape, running: float) -> float:
    """D(n), seconds."""
    own = service.beta_s + service.gamma_s * (shape.input_tokens + shape.output_tokens / 2)
    return _iteration_s(service, shape, running) + own


def _completion_rates(service: ServiceModel, shape: TokenShape) -> tuple[float, ...]:
    """μ(1) … μ(B), requests a second."""
    return tuple(
        n / (_prefill_s(service, shape, n) + shape.output_tokens * _decode_s(service, shape, n))
        for n in range(1, service.batch_limit(shape) + 1)
    )


def _estimate(service: ServiceModel, shape: TokenShape, rate_rps: float, rates: Sequence[float]) -> Estimate:
    """`estimate`, given μ(1) … μ(B)."""
    if rate_rps > 0.0:
        inside, running, admitted = _occupancy(rates, rate_rps)
        throughput_rps = rate_rps * admitted
        service_s = running / throughput_rps
        wait_s = max(0.0, inside / throughput_rps - service_s)
    else:  # the limit of a vanishing rate: whoever comes runs alone
        running, throughput_rps, service_s, wait_s = 0.0, 0.0, 1.0 / rates[0], 0.0
    prefill_s = _prefill_s(service, shape, running)
    # O = 0 has no token to divide by; what is left of the service time then still belongs to the only latency there is
    gap_s = max(0.0, service_s - prefill_s) / max(1.0, shape.output_tokens)
    return Estimate(
        throughput_rps=throughput_rps,
        running=running,
        wait_s=wait_s,
        ttft_s=wait_s + prefill_s + gap_s,
        itl_s=gap_s if shape.output_tokens > 0.0 else 0.0,
        e2e_s=wait_s + service_s,
        utilisation=rate_rps / rates[-1],
    )


def _occupancy(rates: Sequence[float], rate_rps: float) -> tuple[float, float, float]:
    """E[N], E[min(N, B)] and 1 - p_K of the birth–death chain p(n+1) = p(n) · λ/μ(n+1), n = 0 … K.

    Kept as logarithms until the largest is known: with λ/μ = 10 and K = 2816, 10^2816 is no float.
    """
    log_rate, limit = math.log(rate_rps), len(rates)
    logs, log_p = [0.0], 0.0
    for rate in rates:
        log_p += log_rate - math.log(rate)
        logs.append(log_p)
    growth = log_rate - math.log(rates[-1])
    logs.extend(log_p + growth * extra for extra in range(1, QUEUE_PER_SLOT * limit + 1))
    peak = max(logs)
    weights = [math.exp(each - peak) for each in logs]
    total = math.fsum(weights)
    inside = math.fsum(n * weight for n, weight in enumerate(weights)) / total
    running = math.fsum(min(n, limit) * weight for n, weight in enumerate(weights)) / total
    return inside, running, math.fsum(weights[:-1]) / total
