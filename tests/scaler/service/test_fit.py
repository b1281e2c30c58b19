"""α, β and γ from a sweep.

Property: an exact sweep of three shapes gives back the replica it was made from.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.service.fit import SweepLevel, fit
from scaler.service.model import ServiceModel, TokenShape

REPLICA = ServiceModel(alpha_s=0.012, beta_s=3e-5, gamma_s=5e-8, max_num_seqs=128, kv_tokens=500_000)
CHAT, LONG, SHORT = (
    TokenShape(input_tokens=i, output_tokens=o) for i, o in ((300.0, 150.0), (3000.0, 60.0), (80.0, 500.0))
)
ALL = ("alpha_s", "beta_s", "gamma_s")
ONLY_B = ("alpha_s", "per_sequence_s")


def a_level(
    shape: TokenShape, clients: int, *, replica: ServiceModel = REPLICA, overhead_s: float = 0.004
) -> SweepLevel:
    """A level as the equations of the module's docstring have it, with as many running as there are clients."""
    i, o, n = shape.input_tokens, shape.output_tokens, clients
    itl_s = replica.alpha_s + replica.beta_s * ((n - 1) * (i + o - 1) / o + 1) + replica.gamma_s * n * (i + o / 2)
    ttft_s = overhead_s + replica.alpha_s + (replica.beta_s + replica.gamma_s) * i
    return SweepLevel(shape=shape, concurrency=clients, rate_rps=n / (o * itl_s), itl_s=itl_s, ttft_s=ttft_s)


def a_sweep(*shapes: TokenShape) -> list[SweepLevel]:
    return [a_level(shape, clients) for shape in shapes for clients in (1, 4, 16, 64)]


def test_three_shapes_tell_everything() -> None:
    found = fit(a_sweep(CHAT, LONG, SHORT))
    assert found.identified == ALL
    assert found.alpha_s == pytest.approx(0.012, rel=1e-6)
    assert found.beta_s == pytest.approx(3e-5, rel=1e-6)
    assert found.gamma_s == pytest.approx(5e-8, rel=1e-6)
    assert found.overhead_s == pytest.approx(0.004, rel=1e-6)
    assert found.rejected == ()
    assert found.residual_ratio < 1e-6
    service = found.service(max_num_seqs=128, kv_tokens=500_000)
    assert (service.max_num_seqs, service.max_num_batched_tokens) == (128, 8192)


@pytest.mark.parametrize(
    ("levels", "identified"),
    [
        pytest.param(a_sweep(CHAT), ONLY_B, id="one shape"),
        pytest.param(a_sweep(CHAT, LONG), ONLY_B, id="two shapes"),
        pytest.param(a_sweep(CHAT, LONG, SHORT), ALL, id="three shapes"),
        pytest.param(
            [replace(level, ttft_s=None) for level in a_sweep(CHAT, LONG, SHORT)], ALL, id="three without any TTFT"
        ),
        pytest.param(
            a_sweep(*(TokenShape(input_tokens=300.0 + more, output_tokens=150.0) for more in (0.0, 0.2, 0.4))),
            ONLY_B,
            id="three that are one",
        ),
        pytest.param(
            [replace(a_level(shape, n), ttft_s=None) for shape, n in ((CHAT, 1), (LONG, 2), (SHORT, 8))],
            ONLY_B,
            id="as many equations as unknowns",
        ),
    ],
)
def test_it_says_what_the_shapes_tell(levels: list[SweepLevel], identified: tuple[str, ...]) -> None:
    assert fit(levels).identified == identified


def test_one_shape_tells_its_own_curve() -> None:
    found = fit(a_sweep(CHAT))
    # b = β · 449/150 + γ · 375, and the others' share is all but a β: α takes it
    assert found.per_sequence_s == pytest.approx(3e-5 * 449 / 150 + 5e-8 * 375, rel=1e-6)
    assert found.beta_s == 0.0
    for level in a_sweep(CHAT):
        told = found.alpha_s + level.concurrency * found.per_sequence_s
        assert told == pytest.approx(level.itl_s, rel=1e-6)
    # what the prompt's computation takes cannot be told from the front end: 4 ms + 300 · 30 µs, less its share of α
    assert found.overhead_s == pytest.approx(0.013, abs=3e-4)


def test_the_running_are_counted_by_their_tokens() -> None:
    level = SweepLevel(
        shape=TokenShape(input_tokens=110, output_tokens=32), concurrency=64, rate_rps=6.368, itl_s=0.0387, ttft_s=6.385
    )
    assert level.running == pytest.approx(7.886, abs=1e-3)


@pytest.mark.parametrize("spoilt", [0, 3, 5, 11])
@pytest.mark.parametrize("factor", [0.5, 1.3, 4.0])
def test_one_bad_level_is_left_out(spoilt: int, factor: float) -> None:
    levels = a_sweep(CHAT, LONG, SHORT)
    levels[spoilt] = replace(
        levels[spoilt], itl_s=levels[spoilt].itl_s * factor, rate_rps=levels[spoilt].rate_rps / factor
    )
    found = fit(levels)
    assert found.rejected == (spoilt,)
    assert found.alpha_s == pytest.approx(0.012, rel=1e-3)
    assert found.beta_s == pytest.approx(3e-5, rel=1e-3)
    assert found.gamma_s == pytest.approx(5e-8, rel=1e-2)


def test_where_many_are_outliers_none_is() -> None:
    levels = a_sweep(CHAT, LONG, SHORT)
    for index in (1, 3, 6, 9, 11):  # five of twelve; the other seven agree exactly
        levels[index] = replace(levels[index], itl_s=levels[index].itl_s * 3, rate_rps=levels[index].rate_rps / 3)
    found = fit(levels)
    assert found.rejected == ()
    assert found.residual_ratio > 0.1


def test_a_replica_that_gets_no_slower_has_no_slope() -> None:
    falling = [
        replace(level, itl_s=0.012 - 1e-5 * level.concurrency, rate_rps=level.concurrency / (150 * 0.012))
        for level in a_sweep(CHAT)
    ]
    found = fit(falling)
    assert (found.beta_s, found.gamma_s, found.per_sequence_s) == (0.0, 0.0, 0.0)
    assert found.alpha_s == pytest.approx(0.012, rel=0.05)


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param([], id="none"),
        pytest.param([a_level(CHAT, 4)], id="one"),
        pytest.param([a_level(CHAT, 4), a_level(LONG, 4), a_level(SHORT, 4)], id="always as many running"),
    ],
)
def test_a_sweep_needs_two_different_levels(levels: list[SweepLevel]) -> None:
    with pytest.raises(ValueError, match="different numbers of requests running"):
        fit(levels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"itl_s": 0.0}, "itl_s", id="no gap"),
        pytest.param({"rate_rps": -1.0}, "rate_rps", id="negative"),
        pytest.param({"ttft_s": 0.0}, "ttft_s", id="no first token"),
        pytest.param({"shape": TokenShape(input_tokens=9, output_tokens=1)}, "2 output tokens", id="one token"),
        pytest.param({"shape": TokenShape(input_tokens=9, output_tokens=9, image_tokens=3)}, "image", id="images"),
    ],
)
def test_a_level_that_cannot_be(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(a_level(CHAT, 1), **changes)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.002, 0.1), st.floats(1e-6, 1e-4), st.floats(1e-8, 1e-6), st.floats(0.0, 0.1))
def test_an_exact_sweep_gives_the_replica_back(alpha: float, beta: float, gamma: float, overhead: float) -> None:
    replica = replace(REPLICA, alpha_s=alpha, beta_s=beta, gamma_s=gamma)
    levels = [
        a_level(shape, clients, replica=replica, overhead_s=overhead)
        for shape in (CHAT, LONG, SHORT)
        for clients in (1, 8, 64)
    ]
    found = fit(levels)
    assert found.identified == ALL
    assert found.alpha_s == pytest.approx(alpha, rel=1e-3)
    assert found.beta_s == pytest.approx(beta, rel=1e-3)
    assert found.gamma_s == pytest.approx(gamma, rel=1e-3)
    assert found.overhead_s == pytest.approx(overhead, abs=1e-3 * (alpha + overhead))
