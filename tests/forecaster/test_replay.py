"""Replaying known history in batches answers what the model answers one origin at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecaster.models import ensemble
from forecaster.models.arima import Arima, Coefficients
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.replay import Replayed, replayed
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.preprocess import tail, up_to
from forecaster.types import STEP, Forecaster, Panel, SeriesKey

PanelOf = Callable[..., Panel]
KEYS = tuple(SeriesKey(workload=f"llm/w{row}", signal="demand_rps") for row in range(2))
MODELS = [
    LastValue(),
    SeasonalNaive(),
    SeasonalDelta(),
    Arima(fitted=dict.fromkeys(KEYS, Coefficients(ar=(0.3,), difference=1, ma=(-0.7,), variance=0.1))),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.model_id)
def test_every_origin_is_answered_as_by_the_model(model: Forecaster, wave_panel: PanelOf) -> None:
    panel = wave_panel(3.2, series=2)
    panel.values[:, 3000:3040] = np.nan
    quick = replayed(model, panel)
    assert isinstance(quick, Replayed)
    for back in (900, 899, 500, 499, 60, 0, 700):
        known = up_to(panel, panel.end - back * STEP)
        slow = model.predict(known)
        assert quick.predict(known) == pytest.approx(slow, rel=1e-9, nan_ok=True)
        assert quick.predict(tail(known, 2000)) == pytest.approx(slow, rel=1e-9, nan_ok=True)


def test_the_future_of_the_history_does_not_reach_back(wave_panel: PanelOf) -> None:
    panel = wave_panel(3)
    known = up_to(panel, panel.end - 100 * STEP)
    before = replayed(SeasonalDelta(), panel).predict(known)
    panel.values[:, -100:] = 1e6
    assert np.array_equal(replayed(SeasonalDelta(), panel).predict(known), before)


def test_other_series_and_young_histories_go_to_the_model_itself(wave_panel: PanelOf) -> None:
    panel, other = wave_panel(3, series=2), wave_panel(3, series=1, seed=9)
    quick = replayed(LastValue(), panel)
    assert np.array_equal(quick.predict(other), LastValue().predict(other))
    young = up_to(panel, panel.start + 600 * STEP)
    assert np.array_equal(quick.predict(young), LastValue().predict(young))


def test_an_answer_can_be_changed_without_changing_the_next(wave_panel: PanelOf) -> None:
    panel = wave_panel(3)
    quick = replayed(LastValue(), panel)
    quick.predict(panel)[:] = 0.0
    assert np.array_equal(quick.predict(panel), LastValue().predict(panel))


def test_a_model_with_memory_is_left_as_it_is(wave_panel: PanelOf) -> None:
    model = HoltWinters()
    assert replayed(model, wave_panel(3)) is model


def test_the_engine_cannot_tell_the_difference(wave_panel: PanelOf) -> None:
    panel = wave_panel(4, series=2)
    plain: list[Forecaster] = [LastValue(), SeasonalNaive(), HoltWinters()]
    quick = [replayed(one, panel) for one in plain]
    states = [None, None]
    for back in range(30, -1, -1):
        known = up_to(panel, panel.end - back * STEP)
        done = [ensemble.step(members, known, state) for members, state in zip((plain, quick), states, strict=True)]
        states = [one.state for one in done]
        assert done[0].forecasts == done[1].forecasts
