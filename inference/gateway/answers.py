"""Which answers may be given again, and under which key they are kept.

An answer belongs to a tenant, a model and a question. Only deterministic requests count: temperature 0, an embedding,
or the client's word. It never stores anything: `answer_store` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.gateway.body import EMBEDDINGS, Body
from inference.gateway.bounds import check_bounds
from inference.gateway.images import digest

ALLOW, REFRESH, NEVER = "allow", "refresh", "no-store"
"""What a client may say in `x-headstart-cache`."""

_NOT_THE_QUESTION = frozenset({"user", "metadata", "store", "request_id", "priority", "safety_identifier"})
"""Fields that say who asks, not what."""

_SAMPLING = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})
"""Fields that mean nothing at temperature 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRule:
    """What is kept, and how long."""

    enabled: bool = False
    redis_url_file: Path | None = None
    """File that holds the Redis URL, such as redis://:PASSWORD@cache:6379/0; without one each copy keeps its own."""
    ttl_s: float = 3600.0
    """How long an answer may be given again."""
    max_answer_bytes: int = 262_144
    """Longer answers are not kept."""
    max_local_bytes: int = 67_108_864
    """Room for answers in this process, used where there is no Redis or while it is gone."""
    redis_timeout_s: float = 0.1
    """A cache that takes longer than this is no help."""
    redis_retry_s: float = 5.0
    """How long a Redis that failed is left alone."""

    def __post_init__(self) -> None:
        check_bounds(self, ttl_s=(1, 604_800), max_answer_bytes=(1024, 16_777_216), redis_timeout_s=(0.001, 10))
        check_bounds(self, max_local_bytes=(0, 17_179_869_184), redis_retry_s=(0.1, 600))


def may_keep(body: Body, word: str | None) -> bool:
    """Whether this request's answer may be looked up and kept; `word` is the client's `x-headstart-cache`."""
    if word == NEVER:
        return False
    if word in (ALLOW, REFRESH):
        return True
    # What is behind another server's address may change; the client's word is that it does not.
    if body.videos or any(not image.startswith("data:") for image in body.images):
        return False
    return body.path == EMBEDDINGS or body.fields.get("temperature") in (0, 0.0)


def answer_key(body: Body, *, tenant: str, model: str, greedy: bool = False) -> str:
    """The key of the answer: `model` is the one that would answer.

    `greedy` asks for the same question at temperature 0, whatever the client wrote.
    """
    fields = {name: value for name, value in body.fields.items() if name not in _NOT_THE_QUESTION}
    if greedy or fields.get("temperature") in (0, 0.0):
        fields = {name: value for name, value in fields.items() if name not in _SAMPLING}
        fields["temperature"] = 0
    fields["model"] = model
    question = json.dumps(_without_pictures(fields), sort_keys=True, separators=(",", ":"))
    # Length and separator: tenant "a" with model "b:c" is not tenant "a:b" with model "c".
    text = json.dumps([tenant, body.path, question])
    return "headstart:answer:" + hashlib.sha256(text.encode()).hexdigest()


def _without_pictures(value: Any) -> Any:
    """The value with each inline picture replaced by its hash: megabytes are hashed once, not escaped and sorted."""
    if isinstance(value, str):
        return digest(value) if value.startswith("data:") else value
    if isinstance(value, Mapping):
        return {key: _without_pictures(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_pictures(inner) for inner in value]
    return value
