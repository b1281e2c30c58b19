"""What gateways are told of servers on this machine, read back as a gateway reads it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from inference.gateway.backends import parse_backends
from scaler.adapters.local_vllm.files import Listed, backends
from scaler.adapters.local_vllm.launches import kind_of
from scaler.adapters.local_vllm.life import Phase, Server
from scaler.config.local import LocalConfig, ServerEntry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LISTED = Listed(namespace="local", model="chat", pool="default", capacity=1.0, host="127.0.0.1")
SERVER = Server(
    id="a", workload="local/chat-8b", name="chat-8b-x", port=8101, created_at=NOON, since=NOON, phase=Phase.READY
)


@pytest.mark.parametrize(
    ("serves", "served"),
    [pytest.param("", "chat", id="as clients call it"), pytest.param("qwen3-vl-8b", "qwen3-vl-8b", id="a variant")],
)
def test_a_gateway_knows_by_what_name_a_server_serves(serves: str, served: str) -> None:
    text = backends([SERVER], {"local/chat-8b": replace(LISTED, serves=serves)}).decode()
    (backend,) = parse_backends(text, source="backends.json")
    assert (backend.model, backend.served_model) == ("chat", served)


@pytest.mark.parametrize(
    ("entry", "serves"),
    [
        pytest.param(ServerEntry(workload="a/b", variant="qwen3-vl-8b", model="chat"), "qwen3-vl-8b", id="a variant's"),
        pytest.param(
            ServerEntry(workload="a/b", command=("serve", "{port}"), serves="mine"), "mine", id="as it is said"
        ),
        pytest.param(ServerEntry(workload="a/b", command=("serve", "{port}")), "", id="nothing is said"),
    ],
)
def test_where_the_name_comes_from(entry: ServerEntry, serves: str) -> None:
    assert kind_of(entry, LocalConfig(servers=(entry,))).listed.serves == serves
