"""Gaps between the tokens of sequences, counted by bucket: cheap enough for each iteration of a simulated month.

Twenty-four buckets a decade, each a tenth wider than the one before, so that a quantile read from the counts is right
to ±5 %; and 10 ms, 100 ms and 1 s are edges, as they are in vLLM's own histogram, so that "over 100 ms" is a count and
no guess. Counts only grow; what a window saw is the difference of two copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

GROWTH = 10.0 ** (1 / 24)
SMALLEST_S = 1e-4
GAP_BUCKETS = 168
"""Seven decades, up to 1 000 s; the first bucket also holds what is shorter, the last what is longer."""
_PER_BUCKET = 1.0 / math.log(GROWTH)
_BUCKET_OF_ONE_SECOND = -math.log(SMALLEST_S) * _PER_BUCKET


def bucket_edge_s(bucket: int) -> float:
    """Upper edge of a bucket, seconds."""
    return SMALLEST_S * GROWTH ** (bucket + 1)


def _bucket(gap_s: float) -> int:
    return min(max(0, int(math.log(gap_s) * _PER_BUCKET + _BUCKET_OF_ONE_SECOND)), GAP_BUCKETS - 1)


def note_gap(counts: list[int], gap_s: float) -> None:
    """Count one gap."""
    counts[_bucket(gap_s)] += 1


def note_stretch(counts: list[int], sequences: int, iterations: int, each_s: float, growth_s: float) -> None:
    """Count the gaps of a stretch: iteration m = 1, 2 … takes each_s + m · growth_s, for each of its sequences."""
    first = _bucket(each_s + growth_s)
    if iterations == 1 or growth_s == 0.0:
        counts[first] += sequences * iterations
        return
    last = _bucket(each_s + growth_s * iterations)
    done = 0
    for bucket in range(first, last):
        until = min(max(int((bucket_edge_s(bucket) - each_s) / growth_s), done), iterations)
        counts[bucket] += sequences * (until - done)
        done = until
    counts[last] += sequences * (iterations - done)


def gap_quantile_s(counts: Sequence[int], level: float) -> float:
    """A quantile of the gaps, seconds, right to ±5 %; NaN without any.

    Args:
        counts: gaps by bucket.
        level: such as 0.95.
    """
    rank, seen = level * sum(counts), 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return bucket_edge_s(bucket) / math.sqrt(GROWTH)
    return math.nan
