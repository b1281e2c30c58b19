"""From a workload's entry to the command line, environment and files of one of its servers.

It renders and checks; it starts nothing. A variant's arguments are those that its pods would get; of its environment
only what means the same outside a container is taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inference.errors import InferenceError
from inference.launch import environment, serve_arguments
from inference.processes import Launch
from inference.variants import Variant, read_catalogue, shipped_catalogue, variant_named
from scaler.adapters.local_vllm.files import LOGS, Listed
from scaler.adapters.local_vllm.life import Patience, Server
from scaler.config.local import HOST, OURS, PORT, LocalConfig, ServerEntry

OF, ID, WORKLOAD, PORT_VARIABLE = f"{OURS}OF", f"{OURS}ID", f"{OURS}WORKLOAD", f"{OURS}PORT"
"""Variables by which a server is found again whatever was written down of it: whose it is, which, and where."""

_SAME_OUTSIDE = ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS")
"""Of a variant's environment; HOME and the like are a container's."""

ENDING = 30
"""Seconds that a server takes to free its GPU behind its own drain (docs/serving.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What all servers of a workload have in common."""

    workload: str
    listed: Listed
    patience: Patience
    first_port: int
    gpus_each: int
    words: tuple[str, ...]
    """The command line, with {port} and {host} where they belong."""
    variables: Mapping[str, str]
    variant: Variant | None = None
    tail: tuple[str, ...] = ()
    """Words behind a variant's arguments."""

    def launch(self, server: Server, *, folder: Path, home: Path) -> Launch:
        """How one server is begun: `folder` is ours, in `home` it runs."""
        return Launch(
            command=self._command(server.port),
            environment={
                **os.environ,
                **self.variables,
                **({"CUDA_VISIBLE_DEVICES": ",".join(server.gpus)} if server.gpus else {}),
                **marks_of(folder),
                ID: server.id,
                WORKLOAD: self.workload,
                PORT_VARIABLE: str(server.port),
            },
            folder=home,
            log=folder / LOGS / f"{server.name}.log",
        )

    def _command(self, port: int) -> tuple[str, ...]:
        host = self.listed.host
        words = tuple(word.replace(PORT, str(port)).replace(HOST, host) for word in self.words)
        if self.variant is None:
            return words
        return (*words, *serve_arguments(self.variant, host=host, port=port), *self.tail)


def marks_of(folder: Path) -> dict[str, str]:
    """What every server of this folder carries."""
    return {OF: str(folder)}


def kinds_of(local: LocalConfig) -> dict[str, Kind]:
    """The servers that the settings describe, by workload. Raises `InferenceError` for a variant that is none."""
    return {entry.workload: kind_of(entry, local) for entry in local.servers}


def kind_of(entry: ServerEntry, local: LocalConfig) -> Kind:
    """One workload's servers. Raises `InferenceError` for a variant that is none."""
    variant = _variant(entry)
    namespace, _, name = entry.workload.partition("/")
    return Kind(
        workload=entry.workload,
        listed=Listed(
            namespace=namespace,
            model=entry.model or (variant.api_model if variant is not None else name),
            pool=entry.pool,
            capacity=entry.capacity,
            host=local.host,
            serves=entry.serves or (variant.api_model if variant is not None else ""),
        ),
        patience=Patience(
            start_timeout=entry.start_timeout,
            grace=entry.grace,
            shutdown_timeout=entry.shutdown_timeout,
            has_gateway=bool(local.gateways),
        ),
        first_port=entry.first_port,
        gpus_each=entry.gpus if variant is None else variant.gpus,
        words=entry.command,
        variables={**(_outside(variant) if variant is not None else {}), **entry.environment},
        variant=variant,
        tail=entry.arguments,
    )


def problem_of(entry: ServerEntry, local: LocalConfig) -> str:
    """Why an entry cannot be used, in words; "" if it can."""
    try:
        kind = kind_of(entry, local)
    except InferenceError as error:
        return f"variant: {error}"
    if local.gpus and kind.gpus_each > len(local.gpus):
        return f"gpus: a server takes {kind.gpus_each}, and local.gpus names {len(local.gpus)}"
    if kind.variant is not None and entry.shutdown_timeout.total_seconds() <= kind.variant.shutdown_timeout_s:
        needed = kind.variant.shutdown_timeout_s + ENDING
        return (
            f"shutdown_timeout: the variant's own drain takes up to {kind.variant.shutdown_timeout_s} s; use {needed}s"
        )
    return ""


def _variant(entry: ServerEntry) -> Variant | None:
    if entry.variant is None:
        return None
    return variant_named(entry.variant, read_catalogue(entry.catalogue) if entry.catalogue else shipped_catalogue())


def _outside(variant: Variant) -> dict[str, str]:
    told = environment(variant)
    same = {name: told[name] for name in _SAME_OUTSIDE if name in told}
    return same if variant.weights.host_path is None else {**same, "HF_HOME": variant.weights.host_path}
