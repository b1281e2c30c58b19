"""The chart as real helm renders it, for a table of values.

Holds no test.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from helm_double import REPOSITORY, run
from scaler.config.document import parse_document

Object = dict[str, Any]

CHART = REPOSITORY / "deploy" / "helm" / "headstart"
NAMESPACE = "headstart"

WORKLOADS = [
    {"workload": "llm/chat", "profile": "qwen3-vl-2b-24gb", "start_time": "3m", "mode": "active"},
    {"workload": "llm/code", "profile": "qwen3-vl-2b-24gb", "target": {"kind": "StatefulSet"}},
    {"workload": "img/vl", "profile": "qwen3-vl-2b-24gb", "bounds": {"max_replicas": 4}},
]
SETTINGS: Object = {"prometheus": {"url": "http://prometheus.monitoring:9090"}, "workloads": WORKLOADS}

CASES: dict[str, Object] = {
    "the least": {"config": {"workloads": WORKLOADS[:1]}},
    "no lease": {"config": SETTINGS, "leaderElection": {"enabled": False}},
    "hot standby": {"config": SETTINGS, "replicas": 2},
    "trainer beside the daemon": {"config": SETTINGS, "trainer": {"kind": "sidecar", "at": "00:05"}},
    "trainer as cron job": {"config": SETTINGS, "replicas": 2, "trainer": {"kind": "cronjob", "at": "13:09"}},
    "one role for the cluster": {"config": SETTINGS, "rbac": {"scope": "cluster"}},
    "everything": {
        "config": {**SETTINGS, "budget": {"gpus": 40}, "tick": "30s", "forecast": {"refit": "03:10"}},
        "files": {"notes.txt": "nothing\n"},
        "secretMounts": [{"secret": "prometheus-token", "path": "/etc/headstart-secrets/prometheus"}],
        "image": {"repository": "registry.example/headstart", "digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 2,
        "persistence": {"size": "8Gi", "storageClassName": "fast"},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"note": "x"},
        "podLabels": {"team": "serving"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "token": {"existingSecret": "my-token", "key": "bearer"},
        "trainer": {"kind": "cronjob", "resources": {"limits": {"memory": "8Gi"}}},
        "serviceAccount": {"name": "scaler", "annotations": {"note": "x"}},
        "rbac": {"rivals": True, "namespaces": [{"name": "extra", "write": True, "kinds": ["Deployment"]}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "monitoring"}},
        "prometheusRule": {"enabled": True, "runbookUrl": "https://docs.example/runbook"},
        "dashboards": {"enabled": True},
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "extraEgress": [{"ports": [{"port": 3128, "protocol": "TCP"}]}],
        },
        "placeholders": {
            "priorityClass": {"create": True},
            "groups": [{"name": "h100", "namespace": "llm", "gpus": 2, "nodeSelector": {"gpu": "h100"}}],
        },
    },
}


@functools.cache
def _rendered(values: str, kube_version: str, release: str) -> str:
    with tempfile.TemporaryDirectory(prefix="chart-") as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(values, encoding="utf-8")
        return run(
            "helm", "template", release, str(CHART), "--namespace", NAMESPACE, "--values", str(file),
            "--kube-version", kube_version, folder=Path(folder),
        )  # fmt: skip


def rendered(values: Object, *, kube_version: str = "1.35.0", release: str = "headstart") -> list[Object]:
    """The objects that helm would send for these values."""
    return [each for each in yaml.safe_load_all(_rendered(json.dumps(values), kube_version, release)) if each]


def refused(values: Object) -> str:
    """What helm says to values that it does not take."""
    with tempfile.TemporaryDirectory(prefix="chart-") as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(json.dumps(values), encoding="utf-8")
        return run("helm", "template", "headstart", str(CHART), "--values", str(file), folder=Path(folder), expect=1)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of one kind, in the order of the manifest."""
    return [each for each in objects if each["kind"] == kind]


def the(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The one object of a kind, or of a kind and a name."""
    [found] = [each for each in of_kind(objects, kind) if name in (None, each["metadata"]["name"])]
    return found


def pods_of(objects: list[Object]) -> dict[str, Object]:
    """Every pod template by the name of what makes it."""
    pods = {}
    for each in objects:
        spec = each.get("spec", {})
        template = spec.get("template") or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        if template is not None:
            pods[each["metadata"]["name"]] = template
    return pods


def settings_of(objects: list[Object]) -> Object:
    """The settings file in the ConfigMap, as Headstart reads it: YAML 1.2, where 1e-05 is a number."""
    text = the(objects, "ConfigMap", "headstart")["data"]["headstart.yaml"]
    settings: Object = parse_document(text, "headstart.yaml").plain()
    return settings
