"""Processes that outlive their starter: known by number and birth, found by their environment, ended only as asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from inference import processes
from inference.errors import LaunchFailed
from inference.processes import Launch, Nursery

pytestmark = pytest.mark.server

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)
PATIENCE_S = 60.0


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment that nobody else has; whatever carries it at the end is killed."""
    mine = {"STORY": str(tmp_path)}
    yield mine
    processes.end_all(tuple(processes.find(mine)))


def launch(folder: Path, marks: dict[str, str], command: tuple[str, ...] = SLEEP) -> Launch:
    return Launch(command=command, environment={**os.environ, **marks}, folder=folder, log=folder / "logs" / "it.log")


def until(found: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_it_leads_a_session_of_its_own_and_writes_to_its_file(tmp_path: Path, marks: dict[str, str]) -> None:
    begun = Nursery().begin(launch(tmp_path, marks, STUBBORN))
    assert processes.leads_its_session(begun)
    assert os.getsid(begun.pid) != os.getsid(0)
    until(lambda: (tmp_path / "logs" / "it.log").read_text() == "up\n")


def test_it_is_found_by_its_environment_and_by_no_other(tmp_path: Path, marks: dict[str, str]) -> None:
    begun = Nursery().begin(launch(tmp_path, marks))
    until(lambda: list(processes.find(marks)))  # between fork and exec it still carries ours
    (found,) = processes.find(marks)
    assert (found.process, found.environment["STORY"]) == (begun, str(tmp_path))
    assert list(processes.find({"STORY": f"{tmp_path}/other"})) == []


def test_an_end_is_seen_though_nobody_waited_for_it(tmp_path: Path, marks: dict[str, str]) -> None:
    nursery = Nursery()
    begun = nursery.begin(launch(tmp_path, marks))
    assert nursery.is_alive(begun)
    os.kill(begun.pid, signal.SIGKILL)
    assert processes.wait(begun, timeout_s=PATIENCE_S)
    # A zombie, as far as another nursery can see, which is not its parent.
    assert not Nursery().is_alive(begun)
    assert not nursery.is_alive(begun)
    until(lambda: not Path(f"/proc/{begun.pid}").exists())


def test_a_process_with_the_same_number_is_another_one(tmp_path: Path, marks: dict[str, str]) -> None:
    nursery = Nursery()
    begun = nursery.begin(launch(tmp_path, marks))
    namesake = replace(begun, born="another boot/1")
    assert not nursery.is_alive(namesake)
    assert not processes.tell(namesake, signal.SIGKILL)
    assert processes.wait(namesake, timeout_s=0.0)
    assert nursery.is_alive(begun)


def test_who_ignores_sigterm_is_still_there_and_sigkill_ends_it(tmp_path: Path, marks: dict[str, str]) -> None:
    begun = Nursery().begin(launch(tmp_path, marks, STUBBORN))
    until(lambda: (tmp_path / "logs" / "it.log").read_text())
    assert processes.tell(begun, signal.SIGTERM)
    assert not processes.wait(begun, timeout_s=0.2)
    assert processes.end_all(tuple(processes.find(marks))) == 1
    assert processes.wait(begun, timeout_s=PATIENCE_S)
    assert not processes.tell(begun, signal.SIGKILL)


def test_its_own_children_are_found_too_and_lead_no_session(tmp_path: Path, marks: dict[str, str]) -> None:
    parent = (sys.executable, "-c", f"import subprocess; subprocess.run({list(SLEEP)!r})")
    begun = Nursery().begin(launch(tmp_path, marks, parent))
    until(lambda: len(list(processes.find(marks))) == 2)
    leaders = [each.process for each in processes.find(marks) if processes.leads_its_session(each.process)]
    assert leaders == [begun]


def test_what_hides_its_environment_and_outlives_its_leader_is_found_by_the_session(
    tmp_path: Path, marks: dict[str, str]
) -> None:
    """As vLLM's engine does: it writes its title over its environment, and kill -9 of the server leaves it running."""
    hidden = f"import subprocess; subprocess.run({list(SLEEP)!r}, env={{}})"
    begun = Nursery().begin(launch(tmp_path, marks, (sys.executable, "-c", hidden)))
    until(lambda: len(list(processes.left_by(begun, folder=tmp_path))) == 2)
    until(lambda: len(list(processes.find(marks))) == 1)  # the child carries its parent's until its own exec
    processes.tell(begun, signal.SIGKILL)
    assert processes.wait(begun, timeout_s=PATIENCE_S)
    assert list(processes.find(marks)) == []
    assert list(processes.left_by(begun, folder=tmp_path / "elsewhere")) == []
    assert list(processes.left_by(replace(begun, born="another boot/1"), folder=tmp_path)) == []
    (engine,) = processes.left_by(begun, folder=tmp_path)
    assert processes.end_all((engine,)) == 1
    assert processes.wait(engine.process, timeout_s=PATIENCE_S)
    assert list(processes.left_by(begun, folder=tmp_path)) == []


def test_it_outlives_its_starter(tmp_path: Path, marks: dict[str, str]) -> None:
    """Killed with SIGKILL, as a daemon may be."""
    starter = (
        "import os, sys\nfrom pathlib import Path\nfrom inference.processes import *\n"
        f"Nursery().begin(Launch(command={SLEEP!r}, environment={{**os.environ, **{marks!r}}},"
        f" folder=Path({str(tmp_path)!r}), log=Path({str(tmp_path / 'log')!r})))\n"
        "print('begun', flush=True)\nimport time; time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.kill()
    until(lambda: list(processes.find(marks)))
    (found,) = processes.find(marks)
    assert Nursery().is_alive(found.process)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        pytest.param(("./nothing-here",), "No such file", id="no such program"),
        pytest.param(("/",), "Permission denied", id="no program"),
        pytest.param(("a\0b",), "embedded null byte", id="no word"),
    ],
)
def test_what_cannot_be_started_is_told(
    tmp_path: Path, marks: dict[str, str], command: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(LaunchFailed, match=problem):
        Nursery().begin(launch(tmp_path, marks, command))


def test_a_log_that_has_grown_is_set_aside_at_the_next_start(
    tmp_path: Path, marks: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LARGEST_LOG_BYTES", 3)
    log = tmp_path / "logs" / "it.log"
    log.parent.mkdir()
    log.write_text("much")
    Nursery().begin(launch(tmp_path, marks))
    assert (log.with_name("it.log.1").read_text(), log.read_text()) == ("much", "")
