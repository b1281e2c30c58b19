"""The daemon's part in the election: which lease, under which name, and what ends the process if nothing else does.

Order only: `scaler.adapters.election` decides, `scaler.adapters.leadership` looks. Nothing here writes to a workload.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from scaler.adapters.connections import access_of, lease_of
from scaler.adapters.election import ElectionRule
from scaler.adapters.kubernetes.http import CALL_TIMEOUT_S, ApiConnection, Observer
from scaler.adapters.kubernetes.leases import LeaseApi
from scaler.adapters.leadership import Ears, LeaderElection
from scaler.config import Config, HaConfig

SETTLE_WRITES_S = 0.5
"""A write that has no answer then is not waited for: the lease runs out instead of being given back."""


class Alone:
    """The part of a daemon for which no lease decides who writes: it always may."""

    election: LeaderElection | None = None
    lost: str | None = None

    write_limit_s = CALL_TIMEOUT_S

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return True

    def start(self) -> None:
        """There is nothing to begin."""

    def hand_over(self, settled: Callable[[], bool]) -> None:
        """There is nothing to give back."""

    def close(self) -> None:
        """There is nothing to close."""


class Contender:
    """One daemon in the election, with a connection of its own: a pause that a 429 on something else ordered, or a
    request that hangs, must not keep the lease from being renewed."""

    def __init__(self, api: ApiConnection, election: LeaderElection, end_in: Callable[[float], None]) -> None:
        self.election: LeaderElection | None = election
        self._election = election
        self._api = api
        self._end_in = end_in

    @property
    def lost(self) -> str | None:
        """Why this process may never write again and must end, or None."""
        return self._election.lost

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._election.leads

    @property
    def write_limit_s(self) -> float:
        """How long a write may take to arrive, and again to be carried out."""
        return self._election.rule.write_limit_s

    def start(self) -> None:
        """Begin to look at the lease."""
        self._election.start()

    def hand_over(self, settled: Callable[[], bool]) -> None:
        """Begin to give the lease back, unless a write of ours may still be carried out: then it runs out by itself.

        `settled` says that none can; the caller has forbidden new ones.
        """
        ends = time.monotonic() + SETTLE_WRITES_S
        while not settled() and time.monotonic() < ends:
            time.sleep(0.02)
        over = settled()
        self._election.end(give_back=over)
        if over:  # nothing can be written any more, and an orderly end may take its time
            self._end_in(0.0)

    def close(self) -> None:
        """Wait until it was given back, and close the connection."""
        self._election.join()
        self._end_in(0.0)
        self._api.close()


def contender_of(config: Config, ears: Ears, *, stands: Callable[[], bool], observer: Observer) -> Contender | Alone:
    """The part that the settings give this daemon. Raises `KubernetesError` where there are no credentials."""
    lease = lease_of(config)
    if lease is None:
        return Alone()
    rule = rule_of(config.ha)
    api = ApiConnection(access_of(config), timeout_s=rule.renew_deadline_s, observer=observer)
    leases = LeaseApi(api, lease, duration_s=rule.duration_s)
    return Contender(api, LeaderElection(leases, rule, ears, stands=stands), ears.on_renewed)


def rule_of(ha: HaConfig) -> ElectionRule:
    """The settings, and a name that no other process has: that of the machine or pod, and a random part."""
    host = os.environ.get("HOSTNAME") or socket.gethostname()
    return ElectionRule(
        identity=f"{host[:100]}_{uuid.uuid4().hex[:12]}",
        duration_s=ha.duration.total_seconds(),
        renew_deadline_s=ha.renew_deadline.total_seconds(),
        retry_s=ha.retry.total_seconds(),
    )


def end_at_once(log: Any, reason: str) -> NoReturn:
    """Finish nothing and send nothing: another daemon may write already. Whoever restarts us gets a standby."""
    log.critical("leader_lost", reason=reason, meanwhile="this process ends; the scale stays as it was written last")
    sys.stderr.flush()
    os._exit(1)


LAST_RESORT_STATUS = int(signal.SIGALRM)
"""Exit status (14) of a process that the timer below ended."""


def prepare_last_resort() -> Callable[[float], None]:
    """A timer that ends this process, whatever it is doing: call the answer with the seconds from now, 0 for never.

    It closes the gap between asking whether we may write and writing. A process that is stopped right there
    (SIGSTOP, a frozen cgroup) and goes on a minute later would write without asking again; but the kernel delivers
    the timer's signal before any line of it runs. The handler is `_exit` itself: Python would run its own only later,
    between two lines of the main thread, and a container's first process ignores signals that have no handler.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(ctypes.c_int(signal.SIGALRM), ctypes.cast(libc._exit, ctypes.c_void_p))

    def end_in(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return end_in
