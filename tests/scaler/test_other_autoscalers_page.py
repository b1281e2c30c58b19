"""docs/other-autoscalers.md against the code: its YAML parses, its metrics exist, its queries are PromQL and give one number.

The strict API double takes its HPA and ScaledObject; the settings are read as they stand there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from kube_double import KubeDouble
from scaler.adapters.connections import floors_of
from scaler.adapters.kubernetes import HPA, FloorRef
from scaler.adapters.metrics import METRICS
from scaler.config import parse_config
from scaler.policy.types import Mode

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "other-autoscalers.md").read_text(encoding="utf-8")
BLOCKS: list[dict[str, Any]] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
BY_NAME = {metric.full_name: metric for metric in METRICS}


def block(kind: str) -> dict[str, Any]:
    [found] = [each for each in BLOCKS if each.get("kind") == kind or kind in each]
    return found


def adapter_query() -> str:
    """The adapter's query as it asks it for one workload."""
    [rule] = block("externalRules")["externalRules"]
    return (
        str(rule["metricsQuery"])
        .replace("<<.Series>>", rule["name"]["as"])
        .replace("<<.LabelMatchers>>", 'namespace="llm",workload="chat"')
    )


QUERIES = {
    "KEDA": block("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"],
    "the adapter's discovery": block("externalRules")["externalRules"][0]["seriesQuery"],
    "the adapter": adapter_query(),
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_parses_and_asks_for_a_metric_and_labels_that_are_exported(query: str) -> None:
    promql_parser.parse(query)
    [(name, labels)] = re.findall(r"(headstart_\w+)\{([^}]*)\}", query)
    assert set(re.findall(r"(\w+)(?:!?=)", labels)) == set(BY_NAME[name].labels)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"headstart_[a-z_]+", PAGE))))
def test_every_metric_that_is_named_is_exported(name: str) -> None:
    assert name in BY_NAME


def test_what_is_unknown_never_reads_as_zero() -> None:
    keda = block("ScaledObject")["spec"]
    assert keda["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
    assert "fallback" not in keda
    assert all(endpoint["honorLabels"] for endpoint in block("ServiceMonitor")["spec"]["endpoints"])


def test_one_replica_is_worth_one() -> None:
    [metric] = block(HPA)["spec"]["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert metric["external"]["metric"]["name"] == block("externalRules")["externalRules"][0]["name"]["as"]
    trigger = block("ScaledObject")["spec"]["triggers"][0]
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")


@pytest.mark.parametrize(("kind", "plural"), [(HPA, "horizontalpodautoscalers"), ("ScaledObject", "scaledobjects")])
def test_a_strict_server_takes_the_manifests(kind: str, plural: str) -> None:
    double = KubeDouble()
    double.namespace("llm")
    double.deployment("llm", "chat")
    double.create(plural, block(kind))


def test_the_settings_set_the_floor_that_they_name() -> None:
    config = parse_config(yaml.safe_dump(block("Config")), Path("headstart.yaml"))
    assert config.fleet.workloads[0].mode is Mode.FLOOR
    assert floors_of(config) == {"llm/chat": FloorRef(namespace="llm", kind=HPA, name="chat")}


def test_every_mode_and_its_role_are_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `(headstart-\w+)` \|$", PAGE, re.MULTILINE))
    assert set(rows) == set(Mode)
    rbac = (Path(__file__).resolve().parents[2] / "deploy" / "rbac.yaml").read_text(encoding="utf-8")
    roles = {document["metadata"]["name"] for document in yaml.safe_load_all(rbac) if document["kind"] == "ClusterRole"}
    assert set(rows.values()) <= roles
