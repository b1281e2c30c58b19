"""Requests in flight by pod, from a real Prometheus: one query, and nothing made up where it says nothing."""

from __future__ import annotations

import pytest

from forecaster.sources.connection import Connection
from metrics_fleet import wait_for
from scaler.adapters.in_flight import PodRequests, query_for
from servers import Exporter, MisbehavingServer, PrometheusServer, Target, VllmPage, free_port

pytestmark = pytest.mark.server

PODS = ["chat-7d9f-a", "chat-7d9f-b", "chat-7d9f-none"]


def test_running_and_waiting_are_added_by_pod_and_copies_counted_once() -> None:
    pages = {
        "/a": VllmPage(model_name="chat", running=2, waiting=1),
        "/b": VllmPage(model_name="chat", running=0),
        "/b1": VllmPage(model_name="chat", running=4, engine="1"),
        "/other": VllmPage(model_name="chat", running=9),
    }
    with Exporter(pages) as exporter:

        def target(path: str, **labels: str) -> Target:
            return Target(address=exporter.address, path=path, labels=labels)

        targets = [
            target("/a", namespace="llm", pod=PODS[0]),
            target("/a", namespace="llm", pod=PODS[0], prometheus_replica="b"),
            target("/b", pod=PODS[1]),
            target("/b1", pod=PODS[1]),
            target("/other", namespace="else", pod=PODS[0]),
        ]
        with PrometheusServer(targets) as server:
            connection = Connection(url=server.url)
            wait_for(server, "count(vllm:num_requests_running) == 5")
            assert PodRequests(connection)("llm", PODS) == {PODS[0]: 3.0, PODS[1]: 4.0}
            assert PodRequests(connection)("llm", []) == {}


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(lambda talk: talk.answer(500, b"{}"), id="an error"),
        pytest.param(lambda talk: talk.answer(200, b"<html>"), id="no answer of Prometheus'"),
        pytest.param(lambda talk: talk.hang(), id="a hang"),
        pytest.param(
            lambda talk: talk.answer(
                200,
                b'{"status":"success","data":{"resultType":"vector","result":['
                b'{"metric":{"pod":"chat-7d9f-a"},"value":[1,"NaN"]},{"metric":{},"value":[1,"3"]}]}}',
            ),
            id="no number, and no pod",
        ),
    ],
)
def test_whatever_goes_wrong_nothing_is_known(behaviour) -> None:
    with MisbehavingServer(behaviour) as server:
        assert PodRequests(Connection(url=server.url), deadline_s=0.5)("llm", PODS) == {}


def test_a_server_that_is_not_there() -> None:
    assert PodRequests(Connection(url=f"http://127.0.0.1:{free_port()}"))("llm", PODS) == {}


def test_a_hostile_name_cannot_widen_the_query() -> None:
    assert query_for('x"} or up{', ["a.b"]) == (
        'sum by (pod) (max by (pod, __name__, engine) ({__name__=~"vllm:num_requests_running|vllm:num_requests_waiting",'
        'pod="a.b",namespace=~"|x\\"\\\\} or up\\\\{"}))'
    )
