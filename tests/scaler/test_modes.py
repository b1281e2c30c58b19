"""What the four modes do with the same decision, and what a floor beneath another autoscaler changes about it.

Invariants over anything that is read: a floor never exceeds the autoscaler's maximum nor ours, never falls below the
configured minimum, and never falls while demand is unknown; only `active` and `floor` write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.types import Blind, BlindReason, Known, Reading
from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot, settled
from scaler.adapters.codec import Codec
from scaler.adapters.connections import floors_of
from scaler.config import parse_config
from scaler.errors import ConfigError
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.loop import settled as settled_by
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import WorkloadPolicy, decide, decide_within
from scaler.policy.explain import as_text, explain
from scaler.policy.types import (
    Action,
    ClassReadings,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
)
from scaler.ports import DecisionRecord, Outcome, OutcomeKind, WorkloadSignals


@dataclass(kw_only=True)
class Outside:
    """All four ports: a demand a workload, replicas, and the decisions that were to be written."""

    rps: float
    replicas: dict[str, ReplicaState | Blind]
    written: list[Decision] = field(default_factory=list)
    records: list[DecisionRecord] = field(default_factory=list)

    def tick(
        self, fleet: Fleet, states: Mapping[str, PolicyState] | None = None, *, now: datetime = NOON
    ) -> TickReport:
        return tick(
            fleet,
            states or {},
            Ports(signals=_Signals(self), forecasts=_None(), targets=_Targets(self), journal=self),
            now=now,
        )

    def append(self, records: Sequence[DecisionRecord]) -> None:
        self.records.extend(records)

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Outcomes are looked at in the report."""


@dataclass(frozen=True)
class _Signals:
    outside: Outside

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        classes = (ClassReadings(demand_rps=Known(value=self.outside.rps)),)
        return {name: WorkloadSignals(classes=classes) for name in self.outside.replicas}


class _None:
    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        return {}


@dataclass(frozen=True)
class _Targets:
    outside: Outside

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        return self.outside.replicas

    def scale(self, decision: Decision) -> Outcome:
        self.outside.written.append(decision)
        return Outcome(kind=OutcomeKind.SCALED)


def a_fleet(*modes: Mode, gpus: int | None = None) -> Fleet:
    workloads = tuple(
        replace(a_policy(mode=mode, most=20), workload=f"llm/{name}") for mode, name in zip(modes, "abcd", strict=False)
    )
    return Fleet(workloads=workloads, budget=BudgetRule(gpus=gpus))


def a_floor(floor: int, *, held: int, ceiling: int = 20, ready: int | None = None) -> ReplicaState:
    """A workload under an autoscaler, all of its pods Ready unless told otherwise."""
    return ReplicaState(desired=floor, ready=min(floor, held) if ready is None else ready, held=held, ceiling=ceiling)


# ── Who writes, and who shares the budget ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "outcome", "writes"),
    [
        pytest.param(Mode.OBSERVE, OutcomeKind.OBSERVED, False, id="observe"),
        pytest.param(Mode.PUBLISH, OutcomeKind.PUBLISHED, False, id="publish"),
        pytest.param(Mode.ACTIVE, OutcomeKind.SCALED, True, id="active"),
        pytest.param(Mode.FLOOR, OutcomeKind.SCALED, True, id="floor"),
    ],
)
def test_the_same_decision_in_every_mode(mode: Mode, outcome: OutcomeKind, writes: bool) -> None:
    outside = Outside(rps=50.0, replicas={"llm/a": ReplicaState(desired=1, ready=1)})
    report = outside.tick(a_fleet(mode))
    assert report.records[0].decision.target == 5
    assert report.outcomes["llm/a"].kind is outcome
    assert bool(outside.written) is writes is mode.writes


def test_what_is_published_shares_the_budget_because_somebody_follows_it() -> None:
    outside = Outside(rps=50.0, replicas={name: ReplicaState(desired=1, ready=1) for name in ("llm/a", "llm/b")})
    report = outside.tick(a_fleet(Mode.PUBLISH, Mode.ACTIVE, gpus=7))
    assert [record.decision.target for record in report.records] == [4, 3]


def test_what_the_autoscaler_holds_above_its_floor_takes_gpus() -> None:
    """Ten GPUs: a holds 6 over a floor of 2, so b may have 4; a's floor may rise up to what it holds for nothing."""
    outside = Outside(rps=50.0, replicas={"llm/a": a_floor(2, held=6), "llm/b": ReplicaState(desired=1, ready=1)})
    report = outside.tick(a_fleet(Mode.FLOOR, Mode.ACTIVE, gpus=10))
    assert [record.decision.target for record in report.records] == [6, 4]


def test_a_floor_above_what_is_held_is_cut_by_the_budget() -> None:
    outside = Outside(rps=90.0, replicas={"llm/a": a_floor(5, held=6), "llm/b": ReplicaState(desired=2, ready=2)})
    report = outside.tick(a_fleet(Mode.FLOOR, Mode.OBSERVE, gpus=9))
    record = report.records[0]
    assert (record.decision.target, record.decision.reason) == (7, Reason.GPU_BUDGET)


def test_an_unreadable_floor_counts_with_what_was_held_above_it() -> None:
    fleet = a_fleet(Mode.FLOOR, Mode.ACTIVE, gpus=10)
    outside = Outside(rps=5.0, replicas={"llm/a": a_floor(2, held=6), "llm/b": ReplicaState(desired=1, ready=1)})
    states = outside.tick(fleet).states
    outside.replicas["llm/a"], outside.rps = Blind(reason=BlindReason.TIMEOUT), 90.0
    report = outside.tick(fleet, states, now=NOON + MINUTE)
    assert report.records[1].decision.target == 4


def test_a_workload_that_is_gone_holds_no_gpu() -> None:
    fleet = a_fleet(Mode.ACTIVE, Mode.ACTIVE, gpus=10)
    both = {name: ReplicaState(desired=n, ready=n) for name, n in (("llm/a", 1), ("llm/b", 6))}
    outside = Outside(rps=5.0, replicas=dict(both))
    states = outside.tick(fleet).states
    outside.replicas["llm/b"], outside.rps = Blind(reason=BlindReason.NOT_FOUND), 45.0
    report = outside.tick(fleet, states, now=NOON + MINUTE)
    assert report.records[0].decision.target == 5  # 1 + 4 by the step limit; four were free before


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        pytest.param("mode: floor", False, id="by default an HPA of the target's name"),
        pytest.param("mode: floor, bounds: {min_replicas: 0}", True, id="an HPA knows no zero"),
        pytest.param("mode: active, bounds: {min_replicas: 0}", False, id="which only matters to a floor"),
        pytest.param(
            "mode: floor, bounds: {min_replicas: 0}, target: {floor: {kind: ScaledObject}}", False, id="KEDA does"
        ),
        pytest.param("mode: floor, target: {floor: {kind: Hpa}}", True, id="no such kind"),
        pytest.param("mode: floor, target: {floor: {name: Chat_HPA}}", True, id="no Kubernetes name"),
    ],
)
def test_which_floors_the_settings_take(more: str, refused: bool) -> None:
    text = "apiVersion: headstart/v1\nkind: Config\nworkloads:\n"
    text += f"  - {{workload: llm/chat, profile: qwen3-vl-2b-24gb, {more}}}\n"
    if refused:
        with pytest.raises(ConfigError):
            parse_config(text, Path("h.yaml"))
        return
    config = parse_config(text, Path("h.yaml"))
    named = {"llm/chat"} if "mode: floor" in more else set()
    assert set(floors_of(config)) == named
    assert {floor.name for floor in floors_of(config).values()} == ({"chat"} if named else set())


# ── A floor ───────────────────────────────────────────────────────────────────────────────────────────────────


def under(replicas: ReplicaState, rps: float | Reading = 50.0) -> Snapshot:
    return replace(a_snapshot(rps=rps), replicas=replicas)


def decided(snapshot: Snapshot, policy: WorkloadPolicy | None = None, state: PolicyState | None = None) -> Decision:
    chosen = policy or a_policy(mode=Mode.FLOOR, most=20)
    before = settled(snapshot, chosen) if state is None else state
    return decide(snapshot, before, chosen, now=NOON)[0]


@pytest.mark.parametrize(
    ("replicas", "rps", "target", "reason"),
    [
        pytest.param(a_floor(1, held=6), 50.0, 5, Reason.LOAD, id="to the load, though more is held"),
        pytest.param(a_floor(1, held=1, ceiling=3), 50.0, 3, Reason.LOAD, id="no higher than the autoscaler's maximum"),
        pytest.param(a_floor(3, held=6, ceiling=3), 50.0, 3, Reason.AT_MAX, id="at its maximum it stays"),
        pytest.param(a_floor(8, held=8), 9.0, 4, Reason.LOAD, id="and falls by half, as a scale does"),
        pytest.param(a_floor(0, held=4), 50.0, 4, Reason.LOAD, id="a ScaledObject without a floor gets one"),
        pytest.param(a_floor(0, held=0), 9.0, 2, Reason.LOAD, id="also one that sleeps: its own autoscaler's doing"),
        pytest.param(a_floor(2, held=0), 50.0, 2, Reason.HANDS_OFF, id="an HPA at zero was switched off by somebody"),
    ],
)
def test_where_a_floor_goes(replicas: ReplicaState, rps: float, target: int, reason: Reason) -> None:
    decision = decided(under(replicas, rps))
    assert (decision.current, decision.target, decision.reason) == (replicas.desired, target, reason)


def test_a_minimum_above_the_autoscalers_maximum_is_kept_so_that_the_refusal_tells_of_it() -> None:
    decision = decided(under(a_floor(1, held=1, ceiling=2)), a_policy(mode=Mode.FLOOR, least=3, most=9))
    assert decision.target == 3


def test_what_the_autoscaler_adds_is_no_proof_of_a_floor_that_is_too_low() -> None:
    """31 rps on a floor of 3 is a missed minute for the floor, although 9 Ready pods served it."""
    snapshot = replace(under(a_floor(3, held=9), 31.0), forecasts=(DemandForecast(forecast=a_forecast(9.0)),))
    before = PolicyState(last_tick_at=NOON - MINUTE, z=2.0, ready=3)
    missed = decide(snapshot, before, a_policy(mode=Mode.FLOOR), now=NOON)[1].z
    published = decide(snapshot, before, a_policy(mode=Mode.PUBLISH), now=NOON)[1].z
    observed = decide(snapshot, before, a_policy(mode=Mode.OBSERVE), now=NOON)[1].z
    assert missed == published
    assert missed is not None
    assert missed > 2.0 == observed


floors = st.builds(
    lambda floor, held, ceiling, ready: ReplicaState(
        desired=floor, ready=min(floor, held, ready), held=held, ceiling=ceiling
    ),
    floor=st.integers(0, 40),
    held=st.integers(0, 60),
    ceiling=st.integers(1, 60),
    ready=st.integers(0, 60),
)
rates = st.one_of(
    st.builds(Known, value=st.one_of(st.floats(0.0, 500.0), st.sampled_from([float("nan"), float("inf"), -1.0]))),
    st.just(Blind(reason=BlindReason.STALE)),
)


@given(
    seen=st.lists(st.tuples(floors, rates), min_size=1, max_size=30),
    least=st.integers(1, 4),
    span=st.integers(0, 30),
)
def test_a_floor_keeps_every_limit_whatever_is_read(
    seen: list[tuple[ReplicaState, Reading]], least: int, span: int
) -> None:
    policy, state = a_policy(mode=Mode.FLOOR, least=least, most=least + span), PolicyState()
    for minute, (replicas, rps) in enumerate(seen):
        decision, state = decide(under(replicas, rps), state, policy, now=NOON + minute * MINUTE)
        assert decision.current == replicas.desired
        assert decision.target is not None
        if decision.action is Action.HOLD:
            continue
        assert least <= decision.target <= max(least, min(least + span, replicas.ceiling or 0))
        if isinstance(rps, Blind):
            assert decision.action is Action.OUT
        assert not replicas.asleep_under_a_floor


def test_a_record_of_a_floor_is_all_it_takes_to_decide_again() -> None:
    outside = Outside(rps=50.0, replicas={"llm/a": a_floor(2, held=6)})
    report = outside.tick(a_fleet(Mode.FLOOR, gpus=8))
    (record,) = outside.records
    codec = Codec(Snapshot)
    (snapshot,) = codec.decode(codec.encode([record.snapshot]), layout=codec.layout)
    assert snapshot == record.snapshot
    again, state = decide_within(snapshot, record.state, record.policy, record.grant, now=record.at)
    state = settled_by(state, again, report.outcomes["llm/a"])
    assert (again, state) == (record.decision, report.states["llm/a"])
    assert report.states["llm/a"].held == 6


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        pytest.param(Mode.FLOOR, "a floor of 1 under an autoscaler that holds 6, at most 20", id="floor"),
        pytest.param(Mode.FLOOR, "the floor rises by 4", id="floor, what comes next"),
        pytest.param(Mode.PUBLISH, "publish mode: it is exported, another autoscaler writes it", id="publish"),
        pytest.param(Mode.PUBLISH, "4 more published", id="publish, what comes next"),
    ],
)
def test_the_explanation_says_who_writes(mode: Mode, words: str) -> None:
    replicas = a_floor(1, held=6) if mode is Mode.FLOOR else ReplicaState(desired=1, ready=1)
    snapshot, policy = under(replicas), a_policy(mode=mode)
    decision, after = decide(snapshot, settled(snapshot, policy), policy, now=NOON)
    assert words in as_text(decision, explain(decision, snapshot, policy, after))
