"""Fixtures of the fault stories: one Prometheus for all of them, a proxy and a cluster for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from fault_world import FaultWorld, Life, Scraped, scraped_fleet
from kube_double import KubeDouble
from servers import prometheus_is_installed


@pytest.fixture(scope="session")
def scraped() -> Iterator[Scraped]:
    """A real Prometheus that scrapes one pod for every kind of traffic."""
    if not prometheus_is_installed():
        pytest.skip("prometheus and promtool are not installed")
    with scraped_fleet() as running:
        yield running


@pytest.fixture
def world(scraped: Scraped, tmp_path: Path) -> Iterator[FaultWorld]:
    """Nothing wrong yet: ordinary traffic, a cluster with room, one workload with one replica that is Ready."""
    with FaultProxy(scraped.prometheus.url) as proxy, KubeDouble(gpus=64) as cluster:
        cluster.namespace("llm")
        cluster.deployment("llm", "chat", replicas=1)
        cluster.advance(1)
        yield FaultWorld(scraped=scraped, proxy=proxy, cluster=cluster, folder=tmp_path)


@pytest.fixture
def life(world: FaultWorld) -> Iterator[Life]:
    """A daemon that has lived through a look-back of ordinary traffic."""
    with world.life() as living:
        yield living.settled()
