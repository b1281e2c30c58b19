"""Who attained, and what that makes of minutes and classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from scaler.policy.capacity import ClassCapacity
from scaler.service.model import LatencySlo
from scaler.simulate.serving.engine import Request, Status
from scaler.simulate.serving.outcome import Interval
from scaler.simulate.serving.slo import Ledger, SloReport

CHAT = ClassCapacity(name="chat", max_rps=1.0, slo=LatencySlo(ttft_s=3.0, itl_s=0.1))


def a_request(
    arrived_s: float = 0.0,
    *,
    ttft_s: float = 1.0,
    itl_s: float = 0.05,
    tokens: int = 11,
    status: Status = Status.FINISHED,
    request_class: str = "chat",
) -> Request:
    done = status is Status.FINISHED
    return Request(
        request_class=request_class,
        arrived_s=arrived_s,
        input_tokens=5,
        output_tokens=tokens,
        first_token_s=arrived_s + ttft_s,
        finished_s=arrived_s + ttft_s + itl_s * (tokens - 1) if done else math.nan,
        status=status,
    )


def judged(*requests: Request, classes: tuple[ClassCapacity, ...] = (CHAT,), minutes: int = 3) -> SloReport:
    ledger = Ledger(classes, minutes=minutes)
    for request in requests:
        ledger.arrive(request)
    ledger.end(requests)
    return ledger.report()


@pytest.mark.parametrize(
    ("request_", "attains"),
    [
        pytest.param(a_request(), True, id="in time"),
        pytest.param(a_request(ttft_s=3.0), True, id="the first token just in time"),
        pytest.param(a_request(ttft_s=3.01), False, id="the first token late"),
        pytest.param(a_request(itl_s=0.11), False, id="tokens too slow"),
        pytest.param(a_request(tokens=1), True, id="a single token has no time between tokens"),
        pytest.param(a_request(status=Status.REJECTED), False, id="turned away"),
        pytest.param(a_request(status=Status.ABORTED), False, id="killed"),
        pytest.param(a_request(status=Status.RUNNING), False, id="not finished when the tail ended"),
    ],
)
def test_a_request_attains(request_: Request, attains: bool) -> None:
    assert judged(request_).attainment == float(attains)


def test_end_to_end_counts_where_there_is_a_target() -> None:
    slow = a_request(ttft_s=2.0, itl_s=0.1)
    strict = replace(CHAT, slo=LatencySlo(ttft_s=3.0, itl_s=0.2, e2e_s=2.5))
    assert judged(slow, classes=(strict,)).attainment == 0.0
    assert judged(slow, classes=(replace(CHAT, slo=None),)).attainment == 1.0, (
        "without targets whoever finishes attains"
    )


def test_a_minute_is_bad_below_95_percent_of_those_that_arrived_in_it() -> None:
    good_minute = [a_request(1.0) for _ in range(19)] + [a_request(1.0, ttft_s=9.0)]
    bad_minute = [a_request(61.0) for _ in range(18)] + [a_request(61.0, ttft_s=200.0), a_request(61.0, ttft_s=9.0)]
    report = judged(*good_minute, *bad_minute)
    assert report.violation_minutes == 1, "19 of 20 will do, the third minute had no requests"
    assert report.minute_attainment[:2].tolist() == [0.95, 0.9]
    assert np.isnan(report.minute_attainment[2])
    assert report.dropped == 0


def test_classes_are_judged_apart_and_counted_together() -> None:
    quick = ClassCapacity(name="quick", max_rps=1.0, slo=LatencySlo(ttft_s=0.5, itl_s=None))
    report = judged(
        a_request(), a_request(request_class="quick"), a_request(status=Status.REJECTED), classes=(CHAT, quick)
    )
    assert report.attainment == pytest.approx(1 / 3)
    assert report.classes["chat"].attainment == 0.5
    assert report.classes["quick"].attainment == 0.0
    assert (report.requests, report.dropped) == (3, 1)


def test_percentiles_are_those_of_what_finished() -> None:
    requests = [a_request(ttft_s=float(ttft)) for ttft in range(1, 101)]
    figures = judged(*requests, a_request(status=Status.REJECTED, ttft_s=1e6)).classes["chat"].as_json()
    assert figures["ttft_p50_s"] == pytest.approx(50.5)
    assert figures["ttft_p99_s"] == pytest.approx(99.01)
    assert figures["itl_p95_s"] == pytest.approx(0.05)
    assert figures["requests"] == 101


def test_nothing_arrived_is_no_attainment() -> None:
    report = judged()
    assert math.isnan(report.attainment)
    assert report.violation_minutes == 0
    assert math.isnan(report.classes["chat"].as_json()["ttft_p50_s"])


@pytest.mark.parametrize(
    ("values", "mean", "half_width"),
    [
        pytest.param([1.0, 2.0, 3.0, 4.0, 5.0], 3.0, 2.776 * math.sqrt(2.5 / 5), id="five seeds"),
        pytest.param([7.0], 7.0, math.nan, id="one seed says nothing about spread"),
        pytest.param([2.0, math.nan, 4.0], 3.0, 12.706, id="unknown ones are left out"),
        pytest.param([], math.nan, math.nan, id="none"),
        pytest.param([1.0, 3.0] * 20, 2.0, 1.96 * math.sqrt(40 / 39 / 40), id="many"),
    ],
)
def test_intervals_are_students(values: list[float], mean: float, half_width: float) -> None:
    found = Interval.of(values)
    assert (found.mean, found.half_width) == pytest.approx((mean, half_width), nan_ok=True, rel=1e-3)
