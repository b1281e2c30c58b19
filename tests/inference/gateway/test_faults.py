"""What may go wrong before and behind the gateway, one story each: real HTTP, real processes that die."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_world import (
    PNG,
    WITHIN_S,
    FakeVllm,
    GatewayServer,
    Stream,
    ask,
    backend,
    chat,
    eventually,
    replicas,
)

pytestmark = pytest.mark.server

ONE_SLOT = "routing: {slots_per_capacity: 1}\n"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def in_flight(gateway: GatewayServer) -> int:
    return sum(each["in_flight"] for each in gateway.shown().values())


def picture(url: str) -> dict[str, Any]:
    body = chat()
    body["messages"][0]["content"] = [{"type": "image_url", "image_url": {"url": url}}]
    return body


def held(gateway: GatewayServer, pool: ThreadPoolExecutor, replica: FakeVllm) -> Future[httpx.Response]:
    """A request that holds a slot until the replica is told to behave."""
    before = replica.seen["started"]
    replica.behave(closed=True)
    future = pool.submit(ask, gateway, chat())
    eventually(lambda: replica.seen["started"] > before, "the first request never came")
    return future


# ── Behind it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_replica_costs_its_streams_and_nothing_else(tmp_path: Path) -> None:
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, backends=[backend(one), backend(two)]) as gate:
        two.behave(closed=True)
        one.behave(closed=True)
        streams = [Stream(gate, tokens=20, held_at=2) for _ in range(8)]
        eventually(lambda: all(each.text.count("data:") == 2 for each in streams), "not all streams have begun")
        assert {each["in_flight"] for each in gate.shown().values()} == {4}
        one.kill()
        two.behave()
        after = [ask(gate, chat(stream=True)) for _ in range(6)]

        assert sorted(each.ended().is_whole for each in streams) == [False] * 4 + [True] * 4
        assert all(each.status_code == 200 and each.text.endswith("[DONE]\n\n") for each in after)
        eventually(lambda: gate.shown()[one.url]["standing"] == "ejected", "the dead one still gets requests")
        eventually(lambda: len(gate.log.of("request")) == 14, "not all are recorded")
        assert Counter(each["outcome"] for each in gate.log.of("request")) == {"served": 10, "cut_off": 4}
        eventually(lambda: in_flight(gate) == 0, "a slot was lost")


def test_a_stream_that_is_cut_off_says_so_and_does_not_end_like_a_whole_one(tmp_path: Path) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        body = json.dumps(chat(stream=True, fake={"tokens": 5, "pause_s": 0.05, "drop_after": 2}))
        with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", content=body, timeout=WITHIN_S) as answer:
            text = ""
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - what came before it counts
                for piece in answer.iter_text():
                    text += piece
        assert "upstream_failed" in text
        assert "[DONE]" not in text


def test_a_replica_that_dies_before_its_first_byte_costs_nothing(tmp_path: Path) -> None:
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, backends=[backend(one), backend(two)]) as gate:
        one.behave(drop_after=0)
        answers = [ask(gate, chat()) for _ in range(6)]

        assert [each.status_code for each in answers] == [200] * 6
        assert {each.headers["x-headstart-backend"] for each in answers} == {two.url}


def test_a_replica_that_answers_500_is_retried_elsewhere_and_then_taken_out(tmp_path: Path) -> None:
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, backends=[backend(one), backend(two)]) as gate:
        one.behave(status=500)
        for _ in range(100):  # each begins at either of them by chance: of 12, one in fifty times fewer than three do
            assert ask(gate, chat()).status_code == 200
            if gate.shown()[one.url]["standing"] == "ejected":
                break

        assert gate.shown()[one.url]["standing"] == "ejected"
        assert gate.sample("headstart_gateway_ejections_total", model="tiny") == 1
        assert gate.sample("headstart_gateway_retries_total") == one.seen["started"] == 3


def test_a_request_that_breaks_every_replica_does_not_take_the_fleet_out(tmp_path: Path) -> None:
    with replicas("one", "two") as pair, GatewayServer(tmp_path, backends=[backend(each) for each in pair]) as gate:
        for _ in range(10):
            assert ask(gate, chat(fake={"status": 500})).status_code == 500
        assert ask(gate, chat()).status_code == 200


def test_a_replica_that_is_sick_by_its_own_word_is_taken_out_and_comes_back(tmp_path: Path) -> None:
    more = "health: {probe_every_s: 0.05, ejected_s: 0.2}\n"
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, more) as gateway:
        gateway.write([backend(one), backend(two)])
        eventually(lambda: len(gateway.shown()) == 2, "the file was not read")
        one.behave(sick=True)
        eventually(lambda: not gateway.shown()[one.url]["healthy"], "the sick one stays in")
        assert {ask(gateway, chat()).headers["x-headstart-backend"] for _ in range(6)} == {two.url}
        one.behave()
        eventually(lambda: gateway.shown()[one.url]["standing"] != "ejected", "it gets no trial")
        eventually(
            lambda: ask(gateway, chat()).status_code == 200 and gateway.shown()[one.url]["healthy"],
            "it does not come back",
        )


def test_a_replica_that_is_frozen_is_given_up(tmp_path: Path) -> None:
    more = "upstream: {silence_timeout_s: 0.3, connect_timeout_s: 0.3}\n"
    with replicas("one") as (one,), GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        one.signal(signal.SIGSTOP)
        try:
            answer = ask(gateway, chat())
        finally:
            one.signal(signal.SIGCONT)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "upstream_timeout"


def test_without_any_replica_the_answer_is_503_with_retry_after_and_an_arrival_is_counted(tmp_path: Path) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        gateway.write([])
        eventually(lambda: not gateway.shown(), "the file was not read again")
        answer = ask(gateway, chat())

        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_asleep"
        assert answer.headers["retry-after"] == "15"
        eventually(lambda: bool(gateway.log.of("request")), "nothing was logged")
        assert gateway.log.of("request")[0]["reason"] == "model_asleep"
        assert gateway.sample("headstart_gateway_requests_total", model="tiny", request_class="default") == 1
        gateway.write([backend(one)])
        eventually(lambda: ask(gateway, chat()).status_code == 200, "it does not wake up")


def test_all_replicas_dead_is_503_and_over_when_one_is_back(tmp_path: Path) -> None:
    more = "health: {probe_every_s: 0.05, ejected_s: 0.2}\n"
    with replicas("one") as (one,), GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        one.kill()
        eventually(lambda: ask(gateway, chat()).status_code == 503, "the dead one still gets requests")
        assert ask(gateway, chat()).json()["error"]["code"] in ("no_healthy_backend", "upstream_failed")
        with FakeVllm("one", one.port):
            eventually(lambda: ask(gateway, chat()).status_code == 200, "it does not come back")


def test_a_model_that_only_the_settings_know_sleeps_and_one_that_nobody_knows_is_404(tmp_path: Path) -> None:
    with GatewayServer(tmp_path, "models: [{name: night}]\nclasses: [{name: gui}]\n", backends=[]) as gateway:
        # Its demand is there before the first request: a rate would not see a series begin.
        series = 'headstart_gateway_requests_total{model="night",priority="normal",request_class="gui"} 0.0'
        assert series in gateway.page()
        assert ask(gateway, chat(model="night")).status_code == 503
        assert ask(gateway, chat(model="nothing")).status_code == 404
        assert 'model="nothing"' not in gateway.page()


def test_a_broken_backends_file_keeps_the_last_good_one_and_says_so(tmp_path: Path) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        gateway.file.write_text('{"kind": "Backends", "backends": [{"url": ')
        eventually(lambda: any(each["outcome"] == "kept" for each in gateway.log.of("source")), "nothing was said")

        assert ask(gateway, chat()).status_code == 200
        assert gateway.sample("headstart_gateway_reloads_total", outcome="kept") == 1


def test_a_draining_replica_gets_nothing_new_and_loses_nothing(tmp_path: Path) -> None:
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        one.behave(closed=True)
        streams = [Stream(gateway, tokens=10, held_at=5) for _ in range(5)]
        eventually(lambda: one.seen["started"] == 5, "not all streams have begun")
        gateway.write([backend(one, state="draining"), backend(two)])
        eventually(lambda: gateway.shown()[one.url]["state"] == "draining", "the file was not read again")
        assert gateway.shown()[one.url]["in_flight"] == 5
        assert {ask(gateway, chat()).headers["x-headstart-backend"] for _ in range(4)} == {two.url}
        one.behave()

        assert all(each.ended().is_whole for each in streams)
        eventually(lambda: gateway.shown()[one.url]["in_flight"] == 0, "it never empties")
        assert one.seen["finished"] == 5


def test_a_removed_replica_is_shown_until_its_last_stream_is_over(tmp_path: Path) -> None:
    with replicas("one", "two") as (one, two), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        one.behave(closed=True)
        stream = Stream(gateway, tokens=10, held_at=5)
        eventually(lambda: one.seen["started"] == 1, "the stream has not begun")
        gateway.write([backend(two)])
        eventually(lambda: gateway.shown()[one.url]["state"] == "removed", "the file was not read again")
        one.behave()

        assert stream.ended().is_whole
        eventually(lambda: one.url not in gateway.shown(), "it is never forgotten")


# ── Before it ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request_at_the_replica(tmp_path: Path, stream: bool) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WITHIN_S)
        how = {"tokens": 1000, "pause_s": 0.05} if stream else {"hang": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(chat(stream=stream, fake=how)))
        eventually(lambda: one.seen["started"] == 1, "the request never came")
        connection.close()

        eventually(lambda: one.seen["cancelled"] == 1, "the replica still works for nobody")
        eventually(lambda: in_flight(gateway) == 0, "the slot is still held")
        eventually(lambda: [each["outcome"] for each in gateway.log.of("request")] == ["client_left"], "not recorded")


def test_a_client_that_leaves_the_line_is_not_served(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, ONE_SLOT, backends=[backend(one)]) as gateway:
        first = held(gateway, pool, one)
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WITHIN_S)
        connection.request("POST", "/v1/chat/completions", json.dumps(chat()))
        eventually(lambda: gateway.sample("headstart_gateway_waiting") == 1, "it does not wait")
        connection.close()

        eventually(lambda: gateway.sample("headstart_gateway_waiting") == 0, "it still waits")
        one.behave()
        assert first.result().status_code == 200
        assert one.seen["started"] == 1


def test_a_client_that_takes_nothing_is_cut_off_and_its_replica_is_free(tmp_path: Path) -> None:
    more = "limits: {write_timeout_s: 0.3}\n"
    with replicas("one") as (one,), GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        body = json.dumps(chat(stream=True, fake={"tokens": 5000, "size": 20_000})).encode()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", gateway.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)

        eventually(lambda: one.seen["cancelled"] == 1, "the replica still sends")
        eventually(lambda: in_flight(gateway) == 0, "the slot is still held")
        eventually(lambda: [each["outcome"] for each in gateway.log.of("request")] == ["client_slow"], "not recorded")
        client.close()


@pytest.mark.parametrize("announced", [True, False])
def test_a_huge_body_is_413_and_never_reaches_a_replica(tmp_path: Path, announced: bool) -> None:
    more = "limits: {max_body_bytes: 100000}\n"
    with replicas("one") as (one,), GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:
        piece = b"x" * 50_000
        content: Any = piece * 60 if announced else iter([piece] * 60)
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=content, timeout=WITHIN_S)

        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
        assert one.seen["started"] == 0


def test_a_body_that_never_comes_is_408(tmp_path: Path) -> None:
    with (
        GatewayServer(tmp_path, "limits: {body_timeout_s: 0.2}\n", backends=[]) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=WITHIN_S) as client,
    ):
        client.sendall(b'POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"mod')
        assert b" 408 " in client.recv(4096).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(PNG[:-3], id="cut off"),
        pytest.param("data:image/png;base64,????", id="no base64"),
        pytest.param("data:image/png;base64,aGVsbG8gd29ybGQh", id="no picture"),
        pytest.param("file:///etc/passwd", id="a local file"),
    ],
)
def test_a_malformed_image_is_400_before_it_reaches_a_replica(tmp_path: Path, url: str) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        answer = ask(gateway, picture(url))

        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_image"
        assert ask(gateway, picture(PNG)).status_code == 200
        assert one.seen["started"] == 1
        assert gateway.sample("headstart_gateway_images_total", model="tiny") == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[" * 100_000, id="deeply nested"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"model": "tiny"}', id="no messages"),
        pytest.param(b'{"model": 3, "messages": []}', id="a number for a model"),
        pytest.param(b'{"model": "tiny", "messages": ["x"]}', id="a text for a message"),
        pytest.param(b"\xff\xfe\x00", id="no text at all"),
    ],
)
def test_a_body_that_no_replica_could_answer_is_400(tmp_path: Path, body: bytes) -> None:
    with GatewayServer(tmp_path, backends=[]) as gateway:
        answer = ask(gateway, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_request"


def test_nothing_of_a_client_gets_into_the_headers_of_an_answer_or_of_the_request_behind(tmp_path: Path) -> None:
    evil = "gui\r\nset-cookie: a=b"
    with replicas("one") as (one,), GatewayServer(tmp_path, backends=[backend(one)]) as gateway:
        answer = ask(gateway, chat(metadata={"request_class": evil}), x_headstart_class="no-such\tclass")
        assert answer.headers["x-headstart-class"] == "default"
        assert "set-cookie" not in answer.headers

        assert ask(gateway, chat(model=evil)).status_code == 404
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=WITHIN_S) as client:
            body = json.dumps(chat()).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            hostile = b"x-request-id: a\x01b\r\ntraceparent: \xff\xfe\r\n\r\n"
            client.sendall(head.encode() + hostile + body)
            reply = client.recv(65536)
        # Servers differ in whether they refuse such a header or pass it in; neither may reflect it.
        assert b"a\x01b" not in reply
        assert "traceparent" not in one.seen["headers"]


def test_one_tenant_that_floods_leaves_the_others_alone(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (tmp_path / "tenants.yaml").write_text(
        "kind: Tenants\ntenants:\n"
        "  - {name: flood, rate_rps: 1, burst: 3, keys_sha256: "
        "[2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b]}\n"  # "secret"
        "  - {name: calm, keys_sha256: [1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032]}\n"  # letmein
    )
    with (
        replicas("one") as (one,),
        GatewayServer(tmp_path, "tenants_file: tenants.yaml\n", backends=[backend(one)]) as gate,
    ):
        flood = list(pool.map(lambda _: ask(gate, chat(), authorization="Bearer secret"), range(30)))
        calm = [ask(gate, chat(), authorization="Bearer letmein") for _ in range(5)]

        refused = [each for each in flood if each.status_code == 429]
        assert len(refused) >= 20
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert [each.status_code for each in calm] == [200] * 5
        # A limit is no demand: replicas would not serve it better.
        assert gate.sample("headstart_gateway_requests_total") == one.seen["started"] == 35 - len(refused)
        assert ask(gate, chat()).status_code == 401
        assert ask(gate, chat(), authorization="Bearer wrong").status_code == 401


def test_whoever_finds_no_slot_waits_and_a_vip_goes_first(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    (tmp_path / "tenants.yaml").write_text(
        "kind: Tenants\ntenants:\n"
        "  - {name: usual, keys_sha256: [2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b]}\n"
        "  - {name: gold, priority: vip, "
        "keys_sha256: [1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032]}\n"
    )
    more = f"{ONE_SLOT}tenants_file: tenants.yaml\nqueue: {{max_waiting: 2}}\n"
    with replicas("one") as (one,), GatewayServer(tmp_path, more, backends=[backend(one)]) as gateway:

        def by(key: str) -> Future[httpx.Response]:
            return pool.submit(ask, gateway, chat(), authorization=f"Bearer {key}")

        one.behave(closed=True)
        first = by("secret")
        eventually(lambda: one.seen["started"] == 1, "the first never came")
        usual = [by("secret"), by("secret")]
        eventually(lambda: gateway.sample("headstart_gateway_waiting") == 2, "they do not wait")
        gold = by("letmein")
        # Two may wait: the VIP takes the place of the one that came last, and then goes before the other.
        eventually(lambda: any(each.done() for each in usual), "nobody made room")
        one.behave()
        answers = [each.result() for each in (first, gold, *usual)]

        assert sorted(each.status_code for each in answers) == [200, 200, 200, 503]
        refused = next(each for each in answers if each.status_code == 503)
        assert refused.json()["error"]["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        eventually(lambda: len(gateway.log.of("request")) == 4, "not recorded")
        served = [each["tenant"] for each in gateway.log.of("request") if each["outcome"] == "served"]
        assert served == ["usual", "gold", "usual"]


def test_whoever_waits_too_long_is_503(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with replicas("one") as (one,), GatewayServer(tmp_path, ONE_SLOT, backends=[backend(one)]) as gateway:
        first = held(gateway, pool, one)
        answer = ask(gateway, chat(), x_headstart_deadline_s="0.05")

        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "queue_deadline"
        one.behave()
        assert first.result().status_code == 200
