"""The Kubernetes HorizontalPodAutoscaler: its real algorithm, and the plain formula that serves as the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from scaler.policy.capacity import replicas_for
from scaler.simulate.policies.playing import DEFAULT_UTILISATION, Memory

SYNC_S = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
STABILISATION_S = 300.0
"""`behavior.scaleDown.stabilizationWindowSeconds` of autoscaling/v2."""


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

    @classmethod
    def for_bins(cls, step: timedelta, *, utilisation: float = DEFAULT_UTILISATION) -> Hpa:
        """The same on bins of another width: 40 syncs in ten minutes; one a bin where bins are shorter than a sync."""
        bin_s = step.total_seconds()
        sync_s = min(SYNC_S, bin_s)
        return cls(
            utilisation=utilisation,
            syncs_per_bin=max(1, round(bin_s / sync_s)),
            stabilisation_syncs=max(1, round(STABILISATION_S / sync_s)),
        )

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
