"""What stands in for a forecast while nothing is measured: the day before at the last level, with its own errors.

Properties: it depends on nothing of a series but the series, scales with it, and is a sound answer or none.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models import stand_in
from forecaster.preprocess import DAY
from forecaster.types import HORIZONS, STEP, Panel, SeriesKey

if TYPE_CHECKING:
    from forecaster.types import FloatArray

END = datetime(2026, 3, 4, 9, 0, tzinfo=UTC)
BINS = stand_in.LOOKBACK // STEP
MINUTES = np.arange(BINS) - BINS  # 0 is END
TEN = HORIZONS.index(10)


def a_panel(*rows: FloatArray) -> Panel:
    keys = tuple(SeriesKey(workload=f"llm/w{n}", signal="demand_rps") for n in range(len(rows)))
    return Panel(keys=keys, start=END - stand_in.LOOKBACK, step=STEP, values=np.vstack(rows))


def day_curve(level: float = 100.0, *, noise: float = 0.0) -> FloatArray:
    """A day that doubles around its noon, the same every day."""
    time_of_day = 2 * np.pi * (MINUTES % 1440) / 1440
    curve = level * (1.5 + 0.5 * np.sin(time_of_day))
    return curve + noise * np.random.default_rng(7).normal(size=BINS)


def blind_for(values: FloatArray, minutes: int) -> FloatArray:
    dark = values.copy()
    dark[BINS - minutes :] = np.nan
    return dark


@pytest.mark.parametrize("minutes", [31, 120, 600, 1380])
def test_through_an_outage_it_goes_on_with_the_day_before(minutes: int) -> None:
    truth = day_curve()
    answer = stand_in.predict(a_panel(blind_for(truth, minutes)))[0]
    yesterday = truth[BINS - 1 + np.array(HORIZONS) - 1440]
    assert answer[:, 0] == pytest.approx(yesterday, rel=0.01)


def test_it_runs_at_the_level_that_was_seen_last() -> None:
    today = day_curve()
    today[BINS - 720 :] *= 1.3
    usual = stand_in.predict(a_panel(blind_for(day_curve(), 90)))[0]
    assert stand_in.predict(a_panel(blind_for(today, 90)))[0, :, 0] == pytest.approx(1.3 * usual[:, 0], rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "bounded"),
    [pytest.param(20.0, 2.0, id="a storm before it went dark"), pytest.param(0.0, 0.5, id="an outage before it did")],
)
def test_the_last_hour_may_have_been_part_of_what_went_wrong(ratio: float, bounded: float) -> None:
    broken = blind_for(day_curve(), 60)
    broken[BINS - 120 :] *= ratio
    usual = stand_in.predict(a_panel(blind_for(day_curve(), 60)))[0]
    assert stand_in.predict(a_panel(broken))[0, :, 0] == pytest.approx(bounded * usual[:, 0], rel=0.01)


def test_its_band_are_the_errors_of_the_last_day() -> None:
    quiet, loud = (stand_in.predict(a_panel(blind_for(day_curve(noise=noise), 60)))[0, TEN] for noise in (0.5, 20.0))
    assert quiet[3] - quiet[0] < 5.0
    assert 25.0 < loud[2] - loud[0] < 60.0, "1.645 times 20, and a little for the day before's own noise"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.full(BINS, np.nan), id="nothing is known"),
        pytest.param(blind_for(day_curve(), 1441), id="blind for longer than a day"),
        pytest.param(np.where(MINUTES < -600, np.nan, blind_for(day_curve(), 60)), id="ten hours old"),
    ],
)
def test_it_has_no_opinion_without_a_day_before(values: FloatArray) -> None:
    assert np.isnan(stand_in.predict(a_panel(values))).all()


def test_the_day_before_of_a_holiday_is_another_day() -> None:
    panel = a_panel(blind_for(day_curve(), 60))
    rest = Panel(keys=panel.keys, start=panel.start, step=STEP, values=panel.values, reference=np.full((1, BINS), 30.0))
    assert stand_in.predict(rest)[0, TEN, 0] < stand_in.predict(panel)[0, TEN, 0]


@given(scale=st.floats(0.01, 1000.0), minutes=st.integers(1, 1439), seed=st.integers(0, 9))
def test_it_scales_and_looks_at_no_other_series(scale: float, minutes: int, seed: int) -> None:
    values = blind_for(np.random.default_rng(seed).gamma(4.0, 25.0, size=BINS), minutes)
    alone, both = (stand_in.predict(a_panel(*rows)) for rows in ([values], [values * scale, values]))
    np.testing.assert_allclose(both[1], alone[0])
    np.testing.assert_allclose(both[0], scale * alone[0], rtol=1e-6)
    assert np.isfinite(alone).all()
    assert (np.diff(alone, axis=-1) >= 0).all()


def test_it_answers_for_the_future_of_the_panels_end() -> None:
    """A curve with one peak: it stands where it stood, and not an outage later."""
    values = np.full(BINS, 10.0)
    for day in (1, 2):
        peak = BINS + 20 - day * (DAY // timedelta(minutes=1))
        values[peak - 8 : peak + 8] = 200.0
    answer = stand_in.predict(a_panel(blind_for(values, 200)))[0, :, 0]
    assert HORIZONS[int(answer.argmax())] == 20
