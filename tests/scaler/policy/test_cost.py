"""A target share of missed minutes that follows from two prices.

Properties: dearer misses never raise the share, dearer GPUs and larger replicas never lower it; it depends on the
quotient of the prices alone; it stays within what is steered to; and where a shortage is never more than one replica,
ordering to its quantile costs no more than any other order (the newsvendor, by trying them all).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_cases import MINUTE, NOON, a_forecast, a_policy, a_snapshot
from scaler.adapters.codec import Codec, to_plain
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.steering import LEAST_TARGET_RATIO, MOST_TARGET_RATIO, CostRule, MissTarget, SteeringRule, target_of
from scaler.policy.types import PolicyState

PRICE = st.floats(min_value=1e-6, max_value=1e6)
GPUS = st.integers(min_value=1, max_value=64)


def priced(missed_minute: float, gpu_minute: float, gpus: int = 1) -> MissTarget:
    return target_of(SteeringRule(), CostRule(missed_minute=missed_minute, gpu_minute=gpu_minute), gpus=gpus)


@pytest.mark.parametrize(
    ("missed_minute", "gpu_minute", "gpus", "ratio", "cut"),
    [
        pytest.param(4.0, 0.05, 1, 0.0125, False, id="an 80th: one minute in eighty"),
        pytest.param(4.0, 0.05, 8, 0.1, False, id="eight GPUs a replica"),
        pytest.param(400.0, 4.0, 1, 0.01, False, id="any money: cents"),
        pytest.param(100.0, 20.0, 1, 0.2, False, id="just at the most"),
        pytest.param(2.0, 1.0, 1, 0.2, True, id="half of the minutes is more than is steered to"),
        pytest.param(1.0, 5.0, 1, 0.2, True, id="a miss is cheaper than a replica"),
        pytest.param(1e5, 0.05, 1, 0.0005, True, id="one minute in two million is less than is steered to"),
        pytest.param(5e-324, 1e308, 64, 0.2, True, id="prices whose quotient is no number any more"),
        pytest.param(1e308, 5e-324, 1, 0.0005, True, id="prices whose quotient vanishes"),
    ],
)
def test_the_share_is_where_one_more_replica_pays(
    missed_minute: float, gpu_minute: float, gpus: int, ratio: float, cut: bool
) -> None:
    target = priced(missed_minute, gpu_minute, gpus)
    assert target.ratio == pytest.approx(ratio)
    assert target.cut is cut


def test_without_prices_the_share_is_the_one_that_was_set() -> None:
    assert target_of(SteeringRule(missed_target_ratio=0.3), None, gpus=8) == MissTarget(ratio=0.3)
    assert not MissTarget(ratio=0.3).cut


@given(prices=st.lists(PRICE, min_size=2, max_size=5).map(sorted), gpu_minute=PRICE, gpus=GPUS)
def test_dearer_misses_never_lower_the_quantile(prices: list[float], gpu_minute: float, gpus: int) -> None:
    quantiles = [1.0 - priced(price, gpu_minute, gpus).ratio for price in prices]
    assert all(cheaper <= dearer for cheaper, dearer in pairwise(quantiles))


@given(prices=st.lists(PRICE, min_size=2, max_size=5).map(sorted), missed_minute=PRICE, gpus=GPUS)
def test_dearer_gpus_never_raise_the_quantile(prices: list[float], missed_minute: float, gpus: int) -> None:
    quantiles = [1.0 - priced(missed_minute, price, gpus).ratio for price in prices]
    assert all(cheaper >= dearer for cheaper, dearer in pairwise(quantiles))


@given(missed_minute=PRICE, gpu_minute=PRICE, gpus=GPUS)
def test_larger_replicas_never_raise_the_quantile(missed_minute: float, gpu_minute: float, gpus: int) -> None:
    assert priced(missed_minute, gpu_minute, gpus + 1).ratio >= priced(missed_minute, gpu_minute, gpus).ratio


@given(missed_minute=PRICE, gpu_minute=PRICE, gpus=GPUS, rate=st.floats(min_value=1e-3, max_value=1e3))
def test_only_the_quotient_counts(missed_minute: float, gpu_minute: float, gpus: int, rate: float) -> None:
    here, elsewhere = priced(missed_minute, gpu_minute, gpus), priced(rate * missed_minute, rate * gpu_minute, gpus)
    assert elsewhere.ratio == pytest.approx(here.ratio, rel=1e-9)
    assert LEAST_TARGET_RATIO <= here.ratio <= MOST_TARGET_RATIO


@given(
    missed_minute=st.floats(min_value=1.0, max_value=1000.0),
    share=st.floats(min_value=0.001, max_value=0.19),
    needed=st.floats(min_value=0.0, max_value=1.0),
    gpus=GPUS,
)
def test_ordering_to_the_quantile_is_the_cheapest_order(
    missed_minute: float, share: float, needed: float, gpus: int
) -> None:
    """A minute needs three replicas, or with the chance `needed` four."""
    gpu_minute = share * missed_minute / gpus
    target = priced(missed_minute, gpu_minute, gpus)

    def cost(replicas: int) -> float:
        return replicas * gpus * gpu_minute + missed_minute * (
            needed if replicas == 3 else 0.0 if replicas > 3 else 1.0
        )

    ordered = 4 if needed > target.ratio else 3  # the quantile 1 - ratio of three-or-four, in whole replicas
    assert cost(ordered) == pytest.approx(min(cost(replicas) for replicas in range(8)), rel=1e-9)


# ── In the decision ───────────────────────────────────────────────────────────────────────────────────────────

QUIET = a_snapshot(rps=10.0, desired=3, forecasts=(a_forecast(10.0),))
SHORT = a_snapshot(rps=50.0, desired=3, forecasts=(a_forecast(10.0),))
DEAR, CHEAP = CostRule(missed_minute=100.0, gpu_minute=0.1), CostRule(missed_minute=1.0, gpu_minute=0.1)


def z_after(policy: WorkloadPolicy, *loads: object) -> float:
    """The lasting score after minutes of the given snapshots."""
    state = PolicyState()
    for minute, snapshot in enumerate(loads):
        _, state = decide(snapshot, state, policy, now=NOON + minute * MINUTE)  # type: ignore[arg-type]
    assert state.z is not None
    return state.z


def test_a_service_whose_misses_are_cheap_sinks_faster_and_rises_less() -> None:
    quiet = [QUIET] * 10
    assert z_after(a_policy(cost=CHEAP), *quiet) < z_after(a_policy(cost=DEAR), *quiet) < 1.645
    assert z_after(a_policy(cost=CHEAP), *quiet, SHORT) < z_after(a_policy(cost=DEAR), *quiet, SHORT)


def test_prices_steer_exactly_as_the_share_that_they_balance_at() -> None:
    """1.25 % of the minutes, said in two ways; eight GPUs a replica make it ten."""
    minutes = [QUIET, SHORT, *[QUIET] * 5]
    by_cost = a_policy(cost=CostRule(missed_minute=4.0, gpu_minute=0.05))
    by_share = a_policy(steering=SteeringRule(missed_target_ratio=0.0125))
    assert z_after(by_cost, *minutes) == z_after(by_share, *minutes)
    of_eight = replace(by_cost, profile=replace(by_cost.profile, gpus=8))
    assert of_eight.miss_target.ratio == pytest.approx(0.1)
    assert z_after(of_eight, *minutes) < z_after(by_cost, *minutes)


def test_prices_survive_the_journal() -> None:
    policies = [a_policy(cost=DEAR), a_policy()]
    codec = Codec(WorkloadPolicy)
    assert codec.decode(codec.encode(policies), layout=codec.layout) == policies
    assert to_plain(policies[0])["cost"] == {"missed_minute": 100.0, "gpu_minute": 0.1}


@pytest.mark.parametrize(
    ("build", "text"),
    [
        pytest.param(
            lambda: CostRule(missed_minute=0.0, gpu_minute=1.0),
            "cost.missed_minute must be a finite number above 0, got 0.0",
            id="misses for nothing",
        ),
        pytest.param(
            lambda: CostRule(missed_minute=1.0, gpu_minute=float("inf")),
            "cost.gpu_minute must be a finite number above 0, got inf",
            id="no price",
        ),
        pytest.param(
            lambda: a_policy(cost=DEAR, steering=SteeringRule(missed_target_ratio=0.02)),
            "cost and steering.missed_target_ratio exclude each other; keep one",
            id="both",
        ),
    ],
)
def test_what_cannot_be_is_refused(build: object, text: str) -> None:
    with pytest.raises(ValueError, match=text.replace(".", r"\.")):
        build()  # type: ignore[operator]
