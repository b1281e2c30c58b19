"""Policies on a traffic trace: the decision protocol of `headstart simulate`, from a series to a score a policy.

It decides what each kind of policy is shown before the window opens, and puts courses beside the oracle's. Which bins
are scored and what one replica serves is `setting`'s; who decides on replicas is elsewhere: the product through the
daemon's own tick (`product_run`), everybody else in `policies`. There is no queue here: load above the serving capacity
is missed once and does not come back.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster import registry
from forecaster.models.ensemble import family
from forecaster.preprocess import bins_in
from forecaster.trace import Trace
from forecaster.types import Forecaster
from scaler.simulate.bounded import BoundedPlanner, BoundedRule
from scaler.simulate.policies import (
    PLANNERS,
    PLANS,
    RULES,
    Past,
    Plan,
    Planner,
    oracle,
    planner,
    replay,
    replay_planner,
    rule,
)
from scaler.simulate.product_run import NO_QUEUE, PRODUCT, REACTIVE, TARGET, ProductRun, asked_of_product
from scaler.simulate.recording import Track
from scaler.simulate.regret import Regret, regret
from scaler.simulate.scoring import Course, Score, score
from scaler.simulate.setting import (
    HISTORY,
    MOST_REPLICAS,
    WARM_UP,
    Setting,
    UnknownPolicyError,
    capacity_rps,
    scored_bins,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.backtest import Refit
    from forecaster.types import FloatArray
    from scaler.ports import Journal

__all__ = [
    "COLUMNS",
    "DEFAULT_POLICIES",
    "HISTORY",
    "MOST_REPLICAS",
    "NO_QUEUE",
    "PRODUCT",
    "REACTIVE",
    "TARGET",
    "WARM_UP",
    "Progress",
    "Setting",
    "TraceRun",
    "UnknownPolicyError",
    "known_policies",
    "simulate",
]

Progress = Callable[[float, str], None]
"""Told how far things are, 0 to 1, and what is done."""

DEFAULT_POLICIES = (PRODUCT, REACTIVE, "hpa", "oracle")


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
        return self.start + self.step * self.bins

    @property
    def bins(self) -> int:
        """Of the scored window."""
        return self.oracle.load.size

    @property
    def unknown_bins(self) -> int:
        """Those of them that are neither scored nor billed."""
        return self.bins - int(np.isfinite(self.oracle.load).sum())

    @property
    def cold_start(self) -> timedelta:
        """As it was played: whole bins."""
        return self.step * self.setting.cold_start_bins(self.step)

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
            "cold_start_played_s": self.cold_start.total_seconds(),
            "bin_s": self.step.total_seconds(),
            "bins": self.bins,
            "unknown_bins": self.unknown_bins,
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
        times = [(self.start + self.step * index).isoformat() for index in range(self.bins)]
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
    refit: Refit | None = None,
    progress: Progress | None = None,
    recorded: bool = False,
    journals: Mapping[str, Journal] | None = None,
) -> TraceRun:
    """Play every policy on the trace. Equal arguments give an equal run.

    `recorded` keeps what the product decided in each bin, and why (`TraceRun.tracks`); `journals`, by policy, take
    its records as the daemon's journal does. `members` are the product's forecasters, the shipped ones for this bin
    width unless given; `refit` names them anew every 24 hours from the opening of the product's warm-up day on, by what
    is known then. Raises `UnknownPolicyError` before anything is played, `SeriesError` where there is nothing to
    score, and `OSError` where a journal refuses.
    """
    found = tuple(members if members is not None else registry.members(step=trace.series.step).forecasters)
    stage = replace(_Stage.of(trace, setting, found), refit=refit, recorded=recorded, journals=journals or {})
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
    refit: Refit | None = None
    recorded: bool = False
    journals: Mapping[str, Journal] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace, setting: Setting, members: tuple[Forecaster, ...]) -> _Stage:
        first, last = scored_bins(trace.series, setting)
        return cls(
            trace=trace,
            setting=setting,
            members=members,
            first=first,
            last=last,
            capacity_rps=capacity_rps(trace.series.values[first:last], setting),
            cold_start_bins=setting.cold_start_bins(trace.series.step),
        )

    @property
    def load(self) -> FloatArray:
        """The scored window in exactly full replicas."""
        return self.trace.series.values[self.first : self.last] / self.capacity_rps

    def player(self, name: str) -> _Play:
        """How the policy of that name is played; `UnknownPolicyError` if there is none."""
        group = name.partition(":")[0]
        try:
            if name == REACTIVE:
                return self._product(name, None, self.setting.missed_target_ratio).play
            if group == PRODUCT:
                asked = asked_of_product(name, self.members, self.setting.missed_target_ratio)
                if asked is not None:
                    return self._product(name, *asked).play
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

    def _product(self, name: str, members: tuple[Forecaster, ...] | None, missed_target_ratio: float) -> ProductRun:
        return ProductRun(
            trace=self.trace,
            first=self.first,
            last=self.last,
            capacity_rps=self.capacity_rps,
            cold_start_bins=self.cold_start_bins,
            most=self._most,
            members=members,
            missed_target_ratio=missed_target_ratio,
            refit=self._refit_of(members),
            recorded=self.recorded,
            journal=self.journals.get(name),
        )

    def _refit_of(self, members: tuple[Forecaster, ...] | None) -> Refit | None:
        """The refit, of the families alone that the policy's name asks for."""
        refit = self.refit
        if refit is None or members is None or members == self.members:
            return refit
        named = {family(each.model_id) for each in members}
        return lambda known: [each for each in refit(known) if family(each.model_id) in named]

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
