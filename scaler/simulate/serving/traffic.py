"""Requests from a trace: when each one comes and how long it is, bin by bin, the same ones for every policy.

Arrivals are Poisson at each bin's rate; tokens are log-normal with the profile's mean and spread, rounded and clipped.
Each bin of each class has a generator of its own, seeded by (seed, class, bin): a bin's requests do not depend on which
bins were drawn before, so two policies under one seed meet the very same requests. A bin whose rate is unknown brings
none. What a policy does never changes what arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from scaler.policy.capacity import ClassCapacity, RequestTokens
from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import Request
from scaler.simulate.serving.events import Timeline

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.scoring import IntArray

PART_OF_CACHE = 2
"""A prompt, or an output, is cut at this part of the KV cache, so that every request fits in a replica."""


class Traffic:
    """The requests of a window. `bin` makes new ones each time, equal ones for an equal bin."""

    def __init__(
        self,
        rates_rps: FloatArray,
        *,
        bin_s: float,
        classes: Sequence[ClassCapacity],
        service: ServiceModel,
        seed: int,
        timeline: Timeline | None = None,
    ) -> None:
        """Traffic at `rates_rps` requests a second in bins of `bin_s` seconds, NaN unknown, over all classes.

        Raises:
            ValueError: a class without tokens, or no class.
        """
        if not classes:
            raise ValueError("traffic needs at least one class")
        self.classes = tuple(classes)
        self.bin_s = bin_s
        self._tokens = tuple(_tokens_of(each) for each in classes)
        self._rates = rates_rps.tolist()
        self._most_tokens = max(1, service.kv_tokens // PART_OF_CACHE)
        self._seed = seed
        self._timeline = timeline or Timeline()

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return len(self._rates)

    @property
    def counts(self) -> IntArray:
        """Requests that arrive, shape (classes, bins); 0 where the rate is unknown."""
        counts = np.zeros((len(self.classes), self.bins), dtype=np.int64)
        for index in range(self.bins):
            for number in range(len(self.classes)):
                counts[number, index] = sum(count for count, _, _ in self._drawn(index, number)[1])
        return counts

    def bin(self, index: int) -> list[Request]:
        """The requests of a bin, in order of arrival."""
        requests = [request for number in range(len(self.classes)) for request in self._of_class(index, number)]
        requests.sort(key=attrgetter("arrived_s"))
        return requests

    def _drawn(self, index: int, number: int) -> tuple[np.random.Generator, list[tuple[int, float, float]]]:
        """A class's generator in a bin, and how many requests come in each stretch of it: (count, begin, end)."""
        generator = np.random.default_rng((self._seed, number, index))
        rate = self._rates[index]
        if not rate > 0.0:  # also unknown
            return generator, []
        shares, max_rps = [each.share for each in self._tokens], [each.max_rps for each in self.classes]
        edges = self._timeline.edges_s(index * self.bin_s, (index + 1) * self.bin_s)
        drawn = []
        for begin_s, end_s in pairwise(edges):
            share = self._timeline.shares(shares, max_rps, begin_s)[number]
            mean = rate * share * self._timeline.surge(begin_s) * (end_s - begin_s)
            drawn.append((int(generator.poisson(mean)), begin_s, end_s))
        return generator, drawn

    def _of_class(self, index: int, number: int) -> list[Request]:
        generator, drawn = self._drawn(index, number)
        name, tokens = self.classes[number].name, self._tokens[number]
        requests: list[Request] = []
        for count, begin_s, end_s in drawn:
            arrived = begin_s + (end_s - begin_s) * generator.random(count)
            arrived = np.minimum(arrived, np.nextafter(end_s, begin_s))  # rounding must not move one into the next
            images = _lengths(generator, tokens.image_tokens, tokens.image_cv, count) if tokens.image_tokens else None
            prompt = _lengths(generator, tokens.input_tokens - tokens.image_tokens, tokens.input_cv, count)
            output = _lengths(generator, tokens.output_tokens, tokens.output_cv, count)
            if images is None:
                images = np.zeros(count)
            images = np.minimum(np.rint(images * self._timeline.image_growth(begin_s)), self._most_tokens)
            prompt = np.clip(np.rint(prompt + images), np.maximum(1, images), self._most_tokens)
            output = np.clip(np.rint(output), 1, self._most_tokens)
            columns = (_whole(prompt), _whole(output), _whole(images))
            requests += [
                Request(request_class=name, arrived_s=at, input_tokens=i, output_tokens=o, image_tokens=m)
                for at, i, o, m in zip(arrived.tolist(), *columns, strict=True)
            ]
        return requests


def _whole(values: FloatArray) -> list[int]:
    whole: list[int] = values.astype(np.int64).tolist()
    return whole


def _tokens_of(each: ClassCapacity) -> RequestTokens:
    if each.tokens is None:
        raise ValueError(f"class {each.name!r} has no tokens: the profile does not say how long its requests are")
    return each.tokens


def _lengths(generator: np.random.Generator, mean: float, cv: float, count: int) -> FloatArray:
    """Log-normal lengths with that mean and coefficient of variation; always as many draws."""
    normal = generator.standard_normal(count)
    sigma = math.sqrt(math.log1p(cv * cv))
    lengths: FloatArray = mean * np.exp(sigma * normal - sigma * sigma / 2.0)
    return lengths
