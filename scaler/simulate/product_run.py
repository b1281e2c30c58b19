"""The product on a trace: what its name asks for, how its daemon is set up, and its life until the window's end.

It lives through the warm-up day before the window and is scored in the window alone. What decides is the daemon's own
tick (`product`), on the virtual ports of `cluster`; nothing here decides, scores, or knows another policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.models.ensemble import family
from forecaster.preprocess import bins_in
from forecaster.trace import Trace
from forecaster.types import DEFAULT_CLASS, STEP, Forecaster, Panel, Series, SeriesKey
from scaler.loop import Fleet, TickReport
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.limits import Bounds
from scaler.policy.steering import SteeringRule
from scaler.policy.trust import TrustRule
from scaler.policy.types import Mode
from scaler.ports import Forecasts
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.policies import opening_replicas
from scaler.simulate.product import SIGNAL, EngineForecasts, NoForecasts, policy_of, reactive, run
from scaler.simulate.queueing import ReplicaLatency
from scaler.simulate.recording import Recorder, Track
from scaler.simulate.setting import HISTORY, Setting, UnknownPolicyError, opening_bin, scored_bins

if TYPE_CHECKING:
    from forecaster.backtest import Refit
    from scaler.ports import Journal
    from scaler.simulate.scoring import Course

PRODUCT = "headstart"
REACTIVE = "reactive"
TARGET = "target="
"""After the product's name: the share of bins that it may miss, such as `headstart:target=0.5%`."""
NO_QUEUE = ReplicaLatency(patience_s=0.0)
"""Clients that do not wait: the protocol compares load and capacity, bin by bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRun:
    """The product on a trace of which the bins [first, last) are scored."""

    trace: Trace
    first: int
    last: int
    capacity_rps: float
    cold_start_bins: int
    most: int
    """No more replicas than this are ordered."""
    members: tuple[Forecaster, ...] | None
    """Its forecasters; None: it is told to do without (`REACTIVE`)."""
    missed_target_ratio: float
    refit: Refit | None = None
    """Names the forecasters anew every 24 hours from the opening of the warm-up day on."""
    recorded: bool = False
    journal: Journal | None = None
    """Takes every decision from the warm-up day on, as the daemon's does."""

    def play(self, tell: Callable[[float], None]) -> tuple[Course, Track | None]:
        """The scored window's course, and what was decided in it and why if that is `recorded`."""
        workload, opens = self._workload()
        policy = product_policy(workload, most=self.most, missed_target_ratio=self.missed_target_ratio)
        fleet = Fleet(workloads=(policy,))
        if self.members is None:
            fleet = reactive(fleet)
        demand = workload.demand_rps
        opening = min(opening_replicas(demand.values[opens:] / self.capacity_rps), self.most)
        cluster = VirtualCluster([workload], replicas={workload.name: opening}, first_bin=opens)
        total, scored = demand.values.size, self.last - self.first
        bins = total - opens
        recorder = Recorder([workload]) if self.recorded else None

        def observe(report: TickReport) -> None:
            if recorder is not None:
                recorder.observe(report)
            if not report.at.minute:
                tell(1.0 - cluster.bins_left / bins)

        forecasts: Forecasts = NoForecasts()
        if self.members:
            forecasts = EngineForecasts([workload], self.members, ahead=True, refit=self.refit)
        run(fleet, cluster, forecasts, observe=observe, journal=self.journal)
        course = cluster.course(workload.name).window(bins - scored, bins)
        return course, recorder.tracks()[workload.name].window(total - scored, total) if recorder else None

    def _workload(self) -> tuple[VirtualWorkload, int]:
        """The trace with its history as a workload, and its bin at which the warm-up day opens."""
        series = self.trace.series
        opens = opening_bin(self.first, series.step)
        begin = max(0, opens - bins_in(HISTORY, series.step))
        workload = VirtualWorkload(
            name=workload_name(self.trace),
            demand_rps=Series(
                start=series.start + series.step * begin, step=series.step, values=series.values[begin : self.last]
            ),
            profile=single_rate("trace", self.capacity_rps),
            cold_start_bins=self.cold_start_bins,
            latency=NO_QUEUE,
        )
        return workload, opens - begin


def workload_name(trace: Trace) -> str:
    """What the workload of a trace is called, in journals too."""
    return f"trace/{trace.name}"


def known_at_opening(trace: Trace, setting: Setting) -> Panel:
    """What is known when the product's warm-up day opens, under the key that it forecasts: what a fit may be shown.

    Raises `SeriesError` where there is nothing to score.
    """
    series = trace.series
    opens = opening_bin(scored_bins(series, setting)[0], series.step)
    key = SeriesKey(workload=workload_name(trace), signal=SIGNAL, request_class=DEFAULT_CLASS)
    return Panel(keys=(key,), start=series.start, step=series.step, values=series.values[None, :opens])


def product_policy(workload: VirtualWorkload, *, most: int, missed_target_ratio: float) -> WorkloadPolicy:
    """The product's defaults, active, within the setting's bound and target, and with one decision a bin.

    `TrustRule.least_scored_bins` is meant in minutes: left at 120 it would ask for 20 hours of ten-minute bins, of
    which the judged six hours hold 36, and no forecast would ever be trusted.
    """
    minutes = TrustRule().least_scored_bins * STEP
    settings = WorkloadPolicy(
        workload=workload.name,
        profile=workload.profile,
        mode=Mode.ACTIVE,
        tick=workload.demand_rps.step,
        trust=TrustRule(least_scored_bins=bins_in(minutes, workload.demand_rps.step)),
        steering=SteeringRule(missed_target_ratio=missed_target_ratio),
        bounds=Bounds(min_replicas=1, max_replicas=most),
    )
    return policy_of(workload, settings)


def asked_of_product(
    name: str, members: tuple[Forecaster, ...], missed_target_ratio: float
) -> tuple[tuple[Forecaster, ...], float] | None:
    """Forecasters and target of "headstart", "headstart:MODEL", "headstart:target=0.5%" or both, each at most once.

    None where there is no model of that name; `UnknownPolicyError` for what cannot be said.
    """
    target: str | None = None
    model: str | None = None
    for part in name.split(":")[1:]:
        if part.startswith(TARGET) and target is None:
            target = part
        elif not part.startswith(TARGET) and model is None:
            model = part
        else:
            raise UnknownPolicyError(f"{name!r} has two of one kind: one model and one target at most")
    if target is not None:
        missed_target_ratio = target_ratio(target.removeprefix(TARGET), name)
    if model is not None:
        members = tuple(each for each in members if family(each.model_id) == model)
        if not members:
            return None
    return members, missed_target_ratio


def target_ratio(text: str, name: str) -> float:
    """The ratio in "0.5%" or "0.005" of the policy of that name; `UnknownPolicyError` unless it lies in (0, 1)."""
    digits = text.removesuffix("%")
    try:
        ratio = float(digits) / (1.0 if digits == text else 100.0)
    except ValueError:
        raise UnknownPolicyError(f"{name!r} needs a share after {TARGET}, such as {PRODUCT}:{TARGET}0.5%") from None
    if not 0.0 < ratio < 1.0:
        raise UnknownPolicyError(f"the target of {name!r} must lie above 0 and below 100%")
    return ratio
