"""A replica that streams at a vLLM's pace and a client that measures, both as thin as Python allows. Holds no test.

As a program it is the replica: it prints its port and streams `EVENTS` server-sent events, `PACE_S` apart, or as many
as its argument says, without a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

EVENTS = 32
PACE_S = 0.004
"""Four milliseconds: far faster than a GPU decodes, and still one write an event."""

TEXT = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "token"}}]}
EVENT = b"data: " + json.dumps(TEXT, separators=(",", ":")).encode() + b"\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":32}}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = json.dumps({"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "word " * 100}]}).encode()


def piece(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, events: int, pace_s: float) -> None:
    """Serve one connection."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            if head.startswith(b"get"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                continue
            writer.write(HEAD)
            for _ in range(events):
                writer.write(piece(EVENT))
                await asyncio.sleep(pace_s)
            writer.write(piece(USAGE) + piece(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    writer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one request took, and whether it came whole."""

    first_s: float
    whole_s: float


class Client:
    """Connections that are used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(BODY)}"
        self._request = head.encode() + b"\r\n\r\n" + BODY

    async def ask(self) -> Timing:
        """One streamed request."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        began = time.perf_counter()
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        await reader.readuntil(b"data: ")
        first = time.perf_counter()
        await reader.readuntil(b"data: [DONE]")
        await reader.readuntil(b"0\r\n\r\n")
        whole = time.perf_counter()
        self._idle.append((reader, writer))
        return Timing(first_s=first - began, whole_s=whole - began)

    def close(self) -> None:
        """End them."""
        for _, writer in self._idle:
            writer.close()


async def _closed(client: Client, *, at_once: int, requests: int) -> list[Timing]:
    left = iter(range(requests))
    timings: list[Timing] = []

    async def one() -> None:
        timings.extend([await client.ask() for _ in left])

    await asyncio.gather(*(one() for _ in range(at_once)))
    return timings


async def _open(client: Client, *, rate_rps: float, requests: int) -> list[Timing]:
    chance, due, tasks = random.Random(1), time.perf_counter(), []
    for _ in range(requests):
        due += chance.expovariate(rate_rps)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(client.ask()))
    return list(await asyncio.gather(*tasks))


def closed_loop(port: int, *, at_once: int, requests: int) -> tuple[list[Timing], float]:
    """So many at once, again and again: the timings, and requests a second."""

    async def work() -> tuple[list[Timing], float]:
        client = Client(port)
        began = time.perf_counter()
        timings = await _closed(client, at_once=at_once, requests=requests)
        client.close()
        return timings, requests / (time.perf_counter() - began)

    return asyncio.run(work())


def open_loop(port: int, *, rate_rps: float, requests: int) -> list[Timing]:
    """Requests that come when they come."""

    async def work() -> list[Timing]:
        client = Client(port)
        await _closed(client, at_once=8, requests=8)
        timings = await _open(client, rate_rps=rate_rps, requests=requests)
        client.close()
        return timings

    return asyncio.run(work())


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident_mib(pid: int) -> float:
    """Memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def main() -> None:
    """Be the replica."""
    quick = len(sys.argv) > 1
    serve = functools.partial(replica, events=int(sys.argv[1]) if quick else EVENTS, pace_s=0.0 if quick else PACE_S)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
