"""One server as a sweep sees it: its model, its metrics page, and one streamed request at a time with its times.

It measures and judges nothing. Times come from one monotonic clock; a chunk is parsed only where it must be, so that
the client does not become the bottleneck of what it measures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from inference.errors import ProfilingError

ASK_WITHIN_S = 10.0
"""For everything but a measured request."""
ANSWER_WITHIN_S = 900.0
"""A measured request that takes longer counts as failed."""


class Status(StrEnum):
    """What became of a request."""

    OK = "ok"
    FAILED = "failed"
    """Refused, broken off, or not what was asked for."""
    CANCELLED = "cancelled"
    """Given up by the sweep when it ended; its times are lower bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request and its times, seconds on the client's clock."""

    status: Status
    sent_s: float
    first_token_s: float | None
    finished_s: float
    prompt_tokens: int
    """Tokens of the prompt as the server counted them, those of a picture included; 0 where it did not say."""
    output_tokens: int
    """Tokens of the answer; the same."""
    error: str = ""
    """What went wrong, in a few words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What a metrics page of vLLM says of the moment."""

    running: float
    """Requests in the batch."""
    waiting: float
    """Requests in the queue."""
    kv_usage: float | None
    """Share of the KV cache that is in use."""
    preemptions: float | None
    """Since the start."""
    kv_tokens: int | None
    """Size of the KV cache, tokens."""


class Server:
    """An OpenAI-compatible server below `url`, asked as one client with as many connections as it takes."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ProfilingError(
                subject=repr(url), problem="is no address of a server", fix="write it like http://127.0.0.1:8000"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
            trust_env=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def model(self) -> str:
        """The name of the one model it serves. Raises `ProfilingError`."""
        try:
            found = json.loads(await self._text("/v1/models"))
            names = [str(each["id"]) for each in found["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise self._unfit(f"/v1/models answers no list of models ({type(error).__name__})") from None
        if len(names) != 1:
            raise self._unfit(f"serves {', '.join(names) or 'no model'}", fix="say which with --model")
        return names[0]

    async def scrape(self) -> Scrape | None:
        """The metrics page as vLLM writes it; None where there is none that says what runs."""
        try:
            page = await self._text("/metrics")
        except ProfilingError:
            return None
        return read_page(page)

    async def ask(self, payload: bytes) -> Answer:
        """Send one streamed chat completion and live through its answer. Never raises but on cancellation."""
        assert self._session is not None
        sent_s = time.monotonic()
        stream = AnswerStream()
        status, error = Status.FAILED, ""
        try:
            async with self._session.post(
                f"{self.url}/v1/chat/completions", data=payload, headers={"Content-Type": "application/json"}
            ) as answer:
                if answer.status == 200:
                    async for line in answer.content:
                        stream.take(line)
                    status, error = stream.verdict()
                else:
                    error = f"status {answer.status}: {(await answer.text())[:200]}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as problem:
            error = f"{type(problem).__name__}: {problem}"[:200]
        except asyncio.CancelledError:
            status, error = Status.CANCELLED, "given up"
        return Answer(
            status=status,
            sent_s=sent_s,
            first_token_s=stream.first_token_s,
            finished_s=stream.last_s if status is Status.OK else time.monotonic(),
            prompt_tokens=stream.prompt_tokens,
            output_tokens=stream.output_tokens,
            error=error,
        )

    async def _text(self, path: str) -> str:
        assert self._session is not None
        try:
            limit = aiohttp.ClientTimeout(total=ASK_WITHIN_S)
            async with self._session.get(self.url + path, timeout=limit) as answer:
                if answer.status != 200:
                    raise self._unfit(f"{path} answers {answer.status}")
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unfit(f"{path} cannot be read ({type(error).__name__})") from error

    def _unfit(self, problem: str, *, fix: str = "is this the address of a server that is ready?") -> ProfilingError:
        return ProfilingError(subject=self.url, problem=problem, fix=fix)


class AnswerStream:
    """The lines of one answer, server-sent events: when its tokens came, and how many they were."""

    def __init__(self) -> None:
        self.first_token_s: float | None = None
        self.last_s = 0.0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._error = ""
        self._done = False

    def take(self, line: bytes) -> None:
        """One line as it came."""
        if not line.startswith(b"data:"):
            return
        now_s = time.monotonic()
        if line.startswith(b"data: [DONE]"):
            self._done = True
            return
        if self.first_token_s is None:
            chunk = _chunk(line)
            self._note(chunk)
            if _has_token(chunk):
                self.first_token_s = self.last_s = now_s
        elif b'"usage":{' in line or b'"usage": {' in line or b'"error"' in line:
            self._note(_chunk(line))
        else:
            self.last_s = now_s

    def _note(self, chunk: Mapping[str, Any]) -> None:
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)
        if chunk.get("error"):
            self._error = str(chunk["error"])[:200]

    def verdict(self) -> tuple[Status, str]:
        """Whether the answer was whole, and what was wrong if not."""
        if self._error:
            return Status.FAILED, self._error
        if self.first_token_s is None or not self._done:
            return Status.FAILED, "the stream ended early"
        if self.output_tokens < 1:
            return Status.FAILED, "the answer does not say how many tokens it has (stream_options.include_usage)"
        return Status.OK, ""


def _chunk(line: bytes) -> dict[str, Any]:
    found = json.loads(line[5:])
    if not isinstance(found, dict):
        raise ValueError(f"a chunk that is no object: {line[:80]!r}")
    return found


def _has_token(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk brings a token: any but the opening one, which names the role and says nothing.

    A token may be half a character, and its text is empty until the other half comes.
    """
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("reasoning_content") or "role" not in delta:
            return True
    return False


def read_page(page: str) -> Scrape | None:
    """What a page of metrics in Prometheus' text format says; None where it is not vLLM's."""
    running, waiting = _total(page, "vllm:num_requests_running"), _total(page, "vllm:num_requests_waiting")
    if running is None or waiting is None:
        return None
    usage = _total(page, "vllm:kv_cache_usage_perc")
    return Scrape(
        running=running,
        waiting=waiting,
        kv_usage=usage if usage is not None else _total(page, "vllm:gpu_cache_usage_perc"),
        preemptions=_total(page, "vllm:num_preemptions_total"),
        kv_tokens=_kv_tokens(page),
    )


def _total(page: str, name: str) -> float | None:
    """The sum over all label sets; None where the metric is absent."""
    values = [
        float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))
    ]
    return sum(values) if values else None


def _kv_tokens(page: str) -> int | None:
    """Blocks times their size, from the labels of the cache's configuration; engines of one server add up."""
    total = 0
    for line in page.splitlines():
        if line.startswith("vllm:cache_config_info{"):
            labels = dict(pair.split('="', 1) for pair in line[line.index("{") + 1 : line.rindex('"}')].split('",'))
            try:
                total += int(labels["num_gpu_blocks"]) * int(labels["block_size"])
            except (KeyError, ValueError):
                return None
    return total or None
