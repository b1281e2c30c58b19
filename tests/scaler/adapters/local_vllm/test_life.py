"""What is done next with a server, given what was seen of it: the whole table, and what must hold whatever is seen.

Invariants: a process is only begun where none runs; a server that serves is never ended before it was told to drain;
one that leaves is gone in the end; pauses between starts never shrink.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.processes import Process
from scaler.adapters.local_vllm.life import (
    HUNG_AFTER,
    LONGEST_BACK_OFF,
    SOUND_AFTER,
    UNLISTED_PAUSE,
    UNREADY_AFTER,
    Act,
    Patience,
    Phase,
    Seen,
    Server,
    back_off,
    begun,
    leave,
    not_begun,
    stay,
    step,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PATIENCE = Patience(
    start_timeout=timedelta(minutes=5),
    grace=timedelta(minutes=2),
    shutdown_timeout=timedelta(minutes=1),
    has_gateway=True,
)
WITHOUT_GATEWAY = replace(PATIENCE, has_gateway=False)
PROCESS = Process(pid=4711, born="boot/1")

UP = Seen(is_alive=True, is_healthy=True)
SILENT = Seen(is_alive=True, is_healthy=False)
DEAD = Seen(is_alive=False, is_healthy=False)
IDLE = Seen(is_alive=True, is_healthy=True, is_idle=True)
BUSY = Seen(is_alive=True, is_healthy=True, is_idle=False)
UNKNOWN = Seen(is_alive=True, is_healthy=True, is_idle=None)


def a_server(phase: Phase, *, age: timedelta = timedelta(0), **changes: object) -> Server:
    """One whose phase began `age` ago."""
    server = Server(
        id="0" * 32,
        workload="local/tiny",
        name="tiny-00000",
        port=8101,
        created_at=NOON - timedelta(hours=1),
        since=NOON - age,
        phase=phase,
        process=None if phase is Phase.WAITING else PROCESS,
        started_at=None if phase is Phase.WAITING else NOON - age,
        ready_at=NOON - age if phase in (Phase.READY, Phase.DRAINING) else None,
    )
    return replace(server, **changes)  # type: ignore[arg-type]


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("server", "seen", "phase", "act"),
    [
        pytest.param(a_server(Phase.WAITING), DEAD, Phase.WAITING, Act.BEGIN, id="a new server is begun at once"),
        pytest.param(
            a_server(Phase.WAITING, restarts=1), DEAD, Phase.WAITING, Act.BEGIN, id="and so is the first restart"
        ),
        pytest.param(a_server(Phase.WAITING, restarts=2), DEAD, Phase.WAITING, None, id="the second one waits"),
        pytest.param(
            a_server(Phase.WAITING, restarts=2, age=timedelta(seconds=10)),
            DEAD,
            Phase.WAITING,
            Act.BEGIN,
            id="ten seconds",
        ),
        pytest.param(
            a_server(Phase.WAITING, process=PROCESS),
            SILENT,
            Phase.WAITING,
            Act.KILL,
            id="never two processes in one place",
        ),
        pytest.param(a_server(Phase.STARTING, age=MINUTE), SILENT, Phase.STARTING, None, id="a start takes its time"),
        pytest.param(a_server(Phase.STARTING, age=MINUTE), UP, Phase.READY, None, id="healthy is Ready"),
        pytest.param(
            a_server(Phase.STARTING, age=MINUTE), DEAD, Phase.WAITING, None, id="a start that ends is tried again"
        ),
        pytest.param(
            a_server(Phase.STARTING, age=5 * MINUTE), SILENT, Phase.WAITING, Act.KILL, id="a start that takes too long"
        ),
        pytest.param(a_server(Phase.READY, age=MINUTE), UP, Phase.READY, None, id="Ready stays Ready"),
        pytest.param(a_server(Phase.READY, age=MINUTE), DEAD, Phase.WAITING, None, id="kill -9"),
        pytest.param(a_server(Phase.READY, age=MINUTE), SILENT, Phase.READY, None, id="one missed answer is nothing"),
        pytest.param(
            a_server(Phase.READY, age=MINUTE, unheard_since=NOON - UNREADY_AFTER),
            SILENT,
            Phase.UNREADY,
            None,
            id="thirty silent seconds: nothing new for it",
        ),
        pytest.param(
            a_server(Phase.UNREADY, unheard_since=NOON - HUNG_AFTER),
            SILENT,
            Phase.WAITING,
            Act.KILL,
            id="two silent minutes: hung",
        ),
        pytest.param(
            a_server(Phase.UNREADY, unheard_since=NOON - MINUTE), UP, Phase.READY, None, id="it was only busy"
        ),
        pytest.param(a_server(Phase.DRAINING, age=MINUTE), BUSY, Phase.DRAINING, None, id="a stream is waited for"),
        pytest.param(a_server(Phase.DRAINING), IDLE, Phase.STOPPING, Act.ASK_TO_END, id="idle: asked to end"),
        pytest.param(a_server(Phase.DRAINING, age=MINUTE), UNKNOWN, Phase.DRAINING, None, id="unknown is not idle"),
        pytest.param(
            a_server(Phase.DRAINING, age=2 * MINUTE), BUSY, Phase.STOPPING, Act.ASK_TO_END, id="the grace is over"
        ),
        pytest.param(a_server(Phase.STOPPING), SILENT, Phase.STOPPING, None, id="an end takes its time"),
        pytest.param(a_server(Phase.STOPPING, age=MINUTE), SILENT, Phase.STOPPING, Act.KILL, id="too long"),
    ],
)
def test_the_next_step(server: Server, seen: Seen, phase: Phase, act: Act | None) -> None:
    after = step(server, seen, PATIENCE, now=NOON)
    assert after.server is not None
    assert (after.server.phase, after.act) == (phase, act)


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING])
def test_who_leaves_and_has_ended_is_gone(phase: Phase) -> None:
    assert step(a_server(phase), DEAD, PATIENCE, now=NOON).server is None


def test_ready_is_counted_from_the_moment_of_the_first_healthy_answer() -> None:
    after = step(a_server(Phase.STARTING, age=MINUTE), UP, PATIENCE, now=NOON).server
    assert after is not None
    assert after.ready_at == NOON


def test_without_a_gateway_a_server_goes_after_the_pause_in_which_others_hear_of_it() -> None:
    early = step(
        a_server(Phase.DRAINING, age=UNLISTED_PAUSE - timedelta(seconds=1)), UNKNOWN, WITHOUT_GATEWAY, now=NOON
    )
    late = step(a_server(Phase.DRAINING, age=UNLISTED_PAUSE), UNKNOWN, WITHOUT_GATEWAY, now=NOON)
    assert (early.act, late.act) == (None, Act.ASK_TO_END)


def test_one_that_was_up_for_long_does_not_crash_in_a_loop() -> None:
    """Seven crashes in a year are seven first restarts."""
    old = a_server(Phase.READY, age=SOUND_AFTER, restarts=7)
    young = a_server(Phase.READY, age=SOUND_AFTER - MINUTE, restarts=7)
    restarts = [step(each, DEAD, PATIENCE, now=NOON).server for each in (old, young)]
    assert [each.restarts for each in restarts if each is not None] == [1, 8]


@pytest.mark.parametrize(
    ("phase", "gone", "act"),
    [
        pytest.param(Phase.WAITING, True, None, id="without a process: forgotten"),
        pytest.param(Phase.STARTING, False, Act.ASK_TO_END, id="it serves nobody yet"),
        pytest.param(Phase.UNREADY, False, Act.ASK_TO_END, id="nor now"),
        pytest.param(Phase.READY, False, None, id="Ready: it drains first"),
    ],
)
def test_who_is_sent_away(phase: Phase, gone: bool, act: Act | None) -> None:
    after = leave(a_server(phase), now=NOON)
    assert (after.server is None, after.act) == (gone, act)
    if after.server is not None:
        assert after.server.phase is (Phase.DRAINING if phase is Phase.READY else Phase.STOPPING)


def test_who_is_called_back_is_ready_at_once() -> None:
    drained = leave(a_server(Phase.READY), now=NOON).server
    assert drained is not None
    assert stay(drained, now=NOON).phase is Phase.READY


def test_a_program_that_cannot_be_started_counts_as_broken() -> None:
    assert not_begun(a_server(Phase.WAITING), now=NOON).is_broken


def test_pauses_double_up_to_five_minutes() -> None:
    pauses = [back_off(restarts).total_seconds() for restarts in range(9)]
    assert pauses == [0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert back_off(10**6) == LONGEST_BACK_OFF


SEEN = st.builds(Seen, is_alive=st.booleans(), is_healthy=st.booleans(), is_idle=st.one_of(st.none(), st.booleans()))


@given(sights=st.lists(st.tuples(SEEN, st.integers(0, 400)), max_size=40), leaves_at=st.integers(0, 40))
def test_whatever_is_seen_the_invariants_hold(sights: list[tuple[Seen, int]], leaves_at: int) -> None:
    server, now, alive, was_told = a_server(Phase.WAITING), NOON, False, False
    for number, (seen, later_s) in enumerate(sights):
        now += timedelta(seconds=later_s)
        alive = alive and seen.is_alive
        seen = replace(seen, is_alive=alive, is_healthy=alive and seen.is_healthy)
        leaving = number == leaves_at and not server.phase.leaves
        after = leave(server, now=now) if leaving else step(server, seen, PATIENCE, now=now)
        if after.act is Act.BEGIN:
            assert not alive, "two processes in one place"
        if after.act is Act.ASK_TO_END and server.phase is Phase.DRAINING:
            assert was_told
            assert seen.is_idle or now - server.since >= PATIENCE.grace
        if server.phase is Phase.READY:
            assert after.act is not Act.ASK_TO_END, "a server that serves drains first"
        if after.server is None:
            assert not alive or server.process is None
            return
        was_told = after.server.phase is Phase.DRAINING
        server = after.server
        if after.act is Act.KILL:
            alive = False
        if after.act is Act.BEGIN:
            alive, server = True, begun(server, PROCESS, now=now)
