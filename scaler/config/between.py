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


_CLUSTER_ONLY = {
    "discover": ("namespaces",),
    "ha": ("lease",),
    "kubernetes": ("kubeconfig", "context"),
    "placeholders": (),
    "deletion_cost": (),
}
"""What only a cluster has, and which of its settings asks for it; of the others any."""


def local_issues(root: Node, workloads: Mapping[str, Place]) -> list[ConfigIssue]:
    """Where servers run on this machine every workload says how, and nothing is asked of a cluster."""
    issues: list[ConfigIssue] = []
    local = root.child("local")
    servers = local.child("servers") if local is not None else None
    if servers is None or not isinstance(servers.value, tuple) or not servers.value:
        return issues
    started: set[str] = set()
    for index, entry in enumerate(servers.value):
        name = entry.child("workload")
        if name is None or not isinstance(name.value, str):
            continue
        started.add(name.value)
        if name.value not in workloads:
            hint = did_you_mean(name.value, workloads) or "it must stand under workloads"
            text = f"names {shown(name.value)}, which is no workload; {hint}"
            issues.append(issue_at(name.place, f"local.servers[{index}].workload", text))
    for name_of, place in workloads.items():
        if name_of not in started:
            text = f"no entry of local.servers starts {name_of}: a daemon scales this machine or a cluster, not both"
            issues.append(issue_at(place, "workloads", text))
    for section, settings in _CLUSTER_ONLY.items():
        given = root.child(section)
        if given is None or not given.value or (settings and not any(given.child(each) for each in settings)):
            continue
        text = "belongs to a cluster, and local.servers scales this machine; remove one of the two"
        issues.append(issue_at(root.key_place(section), section, text))
    for index, entry in enumerate(entries_of(root)):
        mode = entry.child("mode")
        if mode is not None and mode.value == "floor":
            text = "is floor, and no autoscaler has one on this machine; use active"
            issues.append(issue_at(mode.place, f"workloads[{index}].mode", text))
    return issues


def entries_of(root: Node) -> tuple[Node, ...]:
    """The entries of `workloads`, complete as they are after defaults and profiles were put in."""
    workloads = root.child("workloads")
    return workloads.value if workloads is not None and isinstance(workloads.value, tuple) else ()


def target_key(workload: str, target: Any) -> tuple[str, str, str]:
    """Namespace, kind and name of what an entry scales: two with one key would fight over it."""
    namespace, _, name = workload.partition("/")
    given = target if isinstance(target, dict) else {}
    return namespace, str(given.get("kind") or "Deployment"), str(given.get("name") or name)


def variant_issues(root: Node, workloads: Mapping[str, Place]) -> list[ConfigIssue]:
    """Variants are workloads that there are, each in one group, that we scale ourselves and that fit its GPUs."""
    issues: list[ConfigIssue] = []
    entries = {str(each.get("workload")): each for each in entries_of(root) if isinstance(each.value, dict)}
    groups, grouped, named = root.child("variants"), dict[str, str](), set[str]()
    for index, group in enumerate(groups.value if groups and isinstance(groups.value, tuple) else ()):
        setting, name, members = f"variants[{index}]", group.get("name"), group.child("workloads")
        if name in named:
            text = f"{shown(name)} already stands above; one model has one group of variants"
            issues.append(issue_at(group.place, f"{setting}.name", text))
        named.add(str(name))
        first: tuple[str, Any] | None = None
        for place, member in enumerate(members.value if members and isinstance(members.value, tuple) else ()):
            workload = member.child("workload")
            if workload is None or not isinstance(workload.value, str):
                continue
            text = _variant_problem(workload.value, group.get("gpus"), workloads, entries, grouped)
            if not text:
                seen = _demand_seen(entries[workload.value])
                first = first or (workload.value, seen)
                text = _demand_problem(workload.value, seen, first)
            if text:
                issues.append(issue_at(workload.place, f"{setting}.workloads[{place}].workload", text))
            grouped.setdefault(workload.value, str(name))
        issues += _room_issues(group, setting, entries)
    return issues


def groups_of(root: Node) -> dict[str, str]:
    """The group of variants that each workload belongs to, by workload."""
    groups, found = root.child("variants"), dict[str, str]()
    for group in groups.value if groups is not None and isinstance(groups.value, tuple) else ():
        members = group.child("workloads")
        for member in members.value if members is not None and isinstance(members.value, tuple) else ():
            found.setdefault(str(member.get("workload")), str(group.get("name")))
    return found


def _room_issues(group: Node, setting: str, entries: Mapping[str, Node]) -> list[ConfigIssue]:
    """Two variants whose replicas do not fit beside each other cannot hand over without a gap."""
    gpus, members = group.child("gpus"), group.get("workloads")
    names = [str(each.get("workload")) for each in members or () if isinstance(each, dict)]
    sizes = {name: _gpus_of(entries[name]) for name in names if name in entries}
    if gpus is None or not isinstance(gpus.value, int) or len(sizes) < 2:
        return []
    (first, one), (second, other) = sorted(sizes.items(), key=lambda each: -each[1])[:2]
    if one > gpus.value or one + other <= gpus.value:  # one that does not fit alone is refused by itself
        return []
    text = (
        f"is {gpus.value}, and a replica of {first} ({one} GPUs) beside one of {second} ({other}) needs {one + other}"
    )
    return [issue_at(gpus.place, f"{setting}.gpus", f"{text}: without both there is no switch without a gap")]


def _gpus_of(entry: Node) -> int:
    profile = entry.child("profile")
    gpus = profile.get("gpus") if profile is not None and isinstance(profile.value, dict) else None
    return gpus if isinstance(gpus, int) else 1


def _demand_seen(entry: Node) -> dict[str, Any]:
    """What of an entry says whose arrivals are its."""
    selector = entry.get("selector")
    given = selector if isinstance(selector, dict) else {}
    return {key: given.get(key) for key in ("demand_labels", "demand_metric", "class_label", "classes")}


def _demand_problem(workload: str, seen: dict[str, Any], first: tuple[str, dict[str, Any]]) -> str:
    """Why a variant does not see the service's demand; "" if it does."""
    if not seen["demand_labels"]:
        return (
            f"{workload} has no selector.demand_labels: every variant must see the whole service's demand; "
            "write those of the model that clients ask for, such as {model: chat}"
        )
    if seen != first[1]:
        differing = ", ".join(f"selector.{key}" for key, value in seen.items() if value != first[1][key])
        return f"{workload} and {first[0]} differ in {differing}: variants must see one demand, the whole service's"
    return ""


def _variant_problem(
    workload: str, gpus: Any, workloads: Mapping[str, Place], entries: Mapping[str, Node], grouped: Mapping[str, str]
) -> str:
    """Why a workload cannot be a variant of a group with so many GPUs; "" if it can."""
    if workload not in workloads:
        hint = did_you_mean(workload, workloads) or "it must stand under workloads"
        return f"names {shown(workload)}, which is no workload; {hint}"
    if workload in grouped:
        return f"{workload} is a variant of {grouped[workload]} already: it can serve for one group only"
    entry = entries[workload]
    mode = entry.get("mode")
    if mode in ("floor", "publish"):
        return f"is in mode {mode}, and another autoscaler cannot be handed over to; use active or observe"
    needed = _gpus_of(entry)
    if isinstance(gpus, int) and needed > gpus:
        return f"needs {needed} GPUs a replica, and the group has {gpus}; raise gpus or take the variant out"
    return ""
