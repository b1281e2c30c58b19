"""The HPA's arithmetic against the Kubernetes documentation and against its own rules for pods without metrics.

Source: kubernetes.io "Horizontal Pod Autoscaling", section "Algorithm details"; replica_calculator.go.

Properties: pods that report nothing never turn the direction round and never make a move larger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.policies import Hpa, HpaPlain, HpaPods, Sight, replay, rule
from scaler.simulate.policies.hpa import per_pod, per_replica

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("load", "target", "replicas", "wanted"),
    [
        pytest.param(0.8, 0.1, 4, 8, id="docs: 200m where 100m is desired doubles (ratio 2.0)"),
        pytest.param(0.2, 0.1, 4, 2, id="docs: 50m halves (ratio 0.5)"),
        pytest.param(0.44, 0.1, 4, 4, id="docs: a ratio close enough to 1.0, the upper edge of the tolerance"),
        pytest.param(0.36, 0.1, 4, 4, id="the lower edge"),
        pytest.param(0.4401, 0.1, 4, 5, id="just above it"),
        pytest.param(0.3599, 0.1, 4, 4, id="just below it, rounded up"),
        pytest.param(2.69, 0.1, 30, 27, id="below the edge where rounding leaves something to take"),
        pytest.param(0.0, 0.1, 4, 1, id="never below one here"),
    ],
)
def test_both_kinds_of_metric_agree_while_every_pod_reports(
    load: float, target: float, replicas: int, wanted: int
) -> None:
    assert per_replica(load, target=target, replicas=replicas) == wanted
    assert per_pod(load, target=target, reporting=replicas) == wanted


@pytest.mark.parametrize(
    ("load", "reporting", "unready", "missing", "wanted"),
    [
        pytest.param(6.0, 3, 0, 0, 6, id="three pods at 200 %"),
        pytest.param(6.0, 3, 2, 0, 6, id="unready pods count as idle on the way out: 6.0 over 5 is 120 %"),
        pytest.param(3.6, 3, 1, 0, 4, id="120 % over three is 90 % over four: within the tolerance"),
        pytest.param(6.0, 3, 6, 0, 9, id="never reversed: 200 % over three would be 67 % over nine"),
        pytest.param(1.5, 3, 2, 0, 2, id="unready pods are left out on the way in"),
        pytest.param(6.0, 3, 0, 2, 6, id="missing pods count as idle on the way out"),
        pytest.param(3.0, 3, 0, 1, 3, id="exactly on target is not below it: the missing pod counts as idle"),
        pytest.param(1.5, 3, 0, 2, 4, id="missing pods count as on target on the way in: (1.5 + 2) over 5 is 70 %"),
        pytest.param(2.4, 3, 0, 6, 9, id="so many missing that it is within the tolerance: 8.4 over 9"),
        pytest.param(0.0, 0, 0, 4, 4, id="nobody reports: as it is"),
    ],
)
def test_pods_that_do_not_report(load: float, reporting: int, unready: int, missing: int, wanted: int) -> None:
    assert per_pod(load, target=1.0, reporting=reporting, unready=unready, missing=missing) == wanted


@given(st.floats(0.0, 40.0), st.integers(1, 20), st.integers(0, 10), st.integers(0, 10))
def test_silent_pods_never_reverse_and_never_enlarge_a_move(
    load: float, reporting: int, unready: int, missing: int
) -> None:
    alone = per_pod(load, target=0.7, reporting=reporting, tolerance_ratio=0.0)
    current = reporting + unready + missing
    wanted = per_pod(load, target=0.7, reporting=reporting, unready=unready, missing=missing)
    if load / (0.7 * reporting) > 1.0:
        assert current <= wanted <= max(current, alone), "outward: never fewer than now, never more than without them"
    elif not unready:
        assert min(current, alone) <= wanted <= current


def test_hpa_pods_holds_while_its_ready_pods_are_overloaded_where_the_external_metric_takes_them_away() -> None:
    """Ten ordered, four Ready at 150 % of the target: over ten it is 60 %, and nothing is taken in start-up."""
    sight = Sight(at=MONDAY, past=np.array([4.2]), step=MINUTE, cold_start_bins=5, ordered=10, ready=4)
    no_window = HpaPods.for_bins(MINUTE, utilisation=0.7, window_s=0.0)
    assert no_window.decide(sight, ())[0] == 10
    assert Hpa.for_bins(MINUTE, utilisation=0.7, window_s=0.0).decide(4.2, 10, ())[0] == 6


def test_a_shorter_window_lets_go_sooner() -> None:
    load = np.array([7.0] + [0.7] * 9)
    at_once, after_two_minutes = (replay(rule(f"hpa:0.7:{each}"), load, cold_start_bins=0) for each in ("0s", "2m"))
    assert at_once.billed.tolist() == [10, 10] + [1] * 8
    assert after_two_minutes.billed.tolist() == [10] * 3 + [1] * 7, "last wished for at 1:45, so until 3:30"
    assert rule("hpa-plain:0.7:300s") == HpaPlain(), "five one-minute bins are 300 s"
    assert rule("hpa-plain:0.7:0s") == HpaPlain(look_back_bins=1)
    assert rule("hpa:0.7:300s") == rule("hpa") == Hpa()
