"""llm-d's latency law against its published formula, thresholds and HPA behaviour.

Source: llm-d/llm-d guides/workload-autoscaling/README.slo-aware.md and slo-aware/{prometheus-rule,scaledobject}.yaml.

Properties: between the thresholds nothing is asked for; a higher signal never asks for fewer while all are Ready; the
credit never asks for more.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.policies import ClassLatency, Llmd, Memory, Past, Sight, planner, replay_planner

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE, SYNC = timedelta(minutes=1), timedelta(seconds=15)
LAW = Llmd.for_bins(SYNC)


def chat(ttft_p90_s: float, itl_p90_s: float = math.nan, **more: float) -> ClassLatency:
    return ClassLatency(
        request_class="chat", ttft_p90_s=ttft_p90_s, itl_p90_s=itl_p90_s, ttft_slo_s=3.0, itl_slo_s=0.1, **more
    )


def a_sight(*latency: ClassLatency, ordered: int = 4, ready: int | None = None, step: timedelta = SYNC) -> Sight:
    return Sight(
        at=MONDAY,
        past=np.array([1.0]),
        step=step,
        cold_start_bins=4,
        ordered=ordered,
        ready=ordered if ready is None else ready,
        latency=latency,
    )


def lived(law: Llmd, replicas: int, ratios: list[float], *, all_ready: bool = True) -> list[int]:
    """Replicas after each 15-s sight whose P90 TTFT is that share of its target."""
    memory: Memory = ()
    ready, seen = replicas, []
    for ratio in ratios:
        sight = a_sight(chat(3.0 * ratio), ordered=replicas, ready=replicas if all_ready else ready)
        replicas, memory = law.decide(sight, memory)
        seen.append(replicas)
    return seen


@pytest.mark.parametrize(
    ("signal", "replicas", "ready", "desired"),
    [
        pytest.param(0.55, 4, 4, 4, id="0.55 is not above it"),
        pytest.param(0.56, 4, 4, 5, id="0.56 is: 4 · 0.018 rounds up to one more"),
        pytest.param(1.1, 4, 4, 8, id="twice the threshold doubles"),
        pytest.param(2.0, 4, 4, 15, id="the clamp: 4 · 2 / 0.55 is 14.5"),
        pytest.param(0.40, 4, 4, 4, id="0.40 is not below it"),
        pytest.param(0.35, 8, 8, 7, id="8 · 0.125 is one fewer"),
        pytest.param(0.31, 4, 4, 4, id="4 · 0.225 rounds down to none"),
        pytest.param(0.0, 8, 8, 0, id="an idle pool asks for nothing; the HPA keeps one"),
        pytest.param(1.1, 8, 4, 8, id="credit: half are starting, so the pool is on its way to enough"),
        pytest.param(2.0, 8, 4, 15, id="credit: only the deficit beyond those"),
        pytest.param(0.6, 8, 4, 5, id="as the formula stands, a strong credit asks for fewer"),
        pytest.param(0.35, 8, 4, 7, id="no credit on the way in: 0.35 · 0.5 would have asked for 4"),
        pytest.param(1.1, 4, 0, 8, id="no credit where nothing is Ready"),
    ],
)
def test_formula(signal: float, replicas: int, ready: int, desired: int) -> None:
    assert LAW.desired(signal, replicas=replicas, ready=ready) == desired


@pytest.mark.parametrize(
    ("latency", "ordered"),
    [
        pytest.param((chat(3.0),), 8, id="TTFT at its target is 1.0: 4 · 1.8 = 8"),
        pytest.param((chat(0.3, 0.1),), 8, id="ITL at its target: the worse of the two"),
        pytest.param((chat(300.0),), 8, id="a spike of a hundred times counts as 2; the HPA adds four at most"),
        pytest.param((chat(1.4, 0.045),), 4, id="0.47 and 0.45 lie in the band"),
        pytest.param((chat(math.nan, math.nan),), 3, id="nothing measured reads 0: in, one pod"),
        pytest.param((chat(1.4), ClassLatency(request_class="batch", ttft_p90_s=99.0)), 4, id="no target, no say"),
        pytest.param(
            (chat(0.3), ClassLatency(request_class="code", itl_p90_s=0.2, itl_slo_s=0.2)),
            8,
            id="the worst class counts",
        ),
    ],
)
def test_signal(latency: tuple[ClassLatency, ...], ordered: int) -> None:
    assert LAW.decide(a_sight(*latency), ())[0] == ordered


def test_the_mean_signal_reads_means() -> None:
    sight = a_sight(chat(3.0, ttft_mean_s=0.9))
    past = Past(loads=np.array([]), start=MONDAY, step=SYNC)
    assert planner("llmd", past).decide(sight, ())[0] == 8
    assert planner("llmd:mean", past).decide(sight, ())[0] == 3, "0.3 of the target: one pod fewer"


def test_a_spike_is_smoothed_over_45_seconds() -> None:
    """(0.45 + 0.45 + 0.7) / 3 is 0.53; the next sample makes it 0.62, and 30 s of stabilisation wait one more."""
    assert lived(LAW, 4, [0.45, 0.45, 0.7, 0.7, 0.7]) == [4, 4, 4, 4, 5]


def test_out_at_most_doubling_or_four_a_minute() -> None:
    assert lived(LAW, 2, [2.0] * 9) == [6, 6, 6, 6, 12, 12, 12, 12, 24]


def test_in_by_one_pod_in_120_seconds_after_180() -> None:
    """The highest wish of 180 s counts: eight until the twelfth sample after it; then a pod each eight syncs."""
    course = lived(LAW, 8, [0.45] + [0.0] * 30)
    assert [course.index(replicas) for replicas in (7, 6, 5)] == [12, 20, 28]


def test_the_hpa_beneath_has_its_tolerance() -> None:
    """22 pods at 0.38 ask for 21, which is within 10 % of 22; at 0.35 they ask for 20, within as well; at 0.3 for 17."""
    law = Llmd(behaviour=LAW.behaviour)
    for signal, replicas in ((0.38, 22), (0.36, 22), (0.30, 21)):
        assert law.decide(a_sight(chat(3.0 * signal), ordered=22), ())[0] == replicas


def test_starting_pods_are_not_taken_back_by_the_credit() -> None:
    """Over the threshold with half the pods starting, the formula asks for five of eight: the HPA gives up one."""
    memory: Memory = ()
    replicas = 8
    for _ in range(8):
        replicas, memory = LAW.decide(a_sight(chat(1.8), ordered=replicas, ready=4), memory)
    assert replicas == 7


@given(st.floats(0.0, 2.0), st.integers(1, 60), st.integers(0, 60))
def test_formula_stays_within_its_meaning(signal: float, replicas: int, ready: int) -> None:
    desired = LAW.desired(signal, replicas=replicas, ready=replicas)
    credited = LAW.desired(signal, replicas=replicas, ready=min(ready, replicas))
    assert credited <= desired
    if 0.4 <= signal <= 0.55:
        assert desired == credited == replicas
    elif signal < 0.4:
        assert 0 <= desired == credited <= replicas
    else:
        assert desired >= replicas


@given(st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.integers(1, 60))
def test_a_slower_pool_never_asks_for_fewer(one: float, other: float, replicas: int) -> None:
    low, high = sorted((one, other))
    assert LAW.desired(low, replicas=replicas, ready=replicas) <= LAW.desired(high, replicas=replicas, ready=replicas)


def test_without_latencies_it_settles_where_the_curve_meets_its_band() -> None:
    """0.2 + 0.8 · u⁴ is above 0.55 for u above 0.813; below 0.707 the floor leaves a small pool what it has."""
    full, slack = (
        replay_planner(Llmd.for_bins(MINUTE), load, start=MONDAY, step=MINUTE, cold_start_bins=3)
        for load in (np.append(4.0, np.full(120, 7.5)), np.full(120, 7.5))
    )
    assert len(set(full.billed[60:].tolist())) == 1
    assert 0.65 < 7.5 / full.billed[-1] <= 0.813
    assert set(slack.billed.tolist()) == {11}, "u = 0.68: 11 · (1 - 0.93) rounds down to none"
    sudden = np.concatenate([np.full(10, 2.0), np.full(60, 9.0)])
    risen = replay_planner(Llmd.for_bins(MINUTE), sudden, start=MONDAY, step=MINUTE, cold_start_bins=3)
    assert risen.billed[11:15].tolist() == [7, 11, 11, 11], "four a minute, then the credit 3 / 11 holds it"
    assert risen.billed.max() == 22, "seven are Ready and still too few: the credit 7 / 11 of a clamped 2 doubles"
    assert risen.billed[-1] == 13, "a pod in 120 s back to 9 / 13"
    assert not risen.missed[16:].any()


@pytest.mark.parametrize("threshold", [pytest.param(each, id=f"{each:g}") for each in (0.0, -1.0, 2.5, math.nan)])
def test_thresholds_outside_the_signal_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="out_above"):
        Llmd.for_bins(SYNC, out_above=threshold)
