"""Policies on a traffic trace: the decision protocol of `headstart simulate`, from a series to a score a policy.

It decides which bins are scored, what one replica serves, and what each kind of policy is shown before the window
opens. Who decides on replicas is elsewhere: the product through the daemon's own tick (`product`), everybody else in
`policies`. There is no queue here: load above the serving capacity is missed once and does not come back.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

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
from scaler.policy.steering import SteeringRule
from scaler.policy.trust import TrustRule
from scaler.policy.types import Mode
from scaler.simulate.bounded import BoundedPlanner, BoundedRule
from scaler.simulate.cluster import VirtualCluster, VirtualWorkload
from scaler.simulate.policies import (
    PLANNERS,
    PLANS,
    RULES,
    Past,
    Plan,
    Planner,
    opening_replicas,
    oracle,
    planner,
    replay,
    replay_planner,
    rule,
)
from scaler.simulate.product import EngineForecasts, NoForecasts, policy_of, reactive, run
from scaler.simulate.queueing import ReplicaLatency
from scaler.simulate.recording import Recorder, Track
from scaler.simulate.regret import Regret, regret
from scaler.simulate.scoring import Course, Score, capacity_for_peak, score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.types import FloatArray

Progress = Callable[[float, str], None]
"""Told how far things are, 0 to 1, and what is done."""

PRODUCT = "headstart"
REACTIVE = "reactive"
TARGET = "target="
"""After the product's name: the share of bins that it may miss, such as `headstart:target=0.5%`."""
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
    max_replicas: int | None = None
    """No policy orders more than this; unlimited unless given. A rival's opening fleet lasts to its first decision."""
    missed_target_ratio: float = SteeringRule().missed_target_ratio
    """Share of bins that the product may miss, where its name does not say otherwise."""
    price_per_gpu_hour: float | None = None
    """What a GPU-hour costs, in any money; the result then says what each policy's costs."""
    seed: int = 1
    """On record only: nothing that plays a trace today draws a random number."""

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < 1:
            raise ValueError(f"max_replicas must be at least 1, got {self.max_replicas}")
        if not 0.0 < self.missed_target_ratio < 1.0:
            raise ValueError(f"missed_target_ratio must lie in (0, 1), got {self.missed_target_ratio}")
        if self.price_per_gpu_hour is not None and not 0.0 <= self.price_per_gpu_hour < math.inf:
            raise ValueError(f"price_per_gpu_hour must be at least 0, got {self.price_per_gpu_hour}")

    def cold_start_bins(self, step: timedelta) -> int:
        """The cold start in whole bins of that width, a bin begun counting whole."""
        return -(-self.cold_start // step)


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
    oracle: Course
    """The least GPU time without a miss, within the bounds: what regret is measured against."""
    tracks: Mapping[str, Track] = field(default_factory=dict)
    """What the product forecast and why it decided as it did, by policy; of the rivals there is nothing to tell."""

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

    @property
    def regrets(self) -> Mapping[str, Regret]:
        """By policy: what its misses and its GPU-hours above the oracle's are owed to."""
        return {
            name: regret(
                course,
                self.oracle,
                cold_start_bins=self.setting.cold_start_bins(self.step),
                max_replicas=self.setting.max_replicas,
                bin_s=self.step.total_seconds(),
            )
            for name, course in self.courses.items()
        }

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
            **self._asked_for(),
            "policies": self._policies(),
        }

    def _asked_for(self) -> dict[str, Any]:
        """Settings that are on record only where somebody set them."""
        said = {"max_replicas": self.setting.max_replicas, "price_per_gpu_hour": self.setting.price_per_gpu_hour}
        return {name: value for name, value in said.items() if value is not None}

    def _policies(self) -> list[dict[str, Any]]:
        price, regrets = self.setting.price_per_gpu_hour, self.regrets
        documents = []
        for name, each in self.scores.items():
            money = {} if price is None else {"money": round(each.gpu_hours * price, 2)}
            documents.append({"name": name, **each.as_json(), **money, "regret": regrets[name].as_json(price=price)})
        return documents

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
    """Every policy by name; those with `:u` take a utilisation. The product's target (`TARGET`) is left out."""
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
    recorded: bool = False,
) -> TraceRun:
    """Play every policy on the trace. Equal arguments give an equal run.

    `recorded` keeps what the product decided in each bin, and why (`TraceRun.tracks`). `members` are the product's
    forecasters, the shipped ones for this bin width unless given. Raises `UnknownPolicyError` before anything is
    played, and `SeriesError` where there is nothing to score.
    """
    found = tuple(members if members is not None else registry.members(step=trace.series.step).forecasters)
    stage = replace(_Stage.of(trace, setting, found), recorded=recorded)
    names = tuple(dict.fromkeys(policies))
    players = [stage.player(name) for name in names]
    courses: dict[str, Course] = {}
    tracks: dict[str, Track] = {}
    for index, (name, play) in enumerate(zip(names, players, strict=True)):
        base, share = index / len(names), 1.0 / len(names)

        def tell(part: float, base: float = base, share: float = share, name: str = name) -> None:
            if progress is not None:
                progress(base + share * part, f"{name} decides")

        tell(0.0)
        courses[name], track = play(tell)
        if track is not None:
            tracks[name] = track
    return TraceRun(
        trace=trace,
        setting=setting,
        capacity_rps=stage.capacity_rps,
        start=trace.series.start + trace.series.step * stage.first,
        courses=courses,
        oracle=stage.plan(oracle),
        tracks=tracks,
    )


_Played = tuple[Course, Track | None]
_Play = Callable[[Callable[[float], None]], _Played]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What all policies share: the series, the scored bins [first, last), the capacity and the cold start in bins."""

    trace: Trace
    setting: Setting
    members: tuple[Forecaster, ...]
    first: int
    last: int
    capacity_rps: float
    cold_start_bins: int
    recorded: bool = False

    @classmethod
    def of(cls, trace: Trace, setting: Setting, members: tuple[Forecaster, ...]) -> _Stage:
        first, last = _window(trace.series, setting)
        return cls(
            trace=trace,
            setting=setting,
            members=members,
            first=first,
            last=last,
            capacity_rps=_capacity(trace.series.values[first:last], setting),
            cold_start_bins=setting.cold_start_bins(trace.series.step),
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
                members, missed_target_ratio = self._product_of(name, argument)
                return lambda tell: self._product(members, missed_target_ratio, tell)
            if name in PLANS:
                return lambda tell: (self.plan(PLANS[name]), None)
            if group in RULES:
                chosen = BoundedRule(rule=rule(name, step=self.trace.series.step), most=self._most)
                return lambda tell: (replay(chosen, self.load, cold_start_bins=self.cold_start_bins), None)
            if group in PLANNERS:
                planned = BoundedPlanner(planner=planner(name, self._past), most=self._most)
                return lambda tell: (self._planned(planned), None)
        except UnknownPolicyError:
            raise
        except ValueError as error:
            raise UnknownPolicyError(str(error)) from error
        raise UnknownPolicyError(self._unknown(name))

    def plan(self, wanted: Plan) -> Course:
        """What a policy that knows the window does; it does not plan for more than the bounds allow."""
        planned = wanted(np.minimum(self.load, self._most), self.cold_start_bins)
        return replace(planned, load=self.load)

    @property
    def _most(self) -> int:
        return self.setting.max_replicas or MOST_REPLICAS

    def _product_of(self, name: str, argument: str) -> tuple[tuple[Forecaster, ...], float]:
        """Forecasters and missed target of "headstart", "headstart:MODEL", "headstart:target=0.5%" or both."""
        members, missed_target_ratio = self.members, self.setting.missed_target_ratio
        for part in argument.split(":") if name != PRODUCT else ():
            if part.startswith(TARGET):
                missed_target_ratio = _ratio(part.removeprefix(TARGET), name)
            else:
                members = tuple(each for each in self.members if family(each.model_id) == part)
            if not members:
                raise UnknownPolicyError(self._unknown(f"{PRODUCT}:{part}"))
        return members, missed_target_ratio

    def _unknown(self, name: str) -> str:
        known = known_policies(self.members)
        plain = [each.removesuffix(":u") for each in known]
        near = difflib.get_close_matches(name, plain, n=1) or difflib.get_close_matches(
            name.partition(":")[0], plain, n=1
        )
        meant = f" Did you mean {near[0]!r}?" if near else ""
        target = f"{PRODUCT} takes a target, such as {PRODUCT}:{TARGET}0.5%"
        return f"no policy {name!r}.{meant} There are {', '.join(known)}; {target}."

    @property
    def _past(self) -> Past:
        series = self.trace.series
        begin = max(0, self.first - bins_in(HISTORY, series.step))
        return Past(
            loads=series.values[begin : self.first] / self.capacity_rps,
            start=series.start + series.step * self.first,
            step=series.step,
        )

    def _planned(self, planned: Planner) -> Course:
        past = self._past
        return replay_planner(
            planned,
            self.load,
            start=past.start,
            step=past.step,
            cold_start_bins=self.cold_start_bins,
            history=past.loads,
        )

    # ── The product: the daemon's tick on virtual ports ──

    def _product(
        self, members: tuple[Forecaster, ...], missed_target_ratio: float, tell: Callable[[float], None]
    ) -> _Played:
        workload, opens = self._workload()
        policy = _policy(workload, most=self._most, missed_target_ratio=missed_target_ratio)
        return self._lived(workload, opens, Fleet(workloads=(policy,)), members, tell)

    def _reactive(self, tell: Callable[[float], None]) -> _Played:
        workload, opens = self._workload()
        policy = _policy(workload, most=self._most, missed_target_ratio=self.setting.missed_target_ratio)
        return self._lived(workload, opens, reactive(Fleet(workloads=(policy,))), (), tell)

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
    ) -> _Played:
        demand = workload.demand_rps
        opening = min(opening_replicas(demand.values[opens:] / self.capacity_rps), self._most)
        cluster = VirtualCluster([workload], replicas={workload.name: opening}, first_bin=opens)
        total, scored = demand.values.size, self.last - self.first
        bins = total - opens
        recorder = Recorder([workload]) if self.recorded else None

        def observe(report: TickReport) -> None:
            if recorder is not None:
                recorder.observe(report)
            if not report.at.minute:
                tell(1.0 - cluster.bins_left / bins)

        forecasts = EngineForecasts([workload], members, ahead=True) if members else NoForecasts()
        run(fleet, cluster, forecasts, observe=observe)
        course = cluster.course(workload.name).window(bins - scored, bins)
        return course, recorder.tracks()[workload.name].window(total - scored, total) if recorder else None


def _ratio(text: str, name: str) -> float:
    """The ratio in "0.5%" or "0.005"."""
    digits = text.removesuffix("%")
    try:
        ratio = float(digits) / (1.0 if digits == text else 100.0)
    except ValueError:
        raise UnknownPolicyError(f"{name!r} needs a share after {TARGET}, such as {PRODUCT}:{TARGET}0.5%") from None
    if not 0.0 < ratio < 1.0:
        raise UnknownPolicyError(f"the target of {name!r} must lie above 0 and below 100%")
    return ratio


def _policy(workload: VirtualWorkload, *, most: int, missed_target_ratio: float) -> WorkloadPolicy:
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
