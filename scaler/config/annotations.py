"""Workloads that are set up by annotations on their Deployments, as an alternative to entries in the settings file.

Decides which annotations there are, what each one sets, and what is wrong with one. An entry is made as the file's own
are: over `defaults`, with the same checks and the same words. It reads no cluster, and one Deployment's mistake costs
no other one its entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from scaler.config.check import did_you_mean, shown
from scaler.config.document import Node, Place
from scaler.config.reading import read_entries
from scaler.config.values import WorkloadEntry
from scaler.errors import ConfigIssue

PREFIX: Final = "headstart.autoscaling/"

ENABLED: Final = "enabled"
"""`headstart.autoscaling/enabled: "true"` makes a Deployment a workload."""

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "profile": ("profile",),
        "mode": ("mode",),
        "min-replicas": ("bounds", "min_replicas"),
        "max-replicas": ("bounds", "max_replicas"),
        "priority": ("priority",),
        "start-time": ("start_time",),
        "timezone": ("scheduled", "timezone"),
        "holidays": ("scheduled", "holidays"),
        "floor-kind": ("target", "floor", "kind"),
        "floor-name": ("target", "floor", "name"),
    }
)
"""Annotation, without our prefix, to the setting of a workload's entry that it stands for."""

CONTROL: Final = ("pause", "override", "manual")
"""Annotations that begin so are people's momentary control of a workload, read elsewhere and no settings."""

_READ: Final = frozenset(PREFIX + name for name in (ENABLED, *SETTINGS))
_WHOLE: Final = frozenset({"min-replicas", "max-replicas", "priority"})
_DIGITS: Final = re.compile(r"[-+]?[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """A Deployment as the cluster has it."""

    namespace: str
    name: str
    annotations: Mapping[str, str]
    kind: str = "Deployment"
    api_version: str = "apps/v1"

    @property
    def workload(self) -> str:
        """The workload's name as the settings file has it."""
        return f"{self.namespace}/{self.name}"

    @property
    def settings_alone(self) -> Annotated:
        """The same without the annotations of others, which may hold secrets, and those of the moment."""
        ours = {key: text for key, text in self.annotations.items() if key in _READ}
        return replace(self, annotations=ours)

    def __str__(self) -> str:
        return f"{self.kind} {self.workload}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AnnotationIssue:
    """One mistake: on which object, in which annotation (empty where it is none alone), and what to do about it."""

    thing: str
    annotation: str
    text: str

    def __str__(self) -> str:
        where = f"annotation {self.annotation}: " if self.annotation else ""
        return f"{self.thing}: {where}{self.text}"


def entries_from_annotations(
    objects: Sequence[Annotated], defaults: Node | None, path: Path
) -> tuple[tuple[WorkloadEntry, ...], tuple[AnnotationIssue, ...]]:
    """An entry for every object that is enabled and without a mistake, and all mistakes of the others.

    `defaults` is the section of the settings file at `path`, where relative profiles begin.
    """
    issues: list[AnnotationIssue] = []
    chosen = [each for each in objects if _is_enabled(each, issues)]
    for each in chosen:
        issues.extend((*_unknown(each), *_profile_files(each)))
    wrong = {issue.thing for issue in issues}
    chosen = [each for each in chosen if str(each) not in wrong]
    entries = []
    for each, (entry, found) in zip(chosen, read_entries([_node(e) for e in chosen], defaults, path), strict=True):
        if entry is not None and not found:
            entries.append(entry)
        issues.extend(_issue(each, one) for one in found)
    return tuple(entries), tuple(sorted(set(issues)))


def _is_enabled(each: Annotated, issues: list[AnnotationIssue]) -> bool:
    key = PREFIX + ENABLED
    text = each.annotations.get(key)
    if text in (None, "true", "false"):
        return text == "true"
    wrong = f'must be "true" or "false", got {shown(text)}; it is left out'
    issues.append(AnnotationIssue(thing=str(each), annotation=key, text=wrong))
    return False


def _unknown(each: Annotated) -> list[AnnotationIssue]:
    """Annotations under our prefix that nothing reads: most likely misspelt, and silently without effect."""
    issues = []
    for key in each.annotations:
        name = key.removeprefix(PREFIX)
        if not key.startswith(PREFIX) or name in (ENABLED, *SETTINGS) or name.startswith(CONTROL):
            continue
        meant = did_you_mean(name, SETTINGS).replace("did you mean ", f"did you mean {PREFIX}")
        text = f"is no annotation of Headstart; {meant or 'known: ' + ', '.join(SETTINGS)}"
        issues.append(AnnotationIssue(thing=str(each), annotation=key, text=text))
    return issues


def _profile_files(each: Annotated) -> list[AnnotationIssue]:
    """A profile by path: whoever may annotate a Deployment must not choose which of our files are read."""
    key = f"{PREFIX}profile"
    name = each.annotations.get(key, "")
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        return []
    text = "must be the name of a shipped profile; a profile of your own is named in defaults of the settings file"
    return [AnnotationIssue(thing=str(each), annotation=key, text=f"{text}, got {shown(name)}")]


def _node(each: Annotated) -> Node:
    """The object's annotations as the entry that they stand for, each on a line of its own to be found again."""
    target = {"kind": each.kind, "api_version": each.api_version, "name": each.name}
    tree: dict[str, Any] = {"workload": _leaf(each, 0, each.workload)}
    tree["target"] = {key: _leaf(each, 0, value) for key, value in target.items()}
    for line, (name, setting) in enumerate(SETTINGS.items(), start=1):
        text = each.annotations.get(PREFIX + name)
        if text is None:
            continue
        value = int(text) if name in _WHOLE and _DIGITS.fullmatch(text) else text
        inside = tree
        for step in setting[:-1]:
            inside = inside.setdefault(step, {})
        inside[setting[-1]] = _leaf(each, line, value)
    return _mapping(each, tree)


def _leaf(each: Annotated, line: int, value: int | str) -> Node:
    return Node(place=_place(each, line), value=value)


def _mapping(each: Annotated, tree: Mapping[str, Any]) -> Node:
    children = {key: _mapping(each, child) if isinstance(child, dict) else child for key, child in tree.items()}
    return Node(place=_place(each, 0), value=children, key_places={key: child.place for key, child in children.items()})


def _place(each: Annotated, line: int) -> Place:
    return Place(file=str(each), line=line)


def _issue(each: Annotated, found: ConfigIssue) -> AnnotationIssue:
    """A problem of the entry in the annotation's words; one in `defaults` or a profile names its file."""
    names = (*SETTINGS,)
    if found.file == str(each) and 1 <= found.line <= len(names):
        return AnnotationIssue(thing=str(each), annotation=PREFIX + names[found.line - 1], text=found.text)
    by_setting = {".".join(setting): PREFIX + name for name, setting in SETTINGS.items()}
    annotation = by_setting.get(found.setting, "")
    if found.file == str(each):
        text = found.text if annotation else f"{found.setting}: {found.text}"
        return AnnotationIssue(thing=str(each), annotation=annotation, text=text)
    return AnnotationIssue(thing=str(each), annotation=annotation, text=f"{found.text} ({found.file}:{found.line})")
