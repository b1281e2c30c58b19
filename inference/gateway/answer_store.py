"""Where answers are kept: Redis, shared by all copies, or this process while there is none or it is gone.

A store never fails a request: whatever goes wrong is a miss, is counted, and Redis is left alone for a while.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from inference.gateway.answers import CacheRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as it went to the client."""

    content_type: str
    body: bytes

    def packed(self) -> bytes:
        """As it lies in the store: a line that says what it is, then the bytes."""
        return json.dumps({"v": 1, "content_type": self.content_type}).encode() + b"\n" + self.body

    @classmethod
    def unpacked(cls, packed: bytes) -> Answer | None:
        """The answer, or None for what this version did not write."""
        head, line, body = packed.partition(b"\n")
        try:
            facts = json.loads(head)
            if not line or facts["v"] != 1:
                return None
            return cls(content_type=str(facts["content_type"]), body=body)
        except (ValueError, KeyError, TypeError):
            return None


class AnswerStore(Protocol):
    """Where answers are kept."""

    async def get(self, key: str) -> Answer | None:
        """The answer, if it is there and not too old."""

    async def put(self, key: str, answer: Answer) -> None:
        """Keep it."""

    async def close(self) -> None:
        """Nothing more is kept."""


class LocalAnswers:
    """Answers in this process: the least recently used goes first."""

    def __init__(self, rule: CacheRule, *, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._answers: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> Answer | None:
        """The answer, if it is there and not too old."""
        found = self._answers.get(key)
        if found is None:
            return None
        if self._clock() >= found[0]:
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return found[1]

    async def put(self, key: str, answer: Answer) -> None:
        """Keep it, at the cost of others."""
        self._drop(key)
        if len(answer.body) > self._rule.max_local_bytes:
            return
        self._answers[key] = (self._clock() + self._rule.ttl_s, answer)
        self._bytes += len(answer.body)
        while self._bytes > self._rule.max_local_bytes:
            self._drop(next(iter(self._answers)))

    async def close(self) -> None:
        """Forget all."""
        self._answers.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1].body)


class RedisAnswers:
    """Answers in Redis, with this process's own while it is gone. Bound Redis itself: `maxmemory` and `allkeys-lru`."""

    def __init__(
        self, url: str, rule: CacheRule, *, clock: Callable[[], float], on_error: Callable[[str], object]
    ) -> None:
        self._rule = rule
        self._clock = clock
        self._on_error = on_error
        self._local = LocalAnswers(rule, clock=clock)
        self._away_until_s = float("-inf")
        self._redis = Redis.from_url(
            url, socket_timeout=rule.redis_timeout_s, socket_connect_timeout=rule.redis_timeout_s, retry=None
        )

    @property
    def is_away(self) -> bool:
        """Whether Redis failed and is left alone."""
        return self._clock() < self._away_until_s

    async def get(self, key: str) -> Answer | None:
        """The answer, if it is there; from this process while Redis is gone."""
        if not self.is_away:
            try:
                async with asyncio.timeout(self._rule.redis_timeout_s):
                    packed = await self._redis.get(key)
                return Answer.unpacked(packed) if isinstance(packed, bytes) else None
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
        return await self._local.get(key)

    async def put(self, key: str, answer: Answer) -> None:
        """Keep it, in this process while Redis is gone."""
        if not self.is_away:
            try:
                async with asyncio.timeout(self._rule.redis_timeout_s):
                    await self._redis.set(key, answer.packed(), px=int(self._rule.ttl_s * 1000))
                return
            except (RedisError, OSError, TimeoutError) as error:
                self._failed(error)
        await self._local.put(key, answer)

    async def close(self) -> None:
        """End the connections."""
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        self._away_until_s = self._clock() + self._rule.redis_retry_s
        self._on_error(type(error).__name__)
