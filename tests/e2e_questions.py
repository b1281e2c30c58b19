"""The load of the story about caches: what people ask an assistant, and how long each answer took. Holds no test.

A third are questions that were asked before, at temperature 0; all share one of a few long system prompts; a third show
one of a few pictures. Open loop: a slow fleet is not asked less.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from inference.profiling.traffic import picture, words

ASSISTANTS = 4
SYSTEM_WORDS = 400
"""Some 1,200 tokens of the tiny model's tokenizer."""
PICTURES = 4
KNOWN_QUESTIONS = 6
OUTPUT_TOKENS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request; `kind` is repeated, fresh or picture."""

    kind: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What became of it."""

    kind: str
    status: int
    took_s: float
    cache: str
    """`x-headstart-cache`; empty where no answer is ever kept."""
    backend: str


def questions(count: int, seed: str) -> list[Question]:
    """The same for the same seed. Two seeds have nothing in common, so no cache knows the other's."""
    dice = random.Random(seed)
    systems = [words(SYSTEM_WORDS, f"{seed} system {each}") for each in range(ASSISTANTS)]
    pictures = [picture(448, 448, f"{seed} picture {each}") for each in range(PICTURES)]
    asked = []
    for number in range(count):
        kind = ("repeated", "fresh", "picture")[number % 3]
        which = dice.randrange(KNOWN_QUESTIONS) if kind == "repeated" else dice.randrange(ASSISTANTS)
        text = words(12, f"{seed} {kind} {which if kind == 'repeated' else number}")
        content: Any = text
        if kind == "picture":
            shown = {"type": "image_url", "image_url": {"url": pictures[which % PICTURES]}}
            content = [shown, {"type": "text", "text": text}]
        asked.append(Question(kind=kind, body=_body(systems[which % ASSISTANTS], content, repeated=kind == "repeated")))
    return asked


def _body(system: str, content: Any, *, repeated: bool) -> dict[str, Any]:
    return {
        "model": "tiny",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": content}],
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "temperature": 0 if repeated else 1.0,
    }


async def play(url: str, asked: Sequence[Question], *, rate_rps: float, seed: str) -> list[Told]:
    """Ask them all, at Poisson arrivals, and wait for every answer."""
    dice, begun, due_s = random.Random(seed), time.monotonic(), 0.0
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits, verify=False, trust_env=False) as client:
        answers = []
        for each in asked:
            due_s += dice.expovariate(rate_rps)
            await asyncio.sleep(max(0.0, begun + due_s - time.monotonic()))
            answers.append(asyncio.create_task(_told(client, each)))
        return list(await asyncio.gather(*answers))


async def _told(client: httpx.AsyncClient, question: Question) -> Told:
    begun = time.monotonic()
    answer = await client.post("/v1/chat/completions", json=question.body)
    return Told(
        kind=question.kind,
        status=answer.status_code,
        took_s=time.monotonic() - begun,
        cache=answer.headers.get("x-headstart-cache", ""),
        backend=answer.headers.get("x-headstart-backend", ""),
    )


def percentile_s(told: Sequence[Told], share: float) -> float:
    """Of the time that answers took; `share` 0.95 is the P95."""
    taken = sorted(each.took_s for each in told)
    return taken[math.ceil(share * len(taken)) - 1]
