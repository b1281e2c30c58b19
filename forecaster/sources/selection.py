"""Which live metric each workload's signal is taken from, kept between reads.

Decides when to look again and when a worse candidate may replace a better one. Asks through the wire it is given.
Never falls back from a front door to completions while the front door was alive within the last hour: completions
lag behind arrivals, so the switch itself would look like falling demand and remove capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from forecaster.errors import SourceError
from forecaster.sources import plan
from forecaster.sources.catalogue import CATALOGUE, Origin, Signal
from forecaster.sources.exchange import Answer
from forecaster.sources.plan import DEMAND
from forecaster.sources.promql import NAME_LABEL, Choice, Query, Reach
from forecaster.sources.promql import reaches as ways
from forecaster.sources.readings import owners_of, term_of
from forecaster.sources.selector import WorkloadSelector

RECHECK_AFTER = timedelta(hours=1)
FALLBACK_RECHECK_AFTER = timedelta(minutes=5)
"""Completions are a last resort, so a front door that appears is looked for more often."""
LOST_RECHECK_AFTER = timedelta(minutes=1)

Ask = Callable[[Query], Answer | SourceError]


class Selection:
    """The choices of all workloads. Not thread-safe: each caller's thread has its own, or holds a lock."""

    def __init__(self) -> None:
        self.choices: dict[tuple[str, str], Choice] = {}
        self._looked_at: dict[WorkloadSelector, datetime] = {}
        self._lost: set[WorkloadSelector] = set()
        self._door_alive_at: dict[str, datetime] = {}

    def due(self, selectors: Sequence[WorkloadSelector], *, now: datetime) -> tuple[WorkloadSelector, ...]:
        """Selectors that are new, whose signals got lost, or that were looked at too long ago."""
        # The distance, not the difference: after a clock was put back a look in the future is no look.
        return tuple(
            s for s in selectors if s not in self._looked_at or abs(now - self._looked_at[s]) >= self._patience(s)
        )

    def _patience(self, selector: WorkloadSelector) -> timedelta:
        if selector in self._lost:
            return LOST_RECHECK_AFTER
        demand = self.choices.get((selector.workload, DEMAND))
        return FALLBACK_RECHECK_AFTER if demand is not None and demand.candidate.in_flight else RECHECK_AFTER

    def keep_only(self, selectors: Sequence[WorkloadSelector]) -> None:
        """Forget workloads that are no longer asked for, so that nothing grows with what once was."""
        wanted, names = set(selectors), {s.workload for s in selectors}
        self._looked_at = {s: at for s, at in self._looked_at.items() if s in wanted}
        self._lost &= wanted
        self.choices = {key: choice for key, choice in self.choices.items() if key[0] in names}
        self._door_alive_at = {name: at for name, at in self._door_alive_at.items() if name in names}

    def knows(self, selector: WorkloadSelector) -> bool:
        """Whether this selector was ever looked at with success."""
        return selector in self._looked_at

    def note_read(self, selector: WorkloadSelector, *, lost: bool, demand_alive: bool, now: datetime) -> None:
        """What a read saw: whether a signal the rules need was missing, and whether demand was measured."""
        (self._lost.add if lost else self._lost.discard)(selector)
        choice = self.choices.get((selector.workload, DEMAND))
        if demand_alive and choice is not None and choice.candidate.origin is Origin.FRONT_DOOR:
            self._door_alive_at[selector.workload] = now

    def look(self, selectors: Sequence[WorkloadSelector], ask: Ask, *, now: datetime) -> SourceError | None:
        """Find the live candidates of these workloads and adopt them."""
        found = find_choices(selectors, ask)
        if isinstance(found, SourceError):
            return found
        self.adopt(selectors, found, now=now)
        return None

    def adopt(
        self, selectors: Sequence[WorkloadSelector], found: Mapping[tuple[str, str], Choice], *, now: datetime
    ) -> None:
        """Take over what was found, unless it is worse; what was not found again stays as it was."""
        for key, choice in found.items():
            if not self._is_worse(key, choice, now=now):
                self.choices[key] = choice
        self._looked_at.update(dict.fromkeys(selectors, now))

    def _is_worse(self, key: tuple[str, str], choice: Choice, *, now: datetime) -> bool:
        before, alive_at = self.choices.get(key), self._door_alive_at.get(key[0])
        return (
            before is not None
            and alive_at is not None
            and before.candidate.origin is Origin.FRONT_DOOR
            and bool(choice.candidate.in_flight)
            and now - alive_at < RECHECK_AFTER
        )


def find_choices(
    selectors: Sequence[WorkloadSelector],
    ask: Ask,
    *,
    signals: Iterable[Signal] = CATALOGUE,
    within_s: int | None = None,
) -> dict[tuple[str, str], Choice] | SourceError:
    """The best live candidate of every signal of every workload, in two queries at most."""
    try:
        return _found(selectors, ask, tuple(signals), within_s)
    except SourceError as error:
        return error


def _found(
    selectors: Sequence[WorkloadSelector], ask: Ask, signals: tuple[Signal, ...], within_s: int | None
) -> dict[tuple[str, str], Choice]:
    models = {s.workload: dict(s.labels)["model_name"] for s in selectors if "model_name" in dict(s.labels)}
    unknown = [s for s in selectors if s.workload not in models]
    if unknown:
        query = plan.model_query(unknown, within_s)
        models |= _only_models(query, _answer(ask(query)))
    query = plan.presence_query(selectors, models, signals=signals, within_s=within_s)
    return _best(selectors, signals, models, _present(query, _answer(ask(query))))


def _answer(answer: Answer | SourceError) -> Answer:
    if isinstance(answer, SourceError):
        raise answer
    return answer


def _only_models(query: Query, answer: Answer) -> dict[str, str]:
    """The model of each workload that serves exactly one."""
    served: dict[str, set[str]] = {}
    for row in answer.rows:
        for workload in owners_of(term_of(query.terms, row), row):
            served.setdefault(workload, set()).add(row.labels.get("model_name", ""))
    return {workload: next(iter(names)) for workload, names in served.items() if len(names) == 1 and "" not in names}


def _present(query: Query, answer: Answer) -> set[tuple[str, str, str, Reach]]:
    """(workload, signal, metric, reach) of what is there and belongs to one workload alone."""
    present: set[tuple[str, str, str, Reach]] = set()
    for row in answer.rows:
        term = term_of(query.terms, row)
        owners = owners_of(term, row)
        # A front door that names only the model cannot tell two workloads of that model apart: not a candidate.
        choice = term.choice
        if choice is not None and (len(owners) == 1 or choice.reach is not Reach.MODEL):
            proven = term.proves.get(row.labels.get(NAME_LABEL, ""), ())
            present.update((workload, signal, metric, choice.reach) for workload in owners for signal, metric in proven)
    return present


def _best(
    selectors: Sequence[WorkloadSelector],
    signals: tuple[Signal, ...],
    models: Mapping[str, str],
    present: set[tuple[str, str, str, Reach]],
) -> dict[tuple[str, str], Choice]:
    best: dict[tuple[str, str], Choice] = {}
    for selector in selectors:
        workload = selector.workload
        model = models.get(workload)
        for signal in signals:
            possible = (
                Choice(candidate=candidate, reach=reach, model=model if reach is Reach.MODEL else None)
                for candidate in plan.candidates_of(signal, selector)
                for reach in ways(candidate, selector, model)
                if (workload, signal.name, candidate.metric, reach) in present
            )
            choice = next(possible, None)
            if choice is not None:
                best[(workload, signal.name)] = choice
    return best
