"""A real overload of real vLLM servers, as clients see it in the headers of their answers: what is taken back, and that
it is given back.

    calm → more people than slots → shorter answers, smaller pictures → the smaller variant → shed, but for VIPs → calm

Two servers: `tiny` with eight slots, and `tiny-small`, which stands in for it. Nothing waits for a time of day: people
go on asking until every level was seen, however long a busy machine takes for it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import GatewayServer, plain
from inference.profiling.traffic import picture, words
from slow_vllm import fleet, need_room, variant

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1200)]

PEOPLE = 80
"""At once. Eight have a slot and 64 a place in line, which is then full for seconds: long enough for every level."""
ASK_AGAIN_S = 1.0
"""Whoever was refused comes back after that, sooner than told."""
SEEN_WITHIN_S = 180.0
OUTPUT_TOKENS = 48
SHORT_TOKENS = 16
LARGE_TOKENS, SMALL_TOKENS = 196, 64
"""Of a picture of 448×448 pixels: as it is, and as level 1 lets it be."""
SHED = "3"

SETTINGS = f"""\
models: [{{name: tiny, fallback: tiny-small}}]
tenants_file: tenants.yaml
slo: {{e2e_s: [3.0], ttft_s: [1.0]}}
routing: {{slots_per_capacity: 8}}
queue: {{max_waiting: 64, deadline_s: 120}}
degradation:
  rise_after_s: 1
  fall_after_s: 2
  max_output_tokens: {SHORT_TOKENS}
  max_image_pixels: {SMALL_TOKENS * 32 * 32}
"""
KEYS = {"people": "key-of-people", "gold": "key-of-gold"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """As one person saw it."""

    asked_s: float
    """Of a clock that all of them share."""
    status: int
    level: str
    changes: tuple[str, ...]
    model: str
    output_tokens: int | None
    prompt_tokens: int | None
    pictured: bool
    code: str
    retry_after: str | None


@dataclass(slots=True, kw_only=True)
class Story:
    """Everything that was answered, by chapter."""

    before: list[Answer] = field(default_factory=list)
    crowd: list[Answer] = field(default_factory=list)
    gold: list[Answer] = field(default_factory=list)
    """The VIP's, in the crowd."""
    after: list[Answer] = field(default_factory=list)


def ask(client: httpx.Client, url: str, who: str, number: int, *, pictured: bool) -> Answer:
    text: Any = words(12, f"{who} {number}")
    if pictured:
        shown = {"type": "image_url", "image_url": {"url": picture(448, 448, f"{who} {number}")}}
        text = [shown, {"type": "text", "text": text}]
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
    }
    headers = {"authorization": f"Bearer {KEYS[who]}", "content-type": "application/json"}
    asked_s = time.monotonic()
    answer = client.post(f"{url}/v1/chat/completions", content=json.dumps(body), headers=headers, timeout=240.0)
    document = answer.json()
    level, *changes = answer.headers["x-headstart-degradation"].split("; ")
    usage = document.get("usage", {})
    return Answer(
        asked_s=asked_s,
        status=answer.status_code,
        level=level,
        changes=tuple(changes),
        model=answer.headers.get("x-headstart-model", ""),
        output_tokens=usage.get("completion_tokens"),
        prompt_tokens=usage.get("prompt_tokens"),
        pictured=pictured,
        code=document.get("error", {}).get("code", ""),
        retry_after=answer.headers.get("retry-after"),
    )


class Crowd:
    """People who ask again as soon as they are answered, in threads of their own."""

    def __init__(self, url: str, seen: Story) -> None:
        self._url, self._seen = url, seen
        self._over = threading.Event()
        people = [("people", number, seen.crowd) for number in range(PEOPLE)]
        self._threads = [
            threading.Thread(target=self._live, args=each, daemon=True) for each in (*people, ("gold", 0, seen.gold))
        ]

    def _live(self, who: str, number: int, kept: list[Answer]) -> None:
        with plain() as client:
            turn = 0
            while not self._over.is_set():
                answer = ask(client, self._url, who, 1000 * number + turn, pictured=(number + turn) % 3 == 0)
                kept.append(answer)
                turn += 1
                if answer.status != httpx.codes.OK:
                    self._over.wait(ASK_AGAIN_S)

    def until(self, holds: Callable[[], bool]) -> None:
        """Ask until it holds, or for as long as anybody would wait."""
        for each in self._threads:
            each.start()
        ends = time.monotonic() + SEEN_WITHIN_S
        while not holds() and time.monotonic() < ends:
            time.sleep(0.2)
        self._over.set()
        for each in self._threads:
            each.join(timeout=240)


@pytest.fixture(scope="module")
def story(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    need_room(2)
    folder = tmp_path_factory.mktemp("overload")
    tenants = [
        {"name": who, "priority": "vip" if who == "gold" else "normal", "keys_sha256": [sha256(key)]}
        for who, key in KEYS.items()
    ]
    (folder / "tenants.yaml").write_text(json.dumps({"kind": "Tenants", "tenants": tenants}))
    large_one = variant(vllm_environment, trust_request_mm_kwargs=True)
    small_one = variant(vllm_environment, trust_request_mm_kwargs=True, served_model_name="tiny-small")
    seen = Story()
    with fleet(vllm_environment, folder, [large_one, small_one]) as (large, small):
        backends = [{"url": large, "model": "tiny"}, {"url": small, "model": "tiny-small"}]
        with GatewayServer(folder, SETTINGS, backends=backends) as gateway, plain() as client:
            seen.before = [ask(client, gateway.url, "people", -1 - each, pictured=each == 0) for each in range(3)]
            Crowd(gateway.url, seen).until(lambda: all_was_seen(seen))
            ends = time.monotonic() + SEEN_WITHIN_S
            while not (seen.after and seen.after[-1].level == "0") and time.monotonic() < ends:
                seen.after.append(ask(client, gateway.url, "people", -100 - len(seen.after), pictured=False))
            seen.after.append(ask(client, gateway.url, "people", -50, pictured=True))
    served = [each for each in seen.crowd if each.status == httpx.codes.OK]
    sys.stdout.write(
        f"overload: {len(served)} of {len(seen.crowd)} answers to {PEOPLE} people, "
        + ", ".join(f"{len(at(seen.crowd, level))} at level {level}" for level in "0123")
        + f"; all {len(seen.gold)} of the VIP; {len(seen.after)} answers until level 0 again\n"
    )
    return seen


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def at(answers: list[Answer], level: str) -> list[Answer]:
    return [each for each in answers if each.level == level]


def all_was_seen(seen: Story) -> bool:
    """Every level's answers, and a VIP's in the worst of it."""
    answers = list(seen.crowd)
    changes = {change for each in answers for change in each.changes}
    return (
        {"0", "1", "2", SHED} <= {each.level for each in answers}
        and {"shorter-output", "smaller-images", "smaller-model"} <= changes
        and any(each.status == httpx.codes.OK and each.pictured for each in answers if "smaller-images" in each.changes)
        and len(at(list(seen.gold), SHED)) >= 1
    )


def test_in_calm_nothing_is_changed_and_the_header_says_so(story: Story) -> None:
    assert {(each.status, each.level, each.changes, each.model) for each in story.before} == {(200, "0", (), "tiny")}
    assert {each.output_tokens for each in story.before} == {OUTPUT_TOKENS}


def test_the_level_rises_one_by_one(story: Story) -> None:
    first = [min(each.asked_s for each in at(story.crowd, level)) for level in "0123"]
    assert first == sorted(first)


def test_an_answer_that_was_cut_says_so_and_no_other_is(story: Story) -> None:
    for each in story.crowd:
        if each.status == httpx.codes.OK:
            short = "shorter-output" in each.changes
            assert each.output_tokens == (SHORT_TOKENS if short else OUTPUT_TOKENS)
            assert short == (each.level != "0")


def test_a_picture_that_was_made_smaller_says_so_and_no_other_is(story: Story) -> None:
    pictured = [each for each in story.crowd if each.pictured and each.status == httpx.codes.OK]
    for each in pictured:
        assert each.prompt_tokens is not None
        if "smaller-images" in each.changes:
            assert SMALL_TOKENS <= each.prompt_tokens < LARGE_TOKENS
        else:
            assert each.prompt_tokens > LARGE_TOKENS


def test_from_level_2_on_the_smaller_variant_answers_and_is_named(story: Story) -> None:
    smaller = [each for each in story.crowd if "smaller-model" in each.changes]
    assert smaller
    assert {each.level for each in smaller} == {"2"}
    assert {each.model for each in smaller} == {"tiny-small"}


def test_whoever_is_refused_hears_why_and_when_to_come_back(story: Story) -> None:
    refused = [each for each in story.crowd if each.status != httpx.codes.OK]
    assert {(each.status, each.code) for each in refused} <= {(503, "shed"), (503, "queue_full")}
    assert all(each.retry_after is not None and int(each.retry_after) >= 1 for each in refused)
    assert {each.code for each in at(refused, SHED)} == {"shed"}


def test_a_vip_is_served_in_full_at_every_level(story: Story) -> None:
    assert {each.status for each in story.gold} == {200}
    assert {(each.changes, each.output_tokens, each.model) for each in story.gold} == {((), OUTPUT_TOKENS, "tiny")}


def test_afterwards_it_falls_back_and_everything_is_as_before(story: Story) -> None:
    levels = [int(each.level) for each in story.after]
    assert levels == sorted(levels, reverse=True)
    last = story.after[-1]
    assert (last.status, last.level, last.changes, last.model) == (200, "0", (), "tiny")
    assert last.output_tokens == OUTPUT_TOKENS
    assert last.prompt_tokens is not None
    assert last.prompt_tokens > LARGE_TOKENS
