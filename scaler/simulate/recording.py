"""What a run leaves behind for people: forecasts beside what came, and every change with its reasons.

A recorder watches the loop's reports and writes arrays; it never touches the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaler.loop import TickReport
from scaler.policy.types import Action, Decision, Reason, Trust
from scaler.simulate.cluster import VirtualWorkload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.types import FloatArray
    from scaler.ports import DecisionRecord

REASONS: tuple[Reason, ...] = tuple(Reason)
TRUSTS: tuple[Trust, ...] = tuple(Trust)
Z_95 = 1.6448536269514722


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What one workload's run left; every array has one entry a bin.

    `median`, `upper` (0.95) and `order` (the steered quantile) are loads in exactly full replicas, forecast for that
    bin one lead time before; NaN without a forecast. `reason` and `trust` index `REASONS` and `TRUSTS`: the decision
    after that bin. `changes` are the decisions that moved the scale, each with the bin after which it was made.
    `decisions` are all of them, None after a bin that nobody decided on.
    """

    median: FloatArray
    upper: FloatArray
    order: FloatArray
    reason: NDArray[np.uint8]
    trust: NDArray[np.uint8]
    z: FloatArray
    changes: tuple[tuple[int, Decision], ...]
    decisions: tuple[Decision | None, ...]

    def window(self, first: int, last: int) -> Track:
        """Bins [first, last) alone, counted from 0. A change made after bin -1 takes hold in bin 0 and stays."""
        return Track(
            median=self.median[first:last],
            upper=self.upper[first:last],
            order=self.order[first:last],
            reason=self.reason[first:last],
            trust=self.trust[first:last],
            z=self.z[first:last],
            changes=tuple((after - first, decision) for after, decision in self.changes if first - 1 <= after < last),
            decisions=self.decisions[first:last],
        )


class Recorder:
    """Fills one `Track` a workload; give `observe` to `product.run`."""

    def __init__(self, workloads: Sequence[VirtualWorkload]) -> None:
        self._tracks = {each.name: _Writing(each) for each in workloads}

    def observe(self, report: TickReport) -> None:
        """Note one tick."""
        for record in report.records:
            self._tracks[record.decision.workload].note(record)

    def tracks(self) -> Mapping[str, Track]:
        """What was noted, by workload."""
        return {name: writing.finished() for name, writing in self._tracks.items()}


class _Writing:
    """One workload's arrays while they fill."""

    def __init__(self, workload: VirtualWorkload) -> None:
        bins = workload.demand_rps.values.size
        self._workload = workload
        self._median, self._upper, self._order, self._z = (np.full(bins, np.nan) for _ in range(4))
        self._reason, self._trust = (np.zeros(bins, dtype=np.uint8) for _ in range(2))
        self._changes: list[tuple[int, Decision]] = []
        self._decisions: list[Decision | None] = [None] * bins

    def note(self, record: DecisionRecord) -> None:
        decision, series = record.decision, self._workload.demand_rps
        after = (record.at - series.start) // series.step - 1
        self._reason[after] = REASONS.index(decision.reason)
        self._trust[after] = TRUSTS.index(decision.trust)
        self._z[after] = decision.z
        self._decisions[after] = decision
        if decision.action is not Action.HOLD:
            self._changes.append((after, decision))
        arrives = after + 1 + self._workload.cold_start_bins
        if not record.snapshot.forecasts or arrives >= self._median.size:
            return
        forecast = record.snapshot.forecasts[0].forecast
        at = series.start + series.step * arrives
        for array, z in ((self._median, 0.0), (self._upper, Z_95), (self._order, decision.z)):
            array[arrives] = forecast.quantile(at, z=z) / self._workload.max_rps

    def finished(self) -> Track:
        return Track(
            median=self._median,
            upper=self._upper,
            order=self._order,
            reason=self._reason,
            trust=self._trust,
            z=self._z,
            changes=tuple(self._changes),
            decisions=tuple(self._decisions),
        )
