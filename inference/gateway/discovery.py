"""Where the replicas come from, a file that is watched and names that are resolved, and their shares, asked for.

What cannot be read or resolved changes nothing: the last good answer holds, and it is said once. A name that resolves
to nothing is an answer: its model sleeps. It never asks a replica anything.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from inference.errors import DocumentError
from inference.gateway.backends import Backend
from inference.gateway.settings import Dns
from inference.gateway.shares import Shares, parse_shares

_Content = TypeVar("_Content")
_NOBODY = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Told = Callable[[str, str, str], object]
"""Called with the source, the outcome ("read" or "kept") and a detail, when one of them changes."""


@dataclass(slots=True, kw_only=True)
class WatchedFile(Generic[_Content]):
    """A document that another program replaces; `look` gives it to `use` when it is another one."""

    path: Path
    parse: Callable[[str], _Content]
    use: Callable[[_Content], object]
    told: Told
    _stamp: tuple[int, int, int] | None = field(default=None)
    _said: str = field(default="")

    def look(self) -> bool:
        """Read it if it changed; whether there is a good one. What is broken is tried again when it changes."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return not self._said
            content = self.parse(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, DocumentError) as error:
            self._keep(str(error))
            return False
        self._stamp, self._said = stamp, ""
        self.use(content)
        self.told(str(self.path), "read", "")
        return True

    def _keep(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            self.told(str(self.path), "kept", f"{problem}; the last good one is still in use")


@dataclass(slots=True, kw_only=True)
class ResolvedName:
    """The replicas behind one headless Service."""

    rule: Dns
    use: Callable[[tuple[Backend, ...]], object]
    told: Told
    _known: tuple[Backend, ...] | None = field(default=None)
    _said: str = field(default="")

    async def look(self) -> bool:
        """Resolve the name; whether there was an answer."""
        try:
            addresses = await self._addresses()
        except OSError as error:
            problem = str(error)
            if problem != self._said:
                self._said = problem
                self.told(self.rule.name, "kept", f"{problem}; the last addresses are still in use")
            return False
        backends = tuple(
            Backend(
                url=_url(address, self.rule.port), model=self.rule.model, pool=self.rule.pool, serves=self.rule.serves
            )
            for address in sorted(addresses)
        )
        if backends != self._known or self._said:
            self._known, self._said = backends, ""
            self.use(backends)
            self.told(self.rule.name, "read", "")
        return True

    async def _addresses(self) -> set[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.rule.name, self.rule.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NOBODY:
                return set()
            raise
        return {str(address[0]) for *_, address in found}


@dataclass(slots=True, kw_only=True)
class AskedShares:
    """Shares that are asked for again and again. A writer that does not lead, or is gone, changes nothing."""

    url: str
    fetch: Callable[[], Awaitable[str]]
    """Raises `OSError` where there is no answer, and says what is wrong."""
    use: Callable[[Shares], object]
    told: Told
    _known: Shares | None = field(default=None)
    _said: str = field(default="")

    async def look(self) -> bool:
        """Ask once; whether there was an answer."""
        try:
            shares = parse_shares(await self.fetch(), source=self.url)
        except (OSError, UnicodeDecodeError, DocumentError) as error:
            problem = str(error) or type(error).__name__
            if problem != self._said:
                self._said = problem
                self.told(self.url, "kept", f"{problem}; the last shares are still in use")
            return False
        if shares is not None and (shares != self._known or self._said):
            self._known, self._said = shares, ""
            self.use(shares)
            self.told(self.url, "read", "")
        return True


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
