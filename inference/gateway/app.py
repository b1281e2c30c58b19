"""The gateway as an ASGI application: its paths, and what runs beside the requests.

It wires the parts and owns their life. It decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inference.gateway.access_log import AccessLog, NoLog
from inference.gateway.admission import Admission, parse_tenants
from inference.gateway.answer_store import AnswerStore, LocalAnswers, RedisAnswers
from inference.gateway.backends import parse_backends
from inference.gateway.body import CHAT, COMPLETIONS, EMBEDDINGS
from inference.gateway.classify import DEFAULT
from inference.gateway.discovery import AskedShares, ResolvedName, Told, WatchedFile
from inference.gateway.fleet import Fleet
from inference.gateway.metrics import Metrics
from inference.gateway.proxy import Parts, Proxy
from inference.gateway.refusals import Refusal
from inference.gateway.replica import Replica
from inference.gateway.settings import Settings, redis_url, secret
from inference.gateway.upstream import Client

LOOK_EVERY_S = 0.25
"""How often pressure is looked at and slow clients are swept."""

Clock = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Running:
    """The parts of a gateway that is up."""

    proxy: Proxy
    parts: Parts
    files: tuple[WatchedFile[object], ...]
    names: tuple[ResolvedName, ...]
    shares: AskedShares | None = None
    ready: bool = False
    probing: set[str] = field(default_factory=set)


def application(settings: Settings, *, log: AccessLog | None = None, clock: Clock = time.monotonic) -> Starlette:
    """The ASGI application of one gateway. Raises `DocumentError` at its start where a secret cannot be read."""
    gateway = Gateway(settings, log=log or NoLog(), clock=clock)
    routes = [
        *(Route(path, gateway.infer, methods=["POST"]) for path in (CHAT, COMPLETIONS, EMBEDDINGS)),
        Route("/v1/models", gateway.models),
        Route("/healthz", gateway.alive),
        Route("/readyz", gateway.ready),
        Route("/metrics", gateway.metrics),
        Route("/backends", gateway.backends),
    ]
    return Starlette(routes=routes, lifespan=gateway.lifespan)


class _Endpoint:
    """An ASGI callable of its own class, so that the router passes requests on as they are: no Request, no Response,
    no second task for each of them."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __call__(self, scope: dict[str, object], receive: object, send: object) -> Awaitable[None]:
        return self._gateway.running.proxy(scope, receive, send)  # type: ignore[arg-type]


class Gateway:
    """The endpoints, and the life of what they use."""

    def __init__(self, settings: Settings, *, log: AccessLog, clock: Clock) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock
        self._running: Running | None = None
        self.infer = _Endpoint(self)

    @property
    def running(self) -> Running:
        """The parts, between start and end."""
        assert self._running is not None, "requests come after the start"
        return self._running

    # ── Endpoints ─────────────────────────────────────────────────────────────────────────────────────────────

    async def alive(self, request: Request) -> Response:
        """The process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether it knows what there is; a fleet that sleeps is known."""
        known = self.running.ready
        return JSONResponse({"status": "ready" if known else "no backends read"}, status_code=200 if known else 503)

    async def backends(self, request: Request) -> Response:
        """Every replica with what it holds."""
        return JSONResponse({"backends": self.running.parts.fleet.shown()})

    async def models(self, request: Request) -> Response:
        """The models that clients may name, those that sleep included."""
        parts = self.running.parts
        try:
            parts.admission.tenant_of(request.headers.get("authorization"))
        except Refusal as refusal:
            return Response(refusal.body(), status_code=refusal.status, media_type="application/json")
        targets = {rule.name: (rule.name, *rule.by_complexity.values()) for rule in self._settings.models}
        data = [
            {
                "id": name,
                "object": "model",
                "owned_by": "headstart",
                "ready": any(parts.fleet.is_up(each) for each in targets.get(name, (name,))),
            }
            for name in parts.fleet.models
        ]
        return JSONResponse({"object": "list", "data": data})

    async def metrics(self, request: Request) -> Response:
        """The page that Prometheus reads."""
        parts = self.running.parts
        metrics, fleet = parts.metrics, parts.fleet
        classes = [rule.name for rule in self._settings.classes] or [DEFAULT.name]
        metrics.variant_share.clear()  # of a variant that has left nothing is shown
        pooled = any(rule.pools for rule in self._settings.classes)
        for model in fleet.models:
            if pooled:
                # Each pool is scaled by its own classes: one that nobody asks for is no demand, and not an unknown one.
                metrics.begin(model, dict.fromkeys([*classes, DEFAULT.name]))
            elif not fleet.is_up(model):
                metrics.begin(model, classes)
            in_flight, slots = fleet.load(model)
            metrics.in_flight.labels(model).set(in_flight)
            metrics.slots.labels(model).set(slots)
            metrics.waiting.labels(model).set(fleet.waiting(model))
            metrics.level.labels(model).set(int(fleet.level(model)))
            for variant, share in fleet.shares(model).items():
                metrics.variant_share.labels(model, variant).set(share)
            for standing, count in fleet.standings(model).items():
                metrics.backends.labels(model, standing).set(count)
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # ── Life ──────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Start what runs beside the requests, and end it after the last one."""
        self._running = running = self._built()
        tasks = [asyncio.create_task(work) for work in self._background(running)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await running.parts.client.close()
            if running.parts.store is not None:
                await running.parts.store.close()

    def _built(self) -> Running:
        settings = self._settings
        metrics = Metrics(settings.slo)
        fleet = Fleet(settings, clock=self._clock)
        fleet.ejections = lambda model: metrics.ejections.labels(model).inc()
        key_file = settings.upstream.api_key_file
        parts = Parts(
            settings=settings,
            fleet=fleet,
            admission=Admission(everybody=settings.tenants_file is None, copies=settings.copies),
            store=self._store(metrics),
            client=Client(settings.upstream, api_key=secret(key_file) if key_file else None),
            metrics=metrics,
            log=self._log,
            clock=self._clock,
        )

        def told(source: str, outcome: str, detail: str) -> None:
            metrics.reloads.labels(source, outcome).inc()
            self._log.event("source", {"source": source, "outcome": outcome, "detail": detail})

        files: list[WatchedFile[object]] = []
        if settings.tenants_file is not None:
            parse = partial(_tenants, source=str(settings.tenants_file))
            use = parts.admission.replace
            files.append(WatchedFile(path=settings.tenants_file, parse=parse, use=use, told=told))  # type: ignore[arg-type]
        if settings.backends.file is not None:
            path = settings.backends.file
            files.append(
                WatchedFile(
                    path=path,
                    parse=partial(parse_backends, source=str(path)),
                    use=partial(fleet.replace, str(path)),
                    told=told,
                )
            )
        names = tuple(
            ResolvedName(rule=rule, use=partial(fleet.replace, f"{rule.name}:{rule.port}"), told=told)
            for rule in settings.backends.dns
        )
        shares = self._asked_shares(parts, told)
        return Running(proxy=Proxy(parts), parts=parts, files=tuple(files), names=names, shares=shares)

    def _asked_shares(self, parts: Parts, told: Told) -> AskedShares | None:
        source = self._settings.backends.shares
        if source is None:
            return None

        async def fetch(url: str) -> str:
            token = secret(source.token_file) if source.token_file is not None else None
            return await parts.client.fetch(url, token=token, timeout_s=source.timeout_s)

        return AskedShares(url=source.url, fetch=fetch, use=parts.fleet.share, told=told)

    def _store(self, metrics: Metrics) -> AnswerStore | None:
        rule = self._settings.cache
        if not rule.enabled:
            return None
        url = redis_url(rule)
        if url is None:
            return LocalAnswers(rule, clock=self._clock)

        def on_error(problem: str) -> None:
            metrics.cache_errors.inc()
            self._log.event("cache", {"problem": problem, "meanwhile": "answers are kept in this process"})

        return RedisAnswers(url, rule, clock=self._clock, on_error=on_error)

    def _background(self, running: Running) -> list[Coroutine[Any, Any, None]]:
        sources, health = self._settings.backends, self._settings.health
        fleet, proxy = running.parts.fleet, running.proxy

        async def look() -> None:
            fleet.look()
            proxy.sweep()

        async def files() -> None:
            good = [each.look() for each in running.files]
            running.ready = running.ready or (bool(good) and all(good))

        async def names() -> None:
            good = await asyncio.gather(*(each.look() for each in running.names))
            running.ready = running.ready or (not running.files and all(good))

        every = self._every
        works = [every(LOOK_EVERY_S, look), every(health.probe_every_s, self._probes(running))]
        if running.files:
            works.append(every(sources.reread_every_s, files))
        if running.shares is not None and sources.shares is not None:
            shares = running.shares

            async def ask() -> None:
                await shares.look()

            works.append(every(sources.shares.ask_every_s, ask))
        if running.names:
            works.append(every(sources.resolve_every_s, names))
        return works

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do it now and again after each pause, however long it took and whatever came of it."""
        while True:
            try:
                await work()
            except Exception as error:
                # Requests go on with what is known; a task that ended here would never be noticed.
                self._log.event("background", {"problem": f"{type(error).__name__}: {error}"})
            await asyncio.sleep(seconds)

    def _probes(self, running: Running) -> Callable[[], Awaitable[None]]:
        async def probe_all() -> None:
            wanted = [each for each in running.parts.fleet.replicas if each.serving]
            await asyncio.gather(*(self._probe(running, each) for each in wanted))

        return probe_all

    async def _probe(self, running: Running, replica: Replica) -> None:
        rule, parts = self._settings.health, running.parts
        well = await parts.client.probe(replica.backend.url, rule.path, timeout_s=rule.probe_timeout_s)
        if well:
            parts.fleet.probed(replica)
        elif well is False:
            parts.fleet.failed(replica, answered=False)


def _tenants(text: str, *, source: str) -> object:
    return parse_tenants(text, source=source)
