"""Policies over request-level replicas, told as small runs on a day or two of traffic."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue
from forecaster.trace import Trace
from forecaster.types import Series
from scaler.policy.capacity import CapacityProfile
from scaler.service.model import LatencySlo, ServiceModel, max_rate_rps
from scaler.simulate.serving.run import (
    EventError,
    Outcome,
    ProfileError,
    ServingRun,
    ServingSetting,
    UnknownPolicyError,
    simulate_serving,
)
from scaler.simulate.serving.stage import Scene, Stage

START = datetime(2026, 11, 16, tzinfo=UTC)
NOON = START + timedelta(hours=12)


def a_trace(values: object, *, step: timedelta = timedelta(minutes=1)) -> Trace:
    series = Series(start=START, step=step, values=np.array(values, dtype=np.float64))
    return Trace(name="traffic", column="requests", series=series)


def half_a_day_and_a_ramp() -> Trace:
    """Twelve calm hours, then a ramp from a third to the peak within a quarter of an hour, which stays."""
    return a_trace([*([1.0] * 720), *np.linspace(1.0, 3.0, 15), *([3.0] * 15)])


def played(trace: Trace, profile: CapacityProfile, *policies: str, **settings: object) -> ServingRun:
    setting = ServingSetting(**{"score_from": NOON, "peak_replicas": 3, **settings})  # type: ignore[arg-type]
    return simulate_serving(trace, profile, policies, setting, members=(LastValue(),))


def only(run: ServingRun, policy: str) -> Outcome:
    (outcome,) = run.outcomes[policy]
    return outcome


def test_equal_arguments_give_an_equal_run(profile: CapacityProfile) -> None:
    policies = ("headstart", "reactive", "hpa", "kpa", "llmd", "oracle")
    first, second = (played(half_a_day_and_a_ramp(), profile, *policies) for _ in range(2))
    assert json.dumps(first.as_json()) == json.dumps(second.as_json())
    assert [*first.rows()] == [*second.rows()]


def test_every_policy_meets_the_very_same_requests_and_loses_none(profile: CapacityProfile) -> None:
    trace = half_a_day_and_a_ramp()
    run = played(trace, profile, "reactive", "static-mean", "last-value", events=("spike@+5m",))
    arrived = [
        {name: report.arrived.tolist() for name, report in only(run, policy).slo.classes.items()}
        for policy in run.outcomes
    ]
    assert arrived[0] == arrived[1] == arrived[2]
    setting = ServingSetting(score_from=NOON, peak_replicas=3, events=("spike@+5m",))
    scene = Scene(Stage.of(trace, profile, setting, ()), 1)
    assert arrived[0]["chat"] == scene.traffic.counts[0].tolist()


def test_a_fixed_fleet_is_billed_for_the_window_and_keeps_the_slo(profile: CapacityProfile) -> None:
    outcome = only(played(half_a_day_and_a_ramp(), profile, "static-peak"), "static-peak")
    fleet = int(outcome.course.serving[0])
    assert outcome.gpu_hours == pytest.approx(fleet * 0.5)
    assert outcome.slo.attainment > 0.97
    assert outcome.slo.dropped == 0, "who came last may still finish"
    assert (outcome.scale_events, outcome.pod_starts, outcome.drained_s) == (0, 0, 0.0)


def test_too_few_replicas_break_the_slo_and_turn_requests_away(profile: CapacityProfile) -> None:
    small = only(played(half_a_day_and_a_ramp(), profile, "static-peak", max_replicas=1), "static-peak")
    assert small.course.serving.tolist() == [1] * 30
    assert small.slo.attainment < 0.5
    assert small.slo.violation_minutes > 15
    assert small.slo.dropped > 0
    assert small.regret.missed_bins["bounds"] > 0


def test_the_oracle_is_ready_before_the_load_and_cheapest_of_those_that_are(profile: CapacityProfile) -> None:
    run = played(half_a_day_and_a_ramp(), profile, "oracle", "oracle-instant", "static-peak")
    perfect, instant, fixed = (only(run, name) for name in run.outcomes)
    assert perfect.under_provisioned_ratio == 0.0
    assert instant.under_provisioned_ratio == 0.0
    assert instant.gpu_hours < perfect.gpu_hours < fixed.gpu_hours
    assert perfect.slo.attainment > 0.9
    assert instant.gpu_ratio == pytest.approx(1.0, abs=0.05), "but for what drains"


def test_a_longer_start_costs_attainment(profile: CapacityProfile) -> None:
    prompt, late = (
        played(half_a_day_and_a_ramp(), profile, "hpa:1", cold_start=timedelta(minutes=minutes)) for minutes in (0, 5)
    )
    assert (prompt.cold_start_s, late.cold_start_s) == (0.0, 300.0)
    slow = only(late, "hpa:1")
    assert slow.slo.attainment < only(prompt, "hpa:1").slo.attainment - 0.05
    waits = [each.ready_s - each.ordered_s for each in slow.starts if each.ready_s is not None]
    assert waits == pytest.approx([300.0] * len(waits))
    assert sum(slow.regret.missed_bins.values()) == slow.figures["under_provisioned_minutes"] > 0


def test_the_product_brings_its_warm_up_day_along(profile: CapacityProfile) -> None:
    """A day and a half at two replicas' load: after the warm-up it has the fleet for it, and moves nothing."""
    trace = a_trace([1.0] * (36 * 60 + 20))
    run = played(trace, profile, "headstart", score_from=START + timedelta(hours=36), peak_replicas=2)
    outcome = only(run, "headstart")
    assert outcome.course.before == outcome.course.billed[0] >= 2
    assert outcome.scale_events <= 2
    assert outcome.slo.attainment > 0.9


def test_without_a_past_the_product_opens_as_rivals_do(profile: CapacityProfile) -> None:
    trace = a_trace([1.0] * 10)
    run = played(trace, profile, "headstart", "hpa", score_from=START)
    assert only(run, "headstart").course.serving[0] == only(run, "hpa").course.serving[0]


def test_while_metrics_are_dark_nobody_moves(profile: CapacityProfile) -> None:
    trace = a_trace([*([1.0] * 720), *([1.0] * 5), *([3.0] * 10)])
    run = played(trace, profile, "reactive", "hpa", "llmd", events=("dark@+5m",))
    for policy in run.outcomes:
        outcome = only(run, policy)
        assert len({*outcome.course.billed[5:10].tolist()}) == 1, policy
        assert outcome.seen.tolist() == [True] * 4 + [False] * 5 + [True] * 6
    assert only(run, "hpa").course.billed[-1] > only(run, "hpa").course.billed[5], "afterwards it catches up"


def test_a_bad_pod_costs_attainment(profile: CapacityProfile) -> None:
    trace = a_trace([1.0] * 740)
    fair, bad = (
        only(played(trace, profile, "static-peak", events=events), "static-peak") for events in ((), ("bad-pod@+1m",))
    )
    assert fair.slo.attainment > bad.slo.attainment + 0.05


def test_the_product_sees_a_bad_pod_by_its_tokens_and_keeps_what_helped(profile: CapacityProfile) -> None:
    """Three replicas for a load of two: one turns slow and nothing waits, but a fourteenth of the requests have tokens
    more than 100 ms apart. One replica more, and the slow one has so few to serve that it keeps the SLO too."""
    service = ServiceModel(alpha_s=0.007, beta_s=1e-4, gamma_s=0.0, max_num_seqs=64, kv_tokens=100_000)
    rated, promised = LatencySlo(ttft_s=3.0, itl_s=0.05), LatencySlo(ttft_s=30.0, itl_s=0.1)
    classes = tuple(
        replace(each, max_rps=max_rate_rps(service, each.tokens.shape, rated), slo=promised)
        for each in profile.classes
        if each.tokens is not None
    )
    quick, trace = replace(profile, service=service, classes=classes), a_trace([1.0] * 738)
    fair, bad = (
        only(played(trace, quick, "reactive", peak_replicas=2, events=events), "reactive")
        for events in ((), ("bad-pod@+2m",))
    )
    assert (fair.slo.violation_minutes, fair.scale_events) == (0, 0), "a sound fleet is left alone"
    assert 0 < bad.slo.violation_minutes <= 6, "two minutes of breach, and a start of 100 s"
    assert bad.scale_events == 1, "what helped is not given back"
    assert bad.course.billed[-1] == fair.course.billed[-1] + 1
    assert bad.slo.minute_attainment[-8:].min() > 0.99


def test_bins_that_the_trace_does_not_know_are_neither_billed_nor_scored(profile: CapacityProfile) -> None:
    trace = a_trace([*([1.0] * 720), *([1.0] * 5), *([math.nan] * 10), *([1.0] * 5)])
    outcome = only(played(trace, profile, "static-peak"), "static-peak")
    fleet = int(outcome.course.serving[0])
    assert outcome.gpu_hours == pytest.approx(fleet * 10 / 60)
    assert np.isnan(outcome.course.load).sum() == 10
    assert outcome.slo.classes["chat"].arrived[5:15].sum() == 0


def test_bins_of_ten_minutes_are_lived_in_slots_too(profile: CapacityProfile) -> None:
    trace = a_trace([1.0] * 72 + [2.0] * 3, step=timedelta(minutes=10))
    run = played(trace, profile, "hpa", "headstart")
    assert only(run, "hpa").slo.attainment > 0.8
    assert only(run, "hpa").course.load.size == 3


def test_seeds_differ_and_make_an_interval(profile: CapacityProfile) -> None:
    trace = a_trace([1.0] * 725)
    run = played(trace, profile, "static-peak", seeds=(1, 2, 3))
    requests = [each.slo.requests for each in run.outcomes["static-peak"]]
    assert len({*requests}) > 1
    interval = run.intervals("static-peak")["requests"]
    assert interval.mean == pytest.approx(sum(requests) / 3)
    assert interval.half_width > 0.0
    (document,) = run.as_json()["policies"]
    assert document["requests"] == pytest.approx(interval.mean)
    assert document["ci95"]["requests"] == pytest.approx(interval.half_width)
    assert {*document["classes"]} == {"chat", "long"}
    assert document["regret"]["missed"].keys() == {"bounds", "late_signal", "cold_start", "late_decision"}


def test_traffic_is_scaled_to_the_peak_or_taken_as_it_is(profile: CapacityProfile) -> None:
    trace = a_trace([1.0] * 725)
    scaled, plain = (played(trace, profile, "static-mean", peak_replicas=peak) for peak in (4, None))
    assert only(scaled, "static-mean").course.load.mean() == pytest.approx(4.0, rel=0.1)
    assert plain.requests_scale == 1.0
    assert only(plain, "static-mean").slo.requests == pytest.approx(300, rel=0.2)


def test_no_request_is_seen_by_the_product_before_it_arrives(profile: CapacityProfile) -> None:
    """Another future after the window's third minute leaves everything before it as it was."""
    calm = a_trace([*([1.0] * 720), *([1.0] * 10)])
    wild = a_trace([*([1.0] * 720), *([1.0] * 3), *([0.2] * 7)])
    scale = 5.0
    courses = [
        only(played(trace, profile, "headstart", "reactive", "dynamo", peak_replicas=None), policy).course
        for policy in ("headstart", "reactive", "dynamo")
        for trace in (_times(calm, scale), _times(wild, scale))
    ]
    for one, other in zip(courses[::2], courses[1::2], strict=True):
        assert one.billed[:4].tolist() == other.billed[:4].tolist()
        assert one.load[:3].tolist() == other.load[:3].tolist()


def _times(trace: Trace, factor: float) -> Trace:
    return replace(trace, series=replace(trace.series, values=trace.series.values * factor))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        pytest.param("headstrat", "Did you mean 'headstart'?", id="unknown"),
        pytest.param("headstart:oracle", "no policy 'headstart:oracle'", id="unknown forecaster"),
        pytest.param("hpa:2", "utilisation", id="an impossible knob"),
        pytest.param("reactive:0.5", "no policy 'reactive:0.5'", id="a knob where there is none"),
    ],
)
def test_an_unknown_policy_is_refused_before_anything_is_played(
    profile: CapacityProfile, policy: str, says: str
) -> None:
    with pytest.raises(UnknownPolicyError, match=says):
        played(half_a_day_and_a_ramp(), profile, policy)


@pytest.mark.parametrize("missing", ["service", "start", "tokens"])
def test_a_profile_that_does_not_say_enough_is_refused(profile: CapacityProfile, missing: str) -> None:
    if missing == "tokens":
        bare = replace(profile, classes=(replace(profile.classes[0], tokens=None), profile.classes[1]))
    else:
        bare = replace(profile, **{missing: None})
    with pytest.raises(ProfileError, match=f"needs .*`{missing}`"):
        played(half_a_day_and_a_ramp(), bare, "hpa")


def test_an_event_outside_the_window_is_refused(profile: CapacityProfile) -> None:
    with pytest.raises(EventError, match="outside the window"):
        played(half_a_day_and_a_ramp(), profile, "hpa", events=("step@+1h",))
