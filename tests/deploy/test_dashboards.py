"""The Grafana dashboards: generated from deploy/dashboards/generate.py, and true to what is exported.

Every query is PromQL for Prometheus itself and for the parser that the product uses, reads only metrics, labels and
values that exist, and every exported metric is on a dashboard or in an alert.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from promql_names import EXPORTED, names_in, problems_of
from scaler.adapters.metrics import METRICS

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def generator() -> ModuleType:
    """generate.py, which is a script beside its pages and in no package."""
    sys.path.insert(0, str(DEPLOY / "dashboards"))
    try:
        return importlib.import_module("generate")
    finally:
        sys.path.pop(0)


GENERATOR = generator()
FILES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((DEPLOY / "dashboards").glob("*.json"))
}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}") for name, board in FILES.items() for panel in board["panels"]
]
QUERIES = [target["expr"] for board in FILES.values() for panel in board["panels"] for target in panel["targets"]]


def asked(expr: str) -> str:
    """A query as Grafana sends it for the workload llm/chat."""
    return expr.replace("$namespace", "llm").replace("$workload", "chat")


def test_the_files_are_what_the_generator_writes() -> None:
    """Run `python deploy/dashboards/generate.py` after a change."""
    assert set(FILES) == set(GENERATOR.DASHBOARDS)
    for name, dashboard in GENERATOR.DASHBOARDS.items():
        assert (DEPLOY / "dashboards" / f"{name}.json").read_text(encoding="utf-8") == GENERATOR.rendered(dashboard)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_reads_only_what_is_exported(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert panel["description"].endswith(".")
    for target in panel["targets"]:
        assert problems_of(asked(target["expr"])) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_legend_names_labels_that_the_result_has(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert not grouped or any(label in re.split(r",\s*", each) for each in grouped), label


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": asked(expr)} for number, expr in enumerate(QUERIES)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exported_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    groups = yaml.safe_load((DEPLOY / "alerts" / "headstart.yaml").read_text(encoding="utf-8"))["groups"]
    alerts = [rule["expr"] for group in groups for rule in group["rules"]]
    used = {name for expr in [*map(asked, QUERIES), *alerts] for name in names_in(expr)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} | used
    assert {spec.full_name for spec in METRICS} <= shown


def test_the_choice_of_a_workload_reads_what_is_exported() -> None:
    choices = [each["query"]["query"] for each in FILES["workload"]["templating"]["list"] if each["type"] == "query"]
    assert [re.fullmatch(r"label_values\((.+), (\w+)\)", choice)[2] for choice in choices] == ["namespace", "workload"]
    for choice in choices:
        assert problems_of(asked(choice.removeprefix("label_values(").rpartition(", ")[0])) == []


def test_panels_lie_side_by_side() -> None:
    for board in FILES.values():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells
        assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))


def test_names_and_identities_are_unique() -> None:
    assert len({board["uid"] for board in FILES.values()}) == len({board["title"] for board in FILES.values()}) == 3


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        pytest.param("headstart_replica_desired", "headstart_replica_desired is not exported", id="a misspelt metric"),
        pytest.param(
            'headstart_demand{wrkload="chat"}', "headstart_demand has no label wrkload", id="a misspelt label"
        ),
        pytest.param('headstart_state{state="BLIND"}', "headstart_state: state is never BLIND", id="no such state"),
        pytest.param(
            'rate(headstart_decision_total{reason=~"at_max|at_most"}[5m])',
            "headstart_decision_total: reason is never at_most",
            id="no such reason among others",
        ),
        pytest.param(
            "sum by (pood) (headstart_demand)",
            "pood is grouped by, and headstart_demand has none",
            id="grouped by nothing",
        ),
        pytest.param(
            "max(headstart_tick_duration_seconds)", "headstart_tick_duration_seconds is not exported", id="a histogram"
        ),
    ],
)
def test_the_check_finds(query: str, problem: str) -> None:
    assert problems_of(query) == [problem]


def test_the_check_knows_every_metric_of_the_catalogue() -> None:
    for spec in METRICS:
        assert spec.full_name in EXPORTED or f"{spec.full_name}_bucket" in EXPORTED
