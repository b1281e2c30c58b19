"""A fleet behind a real Prometheus: one workload for every story that a reading can tell. Holds no test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from forecaster.sources.connection import Connection
from forecaster.sources.exchange import Answer, Question, Wire
from servers import Exporter, PrometheusServer, Target, VllmPage

RATE_WINDOW_S = 4
WARM_UP_S = 120.0
"""At most. Prometheus first waits five seconds for its targets, then one rate window must fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The running server and its exporter."""

    prometheus: PrometheusServer
    exporter: Exporter

    @property
    def connection(self) -> Connection:
        return Connection(url=self.prometheus.url)


def _gateway_page(born: float) -> str:
    elapsed = time.time() - born
    return (
        "# TYPE headstart_gateway_requests_total counter\n"
        f'headstart_gateway_requests_total{{model="chat",request_class="gui"}} {int(30 * elapsed)}\n'
        f'headstart_gateway_requests_total{{model="chat",request_class="html"}} {int(8 * elapsed)}\n'
        f'headstart_gateway_requests_total{{model="idle",request_class="gui"}} 17\n'
        "# TYPE headstart_gateway_prompt_tokens_total counter\n"
        f'headstart_gateway_prompt_tokens_total{{model="chat",request_class="gui"}} {int(30 * 1200 * elapsed)}\n'
        f'headstart_gateway_prompt_tokens_total{{model="chat",request_class="html"}} {int(8 * 6000 * elapsed)}\n'
        "# TYPE headstart_gateway_images_total counter\n"
        f'headstart_gateway_images_total{{model="chat",request_class="gui"}} {int(30 * elapsed)}\n'
        f'headstart_gateway_images_total{{model="chat",request_class="html"}} 0\n'
        "# TYPE nginx_requests_total counter\n"
        f'nginx_requests_total{{upstream="large"}} {int(12 * elapsed)}\n'
    )


def _router_page() -> str:
    """A router that exports the engines' gauges again."""
    return '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{server="http://10.0.0.7:8000"} 500\n'


def _gpu_page() -> str:
    names = {"GPU_UTIL": 80, "FB_USED": 40000, "FB_FREE": 960, "POWER_USAGE": 300, "XID_ERRORS": 0}
    lines = [
        f'DCGM_FI_DEV_{name}{{gpu="{gpu}",namespace="llm",pod="chat-7d9f8b6c5d-x2x4z"}} {value}'
        for name, value in names.items()
        for gpu in "01"
    ]
    energy = [
        f'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{gpu="{gpu}",namespace="llm",pod="chat-7d9f8b6c5d-x2x4z"}} 5000000'
        for gpu in "01"
    ]
    return "\n".join([*lines, *energy]) + "\n"


def _down() -> None:
    """A page that is a 500."""


def _targets(exporter: Exporter) -> list[Target]:
    born = time.time()
    pods = {
        "llm/chat-7d9f8b6c5d-x2x4z": VllmPage(model_name="chat", rate_rps=20, running=5, waiting=2, kv_cache_usage=0.4),
        "llm/chat-7d9f8b6c5d-abcde": VllmPage(model_name="chat", rate_rps=20, running=7, waiting=1, kv_cache_usage=0.9),
        "llm/chat-large-6b5c4d7f8-qqqqq": VllmPage(
            model_name="large", rate_rps=25, running=100, itl_metric="vllm:time_per_output_token_seconds"
        ),
        "llm/idle-0": VllmPage(model_name="idle"),
        "llm/few-6b5c4d7f8-zzzzz": VllmPage(
            model_name="few",
            rate_rps=4,
            running=1,
            kv_metric="vllm:gpu_cache_usage_perc",
            itl_metric="vllm:inter_token_latency_seconds",
        ),
        "llm/twin-6b5c4d7f8-zzzzz": VllmPage(model_name="twin", rate_rps=10, running=3),
        "llm/stale-6b5c4d7f8-zzzzz": VllmPage(model_name="stale", rate_rps=10, age_s=200),
        "llm/broken-6b5c4d7f8-zzzzz": VllmPage(model_name="broken", running=float("nan")),
        "llm/down-6b5c4d7f8-zzzzz": _down,
        "llm/half-6b5c4d7f8-zzzzz": VllmPage(model_name="half", running=4),
        "llm/half-6b5c4d7f8-yyyyy": VllmPage(model_name="half", running=4),
        "llm/router-6b5c4d7f8-zzzzz": _router_page,
        "llm/gateway-6b5c4d7f8-zzzzz": lambda: _gateway_page(born),
        "gpu/dcgm-x2x4z": _gpu_page,
    }
    targets = []
    for number, (name, page) in enumerate(pods.items()):
        namespace, _, pod = name.partition("/")
        exporter.pages[f"/{pod}"] = page
        owner = "chat-large" if pod.startswith("chat-large") else pod.split("-")[0]
        labels = {"namespace": namespace, "pod": pod, "instance": f"10.0.0.{number}:8000", "app": owner}
        targets.append(Target(address=exporter.address, path=f"/{pod}", labels=labels))
        if pod.startswith("twin"):
            targets.append(Target(address=exporter.address, path=f"/{pod}", labels=labels, job="again"))
    return targets


@contextlib.contextmanager
def running_fleet() -> Iterator[Fleet]:
    """The fleet, warmed up for one rate window."""
    with Exporter() as exporter:
        targets = _targets(exporter)
        with PrometheusServer(targets) as server:
            # The age of the first scrapes and not their number: on a busy machine some fail, and that is well.
            wait_for(server, f"count(up offset {RATE_WINDOW_S}s) == {len(targets)}")
            yield Fleet(prometheus=server, exporter=exporter)


def wait_for(server: PrometheusServer, condition: str) -> None:
    """Until the condition, a PromQL comparison, has a result."""
    wire = Wire(Connection(url=server.url))
    ends_at = time.monotonic() + WARM_UP_S
    while time.monotonic() < ends_at:
        answer = wire.ask([Question(text=condition)], deadline_s=2.0)[0]
        if isinstance(answer, Answer) and answer.rows:
            return
        time.sleep(0.2)
    raise TimeoutError(f"not true within {WARM_UP_S:g} s: {condition}")
