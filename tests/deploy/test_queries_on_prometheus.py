"""Every query of the dashboards and alerts on a real Prometheus that scrapes two daemons' worth of series.

A query can be well-formed, name real metrics, and still fail when it is evaluated: two series that match one, labels
that do not line up. With a leader and a standby that export the same workloads, each must succeed, and each panel
must show something.
"""

from __future__ import annotations

import itertools
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from promql_names import EXPORTED, VALUES
from servers import Exporter, PrometheusServer, Target, prometheus_is_installed

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not prometheus_is_installed(), reason="prometheus is not installed"),
]

SHOWN_WITHIN_S = 30.0
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OTHERS = {
    "namespace": {"llm"},
    "workload": {"chat", "code"},
    "request_class": {"default"},
    "sender": {"llm/gui"},
    "rule": {"load", "predictive"},
    "part": {"image", "load"},
    "job": {"forecast"},
    "le": {"1.0", "10.0", "+Inf"},
}
"""Values of labels whose values are no enumeration."""


def page() -> str:
    """Everything that a daemon exports, with every value that a label can have; counts grow with the time."""
    lines = []
    for name, labels in EXPORTED.items():
        value = time.time() % 1e6 if name.endswith(("_total", "_bucket", "_count", "_sum")) else 1.0
        for values in itertools.product(*(sorted((VALUES | OTHERS)[label]) for label in sorted(labels))):
            pairs = ",".join(f'{label}="{each}"' for label, each in zip(sorted(labels), values, strict=True))
            lines.append(f"{name}{{{pairs}}} {value}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def prometheus() -> Iterator[PrometheusServer]:
    pages = {"/leader": page, "/standby": page}
    with Exporter(pages) as exporter:
        targets = [Target(address=exporter.address, path=path, labels={"instance": path[1:]}) for path in pages]
        server = PrometheusServer(targets, scrape_interval="1s")
        config = server._folder / "prometheus.yml"
        document = yaml.safe_load(config.read_text(encoding="utf-8"))
        document["scrape_configs"][0]["honor_labels"] = True
        document["rule_files"] = [str(DEPLOY / "alerts" / "headstart.yaml")]
        document["global"]["evaluation_interval"] = "1s"
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        with server:
            seen = "min(count_over_time(headstart_journal_errors_total[5m]))"
            while not [value for value in asked(server, seen) if float(value["value"][1]) >= 3]:
                time.sleep(0.1)
            yield server


def get(server: PrometheusServer, path: str, **query: str) -> Any:
    url = f"{server.url}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]


def asked(server: PrometheusServer, expr: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(server, "/api/v1/query", query=expr)["result"]
    return found


PANELS = [
    pytest.param(target["expr"], id=f"{board['title']}: {panel['title']} {target['refId']}")
    for board in (
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((DEPLOY / "dashboards").glob("*.json"))
    )
    for panel in board["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("expr", PANELS)
def test_a_panel_shows_something(prometheus: PrometheusServer, expr: str) -> None:
    wanted = expr.replace("$namespace", "llm").replace("$workload", "chat")
    ends = time.monotonic() + SHOWN_WITHIN_S  # between two scrapes of which one failed a rate has no value
    while not asked(prometheus, wanted):
        assert time.monotonic() < ends, f"shows nothing: {wanted}"
        time.sleep(0.2)


def test_no_alert_fails_to_be_evaluated(prometheus: PrometheusServer) -> None:
    while True:
        rules = [rule for group in get(prometheus, "/api/v1/rules")["groups"] for rule in group["rules"]]
        if rules and all(rule["health"] != "unknown" for rule in rules):
            break
        time.sleep(0.1)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
