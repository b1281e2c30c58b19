"""The pooled network: numpy equals torch, training repeats itself to the byte, and its guards hold for any weights."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import registry
from forecaster.errors import FittingError
from forecaster.fitting.neural.lstm import Schedule, distil_lstm, examples_of, scaled_forward, train_lstm
from forecaster.fitting.neural.pretrain import training_fleet
from forecaster.models import network
from forecaster.models.network import Network, features, forward
from forecaster.models.seasonal import LastValue
from forecaster.models.stored import network_bytes
from forecaster.types import HORIZONS, STEP, Panel, Series, SeriesKey

START = datetime(2026, 3, 2, tzinfo=UTC)
TINY = Schedule(windows_per_series=20, steps=12, batch=16)
PanelOf = Callable[..., Panel]


def random_weights(seed: int, size: float = 0.3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, size, shape).astype(np.float32) for name, shape in network.SHAPES.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_numpy_pass_equals_torchs(seed: int) -> None:
    draw = np.random.default_rng(seed)
    weights = random_weights(seed)
    sequence = draw.uniform(-6, 6, (5, network.BLOCKS, network.CHANNELS)).astype(np.float32)
    static = draw.uniform(-6, 6, (5, network.STATIC)).astype(np.float32)
    ours = forward(weights, sequence, static)
    assert ours == pytest.approx(scaled_forward(weights, sequence, static), rel=2e-4, abs=2e-4)
    assert (np.diff(ours, axis=2) >= 0).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    fleet = training_fleet(workloads=2, seed=3)
    first, again, other = (network_bytes(train_lstm(fleet, seed=seed, schedule=TINY)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_training_lowers_the_loss() -> None:
    fleet = training_fleet(workloads=4, seed=3)
    seen: list[float] = []
    train_lstm(
        fleet,
        seed=7,
        schedule=Schedule(windows_per_series=100, steps=500, batch=32),
        progress=lambda _step, loss: seen.append(loss),
    )
    assert seen[-1] < seen[0]


def test_one_network_learns_what_several_say_on_average() -> None:
    fleet = training_fleet(workloads=2, seed=3)
    schedule = Schedule(windows_per_series=100, steps=300, batch=32, learning_rate=2e-3)
    teachers = [random_weights(seed, 0.1) for seed in (1, 2, 3)]
    learnt, again = (distil_lstm(teachers, fleet, seed=7, schedule=schedule) for _ in range(2))
    unseen = examples_of(training_fleet(workloads=2, seed=4), schedule=schedule, seed=4)
    said = [forward(weights, unseen.sequence, unseen.static) for weights in (*teachers, learnt)]
    mean = np.mean(said[:3], axis=0)
    distance = [np.abs(one - mean).mean() for one in said]
    assert distance[3] < 0.5 * min(distance[:3])
    assert network_bytes(learnt) == network_bytes(again)


def test_series_too_short_to_learn_from_are_refused() -> None:
    short = Series(start=START, step=STEP, values=np.ones(1000))
    with pytest.raises(FittingError, match="pooled network needs"):
        train_lstm([short], seed=1, schedule=TINY)


def test_training_windows_hold_nothing_of_their_targets() -> None:
    values = np.random.default_rng(0).uniform(1, 9, network.WINDOW_BINS + HORIZONS[-1])
    whole = examples_of([Series(start=START, step=STEP, values=values)], schedule=TINY, seed=5)
    values[network.WINDOW_BINS :] = 1e6
    changed = examples_of([Series(start=START, step=STEP, values=values)], schedule=TINY, seed=5)
    assert np.array_equal(whole.static, changed.static)
    assert np.array_equal(whole.sequence, changed.sequence)
    assert not np.array_equal(whole.target, changed.target)


def test_features_see_shapes_not_units() -> None:
    root = np.random.default_rng(1).uniform(2, 9, (3, network.WINDOW_BINS))
    one, ten = features(root), features(root * 10)
    assert ten.static == pytest.approx(one.static, abs=1e-4)
    assert ten.sequence == pytest.approx(one.sequence, abs=1e-4)
    assert ten.scale == pytest.approx(one.scale * 10)


@pytest.mark.parametrize("minutes", network.WIDTHS)
def test_wide_bins_are_laid_out_on_the_minutes_that_they_cover(minutes: int) -> None:
    bins = np.random.default_rng(2).uniform(2, 9, (3, -(-network.WINDOW_BINS // minutes)))
    wide, laid_out = features(bins, minutes=minutes), features(np.repeat(bins, minutes, axis=1))
    assert np.array_equal(wide.sequence, laid_out.sequence)
    assert (wide.static[:, -1] == np.float32(np.log2(minutes))).all()
    newest = (bins[:, -1] - wide.level) / wide.scale
    assert wide.static[:, network.RECENT - minutes : network.RECENT] == pytest.approx(
        np.repeat(newest[:, None], minutes, axis=1), abs=1e-5
    )


def test_the_day_before_is_read_where_a_wide_bin_will_lie() -> None:
    """A spike in the bin that begins 23 h 40 before the end of history: it is what the third bin of ten minutes did."""
    root = np.full((1, 164), 5.0)
    root[0, -144 + 2] = 50.0
    after = features(root, minutes=10).static[0, network.RECENT : network.RECENT + len(HORIZONS)]
    assert [step for step, usual in zip(HORIZONS, after, strict=True) if usual > 1.0] == [3]


@pytest.mark.parametrize("minutes", network.WIDTHS)
def test_training_windows_are_shown_in_wide_bins_with_their_means_to_come(minutes: int) -> None:
    minute = np.arange(4 * 1440, dtype=np.float64)
    fleet = [Series(start=START, step=STEP, values=np.square(minute))]
    schedule = Schedule(windows_per_series=400, wide_ratio=0.5, no_yesterday_ratio=0.0)
    shown = examples_of(fleet, schedule=schedule, seed=1)
    mine = shown.static[:, -1] == np.float32(np.log2(minutes))
    assert mine.sum() == pytest.approx(200 if minutes == 1 else 200 / 3, abs=30)
    # Of a root that rises by one a minute, a bin's mean lies in its middle; the level is that of the last 15 minutes.
    ahead = minutes * (np.array(HORIZONS) - 0.5)
    rises = (shown.target[mine][:, 1:] - shown.target[mine][:, :-1]) / np.diff(ahead)
    assert np.nanmax(np.ptp(rises, axis=1)) < 0.02 * np.nanmin(rises)


@pytest.mark.parametrize(
    ("minutes", "speaks"), [(1, True), (2, True), (3, False), (5, True), (10, True), (15, False), (60, False)]
)
def test_bins_that_it_has_not_learnt_to_read_are_left_to_others(minutes: int, speaks: bool) -> None:
    values = np.random.default_rng(3).gamma(2.0, 5.0, (1, 3 * 1440 // minutes))
    panel = Panel(
        keys=(SeriesKey(workload="a/b", signal="demand_rps"),), start=START, step=minutes * STEP, values=values
    )
    assert np.isfinite(Network(weights=random_weights(5, 0.05)).predict(panel)).all() == speaks


@pytest.mark.parametrize(
    "root",
    [
        pytest.param(np.zeros((1, network.WINDOW_BINS)), id="all zero"),
        pytest.param(np.full((1, network.WINDOW_BINS), np.nan), id="nothing known"),
        pytest.param(np.full((1, 10), 3.0), id="ten minutes"),
        pytest.param(np.where(np.arange(network.WINDOW_BINS) == 900, 1e9, 1.0)[None, :], id="one absurd minute"),
    ],
)
def test_features_are_finite_and_clipped_whatever_goes_in(root: np.ndarray) -> None:
    seen = features(root)
    for array in (seen.sequence, seen.static):
        assert np.isfinite(array).all()
        assert np.abs(array).max() <= network.INPUT_LIMIT


@given(seed=st.integers(0, 1000), size=st.sampled_from([0.1, 10.0, 1e5]))
@settings(max_examples=15, deadline=None)
def test_no_weights_can_make_it_explode(seed: int, size: float) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 5.0, (2, 2000))
    keys = tuple(SeriesKey(workload=f"a/{row}", signal="demand_rps") for row in range(2))
    panel = Panel(keys=keys, start=START, step=STEP, values=values)
    said = Network(weights=random_weights(seed, size)).predict(panel)
    seen = values[:, -network.WINDOW_BINS :].max(axis=1)
    assert np.isfinite(said).all()
    assert (said <= 3 * seen[:, None, None] * (1 + 1e-9)).all()


def test_horizons_between_the_trained_ones_are_interpolated_and_beyond_them_refused(wave_panel: PanelOf) -> None:
    panel = wave_panel(2)
    model = Network(weights=random_weights(4, 0.05))
    said = model.predict(panel, horizons=(6, 7, 8))[0]
    assert said[1] == pytest.approx((said[0] + said[2]) / 2)
    assert np.isnan(model.predict(panel, horizons=(5, 31))).all()


@pytest.mark.parametrize("minutes", network.WIDTHS)
def test_the_shipped_network_is_small_and_beats_last_value_on_traffic_it_never_saw(
    minutes: int, wave_panel: PanelOf
) -> None:
    root = registry.shipped_models()
    assert root is not None
    manifest, data = registry.read(root, "lstm")
    assert len(data) < 200_000
    assert manifest.report["data"] == "synthetic"
    model, naive = registry.load(root, "lstm"), LastValue()
    panel = wave_panel(4, seed=99)
    values = panel.values.reshape(1, -1, minutes).mean(axis=2)
    errors = np.zeros(2)
    for at in range(3 * 1440 // minutes, 4 * 1440 // minutes - 30, 41):
        known = Panel(keys=panel.keys, start=panel.start, step=minutes * STEP, values=values[:, :at])
        truth = values[0, at - 1 + np.array(HORIZONS)]
        errors += [np.abs(truth - one.predict(known)[0, :, 0]).sum() for one in (model, naive)]
    assert errors[0] < errors[1]
