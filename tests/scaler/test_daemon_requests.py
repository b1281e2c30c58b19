"""Tokens from a metrics source through the daemon's forecast job to the log, the state table and the data file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import Panel, SeriesKey
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.board import Board
from scaler.adapters.forecasts import DemandForecaster, ForecastBoard
from scaler.adapters.intake import HistoryIntake
from scaler.adapters.kubernetes import PodPhase, PodStart, WorkloadPods
from scaler.adapters.starts import STARTS_BLOB, StartLedger
from scaler.adapters.store import FILE_NAME, Store
from scaler.adapters.telemetry import Telemetry
from scaler.adapters.usage import stored_usage
from scaler.daemon.upkeep import JobSettings, Parts, Upkeep
from scaler.loop import Fleet
from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens
from scaler.policy.types import ReplicaState

CHAT = "llm/chat"
PROMPT = "prompt_tokens_per_s"
MEASURED = ClassCapacity(
    name="default", max_rps=8.0, tokens=RequestTokens(input_tokens=1000.0, output_tokens=50.0, input_cv=0.5)
)
POLICY = a_policy(profile=CapacityProfile(name="vl", classes=(MEASURED,)), start_time=3 * MINUTE)


@dataclass
class Past:
    """Ten requests a second for ever; from `longer_from` on each is twice as long."""

    longer_from: datetime = NOON + timedelta(days=9)
    tells: bool = True
    rps: float = 10.0

    def history(
        self, selectors: Sequence[WorkloadSelector], signal: str, *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        keys = tuple(SeriesKey(workload=each.workload, signal=signal) for each in selectors)
        return Panel(keys=keys, start=start, step=step, values=np.full((len(keys), (end - start) // step), self.rps))

    def evidence(
        self, selectors: Sequence[WorkloadSelector], *, start: datetime, end: datetime, step: timedelta
    ) -> Panel:
        return Panel(keys=(), start=start, step=step, values=np.empty((0, (end - start) // step)))

    def usage(
        self,
        selectors: Sequence[WorkloadSelector],
        classes: Mapping[str, Collection[str]],
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
    ) -> Panel:
        keys = tuple(SeriesKey(workload=each.workload, signal=PROMPT) for each in selectors if self.tells)
        row = [20_000.0 if start + i * step >= self.longer_from else 10_000.0 for i in range((end - start) // step)]
        return Panel(keys=keys, start=start, step=step, values=np.array([row] * len(keys)).reshape(len(keys), len(row)))


@dataclass
class Log:
    """What was told: the event and its keys."""

    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def warning(self, event: str, **keys: Any) -> None:
        self.told.append((event, keys))

    info = error = critical = warning


@dataclass
class Remarks:
    """A round that only keeps what it is to remark."""

    fleet: Fleet = field(default_factory=lambda: Fleet(workloads=(POLICY,)))
    remarks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def set_remarks(self, remarks: Mapping[str, tuple[str, ...]]) -> None:
        self.remarks = remarks

    def set_learning(self, workloads: frozenset[str]) -> None:
        """Not looked at."""

    def use(self, fleet: Fleet, notes: Mapping[str, tuple[str, ...]]) -> None:
        """Not looked at."""


@dataclass
class Shelf:
    """Two members that need no fit."""

    members = (LastValue(), SeasonalNaive())
    refused: Mapping[str, str] = field(default_factory=dict)
    trained_at: Mapping[str, datetime] = field(default_factory=dict)

    def current(self) -> tuple[Any, bool]:
        return self, False


@dataclass
class Stage:
    """The forecast job and what it touches."""

    past: Past
    log: Log
    round: Remarks
    board: Board
    upkeep: Upkeep
    telemetry: Telemetry

    def dropped(self) -> float:
        """Points of the history that were below zero, and left out."""
        found = self.telemetry.registry.get_sample_value("headstart_samples_dropped_total", {"reason": "negative"})
        assert found is not None
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    past, log, remarks, board = Past(), Log(), Remarks(), Board()
    telemetry = Telemetry(board)
    selectors = (WorkloadSelector.for_workload("llm", "chat"),)
    with Store.open(tmp_path, now=NOON) as store:
        parts: Any = Parts(
            selectors=selectors,
            source=SimpleNamespace(),  # type: ignore[arg-type]
            store=store,
            intake=HistoryIntake(past, selectors, store, on_stored=telemetry.stored),
            forecaster=DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10)),
            shelf=Shelf(),  # type: ignore[arg-type]
            forecasts=ForecastBoard(),
            starts=StartLedger(),
            board=board,
            telemetry=telemetry,
            round=remarks,  # type: ignore[arg-type]
            refit=SimpleNamespace(use=lambda _: None),  # type: ignore[arg-type]
            log=log,
        )
        yield Stage(past=past, log=log, round=remarks, board=board, upkeep=Upkeep(parts), telemetry=telemetry)


def test_requests_that_grow_are_told_of_after_a_quarter_of_an_hour_once(stage: Stage, tmp_path: Path) -> None:
    stage.past.longer_from = NOON + 2 * MINUTE
    told_at = []
    for minute in range(25):
        stage.upkeep.forecast(now=NOON + minute * MINUTE + timedelta(seconds=3))
        if CHAT in stage.round.remarks:
            told_at.append(minute)
    assert told_at == list(range(19, 25)), "they are long from the second minute on"
    (said,) = [keys for event, keys in stage.log.told if event == "requests_left_profile"]
    assert said["workload"] == CHAT
    assert "instead of 1000" in said["detail"][0]
    usage = stage.board.usage()
    assert usage is not None
    (tokens,) = usage.forecasts[CHAT][PROMPT]
    assert tokens.forecast.issued_at == NOON + 24 * MINUTE
    stored = stored_usage(tmp_path / FILE_NAME)
    assert stored is not None
    assert stored.at == NOON + 20 * MINUTE + timedelta(seconds=3), "with the engine, every ten minutes"


def test_measured_starts_are_kept_with_the_engine_and_damaged_ones_are_told(stage: Stage) -> None:
    ledger, store = stage.upkeep._parts.starts, stage.upkeep._parts.store
    pod = PodStart(name="a", uid="a", created_at=NOON, phase=PodPhase.READY, ready_at=NOON + MINUTE)
    ledger.note({CHAT: WorkloadPods(replicas=ReplicaState(desired=1, ready=1), starts=(pod,), read_at=NOON + MINUTE)})
    stage.upkeep.save_engine(now=NOON + MINUTE)
    ledger.restore(b"{}")
    stage.upkeep.restore_starts()
    assert ledger.latest({CHAT: MINUTE}, now=NOON + MINUTE)[CHAT].starts == 1
    store.save_blob(STARTS_BLOB, b"torn", now=NOON)
    stage.upkeep.restore_starts()
    assert [event for event, _ in stage.log.told] == ["starts_not_restored"]


def test_a_site_that_tells_no_tokens_hears_nothing_of_them(stage: Stage, tmp_path: Path) -> None:
    stage.past.tells = False
    for minute in range(3):
        stage.upkeep.forecast(now=NOON + minute * MINUTE + timedelta(seconds=3))
    usage = stage.board.usage()
    assert usage is not None
    assert (dict(usage.forecasts), dict(usage.amounts), dict(stage.round.remarks)) == ({}, {}, {})
    assert [event for event, _ in stage.log.told if "request" in event or "usage" in event] == []
    assert stored_usage(tmp_path / FILE_NAME) is None


def test_points_that_are_left_out_are_counted_after_a_reload_as_before(stage: Stage) -> None:
    stage.upkeep.forecast(now=NOON)
    assert stage.dropped() == 0
    elsewhere: Any = Past(rps=-1.0)
    settings = JobSettings(
        selectors=(WorkloadSelector.for_workload("llm", "chat"),),
        source=elsewhere,
        known={CHAT: POLICY.scheduled},
        holidays={},
        ttl=timedelta(minutes=10),
        shelf=None,
        train_command=(),
    )
    stage.upkeep.use(stage.round.fleet, settings)
    stage.upkeep.forecast(now=NOON + MINUTE)
    assert stage.dropped() > 0
