"""Rows 27, 28, 29 and 40 of the table: models that are damaged, hostile, wrong, late, or never ready.

Whatever a model does, the load rule goes on, and no code of an artefact ever runs.
"""

from __future__ import annotations

import os
import pickle  # noqa: TID251 — to make what must never be loaded
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecaster import registry
from forecaster.drift import EVERY
from forecaster.models.holt_winters import Smoothing
from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.models.stored import holt_winters_bytes, network_bytes
from forecaster.types import (
    HORIZONS,
    LEVELS,
    STEP,
    Forecaster,
    ForecastQuality,
    Known,
    Panel,
    SeriesKey,
)
from policy_cases import MINUTE, NOON, a_policy
from scaler.adapters.board import Board
from scaler.adapters.forecasts import DemandForecaster, ForecastRun
from scaler.adapters.models import ModelShelf
from scaler.adapters.refit import Refit, RefitOutcome, RefitReport
from scaler.adapters.states import State, Status, statuses
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry
from scaler.daemon.refits import Refits
from scaler.policy.types import Trust
from virtual_world import Course, VirtualWorkload

CHAT = "llm/chat"
KEY = SeriesKey(workload=CHAT, signal="demand_rps")
LEAD = {CHAT: timedelta(minutes=3)}
RPS = 20.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A data file with three days of calm traffic."""
    with Store.open(tmp_path, now=NOON) as opened:
        values = np.full((1, 3 * 1440), RPS) + np.sin(np.arange(3 * 1440))
        opened.history.append(Panel(keys=(KEY,), start=NOON - 3 * 1440 * STEP, step=STEP, values=values), now=NOON)
        yield opened


# ── Row 27: artefacts ─────────────────────────────────────────────────────────────────────────────────────────────


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.mark}",))


def _stored(root: Path, model: str, data: bytes) -> Path:
    span = registry.DataSpan(start=NOON - timedelta(days=7), end=NOON, series=1)
    return registry.save(root, model, data, span=span, seed=7, report={})


def _gains(level: float) -> bytes:
    return holt_winters_bytes({KEY: Smoothing(level=level, trend=0.0, season=0.1, damping=0.9)})


Damage = Callable[[Path, Path], object]
"""What happens to a version's folder; the second path is where code that runs would leave its mark."""


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder, _: _data(folder).write_bytes(_data(folder).read_bytes()[:40]), id="truncated"),
        pytest.param(lambda folder, _: _data(folder).write_bytes(_gains(0.9)), id="another content than the hash says"),
        pytest.param(lambda folder, mark: _data(folder).write_bytes(pickle.dumps(Bomb(mark))), id="a pickle"),
        pytest.param(lambda folder, mark: _replaced(folder, pickle.dumps(Bomb(mark))), id="a pickle with its hash"),
        pytest.param(lambda folder, _: _data(folder).unlink(), id="gone"),
        pytest.param(lambda folder, _: (folder / "manifest.json").write_text("{"), id="half a manifest"),
    ],
)
def test_row_27_a_bad_artefact_is_not_loaded_and_the_last_good_one_goes_on(tmp_path: Path, damage: Damage) -> None:
    good = _stored(tmp_path, "holt-winters", _gains(0.3))
    registry.promote(tmp_path, "holt-winters", good.name, now=NOON)
    shelf = ModelShelf(tmp_path, ("last-value", "holt-winters"))
    usual, _ = shelf.current()
    assert [each.model_id for each in usual.members] == ["last-value", f"holt-winters@{good.name}"]
    mark = tmp_path / "code-ran"
    bad = _stored(tmp_path, "holt-winters", _gains(0.4))
    registry.promote(tmp_path, "holt-winters", bad.name, now=NOON)
    damage(bad, mark)
    found, changed = shelf.current()
    assert changed
    assert [each.model_id for each in found.members] == [each.model_id for each in usual.members]
    assert "holt-winters" in found.refused
    # A daemon that starts now has no last good one: it goes on without, and says so.
    fresh, _ = ModelShelf(tmp_path, ("last-value", "seasonal-naive", "holt-winters")).current()
    assert {"last-value", "seasonal-naive"} <= {each.model_id for each in fresh.members}
    assert "holt-winters" in fresh.refused
    assert not mark.exists()


def test_row_27_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = _stored(tmp_path, "lstm", network_bytes({"dense.bias": np.zeros(3, np.float32)}))
    with pytest.raises(registry.ArtefactError, match="train it again"):
        registry.load(tmp_path, "lstm", version=folder.name)


def _data(folder: Path) -> Path:
    return folder / "coefficients.json"


def _replaced(folder: Path, data: bytes) -> None:
    """Somebody with write access has put a hash beside it that fits."""
    import hashlib
    import json

    _data(folder).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


# ── Row 28: what a model says ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Saying:
    """A member that answers with these multiples of the last value at every level."""

    factor: float
    model_id: str = "saying"
    min_history: timedelta = timedelta(0)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """`factor` × last value."""
        point = self.factor * panel.values[:, -1][:, None, None]
        return np.repeat(np.repeat(point, len(LEVELS), axis=2), len(horizons), axis=1)


@dataclass(frozen=True, kw_only=True)
class Raising(Saying):
    """A member with a defect."""

    factor: float = 1.0

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """Never answers."""
        raise MemoryError("no room for the hidden state")


def _run(store: Store, members: Sequence[Forecaster], *, now: datetime = NOON) -> ForecastRun:
    forecaster = DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10))
    return forecaster.run(members, lead=LEAD, now=now)


def _after(run: ForecastRun) -> tuple[Course, Status]:
    """A settled workload that is handed these forecasts, and what is shown of it."""
    course = Course(policy=a_policy(), workload=VirtualWorkload(scale=3, ready=3, demand=Known(value=RPS)))
    course.minutes(8)
    course.workload.forecasts = run.forecasts.get(CHAT, ())
    report = course.minute()
    return course, statuses(report, {})[CHAT]


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(Saying(factor=float("nan")), id="NaN"),
        pytest.param(Saying(factor=float("inf")), id="infinite"),
        pytest.param(Saying(factor=-1.0), id="negative"),
        pytest.param(Saying(factor=1000.0), id="a thousand times too much"),
        pytest.param(Raising(), id="raises"),
    ],
)
def test_row_28_an_absurd_forecast_is_rejected_and_the_load_rule_goes_on(store: Store, member: Forecaster) -> None:
    course, status = _after(_run(store, (member,)))
    assert status.state is State.REACTIVE_ONLY
    assert course.workload.scale == 3, "what the load asks for: ceil(20 / 7)"
    beside = _run(store, (member, LastValue()))
    (each,) = beside.forecasts[CHAT]
    assert each.forecast.plausible
    assert each.forecast.quantile(NOON + 3 * MINUTE, z=1.645) < 3.5 * RPS
    told = {**beside.gated, **beside.failed}
    assert np.isnan(member.factor) or np.isinf(member.factor) or member.factor < 0 or "saying" in told  # type: ignore[attr-defined]


def test_row_28_a_late_forecast_is_not_acted_on(store: Store) -> None:
    course, _ = _after(_run(store, (LastValue(), SeasonalNaive())))
    assert course.workload.forecasts
    late = course.minutes(12)
    assert late[-1].trust is Trust.EXPIRED
    assert statuses(course.minute(), {})[CHAT].state is State.REACTIVE_ONLY
    assert not any(proposal.rule == "predictive" for proposal in late[-1].proposals)


# ── Row 29: drift ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class GoneStale:
    """A member that knew the traffic until it changed, and still says what it was."""

    model_id: str = "gone-stale"
    min_history: timedelta = timedelta(0)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """20 rps, give or take a little, whatever is there."""
        levels = RPS + np.array([0.0, 1.0, 1.4, 1.8])
        return np.broadcast_to(levels, (len(panel.keys), len(horizons), len(LEVELS))).copy()


def test_row_29_a_model_that_drifts_gives_way_to_the_last_value(store: Store) -> None:
    members = (GoneStale(), LastValue())
    forecaster = DemandForecaster(store, workloads={CHAT}, ttl=timedelta(minutes=10))
    (before,) = forecaster.run(members, lead=LEAD, now=NOON).forecasts[CHAT]
    assert before.forecast.model == "gone-stale"
    changed = np.full((1, 180), 3 * RPS)
    store.history.append(Panel(keys=(KEY,), start=NOON, step=STEP, values=changed), now=NOON + 180 * MINUTE)
    for minute in range(5, 181, 5):
        run = forecaster.run(members, lead=LEAD, now=NOON + minute * MINUTE)
    (after,) = run.forecasts[CHAT]
    assert after.forecast.model == "last-value"
    assert after.forecast.quantile(NOON + 183 * MINUTE, z=0.0) == pytest.approx(3 * RPS, rel=0.05)


class _Queue:
    """A refit that notes that it was asked for."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self) -> RefitReport:
        self.runs += 1
        return RefitReport(outcome=RefitOutcome.DONE)

    def stop(self) -> None: ...


class _Log:
    """Keeps the names of the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def info(self, name: str, **_: Any) -> None: ...

    def warning(self, name: str, **_: Any) -> None:
        self.warnings.append(name)


def test_row_29_drift_is_told_and_a_refit_is_queued(store: Store) -> None:
    queue, log, telemetry = _Queue(), _Log(), Telemetry(Board())
    refits = Refits(queue, store, telemetry, log)  # type: ignore[arg-type]
    fine = ForecastQuality(coverage_95=0.95, wape=0.1, wape_last_value=0.12, scored_bins=360)
    for hour in range(48):
        refits.watch({KEY: fine}, now=NOON + hour * EVERY)
    refits.watch({KEY: replace(fine, wape=0.4)}, now=NOON + 48 * EVERY)
    assert (queue.runs, log.warnings) == (1, ["drift"])
    assert telemetry.registry.get_sample_value("headstart_drifted_series") == 1.0


# ── Row 40: training ──────────────────────────────────────────────────────────────────────────────────────────────

_HANGS = "import time; time.sleep(600)"
_EATS = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, 300 * 2**20))
held = []
while True:
    held.append(bytearray(2**22))
"""


@pytest.mark.parametrize(
    ("script", "budget_s", "outcome"),
    [
        pytest.param(_HANGS, 2, RefitOutcome.TIMED_OUT, id="hangs"),
        # It begins with the lowest claim on the processor: on a busy machine its own end may be some seconds off.
        pytest.param(_EATS, 120, RefitOutcome.FAILED, id="runs out of memory"),
    ],
)
def test_row_40_a_training_that_hangs_or_eats_all_memory_costs_no_tick(
    script: str, budget_s: int, outcome: RefitOutcome
) -> None:
    reports: list[RefitReport] = []
    refit = Refit((sys.executable, "-c", script), budget=timedelta(seconds=budget_s), needs=())
    lane = threading.Thread(target=lambda: reports.append(refit.run()))
    lane.start()
    course = Course(policy=a_policy(), workload=VirtualWorkload(scale=3, ready=3, demand=Known(value=RPS)))
    ticks = 0
    while not reports:
        course.minute()
        ticks += 1
        time.sleep(0.01)
    lane.join()
    assert reports[0].outcome is outcome
    if outcome is RefitOutcome.TIMED_OUT:
        assert ticks > 1, "beside a training that lasts"
    else:
        assert "MemoryError" in reports[0].detail
