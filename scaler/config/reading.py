"""The settings file: one YAML document to frozen values, or every problem in it at once.

Decides how `defaults`, profiles and event files flow into each workload, what must hold between workloads, and where
a relative path starts. Which settings exist and what limits them is said by `config.values` and the rules' own
dataclasses. It connects to nothing, reads no secret (only the paths of secret files), and never answers with half a
configuration.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from scaler.config.between import local_issues, placeholder_issues, target_key, variant_issues
from scaler.config.check import check, did_you_mean, issue_at, shown
from scaler.config.document import Node, Place, join, merged, parse_document, places_in, read_document
from scaler.config.local import LocalConfig, ServerEntry
from scaler.config.pools import pool_issues
from scaler.config.values import (
    ConfigFile,
    DiscoverConfig,
    ForecastConfig,
    HaConfig,
    HttpConfig,
    KubernetesConfig,
    PlaceholderEntry,
    PrometheusConfig,
    ScheduledEntry,
    SelectorConfig,
    TargetConfig,
    WorkloadEntry,
)
from scaler.errors import ConfigError, ConfigIssue
from scaler.loop import Fleet
from scaler.policy.capacity import CapacityProfile
from scaler.policy.decide import WorkloadPolicy
from scaler.policy.placeholders import PlaceholderRule
from scaler.policy.scheduled import ScheduledRule

API_VERSION: Final = "headstart/v1"

ALSO: Final[Mapping[type, tuple[str, ...]]] = {
    ConfigFile: ("apiVersion", "kind", "defaults"),
    ScheduledEntry: ("events_file",),
}
"""What the file may say beyond a dataclass's own settings."""


# ── What the program gets ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A checked configuration; every path is absolute or relative to where the command was started."""

    path: Path
    fleet: Fleet
    targets: Mapping[str, TargetConfig]
    """By workload ("namespace/name"), each with its name filled in."""
    selectors: Mapping[str, SelectorConfig]
    """By workload."""
    prometheus: PrometheusConfig
    kubernetes: KubernetesConfig
    data_dir: Path
    tick: timedelta
    http: HttpConfig
    ha: HaConfig
    forecast: ForecastConfig
    holidays: Mapping[str, str]
    """The calendar of public holidays by workload, of those that name one."""
    discover: DiscoverConfig = field(default_factory=DiscoverConfig)
    """Where workloads are found by annotations."""
    defaults: Node | None = None
    """The file's `defaults`, for the entries of workloads that are found later."""
    placeholders: tuple[PlaceholderRule, ...] = ()
    placeholder_targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    """By placeholder ("namespace/name"), each with its name filled in."""
    deletion_cost: bool = False
    local: LocalConfig = field(default_factory=LocalConfig)
    """Servers on this machine; with any, no cluster is scaled."""
    files: tuple[Path, ...] = ()
    """Files beside `path` that the settings were put together from: profiles and events, sorted."""

    def policy(self, workload: str) -> WorkloadPolicy | None:
        """The settings of one workload, or None."""
        return next((each for each in self.fleet.workloads if each.workload == workload), None)


def read_config(path: Path) -> Config:
    """The configuration at `path`. Raises `ConfigError` with every problem that was found."""
    return _configured(read_document(path, str(path)), path)


def parse_config(text: str, path: Path) -> Config:
    """The configuration in `text`, as if it stood in `path`. Raises `ConfigError`."""
    return _configured(parse_document(text, str(path)), path)


def read_entries(
    owns: Sequence[Node], defaults: Node | None, path: Path
) -> list[tuple[WorkloadEntry | None, tuple[ConfigIssue, ...]]]:
    """For each workload's own settings its entry over the `defaults` of the file at `path`, and its problems."""
    assembly, results = _Assembly(path), []
    for own in owns:
        before = len(assembly.issues)
        entry = assembly.entry(own, defaults, "")
        value, found = check(entry, WorkloadEntry, also=ALSO)
        results.append((value, (*assembly.issues[before:], *found)))
    return results


def with_workloads(config: Config, entries: Sequence[WorkloadEntry]) -> Config:
    """The configuration with further workloads, behind its own."""
    if not entries:
        return config
    policies = tuple(_policy(entry, config.tick) for entry in entries)
    return dataclasses.replace(
        config,
        fleet=dataclasses.replace(config.fleet, workloads=(*config.fleet.workloads, *policies)),
        targets={**config.targets, **{entry.workload: _named(entry.target, entry.workload) for entry in entries}},
        selectors={**config.selectors, **{entry.workload: entry.selector for entry in entries}},
        holidays={**config.holidays, **_holidays(entries)},
    )


def read_profile(path: Path) -> CapacityProfile:
    """One capacity profile. Raises `ConfigError`."""
    assembly = _Assembly(path)
    node = assembly.profile(path)
    profile, found = check(node, CapacityProfile) if node else (None, [])
    if profile is None or assembly.issues or found:
        raise ConfigError([*assembly.issues, *found])
    return profile


@cache
def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the product."""
    return tuple(sorted(each.stem for each in (data_folder() / "profiles").glob("*.yaml")))


def data_folder() -> Path:
    """The shipped data: `scaler/data` in an installed package, `data` beside the packages in a working tree."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parent / "data"


Section = TypeVar("Section", PrometheusConfig, KubernetesConfig, HttpConfig, ServerEntry)


# ── Tree to values ────────────────────────────────────────────────────────────────────────────────────────────


def _configured(root: Node, path: Path) -> Config:
    assembly = _Assembly(path)
    root = assembly.whole(assembly.without_header(root, "Config"))
    file, found = check(root, ConfigFile, also=ALSO)
    issues = [*assembly.issues, *found, *_between_workloads(root)]
    files = tuple(sorted(assembly.files))
    if issues or file is None:
        raise ConfigError(_sorted_once(issues, assembly.inherited), files=files)
    return dataclasses.replace(_placed(file, path, assembly.defaults), files=files)


def _sorted_once(issues: list[ConfigIssue], inherited: frozenset[Place]) -> list[ConfigIssue]:
    """In the order of the file; what several workloads share (defaults, a profile) once, and under its own name."""
    first: dict[tuple[Place, str, str], ConfigIssue] = {}
    for issue in sorted(issues):
        place = Place(file=issue.file, line=issue.line, column=issue.column)
        shared = re.sub(r"^workloads\[\d+\]", "defaults", issue.setting)
        if place in inherited:
            issue = dataclasses.replace(issue, setting=shared)
        first.setdefault((place, shared, issue.text), issue)
    return list(first.values())


class _Assembly:
    """Puts one file together from its parts: the header off, defaults, profiles and event files in.

    Problems are collected in `issues`. A profile is read once however many workloads name it: 2,000 workloads with
    one shipped profile took 3 s with a read each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.issues: list[ConfigIssue] = []
        self.inherited: frozenset[Place] = frozenset()
        """Where everything in `defaults` stands."""
        self.defaults: Node | None = None
        """The file's `defaults`, once the whole was put together."""
        self.files: set[Path] = set()
        """Every file that is named, whether it is there or not."""
        self._profiles: dict[Path, Node | None] = {}

    def without_header(self, root: Node, kind: str, *, required: bool = True) -> Node:
        """The document without apiVersion and kind, which must be ours."""
        if not isinstance(root.value, dict):
            raise ConfigError([issue_at(root.place, "", f"must be a mapping of settings, got {shown(root.plain())}")])
        for key, wanted in (("apiVersion", API_VERSION), ("kind", kind)):
            child = root.child(key)
            if child is None and required:
                self._refuse(root.place, key, f"is required; write {key}: {wanted}")
            elif child is not None and child.value != wanted:
                self._refuse(child.place, key, f"must be {wanted}, got {shown(child.plain())}")
        return root.without("apiVersion", "kind")

    def whole(self, root: Node) -> Node:
        """The document in which every workload's entry is complete."""
        workloads, defaults = root.child("workloads"), self._defaults(root)
        root, self.defaults = root.without("defaults"), defaults
        if workloads is None or not isinstance(workloads.value, tuple):
            return root
        entries = [self.entry(own, defaults, f"workloads[{index}]") for index, own in enumerate(workloads.value)]
        return root.with_child("workloads", Node(place=workloads.place, value=tuple(entries)))

    def entry(self, own: Node, defaults: Node | None, setting: str) -> Node:
        """One workload's complete entry; `setting` is what it is called in the file."""
        own = self._with_one_target(own, f"{setting}." if setting else "")
        entry = own if defaults is None else merged(_yielding(defaults, own), own)
        return self._completed(entry, setting)

    def profile(self, file: Path) -> Node | None:
        """The profile in a file, its name taken from the file's if it gives none; None if it cannot be read."""
        if file not in self._profiles:
            self._profiles[file] = self._read_profile(file)
        return self._profiles[file]

    def _refuse(self, place: Place, setting: str, text: str) -> None:
        self.issues.append(issue_at(place, setting, text))

    def _defaults(self, root: Node) -> Node | None:
        defaults = root.child("defaults")
        if defaults is None or defaults.value is None:
            return None
        if not isinstance(defaults.value, dict):
            self._refuse(defaults.place, "defaults", "must be a mapping of settings")
            return None
        for key in sorted(defaults.value.keys() & {"workload", "target"}):
            self._refuse(defaults.key_place(key), f"defaults.{key}", "belongs to one workload; move it there")
        self.inherited = frozenset(places_in(defaults))
        return self._with_one_target(defaults.without("workload", "target"), "defaults.")

    def _with_one_target(self, entry: Node, setting: str) -> Node:
        """A mapping that gives the target of the steering in one way; refused, and the costs kept, if in two."""
        if not (_has_cost(entry) and _has_target_ratio(entry)):
            return entry
        text = "excludes steering.missed_target_ratio, which is given beside it; keep one"
        self._refuse(entry.key_place("cost"), f"{setting}cost", text)
        return _without_target_ratio(entry)

    def _completed(self, entry: Node, setting: str) -> Node:
        """One workload's entry with its profile and its event file in place of their names."""
        if not isinstance(entry.value, dict):
            return entry
        if "tick" in entry.value:
            place = entry.key_place("tick")
            self._refuse(place, join(setting, "tick"), "is set once for all workloads, at the top of the file")
            entry = entry.without("tick")
        profile = entry.child("profile")
        if profile is None:
            text = f"is required: a shipped profile ({', '.join(shipped_profiles())}), a path, or a mapping"
            self._refuse(entry.place, join(setting, "profile"), text)
            entry = entry.with_child("profile", _STAND_IN)
        elif isinstance(profile.value, str):
            named = self._named_profile(profile.value, profile.place, join(setting, "profile"))
            entry = entry.with_child("profile", named or _STAND_IN)
        scheduled = entry.child("scheduled")
        if scheduled is not None and isinstance(scheduled.value, dict) and "events_file" in scheduled.value:
            entry = entry.with_child("scheduled", self._with_events(scheduled, join(setting, "scheduled")))
        return entry

    def _named_profile(self, name: str, place: Place, setting: str) -> Node | None:
        """The profile with a shipped name, or at a path relative to the settings file."""
        is_path = "/" in name or name.endswith((".yaml", ".yml"))
        if not is_path and name not in shipped_profiles():
            hint = did_you_mean(name, shipped_profiles())
            text = f"no shipped profile is called {shown(name)}; {hint + ' ' if hint else ''}"
            self._refuse(place, setting, f"{text}(shipped: {', '.join(shipped_profiles())}; a path must end in .yaml)")
            return None
        file = self.path.parent / name if is_path else data_folder() / "profiles" / f"{name}.yaml"
        self.files.add(file)
        if not file.is_file():
            self._refuse(place, setting, f"no such file: {file}")
            return None
        return self.profile(file)

    def _read_profile(self, file: Path) -> Node | None:
        try:
            node = self.without_header(read_document(file, str(file)), "CapacityProfile", required=False)
        except ConfigError as error:
            self.issues += error.issues
            return None
        return node if node.child("name") else node.with_child("name", Node(place=node.place, value=file.stem))

    def _with_events(self, scheduled: Node, setting: str) -> Node:
        """`scheduled` with the events and windows of its `events_file` behind its own."""
        name, result = scheduled.child("events_file"), scheduled.without("events_file")
        assert name is not None
        file = self.path.parent / str(name.value)
        self.files.add(file)
        if not file.is_file():
            self._refuse(name.place, join(setting, "events_file"), f"no such file: {file}")
            return result
        try:
            events = self.without_header(read_document(file, str(file)), "Events", required=False)
        except ConfigError as error:
            self.issues += error.issues
            return result
        assert isinstance(events.value, dict)
        for key, child in events.value.items():
            own = result.child(key)
            if own is not None and isinstance(own.value, tuple) and isinstance(child.value, tuple):
                child = Node(place=child.place, value=(*own.value, *child.value))
            result = result.with_child(key, child, key_place=events.key_place(key))
        return result


def _yielding(defaults: Node, own: Node) -> Node:
    """The defaults without the one way to give the target that a workload's own other way takes the place of."""
    if _has_cost(own):
        return _without_target_ratio(defaults)
    return defaults.without("cost") if _has_target_ratio(own) else defaults


def _has_cost(entry: Node) -> bool:
    cost = entry.child("cost")
    return cost is not None and cost.value is not None


def _has_target_ratio(entry: Node) -> bool:
    steering = entry.child("steering")
    return steering is not None and steering.child("missed_target_ratio") is not None


def _without_target_ratio(entry: Node) -> Node:
    steering = entry.child("steering")
    if steering is None or not isinstance(steering.value, dict):
        return entry
    return entry.with_child("steering", steering.without("missed_target_ratio"))


_STAND_IN: Final = parse_document("{name: refused, classes: [{name: default, max_rps: 1}]}", "")
"""Takes the place of a profile that was already refused, so that the rest of the entry is still checked."""


def _between_workloads(root: Node) -> list[ConfigIssue]:
    """What must hold between workloads: none twice, and no target scaled by two of them."""
    issues: list[ConfigIssue] = []
    workloads = root.child("workloads")
    names: dict[str, Place] = {}
    targets: dict[tuple[str, str, str], str] = {}
    for index, entry in enumerate(workloads.value if workloads and isinstance(workloads.value, tuple) else ()):
        name = entry.child("workload")
        if name is None or not isinstance(name.value, str):
            continue
        setting = f"workloads[{index}].workload"
        if name.value in names:
            text = f"{name.value} already stands in line {names[name.value].line}; remove one of the two"
            issues.append(issue_at(name.place, setting, text))
            continue
        names[name.value] = name.place
        target = target_key(name.value, entry.get("target"))
        if target in targets:
            text = f"scales the same {target[1]} as {targets[target]}: two workloads would fight over it"
            issues.append(issue_at(name.place, setting, text))
        targets.setdefault(target, name.value)
    return [
        *issues,
        *placeholder_issues(root, names, targets),
        *local_issues(root, names),
        *variant_issues(root, names),
        *pool_issues(root),
    ]


def _placed(file: ConfigFile, path: Path, defaults: Node | None) -> Config:
    """The checked file as the program's values: paths resolved, moments in UTC, settings by workload."""
    return Config(
        path=path,
        fleet=Fleet(
            workloads=tuple(_policy(entry, file.tick) for entry in file.workloads),
            budget=file.budget,
            variants=file.variants,
        ),
        targets={entry.workload: _named(entry.target, entry.workload) for entry in file.workloads},
        selectors={entry.workload: entry.selector for entry in file.workloads},
        prometheus=_relative_to(file.prometheus, path.parent),
        kubernetes=_relative_to(file.kubernetes, path.parent),
        data_dir=path.parent / file.data_dir.expanduser(),
        tick=file.tick,
        http=_relative_to(file.http, path.parent),
        ha=file.ha,
        forecast=file.forecast,
        holidays=_holidays(file.workloads),
        discover=file.discover,
        defaults=defaults,
        deletion_cost=file.deletion_cost,
        local=dataclasses.replace(
            file.local, servers=tuple(_relative_to(each, path.parent) for each in file.local.servers)
        ),
        placeholders=tuple(_placeholder_rule(entry) for entry in file.placeholders),
        placeholder_targets={each.placeholder: _named(each.target, each.placeholder) for each in file.placeholders},
    )


def _holidays(entries: Sequence[WorkloadEntry]) -> dict[str, str]:
    return {each.workload: each.scheduled.holidays for each in entries if each.scheduled.holidays}


def _placeholder_rule(entry: PlaceholderEntry) -> PlaceholderRule:
    settings = {each.name: getattr(entry, each.name) for each in dataclasses.fields(PlaceholderRule)}
    return PlaceholderRule(**settings)


def _policy(entry: WorkloadEntry, tick: timedelta) -> WorkloadPolicy:
    settings = {each.name: getattr(entry, each.name) for each in dataclasses.fields(WorkloadPolicy)}
    events = tuple(
        dataclasses.replace(event, start=event.start.astimezone(UTC), end=event.end.astimezone(UTC))
        for event in entry.scheduled.events
    )
    # The rule alone: what decisions follow is journalled, and a calendar of holidays shapes the forecast instead.
    rule = ScheduledRule(events=events, windows=entry.scheduled.windows, timezone=entry.scheduled.timezone)
    return WorkloadPolicy(**{**settings, "tick": tick, "scheduled": rule})


def _named(target: TargetConfig, owner: str) -> TargetConfig:
    return target if target.name else dataclasses.replace(target, name=owner.partition("/")[2])


def _relative_to(section: Section, folder: Path) -> Section:
    """A section of the file with its paths taken from the file's folder."""
    paths: dict[str, Any] = {
        each.name: folder / value.expanduser()
        for each in dataclasses.fields(section)
        if isinstance(value := getattr(section, each.name), Path)
    }
    return dataclasses.replace(section, **paths)
