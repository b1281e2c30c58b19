"""Requests from bins.

Properties: counts are those of the requests that come; a request lies in its bin and fits in a replica; a bin does not
depend on the bins drawn before it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scaler.policy.capacity import CapacityProfile, ClassCapacity, RequestTokens
from scaler.service.model import ServiceModel
from scaler.simulate.serving.engine import Request
from scaler.simulate.serving.events import Event, EventKind, Timeline
from scaler.simulate.serving.traffic import Traffic

SERVICE = ServiceModel(alpha_s=0.01, beta_s=0.0, gamma_s=0.0, max_num_seqs=8, kv_tokens=4_000)


def traffic(
    profile: CapacityProfile, rates: list[float], *, seed: int = 1, events: tuple[Event, ...] = (), bin_s: float = 60.0
) -> Traffic:
    return Traffic(
        np.array(rates),
        bin_s=bin_s,
        classes=profile.classes,
        service=SERVICE,
        seed=seed,
        timeline=Timeline(events=events),
    )


def plain(requests: list[Request]) -> list[tuple[str, float, int, int, int]]:
    return [(r.request_class, r.arrived_s, r.input_tokens, r.output_tokens, r.image_tokens) for r in requests]


def test_the_same_seed_brings_the_very_same_requests_in_any_order(profile: CapacityProfile) -> None:
    first, second = traffic(profile, [5.0, 7.0, 2.0]), traffic(profile, [5.0, 7.0, 2.0])
    forwards = [plain(first.bin(index)) for index in (0, 1, 2)]
    backwards = [plain(second.bin(index)) for index in (2, 1, 0)]
    assert forwards == backwards[::-1]
    assert plain(first.bin(1)) == forwards[1], "asking again brings new, equal requests"
    assert first.bin(1)[0] is not first.bin(1)[0]
    assert plain(traffic(profile, [5.0], seed=2).bin(0)) != forwards[0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rates=st.lists(st.one_of(st.floats(0.0, 20.0), st.just(float("nan"))), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    at_s=st.floats(0.0, 200.0),
)
def test_counts_are_those_of_the_requests(profile: CapacityProfile, rates: list[float], seed: int, at_s: float) -> None:
    events = (Event(kind=EventKind.STEP, at_s=at_s), Event(kind=EventKind.MIX, at_s=at_s / 2))
    found = traffic(profile, rates, seed=seed, events=events)
    counts = found.counts
    for index in range(len(rates)):
        requests = found.bin(index)
        for number, each in enumerate(profile.classes):
            assert counts[number, index] == sum(r.request_class == each.name for r in requests)
        assert [r.arrived_s for r in requests] == sorted(r.arrived_s for r in requests)
        for request in requests:
            assert 60.0 * index <= request.arrived_s < 60.0 * (index + 1)
            assert request.input_tokens >= 1
            assert request.output_tokens >= 1
            assert request.input_tokens + request.output_tokens <= SERVICE.kv_tokens


def test_an_unknown_bin_and_an_empty_one_bring_nothing(profile: CapacityProfile) -> None:
    found = traffic(profile, [float("nan"), 0.0, 50.0])
    assert [len(found.bin(index)) > 0 for index in range(3)] == [False, False, True]


def test_rates_shares_means_and_spread_are_the_profiles(profile: CapacityProfile) -> None:
    requests = traffic(profile, [100.0] * 10).bin(3)
    for index in (4, 5, 6, 7):
        requests += traffic(profile, [100.0] * 10).bin(index)
    assert len(requests) == pytest.approx(30_000, rel=0.02)
    chat = [r for r in requests if r.request_class == "chat"]
    assert len(chat) / len(requests) == pytest.approx(0.75, abs=0.01)
    assert {r.input_tokens for r in chat} == {100}, "no spread: always the mean"
    outputs = np.array([r.output_tokens for r in chat])
    assert outputs.mean() == pytest.approx(20.0, rel=0.02)
    assert outputs.std() / outputs.mean() == pytest.approx(0.5, rel=0.05)


def test_a_step_triples_what_comes_while_it_lasts(profile: CapacityProfile) -> None:
    step = (Event(kind=EventKind.STEP, at_s=90.0),)
    counts = traffic(profile, [100.0] * 24, events=step).counts.sum(axis=0)
    assert counts[0] == pytest.approx(6000, rel=0.06)
    assert counts[1] == pytest.approx(6000 * 2, rel=0.06), "half a minute of it"
    assert counts[2:21].mean() == pytest.approx(18_000, rel=0.02)
    assert counts[22:].mean() == pytest.approx(6000, rel=0.06)
    calm = traffic(profile, [100.0] * 24).counts.sum(axis=0)
    assert counts[0] == calm[0], "bins outside the event are untouched"
    assert counts[23] == calm[23]


def test_the_mix_shifts_to_the_dearest_class(profile: CapacityProfile) -> None:
    mixed = traffic(profile, [200.0], events=(Event(kind=EventKind.MIX, at_s=0.0),)).counts[:, 0]
    assert mixed[1] / mixed.sum() == pytest.approx(0.25 + 0.375, abs=0.02)


def test_images_double_and_are_part_of_the_prompt() -> None:
    tokens = RequestTokens(input_tokens=600, output_tokens=5, image_tokens=500)
    classes = CapacityProfile(name="p", classes=(ClassCapacity(name="gui", max_rps=1.0, tokens=tokens),))
    (usual,) = {(r.input_tokens, r.image_tokens) for r in traffic(classes, [1.0]).bin(0)}
    grown = traffic(classes, [1.0], events=(Event(kind=EventKind.IMAGES, at_s=0.0),)).bin(0)
    assert usual == (600, 500)
    assert {(r.input_tokens, r.image_tokens) for r in grown} == {(1100, 1000)}


def test_a_class_without_tokens_is_refused(profile: CapacityProfile) -> None:
    bare = replace(profile.classes[0], tokens=None)
    with pytest.raises(ValueError, match="'chat' has no tokens"):
        traffic(replace(profile, classes=(bare,)), [1.0])
