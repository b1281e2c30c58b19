"""Which variant serves, and how the traffic moves there.

Invariants: unknown demand changes nothing; more demand never chooses a better variant; noise within the room changes
nothing; a hand-over never exceeds the GPUs, its shares add up to one and only go to Ready replicas, and it ends.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.policy.capacity import CapacityProfile, ClassCapacity
from scaler.policy.types import VariantReason, VariantState
from scaler.policy.variants import (
    HandOver,
    Situation,
    VariantOption,
    VariantRule,
    choose,
    gpus_for,
    hand_over,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def option(name: str, max_rps: float, gpus: int = 1) -> VariantOption:
    classes = (ClassCapacity(name="default", max_rps=max_rps),)
    return VariantOption(name=name, profile=CapacityProfile(name=name, classes=classes, gpus=gpus))


RULE = VariantRule(variants=(option("8b", 3.0), option("4b", 6.0)))


def at(demand: float | None, *, gpus: int = 4, foreseen: float | None = None, **ready: int) -> Situation:
    """Ready replicas by the names "b8" and "b4"."""
    return Situation(
        demand_rps=None if demand is None else {"default": demand},
        gpus=gpus,
        ready={name.replace("b", "") + "b": count for name, count in ready.items()},
        foreseen_rps=None if foreseen is None else {"default": foreseen},
    )


ON_8B = VariantState(chosen="8b", changed_at=NOON - timedelta(hours=2))
ON_4B = VariantState(chosen="4b", changed_at=NOON - timedelta(hours=2))


def short(minutes: float) -> VariantState:
    return VariantState(chosen="8b", changed_at=ON_8B.changed_at, short_since=NOON - minutes * MINUTE)


def roomy(minutes: float, *, changed: float = 120) -> VariantState:
    return VariantState(chosen="4b", changed_at=NOON - changed * MINUTE, roomy_since=NOON - minutes * MINUTE)


@pytest.mark.parametrize(
    ("situation", "state", "variant", "reason"),
    [
        pytest.param(at(10), VariantState(), "8b", VariantReason.FIRST, id="first: the best that copes"),
        pytest.param(at(12), VariantState(), "4b", VariantReason.FIRST, id="first: 8B needs 5 of 4 GPUs"),
        pytest.param(at(10), ON_8B, "8b", VariantReason.COPES, id="ceil(10 / 2.55) = 4 GPUs of 4"),
        pytest.param(at(12), ON_8B, "8b", VariantReason.WAITS_DOWN, id="too slow since now"),
        pytest.param(at(12), short(1.9), "8b", VariantReason.WAITS_DOWN, id="not yet two minutes"),
        pytest.param(at(12), short(2), "4b", VariantReason.TOO_SLOW, id="two minutes"),
        pytest.param(at(10), short(5), "8b", VariantReason.COPES, id="it recovered: the clock begins anew"),
        pytest.param(at(10, gpus=3), short(2), "4b", VariantReason.TOO_SLOW, id="the budget was cut"),
        pytest.param(at(5, foreseen=12), short(2), "4b", VariantReason.TOO_SLOW, id="foreseen"),
        pytest.param(at(8), ON_4B, "4b", VariantReason.WAITS_UP, id="room since now"),
        pytest.param(at(8), roomy(14.9), "4b", VariantReason.WAITS_UP, id="not yet fifteen minutes"),
        pytest.param(at(8), roomy(15), "8b", VariantReason.ROOM, id="fifteen minutes"),
        pytest.param(at(8), roomy(15, changed=29), "4b", VariantReason.WAITS_UP, id="too soon after the last change"),
        pytest.param(at(9), roomy(60), "4b", VariantReason.COPES, id="8B would cope, but without room"),
        pytest.param(at(8, foreseen=12), roomy(60), "4b", VariantReason.COPES, id="the room is not foreseen to last"),
        pytest.param(at(99), ON_4B, "4b", VariantReason.NOTHING_COPES, id="nothing copes: the one that carries most"),
        pytest.param(at(None), short(5), "8b", VariantReason.BLIND_DEMAND, id="blind: nothing is changed down"),
        pytest.param(at(None), roomy(60), "4b", VariantReason.BLIND_DEMAND, id="nor up"),
        pytest.param(at(8), VariantState(chosen="2b"), "8b", VariantReason.FIRST, id="the settings have it no more"),
    ],
)
def test_the_choice(situation: Situation, state: VariantState, variant: str, reason: VariantReason) -> None:
    choice, after = choose(situation, RULE, state, now=NOON)
    assert (choice.variant, choice.reason) == (variant, reason)
    if reason is not VariantReason.BLIND_DEMAND:
        assert after.chosen == variant


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param({"variants": ()}, "at least one", id="none"),
        pytest.param({"variants": (option("8b", 3.0), option("8b", 6.0))}, "none twice", id="twice"),
        pytest.param({"variants": (option("8b", 3.0),), "utilisation": 0.0}, "utilisation", id="utilisation"),
        pytest.param({"variants": (option("8b", 3.0),), "room_ratio": -0.1}, "room_ratio", id="room"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        VariantRule(**settings)


def test_a_blind_minute_begins_the_stretch_anew() -> None:
    _, state = choose(at(None), RULE, short(1.9), now=NOON)
    choice, _ = choose(at(12), RULE, state, now=NOON + MINUTE)
    assert choice.reason is VariantReason.WAITS_DOWN


def test_noise_between_nine_and_ten_changes_nothing() -> None:
    """8B copes up to 10.2/s, and comes back below 8.5/s: between the two whoever serves goes on."""
    for begun in (ON_4B, ON_8B):
        state, now = begun, NOON
        for number in range(600):
            _, state = choose(at(9.0 if number % 2 else 10.0), RULE, state, now=now)
            now += MINUTE
        assert state.chosen == begun.chosen


@given(low=st.floats(0, 50), more=st.floats(0, 50), gpus=st.integers(1, 16))
def test_more_demand_never_needs_fewer_gpus_and_never_chooses_a_better_one(low: float, more: float, gpus: int) -> None:
    chosen = [choose(at(demand, gpus=gpus), RULE, VariantState(), now=NOON)[0].variant for demand in (low, low + more)]
    order = [each.name for each in RULE.variants]
    assert order.index(chosen[0]) <= order.index(chosen[1])
    for each in RULE.variants:
        assert gpus_for(each, at(low), RULE) <= gpus_for(each, at(low + more), RULE)


# ── The way there ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_worked_example_step_by_step() -> None:
    """Four GPUs hold 8B, 12/s: one 8B is given up for each 4B, and traffic follows what is Ready."""
    steps = [hand_over(at(12, b8=b8, b4=b4), RULE, "4b") for b8, b4 in ((4, 0), (3, 1), (2, 2), (1, 3), (0, 3))]
    assert [each.replicas for each in steps] == [
        {"4b": 1, "8b": 3},
        {"4b": 2, "8b": 2},
        {"4b": 3, "8b": 1},
        {"4b": 3, "8b": 0},
        {"4b": 3},
    ]
    assert [round(each.shares["4b"], 3) for each in steps] == [0.0, 0.425, 0.85, 1.0, 1.0]


def test_nothing_goes_to_a_variant_that_is_not_ready() -> None:
    first = hand_over(at(5, b8=2), RULE, "4b")
    assert first.shares == {"4b": 0.0, "8b": 1.0}
    assert first.replicas == {"4b": 1, "8b": 2}, "GPUs are free: nothing is given up"


def test_the_only_gpu_is_not_taken_from_who_serves() -> None:
    stuck = hand_over(at(9, gpus=1, b8=1), RULE, "4b")
    assert stuck.replicas == {"4b": 0, "8b": 1}
    assert "beside the last old replica" in stuck.stuck


def test_while_demand_is_unknown_nothing_moves() -> None:
    held = hand_over(at(None, b8=2, b4=1), RULE, "4b")
    assert held.replicas == {"8b": 2, "4b": 1}
    assert held.shares == pytest.approx({"8b": 0.5, "4b": 0.5})


@given(
    demand=st.floats(0, 40),
    gpus=st.integers(2, 12),
    held=st.integers(1, 12),
    size=st.integers(1, 2),
    up=st.booleans(),
)
def test_a_hand_over_stays_within_the_gpus_serves_all_along_and_ends(
    demand: float, gpus: int, held: int, size: int, up: bool
) -> None:
    rule = VariantRule(variants=(option("8b", 3.0, size), option("4b", 6.0)))
    new, old = ("8b", "4b") if up else ("4b", "8b")
    size_of = {each.name: each.profile.gpus for each in rule.variants}
    ready = {old: min(held, gpus // size_of[old])}
    if not ready[old]:
        return
    for _ in range(4 * gpus):
        situation = Situation(demand_rps={"default": demand}, gpus=gpus, ready=dict(ready))
        step: HandOver = hand_over(situation, rule, new)
        assert sum(count * size_of[name] for name, count in step.replicas.items()) <= gpus
        assert sum(step.shares.values()) == pytest.approx(1.0)
        for name, share in step.shares.items():
            assert share == 0.0 or ready.get(name, 0) > 0
        assert sum(ready.values()) > 0, "somebody serves at every moment"
        if step.stuck or (step.replicas.get(old, 0) == 0 and ready.get(new, 0) == step.replicas[new]):
            break
        ready = dict(step.replicas)
    else:
        pytest.fail(f"it never ends: {step}, {ready}")
