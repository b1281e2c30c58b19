"""The annotated Deployments that were workloads at the last search, as bytes for the data file.

With them a daemon that starts while the cluster cannot be searched goes on with those found before. It keeps our own
settings' annotations and no others, and decides nothing: whoever joins is said by `config.discovery`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from scaler.config.annotations import Annotated

DISCOVERED_BLOB = "discovered"
"""The name under which the daemon keeps them over a restart."""

_OBJECTS: TypeAdapter[tuple[Annotated, ...]] = TypeAdapter(tuple[Annotated, ...])


class DiscoveredUnreadable(ValueError):
    """Stored Deployments of another version, or damaged: who is annotated is known again at the next search."""


def to_bytes(objects: Sequence[Annotated]) -> bytes:
    """`objects` as JSON."""
    return _OBJECTS.dump_json(tuple(objects))


def from_bytes(stored: bytes) -> tuple[Annotated, ...]:
    """What `to_bytes` wrote. Raises `DiscoveredUnreadable`."""
    try:
        return _OBJECTS.validate_json(stored)
    except ValidationError as error:
        raise DiscoveredUnreadable(f"the stored Deployments have {error.error_count()} faults") from error
