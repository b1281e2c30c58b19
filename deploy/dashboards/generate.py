"""Writes the Grafana dashboards beside this file, from what `pages.py` says is shown.

    python deploy/dashboards/generate.py

It reads no server and no settings. A test holds the JSON files against it, and every query against the metrics that
are exported. Made for Grafana 10 and newer, with any Prometheus as the data source.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).resolve().parent
SCHEMA_VERSION = 39
"""Of Grafana 10.4; newer ones migrate it when they load it."""

WIDTH = 24
"""Columns of Grafana's grid."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def rendered(dashboard: Dashboard) -> str:
    """The text of the JSON file."""
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["headstart"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["headstart"], "title": "Headstart", "asDropdown": True}],
        "templating": {"list": _variables(dashboard)},
        "panels": _laid_out(dashboard.panels),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    if not dashboard.one_workload:
        return [source]
    chain = {
        "namespace": "label_values(headstart_state, namespace)",
        "workload": 'label_values(headstart_state{namespace="$namespace"}, workload)',
    }
    return [source, *(_choice(name, query) for name, query in chain.items())]


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "label": name.capitalize(),
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


def _laid_out(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """From left to right, a new row where the next one does not fit."""
    placed, x, y, row_height = [], 0, 0, 0
    for number, each in enumerate(panels, start=1):
        if x + each.width > WIDTH:
            x, y, row_height = 0, y + row_height, 0
        placed.append(_panel(each, number=number, x=x, y=y))
        x, row_height = x + each.width, max(row_height, each.height)
    return placed


def _panel(each: Panel, *, number: int, x: int, y: int) -> dict[str, Any]:
    look: dict[str, Any] = {}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    if each.kind == "timeseries":
        look = {
            "lineInterpolation": "stepAfter" if each.stepped else "linear",
            "fillOpacity": 20 if each.stacked else 0,
            "stacking": {"mode": "normal" if each.stacked else "none"},
            # A gap is a gap: unknown is never drawn as a line.
            "spanNulls": False,
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {
        "id": number,
        "type": each.kind,
        "title": each.title,
        "description": each.meaning,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": each.width, "h": each.height},
        "fieldConfig": {"defaults": {"unit": each.unit, "custom": look}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
            }
            for index, query in enumerate(each.queries)
        ],
    }


def main() -> None:
    """Write every file anew."""
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(rendered(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
