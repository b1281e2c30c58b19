"""Servers that are there when a daemon starts: as they were written down, and as their own environment describes them.

It decides which process is which server. A record whose process was begun and not noted, and a process whose record was
lost, are put together again; nothing is begun or ended here, except by `end_everything`, which is for whoever tears a
machine down.
"""

from __future__ import annotations

import itertools
import signal
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from inference import processes
from scaler.adapters.local_vllm import files, life
from scaler.adapters.local_vllm.crew import Place
from scaler.adapters.local_vllm.files import State, StateUnreadable
from scaler.adapters.local_vllm.launches import ID, PORT_VARIABLE, WORKLOAD, marks_of
from scaler.adapters.local_vllm.life import Server

_ID_LENGTH = 32

KILLED_WITHIN_S = 10.0
"""Nothing that is killed takes longer, but what waits for a disk that has gone."""


def new_server(workload: str, place: Place, *, now: datetime, id: str | None = None) -> Server:
    """A server that was never begun."""
    name = id or uuid.uuid4().hex
    return Server(
        id=name,
        workload=workload,
        name=f"{workload.partition('/')[2]}-{name[:5]}",
        port=place.port,
        gpus=place.gpus,
        created_at=now,
        since=now,
    )


def found(folder: Path, log: Any, *, may_act: bool, now: datetime) -> State:
    """What is remembered and what runs. Raises `OSError` where the folder cannot be used."""
    if may_act:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        state = files.load(folder, may_set_aside=may_act) or State()
    except StateUnreadable as error:
        log.critical("local_state_lost", error=str(error), meanwhile="servers are found by their environment")
        state = State()
    known = {each.id: each for each in state.servers}
    for running in processes.find(marks_of(folder)):
        server = _described(running, now=now) if processes.leads_its_session(running.process) else None
        if server is None:
            continue
        remembered = known.get(server.id)
        if remembered is None or remembered.process is None:
            known[server.id] = server if remembered is None else life.begun(remembered, running.process, now=now)
            log.warning("local_server", workload=server.workload, server=server.name, what="found running unrecorded")
    # Nobody looked on while the daemon was away: how long these starts take is not known.
    servers = tuple(replace(each, unwatched=each.unwatched or each.ready_at is None) for each in known.values())
    # Where nothing is remembered as many are wanted as there are: a lost file moves nothing.
    wanted = state.wanted or Counter(each.workload for each in servers if not each.phase.leaves)
    return State(wanted=dict(wanted), servers=servers)


def _described(running: processes.Found, *, now: datetime) -> Server | None:
    """A server as its own environment describes it; None where that is not whole."""
    said = running.environment
    workload, name, port = said.get(WORKLOAD, ""), said.get(ID, ""), said.get(PORT_VARIABLE, "")
    if not (workload and len(name) == _ID_LENGTH and port.isdecimal()):
        return None
    gpus = tuple(gpu for gpu in said.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu)
    server = new_server(workload, Place(port=int(port), gpus=gpus), now=now, id=name)
    return life.begun(replace(server, unwatched=True), running.process, now=now)


def end_everything(folder: Path, *, patience_s: float, told: Callable[[str], None] = lambda _: None) -> int:
    """Ask every server of this folder to end, kill what has not within `patience_s`; how many there were.

    For whoever tears a machine down, such as a demonstration: the daemon itself never does this.
    """
    leaders = [each for each in processes.find(marks_of(folder)) if processes.leads_its_session(each.process)]
    sessions = [(each.process, processes.folder_of(each.process)) for each in leaders]
    for each in leaders:
        processes.tell(each.process, signal.SIGTERM)
    for each in leaders:
        if not processes.wait(each.process, timeout_s=patience_s):
            told(f"process {each.process.pid} did not end within {patience_s:g} s and is killed")
    left = (processes.left_by(process, folder=home) for process, home in sessions if home is not None)
    rest = (*processes.find(marks_of(folder)), *itertools.chain.from_iterable(left))
    processes.end_all(rest)
    for each in rest:  # a process in the middle of a long system call takes a moment to die
        processes.wait(each.process, timeout_s=KILLED_WITHIN_S)
    return len(leaders)
