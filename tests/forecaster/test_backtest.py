"""Rolling-origin evaluation: figures done by hand, no look-ahead, and the product's engine on real traffic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from forecaster import registry
from forecaster.backtest import BacktestResult, Window, backtest, default_window
from forecaster.errors import SeriesError
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.seasonal import LastValue
from forecaster.train import read_panel
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, Series

START = datetime(2026, 3, 2, tzinfo=UTC)
TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "traces"


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Says 10, 12, 14, 16 of everything, and remembers how far it could see."""

    seen: list[int]
    model_id: str = "constant"
    min_history: timedelta = timedelta(0)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """The same quantiles whatever the history."""
        self.seen.append(panel.values.shape[1])
        return np.tile(np.array([10.0, 12.0, 14.0, 16.0]), (1, len(horizons), 1))


def series_of(values: np.ndarray) -> Series:
    return Series(start=START, step=STEP, values=values)


def a_window(first_minute: int, last_minute: int, *, warm_up: int = 0) -> Window:
    return Window(score_from=START + first_minute * STEP, score_to=START + last_minute * STEP, warm_up=warm_up * STEP)


def test_the_figures_are_those_of_their_definitions() -> None:
    values = np.full(2000, 8.0)
    values[:1440] = 6.0
    values[1960:1970] = [8, 13, 20, np.nan, 8, 8, 8, 8, 8, 8]
    model = Constant(seen=[])
    (result,) = backtest(series_of(values), [model], window=a_window(1950, 1970), horizons=(5,), engine=False)
    # Origins at bins 1950 … 1964 look at bins 1955 … 1969: five of 8 before, then the ten above without the hole.
    truth = np.array([8] * 5 + [8, 13, 20, 8, 8, 8, 8, 8, 8], dtype=float)
    assert result.n == truth.size
    assert result.wape == pytest.approx(np.abs(truth - 10).sum() / truth.sum())
    assert result.coverage == {0.9: pytest.approx(12 / 14), 0.95: pytest.approx(13 / 14)}
    pinball_95 = sum(0.95 * (y - 14) if y > 14 else 0.05 * (14 - y) for y in truth)
    assert result.pinball[0.95] == pytest.approx(100 * pinball_95 / truth.sum())
    # The last 510 bins before the window differ from one day earlier by 8 - 6.
    assert result.mase == pytest.approx(np.abs(truth - 10).mean() / 2.0)
    assert result.horizon_s == 300.0


def test_decisions_are_made_from_every_minute_of_the_window_on_the_span_until_an_order_arrives() -> None:
    values = np.full(2000, 8.0)
    values[1950:1970] = np.tile([8.0, 8.0, 8.0, 16.0], 5)
    window = a_window(1950, 1970)
    (result,) = backtest(series_of(values), [Constant(seen=[])], window=window, horizons=(5,), engine=False)
    # One replica serves 1. Of the bins that an order reaches 11 need 8 replicas and 4 need 16; a constant fleet of 15
    # misses those 4, and one of 16 none: the risk of .01 lies near the second.
    share = (4 / 15 - 0.01) / (4 / 15)
    assert result.decision_gpu_ratio == pytest.approx((15 + share) * 15 / (11 * 8 + 4 * 16))


def test_an_origin_knows_its_own_bin_and_nothing_after_it() -> None:
    model = Constant(seen=[])
    backtest(series_of(np.ones(2000)), [model], window=a_window(1500, 1510), horizons=(1,), engine=False)
    assert model.seen == list(range(1501, 1511))


def test_changing_the_future_changes_no_forecast_before_it() -> None:
    values = np.random.default_rng(1).poisson(600.0, 4 * 1440) / 60.0
    members: list[Forecaster] = [LastValue(), HoltWinters()]

    def results(changed: np.ndarray) -> tuple[BacktestResult, ...]:
        ticks = iter(range(10**9))
        return backtest(
            series_of(changed),
            members,
            window=a_window(3 * 1440, 3 * 1440 + 60, warm_up=60),
            clock=lambda: float(next(ticks)),
        )

    later = values.copy()
    later[3 * 1440 + 60 :] = 1e6
    assert results(values) == results(later)


def test_the_product_is_reported_beside_its_members() -> None:
    values = np.random.default_rng(1).poisson(600.0, 3 * 1440) / 60.0
    results = backtest(series_of(values), [LastValue()], window=a_window(2 * 1440, 2 * 1440 + 90, warm_up=30))
    assert [(one.model, one.horizon_s) for one in results] == [
        (model, horizon) for model in ("headstart", "last-value") for horizon in (300.0, 900.0, 1800.0)
    ]
    assert results[0].wape == pytest.approx(results[3].wape)


def test_a_daily_refit_sees_the_past_alone() -> None:
    ends: list[datetime] = []

    def refit(panel: Panel) -> list[Forecaster]:
        ends.append(panel.end)
        return [LastValue()]

    backtest(
        series_of(np.ones(4 * 1440)),
        [],
        window=a_window(3 * 1440, 3 * 1440 + 60, warm_up=1440),
        refit=refit,
        engine=False,
    )
    assert ends == [START + timedelta(days=2), START + timedelta(days=3)]


def test_the_default_window_is_the_last_four_days_after_one_of_history() -> None:
    long, short = default_window(series_of(np.ones(10 * 1440))), default_window(series_of(np.ones(2 * 1440)))
    assert long.score_from == START + timedelta(days=6)
    assert short.score_from == START + timedelta(days=1)
    with pytest.raises(SeriesError, match="more than one day"):
        default_window(series_of(np.ones(1440)))


@pytest.mark.parametrize(("first", "last"), [(100, 100), (200, 100), (9000, 9100)])
def test_an_empty_window_is_refused(first: int, last: int) -> None:
    with pytest.raises(SeriesError):
        backtest(series_of(np.ones(2000)), [LastValue()], window=a_window(first, last))


@pytest.mark.parametrize(
    ("trace", "score_from"),
    [
        pytest.param("nasa_1995_july", datetime(1995, 7, 24, 12, tzinfo=UTC), id="heavy bursts"),
        pytest.param("crane_input9", datetime(2021, 10, 19, 12, tzinfo=UTC), id="clockwork"),
    ],
)
def test_on_real_traffic_the_engine_is_calibrated_and_no_worse_than_last_value(
    trace: str, score_from: datetime
) -> None:
    path = TRACES / f"{trace}.csv.gz"
    if not path.exists():
        pytest.skip(f"needs the trace {trace} in {TRACES.parent.name}/{TRACES.name}")
    panel = read_panel(path)
    window = Window(score_from=score_from, score_to=score_from + timedelta(hours=6), warm_up=timedelta(hours=12))
    results = backtest(panel.series(panel.keys[0]), registry.members().forecasters, window=window)
    ours = [one for one in results if one.model == "headstart"]
    naive = [one for one in results if one.model == "last-value"]
    for mine, theirs in zip(ours, naive, strict=True):
        assert mine.wape < theirs.wape
        assert mine.coverage[0.95] >= 0.90
        assert mine.pinball[0.95] < theirs.pinball[0.95] * 1.1
