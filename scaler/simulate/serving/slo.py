"""Whether each request kept its SLO, and what that makes of a run: attainment, bad minutes, percentiles.

A request attains when it finished, its first token came within the target of its class, and its mean time between
tokens and its end-to-end time kept theirs where there are any. Whoever was turned away, killed, or had not finished
when the run's tail ended missed. A minute is in violation when fewer than 95 % of the requests that *arrived* in it
attained; a minute without arrivals is not. Nothing here simulates.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaler.policy.capacity import ClassCapacity
from scaler.service.model import LatencySlo
from scaler.simulate.serving.engine import Request, Status

if TYPE_CHECKING:
    from forecaster.types import FloatArray
    from scaler.simulate.scoring import IntArray

MINUTE_S = 60.0
GOOD_MINUTE_RATIO = 0.95
"""Share of a minute's requests that must attain."""
PERCENTILES = (50, 95, 99)

_FINISHED = Status.FINISHED


class Ledger:
    """Takes each request when it arrives and when it ends, and keeps figures, not requests."""

    def __init__(self, classes: Sequence[ClassCapacity], *, minutes: int) -> None:
        """For requests that arrive within `minutes` minutes from 0 s on."""
        self._books = {each.name: _Book(each.slo or LatencySlo(), minutes) for each in classes}

    def arrive(self, request: Request) -> None:
        """It reached the front door."""
        self._books[request.request_class].arrived[int(request.arrived_s // MINUTE_S)] += 1

    def end(self, requests: Iterable[Request]) -> None:
        """They finished, were turned away or were killed."""
        books = self._books
        for request in requests:
            if request.status is _FINISHED:
                books[request.request_class].finish(request)

    def report(self) -> SloReport:
        """The run's figures; what has not ended by now missed."""
        return SloReport(classes={name: book.report() for name, book in self._books.items()})


class _Book:
    """One class's figures so far."""

    __slots__ = ("arrived", "attained", "e2e_s", "itl_s", "slo", "ttft_s")

    def __init__(self, slo: LatencySlo, minutes: int) -> None:
        bounds = (slo.ttft_s, slo.itl_s, slo.e2e_s)
        self.slo = tuple(math.inf if each is None else each for each in bounds)
        self.arrived = [0] * minutes
        self.attained = [0] * minutes
        self.ttft_s = array("d")
        self.itl_s = array("d")
        self.e2e_s = array("d")

    def finish(self, request: Request) -> None:
        arrived_s = request.arrived_s
        ttft_s, itl_s, e2e_s = request.first_token_s - arrived_s, request.itl_s, request.finished_s - arrived_s
        self.ttft_s.append(ttft_s)
        self.itl_s.append(itl_s)
        self.e2e_s.append(e2e_s)
        ttft_slo_s, itl_slo_s, e2e_slo_s = self.slo
        # a single token has no time between tokens: NaN exceeds nothing
        if ttft_s <= ttft_slo_s and not itl_s > itl_slo_s and e2e_s <= e2e_slo_s:
            self.attained[int(arrived_s // MINUTE_S)] += 1

    def report(self) -> ClassReport:
        return ClassReport(
            arrived=np.array(self.arrived, dtype=np.int64),
            attained=np.array(self.attained, dtype=np.int64),
            ttft_s=np.array(self.ttft_s),
            itl_s=np.array(self.itl_s),
            e2e_s=np.array(self.e2e_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassReport:
    """One class: requests by the minute in which they arrived, and latencies of those that finished, in no order."""

    arrived: IntArray
    attained: IntArray
    ttft_s: FloatArray
    itl_s: FloatArray
    """Mean time between tokens of each request, NaN with a single token."""
    e2e_s: FloatArray

    @property
    def requests(self) -> int:
        """Requests that arrived."""
        return int(self.arrived.sum())

    @property
    def dropped(self) -> int:
        """Requests that never finished."""
        return self.requests - self.e2e_s.size

    @property
    def attainment(self) -> float:
        """Share of the requests that kept their SLO; NaN without any."""
        return int(self.attained.sum()) / self.requests if self.requests else math.nan

    def as_json(self) -> dict[str, Any]:
        """Figures of the class in `simulate -o json`; NaN where nothing finished."""
        latencies = {"ttft": self.ttft_s, "itl": self.itl_s, "e2e": self.e2e_s}
        return {
            "requests": self.requests,
            "attainment": _rounded(self.attainment),
            **{
                f"{name}_p{level}_s": _rounded(percentile_s(values, level))
                for name, values in latencies.items()
                for level in PERCENTILES
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SloReport:
    """All classes of a run."""

    classes: Mapping[str, ClassReport]

    @property
    def requests(self) -> int:
        """Requests that arrived."""
        return sum(each.requests for each in self.classes.values())

    @property
    def dropped(self) -> int:
        """Requests that never finished: turned away, killed, or still running when the tail ended."""
        return sum(each.dropped for each in self.classes.values())

    @property
    def attainment(self) -> float:
        """Share of all requests that kept their SLO; NaN without any."""
        attained = sum(int(each.attained.sum()) for each in self.classes.values())
        return attained / self.requests if self.requests else math.nan

    @property
    def minute_attainment(self) -> FloatArray:
        """The same by the minute of arrival, NaN in minutes without arrivals."""
        arrived = np.sum([each.arrived for each in self.classes.values()], axis=0)
        attained = np.sum([each.attained for each in self.classes.values()], axis=0)
        ratio: FloatArray = np.divide(attained, arrived, out=np.full(arrived.size, np.nan), where=arrived > 0)
        return ratio

    @property
    def violation_minutes(self) -> int:
        """Minutes in which fewer than 95 % of the requests that arrived attained."""
        return int((self.minute_attainment < GOOD_MINUTE_RATIO).sum())


def percentile_s(values: FloatArray, level: float) -> float:
    """A percentile of what is known, NaN without anything."""
    known = values[np.isfinite(values)]
    return float(np.percentile(known, level)) if known.size else math.nan


def _rounded(value: float) -> float:
    return round(value, 6)
