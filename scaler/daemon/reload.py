"""Settings that change while the daemon runs: when the file is read again, what of it counts at once, what is told.

A file that cannot be used changes nothing: the settings that run stay, and the log, the metrics and `headstart get` say
so. What was read takes effect between two ticks, never within one. It reads no server and decides no scale.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forecaster.sources.prometheus import PrometheusSource
from scaler.adapters.board import Board
from scaler.adapters.connections import connection_of, floors_of, selectors_of, targets_of
from scaler.adapters.in_flight import PodRequests
from scaler.adapters.settings import read_settings
from scaler.adapters.signals import SourceSignals
from scaler.adapters.starts import StartLedger
from scaler.adapters.targets import ScaleTargets
from scaler.config import Config
from scaler.config.document import MAX_BYTES
from scaler.daemon.derived import days_off, known_of, latency_of, night_of, shelf_of, train_command
from scaler.daemon.round import Round
from scaler.daemon.upkeep import JobSettings, Upkeep
from scaler.errors import ConfigError, ConfigIssue

LIVE = frozenset(
    {
        *("path", "files", "fleet", "targets", "selectors", "holidays"),
        *("defaults", "discover", "prometheus", "forecast"),
    }
)
"""Fields of `Config` that count from the next tick on; every other one needs a restart."""

LOOK_EVERY_S = 5.0
"""Between two looks at the files. A changed file is read at the second look that finds it alike: an editor that writes
in two steps leaves a short file for a moment, and one without its last workloads would be a valid one."""

NAMED_PROBLEMS = 5
"""Problems that a log line quotes; `headstart validate` prints all."""

Fingerprint = Mapping[Path, str]


def fingerprint(files: Iterable[Path]) -> Fingerprint:
    """What each file holds, as a hash; "" for one that cannot be read.

    Of the content, not of times or inodes: a mounted ConfigMap is swapped behind a symlink, copies keep old times, and
    half a megabyte of settings is hashed in a millisecond.
    """
    return {file: _hash(file) for file in sorted(set(files))}


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.sha256(stream.read(MAX_BYTES + 1)).hexdigest()
    except OSError:
        return ""


# ── What differs ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How wanted settings differ from the running ones: workloads by name, the rest by setting."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retargeted: tuple[str, ...] = ()
    """Of `changed` those that scale another object now: what is remembered of the old one says nothing of it."""
    settings: tuple[str, ...] = ()
    """Settings of the whole fleet that count from the next tick on."""
    needs_restart: tuple[str, ...] = ()
    """Settings that go on as they were until the daemon is started again."""


def change_between(running: Config, wanted: Config) -> Change:
    """What taking up `wanted` would change."""
    before = {policy.workload: policy for policy in running.fleet.workloads}
    # The tick is the daemon's until a restart, so a policy that differs in it alone is the same.
    after = {policy.workload: replace(policy, tick=running.tick) for policy in wanted.fleet.workloads}
    both = [name for name in after if name in before]
    retargeted = tuple(name for name in both if running.targets[name] != wanted.targets[name])
    changed = tuple(
        name
        for name in both
        if name in retargeted
        or before[name] != after[name]
        or running.selectors[name] != wanted.selectors[name]
        or running.holidays.get(name) != wanted.holidays.get(name)
    )
    settings = [] if running.fleet.budget == wanted.fleet.budget else ["budget"]
    settings += [] if running.fleet.variants == wanted.fleet.variants else ["variants"]
    for section in ("prometheus", "forecast", "discover"):
        settings += _differing(section, getattr(running, section), getattr(wanted, section))
    restart: list[str] = []
    for each in dataclasses.fields(Config):
        if each.name not in LIVE:
            restart += _differing(each.name, getattr(running, each.name), getattr(wanted, each.name))
    return Change(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=changed,
        retargeted=retargeted,
        settings=tuple(settings),
        needs_restart=tuple(restart),
    )


def _differing(name: str, before: Any, after: Any) -> list[str]:
    """The settings in which two values of one section differ."""
    if before == after:
        return []
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        inner = (each.name for each in dataclasses.fields(before))
        return [f"{name}.{each}" for each in inner if getattr(before, each) != getattr(after, each)]
    return [name]


def taken_up(running: Config, wanted: Config) -> Config:
    """`wanted`, with everything that needs a restart as it runs now."""
    kept: dict[str, Any] = {
        each.name: getattr(running, each.name) for each in dataclasses.fields(Config) if each.name not in LIVE
    }
    workloads = tuple(replace(policy, tick=running.tick) for policy in wanted.fleet.workloads)
    return replace(wanted, **{**kept, "fleet": replace(wanted.fleet, workloads=workloads)})


# ── What is wanted next ───────────────────────────────────────────────────────────────────────────────────────


class PendingSettings:
    """Settings that wait for the next tick; the latest counts. Safe between threads."""

    def __init__(self, board: Board, log: Any) -> None:
        self._board = board
        self._log = log
        self._lock = threading.Lock()
        self._wanted: Config | None = None

    def put(self, wanted: Config) -> None:
        """Want these from the next tick on."""
        with self._lock:
            self._wanted = wanted

    def take(self) -> Config | None:
        """What is wanted since the last call; None if nothing is."""
        with self._lock:
            wanted, self._wanted = self._wanted, None
        return wanted

    def told(self, change: Change, *, now: datetime) -> None:
        """They are in force now: say so."""
        self._board.settings_in_force(now=now, needs_restart=change.needs_restart)
        keys = {name: list(names) for name, names in dataclasses.asdict(change).items() if names}
        if change.needs_restart:
            keys["meanwhile"] = ["what needs a restart goes on as it was"]
        self._log.info("reloaded", **keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveParts:
    """The daemon's parts that follow the settings."""

    signals: SourceSignals
    pod_requests: PodRequests
    targets: ScaleTargets
    starts: StartLedger
    round: Round
    upkeep: Upkeep
    board: Board
    log: Any
    move_refit: Callable[[timedelta, datetime], None]
    """Let the daily refit begin so long after midnight UTC, as of now."""


class LiveSettings:
    """Brings wanted settings into the parts. `put` from any thread, `take_up` from the tick's."""

    def __init__(self, parts: LiveParts) -> None:
        self._parts = parts
        self._pending = PendingSettings(parts.board, parts.log)

    def put(self, wanted: Config) -> None:
        """Want these from the next tick on."""
        self._pending.put(wanted)

    def take_up(self, running: Config, *, now: datetime) -> Config:
        """Before a round, so that none sees half of it: the settings in force from now on."""
        wanted, parts = self._pending.take(), self._parts
        if wanted is None:
            return running
        change, config = change_between(running, wanted), taken_up(running, wanted)
        elsewhere = config.prometheus != running.prometheus
        settings = JobSettings(
            selectors=selectors_of(config),
            source=PrometheusSource(connection_of(config.prometheus)) if elsewhere else None,
            known=known_of(config),
            holidays=days_off(config),
            ttl=config.forecast.ttl,
            shelf=shelf_of(config) if config.forecast.models != running.forecast.models else None,
            train_command=train_command(config),
        )
        # Not the jobs' source: a check or a range query that hangs must not make a tick wait for its lock.
        source = PrometheusSource(connection_of(config.prometheus)) if elsewhere else None
        parts.signals.use(source, settings.selectors, latency_of(config))
        parts.targets.use(targets_of(config), floors_of(config))
        if elsewhere:
            parts.pod_requests.use(connection_of(config.prometheus))
        gone = (*change.removed, *change.retargeted)
        parts.round.forget(gone)
        parts.starts.forget(gone)
        parts.upkeep.use(config.fleet, settings)
        if config.forecast.refit != running.forecast.refit:
            parts.move_refit(night_of(config), now)
        self._pending.told(change, now=now)
        return config


# ── When the file is read again ───────────────────────────────────────────────────────────────────────────────


class Reloader:
    """Reads the settings file again when asked, and when it or a file that it names has changed. One thread."""

    def __init__(
        self,
        running: Callable[[], Config],
        take: Callable[[Config], None],
        board: Board,
        log: Any,
        *,
        asked: threading.Event,
    ) -> None:
        """`running` are the settings in force, `take` gets the ones to take up at the next tick; `asked` is set by
        whoever wants the file read at the next look, changed or not."""
        self._running = running
        self._take = take
        self._board = board
        self._log = log
        self._asked = asked
        config = running()
        self._path = config.path
        self._files = (config.path, *config.files)
        self._known = fingerprint(self._files)
        self._seen = self._known
        self._look_at_s = time.monotonic() + LOOK_EVERY_S

    def look(self, *, now: datetime, uptime_s: float | None = None) -> None:
        """Read the file if that was asked for, or if it has changed and stayed so for one look.

        `uptime_s` is a clock that nobody sets, in seconds.
        """
        uptime_s = time.monotonic() if uptime_s is None else uptime_s
        if self._asked.is_set():
            self._asked.clear()
            self._read(now=now)
            return
        if uptime_s < self._look_at_s:
            return
        self._look_at_s = uptime_s + LOOK_EVERY_S
        before, self._seen = self._seen, fingerprint(self._known)
        if self._seen != self._known and self._seen == before:
            self._read(now=now)

    def _read(self, *, now: datetime) -> None:
        """Read, and take up or refuse. What changes meanwhile differs from what is noted here, and is read again."""
        noted = fingerprint(self._files)
        wanted = _attempt(self._path)
        if not noted.keys() >= set(wanted.files):  # files that were not named before: note them, then read for good
            noted = fingerprint((self._path, *wanted.files))
            wanted = _attempt(self._path)
        # What runs is watched on where the new file is refused: it may come to name the same files again.
        self._files = (self._path, *wanted.files, *self._running().files)
        self._known = {**fingerprint(self._files), **noted}
        self._seen = self._known
        if isinstance(wanted, ConfigError):
            self._refuse(wanted.issues, now=now)
        else:
            self._take(wanted)
            self._board.settings_read()

    def _refuse(self, issues: tuple[ConfigIssue, ...], *, now: datetime) -> None:
        status = self._board.settings()
        since = f"the settings of {status.loaded_at:%F %T} UTC" if status is not None else "the running settings"
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        self._board.settings_refused(f"{issues[0]}{more}", now=now)
        self._log.error(
            "reload_refused",
            problems=[str(issue) for issue in issues[:NAMED_PROBLEMS]],
            of=len(issues),
            meanwhile=f"{since} stay in force",
            fix=f"headstart validate {self._path}",
        )


def _attempt(path: Path) -> Config | ConfigError:
    """The settings in the file, or everything that is wrong with them."""
    try:
        return read_settings(path)
    except ConfigError as error:
        return error


def started(board: Board) -> None:
    """Note that the settings the daemon was started with are in force."""
    board.settings_in_force(now=datetime.now(UTC))
