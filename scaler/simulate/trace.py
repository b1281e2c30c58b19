"""Policies on a traffic trace: the decision protocol of `headstart simulate`, from a series to a score a policy.

It decides which bins are scored, what one replica serves, and what each kind of policy is shown before the window
opens. Who decides on replicas is elsewhere: the product through the daemon's own tick (`product`), everybody else in
`policies`. There is no queue here: load above the serving capacity is missed once and does not come back.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from forecaster import registry
from forecaster.backtest import default_window
from forecaster.errors import SeriesError
from forecaster.models.ensemble import family
from forecaster.preprocess import DAY, bins_in
from forecaster.trace import Trace
from forecaster.types import STEP, Forecaster, Series
from scaler.loop import Fleet, TickReport
from scaler.policy.capacity import single_rate
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.limits import Bounds
from scaler.policy.trust import TrustRule
from scaler.policy.types import Mode
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.policies import (
    PLANNERS,
    PLANS,
    RULES,
    Past,
    opening_replicas,
    planner,
    replay,
    replay_planner,
    rule,
)
from scaler.simulate.product import EngineForecasts, NoForecasts, policy_of, reactive, run
from scaler.simulate.queueing import ReplicaLatency
from scaler.simulate.scoring import Course, Score, capacity_for_peak, score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.types import FloatArray

Progress = Callable[[float, str], None]
"""Told how far things are, 0 to 1, and what is done."""

PRODUCT = "headstart"
REACTIVE = "reactive"
DEFAULT_POLICIES = (PRODUCT, REACTIVE, "hpa", "oracle")
HISTORY = 14 * DAY
"""What a policy may know of the time before it begins: more buys nothing (measured)."""
WARM_UP = DAY
"""Before the window opens, what adapts online lives through so much of the trace, unscored."""
MOST_REPLICAS = 100_000
"""The product's upper bound: so far off that it decides nothing."""
NO_QUEUE = ReplicaLatency(patience_s=0.0)
"""Clients that do not wait: the protocol compares load and capacity, bin by bin."""


class UnknownPolicyError(ValueError):
    """A policy that is not there, or cannot be made so; the text says what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a trace is played."""

    cold_start: timedelta = timedelta(seconds=180)
    score_from: datetime | None = None
    """Where scoring begins; the last four days after at least one day of history unless given."""
    score_to: datetime | None = None
    """Where it ends, exclusive; the trace's end unless given."""
    peak_replicas: int = 16
    """Replicas that the 99.9 % quantile of the scored window needs …"""
    capacity_rps: float | None = None
    """… unless this says what one replica serves a second, in the trace's unit."""
    seed: int = 1
    """On record only: nothing that plays a trace today draws a random number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRun:
    """A trace, lived through by policies: each one's course and score over the scored window."""

    trace: Trace
    setting: Setting
    capacity_rps: float
    start: datetime
    """Where the scored window begins."""
    courses: Mapping[str, Course]
    """By policy, as it was asked for."""

    @property
    def step(self) -> timedelta:
        """Width of a bin."""
        return self.trace.series.step

    @property
    def end(self) -> datetime:
        """Where the scored window ends, exclusive."""
        return self.start + self.step * next(iter(self.courses.values())).load.size

    @property
    def scores(self) -> Mapping[str, Score]:
        """By policy."""
        return {name: score(course, bin_s=self.step.total_seconds()) for name, course in self.courses.items()}

    def as_json(self, label: str | None = None) -> dict[str, Any]:
        """`headstart simulate -o json`; the trace is called `label`, by its name unless given."""
        return {
            "apiVersion": "headstart/v1",
            "kind": "Simulation",
            "trace": label or self.trace.name,
            "column": self.trace.column,
            "seed": self.setting.seed,
            "cold_start_s": self.setting.cold_start.total_seconds(),
            "bin_s": self.step.total_seconds(),
            "capacity_rps": self.capacity_rps,
            "score_from": self.start.isoformat(),
            "score_to": self.end.isoformat(),
            "policies": [{"name": name, **each.as_json()} for name, each in self.scores.items()],
        }

    def rows(self) -> Iterator[tuple[str, str, float, str, int, int, int]]:
        """A row a policy and bin: `COLUMNS`. Load is in exactly full replicas, NaN where it is not known."""
        times = [
            (self.start + self.step * index).isoformat() for index in range(bins_in(self.end - self.start, self.step))
        ]
        for name, course in self.courses.items():
            columns = (course.load.tolist(), course.serving.tolist(), course.billed.tolist(), course.missed.tolist())
            for at, (load, serving, billed, missed) in zip(times, zip(*columns, strict=True), strict=True):
                yield self.trace.name, at, load, name, serving, billed, int(missed)


COLUMNS = ("unique_id", "ds", "y", "policy", "serving", "billed", "missed")
"""Of `TraceRun.rows`, the Nixtla shape first."""


def known_policies(members: Sequence[Forecaster]) -> tuple[str, ...]:
    """Every policy by name; those with `:u` take a utilisation."""
    return (
        PRODUCT,
        *(f"{PRODUCT}:{family(each.model_id)}" for each in members),
        REACTIVE,
        *(f"{each}:u" for each in (*RULES, *PLANNERS)),
        *PLANS,
    )


def simulate(
    trace: Trace,
    policies: Sequence[str],
    setting: Setting,
    *,
    members: Sequence[Forecaster] | None = None,
    progress: Progress | None = None,
) -> TraceRun:
    """Play every policy on the trace. Equal arguments give an equal run.

    `members` are the product's forecasters, the shipped ones for this bin width unless given. Raises
    `UnknownPolicyError` before anything is played, and `SeriesError` where there is nothing to score.
    """
    found = tuple(members if members is not None else registry.members(step=trace.series.step).forecasters)
    stage = _Stage.of(trace, setting, found)
    names = tuple(dict.fromkeys(policies))
    players = [stage.player(name) for name in names]
    courses: dict[str, Course] = {}
    for index, (name, play) in enumerate(zip(names, players, strict=True)):
        base, share = index / len(names), 1.0 / len(names)

        def tell(part: float, base: float = base, share: float = share, name: str = name) -> None:
            if progress is not None:
                progress(base + share * part, f"{name} decides")

        tell(0.0)
        courses[name] = play(tell)
    return TraceRun(
        trace=trace,
        setting=setting,
        capacity_rps=stage.capacity_rps,
        start=trace.series.start + trace.series.step * stage.first,
        courses=courses,
    )


_Play = Callable[[Callable[[float], None]], Course]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What all policies share: the series, the scored bins [first, last), the capacity and the cold start in bins."""

    trace: Trace
    members: tuple[Forecaster, ...]
    first: int
    last: int
    capacity_rps: float
    cold_start_bins: int

    @classmethod
    def of(cls, trace: Trace, setting: Setting, members: tuple[Forecaster, ...]) -> _Stage:
        first, last = _window(trace.series, setting)
        return cls(
            trace=trace,
            members=members,
            first=first,
            last=last,
            capacity_rps=_capacity(trace.series.values[first:last], setting),
            cold_start_bins=-(-setting.cold_start // trace.series.step),
        )

    @property
    def load(self) -> FloatArray:
        """The scored window in exactly full replicas."""
        return self.trace.series.values[self.first : self.last] / self.capacity_rps

    def player(self, name: str) -> _Play:
        """How the policy of that name is played; `UnknownPolicyError` if there is none."""
        group, _, argument = name.partition(":")
        try:
            if name == REACTIVE:
                return self._reactive
            if group == PRODUCT:
                members = self.members if name == PRODUCT else self._member(argument)
                return lambda tell: self._product(members, tell)
            if name in PLANS:
                return lambda tell: PLANS[name](self.load, self.cold_start_bins)
            if group in RULES:
                chosen = rule(name, step=self.trace.series.step)
                return lambda tell: replay(chosen, self.load, cold_start_bins=self.cold_start_bins)
            if group in PLANNERS:
                planned = planner(name, self._past)
                return lambda tell: replay_planner(
                    planned,
                    self.load,
                    start=self._past.start,
                    step=self._past.step,
                    cold_start_bins=self.cold_start_bins,
                    history=self._past.loads,
                )
        except UnknownPolicyError:
            raise
        except ValueError as error:
            raise UnknownPolicyError(str(error)) from error
        raise UnknownPolicyError(self._unknown(name))

    def _member(self, wanted: str) -> tuple[Forecaster, ...]:
        chosen = tuple(each for each in self.members if family(each.model_id) == wanted)
        if not chosen:
            raise UnknownPolicyError(self._unknown(f"{PRODUCT}:{wanted}"))
        return chosen

    def _unknown(self, name: str) -> str:
        known = known_policies(self.members)
        plain = [each.removesuffix(":u") for each in known]
        near = difflib.get_close_matches(name, plain, n=1) or difflib.get_close_matches(
            name.partition(":")[0], plain, n=1
        )
        meant = f" Did you mean {near[0]!r}?" if near else ""
        return f"no policy {name!r}.{meant} There are {', '.join(known)}."

    @property
    def _past(self) -> Past:
        series = self.trace.series
        begin = max(0, self.first - bins_in(HISTORY, series.step))
        return Past(
            loads=series.values[begin : self.first] / self.capacity_rps,
            start=series.start + series.step * self.first,
            step=series.step,
        )

    # ── The product: the daemon's tick on virtual ports ──

    def _product(self, members: tuple[Forecaster, ...], tell: Callable[[float], None]) -> Course:
        workload, opens = self._workload()
        return self._lived(workload, opens, Fleet(workloads=(_policy(workload),)), members, tell)

    def _reactive(self, tell: Callable[[float], None]) -> Course:
        workload, opens = self._workload()
        return self._lived(workload, opens, reactive(Fleet(workloads=(_policy(workload),))), (), tell)

    def _workload(self) -> tuple[VirtualWorkload, int]:
        """The trace with its history as a workload, and its bin at which the warm-up day opens."""
        series = self.trace.series
        opens = max(0, self.first - bins_in(WARM_UP, series.step))
        begin = max(0, opens - bins_in(HISTORY, series.step))
        workload = VirtualWorkload(
            name=f"trace/{self.trace.name}",
            demand_rps=Series(
                start=series.start + series.step * begin, step=series.step, values=series.values[begin : self.last]
            ),
            profile=single_rate("trace", self.capacity_rps),
            cold_start_bins=self.cold_start_bins,
            latency=NO_QUEUE,
        )
        return workload, opens - begin

    def _lived(
        self,
        workload: VirtualWorkload,
        opens: int,
        fleet: Fleet,
        members: tuple[Forecaster, ...],
        tell: Callable[[float], None],
    ) -> Course:
        demand = workload.demand_rps
        opening = opening_replicas(demand.values[opens:] / self.capacity_rps)
        cluster = VirtualCluster([workload], replicas={workload.name: opening}, first_bin=opens)
        bins = demand.values.size - opens

        def observe(report: TickReport) -> None:
            if not report.at.minute:
                tell(1.0 - cluster.bins_left / bins)

        forecasts = EngineForecasts([workload], members, ahead=True) if members else NoForecasts()
        run(fleet, cluster, forecasts, observe=observe)
        return cluster.course(workload.name).window(bins - (self.last - self.first), bins)


def _policy(workload: VirtualWorkload) -> WorkloadPolicy:
    """The product's defaults, active, with bounds that never bind and one decision a bin.

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
        bounds=Bounds(min_replicas=1, max_replicas=MOST_REPLICAS),
    )
    return policy_of(workload, settings)


def _window(series: Series, setting: Setting) -> tuple[int, int]:
    """The bins that are scored: those that start in [from, to)."""
    bins = series.values.size
    last = bins if setting.score_to is None else _bin_from(series, setting.score_to)
    last = min(max(last, 0), bins)
    if setting.score_from is None:
        if not last:
            raise SeriesError(f"the trace begins at {series.start}, after the end of the window {setting.score_to}")
        known = Series(start=series.start, step=series.step, values=series.values[:last])
        first = _bin_from(series, default_window(known).score_from)
    else:
        first = min(max(_bin_from(series, setting.score_from), 0), bins)
    if first >= last:
        wanted = f"[{setting.score_from or series.start}, {setting.score_to or series.end})"
        raise SeriesError(f"nothing to score in {wanted}; the trace covers [{series.start}, {series.end})")
    return first, last


def _bin_from(series: Series, moment: datetime) -> int:
    """The first bin that starts at or after `moment`."""
    return -((series.start - moment) // series.step)


def _capacity(window: FloatArray, setting: Setting) -> float:
    if setting.capacity_rps is not None:
        return setting.capacity_rps
    try:
        return capacity_for_peak(window, peak_replicas=setting.peak_replicas)
    except ValueError as error:
        raise SeriesError(f"{error}; name one with --capacity-rps") from error
