"""The Kubernetes HorizontalPodAutoscaler: its real algorithm on two kinds of metric, and a plain reference formula.

It decides how many replicas are wanted; how fast that may happen is `behaviour`'s. It looks at no forecast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta

from scaler.policy.capacity import replicas_for
from scaler.simulate.policies.behaviour import (
    DEFAULT_DOWN,
    NOTHING_YET,
    STABILISATION_S,
    SYNC_S,
    Behaviour,
    ScalingRules,
)
from scaler.simulate.policies.playing import DEFAULT_UTILISATION, Memory, Sight, bins_of

TOLERANCE_RATIO = 0.1
"""`--horizontal-pod-autoscaler-tolerance`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaPlain:
    """The reference: ceil(load / utilisation) at once outward, inward to the maximum of the last five bins."""

    utilisation: float = DEFAULT_UTILISATION
    look_back_bins: int = 5

    @classmethod
    def for_bins(cls, step: timedelta, *, utilisation: float, window_s: float | None = None) -> HpaPlain:
        """The same with a look-back of `window_s` instead of five bins; 0 looks at the newest bin alone."""
        if window_s is None:
            return cls(utilisation=utilisation)
        return cls(utilisation=utilisation, look_back_bins=bins_of(window_s, step))

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
    """The Kubernetes HorizontalPodAutoscaler on an external metric with an average value a replica, as KEDA makes one.

    Source: kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator.go,
    `GetExternalPerPodMetricReplicas`: ceil(metric / target average) unless |metric / (target · replicas) - 1| is
    within the tolerance of 0.1. It divides by all replicas, Ready or not; `HpaPods` is the one that asks the pods.
    Then `Behaviour`, with the defaults of autoscaling/v2. The four syncs of a minute all run at its start, which is in
    the HPA's favour. After a bin that cannot be seen it keeps what it has, as an HPA whose metric fails, and the
    stabilisation window does not run on meanwhile.
    """

    utilisation: float = DEFAULT_UTILISATION
    tolerance_ratio: float = TOLERANCE_RATIO
    syncs_per_bin: int = 4
    behaviour: Behaviour = field(default_factory=Behaviour)

    @classmethod
    def for_bins(
        cls, step: timedelta, *, utilisation: float = DEFAULT_UTILISATION, window_s: float | None = None
    ) -> Hpa:
        """On bins of another width, with a scale-in stabilisation of `window_s` (300 s unless given)."""
        return cls(
            utilisation=utilisation, syncs_per_bin=syncs_in(step), behaviour=behaviour_for(step, window_s=window_s)
        )

    @property
    def name(self) -> str:
        """Such as "hpa:0.7", or "hpa:0.7:120s" where the stabilisation is not the default."""
        window_s = self.behaviour.down.stabilisation_s
        return f"hpa:{self.utilisation:g}" + ("" if window_s == STABILISATION_S else f":{window_s:g}s")

    def decide(self, load: float, replicas: int, memory: Memory) -> tuple[int, Memory]:
        """See `Rule`; the memory is the behaviour's history."""
        history = memory or NOTHING_YET
        for _ in range(self.syncs_per_bin):
            wanted = per_replica(load, target=self.utilisation, replicas=replicas, tolerance_ratio=self.tolerance_ratio)
            replicas, history = self.behaviour.settle(wanted, replicas, history)
        return replicas, history


@dataclass(frozen=True, slots=True, kw_only=True)
class HpaPods:
    """The same on a metric of the pods: each Ready pod reports its share of the load, a starting one reports nothing.

    Source: replica_calculator.go, `calcPlainMetricReplicas` (`per_pod`). A pod that loads weights is Running without
    metrics, so it counts as missing: on the way out as idle, which dampens, on the way in as exactly on target.
    """

    utilisation: float = DEFAULT_UTILISATION
    tolerance_ratio: float = TOLERANCE_RATIO
    syncs_per_bin: int = 4
    behaviour: Behaviour = field(default_factory=Behaviour)

    @classmethod
    def for_bins(
        cls, step: timedelta, *, utilisation: float = DEFAULT_UTILISATION, window_s: float | None = None
    ) -> HpaPods:
        """As `Hpa.for_bins`."""
        return cls(
            utilisation=utilisation, syncs_per_bin=syncs_in(step), behaviour=behaviour_for(step, window_s=window_s)
        )

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`; the memory is the behaviour's history."""
        history = memory or NOTHING_YET
        replicas = sight.ordered
        for _ in range(self.syncs_per_bin):
            ready = min(sight.ready, replicas)
            wanted = per_pod(
                sight.load,
                target=self.utilisation,
                reporting=ready,
                missing=replicas - ready,
                tolerance_ratio=self.tolerance_ratio,
            )
            replicas, history = self.behaviour.settle(wanted, replicas, history)
        return replicas, history


def per_replica(load: float, *, target: float, replicas: int, tolerance_ratio: float = TOLERANCE_RATIO) -> int:
    """`GetExternalPerPodMetricReplicas`: replicas for a total of `load` at `target` a replica, at least 1."""
    if _within(load / (target * replicas), tolerance_ratio):
        return replicas
    return max(1, replicas_for(load, utilisation=target))


def per_pod(
    load: float,
    *,
    target: float,
    reporting: int,
    unready: int = 0,
    missing: int = 0,
    tolerance_ratio: float = TOLERANCE_RATIO,
) -> int:
    """`calcPlainMetricReplicas`: replicas for pods that report `load` together, at `target` a pod; at least 1.

    `unready` pods are left out, except that they count as idle on the way out; `missing` ones count as idle on the way
    out and as on target on the way in. Neither may turn the direction round. Nobody reports: as it is.
    """
    current = reporting + unready + missing
    if not reporting:
        return current
    usage_ratio = load / (target * reporting)
    outward = usage_ratio > 1.0
    if not missing and not (outward and unready):
        wanted = current if _within(usage_ratio, tolerance_ratio) else _ceil(usage_ratio * reporting)
        return max(1, wanted)
    counted = reporting + missing + (unready if outward else 0)
    # As in the source, 1 exactly counts as outward here: missing pods are idle unless the ratio is below 1.
    filled = load + (missing * target if usage_ratio < 1.0 else 0.0)
    filled_ratio = filled / (target * counted)
    across = usage_ratio < 1.0 < filled_ratio or filled_ratio < 1.0 < usage_ratio
    if across or _within(filled_ratio, tolerance_ratio):
        return current
    wanted = _ceil(filled_ratio * counted)
    turned_round = wanted > current if filled_ratio < 1.0 else wanted < current
    return current if turned_round else max(1, wanted)


def syncs_in(step: timedelta) -> int:
    """Syncs in a bin: four in a minute, 40 in ten; one where bins are shorter than a sync."""
    return max(1, round(step.total_seconds() / SYNC_S))


def behaviour_for(
    step: timedelta, *, window_s: float | None = None, up: ScalingRules | None = None, down: ScalingRules | None = None
) -> Behaviour:
    """The behaviour on bins of that width: the defaults, `up` and `down` where given, scale-in after `window_s`."""
    inward = down or DEFAULT_DOWN
    if window_s is not None:
        inward = ScalingRules(stabilisation_s=window_s, policies=inward.policies, select=inward.select)
    sync_s = min(SYNC_S, step.total_seconds())
    return Behaviour(down=inward, sync_s=sync_s) if up is None else Behaviour(up=up, down=inward, sync_s=sync_s)


def _within(usage_ratio: float, tolerance_ratio: float) -> bool:
    """As `Tolerances.isWithin` compares: both edges count as within."""
    return 1.0 - tolerance_ratio <= usage_ratio <= 1.0 + tolerance_ratio


def _ceil(replicas: float) -> int:
    return math.ceil(replicas - 1e-9)
