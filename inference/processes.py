"""Processes that outlive whoever started them: begin, find again, ask to end, end.

It decides when two sightings are the same process: the number of a process is used again, so it is known by number and
birth together. What it begins leads a session of its own, writes to a file and reads nothing, so neither the end of its
starter, nor Ctrl-C in a terminal, nor a closed pipe touches it. It never restarts anything and never ends a process
that it was not given. Linux only: what it knows of processes is what `/proc` says.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inference.errors import LaunchFailed

PROC = Path("/proc")

LARGEST_LOG_BYTES = 64 * 2**20
"""A log that is larger when its server is started again is set aside as `.1`: a crash loop must not fill the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process for ever: `born` is the boot that it belongs to and the clock tick at which it began."""

    pid: int
    born: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What to begin: words of a command line (no shell), its whole environment, its folder, and where it writes."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A running process, and what its environment said when it began."""

    process: Process
    environment: Mapping[str, str]


class Nursery:
    """Begins processes, and takes note of the ends of its own: a child that nobody waits for stays as a zombie."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def begin(self, launch: Launch) -> Process:
        """Start it. Raises `LaunchFailed` where the program, its folder or its log cannot be used."""
        try:
            launch.log.parent.mkdir(parents=True, exist_ok=True)
            _set_aside(launch.log)
            with launch.log.open("ab") as log:
                child = subprocess.Popen(
                    launch.command,
                    env=dict(launch.environment),
                    cwd=launch.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # ValueError: a zero byte in a word
            raise LaunchFailed(command=launch.command, folder=launch.folder, problem=str(error)) from error
        self._children[child.pid] = child
        status = _status(child.pid)
        # Not reaped yet, so it is there even if it has ended already.
        return Process(pid=child.pid, born=status.born if status is not None else "ended at once")

    def is_alive(self, process: Process) -> bool:
        """Whether it still runs. One that has ended, and only waits to be noticed, does not."""
        child = self._children.get(process.pid)
        if child is not None and child.poll() is not None:
            del self._children[process.pid]
        status = _status(process.pid)
        return status is not None and status.born == process.born and not status.is_over


def tell(process: Process, number: signal.Signals) -> bool:
    """Send it a signal; False where it has ended. Never reaches another process that has its number now."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        status = _status(process.pid)  # of the very process that the handle holds
        if status is None or status.born != process.born or status.is_over:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait(process: Process, *, timeout_s: float) -> bool:
    """Wait for its end without being its parent; False where it still runs after `timeout_s`."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return True
    try:
        status = _status(process.pid)
        if status is None or status.born != process.born:
            return True
        over = select.poll()
        over.register(handle, select.POLLIN)
        return bool(over.poll(1000.0 * timeout_s))
    finally:
        os.close(handle)


def find(marks: Mapping[str, str]) -> Iterator[Found]:
    """Every running process that was begun with these names and values in its environment, and its descendants.

    Those of other users are not seen, and neither is one that has overwritten its environment: `left_by` sees those.
    """
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        status = _status(int(folder.name)) if wanted <= set(words) else None
        if status is not None and not status.is_over:
            environment = dict(word.decode(errors="replace").partition("=")[::2] for word in words if b"=" in word)
            yield Found(process=Process(pid=int(folder.name), born=status.born), environment=environment)


def left_by(leader: Process, *, folder: Path) -> Iterator[Found]:
    """What runs in the session that `leader` began in `folder`, whether the leader still does or not.

    vLLM's engine writes its title over its environment and, where its server is killed, lives on and keeps the GPU. The
    kernel gives the number of a session to nobody while one of its members runs; that of an empty one may come to
    another, so that the boot, the folder and the birth of whoever has the number now must agree.
    """
    status = _status(leader.pid)
    if not leader.born.startswith(f"{_boot()}/") or (status is not None and status.born != leader.born):
        return
    for place in PROC.iterdir():
        if not place.name.isdecimal():
            continue
        try:
            theirs = os.getsid(int(place.name)) == leader.pid and (place / "cwd").readlink() == folder.resolve()
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        status = _status(int(place.name)) if theirs else None
        if status is not None and not status.is_over:
            yield Found(process=Process(pid=int(place.name), born=status.born), environment={})


def leads_its_session(process: Process) -> bool:
    """Whether it is what `begin` started, and no child of that."""
    with contextlib.suppress(OSError):
        return os.getsid(process.pid) == process.pid
    return False


def folder_of(process: Process) -> Path | None:
    """The folder that it works in; None where it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(process.pid) / "cwd").readlink()
    return None


def end_all(found: Sequence[Found]) -> int:
    """SIGKILL to each of them; how many were still there."""
    return sum(tell(each.process, signal.SIGKILL) for each in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    born: str
    is_over: bool


def _status(pid: int) -> _Status | None:
    """What the kernel says of a process now; None where there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold brackets and spaces itself.
    fields = text.rpartition(")")[2].split()
    return _Status(born=f"{_boot()}/{fields[19]}", is_over=fields[0] in "ZX")


@cache
def _boot() -> str:
    """This boot of the machine: numbers and ticks begin again with the next one."""
    return (PROC / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="ascii").strip()


def _set_aside(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LARGEST_LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
