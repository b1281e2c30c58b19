"""What is written for others, and for ourselves after a restart: three files, each put in place in one step.

`state.json` is ours; `backends.json` is read by gateways, `targets.json` by Prometheus (file_sd). No reader ever sees
half a file, and a file whose content has not changed is not written again. Nothing here decides what a server is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from scaler.adapters.local_vllm.life import Phase, Server

FOLDER = "local"
"""In the data folder, whose lock keeps a second daemon out."""

STATE, BACKENDS, TARGETS, LOGS = "state.json", "backends.json", "targets.json", "logs"

JOB = "vllm"
"""The `job` that servers' series carry, whatever scrape configuration names the file."""


class StateUnreadable(OSError):
    """The state file is damaged, or another version's; `kept` is where it is now."""

    def __init__(self, path: Path, problem: str, kept: Path) -> None:
        self.kept = kept
        super().__init__(f"{path}: {problem}; it is kept as {kept.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that is remembered over a restart: how many servers are wanted by workload, and which there are."""

    wanted: Mapping[str, int] = field(default_factory=dict)
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    version: int
    state: State


_STORED: TypeAdapter[_Stored] = TypeAdapter(_Stored)
_VERSION = 1


def load(folder: Path, *, may_set_aside: bool = True) -> State | None:
    """What `save` left; None where there is nothing. Raises `StateUnreadable`, having set the file aside if it may."""
    path = folder / STATE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        stored = _STORED.validate_json(text)
        problem = "" if stored.version == _VERSION else f"is of version {stored.version}, this reads {_VERSION}"
    except ValidationError as error:
        problem = f"has {error.error_count()} faults"
    if problem:
        kept = path.with_name(f"{STATE}.damaged") if may_set_aside else path
        if may_set_aside:
            path.replace(kept)
        raise StateUnreadable(path, problem, kept)
    return stored.state


def save(folder: Path, state: State) -> None:
    """On the disk when this returns. Raises `OSError`."""
    put(folder / STATE, _STORED.dump_json(_Stored(version=_VERSION, state=state), indent=1), durable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """How a workload's servers are listed for others."""

    namespace: str
    model: str
    pool: str
    capacity: float
    host: str
    serves: str = ""
    """What the servers call their model; "" where it is `model`."""

    def url(self, server: Server) -> str:
        """A server's address."""
        return f"http://{self.host}:{server.port}"


def backends(servers: Sequence[Server], listed: Mapping[str, Listed]) -> bytes:
    """The gateways' document: who may get requests, and who finishes what it has."""
    rows = [
        {
            "url": listed[each.workload].url(each),
            "model": listed[each.workload].model,
            **({"serves": listed[each.workload].serves} if listed[each.workload].serves else {}),
            "pool": listed[each.workload].pool,
            "weight": 1.0,
            "capacity": listed[each.workload].capacity,
            "state": "draining" if each.phase is Phase.DRAINING else "ready",
        }
        for each in _in_order(servers, listed)
    ]
    return _json({"apiVersion": "headstart/v1", "kind": "Backends", "backends": rows})


def targets(servers: Sequence[Server], listed: Mapping[str, Listed]) -> bytes:
    """Prometheus' document, with the labels that a pod of a cluster would have."""
    rows = [
        {
            "targets": [f"{listed[each.workload].host}:{each.port}"],
            "labels": {"job": JOB, "namespace": listed[each.workload].namespace, "pod": each.name},
        }
        for each in _in_order(servers, listed)
    ]
    return _json(rows)


def _in_order(servers: Sequence[Server], listed: Mapping[str, Listed]) -> list[Server]:
    """Those that serve; one of a workload that is no longer in the settings is nobody's to send requests to."""
    return sorted(
        (each for each in servers if each.phase.serves and each.workload in listed), key=lambda each: each.port
    )


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


def put(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put `content` in place of the file in one step. Raises `OSError`, and then the old one is still there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
