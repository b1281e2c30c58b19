"""Which quantile to provision for: a normal score per workload, steered by what really happened.

After every minute z rises if the demand exceeded what was Ready, and sinks a little if it did not, so that in the
long run the share of missed minutes meets the target. This is quantile tracking by online gradient descent on the
pinball loss (Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021), applied to the
decision's own event. It never moves while the event says nothing about the forecast (invariant I13).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from scaler.policy.types import PolicyState, ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringRule:
    """Parameters of the steering; the defaults were measured on twelve traces and tuned to none."""

    missed_target_ratio: float = 0.01
    """Share of minutes that may exceed the Ready capacity."""
    first_z: float = 1.9
    """Where a new workload starts: the 97 % quantile."""
    step_z: float = 0.1
    """How far one missed minute moves the score; .03 is sluggish, .3 overshoots."""
    least_z: float = -1.0
    """Lowest score; a forecast that is always too high may be provisioned for below its median."""
    most_z: float = 4.5
    """Highest score; beyond it the tail of a forecast is a guess."""

    def __post_init__(self) -> None:
        if not 0.0 < self.missed_target_ratio < 1.0:
            raise ValueError(f"steering.missed_target_ratio must lie in (0, 1), got {self.missed_target_ratio}")
        if not self.least_z <= self.first_z <= self.most_z:
            raise ValueError(f"steering.first_z must lie in [{self.least_z}, {self.most_z}], got {self.first_z}")


def steer(z: float, rule: SteeringRule, *, load: float, ready: int, minutes: float) -> float:
    """The next score after a tick of `minutes` in which `ready` replicas met `load` (in exactly full replicas).

    z + step · minutes · (missed - target): one missed minute raises z by 0.099, which 99 quiet ones take back,
    whether it is seen in one tick or in twelve.
    """
    missed = 1.0 if load > ready + 1e-9 else 0.0
    return min(rule.most_z, max(rule.least_z, z + rule.step_z * minutes * (missed - rule.missed_target_ratio)))


def frozen(
    state: PolicyState, replicas: ReplicaState, *, most_replicas: int, lead_time: timedelta, now: datetime
) -> bool:
    """Whether a miss would say something else than "the quantile is too low" (I13).

    At the maximum, over the GPU budget, with pods that find no GPU or fail, or within a lead time of a change of
    model, no quantile would have helped. Pods that are merely starting do not freeze: they are the forecast's delay.
    """
    return (
        replicas.desired >= most_replicas
        or state.over_budget
        or replicas.unschedulable > 0
        or replicas.failed > 0
        or (state.model_since is not None and now - state.model_since < lead_time)
    )
