"""One replica at run time: what its owner says of it, what it holds now, how it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inference.gateway.backends import Backend, BackendState
from inference.gateway.health import NEW, Health, Standing, may_get
from inference.gateway.routing import key_of


class Replica:
    """The mutable record of one backend; it outlives its line in the file until its last request is over."""

    __slots__ = ("backend", "health", "in_flight", "removed", "seed", "share", "size", "slots", "variant")

    def __init__(self, backend: Backend, *, slots_per_capacity: int, copies: int) -> None:
        self.health: Health = NEW
        self.in_flight = 0
        self.removed = False
        self.seed = key_of(backend.url)
        self.become(backend, slots_per_capacity=slots_per_capacity, copies=copies)

    def become(self, backend: Backend, *, slots_per_capacity: int, copies: int) -> None:
        """Its owner says something new of it."""
        if self.removed:
            # The address was away and is back: another process, of which nothing is known.
            self.health, self.removed = NEW, False
        self.backend = backend
        self.variant = backend.served_model
        self.size = backend.capacity * backend.weight
        self.share = self.size
        self.slots = max(1, math.ceil(slots_per_capacity * backend.capacity / copies))

    @property
    def serving(self) -> bool:
        """Whether its owner lets it have new requests."""
        return not self.removed and self.backend.state is BackendState.READY

    @property
    def usable(self) -> bool:
        """Whether it may be given one more request, slots aside."""
        return self.serving and may_get(self.health, in_flight=self.in_flight)

    def shown(self) -> Mapping[str, Any]:
        """Its line of GET /backends."""
        return {
            "url": self.backend.url,
            "model": self.backend.model,
            "serves": self.variant,
            "pool": self.backend.pool,
            "weight": self.backend.weight,
            "share": self.share,
            "capacity": self.backend.capacity,
            "state": "removed" if self.removed else self.backend.state.value,
            "in_flight": self.in_flight,
            "slots": self.slots,
            "healthy": self.health.standing is Standing.HEALTHY,
            "standing": self.health.standing.value,
        }
