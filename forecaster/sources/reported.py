"""The last readings of signals that are only reported, which are asked for every few minutes and shown at every tick.

It decides what is shown between two reads: the last reading with its true age, or that none was made yet. It never
asks for anything, and keeps nothing of workloads that are no longer asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from forecaster.sources.catalogue import CATALOGUE, Use
from forecaster.sources.selector import WorkloadSelector
from forecaster.types import DEFAULT_CLASS, Blind, BlindReason, Known, Reading, SeriesKey, Zero

EVERY = timedelta(minutes=5)

SIGNALS = tuple(signal.name for signal in CATALOGUE if signal.use is Use.REPORTING)

_NOT_YET = {DEFAULT_CLASS: Blind(reason=BlindReason.NOT_READ, detail="read every five minutes, not yet")}

_Told = tuple[Mapping[str, Reading], datetime]
"""Readings by request class, and when they were made."""


class Reported:
    """What was read last. Not thread-safe: the source holds its lock."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}

    def brought_up(
        self, selectors: Sequence[WorkloadSelector], values: Mapping[SeriesKey, Reading], *, now: datetime
    ) -> dict[SeriesKey, Reading]:
        """Every reported signal of these workloads: from `values` where it was just read, else as it was last."""
        fresh: dict[tuple[str, str], dict[str, Reading]] = defaultdict(dict)
        for key, reading in values.items():
            fresh[(key.workload, key.signal)][key.request_class] = reading
        told: dict[tuple[str, str], _Told] = {}
        for of in ((selector.workload, signal) for selector in selectors for signal in SIGNALS):
            told[of] = (fresh[of], now) if of in fresh else self._told.get(of, (_NOT_YET, now))
        self._told = told
        return {
            SeriesKey(workload=workload, signal=signal, request_class=name): _aged(reading, now - at)
            for (workload, signal), (by_class, at) in told.items()
            for name, reading in by_class.items()
        }


def _aged(reading: Reading, by: timedelta) -> Reading:
    if isinstance(reading, Known | Zero):
        return replace(reading, age_s=reading.age_s + max(0.0, by.total_seconds()))
    return reading
