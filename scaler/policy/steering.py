"""Which quantile to provision for: a normal score per workload, steered by what really happened.

After every minute z rises if the demand exceeded what was Ready, and sinks a little if it did not, so that in the
long run the share of missed minutes meets the target. This is quantile tracking by online gradient descent on the
pinball loss (Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021), applied to the
decision's own event. Misses come in bursts, and a miss now makes the next minutes likelier to miss than any day's
average: a second part of the score follows the share of late minutes that were missed, and fades with it (the
proportional part beside the integral one: Angelopoulos, Candès and Tibshirani, "Conformal PID control", 2023). The
score never moves while the event says nothing about the forecast (invariant I13).

What an order brings is known one lead time and one tick later. Under such a delay the right step falls with its root
(Joulani, György and Szepesvári, "Online learning under delayed feedback", 2013): with a nine-minute start ten minutes
miss in a row before the first correction can arrive, and a step made for one minute would answer all ten in full.

The target is a share of minutes, or follows from two prices. For the last replica ordered the balance is a newsvendor's
(Edgeworth 1888; Arrow, Harris and Marschak, "Optimal inventory policy", Econometrica 1951): with it a minute costs its
GPUs, missed or not; without it a missed minute's price, times the chance p that the minute is missed. One too many
is regretted by gpus · gpu_minute, one too few by missed_minute - gpus · gpu_minute, and the critical ratio of the two,
1 - gpus · gpu_minute / missed_minute, is the quantile to provision for. docs/decisions/0008 says where that ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Final

from scaler.policy.types import PolicyState, ReplicaState

MISSED_TARGET_RATIO: Final = 0.01
"""Share of minutes that may be missed where nobody has said otherwise."""

LEAST_TARGET_RATIO: Final = 0.0005
"""No costs ask for fewer misses: at .05 % one is due in 33 hours, and a month of them is too few to steer by less."""

MOST_TARGET_RATIO: Final = 0.20
"""No costs ask for more misses: the lasting score stops at the 84 % quantile anyway, and beyond that the answer to
such prices is fewer replicas by `bounds.max_replicas`, not a forecast read low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRule:
    """What a missed minute costs against a GPU's minute, in any money: the share of minutes that may be missed is then
    the GPUs of a replica times `gpu_minute` over `missed_minute`, cut to [.05 %, 20 %]."""

    missed_minute: float
    """Cost of a minute in which the demand exceeded what was Ready, by however much: refunds, lost sales, ill will."""
    gpu_minute: float
    """Cost of one GPU for one minute, busy or idle: 4 an hour is 0.0667. A replica costs it for each of its GPUs."""

    def __post_init__(self) -> None:
        for name in ("missed_minute", "gpu_minute"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"cost.{name} must be a finite number above 0, got {value}")

    def balance_ratio(self, *, gpus: int) -> float:
        """Share of missed minutes at which one more replica of `gpus` GPUs costs as much as it saves.

        One GPU at 0.05 against 4 for a missed minute: 0.05 / 4 = 1.25 %. With eight GPUs a replica 10 %. Above 1 a
        missed minute is cheaper than a replica's.
        """
        return gpus * self.gpu_minute / self.missed_minute


@dataclass(frozen=True, slots=True, kw_only=True)
class MissTarget:
    """The share of missed minutes that is steered to, and where it comes from."""

    ratio: float
    balance_ratio: float | None = None
    """What the costs ask for before the cut to what can be steered to; None where a share was given."""

    @property
    def cut(self) -> bool:
        """Whether the costs ask for a share that is not steered to."""
        return self.balance_ratio is not None and self.balance_ratio != self.ratio

    @property
    def margin_ratio(self) -> float:
        """How much room above the demand this target wants, as a multiple of what the default one does.

        What exceeds the demand of a moment is z standard deviations of whatever comes unforeseen, with z the normal
        score of the target: 2.33 at 1 %, 1.28 at 10 % (0.55), 3.09 at .1 % (1.33). Never below 0, from 50 % on.
        """
        wanted, usual = (NormalDist().inv_cdf(1.0 - ratio) for ratio in (self.ratio, MISSED_TARGET_RATIO))
        return max(0.0, wanted / usual)


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringRule:
    """Parameters of the steering; the defaults were measured on many traces and tuned to none."""

    missed_target_ratio: float = MISSED_TARGET_RATIO
    """Share of minutes that may exceed the Ready capacity; `cost` says the same by prices, and excludes it."""
    first_z: float = 1.645
    """Where a new workload starts: the 95 % quantile."""
    step_z: float = 0.05
    """How far one missed minute moves the score for good if its effect shows within a minute. Divided by the root of
    the minutes it takes: half of it with a start of three minutes and a tick of one."""
    burst_z: float = 8.0
    """Added to the score for the share of late minutes that were missed: 5 % of them add 0.4."""
    burst_half_life: timedelta = timedelta(minutes=45)
    """How fast a minute ceases to be late."""
    least_z: float = 1.0
    """Lowest score (the 84 % quantile). Scores below it were only ever reached where whole replicas left room to
    spare, and were missing when the room was filled."""
    most_z: float = 4.5
    """Highest score; beyond it the tail of a forecast is a guess."""

    def __post_init__(self) -> None:
        if not 0.0 < self.missed_target_ratio < 1.0:
            raise ValueError(f"steering.missed_target_ratio must lie in (0, 1), got {self.missed_target_ratio}")
        if not self.least_z <= self.first_z <= self.most_z:
            raise ValueError(f"steering.first_z must lie in [{self.least_z}, {self.most_z}], got {self.first_z}")
        if not self.burst_z >= 0.0:
            raise ValueError(f"steering.burst_z must be at least 0, got {self.burst_z}")
        if self.burst_half_life <= timedelta(0):
            raise ValueError(f"steering.burst_half_life must be above 0, got {self.burst_half_life}")


def target_of(rule: SteeringRule, cost: CostRule | None, *, gpus: int) -> MissTarget:
    """The share to steer to: the rule's own, or the balance of the costs cut to [.05 %, 20 %]."""
    if cost is None:
        return MissTarget(ratio=rule.missed_target_ratio)
    balance = cost.balance_ratio(gpus=gpus)
    return MissTarget(ratio=min(MOST_TARGET_RATIO, max(LEAST_TARGET_RATIO, balance)), balance_ratio=balance)


def score(z: float, missed: float, rule: SteeringRule) -> float:
    """The score to provision for: the lasting one, and what the misses of late add to it."""
    return min(rule.most_z, z + rule.burst_z * missed)


def steer(
    z: float, missed: float, rule: SteeringRule, *, load: float, ready: int, tick: timedelta, lead_time: timedelta
) -> tuple[float, float]:
    """Lasting score and share of missed minutes after a tick in which `ready` replicas met `load` (full replicas).

    z + step · tick / √(lead time + tick) · (missed - target), times in minutes. With a tick of one minute and a start
    of three, one missed minute raises z by 0.05 / √4 · 0.99 = 0.0248, which 99 quiet ones take back. A tick of ten
    minutes with a start of ten counts 0.05 · 10 / √20 = 0.11, not ten missed minutes: it is one observation.
    The share moves by 1 - 2 ** (-1 / 45) = .0153 of the way a minute: one miss adds 0.12 to the score, half of it
    45 minutes later.
    """
    minutes = tick / timedelta(minutes=1)
    event = 1.0 if load > ready + 1e-9 else 0.0
    step = rule.step_z * minutes / math.sqrt(minutes + lead_time / timedelta(minutes=1))
    lasting = min(rule.most_z, max(rule.least_z, z + step * (event - rule.missed_target_ratio)))
    kept: float = 0.5 ** (tick / rule.burst_half_life)
    return lasting, kept * missed + (1.0 - kept) * event


def frozen(
    state: PolicyState, replicas: ReplicaState, *, most_replicas: int, lead_time: timedelta, now: datetime
) -> bool:
    """Whether a miss would say something else than "the quantile is too low" (I13).

    At the maximum, over the GPU budget, with pods that find no GPU or fail, or within a lead time of a change of
    model, no quantile would have helped. Nor while people or another writer have their way, and for as long after it
    as what is ordered then takes to start. Pods that are merely starting do not freeze: they are the forecast's delay.
    """
    return (
        replicas.desired >= most_replicas
        or state.over_budget
        or replicas.unschedulable > 0
        or replicas.failed > 0
        or (state.model_since is not None and now - state.model_since < lead_time)
        or (state.by_hand_at is not None and now - state.by_hand_at <= lead_time)
    )
