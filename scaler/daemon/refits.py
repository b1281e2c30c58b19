"""When the daemon refits: every night, and before it where forecasts have drifted (`forecaster.drift`).

Runs in the lane of refits, so that two never run at once. It decides nothing itself: the rule says that a refit is due,
the refit's own process what becomes of it. What it fails with costs the refit, or the memory of drift, and no tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from forecaster import drift
from forecaster.drift import Drift, DriftState
from forecaster.errors import ArtefactError
from forecaster.types import ForecastQuality, SeriesKey
from scaler.adapters.refit import Refit, RefitOutcome
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry

DRIFT_BLOB = "drift"
"""What was seen of drift is kept over restarts: a median of seven days would take as long to come back."""

NAMED = 5
"""Series that a log line names; the rest is counted."""


class Refits:
    """Refits by the clock and by need. One thread at a time."""

    def __init__(self, refit: Refit, store: Store, telemetry: Telemetry, log: Any) -> None:
        self._refit = refit
        self._store = store
        self._telemetry = telemetry
        self._log = log
        self._state: DriftState | None = None

    def nightly(self, *, now: datetime) -> None:
        """Refit now, whatever forecasts are like."""
        self._state = drift.refitted(self._seen(), now=now)
        self._keep(now=now)
        self._run("nightly")

    def watch(self, quality: Mapping[SeriesKey, ForecastQuality], *, now: datetime) -> None:
        """Look whether forecasts have drifted, and refit if that is due."""
        looked = drift.look(self._seen(), quality, now=now)
        if looked.state is self._state:
            return
        self._state = looked.state
        self._keep(now=now)
        self._telemetry.drifted(len(looked.drifted))
        if looked.refit:
            self._log.warning("drift", **_told(looked.drifted), meanwhile="the engine goes on; a refit begins now")
            self._telemetry.drift_refit()
            self._run("drift")

    def stop(self) -> None:
        """Let no refit go on."""
        self._refit.stop()

    def _run(self, reason: str) -> None:
        """Fit in a child process; what it promotes is picked up by the next forecast."""
        report = self._refit.run()
        if report.outcome is RefitOutcome.SKIPPED:
            self._log.warning("refit_skipped", detail=report.detail, meanwhile="members that need no fit go on")
            return
        self._telemetry.trained(report.outcome.value, report.duration_s)
        level = self._log.info if report.outcome is RefitOutcome.DONE else self._log.warning
        keys = {"reason": reason, "duration_s": round(report.duration_s, 1), "detail": report.detail}
        level("refit", outcome=report.outcome.value, **keys)

    def _seen(self) -> DriftState:
        """What was seen so far; after a restart what was kept, or nothing if that is of no use."""
        if self._state is None:
            self._state = drift.blank()
            try:
                stored = self._store.load_blob(DRIFT_BLOB)
                if stored is not None:
                    self._state = drift.from_bytes(stored[0])
            except (ArtefactError, OSError) as error:
                self._log.warning("drift_not_restored", error=str(error), meanwhile="a day is watched before it counts")
        return self._state

    def _keep(self, *, now: datetime) -> None:
        try:
            self._store.save_blob(DRIFT_BLOB, drift.to_bytes(self._seen()), now=now)
        except OSError as error:
            self._telemetry.job_failed("drift")
            self._log.warning("drift_not_kept", error=str(error), meanwhile="a restart would forget it")


def _told(drifted: tuple[Drift, ...]) -> dict[str, Any]:
    """How many series, and the first few with their reason."""
    named = {f"{each.key.workload}/{each.key.request_class}": each.reason for each in drifted[:NAMED]}
    return {"series": len(drifted), "reasons": named}
