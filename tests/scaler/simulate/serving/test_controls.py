"""What whoever is in charge is shown, and when."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.trace import Trace
from forecaster.types import Series
from scaler.loop import TickReport
from scaler.policy.capacity import CapacityProfile, ClassCapacity, StartPhases
from scaler.service.model import ServiceModel
from scaler.simulate.policies import Memory, Sight
from scaler.simulate.serving import controls
from scaler.simulate.serving.controls import PlannerControl, RuleControl
from scaler.simulate.serving.engine import Request
from scaler.simulate.serving.pool import Pool
from scaler.simulate.serving.run import ServingSetting, simulate_serving
from scaler.simulate.serving.signals import Meter

SERVICE = ServiceModel(alpha_s=0.1, beta_s=0.0, gamma_s=0.0, max_num_seqs=4, kv_tokens=100_000)
CLASSES = (ClassCapacity(name="chat", max_rps=2.0),)
START = datetime(2026, 11, 20, 6, tzinfo=UTC)


class Onlooker:
    """A planner and a rule that write down what they see and ask for one replica more each time."""

    name = "onlooker"

    def __init__(self) -> None:
        self.sights: list[Sight] = []
        self.loads: list[tuple[float, int]] = []

    def decide(self, *seen: object) -> tuple[int, Memory]:
        if len(seen) == 2:
            (sight, memory) = seen
            assert isinstance(sight, Sight)
            self.sights.append(sight)
            return sight.ordered + 1, (memory,)
        (load, replicas, memory) = seen
        assert isinstance(load, float)
        assert isinstance(replicas, int)
        self.loads.append((load, replicas))
        return replicas + 1, (memory,)


class Stage:
    """A pool and a meter; `slot` lets a slot with so many requests pass."""

    def __init__(self) -> None:
        self.pool = Pool(SERVICE, StartPhases(warmup_s=40.0), replicas=1)
        self.meter = Meter(CLASSES, self.pool)
        self.now_s = 0.0

    def slot(self, requests: int) -> None:
        for index in range(requests):
            at_s = self.now_s + 15.0 * index / requests
            self.pool.advance(at_s)
            self.pool.submit(Request(request_class="chat", arrived_s=at_s, input_tokens=5, output_tokens=10_000))
            self.meter.arriving["chat"] += 1
        self.now_s += 15.0
        self.pool.advance(self.now_s)
        self.meter.close(self.pool.take_ended())


def test_a_planner_sees_the_past_slot_by_slot_the_pods_and_the_queue() -> None:
    stage, onlooker = Stage(), Onlooker()
    control = PlannerControl(
        onlooker,
        pool=stage.pool,
        meter=stage.meter,
        history=np.array([0.5, 0.25]),
        slots=8,
        start=START,
        cold_start_s=40.0,
    )
    for requests in (30, 60, 0):
        stage.slot(requests)
        control.act(stage.now_s)
    first, second, third = onlooker.sights
    assert first.past.tolist() == [0.5, 0.25, 1.0]
    assert second.past.tolist() == [0.5, 0.25, 1.0, 1.5], "the mean of the last minute, as far as there is one"
    assert third.past.tolist() == [0.5, 0.25, 1.0, 1.5, 1.0]
    assert [each.at for each in onlooker.sights] == [START + timedelta(seconds=15 * n) for n in (1, 2, 3)]
    assert [(each.ordered, each.ready) for each in onlooker.sights] == [(1, 1), (2, 1), (3, 1)]
    assert (second.step, second.cold_start_bins) == (timedelta(seconds=15), 3)
    assert (first.running, first.waiting) == (4.0, 26.0)
    assert [each.request_class for each in first.latency] == ["chat"]


def test_what_is_dark_is_unknown_in_the_past_and_nobody_is_asked() -> None:
    stage, onlooker = Stage(), Onlooker()
    control = PlannerControl(
        onlooker, pool=stage.pool, meter=stage.meter, history=np.empty(0), slots=3, start=START, cold_start_s=40.0
    )
    for dark in (False, True, False):
        stage.slot(30)
        stage.meter.dark = dark
        control.act(stage.now_s)
    assert len(onlooker.sights) == 2
    assert [math.isnan(each) for each in onlooker.sights[-1].past] == [False, True, False]


def test_a_rule_sees_the_load_of_the_last_minute_and_all_that_is_ordered() -> None:
    stage, onlooker = Stage(), Onlooker()
    control = RuleControl(onlooker, pool=stage.pool, meter=stage.meter)
    for requests in (30, 60):
        stage.slot(requests)
        control.act(stage.now_s)
    assert onlooker.loads == [(1.0, 1), (1.5, 2)]
    assert stage.pool.ordered == 3


def test_the_product_ticks_once_a_bin_and_not_at_the_end(
    profile: CapacityProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[datetime] = []
    real = controls.tick_on_record

    def noted(*arguments: object, now: datetime) -> TickReport:
        ticks.append(now)
        return real(*arguments, now=now)  # type: ignore[arg-type]

    monkeypatch.setattr(controls, "tick_on_record", noted)
    series = Series(start=START, step=timedelta(minutes=1), values=np.full(6, 1.0))
    trace = Trace(name="t", column="requests", series=series)
    simulate_serving(trace, profile, ["reactive"], ServingSetting(score_from=START, peak_replicas=2), members=())
    assert ticks == [START + timedelta(minutes=minute) for minute in range(1, 6)]
