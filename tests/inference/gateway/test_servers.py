"""The gateway with the real servers beside it: Redis that goes and comes back, nginx before two copies, its own process
that is told to stop, and a Prometheus that reads it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forecaster.sources.catalogue import CATALOGUE
from gateway_world import (
    FakeVllm,
    GatewayServer,
    ask,
    backend,
    chat,
    events,
    eventually,
    is_ready,
    listens,
    nginx_server,
    plain,
    redis_server,
    replicas,
)
from inference.gateway.nginx import render_nginx
from inference.gateway.settings import parse_settings
from servers import PrometheusServer, Target, free_port, prometheus_is_installed

pytestmark = pytest.mark.server
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def one() -> Iterator[FakeVllm]:
    with replicas("one") as (replica,):
        yield replica


def test_copies_share_answers_in_redis_work_without_it_and_share_again(tmp_path: Path, one: FakeVllm) -> None:
    port = free_port()
    more = "cache: {enabled: true, redis_url_file: redis.url, redis_timeout_s: 5, redis_retry_s: 0.2}\n"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "redis.url").write_text(f"redis://127.0.0.1:{port}/0\n")

    def told(gateway: GatewayServer, text: str) -> str:
        answer = ask(gateway, chat(text, temperature=0, stream=True))
        assert answer.status_code == 200
        return answer.headers["x-headstart-cache"]

    with (
        GatewayServer(tmp_path / "a", more, backends=[backend(one)]) as left,
        GatewayServer(tmp_path / "b", more, backends=[backend(one)]) as right,
    ):
        with redis_server(port):
            assert told(left, "q") == "miss"
            eventually(lambda: told(right, "q") == "hit", "the other copy does not know it")
        # Gone: nothing fails, each copy keeps its own.
        assert told(left, "q") == "miss"
        eventually(lambda: told(left, "q") == "hit", "it keeps nothing by itself")
        assert told(right, "q") == "miss"
        assert left.sample("headstart_gateway_cache_errors_total") >= 1
        assert "meanwhile" in left.log.of("cache")[0]
        with redis_server(port):
            # Back, after redis_retry_s: what one copy answers now the other one knows.
            eventually(lambda: told(left, "new") == told(right, "new") == "hit", "they never share again")


def test_nginx_spreads_over_copies_streams_and_passes_over_one_that_is_gone(tmp_path: Path, one: FakeVllm) -> None:
    for folder in ("a", "b", "nginx"):
        (tmp_path / folder).mkdir()
    more = "copies: 2\nlimits: {max_body_bytes: 100000}\n"
    port = free_port()
    with GatewayServer(tmp_path / "a", more, backends=[backend(one)]) as left, contextlib.ExitStack() as stack:
        right = stack.enter_context(GatewayServer(tmp_path / "b", more, backends=[backend(one)]))
        copies = [f"127.0.0.1:{each.port}" for each in (left, right)]
        site = render_nginx(left.settings, copies=copies, listen=f"127.0.0.1:{port}")
        with nginx_server(tmp_path / "nginx", "", site), plain() as client:
            eventually(lambda: listens(port), "nginx does not start")
            url = f"http://127.0.0.1:{port}"
            body = json.dumps(chat(stream=True, fake={"tokens": 4}))
            answers = [client.post(f"{url}/v1/chat/completions", content=body) for _ in range(6)]
            assert all(len(events(each)) == 4 for each in answers)
            # The line is written after the answer's last byte.
            eventually(lambda: [len(each.log.of("request")) for each in (left, right)] == [3, 3], "one has more")
            # What is for the inside stays inside, and a huge body is 413 in either place.
            assert [client.get(f"{url}{path}").status_code for path in ("/metrics", "/backends")] == [404, 404]
            assert client.get(f"{url}/healthz").status_code == 200
            assert client.post(f"{url}/v1/chat/completions", content=b"x" * 200_000).status_code == 413
            one.behave(closed=True)
            long = json.dumps(chat(stream=True, fake={"tokens": 30, "held_at": 2}))
            with client.stream("POST", f"{url}/v1/chat/completions", content=long) as answer:
                pieces = answer.iter_text()
                assert "data:" in next(pieces), "nginx holds the stream back"
                one.behave()
                assert "".join(pieces).endswith("[DONE]\n\n")
            stack.close()
            assert [client.post(f"{url}/v1/chat/completions", content=body).status_code for _ in range(6)] == [200] * 6


def _pieces(url: str, body: str) -> Iterator[bytes]:
    with plain() as client, client.stream("POST", f"{url}/v1/chat/completions", content=body) as answer:
        yield from answer.iter_bytes()


@pytest.mark.parametrize("command", [["-m", "inference"], ["-m", "scaler.cli"]], ids=["inference", "headstart"])
def test_the_command_serves_and_ends_its_streams_when_told_to_stop(
    tmp_path: Path, one: FakeVllm, command: list[str]
) -> None:
    port = free_port()
    (tmp_path / "backends.json").write_text(json.dumps({"kind": "Backends", "backends": [backend(one)]}))
    (tmp_path / "gateway.yaml").write_text(
        f"apiVersion: headstart/v1\nkind: Gateway\nbackends: {{file: backends.json}}\nlisten: {{port: {port}}}\n"
    )
    arguments = [sys.executable, *command, "gateway", "--config", str(tmp_path / "gateway.yaml")]
    with ThreadPoolExecutor(1) as pool, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, cwd=REPOSITORY)
        try:
            eventually(lambda: listens(port) and is_ready(port), "the gateway does not start")
            body = json.dumps(chat(stream=True, fake={"tokens": 20, "pause_s": 0.1}))
            stream = pool.submit(lambda: b"".join(_pieces(f"http://127.0.0.1:{port}", body)))
            eventually(lambda: one.seen["started"] == 1, "the stream has not begun")
            process.send_signal(signal.SIGTERM)
            assert stream.result().endswith(b"data: [DONE]\n\n")
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait(timeout=30)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [each["event"] for each in lines] == ["listening", "source", "request"]
    assert lines[-1]["outcome"] == "served"


def test_settings_that_cannot_work_start_nothing(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("apiVersion: headstart/v1\nkind: Gateway\nbackends: {fil: b}\n")
    arguments = [sys.executable, "-m", "scaler.cli", "gateway", "--config", str(tmp_path / "gateway.yaml")]
    ended = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert ended.returncode == 2
    assert ended.stderr.rstrip().endswith(
        "gateway.yaml:3:17: backends.fil: unknown key, did you mean file?; nothing was started"
    )


def test_prometheus_finds_what_the_scaler_asks_for(tmp_path: Path, one: FakeVllm) -> None:
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    with GatewayServer(tmp_path, "classes: [{name: gui}]\n", backends=[backend(one)]) as gateway:
        ask(gateway, chat(), x_headstart_class="gui")
        target = Target(address=f"127.0.0.1:{gateway.port}", path="/metrics", labels={}, job="gateway")
        with PrometheusServer([target]) as prometheus:
            for signal_of_ours in CATALOGUE:
                for candidate in signal_of_ours.candidates:
                    if candidate.metric.startswith("headstart_gateway_"):
                        labels = {candidate.model_label: "tiny", candidate.class_label: "gui"}
                        eventually(
                            lambda name=candidate.metric, wanted=labels: _has(prometheus.url, name, wanted),
                            f"{candidate.metric} with {labels} is not there",
                        )


def _has(url: str, metric: str, labels: dict[str | None, str]) -> bool:
    with plain() as client:
        found: Any = client.get(f"{url}/api/v1/query", params={"query": metric}).json()["data"]["result"]
    return any(labels.items() <= each["metric"].items() for each in found)


def test_an_address_that_is_none_is_not_rendered(tmp_path: Path) -> None:
    settings = parse_settings("apiVersion: headstart/v1\nkind: Gateway\nbackends: {file: b}", source="s")
    with pytest.raises(Exception, match=r"copies = 'a;b:1' is no host:port"):
        render_nginx(settings, copies=["a;b:1"])
