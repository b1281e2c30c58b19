"""Rounds of the daemon: one decision that raises, remarks for people, and a standby that takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from forecaster.types import Blind, Known
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.board import Board
from scaler.adapters.documents import workloads_document
from scaler.adapters.forecasts import ForecastBoard
from scaler.adapters.telemetry import Telemetry
from scaler.daemon import Daemon
from scaler.daemon.round import Outlets, Round
from scaler.loop import Fleet, Ports
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import Action, ClassReadings, Decision, DemandForecast, PolicyState, Reason, ReplicaState
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")


@dataclass
class World:
    """All ports in one: two workloads with one replica each."""

    rps: dict[str, float]
    scales: dict[str, int] = field(default_factory=dict)

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Nothing is kept."""

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing is kept."""


@dataclass
class _Signals:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {
            name: WorkloadSignals(classes=(ClassReadings(demand_rps=Known(value=rps)),))
            for name, rps in self.world.rps.items()
        }


@dataclass
class _Targets:
    world: World
    replicas: int = 1

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        scales = {name: self.world.scales.get(name, self.replicas) for name in self.world.rps}
        return {name: ReplicaState(desired=scale, ready=scale) for name, scale in scales.items()}

    def scale(self, decision: Decision) -> Outcome:
        assert decision.target is not None
        self.world.scales[decision.workload] = decision.target
        return Outcome(kind=OutcomeKind.SCALED)


@dataclass
class Log:
    """The names of the events and the workloads they are about."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def error(self, event: str, **keys: Any) -> None:
        self.told.append((event, str(keys.get("workload"))))

    info = warning = critical = error


def test_a_decision_that_raises_is_told_once_and_the_others_are_served() -> None:
    world, log, board = World(rps={"a/x": 5.0, "b/y": 50.0}), Log(), Board()
    policies = tuple(replace(a_policy(), workload=name) for name in world.rps)
    ports = Ports(signals=_Signals(world), forecasts=world, targets=_Targets(world), journal=world)
    telemetry = Telemetry(board)
    tour = Round(Fleet(workloads=policies), ports, Outlets(board=board, telemetry=telemetry, log=log), states={})
    tour.run(now=NOON)
    before = tour.run(now=NOON + MINUTE).states["a/x"]
    log.told.clear()
    world.rps["a/x"] = _Odd(5.0)
    for minute in (2, 3, 4):
        world.rps["b/y"] *= 2.0  # more than it has
        report = tour.run(now=NOON + minute * MINUTE)
        assert [record.policy.workload for record in report.records] == ["b/y"]
        assert report.outcomes["b/y"].kind is OutcomeKind.SCALED
        assert report.states["a/x"] == before
    assert log.told.count(("decision_failed", "a/x")) == 1
    assert telemetry.registry.get_sample_value("headstart_job_failures_total", {"job": "decide"}) == 3.0
    world.rps["a/x"] = 5.0
    assert len(tour.run(now=NOON + 5 * MINUTE).records) == 2


def test_remarks_stand_beside_the_notes_on_settings_until_they_are_taken_back() -> None:
    world, board = World(rps={"a/x": 5.0, "b/y": 50.0}), Board()
    policies = tuple(replace(a_policy(), workload=name) for name in world.rps)
    fleet = Fleet(workloads=policies)
    ports = Ports(signals=_Signals(world), forecasts=world, targets=_Targets(world), journal=world)
    tour = Round(fleet, ports, Outlets(board=board, telemetry=Telemetry(board), log=Log()), states={})
    tour.use(fleet, {"a/x": ("judged at 1 s",)})
    tour.set_remarks({"a/x": ("requests are longer",), "b/y": ("requests are shorter",)})
    tour.run(now=NOON)

    def told() -> dict[str, list[str]]:
        return {item["workload"]: item["notes"] for item in workloads_document(board.view())["items"]}

    assert told() == {"a/x": ["judged at 1 s", "requests are longer"], "b/y": ["requests are shorter"]}
    tour.set_remarks({})
    tour.run(now=NOON + MINUTE)
    assert told() == {"a/x": ["judged at 1 s"], "b/y": []}


@dataclass
class Leadership:
    """An election that a test decides."""

    leads: bool
    holder: str = "other_1"


def _standing_by(rps: float, *, minutes: int) -> tuple[Round, Leadership, Board, World]:
    """A round that has been a standby for so long, over one workload with four replicas."""
    world, board, leadership = World(rps={"a/x": rps}), Board(), Leadership(leads=False)
    targets = _Targets(world, replicas=4)
    ports = Ports(signals=_Signals(world), forecasts=world, targets=targets, journal=world)
    outlets = Outlets(board=board, telemetry=Telemetry(board), log=Log())
    fleet = Fleet(workloads=(replace(a_policy(), workload="a/x"),))
    tour = Round(fleet, ports, outlets, states={}, leadership=leadership)
    for minute in range(minutes):
        assert tour.run(now=NOON + minute * MINUTE).outcomes.get("a/x", STANDBY).kind is OutcomeKind.STANDBY
    return tour, leadership, board, world


STANDBY = Outcome(kind=OutcomeKind.STANDBY)


def test_who_takes_over_releases_nothing_before_a_look_back_has_passed() -> None:
    """For half an hour the load was too small for four replicas: a release was due, but not by this daemon."""
    tour, leadership, _, _ = _standing_by(5.0, minutes=30)
    leadership.leads = True
    kinds = []
    for minute in range(30, 40):
        report = tour.run(now=NOON + minute * MINUTE)
        (record,) = report.records
        kinds.append((record.decision.action, record.decision.reason))
    assert kinds[:5] == [(Action.HOLD, Reason.REWARM)] * 5
    assert Action.IN in {action for action, _ in kinds[5:]}


def test_who_takes_over_grows_at_once() -> None:
    tour, leadership, _, world = _standing_by(5.0, minutes=3)
    leadership.leads, world.rps["a/x"] = True, 90.0
    assert tour.run(now=NOON + 3 * MINUTE).outcomes["a/x"].kind is OutcomeKind.SCALED


@dataclass(kw_only=True)
class Two:
    """A leader and a standby over one world, each with a memory and a round of its own."""

    world: World
    policy: WorkloadPolicy
    tours: list[Round] = field(default_factory=list)
    leaderships: list[Leadership] = field(default_factory=list)
    minute: int = 0

    def join(self, *, leads: bool) -> None:
        board, leadership = Board(), Leadership(leads=leads)
        ports = Ports(
            signals=_Signals(self.world), forecasts=self.world, targets=_Targets(self.world), journal=self.world
        )
        outlets = Outlets(board=board, telemetry=Telemetry(board), log=Log())
        self.tours.append(Round(Fleet(workloads=(self.policy,)), ports, outlets, states={}, leadership=leadership))
        self.leaderships.append(leadership)

    def ticks(self, count: int) -> list[tuple[Reason, ...]]:
        """`count` minutes, the leader's round first in each; the reasons of both."""
        seen = []
        for _ in range(count):
            reports = [tour.run(now=NOON + self.minute * MINUTE) for tour in self.tours]
            seen.append(tuple(report.records[0].decision.reason for report in reports))
            self.minute += 1
        return seen

    def take_over(self) -> None:
        """The leader is gone; the standby leads."""
        self.tours.pop(0)
        self.leaderships.pop(0)
        self.leaderships[0].leads = True


HELD = {Reason.HELD_MANUAL, Reason.HELD_CONFLICT}


def test_the_leaders_writes_are_nobody_elses_to_who_takes_over() -> None:
    world = World(rps={"a/x": 5.0}, scales={"a/x": 4})
    two = Two(world=world, policy=replace(a_policy(), workload="a/x"))
    two.join(leads=True)
    two.join(leads=False)
    for rps in (30.0, 60.0, 20.0):
        world.rps["a/x"] = rps
        assert not {reason for each in two.ticks(8) for reason in each} & HELD
    assert world.scales["a/x"] != 4
    two.take_over()
    world.rps["a/x"] = 90.0
    before = world.scales["a/x"]
    assert not {reason for each in two.ticks(3) for reason in each} & HELD
    assert world.scales["a/x"] > before
    world.scales["a/x"] = 4  # a person
    assert two.ticks(1) == [(Reason.HELD_MANUAL,)]


@pytest.mark.parametrize("joins_after", [0, 30], ids=["watched it fall asleep", "started while it slept"])
def test_who_takes_over_wakes_what_the_leader_put_to_sleep(joins_after: int) -> None:
    world = World(rps={"a/x": 5.0}, scales={"a/x": 2})
    two = Two(world=world, policy=replace(a_policy(least=0), workload="a/x"))
    two.join(leads=True)
    two.ticks(3)
    world.rps["a/x"] = 0.0
    two.ticks(joins_after)
    two.join(leads=False)
    two.ticks(60)
    assert world.scales["a/x"] == 0
    two.take_over()
    two.ticks(2)
    world.rps["a/x"] = 30.0
    two.ticks(2)
    assert world.scales["a/x"] > 0


def test_who_takes_over_wakes_nothing_that_a_person_switched_off() -> None:
    """There was demand when it went to zero: no rule of the leader's did that."""
    world = World(rps={"a/x": 15.0}, scales={"a/x": 2})
    two = Two(world=world, policy=replace(a_policy(least=0), workload="a/x"))
    two.join(leads=True)
    two.join(leads=False)
    two.ticks(3)
    world.scales["a/x"] = 0
    two.ticks(3)
    two.take_over()
    assert two.ticks(5) == [(Reason.HANDS_OFF,)] * 5
    assert world.scales["a/x"] == 0


def test_who_leads_is_shown() -> None:
    tour, leadership, board, _ = _standing_by(5.0, minutes=1)
    assert workloads_document(board.view())["leader"] == {"leads": False, "holder": "other_1"}
    leadership.leads, leadership.holder = True, "this_1"
    tour.run(now=NOON + MINUTE)
    assert workloads_document(board.view())["leader"] == {"leads": True, "holder": "this_1"}


def test_without_a_lease_there_is_no_leader_to_show() -> None:
    world, board = World(rps={"a/x": 5.0}), Board()
    ports = Ports(signals=_Signals(world), forecasts=world, targets=_Targets(world), journal=world)
    outlets = Outlets(board=board, telemetry=Telemetry(board), log=Log())
    Round(Fleet(workloads=(replace(a_policy(), workload="a/x"),)), ports, outlets, states={}).run(now=NOON)
    assert workloads_document(board.view())["leader"] is None
    assert board.view().report.leads  # type: ignore[union-attr]


class _UnreadableJournal:
    """Its last record was decided by another version, and this one cannot decide it again."""

    def forecasts(self, *, now: datetime) -> dict[str, tuple[DemandForecast, ...]]:
        return {}

    def states(self, *, now: datetime) -> dict[str, PolicyState]:
        raise ZeroDivisionError("an upgrade met numbers that the old version took")


def test_a_last_decision_that_cannot_be_made_again_does_not_keep_the_daemon_from_starting() -> None:
    log = Log()
    starting: Any = SimpleNamespace(journal=_UnreadableJournal(), _forecasts=ForecastBoard(), log=log)
    assert Daemon._last_states(starting) == {}
    assert log.told == [("states_not_restored", "None")]
