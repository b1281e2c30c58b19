"""The engine as its callers see it: who speaks, how sure it is, and what a bad member or a pause does to it.

Properties: the state is a value (never mutated, equal after a round trip through bytes); scoring equals a slow
reference; nothing that a member says can get past the gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from forecaster.errors import ArtefactError
from forecaster.models import ensemble, heights, memory, scoring
from forecaster.models.ensemble import EngineRule, EngineState, EngineStep, Silence, Strength
from forecaster.models.holt_winters import HoltWinters
from forecaster.models.seasonal import LastValue, SeasonalDelta, SeasonalNaive
from forecaster.preprocess import tail, up_to
from forecaster.types import HORIZONS, LEVELS, STEP, Forecaster, Panel, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
KEY = SeriesKey(workload="llm/w0", signal="demand_rps")
PanelOf = Callable[..., Panel]


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A member that always says the same factor of the last value, with a spread."""

    model_id: str
    factor: float = 1.0
    spread: float = 0.2
    min_history: timedelta = timedelta(0)
    lookback: timedelta = timedelta(hours=1)

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """`factor` × last value, and `spread` more a level."""
        point = self.factor * panel.values[:, -1][:, None, None]
        return np.repeat(point + self.spread * np.arange(len(LEVELS)), len(horizons), axis=1)


class Still(Scripted):
    """A member that says 400 whatever comes."""

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """400, and `spread` more a level."""
        return np.broadcast_to(400.0 + self.spread * np.arange(len(LEVELS)), (len(panel.keys), len(horizons), 4)).copy()


class Raising(Scripted):
    """A member with a defect."""

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """Never answers."""
        raise RuntimeError("weights went missing")


def walk(
    members: list[Forecaster],
    panel: Panel,
    *,
    minutes: int,
    state: EngineState | None = None,
    **settings: object,
) -> list[EngineStep]:
    """The engine called at each of the panel's last `minutes` minutes."""
    steps = []
    for back in range(minutes - 1, -1, -1):
        done = ensemble.step(members, up_to(panel, panel.end - STEP * back), state, **settings)  # type: ignore[arg-type]
        steps.append(done)
        state = done.state
    return steps


def flat(days: float, level: float = 10.0) -> Panel:
    return Panel(keys=(KEY,), start=START, step=STEP, values=np.full((1, int(days * 1440)), level))


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(timedelta(0), Strength.NONE, id="nothing yet"),
        pytest.param(timedelta(hours=23, minutes=59), Strength.NONE, id="a minute short of a day"),
        pytest.param(timedelta(days=1), Strength.POOLED, id="one day"),
        pytest.param(timedelta(days=3), Strength.PER_SERIES, id="three days"),
        pytest.param(timedelta(days=14), Strength.FULL, id="two weeks"),
    ],
)
def test_strength_follows_the_age_of_the_history(age: timedelta, expected: Strength) -> None:
    assert ensemble.strength(age) is expected


def test_under_a_day_there_is_no_forecast_and_it_says_why(wave_panel: PanelOf) -> None:
    done = ensemble.step([LastValue()], wave_panel(0.9))
    assert done.forecasts == {}
    assert done.silent == {KEY: Silence.TOO_LITTLE_HISTORY}


def test_after_a_day_last_value_speaks_and_the_forecast_carries_its_terms(wave_panel: PanelOf) -> None:
    panel = wave_panel(1.1)
    forecast = ensemble.step(
        [SeasonalNaive(), LastValue()], panel, rule=EngineRule(ttl=timedelta(minutes=7))
    ).forecasts[KEY]
    assert forecast.model == "last-value"
    assert forecast.issued_at == panel.end
    assert forecast.expires_at == panel.end + timedelta(minutes=7)
    assert forecast.horizons == HORIZONS
    assert forecast.step_s == 60.0
    assert forecast.values[0][0] == pytest.approx(panel.values[0, -1])


def test_age_is_remembered_when_only_a_tail_is_handed_over(wave_panel: PanelOf) -> None:
    panel = wave_panel(5)
    state = ensemble.step([LastValue()], up_to(panel, panel.end - STEP)).state
    done = ensemble.step([LastValue()], tail(panel, 1600), state)
    assert ensemble.history_age(done.state)[KEY] == timedelta(days=5)


def test_a_series_unknown_for_half_an_hour_is_stale(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    panel.values[:, -31:] = np.nan
    assert ensemble.step([LastValue()], panel).silent == {KEY: Silence.STALE}


def test_the_better_member_takes_over_once_it_has_been_scored_enough() -> None:
    panel = flat(2)
    good, bad = Scripted(model_id="good"), Scripted(model_id="last-value", factor=1.5)
    steps = walk([bad, good], panel, minutes=80, lead_steps=5)
    speakers = [one.forecasts[KEY].model for one in steps]
    assert speakers[0] == "last-value"
    assert speakers[-1] == "good"
    # Horizon 5 is first scored five steps after the first forecast; 60 decayed bins are reached at bin 66.
    assert speakers.index("good") == pytest.approx(5 + 65, abs=2)


def test_a_near_tie_does_not_flicker() -> None:
    panel = flat(2)
    panel.values[0] += np.random.default_rng(2).normal(0.0, 0.5, panel.values.shape[1])
    twins = [Scripted(model_id="last-value", spread=0.5), Scripted(model_id="twin", spread=0.505)]
    speakers = [one.forecasts[KEY].model for one in walk(twins, panel, minutes=300)]
    assert sum(left != right for left, right in pairwise(speakers)) <= 1


def weighted(losses: dict[str, float], *, scored: float = 100.0, spoke: bool = True) -> np.ndarray:
    """Weights of members with these mean losses, all scored for `scored` bins, at the first horizon."""
    members: list[Forecaster] = [Scripted(model_id=name) for name in losses]
    state = ensemble.step(members, flat(2)).state
    evidence = np.full(state.arrays["evidence"].shape, scored)
    state = state.with_arrays(evidence=evidence, loss=evidence * np.array(list(losses.values())))
    raw = np.ones((1, len(HORIZONS), len(losses), len(LEVELS)))
    raw[:, :, 0] = 1.0 if spoke else np.nan
    weights: np.ndarray = ensemble._choose(raw, state, EngineRule())[0][0, 0]
    return weights


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        pytest.param({"a": 1.0, "b": 1.0}, [0.5, 0.5], id="equals share"),
        pytest.param({"a": 1.0, "b": 1.1}, [0.6392, 0.3608], id="ten percent worse: 1.1 ** -6 = .56 of the best"),
        pytest.param({"a": 1.0, "b": 2.0}, [0.9846, 0.0154], id="twice as bad: next to nothing"),
        pytest.param({"a": 0.0, "b": 0.0, "c": 1.0}, [0.5, 0.5, 0.0], id="perfect ones share"),
        pytest.param({"a": 1.0, "b": float("inf")}, [1.0, 0.0], id="an infinite loss is not heard"),
        pytest.param(
            {"a": float("inf"), "last-value": float("inf")}, [0.0, 1.0], id="all infinite: the fallback (crane)"
        ),
    ],
)
def test_weights_fall_with_the_loss(losses: dict[str, float], expected: list[float]) -> None:
    assert weighted(losses) == pytest.approx(expected, abs=1e-4)


def test_a_silent_member_has_no_weight_and_an_unscored_one_waits() -> None:
    assert weighted({"a": 1.0, "b": 9.0}, spoke=False) == pytest.approx([0.0, 1.0])
    assert weighted({"a": 1.0, "last-value": 9.0}, scored=59.0) == pytest.approx([0.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Mad(Scripted):
    """A member that knows best until `since`, then says two and a half times the truth: not enough for the gate."""

    since: datetime = START

    def predict(self, panel: Panel, *, horizons: tuple[int, ...] = HORIZONS) -> np.ndarray:
        """Right, then wrong."""
        said = Scripted.predict(self, panel, horizons=horizons)
        return said * 2.5 if panel.end >= self.since else said


def test_a_member_that_goes_mad_on_saturday_is_not_heard_for_long() -> None:
    """The best member of all turns mad: an hour later it weighs nothing, and its fame does not keep it in office."""
    panel = flat(2.5)
    panel.values[0] += np.random.default_rng(4).normal(0.0, 0.1, panel.values.shape[1])
    turn = panel.end - 90 * STEP
    members: list[Forecaster] = [Scripted(model_id="last-value", factor=1.05), Mad(model_id="net", since=turn)]
    steps = walk(members, panel, minutes=600)
    column = HORIZONS.index(5)
    medians = np.array([one.forecasts[KEY].values[column][0] for one in steps])
    assert medians[-92] == pytest.approx(10.0, abs=0.4), "trusted before"
    assert medians[-90] == pytest.approx(25.0, abs=1.5), "believed when it turns: nobody can know yet"
    assert medians[-60:] == pytest.approx(np.full(60, 10.5), abs=0.8), "half an hour later the other one speaks"


def test_ten_minute_bins_earn_a_word_too() -> None:
    """Of ten-minute bins four hours hold 24: a threshold of 60 would leave the fallback alone for ever."""
    step = timedelta(minutes=10)
    panel = Panel(keys=(KEY,), start=START, step=step, values=np.full((1, 4 * 144), 10.0))
    members: list[Forecaster] = [Scripted(model_id="last-value", factor=1.5), Scripted(model_id="good")]
    state = None
    for back in range(40, -1, -1):
        done = ensemble.step(members, up_to(panel, panel.end - back * step), state)
        state = done.state
    assert done.forecasts[KEY].model == "good"


def test_an_exploding_member_is_not_heard() -> None:
    done = ensemble.step([Scripted(model_id="wild", factor=1e6), Scripted(model_id="last-value")], flat(2))
    assert done.gated == {"wild": 1}
    assert done.forecasts[KEY].model == "last-value"


def test_no_quantile_passes_three_times_the_highest_value_seen() -> None:
    done = ensemble.step([Scripted(model_id="wide", spread=1e5)], flat(2))
    assert max(map(max, done.forecasts[KEY].values)) == pytest.approx(30.0)


@pytest.mark.parametrize("said", [np.nan, np.inf, -np.inf])
def test_a_member_that_says_no_number_is_not_heard(said: float) -> None:
    done = ensemble.step([Scripted(model_id="odd", factor=said), Scripted(model_id="last-value")], flat(2))
    assert done.forecasts[KEY].model == "last-value"
    assert np.isfinite(np.array(done.forecasts[KEY].values)).all()


def test_a_member_that_raises_is_reported_and_the_others_speak() -> None:
    done = ensemble.step([Raising(model_id="broken"), Scripted(model_id="last-value")], flat(2))
    assert done.failed == {"broken": "RuntimeError: weights went missing"}
    assert done.forecasts[KEY].model == "last-value"


def test_without_a_member_that_speaks_there_is_no_forecast() -> None:
    assert ensemble.step([], flat(2)).silent == {KEY: Silence.NO_MEMBER}
    assert ensemble.step([Raising(model_id="broken")], flat(2)).silent == {KEY: Silence.NO_MEMBER}


def test_when_the_chosen_member_falls_silent_another_speaks_at_once() -> None:
    panel = flat(2)
    good, naive = Scripted(model_id="good"), Scripted(model_id="last-value", factor=1.5)
    state = walk([naive, good], panel, minutes=100)[-1].state
    done = ensemble.step([naive, Raising(model_id="good")], flat(2 + 1 / 1440), state)
    assert done.forecasts[KEY].model == "last-value"


def test_too_narrow_quantiles_widen_until_they_cover() -> None:
    panel = flat(4.5)
    panel.values[0] += np.random.default_rng(3).normal(0.0, 1.0, panel.values.shape[1])
    steps = walk([Scripted(model_id="last-value", spread=0.01)], panel, minutes=3 * 1440)
    assert steps[400].quality[KEY].coverage_95 < 0.93
    assert steps[-1].quality[KEY].coverage_95 == pytest.approx(0.95, abs=0.02)


def band_widths(hours: tuple[int, ...], *, days: int, loud_hour: int, step: timedelta = STEP) -> dict[int, float]:
    """Width of the band (.95 - median, at horizon 5) for targets at these hours of the last day, in roots, of a level
    that jitters ten times as much in one hour of each day."""
    bins = int(timedelta(days=1) / step)
    hour = np.arange(days * bins) * (step / timedelta(hours=1)) % 24
    noise = np.random.default_rng(7).normal(0.0, np.where(hour.astype(int) == loud_hour, 2.0, 0.2))
    panel = Panel(keys=(KEY,), start=START, step=step, values=np.square(20.0 + noise)[None])
    state, found = None, {}
    for end in range(2 * bins, days * bins + 1):
        done = ensemble.step(
            [Still(model_id="last-value", spread=20.0)],
            Panel(keys=(KEY,), start=START, step=step, values=panel.values[:, :end]),
            state,
        )
        state = done.state
        target = end + 5 - 1  # the bin that begins four bins after the end
        if target >= (days - 1) * bins and target % bins in {int(at * bins / 24 + bins / 48) for at in hours}:
            levels = done.forecasts[KEY].values[HORIZONS.index(5)]
            found[target % bins * 24 // bins] = levels[2] ** 0.5 - levels[0] ** 0.5
    return found


@pytest.mark.parametrize(
    ("step", "days"), [pytest.param(STEP, 4, id="minutes"), pytest.param(10 * STEP, 7, id="ten-minute bins")]
)
def test_the_band_is_wide_before_the_hour_that_is_loud_every_day(step: timedelta, days: int) -> None:
    """By noon nothing of today tells that one o'clock will be loud; what it was like on the days before does."""
    width = band_widths((8, 13, 18), days=days, loud_hour=13, step=step)
    assert width[13] > 1.5 * width[8]
    assert width[13] > 1.5 * width[18]


def test_a_few_days_alike_ask_for_no_more_width_at_any_time() -> None:
    width = band_widths((2, 8, 13, 18), days=4, loud_hour=99, step=5 * STEP)
    assert max(width.values()) < 1.25 * min(width.values())


@pytest.mark.parametrize(
    ("minute", "slot"),
    [
        pytest.param(0, 0, id="midnight opens the first"),
        pytest.param(14, 0, id="its last minute"),
        pytest.param(15, 1, id="the next"),
        pytest.param(1439, 95, id="the last of the day"),
        pytest.param(1440, 0, id="and round"),
    ],
)
def test_slots_are_quarters_of_an_hour_of_the_utc_day(minute: int, slot: int) -> None:
    """Numbered by where a bin begins: the one numbered n ends n minutes after the epoch, which was midnight."""
    assert scoring.slot_of(np.array([minute + 1]), STEP).tolist() == [slot]
    assert scoring.slot_of(np.array([minute // 10 + 1]), 10 * STEP).tolist() == [minute // 10 * 10 % 1440 // 15]


def test_a_frozen_series_learns_nothing_but_its_quality_is_still_measured() -> None:
    panel = flat(2)
    panel.values[0] += np.random.default_rng(3).normal(0.0, 1.0, panel.values.shape[1])
    before = walk([LastValue()], up_to(panel, panel.end - 30 * STEP), minutes=60)[-1]
    after = walk([LastValue()], panel, minutes=30, state=before.state, frozen=frozenset({KEY}))[-1]
    learnt = ("loss", "evidence", "offset", "error", "ratio", "slot_ratio", "slot_weight", "median", "height_ratio")
    for name in learnt:
        assert np.array_equal(before.state.arrays[name], after.state.arrays[name])
    assert after.quality[KEY].scored_bins == before.quality[KEY].scored_bins + 30


def test_quality_equals_a_slow_reference(wave_panel: PanelOf) -> None:
    panel = wave_panel(2.5)
    lead = 8
    steps = walk([LastValue(), SeasonalDelta()], panel, minutes=500, lead_steps=lead)
    hits, error, naive_error, total = 0, 0.0, 0.0, 0.0
    first = panel.values.shape[1] - 360
    for column in range(first, panel.values.shape[1]):
        issued = column - lead + 1  # bins known when the forecast for this bin at this lead was made
        said = steps[issued - (panel.values.shape[1] - 499)].forecasts[KEY].values[HORIZONS.index(lead)]
        actual = panel.values[0, column]
        hits += actual <= said[2] * (1 + 1e-6)
        error += abs(actual - said[0])
        naive_error += abs(actual - panel.values[0, issued - 1])
        total += actual
    quality = steps[-1].quality[KEY]
    assert quality.scored_bins == 360
    assert quality.coverage_95 == pytest.approx(hits / 360)
    assert quality.wape == pytest.approx(error / total, rel=1e-5)
    assert quality.wape_last_value == pytest.approx(naive_error / total, rel=1e-5)


def test_a_lead_time_between_two_horizons_is_measured_at_the_later_one(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    seven = walk([LastValue()], panel, minutes=60, lead_steps=7)[-1].quality[KEY]
    eight = walk([LastValue()], panel, minutes=60, lead_steps={KEY: 8})[-1].quality[KEY]
    assert seven == eight
    assert walk([LastValue()], panel, minutes=60, lead_steps=999)[-1].quality[KEY].scored_bins == 30


def test_skipped_minutes_are_scored_when_they_become_known(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    state = walk([LastValue()], up_to(panel, panel.end - 10 * STEP), minutes=60, lead_steps=5)[-1].state
    done = ensemble.step([LastValue()], panel, state, lead_steps=5)
    # Of the ten new bins, the first five have a forecast made five minutes before; the others were never forecast.
    assert done.quality[KEY].scored_bins == 55 + 5
    following = walk([LastValue()], panel, minutes=1, state=done.state)
    assert following[-1].quality[KEY].scored_bins == 60


def test_a_pause_of_a_day_starts_quality_afresh_but_keeps_what_was_learnt(wave_panel: PanelOf) -> None:
    panel = wave_panel(4)
    state = walk([LastValue()], up_to(panel, panel.end - timedelta(days=1)), minutes=400)[-1].state
    done = ensemble.step([LastValue()], panel, state)
    assert KEY not in done.quality
    assert done.state.arrays["evidence"].min() > 200.0


def test_a_clock_that_went_back_starts_blank(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    state = walk([LastValue()], panel, minutes=100)[-1].state
    done = ensemble.step([LastValue()], up_to(panel, panel.end - 30 * STEP), state)
    assert done.state.arrays["evidence"].max() == 0.0


def test_the_same_moment_asked_twice_scores_nothing_twice(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    first = walk([LastValue()], panel, minutes=100)[-1]
    again = ensemble.step([LastValue()], panel, first.state)
    assert again.forecasts == first.forecasts
    assert np.array_equal(again.state.arrays["evidence"], first.state.arrays["evidence"])


def test_unknown_bins_teach_nothing(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    panel.values[:, -15:] = np.nan
    steps = walk([LastValue()], panel, minutes=40, lead_steps=1)
    assert steps[-1].quality[KEY].scored_bins == steps[-16].quality[KEY].scored_bins == 24


def test_series_come_and_go_without_disturbing_the_others(wave_panel: PanelOf) -> None:
    panel = wave_panel(4, series=3)
    members: list[Forecaster] = [LastValue(), HoltWinters()]
    state = walk(members, up_to(panel, panel.end - STEP), minutes=120)[-1].state
    whole = ensemble.step(members, panel, state)
    for rows in ([2, 0], [1]):
        part = Panel(keys=tuple(panel.keys[row] for row in rows), start=START, step=STEP, values=panel.values[rows])
        done = ensemble.step(members, part, state)
        for key in part.keys:
            assert done.forecasts[key] == whole.forecasts[key]
            assert done.quality[key] == whole.quality[key]
    newcomer = SeriesKey(workload="llm/new", signal="demand_rps")
    more = Panel(
        keys=(newcomer, *panel.keys), start=START, step=STEP, values=np.vstack([panel.values[:1], panel.values])
    )
    done = ensemble.step(members, more, state)
    assert done.forecasts[newcomer].model == "last-value"
    assert newcomer not in done.quality
    assert all(done.forecasts[key] == whole.forecasts[key] for key in panel.keys)


def test_a_new_version_inherits_its_familys_record() -> None:
    panel = flat(2)
    naive = Scripted(model_id="last-value", factor=1.5)
    state = walk([naive, Scripted(model_id="net@1")], panel, minutes=100)[-1].state
    longer = flat(2 + 1 / 1440)
    retrained = ensemble.step([Scripted(model_id="net@2"), naive], longer, state)
    assert retrained.forecasts[KEY].model == "net@2"
    other = ensemble.step([Scripted(model_id="other"), naive], longer, state)
    assert other.forecasts[KEY].model == "last-value"


def test_the_state_is_a_value(wave_panel: PanelOf) -> None:
    panel = wave_panel(4)
    members: list[Forecaster] = [LastValue(), HoltWinters()]
    state = walk(members, up_to(panel, panel.end - STEP), minutes=50)[-1].state
    kept = ensemble.to_bytes(state)
    once = ensemble.step(members, panel, state)
    assert ensemble.to_bytes(state) == kept
    assert ensemble.step(members, panel, state).forecasts == once.forecasts


def test_a_stored_state_goes_on_as_if_nothing_had_happened(wave_panel: PanelOf) -> None:
    panel = wave_panel(4, series=2)
    members: list[Forecaster] = [LastValue(), SeasonalNaive(), HoltWinters()]
    state = walk(members, up_to(panel, panel.end - STEP), minutes=90)[-1].state
    restored = ensemble.from_bytes(ensemble.to_bytes(state))
    going_on, restarted = ensemble.step(members, panel, state), ensemble.step(members, panel, restored)
    assert restarted.forecasts == going_on.forecasts
    assert restarted.quality == going_on.quality


OF_HEIGHTS = {"median", "median_square", "median_weight", "pending_rank", "height_ratio", "height_weight"}


def test_a_state_of_before_the_heights_keeps_all_else(wave_panel: PanelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = wave_panel(3)
    state = walk([LastValue(), SeasonalNaive()], up_to(panel, panel.end - STEP), minutes=90)[-1].state
    with monkeypatch.context() as then:
        then.setattr(memory, "STATE_VERSION", 3)
        kept = {name: array for name, array in state.arrays.items() if name not in OF_HEIGHTS}
        stored = ensemble.to_bytes(replace(state, arrays=kept))
    old = ensemble.from_bytes(stored)
    assert all(np.array_equal(old.arrays[name], array, equal_nan=True) for name, array in kept.items())
    assert not old.arrays["height_weight"].any()
    assert (old.arrays["pending_rank"] == heights.NO_RANK).all()
    assert state.arrays["height_weight"].any()


def test_a_state_of_before_the_slots_keeps_what_was_earned_and_learns_its_offsets_again(
    wave_panel: PanelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = wave_panel(3)
    members: list[Forecaster] = [LastValue(), SeasonalNaive()]
    state = walk(members, up_to(panel, panel.end - STEP), minutes=90)[-1].state
    new = {"pending_width", "ratio", "ratio_weight", "slot_ratio", "slot_weight", "gain", "gain_square", *OF_HEIGHTS}
    with monkeypatch.context() as then:
        then.setattr(memory, "STATE_VERSION", 1)
        stored = ensemble.to_bytes(replace(state, arrays={k: v for k, v in state.arrays.items() if k not in new}))
    old = ensemble.from_bytes(stored)
    assert np.array_equal(old.arrays["loss"], state.arrays["loss"])
    assert not old.arrays["offset"].any()
    assert state.arrays["offset"].any()
    done = ensemble.step(members, panel, old)
    assert done.quality == ensemble.step(members, panel, state).quality
    assert not old.arrays["gain"].any()
    assert state.arrays["gain"].any()
    assert ensemble.standings(old)[KEY].weights[0] == (0.5, 0.5)  # no gains yet: members with a record share alike


def damaged(stored: bytes) -> list[bytes]:
    return [
        b"",
        b"not an archive",
        stored[: len(stored) // 2],
        stored[:-30],
        stored.replace(f'"version": {memory.STATE_VERSION}'.encode(), b'"version": 9'),
    ]


@pytest.mark.parametrize("case", range(5))
def test_a_damaged_state_is_refused_and_says_what_to_do(case: int) -> None:
    stored = ensemble.to_bytes(ensemble.step([LastValue()], flat(2)).state)
    with pytest.raises(ArtefactError, match="drop it"):
        ensemble.from_bytes(damaged(stored)[case])


def test_lookback_is_what_the_hungriest_member_needs() -> None:
    assert ensemble.lookback([]) == timedelta(days=1)
    assert ensemble.lookback([LastValue(), SeasonalNaive()]) == SeasonalNaive().lookback


def test_a_warm_step_needs_no_more_than_the_lookback(wave_panel: PanelOf) -> None:
    panel = wave_panel(5)
    members: list[Forecaster] = [LastValue(), SeasonalNaive(), SeasonalDelta(), HoltWinters()]
    state = walk(members, up_to(panel, panel.end - STEP), minutes=3)[-1].state
    short = tail(panel, int(ensemble.lookback(members) / STEP))
    assert ensemble.step(members, short, state).forecasts == ensemble.step(members, panel, state).forecasts


def test_bins_of_ten_minutes_work_alike() -> None:
    values = 10.0 + np.random.default_rng(4).normal(0.0, 1.0, (1, 5 * 144))
    panel = Panel(keys=(KEY,), start=START, step=timedelta(minutes=10), values=values)
    done = ensemble.step([LastValue(), SeasonalNaive(), HoltWinters()], panel)
    assert done.forecasts[KEY].step_s == 600.0
