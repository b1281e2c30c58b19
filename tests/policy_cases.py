"""Builders for snapshots, policies and forecasts: each test states only what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from forecaster.types import DEFAULT_CLASS, HORIZONS, Forecast, ForecastQuality, Known, Reading
from scaler.policy.capacity import CapacityProfile, single_rate
from scaler.policy.decide import WorkloadPolicy, decide
from scaler.policy.latency import LatencyRule, Slo
from scaler.policy.limits import Bounds
from scaler.policy.types import (
    NOT_READ,
    ClassReadings,
    Decision,
    DemandForecast,
    Mode,
    PolicyState,
    ReplicaState,
    Snapshot,
)

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GOOD = ForecastQuality(coverage_95=0.95, wape=0.10, wape_last_value=0.12, scored_bins=360)


def a_forecast(
    median_rps: float,
    *,
    spread_rps: float = 0.0,
    issued_at: datetime = NOON,
    request_class: str = DEFAULT_CLASS,
    model: str = "test",
    later_rps: Mapping[int, float] | None = None,
) -> Forecast:
    """A forecast that is flat at `median_rps`, or `later_rps[h]` from horizon h on; each level adds `spread_rps`."""
    values, level = [], median_rps
    for horizon in HORIZONS:
        level = (later_rps or {}).get(horizon, level)
        values.append(tuple(level + spread_rps * i for i in range(4)))
    return Forecast(
        model=model,
        issued_at=issued_at,
        expires_at=issued_at + timedelta(minutes=10),
        step_s=60.0,
        horizons=HORIZONS,
        values=tuple(values),
        request_class=request_class,
    )


def a_snapshot(
    *,
    rps: float | Reading | Mapping[str, float] = 0.0,
    desired: int = 1,
    ready: int | None = None,
    p95_s: float | Reading = NOT_READ,
    ttft_s: Reading = NOT_READ,
    queue_s: Reading = NOT_READ,
    itl_s: Reading = NOT_READ,
    waiting: float | Reading = NOT_READ,
    lead_s: float = 180.0,
    forecasts: tuple[Forecast, ...] = (),
    quality: ForecastQuality | None = GOOD,
    starting: int = 0,
    unschedulable: int = 0,
    failed: int = 0,
) -> Snapshot:
    """One workload at one tick; plain numbers become `Known` readings."""
    rates = rps if isinstance(rps, Mapping) else {DEFAULT_CLASS: rps}
    return Snapshot(
        workload="llm/chat",
        replicas=ReplicaState(
            desired=desired,
            ready=desired if ready is None else ready,
            starting=starting,
            unschedulable=unschedulable,
            failed=failed,
        ),
        classes=tuple(
            ClassReadings(
                request_class=name,
                demand_rps=_reading(rate),
                e2e_p95_s=_reading(p95_s),
                ttft_p95_s=ttft_s,
                queue_time_p95_s=queue_s,
                itl_p95_s=itl_s,
            )
            for name, rate in rates.items()
        ),
        lead_time_s=lead_s,
        requests_waiting=_reading(waiting),
        forecasts=tuple(DemandForecast(forecast=each, quality=quality) for each in forecasts),
    )


def a_policy(
    *,
    max_rps: float = 10.0,
    profile: CapacityProfile | None = None,
    slo_s: float | None = None,
    most: int = 100,
    least: int = 1,
    mode: Mode = Mode.ACTIVE,
    **rules: object,
) -> WorkloadPolicy:
    """An active workload with `max_rps` a replica and wide bounds."""
    policy = WorkloadPolicy(
        workload="llm/chat",
        profile=profile or single_rate("test", max_rps),
        mode=mode,
        bounds=Bounds(min_replicas=least, max_replicas=most),
        latency=LatencyRule(slos=() if slo_s is None else (Slo(e2e_p95_s=slo_s),)),
    )
    return replace(policy, **rules)  # type: ignore[arg-type]


def settled(snapshot: Snapshot, policy: WorkloadPolicy, *, now: datetime = NOON, minutes: int = 10) -> PolicyState:
    """The state after `minutes` ticks of an unchanged world, the last one a minute before `now`."""
    state = PolicyState()
    for ago in range(minutes, 0, -1):
        _, state = decide(snapshot, state, policy, now=now - ago * MINUTE)
    return state


def run(
    snapshots: list[Snapshot], policy: WorkloadPolicy, *, state: PolicyState | None = None, start: datetime = NOON
) -> list[Decision]:
    """Decide minute by minute; each snapshot's scale is replaced by what the last decision asked for, Ready at once."""
    state, decisions, scale = state or PolicyState(), [], None
    for i, snapshot in enumerate(snapshots):
        if scale is not None and isinstance(snapshot.replicas, ReplicaState):
            snapshot = replace(snapshot, replicas=replace(snapshot.replicas, desired=scale, ready=scale))
        decision, state = decide(snapshot, state, policy, now=start + i * MINUTE)
        decisions.append(decision)
        scale = decision.target
    return decisions


def _reading(value: float | Reading) -> Reading:
    return Known(value=float(value)) if isinstance(value, int | float) else value
