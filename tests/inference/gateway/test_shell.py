"""The gateway as its clients meet it: real HTTP on both sides, one replica or two that do what they are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fake_vllm import PROMPT_TOKENS
from gateway_world import FakeVllm, GatewayServer, ask, backend, chat, events, eventually, replicas

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def pair() -> Iterator[list[FakeVllm]]:
    with replicas("one", "two") as both:
        yield both


@pytest.fixture
def gateway(pair: list[FakeVllm], tmp_path: Path) -> Iterator[GatewayServer]:
    for replica in pair:
        replica.behave()
    with GatewayServer(tmp_path, backends=[backend(each) for each in pair]) as running:
        yield running


def test_an_answer_in_one_piece_comes_through_with_what_was_done_in_its_headers(
    gateway: GatewayServer, pair: list[FakeVllm]
) -> None:
    answer = ask(gateway, chat())

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert answer.headers["x-headstart-model"] == "tiny"
    assert answer.headers["x-headstart-class"] == "default"
    assert answer.headers["x-headstart-degradation"] == "0"
    assert answer.headers["x-headstart-backend"] in {each.url for each in pair}


def test_a_stream_comes_through_without_the_usage_that_only_the_gateway_asked_for(gateway: GatewayServer) -> None:
    answer = ask(gateway, chat(stream=True, fake={"tokens": 5}))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert len(events(answer)) == 5
    assert all(event["choices"] for event in events(answer))
    eventually(lambda: gateway.sample("headstart_gateway_output_tokens_total") == 5, "the usage was not counted")
    assert gateway.sample("headstart_gateway_prompt_tokens_total", request_class="default") == PROMPT_TOKENS
    assert gateway.sample("headstart_gateway_cached_prompt_tokens_total") == 4


def test_a_client_that_asks_for_the_usage_gets_it(gateway: GatewayServer) -> None:
    answer = ask(gateway, chat(stream=True, stream_options={"include_usage": True}))

    assert events(answer)[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_the_other_paths_come_through(gateway: GatewayServer, path: str) -> None:
    body = {"model": "tiny", "prompt": "a", "input": "a"}
    assert httpx.post(f"{gateway.url}{path}", json=body).status_code == 200


def test_the_list_of_models_tells_which_are_up(gateway: GatewayServer) -> None:
    assert httpx.get(f"{gateway.url}/v1/models").json()["data"] == [
        {"id": "tiny", "object": "model", "owned_by": "headstart", "ready": True}
    ]


def test_requests_that_are_over_hold_no_slot(gateway: GatewayServer) -> None:
    for _ in range(3):
        ask(gateway, chat())

    eventually(lambda: [each["in_flight"] for each in gateway.shown().values()] == [0, 0], "a slot is still held")
    assert {(each["model"], each["state"], each["healthy"]) for each in gateway.shown().values()} == {
        ("tiny", "ready", True)
    }


def test_the_replica_sees_the_body_as_it_was_and_no_key_of_the_client(
    gateway: GatewayServer, pair: list[FakeVllm]
) -> None:
    request = chat("grüße", temperature=0.3, seed=7)
    answer = ask(gateway, request, authorization="Bearer secret-key", traceparent="00-ab-cd-01", cookie="a=b")
    replica = next(each for each in pair if each.url == answer.headers["x-headstart-backend"])

    assert replica.seen["body"] == request
    assert "authorization" not in replica.seen["headers"]
    assert "cookie" not in replica.seen["headers"]
    assert replica.seen["headers"]["traceparent"] == "00-ab-cd-01"


def test_the_log_has_a_line_a_request_and_nothing_of_its_content(gateway: GatewayServer) -> None:
    ask(gateway, chat("my password is hunter2"), authorization="Bearer secret-key", x_request_id="abc-1")
    eventually(lambda: bool(gateway.log.of("request")), "nothing was logged")
    (line,) = gateway.log.of("request")

    assert line["request_id"] == "abc-1"
    assert line["status"] == 200
    assert line["outcome"] == "served"
    assert line["output_tokens"] == 3
    assert "hunter2" not in json.dumps(gateway.log.events)
    assert "secret-key" not in json.dumps(gateway.log.events)


def test_an_error_of_the_replica_that_is_the_clients_comes_through(gateway: GatewayServer) -> None:
    answer = ask(gateway, chat(fake={"status": 400}))

    assert answer.status_code == 400
    assert answer.json() == {"error": {"message": "told to fail"}}
