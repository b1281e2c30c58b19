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
    put_table(_COLUMNS, rows, right=("MIN-MAX", "DEMAND/s", "START"))
    notes = [f"{item['workload']}: {note}" for item in items for note in item.get("notes", ())]
    ways = [f"{item['workload']}: {_way(item)}" for item in items if item.get("way_out") and _is_trouble(item)]
    groups = map(_about_variants, document.get("variants") or ())
    for line in (*ways, *notes, *groups, *_about_settings(document.get("settings") or {})):
        put(line)
    leader = document.get("leader")
    if leader and not leader["leads"]:
        put(f"standby: {leader['holder'] or 'nobody'} leads; this daemon decides in shadow and writes nothing")
    put(f"last tick {datetime.fromisoformat(document['at']):%F %T} UTC")


def _about_variants(group: dict[str, Any]) -> str:
    """Which variant of a model serves, how the traffic is shared, and why."""
    shares = ", ".join(f"{100.0 * share:.0f} % {name}" for name, share in group["shares"].items())
    detail = f" ({group['detail']})" if group["detail"] else ""
    only_shown = "" if group["followed"] else "; only shown, nothing follows it"
    return (
        f"variants of {group['name']}: {group['chosen'] or 'none'} serves because {group['why']}{detail}; "
        f"traffic: {shares or 'by what gateways see'}{only_shown}"
    )


def _about_settings(settings: dict[str, Any]) -> Iterator[str]:
    """What a person must know of the settings in force: that the file holds others."""
    if settings.get("refused_at"):
        since = datetime.fromisoformat(settings["loaded_at"])
        yield f"settings file refused: {settings['problem']}; those of {since:%F %T} UTC stay in force"
    if settings.get("needs_restart"):
        yield f"settings that wait for a restart of the daemon: {', '.join(settings['needs_restart'])}"


_COLUMNS = (
    "WORKLOAD",
    "MODE",
    "STATE",
    "SINCE",
    "REPLICAS",
    "READY",
    "MIN-MAX",
    "DEMAND/s",
    "START",
    "FORECAST",
    "WHY",
)


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
        _start_time(item),
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


def _start_time(item: dict[str, Any]) -> str:
    """ "4m10s (17)" of 17 starts, "5m (set)" where they are too few to count."""
    from datetime import timedelta

    from scaler.policy.types import LeadSource, in_words

    lead = item.get("lead_time") or {}
    measured = lead.get("source", LeadSource.CONFIGURED) != LeadSource.CONFIGURED
    return f"{in_words(timedelta(seconds=item['lead_time_s']))} ({lead['starts'] if measured else 'set'})"


def _is_trouble(item: dict[str, Any]) -> bool:
    return item.get("state") not in (None, "OBSERVE", "ACTIVE", "STANDBY")


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
    """The forecast in force: each request class's band, who spoke and how well it did lately; then the calendar."""
    document = source.forecast(workload)
    if output is Output.JSON:
        put_json(document)
        return
    if not document["classes"]:
        put(f"no forecast for {workload} yet: the load rule alone decides, with its own margin")
    for each in document["classes"]:
        _put_band(each, document)
        _put_members(each)
        for line in _accuracy_lines(each):
            put(line)
    _put_usage(document.get("usage") or ())
    for line in (*_request_lines(document), *_calendar_lines(document.get("calendar")), *_unknown_lines(document)):
        put(line)


def _put_band(each: Document, document: Document) -> None:
    """The quantiles of each bin ahead, in figures and drawn."""
    head = f"{document['workload']}  {each['request_class']}  by {each['model']}  issued {_clock(each['issued_at'])}"
    if each.get("stand_in"):
        head += ", in place of a forecast while the demand is unknown"
    until = f"{'EXPIRED' if each['expired'] else 'valid until'} {_clock(each['expires_at'])}"
    put(f"{head}, {until}  ({document['unit']})")
    levels = list(each["points"][0]["quantiles"]) if each["points"] else []
    top = max((value or 0.0 for point in each["points"] for value in point["quantiles"].values()), default=0.0)
    rows = [
        (
            _clock(point["at"]),
            f"{point['horizon_s'] / 60:g}m",
            *(_number(point["quantiles"][q]) for q in levels),
            band(list(point["quantiles"].values()), top),
        )
        for point in each["points"]
    ]
    names = [f"{float(level) * 100:g} %" for level in levels]
    put_table(("AT", "AHEAD", *names, f"0 TO {top:.4g}"), rows, right=("AHEAD", *names))


BAND_WIDTH = 40
_SHADES = "█▓░"


def band(quantiles: Sequence[float | None], top: float) -> str:
    """Ascending quantiles on a scale from 0 to `top`: a stroke at the lowest, then paler and paler to the others."""
    if top <= 0.0 or any(value is None for value in quantiles):
        return ""
    ends = [round((value or 0.0) / top * (BAND_WIDTH - 1)) for value in quantiles]
    drawn = " " * ends[0] + "│"
    for i, end in enumerate(ends[1:]):
        drawn += _SHADES[min(i, len(_SHADES) - 1)] * (end + 1 - len(drawn))
    return drawn


def _put_members(each: Document) -> None:
    """Who spoke, and with what weight at some of the horizons: nearest, lead time's, middle and farthest."""
    members = each.get("members") or []
    if not members:
        return
    ahead_s = [point["horizon_s"] for point in each["points"]]
    lead = ahead_s.index(each["lead_horizon_s"])
    columns = sorted({0, lead, len(ahead_s) // 2, len(ahead_s) - 1})
    names = [f"AT {ahead_s[column] / 60:g}m" for column in columns]
    loss = f"LOSS/LAST VALUE AT {ahead_s[lead] / 60:g}m"
    rows = [
        (
            one["model"] + (" (seasonal)" if one["seasonal"] else ""),
            *(f"{100 * one['weights'][column]:.0f} %" for column in columns),
            "–" if one["loss_over_last_value"] is None else f"{one['loss_over_last_value']:.2f}",
        )
        for one in members
    ]
    put_table(("MEMBER", *names, loss), rows, right=(*names, loss))
    if each["weights_at"] != each["issued_at"]:
        put(f"weights as of {_clock(each['weights_at'])}")


_SAID = {
    "prompt_tokens_per_s": "prompt tokens",
    "output_tokens_per_s": "output tokens",
    "images_per_s": "images",
}
"""What a signal of `usage` counts, in words."""


def _put_usage(usage: Sequence[Document]) -> None:
    """Tokens and images a second: median and 95 % quantile at the nearest horizon, the lead time's and the farthest."""
    if not usage:
        return
    first = usage[0]
    columns = sorted({first["points"][0]["horizon_s"], first["lead_horizon_s"], first["points"][-1]["horizon_s"]})
    heads = [f"{level} AT {ahead_s / 60:g}m" for ahead_s in columns for level in ("50 %", "95 %")]
    rows = [
        (
            each["request_class"],
            _SAID[each["signal"]] + "/s",
            *_cells(each, columns),
            f"EXPIRED {_clock(each['expires_at'])}" if each["expired"] else "",
        )
        for each in usage
    ]
    put_table(("CLASS", "USE", *heads, ""), rows, right=tuple(heads))


def _cells(each: Document, columns: Sequence[float]) -> Iterator[str]:
    quantiles = {point["horizon_s"]: point["quantiles"] for point in each["points"]}
    for ahead_s in columns:
        for level in ("0.5", "0.95"):
            yield _tokens(quantiles.get(ahead_s, {}).get(level))


def _request_lines(document: Document) -> Iterator[str]:
    """What a request holds, beside what its profile was measured with."""
    for each in document.get("requests") or ():
        ahead = "" if each["ahead"] is None else f", {_tokens(each['ahead'])} at the lead time"
        left = "  LEFT THE PROFILE" if each["left_profile"] else ""
        held = f"{_tokens(each['now'])} {_SAID[each['signal']]} a request over 20 minutes{ahead}"
        yield f"requests  {each['request_class']}: {held}; the profile says {_tokens(each['profile'])}{left}"


def _accuracy_lines(each: Document) -> Iterator[str]:
    lead = "" if "lead_horizon_s" not in each else f" {each['lead_horizon_s'] / 60:g}m ahead"
    if each.get("seasonal_ratio") is not None:
        yield f"seasonal  {_percent(each['seasonal_ratio'])} of the forecast{lead} repeats earlier days' clock time"
    accuracy = each.get("accuracy")
    if accuracy is None:
        return
    naive = f"last value {_percent(accuracy['wape_last_value'])}"
    if accuracy["wape_day_before"] is not None:
        naive += f", as the day before {_percent(accuracy['wape_day_before'])}"
    yield (
        f"accuracy  over {accuracy['scored_bins']} minutes{lead} error {_percent(accuracy['wape'])} ({naive}); "
        f"{_percent(accuracy['coverage_95'])} lay under the 95 % quantile"
    )


def _calendar_lines(calendar: Document | None) -> Iterator[str]:
    if calendar is None:
        return
    for event in calendar["events"]:
        span = f"{_moment(event['start'])} to {_moment(event['end'])}"
        said = [] if event["demand_ratio"] is None else [f"usual demand times {event['demand_ratio']:g}"]
        if event["replicas"]:
            said.append(f"at least {event['replicas']} replicas from {_clock(event['ordered_from'])}")
        yield f"calendar  event {event['name']!r}, {span}: {', '.join(said)}"
    for window in calendar["windows"]:
        bounds = [
            f"{words} {window[name]}"
            for name, words in (("min_replicas", "at least"), ("max_replicas", "at most"))
            if window[name] is not None
        ]
        span = f"{_clock(window['from'])} to {_clock(window['until'])}"
        yield f"calendar  window {window['name']!r}, {span}: {', '.join(bounds)} replicas"
    if not (calendar["events"] or calendar["windows"]):
        yield f"calendar  no event and no window until {_clock(calendar['until'])}"


def _unknown_lines(document: Document) -> Iterator[str]:
    for text in document.get("unknown", ()):
        yield f"unknown   {text}"


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


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%F %H:%M}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.1f} %"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)


def _tokens(value: float | None) -> str:
    """As `_number`, but never with an exponent: tokens a second soon have five digits."""
    return f"{value:.0f}" if value is not None and value >= 1000.0 else _number(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
