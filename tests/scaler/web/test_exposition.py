"""The page of metrics in pieces: the same bytes as in one, and never two families at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from scaler.web.exposition import exposition

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"


def of_every_kind() -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    Gauge("replicas", 'what "is"', ["workload"], registry=registry).labels(workload='llm/"chat"\n').set(3)
    Counter("ticks", "counted", registry=registry).inc(2)
    Histogram("seconds", "taken", registry=registry, buckets=(0.1, 1.0)).observe(0.5)
    Gauge("nobody", "without a sample", ["workload"], registry=registry)
    return registry


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("", id="text"),
        pytest.param("text/plain;version=1.0.0;escaping=allow-utf-8", id="text with names in UTF-8"),
        pytest.param(OPENMETRICS, id="OpenMetrics, which Prometheus asks for"),
    ],
)
def test_the_pieces_are_the_page(accept: str) -> None:
    registry, (encode, _) = of_every_kind(), choose_encoder(accept)
    pieces = list(exposition(registry, encode))
    assert b"".join(pieces) == encode(registry)
    assert len(pieces) >= 4


def test_a_family_is_made_when_the_one_before_was_taken() -> None:
    made: list[str] = []

    class Families(Collector):
        def collect(self) -> Iterator[Metric]:
            for name in ("one", "two"):
                made.append(name)
                yield GaugeMetricFamily(name, "a family", value=1.0)

    pieces = exposition(Families(), choose_encoder("")[0])
    next(pieces)
    assert made == ["one"]
    next(pieces)
    assert made == ["one", "two"]
