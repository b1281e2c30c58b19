"""`models`: the stored versions, at which stage each is and why; two of them compared; one promoted, one taken back.

What a stage means and how a version comes to the next is `forecaster.registry`'s; how two are compared is the gate's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaler.commands.printing import Output, progress_bar, put, put_json, put_table, say
from scaler.errors import CommandError

if TYPE_CHECKING:
    from forecaster.registry import Manifest
    from forecaster.stages import Standing
    from forecaster.types import Forecaster, Panel

BEFORE = timedelta(days=3)
"""History before the days compared: what the models look back on, and Holt-Winters' first day."""


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────


def show(root: Path, output: Output) -> None:
    """Every stored version: the site's own, then the shipped ones."""
    from forecaster import registry
    from forecaster.errors import ArtefactError
    from forecaster.models.stored import KINDS

    rows = []
    shipped = registry.shipped_models()
    for origin, place in (("own", root), *([] if shipped is None else [("shipped", shipped)])):
        for model in KINDS:
            try:
                stages = registry.stages(place, model)
            except ArtefactError as error:
                say(f"warning: {error}")
                continue
            rows += [_row(place, origin, model, version, standing) for version, standing in stages.items()]
    if output is Output.JSON:
        put_json({"apiVersion": "headstart/v1", "kind": "ModelList", "items": rows})
        return
    if not rows:
        put("no stored model; the members that need no fit (seasonal-naive, last-value, …) forecast without one")
        return
    columns = ("MODEL", "VERSION", "STAGE", "SINCE", "FROM", "TRAINED ON", "SERIES", "WHY")
    put_table(columns, [_cells(row) for row in rows], right=("SERIES",))


def _row(place: Path, origin: str, model: str, version: str, standing: Standing) -> dict[str, Any]:
    from forecaster import registry
    from forecaster.errors import ArtefactError
    from forecaster.stages import Stage

    row: dict[str, Any] = {
        "model": model,
        "version": version,
        "stage": standing.stage.value,
        "reason": standing.reason,
        "since": None if standing.since is None else standing.since.isoformat(),
        "live": standing.stage is Stage.LIVE,
        "from": origin,
    }
    try:
        manifest, _ = registry.read(place, model, version=version)
    except ArtefactError as error:
        return {**row, "error": str(error)}
    span = manifest.span
    return {
        **row,
        "reason": standing.reason or str(manifest.report.get("verdict", "")),
        "span": {"start": span.start.isoformat(), "end": span.end.isoformat(), "series": span.series},
        "seed": manifest.seed,
        "sha256": manifest.sha256,
        "report": json.loads(json.dumps(dict(manifest.report), default=str)),
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    span = row.get("span")
    days = "–" if span is None else f"{span['start'][:10]} to {span['end'][:10]}"
    series = "–" if span is None else str(span["series"])
    since = "–" if row["since"] is None else row["since"][:16].replace("T", " ")
    why = row.get("error") or row["reason"] or "–"
    return (row["model"], row["version"], row["stage"], since, row["from"], days, series, why)


# ── compare ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """What two models are compared on: the last `days` of a trace, or of the daemon's history."""

    data_dir: Path
    trace: Path | None
    column: str | None
    days: int


def compare(one: str, other: str, over: Days, output: Output) -> None:
    """Decision cost, pinball loss and coverage of two models on recent history, in the order given."""
    from forecaster import gate

    panel = _history(over)
    held_out = timedelta(days=over.days)
    named = {name: _member(over.data_dir / "models", name, panel, held_out=held_out) for name in (one, other)}
    judged = gate.examined(panel, held_out=held_out)
    found = {}
    with progress_bar() as progress:
        for number, (name, member) in enumerate(named.items()):
            progress(number / len(named), f"{name}: forecasting {over.days} days")
            found[name] = gate.figures_of(member, judged, held_out=held_out)
    against = gate.compared(found[one], found[other])
    document = {
        "apiVersion": "headstart/v1",
        "kind": "ModelComparison",
        "from": (panel.end - held_out).isoformat(),
        "to": panel.end.isoformat(),
        "series": len(judged.keys),
        "items": [{"name": name, **figures.as_json()} for name, figures in found.items()],
        "cost_ratio": round(against.cost_ratio, 4),
        "loss_ratio": round(against.loss_ratio, 4),
        "better": against.better,
    }
    if output is Output.JSON:
        put_json(document)
    else:
        _put_comparison(document, one, other)


def _put_comparison(document: Mapping[str, Any], one: str, other: str) -> None:
    columns = ("MODEL", "GPU RATIO", "OUT OF REACH", "PINBALL", "COVERAGE .95")
    rows = [
        (
            each["model"],
            _figure(each["decision_gpu_ratio"], ".3f"),
            str(each["out_of_reach"]),
            _figure(each["pinball"], ".4f"),
            _figure(each["coverage_95"], ".3f"),
        )
        for each in document["items"]
    ]
    put_table(columns, rows, right=columns[1:])
    verdict = "is better" if document["better"] else "is no better"
    span = f"{document['from'][:16]} to {document['to'][:16]}, {document['series']} series"
    cost, loss = document["cost_ratio"], document["loss_ratio"]
    put(f"{one} {verdict} than {other} ({span}): {cost:.3f} of its cost at equal risk, {loss:.3f} of its pinball loss")


def _figure(value: float | None, shape: str) -> str:
    return "–" if value is None else format(value, shape)


def _history(over: Days) -> Panel:
    """The last days and what the models look back on before them."""
    if over.trace is not None:
        from forecaster.panels import read_panel

        return read_panel(over.trace, column=over.column)
    return _stored_demand(over.data_dir, span=timedelta(days=over.days) + BEFORE)


def _stored_demand(data_dir: Path, *, span: timedelta) -> Panel:
    """The usual demand of every series over the last `span` of the daemon's history, as the refit sees it."""
    from forecaster.sources.history import HistoryStore
    from forecaster.types import STEP
    from scaler.adapters.demand import KNOWN_BLOB, known_from_bytes, usual_demand
    from scaler.adapters.intake import DEMAND
    from scaler.adapters.store import FILE_NAME, read_blob

    file = data_dir / FILE_NAME
    if not file.is_file():
        raise CommandError(f"there is no data file {file}; name the daemon's data folder, or a --trace")
    with HistoryStore.open(file, now=datetime.now(UTC), read_only=True) as history:
        keys = tuple(key for key in history.keys() if key.signal == DEMAND)  # noqa: SIM118 — not a dict
        spans = [found for key in keys if (found := history.span(key)) is not None]
        if not spans:
            raise CommandError(f"the history in {file} holds no demand yet")
        end = max(last for _, last in spans) + STEP
        start = max(min(first for first, _ in spans), end - span)
        known = read_blob(file, KNOWN_BLOB)
        of = {} if known is None else known_from_bytes(known[0])
        return usual_demand(history, keys, start=start, end=end, known=of)


def _member(root: Path, name: str, panel: Panel, *, held_out: timedelta) -> Forecaster:
    """The model called `family`, then its live version, or `family@version`; says so if it has seen the days."""
    from forecaster import registry

    family, _, version = name.partition("@")
    members = registry.members(step=panel.step, also=(name,)).forecasters
    plain = {each.model_id: each for each in members if "@" not in each.model_id}
    if name in plain and registry.live_version(root, name) is None:
        return plain[name]
    _known_model(family, besides=tuple(plain))
    places = [place for place in (root, registry.shipped_models()) if place is not None]
    place = next((each for each in places if version in registry.versions(each, family)), None)
    if not version:
        place = next((each for each in places if registry.live_version(each, family) is not None), None)
    place = root if place is None else place
    manifest, _ = registry.read(place, family, version=version or None, step_s=panel.step.total_seconds())
    _tell_seen(name, manifest, since=panel.end - held_out, until=panel.end)
    return registry.load(place, family, version=version or None, step=panel.step)


def _tell_seen(name: str, manifest: Manifest, *, since: datetime, until: datetime) -> None:
    span = manifest.span
    if span.start < until and span.end > since:
        say(f"warning: {name} was fitted on data until {span.end:%F %H:%M}: it has seen days that it is compared on")


# ── promote and roll back ─────────────────────────────────────────────────────────────────────────────────────


def promote(root: Path, model: str, version: str, *, reason: str) -> None:
    """Make one version the live one."""
    from forecaster import registry

    _known_model(model)
    registry.promote(root, model, version, reason=reason, now=datetime.now(UTC))
    put(f"{model}: {version} is live now")


def roll_back(root: Path, model: str, *, reason: str) -> None:
    """Go back to the version that was live before."""
    from forecaster import registry

    _known_model(model)
    put(f"{model}: {registry.roll_back(root, model, reason=reason, now=datetime.now(UTC))} is live again")


def _known_model(model: str, *, besides: tuple[str, ...] = ()) -> None:
    from forecaster.models.stored import KINDS

    if model not in KINDS:
        names = sorted({*KINDS, *besides})
        raise CommandError(f"no stored model is called {model!r}; there are {', '.join(names)}")
