"""Takes part in the election for one lease: a thread that looks every few seconds and says what it finds.

It decides nothing about leases (`scaler.adapters.election` does) and nothing about scaling; it never ends the process,
it only tells that leadership is lost, once and for good. Whoever writes asks `left_s` right before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from scaler.adapters import election
from scaler.adapters.election import ElectionRule, Held, Standing, Step
from scaler.adapters.kubernetes.errors import Conflict, Forbidden, KubernetesError, NotFound
from scaler.adapters.kubernetes.leases import Lease

RELEASE_TIMEOUT_S = 1.0
"""Giving the lease back is a courtesy to the successor, who would otherwise wait for it to run out."""

_FORBIDDEN_FIX = "bind the Role headstart-lease of deploy/rbac.yaml, which also holds the Lease itself"

STOP_S = 1.0
"""For the thread to end; a name look-up cannot be cut, and must not keep the process from ending."""


def boot_s() -> float:
    """Seconds of a clock that nobody sets and that goes on while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Leases(Protocol):
    """The lease at the server; every call raises `KubernetesError` where it fails."""

    def read(self, *, timeout_s: float) -> Lease | None:
        """The lease as it is now; None if there is none."""
        ...

    def create(self, *, timeout_s: float) -> Lease:
        """Make it, held by nobody."""
        ...

    def replace(self, found: Lease, holder: str, *, now: datetime, timeout_s: float) -> Lease:
        """Write `holder` over exactly `found`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Who is told what; every one is called from the election's thread."""

    log: Any
    on_renewed: Callable[[float], None] = lambda _: None
    """Told at each renewal in how many seconds this process must be gone, whatever keeps it from ending by itself."""
    on_lost: Callable[[], None] = lambda: None
    """Told once that this process may never write again."""


class LeaderElection:
    """One contender. `left_s`, `leads`, `holder` and `lost` may be read from any thread."""

    def __init__(
        self,
        leases: Leases,
        rule: ElectionRule,
        ears: Ears,
        *,
        stands: Callable[[], bool] = lambda: True,
        clock_s: Callable[[], float] = boot_s,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`stands` says whether there is anything to write: a daemon that only observes leaves the lease alone."""
        self.rule = rule
        self._leases = leases
        self._ears = ears
        self._stands = stands
        self._clock_s = clock_s
        self._wall = wall
        self._standing = Standing()
        self._lease: Lease | None = None
        self._lost: str | None = None
        self._told_role: tuple[str, str] = ("", "")
        self._told_failure = ""
        self._gives_back = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    # ── asked by others ───────────────────────────────────────────────────────────────────────────────────────

    def left_s(self) -> float:
        """Seconds for which this process may still write; 0 if it may not."""
        return 0.0 if self._lost is not None else self._standing.left_s(now_s=self._clock_s())

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self.left_s() > 0.0

    @property
    def holder(self) -> str:
        """Who held the lease when it was last seen; empty if nobody did."""
        held = self._standing.held
        return "" if held is None else held.holder

    @property
    def lost(self) -> str | None:
        """Why this process may never write again, or None. Also true while the thread hangs in a call."""
        until_s = self._standing.until_s
        if self._lost is None and until_s is not None and until_s <= self._clock_s() and not self._ending.is_set():
            return f"not renewed for {self.rule.renew_deadline_s:g} s"
        return self._lost

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def end(self, *, give_back: bool) -> None:
        """Look no more, and give the lease back if it is held: only where no write of ours is under way any more."""
        self._gives_back = give_back
        self._ending.set()

    def join(self) -> None:
        """Wait until the lease was given back, or for as long as that may take."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        try:
            self._look_until_asked_to_end()
        except Exception as error:
            # A defect. Without this thread a leader would end by its deadline, but a standby would stand by for ever.
            self._ears.log.critical("election_failed", exc_info=error, meanwhile="this process ends")
            self._lost = f"a defect: {error!r}"
            self._ears.on_lost()

    def _look_until_asked_to_end(self) -> None:
        while not self._ending.is_set():
            self.turn()
            if self._lost is not None:
                return
            self._ending.wait(self._pause_s())
        if self._gives_back:
            self.give_back()

    def _pause_s(self) -> float:
        """Until the next look, at most until the claim ends: then the process must."""
        left_s = self._standing.left_s(now_s=self._clock_s())
        return min(self.rule.retry_s, left_s) if left_s > 0.0 else self.rule.retry_s

    # ── one look ──────────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """Look at the lease, and take or renew it if it is time to. Never raises for a fault of the server."""
        led = self._standing.until_s is not None
        if not led:
            if not self._stands():
                return
            self._standing = election.unsure(self._standing)  # what a stand-by saw before its pause is old
        try:
            self._step_by_step()
        except KubernetesError as error:
            self._standing = election.unsure(self._standing)
            self._tell_failed(error)
        else:
            self._tell_recovered()
            self._tell_role()

    def _step_by_step(self) -> None:
        """A read, what follows from it, and after a conflict once more: another look cannot wait for a leader."""
        for _ in range(4):
            match election.next_step(self._standing, self.rule, now_s=self._clock_s()):
                case Step.READ:
                    self._read()
                case Step.WAIT:
                    return
                case Step.LOST:
                    self._lose()
                    return
                case Step.CREATE:
                    self._create()
                case Step.TAKE | Step.RENEW:
                    try:
                        self._claim()
                        return
                    except (Conflict, NotFound):
                        self._standing = election.unsure(self._standing)

    def _read(self) -> None:
        self._lease = self._leases.read(timeout_s=self._timeout_s())
        self._standing = election.saw(self._standing, _held(self._lease), received_s=self._clock_s())

    def _create(self) -> None:
        try:
            self._lease = self._leases.create(timeout_s=self._timeout_s())
        except Conflict:
            self._standing = election.unsure(self._standing)  # somebody was faster
            return
        self._standing = election.saw(self._standing, _held(self._lease), received_s=self._clock_s())

    def _claim(self) -> None:
        assert self._lease is not None
        timeout_s = self._timeout_s()
        sent_s = self._clock_s()
        written = self._leases.replace(self._lease, self.rule.identity, now=self._wall(), timeout_s=timeout_s)
        received_s = self._clock_s()
        self._lease = written
        standing = election.won(self._standing, self.rule, _held(written), sent_s=sent_s, received_s=received_s)
        if standing.until_s is not None and not self._ending.is_set():
            self._ears.on_renewed(max(0.001, sent_s + self.rule.gone_s - self._clock_s()))
        self._standing = standing

    def _timeout_s(self) -> float:
        """A quarter of the claim, so that one lost answer leaves time for another try; never beyond the claim."""
        timeout_s = self.rule.renew_deadline_s / 4
        left_s = self._standing.left_s(now_s=self._clock_s())
        return min(timeout_s, left_s) if left_s > 0.0 else timeout_s

    def give_back(self) -> None:
        """Let the next one take it at once. Best effort: what cannot be given back runs out."""
        if not self.leads:
            return
        self._standing = replace(self._standing, until_s=self._clock_s())  # from here on nothing may be written
        try:
            lease = self._lease if self._standing.current else self._leases.read(timeout_s=RELEASE_TIMEOUT_S / 2)
            if lease is not None and lease.holder == self.rule.identity:
                self._leases.replace(lease, "", now=self._wall(), timeout_s=RELEASE_TIMEOUT_S)
                self._ears.log.info("lease_given_back")
        except KubernetesError as error:
            meanwhile = f"it runs out within {self.rule.duration_s:g} s"
            self._ears.log.warning("lease_not_given_back", error=str(error), meanwhile=meanwhile)

    # ── telling ───────────────────────────────────────────────────────────────────────────────────────────────

    def _lose(self) -> None:
        held = self._standing.held
        if held is not None and self._standing.current and held.holder != self.rule.identity:
            self._lost = f"the lease is held by {held.holder}" if held.holder else "the lease was taken away"
        else:
            self._lost = f"not renewed for {self.rule.renew_deadline_s:g} s"
        self._ears.on_lost()

    def _tell_role(self) -> None:
        """A change of roles, or of the holder that we stand by for, is an event; the same again is none."""
        if self._lost is not None or not self._standing.current:
            return
        leads = self._standing.until_s is not None
        role = ("leads" if leads else "stands by", self.holder)
        if role == self._told_role or (not leads and self.holder == self.rule.identity):
            return
        was, self._told_role = self._told_role[1], role
        if leads:
            meanwhile = "it writes; nothing is released before a look-back has passed"
            transitions = 0 if self._lease is None else self._lease.transitions
            self._ears.log.info(
                "leader_acquired", identity=self.holder, was=was, transitions=transitions, meanwhile=meanwhile
            )
        else:
            meanwhile = "it decides in shadow and writes nothing"
            self._ears.log.info("standby", holder=self.holder, identity=self.rule.identity, meanwhile=meanwhile)

    def _tell_failed(self, error: KubernetesError) -> None:
        """A fault of the lease's own calls, told when it begins."""
        kind = type(error).__name__
        if kind == self._told_failure:
            return
        self._told_failure = kind
        left_s = self.left_s()
        meanwhile = f"it may write for {left_s:.1f} s more, then it ends" if left_s else "it writes nothing"
        fix = {"fix": _FORBIDDEN_FIX} if isinstance(error, Forbidden) else {}
        self._ears.log.warning("lease_failed", error=str(error), meanwhile=meanwhile, **fix)

    def _tell_recovered(self) -> None:
        if self._told_failure and self._standing.current:
            self._told_failure = ""
            self._ears.log.info("lease_recovered")


def _held(lease: Lease | None) -> Held:
    """What the election looks at."""
    if lease is None:
        return Held()
    return Held(holder=lease.holder, version=lease.version, duration_s=lease.duration_s, ever_held=lease.ever_held)
