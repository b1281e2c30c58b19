"""Real vLLM servers, a real Prometheus, a gateway, streaming load, and the daemon that starts and stops the servers.

One life, told by a fixture that writes down what it saw; each test looks at one thing:

    two servers Ready → load with pictures → scaled in to one under load → out to two again → kill -9 of one, mended

Nothing waits for a time of day: every step waits for what it needs, so a busy machine only takes longer.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from e2e_load import Load
from e2e_parts import free_ports, gateway, need_room
from inference import processes
from scaler.adapters.local_vllm.files import State, load
from scaler.adapters.local_vllm.launches import marks_of
from scaler.adapters.local_vllm.life import Phase, Server
from scaler.rehearsal.load import Shot
from scaler.rehearsal.recipe import Plan, Recipe
from scaler.rehearsal.stage import Stage

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(2400)]

RATE_RPS = 2.5
STEP_WITHIN_S = 600.0
"""A start takes 23 s on a quiet machine, and took 220 s on one with a load average of 30."""


@dataclass(slots=True, kw_only=True)
class Life:
    """What was seen."""

    ready_s: float = 0.0
    shots: list[Shot] = field(default_factory=list)
    scale_in: tuple[datetime, datetime] | None = None
    drained_s: float = 0.0
    in_flight_at_the_mark: float = 0.0
    held_at_the_kill: float = 0.0
    killed_at: datetime | None = None
    mended_at: datetime | None = None
    left_over: int = -1
    daemon_log: str = ""

    def between(self, begin: datetime | None, end: datetime | None) -> list[Shot]:
        """Requests that were on their way at some moment of it."""
        assert begin is not None
        assert end is not None
        return [
            each
            for each in self.shots
            if each.sent_at < end and each.sent_at + timedelta(seconds=each.e2e_s or 0.0) > begin
        ]


def until(found: Callable[[], object], *, what: str) -> None:
    ends = time.monotonic() + STEP_WITHIN_S
    while not found():
        assert time.monotonic() < ends, f"not within {STEP_WITHIN_S:g} s: {what}"
        time.sleep(0.1)


def servers(stage: Stage, phase: Phase | None = None) -> list[Server]:
    state = load(stage.local, may_set_aside=False) or State()
    return [each for each in state.servers if phase is None or each.phase is phase]


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def life(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Life:
    plan = Plan(recipe=recipe, ports=free_ports(), min_replicas=1, max_replicas=2, tick=timedelta(seconds=2))
    need_room(plan)
    seen, folder = Life(), tmp_path_factory.mktemp("stage")
    with Stage(folder, plan, gateway=gateway()) as stage:
        begun = time.monotonic()
        stage.override(2, lasts="1h")
        until(lambda: len(servers(stage, Phase.READY)) == 2, what="two servers Ready")
        seen.ready_s = time.monotonic() - begun
        until(stage.takes_requests, what="the gateway knows them")
        traffic = Load(stage.gateway_url, images_share=0.25)
        with traffic.running():
            served(stage, traffic)
            scale_in(seen, stage, traffic)
            stage.override(2, lasts="1h")
            until(lambda: len(servers(stage, Phase.READY)) == 2, what="two servers Ready again")
            kill_one(seen, stage, traffic)
        seen.shots, seen.daemon_log = traffic.shots, stage.log("headstart")
    seen.left_over = len(list(processes.find(marks_of(stage.local))))
    return seen


def served(stage: Stage, traffic: Load) -> None:
    """Both servers have work, and pictures came back."""
    traffic.rate_rps = RATE_RPS
    until(lambda: sum(each.image and each.served for each in traffic.shots) >= 3, what="pictures are answered")
    until(lambda: len([load for load in stage.in_flight().values() if load]) == 2, what="both have work")


def scale_in(seen: Life, stage: Stage, traffic: Load) -> None:
    """One of two goes while both stream."""
    begin = datetime.now(UTC)
    stage.override(1, lasts="1h")
    until(lambda: servers(stage, Phase.DRAINING) or len(servers(stage)) == 1, what="one drains")
    for each in servers(stage, Phase.DRAINING):
        seen.in_flight_at_the_mark = stage.in_flight().get(url_of(each), 0.0)
    until(lambda: len(servers(stage)) == 1, what="it is gone")
    seen.scale_in = (begin, datetime.now(UTC))
    traffic.rate_rps = 1.0


def kill_one(seen: Life, stage: Stage, traffic: Load) -> None:
    """SIGKILL to the busier one. Nothing is sent for the moment in which its streams are counted."""
    traffic.rate_rps = RATE_RPS
    until(lambda: len([load for load in stage.in_flight().values() if load]) == 2, what="both have work")
    traffic.rate_rps = 0.0
    time.sleep(0.2)  # what was just sent arrives; if not, it is one more that may be tried elsewhere
    held = stage.in_flight()
    victim = max(servers(stage, Phase.READY), key=lambda each: held.get(url_of(each), 0.0))
    seen.held_at_the_kill, seen.killed_at = held[url_of(victim)], datetime.now(UTC)
    assert victim.process is not None
    os.kill(victim.process.pid, signal.SIGKILL)
    traffic.rate_rps = 1.0
    until(lambda: len(servers(stage, Phase.READY)) < 2, what="its end is seen")
    until(lambda: len(servers(stage, Phase.READY)) == 2, what="it is mended")
    seen.mended_at = datetime.now(UTC)
    until(lambda: stage.in_flight().get(url_of(victim), 0.0) > 0.0, what="the mended server has work")


def failed(shots: list[Shot]) -> list[Shot]:
    return [each for each in shots if not each.served]


def test_pictures_are_served(life: Life) -> None:
    pictures = [each for each in life.shots if each.image]
    sys.stdout.write(
        f"one machine: two servers Ready in {life.ready_s:.0f} s; {len(life.shots)} requests, {len(pictures)} with a "
        f"picture; scale-in with {life.in_flight_at_the_mark:.0f} in flight; kill -9 of one with "
        f"{life.held_at_the_kill:.0f}: {len(failed(life.shots))} failed\n"
    )
    assert len([each for each in pictures if each.served]) >= 3


def test_answers_are_streamed(life: Life) -> None:
    whole = [each for each in life.shots if each.served]
    assert min(each.chunks for each in whole) >= 10
    assert all(each.ttft_s is not None and each.e2e_s is not None and each.ttft_s < each.e2e_s for each in whole)


def test_a_scale_in_under_streaming_load_loses_no_request(life: Life) -> None:
    begin, end = life.scale_in or (None, None)
    during = life.between(begin, end)
    assert len(during) >= 2
    assert failed(during) == []


def test_kill_9_costs_at_most_the_streams_that_the_server_held(life: Life) -> None:
    assert life.held_at_the_kill >= 1
    lost = failed(life.shots)
    assert len(lost) <= life.held_at_the_kill
    assert all(each.sent_at <= life.killed_at for each in lost if life.killed_at is not None)


def test_the_killed_server_was_started_again_by_itself(life: Life) -> None:
    assert life.mended_at is not None
    assert '"what": "ended"' in life.daemon_log


def test_every_request_was_answered_but_those_that_the_kill_cost(life: Life) -> None:
    assert all(each.is_over for each in life.shots)
    assert len(life.shots) > 20


def test_nothing_is_left_behind(life: Life) -> None:
    assert life.left_over == 0
