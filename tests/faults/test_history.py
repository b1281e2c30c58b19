"""Rows 11 and 13 of the table, where they are about the past: gaps, and points that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster.backtest import Window, backtest
from forecaster.models.seasonal import LastValue, SeasonalNaive
from forecaster.sources.connection import Connection
from forecaster.sources.prometheus import PrometheusSource
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import STEP, Panel, Series, SeriesKey, floor_to_step
from policy_cases import NOON
from scaler.adapters.board import Board
from scaler.adapters.forecasts import DemandForecaster
from scaler.adapters.intake import HistoryIntake
from scaler.adapters.store import Store
from scaler.adapters.telemetry import Telemetry
from servers import PrometheusServer, prometheus_is_installed

KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
DAY = timedelta(days=1)
RPS = 10.0


def _scrapes(start: datetime, end: datetime, *, gaps: list[tuple[datetime, datetime]]) -> str:
    """A counter at 10 rps, scraped every 15 s but for the gaps."""
    labels = 'engine="0",model_name="chat",namespace="llm",pod="chat-0",instance="chat-0",job="vllm"'
    first, last = int(start.timestamp()), int(end.timestamp())
    moments = [
        moment
        for moment in range(first, last, 15)
        if not any(begin.timestamp() <= moment < over.timestamp() for begin, over in gaps)
    ]
    lines = ["# TYPE vllm:request_success counter"]
    lines += [f"vllm:request_success_total{{{labels}}} {RPS * (moment - first):.0f} {moment}" for moment in moments]
    for gauge in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        lines.append(f"# TYPE {gauge} gauge")
        lines += [f"{gauge}{{{labels}}} 0 {moment}" for moment in moments]
    return "\n".join(lines) + "\n# EOF\n"


@pytest.mark.server
@pytest.mark.skipif(not prometheus_is_installed(), reason="needs prometheus and promtool on the PATH")
@pytest.mark.parametrize("minutes", [10, 60])
def test_row_11_a_gap_in_the_history_is_masked_and_not_learnt_as_zeros(tmp_path: Path, minutes: int) -> None:
    """Yesterday's scrapes are missing for a while: from the source into the store, and on to tomorrow's forecast."""
    now = floor_to_step(datetime.now(UTC)) - STEP
    lost = now - DAY + timedelta(minutes=5), now - DAY + timedelta(minutes=5 + minutes)
    server = PrometheusServer()
    server.back_fill(_scrapes(now - 3 * DAY, now, gaps=[lost]))
    with server, Store.open(tmp_path, now=now) as store:
        source = PrometheusSource(Connection(url=server.url))
        selector = WorkloadSelector.for_workload("llm", "chat")
        assert HistoryIntake(source, [selector], store).backfill(now=now, stopped=lambda: False).error == ""
        stored = store.history.read((KEY,), start=lost[0], end=lost[1]).values[0]
        assert np.isnan(stored[1:-1]).all(), "unknown, and never a zero"
        whole = store.history.read((KEY,), start=now - 2 * DAY, end=now).values[0]
        assert np.nanmin(whole) == pytest.approx(RPS, rel=0.3), "nor a dip at its edges"
        forecaster = DemandForecaster(store, workloads={KEY.workload}, ttl=timedelta(minutes=10))
        run = forecaster.run((LastValue(), SeasonalNaive()), lead={KEY.workload: timedelta(minutes=3)}, now=now)
    (each,) = run.forecasts[KEY.workload]
    for ahead in range(1, 30):
        assert each.forecast.quantile(now + ahead * STEP, z=0.0) == pytest.approx(RPS, rel=0.2)


@pytest.mark.parametrize("minutes", [10, 60])
def test_row_11_a_backtest_scores_no_minute_of_a_gap(minutes: int) -> None:
    values = np.full(2 * 1440, RPS)
    values[2000 : 2000 + minutes] = np.nan
    series = Series(start=NOON, step=STEP, values=values)
    window = Window(score_from=NOON + 1900 * STEP, score_to=NOON + 2200 * STEP)
    (result,) = backtest(series, [LastValue()], window=window, horizons=(5,), engine=False)
    whole = Series(start=NOON, step=STEP, values=np.full(2 * 1440, RPS))
    (full,) = backtest(whole, [LastValue()], window=window, horizons=(5,), engine=False)
    assert full.n - 2 * minutes - 5 <= result.n <= full.n - minutes
    assert result.wape == pytest.approx(0.0, abs=1e-9), "the gap is no miss"


def test_row_13_points_from_the_future_are_dropped_and_counted(tmp_path: Path) -> None:
    telemetry = Telemetry(Board())
    values = np.full((1, 120), RPS)
    with Store.open(tmp_path, now=NOON) as store:
        report = store.history.append(Panel(keys=(KEY,), start=NOON - 60 * STEP, step=STEP, values=values), now=NOON)
        telemetry.stored(report)
        known = store.history.read((KEY,), start=NOON - 60 * STEP, end=NOON + 60 * STEP).values[0]
    assert report.future == 59, "the minute that has begun is not the future"
    assert np.isnan(known[61:]).all()
    assert telemetry.registry.get_sample_value("headstart_samples_dropped_total", {"reason": "future"}) == 59.0
