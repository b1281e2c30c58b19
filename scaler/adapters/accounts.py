"""How a workload's forecasts came about: the members' weights, and what a plain forecast would have erred.

Worked out when somebody asks, from the engine's memory and the history: nothing is kept for it, so that 2,000 series
cost no more than before. Live it is the running engine's memory, beside a daemon or without one the memory that was
stored last. It decides nothing, and what cannot be told is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from forecaster.errors import ArtefactError, HistoryError
from forecaster.models import ensemble, scoring
from forecaster.models.ensemble import Standing
from forecaster.models.memory import QUALITY_SPAN, EngineState
from forecaster.preprocess import DAY
from forecaster.sources.history import HistoryStore
from forecaster.sources.plan import DEMAND
from forecaster.types import Panel, SeriesKey
from scaler.adapters.demand import KNOWN_BLOB, Known, known_from_bytes, usual_demand
from scaler.adapters.store import read_blob

ENGINE_BLOB = "engine"
"""Under "engine/0000" and so on the daemon stores the engine's memory, a portion each."""


class ReadDemand(Protocol):
    """Demand as the engine saw it."""

    def __call__(self, keys: tuple[SeriesKey, ...], *, start: datetime, end: datetime) -> Panel:
        """The minutes of [start, end); `HistoryError` if they cannot be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """How the forecast of one request class's demand came about."""

    standing: Standing
    wape_day_before: float | None = None
    """Error of "as it was 24 hours before" over the minutes that the forecast's quality is measured on; None where it
    cannot be told."""


def accounts_of(states: Iterable[EngineState], workload: str, read: ReadDemand) -> dict[str, Account]:
    """By request class, from the portions of an engine's memory that hold series of the workload."""
    found: dict[str, Account] = {}
    for state in states:
        demand = {key for key in state.keys if key.workload == workload and key.signal == DEMAND}
        own = scoring.narrowed(state, demand)
        if not own.keys:
            continue
        naive = _wape_day_before(own, read)
        for key, standing in ensemble.standings(own).items():
            found[key.request_class] = Account(standing=standing, wape_day_before=naive.get(key))
    return found


def stored_accounts(file: Path, workload: str, *, now: datetime) -> dict[str, Account]:
    """The same from the memory that a daemon stored last in its data file; empty before the first was stored.

    It is stored every ten minutes and at the end, so it may be so much older than the forecast in force. Raises
    `OSError` where the file cannot be read.
    """
    try:
        history = HistoryStore.open(file, now=now, read_only=True)
    except HistoryError as error:
        raise OSError(str(error)) from error
    read: Callable[..., Panel] = partial(usual_demand, history, known=_stored_known(file))
    return accounts_of(_stored_states(file), workload, read)


def _stored_states(file: Path) -> Iterator[EngineState]:
    """The stored portions; one that is damaged or of another version is passed over."""
    shard = 0
    while (stored := read_blob(file, f"{ENGINE_BLOB}/{shard:04d}")) is not None:
        shard += 1
        try:
            yield ensemble.from_bytes(stored[0])
        except ArtefactError:
            continue  # the daemon drops it as well, and says so when it starts


def _stored_known(file: Path) -> Known:
    stored = read_blob(file, KNOWN_BLOB)
    try:
        return {} if stored is None else known_from_bytes(stored[0])
    except HistoryError:
        return {}


def _wape_day_before(state: EngineState, read: ReadDemand) -> Mapping[SeriesKey, float]:
    """See `scoring.wape_day_before`; a history that cannot be read just now says nothing."""
    try:
        panel = read(state.keys, start=state.end - QUALITY_SPAN - DAY, end=state.end)
    except HistoryError:
        return {}
    return scoring.wape_day_before(state, panel)
