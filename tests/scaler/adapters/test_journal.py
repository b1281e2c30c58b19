"""The journal, as stories: every decision durable before its write, and made again from what is on record.

Properties:
- for any run of ticks, restarts and failures in between, what is read back is what was recorded, and every
  decision is met when it is made again
"""

from __future__ import annotations

import math
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.types import (
    HORIZONS,
    LEVEL_Z,
    STEP,
    Blind,
    BlindReason,
    Forecast,
    ForecastQuality,
    Known,
    Zero,
)
from scaler.adapters.journal import JournalLimits, SqliteJournal, StoreError, replay
from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.decide import WorkloadPolicy, decide_within
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import Bounds
from scaler.policy.types import (
    ClassReadings,
    DemandForecast,
    LeadSource,
    LeadTime,
    PolicyState,
    Reason,
    ReplicaState,
    Snapshot,
)
from scaler.ports import DecisionRecord, Outcome, OutcomeKind

NOW = datetime(2026, 11, 4, 10, 20, 0, 5, tzinfo=UTC)


class Fleet:
    """A seeded fleet that ticks: noisy demand, blind minutes, forecasts issued anew every five minutes.

    A `steady` one has the noise of an ordinary night: known demand that never changes the scale.
    """

    def __init__(self, workloads: int, *, seed: int = 1, steady: bool = False) -> None:
        self.random = random.Random(seed)
        self.steady = steady
        profile = CapacityProfile(name="p", classes=(ClassCapacity(name="default", max_rps=4.0),))
        self.policies = [
            WorkloadPolicy(
                workload=f"team-{i % 7}/model-{i}",
                profile=profile,
                latency=LatencyRule(slos=(Slo(e2e_p95_s=10.0),)),
                bounds=Bounds(max_replicas=30),
            )
            for i in range(workloads)
        ]
        self.states: dict[str, PolicyState] = {}
        self.desired = {policy.workload: 3 for policy in self.policies}
        self.forecasts: dict[str, Forecast] = {}
        self.ticks = 0

    def tick(self, at: datetime) -> list[DecisionRecord]:
        records = []
        for policy in self.policies:
            snapshot = self._snapshot(policy, at)
            state = self.states.get(policy.workload, PolicyState())
            allowed = None if self.steady else self.random.choice([None, None, self.desired[policy.workload]])
            decision, after = decide_within(snapshot, state, policy, allowed, now=at)
            records.append(
                DecisionRecord(at=at, policy=policy, snapshot=snapshot, state=state, grant=allowed, decision=decision)
            )
            self.states[policy.workload] = after
            if decision.target is not None:
                self.desired[policy.workload] = decision.target
        self.ticks += 1
        return records

    def _snapshot(self, policy: WorkloadPolicy, at: datetime) -> Snapshot:
        name, noise = policy.workload, self.random
        if self.ticks % 5 == 0 or name not in self.forecasts:
            base = 10.0 if self.steady else 8.0 + 4.0 * noise.random()
            self.forecasts[name] = Forecast(
                model="seasonal@1",
                issued_at=at,
                expires_at=at + timedelta(minutes=15),
                step_s=60.0,
                horizons=HORIZONS,
                values=tuple(
                    tuple(base * (1 + 0.1 * z) * (1 + 0.01 * noise.random()) for z in LEVEL_Z) for _ in HORIZONS
                ),
            )
        quality = ForecastQuality(
            coverage_95=0.95, wape=noise.random(), wape_last_value=noise.random(), scored_bins=360
        )
        demand = noise.choice(
            [Known(value=noise.randint(600, 700) / 60, age_s=12.5)]
            if self.steady
            else [Known(value=noise.randint(300, 900) / 60, age_s=12.5)] * 20
            + [Zero(evidence="counter stands still"), Blind(reason=BlindReason.TIMEOUT, detail=f"{noise.random()} s")]
        )
        replicas = self.desired[name]
        return Snapshot(
            workload=name,
            replicas=ReplicaState(desired=replicas, ready=replicas),
            lead_time_s=180.0,
            classes=(
                ClassReadings(
                    demand_rps=demand,
                    e2e_p95_s=Known(value=noise.choice([noise.random(), math.nan, math.inf]), age_s=12.5),
                ),
            ),
            requests_waiting=Known(value=float(noise.randint(0, 3)), age_s=12.5),
            forecasts=(DemandForecast(forecast=self.forecasts[name], quality=quality),),
        )


def run(journal: SqliteJournal, fleet: Fleet, minutes: int, *, start: datetime = NOW) -> list[DecisionRecord]:
    records = []
    for minute in range(minutes):
        tick = fleet.tick(start + minute * STEP)
        journal.append(tick)
        records += tick
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "headstart.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    with SqliteJournal.open(path, now=NOW) as journal:
        yield journal


def query(path: Path, sql: str) -> list[tuple]:
    db = sqlite3.connect(path)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def read_as_recorded(journal: SqliteJournal, records: list[DecisionRecord]) -> None:
    """Everything `decide` read is there to the last bit, and so is every decision that was kept in full."""
    entries = list(journal.records())
    key = [(r.at, r.snapshot.workload) for r in records]
    assert sorted((e.at, e.workload) for e in entries) == sorted(key)
    by_key = {(e.at, e.workload): e for e in entries}
    for record in records:
        entry = by_key[record.at, record.snapshot.workload]
        assert entry.policy == record.policy
        assert repr(entry.snapshot) == repr(record.snapshot)
        assert repr((entry.state, entry.grant)) == repr((record.state, record.grant))
        assert entry.matches(record.decision)
        assert entry.decision in (None, record.decision)


def test_records_come_back_exactly_and_decide_the_same_again(path: Path) -> None:
    with SqliteJournal.open(path, now=NOW) as journal:
        records = run(journal, Fleet(5), 90)
    with SqliteJournal.open(path, now=NOW, read_only=True) as journal:
        read_as_recorded(journal, records)
        rows = list(replay(journal.records(), decide_within))
        assert len(rows) == 450
        assert all(row.equal and row.recorded == row.replayed for row in rows)
        assert journal.starts_at() == NOW
        assert journal.ticks() == tuple(NOW + m * STEP for m in range(90))
        assert journal.ticks(since=NOW + STEP, until=NOW + 3 * STEP) == (NOW + STEP, NOW + 2 * STEP)


def test_a_changed_rule_is_found_by_the_replay(journal: SqliteJournal) -> None:
    run(journal, Fleet(2), 10)

    def another(snapshot, state, policy, allowed, /, *, now):
        decision, after = decide_within(snapshot, state, policy, allowed, now=now)
        return (replace(decision, z=decision.z + 1e-9), after) if now == NOW + 7 * STEP else (decision, after)

    rows = list(replay(journal.records(), another))
    assert {row.at for row in rows if not row.equal} == {NOW + 7 * STEP}
    assert all(row.recorded is None or row.recorded != row.replayed for row in rows if not row.equal)


def test_other_settings_show_what_would_have_changed(journal: SqliteJournal) -> None:
    fleet = Fleet(2)
    run(journal, fleet, 30)
    capped = replace(fleet.policies[0], bounds=Bounds(max_replicas=3))
    rows = list(replay(journal.records(), decide_within, policies={capped.workload: capped}))
    others = [row for row in rows if not row.equal]
    assert {row.workload for row in others} == {capped.workload}
    first = others[0]
    assert first.recorded is not None
    assert (first.replayed.target or 0) < (first.recorded.target or 0)
    assert Reason.AT_MAX in {clamp.reason for clamp in first.replayed.adjustments}
    assert all(row.recorded is not None for row in rows)


def test_a_decision_is_kept_in_full_when_something_changed_at_the_start_and_hourly(path: Path) -> None:
    fleet = Fleet(1)
    policy = fleet.policies[0]
    steady = Snapshot(
        workload=policy.workload,
        replicas=ReplicaState(desired=3, ready=3),
        classes=(ClassReadings(demand_rps=Known(value=8.0)),),
        lead_time_s=180.0,
    )

    def tick(minute: int, snapshot: Snapshot = steady) -> None:
        at = NOW + minute * STEP
        state = fleet.states.get(policy.workload, PolicyState())
        decision, fleet.states[policy.workload] = decide_within(snapshot, state, policy, None, now=at)
        record = DecisionRecord(at=at, policy=policy, snapshot=snapshot, state=state, grant=None, decision=decision)
        journal.append([record])

    with SqliteJournal.open(path, now=NOW) as journal:
        for minute in range(130):
            tick(minute)
        before = [(e.at - NOW) // STEP for e in journal.records() if e.decision is not None]
    assert before[0] == 0
    assert before[-2:] == [before[-3] + 60, before[-3] + 120] or before[-1] - before[-2] == 60
    assert len(before) <= 6

    with SqliteJournal.open(path, now=NOW) as journal:
        tick(130)
        tick(131)
        tick(132, replace(steady, classes=(ClassReadings(demand_rps=Known(value=30.0)),)))
        tick(133, replace(steady, replicas=Blind(reason=BlindReason.FORBIDDEN)))
        after = [(e.at - NOW) // STEP for e in journal.records(since=NOW + 130 * STEP) if e.decision is not None]
        assert after == [130, 132, 133]


def test_forecasts_and_settings_are_written_once(path: Path, journal: SqliteJournal) -> None:
    fleet = Fleet(3)
    run(journal, fleet, 5)
    assert query(path, "SELECT sum(count) FROM shared") == [(6,)]
    fleet.policies = [replace(policy) for policy in fleet.policies]  # equal, but other objects: a reload
    fleet.ticks = 1
    fleet.forecasts = {name: replace(forecast) for name, forecast in fleet.forecasts.items()}
    run(journal, fleet, 1, start=NOW + 5 * STEP)
    assert query(path, "SELECT sum(count) FROM shared") == [(6,)]
    fleet.policies[0] = replace(fleet.policies[0], priority=3)
    run(journal, fleet, 1, start=NOW + 6 * STEP)
    assert query(path, "SELECT sum(count) FROM shared") == [(7,)]


def test_a_start_time_is_written_when_it_changes(path: Path, journal: SqliteJournal) -> None:
    fleet, lead = Fleet(1), LeadTime(seconds=250.0, source=LeadSource.OWN, starts=17, load_s=140.0)
    records = []
    for minute, found in enumerate((None, lead, lead, replace(lead), replace(lead, starts=18))):
        tick = [replace(r, snapshot=replace(r.snapshot, lead_time=found)) for r in fleet.tick(NOW + minute * STEP)]
        journal.append(tick)
        records += tick
    assert query(path, "SELECT sum(count) FROM shared") == [(4,)], "a policy, a forecast, two start times"
    read_as_recorded(journal, records)


def test_a_record_takes_under_a_hundred_bytes(path: Path, journal: SqliteJournal) -> None:
    """64 workloads, five noisy numbers each, a third of the decisions in full; what is shared is counted apart."""
    run(journal, Fleet(64, steady=True), 20)
    short = sum(entry.decision is None for entry in journal.records(since=NOW + 10 * STEP))
    ((size,),) = query(path, "SELECT sum(length(value)) FROM record WHERE seq > 10")
    assert 0.5 * 640 < short < 640
    assert size / 640 < 100


def test_one_workload_is_found_among_many(journal: SqliteJournal) -> None:
    fleet = Fleet(150)
    records = run(journal, fleet, 3)
    name = fleet.policies[77].workload
    assert [e.at for e in journal.records(name, since=NOW + STEP)] == [NOW + STEP, NOW + 2 * STEP]
    entry = journal.at(name, NOW + STEP + timedelta(seconds=59))
    (record,) = [r for r in records if r.snapshot.workload == name and r.at == NOW + STEP]
    assert entry is not None
    assert (entry.at, repr(entry.snapshot)) == (NOW + STEP, repr(record.snapshot))
    assert journal.at(name, NOW - STEP) is None
    assert journal.at(name, NOW + timedelta(hours=3)) is None
    assert journal.at("llm/none", NOW) is None
    assert list(journal.records("llm/none")) == []


def test_pages_of_ticks_are_read_through(journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaler.adapters.journal._PAGE_TICKS", 4)
    monkeypatch.setattr("scaler.adapters.journal_blocks._SHARED_BLOCKS", 1)
    read_as_recorded(journal, run(journal, Fleet(2), 9))


def test_outcomes_are_kept_with_their_tick(journal: SqliteJournal) -> None:
    fleet = Fleet(2)
    run(journal, fleet, 2)
    one, other = (policy.workload for policy in fleet.policies)
    outcome = Outcome(kind=OutcomeKind.CONFLICT, detail="kubectl set 5", found=5)
    journal.record_outcomes(NOW + STEP, {one: outcome})
    assert {e.workload: e.outcome for e in journal.records(since=NOW + STEP)} == {one: outcome, other: None}
    with pytest.raises(StoreError, match="no tick at 2026-11-04T11:20:00Z"):
        journal.record_outcomes(NOW + 60 * STEP, {one: outcome})


def test_a_restart_goes_on_with_the_state_after_the_last_decision(path: Path) -> None:
    fleet = Fleet(70)
    with SqliteJournal.open(path, now=NOW) as journal:
        run(journal, fleet, 4)
    later = NOW + timedelta(hours=2)
    with SqliteJournal.open(path, now=later) as journal:
        states = journal.states(decide_within, now=later)
    assert {name: repr(state) for name, (state, _) in states.items()} == {n: repr(s) for n, s in fleet.states.items()}
    assert {at for _, at in states.values()} == {NOW + 3 * STEP}


def test_a_state_from_the_future_is_passed_over(journal: SqliteJournal) -> None:
    fleet = Fleet(2)
    run(journal, fleet, 1)
    expected = {name: repr(state) for name, state in fleet.states.items()}
    run(journal, fleet, 1, start=NOW + timedelta(hours=2))
    states = journal.states(decide_within, now=NOW + STEP)
    assert {name: repr(state) for name, (state, _) in states.items()} == expected
    assert journal.states(decide_within, now=NOW - STEP) == {}


def test_a_clock_set_back_adds_ticks_and_replaces_none(journal: SqliteJournal) -> None:
    fleet = Fleet(1)
    records = run(journal, fleet, 3)
    records += run(journal, fleet, 3, start=NOW - timedelta(hours=1))
    records += run(journal, fleet, 1)
    assert [e.at for e in journal.records()] == [r.at for r in records]
    assert all(row.equal for row in replay(journal.records(), decide_within))


def test_old_hours_go_first_and_the_rest_can_be_read_alone(path: Path) -> None:
    limits = JournalLimits(keep_for=timedelta(hours=3))
    with SqliteJournal.open(path, now=NOW, limits=limits) as journal:
        fleet = Fleet(2)
        for hour in range(8):
            run(journal, fleet, 2, start=NOW + timedelta(hours=hour))
        assert journal.starts_at() == NOW + timedelta(hours=4)
        assert len(journal.ticks()) == 8
        assert all(row.equal for row in replay(journal.records(), decide_within))
    assert query(path, "SELECT count(DISTINCT segment) FROM shared") == [(4,)]
    assert query(path, "SELECT count(*) FROM record WHERE seq NOT IN (SELECT seq FROM tick)") == [(0,)]


def test_the_size_is_bounded_and_the_running_hour_stays(path: Path) -> None:
    with SqliteJournal.open(path, now=NOW, limits=JournalLimits(max_bytes=1)) as journal:
        fleet = Fleet(2)
        run(journal, fleet, 3)
        run(journal, fleet, 2, start=NOW + timedelta(hours=1))
        assert journal.ticks() == (NOW + timedelta(hours=1), NOW + timedelta(hours=1) + STEP)
        assert all(row.equal for row in replay(journal.records(), decide_within))


def test_a_clock_years_ahead_costs_two_hours_not_all(journal: SqliteJournal) -> None:
    fleet = Fleet(1)
    for hour in range(5):
        run(journal, fleet, 1, start=NOW + timedelta(hours=hour))
    run(journal, fleet, 3, start=NOW + timedelta(days=3650))
    assert journal.ticks()[:3] == tuple(NOW + timedelta(hours=hour) for hour in (2, 3, 4))


def test_a_failed_tick_leaves_no_trace_and_the_next_is_whole(path: Path) -> None:
    with SqliteJournal.open(path, now=NOW) as journal:
        fleet = Fleet(70)
        records = run(journal, fleet, 2)
        fleet.ticks = 5  # new forecasts: the failing tick stores them, and its rollback takes them away again
        tick = fleet.tick(NOW + 2 * STEP)
        broken = replace(tick[-1], state=replace(tick[-1].state, known_since=datetime(2026, 1, 1)))  # noqa: DTZ001
        with pytest.raises(StoreError, match="without a zone"):
            journal.append([*tick[:-1], broken])
        records += run(journal, fleet, 2, start=NOW + 3 * STEP)
        read_as_recorded(journal, records)


@pytest.mark.parametrize("records", [pytest.param(2, id="two of one workload"), pytest.param(1, id="two times")])
def test_a_tick_that_is_no_tick_is_refused(journal: SqliteJournal, records: int) -> None:
    first, second = Fleet(1).tick(NOW), Fleet(records % 2 + 1).tick(NOW + STEP * (2 - records))
    with pytest.raises(StoreError, match=r"two records|of one time"):
        journal.append(first + second)
    assert journal.ticks() == ()


def test_commits_wait_for_the_disk(path: Path) -> None:
    """A power cut cannot be tried here, so the setting itself is looked at: 2 is FULL."""
    with SqliteJournal.open(path, now=NOW) as journal:
        assert journal._db is not None
        assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_locked_file_is_an_error_that_the_loop_understands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecaster.sources.history.file.BUSY_S", 0.05)
    with SqliteJournal.open(path, now=NOW) as journal:
        fleet = Fleet(1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        tick = fleet.tick(NOW)
        with pytest.raises(OSError, match="locked"):
            journal.append(tick)
        other.close()
        journal.append(tick)
        assert journal.ticks() == (NOW,)


def test_a_reader_cannot_write_and_needs_a_journal(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        SqliteJournal.open(path, now=NOW, read_only=True)
    SqliteJournal.open(path, now=NOW).close()
    with SqliteJournal.open(path, now=NOW, read_only=True) as reader, pytest.raises(StoreError, match="reading only"):
        reader.append(Fleet(1).tick(NOW))


@settings(max_examples=12, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["tick", "tick", "tick", "restart", "fail", "new hour"]), max_size=12),
    seed=st.integers(0, 1000),
)
def test_any_run_is_recorded_and_met_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "headstart.db"
    fleet, at, records = Fleet(3, seed=seed), NOW, []
    journal = SqliteJournal.open(path, now=at)
    for step in steps:
        at += timedelta(hours=1) if step == "new hour" else STEP
        if step == "restart":
            journal.close()
            journal = SqliteJournal.open(path, now=at)
            resumed = journal.states(decide_within, now=at)
            assert {n: repr(s) for n, (s, _) in resumed.items()} == {n: repr(s) for n, s in fleet.states.items()}
            continue
        before = dict(fleet.states)
        tick = fleet.tick(at)
        if step == "fail":
            with pytest.raises(StoreError):
                journal.append([*tick, tick[0]])
            fleet.states = before  # as if the tick had not been: there is no record to resume from
            continue
        journal.append(tick)
        records += tick
    read_as_recorded(journal, records)
    assert all(row.equal for row in replay(journal.records(), decide_within))
    journal.close()


_WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from test_journal import NOW, STEP, Fleet
from scaler.adapters.journal import SqliteJournal
first = int(sys.argv[2])
with SqliteJournal.open(Path(sys.argv[1]), now=NOW + first * STEP) as journal:
    fleet = Fleet(20, seed=first)
    for minute in range(first, first + 10_000):
        journal.append(fleet.tick(NOW + minute * STEP))
        print(minute, flush=True)
"""


def test_a_killed_writer_leaves_nothing_torn_and_nothing_lost(path: Path) -> None:
    """Four kills in mid-append: every acknowledged tick is there, whole, and decides the same again."""
    recorded = 0
    for round_ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(recorded), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        acknowledged = recorded - 1
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged >= recorded + 3 + 5 * round_:
                child.send_signal(signal.SIGKILL)
                break
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        with SqliteJournal.open(path, now=NOW + timedelta(days=1)) as journal:
            assert journal.report.quarantined is None
            ticks = journal.ticks()
            assert ticks == tuple(NOW + m * STEP for m in range(len(ticks)))
            assert len(ticks) - 1 in (acknowledged, acknowledged + 1)
            rows = list(replay(journal.records(), decide_within))
        assert len(rows) == 20 * len(ticks)
        assert all(row.equal for row in rows)
        recorded = len(ticks)
