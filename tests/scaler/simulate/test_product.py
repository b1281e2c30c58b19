"""The product in the simulator is the product: the same tick, on what was known then and nothing later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecaster.models.seasonal import LastValue
from forecaster.types import STEP, Forecast, Series
from scaler.loop import Fleet, TickReport
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import Bounds
from scaler.policy.types import DemandForecast, Mode, Reason
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.product import EngineForecasts, NoForecasts, policy_of, reactive, run

START = datetime(2026, 3, 2, tzinfo=UTC)


def a_workload(
    demand_rps: np.ndarray, *, name: str = "llm/chat", dark: tuple[int, int] | None = None
) -> VirtualWorkload:
    spans = () if dark is None else (tuple(START + timedelta(minutes=each) for each in dark),)
    return VirtualWorkload(
        name=name,
        demand_rps=Series(start=START, step=STEP, values=demand_rps),
        profile=single_rate("chat", 10.0),
        cold_start_bins=4,
        dark=spans,
    )


def a_fleet(*workloads: VirtualWorkload) -> Fleet:
    return Fleet(
        workloads=tuple(
            policy_of(
                each,
                WorkloadPolicy(
                    workload=each.name,
                    profile=each.profile,
                    mode=Mode.ACTIVE,
                    bounds=Bounds(max_replicas=50),
                    latency=LatencyRule(slos=(Slo(e2e_p95_s=1.2),)),
                ),
            )
            for each in workloads
        )
    )


class Prophet:
    """Knows the whole demand and is sure of it: every quantile is the truth."""

    def __init__(self, workload: VirtualWorkload) -> None:
        self._workload = workload

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        series = self._workload.demand_rps
        first = (now - series.start) // series.step
        coming = [series.values[min(first + ahead, series.values.size - 1)] for ahead in range(12)]
        forecast = Forecast(
            model="prophet",
            issued_at=now,
            expires_at=now + timedelta(minutes=2),
            step_s=60.0,
            horizons=tuple(range(1, 13)),
            values=tuple((value,) * 4 for value in coming),
            request_class=self._workload.request_class,
        )
        return {self._workload.name: (DemandForecast(forecast=forecast),)}


def test_a_step_that_was_forecast_meets_ready_replicas_and_one_that_was_not_does_not() -> None:
    workload = a_workload(np.concatenate([np.full(30, 20.0), np.full(30, 200.0)]))
    missed = {}
    for name, fleet, forecasts in (
        ("headstart", a_fleet(workload), Prophet(workload)),
        ("reactive", reactive(a_fleet(workload)), NoForecasts()),
    ):
        cluster = VirtualCluster([workload], replicas={workload.name: 3})
        run(fleet, cluster, forecasts)
        missed[name] = int(cluster.course(workload.name).missed.sum())
    # Seen at the end of minute 30, at most max(4, current) more a minute, Ready four minutes after each order. From 3 to
    # 20 takes three orders (7, 14, 20): the four minutes by which the demand might come early leave time for all three.
    assert missed == {"headstart": 0, "reactive": 7}


def test_every_decision_can_be_made_again_from_its_record() -> None:
    demand = 40.0 + 35.0 * np.sin(np.arange(240) / 20.0)
    workload = a_workload(demand, dark=(100, 110))
    reports: list[TickReport] = []
    cluster = VirtualCluster([workload], replicas={workload.name: 5})
    run(a_fleet(workload), cluster, Prophet(workload), observe=reports.append)
    assert len(reports) == 240
    for report in reports:
        (record,) = report.records
        assert decide(record.snapshot, record.state, record.policy, now=record.at)[0] == record.decision


def test_in_the_dark_nothing_is_released() -> None:
    workload = a_workload(np.concatenate([np.full(60, 90.0), np.full(60, 5.0)]), dark=(60, 80))
    reports: list[TickReport] = []
    cluster = VirtualCluster([workload], replicas={workload.name: 13})
    run(reactive(a_fleet(workload)), cluster, NoForecasts(), observe=reports.append)
    decisions = [report.records[0].decision for report in reports]
    assert {each.reason for each in decisions[60:80]} == {Reason.BLIND_DEMAND}
    assert set(cluster.course(workload.name).billed[60:86].tolist()) == {13}, "and not while re-warming"
    assert cluster.course(workload.name).billed[-1] < 13, "but then it is"


def test_the_engine_sees_no_bin_before_it_ended() -> None:
    calm = np.full(1600, 20.0)
    surprise = calm.copy()
    surprise[1560:] = 500.0
    seen = []
    for demand in (calm, surprise):
        workload = a_workload(demand)
        engine = EngineForecasts([workload], [LastValue()])
        answers = [engine.latest(now=START + STEP * ends) for ends in range(1500, 1562)]
        seen.append(answers)
    assert seen[0][:-1] == seen[1][:-1], "up to the end of minute 1560 both weeks look alike"
    assert seen[0][-1] != seen[1][-1]


def test_the_engine_never_sees_through_the_dark() -> None:
    demand = np.full(1600, 20.0)
    demand[1550:] = 500.0
    workload = a_workload(demand, dark=(1550, 1600))
    engine = EngineForecasts([workload], [LastValue()])
    engine.latest(now=START + STEP * 1550)
    (answer,) = engine.latest(now=START + STEP * 1560)["llm/chat"]
    assert answer.forecast.quantile(START + STEP * 1564, z=0.0) == pytest.approx(20.0)


def test_reactive_is_the_same_policy_without_its_forecast() -> None:
    fleet = a_fleet(a_workload(np.ones(10)))
    (with_it,), (without,) = fleet.workloads, reactive(fleet).workloads
    assert with_it.predictive.enabled
    assert not without.predictive.enabled
    assert with_it.latency == without.latency


def test_names_must_differ() -> None:
    twins = [a_workload(np.ones(10)), a_workload(np.ones(10))]
    with pytest.raises(ValueError, match="names must differ"):
        EngineForecasts(twins, [LastValue()])
