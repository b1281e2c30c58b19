"""deploy/alerts against real Prometheus code: every alert fires for its fault, stays quiet without it, and resolves.

`promtool test rules` plays the series on a virtual clock. What a rule reads must be exported (names, labels and the
values that labels can have), and every alert has its section in docs/runbook.md, and every section its alert.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from alert_stories import CHAT, STORIES, Story
from promql_names import CATALOGUE_NAMES, problems_of

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "deploy" / "alerts" / "headstart.yaml"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")


@needs_promtool
@pytest.mark.parametrize("story", STORIES)
def test_fires_for_its_fault_alone_and_resolves(story: Story, tmp_path: Path) -> None:
    tests = [test for test in story.tests() if not test["eval_time"].startswith("-")]
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": story.step,
        "tests": [
            {
                "interval": story.step,
                "input_series": [{"series": name, "values": values} for name, values in story.series.items()],
                "promql_expr_test": tests,
            }
        ],
    }
    file = tmp_path / "story.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_story_in_which_it_fires() -> None:
    told = {each.values[0].alert for each in STORIES if each.values[0].fires_at >= 0}  # type: ignore[union-attr]
    assert told == set(ALERTS)


@needs_promtool
def test_prometheus_accepts_the_file_and_its_texts() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@needs_promtool
def test_an_alert_says_who_what_and_where_to_read_on(tmp_path: Path) -> None:
    blind = ALERTS["HeadstartBlind"]["annotations"]
    expected = {
        "exp_labels": {"severity": "warning", "namespace": "llm", "workload": "chat", "signal": "demand_rps"},
        "exp_annotations": {
            "summary": "Headstart cannot read demand_rps of llm/chat",
            "description": blind["description"],
            "runbook_url": "docs/runbook.md#headstartblind",
        },
    }
    series = {"series": f'headstart_blind{{{CHAT},signal="demand_rps",reason="no_series"}}', "values": "1x20"}
    test = {"alertname": "HeadstartBlind", "eval_time": "10m", "exp_alerts": [expected]}
    document = {
        "rule_files": [str(RULES)],
        "tests": [{"interval": "1m", "input_series": [series], "alert_rule_test": [test]}],
    }
    file = tmp_path / "alert.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", list(ALERTS))
def test_reads_only_what_is_exported(name: str) -> None:
    assert problems_of(ALERTS[name]["expr"]) == []


@pytest.mark.parametrize("name", list(ALERTS))
def test_is_complete(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() -> None:
    headings = re.findall(r"^## (Headstart\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(ALERTS)


@pytest.mark.parametrize("name", list(ALERTS))
def test_its_section_says_what_it_means_what_happens_meanwhile_and_what_to_do(name: str) -> None:
    section = RUNBOOK.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    for part in ("**Means**", "**Meanwhile**", "**Do**"):
        assert part in section, f"{name} lacks {part}"
    assert set(re.findall(r"headstart_[a-z_]+", section)) <= CATALOGUE_NAMES
