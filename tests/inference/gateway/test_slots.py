"""Who gets a slot, and when: the fleet in its event loop, on a clock that is a number. Nothing is sent anywhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from inference.gateway.admission import Priority
from inference.gateway.backends import Backend
from inference.gateway.fleet import Ask, Fleet
from inference.gateway.health import HealthRule
from inference.gateway.queueing import QueueRule
from inference.gateway.refusals import Reason, Refusal
from inference.gateway.replica import Replica
from inference.gateway.routing import RoutingRule
from inference.gateway.settings import Settings, Sources

GUI, TEXT = "http://10.0.0.1:8000", "http://10.0.0.2:8000"


class Clock:
    """The time in seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def a_fleet(*backends: Backend, clock: Clock | None = None, deadline_s: float = 60.0) -> Fleet:
    """Replicas that hold one request each."""
    settings = Settings(
        backends=Sources(file=Path("unread.json")),
        routing=RoutingRule(slots_per_capacity=1),
        queue=QueueRule(max_waiting=4, deadline_s=deadline_s),
        health=HealthRule(failures=1, ejected_s=1.0),
    )
    fleet = Fleet(settings, clock=clock or Clock())
    fleet.replace("file", backends)
    return fleet


def an_ask(
    *pools: str, priority: Priority = Priority.NORMAL, tried: frozenset[str] = frozenset(), deadline_s: float = 60.0
) -> Ask:
    return Ask(model="m", pools=pools, priority=priority, key=None, spread=1, deadline_s=deadline_s, tried=tried)


def one(pool: str = "default", url: str = GUI) -> Backend:
    return Backend(url=url, model="m", pool=pool)


async def begun(fleet: Fleet, ask: Ask) -> asyncio.Task[Replica]:
    """A request that has got as far as it gets by itself."""
    task = asyncio.create_task(fleet.take(ask))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_a_slot_that_becomes_free_goes_to_who_came_first_and_nobody_passes() -> None:
    async def story() -> None:
        fleet = a_fleet(one())
        held = await fleet.take(an_ask())
        first, second = await begun(fleet, an_ask()), await begun(fleet, an_ask())
        vip = await begun(fleet, an_ask(priority=Priority.VIP))
        for expected in (vip, first, second):
            assert not expected.done()
            fleet.give_back(held)
            held = await expected
        assert fleet.waiting("m") == 0

    asyncio.run(story())


def test_who_can_only_use_a_busy_pool_does_not_keep_others_from_one_that_is_free() -> None:
    async def story() -> None:
        fleet = a_fleet(one("gui"), one("text", TEXT))
        await fleet.take(an_ask("gui"))
        waits = await begun(fleet, an_ask("gui"))
        goes = await begun(fleet, an_ask("text"))
        assert goes.done()
        assert goes.result().backend.url == TEXT
        assert not waits.done()
        waits.cancel()

    asyncio.run(story())


def test_a_class_uses_its_second_pool_where_the_first_is_full() -> None:
    async def story() -> None:
        fleet = a_fleet(one("gui"), one("text", TEXT))
        places = [(await fleet.take(an_ask("gui", "text"))).backend.pool for _ in range(2)]
        assert places == ["gui", "text"]

    asyncio.run(story())


def test_a_trial_that_goes_well_lets_those_who_wait_in_at_once() -> None:
    async def story() -> None:
        clock = Clock()
        fleet = a_fleet(Backend(url=GUI, model="m", capacity=2.0), clock=clock)
        (replica,) = fleet.replicas
        fleet.failed(replica, answered=False)
        clock.now_s = 2.0
        fleet.probed(replica)
        await fleet.take(an_ask())
        waits = await begun(fleet, an_ask())
        assert not waits.done()
        fleet.answered(replica, late=False)
        assert await asyncio.wait_for(waits, 60) is replica

    asyncio.run(story())


def test_whoever_leaves_the_line_with_a_slot_in_hand_gives_it_on() -> None:
    async def story() -> None:
        fleet = a_fleet(one())
        held = await fleet.take(an_ask())
        leaves, stays = await begun(fleet, an_ask()), await begun(fleet, an_ask())
        fleet.give_back(held)
        leaves.cancel()
        assert (await asyncio.wait_for(stays, 60)).in_flight == 1
        assert leaves.cancelled()

    asyncio.run(story())


def test_who_has_waited_long_enough_is_told_when_to_come_back() -> None:
    async def story() -> None:
        fleet = a_fleet(one())
        await fleet.take(an_ask())
        with pytest.raises(Refusal) as caught:
            await fleet.take(an_ask(deadline_s=0.01))
        assert caught.value.reason is Reason.WAITED_TOO_LONG
        assert fleet.waiting("m") == 0

    asyncio.run(story())


def test_a_model_has_room_as_long_as_one_more_would_get_a_slot_or_a_place_in_the_line() -> None:
    async def story() -> None:
        fleet = a_fleet(one())
        said = [fleet.has_room("m")]
        await fleet.take(an_ask())
        waits = []
        for _ in range(4):
            said.append(fleet.has_room("m"))
            waits.append(await begun(fleet, an_ask()))
        said.append(fleet.has_room("m"))
        assert said == [True] * 5 + [False]
        for each in waits:
            each.cancel()
        fleet.replace("file", ())
        assert not fleet.has_room("m"), "whoever has no replica has no room, however empty the line"
        assert not fleet.has_room("never heard of")

    asyncio.run(story())
