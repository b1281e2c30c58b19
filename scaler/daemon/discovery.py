"""Workloads by annotation joined to those of the settings file: search, make entries, admit, tell.

Order only: which annotations there are is said by `config.annotations`, how many may join at once by
`config.discovery`. It starts and changes nothing: whoever asks gets a configuration.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scaler.adapters.connections import access_of
from scaler.adapters.discovered import DISCOVERED_BLOB, DiscoveredUnreadable, from_bytes, to_bytes
from scaler.adapters.journal import SqliteJournal
from scaler.adapters.kubernetes import ApiConnection
from scaler.adapters.kubernetes.annotated import Found, annotated_in
from scaler.adapters.kubernetes.errors import KubernetesError
from scaler.adapters.store import FILE_NAME, Store, read_blob
from scaler.config import Config, TargetConfig
from scaler.config.annotations import Annotated, AnnotationIssue, entries_from_annotations
from scaler.config.discovery import admit
from scaler.config.reading import with_workloads
from scaler.config.values import WorkloadEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """The configuration with what was found; `told` are sentences for people, mistakes and refusals among them."""

    config: Config
    entries: tuple[WorkloadEntry, ...] = ()
    held: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    objects: tuple[Annotated, ...] = ()
    """What the entries were made of: the `before` of the next discovery."""
    known: frozenset[str] = frozenset()
    """Who counts as known at the next discovery beside those that run: a workload stays so while its Deployment is
    annotated, whether or not its settings can be used now, and while nobody can say whether it is."""


def discovered(config: Config, *, known: Collection[str], before: Sequence[Annotated] = ()) -> Discovery:
    """`config`, as the file has it, with the workloads that annotations name now.

    `known` were workloads before, of the file or not; `before` are the objects of the last discovery. Raises
    `KubernetesError` where there are no credentials to ask with. Without `discover.namespaces` nobody is asked.
    """
    if not config.discover.namespaces:
        return Discovery(config=config)
    api = ApiConnection(access_of(config), may_write=lambda: False)
    try:
        seen = annotated_in(api, config.discover.namespaces, config.discover.selector)
    finally:
        api.close()
    return joined(config, seen, known=known, before=before)


def joined(config: Config, seen: Found, *, known: Collection[str], before: Sequence[Annotated] = ()) -> Discovery:
    """As `discovered`, from what was seen: of a namespace that could not be searched the objects of `before` stay."""
    objects = (*seen.objects, *(each for each in before if each.namespace in seen.unread))
    entries, issues = entries_from_annotations(objects, config.defaults, config.path)
    own, doubled = _not_in_the_file(config, entries)
    labels = ", ".join(f"{key}={value}" for key, value in sorted(config.discover.selector.items()))
    where = ", ".join(config.discover.namespaces) + (f" with {labels}" if labels else "")
    by_name = {entry.workload: entry for entry in own}
    admission = admit(by_name, set(known) & set(by_name), confirm=config.discover.confirm, where=where)
    admitted = tuple(by_name[name] for name in admission.admitted)
    there = {each.workload for each in objects}
    still_known = {name for name in known if name in there or name.partition("/")[0] in seen.unread}
    unread = (f"namespace {name} was not searched: {why}" for name, why in sorted(seen.unread.items()))
    empty = not by_name and (seen.unread or issues or doubled)  # the other sentences say why nothing is left
    return Discovery(
        config=with_workloads(config, admitted),
        entries=admitted,
        held=admission.held,
        told=(
            *unread,
            *map(str, issues),
            *map(str, doubled),
            *(() if empty or not admission.told else (admission.told,)),
        ),
        objects=tuple(each.settings_alone for each in objects if each.workload in admission.admitted),
        known=frozenset({*still_known, *admission.admitted}),
    )


def _not_in_the_file(
    config: Config, entries: Collection[WorkloadEntry]
) -> tuple[list[WorkloadEntry], list[AnnotationIssue]]:
    """Those that the settings file does not have already, by name or by target: the file goes before annotations."""
    taken = {_target_of(workload, target): workload for workload, target in config.targets.items()}
    free, doubled = [], []
    for entry in entries:
        own_name = entry.workload if entry.workload in config.targets else None
        owner = own_name or taken.get(_target_of(entry.workload, entry.target))
        if owner is None:
            free.append(entry)
        else:
            text = f"is workload {owner} of {config.path} already, which goes before its annotations"
            doubled.append(AnnotationIssue(thing=f"{entry.target.kind} {entry.workload}", annotation="", text=text))
    return free, doubled


def _target_of(workload: str, target: TargetConfig) -> tuple[str, str, str]:
    namespace, _, name = workload.partition("/")
    return namespace, target.kind, target.name or name


def at_start(config: Config, store: Store, log: Any) -> Discovery:
    """The first discovery of a process: it goes on from what the last one kept and put on record. Tells what it found.

    Raises `KubernetesError` where there are no credentials to ask with.
    """
    known: set[str] = set()
    before: tuple[Annotated, ...] = ()
    if config.discover.namespaces:
        before = _remembered(store, log)
        known = {each.workload for each in before} | _on_record(store, log)
    found = discovered(config, known=known, before=before)
    tell(found, log)
    _keep(found.objects, store, log)
    return found


def as_a_start_would(config: Config) -> Discovery:
    """What a daemon that starts now would find: it knows whom the data folder knows. Writes and tells nothing.

    A folder that cannot be read knows nobody, as at a start. Raises `KubernetesError` where there are no credentials.
    """
    file = config.data_dir / FILE_NAME
    if not config.discover.namespaces or not file.exists():
        return discovered(config, known=())
    before: tuple[Annotated, ...] = ()
    on_record: set[str] = set()
    with contextlib.suppress(OSError, DiscoveredUnreadable):
        stored = read_blob(file, DISCOVERED_BLOB)
        before = () if stored is None else from_bytes(stored[0])
    with contextlib.suppress(OSError):
        now = datetime.now(UTC)
        with SqliteJournal.open(file, now=now, read_only=True) as journal:
            on_record = {entry.workload for entry in journal.latest(now=now)}
    return discovered(config, known={each.workload for each in before} | on_record, before=before)


def _keep(objects: Sequence[Annotated], store: Store, log: Any, *, told: str = "") -> str:
    """Leave them for the next start. Answers why that failed, or "", and tells it unless it was `told` before."""
    try:
        store.save_blob(DISCOVERED_BLOB, to_bytes(objects), now=datetime.now(UTC))
    except OSError as error:
        if str(error) != told:
            meanwhile = "a start while the cluster cannot be searched would go on with those that were kept last"
            log.warning("discovered_not_saved", error=str(error), meanwhile=meanwhile)
        return str(error)
    return ""


def _remembered(store: Store, log: Any) -> tuple[Annotated, ...]:
    """Those found last."""
    try:
        stored = store.load_blob(DISCOVERED_BLOB)
        return () if stored is None else from_bytes(stored[0])
    except (OSError, DiscoveredUnreadable) as error:
        meanwhile = "namespaces that cannot be searched have no workloads by annotation until they can"
        log.warning("discovered_not_restored", error=str(error), meanwhile=meanwhile)
        return ()


def _on_record(store: Store, log: Any) -> set[str]:
    """The workloads of the last tick."""
    try:
        return {entry.workload for entry in store.journal.latest(now=datetime.now(UTC))}
    except OSError as error:
        log.warning("known_workloads_not_read", error=str(error), meanwhile="none of them is taken as known")
        return set()


def tell(found: Discovery, log: Any) -> None:
    """One event for what joined, one for each thing that is wrong."""
    if found.entries:
        log.info("discovered", workloads=[entry.workload for entry in found.entries])
    for text in found.told:
        log.warning("discovery", detail=text, meanwhile="it is left out; the other workloads go on")


LOOK_EVERY_S = 60.0
"""Between two searches for annotations."""


class Discoverer:
    """Keeps the fleet what the settings file and the annotations say together. One thread."""

    def __init__(
        self,
        file: Config,
        found: Discovery,
        *,
        running: Callable[[], Config],
        take: Callable[[Config], None],
        store: Store,
        log: Any,
    ) -> None:
        """`file` as it was read, `found` the first discovery; `running` are the settings in force, `take` gets the
        ones to take up at the next tick. `store` keeps what was found for the next start."""
        self._file = file
        self._last = found
        self._running = running
        self._take = take
        self._store = store
        self._log = log
        self._kept: tuple[Annotated, ...] | None = None
        self._unkept = ""
        self._look_at_s = time.monotonic() + LOOK_EVERY_S

    def file_read(self, file: Config) -> None:
        """The settings file was read anew: take it up with what annotations name now."""
        self._file = file
        self._take(self._found().config)

    def look(self, *, uptime_s: float | None = None) -> None:
        """Search again when that is due; the fleet follows where something else was found.

        `uptime_s` is a clock that nobody sets, in seconds.
        """
        uptime_s = time.monotonic() if uptime_s is None else uptime_s
        if uptime_s < self._look_at_s:
            return
        self._look_at_s = uptime_s + LOOK_EVERY_S
        before = self._last.entries
        found = self._found()
        if found.entries != before:
            self._take(found.config)

    def _found(self) -> Discovery:
        """A search now; where nobody can be asked, those of the last one stay."""
        known = {*self._last.known, *(policy.workload for policy in self._running().fleet.workloads)}
        before = self._last.objects
        try:
            found = discovered(self._file, known=known, before=before)
        except KubernetesError as error:
            unread = Found(objects=(), unread=dict.fromkeys(self._file.discover.namespaces, str(error)))
            found = joined(self._file, unread, known=known, before=before)
        if (found.entries, found.told) != (self._last.entries, self._last.told):
            tell(found, self._log)
        self._last = found
        if found.objects != self._kept:
            self._unkept = _keep(found.objects, self._store, self._log, told=self._unkept)
            self._kept = None if self._unkept else found.objects
        return found
