"""Which replicas there are: the document that says so, and what one line of it means.

Parsing only: it reads no file, resolves no name, and knows nothing of load or health.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import TypeAdapter, ValidationError

from inference.errors import DocumentError
from inference.gateway.bounds import check_bounds
from inference.gateway.problems import STRICT, chosen, told

MODEL_NAME = re.compile(r"[\w][\w./:@-]{0,199}", re.ASCII)
"""What may be a model's name. It comes back in a response header, so no control character may be in it."""

POOL_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII)


class BackendState(StrEnum):
    """What its owner wants with a replica."""

    READY = "ready"
    DRAINING = "draining"
    """It finishes what it has and gets nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One replica that serves one model."""

    url: str
    """Base address without a path, such as "http://10.0.0.7:8000"."""
    model: str
    """What clients ask for."""
    pool: str = "default"
    """Instance group; a request class names the pools it may use."""
    weight: float = 1.0
    """Share of the traffic against its capacity: 0 gets nothing, as at the beginning of a blue/green switch."""
    capacity: float = 1.0
    """Size against the others: one of 2.0 carries twice the requests of one of 1.0."""
    state: BackendState = BackendState.READY
    serves: str | None = None
    """The name that the replica itself gives its model, where it is another: the body's `model` is rewritten."""

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname or address.path not in ("", "/"):
            raise ValueError(f'url = {self.url!r} is no base address; write one such as "http://10.0.0.7:8000"')
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("url has a user, query or fragment; leave only scheme, host and port")
        for name in (self.model, self.serves):
            if name is not None and not MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no model name; use letters, digits and . / : @ _ -")
        if not POOL_NAME.fullmatch(self.pool):
            raise ValueError(f"pool = {self.pool!r} is no pool's name; use a-z, 0-9, - and _")
        check_bounds(self, weight=(0, 1000), capacity=(0.001, 1000))

    @property
    def served_model(self) -> str:
        """The name of the model that answers."""
        return self.serves or self.model


_BACKENDS: TypeAdapter[tuple[Backend, ...]] = TypeAdapter(tuple[Backend, ...], config=STRICT)


def parse_backends(text: str, *, source: str) -> tuple[Backend, ...]:
    """The replicas of a `kind: Backends` document in JSON or YAML; none is a valid answer: everything sleeps.

    Raises `DocumentError` with the place. A document that is cut off in the middle is one that cannot be read.
    """
    document = _document(text, source=source)
    if not isinstance(document, Mapping) or document.get("kind") != "Backends":
        raise DocumentError(source=source, problem="is no list of backends; start it with kind: Backends")
    if "backends" not in document:
        raise DocumentError(source=source, problem="has no backends; write backends: [] if there are none")
    entries = [_known_fields(entry) for entry in document["backends"] or ()]
    try:
        backends = _BACKENDS.validate_python(entries)
    except ValidationError as error:
        known = tuple(field.name for field in fields(Backend))
        raise DocumentError(source=source, problem=told(chosen(error), prefix=("backends",), known=known)) from error
    urls = [backend.url for backend in backends]
    for url in urls:
        if urls.count(url) > 1:
            raise DocumentError(source=source, problem=f"{url} is there twice; a replica serves one model")
    return backends


def _document(text: str, *, source: str) -> Any:
    try:
        # Most writers are programs that write JSON, and the YAML parser is slow.
        return json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise DocumentError(source=source, problem=f"cannot be read as JSON or YAML: {problem}") from error


def _known_fields(entry: Any) -> Any:
    """An entry without what its writer noted for itself: keys that begin with `x-`."""
    if not isinstance(entry, Mapping):
        return entry
    return {key: value for key, value in entry.items() if not str(key).startswith("x-")}
