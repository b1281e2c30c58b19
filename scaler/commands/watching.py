"""`get`, `explain`, `forecast` and `tick`: what the daemon's documents look like to a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import Output, clear_screen, put, put_json, put_table
from scaler.commands.reading import Document, Source, record_from, split_name
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.types import Blind
    from scaler.ports import DecisionRecord

WATCH_EVERY_S = 5.0


def get(source: Source, output: Output, *, watch: bool, pause: Callable[[float], None] = time.sleep) -> None:
    """The state table; with `watch` again after every tick, until interrupted."""
    shown = None
    while True:
        document = source.workloads()
        if document.get("at") != shown or not watch:
            shown = document.get("at")
            if output is Output.JSON:
                put_json(document, compact=watch)
            else:
                if watch:
                    clear_screen()
                put_workloads(document)
        if not watch:
            return
        pause(WATCH_EVERY_S)


def put_workloads(document: Document) -> None:
    """The state table."""
    items = document.get("items") or []
    if not items:
        put("no workload yet: the first tick has not finished")
        return
    rows = [_row(item) for item in items]
    put_table(_COLUMNS, rows, right=("MIN-MAX", "DEMAND/s"))
    notes = [f"{item['workload']}: {note}" for item in items for note in item.get("notes", ())]
    ways = [f"{item['workload']}: {_way(item)}" for item in items if item.get("way_out") and _is_trouble(item)]
    for line in (*ways, *notes):
        put(line)
    put(f"last tick {datetime.fromisoformat(document['at']):%F %T} UTC")


_COLUMNS = ("WORKLOAD", "MODE", "STATE", "SINCE", "REPLICAS", "READY", "MIN-MAX", "DEMAND/s", "FORECAST", "WHY")


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    replicas = item["replicas"]
    return (
        item["workload"],
        item["mode"],
        item.get("state") or "–",
        _clock(item.get("since")),
        _movement(replicas),
        _or_dash(replicas.get("ready")),
        f"{replicas['min']}-{replicas['max']}",
        _demand(item["demand_rps"]),
        item["trust"],
        item.get("cause") or item["reason"],
    )


def _movement(replicas: dict[str, Any]) -> str:
    current, desired = replicas.get("current"), replicas.get("desired")
    if current is None:
        return "unknown"
    return f"{current} → {desired}" if desired is not None and desired != current else str(current)


def _demand(demand: dict[str, float | None]) -> str:
    if not demand or any(value is None for value in demand.values()):
        return "unknown"
    return f"{sum(value for value in demand.values() if value is not None):.4g}"


def _is_trouble(item: dict[str, Any]) -> bool:
    return item.get("state") not in (None, "OBSERVE", "ACTIVE")


def _way(item: dict[str, Any]) -> str:
    return f"{item['state']}, {item.get('cause')}; way out: {item['way_out']}"


def explain(source: Source, workload: str, at: str | None, output: Output) -> None:
    """The whole chain of one decision."""
    split_name(workload)
    document = source.decision(workload, None if at is None else moment(at))
    if output is Output.JSON:
        put_json(document)
    else:
        put(decision_text(document))


def decision_text(document: Document) -> str:
    """A `kind: Decision` document in words."""
    from scaler.adapters.states import way_out_of
    from scaler.policy.decide import decide_within
    from scaler.policy.explain import as_text, blind_block
    from scaler.policy.explain import explain as lines_of

    record = record_from(document)
    _, after = decide_within(record.snapshot, record.state, record.policy, record.grant, now=record.at)
    text = as_text(record.decision, lines_of(record.decision, record.snapshot, record.policy, after))
    outcome = document.get("outcome")
    if outcome:
        detail = f": {outcome['detail']}" if outcome.get("detail") else ""
        text += f"  {'outcome':<7} {outcome['kind']}{detail}\n"
    for blind in _blinds_of(record):
        way_out = way_out_of(blind, record.policy.workload)
        block = blind_block(record.policy.workload, blind, holding=record.decision.current, way_out=way_out)
        text += f"\n{block}"
    return text


def _blinds_of(record: DecisionRecord) -> Iterator[Blind]:
    """The blindness that stops this workload: of the cluster, and of its demand."""
    from forecaster.types import Blind
    from scaler.adapters.states import blind_demand

    if isinstance(record.snapshot.replicas, Blind):
        yield record.snapshot.replicas
    demand = blind_demand(record)
    if demand is not None:
        yield demand


def forecast(source: Source, workload: str, output: Output) -> None:
    """The forecast in force: one table a request class."""
    document = source.forecast(workload)
    if output is Output.JSON:
        put_json(document)
        return
    if not document["classes"]:
        put(f"no forecast for {workload} yet: the load rule alone decides, with its own margin")
    for each in document["classes"]:
        head = (
            f"{document['workload']}  {each['request_class']}  by {each['model']}  issued {_clock(each['issued_at'])}"
        )
        until = f"{'EXPIRED' if each['expired'] else 'valid until'} {_clock(each['expires_at'])}"
        put(f"{head}, {until}  ({document['unit']})")
        levels = list(each["points"][0]["quantiles"]) if each["points"] else []
        rows = [
            (_clock(point["at"]), f"{point['horizon_s'] / 60:g}m", *(_number(point["quantiles"][q]) for q in levels))
            for point in each["points"]
        ]
        names = [f"{float(level) * 100:g} %" for level in levels]
        put_table(("AT", "AHEAD", *names), rows, right=("AHEAD", *names))


def put_decisions(documents: Sequence[Document], output: Output) -> None:
    """The decisions of one round: each in words, or one JSON document a line."""
    for document in documents:
        if output is Output.JSON:
            put_json(document, compact=len(documents) > 1)
        else:
            put(decision_text(document))


def moment(text: str) -> datetime:
    """A moment that a person typed: ISO 8601, UTC if it names no zone; "12:03" is today. Raises `CommandError`."""
    is_clock_time = len(text) <= 8 and ":" in text
    try:
        value = datetime.fromisoformat(f"{datetime.now(UTC):%Y-%m-%d}T{text}" if is_clock_time else text)
    except ValueError:
        raise CommandError(f"a moment is written like 2026-11-20T18:00:00Z or 18:00 (UTC), got {text!r}") from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _clock(text: str | None) -> str:
    if text is None:
        return "–"
    return f"{datetime.fromisoformat(text):%H:%M:%S}"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
