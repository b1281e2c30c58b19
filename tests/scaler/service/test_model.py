"""The closed form of one replica.

Properties, for any replica and shape: more traffic is never faster; what is estimated at λ_max keeps the SLO, and a
little more breaks it; Little's law holds; nothing is ever NaN or negative.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.service.model import Estimate, LatencySlo, ServiceModel, TokenShape, estimate, max_rate_rps


def a_service(**changes: float) -> ServiceModel:
    """Round numbers: 10 ms an iteration, 20 µs a token, 0.04 µs a cached token."""
    values: dict[str, float] = {"alpha_s": 0.01, "beta_s": 2e-5, "gamma_s": 4e-8, "max_num_seqs": 256}
    return ServiceModel(**{**values, "kv_tokens": 400_000, **changes})  # type: ignore[arg-type]


CHAT = TokenShape(input_tokens=300, output_tokens=150)


def by_hand(service: ServiceModel, shape: TokenShape, rate_rps: float) -> tuple[float, float]:
    """TTFT and ITL with plain products instead of logarithms, for few states."""
    i, o = shape.input_tokens, shape.output_tokens
    alpha, beta, gamma, limit = service.alpha_s, service.beta_s, service.gamma_s, service.max_num_seqs

    def iteration(n: float) -> float:
        return alpha + n * (beta * (i + o) / (o + 1) + gamma * (i + o / 2) + service.per_sequence_s)

    def prefill(n: float) -> float:
        return iteration(n) + (beta + gamma) * i

    def completions(n: int) -> float:
        n = min(n, limit)
        return n / (prefill(n) + o * (iteration(n) + beta + gamma * (i + o / 2)))

    p = [1.0]
    for n in range(1, 11 * limit + 1):
        p.append(p[-1] * rate_rps / completions(n))
    p = [each / sum(p) for each in p]
    throughput = rate_rps * (1 - p[-1])
    running = sum(min(n, limit) * each for n, each in enumerate(p))
    inside = sum(n * each for n, each in enumerate(p))
    serving = running / throughput
    gap = (serving - prefill(running)) / o
    return inside / throughput - serving + prefill(running) + gap, gap


@pytest.mark.parametrize("rate_rps", [0.1, 1.0, 2.0, 3.0, 3.6, 5.0])
@pytest.mark.parametrize("per_sequence_s", [0.0, 0.001], ids=["by tokens alone", "by sequence too"])
def test_it_is_the_formula(rate_rps: float, per_sequence_s: float) -> None:
    service = a_service(max_num_seqs=6, per_sequence_s=per_sequence_s)
    ttft_s, itl_s = by_hand(service, CHAT, rate_rps)
    found = estimate(service, CHAT, rate_rps)
    assert found.ttft_s == pytest.approx(ttft_s, rel=1e-9)
    assert found.itl_s == pytest.approx(itl_s, rel=1e-9)


def test_what_a_sequence_costs_is_paid_by_every_one_that_runs() -> None:
    plain, dear = a_service(max_num_seqs=8), a_service(max_num_seqs=8, per_sequence_s=0.001)
    full = max_rate_rps(plain, CHAT, LatencySlo())
    # 8 · 1 ms on top of 10.6 ms an iteration: 18.6 / 10.6
    assert full / max_rate_rps(dear, CHAT, LatencySlo()) == pytest.approx(18.6 / 10.6, rel=0.01)
    with pytest.raises(ValueError, match="per_sequence_s must be a finite number of at least 0"):
        a_service(per_sequence_s=-1.0)


def test_a_lone_request_takes_what_its_own_tokens_take() -> None:
    found = estimate(a_service(), CHAT, 0.0)
    # T(1) = 10 ms + 20 µs · 450/151 + 0.04 µs · 375 = 10.0746 ms; D(1) = T(1) + 20 µs + 15 µs
    assert found.itl_s == pytest.approx(0.0101096 + (0.0746e-3 / 150), abs=1e-6)
    assert found.e2e_s == pytest.approx(0.0100746 + 0.006012 + 150 * 0.0101096, abs=1e-5)
    assert (found.running, found.wait_s, found.throughput_rps, found.utilisation) == (0.0, 0.0, 0.0, 0.0)


def test_a_vanishing_rate_is_the_limit() -> None:
    none, little = estimate(a_service(), CHAT, 0.0), estimate(a_service(), CHAT, 1e-9)
    assert little.ttft_s == pytest.approx(none.ttft_s, rel=1e-6)
    assert little.e2e_s == pytest.approx(none.e2e_s, rel=1e-6)


def test_saturation_is_a_knee_not_a_slope() -> None:
    service = a_service(max_num_seqs=8)
    top = max_rate_rps(service, CHAT, LatencySlo())
    at_half, at_90, beyond = (estimate(service, CHAT, share * top) for share in (0.5, 0.9, 1.5))
    assert at_90.ttft_s < 40 * at_half.ttft_s
    assert beyond.ttft_s > 10 * at_90.ttft_s
    assert beyond.utilisation > 1.0
    # an overloaded replica completes what it can, and runs full
    assert beyond.throughput_rps == pytest.approx(top, rel=2e-3)
    assert beyond.running == pytest.approx(8.0, rel=1e-3)
    # its queue of 10 · B is full: that long a wait
    assert beyond.wait_s == pytest.approx(80 / beyond.throughput_rps, rel=0.05)


def test_ten_times_too_much_is_still_a_number() -> None:
    found = estimate(a_service(max_num_seqs=1024, kv_tokens=4_000_000), CHAT, 1e6)
    assert all(math.isfinite(getattr(found, name)) for name in Estimate.__dataclass_fields__)


@pytest.mark.parametrize(
    ("service", "shape", "limit"),
    [
        pytest.param(a_service(), CHAT, 256, id="sequence slots"),
        pytest.param(a_service(kv_tokens=10_000), CHAT, 24, id="memory: 0.9 · 10 000 / 375"),
        pytest.param(a_service(kv_tokens=450), CHAT, 1, id="room for one alone"),
        pytest.param(a_service(kv_tokens=1000), TokenShape(input_tokens=999, output_tokens=0), 1, id="no output"),
    ],
)
def test_how_many_run_at_once(service: ServiceModel, shape: TokenShape, limit: int) -> None:
    assert service.batch_limit(shape) == limit


@pytest.mark.parametrize("output_tokens", [0.0, 0.5, 1.0, 2.0])
def test_hardly_any_output(output_tokens: float) -> None:
    shape = TokenShape(input_tokens=300, output_tokens=output_tokens)
    found = estimate(a_service(), shape, 1.0)
    assert 0.0 <= found.itl_s < 0.02
    assert found.ttft_s <= found.e2e_s + 1e-9 or output_tokens < 1.0
    assert max_rate_rps(a_service(), shape, LatencySlo(ttft_s=0.1)) > 1.0


def test_without_output_there_is_one_latency() -> None:
    found = estimate(a_service(), TokenShape(input_tokens=300, output_tokens=0), 20.0)
    assert found.itl_s == 0.0
    assert found.ttft_s == pytest.approx(found.e2e_s)


def test_images_bound_the_rate_as_one_serial_encoder_does() -> None:
    shape = TokenShape(input_tokens=1300, output_tokens=20, image_tokens=1000)
    service = a_service(encoder_base_s=0.05, encoder_per_token_s=5e-5)  # 100 ms for each image
    plain, encoded = (max_rate_rps(each, shape, LatencySlo()) for each in (a_service(), service))
    assert plain > 20.0
    assert 7.0 < encoded < 10.0  # 1 / 100 ms, less what else an iteration costs
    assert estimate(service, shape, 0.0).ttft_s > estimate(a_service(), shape, 0.0).ttft_s + 0.1
    text = TokenShape(input_tokens=1300, output_tokens=20)
    assert max_rate_rps(service, text, LatencySlo()) == plain


@pytest.mark.parametrize(
    ("slo", "low_rps", "high_rps"),
    [
        pytest.param(LatencySlo(), 58.0, 58.2, id="no wish: 99.9 % of saturation"),
        pytest.param(LatencySlo(itl_s=0.015), 28.0, 30.5, id="token gap"),
        pytest.param(LatencySlo(e2e_s=2.0), 20.0, 21.0, id="end to end"),
        pytest.param(LatencySlo(ttft_s=0.2, itl_s=0.015), 28.0, 30.5, id="the tighter of two"),
        pytest.param(LatencySlo(ttft_s=0.02), 0.0, 0.0, id="slower than that when alone"),
    ],
)
def test_the_rate_of_an_slo(slo: LatencySlo, low_rps: float, high_rps: float) -> None:
    assert low_rps <= max_rate_rps(a_service(), CHAT, slo) <= high_rps


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"alpha_s": 0.0}, "alpha_s", id="an iteration takes time"),
        pytest.param({"beta_s": -1e-9}, "beta_s", id="negative"),
        pytest.param({"gamma_s": math.nan}, "gamma_s", id="not a number"),
        pytest.param({"max_num_seqs": 0}, "max_num_seqs", id="no slot"),
        pytest.param({"kv_tokens": 0}, "kv_tokens", id="no memory"),
        pytest.param({"max_num_batched_tokens": 255}, "255.*256", id="a batch that cannot decode"),
    ],
)
def test_a_replica_that_cannot_be(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        a_service(**changes)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        pytest.param({"input_tokens": 0.0, "output_tokens": 1.0}, "input_tokens", id="no prompt"),
        pytest.param({"input_tokens": 1.0, "output_tokens": -1.0}, "output_tokens", id="negative"),
        pytest.param({"input_tokens": 5.0, "output_tokens": 1.0, "image_tokens": 6.0}, "image_tokens", id="more image"),
    ],
)
def test_a_shape_that_cannot_be(tokens: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenShape(**tokens)


def test_what_does_not_fit_says_so_in_tokens() -> None:
    with pytest.raises(ValueError, match=r"300 input and 150 output tokens does not fit .* 449 tokens"):
        estimate(a_service(kv_tokens=449), CHAT, 1.0)
    with pytest.raises(ValueError, match="449"):
        max_rate_rps(a_service(kv_tokens=449), CHAT, LatencySlo(ttft_s=1.0))
    with pytest.raises(ValueError, match="rate_rps"):
        estimate(a_service(), CHAT, -1.0)
    with pytest.raises(ValueError, match="ttft_s"):
        LatencySlo(ttft_s=0.0)


services = st.builds(
    ServiceModel,
    alpha_s=st.floats(1e-4, 0.1),
    beta_s=st.floats(0.0, 1e-4),
    gamma_s=st.floats(0.0, 1e-6),
    max_num_seqs=st.integers(1, 40),
    kv_tokens=st.integers(6000, 1_000_000),
    encoder_base_s=st.floats(0.0, 0.1),
)
shapes = st.builds(TokenShape, input_tokens=st.floats(1.0, 4000.0), output_tokens=st.floats(1.0, 2000.0))


@given(services, shapes, st.floats(0.01, 2.0), st.floats(1.0, 2.0))
def test_more_traffic_is_never_faster(service: ServiceModel, shape: TokenShape, share: float, more: float) -> None:
    top = max_rate_rps(service, shape, LatencySlo())
    calm, busy = estimate(service, shape, share * top), estimate(service, shape, share * more * top)
    for name in ("throughput_rps", "running", "wait_s", "e2e_s", "utilisation"):
        assert getattr(busy, name) >= getattr(calm, name) * (1 - 1e-6) - 1e-9 >= -1e-9
    inside = calm.throughput_rps * calm.e2e_s
    assert calm.running - 1e-6 <= inside <= 11 * service.batch_limit(shape) + 1e-6


@settings(max_examples=50)
@given(services, shapes, st.floats(1.1, 50.0))
def test_the_rate_keeps_the_slo_and_hardly_more_does(service: ServiceModel, shape: TokenShape, slack: float) -> None:
    slo = LatencySlo(e2e_s=slack * estimate(service, shape, 0.0).e2e_s)
    assert slo.e2e_s is not None
    rate_rps, top = max_rate_rps(service, shape, slo), max_rate_rps(service, shape, LatencySlo())
    assert estimate(service, shape, rate_rps).e2e_s <= slo.e2e_s
    assert rate_rps == top or estimate(service, shape, rate_rps * 1.001).e2e_s > slo.e2e_s
