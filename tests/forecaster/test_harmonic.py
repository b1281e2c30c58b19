"""The harmonic regression: what it makes of clockwork, of a week, of another level, and of what is missing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.models.harmonic import DAILY_WAVES, TERMS, Harmonic, basis, solved
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.tracking import Track, follow
from forecaster.preprocess import tail, up_to
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = 1440
KEY = SeriesKey(workload="a/b", signal="demand_rps")


def panel_of_row(values: np.ndarray) -> Panel:
    return Panel(keys=(KEY,), start=START, step=STEP, values=values[None, :])


def wave(days: float) -> np.ndarray:
    """Demand whose root is a wave of two harmonics."""
    turn = 2 * np.pi * np.arange(int(days * DAY)) / DAY
    return np.square(6.0 + 2.0 * np.sin(turn) + np.cos(2 * turn))


def median(model: Forecaster, values: np.ndarray) -> np.ndarray:
    return model.predict(panel_of_row(values))[0, :, 0]


def test_clockwork_is_continued() -> None:
    whole = wave(6)
    at = 5 * DAY + 500
    assert median(Harmonic(), whole[:at]) == pytest.approx(whole[at - 1 + np.array(HORIZONS)], rel=0.01)


def test_another_level_keeps_the_shape() -> None:
    """Three times the demand since six hours: half an hour ahead is read off the old days' shape at the new level."""
    whole = wave(6)
    whole[5 * DAY :] *= 3.0
    at = 5 * DAY + 360
    assert median(Harmonic(), whole[:at]) == pytest.approx(whole[at - 1 + np.array(HORIZONS)], rel=0.08)


def test_a_weekend_is_followed_by_its_level() -> None:
    """Saturday lies at half of Friday: by the morning that is the level, and Friday's rise scaled to it is foreseen."""
    whole = wave(6)
    whole[5 * DAY :] *= 0.5
    at = 5 * DAY + 240
    said, truth = median(Harmonic(), whole[:at])[-1], whole[at + 29]
    assert said == pytest.approx(truth, rel=0.1)
    assert abs(said - truth) < 0.3 * abs(whole[at + 29 - DAY] - truth)


def test_the_fit_is_ridge_least_squares() -> None:
    """Of sums as they are defined: with much history the pull to nothing is small, and waves come back as they were."""
    numbers = np.arange(0.0, 28.0 * DAY, 15.0)
    waves = basis(numbers, STEP)
    truth = np.random.default_rng(1).normal(0.0, 0.2, TERMS)
    weight = 15.0 / DAY
    gram = (weight * waves.T @ waves)[None]
    moment = (weight * waves.T @ (waves @ truth))[None]
    found = solved(gram, moment)[0]
    slow = [0, *range(1, 4), *range(1 + DAILY_WAVES, 4 + DAILY_WAVES)]
    assert found[slow] == pytest.approx(truth[slow], abs=0.02)
    assert np.abs(found).sum() < np.abs(truth).sum(), "a ridge only ever pulls in"


def test_without_history_there_is_no_shape() -> None:
    assert solved(np.zeros((2, TERMS, TERMS)), np.zeros((2, TERMS))) == pytest.approx(np.zeros((2, TERMS)))


def test_an_outage_of_a_day_bends_the_shape_little() -> None:
    whole = wave(8)
    whole[5 * DAY : 6 * DAY] = np.nan
    at = 7 * DAY + 100
    assert median(Harmonic(), whole[:at]) == pytest.approx(wave(8)[at - 1 + np.array(HORIZONS)], rel=0.02)


def test_a_night_of_zeros_is_a_night_and_not_a_storm() -> None:
    """The shape lies at nothing for eight hours; the morning after is forecast at its size."""
    whole = np.where(np.arange(6 * DAY) % DAY < 480, 0.0, 50.0)
    night, day = 5 * DAY + 300, 5 * DAY + 700
    assert (median(Harmonic(), whole[:night]) < 15.0).all()
    assert median(Harmonic(), whole[:day]) == pytest.approx(np.full(len(HORIZONS), 50.0), rel=0.2)


def followed(panel: Panel, stops: list[int], *, lookback: timedelta) -> Track:
    model, track = Harmonic(), None
    for at in stops:
        known = (
            tail(up_to(panel, START + at * STEP), int(lookback / STEP)) if track else up_to(panel, START + at * STEP)
        )
        track = follow(model, track, known, horizons=HORIZONS, reach=DAY)
    assert track is not None
    return track


def test_what_is_learnt_by_the_hour_is_what_a_fit_learns_at_once() -> None:
    """Every bin once, whether read in a first fit or later, and whatever minute the track began at."""
    panel = panel_of_row(np.random.default_rng(1).poisson(wave(5) * 60.0) / 60.0)
    late = 5 * DAY - 7
    by_the_hour = followed(panel, [4 * DAY + 37, *range(4 * DAY + 38, late + 1)], lookback=Harmonic().lookback)
    at_once = followed(panel, [late // 60 * 60], lookback=Harmonic().lookback)
    assert by_the_hour.arrays["learnt"].tolist() == at_once.arrays["learnt"].tolist()
    assert by_the_hour.arrays["gram"][:, 0, 0] == pytest.approx(at_once.arrays["gram"][:, 0, 0], rel=2e-3)
    assert by_the_hour.arrays["shape"] == pytest.approx(at_once.arrays["shape"], abs=0.02)


@pytest.mark.parametrize("model", [Harmonic(), HoltWinters()], ids=["harmonic", "holt-winters"])
def test_the_largest_loads_are_told_within_a_thousandth_and_larger_ones_break_nothing(model: Forecaster) -> None:
    """What a memory keeps of its own forecasts has half precision, and a largest root."""
    assert median(model, np.full(4 * DAY, 1e9)) == pytest.approx(1e9, rel=2e-3)
    assert np.isfinite(median(model, np.full(4 * DAY, 1e12))).all()
