"""The routes by which people order: pause, override, mode, resume. Everything else of the API only reads.

POST   /api/v1/workloads/{namespace}/{name}/pause      {"reason": …, "by": …}              DELETE ends it
POST   /api/v1/workloads/{namespace}/{name}/override   {"replicas": 8, "for_s": 7200, …}   or "until"; DELETE ends it
POST   /api/v1/workloads/{namespace}/{name}/mode       {"mode": "observe", …}              DELETE: as the settings say
POST   /api/v1/workloads/{namespace}/{name}/resume     {"mode": false}  ends pause, override and the respect for
                                                               other writers, with "mode": true a mode by hand too
GET    /api/v1/workloads/{namespace}/{name}/control    what is in force
POST   /api/v1/pause, /api/v1/resume                   the same for the whole fleet; GET /api/v1/control

Who may is decided by `scaler.web.access`. Nothing here touches the cluster: the next tick does what was ordered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scaler.adapters.control_desk import ControlDesk, UnknownWorkload, Word
from scaler.adapters.documents import Document
from scaler.adapters.orders import OrderRefused, mode_named, moment

MAX_BODY_BYTES: Final = 16 * 1024
"""An order is a few hundred bytes."""

_LONGEST_S: Final = 366 * 86400.0


def control_routes(desk: ControlDesk, clock: Callable[[], datetime]) -> list[Route]:
    """The routes of this module."""
    orders = _Orders(desk, clock)
    workload = "/api/v1/workloads/{namespace}/{name}"
    return [
        Route(f"{workload}/control", orders.shown),
        Route(f"{workload}/pause", orders.pause, methods=["POST"]),
        Route(f"{workload}/pause", orders.end_pause, methods=["DELETE"]),
        Route(f"{workload}/override", orders.override, methods=["POST"]),
        Route(f"{workload}/override", orders.end_override, methods=["DELETE"]),
        Route(f"{workload}/mode", orders.switch, methods=["POST"]),
        Route(f"{workload}/mode", orders.end_switch, methods=["DELETE"]),
        Route(f"{workload}/resume", orders.resume, methods=["POST"]),
        Route("/api/v1/control", orders.shown),
        Route("/api/v1/pause", orders.pause, methods=["POST"]),
        Route("/api/v1/pause", orders.end_pause, methods=["DELETE"]),
        Route("/api/v1/resume", orders.resume, methods=["POST"]),
    ]


class _Orders:
    """One method a route."""

    def __init__(self, desk: ControlDesk, clock: Callable[[], datetime]) -> None:
        self._desk = desk
        self._clock = clock

    async def shown(self, request: Request) -> Response:
        return await self._answer(partial(self._desk.shown, _named(request)))

    async def pause(self, request: Request) -> Response:
        body = await _body(request, "reason", "by")
        return await self._answer(partial(self._desk.pause, _named(request), _word(body)))

    async def end_pause(self, request: Request) -> Response:
        return await self._answer(partial(self._desk.end_pause, _named(request)))

    async def override(self, request: Request) -> Response:
        body = await _body(request, "replicas", "for_s", "until", "reason", "by")
        replicas = body.get("replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise HTTPException(422, f"replicas must be a whole number, got {replicas!r}")
        until = self._end_of(body)
        return await self._answer(partial(self._desk.override, _name(request), replicas, until, _word(body)))

    async def end_override(self, request: Request) -> Response:
        return await self._answer(partial(self._desk.end_override, _name(request)))

    async def switch(self, request: Request) -> Response:
        body = await _body(request, "mode", "reason", "by")
        try:
            mode = mode_named(body.get("mode"), "mode")
        except OrderRefused as error:
            raise HTTPException(422, str(error)) from None
        return await self._answer(partial(self._desk.switch, _name(request), mode, _word(body)))

    async def end_switch(self, request: Request) -> Response:
        return await self._answer(partial(self._desk.switch, _name(request), None, Word()))

    async def resume(self, request: Request) -> Response:
        mode = (await _body(request, "mode")).get("mode", False)
        if not isinstance(mode, bool):
            raise HTTPException(422, f"mode must be true or false, got {mode!r}")
        return await self._answer(partial(self._desk.resume, _named(request), mode=mode))

    def _end_of(self, body: dict[str, Any]) -> datetime:
        """When an override ends: a moment, or so many seconds from now."""
        if ("until" in body) == ("for_s" in body):
            raise HTTPException(422, "an override needs an end: give until or for_s, and one of them")
        if "until" in body:
            try:
                return moment(body["until"], "until")
            except OrderRefused as error:
                raise HTTPException(422, str(error)) from None
        for_s = body["for_s"]
        if not isinstance(for_s, int | float) or isinstance(for_s, bool) or not 0.0 < for_s < _LONGEST_S:
            raise HTTPException(422, f"for_s must be a number of seconds above 0, got {for_s!r}")
        return self._clock() + timedelta(seconds=for_s)

    async def _answer(self, order: Callable[..., Document]) -> Response:
        """What is in force after an order, or why it was not followed. The file's lock is waited for off the loop."""
        try:
            return JSONResponse(await run_in_threadpool(order, now=self._clock()))
        except UnknownWorkload as error:
            raise HTTPException(404, str(error)) from None
        except OrderRefused as error:
            raise HTTPException(422, str(error)) from None
        except OSError as error:
            raise HTTPException(503, f"the order could not be stored: {error}") from None


def _named(request: Request) -> str | None:
    """The workload of the path; None on a route of the whole fleet."""
    return _name(request) if "name" in request.path_params else None


def _name(request: Request) -> str:
    return f"{request.path_params['namespace']}/{request.path_params['name']}"


async def _body(request: Request, *allowed: str) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty one. 415, 413, 400 or 422 for anything else."""
    raw = b""
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > MAX_BODY_BYTES:
                raise HTTPException(413, f"an order has at most {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:  # nobody hears this; half an order is none, and no defect of ours
        raise HTTPException(400, "the order ended before its end") from None
    # A form of another site cannot send this type without asking first, and is not answered when it asks.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the order as Content-Type: application/json")
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "the order must be an object")
    unknown = [key for key in body if key not in allowed]
    if unknown:
        raise HTTPException(422, f"unknown key {unknown[0]!r}; there are {', '.join(allowed)}")
    return body


def _word(body: dict[str, Any]) -> Word:
    told = {name: body.get(name, "") for name in ("by", "reason")}
    for name, text in told.items():
        if not isinstance(text, str):
            raise HTTPException(422, f"{name} must be a text, got {text!r}")
    return Word(**told)
