"""Shares of the members in the median, learnt from what more of each would have gained.

Stories: opposite errors, a member gone mad and back, one that never differs. Properties: shares sum to one, know no
unit and no order, and follow the best fixed mixture of two members wherever it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.models.blending import gains, mixed, mixture

if TYPE_CHECKING:
    from forecaster.types import FloatArray

HALF_LIFE_BINS = 720


class Learner:
    """One series at one horizon, told bin by bin what its members said and what came true, in roots."""

    def __init__(self, members: int) -> None:
        self.gain = np.zeros((1, 1, members))
        self.square = np.zeros((1, 1, members))
        self.blends: list[float] = []

    def share(self, said: FloatArray) -> FloatArray:
        return mixture(self.gain, self.square, np.isfinite(said))

    def tell(self, said: FloatArray, actual: float) -> None:
        said = said[None, None]
        share = self.share(said)
        self.blends.append(float(mixed(said, share)[0, 0]))
        found = gains(said, share, np.array([actual]))
        decay = np.where(np.isfinite(found), 0.5 ** (1 / HALF_LIFE_BINS), 1.0)
        found = np.where(np.isfinite(found), found, 0.0)
        self.gain = self.gain * decay + found
        self.square = self.square * decay + found**2


def taught(said: FloatArray, actual: FloatArray) -> Learner:
    learner = Learner(said.shape[1])
    for row, truth in zip(said, actual, strict=True):
        learner.tell(row, float(truth))
    return learner


def test_a_gain_is_how_far_a_member_lies_from_the_blend_on_the_side_of_the_truth() -> None:
    said = np.array([[[2.0, 4.0, 6.0]]])
    share = np.array([[[0.5, 0.5, 0.0]]])  # the blend says 3
    assert gains(said, share, np.array([5.0])).tolist() == [[[-1.0, 1.0, 3.0]]]
    assert gains(said, share, np.array([1.0])).tolist() == [[[1.0, -1.0, -3.0]]]


def test_members_that_err_to_opposite_sides_share() -> None:
    """One is always 2 too high and one 1 too low: a third of the first leaves no error, and the better one alone 1."""
    truth = 10.0 + np.sin(np.arange(3000) / 50.0)
    learner = taught(np.stack([truth + 2.0, truth - 1.0], axis=1), truth)
    assert learner.share(np.zeros((1, 1, 2)))[0, 0, 0] == pytest.approx(1 / 3, abs=0.05)
    assert np.abs(np.array(learner.blends[-500:]) - truth[-500:]).mean() < 0.15


def test_a_member_gone_mad_is_not_heard_and_comes_back() -> None:
    rng = np.random.default_rng(1)
    truth = 10.0 + rng.normal(size=6000)
    good, fair = truth + rng.normal(scale=0.3, size=6000), truth + rng.normal(scale=1.0, size=6000)
    good[2000:2500] *= 5.0
    learner = Learner(2)
    shares = []
    for row, actual in zip(np.stack([good, fair], axis=1), truth, strict=True):
        learner.tell(row, float(actual))
        shares.append(float(learner.share(np.zeros((1, 1, 2)))[0, 0, 0]))
    assert shares[1999] > 0.7
    assert max(shares[2030:2500]) < 0.05
    assert shares[-1] > 0.5


def test_one_that_never_differs_from_the_blend_does_not_weigh_everything() -> None:
    square = np.array([[[0.0, 1.0]]])
    share = mixture(np.zeros((1, 1, 2)), square, np.ones((1, 1, 2), dtype=bool))
    assert share[0, 0, 1] > 0.0
    alike = mixture(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), np.ones((1, 1, 2), dtype=bool))
    assert alike.tolist() == [[[0.5, 0.5]]]


def test_where_nobody_is_heard_nothing_is_said_and_nothing_learnt() -> None:
    said = np.full((1, 1, 2), np.nan)
    share = mixture(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)), np.isfinite(said))
    assert share.tolist() == [[[0.0, 0.0]]]
    assert np.isnan(mixed(said, share)).all()
    assert np.isnan(gains(said, share, np.array([1.0]))).all()


def test_an_unknown_truth_teaches_nothing() -> None:
    said, share = np.array([[[1.0, 3.0]]]), np.array([[[0.5, 0.5]]])
    assert np.isnan(gains(said, share, np.array([np.nan]))).all()


RECORD = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.001, 5)), min_size=1, max_size=6)


@given(record=RECORD, data=st.data())
def test_shares_sum_to_one_over_those_heard_and_know_no_unit(
    record: list[tuple[float, float]], data: st.DataObject
) -> None:
    heard = np.array([[data.draw(st.lists(st.booleans(), min_size=len(record), max_size=len(record)))]])
    gain, square = (np.array([[column]]) for column in zip(*record, strict=True))
    share = mixture(gain, square, heard)
    assert share.sum() == pytest.approx(1.0 if heard.any() else 0.0)
    assert not share[~heard].any()
    unit = data.draw(st.floats(1e-3, 1e3))
    assert mixture(gain * unit, square * unit**2, heard) == pytest.approx(share, abs=1e-9)
    order = np.array(data.draw(st.permutations(range(len(record)))))
    assert mixture(gain[..., order], square[..., order], heard[..., order]) == pytest.approx(share[..., order])


@given(part=st.floats(0.1, 0.9), seed=st.integers(0, 1000))
def test_the_blend_keeps_up_with_the_best_fixed_mixture(part: float, seed: int) -> None:
    """The truth is a mixture of two members and some noise: after a day the blend errs hardly more than that mixture,
    and less than the better member alone."""
    rng = np.random.default_rng(seed)
    said = 10.0 + rng.normal(size=(2880, 2))
    best = part * said[:, 0] + (1.0 - part) * said[:, 1]
    truth = best + rng.normal(scale=0.1, size=2880)
    late = slice(1440, None)
    error = np.abs(np.array(taught(said, truth).blends)[late] - truth[late]).mean()
    assert error < np.abs(said[late] - truth[late, None]).mean(axis=0).min()
    assert error < np.abs(best[late] - truth[late]).mean() + 0.1
