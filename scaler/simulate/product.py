"""The product inside the simulator: the daemon's own tick and forecasting engine over a virtual cluster.

Not a model of the product but the product: what decides here is what decides in the daemon. This module only plugs
virtual ports in and turns the crank once a bin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from forecaster.models import ensemble
from forecaster.models.replay import replayed
from forecaster.preprocess import DAY, bins_in, panel_of, tail, up_to
from forecaster.types import Forecaster, SeriesKey
from scaler.loop import Fleet, Ports, TickReport, tick
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.types import DemandForecast, PolicyState
from scaler.ports import Forecasts, Journal
from scaler.simulate.cluster import LastTickJournal, VirtualCluster, VirtualWorkload

if TYPE_CHECKING:
    from forecaster.backtest import Refit

SIGNAL = "demand_rps"
"""The signal that is forecast."""


class EngineForecasts:
    """`scaler.ports.Forecasts` by the forecasting engine, once a bin, over all workloads in one batch.

    It sees what the metrics showed up to now (dark bins are unknown) and hands its own state on from bin to bin.
    """

    def __init__(
        self,
        workloads: Sequence[VirtualWorkload],
        members: Sequence[Forecaster],
        *,
        ahead: bool = False,
        refit: Refit | None = None,
    ) -> None:
        """`ahead` asks models without memory for many bins in one batch: the same answers, sooner (see `replay`).
        `refit` names the members anew 24 hours after the first forecast, and every 24 hours from then on; it is shown
        what is known then, and one that finds nobody leaves the members as they are.
        """
        self._keys = {
            each.name: SeriesKey(workload=each.name, signal=SIGNAL, request_class=each.request_class)
            for each in _by_name(workloads)
        }
        self._panel = panel_of([(self._keys[each.name], each.seen_rps()) for each in workloads])
        self._lead_steps = {self._keys[each.name]: each.cold_start_bins + 1 for each in workloads}
        self._ahead = ahead
        self._refit = refit
        self._refit_at: datetime | None = None
        self._members: tuple[Forecaster, ...] = ()
        self._lookback = DAY
        self._take(members)
        self._state: ensemble.EngineState | None = None

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        """See `scaler.ports.Forecasts`."""
        known = up_to(self._panel, now)
        if self._refit is not None and self._due(now):
            # Whoever is new reads the whole history once.
            self._take(self._refit(known) or self._members)
        elif self._state is not None:
            known = tail(known, bins_in(self._lookback, known.step))
        answer = ensemble.step(self._members, known, self._state, lead_steps=self._lead_steps)
        self._state = answer.state
        return {
            name: (DemandForecast(forecast=answer.forecasts[key], quality=answer.quality.get(key)),)
            for name, key in self._keys.items()
            if key in answer.forecasts
        }

    def _take(self, members: Sequence[Forecaster]) -> None:
        self._members = tuple(replayed(each, self._panel) if self._ahead else each for each in members)
        self._lookback = ensemble.lookback(self._members)

    def _due(self, now: datetime) -> bool:
        """Whether a day has passed since the last fit, the one before the first forecast included."""
        due = self._refit_at is not None and now >= self._refit_at
        if due or self._refit_at is None:
            self._refit_at = now + DAY
        return due


class NoForecasts:
    """`scaler.ports.Forecasts` of a product without a forecaster."""

    def latest(self, *, now: datetime) -> Mapping[str, tuple[DemandForecast, ...]]:
        """Nothing."""
        del now
        return {}


def reactive(fleet: Fleet) -> Fleet:
    """The same fleet with load, latency and scheduled rules alone: what the forecast is worth is the difference."""
    without = (replace(policy, predictive=replace(policy.predictive, enabled=False)) for policy in fleet.workloads)
    return replace(fleet, workloads=tuple(without))


def run(
    fleet: Fleet,
    cluster: VirtualCluster,
    forecasts: Forecasts,
    *,
    observe: Callable[[TickReport], None] | None = None,
    journal: Journal | None = None,
) -> Mapping[str, PolicyState]:
    """Let the rest of the trace flow, one tick after each bin; `observe` is shown each. Returns the last states.

    `journal` keeps every tick, as the daemon's does. Raises `OSError` where it cannot.
    """
    ports = Ports(
        signals=cluster.signals, forecasts=forecasts, targets=cluster.targets, journal=journal or LastTickJournal()
    )
    states: Mapping[str, PolicyState] = {}
    while cluster.bins_left:
        now = cluster.flow()
        report = tick_on_record(fleet, states, ports, now=now)
        states = report.states
        if observe is not None:
            observe(report)
    return states


def tick_on_record(fleet: Fleet, states: Mapping[str, PolicyState], ports: Ports, *, now: datetime) -> TickReport:
    """The daemon's tick; `OSError` where the journal did not take it.

    The daemon goes on scaling without its record. A run that is played for its record has no use for one with gaps.
    """
    report = tick(fleet, states, ports, now=now)
    if report.journal_error:
        raise OSError(f"the journal did not take the decisions of {now:%FT%TZ}: {report.journal_error}")
    return report


def policy_of(workload: VirtualWorkload, settings: WorkloadPolicy) -> WorkloadPolicy:
    """`settings` for this workload: its name, its profile, and a configured start time that is the true one."""
    start_time = workload.demand_rps.step * workload.cold_start_bins
    return replace(settings, workload=workload.name, profile=workload.profile, start_time=start_time)


def _by_name(workloads: Sequence[VirtualWorkload]) -> Sequence[VirtualWorkload]:
    names = [each.name for each in workloads]
    if len(set(names)) != len(names):
        raise ValueError(f"workload names must differ, got {', '.join(sorted(names))}")
    return workloads
