"""The inference paths: one request from its first byte to the record of its end.

The order is fixed: who asks, within which limits, what, of which class; then the cache, degradation, a slot, the
replica. What each step decides stands in the rule's own file. It never sends a request twice after its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from inference.gateway import degradation
from inference.gateway.access_log import AccessLog
from inference.gateway.admission import Admission, Priority
from inference.gateway.answer_store import AnswerStore
from inference.gateway.answers import NEVER, REFRESH, answer_key, may_keep
from inference.gateway.body import Body, parse_body
from inference.gateway.classify import classify, complexity
from inference.gateway.degradation import Level
from inference.gateway.exchange import Exchange, Headers, Outcome
from inference.gateway.fleet import Fleet
from inference.gateway.forwarding import Forwarder
from inference.gateway.metrics import Metrics
from inference.gateway.receiving import ClientGone, linger, receive_body
from inference.gateway.refusals import Reason, Refusal
from inference.gateway.settings import ModelRule, Settings
from inference.gateway.upstream import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the inference paths work with."""

    settings: Settings
    fleet: Fleet
    admission: Admission
    store: AnswerStore | None
    client: Client
    metrics: Metrics
    log: AccessLog
    clock: Callable[[], float]


class Proxy:
    """The ASGI endpoint of the inference paths."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._fleet = parts.fleet
        self._metrics = parts.metrics
        self._clock = parts.clock
        self._rules = {rule.name: rule for rule in parts.settings.models}
        self._exchanges: set[Exchange] = set()
        self._forwarder = Forwarder(
            settings=parts.settings, fleet=parts.fleet, client=parts.client, metrics=parts.metrics, clock=parts.clock
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope["headers"], now_s=self._clock())
        self._exchanges.add(exchange)
        try:
            await self._admitted(exchange, scope["path"], receive, send)
        except asyncio.CancelledError:
            if exchange.abandoned_as is None or exchange.task is None:
                raise
            exchange.task.uncancel()
            exchange.outcome = exchange.abandoned_as
        finally:
            self._exchanges.discard(exchange)
            self._record(exchange)

    def sweep(self) -> None:
        """Cut off the clients that take nothing; called by a clock."""
        limit_s = self._clock() - self._settings.limits.write_timeout_s
        for exchange in tuple(self._exchanges):
            if exchange.sending_since_s is not None and exchange.sending_since_s < limit_s:
                exchange.abandon(Outcome.CLIENT_SLOW)

    # ── In ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _admitted(self, exchange: Exchange, path: str, receive: Receive, send: Send) -> None:
        admission = self._parts.admission
        try:
            exchange.tenant = admission.tenant_of(exchange.header(b"authorization"))
            admission.admit(exchange.tenant, now_s=self._clock())
        except Refusal as refusal:
            await self._refuse(exchange, refusal, send, receive)
            return
        try:
            await self._received(exchange, path, receive, send)
        finally:
            admission.leave(exchange.tenant)

    async def _received(self, exchange: Exchange, path: str, receive: Receive, send: Send) -> None:
        limits = self._settings.limits
        try:
            raw = await receive_body(receive, limits, announced=exchange.header(b"content-length"))
        except Refusal as refusal:
            await self._refuse(exchange, refusal, send, receive)
            return
        except ClientGone:
            exchange.outcome = Outcome.CLIENT_LEFT
            return
        exchange.began_s = self._clock()
        watch = asyncio.create_task(_watch(receive, exchange))
        try:
            exchange.body = parse_body(path, raw)
            await self._serve(exchange, exchange.body, send)
        except Refusal as refusal:
            await self._refuse(exchange, refusal, send)
        finally:
            watch.cancel()

    async def _serve(self, exchange: Exchange, body: Body, send: Send) -> None:
        rule = self._classified(exchange, body)
        key = self._cache_key(exchange, body)
        if await self._from_cache(exchange, body, key, send):
            return
        self._count_arrival(exchange, body)
        changes = self._degraded(exchange, body, rule)
        kept = await self._forwarder.forward(exchange, body, changes, send)
        if key is not None and kept is not None and not exchange.changes and self._parts.store is not None:
            await self._parts.store.put(key, kept)

    def _classified(self, exchange: Exchange, body: Body) -> ModelRule | None:
        rule = self._rules.get(body.model)
        model = body.model
        if rule is not None and rule.by_complexity:
            model = rule.by_complexity.get(complexity(body, self._settings.complexity), model)
            rule = self._rules.get(model)
        if not self._fleet.knows(model):
            known = ", ".join(self._fleet.models) or "none"
            raise Refusal(Reason.UNKNOWN_MODEL, f"there is no such model; known: {known}")
        header = exchange.header(b"x-headstart-class")
        exchange.request_class = classify(body, self._settings.classes, header=header)
        exchange.model = exchange.variant = model
        exchange.level = self._fleet.level(model)
        return rule

    def _count_arrival(self, exchange: Exchange, body: Body) -> None:
        labels = (exchange.model, exchange.request_class.name)
        self._metrics.requests.labels(*labels, exchange.tenant.priority.value).inc()
        self._metrics.images.labels(*labels).inc(len(body.images))

    # ── The cache ─────────────────────────────────────────────────────────────────────────────────────────────

    def _cache_key(self, exchange: Exchange, body: Body) -> str | None:
        """Under which key this answer is looked up and kept; None: it is not."""
        if self._parts.store is None or not may_keep(body, exchange.header(b"x-headstart-cache")):
            return None
        return answer_key(body, tenant=exchange.tenant.name, model=exchange.model)

    async def _from_cache(self, exchange: Exchange, body: Body, key: str | None, send: Send) -> bool:
        store = self._parts.store
        if store is None:
            return False
        word = exchange.header(b"x-headstart-cache")
        look_up, hit = key, "hit"
        if key is None and self._prefers_cache(exchange) and word != NEVER and may_keep(body, "allow"):
            # Under overload an answer at temperature 0 to the same question is better than none.
            look_up, hit = answer_key(body, tenant=exchange.tenant.name, model=exchange.model, greedy=True), "preferred"
        if look_up is None or word == REFRESH:
            exchange.cache = "refresh" if look_up is not None else "bypass"
            self._metrics.cache.labels(exchange.model, exchange.cache).inc()
            return False
        answer = await store.get(look_up)
        exchange.cache = hit if answer is not None else "miss"
        self._metrics.cache.labels(exchange.model, exchange.cache).inc()
        if answer is None:
            return False
        exchange.outcome = Outcome.CACHED
        headers: Headers = [(b"content-type", answer.content_type.encode())]
        await exchange.start(200, [*headers, (b"content-length", str(len(answer.body)).encode())], send)
        await exchange.write(answer.body, send, more=False, now_s=self._clock())
        return True

    def _prefers_cache(self, exchange: Exchange) -> bool:
        return exchange.level >= Level.SMALLER and exchange.tenant.priority is not Priority.VIP

    # ── Degradation ───────────────────────────────────────────────────────────────────────────────────────────

    def _degraded(self, exchange: Exchange, body: Body, rule: ModelRule | None) -> dict[str, object]:
        """What is changed in the body; also which model answers. Raises `Refusal` (503) where it is shed."""
        if exchange.tenant.priority is Priority.VIP or exchange.level is Level.FULL:
            return {}
        if exchange.level is Level.SHED:
            message = f"{exchange.model} is overloaded and takes VIP requests only"
            raise Refusal(Reason.SHED, message, retry_after_s=self._settings.degradation.fall_after_s)
        changes = degradation.changes(body, exchange.level, self._settings.degradation)
        told = sorted("smaller-images" if name == "mm_processor_kwargs" else "shorter-output" for name in changes)
        if (
            exchange.level >= Level.SMALLER
            and rule is not None
            and rule.fallback
            and self._fleet.has_room(rule.fallback)
        ):
            exchange.variant = rule.fallback
            told.append("smaller-model")
        exchange.changes = tuple(told)
        for change in told:
            self._metrics.degraded.labels(exchange.model, change).inc()
        return changes

    # ── Out ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _refuse(self, exchange: Exchange, refusal: Refusal, send: Send, unread: Receive | None = None) -> None:
        """Answer with an error. `unread` where the client may still be sending."""
        exchange.outcome, exchange.reason = Outcome.REFUSED, refusal.reason.value
        self._metrics.rejected.labels(refusal.reason.value, exchange.tenant.name).inc()
        body = refusal.body()
        headers: Headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        if unread is not None:
            headers.append((b"connection", b"close"))
        await exchange.start(refusal.status, headers, send)
        await exchange.write(body, send, more=unread is not None, now_s=self._clock())
        if unread is not None:
            await linger(unread)
            await exchange.write(b"", send, more=False, now_s=self._clock())

    def _record(self, exchange: Exchange) -> None:
        now_s = self._clock()
        metrics = self._metrics
        labels = (exchange.model or "none", exchange.request_class.name)
        metrics.responses.labels(*labels, str(exchange.status), exchange.outcome.value).inc()
        if exchange.outcome is Outcome.SERVED and exchange.status == 200:
            metrics.seconds.labels(*labels).observe(now_s - exchange.began_s)
            metrics.queue_seconds.labels(*labels).observe(exchange.queued_s)
        if exchange.first_byte_s is not None:
            metrics.first_byte_seconds.labels(*labels).observe(exchange.first_byte_s)
        if exchange.usage is not None:
            metrics.prompt_tokens.labels(*labels).inc(exchange.usage.prompt_tokens)
            metrics.cached_tokens.labels(*labels).inc(exchange.usage.cached_tokens)
            metrics.output_tokens.labels(*labels).inc(exchange.usage.output_tokens)
        if self._settings.access_log:
            self._parts.log.event("request", exchange.facts(now_s=now_s))


async def _watch(receive: Receive, exchange: Exchange) -> None:
    """Give the request up once its client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if exchange.outcome is Outcome.STOPPED:
        exchange.abandon(Outcome.CLIENT_LEFT)
