"""Who may write: one contender's view of a lease that several want, as a pure state machine.

It decides when a lease may be taken, when it must be renewed, and until when its holder may write. It never sends
anything, reads no clock (`now_s` is an argument) and never looks at the times that stand in the lease: they were
written by somebody else's clock.

Why at most one contender leads at any moment, whatever is slow, stopped or cut off:

- A leader may write until `renew_deadline_s` after it *began to send* its last successful renewal.
- The server carried that renewal out no earlier, and everybody else saw it no earlier than that.
- Another contender takes the lease only after it has *seen* one and the same version for `duration_s` on its own
  clock, counted from when the answer with it had arrived, and the taking names that version: a renewal in between
  makes it fail.

So between the end of a leader's claim and its successor's beginning lie `duration_s - renew_deadline_s`, 5 s of 15. A
write that was sent at the claim's end has that time to be carried out or given up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

LONGEST_DURATION_S = 300.0
"""A lease that claims to hold for longer was not written by us; it is waited for as long as our longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionRule:
    """What all contenders for one lease share, and who this one is."""

    identity: str
    """This process and no other: a restarted one is another contender."""
    duration_s: float = 15.0
    """How long a version of the lease must have been seen unchanged before it may be taken."""
    renew_deadline_s: float = 10.0
    """How long after it began to send its last successful renewal a leader may write."""
    retry_s: float = 2.0
    """Time between two looks at the lease."""

    @property
    def gone_s(self) -> float:
        """How long after the last successful renewal was begun a process must be gone, whatever keeps it: 10.5 s."""
        return self.renew_deadline_s + 0.1 * (self.duration_s - self.renew_deadline_s)

    @property
    def write_limit_s(self) -> float:
        """How long a write may take to arrive, and again to be carried out: 2 s.

        Sent at 10.5 s at the very latest it is carried out by 14.5 s, and nobody takes the lease before 15 s: clocks
        may run differently fast by 3 %.
        """
        return 0.4 * (self.duration_s - self.renew_deadline_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the server answered: whose the lease is, and its version. No lease at all: holder and version are empty.

    `ever_held` tells a lease that was given back from one that nobody has taken yet.
    """

    holder: str = ""
    version: str = ""
    duration_s: float = 0.0
    ever_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All that a contender remembers: what it saw last, since when, and until when it may write.

    `current` is False once the server may hold something newer than `held`: after a write without an answer.
    """

    held: Held | None = None
    seen_since_s: float = 0.0
    current: bool = False
    until_s: float | None = None

    def leads(self, *, now_s: float) -> bool:
        """Whether this contender may write now."""
        return self.left_s(now_s=now_s) > 0.0

    def left_s(self, *, now_s: float) -> float:
        """Seconds for which it may still write; 0 if it may not."""
        return 0.0 if self.until_s is None else max(0.0, self.until_s - now_s)


class Step(StrEnum):
    """What a contender does next."""

    READ = "read"
    """Ask the server for the lease."""
    WAIT = "wait"
    """Somebody else holds it: look again later."""
    CREATE = "create"
    """Make it, with nobody's name in it."""
    TAKE = "take"
    """Write our name over the version seen."""
    RENEW = "renew"
    """Write our name again over the version seen."""
    LOST = "lost"
    """It led and may not go on: the process ends, and writes nothing more."""


def next_step(standing: Standing, rule: ElectionRule, *, now_s: float) -> Step:
    """What to do at `now_s` (seconds of a clock that only goes forward, also while the machine sleeps)."""
    led = standing.until_s is not None
    if led and not standing.leads(now_s=now_s):
        return Step.LOST
    held = standing.held
    if held is None or not standing.current:
        return Step.READ
    if held.holder == rule.identity:
        return Step.RENEW
    if led:
        return Step.LOST
    # A missing lease is made and not taken: only versions tell what happened between two looks. Seen missing twice it
    # may have been made, taken and deleted in between, under a leader that does not know of it yet.
    if not held.version:
        return Step.CREATE
    return Step.TAKE if _is_free(standing, held, rule, now_s=now_s) else Step.WAIT


def _is_free(standing: Standing, held: Held, rule: ElectionRule, *, now_s: float) -> bool:
    """Whether nobody can lead by this version any more.

    A lease without a holder is free at once if it was given back. One that was never held counts as held: somebody
    may just have deleted another and made it, under a leader that does not know of it yet.
    """
    if not held.holder and held.ever_held:
        return True
    wait_s = max(rule.duration_s, min(held.duration_s, LONGEST_DURATION_S))
    return now_s - standing.seen_since_s >= wait_s


def saw(standing: Standing, held: Held, *, received_s: float) -> Standing:
    """After a read whose answer had arrived by `received_s`: the same version keeps its age."""
    same = standing.held is not None and standing.held.version == held.version
    return replace(standing, held=held, current=True, seen_since_s=standing.seen_since_s if same else received_s)


def won(standing: Standing, rule: ElectionRule, held: Held, *, sent_s: float, received_s: float) -> Standing:
    """After a successful write of our name that we began to send at `sent_s`.

    An answer that took longer than the claim lasts makes no leader: the claim is renewed first.
    """
    until_s = sent_s + rule.renew_deadline_s
    if standing.until_s is None and until_s <= received_s:
        return replace(standing, held=held, current=True, seen_since_s=received_s)
    return Standing(held=held, current=True, seen_since_s=received_s, until_s=until_s)


def unsure(standing: Standing) -> Standing:
    """After a write that was refused or had no answer: what the server holds now must be read."""
    return replace(standing, current=False)
