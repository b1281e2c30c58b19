"""The same load before and after the caches: kept answers in a real Redis, bounded-load affinity, vLLM's own caches.

Four real vLLM servers live through it, two without any cache of vLLM's and two with. The same kind of load:

    off       no kept answers, least-loaded routing, servers without caches
    on        prefix cache and picture cache, kept answers in Redis, affinity
    vLLM's    the servers' own caches alone (`make e2e`)

The first two at the same time: whatever else the machine does, it does to both.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e_parts import whole
from e2e_questions import Told, percentile_s, play, questions
from gateway_world import GatewayServer, get, redis_server
from servers import free_port
from slow_vllm import fleet, need_room, variant

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1200)]

ASKED = 90
RATE_RPS = 4.0
STEP_TOKENS = 256
"""Most tokens a step computes: a prompt takes steps in proportion to its length, as on a GPU. 1,200 tokens take five
of 26 ms, some 9,000 tokens a second, where the tiny model by itself would read them at once."""

PLAIN = """\
routing: {bound: 1, min_prefix_characters: 1000000}
degradation: {enabled: false}
"""
CACHED = """\
degradation: {enabled: false}
cache: {enabled: true, redis_url_file: redis.url, redis_timeout_s: 5}
"""
COUNTED = ("vllm:prefix_cache_queries", "vllm:prefix_cache_hits", "vllm:mm_cache_queries", "vllm:mm_cache_hits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One of the three."""

    told: Sequence[Told]
    counted: Mapping[str, float]
    """What the servers counted meanwhile."""
    kept_hits: int
    """Answers that the gateway gave again."""

    @property
    def prefix_hit_rate(self) -> float:
        """Tokens of prompts that a server had cached, of those that it was asked."""
        return self.counted["vllm:prefix_cache_hits"] / max(1.0, self.counted["vllm:prefix_cache_queries"])

    @property
    def picture_hit_rate(self) -> float:
        """Pictures that a server had processed before."""
        return self.counted["vllm:mm_cache_hits"] / max(1.0, self.counted["vllm:mm_cache_queries"])

    def row(self, name: str) -> str:
        """For people."""
        by_kind = ", ".join(
            f"{kind} {percentile_s([each for each in self.told if each.kind == kind], 0.5):.2f} s"
            for kind in ("repeated", "fresh", "picture")
        )
        return (
            f"caches {name}: {len(self.told)} answers, {self.kept_hits} kept ones, prefix {self.prefix_hit_rate:.0%}, "
            f"pictures {self.picture_hit_rate:.0%}, P50 {percentile_s(self.told, 0.5):.2f} s, "
            f"P95 {percentile_s(self.told, 0.95):.2f} s; P50 of {by_kind}\n"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All of it."""

    off: Seen
    on: Seen
    servers_own: Seen | None
    """Told by `make e2e` alone."""

    @property
    def all(self) -> tuple[Seen, ...]:
        return (self.off, self.on) if self.servers_own is None else (self.off, self.on, self.servers_own)


@pytest.fixture(scope="module")
def story(vllm_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    need_room(4)
    folder = tmp_path_factory.mktemp("caches")
    bare = variant(
        vllm_environment,
        max_num_batched_tokens=STEP_TOKENS,
        max_image_tokens=STEP_TOKENS,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
    )
    caching = variant(vllm_environment, max_num_batched_tokens=STEP_TOKENS, max_image_tokens=STEP_TOKENS)
    port = free_port()
    (folder / "redis.url").write_text(f"redis://127.0.0.1:{port}/0\n")
    with fleet(vllm_environment, folder, [bare, bare, caching, caching]) as urls, redis_server(port):
        without = Set(name="off", urls=urls[:2], settings=PLAIN)
        cached = Set(name="on", urls=urls[2:], settings=CACHED)
        off, on = live(folder, without, cached)
        (own,) = live(folder, Set(name="of vLLM alone", urls=urls[2:], settings=PLAIN)) if whole() else (None,)
    return Story(off=off, on=on, servers_own=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Servers behind a gateway of their own."""

    name: str
    urls: Sequence[str]
    settings: str


def live(folder: Path, *sets: Set) -> list[Seen]:
    """Each set under a load of its own, all at the same time."""
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(
                GatewayServer(
                    folder_of(folder, each),
                    each.settings,
                    backends=[{"url": url, "model": "tiny"} for url in each.urls],
                )
            )
            for each in sets
        ]
        # What a server computes once in its life is no cache's merit.
        asyncio.run(play_all(gateways, 2, [f"{each.name} warm" for each in sets]))
        before = [counted(each.urls) for each in sets]
        told = asyncio.run(play_all(gateways, ASKED, [each.name for each in sets]))
        after = [counted(each.urls) for each in sets]
        kept = [int(each.sample("headstart_gateway_cache_total", outcome="hit")) for each in gateways]
    seen = []
    for number, each in enumerate(sets):
        grown = {name: after[number][name] - before[number][name] for name in COUNTED}
        seen.append(Seen(told=told[number], counted=grown, kept_hits=kept[number]))
        sys.stdout.write(seen[-1].row(each.name))
    return seen


def folder_of(folder: Path, one: Set) -> Path:
    """Of its gateway, with the address of Redis."""
    own = folder / one.name.replace(" ", "-")
    own.mkdir()
    (own / "redis.url").write_text((folder / "redis.url").read_text())
    return own


async def play_all(gateways: Sequence[GatewayServer], count: int, seeds: Sequence[str]) -> list[list[Told]]:
    """The same kind of load on each, with words of its own."""
    loads = [
        play(gateway.url, questions(count, seed), rate_rps=RATE_RPS, seed="arrivals")
        for gateway, seed in zip(gateways, seeds, strict=True)
    ]
    return list(await asyncio.gather(*loads))


def counted(urls: Sequence[str]) -> dict[str, float]:
    """Sums over the servers; what a server has not counted yet is 0."""
    sums = dict.fromkeys(COUNTED, 0.0)
    for url in urls:
        for line in get(f"{url}/metrics").text.splitlines():
            name = line.partition("{")[0].removesuffix("_total")
            if name in sums:
                sums[name] += float(line.rpartition(" ")[2])
    return sums


def test_every_question_was_answered(story: Story) -> None:
    assert {each.status for seen in story.all for each in seen.told} == {200}


def test_without_caches_nothing_was_cached(story: Story) -> None:
    assert (story.off.prefix_hit_rate, story.off.picture_hit_rate, story.off.kept_hits) == (0.0, 0.0, 0)


def test_vllm_knows_the_system_prompts_and_the_pictures(story: Story) -> None:
    for seen in story.all[1:]:
        assert seen.prefix_hit_rate > 0.5
        assert seen.picture_hit_rate > 0.5


def test_questions_that_were_asked_before_need_no_server(story: Story) -> None:
    repeated = [each for each in story.on.told if each.kind == "repeated"]
    again = [each for each in repeated if each.cache == "hit"]
    assert len(again) == story.on.kept_hits
    assert len(again) >= 0.5 * len(repeated)
    assert all(not each.backend for each in again)
    assert all(each.cache == "bypass" for each in story.on.told if each.kind != "repeated")


def test_half_of_the_answers_come_much_sooner(story: Story) -> None:
    assert percentile_s(story.on.told, 0.5) <= 0.8 * percentile_s(story.off.told, 0.5)


def test_the_slowest_answers_come_sooner_too(story: Story) -> None:
    if not whole():
        pytest.skip("four of ninety answers, which a busy machine delays for reasons of its own: make e2e tells it")
    assert percentile_s(story.on.told, 0.95) <= 0.9 * percentile_s(story.off.told, 0.95)
