"""The last finished tick, as one value that the metrics page and the API read while the next tick is running.

Published whole by the tick and never changed: a reader sees one tick or the other, never half of each. Beside it lies
what requests are made of, which the forecasts bring and no tick reads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from scaler.adapters.states import Status
from scaler.adapters.usage import Usage
from scaler.loop import TickReport
from scaler.policy.types import DemandForecast
from scaler.ports import DecisionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One finished tick: the report, each workload's status, and notes on its settings ("SLO judged at …")."""

    report: TickReport
    statuses: Mapping[str, Status] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gpu_budget: int | None = None
    leader: str | None = None
    """Who held the lease when the tick began, empty if nobody did; None where no lease decides who writes."""

    @property
    def at(self) -> datetime:
        """When the tick decided."""
        return self.report.at

    def record(self, workload: str) -> DecisionRecord | None:
        """The workload's record of this tick."""
        return next((each for each in self.report.records if each.policy.workload == workload), None)

    def forecasts(self, workload: str) -> tuple[DemandForecast, ...]:
        """The forecasts that the tick decided with."""
        record = self.record(workload)
        return record.snapshot.forecasts if record is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsStatus:
    """Which settings are in force, and what became of the last attempt to read them again."""

    loaded_at: datetime
    """Since when the running settings are in force."""
    refused_at: datetime | None = None
    """When the settings file was last read and could not be used; None if it could, whatever annotations change."""
    problem: str = ""
    """The first thing that is wrong with it."""
    needs_restart: tuple[str, ...] = ()
    """Settings of the file that go on as they were until the daemon is started again."""


class Board:
    """Where the tick leaves its view. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: View | None = None
        self._usage: Usage | None = None
        self._settings: SettingsStatus | None = None

    def publish(self, view: View) -> None:
        """Replace the view."""
        with self._lock:
            self._view = view

    def publish_usage(self, usage: Usage) -> None:
        """Replace what requests are made of."""
        with self._lock:
            self._usage = usage

    def settings_in_force(self, *, now: datetime, needs_restart: tuple[str, ...] = ()) -> None:
        """Others are in force since now. A file that was refused stays refused: they may be those of annotations."""
        with self._lock:
            status = self._settings or SettingsStatus(loaded_at=now)
            self._settings = replace(status, loaded_at=now, needs_restart=needs_restart)

    def settings_refused(self, problem: str, *, now: datetime) -> None:
        """The file was read and cannot be used; what is in force stays so."""
        with self._lock:
            self._settings = replace(self._settings or SettingsStatus(loaded_at=now), refused_at=now, problem=problem)

    def settings_read(self) -> None:
        """The file was read and can be used: an earlier refusal is over."""
        with self._lock:
            if self._settings is not None:
                self._settings = replace(self._settings, refused_at=None, problem="")

    def settings(self) -> SettingsStatus | None:
        """Which settings are in force; None where nobody reads them again."""
        with self._lock:
            return self._settings

    def usage(self) -> Usage | None:
        """What requests are made of, as of the last forecasts; None before the first."""
        with self._lock:
            return self._usage

    def view(self) -> View | None:
        """The last finished tick; None before the first."""
        with self._lock:
            return self._view
