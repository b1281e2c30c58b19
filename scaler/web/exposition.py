"""`/metrics` written a family at a time, so that nobody holds the whole page: of 2,000 workloads it is 10 MB of text.

The encoders are the client library's own, which joins all lines of all families first: some 45 MB for that page. It
decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.registry import Collector

_END = b"# EOF\n"
"""What OpenMetrics wants once, behind the last family; the other format knows no end."""


@dataclass(frozen=True, slots=True)
class _Only:
    """A registry of one family."""

    family: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.family


def exposition(registry: Collector, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
    """The page that `encode` makes of `registry`, in pieces."""
    ends = False
    for family in registry.collect():
        piece = encode(_Only(family))
        ends = piece.endswith(_END)
        yield piece.removesuffix(_END)
    if ends:
        yield _END
