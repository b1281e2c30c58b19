"""The rehearsal's stage without a real vLLM: set up in order, and nothing is left behind, however it ends."""

from __future__ import annotations

import http.client
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import local_server
from daemon_process import until
from e2e_parts import ROOT, free_ports
from local_world import marked_alive
from scaler.rehearsal.recipe import Plan, Recipe
from scaler.rehearsal.stage import Stage, StageError
from servers import prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="prometheus and promtool are not installed"),
]

STAND_IN = (sys.executable, str(ROOT / "tests" / "stand_in_gateway.py"))


@pytest.fixture
def plan() -> Plan:
    recipe = Recipe(command=local_server.command(), max_rps=2.0, start_time=timedelta(seconds=30))
    return Plan(recipe=recipe, ports=free_ports(), tick=timedelta(seconds=1))


def listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def test_everything_comes_up_and_goes_again(plan: Plan, tmp_path: Path) -> None:
    with Stage(tmp_path, plan, gateway=STAND_IN) as stage:
        until(lambda: [row["state"] for row in stage.backends()] == ["ready"], within_s=60, what="a server")
        until(stage.takes_requests, within_s=60, what="the gateway knows it")
        assert list(stage.in_flight().values()) == [0.0]
        until(lambda: (stage.workload() or {}).get("replicas", {}).get("ready") == 1, within_s=60, what="it is counted")
        assert len(marked_alive(stage.local)) == 1
    ports = plan.ports
    assert [port for port in (ports.gateway, ports.prometheus, ports.daemon) if listens(port)] == []
    assert marked_alive(stage.local) == {}


def test_a_part_that_does_not_start_is_told_and_takes_the_others_down(plan: Plan, tmp_path: Path) -> None:
    broken = (sys.executable, "-c", "import sys; print('no such key'); sys.exit(3)")
    with pytest.raises(StageError, match=r"gateway ended with 3: no such key"), Stage(tmp_path, plan, gateway=broken):
        pass
    assert not listens(plan.ports.prometheus)


def test_what_a_killed_rehearsal_left_is_ended_by_the_next_one(plan: Plan, tmp_path: Path) -> None:
    first = Stage(tmp_path, plan, gateway=STAND_IN)
    with first:
        until(lambda: [row["state"] for row in first.backends()] == ["ready"], within_s=60, what="a server")
        for name in ("headstart", "gateway", "prometheus"):
            first.kill(name)
        (left,) = marked_alive(first.local)
        with Stage(tmp_path, plan, gateway=STAND_IN) as second:
            until(lambda: [row["state"] for row in second.backends()] == ["ready"], within_s=60, what="its own")
            assert left not in marked_alive(second.local)
