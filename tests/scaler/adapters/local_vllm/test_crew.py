"""Who joins, who is called back and who goes; and how servers read as replicas.

Invariants: no port and no GPU is given twice; the plan brings the servers to what is wanted, or says how many find no
place; who is called back or sent away is one of the workload's own.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.adapters.kubernetes.pods import PodPhase
from scaler.adapters.local_vllm.crew import Place, Room, plan, replicas_of, starts_of
from scaler.adapters.local_vllm.life import Phase, Server
from scaler.policy.types import ReplicaState

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def a_server(number: int, phase: Phase = Phase.READY, **changes: object) -> Server:
    """Number 0 is the oldest."""
    born = NOON + timedelta(minutes=number)
    server = Server(
        id=f"{number:032d}",
        workload="local/tiny",
        name=f"tiny-{number:05d}",
        port=8101 + number,
        created_at=born,
        since=born,
        phase=phase,
        gpus=(str(number),),
    )
    return replace(server, **changes)  # type: ignore[arg-type]


def room(*gpus: str, each: int = 1, busy_ports: tuple[int, ...] = ()) -> Room:
    return Room(first_port=8101, gpus_each=each, gpus=gpus, is_free=lambda port: port not in busy_ports)


def planned(servers: list[Server], wanted: int, where: Room, in_flight: dict[str, float] | None = None):
    return plan(
        servers,
        wanted,
        where,
        taken_ports={each.port for each in servers},
        taken_gpus={gpu for each in servers for gpu in each.gpus},
        in_flight=in_flight or {},
    )


def test_new_servers_get_the_first_free_ports_and_gpus() -> None:
    found = planned([a_server(0)], 3, room("0", "1", "2", "3", busy_ports=(8102,)))
    assert found.places == (Place(port=8103, gpus=("1",)), Place(port=8104, gpus=("2",)))


def test_servers_of_two_gpus_each() -> None:
    found = planned([], 3, room("0", "1", "2", "3", "4", each=2))
    assert [each.gpus for each in found.places] == [("0", "1"), ("2", "3")]
    assert found.missing == 1


def test_without_gpus_in_the_settings_nothing_is_pinned() -> None:
    assert planned([], 1, room()).places == (Place(port=8101),)


def test_what_an_ending_server_holds_is_not_free() -> None:
    found = planned([a_server(0, Phase.STOPPING)], 1, room("0"))
    assert (found.places, found.missing) == ((), 1)


def test_who_drains_is_called_back_the_last_one_first() -> None:
    servers = [a_server(0), a_server(1, Phase.DRAINING), a_server(2, Phase.DRAINING), a_server(3, Phase.STOPPING)]
    found = planned(servers, 2, room("0", "1", "2", "3"))
    assert (found.called_back, found.places) == ((servers[2].id,), ())


@pytest.mark.parametrize(
    ("servers", "in_flight", "first"),
    [
        pytest.param([a_server(0), a_server(1, Phase.STARTING)], {0: 0.0, 1: 9.0}, 1, id="not Ready before Ready"),
        pytest.param([a_server(0), a_server(1)], {0: 0.0, 1: 3.0}, 0, id="idle before busy"),
        pytest.param([a_server(0), a_server(1)], {0: 2.0, 1: 2.0}, 1, id="young before old"),
        pytest.param([a_server(0), a_server(1)], {0: 5.0}, 0, id="unknown is not idle"),
    ],
)
def test_who_goes_first(servers: list[Server], in_flight: dict[int, float], first: int) -> None:
    found = planned(servers, 1, room("0", "1"), {servers[number].id: load for number, load in in_flight.items()})
    assert found.leaving == (servers[first].id,)


@given(
    phases=st.lists(st.sampled_from(Phase), max_size=6),
    wanted=st.integers(0, 8),
    gpus=st.integers(0, 8),
    each=st.integers(1, 3),
)
def test_a_plan_gives_nothing_twice_and_reaches_what_is_wanted(
    phases: list[Phase], wanted: int, gpus: int, each: int
) -> None:
    names = tuple(str(number) for number in range(gpus))
    servers = [a_server(n, phase, gpus=names[n : n + 1]) for n, phase in enumerate(phases)]
    found = planned(servers, wanted, room(*names, each=each))
    ports = [place.port for place in found.places] + [server.port for server in servers]
    cards = [gpu for place in found.places for gpu in place.gpus] + [gpu for server in servers for gpu in server.gpus]
    assert len(set(ports)) == len(ports)
    assert len(set(cards)) == len(cards)
    staying = {server.id for server in servers if not server.phase.leaves}
    assert set(found.leaving) <= staying
    assert set(found.called_back) <= {server.id for server in servers if server.phase is Phase.DRAINING}
    reached = len(staying) - len(found.leaving) + len(found.called_back) + len(found.places) + found.missing
    assert reached == wanted


def test_replicas_are_told_as_a_cluster_tells_them() -> None:
    servers = [
        a_server(0),
        a_server(1, Phase.UNREADY),
        a_server(2, Phase.WAITING, restarts=2),
        a_server(3, Phase.STARTING, restarts=1),
        a_server(4, Phase.DRAINING),
    ]
    assert replicas_of(servers, 5) == ReplicaState(desired=5, ready=1, starting=2, failed=1, unschedulable=1)


def test_only_starts_that_somebody_watched_are_told_and_who_leaves_is_gone() -> None:
    servers = [a_server(1, ready_at=NOON), a_server(0, Phase.DRAINING), a_server(2, unwatched=True)]
    told = starts_of(servers, accelerator="local-gpu:1")
    assert [(each.name, each.phase) for each in told] == [
        ("tiny-00000", PodPhase.GONE),
        ("tiny-00001", PodPhase.READY),
    ]
