"""Fits for the lab: what was known then and nothing later, the job's own gate, and the shipped members as a floor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest

from forecaster import registry
from forecaster.backtest import Window, backtest
from forecaster.models.ensemble import family
from forecaster.refitting import can_be_fitted, fitted_members
from forecaster.registry import Members
from forecaster.types import STEP, Panel

PanelOf = Callable[..., Panel]
CHEAP = ("holt-winters",)


def ids(panel: Panel, *, after_days: float, models: tuple[str, ...] | None = CHEAP) -> dict[str, str]:
    """The members' ids, content hashes and all, by family."""
    until = panel.start + timedelta(days=after_days)
    return by_family(fitted_members(panel, until=until, seed=3, models=models))


def by_family(fitted: Members) -> dict[str, str]:
    return {family(each.model_id): each.model_id for each in fitted.forecasters}


@pytest.fixture(scope="module")
def fitted(wave_panel: PanelOf) -> Members:
    """Every family, on the first five days of six."""
    panel = wave_panel(6)
    return fitted_members(panel, until=panel.start + timedelta(days=5), seed=3)


@pytest.fixture(scope="module")
def fitted_before_another_day(wave_panel: PanelOf) -> Members:
    """The same, with a sixth day that has nothing to do with the five."""
    panel = wave_panel(6)
    panel.values[:, 5 * 1440 :] = 1e6
    return fitted_members(panel, until=panel.start + timedelta(days=5), seed=3)


def test_every_family_that_can_be_fitted_here_is_or_says_why_and_the_rest_is_shipped(fitted: Members) -> None:
    shipped = {one.model_id for one in registry.members().forecasters}
    ours = {family(one.model_id) for one in fitted.forecasters if one.model_id not in shipped}
    assert ours, "nothing was fitted"
    assert ours | set(can_be_fitted()) == set(can_be_fitted()), "only what can be fitted is"
    assert set(can_be_fitted()) - ours <= set(fitted.refused), "whoever failed the examination is told with the reason"


@pytest.mark.parametrize("model", can_be_fitted())
def test_what_comes_later_changes_no_fit(model: str, fitted: Members, fitted_before_another_day: Members) -> None:
    """The same model, or the same figures in the reason why it is none."""
    one, other = by_family(fitted), by_family(fitted_before_another_day)
    assert model in one or model in fitted.refused
    assert one.get(model) == other.get(model)
    assert fitted.refused.get(model) == fitted_before_another_day.refused.get(model)


def test_what_came_before_does_change_a_fit(wave_panel: PanelOf) -> None:
    panel, changed = wave_panel(5), wave_panel(5)
    changed.values[:, 3 * 1440 : 4 * 1440] = changed.values[:, 3 * 1440 : 4 * 1440][:, ::-1]
    assert ids(panel, after_days=5) != ids(changed, after_days=5)


def test_a_family_that_fails_its_examination_is_not_taken_up_and_says_why(wave_panel: PanelOf) -> None:
    panel = wave_panel(5)
    # A random walk on the day held out: what was learnt on noise around a wave is worse than last value there.
    panel.values[0, -1440:] = np.abs(60.0 + np.cumsum(np.random.default_rng(1).normal(0.0, 1.5, 1440)))
    found = fitted_members(panel, until=panel.end, seed=3, models=CHEAP)
    assert "no better than" in found.refused["holt-winters"]
    assert "holt-winters" in {one.model_id for one in found.forecasters}  # with its default gains: no version


def test_with_two_days_or_less_the_shipped_members_answer(wave_panel: PanelOf) -> None:
    panel = wave_panel(3)
    found = fitted_members(panel, until=panel.start + timedelta(days=1.5), seed=3, models=CHEAP)
    assert [one.model_id for one in found.forecasters] == [one.model_id for one in registry.members().forecasters]
    assert "two days" in found.refused["holt-winters"]


def test_a_fit_is_shown_the_last_span_alone(wave_panel: PanelOf) -> None:
    panel, other = wave_panel(8), wave_panel(8)
    other.values[:, :1440] *= 5.0
    until = panel.end
    recent = [
        [
            one.model_id
            for one in fitted_members(each, until=until, seed=3, models=CHEAP, span=6 * timedelta(days=1)).forecasters
        ]
        for each in (panel, other)
    ]
    assert recent[0] == recent[1]


def test_a_backtest_with_a_daily_refit_is_the_same_whatever_comes_after_it(wave_panel: PanelOf) -> None:
    panel, changed = wave_panel(6), wave_panel(6)
    changed.values[:, 5 * 1440 + 60 :] = 1e6
    window = Window(
        score_from=panel.start + timedelta(days=5), score_to=panel.start + timedelta(days=5) + 60 * STEP, warm_up=STEP
    )
    figures = []
    for each in (panel, changed):
        ticks = iter(range(10**9))
        results = backtest(
            each.series(each.keys[0]),
            (),
            window=window,
            horizons=(5,),
            refit=lambda known: fitted_members(known, until=known.end, seed=3, models=CHEAP).forecasters,
            clock=lambda ticks=ticks: float(next(ticks)),  # type: ignore[misc]
        )
        figures.append(results)
    assert figures[0] == figures[1]
    assert "holt-winters" in {one.model for one in figures[0]}
