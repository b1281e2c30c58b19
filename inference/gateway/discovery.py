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
from urllib.parse import urlsplit, urlunsplit

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
    """Shares that are asked for again and again, of every daemon that the name stands for: the one that leads knows.

    One that does not lead, or is gone, changes nothing.
    """

    url: str
    fetch: Callable[[str], Awaitable[str]]
    """The document at an address; raises `OSError` where there is none, and says what is wrong."""
    use: Callable[[Shares], object]
    told: Told
    _known: Shares | None = field(default=None)
    _said: str = field(default="")

    async def look(self) -> bool:
        """Ask once; whether one that leads answered."""
        problem, shares = "", None
        try:
            for url in await each_address(self.url):
                try:
                    shares = parse_shares(await self.fetch(url), source=url)
                except (OSError, UnicodeDecodeError, DocumentError) as error:
                    problem = problem or str(error) or type(error).__name__
                if shares is not None:
                    break
        except OSError as error:
            problem = str(error)
        if shares is None:
            if problem and problem != self._said:
                self._said = problem
                self.told(self.url, "kept", f"{problem}; the last shares are still in use")
            return False
        if shares != self._known or self._said:
            self._known, self._said = shares, ""
            self.use(shares)
            self.told(self.url, "read", "")
        return True


async def each_address(url: str) -> tuple[str, ...]:
    """`url` with each address of its host in the host's place, sorted. Raises `OSError` where it has none.

    A daemon answers to its own address and to no name, against pages that rebind one; and of several behind a headless
    Service only one leads. A certificate names the host, so an https address stays as it is.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname is None:
        return (url,)
    port = parts.port or 80
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    hosts = sorted({_url(str(address[0]), port).removeprefix("http://") for *_, address in found})
    return tuple(urlunsplit(parts._replace(netloc=host)) for host in hosts)


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
