"""One tick: the order of reading, deciding, recording and acting, and what a fault of the outside does to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from forecaster.types import Blind, BlindReason, Known
from policy_cases import MINUTE, NOON, a_forecast, a_policy
from scaler.adapters.invariants import violations
from scaler.adapters.journal import SqliteJournal
from scaler.loop import Fleet, Ports, settled, tick
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.guard import GuardRule
from scaler.policy.types import (
    NO_CONTROL,
    Action,
    At,
    ClassReadings,
    Control,
    Decision,
    DemandForecast,
    LeadSource,
    LeadTime,
    Mode,
    ModeSwitch,
    Override,
    Pause,
    PolicyState,
    Reason,
    ReplicaState,
)
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals


@dataclass(kw_only=True)
class World:
    """All four ports in one, with a log of what was called in which order."""

    rps: dict[str, float]
    replicas: dict[str, ReplicaState | Blind]
    forecasts: dict[str, tuple[DemandForecast, ...]] = field(default_factory=dict)
    partial: frozenset[str] = frozenset()
    disk_full: bool = False
    log: list[str] = field(default_factory=list)
    journal: list[DecisionRecord] = field(default_factory=list)

    def read_signals(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return {
            name: WorkloadSignals(
                classes=(ClassReadings(demand_rps=Known(value=rps)),), demand_partial=name in self.partial
            )
            for name, rps in self.rps.items()
        }

    def scale(self, decision: Decision) -> Outcome:
        self.log.append(f"scale {decision.workload} {decision.current}->{decision.target}")
        return Outcome(kind=OutcomeKind.SCALED)

    def append(self, records: Sequence[DecisionRecord]) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.log.append(f"journal {len(records)}")
        self.journal.extend(records)

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        self.log.append(f"outcomes {', '.join(sorted(outcomes))}")

    def ports(self) -> Ports:
        return Ports(signals=_Signals(self), forecasts=_Forecasts(self), targets=_Targets(self), journal=self)


@dataclass(frozen=True)
class _Signals:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        return self.world.read_signals(now=now)


@dataclass(frozen=True)
class _Forecasts:
    world: World

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return self.world.forecasts


@dataclass(frozen=True)
class _Targets:
    world: World

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        return self.world.replicas

    def scale(self, decision: Decision) -> Outcome:
        return self.world.scale(decision)


def a_fleet(*names: str, gpus: int | None = None, mode: Mode = Mode.ACTIVE, **settings: object) -> Fleet:
    workloads: tuple[WorkloadPolicy, ...] = tuple(
        replace(a_policy(mode=mode, **settings), workload=name)  # type: ignore[arg-type]
        for name in names
    )
    return Fleet(workloads=workloads, budget=BudgetRule(gpus=gpus))


def pods(n: int) -> ReplicaState:
    return ReplicaState(desired=n, ready=n)


def test_every_decision_is_durable_before_the_first_write() -> None:
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(4)})
    report = tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert world.log == ["journal 2", "scale a/x 1->5", "scale b/y 4->8", "outcomes a/x, b/y"]
    assert {name: outcome.kind for name, outcome in report.outcomes.items()} == dict.fromkeys(
        world.rps, OutcomeKind.SCALED
    )
    assert report.journal_error == ""


def test_growth_goes_out_before_shrinkage() -> None:
    fleet, world = a_fleet("a/x", "b/y"), World(rps={"a/x": 5.0, "b/y": 5.0}, replicas={"a/x": pods(6), "b/y": pods(6)})
    states: Mapping[str, PolicyState] = {}
    for minute in range(7):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    world.log.clear()
    world.rps["b/y"] = 70.0
    tick(fleet, states, world.ports(), now=NOON + 7 * MINUTE)
    assert world.log[1:3] == ["scale b/y 6->10", "scale a/x 6->3"]


def test_observe_never_writes_and_says_what_it_would_do() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x", mode=Mode.OBSERVE), {}, world.ports(), now=NOON)
    assert not any(entry.startswith("scale") for entry in world.log)
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.OBSERVED, detail="observe mode: would scale 1 → 5")
    assert report.records[0].decision.target == 5


def test_a_standby_decides_everything_records_it_and_writes_nothing() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON, leads=False)
    assert world.log == ["journal 1", "outcomes a/x"]
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.STANDBY, detail="standby: would scale 1 → 5")
    (record,) = report.records
    assert (record.snapshot.standby, report.leads) == (True, False)
    again, _ = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
    assert again == record.decision


def test_what_is_only_observed_is_so_in_standby_too() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x", mode=Mode.OBSERVE), {}, world.ports(), now=NOON, leads=False)
    assert report.outcomes["a/x"].kind is OutcomeKind.OBSERVED


def test_a_persons_mode_lets_no_standby_write() -> None:
    world, enabled = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)}), Control(mode=ModeSwitch(mode=Mode.ACTIVE))
    ports = replace(world.ports(), controls=Orders(enabled))
    report = tick(a_fleet("a/x", mode=Mode.OBSERVE), {}, ports, now=NOON, leads=False)
    assert report.records[0].policy.mode is Mode.ACTIVE
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.STANDBY, detail="standby: would scale 1 → 5")
    assert world.log == ["journal 1", "outcomes a/x"]


def test_a_standby_does_not_ask_whose_changes_it_sees() -> None:
    """The leader's writes, and those of others, are the leader's to judge: nothing is noted until it leads itself."""
    world, states = World(rps={"a/x": 30.0}, replicas={"a/x": pods(3)}), {}
    fleet = a_fleet("a/x")
    for minute, scale in enumerate((3, 6, 4, 9, 5)):
        world.replicas["a/x"] = pods(scale)
        states = dict(tick(fleet, states, world.ports(), now=NOON + minute * MINUTE, leads=False).states)
        assert (states["a/x"].own, states["a/x"].pending, states["a/x"].foreign) == (None, None, ())
    world.replicas["a/x"] = pods(8)  # the leader's last word, just before this one leads
    report = tick(fleet, states, world.ports(), now=NOON + 5 * MINUTE)
    assert report.records[0].decision.reason is Reason.REWARM
    world.replicas["a/x"] = pods(7)  # and now it is somebody else's
    report = tick(fleet, report.states, world.ports(), now=NOON + 6 * MINUTE)
    assert report.records[0].decision.reason is Reason.HELD_MANUAL


def test_a_steady_tick_is_journalled_and_writes_nothing() -> None:
    world = World(rps={"a/x": 5.0}, replicas={"a/x": pods(1)})
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert world.log == ["journal 1"]
    assert report.outcomes == {}


def test_the_measured_start_time_is_planned_with_and_the_configured_one_without() -> None:
    measured = LeadTime(seconds=250.0, source=LeadSource.OWN, starts=9)

    class Measured:
        def latest(self, configured: Mapping[str, timedelta], *, now: datetime) -> Mapping[str, LeadTime]:
            assert configured == {"a/x": timedelta(minutes=5), "b/y": timedelta(minutes=5)}
            return {"a/x": measured}

    world = World(rps={"a/x": 5.0, "b/y": 5.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y"), {}, replace(world.ports(), lead_times=Measured()), now=NOON)
    planned = [(record.snapshot.lead_time_s, record.snapshot.lead_time) for record in report.records]
    assert planned == [(250.0, measured), (300.0, None)]


def test_a_full_disk_does_not_stop_scaling_and_is_reported() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(1)}, disk_full=True)
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert world.log == ["scale a/x 1->5"]
    assert "No space left on device" in report.journal_error


@pytest.mark.parametrize(
    ("rps", "replicas", "reason"),
    [
        pytest.param({}, {"a/x": pods(3)}, Reason.BLIND_DEMAND, id="the source does not know the workload"),
        pytest.param({"a/x": 5.0}, {}, Reason.BLIND_REPLICAS, id="the cluster does not know it"),
        pytest.param(
            {"a/x": 5.0}, {"a/x": Blind(reason=BlindReason.FORBIDDEN)}, Reason.BLIND_REPLICAS, id="the cluster refuses"
        ),
    ],
)
def test_what_is_missing_is_blind(
    rps: dict[str, float], replicas: dict[str, ReplicaState | Blind], reason: Reason
) -> None:
    world = World(rps=rps, replicas=replicas)
    report = tick(a_fleet("a/x"), {}, world.ports(), now=NOON)
    assert report.records[0].decision.reason is reason
    assert not any(entry.startswith("scale") for entry in world.log)


def test_a_part_of_the_demand_releases_nothing() -> None:
    fleet, world = a_fleet("a/x"), World(rps={"a/x": 5.0}, replicas={"a/x": pods(6)}, partial=frozenset({"a/x"}))
    states: Mapping[str, PolicyState] = {}
    for minute in range(20):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    assert not any(entry.startswith("scale") for entry in world.log)


def test_one_blind_workload_leaves_the_other_alone() -> None:
    world = World(rps={"b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert "scale b/y 1->5" in world.log


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")


def test_a_decision_that_raises_costs_nobody_else_theirs() -> None:
    """It writes nothing, keeps its memory and its GPUs: ten of them, three are held, so b may have seven."""
    world = World(rps={"a/x": 20.0, "b/y": 27.0}, replicas={"a/x": pods(3), "b/y": pods(4)})
    fleet = a_fleet("a/x", "b/y", gpus=10)
    states = tick(fleet, {}, world.ports(), now=NOON - MINUTE).states
    world.rps = {"a/x": _Odd(50.0), "b/y": 99.0}
    world.log.clear()
    report = tick(fleet, states, world.ports(), now=NOON)
    assert world.log == ["journal 1", "scale b/y 4->7", "outcomes b/y"]
    assert [str(error) for error in report.failed.values()] == ["one workload's numbers"]
    assert report.states["a/x"] == states["a/x"]
    assert report.gpus == {"a/x": 3, "b/y": 7}


@pytest.mark.parametrize(
    ("replicas", "gpus"),
    [
        pytest.param(pods(1), 5, id="what was ordered now"),
        pytest.param(pods(9), 9, id="what is there, and may go later"),
        pytest.param(replace(pods(2), held=7, ceiling=20), 7, id="what stands above a floor"),
        pytest.param(Blind(reason=BlindReason.TIMEOUT), 100, id="its maximum: it never was seen"),
        pytest.param(Blind(reason=BlindReason.NOT_FOUND), 0, id="nothing: it does not exist"),
    ],
)
def test_the_gpus_that_a_workload_takes(replicas: ReplicaState | Blind, gpus: int) -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": replicas})
    assert tick(a_fleet("a/x"), {}, world.ports(), now=NOON).gpus == {"a/x": gpus}


def test_a_write_that_raises_costs_nobody_else_theirs() -> None:
    class Broken(World):
        def scale(self, decision: Decision) -> Outcome:
            if decision.workload == "a/x":
                raise KeyError("a/x")
            return super().scale(decision)

    world = Broken(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y"), {}, world.ports(), now=NOON)
    assert report.outcomes["a/x"] == Outcome(kind=OutcomeKind.FAILED, detail="KeyError: 'a/x'")
    assert report.outcomes["b/y"].kind is OutcomeKind.SCALED


def test_the_budget_is_shared_and_remembered() -> None:
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(a_fleet("a/x", "b/y", gpus=7), {}, world.ports(), now=NOON)
    assert [record.decision.target for record in report.records] == [4, 3]
    assert [record.grant for record in report.records] == [4, 3]
    assert all(report.states[name].over_budget for name in world.rps)


def test_an_unreadable_workload_keeps_its_gpus_in_the_budget() -> None:
    """Ten GPUs; b held six when last seen. a may have four, not ten."""
    fleet = a_fleet("a/x", "b/y", gpus=10)
    world = World(rps={"a/x": 5.0, "b/y": 30.0}, replicas={"a/x": pods(1), "b/y": pods(6)})
    states = tick(fleet, {}, world.ports(), now=NOON).states
    world.replicas["b/y"] = Blind(reason=BlindReason.TIMEOUT)
    world.rps["a/x"] = 90.0
    report = tick(fleet, states, world.ports(), now=NOON + MINUTE)
    assert report.records[0].decision.target == 4


def test_a_workload_never_seen_counts_at_its_maximum() -> None:
    world = World(rps={"a/x": 90.0}, replicas={"a/x": pods(1), "b/y": Blind(reason=BlindReason.TIMEOUT)})
    report = tick(a_fleet("a/x", "b/y", gpus=10, most=8), {}, world.ports(), now=NOON)
    assert report.records[0].decision.target == 2


def test_observed_workloads_ask_for_no_gpus_and_are_not_cut() -> None:
    fleet = a_fleet("a/x", "b/y", gpus=10)
    observed = replace(fleet.workloads[0], mode=Mode.OBSERVE)
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(1), "b/y": pods(1)})
    report = tick(replace(fleet, workloads=(observed, fleet.workloads[1])), {}, world.ports(), now=NOON)
    assert [(record.grant, record.decision.target) for record in report.records] == [(None, 5), (5, 5)]


def test_a_record_is_all_it_takes_to_decide_again() -> None:
    forecast = DemandForecast(forecast=a_forecast(80.0))
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(2)}, forecasts={"a/x": (forecast,)})
    report = tick(a_fleet("a/x", gpus=5), {}, world.ports(), now=NOON)
    (record,) = report.records
    assert record.snapshot.forecasts == (forecast,)
    again, state = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
    told = settled(state, again, report.outcomes["a/x"])
    assert (again, told) == (record.decision, report.states["a/x"])
    assert record.changes
    assert again.action is Action.OUT


# ── People's orders ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Orders:
    """One workload's control, as it stands at this moment."""

    control: Control = NO_CONTROL

    def of(self, workload: str, *, now: datetime) -> Control:
        return self.control


@dataclass(kw_only=True)
class Interrupted(World):
    """Somebody orders something right after the decision is on record."""

    orders: Orders
    then: Control

    def append(self, records: Sequence[DecisionRecord]) -> None:
        super().append(records)
        self.orders.control = self.then


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(Control(pause=Pause()), id="a pause"),
        pytest.param(Control(mode=ModeSwitch(mode=Mode.OBSERVE)), id="observe"),
        pytest.param(Control(override=Override(replicas=2, until=NOON + MINUTE)), id="an override"),
    ],
)
def test_a_word_between_the_decision_and_its_write_stops_the_write(then: Control) -> None:
    orders = Orders()
    world = Interrupted(rps={"a/x": 50.0}, replicas={"a/x": pods(2)}, orders=orders, then=then)
    report = tick(a_fleet("a/x"), {}, replace(world.ports(), controls=orders), now=NOON)
    assert report.outcomes["a/x"].kind is OutcomeKind.STOPPED
    assert world.log == ["journal 1", "outcomes a/x"], "on record, not written"
    assert report.states["a/x"].pending is None


def test_the_control_in_force_is_on_record_and_a_mode_by_hand_is_the_records_mode() -> None:
    control = Control(mode=ModeSwitch(mode=Mode.OBSERVE, by="ana"), resumed_at=NOON - MINUTE)
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(2)})
    report = tick(a_fleet("a/x"), {}, replace(world.ports(), controls=Orders(control)), now=NOON)
    (record,) = report.records
    assert (record.snapshot.control, record.policy.mode) == (control, Mode.OBSERVE)
    assert report.outcomes["a/x"].kind is OutcomeKind.OBSERVED


def test_what_a_person_orders_goes_at_once_whatever_the_change_budget_says() -> None:
    """Sixteen GPUs, twelve ordered away: by their own rules both together would have released six."""
    control = Control(override=Override(replicas=2, until=NOON + MINUTE))
    world = World(rps={"a/x": 50.0, "b/y": 50.0}, replicas={"a/x": pods(8), "b/y": pods(8)})
    report = tick(a_fleet("a/x", "b/y"), {}, replace(world.ports(), controls=Orders(control)), now=NOON)
    assert [(each.decision.target, each.decision.reason) for each in report.records] == [
        (2, Reason.OVERRIDE),
        (2, Reason.OVERRIDE),
    ]


def test_a_paused_workload_asks_the_fleet_for_nothing() -> None:
    """Ten GPUs, b wants all that are left: a's wish must not keep one from it."""
    world = World(rps={"a/x": 90.0, "b/y": 90.0}, replicas={"a/x": pods(3), "b/y": pods(3)})

    @dataclass
    class OnlyA:
        def of(self, workload: str, *, now: datetime) -> Control:
            return Control(pause=Pause()) if workload == "a/x" else NO_CONTROL

    report = tick(a_fleet("a/x", "b/y", gpus=10), {}, replace(world.ports(), controls=OnlyA()), now=NOON)
    assert [(each.decision.target, each.decision.reason) for each in report.records] == [
        (3, Reason.PAUSED),
        (7, Reason.LOAD),
    ]


def test_what_was_ordered_and_is_not_seen_yet_is_held_in_the_budget() -> None:
    """Twenty GPUs; b had four and was sent to eight when it went blind. a may have twelve, not sixteen."""
    fleet = a_fleet("a/x", "b/y", gpus=20)
    world = World(rps={"a/x": 60.0, "b/y": 80.0}, replicas={"a/x": pods(9), "b/y": pods(4)})
    states = tick(fleet, {}, world.ports(), now=NOON).states
    assert "scale b/y 4->8" in world.log
    world.replicas["b/y"] = Blind(reason=BlindReason.TIMEOUT)
    world.rps["a/x"] = 160.0
    report = tick(fleet, states, world.ports(), now=NOON + MINUTE)
    assert report.records[0].decision.target == 12


@pytest.mark.parametrize(
    ("gpus", "waiting", "writes"),
    [
        pytest.param(None, 0, ["scale b/y 6->9", "scale a/x 6->3"], id="room for all: growth first"),
        pytest.param(13, 0, ["scale a/x 6->3", "scale b/y 6->7"], id="cut by the budget: the release first"),
        pytest.param(None, 1, ["scale a/x 6->3", "scale b/y 6->9"], id="a pod waits for a GPU: the release first"),
    ],
)
def test_a_release_that_growth_waits_for_goes_first(gpus: int | None, waiting: int, writes: list[str]) -> None:
    fleet = a_fleet("a/x", "b/y", gpus=gpus)
    world = World(rps={"a/x": 5.0, "b/y": 42.0}, replicas={"a/x": pods(6), "b/y": pods(6)})
    states: Mapping[str, PolicyState] = {}
    for minute in range(7):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    world.log.clear()
    world.rps["b/y"] = 60.0
    world.replicas["b/y"] = replace(pods(6), ready=6 - waiting, unschedulable=waiting)
    tick(fleet, states, world.ports(), now=NOON + 7 * MINUTE)
    assert [entry for entry in world.log if entry.startswith("scale")] == writes


def test_a_common_error_does_not_take_the_fleet_down() -> None:
    """Every gateway counter reads a tenth of the load: 25 workloads of four would all be halved at once."""
    names = [f"n/{i:02}" for i in range(25)]
    fleet = a_fleet(*names)
    world = World(rps=dict.fromkeys(names, 3.0), replicas=dict.fromkeys(names, pods(4)))
    states: Mapping[str, PolicyState] = {}
    gone = []
    for minute in range(26):
        report = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE)
        states = report.states
        for record in report.records:
            current, target = record.decision.current or 0, record.decision.target or 0
            gone += [minute] * (current - target)
            world.replicas[record.policy.workload] = pods(target)
        if minute == 7:
            cut = [each.decision for each in report.records if each.decision.reason is Reason.FLEET_CHANGE]
            assert len(cut) == 5
            assert cut[0].adjustments[-1].detail == "0 of 2 may go now, the fleet's change budget says"
    assert [gone.count(minute) for minute in (7, 17)] == [20, 16]
    assert len(gone) == 36


def test_a_restart_knows_what_went_before_it(tmp_path: Path) -> None:
    """Two workloads of eight, one released four and then everything stopped: the other one waits its turn after it."""
    fleet = a_fleet("a/x", "b/y", least=4, guard=GuardRule(spacing=MINUTE))
    world = World(rps={"a/x": 5.0, "b/y": 55.0}, replicas={"a/x": pods(8), "b/y": pods(8)})
    states: Mapping[str, PolicyState] = {}
    with SqliteJournal.open(tmp_path / "headstart.db", now=NOON) as journal:
        ports = replace(world.ports(), journal=journal)
        for minute in range(8):
            states = tick(fleet, states, ports, now=NOON + minute * MINUTE).states
        now = NOON + 8 * MINUTE
        restored = {name: state for name, (state, _) in journal.states(decide_within, now=now).items()}
    assert restored == states
    assert restored["a/x"].released == (At(at=NOON + 7 * MINUTE, replicas=4),)
    world.replicas["a/x"], world.rps["b/y"] = pods(4), 5.0
    reports = []
    for minute in range(8, 20):
        reports.append(tick(fleet, restored, world.ports(), now=NOON + minute * MINUTE))
        restored = dict(reports[-1].states)
    cut = [each.at for report in reports for each in report.records if each.decision.reason is Reason.FLEET_CHANGE]
    assert cut[-1] == NOON + 16 * MINUTE, "ten minutes after the first went, the second may"
    assert "scale b/y 8->4" in world.log


@pytest.mark.parametrize(
    ("before", "left"),
    [
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=3),), asked=3), 17, id="as seen and asked"),
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=3),), asked=7), 13, id="asked for more since"),
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=6),), asked=3), 14, id="asked for less since: perhaps in vain"),
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=0),), asked=0), 12, id="a sleeper may have been woken: its maximum"),
        pytest.param(PolicyState(desired=(At(at=NOON, replicas=0),)), 20, id="switched off by somebody"),
        pytest.param(PolicyState(), 12, id="never seen: its maximum"),
    ],
)  # fmt: skip
def test_what_an_unreadable_workload_leaves_of_twenty_gpus(before: PolicyState, left: int) -> None:
    fleet = a_fleet("a/x", "b/y", gpus=20, most=8)
    grows = replace(fleet.workloads[0], bounds=replace(fleet.workloads[0].bounds, max_replicas=40))
    fleet = replace(fleet, workloads=(grows, fleet.workloads[1]))
    world = World(rps={"a/x": 400.0}, replicas={"a/x": pods(11), "b/y": Blind(reason=BlindReason.TIMEOUT)})
    states = {"b/y": replace(before, last_tick_at=NOON)}
    report = tick(fleet, states, world.ports(), now=NOON + MINUTE)
    assert report.records[0].decision.target == max(11, left)


# ── The fleet's budgets and the modes ─────────────────────────────────────────────────────────────────────────


def under_a_floor(least: int, held: int, *, ceiling: int = 40) -> ReplicaState:
    """An autoscaler holds `held` replicas above a floor of `least`."""
    return ReplicaState(desired=least, ready=min(least, held), held=held, ceiling=ceiling)


@pytest.mark.parametrize(
    ("gpus", "wanted_rps", "floor"),
    [
        pytest.param(None, 66.0, 10, id="without a budget the floor is what is wanted"),
        pytest.param(12, 42.0, 6, id="beneath what is held it takes no further GPU"),
        pytest.param(12, 66.0, 8, id="twelve: eight are held, four are the neighbour's"),
        pytest.param(13, 66.0, 9, id="thirteen: one is left"),
        pytest.param(6, 66.0, 8, id="a fleet above its budget: up to what is held anyway"),
    ],
)
def test_a_floor_takes_gpus_only_above_what_is_held(gpus: int | None, wanted_rps: float, floor: int) -> None:
    fleet = a_fleet("a/x", "b/y", gpus=gpus)
    fleet = replace(fleet, workloads=(replace(fleet.workloads[0], mode=Mode.FLOOR), fleet.workloads[1]))
    replicas = {"a/x": under_a_floor(5, held=8), "b/y": pods(4)}
    report = tick(fleet, {}, World(rps={"a/x": wanted_rps, "b/y": 25.0}, replicas=replicas).ports(), now=NOON)
    assert [each.decision.target for each in report.records] == [floor, 4]


def test_a_floor_is_lowered_whatever_the_others_released() -> None:
    """It takes nothing away: that is for the autoscaler above it to do. The one active workload may release its three."""
    fleet = a_fleet("a/x", "b/y", "c/z")
    floors = tuple(replace(each, mode=Mode.FLOOR) for each in fleet.workloads[1:])
    fleet = replace(fleet, workloads=(fleet.workloads[0], *floors))
    held = {"b/y": under_a_floor(12, held=12), "c/z": under_a_floor(12, held=12)}
    world = World(rps=dict.fromkeys(("a/x", "b/y", "c/z"), 5.0), replicas={"a/x": pods(6), **held})
    states: Mapping[str, PolicyState] = {}
    for minute in range(8):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    assert [entry for entry in world.log if entry.startswith("scale")] == [
        "scale a/x 6->3",
        "scale b/y 12->6",
        "scale c/z 12->6",
    ]


def test_a_floor_that_cannot_be_read_is_no_part_of_what_may_be_released() -> None:
    """Two of ten may go. With the thirty under the floor in the sum it would be eight."""
    fleet = a_fleet(*(f"n/{i}" for i in range(5)), "z/floor")
    fleet = replace(fleet, workloads=(*fleet.workloads[:5], replace(fleet.workloads[5], mode=Mode.FLOOR)))
    names = [each.workload for each in fleet.workloads]
    world = World(rps=dict.fromkeys(names, 3.0), replicas=dict.fromkeys(names, pods(2)))
    world.replicas["z/floor"] = under_a_floor(4, held=30)
    states: Mapping[str, PolicyState] = {}
    for minute in range(7):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
        world.log.clear()
    world.replicas["z/floor"] = Blind(reason=BlindReason.TIMEOUT)
    tick(fleet, states, world.ports(), now=NOON + 7 * MINUTE)
    assert len([entry for entry in world.log if entry.startswith("scale")]) == 2


def test_what_is_published_is_cut_by_the_budget_and_never_written() -> None:
    world = World(rps={"a/x": 50.0}, replicas={"a/x": pods(2)})
    report = tick(a_fleet("a/x", gpus=4, mode=Mode.PUBLISH), {}, world.ports(), now=NOON)
    (record,) = report.records
    assert (record.grant, record.decision.target, record.decision.reason) == (4, 4, Reason.GPU_BUDGET)
    assert report.outcomes["a/x"].kind is OutcomeKind.PUBLISHED
    assert not [entry for entry in world.log if entry.startswith("scale")]


@dataclass
class Word:
    """What a person ordered for one workload of several."""

    workload: str
    control: Control

    def of(self, workload: str, *, now: datetime) -> Control:
        return self.control if workload == self.workload else NO_CONTROL


def an_override(replicas: int) -> Control:
    return Control(override=Override(replicas=replicas, until=NOON + 60 * MINUTE))


def test_an_override_releases_at_once_and_the_rest_of_the_fleet_waits_for_it() -> None:
    """A person sees what the rules do not; what went by their word is gone from what may go all the same."""
    names = [f"n/{i}" for i in range(6)]
    fleet = a_fleet(*names)
    world = World(rps=dict.fromkeys(names, 3.0), replicas=dict.fromkeys(names, pods(2)))
    world.rps["n/0"], world.replicas["n/0"] = 65.0, pods(10)
    states: Mapping[str, PolicyState] = {}
    for minute in range(7):
        states = tick(fleet, states, world.ports(), now=NOON + minute * MINUTE).states
    world.replicas.update({name: pods(2) for name in names[1:]})
    world.log.clear()
    ports = replace(world.ports(), controls=Word("n/0", an_override(1)))
    report = tick(fleet, states, ports, now=NOON + 7 * MINUTE)
    record = report.records[0]
    assert (record.decision.target, record.decision.reason, record.grant) == (1, Reason.OVERRIDE, None)
    assert [entry for entry in world.log if entry.startswith("scale")] == ["scale n/0 10->1"]
    assert {each.decision.reason for each in report.records[1:]} == {Reason.FLEET_CHANGE}


def test_an_override_gets_no_gpu_that_is_not_there() -> None:
    world = World(rps={"a/x": 5.0, "b/y": 5.0}, replicas={"a/x": pods(1), "b/y": pods(4)})
    ports = replace(world.ports(), controls=Word("a/x", an_override(18)))
    report = tick(a_fleet("a/x", "b/y", gpus=20), {}, ports, now=NOON)
    (record, _) = report.records
    assert (record.grant, record.decision.target, record.decision.reason) == (16, 16, Reason.GPU_BUDGET)
    assert violations(report, mutating_requests=1) == (), "fifteen at once are no step of ours"
