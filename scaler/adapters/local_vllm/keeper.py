"""Keeps as many servers on this machine as are wanted: looks, steps, writes down, acts, publishes; once a second.

It decides nothing itself: who joins and who goes is `crew`'s, what a server's next step is `life`'s. It never ends a
server because the daemon ends, and never begins one that is not written down first: whatever moment this process dies
at, the next one finds every server again, by the state file or by the marks in its environment.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inference import processes
from inference.errors import LaunchFailed
from inference.processes import Nursery
from scaler.adapters.local_vllm import asking, crew, files, life
from scaler.adapters.local_vllm.asking import Asker, GatewayAnswer
from scaler.adapters.local_vllm.files import State
from scaler.adapters.local_vllm.finding import found, new_server
from scaler.adapters.local_vllm.launches import ID, Kind, marks_of
from scaler.adapters.local_vllm.life import Act, Phase, Seen, Server

LOOK_EVERY_S = 1.0

FIRST_WANTED = 1
"""Servers of a workload that was never scaled here, as of a Deployment without `replicas`."""

STALE_AFTER_S = 30.0
"""Since the last look: longer, and what is known of the servers is not what there is."""


ENDS_WITHIN_S = 1.0
"""A daemon that is asked to stop has ten seconds in all."""

MOST_TOLD = 100
"""Troubles that are remembered as told; behind them the next ones are told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where servers are kept and run, and what they may use."""

    folder: Path
    """Ours, in the data folder: state, files for others, logs."""
    home: Path
    """Where servers run: the settings file's folder."""
    gpus: tuple[str, ...]
    gateways: tuple[str, ...]


class Keeper:
    """All servers of one machine. Safe between threads: the tick reads and wants, the keeper's own thread does."""

    def __init__(self, machine: Machine, kinds: Mapping[str, Kind], log: Any, *, may_act: bool = True) -> None:
        """Without `may_act` it only looks: nothing is begun, ended or written."""
        self._machine = machine
        self._kinds = dict(kinds)
        self._log = log
        self._may_act = may_act
        self._nursery = Nursery()
        self._asker = Asker()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._published: dict[str, bytes] = {}
        self._saved: State | None = None
        self._told: set[str] = set()
        self._looked_at: datetime | None = None
        self._state = found(machine.folder, log, may_act=may_act, now=datetime.now(UTC))

    # ── for the tick ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """What is wanted and what there is, as of the last look."""
        with self._lock:
            return self._state

    @property
    def looked_at(self) -> datetime | None:
        """When all servers were looked at last."""
        return self._looked_at

    @property
    def runs(self) -> bool:
        """Whether it looks by itself."""
        return self._thread is not None

    def want(self, workload: str, count: int, *, instead_of: int) -> int:
        """Want `count` servers if `instead_of` are wanted now; answers what was wanted. Written down when it returns.

        Raises `OSError` where it cannot be written down, and then nothing has changed.
        """
        with self._lock:
            found = self._state.wanted.get(workload, FIRST_WANTED)
            if found == instead_of and found != count:
                changed = replace(self._state, wanted={**self._state.wanted, workload: count})
                files.save(self._machine.folder, changed)
                self._state = self._saved = changed
        self._wake.set()
        return found

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to look by itself; the first look is over when this returns."""
        self._look_and_tell()
        self._thread = threading.Thread(target=self._run, name="local-servers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Servers go on as they are."""
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=ENDS_WITHIN_S)  # one that hangs in a question acts no more
        self._asker.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            self._look_and_tell()

    def _look_and_tell(self) -> None:
        try:
            self.look(now=datetime.now(UTC))
        except OSError as error:
            self._tell_once(f"not written down: {error}", "servers go on; nothing is begun or ended")
        except Exception as error:
            # A defect; without this thread nothing would be drained, restarted or counted any more.
            self._log.error("local_look_failed", exc_info=error, meanwhile="servers go on; the next look tries again")

    # ── one look ──────────────────────────────────────────────────────────────────────────────────────────────

    def look(self, *, now: datetime) -> None:
        """Look at every server and take the step that follows. Not from two threads at once.

        Raises `OSError` where what is to be done cannot be written down: it is then not done.
        """
        with self._lock:
            before = self._state
        healthy = self._health(before.servers)
        shrinking = any(self._surplus(before, workload) > 0 for workload in self._kinds)
        asked = shrinking or any(each.phase is Phase.DRAINING for each in before.servers)
        answers = self._asker.gateways(self._machine.gateways) if asked else ()
        with self._lock:
            if self._ending.is_set():
                return
            if not self._may_act:
                self._state = replace(self._state, servers=self._as_seen(self._state.servers, healthy, now=now))
                self._looked_at = now
                return
            self._step_all(healthy, answers, now=now)
            self._crew_all(answers, now=now)
            self._save()
            self._publish()
            self._looked_at = now

    def _health(self, servers: Sequence[Server]) -> dict[str, bool]:
        """By id, of those that may answer."""
        asked = [each for each in servers if each.phase in (Phase.STARTING, Phase.READY, Phase.UNREADY)]
        asked = [each for each in asked if each.workload in self._kinds and self._is_alive(each)]
        by_url = self._asker.healthy([self._url(each) for each in asked])
        return {each.id: by_url[self._url(each)] for each in asked}

    def _step_all(self, healthy: Mapping[str, bool], answers: Sequence[GatewayAnswer], *, now: datetime) -> None:
        for server in self._state.servers:
            kind = self._kinds.get(server.workload)
            if kind is None:
                self._tell_once(f"{server.name} of {server.workload} runs and is in no settings", "it is left alone")
                continue
            seen = Seen(
                is_alive=self._is_alive(server),
                is_healthy=healthy.get(server.id, False),
                is_idle=asking.is_idle(self._url(server), answers),
            )
            self._take(server, life.step(server, seen, kind.patience, now=now), now=now)

    def _crew_all(self, answers: Sequence[GatewayAnswer], *, now: datetime) -> None:
        """Every workload's servers brought to the number that is wanted."""
        for workload, kind in self._kinds.items():
            servers = {each.id: each for each in self._state.servers}
            own = [each for each in servers.values() if each.workload == workload]
            plan = crew.plan(
                own,
                self._state.wanted.get(workload, FIRST_WANTED),
                self._room(kind),
                taken_ports={each.port for each in servers.values()},
                taken_gpus={gpu for each in servers.values() for gpu in each.gpus},
                in_flight=self._loads(own, answers),
            )
            for name in plan.called_back:
                self._put(life.stay(servers[name], now=now))
                self._tell(servers[name], "called back")
            for name in plan.leaving:
                self._take(servers[name], life.leave(servers[name], now=now), now=now)
            for place in plan.places:
                self._begin(new_server(workload, place, now=now), now=now)

    # ── acts: each one after what is known of it is on the disk ───────────────────────────────────────────────

    def _take(self, server: Server, step: life.Step, *, now: datetime) -> None:
        """Carry one step out. Raises `OSError` where it cannot be written down; nothing is then done."""
        if step.told:
            self._tell(server, step.told)
        if step.server is None:
            self._end_rest(server)
            others = tuple(each for each in self._state.servers if each.id != server.id)
            self._state = replace(self._state, servers=others)
            return
        if step.server.process is None and server.process is not None:
            self._end_rest(server)  # an engine that outlived its server still holds the GPU
        self._put(step.server)
        if step.act is Act.BEGIN:
            self._begin(step.server, now=now)
        elif step.act is not None:
            try:
                self._save()
            except OSError:
                self._put(server)
                raise
            if step.act is Act.KILL:
                self._end_rest(server)
            elif server.process is not None:
                processes.tell(server.process, signal.SIGTERM)

    def _begin(self, server: Server, *, now: datetime) -> None:
        self._put(server)
        self._save()
        self._end_rest(server)  # nor does anything of an earlier start hold the port
        kind = self._kinds[server.workload]
        try:
            if not _is_free(kind.listed.host, server.port):
                raise LaunchFailed(
                    command=kind.words, folder=self._machine.home, problem=f"port {server.port} is taken"
                )
            process = self._nursery.begin(kind.launch(server, folder=self._machine.folder, home=self._machine.home))
        except LaunchFailed as error:
            self._tell_once(f"{server.name}: {error}", "it is tried again, later and later")
            self._put(life.not_begun(server, now=now))
            return
        begun = life.begun(server, process, now=now)
        self._put(begun)
        self._tell(begun, "begun")

    def _put(self, server: Server) -> None:
        """Remember it as it is now, in its place or behind the others."""
        servers = {each.id: each for each in self._state.servers} | {server.id: server}
        self._state = replace(self._state, servers=tuple(servers.values()))

    def _end_rest(self, server: Server) -> None:
        """Kill whatever still runs of a server: its own process and the engines that it began."""
        if server.process is not None:
            processes.end_all(tuple(processes.left_by(server.process, folder=self._machine.home)))
        if server.started_at is not None or server.process is not None or server.restarts:
            processes.end_all(tuple(processes.find({**marks_of(self._machine.folder), ID: server.id})))

    def _save(self) -> None:
        if self._state != self._saved:
            files.save(self._machine.folder, self._state)
            self._saved = self._state

    def _publish(self) -> None:
        """Tell gateways and Prometheus, where something has changed."""
        listed = {workload: kind.listed for workload, kind in self._kinds.items()}
        for name, content in (
            (files.BACKENDS, files.backends(self._state.servers, listed)),
            (files.TARGETS, files.targets(self._state.servers, listed)),
        ):
            if self._published.get(name) != content:
                files.put(self._machine.folder / name, content)
                self._published[name] = content

    # ── what there is ─────────────────────────────────────────────────────────────────────────────────────────

    def _as_seen(self, servers: Sequence[Server], healthy: Mapping[str, bool], *, now: datetime) -> tuple[Server, ...]:
        """The servers as a look finds them, for one that may do nothing about it."""
        seen = []
        for each in servers:
            ready = healthy.get(each.id, False)
            if each.phase.leaves or (each.phase is Phase.READY) == ready:
                seen.append(each)
            else:
                phase = Phase.READY if ready else Phase.UNREADY
                seen.append(replace(each, phase=phase, since=now, ready_at=now if ready else None))
        return tuple(seen)

    def _is_alive(self, server: Server) -> bool:
        return server.process is not None and self._nursery.is_alive(server.process)

    def _url(self, server: Server) -> str:
        return self._kinds[server.workload].listed.url(server) if server.workload in self._kinds else ""

    def _surplus(self, state: State, workload: str) -> int:
        staying = sum(each.workload == workload and not each.phase.leaves for each in state.servers)
        return staying - state.wanted.get(workload, FIRST_WANTED)

    def _loads(self, servers: Sequence[Server], answers: Sequence[GatewayAnswer]) -> dict[str, float]:
        loads = {each.id: asking.load_of(self._url(each), answers) for each in servers}
        return {name: load for name, load in loads.items() if load is not None}

    def _room(self, kind: Kind) -> crew.Room:
        return crew.Room(
            first_port=kind.first_port,
            gpus_each=kind.gpus_each,
            gpus=self._machine.gpus,
            is_free=lambda port: _is_free(kind.listed.host, port),
        )

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, server: Server, what: str) -> None:
        how = self._log.warning if what in _TROUBLE else self._log.info
        pid = None if server.process is None else server.process.pid
        how("local_server", workload=server.workload, server=server.name, what=what, port=server.port, process=pid)

    def _tell_once(self, detail: str, meanwhile: str) -> None:
        if detail not in self._told:
            self._told = {detail} if len(self._told) >= MOST_TOLD else self._told | {detail}
            self._log.warning("local_server_trouble", detail=detail, meanwhile=meanwhile)


_TROUBLE = frozenset({"ended", "hung", "start timed out", "unready", "killed"})


def _is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
