"""What metrics show of a pool: sliding windows as the daemon reads them, and the sight of its rivals.

Time is cut into slots of about 15 s, a common scrape interval. Arrivals are counted at the front door, latencies where
a real server counts them: the time to the first token when that token comes; the time in the queue, the mean time
between tokens and end to end when the request ends. So in a jam the percentiles lag, as they
do in life: whoever still waits is in none of them. Percentiles are exact. While metrics are dark everything is `Blind`,
and nothing is lost: counters count on. This module decides nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from forecaster.types import Blind, BlindReason, Known, Reading, TooFew, Zero
from scaler.policy.capacity import ClassCapacity
from scaler.policy.types import NOT_READ, ClassReadings, Decision, ReplicaState
from scaler.ports import Outcome, OutcomeKind, WorkloadSignals
from scaler.simulate.cluster import FEWEST_REQUESTS
from scaler.simulate.policies.playing import ClassLatency
from scaler.simulate.serving.engine import Request, Status
from scaler.simulate.serving.pool import Pool

SLOT_S = 15.0
"""Length of a slot at most: the commonest scrape interval, and a sync of the HPA."""
RATE_WINDOW = timedelta(minutes=2)
"""Window of the product's queries: the default of its latency rule."""
RIVAL_WINDOW = timedelta(minutes=1)
"""Window of the rivals' queries: llm-d's rule, and what an HPA's adapter commonly asks for."""

_DARK = Blind(reason=BlindReason.UNREACHABLE, detail="the simulated metrics source is down")
_UNKNOWN = Blind(reason=BlindReason.NO_SERIES, detail="the trace has no value for this bin")


@dataclass(slots=True, kw_only=True)
class _Slot:
    """What was counted in one slot, by class."""

    arrived: dict[str, int]
    ttft_s: dict[str, list[float]]
    e2e_s: dict[str, list[float]]
    queue_s: dict[str, list[float]]
    itl_s: list[float] = field(default_factory=list)
    """Means of requests of all classes."""
    known: bool = True
    """Whether the trace knows what arrived in it."""

    @classmethod
    def empty(cls, names: Sequence[str]) -> _Slot:
        ttft_s, e2e_s, queue_s = ({name: list[float]() for name in names} for _ in range(3))
        return cls(arrived=dict.fromkeys(names, 0), ttft_s=ttft_s, e2e_s=e2e_s, queue_s=queue_s)


class Meter:
    """Counts what happens to a pool. Tell it of each arrival, then `close` each slot at its end."""

    def __init__(self, classes: Sequence[ClassCapacity], pool: Pool, *, slot_s: float = SLOT_S) -> None:
        """Begins at 0 s; keeps what the longest window needs."""
        self.classes = tuple(classes)
        self.slot_s = slot_s
        self.dark = False
        """Whether metrics can be read now; kept up to date by whoever knows the events."""
        self.arriving: dict[str, int] = {}
        """Counts of the slot that runs; add to them."""
        self._names = [each.name for each in classes]
        # times between tokens are of all classes: as the daemon does, judge them by the loosest target alone
        self._mixed = max(classes, key=_itl_target_s).name
        self._pool = pool
        self._slots: deque[_Slot] = deque(maxlen=self.slots_in(RATE_WINDOW))
        self._slot = _Slot.empty(self._names)
        self.arriving = self._slot.arrived

    def slots_in(self, window: timedelta) -> int:
        """Slots that a window covers, at least one."""
        return max(1, round(window.total_seconds() / self.slot_s))

    def close(self, ended: Sequence[Request], *, known: bool = True) -> None:
        """The slot is over; `ended` are the requests that ended in it, `known` whether the trace knows its rate."""
        slot, pool = self._slot, self._pool
        for request in pool.first_tokens:
            slot.ttft_s[request.request_class].append(request.first_token_s - request.arrived_s)
        pool.first_tokens.clear()
        for request in ended:
            if request.status is Status.FINISHED:
                slot.e2e_s[request.request_class].append(request.finished_s - request.arrived_s)
                slot.queue_s[request.request_class].append(request.queue_s)
                # a single token has nothing between it; vLLM counts it as 0 s
                slot.itl_s.append(request.itl_s if request.output_tokens > 1 else 0.0)
        slot.known = known
        self._slots.append(slot)
        self._slot = _Slot.empty(self._names)
        self.arriving = self._slot.arrived

    # ── The product's sight ──

    def read(self) -> WorkloadSignals:
        """One tick's readings over the last two minutes, as the daemon makes them of its queries."""
        if self.dark:
            return WorkloadSignals(classes=tuple(_blind(name, _DARK) for name in self._names), requests_waiting=_DARK)
        if not self._slots or not self._slots[-1].known:
            blind = tuple(_blind(name, _UNKNOWN) for name in self._names)
            return WorkloadSignals(classes=blind, requests_waiting=_UNKNOWN)
        return WorkloadSignals(
            classes=tuple(self._readings(name) for name in self._names),
            requests_waiting=Known(value=float(self._pool.waiting)),
        )

    def _readings(self, name: str) -> ClassReadings:
        rate = self.rate_rps(name, RATE_WINDOW)
        return ClassReadings(
            request_class=name,
            demand_rps=Known(value=rate) if rate > 0.0 else Zero(evidence="no arrivals at the front door"),
            e2e_p95_s=_p95([value for slot in self._slots for value in slot.e2e_s[name]]),
            ttft_p95_s=_p95([value for slot in self._slots for value in slot.ttft_s[name]]),
            queue_time_p95_s=_p95([value for slot in self._slots for value in slot.queue_s[name]]),
            itl_p95_s=self._itl_p95() if name == self._mixed else NOT_READ,
        )

    def _itl_p95(self) -> Reading:
        """Over requests, as `vllm:request_time_per_output_token_seconds` counts them."""
        return _p95([value for slot in self._slots for value in slot.itl_s])

    # ── The rivals' sight ──

    def rate_rps(self, name: str, window: timedelta) -> float:
        """Mean arrivals a second over a window, or over what there is of it; NaN before the first slot."""
        slots = [slot for slot in self._last(window) if slot.known]
        return sum(slot.arrived[name] for slot in slots) / (len(slots) * self.slot_s) if slots else math.nan

    def load(self, window: timedelta) -> float:
        """The same over all classes, in exactly full replicas; NaN while it cannot be seen."""
        if self.dark or not self._slots or not self._slots[-1].known:
            return math.nan
        return math.fsum(self.rate_rps(each.name, window) / each.max_rps for each in self.classes)

    def latencies(self, window: timedelta = RIVAL_WINDOW) -> tuple[ClassLatency, ...]:
        """What a window's metrics say of each class.

        Times between tokens are means of finished requests, as llm-d's histograms have them, and not told apart by
        class.
        """
        slots = self._last(window)
        itl_s = [value for slot in slots for value in slot.itl_s]
        itl_mean_s = float(np.mean(itl_s)) if itl_s else math.nan
        itl_p90_s = float(np.percentile(itl_s, 90)) if itl_s else math.nan
        return tuple(self._latency(each, slots, itl_mean_s, itl_p90_s) for each in self.classes)

    def _latency(
        self, each: ClassCapacity, slots: Sequence[_Slot], itl_mean_s: float, itl_p90_s: float
    ) -> ClassLatency:
        ttft_s = [value for slot in slots for value in slot.ttft_s[each.name]]
        slo_s = (each.slo.ttft_s, each.slo.itl_s) if each.slo is not None else (None, None)
        ttft_slo_s, itl_slo_s = (math.nan if value is None else value for value in slo_s)
        return ClassLatency(
            request_class=each.name,
            ttft_mean_s=float(np.mean(ttft_s)) if ttft_s else math.nan,
            ttft_p90_s=float(np.percentile(ttft_s, 90)) if ttft_s else math.nan,
            itl_mean_s=itl_mean_s,
            itl_p90_s=itl_p90_s,
            ttft_slo_s=ttft_slo_s,
            itl_slo_s=itl_slo_s,
        )

    def _last(self, window: timedelta) -> list[_Slot]:
        return list(self._slots)[-self.slots_in(window) :]


def _p95(values: Sequence[float]) -> Reading:
    """A percentile of enough requests."""
    if len(values) < FEWEST_REQUESTS:
        return TooFew(count=float(len(values)))
    return Known(value=float(np.percentile(values, 95)))


def _itl_target_s(each: ClassCapacity) -> float:
    """What a class promises of the time between tokens; 0 where it promises nothing."""
    return 0.0 if each.slo is None or each.slo.itl_s is None else each.slo.itl_s


def _blind(name: str, why: Blind) -> ClassReadings:
    return ClassReadings(
        request_class=name, demand_rps=why, e2e_p95_s=why, ttft_p95_s=why, queue_time_p95_s=why, itl_p95_s=why
    )


class ServingSignals:
    """`scaler.ports.Signals` over a meter."""

    def __init__(self, workload: str, meter: Meter) -> None:
        self._workload = workload
        self._meter = meter

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        """The metrics at the end of the last slot; `now` is that moment by construction."""
        del now
        return {self._workload: self._meter.read()}


class ServingTargets:
    """`scaler.ports.Targets` over a pool. `now_s` is kept up to date by whoever lets time pass."""

    def __init__(self, workload: str, pool: Pool) -> None:
        self.now_s = 0.0
        self._workload = workload
        self._pool = pool

    def read(self, *, now: datetime) -> Mapping[str, ReplicaState | Blind]:
        """Pods as they stand; draining ones are in none of the counts."""
        del now
        pool = self._pool
        return {self._workload: ReplicaState(desired=pool.ordered, ready=pool.serving, starting=pool.starting)}

    def scale(self, decision: Decision) -> Outcome:
        """Order `decision.target` replicas, if the scale still is `decision.current`."""
        found = self._pool.ordered
        if decision.target is None or decision.target == found:
            return Outcome(kind=OutcomeKind.UNCHANGED)
        if decision.current != found:
            return Outcome(kind=OutcomeKind.CONFLICT, detail=f"decided on {decision.current}", found=found)
        self._pool.scale(decision.target, self.now_s)
        return Outcome(kind=OutcomeKind.SCALED)
