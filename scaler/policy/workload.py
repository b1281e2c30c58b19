"""All settings of one workload's decision in one value; the meaning of each rule's is beside the rule.

It refuses what two settings make impossible together, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from scaler.policy import steering
from scaler.policy.capacity import CapacityProfile
from scaler.policy.guard import GuardRule
from scaler.policy.latency import LatencyRule
from scaler.policy.limits import Bounds, StepRule
from scaler.policy.load import LoadRule
from scaler.policy.outage import OutageRule
from scaler.policy.predictive import PredictiveRule
from scaler.policy.scheduled import ScheduledRule
from scaler.policy.steering import MISSED_TARGET_RATIO, CostRule, MissTarget, SteeringRule
from scaler.policy.trust import TrustRule
from scaler.policy.types import Mode
from scaler.policy.writers import OtherWritersRule


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPolicy:
    """All settings of one workload's decision; each rule's parameters are documented beside the rule."""

    workload: str
    """Which workload, as "namespace/name"."""
    profile: CapacityProfile
    """What one replica serves: the name of a shipped profile, a path, or the profile itself."""
    mode: Mode = Mode.OBSERVE
    """`observe` decides and writes nothing, `active` scales, `floor` raises the minimum of the HPA or ScaledObject that
    scales, `publish` only exports the replicas that are wanted, for another autoscaler to follow."""
    start_time: timedelta = timedelta(minutes=5)
    """Pod created → Ready, as configured; used until it has been measured."""
    tick: timedelta = timedelta(minutes=1)
    """Time between two decisions."""
    priority: int = 0
    """Who grows first when the GPU budget is short, and releases last when the change budget is: higher first."""
    spills_to: str | None = None
    """The pool of the same service that takes what this one cannot carry at its limits, as "namespace/name"; it grows
    for that ahead of time, in its own units."""
    load: LoadRule = field(default_factory=LoadRule)
    predictive: PredictiveRule = field(default_factory=PredictiveRule)
    latency: LatencyRule = field(default_factory=LatencyRule)
    scheduled: ScheduledRule = field(default_factory=ScheduledRule)
    trust: TrustRule = field(default_factory=TrustRule)
    cost: CostRule | None = None
    """What a missed minute costs against a GPU minute, in place of `steering.missed_target_ratio`."""
    steering: SteeringRule = field(default_factory=SteeringRule)
    guard: GuardRule = field(default_factory=GuardRule)
    outage: OutageRule = field(default_factory=OutageRule)
    bounds: Bounds = field(default_factory=Bounds)
    step: StepRule = field(default_factory=StepRule)
    other_writers: OtherWritersRule = field(default_factory=OtherWritersRule)

    def __post_init__(self) -> None:
        if self.tick <= timedelta(0):
            raise ValueError(f"tick of {self.workload} must be above 0, got {self.tick}")
        if self.start_time < timedelta(0):
            raise ValueError(f"start_time of {self.workload} must be at least 0, got {self.start_time}")
        if self.spills_to == self.workload:
            raise ValueError(f"spills_to of {self.workload} names itself; name another pool, or leave it out")
        if self.cost is not None and self.steering.missed_target_ratio != MISSED_TARGET_RATIO:
            raise ValueError("cost and steering.missed_target_ratio exclude each other; keep one")

    @property
    def miss_target(self) -> MissTarget:
        """The share of missed minutes that this workload is steered to."""
        return steering.target_of(self.steering, self.cost, gpus=self.profile.gpus)
