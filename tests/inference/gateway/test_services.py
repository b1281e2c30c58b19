"""What the gateway does beyond passing on: answers kept, requests made smaller, models that stand in, pools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway_world import PNG, FakeVllm, GatewayServer, ask, backend, chat, eventually, get, replicas

pytestmark = pytest.mark.server

CACHE = "cache: {enabled: true}\n"
TENANTS = (
    "kind: Tenants\ntenants:\n"
    "  - {name: usual, keys_sha256: [2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b]}\n"
    "  - {name: gold, priority: vip, "
    "keys_sha256: [1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032]}\n"
)
USUAL, GOLD = "Bearer secret", "Bearer letmein"


@pytest.fixture(scope="module")
def pair() -> Iterator[list[FakeVllm]]:
    with replicas("one", "two") as both:
        yield both


@pytest.fixture
def one(pair: list[FakeVllm]) -> FakeVllm:
    pair[0].behave()
    return pair[0]


@pytest.fixture
def two(pair: list[FakeVllm]) -> FakeVllm:
    pair[1].behave()
    return pair[1]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


# ── Answers kept ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
def test_the_same_question_is_answered_once(tmp_path: Path, one: FakeVllm, stream: bool) -> None:
    with GatewayServer(tmp_path, CACHE, backends=[backend(one)]) as gateway:
        before = one.seen["started"]
        question = chat("2 + 2", stream=stream, temperature=0)
        first, again = ask(gateway, question), ask(gateway, question)

        assert (first.headers["x-headstart-cache"], again.headers["x-headstart-cache"]) == ("miss", "hit")
        assert (again.content, again.headers["content-type"]) == (first.content, first.headers["content-type"])
        assert one.seen["started"] == before + 1
        # A hit needs no replica, so it is no demand; a look-up is counted all the same.
        assert gateway.sample("headstart_gateway_requests_total") == 1
        assert gateway.sample("headstart_gateway_cache_total", outcome="hit") == 1


@pytest.mark.parametrize(
    ("more", "header", "told"),
    [
        pytest.param({"temperature": 0.5}, None, "bypass", id="chance"),
        pytest.param({"temperature": 0}, "no-store", "bypass", id="the client's word against it"),
        pytest.param({"temperature": 0}, "refresh", "refresh", id="a fresh one is wanted"),
        pytest.param({"temperature": 0.5}, "allow", "hit", id="the client's word"),
    ],
)
def test_what_is_asked_twice(
    tmp_path: Path, one: FakeVllm, more: dict[str, Any], header: str | None, told: str
) -> None:
    headers = {} if header is None else {"x_headstart_cache": header}
    with GatewayServer(tmp_path, CACHE, backends=[backend(one)]) as gateway:
        ask(gateway, chat("a", **more), **headers)
        assert ask(gateway, chat("a", **more), **headers).headers["x-headstart-cache"] == told


@pytest.mark.parametrize("how", [{"status": 400}, {"tokens": 400, "size": 1000}])
def test_an_error_or_a_very_long_answer_is_not_kept(tmp_path: Path, one: FakeVllm, how: dict[str, Any]) -> None:
    with GatewayServer(tmp_path, CACHE, backends=[backend(one)]) as gateway:
        for _ in range(2):
            answer = ask(gateway, chat("a", stream=True, temperature=0, fake=how))
            assert answer.headers["x-headstart-cache"] == "miss"


def test_one_tenants_answers_are_not_anothers(tmp_path: Path, one: FakeVllm) -> None:
    (tmp_path / "tenants.yaml").write_text(TENANTS)
    more = CACHE + "tenants_file: tenants.yaml\n"
    with GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        told = [
            ask(gateway, chat(temperature=0), authorization=key).headers["x-headstart-cache"]
            for key in (USUAL, GOLD, USUAL)
        ]
    assert told == ["miss", "miss", "hit"]


# ── What is taken back ────────────────────────────────────────────────────────────────────────────────────────────

EAGER = (
    "routing: {slots_per_capacity: 2}\nqueue: {max_waiting: 4}\ntenants_file: tenants.yaml\n"
    "degradation: {rise_after_s: 0, fall_after_s: 0.3, max_output_tokens: 50, max_image_pixels: 250000}\n"
)


def test_overload_shortens_then_sheds_all_but_vips_and_is_over_when_it_is_over(
    tmp_path: Path, one: FakeVllm, pool: ThreadPoolExecutor
) -> None:
    (tmp_path / "tenants.yaml").write_text(TENANTS)
    with GatewayServer(tmp_path, EAGER, backends=[backend(one)]) as gateway:

        def level() -> float:
            return gateway.sample("headstart_gateway_degradation_level", model="tiny")

        one.behave(closed=True)
        before = one.seen["started"]
        requests = [pool.submit(ask, gateway, chat(), authorization=USUAL) for _ in range(2)]
        eventually(lambda: one.seen["started"] == before + 2, "the first never came")
        eventually(lambda: level() == 1, "full slots change nothing")
        changed = pool.submit(
            ask, gateway, chat(max_tokens=900) | {"messages": picture_messages()}, authorization=USUAL
        )
        eventually(lambda: gateway.sample("headstart_gateway_waiting") == 1, "it does not wait")
        requests += [pool.submit(ask, gateway, chat(), authorization=GOLD) for _ in range(2)]
        eventually(lambda: level() == 3, "a long line sheds nothing")
        shed = ask(gateway, chat(), authorization=USUAL)
        vip = pool.submit(ask, gateway, chat(max_tokens=900), authorization=GOLD)
        eventually(lambda: gateway.sample("headstart_gateway_waiting") == 4, "the VIP does not wait")
        one.behave()

        assert shed.status_code == 503
        assert shed.json()["error"]["code"] == "shed"
        assert shed.headers["x-headstart-degradation"] == "3"
        assert int(shed.headers["retry-after"]) >= 1
        assert changed.result().headers["x-headstart-degradation"] == "1; shorter-output; smaller-images"
        assert vip.result().headers["x-headstart-degradation"] == "3"
        assert all(each.result().status_code == 200 for each in requests)
        # Those that were shed are demand: the scaler must see them.
        assert gateway.sample("headstart_gateway_requests_total") == 7
        assert gateway.sample("headstart_gateway_requests_total", priority="vip") == 3

        eventually(lambda: level() == 0, "it never recovers")
        whole = ask(gateway, chat(max_tokens=900), authorization=USUAL)
        assert whole.headers["x-headstart-degradation"] == "0"
        assert one.seen["body"]["max_tokens"] == 900


def picture_messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}]


def test_a_degraded_request_reaches_the_replica_smaller_and_its_answer_is_not_kept(
    tmp_path: Path, one: FakeVllm, pool: ThreadPoolExecutor
) -> None:
    more = (
        CACHE + "routing: {slots_per_capacity: 1}\n"
        "degradation: {rise_after_s: 0, fall_after_s: 600, max_output_tokens: 50, max_image_pixels: 250000}\n"
    )
    with GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        one.behave(closed=True)
        before = one.seen["started"]
        first = pool.submit(ask, gateway, chat())
        eventually(lambda: one.seen["started"] == before + 1, "the first never came")
        eventually(lambda: gateway.sample("headstart_gateway_degradation_level") == 1, "nothing is taken back")
        one.behave()
        first.result()
        its_own = {"images_kwargs": {"size": {"longest_edge": 10**9}}}
        question = chat(temperature=0, max_tokens=900, mm_processor_kwargs=its_own) | {"messages": picture_messages()}
        told = [ask(gateway, question).headers["x-headstart-cache"] for _ in range(2)]

        assert told == ["miss", "miss"]
        assert one.seen["body"]["max_tokens"] == 50
        assert one.seen["body"]["mm_processor_kwargs"] == {"images_kwargs": {"size": {"longest_edge": 250_000}}}
        assert gateway.sample("headstart_gateway_degraded_total", change="smaller-images") == 2


def test_where_replicas_obey_requests_only_the_gateway_names_a_size_of_pictures(tmp_path: Path, one: FakeVllm) -> None:
    its_own = {"images_kwargs": {"size": {"longest_edge": 10**9}}}
    for more, expected in (("", its_own), ("degradation: {max_image_pixels: 250000}\n", None)):
        with GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
            ask(gateway, chat(mm_processor_kwargs=its_own))
        assert one.seen["body"]["mm_processor_kwargs"] == expected


def test_under_overload_the_smaller_variant_answers_and_kept_answers_are_preferred(
    tmp_path: Path, one: FakeVllm, two: FakeVllm, pool: ThreadPoolExecutor
) -> None:
    more = (
        CACHE + "routing: {slots_per_capacity: 1}\nqueue: {max_waiting: 4}\n"
        "degradation: {rise_after_s: 0, fall_after_s: 600}\nmodels: [{name: big, fallback: small}]\n"
    )
    backends = [backend(one, model="big"), backend(two, model="small")]
    with GatewayServer(tmp_path, more, backends=backends) as gateway:
        ask(gateway, chat("kept", model="big", temperature=0))
        one.behave(closed=True)
        before = one.seen["started"]
        held = [pool.submit(ask, gateway, chat(model="big")) for _ in range(2)]
        eventually(lambda: one.seen["started"] == before + 1, "the first never came")
        eventually(lambda: gateway.sample("headstart_gateway_degradation_level", model="big") == 2, "no level 2")
        smaller = ask(gateway, chat(model="big"))
        kept = ask(gateway, chat("kept", model="big", temperature=0.9))
        one.behave()

        assert smaller.headers["x-headstart-model"] == "small"
        assert "smaller-model" in smaller.headers["x-headstart-degradation"]
        assert two.seen["body"]["model"] == "small"
        assert kept.headers["x-headstart-cache"] == "preferred"
        assert all(each.result().status_code == 200 for each in held)
        assert gateway.sample("headstart_gateway_requests_total", model="big") == 4


# ── Who answers ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_easy_tasks_go_to_the_small_model_and_hard_ones_to_the_large(
    tmp_path: Path, one: FakeVllm, two: FakeVllm
) -> None:
    more = "models: [{name: auto, by_complexity: {simple: small, moderate: small, complex: large}}]\n"
    backends = [backend(one, model="small"), backend(two, model="large")]
    with GatewayServer(tmp_path, more, backends=backends) as gateway:
        ready = {each["id"]: each["ready"] for each in get(f"{gateway.url}/v1/models").json()["data"]}
        assert ready == {"auto": True, "large": True, "small": True}
        easy, hard = ask(gateway, chat(model="auto")), ask(gateway, chat(model="auto", tools=[{}]))

        assert (easy.headers["x-headstart-model"], hard.headers["x-headstart-model"]) == ("small", "large")
        assert two.seen["body"]["model"] == "large"
        assert gateway.sample("headstart_gateway_requests_total", model="large") == 1
        gateway.write(backends[:1])
        eventually(lambda: len(gateway.shown()) == 1, "the file was not read again")
        assert ask(gateway, chat(model="auto", tools=[{}])).json()["error"]["code"] == "model_asleep"


def test_a_switch_between_variants_loses_no_request(
    tmp_path: Path, one: FakeVllm, two: FakeVllm, pool: ThreadPoolExecutor
) -> None:
    def at(old: float, new: float, state: str = "ready") -> list[dict[str, Any]]:
        return [
            backend(one, model="chat", serves="8b", weight=old, state=state),
            backend(two, model="chat", serves="4b", weight=new),
        ]

    with GatewayServer(tmp_path, backends=at(1, 0)) as gateway:
        answers = []
        for step in (at(1, 0), at(0.5, 0.5), at(0, 1), at(0, 1, "draining")):
            gateway.write(step)
            eventually(
                lambda wanted=step: all(gateway.shown()[each["url"]]["weight"] == each["weight"] for each in wanted),
                "the file was not read again",
            )
            answers.append(list(pool.map(lambda _: ask(gateway, chat(model="chat")), range(30))))

        assert all(each.status_code == 200 for stage in answers for each in stage)
        shares = [Counter(each.headers["x-headstart-model"] for each in stage) for stage in answers]
        assert (shares[0]["8b"], shares[2]["4b"], shares[3]["4b"]) == (30, 30, 30)
        assert 3 <= shares[1]["4b"] <= 27
        assert two.seen["body"]["model"] == "4b"


def test_a_class_uses_its_own_pool_and_spills_over_when_that_is_full(
    tmp_path: Path, one: FakeVllm, two: FakeVllm, pool: ThreadPoolExecutor
) -> None:
    more = "routing: {slots_per_capacity: 1}\nclasses: [{name: gui, min_images: 1, pools: [gui, default]}]\n"
    backends = [backend(one, pool="gui"), backend(two)]
    with GatewayServer(tmp_path, more, backends=backends) as gateway:
        question = chat() | {"messages": picture_messages()}
        first = ask(gateway, question)
        assert (first.headers["x-headstart-class"], first.headers["x-headstart-backend"]) == ("gui", one.url)
        eventually(lambda: gateway.shown()[one.url]["in_flight"] == 0, "its slot is still held")
        one.behave(closed=True)
        before = one.seen["started"]
        held = pool.submit(ask, gateway, question)
        eventually(lambda: one.seen["started"] == before + 1, "the first never came")
        assert ask(gateway, question).headers["x-headstart-backend"] == two.url
        one.behave()
        assert held.result().status_code == 200
        assert gateway.sample("headstart_gateway_requests_total", request_class="gui") == 3


def test_the_same_picture_meets_the_same_replica(tmp_path: Path, one: FakeVllm, two: FakeVllm) -> None:
    with GatewayServer(tmp_path, backends=[backend(one), backend(two)]) as gateway:
        question = chat() | {"messages": picture_messages()}
        assert len({ask(gateway, question).headers["x-headstart-backend"] for _ in range(12)}) == 1


def test_replicas_are_found_by_name(tmp_path: Path, one: FakeVllm) -> None:
    more = f"backends: {{dns: [{{name: localhost, model: tiny, port: {one.port}}}]}}\n"
    with GatewayServer(tmp_path, more) as gateway:
        eventually(lambda: ask(gateway, chat()).status_code == 200, "the name was not resolved")
        assert f"http://127.0.0.1:{one.port}" in gateway.shown()
