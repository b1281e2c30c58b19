"""α, β, γ, δ and the encoder found again from the requests of a simulated replica under open-loop load.

The replica iterates by the formula, so what is not found again exactly is what clients cannot see: where in an
iteration a request arrived, and which iterations held a prompt's chunks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from scaler.service.fit_requests import RequestsFit, Served, classes_of, fit_requests, met
from scaler.service.model import ServiceModel
from scaler.simulate.serving.driven import open_loop
from scaler.simulate.serving.engine import Request

TRUTH = ServiceModel(
    alpha_s=0.012, beta_s=4e-5, gamma_s=1e-7, per_sequence_s=0.0004, max_num_seqs=32, kv_tokens=200_000
)
CHAT, LONG, WRITE = ("chat", 256, 128, 0), ("long", 1500, 32, 0), ("write", 64, 384, 0)
GUI, ICON = ("gui", 900, 40, 840), ("icon", 120, 40, 60)
OVERHEAD_S, IMAGE_OVERHEAD_S = 0.004, 0.015

Kind = tuple[str, int, int, int]


def level(service: ServiceModel, kinds: Sequence[Kind], rate_rps: float, *, seed: int = 1) -> tuple[Served, ...]:
    """A hundred and fifty requests of these kinds, drawn evenly."""
    dice, at_s, sends = random.Random(f"{seed} {kinds} {rate_rps}"), 0.0, []
    for _ in range(150):
        at_s += dice.expovariate(rate_rps)
        name, prompt, output, image = dice.choice(kinds)
        request = Request(
            request_class=name, arrived_s=at_s, input_tokens=prompt, output_tokens=output, image_tokens=image
        )
        sends.append((request, OVERHEAD_S + (IMAGE_OVERHEAD_S if image else 0.0)))
    open_loop(service, sends)
    return tuple(
        Served(
            request_class=each.request_class,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            image_tokens=each.image_tokens,
            sent_s=each.arrived_s,
            first_token_s=each.first_token_s,
            finished_s=each.finished_s,
        )
        for each, _ in sends
    )


def fitted(levels: Iterable[Sequence[Served]]) -> RequestsFit:
    levels = list(levels)
    names = classes_of(levels)
    return fit_requests([met(each, names) for each in levels], names)


def sweep(service: ServiceModel, kinds: Sequence[Kind], *, mixed: bool = False) -> list[tuple[Served, ...]]:
    """Each kind alone at rates from idle to full, or all of them together."""
    rates = (0.3, 2.0, 5.0, 8.0)
    if mixed:
        return [level(service, kinds, rate) for rate in rates]
    return [level(service, [kind], rate * 128 / kind[2] if kind[2] > 128 else rate) for kind in kinds for rate in rates]


@pytest.mark.parametrize("mixed", [False, True], ids=["one class at a time", "all together"])
def test_three_shapes_tell_everything(mixed: bool) -> None:
    found = fitted(sweep(TRUTH, [CHAT, LONG, WRITE], mixed=mixed))
    assert found.identified
    assert found.alpha_s == pytest.approx(TRUTH.alpha_s, rel=0.03)
    assert found.beta_s == pytest.approx(TRUTH.beta_s, rel=0.05)
    assert found.per_sequence_s == pytest.approx(TRUTH.per_sequence_s, rel=0.10)
    assert found.gamma_s == pytest.approx(TRUTH.gamma_s, rel=0.30)  # a tenth of an iteration at most
    assert found.overhead_s == pytest.approx(OVERHEAD_S, abs=0.001)
    assert found.residual_ratio < 0.02
    assert (found.encoder_base_s, found.image_overhead_s) == (0.0, 0.0)


def test_pictures_of_two_sizes_tell_the_encoder() -> None:
    truth = replace(TRUTH, encoder_base_s=0.010, encoder_per_token_s=6e-5)
    found = fitted([*sweep(truth, [CHAT, LONG, WRITE]), *sweep(truth, [GUI, ICON])])
    assert found.identified
    assert found.encoder_base_s == pytest.approx(0.010, rel=0.25)
    assert found.encoder_per_token_s == pytest.approx(6e-5, rel=0.15)
    assert found.image_overhead_s == pytest.approx(IMAGE_OVERHEAD_S, rel=0.25)
    assert found.beta_s == pytest.approx(TRUTH.beta_s, rel=0.08)


def test_pictures_of_one_size_tell_what_one_costs() -> None:
    truth = replace(TRUTH, encoder_base_s=0.010, encoder_per_token_s=6e-5)
    found = fitted([*sweep(truth, [CHAT, LONG, WRITE]), *sweep(truth, [GUI])])
    assert found.encoder_per_token_s == 0.0
    assert found.encoder_base_s == pytest.approx(0.010 + 840 * 6e-5, rel=0.10)


def test_one_shape_tells_a_line_and_says_so() -> None:
    found = fitted(sweep(TRUTH, [CHAT]))
    assert not found.identified
    (curve,) = found.curves
    assert (curve.request_class, curve.shape.input_tokens, curve.shape.output_tokens) == ("chat", 256.0, 128.0)
    # b = δ + γ·320 + β·(384/128): what one more costs an iteration, its prompt's share included
    assert curve.per_sequence_s == pytest.approx(0.0004 + 1e-7 * 320 + 4e-5 * 3, rel=0.15)
    assert (found.beta_s, found.gamma_s) == (0.0, 0.0)
    service = found.service(max_num_seqs=32, kv_tokens=200_000, request_class="chat")
    assert service.per_sequence_s == curve.per_sequence_s


def test_shapes_that_are_alike_are_one() -> None:
    alike = [CHAT, ("chat2", 260, 130, 0), ("chat3", 250, 127, 0)]
    found = fitted(sweep(TRUTH, alike))
    assert not found.identified
    assert [each.request_class for each in found.curves] == ["chat", "chat2", "chat3"]


def test_stalled_requests_are_left_out() -> None:
    """One level's server stood still for five seconds: what decoded then is no measurement of iterations."""
    levels = sweep(TRUTH, [CHAT, LONG, WRITE])
    spoilt = levels[1]
    stall_s = spoilt[70].first_token_s + 0.01
    levels[1] = tuple(
        replace(
            each,
            first_token_s=each.first_token_s + (5.0 if each.first_token_s > stall_s else 0.0),
            finished_s=each.finished_s + (5.0 if each.finished_s > stall_s else 0.0),
        )
        for each in spoilt
    )
    found = fitted(levels)
    assert found.rejected >= 1
    assert found.alpha_s == pytest.approx(TRUTH.alpha_s, rel=0.04)
    assert found.beta_s == pytest.approx(TRUTH.beta_s, rel=0.08)


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        pytest.param([level(TRUTH, [CHAT], 2.0)[:10]], "at least 20 answered requests, got 10", id="too few"),
        pytest.param([level(TRUTH, [CHAT], 0.05)], "different numbers of requests together", id="always alone"),
    ],
)
def test_what_cannot_be_fitted(levels: list[tuple[Served, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fitted(levels)


def test_a_request_of_one_token_decodes_nothing() -> None:
    one = Served(request_class="a", input_tokens=5, output_tokens=1, sent_s=0.0, first_token_s=1.0, finished_s=1.0)
    assert met([one], ("a",)).requests == ()
    assert one.itl_s == 0.0
