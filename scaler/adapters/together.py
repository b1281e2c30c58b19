"""The tick's two reads at the same time: metrics and cluster, each of which mostly waits for its server.

It decides only when the reads begin. One after the other they may take the deadline of both (8 s each), and of 2,000
workloads they take seconds of waiting. It never reads the cluster for an earlier tick: a read belongs to one moment.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from forecaster.types import Blind
from scaler.policy.types import Decision, ReplicaState
from scaler.ports import Outcome, Signals, Targets, WorkloadSignals

Replicas = Mapping[str, ReplicaState | Blind]


class Together:
    """A loop's `signals` and `targets` over two others; the targets' read begins with the signals'."""

    def __init__(self, signals: Signals, targets: Targets) -> None:
        self._begun: _Read | None = None
        self.signals = _SignalsFirst(self, signals)
        self.targets = _TargetsBegun(self, targets)

    def begin(self, targets: Targets, *, now: datetime) -> None:
        """Read the targets in a thread of its own; what was begun before and not asked for is forgotten."""
        self._begun = _Read(targets, now)

    def finished(self, targets: Targets, *, now: datetime) -> Replicas:
        """What the read of this moment brought; read now if none was begun for it."""
        begun, self._begun = self._begun, None
        return begun.result() if begun is not None and begun.now == now else targets.read(now=now)


class _Read:
    """One read under way. The thread is no obstacle to the end of the process: it only reads."""

    def __init__(self, targets: Targets, now: datetime) -> None:
        self.now = now
        self._found: Replicas = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(targets,), name="read-targets", daemon=True)
        self._thread.start()

    def _run(self, targets: Targets) -> None:
        try:
            self._found = targets.read(now=self.now)
        except BaseException as error:
            self._error = error  # a defect: raised where the loop asks, as if it had been read there

    def result(self) -> Replicas:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


@dataclass(frozen=True, slots=True)
class _SignalsFirst:
    """`Signals` that begin the other read as well."""

    together: Together
    inner: Signals

    def read(self, *, now: datetime) -> Mapping[str, WorkloadSignals]:
        self.together.begin(self.together.targets.inner, now=now)
        return self.inner.read(now=now)


@dataclass(frozen=True, slots=True)
class _TargetsBegun:
    """`Targets` whose read was begun."""

    together: Together
    inner: Targets

    def read(self, *, now: datetime) -> Replicas:
        return self.together.finished(self.inner, now=now)

    def scale(self, decision: Decision) -> Outcome:
        return self.inner.scale(decision)
