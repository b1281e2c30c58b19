"""Demand to replicas: what one replica can serve, and how many a demand needs.

Rates of different request classes never add up before they are divided by what a replica serves of that class: an
HTML page can cost eleven times a screenshot. This module turns demand into load, measured in replicas that would be
exactly full, and load into whole replicas. It never looks at the present scale and never at the clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from forecaster.types import DEFAULT_CLASS
from scaler.service.model import LatencySlo, ServiceModel, TokenShape

MOST_REPLICAS = 1_000_000
"""No answer is larger, whatever the demand (1e300 requests a second included); bounds cut it further."""

EPSILON = 1e-9
"""Relative slack before rounding up: 10 * 1.1 = 11.000000000000002 needs 11 replicas, not 12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTokens:
    """Tokens of the requests of a class: means for the closed form, spread and share for the simulator's traffic."""

    input_tokens: float
    """Mean prompt tokens, those of images included."""
    output_tokens: float
    """Mean generated tokens."""
    image_tokens: float = 0.0
    """Mean tokens of images, part of the input; above 0 each request of the class has an image."""
    input_cv: float = 0.0
    """Coefficient of variation of the prompt without its images: standard deviation over mean."""
    output_cv: float = 0.0
    """The same of the output."""
    image_cv: float = 0.0
    """The same of the image tokens."""
    share: float = 1.0
    """Requests of this class among those of all classes, in proportion to the other classes' shares."""

    def __post_init__(self) -> None:
        for name in ("input_cv", "output_cv", "image_cv"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"tokens.{name} must be a finite number of at least 0, got {value}")
        if not (math.isfinite(self.share) and self.share > 0.0):
            raise ValueError(f"tokens.share must be a finite number above 0, got {self.share}")
        if not self.output_tokens >= 1.0:
            raise ValueError(f"tokens.output_tokens must be at least 1, got {self.output_tokens}")
        _ = self.shape  # which checks the means

    @property
    def shape(self) -> TokenShape:
        """The means, as the closed form takes them."""
        return TokenShape(
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, image_tokens=self.image_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPhases:
    """How long a new replica takes until it serves, phase by phase."""

    node_s: float = 0.0
    """Until a node with a free GPU has it, seconds."""
    image_s: float = 0.0
    """Pulling the container image, seconds."""
    weights_s: float = 0.0
    """Loading the weights onto the GPU, seconds."""
    warmup_s: float = 0.0
    """Compiling, capturing graphs, warming up until Ready, seconds."""
    jitter_cv: float = 0.0
    """How much each phase varies from pod to pod: standard deviation over mean."""

    def __post_init__(self) -> None:
        for name in ("node_s", "image_s", "weights_s", "warmup_s", "jitter_cv"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"start.{name} must be a finite number of at least 0, got {value}")

    @property
    def total_s(self) -> float:
        """Ordered → Ready on average, seconds."""
        return self.node_s + self.image_s + self.weights_s + self.warmup_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCapacity:
    """What one replica serves of one request class alone, within its SLO."""

    name: str
    """The class, as the metrics name it."""
    max_rps: float
    """Requests per second at which the SLO is just kept."""
    p95_s: float | None = None
    """95th percentile of end-to-end latency measured at that rate, seconds."""
    memory_gb: float | None = None
    """GPU memory in use at that rate, GB."""
    description: str = ""
    """What a request of this class is."""
    tokens: RequestTokens | None = None
    """How long its requests are; the request-level simulation needs it."""
    slo: LatencySlo | None = None
    """The latencies that `max_rps` keeps, and that each request is judged by in the request-level simulation."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_rps) and self.max_rps > 0.0):
            raise ValueError(f"max_rps of class {self.name!r} must be a finite number above 0, got {self.max_rps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityProfile:
    """What one replica of a served model can do, a rate for each class.

    A class that the profile does not know counts as its slowest one: the unknown may add capacity, never remove it.
    """

    name: str
    """What the profile is called."""
    classes: tuple[ClassCapacity, ...]
    """What one replica serves of each class alone."""
    gpus: int = 1
    """GPUs that one replica holds."""
    source: str = ""
    """Where the figures come from."""
    service: ServiceModel | None = None
    """How fast one replica iterates; the request-level simulation needs it."""
    start: StartPhases | None = None
    """How long a new replica takes until it serves, in the request-level simulation."""

    def __post_init__(self) -> None:
        names = [each.name for each in self.classes]
        if not names:
            raise ValueError(f"profile {self.name!r} needs at least one class")
        if len(set(names)) != len(names):
            raise ValueError(f"profile {self.name!r} names a class twice: {', '.join(sorted(names))}")
        if self.gpus < 1:
            raise ValueError(f"gpus of profile {self.name!r} must be at least 1, got {self.gpus}")

    def max_rps(self, request_class: str) -> float:
        """Requests per second of this class that fill one replica."""
        for each in self.classes:
            if each.name == request_class:
                return each.max_rps
        return min(each.max_rps for each in self.classes)

    def load(self, demand_rps: Mapping[str, float]) -> float:
        """Load of a demand by class, in exactly full replicas: Σ rate / max_rps, at least 0."""
        return sum(max(0.0, rate) / self.max_rps(name) for name, rate in demand_rps.items())

    def backlog_load(self, waiting: float, demand_rps: Mapping[str, float], *, within_s: float) -> float:
        """Extra load that serves `waiting` requests within `within_s` seconds, mixed as the demand is.

        Without any demand to tell the mix, waiting requests count as the slowest class.
        """
        rate = max(0.0, waiting) / max(1.0, within_s)
        total_rps = sum(max(0.0, each) for each in demand_rps.values())
        if total_rps <= 0.0:
            return rate / min(each.max_rps for each in self.classes)
        return rate * self.load(demand_rps) / total_rps


def single_rate(name: str, max_rps: float) -> CapacityProfile:
    """The simplest profile: every request costs the same."""
    return CapacityProfile(name=name, classes=(ClassCapacity(name=DEFAULT_CLASS, max_rps=max_rps),))


def replicas_for(load: float, *, utilisation: float = 1.0) -> int:
    """Whole replicas that carry `load` at no more than `utilisation` each.

    2.857 → 3; 11.000000000000002 → 11; 0 → 0; infinite or NaN → `MOST_REPLICAS`, which the bounds then cut:
    a load that cannot be told is never small.
    """
    exact = load / utilisation
    if not exact < MOST_REPLICAS:
        return MOST_REPLICAS
    return max(0, math.ceil(exact - EPSILON * max(1.0, exact)))
