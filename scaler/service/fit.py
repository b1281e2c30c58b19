"""α, β and γ of a replica from a measured sweep, by least squares without the outliers.

A sweep is a list of levels: so many clients that each send one request after another, all of one token shape. Each
level gives one equation, and each level with a single client a second one. With n requests running, I, O mean tokens:

    itl  = α + β · ((n-1)·(I+O-1)/O + 1) + γ · n·(I+O/2)      a token's iteration: its own, and the others' share
    ttft = overhead + α + (β+γ)·I                             a lone request finds the replica idle

The first is T(n) of `scaler.service.model` for the n-1 others plus what a decoding sequence costs itself; its own
prefill is never between two of its tokens. `overhead` is what the clients see and the scheduler does not: network,
HTTP, tokeniser.

Three token shapes are the least that tell β from γ. Fewer only tell α + b·n, and then the result says so: b is
carried by γ alone (b = γ·(I+O/2)), and a prompt's computation, if it costs anything, is part of `overhead_s`. Such a
fit holds for the shapes it was measured with, and no others.

Equations are weighted by 1/measured, so that residuals are shares of it. This module never measures, and does not fit
the image encoder: sweep with text, and take the encoder's times from lone requests with and without an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaler.service.least_squares import Equations, independent, solve
from scaler.service.model import ServiceModel, TokenShape

FEWEST_SHAPES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLevel:
    """What was measured with a number of clients that each send one request after another."""

    shape: TokenShape
    concurrency: float
    """Clients: requests in flight, waiting ones included."""
    rate_rps: float
    """Requests completed per second."""
    itl_s: float
    """Time between two tokens, median or mean, seconds."""
    ttft_s: float | None = None
    """Time to the first token as the clients saw it, seconds; used of levels with one client."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "rate_rps", "itl_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise ValueError(f"{name} of a level must be a finite number above 0, got {getattr(self, name)}")
        if self.ttft_s is not None and not (math.isfinite(self.ttft_s) and self.ttft_s > 0.0):
            raise ValueError(f"ttft_s of a level must be a finite number above 0, got {self.ttft_s}")
        if self.shape.output_tokens < 2.0:
            raise ValueError(f"a level needs 2 output tokens to have a gap, got {self.shape.output_tokens:g}")
        if self.shape.image_tokens:
            raise ValueError(f"sweep with text: a level has {self.shape.image_tokens:g} image tokens")

    @property
    def running(self) -> float:
        """Mean number of requests running, by Little's law: each holds its slot for O iterations.

        64 clients at 6.37 rps with 32 tokens 38.7 ms apart: 7.9 run (of 8 slots) and 56.1 wait.
        """
        return min(self.concurrency, max(1.0, self.rate_rps * self.shape.output_tokens * self.itl_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFit:
    """What a sweep tells of a replica."""

    alpha_s: float
    """Fixed time of an iteration, seconds."""
    beta_s: float
    """Per token computed, seconds; 0 where it is not identified."""
    gamma_s: float
    """Per token of context, seconds; carries b where β and γ are not told apart."""
    overhead_s: float | None
    """What a lone request's first token takes beyond the model, seconds, at least 0; None without such a level."""
    identified: tuple[str, ...]
    """("alpha_s", "beta_s", "gamma_s"), or ("alpha_s", "per_sequence_s"): only α + b·n for the shapes of the sweep."""
    per_sequence_s: float
    """b: what one more request running adds to an iteration, seconds, for the mean shape of the sweep."""
    rejected: tuple[int, ...]
    """Positions of the levels that were outliers."""
    residual_ratio: float
    """Root mean square residual of the levels that were kept, as a share of what was measured."""

    def service(self, *, max_num_seqs: int, kv_tokens: int, max_num_batched_tokens: int = 8192) -> ServiceModel:
        """The replica with its limits, which are settings and not measured."""
        return ServiceModel(
            alpha_s=self.alpha_s,
            beta_s=self.beta_s,
            gamma_s=self.gamma_s,
            max_num_seqs=max_num_seqs,
            kv_tokens=kv_tokens,
            max_num_batched_tokens=max_num_batched_tokens,
        )


def fit(levels: Sequence[SweepLevel]) -> ServiceFit:
    """α, β and γ of the replica that was swept; where the shapes tell no more, α and b.

    Raises:
        ValueError: fewer than two levels with different numbers of requests running.
    """
    running = [level.running for level in levels]
    if len(levels) < 2 or max(running) - min(running) < 0.5:
        told = ", ".join(f"{each:.2f}" for each in running) or "none"
        raise ValueError(f"a fit needs levels with different numbers of requests running, got {told}")
    full = _full_equations(levels)
    if len({level.shape for level in levels}) >= FEWEST_SHAPES and independent(full):
        unknowns, rejected = solve(full)
        alpha_s, beta_s, gamma_s = unknowns[:3]
        identified: tuple[str, ...] = ("alpha_s", "beta_s", "gamma_s")
    else:
        unknowns, rejected = solve(_plain_equations(levels))
        (alpha_s, gamma_s), beta_s = unknowns, 0.0
        identified = ("alpha_s", "per_sequence_s")
    return _result(levels, (float(alpha_s), float(beta_s), float(gamma_s)), rejected, identified)


def _result(
    levels: Sequence[SweepLevel],
    found: tuple[float, float, float],
    rejected: frozenset[int],
    identified: tuple[str, ...],
) -> ServiceFit:
    """The fit in words: what it leaves unexplained, and of whom."""
    alpha_s, beta_s, gamma_s = found
    kept = [level for index, level in enumerate(levels) if index not in rejected]
    misses = [1.0 - float(np.dot(_itl_terms(level), found)) / level.itl_s for level in kept]
    beyond_s = [
        level.ttft_s - alpha_s - (beta_s + gamma_s) * level.shape.input_tokens
        for level in kept
        if level.ttft_s is not None and level.concurrency <= 1.0
    ]
    per_sequence_s = [_itl_terms(level)[2] / level.running * gamma_s + _share(level.shape) * beta_s for level in kept]
    return ServiceFit(
        alpha_s=alpha_s,
        beta_s=beta_s,
        gamma_s=gamma_s,
        overhead_s=max(0.0, float(np.median(beyond_s))) if beyond_s else None,
        identified=identified,
        per_sequence_s=float(np.mean(per_sequence_s)),
        rejected=tuple(sorted(rejected)),
        residual_ratio=math.sqrt(sum(miss * miss for miss in misses) / len(misses)),
    )


def _share(shape: TokenShape) -> float:
    """Tokens that a running request computes per iteration, on average over its life."""
    return (shape.input_tokens + shape.output_tokens - 1.0) / shape.output_tokens


def _itl_terms(level: SweepLevel) -> tuple[float, float, float]:
    """Factors of α, β and γ in a level's ITL."""
    shape, running = level.shape, level.running
    context = running * (shape.input_tokens + shape.output_tokens / 2)
    return 1.0, (running - 1.0) * _share(shape) + 1.0, context


def _full_equations(levels: Sequence[SweepLevel]) -> Equations:
    """Unknowns α, β, γ, and the overhead if lone requests of different prompts tell it from them."""
    lone = [
        (index, level.shape.input_tokens, level.ttft_s)
        for index, level in enumerate(levels)
        if level.concurrency <= 1.0 and level.ttft_s is not None
    ]
    if len({prompt for _, prompt, _ in lone}) < 2:
        lone = []
    width = 4 if lone else 3
    rows = [[*_itl_terms(level), 0.0][:width] for level in levels]
    rows += [[1.0, prompt, prompt, 1.0] for _, prompt, _ in lone]
    return Equations(
        np.array(rows),
        np.array([level.itl_s for level in levels] + [ttft_s for _, _, ttft_s in lone]),
        (*range(len(levels)), *(index for index, _, _ in lone)),
    )


def _plain_equations(levels: Sequence[SweepLevel]) -> Equations:
    """Unknowns α and γ alone."""
    rows = [[1.0, _itl_terms(level)[2]] for level in levels]
    return Equations(np.array(rows), np.array([level.itl_s for level in levels]), tuple(range(len(levels))))
