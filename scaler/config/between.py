"""What must hold between the entries of a settings file, where no single value can see it.

It compares entries and answers problems at their places. It never changes one and knows no limit of a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaler.config.check import did_you_mean, issue_at, shown
from scaler.config.document import Node, Place
from scaler.errors import ConfigIssue


def placeholder_issues(
    root: Node, workloads: Mapping[str, Place], targets: Mapping[tuple[str, str, str], str]
) -> list[ConfigIssue]:
    """Placeholders are for workloads that there are, and scale nothing that a workload or another entry scales."""
    issues: list[ConfigIssue] = []
    entries, taken = root.child("placeholders"), dict(targets)
    for index, entry in enumerate(entries.value if entries and isinstance(entries.value, tuple) else ()):
        setting, name, covered = f"placeholders[{index}]", entry.child("placeholder"), entry.child("workloads")
        if name is not None and isinstance(name.value, str):
            target = target_key(name.value, entry.get("target"))
            if target in taken:
                text = f"scales the same {target[1]} as {taken[target]}; give the placeholders one of their own"
                issues.append(issue_at(name.place, f"{setting}.placeholder", text))
            taken.setdefault(target, name.value)
        for each in covered.value if covered and isinstance(covered.value, tuple) else ():
            if isinstance(each.value, str) and each.value not in workloads:
                hint = did_you_mean(each.value, workloads) or "it must stand under workloads"
                text = f"names {shown(each.value)}, which is no workload; {hint}"
                issues.append(issue_at(each.place, f"{setting}.workloads", text))
    return issues


def target_key(workload: str, target: Any) -> tuple[str, str, str]:
    """Namespace, kind and name of what an entry scales: two with one key would fight over it."""
    namespace, _, name = workload.partition("/")
    given = target if isinstance(target, dict) else {}
    return namespace, str(given.get("kind") or "Deployment"), str(given.get("name") or name)
