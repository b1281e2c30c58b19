"""What a settings file may say of servers on this machine: how each is started, and what it may use.

Each section checks itself and names the setting in its refusal. What a variant is, and which arguments follow from it,
is `inference`'s to say and is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

OURS: Final = "HEADSTART_SERVER_"
"""Variables by which a server is found again begin so, and are not for others to set."""

PORT: Final = "{port}"
HOST: Final = "{host}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEntry:
    """One entry of `local.servers`: how the servers of a workload are started on this machine."""

    workload: str
    """The workload whose replicas they are, as namespace/name."""
    command: tuple[str, ...] = ("vllm", "serve")
    """The command line, without a shell; {port} and {host} stand for what each server gets. Started in this file's
    folder. With a variant its arguments follow these words."""
    variant: str | None = None
    """A variant of the catalogue that is served, such as qwen3-vl-8b; null means that command says everything."""
    catalogue: Path | None = None
    """A catalogue of variants of your own; null means the shipped one."""
    arguments: tuple[str, ...] = ()
    """Words behind a variant's own arguments; of one flag given twice the last counts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those that the daemon itself was started with."""
    model: str = ""
    """The model's name for the gateway; the variant's, or else the workload's own name, if empty."""
    serves: str = ""
    """The name that the server itself gives its model, where it is another than model; the variant's own if empty."""
    pool: str = "default"
    """The gateway's pool that they belong to."""
    capacity: float = 1.0
    """Requests that one server carries beside others of the pool, as a share of theirs."""
    first_port: int = 8101
    """Each server listens on the first port from here on that is free."""
    gpus: int = 1
    """GPUs of one server where local.gpus names any; a variant says it itself."""
    start_timeout: timedelta = timedelta(minutes=15)
    """A server that is not Ready by then is ended and started again."""
    grace: timedelta = timedelta(minutes=2)
    """How long a server that goes may finish what the gateway has given it before it is asked to end."""
    shutdown_timeout: timedelta = timedelta(seconds=150)
    """How long a server that was asked to end may take before it is killed."""

    def __post_init__(self) -> None:
        self._check_words()
        for name in self.environment:
            if not _VARIABLE.fullmatch(name) or name.startswith(OURS):
                raise ValueError(f"environment must name variables, and none that begins with {OURS}, got {name!r}")
        if not 0.0 < self.capacity <= 1000.0:
            raise ValueError(f"capacity must lie in (0, 1000], got {self.capacity}")
        if not 1 <= self.first_port <= 65_535:
            raise ValueError(f"first_port must lie in [1, 65535], got {self.first_port}")
        if not 1 <= self.gpus <= 64:
            raise ValueError(f"gpus must lie in [1, 64], got {self.gpus}")
        if not self.pool:
            raise ValueError("pool must not be empty")
        for name, least, most in (
            ("start_timeout", timedelta(seconds=5), timedelta(hours=4)),
            ("grace", timedelta(0), timedelta(hours=4)),
            ("shutdown_timeout", timedelta(seconds=1), timedelta(hours=1)),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} must lie between {least} and {most}, got {value}")

    def _check_words(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError('command must name a program, such as ["vllm", "serve"]')
        if any("\0" in word for word in (*self.command, *self.arguments, *self.environment.values())):
            raise ValueError("command, arguments and environment must not hold a zero byte")
        if self.variant is None and not any(PORT in word for word in self.command):
            raise ValueError(f"command must say {PORT} where the server's port belongs, or name a variant")
        for name, given in (("catalogue", self.catalogue is not None), ("arguments", bool(self.arguments))):
            if given and self.variant is None:
                raise ValueError(f"{name} goes with a variant, and none is named")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """Servers on this machine instead of a cluster. With any, no cluster is asked and no credentials are needed."""

    servers: tuple[ServerEntry, ...] = ()
    """How the servers of each workload are started, one entry a workload; none means that a cluster is scaled."""
    host: str = "127.0.0.1"
    """Address that the servers listen on. They have no authentication of their own: leave them on loopback."""
    gpus: tuple[str, ...] = ()
    """GPUs by index or UUID, as CUDA_VISIBLE_DEVICES takes them; each server gets its own. None: servers are not
    pinned, and no GPU is counted."""
    gateways: tuple[str, ...] = ()
    """Base addresses of the gateways, which are asked what a server still has in flight before it is asked to end."""

    def __post_init__(self) -> None:
        if not self.host or self.host != self.host.strip():
            raise ValueError(f"host must be an address to listen on, got {self.host!r}")
        for gpu in self.gpus:
            if not re.fullmatch(r"[A-Za-z0-9-]+", gpu):
                raise ValueError(f"gpus must be indices or UUIDs of GPUs, got {gpu!r}")
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError(f"gpus must name none twice, got {', '.join(self.gpus)}")
        for url in self.gateways:
            parts = urlsplit(url)
            if parts.scheme != "http" or not parts.hostname or parts.username is not None:
                raise ValueError(f"gateways must be http addresses such as http://127.0.0.1:8000, got {url!r}")
        names = [each.workload for each in self.servers]
        if len(set(names)) != len(names):
            raise ValueError("servers must have one entry a workload, and one has several")
