"""An independent checker of the invariants: it watches finished ticks from outside and keeps books of its own.

It uses nothing of the rules' code (its windows, steps and blindness are worked out anew), and says which promise was
broken by which workload. `tests/faults/test_invariants.py` proves it by broken loops that it must catch. Holds no test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from forecaster.types import Blind, Known, Zero
from scaler.loop import Fleet, TickReport
from scaler.policy.types import NO_CONTROL, Action, Control, Mode, Override, Reason, Snapshot
from scaler.ports import DecisionRecord

CALM = timedelta(minutes=5)
SPACING = timedelta(minutes=10)
MOST_PEAKS, MOST_SCALES, MOST_BREACHES, MOST_FOREIGN, MOST_RELEASES = 200, 10, 8, 8, 80
"""I11: what a state may hold at the most, in worlds with ticks of a minute and windows of minutes."""


class Broken(AssertionError):
    """A promise was broken; `invariant` says which."""

    def __init__(self, invariant: str, record: DecisionRecord | None, what: str) -> None:
        decision = None if record is None else record.decision
        of = (
            ""
            if decision is None
            else f" {decision.workload} at {decision.at:%H:%M}: {decision.current} → {decision.target}"
        )
        super().__init__(f"{invariant}{of}: {what}")
        self.invariant = invariant


@dataclass(slots=True, kw_only=True)
class _Book:
    """What is remembered of one workload."""

    last_tick: datetime | None = None
    known_since: datetime | None = None
    calm_since: datetime | None = None
    scaled_in_at: datetime | None = None
    left: int | None = None
    """The scale as it was seen last, or as our write left it since."""
    changed_by_others: list[datetime] = field(default_factory=list)
    seen: tuple[datetime, int] | None = None
    """When the scale was seen last in an unbroken run, and what it was."""
    gone: dict[datetime, int] = field(default_factory=dict)
    """Replicas that went, by the tick after whose look they went."""

    def begin_anew(self) -> None:
        """A break, or a take-over: every unbroken run ends."""
        self.known_since = self.calm_since = self.seen = None


@dataclass(slots=True, kw_only=True)
class Promises:
    """Checks tick after tick; `checked` counts decisions."""

    books: dict[str, _Book] = field(default_factory=dict)
    checked: int = 0
    led: bool = True

    def tick(
        self,
        report: TickReport,
        fleet: Fleet,
        *,
        log: list[str],
        written: Mapping[str, int],
        words: Mapping[str, Control] | None = None,
        leads: bool = True,
    ) -> None:
        """Check one finished tick.

        `log` is what was done during it, `written` what reached the cluster, `words` what people ordered when it was
        written. Without `leads` another daemon writes.
        """
        words = words or {}
        if leads and not self.led:
            for book in self.books.values():
                book.begin_anew()
        self.led = leads
        if written and not leads:
            raise Broken("I6", None, f"a standby wrote {dict(written)}")
        for record in report.records:
            book = self.books.setdefault(record.policy.workload, _Book())
            self._time(book, record)
            self._looks(book, record)
            self._people(record, written, words.get(record.policy.workload, NO_CONTROL))
            self._peace(book, record, written)
            self._blindness(book, record)
            self._bounds(record, written)
            self._rules(record)
            self._steps(book, record, written)
            self._observing(record, written)
            self._memory(record, report)
            self._windup(record, report, leads=leads)
            self.checked += 1
        self._budget(report, fleet, written)
        self._releases(report, fleet)
        self._order(report, log)
        for name, replicas in written.items():
            self._wrote(self.books[name], replicas)

    # ── books ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _time(self, book: _Book, record: DecisionRecord) -> None:
        """A break of more than three ticks, forward or back, ends every unbroken run."""
        now, last = record.at, book.last_tick
        if last is not None and not timedelta(0) <= now - last <= 3 * record.policy.tick:
            book.begin_anew()
            book.gone = {at: replicas for at, replicas in book.gone.items() if at <= now}
        if book.scaled_in_at is not None and book.scaled_in_at > now:
            book.scaled_in_at = None
        book.last_tick = now

    def _looks(self, book: _Book, record: DecisionRecord) -> None:
        """What went since the last look, whoever took it; and what stands there that we did not write."""
        current, now = record.decision.current, record.at
        if current is None:
            return
        if book.left is not None and current != book.left:
            book.changed_by_others.append(now)
        if book.seen is not None:
            at, before = book.seen
            book.gone = {moment: replicas for moment, replicas in book.gone.items() if moment < at}
            if current < before:
                book.gone[at] = before - current
        book.left, book.seen = current, (now, current)

    def _wrote(self, book: _Book, replicas: int) -> None:
        if book.seen is not None and replicas < book.seen[1]:
            book.gone[book.seen[0]] = book.seen[1] - replicas
        book.left = replicas

    # ── promises ──────────────────────────────────────────────────────────────────────────────────────────────

    def _people(self, record: DecisionRecord, written: Mapping[str, int], word: Control) -> None:
        """I8 and I12: who stops us is obeyed, up to the moment of the write; an override is exact, and ends."""
        decision, decided_by = record.decision, record.snapshot.control
        if record.policy.workload in written:
            if word.pause is not None or (word.mode is not None and word.mode.mode is Mode.OBSERVE):
                raise Broken("I8", record, "written against a person's word")
            if word != decided_by:
                raise Broken("I8", record, "written on a word that people had taken back")
        if decision.reason is Reason.PAUSED and decided_by.pause is None:
            raise Broken("I3", record, "nobody paused it")
        override = _in_force(decided_by, now=record.at)
        if _ordered(record):
            if override is None:
                raise Broken("I12", record, "by an override that is over")
            bounds = record.policy.bounds
            exact = max(bounds.min_replicas, min(bounds.max_replicas, override.replicas))
            allowed = exact if record.grant is None else min(exact, max(record.grant, decision.current or 0))
            if decision.target not in (exact, allowed):
                raise Broken("I12", record, f"a person ordered {override.replicas}")

    def _peace(self, book: _Book, record: DecisionRecord, written: Mapping[str, int]) -> None:
        """Another writer's scale is left alone, and only while there is one: a hold is no way to ignore a rule (I3)."""
        rule, now, reason = record.policy.other_writers, record.at, record.decision.reason
        if reason not in (Reason.HELD_MANUAL, Reason.HELD_CONFLICT):
            return
        if record.policy.workload in written:
            raise Broken("I8", record, "written while another writer's scale is left alone")
        longest, least = (rule.manual_hold, 1) if reason is Reason.HELD_MANUAL else (rule.conflict_hold, 2)
        since = [each for each in book.changed_by_others if timedelta(0) <= now - each < rule.conflict_window + longest]
        if len(since) < least or not any(now - each < longest for each in since):
            raise Broken("I3", record, f"held for another writer that was seen at {since}")

    def _blindness(self, book: _Book, record: DecisionRecord) -> None:
        """I2."""
        sees, now = _sees(record.snapshot), record.at
        book.known_since = (book.known_since or now) if sees else None
        if record.decision.action is not Action.IN or _ordered(record):
            return
        window = max(timedelta(minutes=5), timedelta(seconds=record.snapshot.lead_time_s) + timedelta(minutes=2))
        if not sees:
            raise Broken("I2", record, "inward while blind")
        if book.known_since is None or now - book.known_since < window:
            raise Broken("I2", record, f"inward {now - (book.known_since or now)} after it was blind")

    def _bounds(self, record: DecisionRecord, written: Mapping[str, int]) -> None:
        """I1."""
        decision, bounds, name = record.decision, record.policy.bounds, record.policy.workload
        if decision.target is not None and type(decision.target) is not int:
            raise Broken("I1", record, f"{decision.target!r} is no integer")
        if name in written:
            least = bounds.min_replicas if record.grant is None else min(bounds.min_replicas, record.grant)
            if not least <= written[name] <= bounds.max_replicas:
                raise Broken("I1", record, f"wrote {written[name]}, allowed {least} to {bounds.max_replicas}")
            return
        left_alone = {Reason.HANDS_OFF, Reason.GPU_BUDGET, Reason.PAUSED, Reason.HELD_MANUAL, Reason.HELD_CONFLICT}
        bound = decision.target is not None and decision.reason not in left_alone
        if bound and decision.target < bounds.min_replicas:  # type: ignore[operator]
            raise Broken("I1", record, "the minimum holds even if every input is invalid")

    def _rules(self, record: DecisionRecord) -> None:
        """I3."""
        decision = record.decision
        reasons = {each.reason for each in decision.adjustments}
        limits = {
            Reason.STEP_OUT, Reason.UNSCHEDULABLE, Reason.AT_MAX, Reason.GPU_BUDGET, Reason.BLIND_DEMAND, Reason.REWARM,
            Reason.AFTER_OUTAGE,
        }  # fmt: skip
        if decision.target is None or not decision.proposals or decision.reason in _LAST_WORDS or _ordered(record):
            return
        if not reasons & limits and decision.target < max(each.want for each in decision.proposals):
            raise Broken("I3", record, "less than a rule wants")
        if decision.action is Action.IN and Reason.AT_MAX not in reasons:
            if not any(each.rule == "load" for each in decision.proposals):
                raise Broken("I3", record, "inward without the load rule")
            if decision.target < max(each.keep for each in decision.proposals):
                raise Broken("I3", record, "below what a rule keeps")

    def _steps(self, book: _Book, record: DecisionRecord, written: Mapping[str, int]) -> None:
        """I4."""
        decision, now = record.decision, record.at
        if decision.current is None or decision.target is None or decision.reason is Reason.HANDS_OFF:
            book.calm_since = None
            return
        reasons = {each.reason for each in decision.adjustments}
        ordered = _ordered(record)  # a person sees what we do not
        raised = decision.action is Action.OUT and Reason.AT_MIN not in reasons and not ordered
        if raised and decision.target > decision.current + max(4, decision.current):
            raise Broken("I4", record, "more than one step out")
        keep = max((each.keep for each in decision.proposals), default=0)
        calm = _sees(record.snapshot) and keep < decision.current
        book.calm_since = (book.calm_since or now) if calm else None
        if decision.action is Action.IN and Reason.AT_MAX not in reasons and not ordered:
            if decision.current - decision.target > max(1, decision.current // 2):
                raise Broken("I4", record, "more than half at once")
            if book.calm_since is None or now - book.calm_since < CALM:
                raise Broken("I4", record, "not after five calm minutes")
            if book.scaled_in_at is not None and now - book.scaled_in_at < SPACING:
                raise Broken("I4", record, f"{now - book.scaled_in_at} after the last scale-in")
        if decision.action is Action.IN and record.policy.workload in written:
            book.scaled_in_at = now

    def _observing(self, record: DecisionRecord, written: Mapping[str, int]) -> None:
        """I8."""
        if record.policy.mode is Mode.OBSERVE and record.policy.workload in written:
            raise Broken("I8", record, "written while only observing")

    def _memory(self, record: DecisionRecord, report: TickReport) -> None:
        """I11."""
        after = report.states[record.policy.workload]
        sizes = tuple(len(each) for each in (after.peaks, after.desired, after.latency.breaches, after.foreign))
        sizes += (len(after.released),)
        limits = (MOST_PEAKS, MOST_SCALES, MOST_BREACHES, MOST_FOREIGN, MOST_RELEASES)
        if any(size > most for size, most in zip(sizes, limits, strict=True)):
            raise Broken("I11", record, f"remembers {sizes}")

    def _windup(self, record: DecisionRecord, report: TickReport, *, leads: bool) -> None:
        """I13."""
        replicas, after = record.snapshot.replicas, report.states[record.policy.workload]
        stuck = isinstance(replicas, Blind) or (
            replicas.failed > 0 or replicas.unschedulable > 0 or replicas.desired >= record.policy.bounds.max_replicas
        )
        by_hand = record.decision.reason in _LAST_WORDS
        frozen = stuck or by_hand or not leads or not _sees(record.snapshot) or record.policy.mode is Mode.OBSERVE
        before = record.state
        # A break forgets the share of late minutes; what was learnt over days stays.
        moved = after.z != before.z or after.missed_share not in (before.missed_share, 0.0)
        if frozen and moved:
            raise Broken("I13", record, f"steered {before.z} → {after.z} by a minute that says nothing")

    def _budget(self, report: TickReport, fleet: Fleet, written: Mapping[str, int]) -> None:
        """I5: nobody grows beyond what the fleet may hold together."""
        if fleet.budget.gpus is None:
            return
        held = sum((each.decision.current or 0) * each.policy.profile.gpus for each in report.records)
        grown = sum(
            max(0, written[each.policy.workload] - (each.decision.current or 0)) * each.policy.profile.gpus
            for each in report.records
            if each.policy.workload in written
        )
        if grown and held + grown > fleet.budget.gpus:
            raise Broken("I5", None, f"{held} GPUs held, {grown} added, {fleet.budget.gpus} allowed")

    def _releases(self, report: TickReport, fleet: Fleet) -> None:
        """I5: of what the fleet had, a share goes in any period, or what the one that releases most would alone.

        What stands above its maximum, or a person takes, goes in any case, and counts. With a part of the fleet unseen
        nobody can say what a share of it is.
        """
        counted = [each for each in report.records if each.policy.mode.counts]
        if report.failed or any(each.decision.current is None for each in counted):
            return
        had = alone = spent = forced = going = 0
        for each in counted:
            gpus, decision = each.policy.profile.gpus, each.decision
            current, target = decision.current or 0, decision.target or 0
            gone = self.books[each.policy.workload].gone
            before = gpus * sum(n for at, n in gone.items() if at > report.at - fleet.budget.inward_period)
            cut = [a.before for a in decision.adjustments if a.reason is Reason.FLEET_CHANGE]
            asked = max(0, current - (cut[0] if cut else target))
            above = current if decision.reason is Reason.OVERRIDE else current - each.policy.bounds.max_replicas
            had, spent = had + gpus * current + before, spent + before
            alone = max(alone, before + gpus * asked)
            forced += gpus * max(0, min(asked, above))
            going += gpus * max(0, current - target)
        left = max(int(had * fleet.budget.most_inward_ratio + 1e-9), alone) - spent - forced
        if going > forced + max(0, left):
            raise Broken("I5", None, f"{going} GPUs released, {spent} lately, of {had}; {alone} would go alone")

    def _order(self, report: TickReport, log: list[str]) -> None:
        """I9: on record before it is sent; and growth before shrinkage."""
        writes = [place for place, entry in enumerate(log) if entry.startswith("scale ")]
        if writes and not report.journal_error and "journal" not in log[: writes[0]]:
            raise Broken("I9", None, f"written before it was on record: {log}")


_LAST_WORDS = {Reason.PAUSED, Reason.OVERRIDE, Reason.HELD_MANUAL, Reason.HELD_CONFLICT}
"""Of people and other writers, over what the rules want."""


def _ordered(record: DecisionRecord) -> bool:
    """Whether a person's number was followed, in full or as far as the GPUs go."""
    decision = record.decision
    return decision.reason is Reason.OVERRIDE or any(each.reason is Reason.OVERRIDE for each in decision.adjustments)


def _in_force(word: Control, *, now: datetime) -> Override | None:
    return word.override if word.override is not None and now < word.override.until else None


def _sees(snapshot: Snapshot) -> bool:
    """Whether every required signal was measured in full: a number that is finite and not negative, or true zero."""
    if isinstance(snapshot.replicas, Blind) or snapshot.demand_partial or not snapshot.classes:
        return False
    return all(
        isinstance(each.demand_rps, Zero)
        or (isinstance(each.demand_rps, Known) and math.isfinite(each.demand_rps.value) and each.demand_rps.value >= 0)
        for each in snapshot.classes
    )
