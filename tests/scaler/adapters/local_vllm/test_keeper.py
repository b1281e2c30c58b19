"""The servers of one machine, as real processes: begun, counted, drained, killed, found again after a restart.

The server is a small program (`local_server`) that behaves like a vLLM as far as these stories look; time is the
machine's, and what is waited for is the state, never a duration.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import local_server
from forecaster.types import Blind, BlindReason
from inference import processes
from inference.errors import LaunchFailed
from inference.processes import Launch, Nursery, Process
from local_world import (
    PATIENCE_S,
    WORKLOAD,
    LocalWorld,
    SpokenGateway,
    ask,
    keeper_of,
    kill,
    local_world,
    marked_alive,
    phases,
    until_look,
)
from scaler.adapters.local_vllm.crew import starts_of
from scaler.adapters.local_vllm.files import BACKENDS, STATE, TARGETS, save
from scaler.adapters.local_vllm.keeper import STALE_AFTER_S
from scaler.adapters.local_vllm.life import Phase
from scaler.policy.types import Decision, Reason, ReplicaState
from scaler.ports import OutcomeKind
from servers import free_port

pytestmark = [pytest.mark.server]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[LocalWorld]:
    with local_world(tmp_path, free_port()) as each:
        yield each


def decided(current: int, target: int) -> Decision:
    return Decision(
        workload=WORKLOAD, at=datetime.now(UTC), current=current, target=target, reason=Reason.LOAD, proposals=()
    )


def all_ready(count: int):
    return lambda state: phases(state) == [Phase.READY] * count


def test_a_first_start_has_one_server_and_tells_gateway_and_prometheus_of_it_once_it_is_ready(
    world: LocalWorld,
) -> None:
    targets = world.targets(options=("--ready-after", "0.5"))
    first = targets.read(now=datetime.now(UTC))[WORKLOAD]
    assert first == ReplicaState(desired=1, ready=0, starting=1)
    assert world.backends == []

    state = until_look(targets, all_ready(1), what="Ready")

    (server,) = state.servers
    assert targets.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=1, ready=1)
    url = f"http://127.0.0.1:{server.port}"
    row = {"url": url, "model": "tiny", "pool": "default", "weight": 1.0, "capacity": 1.0, "state": "ready"}
    document = json.loads((world.local / BACKENDS).read_text())
    assert document == {"apiVersion": "headstart/v1", "kind": "Backends", "backends": [row]}
    (target,) = json.loads((world.local / TARGETS).read_text())
    assert target["targets"] == [f"127.0.0.1:{server.port}"]
    assert target["labels"] == {"job": "vllm", "namespace": "local", "pod": server.name}


def test_scaled_out_each_server_has_a_port_and_a_gpu_of_its_own(world: LocalWorld) -> None:
    targets = world.targets(gpus=("0", "3"))
    until_look(targets, all_ready(1), what="the first is Ready")
    outcome = targets.scale(decided(1, 3))
    assert (outcome.kind, outcome.detail) == (OutcomeKind.SCALED, "1 → 3")

    state = until_look(targets, all_ready(2), what="two are Ready")

    assert {ask(each, "/whoami").split()[1] for each in state.servers} == {"0", "3"}
    assert len({each.port for each in state.servers}) == 2
    # The third finds no GPU, as a pod would: it is counted and told.
    assert targets.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=3, ready=2, unschedulable=1)
    assert "find no place" in targets.remarks[WORKLOAD][0]


def test_a_decision_that_saw_another_number_is_a_conflict_and_changes_nothing(world: LocalWorld) -> None:
    targets = world.targets()
    outcome = targets.scale(decided(2, 3))
    assert (outcome.kind, outcome.found) == (OutcomeKind.CONFLICT, 1)
    assert world.state.wanted == {}
    assert targets.scale(decided(3, 1)).kind is OutcomeKind.UNCHANGED


def test_a_server_that_goes_drains_until_the_gateway_has_nothing_in_flight(world: LocalWorld) -> None:
    with SpokenGateway() as gateway:
        targets = world.targets(gateway=gateway.url)
        targets.scale(decided(1, 2))
        state = until_look(targets, all_ready(2), what="two are Ready")
        old, young = sorted(state.servers, key=lambda each: each.created_at)
        busy, idle = (f"http://127.0.0.1:{each.port}" for each in (old, young))
        # The older one is idle and goes: idle before busy, then young before old.
        gateway.rows = [
            {"url": busy, "state": "ready", "in_flight": 0},
            {"url": idle, "state": "ready", "in_flight": 2},
        ]
        targets.scale(decided(2, 1))
        state = until_look(targets, lambda state: Phase.DRAINING in phases(state), what="one drains")
        leaving = next(each for each in state.servers if each.phase is Phase.DRAINING)
        assert leaving.id == old.id
        assert {row["url"]: row["state"] for row in world.backends} == {busy: "draining", idle: "ready"}
        assert targets.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=1, ready=1)

        # The gateway has not heard of it, then a stream is left, then it does not answer: each time it waits.
        for rows in (
            gateway.rows,
            [{"url": busy, "state": "draining", "in_flight": 1}],
            None,
        ):
            gateway.rows = rows
            keeper_of(targets).look(now=datetime.now(UTC))
            assert Phase.DRAINING in phases(keeper_of(targets).state)

        gateway.rows = [{"url": busy, "state": "draining", "in_flight": 0}]
        state = until_look(targets, all_ready(1), what="it is gone")
        assert state.servers[0].id == young.id
        assert len(marked_alive(world.local)) == 1
        assert [row["url"] for row in world.backends] == [idle]


def test_a_server_that_drains_is_called_back_before_a_start_is_paid_for(world: LocalWorld) -> None:
    with SpokenGateway() as gateway:
        targets = world.targets(gateway=gateway.url)
        targets.scale(decided(1, 2))
        before = until_look(targets, all_ready(2), what="two are Ready")
        gateway.rows = None
        targets.scale(decided(2, 1))
        until_look(targets, lambda state: Phase.DRAINING in phases(state), what="one drains")
        targets.scale(decided(1, 2))
        after = until_look(targets, all_ready(2), what="both are Ready again")
    assert {each.process for each in after.servers} == {each.process for each in before.servers}
    assert [row["state"] for row in world.backends] == ["ready", "ready"]


def test_a_server_that_does_not_end_is_killed(world: LocalWorld) -> None:
    targets = world.targets(options=("--ignore-sigterm",), grace="0s", shutdown_timeout="1s")
    targets.scale(decided(1, 2))
    until_look(targets, all_ready(2), what="two are Ready")
    targets.scale(decided(2, 1))
    until_look(targets, all_ready(1), what="one is gone")
    assert "killed" in world.said()
    assert len(marked_alive(world.local)) == 1


def test_kill_9_is_seen_told_and_mended(world: LocalWorld) -> None:
    targets = world.targets(options=("--ready-after", "0.3"))
    before = until_look(targets, all_ready(1), what="Ready").servers[0]
    kill(before)
    until_look(targets, lambda state: phases(state) != [Phase.READY], what="the end is seen")
    assert world.backends == []
    seen = targets.read(now=datetime.now(UTC))[WORKLOAD]
    assert isinstance(seen, ReplicaState)
    assert (seen.desired, seen.ready) == (1, 0)

    after = until_look(targets, all_ready(1), what="Ready again").servers[0]

    assert (after.id, after.restarts) == (before.id, 1)
    assert after.process != before.process
    assert "ended" in world.said()


def test_an_engine_that_outlives_its_server_is_ended_before_the_next_one_begins(world: LocalWorld) -> None:
    """It would hold the GPU."""
    targets = world.targets(options=("--engine",))
    before = until_look(targets, all_ready(1), what="Ready").servers[0]
    assert before.process is not None
    home = processes.folder_of(before.process)
    assert home is not None
    kill(before)
    assert processes.wait(before.process, timeout_s=PATIENCE_S)
    (engine,) = processes.left_by(before.process, folder=home)
    until_look(targets, lambda state: phases(state) != [Phase.READY], what="the end is seen")
    until_look(targets, all_ready(1), what="Ready again")
    assert processes.wait(engine.process, timeout_s=PATIENCE_S)


def test_a_server_is_written_down_before_it_is_begun(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moment the daemon dies at, there is none that nobody knows of."""
    known: list[tuple[str, bool]] = []

    def begin(self: Nursery, launch: Launch) -> Process:
        known.extend((each.id, each.process is None) for each in world.state.servers)
        assert launch.environment["HEADSTART_SERVER_ID"] == known[-1][0]
        raise LaunchFailed(command=launch.command, folder=launch.folder, problem="the daemon dies here")

    monkeypatch.setattr(Nursery, "begin", begin)
    world.targets().read(now=datetime.now(UTC))
    assert [is_unborn for _, is_unborn in known] == [True]


def test_a_server_that_crashes_again_and_again_is_started_later_and_later(world: LocalWorld) -> None:
    """And counts as failed, so that nobody waits for it as for one that starts."""
    targets = world.targets(options=("--ready-after", "100", "--die-after", "0"))
    state = until_look(targets, lambda state: state.servers[0].restarts >= 2, what="two crashes")
    assert phases(state) == [Phase.WAITING]
    assert targets.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=1, ready=0, failed=1)
    assert marked_alive(world.local) == {}


def test_a_program_that_is_not_there_is_told_and_tried_again(world: LocalWorld) -> None:
    targets = world.targets(command=("./no-such-vllm", "{port}"))
    targets.read(now=datetime.now(UTC))
    assert targets.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=1, ready=0, failed=1)
    (told,) = [each["detail"] for each in world.log if each["event"] == "local_server_trouble"]
    assert "./no-such-vllm could not be started" in told


# ── If the daemon dies, nothing moves ─────────────────────────────────────────────────────────────────────────


def test_a_restart_finds_every_server_and_moves_nothing(world: LocalWorld) -> None:
    first = world.targets()
    first.scale(decided(1, 2))
    before = until_look(first, all_ready(2), what="two are Ready")
    first.stop()

    second = world.targets()
    assert second.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=2, ready=2)
    assert {each.process for each in keeper_of(second).state.servers} == {each.process for each in before.servers}


def test_one_that_was_begun_and_not_noted_is_found(world: LocalWorld) -> None:
    first = world.targets()
    before = until_look(first, all_ready(1), what="Ready").servers[0]
    first.stop()
    save(world.local, replace(world.state, servers=(replace(before, phase=Phase.WAITING, process=None),)))
    after = until_look(world.targets(), all_ready(1), what="Ready").servers[0]
    assert (after.id, after.process, after.restarts) == (before.id, before.process, 0)


def test_a_start_that_nobody_watched_is_no_measurement(world: LocalWorld) -> None:
    """The daemon was away for an unknown time of it."""
    first = world.targets(options=("--ready-after", "1"))
    until_look(first, lambda state: phases(state) == [Phase.STARTING], what="starting")
    first.stop()
    second = world.targets(options=("--ready-after", "1"))
    state = until_look(second, all_ready(1), what="Ready")
    assert starts_of(state.servers, accelerator="") == ()
    second.scale(decided(1, 2))
    state = until_look(second, all_ready(2), what="another one")
    assert [each.uid for each in starts_of(state.servers, accelerator="")] == [state.servers[1].id]


def test_servers_that_nobody_has_looked_at_lately_are_not_known(world: LocalWorld) -> None:
    targets = world.targets()
    targets.start()
    targets.stop()
    now = keeper_of(targets).looked_at
    assert now is not None
    seen = targets.read(now=now + timedelta(seconds=STALE_AFTER_S + 1))[WORKLOAD]
    assert isinstance(seen, Blind)
    assert seen.reason is BlindReason.STALE
    assert isinstance(targets.read(now=now)[WORKLOAD], ReplicaState)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="lost"),
        pytest.param(lambda path: path.write_text("{"), id="damaged"),
        pytest.param(lambda path: path.write_text('{"version": 99, "state": {}}'), id="another version's"),
    ],
)
def test_without_its_state_file_it_finds_them_by_their_environment(world: LocalWorld, damage) -> None:
    first = world.targets(gpus=("0", "1"))
    first.scale(decided(1, 2))
    before = until_look(first, all_ready(2), what="two are Ready")
    first.stop()
    damage(world.local / STATE)

    second = world.targets(gpus=("0", "1"))
    after = until_look(second, all_ready(2), what="both are Ready")

    assert {(each.id, each.process, each.port, each.gpus) for each in after.servers} == {
        (each.id, each.process, each.port, each.gpus) for each in before.servers
    }
    assert second.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=2, ready=2)


def test_a_server_that_died_while_nobody_looked_is_started_again(world: LocalWorld) -> None:
    first = world.targets()
    before = until_look(first, all_ready(1), what="Ready").servers[0]
    first.stop()
    kill(before)
    after = until_look(world.targets(), all_ready(1), what="Ready again").servers[0]
    assert after.id == before.id
    assert len(marked_alive(world.local)) == 1


def test_a_dry_run_counts_and_touches_nothing(world: LocalWorld) -> None:
    assert world.targets(dry_run=True).read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(
        desired=1, ready=0, unschedulable=1
    )
    assert not world.local.exists()
    real = world.targets()
    until_look(real, all_ready(1), what="Ready")
    files = {path: path.read_bytes() for path in world.local.iterdir() if path.is_file()}
    looking = world.targets(dry_run=True)
    assert looking.read(now=datetime.now(UTC))[WORKLOAD] == ReplicaState(desired=1, ready=1)
    assert looking.scale(decided(1, 2)).kind is OutcomeKind.FAILED
    assert {path: path.read_bytes() for path in world.local.iterdir() if path.is_file()} == files


def test_where_nothing_can_be_written_down_nothing_is_begun(world: LocalWorld) -> None:
    targets = world.targets()
    world.local.rmdir()
    world.local.write_text("in the way")
    seen = targets.read(now=datetime.now(UTC))[WORKLOAD]
    assert isinstance(seen, Blind)
    assert "written down" in seen.detail
    assert targets.scale(decided(1, 2)).kind is OutcomeKind.FAILED
    assert marked_alive(world.local) == {}


def test_a_port_that_somebody_else_has_is_passed_over(world: LocalWorld) -> None:
    with SpokenGateway() as other:
        world.first_port = int(other.url.rpartition(":")[2])
        state = until_look(world.targets(), all_ready(1), what="Ready")
    assert state.servers[0].port > world.first_port


def test_a_port_that_was_taken_meanwhile_is_waited_for(world: LocalWorld) -> None:
    """Another program's healthy answer must not be taken for the server's."""
    targets = world.targets()
    server = until_look(targets, all_ready(1), what="Ready").servers[0]
    kill(server)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        take(other, server.port)
        state = until_look(targets, lambda state: state.servers[0].restarts >= 2, what="it cannot begin")
        assert phases(state) == [Phase.WAITING]
        assert [each["detail"] for each in world.log if "is taken" in each.get("detail", "")]
    until_look(targets, all_ready(1), what="Ready again")


def take(other: socket.socket, port: int) -> None:
    """Listen on a port as soon as the process that had it is gone."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            other.bind(("127.0.0.1", port))
            other.listen()
            return
        except OSError:
            assert time.monotonic() < ends


def test_the_command_line_stands_where_the_settings_say(world: LocalWorld) -> None:
    targets = world.targets(command=(*local_server.command("--answer-s", "0.0"),))
    state = until_look(targets, all_ready(1), what="Ready")
    (words,) = marked_alive(world.local).values()
    assert f"--port {state.servers[0].port} " in f"{words} "
