"""Level shifts: found within half a day, at the right hour and size, and not where there is none.

Properties: nothing after the panel's end matters, no unit matters, and a gap is never a shift.
"""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.levels import LevelShift, level_shifts, levelled
from forecaster.preprocess import DAY, up_to
from forecaster.trace import read_trace
from forecaster.types import Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)
TEN_MINUTES = timedelta(minutes=10)
KEY = SeriesKey(workload="llm/chat", signal="demand_rps")
TRACES = Path(__file__).resolve().parents[2].parent / "shared" / "traces"


def days_of(days: float, *, shift_at: float = 99.0, until: float = 99.0, ratio: float = 1.0, weekend: float = 1.0):
    """A busy day and a quiet night with noise, in bins of ten minutes; times `ratio` from `shift_at` until `until`."""
    day = np.arange(round(days * 144)) / 144
    rate = 20.0 * (1.0 + 0.8 * np.sin(2 * np.pi * (day - 0.3)))
    rate *= np.where((day >= shift_at) & (day < until), ratio, 1.0) * np.where(day % 7 >= 5, weekend, 1.0)
    values = np.random.default_rng(1).poisson(rate * 600) / 600.0
    return Panel(keys=(KEY,), start=START, step=TEN_MINUTES, values=values[None, :])


@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.7, 3.0, 40.0])
def test_a_shift_is_found_within_half_a_day_and_kept_for_days(ratio: float) -> None:
    panel = days_of(14, shift_at=9.3, ratio=ratio)
    at = START + 9.3 * DAY
    assert level_shifts(up_to(panel, at)) == ()
    for hours in (12, 24, 48, 72):
        (shift,) = level_shifts(up_to(panel, at + hours * HOUR))
        assert shift.key == KEY
        assert abs(shift.since - at) <= HOUR
        assert shift.ratio == pytest.approx(ratio, rel=0.1)
    assert level_shifts(up_to(panel, at + 4.6 * DAY)) == (), "most of a week lies after it: it is what is usual"


@pytest.mark.parametrize(
    "panel",
    [
        pytest.param(days_of(16), id="every day alike"),
        pytest.param(days_of(21, weekend=0.3), id="quiet week-ends"),
        pytest.param(days_of(16, shift_at=9.3, ratio=1.3), id="less than half as much again"),
        pytest.param(days_of(16, shift_at=9.4, until=9.6, ratio=3.0), id="a sale of five hours"),
        pytest.param(days_of(8, shift_at=4.0, ratio=3.0), id="too young for a week to compare with"),
        pytest.param(Panel(keys=(KEY,), start=START, step=TEN_MINUTES, values=np.zeros((1, 2016))), id="nothing ever"),
        pytest.param(
            Panel(keys=(KEY,), start=START, step=TEN_MINUTES, values=np.full((1, 2016), np.nan)), id="nothing known"
        ),
        pytest.param(Panel(keys=(), start=START, step=TEN_MINUTES, values=np.empty((0, 2016))), id="no series"),
    ],
)
def test_what_is_no_shift(panel: Panel) -> None:
    hours = int((panel.end - START) / HOUR)
    assert all(level_shifts(up_to(panel, START + hour * HOUR)) == () for hour in range(24, hours + 1, 3))


def test_an_outage_is_no_shift_and_hides_none() -> None:
    dark = days_of(12)
    dark.values[0, -100:] = np.nan
    assert level_shifts(dark) == ()
    shifted = days_of(11, shift_at=9.3, ratio=3.0)
    shifted.values[0, -120:-90] = np.nan
    (shift,) = level_shifts(shifted)
    assert shift.ratio == pytest.approx(3.0, rel=0.1)


@given(scale=st.floats(1e-3, 1e6), hours=st.integers(0, 120))
@settings(deadline=None, max_examples=30)
def test_neither_the_unit_nor_the_future_matters(scale: float, hours: int) -> None:
    panel, end = days_of(14, shift_at=9.3, ratio=3.0), START + 9 * DAY + hours * HOUR
    known = up_to(panel, end)
    scaled = Panel(keys=(KEY,), start=START, step=TEN_MINUTES, values=known.values * scale)
    one, other = level_shifts(known), level_shifts(scaled)
    assert [shift.since for shift in one] == [shift.since for shift in other]
    assert [shift.ratio for shift in one] == pytest.approx([shift.ratio for shift in other])


def test_several_series_are_told_apart() -> None:
    calm, shifted = days_of(11), days_of(11, shift_at=9.3, ratio=0.4)
    other = SeriesKey(workload="llm/docs", signal="demand_rps")
    both = Panel(keys=(other, KEY), start=START, step=TEN_MINUTES, values=np.concatenate([calm.values, shifted.values]))
    assert [shift.key for shift in level_shifts(both)] == [KEY]


def test_history_is_brought_to_the_new_level_and_gaps_stay() -> None:
    values = np.array([[1.0, np.nan, 3.0, 8.0], [1.0, 1.0, 1.0, 1.0]])
    other = SeriesKey(workload="llm/docs", signal="demand_rps")
    panel = Panel(keys=(KEY, other), start=START, step=TEN_MINUTES, values=values)
    shift = LevelShift(key=KEY, since=START + 2 * TEN_MINUTES, ratio=2.0)
    moved = levelled(panel, (shift,))
    assert moved.values == pytest.approx(np.array([[2.0, np.nan, 3.0, 8.0], [1.0] * 4]), nan_ok=True)
    assert panel.values[0, 0] == 1.0
    assert levelled(panel, ()) is panel


# ── Real traffic ──────────────────────────────────────────────────────────────────────────────────────────────────


def trace(name: str) -> Path:
    path = TRACES / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"needs ../shared/traces/{path.name}")
    return path


def test_the_regime_change_of_burstgpt_on_its_ninth_day_is_seen_two_days_later() -> None:
    """Requests a day: 5,145 on day 8, 149,520 on day 9, 91,322 on day 10, 3,089 on day 11."""
    with gzip.open(trace("burstgpt_daily61"), "rt") as lines:
        requests = [float(row["req"]) for row in csv.DictReader(lines)]
    panel = Panel(keys=(KEY,), start=START, step=DAY, values=np.array([requests]))
    seen = {day: level_shifts(up_to(panel, START + day * DAY)) for day in range(1, len(requests) + 1)}
    assert [day for day, shifts in seen.items() if shifts and shifts[0].since == START + 9 * DAY] == [11, 12]
    assert seen[11][0].ratio > 10


@pytest.mark.parametrize("name", ["crane_input9", "crane_input2", "servegen_mlarge_10min"])
def test_traffic_that_keeps_its_level_has_no_shift_at_any_hour(name: str) -> None:
    series = read_trace(trace(name)).series
    panel = Panel(keys=(KEY,), start=series.start, step=series.step, values=series.values[None, :])
    hours = range(24 * 8, int((series.end - series.start) / HOUR), 2)
    assert all(level_shifts(up_to(panel, series.start + hour * HOUR)) == () for hour in hours)
