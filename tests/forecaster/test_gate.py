"""The examination: what passes, what does not, and that one day of chance decides neither way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pytest

from forecaster.errors import SeriesError
from forecaster.gate import MARGIN, MOST_LOSS_RATIO, MOST_SERIES, Comparison, Figures, compared, examine, examined
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.seasonal import LastValue, SeasonalDelta
from forecaster.preprocess import DAY
from forecaster.types import HORIZONS, LEVEL_Z, LEVELS, Panel

PanelOf = Callable[..., Panel]
Floats = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Knowing:
    """Knows what comes but for an error of `noise` times the square root of it; its band is as wide as its errors.

    `factor` makes it say that multiple of everything, `mute` nothing at all.
    """

    future: Panel
    noise: float
    seed: int = 1
    factor: float = 1.0
    mute: bool = False
    model_id: str = "knowing@1"
    min_history: timedelta = DAY

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> Floats:
        """The truth with an error that depends on the bin alone."""
        if self.mute:
            return np.full((len(panel.keys), len(horizons), len(LEVELS)), np.nan)
        bins = self.future.values.shape[1]
        at = np.minimum(panel.values.shape[1] - 1 + np.array(horizons), bins - 1)
        rows = [self.future.keys.index(key) for key in panel.keys]
        errors = np.random.default_rng(self.seed).normal(0.0, self.noise, self.future.values.shape)
        root = (np.sqrt(self.future.values) + errors)[rows][:, at]
        said = np.square(np.maximum(root[..., None] + self.noise * np.array(LEVEL_Z), 0.0))
        return self.factor * said


def test_a_model_that_knows_more_passes_with_the_numbers_of_every_competitor(wave_panel: PanelOf) -> None:
    panel = wave_panel(4, series=2)
    verdict = examine(Knowing(future=panel, noise=0.02), HoltWinters(), panel, held_out=DAY)
    assert verdict.passed
    assert verdict.reason.startswith("beats every rival, nearest ")
    report = json.loads(json.dumps(verdict.report, allow_nan=False))
    assert (report["series"], report["risk"], report["leads_s"]) == (2, 0.01, [240.0, 600.0])
    assert report["held_out"]["end"] == panel.end.isoformat()
    rivals = report["competitors"]
    assert list(rivals) == ["candidate", "incumbent", "last-value", "seasonal-naive", "seasonal-delta"]
    assert rivals["candidate"]["model"] == "knowing@1"
    assert rivals["candidate"]["coverage_95"] == pytest.approx(0.95, abs=0.02)
    for name in list(rivals)[1:]:
        assert rivals["candidate"]["decision_gpu_ratio"] < rivals[name]["decision_gpu_ratio"]
        assert rivals[name]["cost_ratio"] < 1.0
        assert rivals[name]["loss_ratio"] < 1.0


@pytest.mark.parametrize(
    ("changes", "incumbent_noise", "reason"),
    [
        pytest.param({"noise": 0.04}, 0.02, "no better than incumbent", id="knows less than the incumbent"),
        pytest.param({"noise": 0.6}, None, "no better than ", id="knows less than a baseline"),
        pytest.param({"noise": 0.02, "factor": 1.5}, None, "no better than ", id="half as high again throughout"),
        pytest.param({"noise": 0.02, "mute": True}, None, "it says nothing", id="silent"),
    ],
)
def test_what_is_no_better_stays_off_and_says_than_whom(
    wave_panel: PanelOf, changes: dict[str, float], incumbent_noise: float | None, reason: str
) -> None:
    panel = wave_panel(4)
    incumbent = None if incumbent_noise is None else Knowing(future=panel, noise=incumbent_noise, seed=2)
    verdict = examine(Knowing(future=panel, **changes), incumbent, panel, held_out=DAY)  # type: ignore[arg-type]
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


def test_a_baseline_cannot_take_its_own_place(wave_panel: PanelOf) -> None:
    panel = wave_panel(4)
    for baseline in (LastValue(), SeasonalDelta()):
        verdict = examine(baseline, None, panel, held_out=DAY)
        assert not verdict.passed


def test_only_the_days_held_back_are_scored(wave_panel: PanelOf) -> None:
    panel = wave_panel(5)
    values = panel.values.copy()
    values[:, :1440] *= 5.0  # older than any lookback of a baseline
    found = [
        examine(LastValue(), None, each, held_out=DAY).report["competitors"]
        for each in (panel, replace(panel, values=values))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("cost_ratio", "loss_ratio", "better"),
    [
        pytest.param(0.9, 1.1, True, id="cheaper, forecasts a little worse"),
        pytest.param(0.9, MOST_LOSS_RATIO + 0.01, False, id="cheaper, but far off throughout"),
        pytest.param(1.0 - MARGIN / 2, 0.99, True, id="as cheap, forecasts closer"),
        pytest.param(1.0 + MARGIN / 2, 0.99, True, id="dearer by chance, forecasts closer"),
        pytest.param(1.0 - MARGIN / 2, 1.01, False, id="cheaper by chance, forecasts worse"),
        pytest.param(1.0 + 2 * MARGIN, 0.5, False, id="dearer, however close its forecasts"),
        pytest.param(1.0, 1.0, False, id="the same is no better"),
    ],
)
def test_cost_decides_and_within_chance_the_pinball_loss(cost_ratio: float, loss_ratio: float, better: bool) -> None:
    assert Comparison(cost_ratio=cost_ratio, loss_ratio=loss_ratio).better is better


def figures(costs: list[list[float]], losses: list[float]) -> Figures:
    return Figures(model="m", costs=np.array(costs), losses=np.array(losses), coverage_95=0.95)


@pytest.mark.parametrize(
    ("one", "rival", "ratio"),
    [
        pytest.param([[1.2, 1.2]], [[1.5, 1.2]], np.sqrt(0.8), id="the geometric mean over leads"),
        pytest.param([[9.0], [1.0]], [[1.0], [1.0]], np.sqrt(2.0), id="one series counts for a factor of 2 at most"),
        pytest.param([[np.nan], [1.0]], [[1.0], [1.0]], np.sqrt(2.0), id="a risk out of reach is dear"),
        pytest.param([[1.0], [1.0]], [[np.nan], [1.0]], np.sqrt(0.5), id="one that only the rival cannot reach"),
        pytest.param([[np.nan], [1.1]], [[np.nan], [1.0]], 1.1, id="where neither can, nobody wins"),
        pytest.param([[np.nan]], [[np.nan]], 1.0, id="nothing to compare"),
    ],
)
def test_series_count_alike(one: list[list[float]], rival: list[list[float]], ratio: float) -> None:
    found = compared(figures(one, [1.0]), figures(rival, [1.0]))
    assert found.cost_ratio == pytest.approx(ratio)


def test_the_busiest_and_the_quietest_are_examined_and_what_is_hardly_known_is_not(wave_panel: PanelOf) -> None:
    panel = wave_panel(3, series=50)
    np.multiply(panel.values, np.arange(1.0, 51.0)[:, None], out=panel.values)
    panel.values[7, -1440:] = np.nan
    panel.values[8, -1440:] = 0.0
    judged = examined(panel, held_out=DAY)
    demand = judged.values[:, -1440:].sum(axis=1)
    assert len(judged.keys) == MOST_SERIES
    assert list(demand) == sorted(demand, reverse=True)
    assert (judged.keys[0], judged.keys[-1]) == (panel.keys[49], panel.keys[0])
    assert not {panel.keys[7], panel.keys[8]} & set(judged.keys)


@pytest.mark.parametrize(
    ("held_out", "known", "hint"),
    [
        pytest.param(timedelta(0), True, "cannot hold back", id="nothing"),
        pytest.param(10 * DAY, True, "cannot hold back", id="more than there is"),
        pytest.param(DAY, False, "none of 1 series", id="nothing known on the day"),
    ],
)
def test_an_examination_without_a_day_is_refused(
    wave_panel: PanelOf, held_out: timedelta, known: bool, hint: str
) -> None:
    panel = wave_panel(3)
    if not known:
        panel.values[:, -1440:] = np.nan
    with pytest.raises(SeriesError, match=hint):
        examine(HoltWinters(), None, panel, held_out=held_out)
