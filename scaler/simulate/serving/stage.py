"""What all policies of a request-level run share: the window, the profile, the scale of the traffic, the events.

It decides which part of the trace is lived request by request, how many requests a trace's request stands for, and
whether a policy's name means something. Nothing is played here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import SeriesError
from forecaster.models.ensemble import family
from forecaster.trace import Trace
from forecaster.types import Forecaster, Panel, Series, SeriesKey
from scaler.policy.capacity import CapacityProfile, RequestTokens, StartPhases
from scaler.policy.steering import SteeringRule
from scaler.service.model import ServiceModel
from scaler.simulate.policies import PLANNERS, PLANS, RULES, Past, planner, rule
from scaler.simulate.product import SIGNAL
from scaler.simulate.product_run import PRODUCT, REACTIVE, TARGET, target_ratio, workload_name
from scaler.simulate.scoring import PEAK_QUANTILE
from scaler.simulate.serving.events import Timeline, parse_event
from scaler.simulate.serving.pool import PoolRule
from scaler.simulate.serving.signals import SLOT_S
from scaler.simulate.serving.traffic import Traffic
from scaler.simulate.setting import MOST_REPLICAS, Setting, UnknownPolicyError, opening_bin, scored_bins
from scaler.simulate.trace import known_policies

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.regret import BoolArray

DEFAULT_SPAN = timedelta(hours=6)
"""What is lived request by request unless told otherwise: the last six hours of the trace."""


class ProfileError(ValueError):
    """A profile that does not say enough for a request-level simulation; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSetting:
    """How a trace is played request by request."""

    score_from: datetime | None = None
    """Where the window opens; six hours before its end unless given."""
    score_to: datetime | None = None
    """Where it ends, exclusive; the trace's end unless given."""
    peak_replicas: int | None = 8
    """The traffic is scaled so that the 99.9 % quantile of the window needs so many replicas; None: as it is."""
    cold_start: timedelta | None = None
    """The profile's start phases are stretched to this sum, if given."""
    seeds: tuple[int, ...] = (1,)
    """One run of every policy each."""
    events: tuple[str, ...] = ()
    """What is done on purpose, such as "step@+2h": see `events`."""
    min_replicas: int = 1
    """No policy orders fewer than this."""
    max_replicas: int | None = None
    """No policy orders more than this; unlimited unless given."""
    missed_target_ratio: float = SteeringRule().missed_target_ratio
    """Share of bins that the product may miss, where its name does not say otherwise."""
    pool: PoolRule = field(default_factory=PoolRule)
    """How the front door and the pods behave."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.most:
            raise ValueError(f"need 1 ≤ min_replicas ≤ max_replicas, got {self.min_replicas} and {self.max_replicas}")

    @property
    def most(self) -> int:
        """The upper bound as a number."""
        return self.max_replicas or MOST_REPLICAS

    def within(self, replicas: int) -> int:
        """The nearest number of replicas that the bounds allow."""
        return max(self.min_replicas, min(replicas, self.most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all seeds and policies share: the trace, the lived bins [first, last), the profile, and what happens."""

    trace: Trace
    profile: CapacityProfile
    service: ServiceModel
    start: StartPhases
    tokens: tuple[RequestTokens, ...]
    setting: ServingSetting
    members: tuple[Forecaster, ...]
    first: int
    last: int
    scale: float
    timeline: Timeline

    @classmethod
    def of(
        cls, trace: Trace, profile: CapacityProfile, setting: ServingSetting, members: tuple[Forecaster, ...]
    ) -> Stage:
        """Raises what `simulate_serving` does."""
        if profile.service is None or profile.start is None:
            raise ProfileError(f"profile {profile.name!r} needs `service` and `start` to be served request by request")
        tokens = tuple(each.tokens for each in profile.classes if each.tokens is not None)
        if len(tokens) != len(profile.classes):
            raise ProfileError(f"each class of profile {profile.name!r} needs `tokens` to be served request by request")
        series = trace.series
        first, last = _lived(series, setting)
        opens, ends = series.start + series.step * first, series.start + series.step * last
        events = tuple(parse_event(text, start=opens, end=ends) for text in setting.events)
        stage = cls(
            trace=trace,
            profile=profile,
            service=profile.service,
            start=_stretched(profile.start, setting.cold_start),
            tokens=tokens,
            setting=setting,
            members=members,
            first=first,
            last=last,
            scale=1.0,
            timeline=Timeline(events=events),
        )
        return replace(stage, scale=stage._scale())

    @property
    def workload(self) -> str:
        """What the workload is called."""
        return workload_name(self.trace)

    @property
    def step(self) -> timedelta:
        """Width of a bin."""
        return self.trace.series.step

    @property
    def bin_s(self) -> float:
        """The same in seconds."""
        return self.step.total_seconds()

    def known_at_opening(self) -> Panel:
        """What is known when the product's warm-up day opens, by class as it forecasts them: a fit is shown no more."""
        series, opens = self.trace.series, opening_bin(self.first, self.step)
        keys = tuple(
            SeriesKey(workload=f"{self.workload}/{name}", signal=SIGNAL, request_class=name) for name in self.shares
        )
        shares = np.array(tuple(self.shares.values()))
        values = shares[:, None] * (series.values[:opens] * self.scale)
        return Panel(keys=keys, start=series.start, step=series.step, values=values)

    @property
    def bins(self) -> int:
        """Bins that are lived."""
        return self.last - self.first

    @property
    def slots_per_bin(self) -> int:
        """Slots of at most 15 s in a bin."""
        return max(1, -int(-self.bin_s // SLOT_S))

    @property
    def opens_at(self) -> datetime:
        """Where the window begins."""
        return self.trace.series.start + self.step * self.first

    @property
    def shares(self) -> dict[str, float]:
        """Share of the requests by class, summing to 1."""
        total = sum(each.share for each in self.tokens)
        return {each.name: tokens.share / total for each, tokens in zip(self.profile.classes, self.tokens, strict=True)}

    @property
    def replica_rps(self) -> float:
        """Requests a second of the usual mix that fill one replica."""
        return 1.0 / self.profile.load(self.shares)

    @property
    def cold_start_bins(self) -> int:
        """The mean start in bins, a begun one counting whole."""
        return -int(-self.start.total_s // self.bin_s)

    def load(self, first: int, last: int) -> FloatArray:
        """The trace's bins [first, last) in exactly full replicas, before chance and events."""
        load: FloatArray = self.trace.series.values[first:last] * (self.scale / self.replica_rps)
        return load

    def plannable(self, load: FloatArray) -> FloatArray:
        """A load in exactly full replicas as whoever plans within the bounds sees it; what is unknown stays so."""
        seen: FloatArray = np.clip(load, self.setting.min_replicas, self.setting.most)
        return seen

    def check(self, name: str) -> None:
        """`UnknownPolicyError` unless there is a policy of that name."""
        group = name.partition(":")[0]
        try:
            if group in RULES:
                rule(name, step=self.step)
            elif group in PLANNERS:
                planner(name, Past(loads=np.empty(0), start=self.opens_at, step=self.step))
            elif group == PRODUCT:
                self.product(name)
            elif name not in (REACTIVE, *PLANS):
                raise self._unknown(name)
        except UnknownPolicyError:
            raise
        except ValueError as error:
            raise UnknownPolicyError(str(error)) from error

    def product(self, name: str) -> tuple[tuple[Forecaster, ...], float]:
        """Forecasters and missed target of "headstart", "headstart:MODEL", "headstart:target=0.5%" or both."""
        members, missed_target_ratio = self.members, self.setting.missed_target_ratio
        for part in name.split(":")[1:]:
            if part.startswith(TARGET):
                missed_target_ratio = target_ratio(part.removeprefix(TARGET), name)
            else:
                members = tuple(each for each in self.members if family(each.model_id) == part)
        if not members:
            raise self._unknown(name)
        return members, missed_target_ratio

    def _unknown(self, name: str) -> UnknownPolicyError:
        known = known_policies(self.members)
        near = difflib.get_close_matches(name, [each.removesuffix(":u") for each in known], n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        return UnknownPolicyError(f"no policy {name!r}.{meant} There are {', '.join(known)}.")

    def _scale(self) -> float:
        if self.setting.peak_replicas is None:
            return 1.0
        load = self.load(self.first, self.last)
        known = load[np.isfinite(load)]
        peak = float(np.quantile(known, PEAK_QUANTILE)) if known.size else 0.0
        if not peak > 0.0:
            raise SeriesError("nothing arrives in the window; its traffic cannot be scaled to a number of replicas")
        return self.setting.peak_replicas / peak


def _lived(series: Series, setting: ServingSetting) -> tuple[int, int]:
    """The bins of the window, as the decision protocol finds them; six hours of them unless told otherwise."""
    score_from = setting.score_from
    if score_from is None:
        end = min(setting.score_to or series.end, series.end)
        score_from = max(series.start, end - DEFAULT_SPAN)
    return scored_bins(series, Setting(score_from=score_from, score_to=setting.score_to))


def _stretched(start: StartPhases, total: timedelta | None) -> StartPhases:
    """The phases, stretched to that sum; with no phases to stretch all of it is warm-up."""
    if total is None:
        return start
    seconds = total.total_seconds()
    if start.total_s <= 0.0:
        return replace(start, warmup_s=seconds)
    names = ("node_s", "image_s", "weights_s", "warmup_s")
    return replace(start, **{name: getattr(start, name) * seconds / start.total_s for name in names})


class Scene:
    """One seed: its requests, which every policy meets, and what they come to bin by bin."""

    def __init__(self, stage: Stage, seed: int) -> None:
        values = stage.trace.series.values[stage.first : stage.last]
        self.stage = stage
        self.seed = seed
        self.traffic = Traffic(
            values * stage.scale,
            bin_s=stage.bin_s,
            classes=stage.profile.classes,
            service=stage.service,
            seed=seed,
            timeline=stage.timeline,
        )
        self.known: BoolArray = np.isfinite(values)
        """Which bins the trace knows."""
        ends_s = (np.arange(stage.bins) + 1) * stage.bin_s
        self.seen: BoolArray = self.known & np.array([not stage.timeline.dark(at, at) for at in ends_s.tolist()])
        """After which bins metrics show them."""
        self.rates: FloatArray = np.where(self.known, self.traffic.counts / stage.bin_s, np.nan)
        """What arrived, requests a second, shape (classes, bins); NaN where the trace knows nothing."""
        max_rps = np.array([each.max_rps for each in stage.profile.classes])
        self.load: FloatArray = (self.rates / max_rps[:, None]).sum(axis=0)
        """The same in exactly full replicas, shape (bins,)."""
