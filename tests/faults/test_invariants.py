"""I1 to I13 over the whole loop, as a hypothesis state machine, and the checker proven by loops that break promises.

The world: three workloads (one of them only observed at first, one that may sleep) under one GPU budget; signals that
are known, zero, absurd, partial or blind; pods that start, crash or find no GPU; others who write; clocks that jump;
a journal that fails; restarts whose states come back through the real journal. A step is one decision of one
workload; `make soak` takes 100,000 of them and more.

I6 (one writer) is told by processes, I12 (overrides) by the stories of people; the rest is checked at every tick.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from forecaster.types import Blind, BlindReason, ForecastQuality, Known, Reading, TooFew, Zero
from policy_cases import MINUTE, NOON, a_forecast, a_policy
from promises import Broken, Promises
from scaler import loop
from scaler.adapters.invariants import violations
from scaler.adapters.journal import SqliteJournal
from scaler.loop import Fleet, TickReport
from scaler.policy import control, guard, limits, memory, steering, writers
from scaler.policy import decide as composition
from scaler.policy.budget import BudgetRule
from scaler.policy.decide import decide_within
from scaler.policy.types import Action, Control, DemandForecast, Mode, ModeSwitch, Override, Pause, PolicyState
from scaler.ports import OutcomeKind
from virtual_world import VirtualWorkload, VirtualWorld

SOAK = bool(os.environ.get("HEADSTART_SOAK"))
NAMES = ("llm/chat", "llm/batch", "llm/night")

absurd = st.sampled_from([float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
readings: st.SearchStrategy[Reading] = st.one_of(
    st.builds(Known, value=st.floats(0.0, 300.0)),
    st.builds(Known, value=st.floats(0.0, 30.0)),
    st.just(Zero(evidence="the counter stands still")),
    st.builds(Known, value=absurd),
    st.builds(TooFew, count=st.just(3.0)),
    st.builds(Blind, reason=st.sampled_from(list(BlindReason))),
)
names = st.sampled_from(NAMES)

Said = Callable[[datetime], Control]
"""A word, spoken at a moment."""


def _pause(at: datetime) -> Control:
    return Control(pause=Pause(since=at))


def _only_look(at: datetime) -> Control:
    return Control(mode=ModeSwitch(mode=Mode.OBSERVE, since=at))


def _resume(at: datetime) -> Control:
    return Control(resumed_at=at)


def _override(replicas: int, minutes: int) -> Said:
    def said(at: datetime) -> Control:
        return Control(override=Override(replicas=replicas, until=at + minutes * MINUTE, since=at))

    return said


words: st.SearchStrategy[Said] = st.one_of(
    st.builds(_override, st.sampled_from([0, 1, 3, 10, 60]), st.sampled_from([1, 2, 5, 30])),
    st.sampled_from([_resume, _pause, _only_look]),
)


class _Odd(float):
    """A reading that no rule can compute with: stands for a defect that only one workload's numbers meet."""

    def __truediv__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")

    def __mul__(self, other: object) -> float:
        raise ZeroDivisionError("one workload's numbers")

    __rmul__ = __mul__


class WholeLoop(RuleBasedStateMachine):
    """The loop in a world where anything may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOON
        self.world = VirtualWorld(workloads={})
        self.promises = Promises()
        self.states: dict[str, PolicyState] = {}
        self.fleet = Fleet(workloads=())
        self.report: TickReport | None = None
        self.outcomes_lost = False
        self.leads = True

    @initialize(
        least=st.integers(0, 3),
        span=st.integers(1, 30),
        gpus=st.sampled_from([None, None, 12, 40]),
        slo=st.sampled_from([None, 1.0]),
        scale=st.integers(1, 12),
    )
    def settle(self, least: int, span: int, gpus: int | None, slo: float | None, scale: int) -> None:
        """A fleet at some scale."""
        chat = a_policy(least=max(1, least), most=max(1, least) + span, slo_s=slo)
        batch = replace(a_policy(least=1, most=8), workload=NAMES[1], mode=Mode.OBSERVE, priority=1)
        night = replace(a_policy(least=0, most=6), workload=NAMES[2])
        self.fleet = Fleet(workloads=(chat, batch, night), budget=BudgetRule(gpus=gpus))
        self.world.workloads = {
            name: VirtualWorkload(scale=scale, ready=scale, demand=Known(value=7.0 * scale)) for name in NAMES
        }

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────

    @rule(minutes=st.integers(1, 12))
    def time_passes(self, minutes: int) -> None:
        """Ticks in an unchanged world; pods become Ready as they come."""
        for _ in range(minutes):
            self._tick(MINUTE)

    @rule(name=names, reading=readings)
    def demand_changes(self, name: str, reading: Reading) -> None:
        self.world.workloads[name].demand = reading
        self._tick(MINUTE)

    @rule(name=names, p95=st.one_of(st.none(), readings), waiting=st.one_of(st.none(), readings))
    def latency_changes(self, name: str, p95: Reading | None, waiting: Reading | None) -> None:
        self.world.workloads[name].p95, self.world.workloads[name].waiting = p95, waiting

    @rule(name=names, partial=st.booleans(), readable=st.sampled_from([True, True, False]))
    def sources_come_and_go(self, name: str, partial: bool, readable: bool) -> None:
        self.world.workloads[name].partial, self.world.workloads[name].readable = partial, readable
        self._tick(MINUTE)

    @rule(name=names, ready=st.floats(0.0, 1.0), unschedulable=st.integers(0, 3), failed=st.integers(0, 2))
    def pods_misbehave(self, name: str, ready: float, unschedulable: int, failed: int) -> None:
        workload = self.world.workloads[name]
        workload.ready = int(workload.scale * ready)
        workload.unschedulable, workload.failed = unschedulable, failed
        self._tick(MINUTE)

    @rule(name=names, scale=st.sampled_from([0, 1, 2, 5, 9, 40]))
    def somebody_else_writes(self, name: str, scale: int) -> None:
        self.world.workloads[name].scale = scale

    @rule(
        name=names,
        median=st.one_of(st.floats(0.0, 300.0), absurd),
        spread=st.floats(0.0, 50.0),
        age_minutes=st.integers(-130, 12),
        coverage=st.sampled_from([0.95, 0.5, 1.0]),
    )
    def a_forecast_comes(self, name: str, median: float, spread: float, age_minutes: int, coverage: float) -> None:
        issued = self.now - timedelta(minutes=age_minutes)
        quality = ForecastQuality(coverage_95=coverage, wape=0.1, wape_last_value=0.2, scored_bins=360)
        forecast = a_forecast(median, spread_rps=spread, issued_at=issued, model=f"m{age_minutes % 3}")
        self.world.workloads[name].forecasts = (DemandForecast(forecast=forecast, quality=quality),)

    @rule(name=names)
    def forecasts_end(self, name: str) -> None:
        self.world.workloads[name].forecasts = ()

    @rule(
        name=names,
        kind=st.sampled_from([OutcomeKind.SCALED, OutcomeKind.SCALED, *OutcomeKind]),
        answer_lost=st.booleans(),
    )
    def writes_fail(self, name: str, kind: OutcomeKind, answer_lost: bool) -> None:
        """Refused, in conflict, not the leader any more; or done, and nobody told."""
        self.world.workloads[name].writable, self.world.workloads[name].answer_lost = kind, answer_lost

    @rule(name=names, said=words, between=st.booleans())
    def a_person_speaks(self, name: str, said: Said, between: bool) -> None:
        """Before a decision, or between it and its write."""
        place = self.world.words_between if between else self.world.controls
        place[name] = said(self.now)
        self._tick(MINUTE)

    @rule()
    def the_lease_changes_hands(self) -> None:
        """To another daemon, or back to us."""
        self.leads = not self.leads
        if self.leads:  # as the daemon does
            self.states = {name: memory.begun_anew(state, now=self.now) for name, state in self.states.items()}
        self.time_passes(2)

    @rule(fails=st.booleans())
    def the_disk_fills(self, fails: bool) -> None:
        self.world.journal_fails = fails

    @rule(by=st.sampled_from([-120, -5, -1, 2, 4, 5, 6, 130]), ticks=st.integers(1, 8))
    def the_clock_jumps(self, by: int, ticks: int) -> None:
        self._tick(by * MINUTE)
        self.time_passes(ticks)

    @rule(name=names, mode=st.sampled_from(list(Mode)))
    def the_mode_changes(self, name: str, mode: Mode) -> None:
        workloads = tuple(replace(each, mode=mode) if each.workload == name else each for each in self.fleet.workloads)
        self.fleet = replace(self.fleet, workloads=workloads)

    @rule(name=names)
    def a_defect_is_met(self, name: str) -> None:
        """I10: one decision raises, the others are made."""
        workload = self.world.workloads[name]
        workload.demand, before = Known(value=_Odd(50.0)), workload.demand
        report = self._tick(MINUTE)
        workload.demand = before
        others = {each.policy.workload for each in report.records}
        if name in report.failed and others != set(NAMES) - {name}:
            raise Broken("I10", None, f"{name} raised, and only {sorted(others)} were decided")

    @rule(killed=st.booleans())
    def the_daemon_restarts(self, killed: bool) -> None:
        """What it goes on with comes back through the real journal, equal to what it had.

        `killed` before it could note what became of its writes, it knows all but that: each may have happened.
        """
        if self.report is None or self.report.failed:
            return
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=_SCRATCH))
            journal = stack.enter_context(SqliteJournal.open(Path(folder) / "headstart.db", now=self.now))
            journal.append(self.report.records)
            if not killed:
                journal.record_outcomes(self.report.at, self.report.outcomes)
            restored = journal.states(decide_within, now=self.now)
        before, noted = self.states, not (killed or self.outcomes_lost)
        self.states = {name: state for name, (state, _) in restored.items()}
        self.outcomes_lost = self.outcomes_lost or killed  # until the next tick
        if _told(self.states, writes=noted) != _told(before, writes=noted):
            raise Broken("I7", None, "another state after a restart")

    # ── and what must hold ────────────────────────────────────────────────────────────────────────────────────

    def _tick(self, after: timedelta) -> TickReport:
        self.now += after
        world = self.world
        world.log.clear()
        world.written.clear()
        report = loop.tick(self.fleet, self.states, world.ports(), now=self.now, leads=self.leads)
        self.promises.tick(
            report, self.fleet, log=world.log, written=world.written, words=world.controls, leads=self.leads
        )
        for record in report.records:
            again, _ = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
            if again != record.decision:
                raise Broken("I7", record, "decided otherwise when asked again")
        mutating = len(world.written)
        told = violations(report, mutating_requests=mutating)
        if told:
            raise Broken(told[0].invariant, None, f"the daemon's own check: {told}")
        self.states = dict(report.states)
        self.report = report
        self.outcomes_lost = False
        for name, workload in world.workloads.items():
            if not workload.failed and not workload.unschedulable and name not in world.written:
                workload.ready = workload.scale
        return report

    @invariant()
    def every_workload_is_remembered(self) -> None:
        if self.report is not None:
            assert set(self.states) == set(NAMES)


def _told(states: Mapping[str, PolicyState], *, writes: bool) -> dict[str, str]:
    """The states as text, which NaN equals too; without what is known of `writes` where nobody noted it."""
    kept = states if writes else {name: replace(each, own=None, pending=None) for name, each in states.items()}
    return {name: repr(each) for name, each in kept.items()}


_SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

SIZES = settings(
    max_examples=1200 if SOAK else 60,
    stateful_step_count=60,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(7200)
def test_every_promise_holds_whatever_happens() -> None:
    checked = [0]

    class Counted(WholeLoop):
        def teardown(self) -> None:
            checked[0] += self.promises.checked

    run_state_machine_as_test(Counted, settings=SIZES)
    assert checked[0] >= (100_000 if SOAK else 3_000), f"{checked[0]} decisions were checked"


# ── The checker is proven by loops that break promises ────────────────────────────────────────────────────────────


def _everything_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing demand reads as zero, and nobody waits for a look-back."""
    monkeypatch.setattr(composition, "demand_of", lambda classes: {each.request_class: 0.0 for each in classes})
    monkeypatch.setattr(composition._Moment, "known", property(lambda _: True))


def _no_rewarming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "look_back", lambda _: timedelta(minutes=1))


def _no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "clamp", lambda target, **_: (target, ()))


def _no_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = guard._blocked

    def blocked(release: Any, rule: Any, *args: Any, **kwargs: Any) -> Any:
        return inner(release, replace(rule, calm=timedelta(0)), *args, **kwargs)

    monkeypatch.setattr(guard, "_blocked", blocked)


def _no_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = guard._blocked

    def blocked(release: Any, rule: Any, *args: Any, **kwargs: Any) -> Any:
        return inner(release, replace(rule, spacing=timedelta(0)), *args, **kwargs)

    monkeypatch.setattr(guard, "_blocked", blocked)


def _leaps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "step_out", lambda target, *_, **__: (target, ()))


def _leaps_in(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = guard.hold

    def hold(release: Any, rule: Any, *args: Any, **kwargs: Any) -> Any:
        return inner(release, replace(rule, most_step_ratio=1.0), *args, **kwargs)

    monkeypatch.setattr(guard, "hold", hold)


def _undercuts(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = guard.hold

    def hold(*args: Any, **kwargs: Any) -> Any:
        target, trace = inner(*args, **kwargs)
        return (target - 1 if not trace and target > 1 else target), trace

    monkeypatch.setattr(guard, "hold", hold)


def _deaf_to_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = composition._compose

    def compose(moment: Any, state: Any, proposals: Any) -> Any:
        return inner(moment, state, tuple(each for each in proposals if each.rule != "predictive"))

    monkeypatch.setattr(composition, "_compose", compose)


def _spends_over_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "grants", lambda wishes, _: {each.workload: each.target for each in wishes})


def _releases_without_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "releases", lambda wishes, _, *, now: {each.workload: each.target for each in wishes})


def _writes_as_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    act = loop._act
    monkeypatch.setattr(loop, "_act", lambda ports, records, *, leads: act(ports, records, leads=True))


def _deaf_to_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "paused", lambda _: None)


def _deaf_before_the_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_stopped", lambda *_: None)


def _overrides_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Override, "lasts", lambda _, *, now: True)


def _holds_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own writes are taken for somebody else's."""
    monkeypatch.setattr(writers, "written", lambda state, _: state)
    monkeypatch.setattr(writers, "ordered", lambda state, _: state)


def _forgets_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What became of the writes is lost at a restart."""
    monkeypatch.setattr("scaler.adapters.journal.settled", lambda state, *_: state)


def _winds_up_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = steering.frozen

    def frozen(state: Any, *args: Any, **kwargs: Any) -> bool:
        return inner(replace(state, by_hand_at=None), *args, **kwargs)

    monkeypatch.setattr(steering, "frozen", frozen)


def _writes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    record, act, pending = loop._record, loop._act, []

    def acted(ports: Any, records: Any, *, leads: bool) -> Any:
        outcomes = act(ports, records, leads=leads)
        for journal, waiting in pending:
            record(journal, waiting)
        pending.clear()
        return outcomes

    def later(journal: Any, records: Any) -> str:
        pending.append((journal, records))
        return ""

    monkeypatch.setattr(loop, "_record", later)
    monkeypatch.setattr(loop, "_act", acted)


def _writes_while_observing(monkeypatch: pytest.MonkeyPatch) -> None:
    act = loop._act

    def acted(ports: Any, records: Any, *, leads: bool) -> Any:
        active = [replace(each, policy=replace(each.policy, mode=Mode.ACTIVE)) for each in records]
        return act(ports, active, leads=leads)

    monkeypatch.setattr(loop, "_act", acted)


def _takes_all_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first defect ends the round."""
    decide, failed_at = loop.decide, [NOON]

    def decided(*args: Any, now: datetime) -> Any:
        if failed_at[0] == now:
            raise ZeroDivisionError("still")
        try:
            return decide(*args, now=now)
        except ZeroDivisionError:
            failed_at[0] = now
            raise

    monkeypatch.setattr(loop, "decide", decided)


def _remembers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = memory.observe_replicas

    def observe(state: Any, replicas: Any, *, period: Any, now: Any) -> Any:
        return inner(state, replicas, period=timedelta(days=1), now=now)

    monkeypatch.setattr(memory, "observe_replicas", observe)


def _winds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "frozen", lambda *_, **__: False)


def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision that depends on something else than its inputs."""
    calls, decide = [0], loop.decide

    def decided(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        decision, state = decide(*args, **kwargs)
        moves = decision.action is Action.OUT and decision.target is not None
        return (replace(decision, z=float(calls[0])) if moves else decision), state

    monkeypatch.setattr(loop, "decide", decided)


Mutant = Callable[[pytest.MonkeyPatch], None]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The product with one defect."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        mutant(monkeypatch)
        yield


@pytest.mark.parametrize(
    ("mutant", "caught_as"),
    [
        pytest.param(_no_bounds, {"I1"}, id="I1 bounds are ignored"),
        pytest.param(_everything_known, {"I2", "I13"}, id="I2 unknown reads as zero"),
        pytest.param(_no_rewarming, {"I2"}, id="I2 nobody waits for a look-back"),
        pytest.param(_deaf_to_a_rule, {"I3"}, id="I3 a rule is not heard"),
        pytest.param(_leaps_out, {"I4"}, id="I4 no step limit out"),
        pytest.param(_leaps_in, {"I4"}, id="I4 no step limit in"),
        pytest.param(_holds_for_nobody, {"I3"}, id="I3 our own writes are taken for another's"),
        pytest.param(_writes_as_standby, {"I6"}, id="I6 a standby writes"),
        pytest.param(_undecided, {"I7"}, id="I7 another decision from the same inputs"),
        pytest.param(_forgets_outcomes, {"I7"}, id="I7 a restart forgets what was written"),
        pytest.param(_deaf_to_a_pause, {"I8"}, id="I8 a pause is not heard"),
        pytest.param(_writes_while_observing, {"I8"}, id="I8 observing writes"),
        pytest.param(_writes_first, {"I9"}, id="I9 written before it is on record"),
        pytest.param(_takes_all_down, {"I10"}, id="I10 one defect takes all down"),
        pytest.param(_remembers_everything, {"I11"}, id="I11 nothing is forgotten"),
        pytest.param(_overrides_forever, {"I12"}, id="I12 an override never ends"),
        pytest.param(_winds_up, {"I13"}, id="I13 steering goes on at the maximum"),
    ],
)
def test_a_loop_that_breaks_a_promise_is_caught_by_chance(mutant: Mutant, caught_as: set[str]) -> None:
    search = settings(
        SIZES, max_examples=400, derandomize=True, database=None, report_multiple_bugs=False, phases=(Phase.generate,)
    )
    with mutated(mutant), pytest.raises(Broken) as caught:
        run_state_machine_as_test(WholeLoop, settings=search)
    assert caught.value.invariant in caught_as, str(caught.value)


def _a_sudden_calm(machine: WholeLoop) -> None:
    """A trusted forecast, so that no look-back stands in for the calm."""
    machine.a_forecast_comes(NAMES[0], 39.0, 0.0, 0, 0.95)
    machine.demand_changes(NAMES[0], Known(value=39.0))
    machine.time_passes(8)
    machine.a_forecast_comes(NAMES[0], 0.0, 0.0, 0, 0.95)
    machine.demand_changes(NAMES[0], Zero(evidence="the counter stands still"))


def _a_lasting_calm(machine: WholeLoop) -> None:
    """More is to go than one step may take: the next one is due ten minutes later."""
    _a_sudden_calm(machine)
    machine.time_passes(12)


def _a_smaller_load(machine: WholeLoop) -> None:
    """Three of the four replicas are kept, ceil(25 / 10) by the forecast."""
    machine.a_forecast_comes(NAMES[0], 25.0, 0.0, 0, 0.95)
    machine.demand_changes(NAMES[0], Known(value=20.0))
    machine.time_passes(8)


def _a_number_by_hand(machine: WholeLoop) -> None:
    """Minutes in which a person's one replica is too few for the demand say nothing about the forecast."""
    machine.a_forecast_comes(NAMES[0], 7.0, 1.0, 0, 0.95)
    machine.time_passes(3)
    machine.a_person_speaks(NAMES[0], _override(1, 30), between=False)
    machine.demand_changes(NAMES[0], Known(value=60.0))
    machine.time_passes(3)


def _all_fall_silent(machine: WholeLoop) -> None:
    for name in NAMES:
        machine.a_forecast_comes(name, 0.0, 0.0, 0, 0.95)
        machine.demand_changes(name, Zero(evidence="the counter stands still"))
    machine.time_passes(6)


def _a_pause_in_time(machine: WholeLoop) -> None:
    """Spoken after the decision to grow, before its write."""
    machine.somebody_else_writes(NAMES[2], 1)  # so that there are GPUs to grow into
    machine.world.workloads[NAMES[0]].demand = Known(value=60.0)
    machine.a_person_speaks(NAMES[0], _pause, between=True)


def _a_surge(machine: WholeLoop) -> None:
    machine.demand_changes(NAMES[0], Known(value=300.0))


@pytest.mark.parametrize(
    ("mutant", "story", "caught_as"),
    [
        pytest.param(_no_calm, _a_sudden_calm, "I4", id="I4 no calm"),
        pytest.param(_no_spacing, _a_lasting_calm, "I4", id="I4 no time between two scale-ins"),
        pytest.param(_undercuts, _a_smaller_load, "I3", id="I3 a release goes below what is kept"),
        pytest.param(_spends_over_budget, _a_surge, "I5", id="I5 the budget is ignored"),
        pytest.param(_deaf_before_the_write, _a_pause_in_time, "I8", id="I8 a pause before the write is not heard"),
        pytest.param(_releases_without_budget, _all_fall_silent, "I5", id="I5 all release at once"),
        pytest.param(_winds_up_by_hand, _a_number_by_hand, "I13", id="I13 steering goes on under a person's word"),
    ],
)
def test_a_loop_that_breaks_a_promise_is_caught_in_a_story(
    mutant: Mutant, story: Callable[[WholeLoop], None], caught_as: str
) -> None:
    """Where chance takes long: the same machine, told what happens. Without the defect the story breaks nothing."""

    def told() -> None:
        machine = WholeLoop()
        machine.settle(least=1, span=30, gpus=12, slo=None, scale=4)
        story(machine)

    told()
    with mutated(mutant), pytest.raises(Broken) as caught:
        told()
    assert caught.value.invariant == caught_as
