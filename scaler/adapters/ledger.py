"""The loop's journal on the daemon's data file: set aside and begun anew when damaged, read back for explanations.

It decides when the file is recovered, which the store leaves to its user. It never keeps a tick from scaling: a disk
that is full costs the record of the tick, not the tick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from scaler.adapters.journal import StoreDamaged
from scaler.adapters.store import Store
from scaler.policy.decide import decide_within
from scaler.policy.types import Control, DemandForecast, PolicyState
from scaler.ports import DecisionRecord, Outcome


class StoreJournal:
    """The loop's `Journal`, and the API's `Records`."""

    def __init__(self, store: Store, *, on_recovery: Callable[[str], None] = lambda _: None) -> None:
        self._store = store
        self._on_recovery = on_recovery
        self._damage: StoreDamaged | None = None

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Store one tick's records; in a new file if the old one turns out to be damaged. Raises `OSError`.

        A recovery that fails (the disk is full as well) leaves the store closed: every tick tries it again.
        """
        if self._damage is None:
            try:
                self._store.journal.append(records)
                return
            except StoreDamaged as damage:
                self._damage = damage
        report = self._store.recover(now=records[0].at)
        self._on_recovery(f"{self._damage}; set aside as {report.quarantined}")
        self._damage = None
        self._store.journal.append(records)

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Store what became of the writes of the tick at `at`. Raises `OSError`."""
        self._store.journal.record_outcomes(at, outcomes)

    def states(self, *, now: datetime) -> dict[str, PolicyState]:
        """What a restart goes on with: each workload's state after its last decision. Raises `OSError`."""
        return {name: state for name, (state, _) in self._store.journal.states(decide_within, now=now).items()}

    def forecasts(self, *, now: datetime) -> dict[str, tuple[DemandForecast, ...]]:
        """The forecasts that each workload's last decision saw: in force again until they expire. Raises `OSError`.

        Without them a restart would decide its first minutes as if nothing were known of the future.
        """
        return {entry.workload: entry.snapshot.forecasts for entry in self._store.journal.latest(now=now)}

    def controls(self, *, now: datetime) -> dict[str, Control]:
        """What people had ordered when each workload was last decided on. Raises `OSError`."""
        return {entry.workload: entry.snapshot.control for entry in self._store.journal.latest(now=now)}

    def find(self, workload: str, *, at: datetime) -> tuple[DecisionRecord, Outcome | None] | None:
        """The decision in force at `at`, made again where only its digest was kept. Raises `OSError`."""
        entry = self._store.journal.at(workload, at)
        if entry is None:
            return None
        decision = entry.decision
        if decision is None:
            decision, _ = decide_within(entry.snapshot, entry.state, entry.policy, entry.grant, now=entry.at)
        record = DecisionRecord(
            at=entry.at,
            policy=entry.policy,
            snapshot=entry.snapshot,
            state=entry.state,
            grant=entry.grant,
            decision=decision,
        )
        return record, entry.outcome


class NoJournal:
    """The loop's `Journal` for a round that leaves no trace."""

    def append(self, records: Sequence[DecisionRecord]) -> None:
        """Nothing is stored."""

    def record_outcomes(self, at: datetime, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing is stored."""
