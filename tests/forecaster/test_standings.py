"""How a forecast came about, told from the engine's memory afterwards: it must be what the engine really did.

Properties: the weights told are the ones that made the published median; a memory that was stored and read again tells
the same; the error of the day before equals a slow reference.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.models import ensemble, scoring
from forecaster.models.ensemble import EngineStep, Standing
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.memory import slots
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.preprocess import bin_index, tail, up_to
from forecaster.types import HORIZONS, STEP, Forecaster, Panel, SeriesKey

MEMBERS: tuple[Forecaster, ...] = (LastValue(), SeasonalNaive(), SeasonalDelta(), HoltWinters())
NAMES = ("last-value", "seasonal-naive", "seasonal-delta", "holt-winters")
START = datetime(2026, 3, 2, tzinfo=UTC)
KEYS = tuple(SeriesKey(workload=f"llm/w{number}", signal="demand_rps") for number in range(3))
LEAD = HORIZONS.index(5)


def walked(panel: Panel, *, minutes: int) -> EngineStep:
    """The engine called at each of the panel's last `minutes` minutes."""
    done = ensemble.step(MEMBERS, up_to(panel, panel.end - STEP * (minutes - 1)))
    for back in range(minutes - 2, -1, -1):
        done = ensemble.step(MEMBERS, up_to(panel, panel.end - STEP * back), done.state)
    return done


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Four days of arrivals over a daily wave, and a second series in which today is twice yesterday."""
    mean = 10.0 * (1.0 + 0.6 * np.sin(2 * np.pi * np.arange(4 * 1440) / 1440))
    values = np.random.default_rng(5).poisson(np.tile(mean * 60.0, (len(KEYS), 1))) / 60.0
    values[1, -1440:] *= 2.0
    return Panel(keys=KEYS, start=START, step=STEP, values=values)


@pytest.fixture(scope="module")
def done(panel: Panel) -> EngineStep:
    """What the engine says after a hundred minutes."""
    return walked(panel, minutes=100)


def test_the_weights_told_are_the_ones_that_made_the_forecast(done: EngineStep) -> None:
    """Medians are blended in roots and never moved: (Σ weight · √median)² is what was published."""
    issued = done.state.arrays["pending"][:, slots(HORIZONS, bin_index(done.state.end, STEP))]
    for row, (key, standing) in enumerate(ensemble.standings(done.state).items()):
        assert (standing.at, standing.horizons, standing.members) == (done.state.end, HORIZONS, NAMES)
        for column, published in enumerate(done.forecasts[key].values):
            weights, medians = np.array(standing.weights[column]), issued[row, column, :-1, 0]
            assert weights.sum() == pytest.approx(1.0)
            assert np.square(weights @ np.sqrt(medians)) == pytest.approx(published[0], rel=1e-5)


def test_after_a_jump_the_day_before_weighs_less(done: EngineStep) -> None:
    usual, jumped = (ensemble.standings(done.state)[key] for key in KEYS[:2])
    naive = NAMES.index("seasonal-naive")
    assert usual.weights[LEAD][naive] > 0.1 > 0.01 > jumped.weights[LEAD][naive]
    assert jumped.loss_ratios(LEAD)[naive] > 3.0 > usual.loss_ratios(LEAD)[naive]
    assert jumped.loss_ratios(LEAD)[0] == 1.0


def test_only_the_series_that_were_asked_for_are_told(done: EngineStep) -> None:
    everything = ensemble.standings(done.state)
    assert ensemble.standings(done.state, keys={KEYS[1]}) == {KEYS[1]: everything[KEYS[1]]}
    assert ensemble.standings(done.state, keys=set()) == {}


def test_a_memory_that_was_stored_tells_the_same(done: EngineStep) -> None:
    again = ensemble.from_bytes(ensemble.to_bytes(done.state))
    assert ensemble.standings(again) == ensemble.standings(done.state)


def test_before_anybody_has_earned_a_word_the_last_value_speaks_alone(panel: Panel) -> None:
    standing = ensemble.standings(walked(panel, minutes=20).state)[KEYS[0]]
    assert standing.weights == ((1.0, 0.0, 0.0, 0.0),) * len(HORIZONS)
    assert standing.seasonal_ratio(LEAD) == 0.0
    assert np.isfinite(standing.losses[0]).all()  # a minute ahead was scored already,
    assert np.isnan(standing.losses[-1]).all()  # half an hour ahead was not
    assert np.isnan(standing.loss_ratios(len(HORIZONS) - 1)).all()


def test_a_series_of_which_nobody_speaks_has_no_weights(panel: Panel) -> None:
    silent = Panel(keys=KEYS, start=START, step=STEP, values=np.full_like(panel.values, np.nan))
    state = ensemble.step(MEMBERS, silent).state
    assert ensemble.standings(state)[KEYS[0]].weights == ((0.0,) * 4,) * len(HORIZONS)
    assert ensemble.standings(ensemble.step([], panel).state)[KEYS[0]].weights == ((),) * len(HORIZONS)


def test_the_seasonal_part_is_that_of_the_members_that_repeat_earlier_days() -> None:
    standing = Standing(
        at=START,
        horizons=(1,),
        members=("lstm@1", "last-value", "seasonal-naive", "seasonal-delta", "holt-winters@9", "harmonic"),
        weights=((0.3, 0.1, 0.05, 0.2, 0.25, 0.1),),
        losses=((1.0, 0.0, 1.0, 1.0, 1.0, 1.0),),
    )
    assert standing.seasonal_ratio(0) == pytest.approx(0.6)
    assert np.isnan(standing.loss_ratios(0)).all()  # against a last value that never errs there is no ratio


# ── The error of the day before ───────────────────────────────────────────────────────────────────────────────


def test_the_error_of_the_day_before_equals_a_slow_reference(panel: Panel, done: EngineStep) -> None:
    found = scoring.wape_day_before(done.state, tail(panel, 1440 + 360))
    scored = done.quality[KEYS[0]].scored_bins
    assert scored == 95  # of a hundred minutes the first five had no forecast five minutes ahead
    for row, key in enumerate(KEYS):
        actual = panel.values[row, -scored:]
        before = panel.values[row, -scored - 1440 : -1440]
        assert found[key] == pytest.approx(np.abs(actual - before).sum() / actual.sum(), rel=1e-5)
    assert found[KEYS[1]] == pytest.approx(0.5, abs=0.05)


def hidden(panel: Panel, bins: int) -> Panel:
    """The panel with `bins` minutes of yesterday's same time unknown in the first series."""
    values = panel.values.copy()
    values[0, values.shape[1] - 1440 - bins : values.shape[1] - 1440] = np.nan
    return Panel(keys=panel.keys, start=panel.start, step=panel.step, values=values)


def test_the_error_of_the_day_before_needs_half_of_the_minutes(panel: Panel, done: EngineStep) -> None:
    assert KEYS[0] in scoring.wape_day_before(done.state, hidden(panel, 47))
    told = scoring.wape_day_before(done.state, hidden(panel, 48))
    assert KEYS[0] not in told
    assert KEYS[1] in told


def test_a_panel_of_another_end_or_without_yesterday_tells_nothing(panel: Panel, done: EngineStep) -> None:
    assert scoring.wape_day_before(done.state, up_to(panel, panel.end - timedelta(minutes=1))) == {}
    assert scoring.wape_day_before(done.state, tail(panel, 1440)) == {}
    other = Panel(keys=KEYS[1:2], start=panel.start, step=STEP, values=panel.values[1:2])
    assert list(scoring.wape_day_before(done.state, other)) == [KEYS[1]]
