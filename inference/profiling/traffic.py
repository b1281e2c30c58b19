"""What is sent, and when: seeded Poisson arrivals, words that no cache has seen, pictures made on the spot.

Pure: the same seed gives the same bytes. Nothing here knows what time it is.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from inference.profiling.plan import RequestClass

_WORDS = (
    *("apple", "river", "stone", "cloud", "paper", "light", "green", "table", "music", "winter", "garden", "letter"),
    *("window", "bridge", "silver", "market", "doctor", "engine", "forest", "island", "number", "people", "school"),
    *("summer", "travel", "copper", "planet", "shadow", "castle", "butter", "motion", "record", "season", "signal"),
)


def arrivals(rate_rps: float, shares: Mapping[str, float], seed: str) -> Iterator[tuple[float, str]]:
    """Moments in seconds from 0 on, without end, and the class of each: a Poisson process, classes drawn by share."""
    dice, at = random.Random(seed), 0.0
    names, weights = list(shares), list(shares.values())
    while True:
        at += dice.expovariate(rate_rps)
        yield at, dice.choices(names, weights)[0]


def words(count: int, seed: str) -> str:
    """So many words, in an order of their own: a prefix cache finds nothing but the template."""
    return " ".join(random.Random(seed).choices(_WORDS, k=count))


def picture(width: int, height: int, seed: str) -> str:
    """A picture of grey noise in blocks of 16 pixels, as a data URL; each seed has its own.

    Blocks, because noise in every pixel would be a PNG of megabytes, and an encoder's work depends on size alone.
    """
    dice, rows, row = random.Random(seed), bytearray(), b""
    for y in range(height):
        if y % 16 == 0:
            blocks = b"".join(bytes((shade,)) * 16 for shade in dice.randbytes(-(-width // 16)))
            row = b"\0" + blocks[:width]
        rows += row
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    png = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(rows), 1)) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG is a row of these: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def body(model: str, one: RequestClass, *, word_count: int, seed: str, with_image: bool = True) -> dict[str, Any]:
    """A streamed chat completion with exactly the class's output: `ignore_eos` is vLLM's own word for that."""
    text = words(word_count, seed)
    content: Any = text
    if one.has_image and with_image:
        image = {"type": "image_url", "image_url": {"url": picture(one.image_width, one.image_height, seed)}}
        content = [image, {"type": "text", "text": text}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": one.output_tokens,
        "ignore_eos": True,
        "temperature": 0.8,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
