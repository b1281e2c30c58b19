"""The pooled trees: numpy answers what LightGBM does, growing repeats itself to the byte, and no file can misguide."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import registry
from forecaster.errors import ArtefactError, FittingError
from forecaster.fitting import trees as fitting
from forecaster.fitting.neural.pretrain import training_fleet
from forecaster.fitting.trees import Examples, Growth, boosters, exported, fit_trees
from forecaster.models import trees
from forecaster.models.quantiles import pinball
from forecaster.models.replay import Replayed, replayed
from forecaster.models.seasonal import LastValue
from forecaster.models.stored import trees_bytes
from forecaster.models.trees import Features, Forest, Trees, features, window_bins
from forecaster.preprocess import DAY, roots, up_to
from forecaster.train import Work, train
from forecaster.types import HORIZONS, LEVELS, STEP, Forecaster, Panel, Series, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
SMALL = Growth(own_rows=4000, trees_per_level=12, least_leaf_rows=40, learning_rate=0.2)
PanelOf = Callable[..., Panel]


@pytest.fixture(scope="module")
def fleet() -> list[Series]:
    """Synthetic traffic, nine days of four workloads."""
    return list(training_fleet(workloads=4, seed=3))


@pytest.fixture(scope="module")
def grown(fleet: list[Series]) -> dict[str, np.ndarray]:
    """A small forest's arrays."""
    return fit_trees(fleet, seed=1, growth=SMALL)


def some_features(seed: int, rows: int, *, unknown: float) -> Features:
    """Random inputs on a coarse grid, so that many lie exactly on a split, `unknown` of them NaN."""
    draw = np.random.default_rng(seed)
    columns = np.round(draw.normal(0.0, 1.5, (rows, trees.NOW + len(HORIZONS) * trees.AHEAD)), 1)
    columns[draw.random(columns.shape) < unknown] = np.nan
    ahead = columns[:, trees.NOW :].reshape(rows, len(HORIZONS), trees.AHEAD)
    return Features(now=columns[:, : trees.NOW], ahead=ahead, level=np.ones(rows), scale=np.ones(rows))


@pytest.mark.parametrize("seen_in_fit", [pytest.param(0.0, id="all known"), pytest.param(0.2, id="some unknown")])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_the_numpy_forest_equals_lightgbm(seen_in_fit: float, unknown: float) -> None:
    """Whether or not the fit met unknown values: LightGBM then sends them elsewhere."""
    learnt = some_features(1, 200, unknown=seen_in_fit)
    inputs = learnt.matrix(HORIZONS).reshape(-1, trees.FEATURES)
    draw = np.random.default_rng(2)
    target = np.nan_to_num(inputs[:, 0] * inputs[:, 3] + inputs[:, trees.NOW + 1]) + 0.1 * inputs[:, -1]
    target += draw.normal(0.0, 1.0, target.size)
    growth = Growth(trees_per_level=25, least_leaf_rows=20)
    by_level = list(boosters(Examples(inputs=inputs, target=target), np.ones(target.size), growth, seed=1))
    forest = Forest(arrays=exported(by_level))

    asked = some_features(3, 70, unknown=unknown)
    rows = asked.matrix(HORIZONS).reshape(-1, trees.FEATURES)
    theirs = np.stack([one.predict(rows, num_threads=1) for one in by_level], axis=1)
    ours = forest.scaled(asked, HORIZONS)
    assert len(np.unique(theirs[:, 0])) > 100
    assert ours == pytest.approx(theirs.reshape(ours.shape), rel=1e-9, abs=1e-12)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(fleet: list[Series]) -> None:
    first, again, other = (trees_bytes(fit_trees(fleet, seed=seed, growth=SMALL)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_what_was_stored_comes_back_as_it_was(grown: dict[str, np.ndarray], tmp_path: Any) -> None:
    span = registry.DataSpan(start=START, end=START + DAY, series=4)
    folder = registry.save(tmp_path, "trees", trees_bytes(grown), span=span, seed=1, report={})
    registry.promote(tmp_path, "trees", folder.name)
    members = registry.members(tmp_path)
    assert members.refused == {}
    found = members.forecasters[-1]
    assert isinstance(found, Trees)
    assert found.model_id == f"trees@{folder.name}"
    assert all(np.array_equal(found.forest.arrays[name], one) for name, one in grown.items())


def without(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        del arrays[name]

    return change


def with_value(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value

    return change


def of_type(name: str, kind: Any) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update({name: arrays[name].astype(kind)})


def cut(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


def shuffled_levels(arrays: dict[str, np.ndarray]) -> None:
    arrays["tree.level"] = arrays["tree.level"][::-1]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(without("node.feature"), id="an array is missing"),
        pytest.param(of_type("node.threshold", np.float32), id="another type"),
        pytest.param(cut("node.threshold"), id="a split too few"),
        pytest.param(cut("tree.value"), id="a tree without leaves"),
        pytest.param(with_value("feature_set", 99), id="other features"),
        pytest.param(with_value("node.tree", 10_000), id="a tree that is not there"),
        pytest.param(with_value("node.tree", -1), id="a negative tree"),
        pytest.param(with_value("node.feature", trees.FEATURES), id="a feature that is not there"),
        pytest.param(with_value("node.middle_leaf", 32), id="more leaves than bits"),
        pytest.param(with_value("node.middle_leaf", 0), id="a split with nothing on its left"),
        pytest.param(with_value("node.threshold", np.nan), id="no threshold"),
        pytest.param(with_value("tree.value", np.inf), id="an infinite leaf"),
        pytest.param(with_value("tree.level", 4), id="a level that is not there"),
        pytest.param(shuffled_levels, id="levels out of order"),
    ],
)
def test_arrays_that_are_no_forest_are_refused(
    grown: dict[str, np.ndarray], damage: Callable[[dict[str, np.ndarray]], None], tmp_path: Any
) -> None:
    arrays = dict(grown)
    damage(arrays)
    span = registry.DataSpan(start=START, end=START + DAY, series=4)
    folder = registry.save(tmp_path, "trees", trees_bytes(arrays), span=span, seed=1, report={})
    with pytest.raises(ArtefactError, match="train it again"):
        registry.load(tmp_path, "trees", version=folder.name)


@given(seed=st.integers(0, 10**6), count=st.integers(4, 12), splits=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_whatever_passes_the_checks_can_be_asked(seed: int, count: int, splits: int) -> None:
    """Splits that form no tree at all still lead to a leaf: the answer is some sum of stored values."""
    draw = np.random.default_rng(seed)
    splits = min(splits, count * (trees.LEAVES - 1))
    first = draw.integers(0, trees.LEAVES - 1, splits)
    arrays = {
        "feature_set": np.array([trees.FEATURE_SET]),
        "node.tree": draw.integers(0, count, splits),
        "node.feature": draw.integers(0, trees.FEATURES, splits),
        "node.threshold": draw.normal(0.0, 2.0, splits),
        "node.first_leaf": first,
        "node.middle_leaf": draw.integers(first + 1, trees.LEAVES),
        "node.missing_left": draw.integers(0, 2, splits),
        "tree.level": np.sort(np.append(np.arange(4), draw.integers(0, 4, count - 4))),
        "tree.value": draw.normal(0.0, 1.0, (count, trees.LEAVES)),
    }
    forest = Forest(arrays={name: array.astype(trees.STORED[name]) for name, array in arrays.items()})
    answer = forest.scaled(some_features(seed, 40, unknown=0.2), HORIZONS)
    assert answer.shape == (40, len(HORIZONS), len(LEVELS))
    assert np.isfinite(answer).all()
    assert np.abs(answer).max() <= np.abs(forest.arrays["tree.value"]).max(axis=1).sum()


# ── Features ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_features_see_shapes_not_units() -> None:
    root = np.random.default_rng(1).uniform(2, 9, (3, window_bins(STEP)))
    plain, scaled = (features(values, HORIZONS, STEP) for values in (root, root * 31.7))
    assert plain.matrix(HORIZONS) == pytest.approx(scaled.matrix(HORIZONS), abs=2e-6)
    assert scaled.scale == pytest.approx(plain.scale * 31.7)


def test_a_younger_series_is_unknown_where_it_was_not_yet() -> None:
    root = np.random.default_rng(1).uniform(2, 9, (1, 1500))
    seen = features(root, HORIZONS, STEP)
    assert np.isfinite(seen.now).all()
    assert np.isfinite(seen.ahead[0, :, 3]).all()  # one day before
    assert np.isnan(seen.ahead[0, :, -1]).all()  # two days before


def test_what_stands_for_the_day_before_is_read_instead_of_it() -> None:
    """A reference changes what is read of one day before, and neither the level nor what two days before was."""
    root = np.random.default_rng(1).uniform(2, 9, (2, window_bins(STEP)))
    plain, same = features(root, HORIZONS, STEP), features(root, HORIZONS, STEP, reference=root.copy())
    other = features(root, HORIZONS, STEP, reference=root * 2.0)
    assert np.array_equal(plain.ahead, same.ahead)
    assert np.array_equal(plain.now, other.now)
    assert np.array_equal(plain.ahead[:, :, 6:], other.ahead[:, :, 6:])
    assert not (plain.ahead[:, :, :6] == other.ahead[:, :, :6]).any()


def test_the_phase_turns_with_the_day_and_knows_no_clock() -> None:
    """Four hours later the first harmonic has turned by a sixth, whatever the time is."""
    minutes = np.arange(window_bins(STEP) + 240)
    wave = 10.0 + 4.0 * np.sin(2 * np.pi * minutes / 1440)
    now, later = (features(wave[None, low : low + window_bins(STEP)], (5,), STEP).now[0, -4:-2] for low in (0, 240))
    turned = np.angle(complex(*later)) - np.angle(complex(*now))
    assert np.abs(np.angle(np.exp(1j * turned))) == pytest.approx(2 * np.pi / 6, abs=0.01)
    assert np.hypot(*now) == pytest.approx(np.hypot(*later), rel=1e-3)


@pytest.mark.parametrize(
    ("step", "horizons", "seen"),
    [
        pytest.param(timedelta(minutes=1), HORIZONS, True, id="minutes"),
        pytest.param(timedelta(minutes=10), HORIZONS, True, id="ten minutes, five hours ahead"),
        pytest.param(timedelta(minutes=7), HORIZONS, True, id="bins that do not divide a day"),
        pytest.param(timedelta(minutes=30), HORIZONS, True, id="half hours"),
        pytest.param(timedelta(minutes=50), HORIZONS, False, id="a day ahead: yesterday is not past"),
        pytest.param(timedelta(hours=1), (1, 2, 3), False, id="hours"),
        pytest.param(timedelta(days=1), (1,), False, id="days"),
        pytest.param(timedelta(minutes=1), (60,), False, id="further than was learnt"),
    ],
)
def test_any_bin_width_is_answered_where_yesterday_is_past(
    grown: dict[str, np.ndarray], step: timedelta, horizons: tuple[int, ...], seen: bool
) -> None:
    bins = 4 * max(24, DAY // step)
    values = 20.0 + np.random.default_rng(1).normal(0.0, 1.0, (1, bins))
    panel = Panel(keys=(SeriesKey(workload="a/b", signal="demand_rps"),), start=START, step=step, values=values)
    answer = Trees(forest=Forest(arrays=grown)).predict(panel, horizons=horizons)
    assert np.isfinite(answer).all() == seen
    assert np.isnan(answer).all() != seen


# ── Growing ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_examples_hold_nothing_of_their_targets() -> None:
    """Of a series with one possible origin the bins after it change the targets and nothing else."""
    values = np.random.default_rng(0).uniform(1, 9, 1440 + HORIZONS[-1] + 1)
    before, after = (
        fitting._examples([Series(start=START, step=STEP, values=one)], Growth(), budget=100, seed=5)
        for one in (values, np.concatenate([values[:1441], np.full(HORIZONS[-1], 1e6)]))
    )
    assert before is not None
    assert after is not None
    assert before.target.size == Growth().horizons_per_origin
    assert np.array_equal(before.inputs, after.inputs, equal_nan=True)
    assert not (before.target == after.target).any()


@pytest.mark.parametrize("count", [1, 3, 400])
def test_however_many_series_the_budget_holds(count: int) -> None:
    values = np.random.default_rng(0).uniform(1, 9, 2200)
    found = fitting._examples([Series(start=START, step=STEP, values=values)] * count, Growth(), budget=800, seed=5)
    assert found is not None
    assert 0.9 * 800 <= found.target.size <= 800


def unusable(kind: str) -> list[Series]:
    short = Series(start=START, step=STEP, values=np.random.default_rng(0).uniform(1, 9, 1000))
    dead = Series(start=START, step=STEP, values=np.full(6000, np.nan))
    idle = Series(start=START, step=STEP, values=np.zeros(6000))
    hourly = Series(start=START, step=timedelta(hours=1), values=np.random.default_rng(0).uniform(1, 9, 1000))
    return {"none": [], "short": [short], "dead": [dead], "idle": [idle], "hourly": [hourly]}[kind]


@pytest.mark.parametrize("kind", ["none", "short", "dead", "idle", "hourly"])
def test_what_says_too_little_is_refused(kind: str) -> None:
    with pytest.raises(FittingError, match="trees need"):
        fit_trees(unusable(kind), seed=1, growth=SMALL)


def test_synthetic_traffic_is_brought_to_the_bins_of_the_site(fleet: list[Series]) -> None:
    """Ten-minute means of it are learnt from; where bins do not fit, the site's own have to do."""
    ten = Series(start=START, step=timedelta(minutes=10), values=np.random.default_rng(0).uniform(1, 9, 2016))
    odd = Series(start=START, step=timedelta(minutes=10, seconds=30), values=ten.values)
    alone, helped = (trees_bytes(fit_trees([ten], fleet=one, seed=1, growth=SMALL)) for one in ((), fleet))
    assert alone != helped
    alone, helped = (trees_bytes(fit_trees([odd], fleet=one, seed=1, growth=SMALL)) for one in ((), fleet))
    assert alone == helped


def test_where_lightgbm_is_not_installed_the_refusal_says_how_to_get_it(
    fleet: list[Series], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(FittingError, match=r"headstart\[train\]"):
        fit_trees(fleet, seed=1, growth=SMALL)


# ── As a member ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_job_grows_examines_and_promotes_them(wave_panel: PanelOf, tmp_path: Any) -> None:
    panel, events = wave_panel(4, series=2), []
    (outcome,) = train(
        panel,
        out=tmp_path,
        seed=3,
        models=("trees",),
        work=Work(steps=60, on_event=lambda name, facts: events.append((name, facts))),
    )
    assert outcome.promoted, outcome.verdict  # ahead of the baselines
    assert outcome.fitted == 2
    assert [facts["done"] for name, facts in events if name == "trees_level"] == [1, 2, 3, 4]
    assert registry.live_version(tmp_path, "trees") == outcome.version


def last_day_loss(member: Forecaster, panel: Panel) -> float:
    """Mean pinball loss over the panel's last day, asked every half an hour."""
    origins = range(panel.values.shape[1] - 1440, panel.values.shape[1] - HORIZONS[-1], 30)
    steps = np.array(HORIZONS) - 1
    said = [(origin, member.predict(up_to(panel, panel.start + origin * STEP))) for origin in origins]
    return float(np.mean([pinball(panel.values[:, origin + steps], each) for origin, each in said]))


def test_they_speak_for_a_series_that_they_have_not_seen(grown: dict[str, np.ndarray], wave_panel: PanelOf) -> None:
    unseen, member = wave_panel(4, seed=99), Trees(forest=Forest(arrays=grown))
    assert last_day_loss(member, unseen) < 0.9 * last_day_loss(LastValue(), unseen)


def test_replayed_they_answer_the_same(grown: dict[str, np.ndarray], wave_panel: PanelOf) -> None:
    panel, member = wave_panel(3.2, series=2), Trees(forest=Forest(arrays=grown))
    panel.values[:, 3000:3040] = np.nan
    quick = replayed(member, panel)
    assert isinstance(quick, Replayed)
    for back in (900, 500, 60, 0):
        known = up_to(panel, panel.end - back * STEP)
        assert quick.predict(known) == pytest.approx(member.predict(known), rel=1e-9)


def test_the_window_of_the_fit_is_the_window_of_the_forecast(grown: dict[str, np.ndarray], wave_panel: PanelOf) -> None:
    """What lies before two days and a quarter of an hour changes nothing."""
    panel, member = wave_panel(4), Trees(forest=Forest(arrays=grown))
    before = member.predict(panel)
    panel.values[:, : -window_bins(STEP)] *= 50.0
    assert np.array_equal(member.predict(panel), before)
    assert (roots(panel.values)[:, -1] > 0.0).all()
