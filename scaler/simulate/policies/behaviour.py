"""How fast a Kubernetes HPA may act on what it wants: the `behavior` field of autoscaling/v2, sync by sync.

It decides what becomes of a wanted number of replicas: the stabilisation windows first, then the limits of the scaling
policies. What is wanted is somebody else's (`hpa`, `llmd`); it never looks at a metric and never below one replica.

Source: kubernetes/kubernetes pkg/controller/podautoscaler/horizontal.go, `normalizeDesiredReplicasWithBehaviors` and
what it calls: `stabilizeRecommendationWithBehaviors`, `calculateScaleUpLimitWithScalingRules`,
`calculateScaleDownLimitWithBehaviors`, `getReplicasChangePerPeriod`. The worked examples of the Kubernetes
documentation and of KEP-853 are the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

SYNC_S = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
STABILISATION_S = 300.0
"""`behavior.scaleDown.stabilizationWindowSeconds`, its default."""


class PolicyKind(StrEnum):
    """`type` of a scaling policy."""

    PODS = "Pods"
    PERCENT = "Percent"


class Select(StrEnum):
    """`selectPolicy`: which of several policies rules a direction."""

    MOST_CHANGE = "Max"
    LEAST_CHANGE = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """At most `value` pods, or percent of the replicas at the period's start, within `period_s`."""

    kind: PolicyKind
    value: int
    period_s: float

    def __post_init__(self) -> None:
        if self.value <= 0 or self.period_s <= 0.0:
            raise ValueError(f"a scaling policy needs a value and a period above 0, got {self.value}, {self.period_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRules:
    """One direction: `stabilizationWindowSeconds`, `policies`, `selectPolicy`."""

    stabilisation_s: float
    policies: tuple[ScalingPolicy, ...]
    select: Select = Select.MOST_CHANGE

    def __post_init__(self) -> None:
        if not 0.0 <= self.stabilisation_s <= 3600.0:
            raise ValueError(f"a stabilisation window lies in [0, 3600] seconds, got {self.stabilisation_s}")
        if not self.policies and self.select is not Select.DISABLED:
            raise ValueError("a direction needs a scaling policy unless it is disabled")


DEFAULT_UP = ScalingRules(
    stabilisation_s=0.0,
    policies=(
        ScalingPolicy(kind=PolicyKind.PERCENT, value=100, period_s=15.0),
        ScalingPolicy(kind=PolicyKind.PODS, value=4, period_s=15.0),
    ),
)
"""Out by at most max(100 %, 4 pods) in 15 s, at once."""
DEFAULT_DOWN = ScalingRules(
    stabilisation_s=STABILISATION_S,
    policies=(ScalingPolicy(kind=PolicyKind.PERCENT, value=100, period_s=15.0),),
)
"""In as far as wished, but only to the highest recommendation of the last 300 s."""

History = tuple[tuple[int, ...], tuple[int, ...]]
"""What an HPA remembers, newest last, one entry a sync: its recommendations, and the changes that it made."""
NOTHING_YET: History = ((), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Both directions, on syncs that are `sync_s` apart."""

    up: ScalingRules = DEFAULT_UP
    down: ScalingRules = DEFAULT_DOWN
    sync_s: float = SYNC_S
    _up_syncs: int = field(init=False, repr=False, compare=False)
    _down_syncs: int = field(init=False, repr=False, compare=False)
    _kept: int = field(init=False, repr=False, compare=False)
    _changes_kept: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sync_s <= 0.0:
            raise ValueError(f"syncs are more than 0 seconds apart, got {self.sync_s}")
        object.__setattr__(self, "_up_syncs", self._younger_than(self.up.stabilisation_s) + 1)
        object.__setattr__(self, "_down_syncs", self._younger_than(self.down.stabilisation_s) + 1)
        object.__setattr__(self, "_kept", max(self._up_syncs, self._down_syncs))
        longest_s = max((each.period_s for each in (*self.up.policies, *self.down.policies)), default=0.0)
        object.__setattr__(self, "_changes_kept", self._younger_than(longest_s))

    def settle(self, wanted: int, current: int, history: History = NOTHING_YET) -> tuple[int, History]:
        """Replicas after one sync that wants `wanted` where there are `current`, and what to remember."""
        recommendations, changes = history
        recommendations = (*recommendations, wanted)[-self._kept :]
        # Out to the lowest wish of its window, in to the highest: `stabilizeRecommendationWithBehaviors`.
        lowest = wanted if self._up_syncs == 1 else min(recommendations[-self._up_syncs :])
        highest = max(recommendations[-self._down_syncs :])
        settled = min(max(current, lowest), highest)
        if settled > current:
            settled = min(settled, max(current, self._most(current, changes)))
        elif settled < current:
            settled = max(settled, min(current, self._fewest(current, changes)))
        settled = max(1, settled)
        if self._changes_kept:
            changes = (*changes, settled - current)[-self._changes_kept :]
        return settled, (recommendations, changes)

    def _most(self, current: int, changes: tuple[int, ...]) -> int:
        """The limit outward; a percentage rounds up, as Go's floats do: ceil(100 · 1.1) is 111 there, too."""
        if self.up.select is Select.DISABLED:
            return current
        limits = []
        for each in self.up.policies:
            start = self._at_period_start(current, changes, each.period_s)
            by_percent = math.ceil(start * (1.0 + each.value / 100.0))
            limits.append(start + each.value if each.kind is PolicyKind.PODS else by_percent)
        return max(limits) if self.up.select is Select.MOST_CHANGE else min(limits)

    def _fewest(self, current: int, changes: tuple[int, ...]) -> int:
        """The limit inward; a percentage truncates: 10 % of 72 takes 8, not 7."""
        if self.down.select is Select.DISABLED:
            return current
        limits = []
        for each in self.down.policies:
            start = self._at_period_start(current, changes, each.period_s)
            by_percent = int(start * (1.0 - each.value / 100.0))
            limits.append(start - each.value if each.kind is PolicyKind.PODS else by_percent)
        return min(limits) if self.down.select is Select.MOST_CHANGE else max(limits)

    def _at_period_start(self, current: int, changes: tuple[int, ...], period_s: float) -> int:
        """Replicas when the period began: what was added since is taken off, what was removed is put back."""
        syncs = self._younger_than(period_s)
        return current - sum(changes[-syncs:]) if syncs else current

    def _younger_than(self, span_s: float) -> int:
        """Syncs before this one that are less than `span_s` old: Go's `After(cutoff)` leaves out one exactly as old.

        19 for 300 s. On a real cluster it is 19 as well: syncs are 15 s and a little apart.
        """
        return max(0, math.ceil(span_s / self.sync_s - 1e-9) - 1)
