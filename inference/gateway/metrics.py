"""What the gateway tells Prometheus. Names are a contract: the scaler reads arrivals and tokens per class from them.

`headstart_gateway_requests_total` counts demand: requests that need a replica, whether they got one, waited, were shed
or met a model that sleeps. Answers from the cache and requests above a tenant's limit need none and are counted
elsewhere: more replicas would not serve them better.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inference.gateway.admission import Priority
from inference.gateway.settings import Slo

_SPREAD = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Edges as multiples of the SLO: dense around it, where attainment is decided."""


def edges(objectives_s: Iterable[float]) -> tuple[float, ...]:
    """Histogram edges on which every objective is one exactly."""
    objectives = sorted(set(objectives_s))
    # Six significant digits: 3 · 1.2 is 3.5999999999999996, which no query would name.
    spread = {float(f"{objectives[0] * factor:.6g}") for factor in _SPREAD if factor <= 1.0}
    spread |= {float(f"{objectives[-1] * factor:.6g}") for factor in _SPREAD if factor >= 1.0}
    between = {float(f"{(low * high) ** 0.5:.6g}") for low, high in pairwise(objectives)}
    return tuple(sorted(spread | between | set(objectives)))


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self, slo: Slo) -> None:
        self.registry = CollectorRegistry()
        of_class = ("model", "request_class", "priority")
        self.requests = self._counter("requests", "Arrivals that need a replica.", of_class)
        self.responses = self._counter(
            "responses",
            "Requests that are over, by how they ended.",
            ("model", "request_class", "status", "outcome"),
        )
        self.rejected = self._counter("rejected", "Requests that were refused, by reason.", ("reason", "tenant"))
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Prompt tokens, images' included.", ("model", "request_class")
        )
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens that a replica had cached.", ("model", "request_class")
        )
        self.output_tokens = self._counter("output_tokens", "Output tokens.", ("model", "request_class"))
        self.images = self._counter("images", "Images in requests that need a replica.", ("model", "request_class"))
        self.cache = self._counter("cache", "Look-ups of answers, by outcome.", ("model", "outcome"))
        self.cache_errors = self._counter("cache_errors", "Calls to Redis that failed.", ())
        self.retries = self._counter("retries", "Requests tried on a further replica.", ("model",))
        self.spilled = self._counter(
            "spilled",
            "Requests that went to a pool behind the first of their class.",
            ("model", "request_class", "pool"),
        )
        self.ejections = self._counter("ejections", "Replicas taken out after failures.", ("model",))
        self.degraded = self._counter("degraded", "Answers that degradation changed, by how.", ("model", "change"))
        self.reloads = self._counter("reloads", "Reads of backends and tenants.", ("source", "outcome"))
        self.seconds = self._histogram("request_seconds", "Last byte in to last byte out.", slo.e2e_s)
        self.first_byte_seconds = self._histogram(
            "first_byte_seconds", "Last byte in to first byte out, of streamed answers.", slo.ttft_s
        )
        self.queue_seconds = self._histogram("queue_seconds", "Time spent in the gateway's line.", slo.ttft_s)
        self.in_flight = self._gauge("in_flight", "Requests at replicas.", ("model",))
        self.waiting = self._gauge("waiting", "Requests in the gateway's line.", ("model",))
        self.slots = self._gauge("slots", "Requests that the replicas may hold.", ("model",))
        self.backends = self._gauge("backends", "Replicas, by what they may get.", ("model", "standing"))
        self.variant_share = self._gauge(
            "variant_share", "Part of the model's traffic that the variant gets now.", ("model", "variant")
        )
        self.level = self._gauge("degradation_level", "0 full, 1 shorter, 2 smaller, 3 shed.", ("model",))

    def begin(self, model: str, classes: Iterable[str]) -> None:
        """Show demand as 0 before its first request, of a model that sleeps or whose classes have pools: a rate cannot
        see the one with which a series begins, and here that one is the reason to wake it."""
        for request_class in classes:
            for priority in Priority:
                self.requests.labels(model, request_class, priority.value)
            for counter in (self.prompt_tokens, self.output_tokens, self.images):
                counter.labels(model, request_class)

    def page(self) -> bytes:
        """The exposition, in the text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"headstart_gateway_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"headstart_gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, objectives_s: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"headstart_gateway_{name}",
            text,
            ("model", "request_class"),
            registry=self.registry,
            buckets=edges(objectives_s),
        )
