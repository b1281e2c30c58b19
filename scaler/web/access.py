"""Who may use the API: the right host name, the token where one is set, and for orders nobody else's web page.

A page on the internet can make a browser send requests to loopback: by DNS rebinding it even reads the answers. The
name in the Host header is then the attacker's, so names are refused and addresses are not. POST and DELETE change
something: they want an Origin, where a browser sends one, that is this server's own, and the token; without a token
only this very machine is heard. Other methods, OPTIONS among them, are not answered: no site is told that it may.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by probes that know no token; they answer one word."""


_ORDERING = ("POST", "DELETE")
_ORDER_PATH = re.compile(r"/api/v1/(workloads/[^/]+/[^/]+/)?(pause|override|mode|resume)")
"""Where these two are answered at all; the routes are in `scaler.web.control`."""


class AccessGuard:
    """ASGI middleware in front of every route."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] = (), token_file: Path | None = None) -> None:
        """`hosts` are the names that may stand in a Host header beside localhost and literal addresses."""
        self._app = app
        self._hosts = frozenset({"localhost", *(host.lower() for host in hosts)})
        self._token_file = token_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._knows(headers.get(b"host", b"").decode("latin-1")):
            return _problem(421, "unknown_host", "the Host header names a host that this server is not")
        orders = scope["method"] in _ORDERING and _ORDER_PATH.fullmatch(scope["path"]) is not None
        if not orders and scope["method"] not in ("GET", "HEAD"):
            return _problem(405, "read_only", "only GET and HEAD are answered here", headers={"Allow": "GET, HEAD"})
        if orders and not _is_own_page(headers):
            return _problem(403, "cross_site", "the request comes from a page of another site")
        if self._token_file is not None and scope["path"] not in OPEN_PATHS and not self._is_known(headers):
            return _problem(401, "token_needed", "send the token", headers={"WWW-Authenticate": "Bearer"})
        if orders and self._token_file is None and not _is_local(scope.get("client")):
            return _problem(403, "token_needed", "orders from other machines need http.token_file")
        return None

    def _knows(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request carries the token. Read anew each time, so that it can be rotated; no file, no entry."""
        assert self._token_file is not None
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return False
        scheme, _, sent = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(sent.encode(), token.encode())


def _is_own_page(headers: dict[bytes, bytes]) -> bool:
    """Whether no browser sent it, or one that shows a page of this very server.

    Every browser names the page's origin with a POST or DELETE; "null" is a page that hides it.
    """
    site = headers.get(b"sec-fetch-site", b"none").decode("latin-1").lower()
    if site not in ("none", "same-origin"):
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return True
    scheme, separator, place = origin.decode("latin-1").lower().partition("://")
    return bool(separator) and scheme in ("http", "https") and place == headers[b"host"].decode("latin-1").lower()


def _is_local(client: tuple[str, int] | None) -> bool:
    """Whether the other end is this machine."""
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _problem(status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": reason, "detail": detail}, status_code=status, headers=headers)
