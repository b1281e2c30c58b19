"""The daemon's HTTP interface: metrics, health, and what it knows of each workload as JSON. What is here only reads.

/metrics                                         for Prometheus
/healthz                                         200 while ticks finish, else 503 with the reason and since when
/readyz                                          200 once a first tick has finished
/api/v1/shares                                   for gateways: each variant's part of a model's traffic
/api/v1/workloads                                every workload with its state
/api/v1/workloads/{namespace}/{name}             one, with its readings
/api/v1/workloads/{namespace}/{name}/explain     the last decision, or with ?at=TIME the one in force then
/api/v1/workloads/{namespace}/{name}/forecast    the forecast in force, and how it came about

People's orders (pause, override, mode, resume) are in `scaler.web.control`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scaler.adapters.accounts import Account
from scaler.adapters.board import Board, View
from scaler.adapters.control_desk import ControlDesk
from scaler.adapters.documents import (
    decision_document,
    forecast_document,
    shares_document,
    workload_document,
    workloads_document,
)
from scaler.adapters.watchdog import Health
from scaler.ports import DecisionRecord, Outcome
from scaler.web.access import AccessGuard
from scaler.web.control import control_routes
from scaler.web.crowds import RunningRequests
from scaler.web.exposition import exposition


class Records(Protocol):
    """The journal, as far as the API reads it."""

    def find(self, workload: str, *, at: datetime) -> tuple[DecisionRecord, Outcome | None] | None:
        """The decision in force at `at`, and what became of it; None if the journal does not reach there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the interface shows."""

    board: Board
    registry: CollectorRegistry
    health: Callable[[], Health]
    ready: Callable[[], bool]
    records: Records
    accounts: Callable[[str], Mapping[str, Account]] = lambda _: {}
    """How a workload's last forecasts came about, by request class."""
    desk: ControlDesk | None = None
    """Where orders are taken; None where nobody can order anything."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def create_app(sources: Sources, *, hosts: Iterable[str] = (), token_file: Path | None = None) -> Starlette:
    """The ASGI application; see the module's docstring for its routes."""
    pages = _Pages(sources)
    workload = "/api/v1/workloads/{namespace}/{name}"
    return Starlette(
        routes=[
            Route("/metrics", pages.metrics),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/api/v1/shares", pages.shares),
            Route("/api/v1/workloads", pages.workloads),
            Route(workload, pages.workload),
            Route(f"{workload}/explain", pages.explain),
            Route(f"{workload}/forecast", pages.forecast),
            *([] if sources.desk is None else control_routes(sources.desk, sources.clock)),
        ],
        middleware=[
            Middleware(AccessGuard, hosts=tuple(hosts), token_file=token_file),
            Middleware(RunningRequests),  # behind the guard: who is refused takes no place
        ],
        exception_handlers={HTTPException: _as_json},
    )


class _Pages:
    """One method a route."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    async def metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        page = exposition(self._sources.registry, encode)
        return StreamingResponse(page, headers={"Content-Type": content_type})

    async def healthz(self, request: Request) -> Response:
        health = self._sources.health()
        return JSONResponse(
            {
                "status": "ok" if health.alive else "stalled",
                "reason": health.reason,
                "since": health.since.isoformat(),
            },
            status_code=200 if health.alive else 503,
        )

    async def readyz(self, request: Request) -> Response:
        ready = self._sources.ready()
        status = "ready" if ready else "the first tick has not finished"
        return JSONResponse({"status": status}, status_code=200 if ready else 503)

    async def workloads(self, request: Request) -> Response:
        board = self._sources.board
        return JSONResponse(await run_in_threadpool(workloads_document, board.view(), board.settings()))

    async def shares(self, request: Request) -> Response:
        view = self._sources.board.view()
        if view is None:
            raise HTTPException(503, "the first tick has not finished")
        return JSONResponse(shares_document(view))

    async def workload(self, request: Request) -> Response:
        view, record = self._found(request)
        return JSONResponse(workload_document(view, record))

    async def explain(self, request: Request) -> Response:
        at = _moment(request.query_params.get("at"))
        if at is None:
            view, record = self._found(request)
            return JSONResponse(decision_document(record, view.report.outcomes.get(record.policy.workload)))
        workload = _workload(request)
        found = await run_in_threadpool(lambda: self._sources.records.find(workload, at=at))
        if found is None:
            raise HTTPException(404, f"the journal holds no decision on {workload} at {at.isoformat()}")
        return JSONResponse(decision_document(*found))

    async def forecast(self, request: Request) -> Response:
        view, record = self._found(request)
        name = record.policy.workload
        accounts = await run_in_threadpool(self._sources.accounts, name)
        now = self._sources.clock()
        usage = self._sources.board.usage()
        return JSONResponse(
            forecast_document(name, view.forecasts(name), now=now, record=record, accounts=accounts, usage=usage)
        )

    def _found(self, request: Request) -> tuple[View, DecisionRecord]:
        view, workload = self._sources.board.view(), _workload(request)
        if view is None:
            raise HTTPException(503, "the first tick has not finished")
        record = view.record(workload)
        if record is None:
            known = ", ".join(each.policy.workload for each in view.report.records[:20])
            raise HTTPException(404, f"no workload {workload!r}; known: {known}")
        return view, record


def _workload(request: Request) -> str:
    return f"{request.path_params['namespace']}/{request.path_params['name']}"


def _moment(text: str | None) -> datetime | None:
    """`?at=`: an ISO time, UTC if it names no zone."""
    if text is None:
        return None
    try:
        # A plus sign in a query that was not quoted arrives as a space.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise HTTPException(400, f"at must be an ISO time such as 2026-11-20T18:00:00Z, got {text!r}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
