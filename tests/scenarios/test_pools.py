"""Pools by class against real servers: a gateway with two pools, a Prometheus that scrapes it, and the scaler's round.

1. More screenshots arrive than their pool has slots for: the gateway sends the rest to the pool behind it, and counts
   them;
2. the scaler reads each pool's own classes from the gateway, and orders the receiver up for what its neighbour may
   never have replicas for; told of nothing, it leaves it as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forecaster.sources.connection import Connection
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Known, Zero
from gateway_world import GatewayServer, ask, backend, chat, eventually, replicas
from metrics_fleet import wait_for
from scaler.adapters.connections import selectors_of
from scaler.adapters.signals import SourceSignals
from scaler.config import Config, parse_config
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.types import Action, Reason
from scaler.ports import DecisionRecord, WorkloadSignals
from servers import PrometheusServer, Target, prometheus_is_installed
from virtual_world import VirtualWorkload, VirtualWorld

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not prometheus_is_installed(), reason="prometheus is not installed"),
]

GATEWAY = """\
models: [{name: tiny}]
classes:
  - {name: gui, pools: [gui, text]}
  - {name: text, pools: [text]}
routing: {slots_per_capacity: 2}
"""

SETTINGS = """\
apiVersion: headstart/v1
kind: Config
defaults:
  mode: active
  profile: {name: card, classes: [{name: gui, max_rps: 0.5}, {name: text, max_rps: 50}]}
workloads:
  - workload: llm/gui
    spills_to: llm/text
    bounds: {max_replicas: 1}
    selector: {demand_labels: {model: tiny}, classes: [gui]}
  - workload: llm/text
    bounds: {max_replicas: 8}
    selector: {demand_labels: {model: tiny}, classes: [text]}
"""

RATE_WINDOW_S = 6
AT_ONCE = 6
"""Screenshots in flight at any moment: the pool of two slots never has room for all."""


@contextmanager
def screenshots(gateway: GatewayServer) -> Iterator[set[str]]:
    """`AT_ONCE` clients that ask again and again; the set has every replica that answered one."""
    answered: set[str] = set()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            answer = ask(gateway, chat(fake={"first_s": 0.1}), x_headstart_class="gui")
            assert answer.status_code == 200, answer.text
            answered.add(answer.headers["x-headstart-backend"])

    threads = [threading.Thread(target=client, daemon=True) for _ in range(AT_ONCE)]
    for each in threads:
        each.start()
    try:
        yield answered
    finally:
        over.set()
        for each in threads:
            each.join(timeout=30)


def test_screenshots_beyond_their_pool_order_the_next_one_up(tmp_path: Path) -> None:
    with replicas("gui-0", "text-0") as (gui, text):
        backends = [backend(gui, pool="gui"), backend(text, pool="text", capacity=32.0)]
        with GatewayServer(tmp_path, GATEWAY, backends=backends) as gateway, screenshots(gateway) as answered:
            eventually(lambda: len(answered) == 2, "nothing spills over to the second pool")
            with PrometheusServer([_gateway_target(gateway)]) as prometheus:
                _follow(gateway, prometheus)


def _follow(gateway: GatewayServer, prometheus: PrometheusServer) -> None:
    config = parse_config(SETTINGS, Path("headstart.yaml"))
    signals = _signals(config, prometheus)
    wait_for(prometheus, f"count(headstart_gateway_requests_total offset {RATE_WINDOW_S}s) > 0")
    eventually(lambda: _is_read(signals.read(now=datetime.now(UTC))), "the gateway's classes are not read")
    assert gateway.sample("headstart_gateway_spilled_total", request_class="gui", pool="text") > 0

    record = _record(_round(config, signals), "llm/text")
    (coming,) = record.snapshot.inflows
    assert (coming.sender, coming.reach, coming.limit) == ("llm/gui", 1, Reason.AT_MAX)
    assert [each.request_class for each in coming.classes] == ["gui"]
    assert [each.request_class for each in record.snapshot.classes] == ["text"]
    assert record.decision.action is Action.OUT
    assert record.decision.reason is Reason.LOAD

    untold = tuple(replace(each, spills_to=None) for each in config.fleet.workloads)
    alone = replace(config, fleet=replace(config.fleet, workloads=untold))
    assert _record(_round(alone, signals), "llm/text").decision.action is Action.HOLD


def _gateway_target(gateway: GatewayServer) -> Target:
    return Target(address=gateway.url.removeprefix("http://"), path="/metrics", labels={}, job="gateway")


def _signals(config: Config, prometheus: PrometheusServer) -> SourceSignals:
    short: list[WorkloadSelector] = [replace(each, rate_window_s=RATE_WINDOW_S) for each in selectors_of(config)]
    rules = {each.workload: each.latency for each in config.fleet.workloads}
    return SourceSignals(PrometheusSource(Connection(url=prometheus.url)), short, rules)


def _is_read(seen: Mapping[str, WorkloadSignals]) -> bool:
    """Both pools, each with its own class alone: screenshots that come, and text that does not."""
    readings = {each.request_class: each.demand_rps for signals in seen.values() for each in signals.classes}
    return isinstance(readings.get("gui"), Known) and isinstance(readings.get("text"), Zero)


def _round(config: Config, signals: SourceSignals) -> TickReport:
    """One round over a cluster in which each pool has one Ready replica."""
    world = VirtualWorld(workloads={each.workload: VirtualWorkload() for each in config.fleet.workloads})
    ports: Ports = replace(world.ports(), signals=signals)
    return tick(Fleet(workloads=config.fleet.workloads), {}, ports, now=datetime.now(UTC))


def _record(report: TickReport, name: str) -> DecisionRecord:
    return next(each for each in report.records if each.policy.workload == name)
