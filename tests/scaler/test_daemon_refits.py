"""The daemon's refits: by the clock, and before the night where forecasts have drifted, each with its reason told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from forecaster.drift import EVERY
from forecaster.types import ForecastQuality, SeriesKey
from policy_cases import NOON, a_forecast
from scaler.adapters.board import Board
from scaler.adapters.forecasts import ForecastRun
from scaler.adapters.refit import RefitOutcome, RefitReport
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry
from scaler.daemon.refits import DRIFT_BLOB, Refits
from scaler.daemon.upkeep import quality_of
from scaler.policy.types import DemandForecast

KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
FINE = ForecastQuality(coverage_95=0.95, wape=0.1, wape_last_value=0.12, scored_bins=360)
BAD = ForecastQuality(coverage_95=0.95, wape=0.3, wape_last_value=0.12, scored_bins=360)


class Child:
    """A refit that ends at once."""

    def __init__(self, outcome: RefitOutcome = RefitOutcome.DONE) -> None:
        self.runs = 0
        self._outcome = outcome

    def run(self) -> RefitReport:
        self.runs += 1
        return RefitReport(outcome=self._outcome, duration_s=2.0, detail="words")

    def stop(self) -> None: ...


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, name: str, **keys: Any) -> None:
        self.events.append(("info", name, keys))

    def warning(self, name: str, **keys: Any) -> None:
        self.events.append(("warning", name, keys))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, now=NOON) as opened:
        yield opened


def a_refits(store: Store, child: Child, log: Log, telemetry: Telemetry | None = None) -> Refits:
    return Refits(child, store, telemetry or Telemetry(Board()), log)  # type: ignore[arg-type]


def values(telemetry: Telemetry) -> dict[str, float]:
    names = ("headstart_drifted_series", "headstart_drift_refits_total")
    return {name: value for name in names if (value := telemetry.registry.get_sample_value(name)) is not None}


def test_drift_starts_a_refit_before_the_night_and_says_why(store: Store) -> None:
    child, log, telemetry = Child(), Log(), Telemetry(Board())
    refits = a_refits(store, child, log, telemetry)
    assert values(telemetry) == {"headstart_drift_refits_total": 0.0}
    for hour in range(48):
        refits.watch({KEY: FINE}, now=NOON + hour * EVERY)
    assert (child.runs, log.events) == (0, [])
    refits.watch({KEY: BAD}, now=NOON + 48 * EVERY)
    drift, refit = log.events
    assert drift[:2] == ("warning", "drift")
    assert drift[2]["series"] == 1
    assert drift[2]["reasons"] == {"llm/chat/default": "error 2.50 of last value's, in the last days 0.83"}
    assert (refit[:2], refit[2]["reason"], refit[2]["outcome"]) == (("info", "refit"), "drift", "done")
    assert values(telemetry) == {"headstart_drift_refits_total": 1.0, "headstart_drifted_series": 1.0}
    for hour in range(49, 72):
        refits.watch({KEY: BAD}, now=NOON + hour * EVERY)
    assert child.runs == 1, "the same series waits a day"


def test_a_restart_forgets_nothing(store: Store) -> None:
    child = Child()
    refits = a_refits(store, child, Log())
    for hour in range(48):
        refits.watch({KEY: FINE}, now=NOON + hour * EVERY)
    a_refits(store, child, Log()).watch({KEY: BAD}, now=NOON + 48 * EVERY)
    assert child.runs == 1


def test_the_nights_refit_is_told_as_such_and_drift_keeps_its_distance(store: Store) -> None:
    child, log = Child(), Log()
    refits = a_refits(store, child, log)
    for hour in range(48):
        refits.watch({KEY: FINE}, now=NOON + hour * EVERY)
    refits.nightly(now=NOON + 47 * EVERY + timedelta(minutes=10))
    assert log.events[-1][2]["reason"] == "nightly"
    for hour in range(48, 53):
        refits.watch({KEY: BAD}, now=NOON + hour * EVERY)
    assert child.runs == 1
    refits.watch({KEY: BAD}, now=NOON + 54 * EVERY)
    assert child.runs == 2


def test_a_damaged_memory_of_drift_is_dropped_with_a_word(store: Store) -> None:
    store.save_blob(DRIFT_BLOB, b"PK broken", now=NOON)
    log = Log()
    a_refits(store, Child(), log).watch({KEY: FINE}, now=NOON)
    assert [name for _, name, _ in log.events] == ["drift_not_restored"]


def test_without_what_a_refit_needs_the_way_out_is_told(store: Store) -> None:
    log = Log()
    a_refits(store, Child(RefitOutcome.SKIPPED), log).nightly(now=NOON)
    assert log.events[0][:2] == ("warning", "refit_skipped")


def test_quality_is_taken_by_series() -> None:
    forecasts = (
        DemandForecast(forecast=a_forecast(5.0, request_class="ocr"), quality=FINE),
        DemandForecast(forecast=a_forecast(5.0, request_class="vqa"), quality=None),
    )
    found = quality_of(ForecastRun(forecasts={"llm/chat": forecasts}))
    assert found == {SeriesKey(workload="llm/chat", signal="demand_rps", request_class="ocr"): FINE}
