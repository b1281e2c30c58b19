"""The latency curve and the queue.

Properties: more traffic is never faster; the backlog is bounded by the clients' patience.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.simulate.queueing import ReplicaLatency, serve

CURVE = ReplicaLatency(idle_p95_s=0.4, full_p95_s=1.2, knee=4.0, patience_s=60.0)


@pytest.mark.parametrize(
    ("arriving_rps", "p95_s"),
    [
        pytest.param(0.0, 0.4, id="idle"),
        pytest.param(10.0, 0.4 + 0.8 * 0.5**4, id="half full is hardly slower"),
        pytest.param(20.0, 1.2, id="exactly full is at the SLO"),
        pytest.param(25.0, 1.2 + 300.0 / 20.0, id="above, the last one waits for the backlog"),
    ],
)
def test_latency(arriving_rps: float, p95_s: float) -> None:
    assert serve(arriving_rps, capacity_rps=20.0, backlog=0.0, bin_s=60.0, latency=CURVE).p95_s == pytest.approx(p95_s)


def test_with_nothing_serving_everybody_waits_until_they_give_up() -> None:
    served = serve(10.0, capacity_rps=0.0, backlog=500.0, bin_s=60.0, latency=CURVE)
    assert served.backlog == 600.0
    assert served.p95_s > CURVE.patience_s


@given(st.floats(0.0, 1e4), st.floats(0.0, 1e4), st.floats(1.0, 1e3), st.floats(0.0, 1e5))
def test_more_traffic_is_never_faster(rate: float, more: float, capacity: float, backlog: float) -> None:
    calm, busy = (
        serve(each, capacity_rps=capacity, backlog=backlog, bin_s=60.0, latency=CURVE) for each in (rate, rate + more)
    )
    assert busy.p95_s >= calm.p95_s - 1e-9
    assert busy.backlog >= calm.backlog - 1e-9
    assert busy.backlog <= capacity * CURVE.patience_s + 1e-9
