"""Knative's pod autoscaler: a stable window for calm, a short panic window for bursts, no way down while it panics."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaler.policy.capacity import replicas_for
from scaler.simulate.policies.playing import DEFAULT_UTILISATION, Memory, Sight, bins_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Kpa:
    """Knative Serving's KPA on requests a second.

    Source: knative/serving pkg/autoscaler/scaling/autoscaler.go (`Scale`), with the defaults of `config-autoscaler`:
    stable window 60 s, panic window 10 % of it, panic threshold 200 %, at most ×1000 out and ÷2 in from the Ready
    pods, target 70 %. Scale to zero is off, as everywhere in this protocol.

    A window is the bins that it reaches into: exact on bins of 1, 2, 3 or 6 s; on 15-s sights the panic window is the
    newest one; on one-minute bins both windows are the newest bin, so the six seconds of the panic window see what the
    minute averaged. Knative decides every two seconds; within a bin its metrics do not change here, so one decision a
    bin is the same. The memory is (bins since the last panic or -1, the most pods wished for while panicking).
    """

    target_ratio: float = DEFAULT_UTILISATION
    stable_window_s: float = 60.0
    panic_window_s: float = 6.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0

    def decide(self, sight: Sight, memory: Memory) -> tuple[int, Memory]:
        """See `Planner`."""
        # Like Knative, which starts in panic mode at the scale it finds, so that a restart does not shrink anything.
        calm_bins, most = memory or ((0, sight.ready) if sight.ready > 1 else (-1, 0))
        ready = max(1, sight.ready)
        stable, panic = (
            replicas_for(_mean(sight, window_s), utilisation=self.target_ratio)
            for window_s in (self.stable_window_s, self.panic_window_s)
        )
        least, limit = math.floor(ready / self.max_scale_down_rate), math.ceil(ready * self.max_scale_up_rate)
        wanted = min(max(stable, least), limit)
        if panic / ready >= self.panic_threshold:
            calm_bins = 0
        elif calm_bins >= 0 and memory:
            calm_bins += 1
        if calm_bins * sight.step.total_seconds() > self.stable_window_s:
            calm_bins, most = -1, 0
        if calm_bins >= 0:
            most = max(most, wanted, min(max(panic, least), limit))
            wanted = most
        return max(1, wanted), (calm_bins, most)


def _mean(sight: Sight, window_s: float) -> float:
    """Mean of the known bins that the window reaches into; the newest is always known."""
    known = [each for each in sight.past[-bins_of(window_s, sight.step) :].tolist() if not math.isnan(each)]
    return math.fsum(known) / len(known)
