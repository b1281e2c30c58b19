"""The competitors: the rules that people run today, and two that know the future. Each with the source of its formula.

A rule sees one workload's load after every bin and answers how many replicas to order; it is a function of what it
saw and of the memory it returned before. A plan sees the whole window at once. The product is not here: it runs
through its own loop (`product`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from scaler.policy.capacity import replicas_for
from scaler.simulate.cluster import Pods
from scaler.simulate.scoring import PEAK_QUANTILE, Course, needed

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.scoring import IntArray

Memory = tuple[int, ...]
"""What a rule remembers: its recent recommendations, newest last."""

DEFAULT_UTILISATION = 0.7


class Rule(Protocol):
    """A policy that reacts to what it sees."""

    @property
    def name(self) -> str:
        """The policy as it is asked for, such as "hpa-plain:0.7"."""
        ...

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """Replicas to order after a bin with `load` (in exactly full replicas) and `replicas` ordered before."""
        ...


Plan = Callable[["FloatArray", int], Course]
"""A policy that knows the window's whole load, given the cold start in bins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaPlain:
    """The reference: ceil(load / utilisation) at once outward, inward to the maximum of the last five bins."""

    utilisation: float = DEFAULT_UTILISATION
    look_back_bins: int = 5

    @property
    def name(self) -> str:
        """Such as "hpa-plain:0.7"."""
        return f"hpa-plain:{self.utilisation:g}"

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """See `Rule`."""
        del replicas
        recent = (*memory, max(1, replicas_for(load, utilisation=self.utilisation)))[-self.look_back_bins :]
        return max(recent), recent


@dataclass(frozen=True, slots=True, kw_only=True)
class Hpa:
    """The Kubernetes HorizontalPodAutoscaler on an external metric with an average value a replica.

    Source: kubernetes/kubernetes pkg/controller/podautoscaler, `replica_calculator.go`
    (`GetExternalPerPodMetricReplicas`: ceil(metric / target average) unless |metric / (target · replicas) - 1| is
    within the tolerance) and `horizontal.go` (`stabilizeRecommendationWithBehaviors`,
    `calculateScaleUpLimitWithScalingRules`), with the defaults of autoscaling/v2: a sync each 15 s, tolerance 0.1,
    out by at most max(100 %, 4 pods) a 15 s, in by at most 100 % a 15 s, inward only to the maximum recommendation
    of the last 300 s. The four syncs of a minute all run at its start, which is in the HPA's favour.
    """

    utilisation: float = DEFAULT_UTILISATION
    tolerance_ratio: float = 0.1
    syncs_per_bin: int = 4
    stabilisation_syncs: int = 20
    most_growth_ratio: float = 1.0
    most_added: int = 4

    @property
    def name(self) -> str:
        """Such as "hpa:0.7"."""
        return f"hpa:{self.utilisation:g}"

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """See `Rule`; the memory holds one recommendation a sync."""
        for _ in range(self.syncs_per_bin):
            recommended = self._recommend(load, replicas)
            # A recommendation exactly 300 s old still counts (`timestamp.Before(cutoff)` drops only older ones).
            memory = (*memory, recommended)[-(self.stabilisation_syncs + 1) :]
            replicas = self._limited(max(memory) if recommended < replicas else recommended, replicas)
        return replicas, memory

    def _recommend(self, load: float, replicas: int) -> int:
        usage_ratio = load / (self.utilisation * replicas)
        # As `Tolerances.isWithin` compares: both edges count as within.
        if 1.0 - self.tolerance_ratio <= usage_ratio <= 1.0 + self.tolerance_ratio:
            return replicas
        return max(1, replicas_for(load, utilisation=self.utilisation))

    def _limited(self, wanted: int, replicas: int) -> int:
        """Growth within its policies; a stabilised recommendation never raises on the way in."""
        most = max(replicas + self.most_added, math.ceil(replicas * (1.0 + self.most_growth_ratio)))
        return min(wanted, most)


def rule(name: str) -> Rule:
    """The rule of that name: "hpa", "hpa:0.6", "hpa-plain:0.7"; `ValueError` names what there is."""
    family, _, argument = name.partition(":")
    families: dict[str, Callable[[float], Rule]] = {
        "hpa": lambda utilisation: Hpa(utilisation=utilisation),
        "hpa-plain": lambda utilisation: HpaPlain(utilisation=utilisation),
    }
    if family not in families:
        raise ValueError(f"no policy rule {name!r}; there are {', '.join(sorted(families))}, each with :utilisation")
    try:
        utilisation = float(argument) if argument else DEFAULT_UTILISATION
    except ValueError:
        raise ValueError(f"{name!r} needs a number after the colon, such as {family}:0.7") from None
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"the utilisation of {name!r} must lie in (0, 1]")
    return families[family](utilisation)


def replay(policy: Rule, load: FloatArray, *, cold_start_bins: int, seen: FloatArray | None = None) -> Course:
    """Run a rule over `load` (in exactly full replicas, NaN unknown), from ceil(first load / 0.7) replicas on.

    It decides after each bin on what is `seen` (the load itself unless metrics went dark), and holds after a bin
    that it cannot see.
    """
    shown = (load if seen is None else seen).tolist()
    pods = Pods(serving=opening_replicas(load))
    before = pods.ordered
    memory: Memory = ()
    serving, billed = np.empty(load.size, dtype=np.int64), np.empty(load.size, dtype=np.int64)
    for index, visible in enumerate(shown):
        pods = pods.at(index)
        serving[index], billed[index] = pods.serving, pods.ordered
        if not math.isnan(visible):
            target, memory = policy.decide(visible, pods.ordered, memory)
            pods = pods.scaled(target, after_bin=index, cold_start_bins=cold_start_bins)
    return Course(load=load, serving=serving, billed=billed, before=before)


def opening_replicas(load: FloatArray) -> int:
    """What a window opens with: ceil(first known load / 0.7), at least 1."""
    known = load[np.isfinite(load)]
    return max(1, replicas_for(float(known[0]), utilisation=DEFAULT_UTILISATION)) if known.size else 1


def static_peak(load: FloatArray, cold_start_bins: int) -> Course:
    """A fixed fleet, sized in hindsight for the window's 99.9 % quantile: what fear of the peak buys.

    The same quantile that `capacity_for_peak` calls the peak: with its default this fleet has 16 replicas.
    """
    del cold_start_bins
    known = load[np.isfinite(load)]
    peak = float(np.quantile(known, PEAK_QUANTILE)) if known.size else 0.0
    return _fixed(load, max(1, replicas_for(peak)))


def oracle(load: FloatArray, cold_start_bins: int) -> Course:
    """Perfect forecast, real cold start, best release: the least GPU time without a missed bin.

    Replica k is needed in the bins whose load exceeds k - 1. Between two such bins it may stay, which bills the gap,
    or be released and ordered again, which bills its start: so it is released where the gap is longer than a start.
    What is needed in the first `cold_start_bins` bins is there from the beginning.
    """
    need = needed(load)
    serving, billed = np.zeros(load.size, dtype=np.int64), np.zeros(load.size, dtype=np.int64)
    for level in range(1, int(need.max(initial=1)) + 1):
        bins = np.flatnonzero(need >= level)
        released = np.flatnonzero(np.diff(bins) - 1 > cold_start_bins)
        firsts = np.append(bins[0], bins[released + 1])
        lasts = np.append(bins[released], bins[-1])
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            serving[first : last + 1] += 1
            billed[max(0, first - cold_start_bins) : last + 1] += 1
    return Course(load=load, serving=serving, billed=billed, before=int(billed[0]) if load.size else 1)


def oracle_instant(load: FloatArray, cold_start_bins: int) -> Course:
    """Perfect forecast and pods that start at once: GPU ratio 1 by construction."""
    del cold_start_bins
    need: IntArray = needed(load)
    return Course(load=load, serving=need, billed=need, before=int(need[0]) if load.size else 1)


def _fixed(load: FloatArray, replicas: int) -> Course:
    fleet = np.full(load.size, replicas, dtype=np.int64)
    return Course(load=load, serving=fleet, billed=fleet, before=replicas)


PLANS: dict[str, Plan] = {"static-peak": static_peak, "oracle": oracle, "oracle-instant": oracle_instant}
"""The policies that know the future, by name."""
