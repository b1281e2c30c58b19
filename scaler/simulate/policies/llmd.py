"""llm-d's SLO-aware autoscaling: a latency law that looks at no demand at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta

from scaler.simulate.policies.behaviour import (
    NOTHING_YET,
    Behaviour,
    History,
    PolicyKind,
    ScalingPolicy,
    ScalingRules,
)
from scaler.simulate.policies.hpa import behaviour_for, per_replica, syncs_in
from scaler.simulate.policies.playing import Memory, Sight, bins_of
from scaler.simulate.queueing import ReplicaLatency, serve

OUT_ABOVE = 0.55
"""θ_up: more replicas where the signal exceeds it."""
IN_BELOW = 0.40
"""θ_dn: fewer where it stays below."""
CLAMP = 2.0
"""No sample counts as more, so that a single spike cannot poison the average."""
SMOOTHING_S = 45.0

UP = ScalingRules(
    stabilisation_s=30.0,
    policies=(
        ScalingPolicy(kind=PolicyKind.PERCENT, value=100, period_s=60.0),
        ScalingPolicy(kind=PolicyKind.PODS, value=4, period_s=60.0),
    ),
)
DOWN = ScalingRules(stabilisation_s=180.0, policies=(ScalingPolicy(kind=PolicyKind.PODS, value=1, period_s=120.0),))

SHARE_OF_SLO = ReplicaLatency(idle_p95_s=0.2, full_p95_s=1.0)
"""The tail latency of a replica in shares of its SLO, where a protocol has no latencies: 0.2 idle, 1 when full.

"Under healthy load the P90 signal sits around 0.2 to 0.45 of the SLO and then goes vertical" (the guide).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Llmd:
    """llm-d's law: the ratio of P90 latency and SLO, out above 0.55, in below 0.40, one formula in between two HPAs.

    Source: llm-d/llm-d guides/workload-autoscaling/README.slo-aware.md ("the control law"), `slo-aware/
    prometheus-rule.yaml` and `slo-aware/scaledobject.yaml`, as published with 95.8 % attainment at 5.93 of 8 replicas.
    With s the signal, n all replicas and r the Ready ones, every 15 s:

    - s = mean over 45 s of min(2, max(P90 TTFT / SLO, P90 ITL / SLO)); nothing measured reads 0, as in its rules.
    - s > 0.55: n + ceil(n · (s · r/n / 0.55 - 1)), the credit r/n for starting pods on this branch alone. Like the
      formula, this may ask for fewer than n while many pods start; the HPA's slow way in is what holds them then.
    - s < 0.40: n - floor(n · (1 - s / 0.40)). In between: n.
    - The HPA that KEDA makes of it: 10 % tolerance; out by max(100 %, 4 pods) a minute to the lowest wish of 30 s;
      in by one pod in 120 s to the highest wish of 180 s.

    Three things differ. The guide has one pair of SLOs; here the worst class counts. Its P90 is over the last minute;
    here it is what the sight shows. It has bounds of 3 and 8; here it is at least one, as everybody.

    In the decision protocol nothing has a latency. There the signal is `SHARE_OF_SLO` at the utilisation of the Ready
    pods, with what arrives above their capacity waiting until the bin ends: flat, then vertical. The curve is one
    level, so there `mean_signal` changes nothing.
    """

    out_above: float = OUT_ABOVE
    in_below: float = IN_BELOW
    mean_signal: bool = False
    """Means instead of P90: the setting that llm-d measured to be worse, 84.7 % against 95.8 %."""
    behaviour: Behaviour = field(default_factory=lambda: Behaviour(up=UP, down=DOWN))

    @classmethod
    def for_bins(cls, step: timedelta, *, out_above: float = OUT_ABOVE, mean_signal: bool = False) -> Llmd:
        """On bins of that width; the lower threshold stays at the published proportion, 0.40 / 0.55 of the upper."""
        return cls(
            out_above=out_above,
            in_below=out_above * IN_BELOW / OUT_ABOVE,
            mean_signal=mean_signal,
            behaviour=behaviour_for(step, up=UP, down=DOWN),
        )

    def __post_init__(self) -> None:
        if not 0.0 < self.in_below <= self.out_above <= CLAMP:
            raise ValueError(f"need 0 < in_below ≤ out_above ≤ {CLAMP:g}, got {self.in_below} and {self.out_above}")

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`; the memory is the signal's samples of 45 s and the behaviour's history."""
        samples: tuple[float, ...] = memory[0] if memory else ()
        history: History = memory[1] if memory else NOTHING_YET
        samples = (*samples, min(CLAMP, self._raw(sight)))[-bins_of(SMOOTHING_S, sight.step) :]
        signal = sum(samples) / len(samples)
        replicas = sight.ordered
        for _ in range(syncs_in(sight.step)):
            desired = self.desired(signal, replicas=replicas, ready=sight.ready)
            # KEDA hands the result on as an external metric with an average of 1 a replica, tolerance included.
            wanted = desired if desired == replicas else per_replica(float(desired), target=1.0, replicas=replicas)
            replicas, history = self.behaviour.settle(wanted, replicas, history)
        return replicas, (samples, history)

    def desired(self, signal: float, *, replicas: int, ready: int) -> int:
        """The formula of the ScaledObject."""
        if signal > self.out_above:
            credit = ready / replicas if 0 < ready < replicas else 1.0
            return replicas + math.ceil(replicas * (signal * credit / self.out_above - 1.0) - 1e-9)
        if signal < self.in_below:
            return replicas - math.floor(replicas * (1.0 - signal / self.in_below) + 1e-9)
        return replicas

    def _raw(self, sight: Sight) -> float:
        """The worst ratio of latency and target over all classes; 0 where nothing is known."""
        if not sight.latency:
            return _share_of_slo(sight)
        worst = 0.0
        for each in sight.latency:
            ttft_s, itl_s = (
                (each.ttft_mean_s, each.itl_mean_s) if self.mean_signal else (each.ttft_p90_s, each.itl_p90_s)
            )
            for ratio in (ttft_s / each.ttft_slo_s, itl_s / each.itl_slo_s):
                # A comparison with NaN is false: a class without traffic or without a target says nothing.
                if ratio > worst:
                    worst = ratio
        return worst


def _share_of_slo(sight: Sight) -> float:
    ready = max(1, sight.ready)
    served = serve(
        sight.load,
        capacity_rps=float(ready),
        backlog=0.0,
        bin_s=sight.step.total_seconds(),
        latency=SHARE_OF_SLO,
    )
    return served.p95_s / SHARE_OF_SLO.full_p95_s
