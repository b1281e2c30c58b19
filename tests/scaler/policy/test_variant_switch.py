"""A switch between variants, told by the shipping loop: what is ordered when, who gets the traffic, what stays put.

Invariants: the variants together are never asked to hold more GPUs than the group has; whoever has a share of the
traffic is Ready; while anything is Ready the shares add up to one; noise does not flap; no promise is broken; every
record decides again as it did.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_cases import GOOD, NOON, a_forecast
from scaler.adapters.journal import SqliteJournal, replay
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import decide_within
from scaler.policy.types import Control, DemandForecast, Mode, ModeSwitch, Override, Pause, Reason, VariantReason
from variant_world import BIG, SMALL, Service, a_variant
from virtual_world import VirtualWorkload


@pytest.fixture
def service() -> Service:
    """8B serves 5/s with three replicas, and has done so for a quarter of an hour."""
    made = Service()
    made.minutes(15)
    assert made.scales() == (3, 0)
    return made


# ── The story ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_down_when_8b_cannot_cope_and_back_when_it_can(service: Service) -> None:
    """12/s needs five GPUs of 8B, and there are four: 4B needs three."""
    service.demand_rps = 12.0
    service.until(lambda: service.chosen() == SMALL)
    service.until(lambda: service.scales() == (0, 3))
    assert service.decided(BIG) == (0, Reason.VARIANT_SWITCH)
    service.demand_rps = 5.0
    assert service.until(lambda: service.chosen() == BIG) >= 15, "a better one takes over late"
    service.until(lambda: service.scales()[1] == 0 and service.world.workloads[BIG].ready >= 2)
    assert sum(report.variants[0].switched for report in service.reports) == 2


def test_the_traffic_goes_over_as_replicas_become_ready(service: Service) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.scales()[0] == 0)
    moved = [each.variants[0].shares.get(SMALL, 0.0) for each in service.reports]
    shares = [share for share, before in zip(moved, [None, *moved], strict=False) if share != before]
    assert shares == pytest.approx([0.0, 0.425, 0.85, 1.0], abs=0.001)


def test_the_new_one_is_ready_before_an_old_one_that_is_needed_goes(service: Service) -> None:
    """Where there are free GPUs nothing is given up at all before the new ones are Ready."""
    service.gpus = 8
    service.policies = (a_variant(BIG, most=2), a_variant(SMALL))
    service.demand_rps = 8.0
    service.until(lambda: service.world.workloads[SMALL].ready == 2)
    assert service.scales()[0] == 2
    service.until(lambda: service.scales() == (0, 2))


def test_a_forecast_that_8b_will_not_cope_brings_4b_ahead(service: Service) -> None:
    ahead = DemandForecast(forecast=a_forecast(5.0, later_rps={3: 12.0}, issued_at=service.now), quality=GOOD)
    for each in service.world.workloads.values():
        each.forecasts = (ahead,)
    service.minutes(3)
    assert (service.chosen(), service.reason()) == (SMALL, VariantReason.TOO_SLOW)


def test_a_surge_while_the_better_one_starts_is_carried_by_the_one_that_serves(service: Service) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.scales() == (0, 3))
    service.demand_rps, service.gpus, service.start_ticks = 3.0, 6, 60
    service.until(lambda: service.scales()[1] < 3)
    service.until(lambda: service.chosen() == BIG and service.scales()[0] > 0)
    service.demand_rps = 12.0
    held = service.scales()[1]
    service.minutes(2)
    assert service.chosen() == BIG, "8B copes with it, once it is there"
    assert service.scales()[1] > held


# ── What stays put ────────────────────────────────────────────────────────────────────────────────────────────


def blind(service: Service) -> None:
    service.demand_rps = None


def paused(service: Service) -> None:
    service.world.controls[SMALL] = Control(pause=Pause(since=service.now))


def overridden(service: Service) -> None:
    until = service.now + timedelta(days=1)
    service.world.controls[BIG] = Control(override=Override(replicas=2, until=until))


def observed(service: Service) -> None:
    service.world.controls[SMALL] = Control(mode=ModeSwitch(mode=Mode.OBSERVE))


def unreadable(service: Service) -> None:
    service.world.workloads[SMALL].readable = False


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(blind, VariantReason.BLIND_DEMAND, id="the demand is unknown"),
        pytest.param(paused, VariantReason.FROZEN, id="a member is paused"),
        pytest.param(overridden, VariantReason.FROZEN, id="a member is overridden"),
        pytest.param(observed, VariantReason.FROZEN, id="a member is only observed"),
        pytest.param(unreadable, VariantReason.FROZEN, id="a member cannot be read"),
    ],
)
def test_the_group_stays_as_it_is(service: Service, fault: Callable[[Service], None], reason: VariantReason) -> None:
    service.demand_rps = 12.0
    fault(service)
    service.minutes(20)
    assert service.reason() is reason
    assert service.chosen() == BIG
    assert service.scales()[1] == 0


@pytest.mark.parametrize("fault", [pytest.param(f, id=f.__name__) for f in (blind, paused, unreadable)])
def test_a_switch_that_is_interrupted_stops_where_it_is_and_goes_on_after(
    service: Service, fault: Callable[[Service], None]
) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    fault(service)
    held = service.minutes(2) and service.scales()
    service.minutes(10)
    assert service.scales() == held
    assert held[0] >= 1
    service.demand_rps = 12.0
    service.world.controls.clear()
    service.world.workloads[SMALL].readable = True
    service.until(lambda: service.scales()[0] == 0)


@pytest.mark.parametrize("unread", [BIG, SMALL])
def test_a_member_that_cannot_be_read_is_not_taken_for_one_that_has_nothing(service: Service, unread: str) -> None:
    """Half way both serve: whoever is not seen would lose its traffic. Nothing is said, so gateways go by what they see."""
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    service.world.workloads[unread].readable = False
    assert service.minute().variants[0].shares == {}


def test_a_standby_that_cannot_read_a_member_does_not_think_that_another_serves(service: Service) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    service.leads, service.demand_rps = False, 5.0
    service.minutes(2)
    assert service.chosen() == BIG, "three of 8B serve, one of 4B"
    service.world.workloads[BIG].readable = False
    service.minutes(2)
    assert service.chosen() == BIG


def test_a_restart_goes_on_with_the_variant_that_serves(service: Service) -> None:
    """4B serves, 8B would have room: a restart is no reason to skip the quarter of an hour that it must have had."""
    service.demand_rps = 12.0
    service.until(lambda: service.scales()[0] == 0)
    service.states, service.demand_rps = {}, 5.0
    service.minutes(10)
    assert service.chosen() == SMALL
    service.until(lambda: service.chosen() == BIG)


def test_a_restart_half_way_goes_on_with_the_switch(service: Service) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    service.now += timedelta(minutes=20)
    service.minute()
    assert (service.chosen(), service.scales()[0] > service.scales()[1]) == (SMALL, True)
    service.until(lambda: service.scales() == (0, 3))


def test_what_is_only_observed_is_shown_and_nobody_follows_it() -> None:
    made = Service(policies=(a_variant(BIG, mode=Mode.OBSERVE), a_variant(SMALL, mode=Mode.OBSERVE)))
    made.demand_rps = 12.0
    made.minutes(15)
    assert made.chosen() == SMALL
    assert made.scales() == (3, 0)
    assert not made.reports[-1].variants[0].acts


def test_a_standby_believes_what_serves(service: Service) -> None:
    service.leads = False
    service.demand_rps = 12.0
    service.world.workloads[BIG] = VirtualWorkload(scale=0, ready=0)
    service.world.workloads[SMALL] = VirtualWorkload(scale=3, ready=3)
    service.orders = {BIG: [0] * 3, SMALL: [3] * 3}
    service.minute()
    assert service.chosen() == SMALL


def test_a_variant_that_sleeps_is_not_taken_for_one_that_was_switched_off(service: Service) -> None:
    """Nobody wrote the small one's zero: it is how it was deployed."""
    assert service.decided(SMALL) == (0, Reason.VARIANT_SWITCH)


def test_a_change_budget_that_is_spent_does_not_hold_the_old_variant(service: Service) -> None:
    """8B gave its four GPUs back within the period; the small one must not hold its own on for the rest of it."""
    service.budget = BudgetRule(inward_period=timedelta(hours=1))
    service.demand_rps = 12.0
    service.until(lambda: service.scales() == (0, 3))
    service.demand_rps = 5.0
    service.until(lambda: service.chosen() == BIG)
    service.until(lambda: service.scales()[1] == 0, within=20)


def test_a_release_while_the_demand_is_unknown_waits_for_a_look_back(service: Service) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.world.workloads[SMALL].ready == 1)
    service.demand_rps = None
    service.minutes(3)
    service.demand_rps, held = 12.0, service.scales()[0]
    assert service.until(lambda: service.scales()[0] < held) >= 5


# ── What is recorded ──────────────────────────────────────────────────────────────────────────────────────────


def test_every_record_of_a_switch_decides_again_as_it_did(service: Service, tmp_path: Path) -> None:
    service.demand_rps = 12.0
    service.until(lambda: service.scales() == (0, 3))
    with SqliteJournal.open(tmp_path / "headstart.db", now=NOON) as journal:
        for report in service.reports:
            journal.append(report.records)
        rows = list(replay(journal.records(), decide_within))
        assert len(rows) == 2 * len(service.reports)
        assert all(row.equal for row in rows)
        restored = journal.states(decide_within, now=service.now)
    memory = restored[BIG][0].variant
    assert memory is not None
    assert memory == service.states[BIG].variant
    assert memory.chosen == SMALL


@settings(max_examples=40, deadline=None)
@given(
    rates=st.lists(st.one_of(st.none(), st.floats(0.0, 40.0)), min_size=1, max_size=12),
    gpus=st.integers(2, 8),
    size=st.integers(1, 2),
    start_ticks=st.integers(1, 5),
)
def test_whatever_the_demand_does(rates: list[float | None], gpus: int, size: int, start_ticks: int) -> None:
    """The promises are checked at every minute: see `Service.minute`."""
    made = Service(gpus=gpus, start_ticks=start_ticks, policies=(a_variant(BIG, gpus=size), a_variant(SMALL)))
    made.world.workloads[BIG] = VirtualWorkload(scale=1, ready=1)
    made.orders[BIG] = [1] * 5
    made.orders[SMALL] = [0] * 5
    for rate in rates:
        made.demand_rps = rate
        made.minutes(7)


@settings(max_examples=20, deadline=None)
@given(noise=st.lists(st.floats(8.7, 10.1), min_size=30, max_size=60), small=st.booleans())
def test_noise_between_the_two_thresholds_never_switches(noise: list[float], small: bool) -> None:
    made = Service(demand_rps=9.5)
    if small:
        made.world.workloads[BIG] = VirtualWorkload(scale=0, ready=0)
        made.world.workloads[SMALL] = VirtualWorkload(scale=2, ready=2)
        made.orders = {BIG: [0] * 3, SMALL: [2] * 3}
    for rate in noise:
        made.demand_rps = rate
        made.minute()
    assert not any(report.variants[0].switched for report in made.reports)


def test_a_defect_in_a_group_costs_its_members_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("scaler.variants.arrange", broken)
    service.demand_rps = 12.0
    service.minutes(10)
    report = service.reports[-1]
    assert set(report.failed) == {BIG, SMALL}
    assert service.scales() == (3, 0), "without a place neither may decide as if it served everything"
    assert report.variants == ()
