"""From a request that may have a replica to the end of its answer: a slot, tries before the first byte, passing on.

It never sends a request anywhere after the first byte of an answer has gone to the client.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import aiohttp
from starlette.types import Send

from inference.gateway.answer_store import Answer
from inference.gateway.body import Body, changed
from inference.gateway.exchange import Exchange, Headers, Outcome
from inference.gateway.fleet import Ask, Fleet, without
from inference.gateway.metrics import Metrics
from inference.gateway.refusals import Reason, Refusal
from inference.gateway.replica import Replica
from inference.gateway.routing import affinity_key
from inference.gateway.settings import Settings
from inference.gateway.streaming import EventStream, WholeAnswer
from inference.gateway.upstream import FAILURES, Client, Failure, UpstreamError, translated

_PASSED_ON = (b"traceparent", b"tracestate", b"accept")
"""Headers of the client that a replica gets to see. Its key is not among them."""

_RETRIED_STATUS = frozenset({500, 502, 503, 504})
"""A vLLM that shuts down answers 500 to anything new; the others are a proxy's before it."""

_CUT_OFF = b'data: {"error":{"message":"the replica failed","type":"server_error","code":"upstream_failed"}}\n\n'


class Forwarder:
    """The way to the replicas and back."""

    def __init__(
        self, *, settings: Settings, fleet: Fleet, client: Client, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._client = client
        self._metrics = metrics
        self._clock = clock
        self._spread = random.Random()
        self._trusted = settings.degradation.max_image_pixels is not None

    async def forward(self, exchange: Exchange, body: Body, changes: dict[str, object], send: Send) -> Answer | None:
        """Find a replica and pass its answer on; what could be kept of it.

        Raises `Refusal` where no replica answered, nothing having been sent.
        """
        ask = self._ask(exchange, body)
        tries_left = self._settings.upstream.retries
        while True:
            began_s = self._clock()
            replica = await self._fleet.take(ask)
            taken_s = self._clock()
            exchange.queued_s += taken_s - began_s
            exchange.replica, exchange.variant = replica, replica.variant
            self._count_spill(exchange, replica)
            try:
                ask = without(ask, replica)
                may_retry = self._fleet.could_serve(ask)
                return await self._attempt(exchange, body, changes, send, may_retry=may_retry and tries_left > 0)
            except UpstreamError as error:
                if exchange.started:
                    await self._cut_off(exchange, send)
                    return None
                tries_left -= error.failure is not Failure.REFUSED
                if tries_left < 0 or not may_retry:
                    silent = error.failure is Failure.SILENT
                    reason = Reason.UPSTREAM_SILENT if silent else Reason.UPSTREAM_FAILED
                    raise Refusal(reason, f"no replica answered ({error.failure})", retry_after_s=1.0) from error
                self._metrics.retries.labels(exchange.model).inc()
            finally:
                self._fleet.served(replica, seconds=self._clock() - taken_s)
                self._fleet.give_back(replica)

    def _count_spill(self, exchange: Exchange, replica: Replica) -> None:
        """Note that the first pool of the request's class had no slot for it."""
        rule = exchange.request_class
        if rule.pools and replica.backend.pool != rule.pools[0]:
            self._metrics.spilled.labels(exchange.model, rule.name, replica.backend.pool).inc()

    def _ask(self, exchange: Exchange, body: Body) -> Ask:
        deadline_s = self._settings.queue.deadline_s
        given = exchange.header(b"x-headstart-deadline-s")
        with contextlib.suppress(ValueError):
            if given is not None:
                deadline_s = max(0.001, min(deadline_s, float(given)))
        return Ask(
            model=exchange.variant,
            pools=exchange.request_class.pools,
            priority=exchange.tenant.priority,
            key=affinity_key(body, self._settings.routing),
            spread=self._spread.getrandbits(64),
            deadline_s=deadline_s,
        )

    async def _attempt(
        self, exchange: Exchange, body: Body, changes: dict[str, object], send: Send, *, may_retry: bool
    ) -> Answer | None:
        replica = exchange.replica
        assert replica is not None
        try:
            response = await self._client.ask(
                replica.backend.url,
                body.path,
                _prepared(body, changes, replica, trusted=self._trusted),
                _headers(exchange),
            )
        except UpstreamError as error:
            self._fleet.failed(replica, answered=False)
            raise error from error.__cause__
        try:
            if response.status in _RETRIED_STATUS:
                self._fleet.failed(replica, answered=True)
                if may_retry:
                    raise UpstreamError(Failure.BROKE_OFF, f"status {response.status}")
            return await self._pass_on(exchange, body, replica, response, send)
        except FAILURES as error:
            self._fleet.failed(replica, answered=False)
            raise translated(error) from error
        finally:
            # Read to its end the connection is kept; else it is closed, which is how vLLM hears that nobody listens.
            response.close()

    async def _pass_on(
        self, exchange: Exchange, body: Body, replica: Replica, response: aiohttp.ClientResponse, send: Send
    ) -> Answer | None:
        content_type = response.headers.get("content-type", "application/json")
        events = content_type.startswith("text/event-stream")
        reader = EventStream(strip=not body.wants_usage) if events else WholeAnswer()
        read = response.content.readany
        # Before the first byte is sent everything can still be tried elsewhere: so wait for it.
        chunk = reader.feed(await read())
        taken_s = self._clock() - exchange.began_s
        # An answer in one piece has no first token: it is judged as a whole.
        late = taken_s > max(self._settings.slo.ttft_s if events else self._settings.slo.e2e_s)
        exchange.first_byte_s = taken_s if events else None
        if response.status < 500:
            self._fleet.answered(replica, late=late)
        await exchange.start(response.status, _passed_headers(response, content_type, events), send)
        kept: list[bytes] | None = [] if response.status == 200 else None
        room = self._settings.cache.max_answer_bytes if exchange.cache in ("miss", "refresh") else 0
        while True:
            if chunk:
                exchange.sent_bytes += len(chunk)
                room -= len(chunk)
                if kept is not None and room >= 0:
                    kept.append(chunk)
                exchange.sending_since_s = self._clock()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                exchange.sending_since_s = None
                if exchange.sent_bytes > self._settings.limits.max_answer_bytes:
                    raise UpstreamError(Failure.BROKE_OFF, "the answer is too long")
            elif response.content.at_eof():
                break
            chunk = reader.feed(await read())
        rest = reader.end()
        exchange.usage = reader.usage
        exchange.outcome = Outcome.SERVED
        await exchange.write(rest, send, more=False, now_s=self._clock())
        if kept is None or room < len(rest) or not reader.complete:
            return None
        return Answer(content_type=content_type, body=b"".join([*kept, rest]))

    async def _cut_off(self, exchange: Exchange, send: Send) -> None:
        """Half an answer is out: tell it in the stream, and leave the answer unfinished so that nobody takes it for
        whole. The server then closes the connection."""
        exchange.outcome = Outcome.CUT_OFF
        if exchange.body is not None and exchange.body.stream:
            await exchange.write(_CUT_OFF, send, more=True, now_s=self._clock())


def _prepared(body: Body, changes: dict[str, object], replica: Replica, *, trusted: bool) -> bytes:
    """The bytes for this replica: its own name of the model, and a usage at the end of a stream.

    `trusted`: it obeys any size of pictures that a request names, so only the gateway may name one.
    """
    wanted: dict[str, object] = {}
    if trusted and "mm_processor_kwargs" in body.fields:
        wanted["mm_processor_kwargs"] = None
    wanted |= changes
    if replica.variant != body.model:
        wanted["model"] = replica.variant
    if body.stream and not body.wants_usage:
        options = body.fields.get("stream_options")
        wanted["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return changed(body, wanted)


def _headers(exchange: Exchange) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-request-id": exchange.request_id}
    for name in _PASSED_ON:
        value = exchange.header(name)
        if value is not None:
            headers[name.decode()] = value
    return headers


def _passed_headers(response: aiohttp.ClientResponse, content_type: str, events: bool) -> Headers:
    headers: Headers = [(b"content-type", content_type.encode("latin-1"))]
    length = response.headers.get("content-length")
    if length is not None and not events:
        headers.append((b"content-length", length.encode("latin-1")))
    if events:
        headers.append((b"cache-control", b"no-cache"))
    return headers
