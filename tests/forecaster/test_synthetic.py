"""Generated traffic: equal arguments give equal bytes, and each property asked for is there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.errors import SeriesError
from forecaster.synthetic import ARCHETYPES, EventKind, Promotion, TrafficSpec, expected_rps, generate

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
FLAT = TrafficSpec(name="flat", mean_rps=10.0, hours=(1.0,) * 24, wander_ratio=0.0, dispersion=1.0)


@pytest.mark.parametrize("name", sorted(ARCHETYPES))
def test_equal_arguments_give_equal_traffic_and_another_seed_other(name: str) -> None:
    first, again, other = (generate(ARCHETYPES[name], start=MONDAY, days=7, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.series.values, again.series.values, equal_nan=True)
    assert first.events == again.events
    assert not np.array_equal(first.truth.values, other.truth.values)
    assert first.truth.values.size == 7 * 1440
    assert (first.truth.values >= 0.0).all()


@pytest.mark.parametrize("name", sorted(ARCHETYPES))
def test_the_mean_is_about_what_was_asked_for(name: str) -> None:
    quiet = replace(ARCHETYPES[name], bursts_per_day=0.0, growth_per_week_ratio=0.0)
    mean = generate(quiet, start=MONDAY, days=14, seed=3).truth.values.mean()
    assert mean == pytest.approx(quiet.mean_rps, rel=0.08)


def test_outages_hide_bins_and_only_those() -> None:
    traffic = generate(replace(FLAT, outages_per_week=20.0), start=MONDAY, days=7, seed=4)
    hidden = np.zeros(traffic.series.values.size, dtype=bool)
    for event in traffic.events:
        assert event.kind is EventKind.OUTAGE
        hidden[(event.start - MONDAY) // timedelta(minutes=1) : (event.end - MONDAY) // timedelta(minutes=1)] = True
    assert hidden.any()
    assert np.array_equal(np.isnan(traffic.series.values), hidden)
    assert np.isfinite(traffic.truth.values).all()


def test_a_promotion_stands_where_it_was_planned() -> None:
    promotion = Promotion(day=1, minute=600, duration=timedelta(hours=2), ratio=3.0)
    traffic = generate(replace(FLAT, promotions=(promotion,)), start=MONDAY, days=3, seed=5)
    values, begin = traffic.truth.values, 1440 + 600
    assert values[begin + 20 : begin + 100].mean() == pytest.approx(30.0, rel=0.03)
    assert values[begin - 60 : begin].mean() == pytest.approx(10.0, rel=0.05)
    assert values[begin + 120 : begin + 180].mean() == pytest.approx(10.0, rel=0.05)
    assert [(one.kind, one.ratio) for one in traffic.events] == [(EventKind.PROMOTION, 3.0)]


def test_bursts_rise_at_once_above_what_is_usual() -> None:
    spec = replace(FLAT, bursts_per_day=3.0, burst_ratio=4.0, burst_duration=timedelta(minutes=20))
    traffic = generate(spec, start=MONDAY, days=7, seed=6)
    high = max(traffic.events, key=lambda event: event.ratio)
    at = (high.start - MONDAY) // timedelta(minutes=1)
    assert traffic.truth.values[at] > 0.7 * 10.0 * high.ratio
    assert len(traffic.events) == pytest.approx(21, abs=14)


@pytest.mark.parametrize(("dispersion", "ratio"), [(1.0, 1.0), (4.0, 4.0), (20.0, 20.0)])
def test_a_minutes_variance_is_the_dispersion_times_poissons(dispersion: float, ratio: float) -> None:
    counts = generate(replace(FLAT, dispersion=dispersion), start=MONDAY, days=7, seed=7).truth.values * 60
    assert counts.var() / counts.mean() == pytest.approx(ratio, rel=0.1)


def test_the_habit_follows_the_hour_the_weekday_and_growth() -> None:
    office = ARCHETYPES["chat-working-day"]
    week = expected_rps(replace(office, growth_per_week_ratio=0.0), start=MONDAY, bins=14 * 1440)
    assert week[15 * 60] > 5 * week[4 * 60]
    assert week[5 * 1440 + 15 * 60] < 0.5 * week[15 * 60]
    assert week[:1440] == pytest.approx(week[7 * 1440 : 8 * 1440])
    grown = expected_rps(replace(office, growth_per_week_ratio=0.5), start=MONDAY, bins=14 * 1440)
    assert grown[7 * 1440 + 900] == pytest.approx(1.5 * grown[900])
    midweek = expected_rps(office, start=MONDAY + timedelta(days=2, hours=15), bins=1)
    assert midweek[0] == pytest.approx(week[2 * 1440 + 15 * 60], rel=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"hours": (1.0,) * 23}, id="23 hours"),
        pytest.param({"weekdays": (1.0,) * 6}, id="6 weekdays"),
        pytest.param({"mean_rps": -1.0}, id="negative demand"),
        pytest.param({"mean_rps": float("nan")}, id="no number"),
        pytest.param({"dispersion": 0.5}, id="less noise than chance"),
    ],
)
def test_impossible_people_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SeriesError, match="flat"):
        replace(FLAT, **wrong)  # type: ignore[arg-type]


def test_no_days_and_local_times_are_refused() -> None:
    with pytest.raises(SeriesError):
        generate(FLAT, start=MONDAY, days=0, seed=1)
    with pytest.raises(SeriesError):
        generate(FLAT, start=datetime(2026, 3, 2), days=1, seed=1)  # noqa: DTZ001
