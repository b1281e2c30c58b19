"""docs/install.md: its values are the chart's, its commands name what is there, its versions are those that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from chart_cases import CHART, Object, rendered, settings_of, the
from helm_double import REPOSITORY
from scaler.commands.printing import Output
from scaler.commands.settings import validate

PAGE = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
VALUES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("values", VALUES, ids=["the least", "production"])
def test_its_values_give_settings_that_headstart_takes(values: Object, tmp_path: Path) -> None:
    objects = rendered(values)
    settings = settings_of(objects)
    settings.pop("ha")
    file = tmp_path / "headstart.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert validate(file, Output.TABLE, offline=True) == 0


def test_the_least_observes_and_production_writes() -> None:
    least, production = (rendered(values) for values in VALUES)
    assert "patch" not in str(the(least, "Role", "headstart")["rules"])
    assert "patch" in str(the(production, "Role", "headstart")["rules"])
    assert the(production, "StatefulSet")["spec"]["replicas"] == 2


def test_its_links_and_paths_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (REPOSITORY / "docs" / target).exists(), target
    assert (REPOSITORY / "deploy" / "helm" / "headstart").is_dir()


def test_its_names_are_those_that_the_chart_renders() -> None:
    objects = rendered(VALUES[0])
    assert the(objects, "StatefulSet")["metadata"]["name"] == "headstart"
    selector = the(objects, "StatefulSet")["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/instance"] == "headstart", "claims carry the selector's labels"
    arguments = set(re.findall(r"--build-arg (\w+)=", PAGE))
    known = set(re.findall(r"^ARG (\w+)", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE))
    assert arguments <= known


def test_the_oldest_kubernetes_is_the_chart_s() -> None:
    [oldest] = re.findall(r"\| Kubernetes \| ([\d.]+) and newer", PAGE)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={oldest}.0-0"
