"""The replicas that one gateway knows, who holds a slot on them, who waits for one, and how much is taken back.

It joins the pure rules: routing, health, the line, degradation. It opens no connection and never sleeps; slots are
handed over in the moment in which they become free, so nobody can pass the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from inference.gateway.admission import Priority
from inference.gateway.backends import Backend
from inference.gateway.degradation import Degradation, Level, Pressure, step
from inference.gateway.health import Standing, after_failure, after_probe, after_success
from inference.gateway.lateness import Lateness
from inference.gateway.queueing import Line, Ticket, retry_after_s
from inference.gateway.refusals import Reason, Refusal
from inference.gateway.replica import Replica
from inference.gateway.routing import choose
from inference.gateway.settings import Settings
from inference.gateway.shares import Shares, worth_of

_SMOOTHING = 0.05
"""Weight of one more request in the mean service time: about the last twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request that wants a slot."""

    model: str
    pools: tuple[str, ...]
    """In order of preference; any if empty."""
    priority: Priority
    key: int | None
    spread: int
    deadline_s: float
    tried: frozenset[str] = frozenset()
    """URLs of replicas that failed it already."""


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter(Ticket):
    """A place in the line, and the slot that was handed to it."""

    ask: Ask
    replica: Replica | None = None


@dataclass(slots=True, kw_only=True)
class _Model:
    """What is kept for each model."""

    line: Line
    lateness: Lateness = field(default_factory=Lateness)
    degradation: Degradation = field(default_factory=Degradation)
    mean_service_s: float = 1.0
    replicas: list[Replica] = field(default_factory=list)


class Fleet:
    """All of it, for one event loop."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._models: dict[str, _Model] = {}
        self._replicas: dict[str, Replica] = {}
        self._by_source: dict[str, tuple[Backend, ...]] = {}
        self._shares: Shares = {}
        self.ejections: Callable[[str], object] = lambda model: None
        """Called with the model of each replica that is taken out."""
        for rule in settings.models:
            for name in (rule.name, rule.fallback, *rule.by_complexity.values()):
                if name is not None:
                    self._model(name)

    # ── What there is ─────────────────────────────────────────────────────────────────────────────────────────

    def replace(self, source: str, backends: Sequence[Backend]) -> None:
        """All the replicas that one source knows, instead of those that it knew before."""
        self._by_source[source] = tuple(backends)
        wanted = {backend.url: backend for each in self._by_source.values() for backend in each}
        sizes = {"slots_per_capacity": self._settings.routing.slots_per_capacity, "copies": self._settings.copies}
        for url, backend in wanted.items():
            if url in self._replicas:
                self._replicas[url].become(backend, **sizes)
            else:
                self._replicas[url] = Replica(backend, **sizes)
        for url, replica in self._replicas.items():
            replica.removed = url not in wanted
        self._forget_the_removed()
        self._weigh()
        for model in list(self._models):
            self._serve_line(model)

    def share(self, shares: Shares) -> None:
        """The traffic's shares by variant, for every model of which something is said; the others' weights count."""
        self._shares = shares
        self._weigh()
        for model in shares:
            self._serve_line(model)

    def shares(self, model: str) -> dict[str, float]:
        """What part of the traffic each variant of a model gets now, by its own name: 1 together, if there is any."""
        sums: dict[str, float] = {}
        for each in self._models[model].replicas:
            if each.usable:
                sums[each.variant] = sums.get(each.variant, 0.0) + each.share
        whole = sum(sums.values())
        return {variant: share / whole if whole else 0.0 for variant, share in sums.items()}

    def knows(self, model: str) -> bool:
        """Whether a model has or had a replica, or is named in the settings."""
        return model in self._models

    def is_up(self, model: str) -> bool:
        """Whether some replica of it may get requests, now or after the next success."""
        known = self._models.get(model)
        return known is not None and any(
            each.serving and each.share > 0 and each.health.standing is not Standing.EJECTED for each in known.replicas
        )

    def has_room(self, model: str) -> bool:
        """Whether one more request of it would get a slot or a place in the line."""
        known = self._models.get(model)
        if known is None or not self.is_up(model):
            return False
        has_slot = any(each.usable and each.share > 0 and each.in_flight < each.slots for each in known.replicas)
        return has_slot or len(known.line) < self._settings.queue.max_waiting

    def could_serve(self, ask: Ask) -> bool:
        """Whether some replica that the request has not tried may get it, now or once a slot is free."""
        known = self._models[ask.model]
        return any(
            each.usable and each.share > 0 and each.backend.url not in ask.tried
            for each in known.replicas
            if not ask.pools or each.backend.pool in ask.pools
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Every model known, by name."""
        return tuple(sorted(self._models))

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica known, those that were removed and still hold requests included."""
        return tuple(self._replicas.values())

    def shown(self) -> list[Any]:
        """What GET /backends tells."""
        return [replica.shown() for _, replica in sorted(self._replicas.items())]

    # ── Slots ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, ask: Ask) -> Replica:
        """A slot, at once or after waiting; `give_back` must follow. Raises `Refusal` (503)."""
        known = self._models[ask.model]
        if not self.is_up(ask.model):
            raise self._nobody(known, ask.model)
        if not known.line.first_is_ahead_of(ask.priority):
            replica = self._chosen(known, ask)
            if replica is not None:
                replica.in_flight += 1
                return replica
        return await self._wait(known, ask)

    def give_back(self, replica: Replica) -> None:
        """The request is over."""
        replica.in_flight -= 1
        if replica.removed:
            self._forget_the_removed()
        self._serve_line(replica.backend.model)

    async def _wait(self, known: _Model, ask: Ask) -> Replica:
        now_s = self._clock()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = Waiter(
            priority=ask.priority,
            since_s=now_s,
            until_s=now_s + ask.deadline_s,
            wake=lambda: None if turn.done() else turn.set_result(None),
            ask=ask,
        )
        if not known.line.join(waiter):
            raise self._full(known, Reason.QUEUE_FULL, "the line is full")
        # Those ahead may all want a pool that is busy while this one's is free.
        self._serve_line(ask.model)
        try:
            async with asyncio.timeout(ask.deadline_s):
                await turn
        except TimeoutError:
            # The slot may have come in the same round of the loop as the deadline: then it is taken.
            if waiter.replica is None:
                message = f"waited {ask.deadline_s:g} s for a free replica"
                raise self._full(known, Reason.WAITED_TOO_LONG, message) from None
        except asyncio.CancelledError:
            if waiter.replica is not None:
                self.give_back(waiter.replica)
            raise
        finally:
            known.line.leave(waiter)
        if waiter.replica is None:
            raise self._full(known, Reason.QUEUE_FULL, "the line is full, and a VIP request came")
        return waiter.replica

    def _serve_line(self, model: str) -> None:
        """Hand free slots to those who wait, in their order."""
        known = self._models.get(model)
        if known is None or not len(known.line):
            return
        hopeless: set[tuple[tuple[str, ...], frozenset[str]]] = set()
        for waiter in list(known.line):
            assert isinstance(waiter, Waiter)
            kind = (waiter.ask.pools, waiter.ask.tried)
            if kind in hopeless:
                continue
            replica = self._chosen(known, waiter.ask)
            if replica is None:
                # Whoever may use the same pools finds the same; others behind may use one that is free.
                hopeless.add(kind)
                continue
            replica.in_flight += 1
            waiter.replica = replica
            known.line.leave(waiter)
            waiter.wake()

    def _chosen(self, known: _Model, ask: Ask) -> Replica | None:
        usable = [each for each in known.replicas if each.usable and each.backend.url not in ask.tried]
        rule = self._settings.routing
        if not ask.pools:
            return choose(usable, key=ask.key, spread=ask.spread, rule=rule)
        for pool in ask.pools:
            members = [each for each in usable if each.backend.pool == pool]
            replica = choose(members, key=ask.key, spread=ask.spread, rule=rule)
            if replica is not None:
                return replica
        return None

    def _nobody(self, known: _Model, model: str) -> Refusal:
        wait_s = self._settings.queue.asleep_retry_after_s
        if any(each.serving for each in known.replicas):
            wait_s = min(wait_s, self._settings.health.ejected_s)
            return Refusal(Reason.NO_BACKEND, f"no replica of {model} is healthy now", retry_after_s=wait_s)
        return Refusal(Reason.ASLEEP, f"model {model} has no replica now; one is asked for", retry_after_s=wait_s)

    def _full(self, known: _Model, reason: Reason, message: str) -> Refusal:
        slots = sum(each.slots for each in known.replicas if each.serving)
        wait_s = retry_after_s(waiting=len(known.line), slots=slots, mean_service_s=known.mean_service_s)
        return Refusal(reason, message, retry_after_s=wait_s)

    # ── What is learnt from answers and probes ────────────────────────────────────────────────────────────────

    def answered(self, replica: Replica, *, late: bool) -> None:
        """A first byte came, in time or not."""
        was_on_trial = replica.health.standing is Standing.TRIAL
        replica.health = after_success(replica.health)
        known = self._models.get(replica.backend.model)
        if known is not None:
            known.lateness.add(late=late, now_s=self._clock())
        if was_on_trial:
            self._serve_line(replica.backend.model)

    def served(self, replica: Replica, *, seconds: float) -> None:
        """An answer is complete; how long it held its slot."""
        known = self._models.get(replica.backend.model)
        if known is not None:
            known.mean_service_s += _SMOOTHING * (seconds - known.mean_service_s)

    def failed(self, replica: Replica, *, answered: bool) -> None:
        """A request or probe failed; `answered` if by an answer of 5xx, which may be the request's own fault."""
        rule = self._settings.health
        may_eject = not answered or self._few_are_out(replica)
        before = replica.health.standing
        replica.health = after_failure(replica.health, rule, now_s=self._clock(), may_eject=may_eject)
        if replica.health.standing is Standing.EJECTED and before is not Standing.EJECTED:
            self.ejections(replica.backend.model)

    def probed(self, replica: Replica) -> None:
        """A probe succeeded."""
        replica.health = after_probe(replica.health, now_s=self._clock())
        self._serve_line(replica.backend.model)

    def _few_are_out(self, replica: Replica) -> bool:
        peers = [each for each in self._replicas.values() if each.backend.model == replica.backend.model]
        out = sum(1 for each in peers if each.health.standing is not Standing.HEALTHY and each is not replica)
        return (out + 1) / len(peers) <= self._settings.health.max_ejected_ratio if peers else False

    # ── Degradation ───────────────────────────────────────────────────────────────────────────────────────────

    def level(self, model: str) -> Level:
        """How much is taken back for this model now."""
        known = self._models.get(model)
        return Level.FULL if known is None else known.degradation.level

    def look(self) -> None:
        """One look at the pressure on each model; called by a clock."""
        rule, now_s = self._settings.degradation, self._clock()
        for model, known in self._models.items():
            known.degradation = step(known.degradation, self.pressure(model), rule, now_s=now_s)

    def pressure(self, model: str) -> Pressure:
        """What one model's replicas bear now."""
        known, now_s = self._models[model], self._clock()
        in_flight, slots = self.load(model)
        return Pressure(
            load_ratio=in_flight / slots if slots else 0.0,
            waiting_ratio=len(known.line) / self._settings.queue.max_waiting
            if self._settings.queue.max_waiting
            else 0.0,
            slow_ratio=known.lateness.share(now_s=now_s, at_least=self._settings.degradation.min_slow_samples),
        )

    def load(self, model: str) -> tuple[int, int]:
        """Requests in flight and slots of a model's serving replicas."""
        serving = [each for each in self._models[model].replicas if each.serving]
        return sum(each.in_flight for each in serving), sum(each.slots for each in serving)

    def waiting(self, model: str) -> int:
        """Requests in the model's line."""
        return len(self._models[model].line)

    def standings(self, model: str) -> dict[str, int]:
        """How many replicas of a model are healthy, ejected, on trial or draining."""
        counts = dict.fromkeys([*(each.value for each in Standing), "draining"], 0)
        for each in self._models[model].replicas:
            counts[each.health.standing.value if each.serving else "draining"] += 1
        return counts

    # ── Inside ────────────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            self._models[name] = _Model(line=Line(rule=self._settings.queue))
        return self._models[name]

    def _weigh(self) -> None:
        """Give every replica its part of its variant's share."""
        for model, known in self._models.items():
            sizes: dict[str, float] = {}
            for each in known.replicas:
                if each.serving:
                    sizes[each.variant] = sizes.get(each.variant, 0.0) + each.size
            worth = worth_of(sizes, self._shares.get(model))
            for each in known.replicas:
                each.share = each.size * worth.get(each.variant, 0.0)

    def _forget_the_removed(self) -> None:
        gone = [url for url, replica in self._replicas.items() if replica.removed and replica.in_flight == 0]
        for url in gone:
            del self._replicas[url]
        for known in self._models.values():
            known.replicas = []
        for replica in self._replicas.values():
            self._model(replica.backend.model).replicas.append(replica)


def without(ask: Ask, replica: Replica) -> Ask:
    """The same request, after that replica failed it."""
    return replace(ask, tried=ask.tried | {replica.backend.url})
