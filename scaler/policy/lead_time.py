"""How long a replica takes from an order to Ready: measured on the workload's own pods, else as configured.

The start time is the 90th percentile of the last starts. A start that is not over yet is a lower bound
(right-censored), and the percentile is the product-limit estimate's (Kaplan and Meier, "Nonparametric estimation from
incomplete observations", 1958): so a young start says nothing, and one that lasts longer than the others did lifts the
estimate before it ends. Nothing here decides how many replicas there should be, and a failed start is no measurement:
who calls leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from scaler.policy.types import LeadSource, LeadTime, in_words

SHARE: Final = 0.9
"""Of ten orders one may be late by the forecast's own fault and not be missed: the quantile of the demand has room."""

LEAST_STARTS: Final = 5
"""Starts that became Ready before they replace the configured time: of fewer the 90th percentile is the longest."""

MOST_STARTS: Final = 20
"""Newest starts that count. Two of twenty may be odd; three slow ones in a row are what starts take now."""

WINDOW: Final = timedelta(days=14)
"""Older starts belong to another image, another node pool, another time."""

SHORTAGE: Final = timedelta(minutes=10)
"""Time without a node that counts. A node that is being made takes 3 to 10 minutes; who waits longer waits for a GPU
that does not exist, and no earlier order would have brought it (as long as `step.pending_limit`)."""

LONGEST: Final = timedelta(hours=1)
"""From a node to Ready. What takes longer is stuck, or was Ready long ago and turned Ready anew before we looked."""

MOST_LIFT: Final = 2.0
"""How far an unfinished start may lift the estimate, as a multiple of what is known without it. A pod that hangs is
not told from one that loads slowly until one of them is Ready; then the percentile itself moves."""

FLOOR: Final = timedelta(seconds=30)
"""No order is Ready sooner: nodes with everything in place still start a process and pass a probe."""

GRAIN_S: Final = 10.0
"""Start times are told in whole tens of seconds, rounded up."""

DEAD_BAND: Final = 0.1
"""A shorter estimate is taken up once it is so much shorter: one start among twenty moves it by less, to and fro."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One pod's way to Ready, as far as it has come at `seen_at`."""

    created_at: datetime
    seen_at: datetime
    scheduled_at: datetime | None = None
    running_at: datetime | None = None
    """Its containers run; None where they were started more than once and nobody knows when first."""
    ready_at: datetime | None = None
    restarted: bool = False
    """Whether a container has ended on the way. One restart is common while a model loads, two are a crash loop."""

    @property
    def over(self) -> datetime:
        """When it became Ready, or until when it has been waited for."""
        return self.ready_at or self.seen_at

    @property
    def node_wait_s(self) -> float | None:
        """Seconds without a node, as far as they count; None where a Ready pod does not tell when it got one."""
        if self.scheduled_at is None and self.ready_at is not None:
            return None
        return min(_seconds(self.created_at, self.scheduled_at or self.over), SHORTAGE.total_seconds())

    @property
    def rest_s(self) -> float:
        """Seconds from its node on, or from its creation where the two are not told apart; 0 while it has no node."""
        if self.scheduled_at is None and self.ready_at is None:
            return 0.0
        return _seconds(self.scheduled_at or self.created_at, self.over)

    @property
    def total_s(self) -> float:
        """What this start says about the start time: a measurement if it is Ready, else a lower bound."""
        return (self.node_wait_s or 0.0) + self.rest_s

    @property
    def counts(self) -> bool:
        """Whether it says anything: not a pod that hangs or was Ready before, nor one that may be in a crash loop."""
        return self.rest_s <= LONGEST.total_seconds() and not (self.restarted and self.ready_at is None)


def newest(starts: Iterable[Start], *, now: datetime) -> tuple[Start, ...]:
    """The finished starts that count at `now`, newest last: those of the window, and of these the last ones."""
    kept = (each for each in starts if each.ready_at is not None and abs(now - each.ready_at) <= WINDOW and each.counts)
    return tuple(sorted(kept, key=lambda each: (each.over, each.created_at))[-MOST_STARTS:])


def estimate(
    finished: Sequence[Start],
    unfinished: Sequence[Start],
    *,
    configured: timedelta,
    same_gpus: Sequence[Start] = (),
) -> LeadTime:
    """The start time to plan with.

    With `LEAST_STARTS` of its own the workload's starts decide. Until then the configured time does, or what all
    workloads' replicas on the same GPUs take where that is longer: others may lengthen it and never shorten it. Either
    is lifted, up to twice, by own starts that take longer. `finished` and `same_gpus` as `newest` leaves them.
    """
    waiting = [each for each in unfinished if each.counts]
    known_s, at, source, told = configured.total_seconds(), None, LeadSource.CONFIGURED, len(finished)
    if len(finished) >= LEAST_STARTS:
        at, source = percentile(finished, ()), LeadSource.OWN
        known_s = at.total_s
    elif len(same_gpus) >= LEAST_STARTS and percentile(same_gpus, ()).total_s > known_s:
        at, source, told = percentile(same_gpus, ()), LeadSource.SAME_GPUS, len(same_gpus)
        known_s = at.total_s
    seconds, lifted = known_s, False
    if finished or waiting:
        slower = percentile(finished, waiting)
        seconds, lifted = max(known_s, min(slower.total_s, MOST_LIFT * known_s)), slower.total_s > known_s
        if lifted:
            at = slower if seconds == slower.total_s else None  # the parts of one that is cut would not add up
    return LeadTime(
        seconds=seconds,
        source=source,
        starts=told,
        unfinished=len(waiting),
        lifted=lifted,
        node_wait_s=None if at is None else at.node_wait_s,
        image_s=None if at is None else _image_s(at),
        load_s=None if at is None else _load_s(at),
    )


def percentile(finished: Sequence[Start], unfinished: Sequence[Start]) -> Start:
    """The start by whose time a share of `SHARE` is over; of all the longest while fewer are.

    S(t) = Π (1 - ended / still open) over the times t at which starts ended: an unfinished start of age a stays among
    the open ones up to a, so it can only keep S up. Without unfinished ones this is the nearest rank, of 17 the 16th.
    At least one start must be given.
    """
    everything = sorted((*finished, *unfinished), key=lambda each: (each.total_s, each.ready_at is None, each.over))
    share, left = 1.0, len(everything)
    for each in everything:
        if each.ready_at is not None:
            share *= 1.0 - 1.0 / left
            if share <= 1.0 - SHARE + 1e-9:
                return each
        left -= 1
    return everything[-1]


def settle(found: LeadTime, held: LeadTime | None) -> LeadTime:
    """`found` in whole tens of seconds, or the time of `held` while `found` is only a little shorter.

    Longer is taken up at once, it is the safe side: 4m03s becomes 4m10s. Shorter only below 90 %: 4m10s holds until
    3m40s are found. A number that changes with every start would move every order by a replica, to and fro. What is
    configured is taken as it is.
    """
    if found.source is LeadSource.CONFIGURED and not found.lifted:
        return found
    seconds = max(FLOOR.total_seconds(), -(-(found.seconds - 1e-6) // GRAIN_S) * GRAIN_S)
    if held is not None and held.seconds * (1.0 - DEAD_BAND) < seconds < held.seconds:
        seconds = held.seconds
    return replace(found, seconds=seconds)


def in_short(lead: LeadTime, *, configured: timedelta) -> str:
    """Where a start time comes from: "P90 of 17 starts; node wait 40s, image 1m10s, load 2m20s; configured 5m"."""
    parts = (("node wait", lead.node_wait_s), ("image", lead.image_s), ("load", lead.load_s))
    split = ", ".join(f"{name} {in_words(timedelta(seconds=part))}" for name, part in parts if part is not None)
    texts = [_origin(lead)]
    if lead.lifted:
        texts.append("lifted by slower ones")
    texts += [split] if split else []
    if lead.lifted or lead.source is not LeadSource.CONFIGURED:
        texts.append(f"configured {in_words(configured)}")
    return "; ".join(texts)


def _origin(lead: LeadTime) -> str:
    if lead.source is LeadSource.OWN:
        return f"P90 of {lead.starts} starts"
    if lead.source is LeadSource.SAME_GPUS:
        return f"P90 of {lead.starts} starts of all workloads on the same GPUs"
    return f"as configured, {lead.starts} of {LEAST_STARTS} starts measured"


def _image_s(start: Start) -> float | None:
    if start.scheduled_at is None or start.running_at is None:
        return None
    return _seconds(start.scheduled_at, min(start.running_at, start.over))


def _load_s(start: Start) -> float | None:
    return None if start.running_at is None else _seconds(start.running_at, start.over)


def _seconds(begin: datetime, end: datetime) -> float:
    """Never negative: the times come from several machines' clocks."""
    return max(0.0, (end - begin).total_seconds())
